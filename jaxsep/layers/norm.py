"""Layer norms of sequences [b n d] (Conv-TasNet, Luo & Mesgarani 2019, section II-C; eps as in the public codes)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.errors import JaxsepError

EPS = 1e-8


class SequenceNorm(nn.Module):
    """A layer norm with a gain and a bias per channel; statistics in float32, variances without Bessel's correction.

    Attributes:
        kind: what the mean and the variance are taken over. "gln" (global): all frames and channels of an example;
            "cln" (channel-wise): the channels of each frame; "cumulative": all channels of a frame and of those before
            it. Of these the last two are causal. Conv-TasNet's paper calls the third one cLN, and so do its causal
            results; asteroid's and demucs' `cLN` is the second one, asteroid's `cgLN` the third one.
        affine_init: of gain and bias; None = 1 and 0.
        dtype: of the output.
    """

    kind: str = "gln"
    affine_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """[b n d] -> [b n d].

        Raises:
            JaxsepError: an unknown kind.
        """
        if self.kind not in NORMS:
            raise JaxsepError(f"model.norm={self.kind!r} is unknown, expected one of {', '.join(NORMS)}")
        width = x.shape[-1:]
        scale = self.param("scale", self.affine_init or nn.initializers.ones, width, jnp.float32)
        bias = self.param("bias", self.affine_init or nn.initializers.zeros, width, jnp.float32)
        return NORMS[self.kind](x.astype(jnp.float32), scale, bias).astype(self.dtype)


@jax.custom_vjp
def global_norm(x: Float[Array, "b n d"], scale: Float[Array, " d"], bias: Float[Array, " d"]) -> Float[Array, "b n d"]:
    """Normalised over n and d.

    The gradient is written out: two sums over the frames give all of it, where differentiation makes eight passes over
    arrays of this size, some of them badly vectorised (on two cores [1 8000 512] takes 15 ms instead of 70 ms).
    """
    return _global_forward(x, scale, bias)[0]


def _global_forward(x: Array, scale: Array, bias: Array) -> tuple[Array, tuple]:
    count = x.shape[1] * x.shape[2]
    mean = x.sum((1, 2), keepdims=True) / count
    variance = (x * x).sum((1, 2), keepdims=True) / count - mean**2
    inverse = lax.rsqrt(jnp.maximum(variance, 0) + EPS)
    return (x - mean) * (inverse * scale) + bias, (x, scale, mean, inverse)


def _global_backward(saved: tuple, dy: Array) -> tuple[Array, Array, Array]:
    x, scale, mean, inverse = saved
    count = x.shape[1] * x.shape[2]
    dbias = dy.sum(1)
    dscale = (jnp.einsum("bnd,bnd->bd", dy, x) - mean[:, 0] * dbias) * inverse[:, 0]
    # Means over the example of dy scale, and of that times the normalised input.
    level, slope = ((terms @ scale)[:, None, None] / count for terms in (dbias, dscale))
    dx = inverse * (dy * scale - level - (x - mean) * (inverse * slope))
    return dx, dscale.sum(0), dbias.sum(0)


global_norm.defvjp(_global_forward, _global_backward)


def channel_norm(
    x: Float[Array, "b n d"], scale: Float[Array, " d"], bias: Float[Array, " d"]
) -> Float[Array, "b n d"]:
    """Normalised over d."""
    mean = x.mean(2, keepdims=True)
    variance = ((x - mean) ** 2).mean(2, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + EPS) * scale + bias


def cumulative_norm(
    x: Float[Array, "b n d"], scale: Float[Array, " d"], bias: Float[Array, " d"]
) -> Float[Array, "b n d"]:
    """Normalised over d and all frames up to each one."""
    count = (x.shape[2] * jnp.arange(1, x.shape[1] + 1, dtype=jnp.float32))[:, None]
    mean = jnp.cumsum(x.sum(2, keepdims=True), axis=1) / count
    variance = jnp.cumsum((x * x).sum(2, keepdims=True), axis=1) / count - mean**2
    return (x - mean) * lax.rsqrt(jnp.maximum(variance, 0) + EPS) * scale + bias


NORMS = {"gln": global_norm, "cln": channel_norm, "cumulative": cumulative_norm}
