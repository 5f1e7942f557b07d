"""Conv-TasNet and the LSTM of TasNet: masks on a learned filterbank.

Yi Luo, Nima Mesgarani: "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation", IEEE/ACM
TASLP 2019 (arXiv 1809.07454), and "TasNet: time-domain audio separation network for real-time, single-channel speech
separation", ICASSP 2018 (arXiv 1711.00541). Encoder and decoder are the front end, `filterbanks.LearnedBank`; the head
makes masks of the net's output.
"""

from collections.abc import Callable
from math import prod
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv1d import depthwise, torch_uniform
from jaxsep.layers.norm import SequenceNorm
from jaxsep.layers.recurrent import BLSTM, LSTM

SEPARATORS = ("tcn", "lstm")
INITS = ("torch", "xavier")


class ConvTasNet(nn.Module):
    """The separation network: from the mixture's coefficients to logits of the masks.

    Two architectures go by the name; the fields from `skip` to `initial` are what they differ in. That of the paper's
    second version (asteroid, torchaudio, the authors' laboratory) is the default: the masks are made of the sum of the
    blocks' skips. That of the first version (kaituoxu, and demucs for music) has skip=0, input_norm="cln", bias=False,
    mask_prelu=False and initial="xavier". With skips, no output depends on the residual convolution of the last block:
    asteroid has it, torchaudio and we by default (`last_residual`) do not.

    On spectra, which is not in the papers, real and imaginary parts are the coefficients, and masks are of the bins.

    TasNet's LSTM is that of asteroid: a norm, LSTMs, a dense layer. Of the paper, `shortcuts` are an option; dividing
    each segment by its energy is not (a norm follows anyway).

    Attributes:
        sources: C.
        separator: "tcn", Conv-TasNet's, or "lstm", TasNet's.
        bottleneck: B, channels of the residual stream.
        hidden: H, channels within a block.
        kernel: P, taps of the depthwise convolutions.
        blocks: X, blocks of a repeat; their dilations are 1, 2, 4, ...
        repeats: R.
        skip: Sc, channels of the skips; 0 = the masks are made of the residual stream.
        norm: of the blocks, see `SequenceNorm`.
        input_norm: of the coefficients, before the bottleneck or the LSTM.
        bias: whether the convolutions have biases.
        mask_prelu: a PReLU before the convolution that gives the masks.
        last_residual: keep the last block's residual convolution beside its skip.
        initial: "torch", uniform as PyTorch's layers, or "xavier", Xavier-normal kernels and, because demucs' code
            keeps them as [1 d 1], also the norms' gains and biases: near 0 instead of 1 and 0.
        causal: no output depends on later frames; norms must be "cln" or "cumulative", an LSTM reads forward only.
        units: of the LSTM, per direction.
        layers: of the LSTM.
        dropout: between these layers.
        shortcuts: from the second of these layers on, its input is added to its output.
        dtype: compute precision; parameters and statistics stay float32.
    """

    sources: int = 2
    separator: str = "tcn"
    bottleneck: int = 128
    hidden: int = 512
    kernel: int = 3
    blocks: int = 8
    repeats: int = 3
    skip: int = 128
    norm: str = "gln"
    input_norm: str = "gln"
    bias: bool = True
    mask_prelu: bool = True
    last_residual: bool = False
    initial: str = "torch"
    causal: bool = False
    units: int = 500
    layers: int = 4
    dropout: float = 0.0
    shortcuts: bool = False
    dtype: DTypeLike = jnp.float32

    takes: ClassVar[tuple[str, ...]] = ("coefficients", "spectrum")

    def lengths(self, length: int) -> tuple[int, int]:
        """Any number of frames will do."""
        return length, length

    @nn.compact
    def __call__(
        self, latent: Float[Array, "b n d"] | Complex[Array, "b n f c"], targets: None, train: bool
    ) -> Float[Array, "b s n *d"]:
        """[b n d] -> logits of the masks, [b s n d]; from complex spectra those of real masks, [b s n f c].

        Raises:
            JaxsepError: a field that is unknown, or a causal net with a norm that is not.
        """
        self._check()
        batch, frames, *shape = latent.shape
        parts = [latent.real, latent.imag] if jnp.iscomplexobj(latent) else [latent]
        x = jnp.concatenate([part.reshape(batch, frames, -1) for part in parts], axis=-1)
        x = self._norm(x, self.input_norm, "input_norm")
        y = self._tcn(x) if self.separator == "tcn" else self._lstm(x, train)
        y = self._pointwise(y, self.sources * prod(shape), "masks")
        return jnp.moveaxis(y.reshape(batch, frames, self.sources, *shape), 2, 1)

    def _tcn(self, x: Array) -> Array:
        """The temporal convolutional network: [b n d] -> [b n Sc], or [b n B] without skips."""
        x = self._pointwise(x, self.bottleneck, "bottleneck")
        skips = []
        count = self.blocks * self.repeats
        for i in range(count):
            y = self._block(x, 2 ** (i % self.blocks), f"block{i}")
            if self.skip:
                skips.append(self._pointwise(y, self.skip, f"block{i}_skip"))
            if not self.skip or i < count - 1 or self.last_residual:
                x = x + self._pointwise(y, self.bottleneck, f"block{i}_residual")
        x = sum(skips[1:], start=skips[0]) if skips else x
        return self._prelu(x, "mask_prelu") if self.mask_prelu else x

    def _block(self, x: Array, dilation: int, name: str) -> Array:
        """The depthwise separable convolution up to its last norm: [b n B] -> [b n H]."""
        y = self._prelu(self._pointwise(x, self.hidden, f"{name}_expand"), f"{name}_prelu1")
        y = self._norm(y, self.norm, f"{name}_norm1")
        y = self._prelu(self._depthwise(y, dilation, f"{name}_depthwise"), f"{name}_prelu2")
        return self._norm(y, self.norm, f"{name}_norm2")

    def _lstm(self, x: Array, train: bool) -> Array:
        """TasNet's: [b n d] -> [b n u], both directions of u units unless causal."""
        for i in range(self.layers):
            y = nn.Dropout(self.dropout)(x, deterministic=not train) if i else x
            if self.causal:
                y = LSTM(self.units, dtype=self.dtype, name=f"lstm{i}")(y)
            else:
                y = BLSTM(self.units, dtype=self.dtype, name=f"lstm{i}")(y, train)
            x = x + y if self.shortcuts and i else y
        return x

    def _pointwise(self, x: Array, features: int, name: str) -> Array:
        """Convolution with kernel 1; as a product of two matrices, whose gradient XLA computes without transposing."""
        inputs = x.shape[-1]
        init = self._init(inputs, features)
        dense = nn.Dense(features, self._biased, self.dtype, kernel_init=init, bias_init=init, name=name)
        return dense(x.reshape(-1, inputs)).reshape(*x.shape[:-1], features)

    def _depthwise(self, x: Array, dilation: int, name: str) -> Array:
        span = (self.kernel - 1) * dilation
        padding = (span, 0) if self.causal else (span // 2, span - span // 2)
        channels = x.shape[-1]
        init = self._init(self.kernel, self.kernel * channels)
        kernel = self.param(f"{name}_kernel", init, (self.kernel, channels), jnp.float32)
        bias = self.param(f"{name}_bias", init, (channels,), jnp.float32) if self.bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jnp.asarray(depthwise(x, kernel, dilation, padding))
        return y if bias is None else y + bias

    def _prelu(self, x: Array, name: str) -> Array:
        slope = self.param(name, nn.initializers.constant(0.25), (1,), jnp.float32)
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)

    def _norm(self, x: Array, kind: str, name: str) -> Array:
        init = self._init(x.shape[-1], 1) if self.initial == "xavier" else None
        return SequenceNorm(kind, init, self.dtype, name=name)(x)

    @property
    def _biased(self) -> bool:
        return self.bias or self.separator == "lstm"

    def _init(self, fan_in: int, fan_out: int) -> Callable:
        """Of a kernel, and of its bias."""
        return (
            nn.initializers.normal((2 / (fan_in + fan_out)) ** 0.5)
            if self.initial == "xavier"
            else torch_uniform(fan_in)
        )

    def _check(self) -> None:
        for key, names in (("separator", SEPARATORS), ("initial", INITS)):
            if getattr(self, key) not in names:
                raise JaxsepError(f"model.{key}={getattr(self, key)!r} is unknown, expected one of {', '.join(names)}")
        norms = {"input_norm": self.input_norm, **({"norm": self.norm} if self.separator == "tcn" else {})}
        for key, kind in norms.items():
            if self.causal and kind == "gln":
                raise JaxsepError(f"model.causal=True: model.{key}='gln' sees the future; use cumulative or cln")
