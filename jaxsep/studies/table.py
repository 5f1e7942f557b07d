"""What came out of a study, as a table: means and intervals over seeds, and paired tests on the same tracks."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxsep import markdown
from jaxsep.metrics import aggregate, statistics
from jaxsep.studies.results import CellRuns, Results, Run
from jaxsep.workdir import write_text

# Columns that another machine, or another day, fills otherwise.
OF_TIME = ("ms / step", "x real time")
SCALED = "scaled mixture"  # among the baselines that are scored beside a model


def rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and one row per cell.

    SDR is that of the score tables, the mean over seeds with its 95 % interval by Student's t. The difference to the
    reference is the median over tracks of the paired differences of their scores, averaged over sources and seeds;
    its p is that of Wilcoxon's signed-rank test, corrected by Holm (1979) for all that were made.
    """
    sources = results.sources
    header = [*results.cells[0].factors, "seeds", *(f"SDR {name}" for name in sources), "SDR", "95 % interval"]
    header += ["difference", "p (Holm)", "valid", "last fifth", "parameters", "steps", *OF_TIME]
    paired = _paired(results)
    corrected = dict(zip(paired, holm([found.p for found in paired.values()]), strict=True))
    body = []
    for cell in results.cells:
        runs = cell.done
        row = [*cell.factors.values(), f"{len(runs)} of {len(cell.runs)}"]
        row += [markdown.decibels(_mean([run.scores[name] for run in runs])) for name in sources]
        mean, half = interval([run.scores["average"] for run in runs])
        row += [markdown.decibels(mean), f"{mean - half:.2f} to {mean + half:.2f}" if math.isfinite(half) else "-"]
        found = paired.get(cell.name)
        row += [f"{found.median:+.2f}", f"{corrected[cell.name]:.2g}"] if found and found.tracks else ["-", "-"]
        rises = [last_fifth(run) for run in runs]
        row += [markdown.decibels(_mean([run.curve[-1][1] for run in runs]))]
        row += [f"{_mean(rises):+.2f}" if rises and np.isfinite(rises).all() else "-"]
        row += [f"{runs[0].speed['parameters']:,}", f"{runs[0].steps:,}"] if runs else ["-", "-"]
        step = _mean([run.step_seconds for run in runs])
        speed = _mean([run.speed["times_real_time"] for run in runs])
        row += [f"{1000 * step:.0f}" if math.isfinite(step) else "-", f"{speed:.1f}" if math.isfinite(speed) else "-"]
        body.append(row)
    return header, body


def render(results: Results) -> str:
    """The table in Markdown, and beneath it what it means and what is missing."""
    tracks = sorted({name for run in _all_done(results) for name in run.records})
    devices = sorted({run.speed["device"] for run in _all_done(results)})
    missing = [f"missing: {run.folder.name}, {run.state}" for cell in results.cells for run in _undone(cell)]
    reference = results.cells[0].factors[results.compare]
    baselines = [run.baselines for run in _all_done(results)]
    scaled = sorted({markdown.decibels(each[SCALED]) for each in baselines if SCALED in each})
    notes = [
        f"SDR in dB on {len(tracks)} tracks of the test split: median over seconds, median over tracks, mean over "
        "seeds; interval: Student's t over seeds",
        f"difference: to {results.compare} {reference!r} with all else alike: median over tracks of the paired "
        "differences, each track's score averaged over sources and seeds; p: Wilcoxon signed-rank test, two-sided, "
        "corrected by Holm for all rows",
        f"the mixture times the best gain for each source: {', '.join(scaled) or '-'} dB",
        "valid: SDR on the validation songs after the last step; last fifth: by how much it rose in the last fifth of "
        "the steps; means over seeds",
        f"times: {', '.join(devices) or 'nothing is timed yet'}; step: the median over the log",
        *missing,
    ]
    header, body = rows(results)
    return "\n".join([f"# {results.title}", "", markdown.table(header, body), "", *(f"- {note}" for note in notes)])


def write(results: Results, folder: Path) -> str:
    """Writes `table.md` and `table.csv`; returns the former."""
    text, sheet = render(results), io.StringIO()
    header, body = rows(results)
    csv.writer(sheet, lineterminator="\n").writerows([header, *body])
    write_text(folder / "table.md", text + "\n")
    write_text(folder / "table.csv", sheet.getvalue())
    return text


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval by Student's t; NaN for the latter with fewer than two values."""
    from scipy.stats import t

    count = len(values)
    if count < 2:
        return _mean(values), float("nan")
    return _mean(values), float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))


def last_fifth(run: Run) -> float:
    """Validation SDR at the end less that at the last validation before the last fifth of the steps; NaN without."""
    before = [sdr for step, sdr in run.curve if step <= 0.8 * run.steps]
    return run.curve[-1][1] - before[-1] if before else float("nan")


def holm(ps: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979): the i-th smallest of n times n - i + 1, never falling."""
    finite = sorted((p, index) for index, p in enumerate(ps) if math.isfinite(p))
    corrected, largest = list(ps), 0.0
    for rank, (p, index) in enumerate(finite):
        largest = max(largest, min(1.0, (len(finite) - rank) * p))
        corrected[index] = largest
    return corrected


def track_scores(runs: Sequence[Run], sources: Sequence[str]) -> dict[str, float]:
    """Each track's SDR, median over its seconds, averaged over sources and runs."""
    names = sorted(set.intersection(*(set(run.records) for run in runs))) if runs else []
    return {
        name: float(
            np.mean([[aggregate.track_score(r.records[name], s, aggregate.HEADLINE) for s in sources] for r in runs])
        )
        for name in names
    }


def _paired(results: Results) -> dict[str, statistics.Paired]:
    """For each cell that has a reference, how its tracks differ from the reference's."""
    first: dict[tuple, CellRuns] = {}
    found = {}
    for cell in results.cells:
        others = tuple(level for factor, level in cell.factors.items() if factor != results.compare)
        reference = first.setdefault(others, cell)
        if reference is cell:
            continue
        one, other = (track_scores(runs.done, results.sources) for runs in (reference, cell))
        tracks = sorted(one.keys() & other.keys())
        found[cell.name] = statistics.compare(_values(one, tracks), _values(other, tracks))
    return found


def _all_done(results: Results) -> list[Run]:
    return [run for cell in results.cells for run in cell.done]


def _undone(cell: CellRuns) -> list[Run]:
    return [run for run in cell.runs if run.state != "done"]


def _values(scores: Mapping[str, float], tracks: Sequence[str]) -> Float[np.ndarray, " n"]:
    return np.array([scores[name] for name in tracks], float)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
