"""Root mean squares of files, by which single-stem collections are made as loud as the songs of another data set."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxsep.config import Config, parse_stems
from jaxsep.data import measured
from jaxsep.data.levels import PIECE
from jaxsep.data.readers import to_float
from jaxsep.data.tracks import Track
from jaxsep.errors import JaxsepError

FILE = "loudness.npz"


class Loudness(NamedTuple):
    """Root mean squares over samples and channels.

    Attributes:
        reference: of the stems of the songs in which all are heard, [songs stems].
        files: of the collections' files, in their order.
    """

    reference: Float64[np.ndarray, "songs k"]
    files: Float64[np.ndarray, " files"]


def of_run(folder: Path, songs: Sequence[Track], files: Sequence[Track], config: Config, fingerprint: str) -> Loudness:
    """The levels of a run's songs and single stems, measured at its first start and read from its folder later.

    Raises:
        JaxsepError: the folder has the levels of other data or a damaged file, or see `measure`.
    """
    what = f"levels of {len(songs)} songs and {len(files)} single stems"
    return measured.of_run(folder / FILE, Loudness, fingerprint, what, lambda: measure(songs, files, config))


def measure(songs: Sequence[Track], files: Sequence[Track], config: Config) -> Loudness:
    """Levels of songs and files from end to end.

    Raises:
        JaxsepError: a file that cannot be read, a single stem that is silent, or no song in which all stems are heard.
    """
    stems = parse_stems(config.data.stems)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reference = np.array([*pool.map(lambda song: [_rms(song, stem) for stem in stems], songs)])
        levels = np.array([*pool.map(lambda file: _rms(file, *file.stems), files)])
    for file, level in zip(files, levels, strict=True):
        if not level:
            raise JaxsepError(f"{next(iter(file.stems.values())).path}: silent from end to end; remove it")
    reference = reference[(reference > 0).all(axis=1)]
    if not len(reference):
        raise JaxsepError(
            "data.also: no song of the first data set has all stems, so none says how loud they are to be"
        )
    return Loudness(reference, levels)


def _rms(track: Track, stem: str) -> float:
    squares = 0.0
    for start in range(0, track.length, PIECE):
        piece = to_float(track.read(stem, start, min(PIECE, track.length - start))).astype(np.float64)
        squares += float(np.vdot(piece, piece))
    return (squares / track.length / track.channels) ** 0.5
