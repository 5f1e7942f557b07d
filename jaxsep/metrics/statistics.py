"""How sure a score is: bootstrap intervals over tracks, and the paired test between two models."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Paired:
    """Two models on the same tracks: differences second minus first.

    Attributes:
        tracks: that have both scores.
        median: of the differences.
        low: and
        high: its 95 % bootstrap interval.
        p: two-sided, of the Wilcoxon signed-rank test; 1 where no track differs, NaN without tracks.
    """

    tracks: int
    median: float
    low: float
    high: float
    p: float


def bootstrap(
    tracks: Float[np.ndarray, "n k"],
    statistic: Callable[[Float[np.ndarray, "... n k"]], Float[np.ndarray, "... m"]],
    seed: int = 0,
) -> Float[np.ndarray, "2 m"]:
    """The 95 % interval of a statistic over tracks, by the percentile method (Efron & Tibshirani 1993, ch. 13).

    Tracks are drawn with replacement, all columns of a track together, 2,000 times.

    Args:
        tracks: scores; NaN where a track has none.
        statistic: reduces the second last axis.
        seed: of the draws.

    Returns:
        lower and upper ends, NaN where no draw has a finite statistic, or there are fewer than two tracks.
    """
    count = len(tracks)
    draws = np.random.default_rng(seed).integers(count, size=(DRAWS, count))
    found = statistic(tracks[draws])
    ends = [
        np.percentile(finite, [2.5, 97.5])
        if count > 1 and (finite := column[np.isfinite(column)]).size
        else [np.nan] * 2
        for column in found.T
    ]
    return np.array(ends).T


def compare(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], seed: int = 0) -> Paired:
    """Whether the second model's scores differ from the first's on the same tracks (Wilcoxon 1945).

    Tracks without a finite score of both are left out; ties (no difference) are dropped from the test, as Wilcoxon did.
    """
    from scipy.stats import wilcoxon  # here, as half a second is much for the commands that do not test anything

    differences = second - first
    differences = differences[np.isfinite(differences)]
    if not differences.size:
        return Paired(0, *[float("nan")] * 4)
    low, high = bootstrap(differences[:, None], lambda values: np.median(values, axis=-2), seed)[:, 0]
    p = float(np.asarray(wilcoxon(differences))[1]) if differences.any() else 1.0
    return Paired(differences.size, float(np.median(differences)), float(low), float(high), p)
