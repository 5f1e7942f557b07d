"""Frames of a wave and the way back: all that front ends on frames have in common but what they do with a frame."""

import abc
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import PADDINGS, check_frames, framed, overlap_add, padded


class Framed(nn.Module):
    """A front end whose latent is a complex spectrum of each frame.

    | padding | frames |
    |---|---|
    | "left" | start at every hop, the first of them one frame before the wave; zeros surround it |
    | "reflect" | have their middle at every hop; the wave is mirrored, back and forth where it is short |
    | "zeros" | have their middle at every hop; zeros surround the wave |

    "left" is Spleeter's, tf.signal.stft with pad_end=True behind a frame of zeros; the others are center=True of
    torch.stft and librosa with pad_mode "reflect" and "constant", boundary "even" and "zeros" of scipy.signal.stft.

    Attributes:
        frame: samples, even.
        hop: samples between frames, a divisor of `frame`.
        padding: see above.
        bins: the net sees the lowest `bins` of the spectrum; None = all.
    """

    frame: int = 4096
    hop: int = 1024
    padding: str = "left"
    bins: int | None = None

    fixed: ClassVar[bool] = False
    domain: ClassVar[str] = "spectrum"

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        if self.padding == "left":
            return -(-(length + self.frame) // self.hop)
        return 1 + length // self.hop

    def encode(self, wave: Float[Array, "*b t c"]) -> Complex[Array, "*b n f c"]:
        """The whole spectrum.

        Raises:
            JaxsepError: fields that do not fit together, or an empty wave.
        """
        self.check()
        length = wave.shape[-2]
        if length == 0:
            raise JaxsepError("front: a wave of 0 samples has no spectrum; give at least 1")
        covered = (self.frames(length) - 1) * self.hop + self.frame
        surrounded = padded(jnp.moveaxis(wave, -1, -2), self._lead, covered, self.padding == "reflect")
        return jnp.moveaxis(self._analyse(framed(surrounded, self.frame, self.hop)), -3, -1)

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
        wave = overlap_add(self._synthesise(jnp.moveaxis(latent, -1, -3)), self.hop)[..., kept]
        energy = self._energy(count)
        return jnp.moveaxis(wave if energy is None else wave / energy[kept], -2, -1)

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        check_frames(self.frame, self.hop)
        if self.padding not in PADDINGS:
            raise JaxsepError(f"front.padding={self.padding!r} is unknown, expected one of {', '.join(PADDINGS)}")
        if self.bins is not None and not 1 <= self.bins <= self.available:
            raise JaxsepError(f"front.bins={self.bins}: there are 1 to {self.available}")

    @property
    def span(self) -> int:
        """Samples that a frame sees."""
        return self.frame

    @property
    @abc.abstractmethod
    def available(self) -> int:
        """Bins of the whole spectrum."""

    @abc.abstractmethod
    def _analyse(self, frames: Float[Array, "*b n frame"]) -> Complex[Array, "*b n f"]:
        """Spectra of frames."""

    @abc.abstractmethod
    def _synthesise(self, latent: Complex[Array, "*b n f"]) -> Float[Array, "*b n frame"]:
        """Frames that are added to a wave."""

    def _energy(self, count: int) -> Float[Array, " t"] | None:
        """What the sum of `count` frames has to be divided by, if anything."""
        return None

    @property
    def _lead(self) -> int:
        """Samples before the wave."""
        return self.frame if self.padding == "left" else self.frame // 2
