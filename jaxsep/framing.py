"""What front ends on short-time spectra share: windows, frames that overlap, and their sum."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxsep.errors import JaxsepError

# Periodic windows on [0, 1): sampled at i / frame they are what scipy calls fftbins=True.
WINDOWS = {
    "hann": lambda phase: np.sin(np.pi * phase) ** 2,
    "sqrt_hann": lambda phase: np.sin(np.pi * phase),
    "hamming": lambda phase: 0.54 - 0.46 * np.cos(2 * np.pi * phase),
}

WEAK = 1e-3  # sum of squared windows that a sample can still be recovered from


def framed(wave: Float[Array, "*b t"], frame: int, hop: int) -> Float[Array, "*b n frame"]:
    """Frames that start `hop` samples apart and end with the wave; its length and `frame` are multiples of `hop`."""
    # A frame is frame/hop consecutive blocks of hop samples: slices of one reshape, no gather.
    blocks = wave.reshape(*wave.shape[:-1], -1, hop)
    count = blocks.shape[-2] - frame // hop + 1
    return jnp.concatenate([blocks[..., k : k + count, :] for k in range(frame // hop)], axis=-1)


def overlap_add(framed: Float[Array, "*b n frame"], hop: int) -> Float[Array, "*b t"]:
    """Sum of frames that start `hop` samples apart: pad and add blocks of hop samples."""
    *batch, count, frame = framed.shape
    overlap = frame // hop
    blocks = framed.reshape(*batch, count, overlap, hop)
    lead = [(0, 0)] * len(batch)
    total = sum(jnp.pad(blocks[..., k, :], [*lead, (k, overlap - 1 - k), (0, 0)]) for k in range(overlap))
    return jnp.reshape(total, (*batch, -1))


def window_energy(window: np.ndarray, hop: int, count: int) -> Float[Array, " t"]:
    """Sum of the squared windows of `count` frames; its long middle is broadcast, not a constant."""
    overlap = len(window) // hop
    squares = (window.astype(np.float64) ** 2).reshape(overlap, hop)
    few = min(count, overlap)
    blocks = np.zeros((few + overlap - 1, hop))
    for k in range(few):
        blocks[k : k + overlap] += squares
    blocks = jnp.asarray(blocks, jnp.float32)
    if count > overlap:
        middle = jnp.broadcast_to(blocks[overlap - 1], (count - overlap + 1, hop))
        blocks = jnp.concatenate([blocks[: overlap - 1], middle, blocks[overlap:]])
    return jnp.reshape(blocks, -1)


def checked_window(window: str, frame: int, hop: int) -> Float[np.ndarray, " frame"]:
    """The window, float32.

    Raises:
        JaxsepError: an unknown window, or a frame and a hop that it cannot be inverted with.
    """
    if window not in WINDOWS:
        raise JaxsepError(f"front.window={window!r} is unknown, expected one of {', '.join(WINDOWS)}")
    if frame < 2 or frame % 2 or hop < 1 or frame % hop:
        raise JaxsepError(f"front: frame={frame} must be even and a multiple of hop={hop}")
    taps = WINDOWS[window](np.arange(frame) / frame)
    if (taps**2).reshape(-1, hop).sum(axis=0).min() < WEAK:
        raise JaxsepError(f"front: hop={hop} is too long to invert a {window} window of {frame}; use {frame // 4}")
    return taps.astype(np.float32)
