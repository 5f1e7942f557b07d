"""Bands of a spectrum, on the mel scale or a logarithmic one."""

import numpy as np

from jaxsep.errors import JaxsepError


def mel_filters(bands: int, bins: int, rate: int, frame: int, htk: bool = False) -> np.ndarray:
    """Triangular mel filters, [bins bands], from 0 Hz to the last of the lowest `bins` bins of a spectrum.

    Each filter has unit area over Hz (Slaney's normalisation), so that on noise all bands weigh about the
    same. Equal to librosa.filters.mel(sr=rate, n_fft=frame, n_mels=bands, fmax=(bins - 1) * rate / frame,
    htk=htk).

    Raises:
        JaxsepError: a band so narrow that no bin falls into it.
    """
    hertz = np.arange(bins) * rate / frame
    edges = mel_to_hertz(np.linspace(0, hertz_to_mel(hertz[-1:], htk)[0], bands + 2), htk)
    filters = _triangles(hertz, edges[:-2], edges[1:-1], edges[2:])
    empty = int((filters.max(axis=0) == 0).sum())
    if empty:
        raise JaxsepError(f"loss.mel_bins={bands}: {empty} bands lie between the bins of a {frame}-point spectrum")
    return filters.astype(np.float32)


def log_filters(bands: int, bins: int, rate: int, frame: int, lowest: float = 30.0) -> np.ndarray:
    """Triangular filters at equal musical intervals, [bins bands]; the first begins at `lowest` Hz, all of unit area.

    They end at the last of the lowest `bins` bins of a spectrum. Where a semitone is less than a bin, a filter reaches
    one bin to either side of its centre, so that none is empty and neighbours share what cannot be told apart.

    Raises:
        JaxsepError: nothing above `lowest`.
    """
    hertz = np.arange(bins) * rate / frame
    if not 0 < lowest < hertz[-1]:
        raise JaxsepError(f"loss.log_bins={bands}: no bands between {lowest:g} and {hertz[-1]:g} Hz; give more bins")
    edges = np.geomspace(lowest, hertz[-1], bands + 2)
    centre, width = edges[1:-1], rate / frame
    low, high = np.minimum(edges[:-2], centre - width), np.maximum(edges[2:], centre + width)
    return _triangles(hertz, low, centre, high).astype(np.float32)


def _triangles(hertz: np.ndarray, low: np.ndarray, centre: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[bins bands], each of unit area over Hz."""
    rising = (hertz[:, None] - low) / (centre - low)
    falling = (high - hertz[:, None]) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


# Slaney's scale (Auditory Toolbox, 1998): linear up to 1 kHz at 3 mel per 200 Hz, then 27 mel per factor of
# 6.4.
_KNEE_HERTZ, _KNEE_MEL, _LOG_STEP = 1000.0, 15.0, np.log(6.4) / 27


def hertz_to_mel(hertz: np.ndarray, htk: bool = False) -> np.ndarray:
    """Slaney's scale, or HTK's."""
    if htk:
        return 2595 * np.log10(1 + hertz / 700)
    above = _KNEE_MEL + np.log(np.maximum(hertz, _KNEE_HERTZ) / _KNEE_HERTZ) / _LOG_STEP
    return np.where(hertz < _KNEE_HERTZ, hertz * _KNEE_MEL / _KNEE_HERTZ, above)


def mel_to_hertz(mel: np.ndarray, htk: bool = False) -> np.ndarray:
    """The inverse of `hertz_to_mel`."""
    if htk:
        return 700 * (10 ** (mel / 2595) - 1)
    above = _KNEE_HERTZ * np.exp((mel - _KNEE_MEL) * _LOG_STEP)
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HERTZ / _KNEE_MEL, above)
