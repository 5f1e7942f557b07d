"""From which probability on a detector calls a source silent: chosen for precision, kept in its run folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxsep.errors import JaxsepError
from jaxsep.markdown import table
from jaxsep.mining.detector import SILENT
from jaxsep.workdir import write_text

FILE = "detector.json"
PRECISION = 0.95  # of what is called silent
SURELY = 1.645  # standard deviations: the precision is reached with a probability of 95 %


def operating_point(scores: Float[np.ndarray, " n"], silent: Bool[np.ndarray, " n"]) -> dict[str, Any]:
    """The lowest threshold whose precision is surely `PRECISION` or more.

    Surely: by the lower end of Wilson's interval (E. B. Wilson, JASA 1927), one-sided, 95 %, so that few windows are
    not enough. Neighbouring windows are alike, which makes the interval somewhat too narrow.

    Returns:
        "threshold" (None where there is none), "precision", "recall", and "silent", the share of silent windows.
    """
    order = np.argsort(-scores, kind="stable")
    count = np.arange(1, len(order) + 1)
    precision = np.cumsum(silent[order]) / count
    ahead = SURELY**2 / (2 * count)
    spread = SURELY * np.sqrt(precision * (1 - precision) / count + (SURELY / (2 * count)) ** 2)
    surely = (precision + ahead - spread) / (1 + SURELY**2 / count) >= PRECISION
    surely[:-1] &= np.diff(scores[order]) < 0  # equal scores are on one side of any threshold
    share = float(silent.mean()) if len(silent) else 0.0
    if not surely.any():
        return {"threshold": None, "precision": None, "recall": 0.0, "silent": share}
    last = int(np.flatnonzero(surely)[-1])
    hits = int(silent[order[: last + 1]].sum())
    return {
        "threshold": float(scores[order[last]]),
        "precision": float(precision[last]),
        "recall": hits / int(silent.sum()),
        "silent": share,
    }


def write_points(run: str | Path, points: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the operating points of a detector into its run folder, and what they stand for.

    Raises:
        JaxsepError: it cannot be written.
    """
    text = {"silent_below_db": -SILENT, "precision": PRECISION, "sources": points}
    write_text(Path(run) / FILE, json.dumps(text, indent=2) + "\n")


def read_points(run: str | Path) -> dict[str, float]:
    """The thresholds of a trained detector, for the sources that have one.

    Raises:
        JaxsepError: the training has not come to its end, or no source can be told to be silent.
    """
    path = Path(run) / FILE
    try:
        sources = json.loads(path.read_text())["sources"]
    except OSError:
        raise JaxsepError(f"{path}: missing; the same `jaxsep data detector` goes on to its end") from None
    except (ValueError, KeyError):
        raise JaxsepError(f"{path}: damaged; remove it and give the same `jaxsep data detector` again") from None
    found = {source: point["threshold"] for source, point in sources.items() if point["threshold"] is not None}
    if not found:
        raise JaxsepError(f"{path}: no source is told to be silent with {PRECISION:.0%} precision; train longer")
    return found


def render(points: Mapping[str, Mapping[str, Any]]) -> str:
    """The operating points as a table."""
    header = ("source", "silent", "threshold", "precision", "recall")
    rows = []
    for source, point in points.items():
        chosen = (point["threshold"], point["precision"], point["recall"])
        cells = [f"{value:.3f}" for value in chosen] if point["threshold"] is not None else ["-", "-", "-"]
        rows.append((source, f"{point['silent']:.1%}", *cells))
    return table(header, rows)
