"""One page about a run: scores, clips to listen to, spectrograms, curves, and what to think of them.

The page is a folder that opens from disk: no network, no server, nothing outside the folder.
"""

import datetime
import json
import math
import os
import shutil
import string
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.log import read_metrics
from jaxsep.metrics.aggregate import PROTOCOLS
from jaxsep.report.curves import draw_curves, series
from jaxsep.report.panels import Song
from jaxsep.report.player import figure, song_block
from jaxsep.workdir import read_run

HEADLINE = "sdr_median_of_medians"
NEEDED = {"system", "checkpoint", "data", "mixture", "tracks", "tracks_in_split", "scored_together", "protocols"}
NEEDED |= {"scores", "baselines", "missing", "failed", "silent"}
CAPTIONS = {
    "loss": "Loss by step. A training value is the mean since the one before it.",
    "sdr": "SDR on the validation songs by step: median over seconds, median over songs.",
}


def write_page(
    workdir: str | Path,
    *,
    songs: Sequence[Song],
    title: str,
    split: str = "test",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> Path:
    """Writes `<workdir>/report/`; a report that is there is replaced when the new one is complete.

    Args:
        workdir: a run folder: `config.json`, and where they exist `run.json`, `metrics.jsonl` and
            `scores/<split>/summary.json`.
        songs: what to listen to and look at.
        title: of the page.
        split: whose scores are shown.
        facts: more lines about the training, beside those that the run folder tells.
        notes: what a reader has to know to judge the numbers, beside what the page says by itself.
        commands: the commands that make all this again; by default those that trained and scored.

    Returns:
        The page, `<workdir>/report/index.html`.

    Raises:
        JaxsepError: not a run folder, a damaged file in it, a song whose waves do not fit, or a folder that cannot
            be written.
    """
    workdir = Path(workdir)
    config, run, metrics = configs.run_config(workdir), read_run(workdir), workdir / "metrics.jsonl"
    records = read_metrics(metrics)
    summary = _read_summary(workdir / "scores" / split / "summary.json")
    commands = commands or [f"python {line['command'].removeprefix('python ')}" for line in (run, summary) if line]
    report, fresh, old = (workdir / name for name in ("report", f".report-{os.getpid()}", f".old-{os.getpid()}"))
    try:
        fresh.mkdir()
        page = string.Template(_template("page.html")).substitute(
            title=escape(title),
            style=_template("page.css"),
            script=_template("page.js"),
            lead=escape(_lead(config, summary)),
            scores=_scores(summary) if summary else f"<p>No scores of {escape(split)} songs yet: run eval.py.</p>",
            songs="\n".join(song_block(song, number, fresh) for number, song in enumerate(songs, 1)),
            curves=_curves(metrics, records, fresh),
            facts=_facts(config, run, records, facts or {}),
            notes=_list([*notes, *_small_print(config, summary)]),
            commands=f'<pre tabindex="0"><code>{escape(chr(10).join(commands))}</code></pre>',
            footer=escape(f"Made by jaxsep from {workdir.resolve().name}."),
        )
        (fresh / "index.html").write_text(page, encoding="utf-8")
        if report.exists():
            report.rename(old)
        fresh.rename(report)
    except (OSError, soundfile.SoundFileError) as error:
        raise JaxsepError(f"{report}: cannot be written ({error}); make room or mend the folder") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return report / "index.html"


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _read_summary(path: Path) -> dict[str, Any]:
    """A split's scores; {} before eval.py has run."""
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise JaxsepError(f"{path}: damaged ({error}); run eval.py again") from None
    if lacking := NEEDED - set(summary):
        raise JaxsepError(f"{path}: no {', '.join(sorted(lacking))} in it; run eval.py again")
    return summary


def _system(config: Any) -> str:
    return ":".join(filter(None, (config.name, config.variant)))


def _lead(config: Any, summary: Mapping[str, Any]) -> str:
    """What a reader in a hurry takes home."""
    text = f"{_system(config)} separates songs into {', '.join(configs.parse_sources(config.sources))}."
    if not summary:
        return text
    rows = {name: row[HEADLINE]["average"] for name, row in summary["baselines"].items()}
    against = ", ".join(f"{name} {_decibels(value)}" for name, value in rows.items())
    data, average = summary["data"], summary["scores"][HEADLINE]["average"]
    return (
        f"{text} Its SDR on {len(summary['tracks'])} {data['split']} songs ({data['root']}), median over seconds and "
        f"over songs and averaged over the stems, is {_decibels(average)} dB" + (f" ({against})." if against else ".")
    )


def _scores(summary: Mapping[str, Any]) -> str:
    """The system against the baselines, and the system by every protocol."""
    scores, system = summary["scores"], f"{summary['system']}, step {summary['checkpoint']['step']}"
    baselines = {name: row[HEADLINE] for name, row in summary["baselines"].items()}
    against = _table(
        f"{PROTOCOLS[HEADLINE][0]}, in dB. Higher is better; silence would score 0.",
        {system: scores[HEADLINE], **baselines},
        list(scores[HEADLINE]),
        own=system,
    )
    protocols = _table(
        f"{system} by every protocol, in dB: numbers of different rows cannot be compared.",
        {PROTOCOLS[key][0] if key in PROTOCOLS else key: row for key, row in scores.items()},
        list(scores[HEADLINE]),
    )
    definitions = _list(list(summary["protocols"].values()))
    return f"{against}\n{protocols}\n<details><summary>What the rows are</summary>\n{definitions}\n</details>"


def _table(caption: str, rows: Mapping[str, Mapping[str, float | None]], columns: Sequence[str], own: str = "") -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr{" class=own" if name == own else ""}><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{_decibels(row.get(column))}</td>" for column in columns)
        + "</tr>"
        for name, row in rows.items()
    )
    return (
        f'<p class="caption">{escape(caption)}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>\n'
        f"<thead><tr><td></td>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _decibels(value: float | None) -> str:
    return "n/a" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _curves(metrics: Path, records: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """A picture per quantity that the run has measured."""
    known = [key for key in CAPTIONS if series(records, "train", key)[0] or series(records, "valid", key)[0]]
    pictures = [
        figure(draw_curves(metrics, folder / f"{key}.svg", (key,)).name, f"Curve of the {key}", CAPTIONS[key])
        for key in known
    ]
    return f'<div class="pictures">{"".join(pictures)}</div>' if pictures else "<p>Nothing is measured yet.</p>"


def _facts(config: Any, run: Mapping[str, Any], records: Sequence[Mapping[str, Any]], more: Mapping) -> str:
    """What was trained, how long and on what, with the whole config to unfold."""
    data, optim = config.data, config.optim
    counts = run.get("data", {}).get("songs", {})
    clocks = [record.get("time", {}) for record in records if record["kind"] == "train"]
    spent = datetime.timedelta(seconds=round(sum(clock.get("seconds", 0) for clock in clocks)))
    rows = {
        "System": f"{_system(config)}: {config.paper.title} ({config.paper.year}), {config.paper.url}",
        "Data": ", ".join(
            [f"{data.source} {data.root}".strip(), *(f"{n} {split} songs" for split, n in counts.items())]
        ),
        "Steps": f"{max((record['step'] for record in records), default=0)} of {config.steps}, each of "
        f"{data.batch_size} examples of {data.segment / config.sample_rate:.2f} s at {config.sample_rate} Hz",
        "Recipe": f"{config.loss.name} loss, {optim.name} at {optim.learning_rate:g} ({optim.schedule.name}), "
        f"remix {data.remix}, {config.precision}, seed {config.seed}",
        "Time": f"{spent} in training steps (compiling, validating and saving not counted)" if spent else "",
        **more,
        "Versions": ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items()),
        "Revision": run.get("git", ""),
    }
    entries = "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v.strip())}</dd>" for k, v in rows.items() if v.strip())
    return (
        f"<dl>\n{entries}\n</dl>\n<details><summary>The whole config</summary>\n"
        f'<pre tabindex="0"><code>{escape(configs.to_json(config))}</code></pre>\n</details>'
    )


