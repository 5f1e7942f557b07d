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
# written differently below: filter gradients of transposed convolutions, and convolutions in which few
# channels meet many positions or few positions meet a large kernel. Measured by benchmarks/spleeter_step.py.


def conv2d(
    x: Float[Array, "b n f d"], kernel: Float[Array, "i j d e"], strides: Pair = (1, 1), dilation: Pair = (1, 1)
) -> Float[Array, "b m g e"]:
    """Convolution with "same" padding and a kernel (kh, kw, in, out)."""
    symmetric = all((k - 1) * step % 2 == 0 for k, step in zip(kernel.shape, dilation, strict=False))
    if strides == (1, 1) and symmetric and kernel.shape[2] * kernel.shape[3] <= 4:
        return _narrow(x, kernel, dilation)
    if dilation == (1, 1) and _fits(x.shape, kernel, strides):
        return _down(x, kernel, strides)
    return _conv(x, kernel, strides, dilation)


def conv_transpose2d(
    x: Float[Array, "b n f e"], kernel: Float[Array, "i j d e"], strides: Pair
) -> Float[Array, "b m g d"]:
    """Transposed convolution with "same" padding and a kernel (kh, kw, out, in): the adjoint of `conv2d`."""
    return _up(x, kernel, strides) if _fits((0, 0, 0), kernel, strides) else _conv_transpose(x, kernel, strides)


def _fits(shape: tuple[int, ...], kernel: Array, strides: Pair) -> bool:
    """Whether strides divide the sizes and do not skip over samples."""
    return all(
        size % stride == 0 and k >= stride
        for size, k, stride in zip(shape[1:3], kernel.shape[:2], strides, strict=True)
    )


def _conv(x: Array, kernel: Array, strides: Pair, dilation: Pair = (1, 1)) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, "SAME", rhs_dilation=dilation, dimension_numbers=_DIMENSIONS)


def _conv_transpose(x: Array, kernel: Array, strides: Pair) -> Array:
    return lax.conv_transpose(x, kernel, strides, "SAME", dimension_numbers=_DIMENSIONS, transpose_kernel=True)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _down(x: Array, kernel: Array, strides: Pair) -> Array:
    """Strided convolution; `_up` is its adjoint."""
    return _by_platform(_fast_down, _conv, x, kernel, strides)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _up(x: Array, kernel: Array, strides: Pair) -> Array:
    """Transposed convolution; `_down` is its adjoint."""
    return _by_platform(_fast_up, _conv_transpose, x, kernel, strides)


def _filter_gradient(x: Array, y: Array, kernel: Array, strides: Pair) -> Array:
    """Gradient for the kernel that connects a large input `x` and a small output `y` of `_down`, or vice versa."""

    def by(conv, x, y, strides):
        return jax.linear_transpose(lambda k: conv(x, k, strides), kernel)(y)[0]

    return _by_platform(partial(by, _fast_down), partial(by, _conv), x, y, strides)


_down.defvjp(
    lambda x, kernel, strides: (_down(x, kernel, strides), (x, kernel)),
    lambda strides, saved, g: (_up(g, saved[1], strides), _filter_gradient(saved[0], g, saved[1], strides)),
)
_up.defvjp(
    lambda x, kernel, strides: (_up(x, kernel, strides), (x, kernel)),
    lambda strides, saved, g: (_down(g, saved[1], strides), _filter_gradient(g, saved[0], saved[1], strides)),
)


def _by_platform(cpu: Callable, default: Callable, x: Array, y: Array, strides: Pair) -> Array:
    """The form for the platform that the program is compiled for, which need not be the default one."""
    return lax.platform_dependent(
        x, y, cpu=lambda x, y: cpu(x, y, strides), default=lambda x, y: default(x, y, strides)
    )


