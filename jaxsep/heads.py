"""Heads turn a net's output into source latents; post-filters refine these in evaluation. Pure, float32."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Complex, Float, Inexact

from jaxsep.errors import JaxsepError

ACTIVATIONS = {
    "sigmoid": jax.nn.sigmoid,
    "softmax": lambda y: jax.nn.softmax(y, axis=1),
    "relu": jax.nn.relu,
    "linear": lambda y: y,
}


@dataclass(frozen=True)
class Mask:
    """Real mask times mixture.

    Attributes:
        activation: "sigmoid", "relu" and "linear" (the logits as they are) per source, "softmax" over the sources.
    """

    activation: str = "sigmoid"

    def __post_init__(self):
        _one_of("head.activation", self.activation, ACTIVATIONS)

    def __call__(self, y: Float[Array, "b s *n"], z: Inexact[Array, "b *n"]) -> Inexact[Array, "b s *n"]:
        """Source latents from logits and the mixture latent: a spectrum [b n f c], or coefficients [b n d]."""
        return ACTIVATIONS[self.activation](y.astype(jnp.float32)) * z[:, None]


@dataclass(frozen=True)
class Magnitude:
    """Magnitudes with the phase of the mixture: relu(y) z / |z|. Where the mixture is silent, so is the source."""

    def __call__(self, y: Float[Array, "b s n f c"], z: Complex[Array, "b n f c"]) -> Complex[Array, "b s n f c"]:
        """Source latents from magnitudes and the mixture latent."""
        size = jnp.abs(z)
        phasor = jnp.where(size > 0, z / jnp.where(size > 0, size, 1), 0)
        return jax.nn.relu(y.astype(jnp.float32)) * phasor[:, None]


@dataclass(frozen=True)
class Map:
    """The net's output is the source latent: complex spectra from complex spectra, waves from waves."""

    def __call__(self, y: Array, z: Array) -> Array:
        """Source latents [b s ...], as they are."""
        return y


@dataclass(frozen=True)
class AmplitudePhase:
    """PHASEN's output: the mixture's amplitude times an amplitude mask M times a phasor Phi, |z| M Phi."""

    def __call__(self, y: Complex[Array, "b s n f c"], z: Complex[Array, "b n f c"]) -> Complex[Array, "b s n f c"]:
        """Source latents from y = M Phi and the mixture latent."""
        return jnp.abs(z)[:, None] * y


@dataclass(frozen=True)
class ComplexMask:
    """DCCRN's complex mask M on the mixture Y (Hu et al. 2020, eq. 7-9).

    | mode | estimate |
    |---|---|
    | "E" | abs(Y) tanh(abs(M)) exp(j (arg Y + arg M)) = Y M tanh(abs(M)) / abs(M) |
    | "C" | Y M |
    | "R" | Re Y Re M + j Im Y Im M |

    E is computed in its second form, whose gradient is finite at M = 0 and Y = 0, where those of roots and angles are
    not; it is asteroid's mask bound "tanh", too. The authors' code adds 1e-8 below the root of abs(Y), asteroid's below
    that of abs(M); theirs makes a faint noise of silence, here silence stays silent.

    Attributes:
        mode: "E", "C" or "R".
    """

    mode: str = "E"

    def __post_init__(self):
        _one_of("head.mode", self.mode, ("E", "C", "R"))

    def __call__(self, y: Complex[Array, "b s n f c"], z: Complex[Array, "b n f c"]) -> Complex[Array, "b s n f c"]:
        """Source latents from y = M and the mixture latent."""
        z = z[:, None]
        if self.mode == "R":
            return jax.lax.complex(y.real * z.real, y.imag * z.imag)
        return y * z if self.mode == "C" else y * z * _tanh_ratio(_energy(y))


def _tanh_ratio(square: Float[Array, "..."]) -> Float[Array, "..."]:
    """tanh(m) / m of m = sqrt(square); near 0, where it is 1 - m^2 / 3, by that."""
    small = square < 1e-4
    m = jnp.sqrt(jnp.where(small, 1, square))
    return jnp.where(small, 1 - square / 3, jnp.tanh(m) / m)


