"""What the hybrid Demucs nets (v3, v4) share: layers of a branch over frequency or time, and their own transform.

A. Defossez, "Hybrid Spectrogram and Waveform Source Separation", MDX workshop 2021 (arXiv 2111.03600), as the authors'
package builds it (github.com/facebookresearch/demucs, demucs/hdemucs.py: HEncLayer, HDecLayer, HDemucs._spec).

A layer convolves along axis 1: the bins of [b f n d] or the samples of [b t d]. Kernels are twice the stride, so both
directions are products with blocks of a stride's length: fast on all backends, and in their gradients.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.frontends import Stft
from jaxsep.layers.conv import conv2d
from jaxsep.layers.conv1d import conv1d
from jaxsep.layers.dconv import EPS, DConv, GroupNorm, Residual, TimeConv, conv_parameters, gelu


class Down(nn.Module):
    """Strided convolution along axis 1, kernel 2 x stride, padded by half a stride of zeros at both ends.

    Attributes:
        features: output channels.
        stride: a divisor of the length; 0 = one kernel over the whole axis, which disappears.
        rescale: see `conv_parameters`.
        dtype: compute precision.
    """

    features: int
    stride: int
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b l *m d"]) -> Float[Array, "b *k e"]:
        """[b l ... d] -> [b l/stride ... features], or [b n features] of [b f n d]."""
        taps, width = 2 * self.stride or x.shape[1], x.shape[-1]
        kernel, bias = conv_parameters(self, (taps, width, self.features), taps * width, self.rescale)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if not self.stride:
            return jnp.einsum("bfnd,fde->bne", x, kernel) + bias
        half = self.stride // 2
        x = jnp.pad(x, [(0, 0), (half, half)] + [(0, 0)] * (x.ndim - 2))
        x = x.reshape(len(x), -1, self.stride, *x.shape[2:])
        x = jnp.moveaxis(x, 2, -2)
        x = x.reshape(*x.shape[:-2], self.stride * width)
        first, second = kernel.reshape(2, self.stride * width, self.features)
        return x[:, :-1] @ first + x[:, 1:] @ second + bias


class Up(nn.Module):
    """Transposed convolution along axis 1, kernel 2 x stride, not cropped: [b l ... d] -> [b (l + 1) stride ... e].

    Attributes:
        features: output channels.
        stride: or 0...
        bins: ... for one kernel that makes so many bins [b bins n e] of [b n d].
        rescale: see `conv_parameters`.
        dtype: compute precision.
    """

    features: int
    stride: int
    bins: int = 0
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *m d"]) -> Float[Array, "b l *k e"]:
        """The longer output."""
        taps, width = 2 * self.stride or self.bins, x.shape[-1]
        kernel, bias = conv_parameters(self, (taps, width, self.features), taps * self.features, self.rescale)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if not self.stride:
            return jnp.einsum("bnd,fde->bfne", x, kernel) + bias
        blocks = jnp.moveaxis(kernel.reshape(2, self.stride, width, self.features), 1, 2).reshape(2, width, -1)
        rest = [(0, 0)] * (x.ndim - 2)
        y = jnp.pad(x @ blocks[0], [(0, 0), (0, 1), *rest]) + jnp.pad(x @ blocks[1], [(0, 0), (1, 0), *rest])
        y = jnp.moveaxis(y.reshape(*y.shape[:-1], self.stride, self.features), -2, 2)
        return y.reshape(len(y), -1, *y.shape[3:]) + bias


class Encoder(nn.Module):
    """Down, norm, GELU, residual branches along time, 1x1 conv to twice the width, norm, GLU.

    Attributes:
        features: output channels.
        stride: as in `Down`.
        groups: of the norms; 0 = there are none.
        residual: the branches, if any.
        rescale: see `conv_parameters`.
        dtype: compute precision; statistics are float32.
    """

    features: int
    stride: int
    groups: int = 0
    residual: Residual | None = None
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *m d"], inject: Float[Array, "b n e"] | None = None) -> Array:
        """Shapes as in `Down`; `inject`, from the other branch, is added before the first norm."""
        kw = {"rescale": self.rescale, "dtype": self.dtype}
        y = Down(self.features, self.stride, **kw, name="conv")(x)
        y = y if inject is None else y + inject
        y = gelu(GroupNorm(self.groups, name="norm1")(y) if self.groups else y)
        if self.residual:
            y = along_time(DConv(self.residual, **kw, name="dconv"), y)
        y = TimeConv(2 * self.features, **kw, name="rewrite")(y)
        return nn.glu(GroupNorm(self.groups, name="norm2")(y) if self.groups else y)


class Decoder(nn.Module):
    """Skip added, conv of three taps to twice the width, norm, GLU, residual branches; up, norm, crop, GELU.

    The first conv has 3 x 3 taps over bins and frames in the frequency branch, also where one "bin" is left and
    only the middle ones meet anything but zeros.

    Attributes:
        features: output channels.
        stride, bins: as in `Up`.
        frequency: whether the branch is that of frequency.
        groups: of the norms; 0 = there are none.
        residual: the branches, if any.
        last: no GELU at the end.
        rescale: see `conv_parameters`.
        dtype: compute precision; statistics are float32.
    """

    features: int
    stride: int
    bins: int = 0
    frequency: bool = False
    groups: int = 0
    residual: Residual | None = None
    last: bool = False
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *m d"], skip: Array | None, length: int = 0) -> tuple[Array, Array]:
        """(output, what enters `up`).

        Args:
            x: input.
            skip: from the encoder; None = there is nothing before `up`.
            length: along time, of the output; 0 = it is cropped by half a stride at both ends.
        """
        kw = {"rescale": self.rescale, "dtype": self.dtype}
        if skip is not None:
            x = Rewrite(self.frequency, **kw, name="rewrite")(x + skip)
            x = nn.glu(GroupNorm(self.groups, name="norm1")(x) if self.groups else x)
            if self.residual:
                x = along_time(DConv(self.residual, **kw, name="dconv"), x)
        y = Up(self.features, self.stride, self.bins, **kw, name="up")(x)
        y = GroupNorm(self.groups, name="norm2")(y) if self.groups else y
        if self.stride:
            half = self.stride // 2
            y = y[:, half : half + (length or y.shape[1] - self.stride)]
        return y if self.last else gelu(y), x


class Rewrite(nn.Module):
    """Conv of three taps, "same" padding, to twice the width: over bins and frames, or over time.

    Attributes:
        frequency: 3 x 3 taps.
        rescale: see `conv_parameters`.
        dtype: compute precision.
    """

    frequency: bool
    rescale: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b *m d"]) -> Float[Array, "b *m e"]:
        """[b f n d] -> [b f n 2d], or [b n d] -> [b n 2d]."""
        width = x.shape[-1]
        taps = (3, 3) if self.frequency else (3,)
        kernel, bias = conv_parameters(self, (*taps, width, 2 * width), 3 ** len(taps) * width, self.rescale)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        if x.ndim == 4:
            return conv2d(x, kernel) + bias
        return conv1d(x, kernel[1] if self.frequency else kernel, padding=(1, 1)) + bias


class FrequencyEmbedding(nn.Module):
    """Adds to each bin `weight` times a learned vector, stored at a tenth of its size to be learned faster.

    Attributes:
        weight: of the embedding.
        scale: stored values are the vectors divided by this; the first ones are a random walk over the bins.
    """

    weight: float
    scale: float = 10.0

    @nn.compact
    def __call__(self, x: Float[Array, "b f n d"]) -> Float[Array, "b f n d"]:
        """The same shape."""

        def init(key: Array, shape: tuple[int, int]) -> Array:
            walk = jnp.cumsum(jax.random.normal(key, shape), axis=0)
            return walk / jnp.sqrt(jnp.arange(1, shape[0] + 1))[:, None] / self.scale

        table = self.param("table", init, (x.shape[1], x.shape[-1]))
        return x + (self.weight * self.scale * table[:, None]).astype(x.dtype)


def to_multiple(x: Float[Array, "b n d"], stride: int) -> Float[Array, "b m d"]:
    """Zeros behind, up to a multiple of the stride."""
    return jnp.pad(x, [(0, 0), (0, -x.shape[1] % stride), (0, 0)])


def along_time(branch: DConv, x: Array) -> Array:
    """The branch on [b n d], or on each bin of [b f n d]."""
    return branch(x.reshape(-1, *x.shape[-2:])).reshape(x.shape)


def spectrum(wave: Float[Array, "b t c"], frame: int, mirrored: bool = True) -> Float[Array, "b f n d"]:
    """STFT as channels, real and imaginary part of each audio channel: ceil(t / hop) frames, frame / 2 bins.

    The hop is a quarter of the frame, the Hann window is periodic, the transform orthonormal, the bin of half the
    sample rate is dropped. 3/2 hops of the wave, mirrored or zeros, stand before its first sample.
    """
    hop, length = frame // 4, wave.shape[1]
    pad, count = hop // 2 * 3, -(-length // hop)
    padded = _pad(wave, pad, pad + count * hop - length, mirrored)
    front = Stft(frame, hop, padding="reflect", bins=frame // 2, normalised=True, parent=None)
    z = front.crop(front.encode(padded)[:, 2 : 2 + count])
    parts = jnp.stack([z.real, z.imag], axis=-1)
    return jnp.swapaxes(parts.reshape(*parts.shape[:3], -1), 1, 2)


def waves(features: Float[Array, "b f n d"], sources: int, frame: int, length: int, lag: int) -> Array:
    """The inverse of `spectrum` for the spectra of all sources: [b s t c].

    Args:
        features: channels in the order source, audio channel, part.
        sources: s.
        frame: of the STFT.
        length: t.
        lag: samples that the first of the waves lies after the start of the padded one; 3/2 hops undo `spectrum`.
    """
    hop = frame // 4
    batch, bins, count, _ = features.shape
    parts = features.astype(jnp.float32).reshape(batch, bins, count, sources, -1, 2)
    z = jnp.moveaxis(jax.lax.complex(parts[..., 0], parts[..., 1]), 3, 1)
    z = jnp.pad(jnp.swapaxes(z, 2, 3), [(0, 0), (0, 0), (2, 2), (0, 0), (0, 0)])
    front = Stft(frame, hop, padding="reflect", bins=bins, normalised=True, parent=None)
    padded = front.decode(z, (count + 3) * hop)
    return padded[:, :, lag : lag + length]


def _pad(wave: Float[Array, "b t c"], before: int, after: int, mirrored: bool) -> Float[Array, "b u c"]:
    """Mirrored by so many samples; where the wave is too short for that, zeros are put to it first, behind it if
    there is room."""
    length = wave.shape[1]
    if not mirrored:
        return jnp.pad(wave, [(0, 0), (before, after), (0, 0)])
    if (missing := max(before, after) - length + 1) > 0:
        behind = min(after, missing)
        front = missing - behind
        wave = jnp.pad(wave, [(0, 0), (front, behind), (0, 0)])
        before, after = before - front, after - behind
    return jnp.pad(wave, [(0, 0), (before, after), (0, 0)], mode="reflect")


def standardise(x: Float[Array, "b *m d"]) -> tuple[Array, Array, Array]:
    """(x - mean) / (std + 1e-5), mean and std of each example, all axes kept; silence has a gradient, too."""
    axes = tuple(range(2, x.ndim))

    def mean_of(values: Array) -> Array:
        return values.mean(axis=axes, keepdims=True).mean(axis=1, keepdims=True)

    mean = mean_of(x)
    count = x[0].size
    variance = mean_of(jnp.square(x - mean)) * (count / max(count - 1, 1))
    std = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)
    return (x - mean) / (std + EPS), mean, std