def _small_print(config: Any, summary: Mapping[str, Any]) -> list[str]:
    """What the run's own files say about how far its numbers reach."""
    notes = []
    if config.data.source == "builtin":
        notes.append(
            "The songs of the table are made by a generator, for training and scoring alike. They are easier than "
            "recordings, and the numbers cannot be compared with those of any paper."
        )
    if summary:
        data = summary["data"]
        mixture = "the sum of the stems" if summary["mixture"] == "sum" else "as released"
        notes += [
            f"Scored: {len(summary['tracks'])} of the {summary['tracks_in_split']} {data['split']} songs of "
            f"{data['root']}. The mixture is {mixture}. Scored together, in seconds where none of them is silent: "
            + "; ".join(", ".join(names) for names in summary["scored_together"])
            + ".",
            "An oracle has seen the true stems: it is a ceiling for masks of its kind, not a competitor. The mixtures "
            "and the fixed equaliser do not listen to the song: they are floors.",
            *(f"Not in the table: {what}. Why: {why}" for what, why in summary["missing"].items()),
            *(f"Left out: {name}. Why: {why}" for name, why in summary["failed"].items()),
            *(f"A stem is silent throughout in {name}, and has no score there." for name in summary["silent"]),
        ]
    return notes


def _list(items: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in items) + "\n</ul>"
