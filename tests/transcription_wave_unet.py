"""Wave-U-Net transcribed into float64 numpy: an oracle for the model's tests.

D. Stoller, S. Ewert, S. Dixon, "Wave-U-Net", ISMIR 2018, written from a description of its layers, for plainness:
tensors are [sample, channel], one example, and lists start with the outermost level.
"""

import numpy as np
from numpy import ndarray as Array

Layer = tuple[Array, Array]  # weight [tap, in, out] and bias [out]


def wave_unet(
    mix: Array,
    down: list[Layer],
    bottleneck: Layer,
    up: list[Layer],
    heads: list[Layer],
    interpolation: list[Array] | None = None,
    context: bool = True,
    difference: bool = True,
) -> list[Array]:
    """Estimates as in training, not clipped: one per head, and with `difference` what they leave of the mixture."""
    kept = []
    x = mix
    for layer in down:
        x = leaky(convolve(x, layer, context))
        kept.append(x)
        x = x[np.arange(0, len(x), 2)]
    x = leaky(convolve(x, bottleneck, context))
    for level in reversed(range(len(up))):
        x = widened(x, context) if interpolation is None else learned(x, interpolation[level], context)
        x = leaky(convolve(np.hstack([centre(kept[level], len(x)), x]), up[level], context))
    x = np.hstack([centre(mix, len(x)), x])
    estimates = [np.tanh(convolve(x, head, context)) for head in heads]
    if difference:
        estimates.append(centre(mix, len(x)) - np.sum(estimates, axis=0))
    return estimates


def convolve(x: Array, layer: Layer, context: bool) -> Array:
    """Correlation with the kernel, without padding or with zeros at both sides."""
    weight, bias = layer
    half = len(weight) // 2
    if not context:
        x = np.vstack([np.zeros((half, x.shape[1])), x, np.zeros((half, x.shape[1]))])
    out = np.empty((len(x) - len(weight) + 1, weight.shape[2]))
    for n in range(len(out)):
        out[n] = np.tensordot(x[n : n + len(weight)], weight, 2) + bias
    return out


def leaky(x: Array) -> Array:
    """LeakyReLU with slope 0.2."""
    return np.where(x > 0, x, 0.2 * x)


def widened(x: Array, context: bool) -> Array:
    """Bilinear interpolation: 2n - 1 points from corner to corner, or 2n points of which every second is a sample."""
    count = 2 * len(x) - 1 if context else 2 * len(x)
    places = np.arange(count) / 2  # np.interp holds the last value beyond the end
    return np.stack([np.interp(places, np.arange(len(x)), column) for column in x.T], axis=1)


def learned(x: Array, raw: Array, context: bool) -> Array:
    """s(w) left + (1 - s(w)) right between neighbours; a zero stands behind the last sample."""
    share = 1 / (1 + np.exp(-raw))
    out = np.zeros((2 * len(x), x.shape[1]))
    for n in range(len(x)):
        out[2 * n] = x[n]
        out[2 * n + 1] = share * x[n] + (1 - share) * (x[n + 1] if n + 1 < len(x) else 0)
    return out[:-1] if context else out


def centre(x: Array, length: int) -> Array:
    """The middle; an odd sample too many is one at the end."""
    excess = len(x) - length
    return x[excess // 2 : len(x) - (excess - excess // 2)]
