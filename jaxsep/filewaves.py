"""Sources in sound files, read a piece at a time."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float64

from jaxsep.errors import JaxsepError

Signed = tuple[tuple[Path, int], ...]  # files whose sum, each times 1 or -1, is a source


class FileWaves:
    """Sources [s t c] as `Waves`, each a sum of WAV or FLAC files; use it as a context manager.

    Samples are float64: every integer format exactly, 16 bits as value / 32768. The files have one length, rate and
    number of channels. Memory is that of the piece which is read.

    Raises:
        JaxsepError: a file cannot be read, is cut short, or holds NaN or infinite samples.
    """

    def __init__(self, sources: Sequence[Signed]) -> None:
        self._sources, self._stack = tuple(sources), ExitStack()
        self._files: dict[Path, soundfile.SoundFile] = {}
        with ExitStack() as stack:
            for path in dict.fromkeys(path for source in sources for path, _ in source):
                self._files[path] = stack.enter_context(_open(path))
            self._stack = stack.pop_all()
        first = next(iter(self._files.values()))
        self.rate = first.samplerate
        self.shape = (len(self._sources), first.frames, first.channels)

    def __enter__(self) -> "FileWaves":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __getitem__(self, piece: Any, /) -> Any:
        """`waves[:, start:stop]`: samples [s t c]; `waves[[2, 0]]`: some of the sources, as long as these are open."""
        if isinstance(piece, list):
            return self._some(piece)
        start, stop, _ = piece[1].indices(self.shape[1])
        read = {path: self._read(path, start, stop) for path in self._files}
        return np.stack([sum(sign * read[path] for path, sign in source) for source in self._sources])

    def _some(self, rows: list[int]) -> "FileWaves":
        some = object.__new__(FileWaves)
        some._sources, some._stack = tuple(self._sources[row] for row in rows), ExitStack()
        some._files = {path: self._files[path] for source in some._sources for path, _ in source}
        some.rate, some.shape = self.rate, (len(rows), *self.shape[1:])
        return some

    def _read(self, path: Path, start: int, stop: int) -> Float64[np.ndarray, "t c"]:
        try:
            self._files[path].seek(start)
            samples = self._files[path].read(stop - start, "float64", always_2d=True)
        except soundfile.LibsndfileError:
            samples = np.empty((0, 0))
        if len(samples) < stop - start:
            raise JaxsepError(f"{path}: truncated or damaged before sample {stop}; get a whole copy")
        if not np.isfinite(samples).all():
            raise JaxsepError(f"{path}: NaN or infinite sample between {start} and {stop}; export it again")
        return samples


def _open(path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise JaxsepError(f"{path}: not audio, or damaged ({error.error_string})") from None
