"""What front ends on short-time spectra share: windows, frames that overlap, and their sum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxsep.errors import JaxsepError

# Windows over a phase in [0, 1), computed by numpy or jax.numpy. Sampled at i / frame they are periodic (scipy's
# fftbins=True). The Gaussian is six of its deviations long (Zhao et al. 2021).
WINDOWS = {
    "hann": lambda phase, xp: xp.sin(xp.pi * phase) ** 2,
    "sqrt_hann": lambda phase, xp: xp.sin(xp.pi * phase),
    "hamming": lambda phase, xp: 0.54 - 0.46 * xp.cos(2 * xp.pi * phase),
    "gaussian": lambda phase, xp: xp.exp(-18 * (phase - 0.5) ** 2),
}

PADDINGS = ("left", "reflect", "zeros")

WEAK = 1e-3  # sum of squared windows that a sample can still be recovered from


def framed(wave: Float[Array, "*b t"], frame: int, hop: int) -> Float[Array, "*b n frame"]:
    """Frames that start `hop` samples apart and end with the wave; its length and `frame` are multiples of `hop`."""
    return jnp.asarray(_framed(wave, frame, hop))


def overlap_add(frames: Float[Array, "*b n frame"], hop: int) -> Float[Array, "*b t"]:
    """Sum of frames that start `hop` samples apart."""
    return jnp.asarray(_overlap_add(frames, hop))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _framed(wave: Array, frame: int, hop: int) -> Array:
    # A frame is frame/hop consecutive blocks of hop samples: slices of one reshape, no gather.
    blocks = wave.reshape(*wave.shape[:-1], -1, hop)
    count = blocks.shape[-2] - frame // hop + 1
    return jnp.concatenate([blocks[..., k : k + count, :] for k in range(frame // hop)], axis=-1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _overlap_add(frames: Array, hop: int) -> Array:
    # Blocks of hop samples, padded and added.
    *batch, count, frame = frames.shape
    overlap = frame // hop
    blocks = frames.reshape(*batch, count, overlap, hop)
    lead = [(0, 0)] * len(batch)
    total = sum(jnp.pad(blocks[..., k, :], [*lead, (k, overlap - 1 - k), (0, 0)]) for k in range(overlap))
    return jnp.reshape(total, (*batch, -1))


# Each is the other's transpose. Found by JAX it would make as many copies of the frames as there are overlapping ones.
_framed.defvjp(
    lambda wave, frame, hop: (framed(wave, frame, hop), None),
    lambda frame, hop, _, gradient: (overlap_add(gradient, hop),),
)
_overlap_add.defvjp(
    lambda frames, hop: (overlap_add(frames, hop), frames.shape[-1]),
    lambda hop, frame, gradient: (framed(gradient, frame, hop),),
)


def window_energy(window: Float[Array | np.ndarray, " frame"], hop: int, count: int) -> Float[Array, " t"]:
    """Sum of the squared windows of `count` frames; its long middle, where all overlap, is broadcast."""
    overlap = len(window) // hop
    few = min(count, overlap)
    ends = overlap_add(jnp.broadcast_to(jnp.asarray(window) ** 2, (few, len(window))), hop)
    if count <= overlap:
        return ends
    blocks = ends.reshape(-1, hop)
    middle = jnp.broadcast_to(blocks[overlap - 1], (count - overlap + 1, hop))
    return jnp.reshape(jnp.concatenate([blocks[: overlap - 1], middle, blocks[overlap:]]), -1)


def padded(wave: Float[Array, "*b t"], lead: int, length: int, mirrored: bool) -> Float[Array, "*b length"]:
    """The wave behind `lead` samples, in `length` of them all together: mirrored by `lead` at both ends, else zeros."""
    if mirrored:
        wave = _reflect(wave, lead)[..., :length]
        lead = 0
    return jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(lead, length - lead - wave.shape[-1])])


def _reflect(wave: Float[Array, "*b t"], pad: int) -> Float[Array, "*b u"]:
    """The wave mirrored by `pad` samples at both ends, back and forth where it is shorter than that."""
    length = wave.shape[-1]
    if length > pad:
        return jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(pad, pad)], mode="reflect")
    return wave[..., np.pad(np.arange(length), pad, mode="reflect")]


def window_taps(window: str, frame: int) -> Float[np.ndarray, " frame"]:
    """The window, float64."""
    return WINDOWS[window](np.arange(frame) / frame, np)


def checked_window(window: str, frame: int, hop: int) -> Float[np.ndarray, " frame"]:
    """The window, float32.

    Raises:
        JaxsepError: an unknown window, or a frame and a hop that it cannot be inverted with.
    """
    if window not in WINDOWS:
        raise JaxsepError(f"front.window={window!r} is unknown, expected one of {', '.join(WINDOWS)}")
    check_frames(frame, hop)
    taps = window_taps(window, frame)
    if (taps**2).reshape(-1, hop).sum(axis=0).min() < WEAK:
        raise JaxsepError(f"front.hop={hop} is too long to invert a {window} window of {frame}; use {frame // 4}")
    return taps.astype(np.float32)


def check_frames(frame: int, hop: int) -> None:
    """Raises a JaxsepError that names what fits where a frame and a hop do not."""
    if frame < 2 or frame % 2:
        raise JaxsepError(f"front.frame={frame}: expected an even number of samples")
    if hop < 1 or frame % hop:
        divisors = [d for d in range(1, frame // 2 + 1) if frame % d == 0]
        near = [d for d in divisors if d < hop][-1:] + [d for d in divisors if d > hop][:1]
        raise JaxsepError(f"front.hop={hop} does not divide front.frame={frame}; use {' or '.join(map(str, near))}")
