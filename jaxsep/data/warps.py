"""Changes of pitch and tempo in whole numbers: which there are, and what they need of a wave."""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

FRAME = 2048 / 44100  # seconds, about


class Warp(NamedTuple):
    """A change of pitch and tempo, as `jaxsep.data.vocoder` makes it.

    Attributes:
        frame: samples of a frame taken from the wave.
        out: samples that it has in the end, a multiple of 4.
        hop: samples of the wave between frames; this and `frame` are even.
    """

    frame: int
    out: int
    hop: int

    @property
    def pitch(self) -> float:
        """The factor of all frequencies."""
        return self.frame / self.out

    @property
    def tempo(self) -> float:
        """Seconds of the wave in a second of the result."""
        return 4 * self.hop / self.out

    @property
    def before(self) -> int:
        """Samples of the wave needed before the one that is the first of the result."""
        return self.hop + self.frame // 2

    def after(self, segment: int) -> int:
        """Samples needed from that one on, for so many of the result."""
        step = self.out // 4
        return (segment - 2 + 2 * step) // step * self.hop + self.frame // 2


@functools.lru_cache(4096)
def nearest(pitch: float, tempo: float, rate: int) -> Warp:
    """The change that comes nearest to two factors between 0.5 and 2.

    At 44.1 kHz whole semitones are met to 0.4 cents; other factors to 0.3 cents and 0.012 % on average. The arithmetic
    is such that all machines choose alike.
    """
    frames, outs = _choices(pitch, rate)
    hops = np.maximum(np.round(tempo * outs / 8).astype(np.int64) * 2, 2)
    # A cent is 0.06 %, and counts as much as 0.04 % of the tempo.
    error = ((frames / outs / pitch - 1) / 6) ** 2 + ((4 * hops / outs / tempo - 1) / 4) ** 2
    best = np.unravel_index(np.argmin(error), error.shape)
    return Warp(int(frames[best[0], 0]), int(outs[best]), int(hops[best]))


def margins(pitch: tuple[float, float], tempo: tuple[float, float], rate: int, segment: int) -> tuple[int, int]:
    """Enough samples before and after for whatever `nearest` chooses between these lowest and highest factors."""
    frame = int(_choices(1.0, rate)[0].max())
    longest, shortest = int(_choices(pitch[0], rate)[1].max()), int(_choices(pitch[1], rate)[1].min())
    hop = round(tempo[1] * longest / 8) * 2 + 2
    speed = tempo[1] + 4 / shortest  # rounding moves a hop by one sample at most
    return hop + frame // 2, int(np.ceil(segment * speed)) + 2 * hop + frame // 2


def _choices(pitch: float, rate: int) -> tuple[Int64[np.ndarray, "n 1"], Int64[np.ndarray, "n m"]]:
    """Frames within a quarter of an octave of `FRAME`, and for each the lengths that come near this pitch."""
    sizes = _sizes(rate)
    frames = sizes[(sizes > FRAME * rate / 1.19) & (sizes < FRAME * rate * 1.19)][:, None]
    fours = sizes[sizes % 4 == 0]
    return frames, fours[np.clip(np.searchsorted(fours, frames / pitch) + np.arange(-2, 3), 0, len(fours) - 1)]


@functools.cache
def _sizes(rate: int) -> Int64[np.ndarray, " _"]:
    """Even numbers up to several frames without a prime factor above 23: quick to transform."""
    sizes = np.arange(2, round(4 * FRAME * rate), 2)
    rest = sizes.copy()
    for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23):
        while (divisible := rest % prime == 0).any():
            rest[divisible] //= prime
    return sizes[rest == 1]
