"""Loss and SDR over the steps of one run or of several, drawn from their `metrics.jsonl`."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes

from jaxsep.errors import JaxsepError
from jaxsep.report.svg import COLOURS, INK, STYLE, new_figure, save

UNITS = {"loss": "loss", "sdr": "SDR (dB)"}
KINDS: dict[str, dict[str, Any]] = {
    "train": {"linewidth": 1.0, "alpha": 0.65, "linestyle": "-"},
    "valid": {"linewidth": 2.0, "marker": "o", "markersize": 4},
}
LEGEND: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2, "fontsize": "small"}


def series(records: Sequence[Mapping[str, Any]], kind: str, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one quantity, from the lines of one kind that have it."""
    points = [(record["step"], record[key]) for record in records if record["kind"] == kind and key in record]
    return [step for step, _ in points], [value for _, value in points]


def draw_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], dest: str | Path, quantities: Sequence[str] = ("loss", "sdr")
) -> Path:
    """Draws training and validation values over steps as SVG, one panel under the other per quantity.

    Training is thin and validation thick. One run is drawn in the text's colour with its sources coloured; of several
    runs each has its colour, and the sources are left out.

    Args:
        runs: name -> the lines of its `metrics.jsonl`.
        dest: the `.svg` file to write.
        quantities: `loss`, `sdr` or any other key of the lines; `<quantity>/<source>` are its sources.

    Raises:
        JaxsepError: no run has a value of a quantity.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.0, 2.9 * len(quantities))
        axes = figure.subplots(len(quantities), 1, sharex=True, squeeze=False)[:, 0]
        for axis, quantity in zip(axes, quantities, strict=True):
            axis.grid(True)
            for colour, (name, records) in zip(itertools.cycle(COLOURS), runs.items()):
                _draw_total(axis, records, quantity, *((INK, "") if len(runs) == 1 else (colour, name)))
            if len(runs) == 1:
                _draw_sources(axis, next(iter(runs.values())), quantity)
            if not axis.lines:
                raise JaxsepError(f"{', '.join(runs)}: no line has {quantity!r} yet; train for longer")
            axis.legend(axis.lines, [str(line.get_label()) for line in axis.lines], **LEGEND)
            axis.set_ylabel(UNITS.get(quantity, quantity))
        axes[-1].set_xlabel("step")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)
        save(figure, Path(dest))
    return Path(dest)


def _draw_total(axis: Axes, records: Sequence[Mapping[str, Any]], quantity: str, colour: str, name: str) -> None:
    for kind, style in KINDS.items():
        steps, values = series(records, kind, quantity)
        if steps:
            word = {"train": "training", "valid": "validation"}[kind]
            axis.plot(steps, values, color=colour, label=f"{name}, {word}" if name else word, **style)


def _draw_sources(axis: Axes, records: Sequence[Mapping[str, Any]], quantity: str) -> None:
    names = dict.fromkeys(key for record in records for key in record if key.startswith(f"{quantity}/"))
    for number, key in enumerate(names):
        # Training values jump from batch to batch: the source's validation curve says more where there is one.
        kind = "valid" if series(records, "valid", key)[0] else "train"
        steps, values = series(records, kind, key)
        style = KINDS[kind] | {"linewidth": 1.2, "markersize": 3}
        axis.plot(steps, values, color=COLOURS[number % len(COLOURS)], label=key.removeprefix(f"{quantity}/"), **style)
