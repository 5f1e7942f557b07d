"""The short-time Fourier transform without parameters."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framed import Framed
from jaxsep.frontends.framing import WEAK, checked_window, window_energy, window_taps


class Stft(Framed):
    """Short-time Fourier transform without parameters; `decode` inverts `encode` to float32 precision.

    `decode` is the least-squares inverse (Griffin & Lim 1984, eq. 6): windowed overlap-add divided by the sum of the
    squared windows. Under "left" padding, with a Hann window at 75 % overlap, that sum is 3/2 everywhere, which is
    Spleeter's synthesis window times 2/3. Of frames around their middle there is one more than torch has where the
    windows of its frames have faded out before the wave ends, which torch cannot invert (some lengths at half overlap).

    Attributes:
        frame, hop, padding, bins: see `Framed`.
        window: "hann", "sqrt_hann", "hamming" or "gaussian" (six deviations long), periodic.
        fft: points of the transform, even, with the window in their middle as in torch.stft; 0 = `frame`.
        normalised: the transform is orthonormal, fft^-1/2 times the sum (torch.stft's `normalized`).
    """

    window: str = "hann"
    fft: int = 0
    normalised: bool = False

    fixed: ClassVar[bool] = True

    @property
    def points(self) -> int:
        """Points of the transform."""
        return self.fft or self.frame

    @property
    def available(self) -> int:
        """Bins of the whole spectrum."""
        return self.points // 2 + 1

    def untrained(self) -> "Stft":
        """The transform of the same frames without parameters; trained ones start as it is."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(Stft) if f.init}
        values.update(name=None, parent=None)
        return Stft(**values)

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        return super().frames(length) + (self.padding != "left" and self._ends_weakly(length))

    def analysis_window(self) -> Float[Array, " frame"]:
        """The window that frames are multiplied with."""
        return jnp.asarray(self._windows()[0])

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        checked_window(self.window, self.frame, self.hop)
        if self.points < self.frame or self.points % 2:
            raise JaxsepError(f"front.fft={self.fft}: expected an even number, at least front.frame={self.frame}")
        super().check()

    def _analyse(self, frames: Float[Array, "*b n frame"]) -> Complex[Array, "*b n f"]:
        return self._transform(frames * self._windows()[0])

    def _synthesise(self, latent: Complex[Array, "*b n f"]) -> Float[Array, "*b n frame"]:
        return self._inverse(latent) * self._windows()[1]

    def _energy(self, count: int) -> Float[Array, " t"]:
        return window_energy(self._taps, self.hop, count)

    def _windows(self) -> tuple[Float[Array | np.ndarray, " frame"], Float[Array | np.ndarray, " frame"]]:
        """Of analysis and of synthesis."""
        return self._taps, self._taps

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
    def _margin(self) -> int:
        """Zeros before a frame in the transform."""
        return (self.points - self.frame) // 2

    @property
    def _norm(self) -> str:
        return "ortho" if self.normalised else "backward"

    def _ends_weakly(self, length: int) -> bool:
        """Whether the last samples, beyond the middle of torch's last frame, lie where the windows have faded out."""
        offsets = self.frame // 2 + np.arange(length % self.hop)[:, None] + self.hop * np.arange(self.frame // self.hop)
        taps = window_taps(self.window, self.frame)
        squares = np.where(offsets < self.frame, taps[offsets % self.frame] ** 2, 0)
        return bool((squares.sum(axis=1) < WEAK).any())
