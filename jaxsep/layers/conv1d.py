"""1-D convolutions over [b t c] with one interface for all backends."""

from collections.abc import Callable
from functools import partial

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


# What XLA does badly on a CPU is written differently there: strided and transposed convolutions become dense ones of
# stride 1 over blocks of `stride` samples, nothing is padded within a convolution (the filter gradient of one that is
# takes a hundred times as long), and where the kernel is larger than the input matrix products read it in place.


def conv1d(
    x: Float[Array, "b t c"],
    kernel: Float[Array, "k d e"],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    padding: Pair = (0, 0),
) -> Float[Array, "b n e"]:
    """Convolution with a kernel (k, in / groups, out) behind `padding` zeros before and behind."""
    if groups == x.shape[2] == kernel.shape[2] and stride == 1:
        return depthwise(x, kernel[:, 0], dilation, padding)
    plain = partial(_conv, stride=stride, dilation=dilation, groups=groups, padding=padding)
    if groups > 1 or (stride > 1 and dilation > 1):
        return plain(x, kernel)
    return _by_platform(partial(_fast, stride=stride, dilation=dilation, padding=padding), plain)(x, kernel)


def conv_transpose1d(x: Float[Array, "b n c"], kernel: Float[Array, "k c e"], stride: int) -> Float[Array, "b t e"]:
    """Transposed convolution, y[i stride + j] = sum_i x[i] kernel[j] with a kernel (k, in, out)."""
    return _by_platform(partial(_fast_transpose, stride=stride), partial(_conv_transpose, stride=stride))(x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(
    x: Float[Array, "b t c"], kernel: Float[Array, "k c"], dilation: int = 1, padding: Pair = (0, 0)
) -> Float[Array, "b n c"]:
    """Each channel convolved with its own kernel, n = before + t + behind - (k - 1) dilation."""
    return _depthwise(x, kernel, dilation, padding)


def _depthwise(x: Array, kernel: Array, dilation: int, padding: Pair) -> Array:
    shifts = _shifts(x, len(kernel), dilation, padding)
    y = shifts[0] * kernel[0]
    for j in range(1, len(kernel)):
        y = y + shifts[j] * kernel[j]
    return y


def _depthwise_backward(dilation: int, padding: Pair, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    span = (len(kernel) - 1) * dilation
    dx = _depthwise(g, kernel[::-1], dilation, (span - padding[0], span - padding[1]))
    # Products with slices of a padded x: differentiating the sum of shifts takes thirty times as long.
    return dx, jnp.stack([(shift * g).sum((0, 1)) for shift in _shifts(x, len(kernel), dilation, padding)])


depthwise.defvjp(
    lambda x, kernel, dilation, padding: (_depthwise(x, kernel, dilation, padding), (x, kernel)), _depthwise_backward
)


def middle(x: Float[Array, "b t c"], length: int) -> Float[Array, "b n c"]:
    """As many samples of the middle, what a longer map gives a net without padding; one too many goes from the end."""
    start = (x.shape[1] - length) // 2
    return x[:, start : start + length]


def _shifts(x: Array, taps: int, dilation: int, padding: Pair) -> list[Array]:
    """What each tap of a kernel meets, [b n c] each."""
    x = _padded(x, padding)
    length = x.shape[1] - (taps - 1) * dilation
    return [x[:, j * dilation : j * dilation + length] for j in range(taps)]


def _padded(x: Array, padding: Pair) -> Array:
    """Zeros before and behind the samples; fewer samples where the numbers are negative."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (*padding, 0), (0, 0, 0)])


def _conv(x: Array, kernel: Array, stride: int = 1, dilation: int = 1, groups: int = 1, padding: Pair = (0, 0)):
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
    ends = (len(kernel) - 1, len(kernel) - 1)
    return lax.conv_general_dilated(
        x, kernel[::-1], (1,), [ends], lhs_dilation=(stride,), dimension_numbers=_DIMENSIONS
    )


def _by_platform(fast: Callable, plain: Callable) -> Callable:
    """The form for the platform that a program is compiled for, in values and in gradients."""

    @jax.custom_vjp
    def convolution(x: Array, kernel: Array) -> Array:
        return lax.platform_dependent(x, kernel, cpu=fast, default=plain)

    def backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        def by(form: Callable) -> Callable:
            return lambda x, kernel, g: jax.vjp(form, x, kernel)[1](g)

        return lax.platform_dependent(*saved, g, cpu=by(fast), default=by(plain))

    convolution.defvjp(lambda x, kernel: (convolution(x, kernel), (x, kernel)), backward)
    return convolution


def _fast(x: Array, kernel: Array, stride: int, dilation: int, padding: Pair) -> Array:
    """`_conv` on a CPU; with a stride there is no dilation."""
    x = _padded(x, padding)
    if stride > 1:
        length, taps = (x.shape[1] - len(kernel)) // stride + 1, -(-len(kernel) // stride)
        x = _padded(x, (0, (length + taps - 1) * stride - x.shape[1]))
        x = x.reshape(len(x), -1, stride * x.shape[2])
        kernel = _whole(kernel, stride).reshape(taps, -1, kernel.shape[2])
    if kernel.size <= x.size:
        return _conv(x, kernel, dilation=dilation)
    columns = jnp.concatenate(_shifts(x, len(kernel), dilation, (0, 0)), axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[2])


def _fast_transpose(x: Array, kernel: Array, stride: int) -> Array:
    """`_conv_transpose` on a CPU: each input adds to `taps` blocks of `stride` outputs."""
    batch, frames, entering = x.shape
    length, taps, leaving = (frames - 1) * stride + len(kernel), -(-len(kernel) // stride), kernel.shape[2]
    kernel = _whole(kernel, stride)
    if kernel.size <= x.size:
        kernel = kernel.reshape(taps, stride, entering, leaving)[::-1].swapaxes(1, 2)
        blocks = _conv(_padded(x, (taps - 1, taps - 1)), kernel.reshape(taps, entering, -1))
    else:
        products = jnp.stack([x @ tap for tap in kernel], axis=2).reshape(batch, frames, taps, -1)
        terms = [_padded(products[:, :, i], (i, taps - 1 - i)) for i in range(taps)]
        blocks = sum(terms[1:], start=terms[0])
    return blocks.reshape(batch, -1, leaving)[:, :length]


def _whole(kernel: Array, stride: int) -> Array:
    """The kernel with zeros behind it up to a multiple of the stride."""
    return jnp.pad(kernel, [(0, -len(kernel) % stride), (0, 0), (0, 0)])
