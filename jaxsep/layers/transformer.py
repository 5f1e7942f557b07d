"""The cross-domain transformer of HTDemucs: two sequences that attend to themselves and to each other in turn.

S. Rouard, F. Massa, A. Defossez, "Hybrid Transformers for Music Source Separation", ICASSP 2023 (arXiv 2211.08553),
as the authors' package builds it (github.com/facebookresearch/demucs, demucs/transformer.py).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.layers.conv1d import torch_uniform
from jaxsep.layers.dconv import EPS, GroupNorm, gelu


class CrossTransformer(nn.Module):
    """Bins and frames of one branch, samples of the other: layers of self-attention and of cross-attention in turn.

    Each sequence is normalised, gets sinusoidal positions (of time, and for the first one of frequency, too), and
    passes layers of its own; in cross layers the queries are its own and keys and values those of the other one.

    Attributes:
        layers: the first one attends to itself.
        heads: of the attention.
        hidden: width of the dense layers / width.
        dropout: rate in attention weights and behind each product.
        dtype: compute precision; softmax and statistics are float32.
    """

    layers: int = 5
    heads: int = 8
    hidden: float = 4.0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b f n d"], xt: Float[Array, "b t d"], train: bool
    ) -> tuple[Float[Array, "b f n d"], Float[Array, "b t d"]]:
        """Both sequences, the same shapes."""
        batch, bins, frames, width = x.shape
        y = layer_norm("norm_in")(x.reshape(batch, -1, width)) + positions2d(width, bins, frames).reshape(-1, width)
        yt = layer_norm("norm_in_time")(xt) + positions(width, xt.shape[1])
        y, yt = y.astype(self.dtype), yt.astype(self.dtype)
        for i in range(self.layers):
            layer, time = (
                Layer(self.heads, self.hidden, self.dropout, self.dtype, name=f"{name}{i}")
                for name in ("layer", "time")
            )
            crossed = i % 2 == 1
            y, yt = layer(y, yt if crossed else None, train), time(yt, y if crossed else None, train)
        return y.reshape(x.shape), yt


class Layer(nn.Module):
    """x + scale * attention(norm x), then x + scale * dense(norm x), then a norm over steps and channels.

    Attributes:
        heads, hidden, dropout, dtype: as in `CrossTransformer`.
    """

    heads: int
    hidden: float
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], other: Float[Array, "b m d"] | None, train: bool) -> Array:
        """[b n d]; keys and values are those of `other`, or of x where it is None."""
        width = x.shape[-1]
        drop = nn.Dropout(self.dropout, deterministic=not train)

        def scaled(y: Array, name: str) -> Array:
            scale = self.param(name, nn.initializers.constant(1e-4), (width,), jnp.float32)
            return (scale * drop(y)).astype(x.dtype)

        query = layer_norm("norm1")(x)
        heard = query if other is None else layer_norm("norm_other")(other)
        attention = Attention(self.heads, self.dropout, self.dtype, name="attention")
        x = x + scaled(attention(query, heard, train), "scale1")
        hidden = gelu(self._dense(int(width * self.hidden), width, "dense1")(layer_norm("norm2")(x)))
        x = x + scaled(self._dense(width, hidden.shape[-1], "dense2")(drop(hidden)), "scale2")
        return GroupNorm(name="norm_out")(x)

    def _dense(self, features: int, fan_in: int, name: str) -> nn.Dense:
        init = torch_uniform(fan_in)
        return nn.Dense(features, kernel_init=init, bias_init=init, dtype=self.dtype, name=name)


class Attention(nn.Module):
    """Multi-head attention as PyTorch's, softmax(q k / sqrt(c)) v; `inputs` holds the maps to q, k and v.

    Attributes:
        heads: a divisor of the width.
        dropout: rate of the weights.
        dtype: compute precision; scores and softmax are float32.
    """

    heads: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], other: Float[Array, "b m d"], train: bool) -> Float[Array, "b n d"]:
        """Queries from x, keys and values from `other`."""
        width = x.shape[-1]
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        kernel = self.param("inputs", xavier, (width, 3 * width), jnp.float32)
        bias = self.param("input_bias", nn.initializers.zeros, (3 * width,), jnp.float32)
        x, other, kernel, bias = promote_dtype(x, other, kernel, bias, dtype=self.dtype)
        query = self._heads(x @ kernel[:, :width] + bias[:width])
        key, value = map(self._heads, jnp.split(other @ kernel[:, width:] + bias[width:], 2, axis=-1))
        dots = jnp.einsum("bnhc,bmhc->bhnm", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(dots / math.sqrt(width // self.heads), axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        heard = jnp.einsum("bhnm,bmhc->bnhc", weights, value).reshape(x.shape)
        return nn.Dense(width, kernel_init=torch_uniform(width), dtype=self.dtype, name="out")(heard)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


def layer_norm(name: str) -> nn.LayerNorm:
    """Over the channels of each step, in float32."""
    return nn.LayerNorm(epsilon=EPS, use_fast_variance=False, name=name)


def positions(width: int, count: int) -> Float[np.ndarray, "n d"]:
    """cos(n / 10000^(i / (d/2 - 1))) for i = 0 ... d/2 - 1, then the sines."""
    half = width // 2
    phase = np.arange(count)[:, None] / 10_000 ** (np.arange(half) / (half - 1))
    return np.concatenate([np.cos(phase), np.sin(phase)], axis=1).astype(np.float32)


def positions2d(width: int, bins: int, frames: int) -> Float[np.ndarray, "f n d"]:
    """Sines and cosines interleaved, of the frame in the first half of the channels and of the bin in the second."""
    rates = 10_000 ** (-np.arange(0, width // 2, 2) / (width // 2))

    def waves(count: int) -> np.ndarray:
        phase = np.arange(count)[:, None] * rates
        return np.stack([np.sin(phase), np.cos(phase)], axis=-1).reshape(count, -1)

    shape = (bins, frames, width // 2)
    both = [np.broadcast_to(waves(frames), shape), np.broadcast_to(waves(bins)[:, None], shape)]
    return np.concatenate(both, axis=-1).astype(np.float32)
