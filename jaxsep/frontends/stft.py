"""The short-time Fourier transform without parameters."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import (
    PADDINGS,
    WEAK,
    checked_window,
    framed,
    overlap_add,
    padded,
    window_energy,
    window_taps,
)


class Stft(nn.Module):
    """Short-time Fourier transform without parameters; `decode` inverts `encode` to float32 precision.

    `decode` is the least-squares inverse (Griffin & Lim 1984, eq. 6): windowed overlap-add divided by the sum of the
    squared windows. Under "left" padding, with a Hann window at 75 % overlap, that sum is 3/2 everywhere, which is
    Spleeter's synthesis window times 2/3.

    | padding | frames |
    |---|---|
    | "left" | start at every hop, the first of them one frame before the wave; zeros surround it |
    | "reflect" | have their middle at every hop; the wave is mirrored, back and forth where it is short |
    | "zeros" | have their middle at every hop; zeros surround the wave |

    "left" is Spleeter's, tf.signal.stft with pad_end=True behind a frame of zeros; the others are center=True of
    torch.stft and librosa with pad_mode "reflect" and "constant", boundary "even" and "zeros" of scipy.signal.stft. Of
    these there is one more than torch has where the windows of its frames have faded out before the wave ends, which
    torch cannot invert (some lengths at a hop of half a Hann window).

    Attributes:
        frame: window length in samples, even.
        hop: samples between frames, a divisor of `frame`.
        window: "hann", "sqrt_hann", "hamming" or "gaussian" (six deviations long), periodic.
        padding: see above.
        bins: the net sees the lowest `bins` frequencies; None = all fft // 2 + 1.
        fft: points of the transform, even, with the window in their middle as in torch.stft; 0 = `frame`.
        normalised: the transform is orthonormal, fft^-1/2 times the sum (torch.stft's `normalized`).
    """

    frame: int = 4096
    hop: int = 1024
    window: str = "hann"
    padding: str = "left"
    bins: int | None = None
    fft: int = 0
    normalised: bool = False

    fixed: ClassVar[bool] = True

    @property
    def points(self) -> int:
        """Points of the transform."""
        return self.fft or self.frame

    def start(self) -> "Stft":
        """The transform without parameters that this one is at the start of training: itself, here."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Stft) if field.init}
        return Stft(**values | {"name": None, "parent": None})

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        if self.padding == "left":
            return -(-(length + self.frame) // self.hop)
        return 1 + length // self.hop + self._ends_weakly(length)

    def encode(self, wave: Float[Array, "*b t c"]) -> Complex[Array, "*b n f c"]:
        """Spectrum of all fft // 2 + 1 bins.

        Raises:
            JaxsepError: fields that do not fit together, or an empty wave.
        """
        self.check()
        length = wave.shape[-2]
        if length == 0:
            raise JaxsepError("front: a wave of 0 samples has no spectrum; give at least 1")
        covered = (self.frames(length) - 1) * self.hop + self.frame
        surrounded = padded(jnp.moveaxis(wave, -1, -2), self._lead, covered, self.padding == "reflect")
        analysis, _ = self._windows()
        return jnp.moveaxis(self._transform(framed(surrounded, self.frame, self.hop) * analysis), -3, -1)

    def crop(self, latent: Complex[Array, "*b n f c"]) -> Complex[Array, "*b n g c"]:
        """The lowest `bins` frequencies."""
        return latent[..., : self.bins, :]

    def decode(self, latent: Complex[Array, "*b n f c"], length: int) -> Float[Array, "*b t c"]:
        """Wave of `length` samples; upper bins that are missing count as zero.

        Raises:
            JaxsepError: the number of frames is not that of a wave of `length` samples.
        """
        self.check()
        count = latent.shape[-3]
        if count != self.frames(length):
            raise JaxsepError(f"front: {count} frames, but {length} samples have {self.frames(length)}")
        kept = slice(self._lead, self._lead + length)
        _, synthesis = self._windows()
        wave = overlap_add(self._inverse(jnp.moveaxis(latent, -1, -3)) * synthesis, self.hop)[..., kept]
        return jnp.moveaxis(wave / self._energy(count)[kept], -2, -1)

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        checked_window(self.window, self.frame, self.hop)
        if self.padding not in PADDINGS:
            raise JaxsepError(f"front.padding={self.padding!r} is unknown, expected one of {', '.join(PADDINGS)}")
        if self.points < self.frame or self.points % 2:
            raise JaxsepError(f"front.fft={self.fft}: expected an even number, at least front.frame={self.frame}")
        if self.bins is not None and not 1 <= self.bins <= self.points // 2 + 1:
            raise JaxsepError(f"front.bins={self.bins}: an FFT of {self.points} has 1 to {self.points // 2 + 1} bins")

    def _windows(self) -> tuple[Float[Array | np.ndarray, " frame"], Float[Array | np.ndarray, " frame"]]:
        """Of analysis and of synthesis."""
        return self._taps, self._taps

    def _energy(self, count: int) -> Float[Array, " t"]:
        """What the overlapping frames have to be divided by."""
        return window_energy(self._taps, self.hop, count)

    def _transform(self, frames: Float[Array, "*b n frame"]) -> Complex[Array, "*b n f"]:
        """Of windowed frames."""
        before = self._margin
        frames = jnp.pad(frames, [(0, 0)] * (frames.ndim - 1) + [(before, self.points - self.frame - before)])
        return jnp.fft.rfft(frames, norm=self._norm)

    def _inverse(self, latent: Complex[Array, "*b n f"]) -> Float[Array, "*b n frame"]:
        """Frames that are yet to be windowed."""
        frames = jnp.fft.irfft(latent, n=self.points, norm=self._norm)
        return frames[..., self._margin : self._margin + self.frame]

    @property
    def _taps(self) -> Float[np.ndarray, " frame"]:
        """The window."""
        return checked_window(self.window, self.frame, self.hop)

    @property
    def _lead(self) -> int:
        """Samples before the wave."""
        return self.frame if self.padding == "left" else self.frame // 2

    @property
    def _margin(self) -> int:
        """Zeros before a frame in the transform."""
        return (self.points - self.frame) // 2

    @property
    def _norm(self) -> str:
        return "ortho" if self.normalised else "backward"

    def _ends_weakly(self, length: int) -> bool:
        """Whether the last samples, beyond the middle of torch's last frame, lie where the windows have faded out."""
        offsets = self.frame // 2 + np.arange(length % self.hop)[:, None] + self.hop * np.arange(self.frame // self.hop)
        squares = np.where(offsets < self.frame, window_taps(self.window, self.frame)[offsets % self.frame] ** 2, 0)
        return bool((squares.sum(axis=1) < WEAK).any())
