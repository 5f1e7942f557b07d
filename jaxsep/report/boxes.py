"""Box plots per stem as in SiSEC 2018: each track's median SDR, for the runs, the baselines and SiSEC's field."""

import dataclasses
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats

from jaxsep import tables
from jaxsep.metrics.aggregate import HEADLINE, over, track_score
from jaxsep.report.runs import Run
from jaxsep.report.svg import INK, STYLE, new_figure, save

FIELD = "SiSEC 2018"
FAINT = 0.35


@dataclasses.dataclass(frozen=True)
class Box:
    """A row of the plot: a name and its score on every track; the colour of a run, none of a baseline or the field."""

    name: str
    scores: Float[np.ndarray, " n"]
    colour: str = ""
    field: bool = False

    @property
    def median(self) -> float:
        """Over the tracks that have a score."""
        return over(self.scores, "median")


def boxes(runs: Sequence[Run], source: str, colours: Mapping[str, str]) -> list[Box]:
    """The rows of one source, best median first.

    Args:
        runs: of one group of `tables.scored_alike`, with all their score files.
        source: one of their sources.
        colours: run name -> colour.
    """
    rows = []
    for run in runs:
        scores = _array(track_score(track, source, HEADLINE) for track in run.tracks.values())
        rows.append(Box(run.name, scores, colours[run.name]))
    baselines = [track["jaxsep"].get("baselines", {}) for track in runs[0].tracks.values()]
    for name in baselines[0]:
        rows.append(Box(name, _array(over(of[name][source], "median") for of in baselines)))
    rows += [Box(method, _array(scores), field=True) for method, scores in field(runs[0], source).items()]
    return sorted((row for row in rows if np.isfinite(row.scores).any()), key=lambda row: -row.median)


def field(run: Run, source: str) -> dict[str, list[float]]:
    """SiSEC's methods on the very tracks of a run: method -> SDR of each; {} where a track is not one of theirs."""
    if not on_musdb18(run):
        return {}
    songs = {unicodedata.normalize("NFC", track) for track in run.tracks}
    methods: dict[str, list[float]] = {}
    for score in tables.sisec18():
        if score.target == source and unicodedata.normalize("NFC", score.track) in songs:
            methods.setdefault(score.method, []).append(score.sdr)
    return methods


def on_musdb18(run: Run) -> bool:
    """Whether all tracks of a run's scores go by the names of MUSDB18's test songs."""
    songs = {unicodedata.normalize("NFC", score.track) for score in tables.sisec18()}
    return bool(run.tracks) and {unicodedata.normalize("NFC", name) for name in run.tracks} <= songs


def _array(tracks: Iterable[float]) -> Float[np.ndarray, " n"]:
    return np.array(list(tracks), np.float64)


def draw_boxes(rows: Sequence[Box], source: str, dest: str | Path) -> Path:
    """Draws the rows under each other as SVG: box = quartiles, line = median, whiskers = 1.5 quartile ranges.

    Where outliers would squeeze the boxes, they are left out of the picture and counted below it.
    """
    stats = [boxplot_stats(row.scores[np.isfinite(row.scores)])[0] for row in rows]
    low, high, outside = _limits(stats)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.0, 0.7 + 0.23 * len(rows))
        axis = figure.subplots()
        axis.grid(True, axis="x")
        axis.set_axisbelow(True)
        for place, (row, stat) in enumerate(zip(rows, stats, strict=True)):
            _draw_box(axis, row, stat, place)
        names = [f"{row.name} ({FIELD})" if row.field else row.name for row in rows]
        for label, row in zip(axis.set_yticks(range(len(rows)), names), rows, strict=True):
            label.label1.set_fontweight("bold" if row.colour else "normal")
            label.label1.set_fontsize(8 if row.field else 9)
        axis.set_xlim(low, high)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        axis.set_xlabel(f"SDR of {source} (dB)" + (f"; outliers outside: {outside}" if outside else ""))
        save(figure, Path(dest))
    return Path(dest)


def _limits(stats: Sequence[Mapping[str, Any]]) -> tuple[float, float, int]:
    """The range of all values, or of the whiskers where that is less than half of it; and how many are not in it."""
    outliers = np.concatenate([stat["fliers"] for stat in stats])
    low, high = min(stat["whislo"] for stat in stats), max(stat["whishi"] for stat in stats)
    margin = 0.05 * (high - low) or 1.0
    whole = min(low, outliers.min(initial=low)) - margin, max(high, outliers.max(initial=high)) + margin
    if whole[1] - whole[0] < 2 * (high - low + 2 * margin):
        return *whole, 0
    low, high = low - margin, high + margin
    return low, high, int(((outliers < low) | (outliers > high)).sum())


def _draw_box(axis: Axes, row: Box, stat: Mapping[str, Any], place: int) -> None:
    colour, alpha = row.colour or INK, FAINT if row.field else 1.0
    line = {"color": colour, "alpha": alpha, "linewidth": 1.0}
    face = (colour, 0.35) if row.colour else "none"
    axis.bxp(
        [dict(stat)],
        positions=[place],
        orientation="horizontal",
        widths=0.6,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"edgecolor": (colour, alpha), "facecolor": face, "linewidth": 1.0},
        whiskerprops=dict(line),
        capprops=dict(line),
        medianprops=line | {"linewidth": 2.0},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": colour, "alpha": alpha},
    )
