"""PHASEN, a phase-and-harmonics-aware network.

D. Yin, C. Luo, Z. Xiong, W. Zeng, "PHASEN: A phase-and-harmonics-aware speech enhancement network", AAAI 2020
(arXiv 1911.04697). The authors published no code; where the paper leaves a choice this is the reading of
github.com/IMLHF/PHASEN-PyTorch, which reports the paper's scores (PESQ 2.99 on VoiceBank-DEMAND).
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv import Conv2D
from jaxsep.layers.recurrent import BLSTM

Pair = tuple[int, int]

SMALL = 1e-12  # of a modulus: below it a phase has no direction


def near_identity(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Kernel (kh, kw, in, out) that passes the channels on, plus a tenth of He's uniform values."""
    kernel = 0.1 * nn.initializers.he_uniform()(key, shape, dtype)
    return kernel.at[shape[0] // 2, shape[1] // 2].add(jnp.eye(*shape[2:], dtype=dtype))


class ConvNorm(nn.Module):
    """Convolution with "same" padding, batch norm, ReLU.

    Attributes:
        features: output channels.
        kernel: along frames and bins.
        dtype: compute precision.
    """

    features: int
    kernel: Pair = (1, 1)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f e"]:
        """[b n f d] -> [b n f features]."""
        x = Conv2D(self.features, self.kernel, dtype=self.dtype, name="conv")(x)
        norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name="norm")
        return nn.relu(norm(x))


class FrequencyTransform(nn.Module):
    """FTB, the frequency transformation block: attention, then a matrix F x F that joins the harmonics.

    The matrix (FreqFC, with a bias) is shared by frames and channels; its output and the block's input are merged by
    a 1x1 convolution. The attention map multiplies the matrix's input. It comes from `reduced` channels per bin, all
    of them the channels of a convolution over nine frames.

    Attributes:
        reduced: channels that the attention sees per bin.
        attention: "frequency" (the paper: a value per frame and bin, shared by the channels; 45 F^2 weights) or
            "channel" (a value per frame and channel, shared by the bins; github.com/huyanxin/phasen).
        dtype: compute precision.
    """

    reduced: int = 5
    attention: str = "frequency"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f d"]:
        """[b n f d] -> [b n f d]."""
        batch, frames, bins, width = x.shape
        line = ConvNorm(self.reduced, dtype=self.dtype, name="reduce")(x, train).reshape(batch, frames, 1, -1)
        by_bin = self.attention == "frequency"
        weights = ConvNorm(bins if by_bin else width, (9, 1), self.dtype, name="attend")(line, train)
        harmonic = x * (jnp.swapaxes(weights, 2, 3) if by_bin else weights)
        harmonic = nn.DenseGeneral(bins, axis=2, dtype=self.dtype, name="freq")(harmonic)  # [b n d f]
        merged = jnp.concatenate([jnp.swapaxes(harmonic, 2, 3), x], axis=-1)
        return ConvNorm(width, dtype=self.dtype, name="merge")(merged, train)


