"""The STFT of SiSEC 2018's oracles: `scipy.signal.stft` with a Hann window of 2,048 samples and a hop of 1,024."""

import numpy as np
import scipy.signal
from jaxtyping import Complex, Float

FRAME = 2048
HOP = 1024


def stft(wave: Float[np.ndarray, "*c t"]) -> Complex[np.ndarray, "*c f n"]:
    """Spectra of 1,025 bins in double precision; a wave shorter than a frame is followed by zeros."""
    missing = max(0, FRAME - wave.shape[-1])  # scipy shrinks its window otherwise
    padded = np.pad(wave.astype(np.float64), [(0, 0)] * (wave.ndim - 1) + [(0, missing)])
    return scipy.signal.stft(padded, nperseg=FRAME, noverlap=FRAME - HOP)[-1]


def istft(spectrum: Complex[np.ndarray, "*c f n"], length: int) -> Float[np.ndarray, "*c t"]:
    """The wave of `length` samples that `stft` made the spectrum of."""
    return scipy.signal.istft(spectrum, nperseg=FRAME, noverlap=FRAME - HOP)[1][..., :length]
