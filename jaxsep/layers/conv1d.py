"""1-D convolutions over [b t c] with one interface for all backends."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

Pair = tuple[int, int]
_DIMENSIONS = ("NHC", "HIO", "NHC")


def torch_uniform(fan_in: int) -> Callable:
    """PyTorch's initial values of a convolution's or dense layer's weights *and* biases.

    U(-1/sqrt(fan_in), 1/sqrt(fan_in)), that is kaiming_uniform with a = sqrt(5); fan_in is kernel * inputs / groups,
    of a transposed convolution kernel * outputs.
    """
    limit = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


class Conv1D(nn.Module):
    """1-D convolution; parameters kernel (kernel, in / groups, out) and bias (out,).

    Attributes:
        features: output channels.
        kernel, stride, dilation, groups: as usual.
        padding: zeros before and behind.
        bias: whether there is one.
        kernel_init, bias_init: initialisers; None = PyTorch's `torch_uniform`.
        dtype: compute precision; parameters stay float32.
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: Pair = (0, 0)
    bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b n e"]:
        """[b t c] -> [b n features], n = (before + t + behind - (kernel - 1) dilation - 1) // stride + 1."""
        shape = (self.kernel, x.shape[-1] // self.groups, self.features)
        default = torch_uniform(shape[0] * shape[1])
        kernel = self.param("kernel", self.kernel_init or default, shape, jnp.float32)
        bias = self.param("bias", self.bias_init or default, shape[2:], jnp.float32) if self.bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv1d(x, kernel, self.stride, self.dilation, self.groups, self.padding)
        return y if bias is None else y + bias


class ConvTranspose1D(nn.Module):
    """Transposed 1-D convolution, y[i stride + j] = sum_i x[i] kernel[j]; kernel (kernel, in, out) and bias (out,).

    Attributes:
        features: output channels.
        kernel, stride: as usual.
        bias: whether there is one.
        kernel_init, bias_init: initialisers; None = PyTorch's `torch_uniform`.
        dtype: compute precision; parameters stay float32.
    """

    features: int
    kernel: int
    stride: int
    bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b t e"]:
        """[b n c] -> [b (n - 1) stride + kernel features]."""
        shape = (self.kernel, x.shape[-1], self.features)
        default = torch_uniform(self.kernel * self.features)
        kernel = self.param("kernel", self.kernel_init or default, shape, jnp.float32)
        bias = self.param("bias", self.bias_init or default, shape[2:], jnp.float32) if self.bias else None
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = conv_transpose1d(x, kernel, self.stride)
        return y if bias is None else y + bias


def conv1d(
    x: Float[Array, "b t c"],
    kernel: Float[Array, "k d e"],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Pair = (0, 0),
) -> Float[Array, "b n e"]:
    """Convolution with a kernel (k, in / groups, out) behind `padding` zeros before and behind."""
    return _conv(x, kernel, stride, dilation, groups, padding)


def conv_transpose1d(x: Float[Array, "b n c"], kernel: Float[Array, "k c e"], stride: int) -> Float[Array, "b t e"]:
    """Transposed convolution, y[i stride + j] = sum_i x[i] kernel[j] with a kernel (k, in, out)."""
    return _conv_transpose(x, kernel, stride)


def depthwise(
    x: Float[Array, "b t c"], kernel: Float[Array, "k c"], dilation: int = 1, padding: Pair = (0, 0)
) -> Float[Array, "b n c"]:
    """Each channel convolved with its own kernel, n = before + t + behind - (k - 1) dilation."""
    x = jnp.pad(x, [(0, 0), padding, (0, 0)])
    length = x.shape[1] - (kernel.shape[0] - 1) * dilation
    terms = [x[:, j * dilation :][:, :length] * tap for j, tap in enumerate(kernel)]
    return sum(terms[1:], start=terms[0])


def _conv(x: Array, kernel: Array, stride: int, dilation: int, groups: int, padding: Pair) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride,),
        [padding],
        rhs_dilation=(dilation,),
        feature_group_count=groups,
        dimension_numbers=_DIMENSIONS,
    )


def _conv_transpose(x: Array, kernel: Array, stride: int) -> Array:
    pads = [(len(kernel) - 1,) * 2]
    return lax.conv_general_dilated(x, kernel[::-1], (1,), pads, lhs_dilation=(stride,), dimension_numbers=_DIMENSIONS)
