"""SDR tables: runs beside each other and beside the baselines, where they were scored alike and only there."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jaxsep.metrics.aggregate import PROTOCOLS
from jaxsep.report.runs import Run

HEADLINE = "sdr_median_of_medians"
SAME = 0.005  # dB; what the tables round to


def scored_alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs whose numbers may stand in one table: the same songs, mixtures, rate and sources scored together."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        if summary := run.summary:
            together = frozenset(frozenset(names) for names in summary["scored_together"])
            sources = frozenset(summary["scores"][HEADLINE])
            where = tuple(summary["data"][key] for key in ("source", "root", "split"))
            key = (*where, tuple(summary["tracks"]), summary["mixture"], summary.get("rate"), together, sources)
            groups.setdefault(key, []).append(run)
    return list(groups.values())


def conditions(run: Run) -> str:
    """On what a run was scored, in words."""
    summary, data = run.summary, run.summary["data"]
    mixture = "the sum of the stems" if summary["mixture"] == "sum" else "as released"
    rate = f"separated and scored at {summary['rate']} Hz" if summary.get("rate") else "at the songs' own rate"
    return (
        f"{len(summary['tracks'])} of the {summary['tracks_in_split']} {data['split']} songs of {data['root']}, "
        f"the mixture {mixture}, {rate}; scored together, in seconds where none of them is silent: "
        + "; ".join(", ".join(names) for names in summary["scored_together"])
    )


def score_tables(runs: Sequence[Run], colours: Mapping[str, str]) -> str:
    """The tables of runs that were scored alike: the headline protocol open, the others to unfold.

    Args:
        runs: of one group of `scored_alike`.
        colours: run name -> CSS class.
    """
    columns = list(runs[0].summary["scores"][HEADLINE])
    protocols = list(dict.fromkeys(key for run in runs for key in run.summary["scores"]))
    tables = {key: _protocol(runs, key, columns, colours) for key in protocols}
    others = "\n".join(table for key, table in tables.items() if key != HEADLINE)
    definitions = items(list(dict.fromkeys(text for run in runs for text in run.summary["protocols"].values())))
    return (
        f'<p class="note">{escape(conditions(runs[0]))}.</p>\n{tables[HEADLINE]}\n'
        f"<details><summary>By other protocols, and what they are</summary>\n{others}\n{definitions}\n</details>"
    )


def baseline_rows(runs: Sequence[Run], protocol: str) -> dict[str, Mapping[str, float | None]]:
    """Baselines by name; one that is not the same for all runs, as what was learned on their songs, names its run."""
    rows: dict[str, Mapping[str, float | None]] = {}
    for run in runs:
        for name, by_protocol in run.summary["baselines"].items():
            row = by_protocol.get(protocol)
            if row is None:
                continue
            if not _same(rows.setdefault(name, row), row):
                rows[f"{name} ({run.name})"] = row
    return rows


def _same(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> bool:
    return all(abs((one[key] or 0.0) - (value or 0.0)) < SAME for key, value in other.items() if key in one)


def _protocol(runs: Sequence[Run], protocol: str, columns: Sequence[str], colours: Mapping[str, str]) -> str:
    title = PROTOCOLS[protocol][0] if protocol in PROTOCOLS else protocol
    hint = ". Higher is better; silence would score 0." if protocol == HEADLINE else "."
    rows = [
        (run.label, run.summary["scores"][protocol], f"own {colours[run.name]}")
        for run in runs
        if protocol in run.summary["scores"]
    ]
    rows += [(name, row, "") for name, row in baseline_rows(runs, protocol).items()]
    return table(f"{title}, in dB{hint}", rows, columns)


def table(caption: str, rows: Sequence[tuple[str, Mapping[str, Any], str]], columns: Sequence[str]) -> str:
    """Rows of (name, column -> dB, CSS class) as HTML."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{decibels(row.get(column))}</td>" for column in columns)
        + "</tr>"
        for name, row, kind in rows
    )
    return (
        f'<p class="caption">{escape(caption)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def decibels(value: float | None) -> str:
    """Two digits, or n/a where there is no score."""
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.2f}"


def items(texts: Sequence[str]) -> str:
    """A list as HTML."""
    return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"
