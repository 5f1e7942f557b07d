"""Losses: (estimate, reference) -> [b s], averaged over all other axes and never over examples or sources."""

import abc
import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex, Float, Int

from jaxsep import frontends
from jaxsep.bands import log_filters, mel_filters
from jaxsep.config import Config, choose, construct, defaults
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft

# Keeps ratios of energies finite: far below the energy of any audible second of sound.
TINY = 1e-8
MAX_PERMUTED = 6  # sources whose 720 orders are all looked at


class Loss(abc.ABC):
    """What training calls. `domain` says what to feed: source latents ("magnitude") or stems ("wave")."""

    domain: ClassVar[str] = "wave"

    @property
    def decibels(self) -> bool:
        """Whether a tenth of the energy of the error is a loss lower by 10."""
        return False

    @abc.abstractmethod
    def __call__(self, estimate: Array, reference: Array) -> Float[Array, "b s"]:
        """Loss per example and source."""


@dataclass(frozen=True)
class _Spectral(Loss):
    """A distance between magnitudes, [b s n f c] real or complex (then their absolute value), over n, f, c.

    Attributes:
        mel_bins: number of mel bands that the magnitudes are summed into first; 0 = none.
        log_bins: number of bands at equal musical intervals instead; 0 = none.
        rate, frame: sample rate and window length of the spectrum, for the bands.
        htk: HTK's mel scale instead of Slaney's.
    """

    mel_bins: int = 0
    log_bins: int = 0
    rate: int = 44100
    frame: int = 4096
    htk: bool = False
    domain: ClassVar[str] = "magnitude"

    def __call__(self, estimate: Array, reference: Array) -> Float[Array, "b s"]:
        """Loss per example and source.

        Raises:
            JaxsepError: waves instead of spectra, or a mel scale too fine for the spectrum.
        """
        if estimate.ndim != 5:
            raise JaxsepError(
                f"loss: compares spectra [b s n f c], but the front end gives {estimate.ndim} axes;"
                " use a loss on waves, e.g. wave_l1"
            )
        estimate, reference = self._magnitude(estimate), self._magnitude(reference)
        return self.distance(estimate, reference).mean(axis=(2, 3, 4))

    @abc.abstractmethod
    def distance(self, estimate: Array, reference: Array) -> Array:
        """Elementwise distance of magnitudes."""

    def _magnitude(self, z: Array) -> Array:
        magnitude = jnp.abs(z)
        size = z.shape[3], self.rate, self.frame
        if self.mel_bins and self.log_bins:
            raise JaxsepError(
                f"loss.mel_bins={self.mel_bins}, loss.log_bins={self.log_bins}: choose one, the other is 0"
            )
        if self.mel_bins:
            bands = mel_filters(self.mel_bins, *size, self.htk)
        elif self.log_bins:
            bands = log_filters(self.log_bins, *size)
        else:
            return magnitude
        return jnp.einsum("bsnfc,fm->bsnmc", magnitude, bands)


@dataclass(frozen=True)
class L1(_Spectral):
    """Mean absolute difference of magnitudes (Spleeter's `L1_mask`)."""

    def distance(self, estimate: Array, reference: Array) -> Array:
        """|e - r|."""
        return jnp.abs(estimate - reference)


@dataclass(frozen=True)
class WeightedL1(_Spectral):
    """Amplitude-weighted L1: each example's and source's L1 times the mean magnitude of its reference.

    Spleeter's `weighted_L1_mask` (spleeter/model/__init__.py, `_build_loss`).
    """

    def distance(self, estimate: Array, reference: Array) -> Array:
        """mean(r) |e - r|."""
        return reference.mean(axis=(2, 3, 4), keepdims=True) * jnp.abs(estimate - reference)


