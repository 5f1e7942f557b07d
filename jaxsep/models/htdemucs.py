"""Hybrid Transformer Demucs (v4): two U-Nets, over frequency and over time, with a transformer between them.

S. Rouard, F. Massa, A. Defossez, "Hybrid Transformers for Music Source Separation", ICASSP 2023 (arXiv 2211.08553), as
the authors' package builds it (github.com/facebookresearch/demucs, demucs/htdemucs.py).
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.dconv import Residual, TimeConv
from jaxsep.layers.hybrid import Decoder, Encoder, FrequencyEmbedding, spectrum, standardise, to_multiple, waves
from jaxsep.layers.transformer import CrossTransformer


class HTDemucs(nn.Module):
    """Waves to waves; its STFT is its own, so it sits on the front end `identity`.

    Of a frame of 4096 and C channels, with frames n = ceil(t / 1024):

    | | frequency branch | time branch |
    |---|---|---|
    | encoder 0 ... 3 | [2048/4^(i+1) bins, n, C 2^i], embedding of the bins after the first | [t/4^(i+1), C 2^i] |
    | middle | 1x1 conv to `bottom` channels, transformer over 8 n and t/256 steps, 1x1 conv back | |
    | decoder 0 ... 3 | mirrored, skips added | |

    Both branches are standardised by their own mean and deviation, undone at the end; the output is the sum of the
    decoded spectra and the waves. Residual branches (`DConv`, without LSTM and attention) act along time.

    The reference's class defaults (`dconv_mode` 1, `bottom` 0; 26,899,536 parameters) were not what its published
    models were trained with: these are the defaults here (41,984,456). Its sparse attention, other positions and
    norms of the transformer, and bands with layers of their own are not here.

    Attributes:
        channels: C of the first layer.
        growth: of the channels from layer to layer.
        frame: of the STFT; the hop is a quarter of it.
        depth: layers on each side.
        stride: of all layers; kernels are twice as long.
        embedding: weight of the frequency embedding.
        norm_starts: first layer with group norms...
        norm_groups: ... of so many groups.
        dconv_mode: residual branches in 1 = the encoder, 2 = the decoder, 3 = both.
        dconv_depth, dconv_compress, dconv_init: of the residual branches: number, width / hidden, first scale.
        bottom: channels of the transformer; 0 = those of the last encoder layer, without 1x1 convs.
        layers: of the transformer; the odd ones attend to the other branch.
        heads: of its attention.
        hidden: width of its dense layers / width.
        dropout: its rate.
        rescale: reference of the initial scale of all convs but those around the transformer; see
            `layers.dconv.conv_parameters`.
        segment: samples of a training example; in inference a shorter one is fed with what surrounds it, up to this
            (the package's `use_train_segment`). 0 = any length.
        sources: number of sources; the published order is drums, bass, other, vocals.
        dtype: compute precision; parameters, statistics and transforms stay float32.
    """

    channels: int = 48
    growth: int = 2
    frame: int = 4096
    depth: int = 4
    stride: int = 4
    embedding: float = 0.2
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 3
    dconv_depth: int = 2
    dconv_compress: int = 8
    dconv_init: float = 1e-3
    bottom: int = 512
    layers: int = 5
    heads: int = 8
    hidden: float = 4.0
    dropout: float = 0.0
    rescale: float = 0.1
    segment: int = 0
    sources: int = 4
    dtype: DTypeLike = jnp.float32

    takes: ClassVar[tuple[str, ...]] = ("wave",)

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) samples for at least `length`: any number, but `segment` at least."""
        fed = max(length, self.segment)
        return fed, fed

    @nn.compact
    def __call__(self, wave: Float[Array, "b t c"], targets: None, train: bool) -> Float[Array, "b s t c"]:
        """The sources' waves.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        self._check()
        batch, length, channels = wave.shape
        z, mean, std = standardise(spectrum(wave, self.frame))
        zt, mean_t, std_t = standardise(wave)
        x, xt = z.astype(self.dtype), zt.astype(self.dtype)
        skips: list[tuple[Array, Array]] = []
        lengths = []
        for i in range(self.depth):
            lengths.append(xt.shape[1])
            xt = self._encoder(i, f"time_encoder{i}")(to_multiple(xt, self.stride))
            x = self._encoder(i, f"encoder{i}")(x)
            if i == 0 and self.embedding:
                x = FrequencyEmbedding(self.embedding, name="embedding")(x)
            skips.append((x, xt))
        if self.layers:
            x, xt = self._middle(x, xt, train)
        for i in reversed(range(self.depth)):
            skip, skip_t = skips.pop()
            features = self.channels * self.growth ** (i - 1) if i else self.sources * channels
            x, _ = self._decoder(i, features if i else 2 * features, True, f"decoder{i}")(x, skip)
            xt, _ = self._decoder(i, features, False, f"time_decoder{i}")(xt, skip_t, lengths.pop())
        lag = self.frame // 8 * 3
        y = waves(x.astype(jnp.float32) * std + mean, self.sources, self.frame, length, lag)
        yt = xt.astype(jnp.float32) * std_t + mean_t
        return y + jnp.moveaxis(yt.reshape(batch, length, self.sources, channels), 2, 1)

    def _middle(self, x: Array, xt: Array, train: bool) -> tuple[Array, Array]:
        """The transformer, between two 1x1 convs of each branch where it has channels of its own."""
        width = x.shape[-1]
        transformer = CrossTransformer(
            self.layers, self.heads, self.hidden, self.dropout, self.dtype, name="transformer"
        )
        if not self.bottom:
            return transformer(x, xt, train)

        def conv(features: int, name: str) -> TimeConv:
            return TimeConv(features, dtype=self.dtype, name=name)

        x, xt = transformer(conv(self.bottom, "widen")(x), conv(self.bottom, "widen_time")(xt), train)
        return conv(width, "narrow")(x), conv(width, "narrow_time")(xt)

    def _encoder(self, index: int, name: str) -> Encoder:
        groups, residual = self._groups(index), self._residual(1)
        features = self.channels * self.growth**index
        return Encoder(features, self.stride, groups, residual, self.rescale, self.dtype, name=name)

    def _decoder(self, index: int, features: int, frequency: bool, name: str) -> Decoder:
        return Decoder(
            features,
            self.stride,
            frequency=frequency,
            groups=self._groups(index),
            residual=self._residual(2),
            last=index == 0,
            rescale=self.rescale,
            dtype=self.dtype,
            name=name,
        )

    def _groups(self, index: int) -> int:
        return self.norm_groups if index >= self.norm_starts else 0

    def _residual(self, side: int) -> Residual | None:
        """The branches of the encoder (side 1) or decoder (2)."""
        return Residual(self.dconv_depth, self.dconv_compress, self.dconv_init) if self.dconv_mode & side else None

    def _check(self) -> None:
        if self.frame % 8 or self.frame // 2 % self.stride**self.depth:
            raise JaxsepError(
                f"model.frame={self.frame}: its bins cannot be divided {self.depth} times by model.stride={self.stride}"
            )
        width = self.bottom or self.channels * self.growth ** (self.depth - 1)
        if self.layers and (width % 4 or width % self.heads):
            raise JaxsepError(f"model.heads={self.heads}: expected a divisor of {width} channels, a multiple of 4")
        if self.dconv_mode not in range(4):
            raise JaxsepError(f"model.dconv_mode={self.dconv_mode}, expected 0, 1 (encoder), 2 (decoder) or 3 (both)")
