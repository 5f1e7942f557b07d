"""Oracles: what masks, filters and phases would reach if the true stems were known.

IBM, IRM and MWF are those of SiSEC 2018 (F.-R. Stöter, A. Liutkus, N. Ito, "The 2018 Signal Separation Evaluation
Campaign", LVA/ICA 2018), as their reference implementation sigsep-mus-oracle computes them, in double precision.
Y_s, X: spectra of stem and mixture; eps = 2^-52. The estimate of an accompaniment is the sum of its stems' estimates,
as there: no oracle has a mask of its own for it.
"""

import functools
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Complex, Float

from jaxsep.baselines.spectra import istft, stft
from jaxsep.errors import JaxsepError

EPS = np.finfo(np.float64).eps
THRESHOLD = 0.5  # of IBM


def ibm(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"], power: int) -> Float[np.ndarray, "s t c"]:
    """Ideal binary mask: 1 where |Y_s|^p / (eps + |X|^p) >= 1/2, else 0; p = 1 for IBM1, 2 for IBM2.

    Each stem is held against the mixture, not against the others: where they cancel each other several stems have a
    bin, where they are alike none has.
    """

    def gains(magnitudes: list[np.ndarray], mix: np.ndarray) -> Iterable[np.ndarray]:
        return (magnitude**power / (EPS + mix**power) >= THRESHOLD for magnitude in magnitudes)

    return _apply(gains, mixture, stems)


def irm(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"], power: int) -> Float[np.ndarray, "s t c"]:
    """Ideal ratio mask: |Y_s|^p / (eps + sum_k |Y_k|^p); p = 1 for IRM1, 2 for IRM2."""

    def gains(magnitudes: list[np.ndarray], _: np.ndarray) -> Iterable[np.ndarray]:
        total = EPS + sum(magnitude**power for magnitude in magnitudes)
        return (magnitude**power / total for magnitude in magnitudes)

    return _apply(gains, mixture, stems)


ibm1, ibm2 = functools.partial(ibm, power=1), functools.partial(ibm, power=2)
irm1, irm2 = functools.partial(irm, power=1), functools.partial(irm, power=2)


def mixture_phase(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """The stems' true magnitudes with the mixture's phase, |Y_s| X / |X|: perfect magnitudes reach no more.

    0 where the mixture is silent and has no phase.
    """

    def gains(magnitudes: list[np.ndarray], mix: np.ndarray) -> Iterable[np.ndarray]:
        return (np.divide(magnitude, mix, out=np.zeros_like(mix), where=mix > 0) for magnitude in magnitudes)

    return _apply(gains, mixture, stems)


def ideal_phase(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """IRM1's magnitudes with the stems' true phases: |X| |Y_s| / (eps + sum_k |Y_k|) times Y_s / |Y_s|.

    Against `irm1` it says what phase alone is worth, against `mixture_phase` which of the two limits more.
    """
    estimates = np.empty(stems.shape)
    for channel in range(mixture.shape[1]):
        spectra = [stft(stem[:, channel]) for stem in stems]
        ratio = np.abs(stft(mixture[:, channel])) / (EPS + sum(np.abs(spectrum) for spectrum in spectra))
        for index, spectrum in enumerate(spectra):
            estimates[index, :, channel] = istft(ratio * spectrum, len(mixture))
    return estimates


def _apply(
    gains: Callable[[list[np.ndarray], np.ndarray], Iterable[np.ndarray]], mixture: np.ndarray, stems: np.ndarray
) -> np.ndarray:
    """The mixture times gains(|Y_s| of all stems, |X|) -> [f n] of each stem, channel by channel."""
    estimates = np.empty(stems.shape)
    for channel in range(mixture.shape[1]):
        spectrum = stft(mixture[:, channel])
        magnitudes = [np.abs(stft(stem[:, channel])) for stem in stems]
        for index, gain in enumerate(gains(magnitudes, np.abs(spectrum))):
            estimates[index, :, channel] = istft(gain * spectrum, len(mixture))
    return estimates


def mwf(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """Multichannel Wiener filter: v_s R_s (sum_k v_k R_k)^-1 X, of powers v [f n] and spatial covariances R [f 2 2].

    R is the mean over time of Y Y^H / (eps + p) with p the mean of |Y|^2 over the channels, normalised, plus eps I, and
    v = Y^H R^-1 Y / 2. The reference code divides column i of R in every bin by the same (R[0, 0, i] + R[1, 1, i]) / 2,
    of bins 0 and 1 (`numpy.trace` over bins and rows), where half the trace of each bin is meant; so does this. It also
    rounds gains to single precision and gives NaN where a stem has a silent channel; this does not.

    Raises:
        JaxsepError: not two channels.
    """
    if mixture.shape[1] != 2:
        raise JaxsepError(f"baseline mwf is a filter over two channels; this song has {mixture.shape[1]}")
    mix = stft(mixture.T)  # [c f n]
    spectra = np.empty((len(stems), *mix.shape), complex)  # [s c f n]: of the stems, then of the estimates
    for spectrum, stem in zip(spectra, stems, strict=True):
        spectrum[:] = stft(stem.T)
    covariances = np.stack([_spatial_covariances(spectrum) for spectrum in spectra], axis=1)  # [f s c c]
    for f, covariance in enumerate(covariances):
        y = spectra[:, :, f]
        power = np.einsum("sab,sbn,san->sn", _inverse(covariance), y, y.conj()).real / 2
        parts = power[:, :, None, None] * covariance[:, None]  # [s n c c]
        spectra[:, :, f] = np.einsum("snab,nbd,dn->san", parts, _inverse(parts.sum(axis=0)), mix[:, f], optimize=True)
    return np.stack([istft(spectrum, len(mixture)).T for spectrum in spectra])


def _spatial_covariances(spectrum: Complex[np.ndarray, "2 f n"]) -> Complex[np.ndarray, "f 2 2"]:
    power = np.mean(np.abs(spectrum) ** 2, axis=0)
    raw = np.einsum("afn,bfn->fab", spectrum / (EPS + power), spectrum.conj()) / spectrum.shape[-1]
    scale = raw[0, 0] + raw[1, 1]
    return np.divide(2 * raw, scale, out=np.zeros_like(raw), where=scale != 0) + EPS * np.eye(2)


def _inverse(matrix: Complex[np.ndarray, "*b 2 2"]) -> Complex[np.ndarray, "*b 2 2"]:
    """Adjugate over (eps + determinant)."""
    (a, b), (c, d) = np.moveaxis(matrix, (-2, -1), (0, 1))
    return np.moveaxis(np.array([[d, -b], [-c, a]]) / (EPS + a * d - b * c), (0, 1), (-2, -1))
