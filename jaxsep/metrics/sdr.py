"""SDR, three ways, and SI-SAR. NumPy on the host, float64 sums, no accelerator and no jax.

Every function takes references and estimates [s t c] as `Waves`, reads them in blocks of some seconds and gives one
score per source (and frame), in dB.
"""

import functools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float

from jaxsep.metrics.waves import Waves

BLOCK = 1 << 17  # samples read at a time: three seconds at 44.1 kHz


def framewise_sdr(references: Waves, estimates: Waves, rate: int) -> Float[np.ndarray, "s n"]:
    """SDR of each second, as museval's `evaluate` gives it (BSS Eval v4, window and hop of one second).

    BSS Eval's distortion filters cancel in the SDR of source images (Vincent et al. 2012), which leaves
    10 log10(sum |s|^2 / sum |s - e|^2) over the samples and channels of a frame. Frames are cut hard; an
    incomplete last second is dropped, unless it is all there is. A frame in which any reference or estimate is
    silent is NaN for all sources. Silence alone would score 0 dB. Its median over the frames of a track is what
    papers call cSDR.

    Two deviations: where museval refuses a track because a source is silent throughout, that source does not
    silence the others; as a reference it is NaN, as an estimate of something audible 0 dB. And an exact estimate
    is +inf, where the rounding of museval's projections may leave some 300 dB.

    Args:
        references: the true sources that are scored together.
        estimates: what was separated, in the same order.
        rate: samples per second.
    """
    _check(references, estimates)
    length = references.shape[1]
    window = min(rate, length)
    energies, errors, pauses = [], [], []
    for reference, estimate in _blocks(references, estimates, window * max(1, BLOCK // window)):
        energies.append(_energy(_frames(reference, window)))
        errors.append(_energy(_frames(np.subtract(reference, estimate, dtype=np.float64), window)))
        pauses.append(_silent_frames(np.concatenate([reference, estimate]), window))
    # Padded to a whole frame, an incomplete last second counts for who is silent throughout, and for nothing else.
    frames = length // window
    silent = np.concatenate(pauses, axis=1)
    throughout = np.all(silent, axis=1)
    scores = _decibels(np.concatenate(energies, axis=1), np.concatenate(errors, axis=1))[:, :frames]
    scores[throughout[: len(scores)]] = np.nan
    scores[:, np.any(silent[~throughout, :frames], axis=0)] = np.nan
    return scores


def whole_track_sdr(references: Waves, estimates: Waves) -> Float[np.ndarray, " s"]:
    """SDR of the whole track, channels together: (sum s^2 + 1e-7) / (sum (s - e)^2 + 1e-7).

    The score of the Music Demixing Challenge 2021 (Mitsufuji et al. 2022; nSDR in Demucs), here in float64. Its mean
    over the tracks is what papers call uSDR.
    """
    _check(references, estimates)
    energy = error = np.full(references.shape[0], 1e-7)
    for reference, estimate in _blocks(references, estimates):
        energy = energy + _energy(_flat(reference))
        error = error + _energy(_flat(np.subtract(reference, estimate, dtype=np.float64)))
    return _decibels(energy, error)


def si_sdr(references: Waves, estimates: Waves) -> Float[np.ndarray, " s"]:
    """Scale-invariant SDR (Le Roux et al. 2019, eq. 4): |a s|^2 / |e - a s|^2 with a = <e, s> / |s|^2.

    Whole track; the channels are flattened, so one factor `a` holds for all; means are not removed. NaN where the
    reference or the estimate is silent.
    """
    _check(references, estimates)
    gram, products = _products(references, estimates)
    target, gains = _target(gram, products)
    return _ratio(target, _residual(references, estimates, np.diag(gains)))


def si_sar(references: Waves, estimates: Waves) -> Float[np.ndarray, " s"]:
    """Scale-invariant SAR (Le Roux et al. 2019): |a s|^2 / |e - P e|^2 with `a` as in `si_sdr`.

    P projects on all references that are scored together, one gain per source, the channels flattened: BSS Eval's
    allowed distortion cut down to one tap. Unlike BSS Eval's SAR the numerator is the target alone, so that
    1 / SI-SDR = 1 / SI-SIR + 1 / SI-SAR. NaN where the reference or the estimate is silent.
    """
    _check(references, estimates)
    gram, products = _products(references, estimates)
    target, _ = _target(gram, products)
    return _ratio(target, _residual(references, estimates, products @ np.linalg.pinv(gram, hermitian=True)))


def is_silent(wave: Float[np.ndarray, "t c"]) -> bool:
    """Whether museval would call a source silent: its channels sum to exactly zero in every sample."""
    return bool(_silent_samples(wave).all())


def silent_throughout(waves: Waves) -> list[bool]:
    """`is_silent` of each source."""
    silent = np.ones(waves.shape[0], bool)
    for start in range(0, waves.shape[1], BLOCK):
        silent &= _silent_samples(waves[:, start : start + BLOCK]).all(axis=1)
        if not silent.any():
            break
    return silent.tolist()


def _blocks(
    references: Waves, estimates: Waves, size: int | None = None
) -> Iterator[tuple[Float[np.ndarray, "s t c"], Float[np.ndarray, "s t c"]]]:
    size = size or BLOCK
    for start in range(0, references.shape[1], size):
        yield references[:, start : start + size], estimates[:, start : start + size]


def _flat(block: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s _"]:
    return block.reshape(len(block), -1).astype(np.float64, copy=False)


def _frames(block: Float[np.ndarray, "s t c"], window: int) -> Float[np.ndarray, "s n _"]:
    padded = np.pad(block, ((0, 0), (0, -block.shape[1] % window), (0, 0))) if block.shape[1] % window else block
    return padded.reshape(len(block), -1, window * block.shape[2]).astype(np.float64, copy=False)


def _energy(rows: Float[np.ndarray, "*rows t"]) -> Float[np.ndarray, "*rows"]:
    return np.einsum("...t,...t->...", rows, rows)


def _silent_samples(wave: Float[np.ndarray, "*s t c"]) -> Bool[np.ndarray, "*s t"]:
    total: np.ndarray = functools.reduce(np.add, np.moveaxis(wave, -1, 0))
    return ~total.astype(bool)


def _silent_frames(block: Float[np.ndarray, "s t c"], window: int) -> Bool[np.ndarray, "s n"]:
    silent = _silent_samples(block)
    padded = np.pad(silent, ((0, 0), (0, -silent.shape[1] % window)), constant_values=True)
    return np.all(padded.reshape(len(silent), -1, window), axis=2)


def _products(references: Waves, estimates: Waves) -> tuple[Float[np.ndarray, "s s"], Float[np.ndarray, "s s"]]:
    """<s_i, s_j>, and <e_i, s_j>."""
    gram = products = np.zeros((references.shape[0], references.shape[0]))
    for reference, estimate in _blocks(references, estimates):
        basis = _flat(reference)
        gram, products = gram + basis @ basis.T, products + _flat(estimate) @ basis.T
    return gram, products


def _target(
    gram: Float[np.ndarray, "s s"], products: Float[np.ndarray, "s s"]
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Energy of each estimate's projection on its own reference, and the gain; NaN and 0 for a silent reference."""
    own, energy = np.diag(products), np.diag(gram)
    gains = np.divide(own, energy, out=np.zeros_like(own), where=energy > 0)
    return np.where(energy > 0, gains * own, np.nan), gains


def _residual(references: Waves, estimates: Waves, gains: Float[np.ndarray, "s s"]) -> Float[np.ndarray, " s"]:
    """Energy of each estimate less gains [estimate, reference] times the references."""
    energy = np.zeros(references.shape[0])
    for reference, estimate in _blocks(references, estimates):
        energy = energy + _energy(_flat(estimate) - gains @ _flat(reference))
    return energy


def _ratio(target: Float[np.ndarray, " s"], residual: Float[np.ndarray, " s"]) -> Float[np.ndarray, " s"]:
    """In dB; NaN for a silent estimate, which has neither target nor residual."""
    return np.where(target + residual > 0, _decibels(target, residual), np.nan)


def _decibels(energy: Float[np.ndarray, "*shape"], error: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """10 log10(energy / error); no error is +inf, and so is nothing against nothing, as in museval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, np.inf, 10 * np.log10(energy / error))


def _check(references: Waves, estimates: Waves) -> None:
    if tuple(references.shape) != tuple(estimates.shape):
        raise ValueError(f"references {references.shape} and estimates {estimates.shape} differ in shape [s t c]")
    if 0 in references.shape:
        raise ValueError(f"references {references.shape} [s t c] are empty")
