"""The residual branches of Demucs v3 and v4: dilated convolutions, with an LSTM and local attention in deep layers.

A. Defossez, "Hybrid Spectrogram and Waveform Source Separation", MDX workshop 2021 (arXiv 2111.03600), section 3, as
the authors' package builds them (github.com/facebookresearch/demucs, demucs/demucs.py: DConv, LocalState, BLSTM).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.layers.conv1d import torch_uniform
from jaxsep.layers.recurrent import BLSTM

EPS = 1e-5  # of all norms, as in PyTorch


def conv_parameters(
    module: nn.Module, shape: tuple[int, ...], fan_in: int, rescale: float, gain: float = 1.0, bias: float | None = None
) -> tuple[Array, Array]:
    """Kernel and bias of a convolution with Demucs' initial scale.

    From PyTorch's initial values, both are divided by sqrt(std(kernel) / rescale). The deviation is that of the uniform
    distribution; Demucs takes it of the values drawn.

    Args:
        module: gets the parameters "kernel" and "bias".
        shape: of the kernel, outputs last.
        fan_in: of PyTorch's uniform values.
        rescale: the paper's reference a; 0 = leave the values as they are.
        gain: factor of the kernel before that.
        bias: its value before that; None = PyTorch's uniform ones.
    """
    scale = math.sqrt(rescale * math.sqrt(3 * fan_in) / gain) if rescale else 1.0
    kernel = module.param("kernel", uniform(gain * scale * fan_in**-0.5), shape)
    init = uniform(scale * fan_in**-0.5) if bias is None else nn.initializers.constant(scale * bias)
    return kernel, module.param("bias", init, shape[-1:])


def uniform(limit: float) -> Callable:
    """Initial values between -limit and limit."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -limit, limit)


