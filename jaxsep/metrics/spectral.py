"""Log-spectral distance: how far an estimate's spectrogram is from the reference's, on the scale of hearing."""

import numpy as np
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from jaxsep.metrics.waves import Waves

FRAME = 2048
HOP = 1024
FLOOR = -100.0  # dB below a sine of full scale
BATCH = 128  # frames at a time


def log_spectral_distance(references: Waves, estimates: Waves) -> Float[np.ndarray, " s"]:
    """Mean over frames and channels of the root mean square over bins of L(s) - L(e), in dB; lower is better.

    The rms log-spectral distance of Gray & Markel (1976, d_2), between power spectra of the discrete Fourier transform
    where they have spectra of linear prediction. L = max(10 log10 |X|^2, -100 dB), where a sine of amplitude 1 has
    0 dB: without a floor, digital silence would be infinitely far from everything. Frames of 2,048 samples every
    1,024, whatever the rate, with a periodic Hann window; what is left at the end is dropped, and a track shorter than
    a frame is padded with zeros. Silence against silence counts, as 0 dB.

    Args:
        references: the true sources [s t c].
        estimates: what was separated, in the same order.
    """
    if tuple(references.shape) != tuple(estimates.shape):
        raise ValueError(f"references {references.shape} and estimates {estimates.shape} differ in shape [s t c]")
    sources, length, channels = references.shape
    count = 1 + max(0, length - FRAME) // HOP
    total = np.zeros(sources)
    for first in range(0, count, BATCH):
        piece = slice(first * HOP, (min(first + BATCH, count) - 1) * HOP + FRAME)
        pairs = zip(references[:, piece], estimates[:, piece], strict=True)
        total += [np.sqrt(np.mean(np.square(_levels(s) - _levels(e)), axis=-1)).sum() for s, e in pairs]
    return total / (count * channels)


def _levels(wave: Float[np.ndarray, "t c"]) -> Float[np.ndarray, "n c f"]:
    padded = np.pad(wave.astype(np.float64), ((0, max(0, FRAME - len(wave))), (0, 0)))
    window = np.hanning(FRAME + 1)[:-1]
    spectrum = np.fft.rfft(sliding_window_view(padded, FRAME, axis=0)[::HOP] * (2 * window / window.sum()))
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return 10 * np.log10(np.maximum(power, 10 ** (FLOOR / 10)))