@dataclass(frozen=True)
class SmoothL1(_Spectral):
    """Smooth L1: d^2 / (2 beta) below beta, |d| - beta / 2 above (R. Girshick, "Fast R-CNN", 2015, eq. 3).

    Attributes:
        beta: where the parabola becomes a line, in units of magnitude.
    """

    beta: float = 1.0

    def __post_init__(self):
        if self.beta <= 0:
            raise JaxsepError(f"loss.beta={self.beta} must be above 0; for plain L1 use loss.name=l1")

    def distance(self, estimate: Array, reference: Array) -> Array:
        """Huber's function of the difference, divided by beta."""
        size = jnp.abs(estimate - reference)
        return jnp.where(size < self.beta, 0.5 * size**2 / self.beta, size - 0.5 * self.beta)


@dataclass(frozen=True)
class L2(_Spectral):
    """Mean squared difference of magnitudes (Open-Unmix)."""

    def distance(self, estimate: Array, reference: Array) -> Array:
        """(e - r)^2."""
        return (estimate - reference) ** 2


@dataclass(frozen=True)
class ComplexL2(Loss):
    """Mean squared difference of complex spectra, real and imaginary parts apart (LaSAFT's `spec_mse`)."""

    domain: ClassVar[str] = "magnitude"

    def __call__(
        self, estimate: Complex[Array, "b s n f c"], reference: Complex[Array, "b s n f c"]
    ) -> Float[Array, "b s"]:
        """Loss per example and source: |e - r|^2 / 2, averaged over n, f, c."""
        return _square(estimate - reference).mean(axis=(2, 3, 4)) / 2


@dataclass(frozen=True)
class Compressed(Loss):
    """PHASEN's loss: L_amp / 2 + L_phase / 2 on power-compressed spectra (Yin et al., AAAI 2020).

    With S' = |S|^p e^(j phase), L_amp is (|S'_e| - |S'_r|)^2 and L_phase is |S'_e - S'_r|^2: equal where the phases
    are, so both halves have one unit. The paper's means are followed, over n, f and c; the public codes sum over the
    batch (IMLHF), over bins (huyanxin) or over all (JuanSMartinez), which scales the loss and moves neither its
    minimum nor, but for eps, Adam's steps. huyanxin compresses the estimate in L_phase by the reference's magnitude,
    with which a wrong magnitude has another cost; not offered.

    Attributes:
        power: p; the paper's 0.3.
        eps: joins the squared magnitude below the power, whose slope at zero is infinite; of the size of |S|^2.
    """

    power: float = 0.3
    eps: float = 1e-8
    domain: ClassVar[str] = "magnitude"

    def __call__(
        self, estimate: Complex[Array, "b s n f c"], reference: Complex[Array, "b s n f c"]
    ) -> Float[Array, "b s"]:
        """Loss per example and source."""
        power = [_square(z) + self.eps for z in (estimate, reference)]
        amplitude = (power[0] ** (self.power / 2) - power[1] ** (self.power / 2)) ** 2
        slopes = [p ** ((self.power - 1) / 2) for p in power]
        phase = _square(slopes[0] * estimate - slopes[1] * reference)
        return (0.5 * amplitude + 0.5 * phase).mean(axis=(2, 3, 4))


