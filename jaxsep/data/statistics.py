"""Mean and deviation of each bin of the training songs, by which nets standardise their input.

As Open-Unmix measures them (get_statistics in its scripts/train.py): of the magnitudes of the mixtures, averaged over
the audio channels, over all frames of all songs as they are, without augmentation.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import soxr
from jaxtyping import Float32

from jaxsep.config import Config, parse_stems
from jaxsep.data import measured
from jaxsep.data.tracks import MIXTURE, Track
from jaxsep.errors import JaxsepError

FILE = "statistics.npz"
FLOOR = 1e-4  # of the largest deviation
PIECE = 2**20  # samples that are transformed at a time


class Statistics(NamedTuple):
    """Of each bin, [f].

    Attributes:
        mean: of the magnitudes.
        std: their standard deviation, at least 1e-4 of the largest one.
    """

    mean: Float32[np.ndarray, " f"]
    std: Float32[np.ndarray, " f"]


def of_run(folder: Path, front: Any, tracks: Sequence[Track], config: Config, fingerprint: str) -> Statistics:
    """The statistics of a run, measured at its first start and read from its folder at the later ones.

    Args:
        folder: of the run.
        front: the run's front end.
        tracks: the training songs.
        config: of the run.
        fingerprint: of its data.

    Raises:
        JaxsepError: the folder has the statistics of other data or a damaged file, or see `measure`.
    """
    what = f"the input statistics of {len(tracks)} songs"
    return measured.of_run(folder / FILE, Statistics, fingerprint, what, lambda: measure(front, tracks, config))


def measure(front: Any, tracks: Sequence[Track], config: Config) -> Statistics:
    """Statistics of songs through a spectral front end; one song at a time is in memory.

    Raises:
        JaxsepError: a song that cannot be read, or songs that are all silent.
    """

    @jax.jit
    def encode(wave: jax.Array) -> jax.Array:
        return jnp.abs(front.crop(front.encode(wave))).mean(axis=-1)

    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for track in tracks:
        for piece in _pieces(encode, _mixture(track, config), front.frame, front.hop):
            frames = piece.astype(np.float64)
            count, total, squares = count + len(frames), total + frames.sum(axis=0), squares + (frames**2).sum(axis=0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if not std.max() > 0:
        raise JaxsepError(f"input statistics: the {len(tracks)} training songs are silent; see `jaxsep data check`")
    return Statistics(mean.astype(np.float32), np.maximum(std, FLOOR * std.max()).astype(np.float32))


def _mixture(track: Track, config: Config) -> Float32[np.ndarray, "t c"]:
    """A whole song at the model's rate, in its channels."""
    names = [MIXTURE] if config.data.mixture == "original" else parse_stems(config.data.stems)
    wave = track.audio(names[:1])[0]
    for name in names[1:]:
        wave += track.audio([name])[0]
    if config.channels == 1:
        wave = wave.mean(axis=1, keepdims=True)
    return wave if track.rate == config.sample_rate else soxr.resample(wave, track.rate, config.sample_rate)


def _pieces(
    encode: Callable, wave: Float32[np.ndarray, "t c"], frame: int, hop: int
) -> Iterator[Float32[np.ndarray, "n f"]]:
    """The frames of a song, piece by piece, as `encode` makes them of the whole song."""
    margin, size = -(-frame // hop) * hop, PIECE // hop * hop  # the edges of a piece reach as far as its margin
    for start in range(0, len(wave), size):
        low, high = max(0, start - margin), start + size + margin
        last = high >= len(wave)
        frames = np.asarray(encode(wave[low : len(wave) if last else high]))[(start - low) // hop :]
        yield frames if last else frames[: size // hop]
        if last:
            return
