"""A short-time Fourier transform whose window and kernels are trained with the net."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import window_energy
from jaxsep.frontends.kernels import check_constraint, constrained, product
from jaxsep.frontends.stft import Stft

CHOICES = {"trained": ("window", "kernels", "both"), "synthesis": ("tied", "untied")}


class LearnableStft(Stft):
    """`Stft` with parameters in the place of its constants, from which they start.

    With the window w and a complex kernel k_f per bin, at the start exp(-2 pi i f m / fft), frame n of bin f is
    sum_m x[n hop + m] w[m] k_f[m]. To train kernels from the DFT on is the idea of DCCRN ("Conv-STFT", Hu et al.,
    Interspeech 2020) and nnAudio (Cheuk et al., IEEE Access 2020); these fold the window into the kernels, here it
    stays apart, so that either can be trained alone and trained kernels fade out at their ends.

    Synthesis is "tied", overlap-add under w with the conjugate kernels, divided by the sum of the squared w: it inverts
    whatever w has become, and the kernels as far as they have stayed orthogonal. Or it is "untied" and has a window and
    kernels of its own, divided by the sum of the squared initial windows.

    Kernels are trained for the lowest `bins` frequencies; the others, which no net sees but some post-filters, remain
    those of the DFT. A window alone is trained by FFTs, at their cost; kernels are matrices.

    Parameters: `window` [frame] and `kernels` [frame 2 bins], real and imaginary part in the middle; under untied
    synthesis also `synthesis_window` and `synthesis_kernels`, alike.

    Attributes:
        trained: "window", "kernels" or "both".
        synthesis: "tied" or "untied".
        constraint: "unit", each kernel (and the window) keeps the energy that it starts with; "energy", all kernels
            together keep it; or "none".
    """

    trained: str = "kernels"
    synthesis: str = "tied"
    constraint: str = "none"

    fixed: ClassVar[bool] = False

    def setup(self):
        """Those parameters that are trained."""
        self.check()
        prefixes = ("", "synthesis_") if self.synthesis == "untied" else ("",)
        windows, kernels = [self._taps] * 2, None
        if self.trained != "kernels":
            energy = float((self._taps**2).sum())
            given = [self.param(f"{prefix}window", lambda _: jnp.asarray(self._taps)) for prefix in prefixes]
            windows = [constrained(window[:, None], self.constraint, energy)[:, 0] for window in given]
        if self.trained != "window":
            given = [self.param(f"{prefix}kernels", lambda _: self._dft()) for prefix in prefixes]
            kernels = [constrained(kernel, self.constraint, float(self.frame)) for kernel in given]
        # of analysis and of synthesis
        self.windows = windows[0], windows[-1]
        self.kernels = kernels and (kernels[0], kernels[-1])

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        super().check()
        check_constraint(self.constraint)
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise JaxsepError(f"front.{key}={getattr(self, key)!r} is unknown, expected one of {', '.join(known)}")

    def _windows(self) -> tuple[Float[Array | np.ndarray, " frame"], Float[Array | np.ndarray, " frame"]]:
        return self.windows

    def _energy(self, count: int) -> Float[Array, " t"]:
        return window_energy(self._taps if self.synthesis == "untied" else self.windows[0], self.hop, count)

    def _transform(self, frames: Float[Array, "*b n frame"]) -> Complex[Array, "*b n f"]:
        if self.kernels is None:
            return super()._transform(frames)
        parts = self._scale * product(frames, self.kernels[0].reshape(self.frame, -1))
        spectrum = lax.complex(*jnp.split(parts, 2, axis=-1))
        if self._learned < self.available:
            spectrum = jnp.concatenate([spectrum, super()._transform(frames)[..., self._learned :]], axis=-1)
        return spectrum

    def _inverse(self, latent: Complex[Array, "*b n f"]) -> Float[Array, "*b n frame"]:
        if self.kernels is None:
            return super()._inverse(latent)
        low, high = latent[..., : self._learned], latent[..., self._learned :]
        width = low.shape[-1]
        # Each bin stands for that of the negative frequency, too; the first and the last have none.
        weights = np.full(self.points // 2 + 1, 2, np.float32)
        weights[[0, -1]] = 1
        low = low * (weights[:width] / (self.points * self._scale))
        kernels = self.kernels[1][..., :width].reshape(self.frame, -1)
        frames = product(jnp.concatenate([low.real, low.imag], axis=-1), kernels.T)
        if high.shape[-1]:
            frames += super()._inverse(jnp.pad(high, [(0, 0)] * (high.ndim - 1) + [(width, 0)]))
        return frames

    def _dft(self) -> Float[Array, "frame 2 bins"]:
        """Cosines and minus sines; whole turns are taken off while the angles are integers."""
        turns = jnp.outer(jnp.arange(self.frame) + self._margin, jnp.arange(self._learned)) % self.points
        angles = (2 * np.pi / self.points) * turns.astype(jnp.float32)
        return jnp.stack([jnp.cos(angles), -jnp.sin(angles)], axis=1)

    @property
    def _learned(self) -> int:
        """Bins with kernels of their own."""
        return self.bins or self.available

    @property
    def _scale(self) -> float:
        return self.points**-0.5 if self.normalised else 1.0
