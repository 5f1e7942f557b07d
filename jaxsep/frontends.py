"""Front ends: between waves [*b t c] and the latents that a net works on."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex, Float

from jaxsep.convstft import ConvStft
from jaxsep.errors import JaxsepError
from jaxsep.filterbanks import LearnedBank
from jaxsep.framing import WEAK, WINDOWS, checked_window, framed, overlap_add, window_energy


class Stft(nn.Module):
    """Short-time Fourier transform without parameters; `decode` inverts `encode` to float32 precision.

    The transform is not normalised. `decode` is the least-squares inverse (Griffin & Lim 1984, eq. 6):
    windowed overlap-add divided by the sum of the squared windows. Under "left" padding, with a Hann window
    at 75 % overlap, that sum is 3/2 everywhere, which is Spleeter's synthesis window times 2/3.

    Attributes:
        frame: window and FFT length in samples, even.
        hop: samples between frames, a divisor of `frame`.
        window: "hann", "sqrt_hann" or "hamming", periodic.
        padding: "left" puts one frame of zeros before the first sample and as many behind the last as cover
            it (Spleeter: tf.signal.stft with pad_end=True after the zeros); "reflect" mirrors half a frame at
            both ends (torch.stft with center=True: Open-Unmix), also where the wave is shorter than that. There is
            one frame more than torch's where the windows of those have faded out before the wave ends, which torch
            cannot invert (some lengths at a hop of half a Hann window).
        bins: the net sees the lowest `bins` frequencies; None = all frame // 2 + 1.
    """

    frame: int = 4096
    hop: int = 1024
    window: str = "hann"
    padding: str = "left"
    bins: int | None = None

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        if self.padding == "left":
            return -(-(length + self.frame) // self.hop)
        return 1 + length // self.hop + self._ends_weakly(length)

    def encode(self, wave: Float[Array, "*b t c"]) -> Complex[Array, "*b n f c"]:
        """Spectrum of all frame // 2 + 1 bins.

        Raises:
            JaxsepError: fields that do not fit together, or an empty wave.
        """
        length = wave.shape[-2]
        window = self._checked_window()
        if length == 0:
            raise JaxsepError("front: a wave of 0 samples has no spectrum; give at least 1")
        count = self.frames(length)
        covered = (count - 1) * self.hop + self.frame
        wave = jnp.moveaxis(wave, -1, -2)
        if self.padding == "left":
            padded = jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(self.frame, covered - self.frame - length)])
        else:
            padded = _reflect(wave, self.frame // 2)[..., :covered]
            padded = jnp.pad(padded, [(0, 0)] * (wave.ndim - 1) + [(0, covered - padded.shape[-1])])
        return jnp.moveaxis(jnp.fft.rfft(framed(padded, self.frame, self.hop) * window), -3, -1)

    def crop(self, latent: Complex[Array, "*b n f c"]) -> Complex[Array, "*b n g c"]:
        """The lowest `bins` frequencies."""
        return latent[..., : self.bins, :]

    def decode(self, latent: Complex[Array, "*b n f c"], length: int) -> Float[Array, "*b t c"]:
        """Wave of `length` samples; upper bins that are missing count as zero.

        Raises:
            JaxsepError: the number of frames is not that of a wave of `length` samples.
        """
        window = self._checked_window()
        count = latent.shape[-3]
        if count != self.frames(length):
            raise JaxsepError(f"front: {count} frames, but {length} samples have {self.frames(length)}")
        start = self.frame if self.padding == "left" else self.frame // 2
        frames = jnp.fft.irfft(jnp.moveaxis(latent, -1, -3), n=self.frame) * window
        wave = overlap_add(frames, self.hop)[..., start : start + length]
        energy = window_energy(window, self.hop, count)[start : start + length]
        return jnp.moveaxis(wave / energy, -2, -1)

    def _checked_window(self) -> np.ndarray:
        """The window, float32 [frame]. Fields are checked here: linen modules are built unchecked."""
        window = checked_window(self.window, self.frame, self.hop)
        if self.padding not in ("left", "reflect"):
            raise JaxsepError(f"front.padding={self.padding!r} is unknown, expected left or reflect")
        if self.bins is not None and not 1 <= self.bins <= self.frame // 2 + 1:
            raise JaxsepError(f"front.bins={self.bins}: a frame of {self.frame} has 1 to {self.frame // 2 + 1} bins")
        return window

    def _ends_weakly(self, length: int) -> bool:
        """Whether the last samples, beyond the middle of torch's last frame, lie where the windows have faded out."""
        offsets = self.frame // 2 + np.arange(length % self.hop)[:, None] + self.hop * np.arange(self.frame // self.hop)
        squares = np.where(offsets < self.frame, WINDOWS[self.window](offsets / self.frame) ** 2, 0)
        return bool((squares.sum(axis=1) < WEAK).any())


class Identity(nn.Module):
    """The wave itself, for nets that work on samples."""

    def frames(self, length: int) -> int:
        """One "frame" per sample."""
        return length

    def encode(self, wave: Float[Array, "*b t c"]) -> Float[Array, "*b t c"]:
        """The wave."""
        return wave

    def crop(self, latent: Float[Array, "*b t c"]) -> Float[Array, "*b t c"]:
        """The wave."""
        return latent

    def decode(self, latent: Float[Array, "*b t c"], length: int) -> Float[Array, "*b t c"]:
        """The wave.

        Raises:
            JaxsepError: it has not `length` samples.
        """
        if latent.shape[-2] != length:
            raise JaxsepError(f"front: the net gave {latent.shape[-2]} samples where {length} are expected")
        return latent


def _reflect(wave: Float[Array, "*b t"], pad: int) -> Float[Array, "*b u"]:
    """The wave mirrored by `pad` samples at both ends, back and forth where it is shorter than that."""
    length = wave.shape[-1]
    if length > pad:
        return jnp.pad(wave, [(0, 0)] * (wave.ndim - 1) + [(pad, pad)], mode="reflect")
    return wave[..., np.pad(np.arange(length), pad, mode="reflect")]


FRONTS = {"stft": Stft, "conv_stft": ConvStft, "identity": Identity, "learned": LearnedBank}