@dataclass(frozen=True)
class RatioMask:
    """Spleeter's soft mask: m_i = (|y_i|^p + eps / S) / (sum_j |y_j|^p + eps) on the mixture spectrum.

    Of a single source, what it leaves of the mixture is the second one: alone its mask would be 1.

    Attributes:
        power: p; 2 is Spleeter's separation exponent.
        eps: keeps the masks finite, and 1 / S each where all estimates are silent.
        extension: what stands above the band of the estimates: "zeros" (all of Spleeter's published configs),
            or "average", the mean of the mask over the band, with which the sources add up to the mixture.
    """

    power: float = 2.0
    eps: float = 1e-10
    extension: str = "zeros"

    def __post_init__(self):
        _one_of("inference.post.extension", self.extension, ("zeros", "average"))

    def __call__(
        self, latents: Complex[Array, "b s n g c"], mix: Complex[Array, "b n f c"]
    ) -> Complex[Array, "b s n f c"]:
        """Full-band source latents.

        Raises:
            JaxsepError: the estimates have more bins than the mixture.
        """
        missing = _missing_bins(latents, mix)
        sources = latents.shape[1]
        if sources == 1:
            latents = jnp.concatenate([latents, mix[:, None, :, : latents.shape[3]] - latents], axis=1)
        energy = _energy(latents) if self.power == 2 else jnp.abs(latents) ** self.power
        mask = (energy + self.eps / latents.shape[1]) / (energy.sum(axis=1, keepdims=True) + self.eps)
        mask = mask[:, :sources]
        if missing and self.extension == "average":
            above = jnp.broadcast_to(mask.mean(axis=3, keepdims=True), (*mask.shape[:3], missing, mask.shape[4]))
            mask = jnp.concatenate([mask, above], axis=3)
        else:
            mask = jnp.pad(mask, [(0, 0), (0, 0), (0, 0), (0, missing), (0, 0)])
        return mask * mix[:, None]


