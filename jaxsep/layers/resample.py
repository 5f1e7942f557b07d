"""Resampling by a rational ratio with a windowed sinc, as part of a net."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

BLOCK = 64  # outputs of a product, at least: long ones waste work, short ones read the input too often


def resample_frac(
    x: Float[Array, "b t c"], old: int, new: int, zeros: int = 24, rolloff: float = 0.945
) -> Float[Array, "b u c"]:
    """The wave at `new` instead of `old` samples per unit of time, u = floor(t new / old), as `julius.resample_frac`.

    J. O. Smith's interpolation (ccrma.stanford.edu/~jos/resample): output j is the sum of x[i] h(i / old - j / new),
    where h is a sinc that passes `rolloff` of the lower of both bands, under a squared cosine as wide as `zeros` of its
    zero crossings, scaled so that each phase sums to one. The edge samples go on for ever.

    Neighbouring outputs share most of their inputs: a block of them is one product of their common window with a banded
    matrix, far faster on a CPU than convolutions of so few channels. Computed in float32 at least.

    Args:
        x: [b t c], at least one sample.
        old, new: the ratio; both should be small once divided by their greatest common divisor.
        zeros: zero crossings on each side.
        rolloff: fraction of the band that is kept.
    """
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    if old == new:
        return x
    batch, length, channels = x.shape
    matrix, width, strides = _banded(old, new, zeros, rolloff)
    size, outputs = strides * old, length * new // old
    blocks = max(1, -(-outputs // (strides * new)))
    # A block's window: `size` samples of its own and the first 2 width of the next block.
    padded = jnp.pad(x, [(0, 0), (width, width + old), (0, 0)], mode="edge")[:, : (blocks + 1) * size]
    padded = jnp.pad(padded, [(0, 0), (0, (blocks + 1) * size - padded.shape[1]), (0, 0)])
    grid = jnp.moveaxis(padded, 2, 1).reshape(batch, channels, blocks + 1, size)
    windows = jnp.concatenate([grid[:, :, :-1], grid[:, :, 1:, : 2 * width]], axis=-1)
    kind = jnp.promote_types(x.dtype, jnp.float32)
    y = jnp.dot(windows.astype(kind), jnp.asarray(matrix, kind), precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(y.reshape(batch, channels, -1)[:, :, :outputs], 1, 2).astype(x.dtype)


@functools.lru_cache
def _banded(old: int, new: int, zeros: int, rolloff: float) -> tuple[np.ndarray, int, int]:
    """(matrix [strides old + 2 width, strides new], width, strides): each stride moves the phases by `old` rows."""
    rate = min(old, new) * rolloff
    width = math.ceil(zeros * old / rate)
    taps = np.arange(-width, width + old, dtype=np.float32)
    # In single precision, as julius: at 441 to 480 its rounding moves the output by 3e-5.
    starts = (np.arange(new) / new).astype(np.float32)[:, None]
    time = np.clip((taps / np.float32(old) - starts) * np.float32(rate), -zeros, zeros).astype(np.float64)
    phases = np.sinc(time) * np.cos(np.pi * time / zeros / 2) ** 2
    phases /= phases.sum(axis=1, keepdims=True)
    strides = max(-(-BLOCK // new), -(-2 * width // old))
    matrix = np.zeros((strides * old + 2 * width, strides, new))
    for i in range(strides):
        matrix[i * old : i * old + len(taps), i] = phases.T
    return matrix.reshape(len(matrix), -1), width, strides