def _fast_down(x: Array, kernel: Array, strides: Pair) -> Array:
    """`_conv` on a CPU: a mono or stereo input is folded into more channels first."""
    if kernel.shape[2] > 2:
        return _conv(x, kernel, strides)
    (sh, sw), (batch, rows, columns, width) = strides, x.shape
    blocks, padding = _fold(kernel, strides)
    x = x.reshape(batch, rows // sh, sh, columns // sw, sw * width).transpose(0, 1, 3, 2, 4)
    x = x.reshape(batch, rows // sh, columns // sw, sh * sw * width)
    return lax.conv_general_dilated(x, blocks, (1, 1), padding, dimension_numbers=_DIMENSIONS)


def _fast_up(x: Array, kernel: Array, strides: Pair) -> Array:
    """`_conv_transpose` on a CPU."""
    if kernel.shape[2] <= 32:
        return _subpixel(x, kernel, strides)
    if kernel.size > x.size:
        return _columns(x, kernel, strides)
    return _conv_transpose(x, kernel, strides)


def _subpixel(x: Array, kernel: Array, strides: Pair) -> Array:
    """Convolution to stride * stride * out channels, then depth to space: no multiplications with zeros."""
    (sh, sw), features = strides, kernel.shape[2]
    blocks, padding = _fold(kernel, strides)
    padding = [(after, before) for before, after in padding]
    y = lax.conv_general_dilated(x, blocks[::-1, ::-1].swapaxes(2, 3), (1, 1), padding, dimension_numbers=_DIMENSIONS)
    batch, rows, columns, _ = y.shape
    y = y.reshape(batch, rows, columns, sh, sw * features).transpose(0, 1, 3, 2, 4)
    return y.reshape(batch, rows * sh, columns * sw, features)


def _fold(kernel: Array, strides: Pair) -> tuple[Array, list[Pair]]:
    """The kernel of a strided convolution for an input whose stride x stride blocks are folded into channels.

    Returns:
        A kernel (ceil, ceil, sh * sw * in, out) for stride 1, and the padding of that convolution.
    """
    pads, padding = [], []
    for k, stride in zip(kernel.shape[:2], strides, strict=True):
        low = (k - stride) // 2  # what "same" pads at the start
        front = -low % stride  # zeros before the kernel make that a whole number of blocks
        taps = -(-(front + k) // stride)
        before = (low + front) // stride
        pads.append((front, taps * stride - front - k))
        padding.append((before, taps - 1 - before))
    blocks = jnp.pad(kernel, [*pads, (0, 0), (0, 0)])
    (kh, kw, width, features), (sh, sw) = blocks.shape, strides
    blocks = blocks.reshape(kh // sh, sh, kw // sw, sw, width, features).transpose(0, 2, 1, 3, 4, 5)
    return blocks.reshape(kh // sh, kw // sw, sh * sw * width, features), padding


def _columns(x: Array, kernel: Array, strides: Pair) -> Array:
    """One matrix product for all taps, then shifted sums; the kernel is read in place, not transposed."""
    (kh, kw, features, _), (batch, rows, columns, _) = kernel.shape, x.shape
    products = jnp.einsum("bnfe,ijde->ijbnfd", x, kernel)
    low = [(k - stride) // 2 for k, stride in zip((kh, kw), strides, strict=True)]

    def phase(row: int, column: int) -> Array:
        """Output samples row, column of each block: the sum of the taps that fall there."""
        terms = []
        for i in range((row + low[0]) % strides[0], kh, strides[0]):
            for j in range((column + low[1]) % strides[1], kw, strides[1]):
                down, right = (i - low[0] - row) // strides[0], (j - low[1] - column) // strides[1]
                shift = [(0, 0, 0), (down, -down, 0), (right, -right, 0), (0, 0, 0)]
                terms.append(lax.pad(products[i, j], jnp.zeros((), x.dtype), shift))
        return sum(terms[1:], start=terms[0])

    lines = [jnp.stack([phase(r, c) for c in range(strides[1])], axis=3) for r in range(strides[0])]
    return jnp.stack(lines, axis=2).reshape(batch, rows * strides[0], columns * strides[1], features)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _narrow(x: Array, kernel: Array, dilation: Pair) -> Array:
    """Convolution of stride 1 with very few channels and symmetric padding: its own adjoint, kernel
    flipped."""
    return _by_platform(_shift_and_add, lambda x, k, dilation: _conv(x, k, (1, 1), dilation), x, kernel, dilation)


_narrow.defvjp(
    lambda x, kernel, dilation: (_narrow(x, kernel, dilation), (x, kernel)),
    lambda dilation, saved, g: (
        _narrow(g, saved[1][::-1, ::-1].swapaxes(2, 3), dilation),
        jax.linear_transpose(lambda kernel: _conv(saved[0], kernel, (1, 1), dilation), saved[1])(g)[0],
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
