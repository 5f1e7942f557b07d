"""SDR, three ways. NumPy on the host, float64 sums, no accelerator and no jax.

Every function takes references and estimates [s t c] and gives one score per source (and frame), in dB.
"""

import numpy as np
from jaxtyping import Bool, Float


def framewise_sdr(
    references: Float[np.ndarray, "s t c"], estimates: Float[np.ndarray, "s t c"], rate: int
) -> Float[np.ndarray, "s n"]:
    """SDR of each second, as museval's `evaluate` gives it (BSS Eval v4, window and hop of one second).

    BSS Eval's distortion filters cancel in the SDR of source images (Vincent et al. 2012), which leaves
    10 log10(sum |s|^2 / sum |s - e|^2) over the samples and channels of a frame. Frames are cut hard; an
    incomplete last second is dropped, unless it is all there is. A frame in which any reference or estimate is
    silent is NaN for all sources. Silence alone would score 0 dB.

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
    frames = length // window
    energy = np.stack([_frame_energies(source, window) for source in references])
    error = np.stack(
        [_frame_energies(s - e.astype(np.float64), window) for s, e in zip(references, estimates, strict=True)]
    )
    scores = _decibels(energy, error)
    empty = np.array([is_silent(source) for source in references])
    scores[empty] = np.nan
    silent = np.zeros(frames, bool)
    for source in (*references[~empty], *estimates):
        if not is_silent(source):
            silent |= _silent_samples(source)[: frames * window].reshape(frames, window).all(axis=1)
    scores[:, silent] = np.nan
    return scores


def whole_track_sdr(
    references: Float[np.ndarray, "s t c"], estimates: Float[np.ndarray, "s t c"]
) -> Float[np.ndarray, " s"]:
    """SDR of the whole track, channels together: (sum s^2 + 1e-7) / (sum (s - e)^2 + 1e-7).

    The score of the Music Demixing Challenge 2021 (also known as uSDR or nSDR), here in float64.
    """
    _check(references, estimates)
    delta = 1e-7
    energy = np.array([_energy(s.astype(np.float64)) for s in references])
    error = np.array([_energy(s - e.astype(np.float64)) for s, e in zip(references, estimates, strict=True)])
    return _decibels(energy + delta, error + delta)


def si_sdr(references: Float[np.ndarray, "s t c"], estimates: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, " s"]:
    """Scale-invariant SDR (Le Roux et al. 2019): |a s|^2 / |e - a s|^2 with a = <e, s> / |s|^2.

    Whole track; the channels are flattened, so one factor `a` holds for both; means are not removed. NaN where the
    reference or the estimate is silent.
    """
    _check(references, estimates)
    scores = np.full(len(references), np.nan)
    for index, (reference, estimate) in enumerate(zip(references, estimates, strict=True)):
        reference, estimate = reference.astype(np.float64), estimate.astype(np.float64)
        if np.any(reference) and np.any(estimate):
            scaled = np.vdot(estimate, reference) / np.vdot(reference, reference) * reference
            scores[index] = _decibels(_energy(scaled), _energy(estimate - scaled))
    return scores


def is_silent(wave: Float[np.ndarray, "t c"]) -> bool:
    """Whether museval would call a source silent: its channels sum to exactly zero in every sample."""
    return bool(_silent_samples(wave).all())


def _silent_samples(wave: Float[np.ndarray, "t c"]) -> Bool[np.ndarray, " t"]:
    return wave.sum(axis=-1) == 0


def _frame_energies(wave: Float[np.ndarray, "t c"], window: int) -> Float[np.ndarray, " n"]:
    frames = len(wave) // window
    return np.square(wave[: frames * window], dtype=np.float64).reshape(frames, -1).sum(axis=1)


def _energy(wave: Float[np.ndarray, "t c"]) -> np.float64:
    return np.square(wave).sum()


def _decibels(energy: np.ndarray | np.float64, error: np.ndarray | np.float64) -> np.ndarray:
    """10 log10(energy / error); no error is +inf, and so is nothing against nothing, as in museval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error == 0, np.inf, 10 * np.log10(energy / error))


def _check(references: np.ndarray, estimates: np.ndarray) -> None:
    if references.shape != estimates.shape:
        raise ValueError(f"references {references.shape} and estimates {estimates.shape} differ in shape [s t c]")
    if references.size == 0:
        raise ValueError(f"references {references.shape} [s t c] are empty")
