"""Convolutions with one interface for all backends; weight layouts are those of Keras."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

Pair = tuple[int, int]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Conv2D(nn.Module):
    """2-D convolution with "same" padding; parameters as `nn.Conv`: kernel (kh, kw, in, out) and bias.

    Attributes:
        features: output channels.
        kernel_size, strides, dilation: along frames and bins.
        kernel_init: initialiser of the kernel; biases start at zero.
        dtype: compute precision; parameters stay float32.
    """

    features: int
    kernel_size: Pair
    strides: Pair = (1, 1)
    dilation: Pair = (1, 1)
    kernel_init: Callable = nn.initializers.he_uniform()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"]) -> Float[Array, "b m g e"]:
        """[b n f d] -> [b ceil(n/stride) ceil(f/stride) features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return conv2d(x, kernel, self.strides, self.dilation) + bias


class ConvTranspose2D(nn.Module):
    """Transposed 2-D convolution, output = stride x input; parameters as in `nn.ConvTranspose`.

    The kernel is (kh, kw, out, in). The full transposed convolution is cropped as in Keras' "same": for a
    kernel of 5 and a stride of 2, by 1 at the start and 2 at the end.

    Attributes:
        features: output channels.
        kernel_size, strides: along frames and bins.
        kernel_init: initialiser of the kernel; biases start at zero.
        dtype: compute precision; parameters stay float32.
    """

    features: int
    kernel_size: Pair
    strides: Pair
    kernel_init: Callable = nn.initializers.he_uniform()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"]) -> Float[Array, "b m g e"]:
        """[b n f d] -> [b n*stride f*stride features]."""
        shape = (*self.kernel_size, self.features, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return conv_transpose2d(x, kernel, self.strides) + bias


def conv2d(x: Array, kernel: Array, strides: Pair, dilation: Pair) -> Array:
    """ "Same" convolution of [b n f d] with (kh, kw, in, out)."""
    return lax.conv_general_dilated(
        x, kernel, strides, "SAME", rhs_dilation=dilation, dimension_numbers=_DIMENSIONS
    )


def conv_transpose2d(x: Array, kernel: Array, strides: Pair) -> Array:
    """ "Same" transposed convolution of [b n f d] with (kh, kw, out, in)."""
    return lax.conv_transpose(
        x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True
    )