class TwoStream(nn.Module):
    """TSB, the two-stream block: layers on each stream, then each times tanh of a 1x1 convolution of the other.

    | stream | layers (kernels frames x bins) |
    |---|---|
    | amplitude | FTB, conv 5x5, conv 25x1, conv 5x5 (each with norm and ReLU), FTB |
    | phase | layer norm, conv 5x3, layer norm, conv 25x1, without activation |

    The layer norms are over bins and channels of a frame, with a gain and an offset for each of them.

    Attributes:
        reduced, attention: of the FTBs.
        dtype: compute precision.
    """

    reduced: int = 5
    attention: str = "frequency"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, a: Float[Array, "b n f d"], p: Float[Array, "b n f e"], train: bool
    ) -> tuple[Float[Array, "b n f d"], Float[Array, "b n f e"]]:
        """Amplitude and phase stream, in and out."""
        amplitude, phase = a.shape[-1], p.shape[-1]
        a = FrequencyTransform(self.reduced, self.attention, self.dtype, name="ftb1")(a, train)
        for i, kernel in enumerate([(5, 5), (25, 1), (5, 5)], start=1):
            a = ConvNorm(amplitude, kernel, self.dtype, name=f"amplitude{i}")(a, train)
        a = FrequencyTransform(self.reduced, self.attention, self.dtype, name="ftb2")(a, train)
        for i, kernel in enumerate([(5, 3), (25, 1)], start=1):
            norm = nn.LayerNorm(1e-5, reduction_axes=(2, 3), feature_axes=(2, 3), dtype=self.dtype, name=f"norm{i}")
            p = Conv2D(phase, kernel, kernel_init=near_identity, dtype=self.dtype, name=f"phase{i}")(norm(p))
        return a * self._gate(amplitude, "to_amplitude")(p), p * self._gate(phase, "to_phase")(a)

    def _gate(self, features: int, name: str) -> Callable[[Array], Array]:
        """tanh of a 1x1 convolution, open at first."""
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        conv = nn.Dense(features, kernel_init=zeros, bias_init=ones, dtype=self.dtype, name=name)
        return lambda x: jnp.tanh(conv(x))


