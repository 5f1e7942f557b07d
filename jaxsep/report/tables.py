"""SDR tables: runs beside each other and beside the baselines, where they were scored alike and only there."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from jaxsep.metrics.aggregate import HEADLINE, PROTOCOLS
from jaxsep.report.runs import Run

SAME = 0.005  # dB; what the tables round to


class Row(NamedTuple):
    """A row of a table; one without cells is a heading of those below it. `kind` is its CSS class."""

    name: str
    cells: Sequence[str] = ()
    kind: str = ""

    def html(self, columns: int) -> str:
        """The row of a table with so many columns of numbers."""
        name = escape(self.name).replace(":", ":<wbr>")
        if not self.cells:
            return f'<tr class="heading"><th scope="rowgroup" colspan="{columns + 1}">{name}</th></tr>'
        kind = f' class="{self.kind}"' if self.kind else ""
        cells = "".join(f"<td>{cell}</td>" for cell in self.cells)
        return f'<tr{kind}><th scope="row">{name}</th>{cells}</tr>'


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


def score_tables(runs: Sequence[Run], classes: Mapping[str, str]) -> str:
    """The tables of runs that were scored alike: the headline protocol open, the others to unfold.

    Args:
        runs: of one group of `scored_alike`.
        classes: run name -> CSS class.
    """
    columns = list(runs[0].summary["scores"][HEADLINE])
    protocols = dict.fromkeys(key for run in runs for key in run.summary["scores"] if key != HEADLINE)
    others = [row for key in protocols for row in [Row(_title(key)), *_rows(runs, key, columns, classes)]]
    definitions = items(list(dict.fromkeys(text for run in runs for text in run.summary["protocols"].values())))
    return "\n".join(
        [
            f'<p class="note">{escape(conditions(runs[0]))}.</p>',
            table(
                f"{_title(HEADLINE)}, in dB. Higher is better; silence would score 0.",
                _rows(runs, HEADLINE, columns, classes, intervals=True),
                columns,
            ),
            "<details><summary>By other protocols, and what they are</summary>",
            table("In dB. Numbers of different protocols cannot be compared.", others, columns),
            f"{definitions}\n</details>",
        ]
    )


def _title(protocol: str) -> str:
    return PROTOCOLS[protocol][0] if protocol in PROTOCOLS else protocol


def _rows(
    runs: Sequence[Run], protocol: str, columns: Sequence[str], classes: Mapping[str, str], intervals: bool = False
) -> list[Row]:
    rows = []
    for run in runs:
        if (scores := run.summary["scores"].get(protocol)) is not None:
            rows.append(Row(run.label, [decibels(scores.get(name)) for name in columns], f"own {classes[run.name]}"))
        if intervals and (ends := run.summary.get("intervals", {}).get(protocol)):
            cells = [" to ".join(map(decibels, ends.get(name) or (None, None))) for name in columns]
            rows.append(Row("95 % interval", cells, f"interval {classes[run.name]}"))
    baselines = baseline_rows(runs, protocol).items()
    return rows + [Row(name, [decibels(row.get(column)) for column in columns]) for name, row in baselines]


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


def table(caption: str, rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Rows as HTML."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<p class="caption">{escape(caption)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(row.html(len(columns)) for row in rows)
        + "\n</tbody>\n</table></div>"
    )


def decibels(value: float | None) -> str:
    """Two digits, or n/a where there is no score."""
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.2f}"


def items(texts: Sequence[str]) -> str:
    """A list as HTML."""
    return "<ul>\n" + "\n".join(f"<li>{escape(text)}</li>" for text in texts) + "\n</ul>"
