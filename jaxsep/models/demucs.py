"""Demucs, versions 1 and 2: a U-net of strided convolutions with an LSTM in the middle, from wave to waves.

A. Defossez, N. Usunier, L. Bottou, F. Bach, "Music source separation in the waveform domain", arXiv 1911.13254: its
first version (2019) and its revision of April 2021, as github.com/facebookresearch/demucs builds them (demucs/model.py
of the branches v1, commit 110f8fe, and v2, 64ed2cb).
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv1d import conv1d, conv_transpose1d, middle, torch_uniform
from jaxsep.layers.recurrent import BLSTM
from jaxsep.layers.resample import resample_frac


class Demucs(nn.Module):
    """Mixture to sources, samples to samples, without mask or norm.

    With L levels of c_i = channels * growth^(i-1) channels, K = kernel, S = stride:

    | step | channels |
    |---|---|
    | version 2: twice as many samples (`layers.resample`) | 2 |
    | encoder i = 1..L: conv K/S, ReLU; conv 1, GLU: e_i | c_i |
    | two bidirectional LSTMs of c_L units, dense | c_L |
    | decoder i = L..1: plus e_i, its middle; conv `context`, GLU; transposed conv K/S; ReLU but for i = 1 | c_(i-1) |
    | version 2: half as many samples | sources * 2 |

    No convolution is padded: what comes out is shorter than what goes in and belongs to its middle (`lengths`).

    Published with single LSTM biases: version 1, 100 channels, 648,497,008 parameters; version 2, 64 channels,
    265,646,728. PyTorch's LSTMs have a second bias, 4 * units more per direction and layer, and start as the sum of two
    uniform values.

    Attributes:
        sources: number of sources.
        channels: c_1; 64 (version 2), 100 (version 1).
        depth: L.
        kernel, stride: K and S.
        growth: from one level to the next.
        context: kernel of the decoder's first convolution.
        rewrite: whether there are the encoder's conv 1 *and* the decoder's conv `context`, with their GLUs.
        glu: GLUs; otherwise ReLUs behind convolutions of half as many channels.
        lstm_layers: 0 = neither LSTM nor dense layer.
        resample: whether the levels work at twice the rate (version 2).
        rescale: a; initial kernels of deviation d, and their biases, are divided by sqrt(d / a); 0 = they are not.
        normalize: whether each mixture's mono mix is brought to zero mean and unit deviation, which is undone on the
            sources.
        epsilon: added to the deviation, which is 1 without `normalize`. Version 2 has 1e-5, version 1 nothing.
        upsample: version 1's alternative to transposed convolutions, in the manner of Wave-U-Net: decimation and linear
            interpolation between convolutions of stride 1, and a last conv 1 that sees the mixture.
        dtype: compute precision; parameters stay float32, and so does the resampling.
    """

    sources: int = 4
    channels: int = 64
    depth: int = 6
    kernel: int = 8
    stride: int = 4
    growth: float = 2.0
    context: int = 3
    rewrite: bool = True
    glu: bool = True
    lstm_layers: int = 2
    resample: bool = True
    rescale: float = 0.1
    normalize: bool = False
    epsilon: float = 1e-5
    upsample: bool = False
    dtype: DTypeLike = jnp.float32

    takes: ClassVar[tuple[str, ...]] = ("wave",)

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) samples: the authors' `valid_length`, where every convolution is filled, and what comes out.

        441,000 gives (447,146, 441,686), in version 1 (451,924, 441,004).
        """
        fed = length * (1 + self.resample)
        for _ in range(self.depth):
            fed = -(-fed // self.stride) + self.kernel - 1 if self.upsample else self._strided(fed)
            fed = max(1, fed) + self.context - 1
        for _ in range(self.depth):
            fed = fed * self.stride + self.kernel - 1 if self.upsample else (fed - 1) * self.stride + self.kernel
        return fed // (1 + self.resample), self._yielded(fed) // (1 + self.resample)

    def _strided(self, length: int) -> int:
        """Outputs of a strided convolution of which the last one may be filled in part."""
        return -(-(length - self.kernel) // self.stride) + 1

    def _yielded(self, fed: int) -> int:
        """Samples that the levels give for `fed` ones."""
        length = fed
        for _ in range(self.depth):
            length = -(-(length - self.kernel + 1) // self.stride) if self.upsample else self._strided(length)
        for _ in range(self.depth):
            length = (length - 1) * self.stride if self.upsample else length
            length = length - self.context + 1 if self.rewrite else length
            length = length - self.kernel + 1 if self.upsample else (length - 1) * self.stride + self.kernel
        return length

    @nn.compact
    def __call__(
        self, mix: Float[Array, "b t c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b s u c"]:
        """Sources of the middle of the mixture; `targets` is not used: all sources come at once.

        Raises:
            JaxsepError: `upsample` together with what version 1 does not have.
        """
        if self.upsample and (self.resample or self.normalize):
            raise JaxsepError("demucs: model.upsample is of version 1; set model.resample and model.normalize to False")
        batch, _, audio = mix.shape
        mean, deviation = _statistics(mix) if self.normalize else (0.0, 1.0)
        x = (mix - mean) / (deviation + self.epsilon)
        x = resample_frac(x, 1, 2) if self.resample else x
        widths = [self.channels]
        for _ in range(self.depth - 1):
            widths.append(int(self.growth * widths[-1]))
        skips = []
        for i, width in enumerate(widths):
            skips.append(self._encoder(i, width, x))
            x = skips[i][:, :: self.stride] if self.upsample else skips[i]
        if self.lstm_layers:
            x = BLSTM(widths[-1], self.lstm_layers, dtype=self.dtype, name="lstm")(x, train)
            uniform = torch_uniform(x.shape[-1])
            x = nn.Dense(widths[-1], kernel_init=uniform, bias_init=uniform, dtype=self.dtype, name="dense")(x)
        waves = self.sources * audio
        outputs = [widths[0] if self.upsample else waves, *widths]
        for i in reversed(range(self.depth)):
            x = self._decoder(i, outputs[i], x, skips[i])
        if self.upsample:
            x = jnp.concatenate([x, middle(mix, x.shape[1]).astype(x.dtype)], axis=-1)
            x = self._conv("final", waves, 1)(x)
        x = x.astype(jnp.float32)
        x = resample_frac(x, 2, 1) if self.resample else x
        x = x * deviation + mean
        return jnp.moveaxis(x.reshape(batch, -1, self.sources, audio), 2, 1)

    def _encoder(self, i: int, width: int, x: Array) -> Array:
        """Conv, ReLU, conv 1, GLU."""
        stride = 1 if self.upsample else self.stride
        x = nn.relu(self._conv(f"encoder{i}", width, self.kernel, stride)(x))
        return self._rewritten(f"encoder{i}_rewrite", x, 1)

    def _decoder(self, i: int, outputs: int, x: Array, skip: Array) -> Array:
        """Skip added, conv, GLU, transposed conv, ReLU."""
        x = _interpolated(x, self.stride) if self.upsample else x
        x = self._rewritten(f"decoder{i}_rewrite", x + middle(skip, x.shape[1]), self.context)
        stride = 1 if self.upsample else self.stride
        x = self._conv(f"decoder{i}", outputs, self.kernel, stride, transposed=not self.upsample)(x)
        return nn.relu(x) if i else x

    def _rewritten(self, name: str, x: Array, kernel: int) -> Array:
        """Conv and GLU, channels as before; nothing without `rewrite`."""
        if not self.rewrite:
            return x
        y = self._conv(name, x.shape[-1] * (1 + self.glu), kernel)(x)
        return nn.glu(y) if self.glu else nn.relu(y)

    def _conv(self, name: str, features: int, kernel: int, stride: int = 1, transposed: bool = False) -> "_Conv":
        return _Conv(features, kernel, stride, transposed, self.rescale, self.dtype, name=name)


class _Conv(nn.Module):
    """Conv or transposed conv with PyTorch's initial values, rescaled: as `layers.conv1d`'s but for the start.

    W and b are divided by sqrt(d / a), d the unbiased deviation of W. The new deviation is then sqrt(a d), so that
    the divisor of b can be told from it.
    """

    features: int
    kernel: int
    stride: int
    transposed: bool
    rescale: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, x.shape[-1], self.features)
        uniform = torch_uniform(self.kernel * (self.features if self.transposed else x.shape[-1]))

        def kernel_init(key: Array, shape: tuple[int, ...]) -> Array:
            kernel = uniform(key, shape)
            return kernel / jnp.sqrt(jnp.std(kernel, ddof=1) / self.rescale) if self.rescale else kernel

        def bias_init(key: Array, shape: tuple[int, ...]) -> Array:
            bias = uniform(key, shape)
            return bias / (jnp.std(kernel, ddof=1) / self.rescale) if self.rescale else bias

        kernel = self.param("kernel", kernel_init, shape)
        bias = self.param("bias", bias_init, shape[2:])
        x, weights, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv_transpose1d(x, weights, self.stride) if self.transposed else conv1d(x, weights, self.stride)
        return y + bias


def _statistics(mix: Array) -> tuple[Array, Array]:
    """Mean and unbiased deviation of each mono mix, [b 1 1]; of silence 0, without an infinite gradient."""
    mono = mix.mean(axis=2, keepdims=True)
    variance = jnp.var(mono, axis=1, keepdims=True, ddof=1)
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return mono.mean(axis=1, keepdims=True), deviation


def _interpolated(x: Array, stride: int) -> Array:
    """Lines from sample to sample, [b n c] -> [b (n - 1) stride c]."""
    weight = jnp.arange(stride, dtype=x.dtype)[:, None] / stride
    lines = x[:, :-1, None] * (1 - weight) + x[:, 1:, None] * weight
    return lines.reshape(x.shape[0], -1, x.shape[2])