class PHASEN(nn.Module):
    """Mixture spectrum to M Phi, an amplitude mask times a phasor, of one source.

    | part | layers (kernels frames x bins) | output |
    |---|---|---|
    | amplitude, in | conv 1x7, conv 7x1 on re, im, each with norm and ReLU | a [b n f 96] |
    | phase, in | conv 5x3, conv 25x1 on re, im of the phasor, without norm and activation | p [b n f 48] |
    | three TSBs | `TwoStream` | a, p |
    | amplitude, out | conv 1x1 to 8, sigmoid; BLSTM 600; dense 600, 600 (ReLU), c F (sigmoid) | M in (0, 1) |
    | phase, out | conv 1x1 to 2 c, divided by the modulus | Phi, of modulus 1 |

    With F = 257 bins and one audio channel: 34,995,753 parameters, 35,000,553 with cuDNN's two biases per LSTM gate. c
    audio channels are 2 c real input channels (real parts first), c masks and c phasors: the music form, our deviation,
    as the paper knows one channel only.

    Paper and public codes differ; followed is the first, a field offers the second:

    - the map of the attention has a value per bin or per channel (`attention`);
    - the phase stream sees the mixture's phasors z / (|z| + 1e-7), the best in IMLHF's table, or its spectrum
      (`phase_input`);
    - Figure 1's arrows repeat the block, or add both streams as they were before the first block to the input of
      each later one (`residual`);

    and are not offered: a phase norm whose gains are tied to the number of frames (JuanSMartinez: 44.6 M of its 79.4 M
    parameters) or that follows the convolutions, FreqFC without a bias and GRUs (huyanxin), and masks of the real and
    imaginary part (the 514 outputs in the figure; all codes that estimate a phasor have 257).

    The paper is silent on initial values. Here the phase stream starts near the identity and its gates open, so that
    Phi starts at the mixture's phase, and M near 0.1: with a random Phi the best mask is 0, and on its way there the
    BLSTM saturates.

    In training, the biases of convolutions in front of a batch norm have no effect and no gradient. Matrices over the
    bins fix their number at initialisation; the number of frames is free.

    Attributes:
        amplitude, phase: channels of the streams.
        reduced: channels per bin that the attention sees.
        blocks: number of TSBs.
        squeeze: channels per bin that the BLSTM sees.
        units: of the BLSTM per direction, and of the two dense layers behind it.
        attention: "frequency" or "channel", see `FrequencyTransform`.
        phase_input: "unit" (phasors) or "spectrum".
        residual: whether TSBs behind the first also see the streams in front of the first.
        dtype: compute precision; parameters, statistics, mask and phasor are float32.
    """

    amplitude: int = 96
    phase: int = 48
    reduced: int = 5
    blocks: int = 3
    squeeze: int = 8
    units: int = 600
    attention: str = "frequency"
    phase_input: str = "unit"
    residual: bool = False
    dtype: DTypeLike = jnp.float32

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded): any number of frames."""
        return length, length

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Complex[Array, "b n f c"]:
        """M Phi of the mixture spectrum `z`; `targets` is not used: one net, one source.

        Raises:
            JaxsepError: a field has an unknown value, or the number of bins is not that of the weights.
        """
        self._check(z)
        a, p = self._amplitude_in(z, train), self._phase_in(z)
        first = (a, p)
        for i in range(self.blocks):
            if i and self.residual:
                a, p = a + first[0], p + first[1]
            a, p = TwoStream(self.reduced, self.attention, self.dtype, name=f"block{i + 1}")(a, p, train)
        return self._mask(a, z.shape[-1], train) * self._phasor(p, z.shape[-1])

    def _amplitude_in(self, z: Array, train: bool) -> Array:
        x = _real(z).astype(self.dtype)
        for i, kernel in enumerate([(1, 7), (7, 1)], start=1):
            x = ConvNorm(self.amplitude, kernel, self.dtype, name=f"amplitude_in{i}")(x, train)
        return x

    def _phase_in(self, z: Array) -> Array:
        x = _real(_unit(z) if self.phase_input == "unit" else z).astype(self.dtype)
        for i, kernel in enumerate([(5, 3), (25, 1)], start=1):
            x = Conv2D(self.phase, kernel, kernel_init=near_identity, dtype=self.dtype, name=f"phase_in{i}")(x)
        return x

    def _mask(self, a: Array, channels: int, train: bool) -> Array:
        """M, float32 [b n f c]."""
        batch, frames, bins, _ = a.shape
        x = nn.sigmoid(Conv2D(self.squeeze, (1, 1), dtype=self.dtype, name="squeeze")(a))
        x = BLSTM(self.units, dtype=self.dtype, name="blstm")(x.reshape(batch, frames, -1), train)
        for i in (1, 2):
            x = nn.relu(nn.Dense(self.units, dtype=self.dtype, name=f"dense{i}")(x))
        x = nn.Dense(bins * channels, bias_init=nn.initializers.constant(-2), dtype=self.dtype, name="mask")(x)
        return nn.sigmoid(x.astype(jnp.float32)).reshape(batch, frames, bins, channels)

    def _phasor(self, p: Array, channels: int) -> Array:
        """Phi, complex64 [b n f c], 1 where the net gives 0."""
        x = Conv2D(2 * channels, (1, 1), kernel_init=near_identity, dtype=self.dtype, name="phasor")(p)
        x = x.astype(jnp.float32)
        real, imaginary = jnp.split(x, 2, axis=-1)
        square = real**2 + imaginary**2
        directed = square > SMALL**2
        size = jnp.sqrt(jnp.where(directed, square, 1))
        return jnp.where(directed, real / size, 1) + 1j * jnp.where(directed, imaginary / size, 0)

    def _check(self, z: Array) -> None:
        for key, value, known in (
            ("attention", self.attention, ("frequency", "channel")),
            ("phase_input", self.phase_input, ("unit", "spectrum")),
        ):
            if value not in known:
                raise JaxsepError(f"model.{key}={value!r}, expected {known[0]} or {known[1]}")
        if not self.is_initializing():
            expected = self.variables["params"]["block1"]["ftb1"]["freq"]["kernel"].shape[0]
            if z.shape[2] != expected:
                raise JaxsepError(f"phasen: {z.shape[2]} bins, the weights are for {expected}; set front.bins")


def _real(z: Complex[Array, "b n f c"]) -> Float[Array, "b n f d"]:
    """Real parts of all audio channels, then their imaginary parts."""
    return jnp.concatenate([z.real, z.imag], axis=-1)


def _unit(z: Complex[Array, "b n f c"]) -> Complex[Array, "b n f c"]:
    """Phasors; 0, with a gradient of 0, where z is 0."""
    square = z.real**2 + z.imag**2
    size = jnp.sqrt(jnp.where(square > 0, square, 1))
    return z / (size + 1e-7)
