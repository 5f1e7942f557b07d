"""Layers on complex features that are kept as real ones, [... 2d]: all real parts, then all imaginary parts."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.layers.conv1d import torch_uniform
from jaxsep.layers.recurrent import Weights, lstm, uniform_by_units

Pair = tuple[int, int]
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def to_parts(z: Complex[Array, "*b d"]) -> Float[Array, "*b e"]:
    """[... d] -> [... 2d]."""
    return jnp.concatenate([z.real, z.imag], axis=-1)


def from_parts(x: Float[Array, "*b e"]) -> Complex[Array, "*b d"]:
    """[... 2d] -> [... d]."""
    return lax.complex(*jnp.split(x, 2, axis=-1))


def join(x: Float[Array, "*b d"], y: Float[Array, "*b e"]) -> Float[Array, "*b g"]:
    """Complex features side by side."""
    return jnp.concatenate([part for both in zip(_split(x), _split(y), strict=True) for part in both], axis=-1)


def _split(x: Array) -> list[Array]:
    return jnp.split(x, 2, axis=-1)


def product(real: Float[Array, "*b d e"], imag: Float[Array, "*b d e"]) -> Float[Array, "*b i j"]:
    """The real matrix that multiplies parts by `real` + j `imag`; [d e] -> [2d 2e], leading axes stay.

    One real product (or convolution) of twice the size instead of four: the same operations, twice as fast on a CPU.
    """
    above, below = jnp.concatenate([real, imag], axis=-1), jnp.concatenate([-imag, real], axis=-1)
    return jnp.concatenate([above, below], axis=-2)


class ComplexConv(nn.Module):
    """Complex 2-D convolution of every second bin, kernel 2 frames x `kernel` bins.

    With W = W_r + j W_i the output is W_r x_r - W_i x_i + j (W_i x_r + W_r x_i). Bins are padded by (kernel - 1) / 2
    zeros on both sides. Parameters: `real`, `imag` (2, kernel, in, out) and, with biases, `real_bias`, `imag_bias`
    (out,), one for W_r and one for W_i as in the public codes: the real part gets b_r - b_i, the imaginary part b_r +
    b_i.

    Attributes:
        features: complex output channels.
        kernel: bins, odd.
        padding: zeros before the first and behind the last frame.
        bias: whether there are biases.
        kernel_init, bias_init: initialisers; None = PyTorch's `torch_uniform`.
        dtype: compute precision; parameters stay float32.
    """

    features: int
    kernel: int
    padding: Pair
    bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"]) -> Float[Array, "b m g e"]:
        """[b n f 2*in] -> [b n+sum(padding)-1 f/2 2*features]; f is even."""
        shape = (2, self.kernel, x.shape[-1] // 2, self.features)
        default = torch_uniform(2 * self.kernel * shape[2])
        bias_init = (self.bias_init or default) if self.bias else None
        kernel, bias = _weights(self, shape, self.kernel_init or default, bias_init)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return _plus(down(x, kernel, self.padding), bias)


class ComplexConvTranspose(nn.Module):
    """Complex transposed 2-D convolution, kernel 2 frames x `kernel` bins, twice as many bins; as `ComplexConv`.

    Attributes:
        features, kernel, bias, kernel_init, bias_init, dtype: as there.
    """

    features: int
    kernel: int
    bias: bool = True
    kernel_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"]) -> Float[Array, "b m g e"]:
        """[b n f 2*in] -> [b n+1 2f 2*features]."""
        shape = (2, self.kernel, x.shape[-1] // 2, self.features)
        default = torch_uniform(2 * self.kernel * self.features)
        bias_init = (self.bias_init or default) if self.bias else None
        kernel, bias = _weights(self, shape, self.kernel_init or default, bias_init)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return _plus(up(x, kernel), bias)


class ComplexDense(nn.Module):
    """Complex matrix, with biases as `ComplexConv`; parameters `real`, `imag` (in, out), `real_bias`, `imag_bias`.

    Attributes:
        features: complex outputs; initial values are PyTorch's.
        dtype: compute precision; parameters stay float32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
        """[... 2*in] -> [... 2*features]."""
        shape = (x.shape[-1] // 2, self.features)
        kernel, bias = _weights(self, shape, torch_uniform(shape[0]), torch_uniform(shape[0]))
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        return _plus(x @ kernel, bias)


class ComplexLSTM(nn.Module):
    """Layers of complex LSTMs: LSTM_r(x_r) - LSTM_i(x_i) + j (LSTM_r(x_i) + LSTM_i(x_r)), forward in time.

    The two of a layer run side by side on both parts, which are examples of one batch; they are not given to
    `layers.cudnn`, which has no such pair. Parameters as those of `layers.recurrent.LSTM`:
    `layer{i}_{real,imag}/{input, recurrent, bias}`.

    Attributes:
        units: complex outputs.
        layers: one on top of the other.
        dtype: precision of the matrix products; parameters stay float32.
    """

    units: int
    layers: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n e"]:
        """[b n 2*in] -> [b n 2*units]."""
        init = uniform_by_units(self.units)
        x = jnp.concatenate(_split(jnp.swapaxes(x, 0, 1)), axis=1)  # [n 2b d]: real parts, imaginary parts
        for i in range(self.layers):
            weights = [
                Weights(self.units, init, init, init, name=f"layer{i}_{part}")(x.shape[-1]) for part in ("real", "imag")
            ]
            inputs, recurrent, bias = zip(*weights, strict=True)
            x, kernel, recurrent = promote_dtype(
                x, jnp.concatenate(inputs, axis=1), jnp.stack(recurrent), dtype=self.dtype
            )
            gates = jnp.dot(x, kernel, preferred_element_type=jnp.float32) + jnp.concatenate(bias)
            h = lstm(jnp.stack(_split(gates), axis=1), tuple(recurrent))
            (r_of_r, r_of_i), (i_of_r, i_of_i) = (jnp.split(h[:, k], 2, axis=1) for k in (0, 1))
            x = jnp.concatenate([r_of_r - i_of_i, r_of_i + i_of_r], axis=1).astype(x.dtype)
        return jnp.swapaxes(jnp.concatenate(jnp.split(x, 2, axis=1), axis=-1), 0, 1)


class ComplexBatchNorm(nn.Module):
    """Whitening batch norm: V^(-1/2) (x - mean) with the 2 x 2 covariance V of real and imaginary part per channel.

    C. Trabelsi et al., "Deep complex networks", ICLR 2018, eq. 7-14; behind the whitening there is a symmetric 2 x 2
    matrix and an offset per channel. As in DCCRN's code the matrix starts as [[1, u], [u, 1]] with u drawn from
    (-0.9, 0.9) for each channel, where the paper starts at [[1, 0], [0, 1]] / sqrt(2). Parameters: `scale` (3, d), rr,
    ri and ii, and `bias` (2d,); statistics `mean` (2d,), `cov` (3, d).

    (The other batch norm of complex layers, real and imaginary parts each for itself, is `nn.BatchNorm` on the parts.)

    Attributes:
        momentum: of the running statistics.
        epsilon: added to the variances.
        dtype: of the output; computed in float32.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f e"], train: bool) -> Float[Array, "b n f e"]:
        """[b n f 2d] -> [b n f 2d]."""
        channels = x.shape[-1] // 2
        scale = self.param("scale", _scale_init, (3, channels), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (2 * channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (2 * channels,))
        cov = self.variable("batch_stats", "cov", lambda: jnp.ones((3, channels)).at[1].set(0))
        x = x.astype(jnp.float32)
        if train:
            centre = x.mean(axis=(0, 1, 2))
            real, imag = _split(x - centre)
            now = jnp.stack([(p * q).mean(axis=(0, 1, 2)) for p, q in ((real, real), (real, imag), (imag, imag))])
            if not self.is_initializing():
                mean.value = self.momentum * mean.value + (1 - self.momentum) * centre
                cov.value = self.momentum * cov.value + (1 - self.momentum) * now
        else:
            centre, now = mean.value, cov.value
            real, imag = _split(x - centre)
        u_rr, u_ri, u_ii = _inverse_root(now, self.epsilon)
        s_rr, s_ri, s_ii = scale
        y_r = (s_rr * u_rr + s_ri * u_ri) * real + (s_rr * u_ri + s_ri * u_ii) * imag
        y_i = (s_ri * u_rr + s_ii * u_ri) * real + (s_ri * u_ri + s_ii * u_ii) * imag
        return (jnp.concatenate([y_r, y_i], axis=-1) + bias).astype(self.dtype)


class PReLU(nn.Module):
    """max(x, 0) + slope min(x, 0) on the parts; `slope` starts at PyTorch's 0.25.

    Attributes:
        shared: one slope for all (DCCRN), or one for real and one for imaginary parts (asteroid).
    """

    shared: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b e"]) -> Float[Array, "*b e"]:
        """[... 2d] -> [... 2d]."""
        slope = self.param("slope", nn.initializers.constant(0.25), (1 if self.shared else 2,), jnp.float32)
        slope = slope if self.shared else jnp.repeat(slope, x.shape[-1] // 2)
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


def down(x: Float[Array, "b n f d"], kernel: Float[Array, "i j d e"], padding: Pair) -> Float[Array, "b m g e"]:
    """Convolution of every second bin, kernel (frames, odd bins, in, out), bins padded by half a kernel."""
    side = kernel.shape[1] // 2
    return lax.conv_general_dilated(x, kernel, (1, 2), (padding, (side, side)), dimension_numbers=_DIMENSIONS)


def up(x: Float[Array, "b n f d"], kernel: Float[Array, "i j d e"]) -> Float[Array, "b m g e"]:
    """Transposed convolution to every second bin, kernel (frames, odd bins, in, out), cropped by half a kernel of bins.

    y[m, 2g + j - half] is the sum over i and j of x[m - i, g] kernel[i, j]. In sub-pixel form: one convolution, whose
    channels are the even and the odd bins of the output. XLA has no fast filter gradient of the plain form on a CPU (64
    to 16 channels, 80 frames x 352 bins: 800 ms, in this form 20 ms).
    """
    frames, bins, _, features = kernel.shape
    half = bins // 2
    # Tap j falls on output bins of the parity of j - half: with a zero in front where half is odd, on that of j.
    taps = jnp.pad(kernel, [(0, 0), (half % 2, 1 - half % 2), (0, 0), (0, 0)])
    pairs = taps.shape[1] // 2
    blocks = taps.reshape(frames, pairs, 2, -1, features)[::-1, ::-1].swapaxes(2, 3)
    behind = (half + half % 2) // 2
    y = lax.conv_general_dilated(
        x,
        blocks.reshape(frames, pairs, -1, 2 * features),
        (1, 1),
        ((frames - 1, frames - 1), (pairs - 1 - behind, behind)),
        dimension_numbers=_DIMENSIONS,
    )
    return y.reshape(*y.shape[:2], -1, features)


def _weights(
    layer: nn.Module, shape: tuple[int, ...], kernel_init: Callable, bias_init: Callable | None
) -> tuple[Array, Array | None]:
    """Real kernel and bias for the parts, from the parameters of a complex layer; `shape` ends with (in, out)."""
    kernel = product(*(layer.param(name, kernel_init, shape, jnp.float32) for name in ("real", "imag")))
    if bias_init is None:
        return kernel, None
    b_r, b_i = (layer.param(f"{name}_bias", bias_init, shape[-1:], jnp.float32) for name in ("real", "imag"))
    return kernel, jnp.concatenate([b_r - b_i, b_r + b_i])


def _plus(x: Array, bias: Array | None) -> Array:
    return x if bias is None else x + bias


def _scale_init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    return jnp.ones(shape, dtype).at[1].set(jax.random.uniform(key, shape[1:], dtype, -0.9, 0.9))


def _inverse_root(cov: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """rr, ri and ii of (V + epsilon I)^(-1/2), V given by its rr, ri and ii."""
    rr, ri, ii = cov[0] + epsilon, cov[1], cov[2] + epsilon
    trace = rr + ii
    # V is positive semidefinite, so the determinant has a lower bound; below it there is rounding.
    root = jnp.sqrt(jnp.maximum(rr * ii - ri**2, epsilon * (trace - epsilon)))
    factor = 1 / (root * jnp.sqrt(trace + 2 * root))
    return (root + ii) * factor, -ri * factor, (root + rr) * factor