class TimeConv(nn.Module):
    """Convolution along the next to last axis that keeps its length; parameters kernel (kernel, in, out) and bias.

    Attributes:
        features: output channels.
        kernel: taps, odd.
        dilation: steps between taps.
        rescale, gain, initial_bias: see `conv_parameters`.
        dtype: compute precision.
    """

    features: int
    kernel: int = 1
    dilation: int = 1
    rescale: float = 0.0
    gain: float = 1.0
    initial_bias: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b n d"]) -> Float[Array, "*b n e"]:
        """[... n d] -> [... n features]."""
        width = x.shape[-1]
        shape = (self.kernel, width, self.features)
        kernel, bias = conv_parameters(self, shape, self.kernel * width, self.rescale, self.gain, self.initial_bias)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        # Few outputs per tap in these branches: all products at once, then shifted sums, read the input once.
        products = x @ jnp.concatenate(list(kernel), axis=-1)
        taps = [_shift(tap, (i - self.kernel // 2) * self.dilation) for i, tap in enumerate(self._split(products))]
        return sum(taps[1:], start=taps[0]) + bias

    def _split(self, products: Array) -> list[Array]:
        return jnp.split(products, self.kernel, axis=-1)


def _shift(x: Float[Array, "*b n d"], steps: int) -> Float[Array, "*b n d"]:
    """y[n] = x[n + steps], zeros beyond the ends."""
    length = x.shape[-2]
    if not steps:
        return x
    if abs(steps) >= length:
        return jnp.zeros_like(x)
    before, after = max(0, -steps), max(0, steps)
    return jnp.pad(x[..., after : length - before, :], [(0, 0)] * (x.ndim - 2) + [(before, after), (0, 0)])


class GroupNorm(nn.Module):
    """Zero mean and unit variance over groups of channels and all axes between batch and channels; then affine.

    Attributes:
        groups: of channels.
    """

    groups: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b *m d"]) -> Float[Array, "b *m d"]:
        """The same shape and precision; statistics are float32."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:], jnp.float32)
        y = x.astype(jnp.float32).reshape(len(x), -1, self.groups, x.shape[-1] // self.groups)
        y = y - y.mean(axis=3, keepdims=True).mean(axis=1, keepdims=True)
        variance = jnp.square(y).mean(axis=3, keepdims=True).mean(axis=1, keepdims=True)
        y = (y * jax.lax.rsqrt(variance + EPS)).reshape(x.shape)
        return (y * scale + bias).astype(x.dtype)


class LocalAttention(nn.Module):
    """Attention whose weight decays with distance at a rate that the query chooses; added to the input.

    softmax_t(q_s k_t / sqrt(c) - |s - t| sum_f f sigmoid(r_sf) / (2 sqrt(F))), t != s, over F = `decays` rates r per
    head; no step attends to itself. At first the rates are near zero: of a kernel of a hundredth of the usual size and
    biases of -2, before `rescale`.

    Attributes:
        heads, decays: 4 and 4 in Demucs.
        rescale: see `conv_parameters`.
        dtype: compute precision; scores and softmax are float32.
    """

    heads: int = 4
    decays: int = 4
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "r n d"]) -> Float[Array, "r n d"]:
        """[r n d], each row by itself."""
        rows, steps, width = x.shape

        def conv(features: int, name: str, gain: float = 1.0, bias: float | None = None) -> TimeConv:
            return TimeConv(features, 1, 1, self.rescale, gain, bias, self.dtype, name=name)

        query, key, content = (
            conv(width, name)(x).reshape(rows, steps, self.heads, -1) for name in ("query", "key", "content")
        )
        rates = conv(self.heads * self.decays, "decay", 0.01, -2.0)(x).astype(jnp.float32)
        order = jnp.arange(1, self.decays + 1) / (2 * math.sqrt(self.decays))
        rate = jax.nn.sigmoid(rates).reshape(rows, steps, self.heads, self.decays) @ order
        distance = jnp.abs(jnp.arange(steps)[:, None] - jnp.arange(steps))
        dots = jnp.einsum("rshc,rthc->rhst", query, key, preferred_element_type=jnp.float32)
        dots = dots / math.sqrt(width // self.heads) - distance * jnp.moveaxis(rate, 2, 1)[..., None]
        weights = jax.nn.softmax(jnp.where(distance == 0, -100.0, dots), axis=-1).astype(content.dtype)
        heard = jnp.einsum("rhst,rthc->rshc", weights, content).reshape(x.shape)
        return x + conv(width, "out")(heard)


class ChunkedBLSTM(nn.Module):
    """BLSTM of two layers and a dense layer, added to the input; long inputs in chunks that overlap by half.

    Of a chunk the middle half is kept, of the first and last one the outer quarter, too.

    Attributes:
        steps: of a chunk, a multiple of 4.
        dtype: compute precision.
    """

    steps: int = 200
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "r n d"]) -> Float[Array, "r n d"]:
        """[r n d], each row by itself."""
        rows, length, width = x.shape
        half, quarter = self.steps // 2, self.steps // 4
        y = x
        if length > self.steps:
            count = -(-length // half)
            y = jnp.pad(x, [(0, 0), (0, (count + 1) * half - length), (0, 0)])
            y = y.reshape(rows, count + 1, half, width)
            y = jnp.concatenate([y[:, :-1], y[:, 1:]], axis=2).reshape(rows * count, self.steps, width)
        y = BLSTM(width, 2, dtype=self.dtype, name="lstm")(y, False)
        init = torch_uniform(2 * width)
        y = nn.Dense(width, kernel_init=init, bias_init=init, dtype=self.dtype, name="linear")(y)
        if length > self.steps:
            y = y.reshape(rows, -1, self.steps, width)
            middle = y[:, :, quarter:-quarter].reshape(rows, -1, width)
            y = jnp.concatenate([y[:, 0, :quarter], middle, y[:, -1, -quarter:]], axis=1)[:, :length]
        return x + y


@dataclass(frozen=True)
class Residual:
    """What a residual branch is made of; see `DConv`."""

    depth: int = 2
    compress: int = 4
    init: float = 1e-3
    lstm: bool = False
    attention: bool = False


class DConv(nn.Module):
    """Residual branches one after the other: x + scale * branch(x), the dilation doubled each time.

    A branch: conv of three taps to a fraction of the width, norm, GELU; BLSTM and local attention, if any; conv to
    twice the width, norm, GLU. The scale of each channel is learned (LayerScale, Touvron et al. 2021).

    Attributes:
        spec: number of branches, width / hidden width, first value of the scales, and what else they have.
        rescale: see `conv_parameters`.
        dtype: compute precision; statistics and scales are float32.
    """

    spec: Residual
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "r n d"]) -> Float[Array, "r n d"]:
        """[r n d], each row by itself."""
        spec, width = self.spec, x.shape[-1]
        for i in range(spec.depth):

            def conv(features: int, name: str, *taps: int, number: int = i) -> TimeConv:
                return TimeConv(features, *taps, rescale=self.rescale, dtype=self.dtype, name=f"{name}{number}")

            y = conv(width // spec.compress, "conv", 3, 2**i)(x)
            y = gelu(GroupNorm(name=f"norm{i}")(y))
            if spec.lstm:
                y = ChunkedBLSTM(dtype=self.dtype, name=f"blstm{i}")(y)
            if spec.attention:
                y = LocalAttention(rescale=self.rescale, dtype=self.dtype, name=f"attention{i}")(y)
            y = nn.glu(GroupNorm(name=f"expand_norm{i}")(conv(2 * width, "expand")(y)))
            scale = self.param(f"scale{i}", nn.initializers.constant(spec.init), (width,), jnp.float32)
            x = x + (scale * y).astype(x.dtype)
        return x


def gelu(x: Array) -> Array:
    """The exact GELU, as PyTorch's default."""
    return jax.nn.gelu(x, approximate=False)
