"""Augmentations as TensorFlow ops on the stems of one example.

Each op is a pure function of the stems and of what the plan drew for them, so it is deterministic in (seed,
sample number, stem). The mixture is summed after all of them.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Bool, Float, Num

from jaxsep.errors import JaxsepError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it announces itself on stderr, and nothing here needs it
# Batches come from a pool: the page faults of fresh memory cost more than all the arithmetic.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
import tensorflow as tf

# The accelerators are JAX's: TensorFlow would take their whole memory.
for _kind in ("GPU", "TPU"):
    if tf.config.get_visible_devices(_kind):
        tf.config.set_visible_devices([], _kind)


def to_float(stems: Num[tf.Tensor, "*k t c"]) -> Float[tf.Tensor, "*k t c"]:
    """Waves as float32: 16-bit samples divided by 32,768, float32 as it is."""
    return stems if stems.dtype == tf.float32 else tf.cast(stems, tf.float32) * (1 / 32768)


def level(
    stems: Num[tf.Tensor, "k t c"], gain: Float[tf.Tensor, " k"], offset: Float[tf.Tensor, " k"] | None = None
) -> Float[tf.Tensor, "k t c"]:
    """Waves times a signed factor per stem, plus an offset; the conversion from 16 bits is part of the factor."""
    unit = 1.0 if stems.dtype == tf.float32 else 1 / 32768
    scaled = tf.cast(stems, tf.float32) * (gain * unit)[:, None, None]
    return scaled if offset is None else scaled + offset[:, None, None]


def swap(stems: Num[tf.Tensor, "k t c"], flags: Bool[tf.Tensor, " k"]) -> Num[tf.Tensor, "k t c"]:
    """Exchanges left and right of the flagged stems, at no cost for the others."""
    return tf.stack(
        [
            tf.cond(flag, lambda stem=stem: tf.reverse(stem, [-1]), lambda stem=stem: stem)
            for stem, flag in zip(tf.unstack(stems), tf.unstack(flags), strict=True)
        ]
    )


def inverse_gaussian(
    wave: Float[tf.Tensor, "t c"], band: Float[tf.Tensor, "2"], rate: int, margin: int
) -> Float[tf.Tensor, "n c"]:
    """A wave whose spectrum at f Hz is multiplied by 1 - exp(-(f - middle)^2 / 2 width^2), without a shift in time.

    Args:
        wave: with samples around it that the filter's response reaches into: at either end at least `margin`.
        band: middle and width, in Hz.
        rate: of the samples, in Hz.
        margin: samples that are cut off at either end.
    """
    samples: Any = wave.shape[0]
    middle, width = tf.unstack(band)
    frequency = tf.range(samples // 2 + 1, dtype=tf.float32) * (rate / samples)
    response = 1 - tf.exp(-0.5 * tf.square((frequency - middle) / width))
    spectrum = tf.signal.rfft(tf.transpose(wave)) * tf.cast(response, tf.complex64)
    return tf.transpose(tf.signal.irfft(spectrum, [samples])[:, margin : samples - margin])


def mono(stems: Float[tf.Tensor, "*k t c"]) -> Float[tf.Tensor, "*k t 1"]:
    """The mean of the channels."""
    return tf.reduce_mean(stems, axis=-1, keepdims=True)


def sums(
    stems: Float[tf.Tensor, "k t c"], sources: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Float[tf.Tensor, "s t c"]:
    """Each source as the sum of its stems, which `names` lists in their order."""
    members = [[names.index(stem) for stem in source] for source in sources.values()]
    if members == [[index] for index in range(len(names))]:
        return stems
    return tf.stack([tf.add_n([stems[index] for index in source]) for source in members])


Hook = Callable[..., Any]


def load_hook(spec: str) -> Hook:
    """The function that `package.module:function` names.

    Raises:
        JaxsepError: there is none.
    """
    module, _, name = spec.partition(":")
    try:
        hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise JaxsepError(f"data.augment.hook={spec!r}: {error}; expected package.module:function") from None
    if not callable(hook):
        raise JaxsepError(f"data.augment.hook={spec!r} is not a function")
    return hook


def hooked(
    hook: Hook, stems: Float[tf.Tensor, "k t c"], key: Num[tf.Tensor, "2"], names: Sequence[str], rate: int
) -> Float[tf.Tensor, "k t c"]:
    """What the hook makes of the stems.

    Raises:
        JaxsepError: the hook fails, or returns another shape or type.
    """
    what = f"data.augment.hook={hook.__module__}:{getattr(hook, '__qualname__', hook)}"
    try:
        made = hook(stems, seed=key, names=tuple(names), rate=rate)
    except Exception as error:
        raise JaxsepError(f"{what}: {type(error).__name__}: {error}") from error
    if not isinstance(made, tf.Tensor) or made.dtype != tf.float32 or not made.shape.is_compatible_with(stems.shape):
        raise JaxsepError(f"{what} returned {made}, expected a float32 tensor of shape {tuple(stems.shape)}")
    return tf.ensure_shape(made, stems.shape)
