"""Convolutions with one interface for all backends; weight layouts are those of Keras."""

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


# Equal forms of one convolution differ up to a hundredfold in speed on a CPU. What XLA does badly there is
# written differently below: the filter gradient of a transposed convolution, transposed convolutions (and so
# input gradients) with few output channels, and convolutions of very few channels. Measured by
# benchmarks/spleeter_step.py.


def conv2d(
    x: Float[Array, "b n f d"], kernel: Float[Array, "i j d e"], strides: Pair = (1, 1), dilation: Pair = (1, 1)
) -> Float[Array, "b m g e"]:
    """ "Same" convolution with a kernel (kh, kw, in, out)."""
    symmetric = all((k - 1) * step % 2 == 0 for k, step in zip(kernel.shape, dilation, strict=False))
    if strides == (1, 1) and symmetric and kernel.shape[2] * kernel.shape[3] <= 4:
        return _narrow(x, kernel, dilation)
    if dilation == (1, 1) and all(size % stride == 0 for size, stride in zip(x.shape[1:3], strides, strict=True)):
        return _down(x, kernel, strides)
    return _conv(x, kernel, strides, dilation)


def conv_transpose2d(
    x: Float[Array, "b n f e"], kernel: Float[Array, "i j d e"], strides: Pair
) -> Float[Array, "b m g d"]:
    """ "Same" transposed convolution with a kernel (kh, kw, out, in): the adjoint of `conv2d`."""
    return _up(x, kernel, strides)


def _conv(x: Array, kernel: Array, strides: Pair, dilation: Pair = (1, 1)) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, "SAME", rhs_dilation=dilation, dimension_numbers=_DIMENSIONS)


def _conv_transpose(x: Array, kernel: Array, strides: Pair) -> Array:
    return lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True)


def _filter_gradient(x: Array, gradient: Array, kernel: Array, strides: Pair, dilation: Pair = (1, 1)) -> Array:
    """Gradient of `_conv` for its kernel."""
    return jax.linear_transpose(lambda k: _conv(x, k, strides, dilation), kernel)(gradient)[0]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _down(x: Array, kernel: Array, strides: Pair) -> Array:
    """Convolution of sizes that the strides divide; `_up` is its adjoint."""
    return _conv(x, kernel, strides)


_down.defvjp(
    lambda x, kernel, strides: (_conv(x, kernel, strides), (x, kernel)),
    lambda strides, saved, gradient: (
        _up(gradient, saved[1], strides),
        _filter_gradient(saved[0], gradient, saved[1], strides),
    ),
)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _up(x: Array, kernel: Array, strides: Pair) -> Array:
    """Transposed convolution. Its filter gradient is that of `_down` with gradient and input exchanged."""
    few = kernel.shape[2] <= 32 and all(k >= stride for k, stride in zip(kernel.shape, strides, strict=False))
    fast = _subpixel if few else _conv_transpose
    return lax.platform_dependent(
        x, kernel, cpu=partial(fast, strides=strides), default=partial(_conv_transpose, strides=strides)
    )


_up.defvjp(
    lambda x, kernel, strides: (_up(x, kernel, strides), (x, kernel)),
    lambda strides, saved, gradient: (
        _down(gradient, saved[1], strides),
        _filter_gradient(gradient, saved[0], saved[1], strides),
    ),
)


def _subpixel(x: Array, kernel: Array, strides: Pair) -> Array:
    """`_conv_transpose` as a plain convolution to stride * stride * out channels, then depth to space."""
    (kh, kw, features, width), (sh, sw) = kernel.shape, strides
    # "Same" crops low samples at the start; zeros before the kernel make that a whole number of strides.
    low = [(k - stride) // 2 for k, stride in zip((kh, kw), strides, strict=True)]
    front = [-crop % stride for crop, stride in zip(low, strides, strict=True)]
    taps = [-(-(a + k) // stride) for a, k, stride in zip(front, (kh, kw), strides, strict=True)]
    padding = []
    pads = []
    for k, stride, crop, zeros, count in zip((kh, kw), strides, low, front, taps, strict=True):
        pads.append((zeros, count * stride - zeros - k))
        skip = (crop + zeros) // stride
        padding.append((count - 1 - skip, skip))
    blocks = jnp.pad(kernel, [*pads, (0, 0), (0, 0)]).reshape(taps[0], sh, taps[1], sw, features, width)
    blocks = blocks[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4).reshape(*taps, width, sh * sw * features)
    y = lax.conv_general_dilated(x, blocks, (1, 1), padding, dimension_numbers=_DIMENSIONS)
    batch, rows, columns, _ = y.shape
    y = y.reshape(batch, rows, columns, sh, sw * features).transpose(0, 1, 3, 2, 4)
    return y.reshape(batch, rows * sh, columns * sw, features)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow(x: Array, kernel: Array, dilation: Pair) -> Array:
    """Convolution of stride 1 with very few channels and symmetric padding: its own adjoint, kernel
    flipped."""
    return lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shift_and_add, dilation=dilation),
        default=partial(_conv, strides=(1, 1), dilation=dilation),
    )


_narrow.defvjp(
    lambda x, kernel, dilation: (_narrow(x, kernel, dilation), (x, kernel)),
    lambda dilation, saved, gradient: (
        _narrow(gradient, saved[1][::-1, ::-1].swapaxes(2, 3), dilation),
        _filter_gradient(saved[0], gradient, saved[1], (1, 1), dilation),
    ),
)


def _shift_and_add(x: Array, kernel: Array, dilation: Pair) -> Array:
    """`_conv` with stride 1 as a sum of shifted planes, one per tap and channel pair: one loop after
    fusion."""
    kh, kw, width, features = kernel.shape
    rows, columns = x.shape[1:3]
    pad = [((k - 1) * step // 2,) * 2 for k, step in zip((kh, kw), dilation, strict=True)]
    planes = [jnp.pad(x[..., d], [(0, 0), *pad]) for d in range(width)]
    outputs = []
    for e in range(features):
        terms = [
            plane[:, i * dilation[0] :, j * dilation[1] :][:, :rows, :columns] * kernel[i, j, d, e]
            for d, plane in enumerate(planes)
            for i in range(kh)
            for j in range(kw)
        ]
        outputs.append(sum(terms[1:], start=terms[0]))
    return jnp.stack(outputs, axis=-1)
