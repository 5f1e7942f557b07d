"""What the examples of a conditioned system's training ask for: a pure function of (seed, sample number)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt64

from jaxsep.config import choose
from jaxsep.data.plan import APART, CONDITION, FACTOR, GRADED, below, random_bits, unit

RATE = 0.25  # C-U-Net: of graded examples, and of examples whose unwanted sources come from other songs
Draw = Callable[[int], UInt64[np.ndarray, "b 1"]]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Of each sample number.

    Attributes:
        targets: weights over the sources; the net is to return the sources' weighted sum.
        apart: stems that come each from a song and a place of its own.
    """

    targets: Float32[np.ndarray, "b 1 s"]
    apart: Bool[np.ndarray, "b k"]


def conditions(
    kind: str,
    seed: int,
    numbers: Sequence[int] | Int64[np.ndarray, " b"],
    sources: Mapping[str, Sequence[str]],
    stems: Sequence[str],
) -> Conditions:
    """The conditions of each sample number, in their order.

    Args:
        kind: key of `KINDS`.
        seed: of the run.
        numbers: of the samples.
        sources: for each source its stems.
        stems: those that `apart` is about.

    Raises:
        JaxsepError: an unknown kind.
    """
    draw_weights = choose(KINDS, kind, "data.conditions")
    column = np.asarray(numbers, np.int64).astype(np.uint64)[:, None]
    example = np.zeros(1, np.uint64)  # in a stem's place: one draw for the whole example
    weights, apart = draw_weights(lambda purpose: random_bits(seed, column, example, purpose), len(sources))
    members = np.array([[stem in source for source in sources.values()] for stem in stems])
    wanted = ((weights > 0)[:, None] & members).any(-1)
    return Conditions(weights[:, None].astype(np.float32), apart & members.any(-1) & ~wanted)


def _one_hot(draw: Draw, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """One source, each as often (LaSAFT)."""
    rows = np.eye(sources)[below(draw(CONDITION), np.array(sources))[:, 0]]
    return rows, np.zeros((1, 1), bool)


def _cunet(draw: Draw, sources: int) -> tuple[np.ndarray, np.ndarray]:
    """Each source, all and none, each as often (C-U-Net).

    A quarter of the examples is graded (the authors: "progressive"), their weights times a factor uniform in [0, 1). In
    another quarter, drawn independently, the stems of sources that are not asked for come from other songs.
    """
    table = np.concatenate([np.eye(sources), np.ones((1, sources)), np.zeros((1, sources))])
    rows = table[below(draw(CONDITION), np.array(len(table)))[:, 0]]
    factors = np.where(unit(draw(GRADED)) < RATE, unit(draw(FACTOR)), 1)
    return rows * factors, unit(draw(APART)) < RATE


# data.conditions -> (draw, number of sources) -> weights [b s], and which examples mix songs [b 1]
KINDS = {"one_hot": _one_hot, "cunet": _cunet}
