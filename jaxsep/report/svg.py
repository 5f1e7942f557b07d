"""Pictures as SVG files that follow the reader's light or dark colour scheme."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour until the file is written
# Each stands out from the page and its panels by 3:1 or more, in light and in dark (WCAG 2.1, 1.4.11).
COLOURS = ("#2f86d6", "#d06a1c", "#28916a", "#a56bd1", "#d1495b", "#8a8f2a", "#3a9499", "#b5739d", "#778390")

STYLE: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "grid.alpha": 0.2,
    "grid.color": INK,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: small files, any script that the reader's fonts have
    "svg.hashsalt": "jaxsep",  # equal pictures give equal bytes
    "text.color": INK,
    "text.parse_math": False,  # a `$` in a name is a dollar
    "xtick.color": INK,
    "ytick.color": INK,
}
THEME = "<style>:root{color:#1d2125}@media (prefers-color-scheme:dark){:root{color:#dfe3e7}}</style>"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; draw on it inside `matplotlib.rc_context(STYLE)`."""
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, dest: Path) -> None:
    """Writes a figure as SVG whose ink follows the colour scheme."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # Only the layout measures with matplotlib's own font; the reader's browser draws the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasSVG(figure).print_svg(dest, metadata={"Date": None})
    text = dest.read_text(encoding="utf-8").replace(INK, "currentColor")
    dest.write_text(text.replace("<defs>", THEME + "\n <defs>", 1), encoding="utf-8")
