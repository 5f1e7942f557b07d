"""What a model must beat, and what no mask can: trivial answers and an oracle, for judging a score.

All take a mixture [t c] and the stems it is made of [s t c] in float, and give estimates [s t c] in float64.
All are linear in the stems' estimates, so an accompaniment's estimate is the sum of its stems' estimates.
For comparison: an estimate of pure silence scores an SDR of 0 dB.
"""

from collections.abc import Iterable

import numpy as np
import scipy.signal
from jaxtyping import Complex, Float

FRAME = 2048
HOP = 1024


def untouched_mixture(
    mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]
) -> Float[np.ndarray, "s t c"]:
    """The mixture itself as the estimate of every stem."""
    return np.repeat(mixture[None].astype(np.float64), len(stems), axis=0)


def scaled_mixture(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """The mixture times the least-squares gain <x, s> / <x, x> of each stem: the best that a volume knob can do.

    One gain per stem, over the whole song and all channels; it sees the true stems, and so is an oracle.
    """
    mixture = mixture.astype(np.float64)
    energy = np.vdot(mixture, mixture)
    products = np.array([np.vdot(mixture, stem.astype(np.float64)) for stem in stems])
    gains = products / energy if energy else np.zeros(len(stems))
    return gains[:, None, None] * mixture


def irm1(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """The ideal ratio mask of SiSEC 2018 with exponent 1: |Y_s| / (eps + sum_k |Y_k|) times the mixture's STFT.

    Channel by channel, with `scipy.signal.stft` (Hann, 2,048 samples, hop 1,024), as in sigsep-mus-oracle.
    """
    estimates = np.empty(stems.shape)
    for channel in range(mixture.shape[1]):
        magnitudes = [np.abs(_stft(stem[:, channel])) for stem in stems]
        spectrum = _stft(mixture[:, channel]) / (np.finfo(np.float64).eps + sum(magnitudes))
        for index, magnitude in enumerate(magnitudes):
            estimates[index, :, channel] = _istft(magnitude * spectrum, len(mixture))
    return estimates


def equalise(mixture: Float[np.ndarray, "t c"], gains: Float[np.ndarray, "s f"]) -> Float[np.ndarray, "s t c"]:
    """The fixed equaliser: the mixture with one gain per STFT bin and stem, the same at all times.

    The best filter that knows the instruments but does not listen. `learn_equaliser` gives the gains; the STFT is
    that of `irm1`.
    """
    estimates = np.empty((len(gains), *mixture.shape))
    for channel in range(mixture.shape[1]):
        spectrum = _stft(mixture[:, channel])
        for index, gain in enumerate(gains):
            estimates[index, :, channel] = _istft(gain[:, None] * spectrum, len(mixture))
    return estimates


def learn_equaliser(
    songs: Iterable[tuple[Float[np.ndarray, "_ c"], Float[np.ndarray, "s _ c"]]],
) -> Float[np.ndarray, "s f"]:
    """Least-squares gains over all frames and channels of all songs: g_s(f) = sum Re(X* S_s) / sum |X|^2.

    Args:
        songs: (mixture [t c], stems [s t c]) of each training song; at least one.

    Returns:
        [s f], f = 1,025 bins; 0 in a bin where no mixture has energy.
    """
    cross, power = 0.0, 0.0
    for mixture, stems in songs:
        for channel in range(mixture.shape[1]):
            spectrum = _stft(mixture[:, channel])
            power = power + np.sum(np.abs(spectrum) ** 2, axis=1)
            cross = cross + np.array(
                [np.sum(np.real(spectrum.conj() * _stft(stem[:, channel])), axis=1) for stem in stems]
            )
    return np.divide(cross, power, out=np.zeros(np.shape(cross)), where=np.broadcast_to(power > 0, np.shape(cross)))


def _stft(wave: Float[np.ndarray, " t"]) -> Complex[np.ndarray, "f n"]:
    padded = np.pad(wave.astype(np.float64), (0, max(0, FRAME - len(wave))))  # scipy shrinks its window otherwise
    return scipy.signal.stft(padded, nperseg=FRAME, noverlap=FRAME - HOP)[-1]


def _istft(spectrum: Complex[np.ndarray, "f n"], length: int) -> Float[np.ndarray, " t"]:
    return scipy.signal.istft(spectrum, nperseg=FRAME, noverlap=FRAME - HOP)[1][:length]
