"""A short-time Fourier transform whose window length and hop are found by gradient."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array, lax
from jaxtyping import Complex, Float, Int

from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import WINDOWS, padded
from jaxsep.frontends.stft import Stft

CHOICES = {"trained": ("length", "hop", "both"), "window": ("hann", "sqrt_hann", "gaussian")}

OVERLAP = 1.5  # hops that a window is long at least: its square is 1/16 where the next one begins to count for more


class AdaptiveStft(Stft):
    """`Stft` with windows of real length l at real positions n h, in arrays of fixed shape; l and h are trained.

    Window lengths by gradient are the idea of A. Zhao, K. Subramani, P. Smaragdis, "Optimizing short-time Fourier
    transform parameters via gradient descent", ICASSP 2021; the formulation is that of M. Leiber, Y. Marnissi,
    A. Barrau, M. El Badaoui, "A differentiable short-time Fourier transform with respect to the window length", EUSIPCO
    2022, and of their later work on the hop. Frame n takes `fft` samples from floor(n h) on. The window is evaluated at
    real times among them, moved by the rest r = n h - floor(n h):

        X[n, f] = sum_m x[floor(n h) + m] w(1/2 + (m - r - fft / 2) / l) exp(-2 pi i f (m - r) / fft)

    Phases count from n h (Leiber et al. count them from the beginning of the wave): so X is continuous where floor(n h)
    jumps, and it is `Stft` where l and h are whole numbers, as they are at the start. `decode` inverts it anywhere: it
    turns the phases back and divides the sum of the windowed frames by that of the squared windows.

    Bounds see to that: `shortest_hop` <= h and 3/2 h <= l <= fft. Gradients that lead beyond a bound are not passed on.
    There are as many frames as the shortest hop has (around their middle one more where a wave ends more than half a
    hop behind the last); under longer hops the last frames are behind the wave, in zeros.

    Parameters: `length` and `hop`, logarithms of ratios to their first values, so that a learning rate is a relative
    change.

    Attributes:
        frame, hop: l and h at the start, see `Stft`.
        window: "hann", "sqrt_hann" or "gaussian". A Hamming window ends too abruptly to have lengths in between.
        fft: samples that a window may grow to; 0 = `frame`, it can become shorter only.
        trained: "length", "hop" or "both".
        shortest_hop: 0 = `hop`, it can become longer only.
    """

    trained: str = "length"
    shortest_hop: int = 0

    fixed: ClassVar[bool] = False

    def setup(self):
        """Those parameters that are trained."""
        self.check()
        if self.trained != "length":
            self.hop_ratio = self.param("hop", nn.initializers.zeros, (), jnp.float32)
        if self.trained != "hop":
            self.length_ratio = self.param("length", nn.initializers.zeros, (), jnp.float32)

    def check(self) -> None:
        """Linen modules are built unchecked.

        Raises:
            JaxsepError: fields that do not fit together.
        """
        super().check()
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                what = f"front.{key}={getattr(self, key)!r}: front.name='adaptive_stft'"
                raise JaxsepError(f"{what} takes one of {', '.join(known)}")
        if not 0 < self._shortest <= self.hop:
            raise JaxsepError(
                f"front.shortest_hop={self.shortest_hop}: expected 1 to front.hop={self.hop}, or 0 for that"
            )

    def sizes(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Window length l and hop h, in samples."""
        length, hop = jnp.asarray(float(self.frame)), jnp.asarray(float(self.hop))
        if self.trained != "length":
            longest = (self.frame if self.trained == "hop" else self.points) / OVERLAP
            hop = hop * jnp.exp(_bounded(self.hop_ratio, jnp.log(self._shortest / hop), jnp.log(longest / hop)))
        if self.trained != "hop":
            low, high = jnp.log(OVERLAP * hop / length), jnp.log(self.points / length)
            length = length * jnp.exp(_bounded(self.length_ratio, low, high))
        return length, hop

    def analysis_window(self) -> Float[Array, " fft"]:
        """The window in the middle of what a frame may take, for one at a whole sample."""
        return self._window(jnp.zeros(1), 2)[0]

    def frames(self, length: int) -> int:
        """Number of frames of a wave of `length` samples."""
        if self.padding == "left":
            return -(-(length + self.frame) // self._shortest)
        return 1 + (2 * length + self._shortest - 1) // (2 * self._shortest)

    def encode(self, wave: Float[Array, "*b t c"]) -> Complex[Array, "*b n f c"]:
        """Spectrum of all fft // 2 + 1 bins.

        Raises:
            JaxsepError: an empty wave.
        """
        length = wave.shape[-2]
        if length == 0:
            raise JaxsepError("front: a wave of 0 samples has no spectrum; give at least 1")
        surrounded = padded(jnp.moveaxis(wave, -1, -2), self._lead, self._room(length), self.padding == "reflect")
        starts, rest = self._positions(length)
        frames = _cut(surrounded, starts, self.points)
        spectrum = jnp.fft.rfft(frames * self._window(rest, frames.ndim), norm=self._norm)
        return jnp.moveaxis(self._turned(spectrum, rest), (0, -2), (-3, -1))

    def decode(self, latent: Complex[Array, "*b n f c"], length: int) -> Float[Array, "*b t c"]:
        """Wave of `length` samples; upper bins that are missing count as zero.

        Raises:
            JaxsepError: the number of frames is not that of a wave of `length` samples.
        """
        if latent.shape[-3] != self.frames(length):
            raise JaxsepError(f"front: {latent.shape[-3]} frames, but {length} samples have {self.frames(length)}")
        starts, rest = self._positions(length)
        spectrum = self._turned(jnp.moveaxis(latent, (-3, -1), (0, -2)), -rest)
        frames = jnp.fft.irfft(spectrum, n=self.points, norm=self._norm) * self._window(rest, spectrum.ndim)
        squares = jnp.broadcast_to(self._window(rest, 2) ** 2, (len(frames), self.points))
        kept = slice(self._lead, self._lead + length)
        wave, energy = (_added(x, starts, self._room(length))[..., kept] for x in (frames, squares))
        return jnp.moveaxis(wave / energy, -2, -1)

    def _positions(self, length: int) -> tuple[Int[Array, " n"], Float[Array, "#n"]]:
        """Whole samples at which the frames of a padded wave start, and what is left of their real positions."""
        count = jnp.arange(self.frames(length))
        if self.trained == "length":
            return count * self.hop, jnp.zeros(1)
        _, hop = self.sizes()
        whole = jnp.floor(hop)
        rest = count * (hop - whole)  # apart from the whole samples, whose products would cost it its digits
        starts = count * whole.astype(int) + jnp.floor(rest).astype(int)
        # Frames behind the wave lie where the room ends, in zeros.
        return jnp.minimum(starts, self._room(length) - self.points), rest - jnp.floor(rest)

    def _window(self, rest: Float[Array, "#n"], axes: int) -> Float[Array, "#n *_ fft"]:
        """`rest` samples after the middle, for frames of so many axes."""
        length, _ = self.sizes()
        phase = 0.5 + (jnp.arange(self.points) - self.points // 2 - _first(rest, axes)) / length
        inside = (phase >= 0) & (phase < 1)
        return jnp.where(inside, WINDOWS[self.window](jnp.where(inside, phase, 0.5), jnp), 0)

    def _turned(self, spectrum: Complex[Array, "n *b f"], rest: Float[Array, "#n"]) -> Complex[Array, "n *b f"]:
        """Phases that count from `rest` samples later."""
        if self.trained == "length":
            return spectrum
        angles = 2 * np.pi / self.points * _first(rest, spectrum.ndim) * jnp.arange(spectrum.shape[-1])
        return spectrum * lax.complex(jnp.cos(angles), jnp.sin(angles))

    def _room(self, length: int) -> int:
        """Samples of a padded wave: what surrounds the wave, and zeros for a frame behind it."""
        behind = self._lead if self.padding == "reflect" else 0
        return self._lead + length + behind + self.points

    @property
    def _lead(self) -> int:
        return self.points // 2 + (self.frame // 2 if self.padding == "left" else 0)

    @property
    def _shortest(self) -> int:
        return self.shortest_hop or self.hop


def concentration(latent: Complex[Array, "*b n f c"]) -> Float[Array, "*b"]:
    """sum |X|^4 / (sum |X|^2)^2 over n, f, c: 1 where all energy is in one place (Zhao et al. 2021)."""
    energy = latent.real**2 + latent.imag**2
    axes = (-3, -2, -1)
    return (energy**2).sum(axes) / energy.sum(axes) ** 2


def _first(x: Float[Array, " n"], axes: int) -> Float[Array, "n *_"]:
    """A value per frame, beside frames."""
    return x.reshape(-1, *(1,) * (axes - 1))


def _cut(wave: Float[Array, "*b t"], starts: Int[Array, " n"], size: int) -> Float[Array, "n *b size"]:
    """Pieces of a wave; they come first, where sums over a batch, which gradients of windows are, are fast on a CPU."""
    return jax.vmap(lambda start: lax.dynamic_slice_in_dim(wave, start, size, axis=-1))(starts)


def _added(frames: Float[Array, "n *b size"], starts: Int[Array, " n"], length: int) -> Float[Array, "*b length"]:
    """Their sum in their places: the transpose of `_cut`."""
    wave = jax.ShapeDtypeStruct((*frames.shape[1:-1], length), frames.dtype)
    (total,) = jax.linear_transpose(lambda wave: _cut(wave, starts, frames.shape[-1]), wave)(frames)
    return total


@jax.custom_vjp
def _bounded(x: Float[Array, ""], low: Float[Array, ""], high: Float[Array, ""]) -> Float[Array, ""]:
    """x, or the bound that it is beyond. There it has the gradient that a step against it brings back, or none."""
    return jnp.clip(x, low, high)


def _bounded_forward(x: Array, low: Array, high: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    return jnp.clip(x, low, high), (x, low, high)


def _bounded_backward(bounds: tuple[Array, Array, Array], gradient: Array) -> tuple[Array, Array, Array]:
    x, low, high = bounds
    outward = ((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0))
    return (
        jnp.where(outward, 0, gradient),
        jnp.where(x < low, gradient, 0),
        jnp.where(x > high, gradient, 0),
    )


_bounded.defvjp(_bounded_forward, _bounded_backward)
