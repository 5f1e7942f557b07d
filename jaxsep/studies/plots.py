"""Pictures of a study: validation SDR against steps, and the tracks' scores as boxes."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate
from jaxsep.studies.results import CellRuns, Results


def draw(results: Results, folder: Path) -> list[Path]:
    """Writes the pictures as PNG and returns their paths.

    `curves.png` has a panel for each level of the other factors, a line for the mean over seeds and a band from the
    lowest to the highest; `boxes.png` a panel for each source and a box for each cell: quartiles over tracks, each
    track's score averaged over seeds, whiskers to the farthest track within 1.5 quartile ranges.

    Raises:
        JaxsepError: no run has been validated or scored yet.
    """
    if not any(run.curve for cell in results.cells for run in cell.runs):
        raise JaxsepError(f"{folder}: no run has been validated yet; go on with `jaxsep study run`")
    paths = [folder / "curves.png"]
    _curves(results, paths[0])
    if results.sources:
        paths.append(folder / "boxes.png")
        _boxes(results, paths[1])
    return paths


def _curves(results: Results, path: Path) -> None:
    panels: dict[str, list[CellRuns]] = {}
    for cell in results.cells:
        others = [level for factor, level in cell.factors.items() if factor != results.compare]
        panels.setdefault(", ".join(others), []).append(cell)
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False, sharey=True)
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
    _save(figure, path)


def _boxes(results: Results, path: Path) -> None:
    cells = [cell for cell in results.cells if cell.done]
    figure, axes = plt.subplots(
        1,
        len(results.sources),
        figsize=(3 + 3 * len(results.sources), 1 + 0.4 * len(cells)),
        squeeze=False,
        sharey=True,
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
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
