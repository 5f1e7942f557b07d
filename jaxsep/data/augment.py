"""Augmentations as TensorFlow ops on the stems of one example.

Each op is a pure function of the stems and of what the plan drew for them, so it is deterministic in (seed,
sample number, stem). The mixture is summed after all of them.
"""

import os
from collections.abc import Mapping, Sequence

from jaxtyping import Bool, Float, Num

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
