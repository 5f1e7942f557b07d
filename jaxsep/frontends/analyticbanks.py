"""Filterbanks of complex filters that are learned from scratch, under the same frames as the STFT.

Of M. Pariente, S. Cornell, A. Deleforge, E. Vincent, "Filterbank design for end-to-end speech separation", ICASSP 2020,
as asteroid-filterbanks has them; there the real and imaginary parts are 2 `bins` real coefficients, here they are the
spectrum of `bins` complex ones, so that nets on spectra take it.
"""

import abc
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Complex, Float

from jaxsep.bands import hertz_to_mel, mel_to_hertz
from jaxsep.errors import JaxsepError
from jaxsep.frontends.framed import Framed
from jaxsep.frontends.framing import window_energy
from jaxsep.frontends.kernels import check_constraint, constrained, product

SYNTHESES = ("free", "pinv")
LOWEST, MARGIN = 30.0, 50.0  # Hz: asteroid's first frequency, and its least low frequency and least band


class ComplexBank(Framed):
    """Products of frames with complex kernels, and of spectra with real and imaginary kernels of synthesis.

    Frames are not windowed. At the ends of a wave around whose middle they lie, fewer of them overlap; their sum is
    divided by what is missing.

    Attributes:
        frame, hop, padding: see `Framed`.
        bins: filters; None = frame // 2 + 1.
        synthesis: "free", kernels like those of analysis and independent of them; "pinv", the pseudo-inverse of the
            analysis times hop / frame, which inverts it where 2 `bins` are at least `frame`, and takes a singular value
            decomposition at each step: for short frames.
    """

    synthesis: str = "free"

    fixed: ClassVar[bool] = False

    @property
    def available(self) -> int:
        """Bins of the whole spectrum."""
        return self.bins or self.frame // 2 + 1

    def setup(self):
        """Kernels [frame 2 bins], real and imaginary part in the middle, of analysis and of synthesis."""
        self.check()
        self.analysis = self.kernels("analysis")
        if self.synthesis == "free":
            self.resynthesis = self.kernels("synthesis")

    @abc.abstractmethod
    def kernels(self, side: str) -> Float[Array, "frame 2 bins"]:
        """Kernels from the parameters of "analysis" or of "synthesis"."""

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        super().check()
        if self.synthesis not in SYNTHESES:
            raise JaxsepError(f"front.synthesis={self.synthesis!r}: a filterbank takes one of {', '.join(SYNTHESES)}")

    def _analyse(self, frames: Float[Array, "*b n frame"]) -> Complex[Array, "*b n f"]:
        return lax.complex(*jnp.split(product(frames, self.analysis.reshape(self.frame, -1)), 2, axis=-1))

    def _synthesise(self, latent: Complex[Array, "*b n f"]) -> Float[Array, "*b n frame"]:
        parts = jnp.concatenate([latent.real, latent.imag], axis=-1)
        if self.synthesis == "free":
            return product(parts, self.resynthesis.reshape(self.frame, -1).T)
        return self.hop / self.frame * product(parts, jnp.linalg.pinv(self.analysis.reshape(self.frame, -1)))

    def _energy(self, count: int) -> Float[Array, " t"]:
        return self.hop / self.frame * window_energy(np.ones(self.frame, np.float32), self.hop, count)


class AnalyticBank(ComplexBank):
    """Free kernels and their Hilbert transforms: `analytic_free` of asteroid-filterbanks.

    The imaginary part of a kernel has -j times the spectrum of the real one, without DC and half the sample rate, as in
    the paper. Under PyTorch 1.8 and later asteroid-filterbanks 0.4.0 takes the complex conjugate instead, which is the
    spectrum of the real part backwards.

    Parameters: `analysis` and, under free synthesis, `synthesis`, [frame bins]; at first Xavier-normal.

    Attributes:
        constraint: "unit", each real kernel has norm 1; "energy", they have it on average; "none".
    """

    constraint: str = "none"

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        super().check()
        check_constraint(self.constraint)

    def kernels(self, side: str) -> Float[Array, "frame 2 bins"]:
        """The real parts are the parameter."""
        deviation = 1 / math.sqrt(self.frame * (1 + self.available))
        init = nn.initializers.normal(deviation)
        real = constrained(self.param(side, init, (self.frame, self.available), jnp.float32), self.constraint)
        spectrum = jnp.fft.rfft(real, axis=0)
        imag = jnp.fft.irfft(-1j * spectrum, n=self.frame, axis=0)
        return jnp.stack([real, imag], axis=1)


class SincBank(ComplexBank):
    """Band-pass filters between learned frequencies, and their odd counterparts: `param_sinc` of asteroid-filterbanks.

    SincNet's filters (M. Ravanelli, Y. Bengio, SLT 2018) are the real parts. With low = 50 Hz + |low|, high = low +
    50 Hz + |band| up to half the sample rate, the time t from the middle and a symmetric Hamming window w, they are

        w(t) (sin(2 pi high t) - sin(2 pi low t) + j (cos(2 pi low t) - cos(2 pi high t))) / (2 pi t (high - low))

    An odd number of samples, frame - 1, has a middle; the first one is zero.

    Parameters, in Hz: `analysis_low`, `analysis_band` and, under free synthesis, `synthesis_low`, `synthesis_band`,
    [bins]; at first side by side on the mel scale (HTK's) from 80 Hz to half the sample rate.

    Attributes:
        rate: the sample rate.
    """

    rate: int = 44100

    def kernels(self, side: str) -> Float[Array, "frame 2 bins"]:
        """The real parts are even, the imaginary ones odd."""
        low, high = hertz_to_mel(np.array([LOWEST, self.rate / 2 - 2 * MARGIN]), htk=True)
        edges = mel_to_hertz(np.linspace(low, high, self.available + 1), htk=True)
        low = self.param(f"{side}_low", lambda _: jnp.asarray(edges[:-1], jnp.float32))
        band = self.param(f"{side}_band", lambda _: jnp.asarray(np.diff(edges), jnp.float32))
        low = MARGIN + jnp.abs(low)
        high = jnp.minimum(low + MARGIN + jnp.abs(band), self.rate / 2)
        samples = jnp.arange(1.0, self.frame // 2)[:, None]  # behind the middle
        angles = 2 * np.pi / self.rate * samples
        scale = (0.54 + 0.46 * jnp.cos(2 * np.pi / (self.frame - 2) * samples)) / (angles * (high - low))
        even = scale * (jnp.sin(angles * high) - jnp.sin(angles * low))
        odd = scale * (jnp.cos(angles * low) - jnp.cos(angles * high))
        none = jnp.zeros((1, self.available))
        real = jnp.concatenate([none, even[::-1], none + 1, even])
        imag = jnp.concatenate([none, -odd[::-1], none, odd])
        return jnp.stack([real, imag], axis=1)
