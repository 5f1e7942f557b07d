"""What was done before nets, as librosa has it: NMF, REPET-SIM and harmonic-percussive separation.

All make real masks on librosa's STFT (Hann, 2,048 samples, hop 512) in single precision, with the mixture's phase.
librosa comes with the `eval` extra and is imported when one of them runs.
"""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxsep.errors import JaxsepError

FRAME = 2048
COMPONENTS = 32  # of NMF
ITERATIONS = 100
NEIGHBOURS_APART = 2.0  # seconds between frames that REPET-SIM compares


def hpss(mixture: Float[np.ndarray, "t c"], rate: int) -> dict[str, Float[np.ndarray, "t c"]]:
    """Harmonic-percussive separation by median filters: what is percussive is taken for the drums.

    D. Fitzgerald, "Harmonic/percussive separation using median filtering", DAFx 2010: medians over 31 frames and over
    31 bins, masks of their squares, channel by channel. What is harmonic is the rest of the mixture.
    """
    librosa = _librosa()
    drums = [librosa.decompose.hpss(spectrum)[1] for spectrum in _stft(librosa, mixture)]
    return {"drums": _istft(librosa, np.stack(drums), len(mixture))}


def repet_sim(mixture: Float[np.ndarray, "t c"], rate: int) -> dict[str, Float[np.ndarray, "t c"]]:
    """REPET-SIM: what recurs in similar frames is accompaniment, what does not is vocals.

    Z. Rafii and B. Pardo, "Music/voice separation using the similarity matrix", ISMIR 2012, with the soft masks of
    librosa's example "Vocal separation": the background is the median over the frames nearest by cosine, of all
    channels together, at least 2 s apart, and no more than the mixture; the masks are softmask(background, 2 residual)
    and softmask(residual, 10 background), with power 2, and so do not sum to 1.

    Raises:
        JaxsepError: too short for frames that are 2 s apart.
    """
    librosa = _librosa()
    spectrum = _stft(librosa, mixture)
    size = np.abs(spectrum)
    width = int(librosa.time_to_frames(NEIGHBOURS_APART, sr=rate))
    if width > (size.shape[-1] - 1) // 2:
        raise JaxsepError(
            f"baseline repet compares frames 2 s apart; {len(mixture) / rate:.1f} s are too short for that"
        )
    background = librosa.decompose.nn_filter(size, aggregate=np.median, metric="cosine", width=width)
    background = np.minimum(size, background)
    residual = size - background
    masked = lambda *sizes: _istft(librosa, librosa.util.softmask(*sizes, power=2) * spectrum, len(mixture))
    return {"vocals": masked(residual, 10 * background), "accompaniment": masked(background, 2 * residual)}


def nmf(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """Non-negative matrix factorisation of the mixture, its components grouped by an oracle.

    P. Smaragdis and J. Brown, "Non-negative matrix factorization for polyphonic music transcription", WASPAA 2003: 32
    components, 100 multiplicative updates of the Kullback-Leibler divergence, on magnitudes averaged over the channels.
    Component k goes to the stem s with the largest <|Y_s|, w_k h_k>, which leaves the smallest sum of squares; the mask
    of a stem is its components' share of the sum of all.
    """
    librosa = _librosa()
    spectrum = _stft(librosa, mixture)
    if not spectrum.any():
        return np.zeros(stems.shape)
    bases, gains = librosa.decompose.decompose(
        np.abs(spectrum).mean(axis=0),
        n_components=min(COMPONENTS, spectrum.shape[-1]),
        init="nndsvda",
        solver="mu",
        beta_loss="kullback-leibler",
        max_iter=ITERATIONS,
        tol=0,
        random_state=0,
    )
    products = []
    for stem in stems:
        size = np.abs(_stft(librosa, stem)).mean(axis=0)
        products.append(np.sum((bases.T @ size) * gains, axis=1))
    owner = np.argmax(products, axis=0)
    total = np.finfo(bases.dtype).tiny + bases @ gains
    estimates = np.empty(stems.shape)
    for index in range(len(stems)):
        mask = bases[:, owner == index] @ gains[owner == index] / total
        estimates[index] = _istft(librosa, mask * spectrum, len(mixture))
    return estimates


def _librosa() -> Any:
    try:
        return importlib.import_module("librosa")
    except ImportError as error:
        raise JaxsepError(
            f"this baseline is librosa's, which cannot be used ({error}): pip install 'jaxsep[eval]'"
        ) from None


def _stft(librosa: Any, wave: np.ndarray) -> np.ndarray:
    """[t c] -> [c f n]; waves shorter than a frame are followed by zeros."""
    padded = np.pad(wave.T.astype(np.float32), [(0, 0), (0, max(0, FRAME - len(wave)))])
    return librosa.stft(padded, n_fft=FRAME)


def _istft(librosa: Any, spectrum: np.ndarray, length: int) -> np.ndarray:
    return librosa.istft(spectrum, n_fft=FRAME, length=max(length, FRAME))[:, :length].T
