"""Hybrid Demucs (v3): two U-Nets, over frequency and over time, that meet in the middle.

A. Defossez, "Hybrid Spectrogram and Waveform Source Separation", MDX workshop 2021 (arXiv 2111.03600), as the authors'
package builds it (github.com/facebookresearch/demucs, demucs/hdemucs.py) and torchaudio does.
"""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.dconv import Residual
from jaxsep.layers.hybrid import Decoder, Down, Encoder, FrequencyEmbedding, spectrum, standardise, to_multiple, waves


class HDemucs(nn.Module):
    """Waves to waves; its STFT is its own, so it sits on the front end `identity`.

    Of a frame of 4096 and C channels, with frames n = ceil(t / 1024):

    | encoder | frequency branch | time branch |
    |---|---|---|
    | 0 ... 3 | [2048/4^(i+1) bins, n, C 2^i], embedding of the bins after the first | [t/4^(i+1), C 2^i] |
    | 4 | one kernel over the 8 bins left, the time branch added: [n, 16 C] | conv alone, [n, 16 C] |
    | 5 | shared: [n/2, 32 C], kernel 4, stride 2 | |

    and mirrored in the decoder, where the time branch starts from what enters the last layer of the shared part. Skips
    are added. Both branches are standardised by their own mean and deviation, undone at the end; the output is the
    sum of the decoded spectra and the waves. Residual branches (`DConv`) act along time in every encoder layer, with
    BLSTM and local attention in the deep ones.

    The reference has two biases per LSTM gate, this one has one: 83,619,400 parameters instead of 83,637,832.
    torchaudio's `hdemucs_high` has 1,536 more, of a norm that it never applies.

    Attributes:
        channels: C of the first layer.
        growth: of the channels from layer to layer.
        frame: of the STFT; the hop is a quarter of it. With 2048, layer 4 of the time branch has a stride of 2, as
            torchaudio's `hdemucs_medium`.
        depth: layers; the bins must be used up before the last.
        stride: of all layers with more than 2 x stride bins; kernels are twice as long.
        time_stride: of the shared layers.
        embedding: weight of the frequency embedding.
        norm_starts: first layer with group norms...
        norm_groups: ... of so many groups.
        dconv_mode: residual branches in 1 = the encoder, 2 = the decoder, 3 = both.
        dconv_depth, dconv_compress, dconv_init: of the residual branches: number, width / hidden, first scale.
        dconv_lstm, dconv_attention: first layer whose branches have them.
        rescale: reference of the initial scale; see `layers.dconv.conv_parameters`.
        old_padding: zeros instead of the mirrored wave before the STFT, and spectra decoded 3/2 hops late: a bug that
            some models of the MDX challenge were trained with (the package's `hybrid_old`).
        sources: number of sources; the published order is drums, bass, other, vocals.
        dtype: compute precision; parameters, statistics and transforms stay float32.
    """

    channels: int = 48
    growth: int = 2
    frame: int = 4096
    depth: int = 6
    stride: int = 4
    time_stride: int = 2
    embedding: float = 0.2
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_compress: int = 4
    dconv_init: float = 1e-3
    dconv_lstm: int = 4
    dconv_attention: int = 4
    rescale: float = 0.1
    old_padding: bool = False
    sources: int = 4
    dtype: DTypeLike = jnp.float32

    takes: ClassVar[tuple[str, ...]] = ("wave",)

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) samples for at least `length`: any number."""
        return length, length

    @nn.compact
    def __call__(self, wave: Float[Array, "b t c"], targets: None, train: bool) -> Float[Array, "b s t c"]:
        """The sources' waves.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        bins, channels = self._bins(), wave.shape[-1]
        merge = len(bins) - 1
        z, mean, std = standardise(spectrum(wave, self.frame, not self.old_padding))
        zt, mean_t, std_t = standardise(wave)
        x, xt = z.astype(self.dtype), zt.astype(self.dtype)
        skips: list[Array] = []
        skips_t: list[Array] = []
        lengths, lengths_t = [], []
        for i in range(self.depth):
            encoder = self._encoder(i)
            features = self.channels * self.growth**i
            if i < merge:
                lengths_t.append(xt.shape[1])
                xt = encoder(features, self.stride, name=f"time_encoder{i}")(to_multiple(xt, self.stride))
                skips_t.append(xt)
                x = encoder(features, self.stride, name=f"encoder{i}")(x)
                if i == 0 and self.embedding:
                    x = FrequencyEmbedding(self.embedding, name="embedding")(x)
            elif i == merge:
                lengths_t.append(xt.shape[1])
                down = Down(features, bins[i] // 2, self.rescale, self.dtype, name=f"time_encoder{i}")
                x = encoder(features, 0, name=f"encoder{i}")(x, down(to_multiple(xt, bins[i] // 2)))
            else:
                lengths.append(x.shape[1])
                x = encoder(features, self.time_stride, name=f"encoder{i}")(to_multiple(x, self.time_stride))
            skips.append(x)
        x = jnp.zeros_like(x)
        for i in reversed(range(self.depth)):
            decoder = self._decoder(i)
            features = self.channels * self.growth ** (i - 1) if i else self.sources * channels
            width = features if i else 2 * features
            if i > merge:
                x, _ = decoder(width, self.time_stride, name=f"decoder{i}")(x, skips.pop(), lengths.pop())
            elif i == merge:
                up = decoder(features, bins[i] // 2, name=f"time_decoder{i}")
                x, xt = decoder(width, 0, bins[i], True, name=f"decoder{i}")(x, skips.pop())
                xt, _ = up(xt, None, lengths_t.pop())
            else:
                x, _ = decoder(width, self.stride, frequency=True, name=f"decoder{i}")(x, skips.pop())
                xt, _ = decoder(features, self.stride, name=f"time_decoder{i}")(xt, skips_t.pop(), lengths_t.pop())
        length, lag = wave.shape[1], 0 if self.old_padding else self.frame // 8 * 3
        y = waves(x.astype(jnp.float32) * std + mean, self.sources, self.frame, length, lag)
        yt = xt.astype(jnp.float32) * std_t + mean_t
        return y + jnp.moveaxis(yt.reshape(len(wave), length, self.sources, channels), 2, 1)

    def _residual(self, index: int, side: int) -> Residual | None:
        """The branches of layer `index` in the encoder (side 1) or decoder (2)."""
        if not self.dconv_mode & side:
            return None
        spec = Residual(self.dconv_depth, self.dconv_compress, self.dconv_init)
        return replace(spec, lstm=index >= self.dconv_lstm, attention=index >= self.dconv_attention)

    def _encoder(self, index: int) -> partial:
        return partial(
            Encoder,
            groups=self.norm_groups if index >= self.norm_starts else 0,
            residual=self._residual(index, 1),
            rescale=self.rescale,
            dtype=self.dtype,
        )

    def _decoder(self, index: int) -> partial:
        return partial(
            Decoder,
            groups=self.norm_groups if index >= self.norm_starts else 0,
            residual=self._residual(index, 2),
            last=index == 0,
            rescale=self.rescale,
            dtype=self.dtype,
        )

    def _bins(self) -> list[int]:
        """Bins that enter each layer with more than one, the merging one last."""
        bins = [self.frame // 2]
        while bins[-1] > 2 * self.stride and bins[-1] % self.stride == 0:
            bins.append(bins[-1] // self.stride)
        if self.frame % 8 or bins[-1] > 2 * self.stride or bins[-1] % 2:
            raise JaxsepError(f"model.frame={self.frame}: its bins cannot be divided by model.stride={self.stride}")
        if len(bins) > self.depth:
            raise JaxsepError(f"model.depth={self.depth}: expected {len(bins)} or more for frame={self.frame}")
        if self.dconv_mode not in range(4):
            raise JaxsepError(f"model.dconv_mode={self.dconv_mode}, expected 0, 1 (encoder), 2 (decoder) or 3 (both)")
        return bins
