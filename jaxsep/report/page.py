"""One page about one run or several: scores, songs to listen to and look at, curves, and what to think of them.

The page is a folder that opens from disk: no network, no server, nothing outside the folder.
"""

import contextlib
import datetime
import itertools
import os
import shutil
import string
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.metrics.aggregate import HEADLINE
from jaxsep.report.boxes import boxes, draw_boxes, on_musdb18
from jaxsep.report.curves import KINDS, draw_curves, series
from jaxsep.report.player import figure, song_block
from jaxsep.report.runs import Run, read_runs
from jaxsep.report.song import Song
from jaxsep.report.svg import COLOURS
from jaxsep.report.tables import decibels, items, score_tables, scored_alike

MARK = "Made by jaxsep"  # how a report is known, before it is replaced
CAPTIONS = {
    "loss": "Loss by step. A training value is the mean since the one before it.",
    "sdr": "SDR on the validation songs by step: median over seconds, median over songs.",
}


def write_page(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    songs: Sequence[Song],
    title: str,
    split: str = "test",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    commands: Sequence[str] = (),
    clips: str = "flac",
) -> Path:
    """Writes a report; one that is there is replaced when the new one is complete.

    Args:
        runs: run folders: `config.json`, and where they exist `run.json`, `metrics.jsonl` and `scores/<split>/`.
        out: the folder of the report.
        songs: what to listen to and look at.
        title: of the page.
        split: whose scores are shown.
        facts: more lines about the training, beside those that the run folders tell.
        notes: what a reader has to know to judge the numbers, beside what the page says by itself.
        commands: the commands that make all this again; by default those that trained and scored.
        clips: "flac", "mp3" or "opus".

    Returns:
        The page, `<out>/index.html`.

    Raises:
        JaxsepError: not a run folder, a damaged file in it, a song whose waves do not fit, or an `out` that cannot be
            written or holds something else.
    """
    read = read_runs(runs, split)
    commands = commands or [command for run in read for command in run.commands()]
    classes = {run.name: f"run-{number}" for number, run in enumerate(read, 1)}
    with _replacing(Path(out)) as fresh:
        page = string.Template(_template("page.html")).substitute(
            title=escape(title),
            generator=MARK,
            style=_template("page.css"),
            colours=_colours(max([len(read), *(len(song.estimates) for song in songs)])),
            script=_template("page.js"),
            lead=escape(_lead(read)),
            scores=_scores(read, classes, split, fresh),
            keys=_template("keys.html") if songs else "<p>No song to listen to; see the notes.</p>",
            songs="\n".join(song_block(song, number, fresh, clips, classes) for number, song in enumerate(songs, 1)),
            curves=_curves(read, fresh),
            facts="\n".join(_facts(run, facts or {}, alone=len(read) == 1) for run in read),
            notes=items([*notes, *_small_print(read)]),
            commands=f'<pre tabindex="0"><code>{escape(chr(10).join(commands))}</code></pre>',
            footer=escape(f"{MARK} from {', '.join(run.folder.resolve().name for run in read)}."),
        )
        (fresh / "index.html").write_text(page, encoding="utf-8")
    return Path(out) / "index.html"


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `out` when all went well."""
    check_out(out)
    out = out.resolve()
    fresh, old = (out.with_name(f".{out.name}-{kind}-{os.getpid()}") for kind in ("new", "old"))
    try:
        fresh.mkdir(parents=True)
        yield fresh
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    except (OSError, soundfile.SoundFileError) as error:
        raise JaxsepError(f"{out}: cannot be written ({error}); make room or mend the folder") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_out(out: Path) -> None:
    """Refuses to replace what is not a report.

    Raises:
        JaxsepError: a file, or a folder of other things.
    """
    page = out / "index.html"
    if out.exists() and not out.is_dir():
        raise JaxsepError(f"--out={out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (page.is_file() and MARK.encode() in page.read_bytes()):
        raise JaxsepError(f"--out={out} holds something else than a report; name a new folder")


def _template(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _colours(count: int) -> str:
    """A colour per run, the same wherever it is seen."""
    pairs = zip(range(1, count + 1), itertools.cycle(COLOURS), strict=False)
    return "".join(f".run-{number} {{ --run: {colour}; }}\n" for number, colour in pairs)


def _lead(runs: Sequence[Run]) -> str:
    """What a reader in a hurry takes home."""
    if len(runs) > 1:
        ranked = (sorted(group, key=_average, reverse=True) for group in scored_alike(runs))
        return f"{len(runs)} runs beside each other. SDR (median), averaged over the stems: " + "; ".join(
            ", ".join(f"{run.name} {decibels(_average(run))} dB" for run in group) for group in ranked
        )
    (run,) = runs
    text = f"{run.system} separates songs into {', '.join(run.sources)}."
    if not run.summary:
        return text
    rows = {name: row[HEADLINE]["average"] for name, row in run.summary["baselines"].items()}
    against = ", ".join(f"{name} {decibels(value)}" for name, value in rows.items())
    data = run.summary["data"]
    return (
        f"{text} Its SDR on {len(run.summary['tracks'])} {data['split']} songs ({data['root']}), median over seconds "
        f"and over songs and averaged over the stems, is {decibels(_average(run))} dB"
        + (f" ({against})." if against else ".")
    )


def _average(run: Run) -> float:
    value = run.summary["scores"][HEADLINE]["average"]
    return float("-inf") if value is None else value


def _scores(runs: Sequence[Run], classes: Mapping[str, str], split: str, folder: Path) -> str:
    """Tables and box plots of each group of runs that can be compared."""
    groups = scored_alike(runs)
    html = []
    if len(groups) > 1:
        html.append("<p>Not all runs were scored on the same songs in the same way: each part stands for itself.</p>")
    for number, group in enumerate(groups, 1):
        if len(groups) > 1:
            html.append(f"<h3>{escape(', '.join(run.name for run in group))}</h3>")
        html += [score_tables(group, classes), _boxes(group, classes, folder, number)]
    without = [run.name for run in runs if not run.summary]
    if without:
        html.append(f"<p>No scores of {escape(split)} songs yet: run eval.py ({escape(', '.join(without))}).</p>")
    return "\n".join(html)


def _boxes(group: Sequence[Run], classes: Mapping[str, str], folder: Path, number: int) -> str:
    """A plot per stem, with what has to be known about the field behind it."""
    for run in group:
        if missing := [track for track in run.summary["tracks"] if track not in run.tracks]:
            lacking = f"{run.name}: no score file of {missing[0]}"
            return f"<p>{escape(f'No box plots ({lacking}); run eval.py again.')}</p>"
    names = list(classes)
    colours = {name: COLOURS[names.index(name) % len(COLOURS)] for name in names}
    pictures = []
    for index, source in enumerate(group[0].sources, 1):
        rows = boxes(group, source, colours)
        if rows:
            picture = draw_boxes(rows, source, folder / f"boxes-{number}-{index}.svg")
            best = ", ".join(f"{row.name} {row.median:.2f}" for row in rows if not row.field)
            pictures.append(figure(picture.name, f"SDR of {source} by track, medians in dB: {best}"))
    return f"<p>{escape(_field_note(group))}</p>\n" + f'<div class="pictures">{"".join(pictures)}</div>'


def _field_note(group: Sequence[Run]) -> str:
    run = group[0]
    plot = f"The medians of {len(run.tracks)} tracks over their seconds: quartiles, median, whiskers of 1.5 boxes."
    if not on_musdb18(run):
        return f"{plot} The 31 systems of SiSEC 2018 are not here: they were scored on MUSDB18's test songs, not these."
    mixture = " They separated the released mixtures, not sums of stems." if run.summary["mixture"] == "sum" else ""
    return (
        f"{plot} Faint: the 31 systems of SiSEC 2018 on these songs, where vocals and accompaniment were scored as a "
        f"pair.{mixture}"
    )


def _curves(runs: Sequence[Run], folder: Path) -> str:
    """A picture per quantity that has been measured."""
    known = {
        key: {run.name: run.metrics for run in runs if any(series(run.metrics, kind, key)[0] for kind in KINDS)}
        for key in CAPTIONS
    }
    losses = {run.config.loss.name for run in runs}
    more = {"loss": f" Losses of different kinds ({', '.join(sorted(losses))}) have no common scale."}
    pictures = [
        figure(
            draw_curves(measured, folder / f"{key}.svg", (key,)).name,
            f"Curve of the {key} of {', '.join(measured)}",
            CAPTIONS[key] + (more.get(key, "") if len(losses) > 1 else ""),
        )
        for key, measured in known.items()
        if measured
    ]
    return f'<div class="pictures">{"".join(pictures)}</div>' if pictures else "<p>Nothing is measured yet.</p>"


def _facts(run: Run, more: Mapping[str, str], alone: bool) -> str:
    """What was trained, how long and on what, with the whole config to unfold."""
    config: Any = run.config
    data, optim, paper = config.data, config.optim, config.paper
    counts = run.about.get("data", {}).get("songs", {})
    clocks = [record.get("time", {}) for record in run.metrics if record["kind"] == "train"]
    spent = datetime.timedelta(seconds=round(sum(clock.get("seconds", 0) for clock in clocks)))
    rows = {
        "System": f"{run.system}: {paper.title} ({paper.year}), {paper.url}",
        "Data": ", ".join(
            [f"{data.source} {data.root}".strip(), *(f"{n} {split} songs" for split, n in counts.items())]
        ),
        "Steps": f"{max((record['step'] for record in run.metrics), default=0)} of {config.steps}, each of "
        f"{data.batch_size} examples of {data.segment / config.sample_rate:.2f} s at {config.sample_rate} Hz",
        "Recipe": f"{config.loss.name} loss, {optim.name} at {optim.learning_rate:g} ({optim.schedule.name}), "
        f"remix {data.remix}, {config.precision}, seed {config.seed}",
        "Time": f"{spent} in training steps (compiling, validating and saving not counted)" if spent else "",
        **more,
        "Versions": ", ".join(f"{name} {version}" for name, version in run.about.get("versions", {}).items()),
        "Revision": run.about.get("git", ""),
    }
    entries = "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v.strip())}</dd>" for k, v in rows.items() if v.strip())
    heading = "" if alone else f"<h3>{escape(run.name)}</h3>\n"
    return (
        f"{heading}<dl>\n{entries}\n</dl>\n<details><summary>The whole config</summary>\n"
        f'<pre tabindex="0"><code>{escape(configs.to_json(config))}</code></pre>\n</details>'
    )


def _small_print(runs: Sequence[Run]) -> list[str]:
    """What the runs' own files say about how far their numbers reach."""
    notes = []
    if any(run.config.data.source == "builtin" for run in runs):
        notes.append(
            "The built-in songs are made by a generator, for training and scoring alike. They are easier than "
            "recordings, and scores on them cannot be compared with those of any paper."
        )
    for run in runs:
        summary, of = run.summary, f"{run.name}: " if len(runs) > 1 else ""
        if summary:
            notes += [
                *(f"{of}not in the table: {what}. Why: {why}" for what, why in summary["missing"].items()),
                *(f"{of}left out: {name}. Why: {why}" for name, why in summary["failed"].items()),
                *(
                    f"{of}ISR, SIR and SAR of {', '.join(names)} in {track} are rounding noise."
                    for track, sources in summary.get("ill_conditioned", {}).items()
                    for names in sources
                ),
                *(f"{of}a stem is silent throughout in {name}, and has no score there." for name in summary["silent"]),
            ]
    if any(run.summary for run in runs):
        notes.append(
            "An oracle has seen the true stems: it is a ceiling for masks of its kind, not a competitor. The mixtures "
            "and the fixed equaliser do not listen to the song: they are floors."
        )
    return notes
