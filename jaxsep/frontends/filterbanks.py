"""Filterbanks that are learned with the net: between waves [*b t c] and real coefficients [*b n d]."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import framed, overlap_add
from jaxsep.frontends.kernels import check_constraint, constrained
from jaxsep.layers.conv1d import torch_uniform

CONVENTIONS = ("asteroid", "torchaudio", "demucs")
ACTIVATIONS = ("linear", "relu", "gated")
SYNTHESES = ("free", "pinv")


class LearnedBank(nn.Module):
    """Encoder and decoder of TasNet and Conv-TasNet: a strided convolution and a transposed one, without biases.

    All channels of a wave share one set of coefficients; each has its own part of the synthesis.

    Attributes:
        channels: c, audio channels.
        filters: N, coefficients per frame.
        kernel: L, samples of a filter.
        stride: samples from one frame to the next, at most L.
        activation: of the coefficients. "linear"; "relu"; "gated", relu(analysis) sigmoid(gate) with a second set of
            kernels (TasNet).
        convention: whose code is followed in how frames lie at the ends of a wave, and in the initial kernels.
            "asteroid": frames lie within the wave, and what is behind the last one (less than a stride) comes out as
            zeros; kernels Xavier-normal, both as those of a convolution from one channel to N. "demucs": the same, the
            synthesis Xavier-normal as a linear map from N to L c. "torchaudio": zeros surround the wave, so that every
            sample lies in as many frames as any other; kernels uniform, as PyTorch's convolutions; stride = L // 2.
        synthesis: "free", kernels of its own; "pinv", the pseudo-inverse of the analysis times stride / L (asteroid's
            `pinv_of`), which inverts a linear analysis of at least L c filters, the first and last frames aside.
        constraint: "unit", each filter has norm 1; "energy", they have it on average; "none".
    """

    channels: int
    filters: int = 512
    kernel: int = 16
    stride: int = 8
    activation: str = "linear"
    convention: str = "asteroid"
    synthesis: str = "free"
    constraint: str = "none"

    fixed: ClassVar[bool] = False
    domain: ClassVar[str] = "coefficients"

    @property
    def span(self) -> int:
        """Samples that a frame sees."""
        return self.kernel

    def setup(self):
        """Analysis and gate [k c d], synthesis [d k c]."""
        self.check()
        taps, inputs = self.kernel * self.channels, self.kernel * self.filters
        if self.convention == "torchaudio":
            analysis, synthesis = torch_uniform(taps), torch_uniform(taps)
        else:
            analysis = nn.initializers.normal((2 / (taps + inputs)) ** 0.5)
            linear = nn.initializers.normal((2 / (taps + self.filters)) ** 0.5)
            synthesis = linear if self.convention == "demucs" else analysis
        shape = (self.kernel, self.channels, self.filters)
        self.kernels = constrained(self.param("analysis", analysis, shape, jnp.float32), self.constraint)
        if self.activation == "gated":
            self.gate = self.param("gate", analysis, shape, jnp.float32)
        shape = (self.filters, self.kernel, self.channels)
        if self.synthesis == "free":
            free = self.param("synthesis", synthesis, shape, jnp.float32)
            self.duals = jnp.moveaxis(constrained(jnp.moveaxis(free, 0, -1), self.constraint), -1, 0)
        else:
            inverse = jnp.linalg.pinv(self.kernels.reshape(-1, self.filters))
            self.duals = self.stride / self.kernel * inverse.reshape(shape)

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        return max(0, self._padded(length) - self.kernel) // self.stride + 1

    def encode(self, wave: Float[Array, "*b t c"]) -> Float[Array, "*b n d"]:
        """Coefficients.

        Raises:
            JaxsepError: an empty wave, or one of other channels.
        """
        length, channels = wave.shape[-2:]
        if length == 0:
            raise JaxsepError("front: a wave of 0 samples has no coefficients; give at least 1")
        if channels != self.channels:
            raise JaxsepError(f"front: a wave of {channels} channels, expected {self.channels}")
        covered = (self.frames(length) - 1) * self.stride + self._taps
        lead = self._lead
        wave = wave[..., : covered - lead, :]
        wave = jnp.pad(wave, [(0, 0)] * (wave.ndim - 2) + [(lead, covered - lead - wave.shape[-2]), (0, 0)])
        flat = wave.reshape(*wave.shape[:-2], -1)  # channels within samples, as in the kernels
        windows = framed(flat, self._taps * channels, self.stride * channels)
        latent = self._products(windows, self.kernels)
        if self.activation == "linear":
            return latent
        latent = jax.nn.relu(latent)
        return latent if self.activation == "relu" else latent * jax.nn.sigmoid(self._products(windows, self.gate))

    def crop(self, latent: Float[Array, "*b n d"]) -> Float[Array, "*b n d"]:
        """All coefficients."""
        return latent

    def decode(self, latent: Float[Array, "*b n d"], length: int) -> Float[Array, "*b t c"]:
        """Wave of `length` samples.

        Raises:
            JaxsepError: the number of frames is not that of a wave of `length` samples.
        """
        *batch, count, width = latent.shape
        if count != self.frames(length):
            raise JaxsepError(f"front: {count} frames, but {length} samples have {self.frames(length)}")
        kernel = jnp.pad(self.duals, [(0, 0), (0, self._taps - self.kernel), (0, 0)]).reshape(width, -1)
        windows = (latent.reshape(-1, width) @ kernel).reshape(*batch, count, -1)
        wave = overlap_add(windows, self.stride * self.channels).reshape(*batch, -1, self.channels)
        wave = wave[..., self._lead :, :][..., :length, :]
        return jnp.pad(wave, [(0, 0)] * len(batch) + [(0, length - wave.shape[-2]), (0, 0)])

    @property
    def _taps(self) -> int:
        """The kernel in whole strides."""
        return -(-self.kernel // self.stride) * self.stride

    @property
    def _lead(self) -> int:
        """Zeros before the wave."""
        return self.stride if self.convention == "torchaudio" else 0

    def _padded(self, length: int) -> int:
        """Samples that frames may lie in."""
        if self.convention != "torchaudio":
            return length
        odd = self.kernel % 2
        return -(-(length - odd) // self.stride) * self.stride + odd + 2 * self.stride

    def _products(self, windows: Array, kernel: Array) -> Array:
        """[*b n k*c] x [k c d] -> [*b n d]."""
        taps = jnp.pad(kernel, [(0, self._taps - self.kernel), (0, 0), (0, 0)]).reshape(-1, self.filters)
        return (windows.reshape(-1, windows.shape[-1]) @ taps).reshape(*windows.shape[:-1], self.filters)

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        check_constraint(self.constraint)
        for key, names in (("convention", CONVENTIONS), ("activation", ACTIVATIONS), ("synthesis", SYNTHESES)):
            if getattr(self, key) not in names:
                raise JaxsepError(f"front.{key}={getattr(self, key)!r} is unknown, expected one of {', '.join(names)}")
        if not 1 <= self.stride <= self.kernel:
            raise JaxsepError(f"front: stride={self.stride}, expected 1 to kernel={self.kernel}")
        if self.convention == "torchaudio" and self.stride != self.kernel // 2:
            raise JaxsepError(f"front: stride={self.stride}, but convention='torchaudio' has {self.kernel // 2}")
