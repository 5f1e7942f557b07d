"""Pictures of a study: validation SDR against steps, the tracks' scores as boxes, and what front ends have become."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate
from jaxsep.studies.results import CellRuns, Results

FLOOR = 60  # dB that responses are drawn down to


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the pictures as PNG and returns their paths.

    `curves.png` has a panel for each level of the other factors, a line for the mean over seeds and a band from the
    lowest to the highest; `boxes.png` a panel for each source and a box for each cell: quartiles over tracks, each
    track's score averaged over seeds, whiskers to the farthest track within 1.5 quartile ranges.

    Where cells differ in their front ends: `responses.png`, the frequency responses of their filters, sorted by centre
    frequency, of each cell's first run; `sparsity.png`, how concentrated the test mixtures are in the coefficients of
    each cell (Zhao et al. 2021), the mean over tracks, a point for each seed. Where windows are trained: `windows.png`,
    those of each such cell's first run, from the first validation (dark) to the last (bright).

    Raises:
        JaxsepError: no run has been validated or scored yet.
    """
    if not any(run.curve for cell in results.cells for run in cell.runs):
        raise JaxsepError(f"{folder}: no run has been validated yet; go on with `jaxsep study run`")
    pictures = {"curves.png": _curves}
    if results.sources:
        pictures["boxes.png"] = _boxes
    fronts = [cell.done[0].front for cell in results.cells if cell.done and cell.done[0].front]
    if len({front["response"].tobytes() for front in fronts}) > 1:
        pictures |= {"responses.png": _responses, "sparsity.png": _sparsity}
    if any(run.windows for cell in results.cells for run in cell.done):
        pictures["windows.png"] = _windows
    for name, paint in pictures.items():
        figure = paint(results)
        figure.savefig(folder / name, dpi=120)
        plt.close(figure)
    return [folder / name for name in pictures]


def _curves(results: Results) -> Figure:
    panels: dict[str, list[CellRuns]] = {}
    for cell in results.cells:
        others = [level for factor, level in cell.factors.items() if factor != results.compare]
        panels.setdefault(", ".join(others), []).append(cell)
    size = (5 * len(panels), 4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, sharey=True, layout="tight")
    for axis, (title, cells) in zip(axes[0], panels.items(), strict=True):
        for cell in cells:
            curves = [dict(run.curve) for run in cell.runs if run.curve]
            steps = sorted(set.intersection(*map(set, curves))) if curves else []
            values = np.array([[curve[step] for step in steps] for curve in curves])
            if steps:
                (line,) = axis.plot(steps, values.mean(axis=0), marker=".", label=cell.factors[results.compare])
                axis.fill_between(steps, values.min(axis=0), values.max(axis=0), alpha=0.2, color=line.get_color())
        axis.set(title=title, xlabel="step")
        if axis.lines:
            axis.legend(title=results.compare)
    axes[0, 0].set_ylabel("validation SDR, dB")
    return figure


def _boxes(results: Results) -> Figure:
    cells = [cell for cell in results.cells if cell.done]
    figure, axes = plt.subplots(
        1,
        len(results.sources),
        figsize=(3 + 3 * len(results.sources), 1 + 0.4 * len(cells)),
        squeeze=False,
        sharey=True,
        layout="tight",
    )
    for axis, source in zip(axes[0], results.sources, strict=True):
        scores = [
            [
                float(
                    np.mean([aggregate.track_score(run.records[name], source, aggregate.HEADLINE) for run in cell.done])
                )
                for name in sorted(cell.done[0].records)
            ]
            for cell in cells
        ]
        axis.boxplot(scores[::-1], orientation="horizontal", manage_ticks=False)
        axis.set(title=source, xlabel="SDR, dB")
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].set_yticks(range(1, len(cells) + 1), [cell.name for cell in cells][::-1])
    return figure


def _responses(results: Results) -> Figure:
    cells = [cell for cell in results.cells if cell.done and cell.done[0].front]
    figure, axes = _grid(len(cells))
    for axis, cell in zip(axes, cells, strict=True):
        front = cell.done[0].front
        image = axis.imshow(
            sorted_decibels(front["response"]),
            vmin=-FLOOR,
            vmax=0,
            aspect="auto",
            origin="lower",
            extent=(0, front["frequencies"][-1] / 1000, 0, len(front["response"])),
            interpolation="nearest",
        )
        axis.set_title(cell.name, fontsize="small")
    figure.colorbar(image, ax=axes, label="dB below the filter's largest response")
    figure.supxlabel("frequency, kHz")
    figure.supylabel("filter, by centre frequency")
    return figure


def _windows(results: Results) -> Figure:
    cells = [cell for cell in results.cells if cell.done and cell.done[0].windows]
    figure, axes = _grid(len(cells))
    for axis, cell in zip(axes, cells, strict=True):
        windows = cell.done[0].windows
        for number, (step, window) in enumerate(windows):
            colour = plt.get_cmap("viridis")(number / max(len(windows) - 1, 1))
            label = f"step {step}" if step in (windows[0][0], windows[-1][0]) else None
            axis.plot(np.linspace(0, 1, len(window)), window, color=colour, label=label)
        axis.set_title(cell.name, fontsize="small")
        axis.legend(fontsize="x-small")
    figure.supxlabel("place in the frame")
    figure.supylabel("window")
    return figure


def _sparsity(results: Results) -> Figure:
    cells = [cell for cell in results.cells if any(run.front for run in cell.done)][::-1]
    figure, axis = plt.subplots(figsize=(7, 1 + 0.4 * len(cells)), layout="tight")
    for place, cell in enumerate(cells):
        values = [1000 * float(run.front["concentration"].mean()) for run in cell.done if run.front]
        axis.barh(place, float(np.mean(values)), color="tab:blue", alpha=0.4)
        axis.plot(values, [place] * len(values), "k.")
    axis.set_yticks(range(len(cells)), [cell.name for cell in cells])
    axis.set(xlabel="concentration of the test mixtures, thousandths")
    axis.grid(axis="x", alpha=0.3)
    return figure


def sorted_decibels(response: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
    """Each filter's response relative to its largest, in dB, sorted by the frequency where that is."""
    largest = np.maximum(response.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    relative = 20 * np.log10(np.maximum(response / largest, 10 ** (-FLOOR / 20)))
    return relative[np.argsort(response.argmax(axis=1), kind="stable")]


def _grid(count: int) -> tuple[Figure, Sequence[Axes]]:
    """So many panels, in rows of up to five; the rest is left empty."""
    width = min(count, 5)
    height = -(-count // width)
    size = (3 * width + 1, 2.6 * height + 0.6)
    figure, axes = plt.subplots(height, width, figsize=size, squeeze=False, sharex=True, layout="constrained")
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])
