"""The STFT of DCCRN, written as convolutions with fixed kernels by its authors and computed by FFTs here."""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import checked_window, framed, overlap_add, window_energy

FORMS = ("dccrn", "asteroid")


class ConvStft(nn.Module):
    """Short-time Fourier transform of a frame that may be shorter than the FFT; no parameters.

    | form | "dccrn" | "asteroid" |
    |---|---|---|
    | code | `conv_stft.py` of github.com/huyanxin/DeepComplexCRN | `STFTFB` of asteroid-filterbanks |
    | zeros around the wave | frame - hop on both sides | none |
    | a frame in the FFT | at its start | in its middle |
    | scale of the kernels | 1 | 2 sqrt(hop / (frame fft)), DC and Nyquist 1 / sqrt(2) of it |
    | synthesis | pseudo-inverse of the DFT's first `frame` columns | the analysis kernels, transposed |
    | windowed overlap-add | divided by the sum of squared windows | as it is |
    | inverse | exact | where frame / hop windows overlap: not in the first and last frame - hop samples |

    Both codes drop what lies behind the last whole hop; here zeros fill that hop and are cropped from the decoded wave.

    The pseudo-inverse has a closed form. With K the DFT's rows of cosines and sines for bins 0 to fft / 2, cut to
    `frame` columns, K'K = fft / 2 I + (1 1' + a a') / 2, where a alternates in sign; its inverse takes from the
    inverse FFT's samples of even time 2 / (fft + frame) of their sum, and likewise from those of odd time.

    Attributes:
        frame: window length in samples, even.
        hop: samples between frames, a divisor of `frame`.
        fft: points, even, at least `frame`.
        window: "hann", "sqrt_hann" or "hamming", periodic. The codes have "hann" and "sqrt_hann".
        form: "dccrn" or "asteroid".
        bins: the net sees the lowest `bins` frequencies; None = all fft // 2 + 1.
        clamp: decoded waves are clamped to [-1, 1], as in DCCRN's `forward`. Off: it hides the gradient of every sample
            beyond, and a loss like SI-SNR, which does not see the scale, leads there.
    """

    frame: int = 400
    hop: int = 100
    fft: int = 512
    window: str = "hann"
    form: str = "dccrn"
    bins: int | None = None
    clamp: bool = False

    fixed: ClassVar[bool] = True
    domain: ClassVar[str] = "spectrum"

    @property
    def span(self) -> int:
        """Samples that a frame sees."""
        return self.frame

    @property
    def points(self) -> int:
        """Points of the transform."""
        return self.fft

    def untrained(self) -> "ConvStft":
        """Itself: there is nothing to train."""
        return self

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        covered = max(length - self.frame, 0) if self.form == "asteroid" else length + self.frame - 2 * self.hop
        return 1 + -(-covered // self.hop)

    def encode(self, wave: Float[Array, "*b t c"]) -> Complex[Array, "*b n f c"]:
        """Spectrum of all fft // 2 + 1 bins.

        Raises:
            JaxsepError: fields that do not fit together, or an empty wave.
        """
        window, lead = self._checked_window(), self._lead()
        wave = jnp.moveaxis(wave, -1, -2)
        length = wave.shape[-1]
        if length == 0:
            raise JaxsepError("front: a wave of 0 samples has no spectrum; give at least 1")
        covered = (self.frames(length) - 1) * self.hop + self.frame
        wave = jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(lead, covered - lead - length)])
        frames = framed(wave, self.frame, self.hop) * window
        if self.form == "dccrn":
            spectrum = jnp.fft.rfft(frames, n=self.fft)
        else:
            frames = jnp.pad(frames, [(0, 0)] * (frames.ndim - 1) + [self._margins()])
            spectrum = jnp.fft.rfft(frames) * self._scale(np.sqrt(0.5))
        return jnp.moveaxis(spectrum, -3, -1)

    def crop(self, latent: Complex[Array, "*b n f c"]) -> Complex[Array, "*b n g c"]:
        """The lowest `bins` frequencies."""
        return latent[..., : self.bins, :]

    def decode(self, latent: Complex[Array, "*b n f c"], length: int) -> Float[Array, "*b t c"]:
        """Wave of `length` samples; upper bins that are missing count as zero.

        Raises:
            JaxsepError: the number of frames is not that of a wave of `length` samples.
        """
        window, lead = self._checked_window(), self._lead()
        count = latent.shape[-3]
        if count != self.frames(length):
            raise JaxsepError(f"front: {count} frames, but {length} samples have {self.frames(length)}")
        latent = jnp.moveaxis(latent, -1, -3)
        missing = self.fft // 2 + 1 - latent.shape[-1]
        latent = jnp.pad(latent, [(0, 0)] * (latent.ndim - 1) + [(0, missing)])
        kept = slice(lead, lead + length)
        if self.form == "dccrn":
            wave = overlap_add(self._least_squares(latent) * window, self.hop)[..., kept]
            wave = wave / (window_energy(window, self.hop, count)[kept] + 1e-8)
        else:
            low = self._margins()[0]
            frames = jnp.fft.irfft(latent * (self.fft / 2 * self._scale(np.sqrt(2))), n=self.fft)
            wave = overlap_add(frames[..., low : low + self.frame] * window, self.hop)[..., kept]
        return jnp.moveaxis(jnp.clip(wave, -1, 1) if self.clamp else wave, -2, -1)

    def _least_squares(self, latent: Complex[Array, "*b n f"]) -> Float[Array, "*b n frame"]:
        """Frames whose spectra, not windowed, are nearest to `latent`."""
        ends = np.ones(self.fft // 2 + 1, np.float32)
        ends[[0, -1]] = 2
        samples = jnp.fft.irfft(latent * ends, n=self.fft)[..., : self.frame]
        pairs = samples.reshape(*samples.shape[:-1], -1, 2)
        pairs = pairs - 2 / (self.fft + self.frame) * pairs.sum(axis=-2, keepdims=True)
        return pairs.reshape(samples.shape)

    def _lead(self) -> int:
        """Zeros before the wave."""
        return self.frame - self.hop if self.form == "dccrn" else 0

    def _margins(self) -> tuple[int, int]:
        """Zeros around a frame in the FFT."""
        low = (self.fft - self.frame) // 2
        return low, self.fft - self.frame - low

    def _scale(self, ends: float) -> np.ndarray:
        """asteroid's scale per bin, DC and Nyquist times `ends`."""
        scale = np.full(self.fft // 2 + 1, 2 * np.sqrt(self.hop / (self.frame * self.fft)))
        scale[[0, -1]] *= ends
        return scale.astype(np.float32)

    def _checked_window(self) -> Float[np.ndarray, " frame"]:
        self.check()
        return checked_window(self.window, self.frame, self.hop)

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        checked_window(self.window, self.frame, self.hop)
        if self.form not in FORMS:
            raise JaxsepError(f"front.form={self.form!r} is unknown, expected one of {', '.join(FORMS)}")
        if self.fft < self.frame or self.fft % 2:
            raise JaxsepError(f"front: fft={self.fft} must be even and at least frame={self.frame}")
        if self.bins is not None and not 1 <= self.bins <= self.fft // 2 + 1:
            raise JaxsepError(f"front.bins={self.bins}: an FFT of {self.fft} has 1 to {self.fft // 2 + 1} bins")