@dataclass(frozen=True)
class WaveL1(Loss):
    """Mean absolute difference of waves."""

    def __call__(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Float[Array, "b s"]:
        """Loss per example and source."""
        return jnp.abs(estimate - reference).mean(axis=(2, 3))


@dataclass(frozen=True)
class WaveL2(Loss):
    """Mean squared difference of waves."""

    def __call__(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Float[Array, "b s"]:
        """Loss per example and source."""
        return ((estimate - reference) ** 2).mean(axis=(2, 3))


@dataclass(frozen=True)
class SiSdr(Loss):
    """Negative scale-invariant SDR in dB (J. Le Roux et al., "SDR: half-baked or well done?", ICASSP 2019).

    One scale for all channels. A silent reference has no scale-invariant SDR; the loss is then
    10 log10(1 + energy of the estimate / 1e-8), finite and smallest for silence.
    """

    @property
    def decibels(self) -> bool:
        """It is one."""
        return True

    def __call__(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Float[Array, "b s"]:
        """Loss per example and source."""
        axes = (2, 3)
        scale = (estimate * reference).sum(axes) / ((reference**2).sum(axes) + TINY)
        target = scale[:, :, None, None] * reference
        signal = (target**2).sum(axes) + TINY
        noise = ((estimate - target) ** 2).sum(axes) + TINY
        return 10 * (jnp.log10(noise) - jnp.log10(signal))


@dataclass(frozen=True)
class SiSnr(SiSdr):
    """Negative scale-invariant SNR in dB: SI-SDR without the mean of each channel (Conv-TasNet, 2019)."""

    def __call__(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Float[Array, "b s"]:
        """Loss per example and source."""
        estimate, reference = (x - x.mean(axis=2, keepdims=True) for x in (estimate, reference))
        return super().__call__(estimate, reference)


@dataclass(frozen=True)
class Permuted(Loss):
    """Another loss under permutation invariant training (Yu et al., ICASSP 2017; Kolbaek et al., TASLP 2017, "uPIT").

    Each example's estimates are put into the order with the smallest sum of the losses, which are then those of the
    references in their order. All pairs are compared once, and all orders of up to MAX_PERMUTED sources looked at.

    Attributes:
        loss: on waves.
    """

    loss: Loss

    def __post_init__(self):
        if self.loss.domain != "wave":
            raise JaxsepError("loss.pit=True needs a loss on waves, such as si_sdr, si_snr or wave_l1")

    def __call__(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Float[Array, "b s"]:
        """Loss per example and reference."""
        pairs = self._pairs(estimate, reference)
        return jnp.take_along_axis(pairs, self._best(pairs)[:, None], axis=1)[:, 0]

    @property
    def decibels(self) -> bool:
        """As the loss is that it puts in order."""
        return self.loss.decibels

    def order(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Int[Array, "b s"]:
        """For each reference, which estimate is its own."""
        return self._best(self._pairs(estimate, reference))

    def arrange(
        self, estimates: Float[np.ndarray, "s t c"], references: Float[np.ndarray, "s t c"]
    ) -> Float[np.ndarray, "s t c"]:
        """A song's estimates in the order of its references: that which it is scored under."""
        order = self.order(jnp.asarray(estimates)[None], jnp.asarray(references)[None])
        return estimates[np.asarray(order)[0]]

    def _pairs(self, estimate: Array, reference: Array) -> Float[Array, "b e s"]:
        """Loss of every estimate e with every reference s: one turn of the estimates after another."""
        sources = reference.shape[1]
        if sources > MAX_PERMUTED:
            raise JaxsepError(f"loss.pit=True: {sources} sources have too many orders; at most {MAX_PERMUTED}")
        turns = [self.loss(jnp.roll(estimate, -turn, axis=1), reference) for turn in range(sources)]
        # turns[k][:, s] is the loss of estimate s + k with reference s
        turn = (jnp.arange(sources)[:, None] - jnp.arange(sources)) % sources
        return jnp.stack(turns, axis=1)[:, turn, jnp.arange(sources)]

    def _best(self, pairs: Float[Array, "b e s"]) -> Int[Array, "b s"]:
        sources = pairs.shape[2]
        orders = jnp.array(list(itertools.permutations(range(sources))))
        sums = pairs[:, orders, jnp.arange(sources)].sum(axis=2)
        return orders[jnp.argmin(sums, axis=1)]


@dataclass(frozen=True)
class OnStft(Loss):
    """A loss between spectra, taken on waves through a transform that is not trained.

    Under a front end that is, a difference of latents has kernels on both sides: it falls when they shrink. Through a
    transform of its own it is the estimates that have to be right.

    Attributes:
        loss: between spectra.
        front: a fixed spectral front end, cropped to its `bins`.
    """

    loss: Loss
    front: Any

    def __call__(self, estimate: Float[Array, "b s t c"], reference: Float[Array, "b s t c"]) -> Float[Array, "b s"]:
        """Loss per example and source."""
        return self.loss(*(self.front.crop(self.front.encode(wave)) for wave in (estimate, reference)))


def _square(z: Complex[Array, "..."]) -> Float[Array, "..."]:
    return z.real**2 + z.imag**2


def partly(
    loss: Loss, estimate: Array, reference: Array, known: Float[Array, "b s"], weight: float
) -> Float[Array, "b s"]:
    """Losses of examples in which one source is known and the others only as a sum (arXiv 1909.01174).

    L(estimate_i, reference_i) + weight L(sum of the other estimates, sum of the other references): it asks nothing of
    how the others share their sum. Lambda is not published. The first term stands in the column of i, the second one is
    split over the other columns, so that the mean over sources weighs an error in i as in a labelled example.

    Args:
        loss: L.
        estimate: of all sources, [b s ...].
        reference: whose sum over j other than i is all that counts of them.
        known: 1 for i, 0 for the others; all 0 for an example in which every source is known.
        weight: lambda.

    Returns:
        Losses per example and source; those of L where every source is known.
    """
    every = loss(estimate, reference)
    others = (1 - known).reshape(*known.shape, *(1,) * (estimate.ndim - 2))
    rest = loss(*((others * waves).sum(axis=1, keepdims=True) for waves in (estimate, reference)))
    weak = jnp.where(known > 0, every, weight * rest / (known.shape[1] - 1))
    return jnp.where(known.any(axis=1, keepdims=True), weak, every)


LOSSES: dict[str, type[Loss]] = {
    "l1": L1,
    "weighted_l1": WeightedL1,
    "smooth_l1": SmoothL1,
    "l2": L2,
    "complex_l2": ComplexL2,
    "compressed": Compressed,
    "wave_l1": WaveL1,
    "wave_l2": WaveL2,
    "si_sdr": SiSdr,
    "si_snr": SiSnr,
}


def build(spec: Mapping[str, Any]) -> Loss:
    """The loss `spec["name"]` with the other keys of `spec` as its fields.

    Raises:
        JaxsepError: an unknown name or field.
    """
    return construct(LOSSES, spec, "loss")


def from_config(config: Config) -> Loss:
    """The loss of a run: `config.loss`, with the sample rate and the length of the run's spectra.

    Keys of `config.loss` that the chosen loss does not have are passed over at their defaults.

    Raises:
        JaxsepError: an unknown name, a value that the chosen loss has no use for, or a loss between latents that are no
            spectra, or those of a front end that is trained.
    """
    cls, unset = choose(LOSSES, config.loss.name, "loss.name"), defaults().loss.to_dict()
    fields = {"name", *(field.name for field in dataclasses.fields(cls))}
    given = config.loss.to_dict().items()
    spec = {key: value for key, value in given if key in fields or value != unset.get(key)}
    permuted = spec.pop("pit", False)
    if cls.domain == "wave":
        loss = build(spec)
    else:
        spec = {key: value for key, value in spec.items() if key not in ("domain", "stft")}
        front = frontends.build(config)
        transform = _transform(config, front)
        if "frame" in fields:
            spec |= {"rate": config.sample_rate, "frame": (transform or front).points}
        loss = OnStft(build(spec), transform) if transform else build(spec)
    return Permuted(loss) if permuted else loss


def _transform(config: Config, front: Any) -> Any:
    """What takes the spectra of waves that a spectral loss compares; None = it compares the front end's latents."""
    domain, frame, hop = config.loss.domain, config.loss.stft.frame, config.loss.stft.hop
    if domain not in ("auto", "latents", "stft"):
        raise JaxsepError(f"loss.domain={domain!r} is unknown, expected auto, latents or stft")
    spectral = hasattr(front, "untrained")
    what = f"loss.name={config.loss.name!r} compares spectra, and front.name={config.front.name!r}"
    if domain != "stft" and front.fixed and spectral:
        return None
    if domain == "latents":
        why = "is trained: smaller kernels would make a smaller loss" if spectral else "gives none"
        raise JaxsepError(f"{what} {why}; set loss.domain=stft, or a loss on waves such as wave_l1")
    if frame:
        transform = Stft(frame, hop or frame // 4, padding="reflect", parent=None)
        transform.check()
        return transform
    if not spectral:
        raise JaxsepError(f"{what} gives none; set loss.stft.frame=4096, or a loss on waves such as wave_l1")
    return front.untrained()
