"""The fixed equaliser: one gain per frequency and stem, learned on training songs."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from jaxsep.baselines.spectra import istft, stft


def equalise(mixture: Float[np.ndarray, "t c"], gains: Float[np.ndarray, "s f"]) -> Float[np.ndarray, "s t c"]:
    """The fixed equaliser: the mixture with one gain per STFT bin and stem, the same at all times.

    The best filter that knows the instruments but does not listen. `learn_equaliser` gives the gains; the STFT is
    SiSEC's.
    """
    estimates = np.empty((len(gains), *mixture.shape))
    for channel in range(mixture.shape[1]):
        spectrum = stft(mixture[:, channel])
        for index, gain in enumerate(gains):
            estimates[index, :, channel] = istft(gain[:, None] * spectrum, len(mixture))
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
            spectrum = stft(mixture[:, channel])
            power = power + np.sum(np.abs(spectrum) ** 2, axis=1)
            cross = cross + np.array(
                [np.sum(np.real(spectrum.conj() * stft(stem[:, channel])), axis=1) for stem in stems]
            )
    return np.divide(cross, power, out=np.zeros(np.shape(cross)), where=np.broadcast_to(power > 0, np.shape(cross)))
