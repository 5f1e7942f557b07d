"""Loudness as ITU-R BS.1770-4 measures it, before its gates."""

import math

import numpy as np
from jaxtyping import Float64
from scipy.signal import lfilter


def loudness(samples: np.ndarray, rate: int) -> Float64[np.ndarray, " seconds"]:
    """LUFS of each second of a stem, minus infinity where all is silent; the last second may be shorter.

    The K filter goes over the whole stem, so that a second's loudness does not hang on where seconds begin. All
    channels weigh 1, as left and right do: a mono stem is 3 LU below the same stem doubled.

    Args:
        samples: [t c], int16 or floats in [-1, 1].
        rate: in Hz.
    """
    weighted = samples.astype(np.float64) / (32768 if samples.dtype == np.int16 else 1)
    for numerator, denominator in k_filter(rate):
        weighted = lfilter(numerator, denominator, weighted, axis=0)
    starts = np.arange(0, len(samples), rate)
    counts = np.minimum(rate, len(samples) - starts)
    power = np.add.reduceat(np.square(weighted).sum(1), starts) / counts
    with np.errstate(divide="ignore"):
        return -0.691 + 10 * np.log10(power)


def k_filter(rate: int) -> list[tuple[list[float], list[float]]]:
    """Shelf and high-pass as (numerator, denominator); only the latter at rates that hold no sound above the shelf.

    The standard tabulates them for 48 kHz only. These are the analogue filters behind its tables, by the bilinear
    transform for any rate; at 48 kHz they give the tables' figures.
    """
    filters = []
    frequency, quality = 1681.974450955533, 0.7071752369554196
    if frequency < rate / 2:
        tangent, high = math.tan(math.pi * frequency / rate), 10 ** (3.999843853973347 / 20)
        middle, square = high**0.4996667741545416 * tangent / quality, tangent**2
        scale = 1 + tangent / quality + square
        shelf = [(high + middle + square) / scale, 2 * (square - high) / scale, (high - middle + square) / scale]
        filters.append((shelf, _poles(tangent, quality)))
    filters.append(([1.0, -2.0, 1.0], _poles(math.tan(math.pi * 38.13547087602444 / rate), 0.5003270373238773)))
    return filters


def _poles(tangent: float, quality: float) -> list[float]:
    scale = 1 + tangent / quality + tangent**2
    return [1.0, 2 * (tangent**2 - 1) / scale, (1 - tangent / quality + tangent**2) / scale]
