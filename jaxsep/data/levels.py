"""Mean and deviation of each song's mono mix, by which Demucs standardises its songs in training as in inference."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from jaxsep.config import Config, parse_stems
from jaxsep.data import measured
from jaxsep.data.readers import to_float
from jaxsep.data.tracks import MIXTURE, Track
from jaxsep.streams import track_statistics

FILE = "levels.npz"
PIECE = 2**20  # samples of a song in memory


class Levels(NamedTuple):
    """Of each song, [tracks].

    Attributes:
        mean: of the mono mix.
        std: its standard deviation, see `jaxsep.streams.track_statistics`.
    """

    mean: Float64[np.ndarray, " tracks"]
    std: Float64[np.ndarray, " tracks"]


def of_run(folder: Path, tracks: Sequence[Track], config: Config, fingerprint: str) -> Levels:
    """The levels of a run's training songs, measured at its first start and read from its folder at the later ones.

    Raises:
        JaxsepError: the folder has the levels of other data or a damaged file, or a song cannot be read.
    """
    what = f"mean and deviation of {len(tracks)} songs"
    return measured.of_run(folder / FILE, Levels, fingerprint, what, lambda: measure(tracks, config))


def measure(tracks: Sequence[Track], config: Config) -> Levels:
    """Levels of the songs' mixtures, at the songs' own rates.

    Raises:
        JaxsepError: a song that cannot be read.
    """
    original = config.data.mixture == "original"
    names = [MIXTURE] if original else parse_stems(config.data.stems)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda track: track_statistics(_mixture(track, names)), tracks))
    return Levels(*np.array(found).T)


def _mixture(track: Track, names: Sequence[str]) -> Iterator[Float32[np.ndarray, "_ c"]]:
    """The sum of a song's stems, piece by piece."""
    for start in range(0, track.length, PIECE):
        count = min(PIECE, track.length - start)
        yield np.sum([to_float(track.read(name, start, count)) for name in names], axis=0)