@dataclass(frozen=True)
class Wiener:
    """Multichannel Wiener filter by expectation-maximisation, as `norbert.wiener` and Open-Unmix run it.

    N. Duong, E. Vincent, R. Gribonval, "Under-determined reverberant audio source separation using a
    full-rank spatial covariance model", IEEE TASLP 2010, in the simplified form of A. Nugraha, A. Liutkus, E.
    Vincent 2016: each source has a power v [n f] and a spatial covariance R [f c c], both taken from its
    current estimate; the new estimate is v R (sum_j v_j R_j + sqrt(eps) I)^-1 applied to the mixture. The
    mixture is scaled to a peak magnitude of at most 10, as norbert does.

    It differs in two ways that matter in single precision and for complex heads: the linear system is solved
    instead of multiplied by an explicit inverse, which loses all digits on nearly monophonic bins, and
    estimates come with their own phase (under a mask it is the mixture's, which norbert and Open-Unmix
    assume).

    Attributes:
        iterations: EM iterations; 0 = the initial estimate.
        softmask: start from the ratio mask |y_i| / sum_j |y_j| instead of the estimates: norbert's default
            and so Spleeter's `--mwf`; Open-Unmix leaves it off.
        residual: what the sources leave of the mixture takes part as one more source, and is dropped again. A
            single source always has it, for alone its filter would return the mixture.
        window_frames: filter excerpts of so many frames independently (Open-Unmix: 300), so that sources may
            move and memory stays bounded; None = all frames at once.
        eps: regularisation; Open-Unmix' value. norbert takes the machine epsilon of the mixture's precision.
    """

    iterations: int = 1
    softmask: bool = False
    residual: bool = False
    window_frames: int | None = None
    eps: float = 1e-10

    def __post_init__(self):
        if self.iterations < 0 or (self.window_frames is not None and self.window_frames < 1):
            raise JaxsepError(
                f"inference.post: iterations={self.iterations} and window_frames={self.window_frames}"
                " must be at least 0 and 1"
            )

    def __call__(
        self, latents: Complex[Array, "b s n g c"], mix: Complex[Array, "b n f c"]
    ) -> Complex[Array, "b s n f c"]:
        """Full-band source latents; above the band of the estimates they are zero.

        Raises:
            JaxsepError: the estimates have more bins than the mixture.
        """
        missing = _missing_bins(latents, mix)
        latents = jnp.pad(latents, [(0, 0), (0, 0), (0, 0), (0, missing), (0, 0)])
        batch, sources, frames, bins, channels = latents.shape
        window = min(self.window_frames or frames, frames)
        # Windows join the batch; zeros behind the last one change neither its covariances nor its peak.
        windows = -(-frames // window)
        tail = windows * window - frames
        y = jnp.pad(latents, [(0, 0), (0, 0), (0, tail), (0, 0), (0, 0)])
        y = jnp.moveaxis(y.reshape(batch, sources, windows, window, bins, channels), 2, 1)
        x = jnp.pad(mix, [(0, 0), (0, tail), (0, 0), (0, 0)])
        y = self._filter(
            y.reshape(batch * windows, sources, window, bins, channels),
            x.reshape(batch * windows, window, bins, channels),
        )
        y = jnp.moveaxis(y.reshape(batch, windows, sources, window, bins, channels), 1, 2)
        return y.reshape(batch, sources, windows * window, bins, channels)[:, :, :frames]

    def _filter(self, y: Array, x: Array) -> Array:
        """One window: estimates [b s n f c] and mixture [b n f c]."""
        sources = y.shape[1]
        if self.softmask:
            size = jnp.abs(y)
            y = size / (size.sum(axis=1, keepdims=True) + self.eps) * x[:, None]
        if self.residual or sources == 1:
            y = jnp.concatenate([y, x[:, None] - y.sum(axis=1, keepdims=True)], axis=1)
        if self.iterations:
            scale = jnp.maximum(1.0, jnp.abs(x).max(axis=(1, 2, 3)) / 10)[:, None, None, None]
            x, y = x / scale, y / scale[:, None]
            for _ in range(self.iterations):
                y = self._maximise(y, x)
            y = y * scale[:, None]
        return y[:, :sources]

    def _maximise(self, y: Array, x: Array) -> Array:
        """One EM iteration. Channel pairs are unrolled: they are few, and small complex matmuls are slow."""
        channels = range(x.shape[-1])
        v = _energy(y).mean(axis=-1)  # [b s n f]
        weight = self.eps + v.sum(axis=2)  # [b s f]
        covariance = {  # R[i, k]: [b s 1 f]; Hermitian, so the lower half is enough
            (i, k): ((y[..., i] * y[..., k].conj()).sum(axis=2) / weight)[:, :, None]
            for i in channels
            for k in channels
            if k <= i
        }
        model = {pair: (v * r).sum(axis=1) for pair, r in covariance.items()}  # [b n f]
        solved = _solve_hermitian(model, [x[..., i] for i in channels], math.sqrt(self.eps))
        columns = []
        for i in channels:
            row = [covariance[i, k] if k <= i else covariance[k, i].conj() for k in channels]
            columns.append(v * sum(r * u[:, None] for r, u in zip(row, solved, strict=True)))
        return jnp.stack(columns, axis=-1)


def _solve_hermitian(matrix: dict[tuple[int, int], Array], right: list[Array], ridge: float) -> list[Array]:
    """Solves (A + ridge I) u = x by Cholesky's method, elementwise; `matrix` holds the lower half of A."""
    size = len(right)
    lower: dict[tuple[int, int], Array] = {}
    for i in range(size):
        for k in range(i + 1):
            rest = matrix[i, k] - sum((lower[i, m] * lower[k, m].conj() for m in range(k)), start=0.0)
            # A is positive semidefinite: a negative pivot is rounding, and the ridge is what is left.
            lower[i, k] = jnp.sqrt(jnp.maximum(rest.real, 0) + ridge) if i == k else rest / lower[k, k]
    forward: list[Array] = []
    for i in range(size):
        forward.append((right[i] - sum((lower[i, m] * forward[m] for m in range(i)), start=0.0)) / lower[i, i])
    solved: list[Array] = []
    for i in reversed(range(size)):
        above = zip(range(i + 1, size), solved, strict=True)
        solved.insert(0, (forward[i] - sum((lower[m, i].conj() * u for m, u in above), start=0.0)) / lower[i, i])
    return solved


def _energy(z: Complex[Array, "*b"]) -> Float[Array, "*b"]:
    return z.real**2 + z.imag**2


def _missing_bins(latents: Array, mix: Array) -> int:
    missing = mix.shape[2] - latents.shape[3]
    if missing < 0:
        raise JaxsepError(f"post: estimates have {latents.shape[3]} bins, the mixture only {mix.shape[2]}")
    return missing


def _one_of(key: str, value: str, names) -> None:
    if value not in names:
        raise JaxsepError(f"{key}={value!r} is unknown, expected one of {', '.join(names)}")


HEADS = {
    "mask": Mask,
    "magnitude": Magnitude,
    "map": Map,
    "amplitude_phase": AmplitudePhase,
    "complex_mask": ComplexMask,
}
POSTS = {"ratio_mask": RatioMask, "wiener": Wiener}
