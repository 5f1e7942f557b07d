"""Sources in sound files, read a piece at a time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float64

from jaxsep.errors import JaxsepError

Signed = tuple[tuple[Path, int], ...]  # files whose sum, each times 1 or -1, is a source


class FileWaves:
    """Sources [s t c] as `Waves`, each a sum of WAV or FLAC files of one length, rate and number of channels.

    Samples are float64: every integer format exactly, 16 bits as value / 32768. Memory is that of the piece which is
    read. Reading raises JaxsepError where a file is cut short, damaged, or holds NaN or infinite samples.

    Args:
        sources: see `Signed`.
        files: all of these, open.
    """

    def __init__(self, sources: Sequence[Signed], files: Mapping[Path, soundfile.SoundFile]) -> None:
        self._sources, self._files = tuple(sources), files
        self._paths = list(dict.fromkeys(path for source in sources for path, _ in source))
        first = files[self._paths[0]]
        self.rate = first.samplerate
        self.shape = (len(self._sources), first.frames, first.channels)

    def __getitem__(self, piece: Any, /) -> Any:
        """`waves[:, start:stop]`: samples [s t c]; `waves[[2, 0]]`: some of the sources, of the same open files."""
        if isinstance(piece, list):
            return FileWaves([self._sources[row] for row in piece], self._files)
        start, stop, _ = piece[1].indices(self.shape[1])
        read = {path: self._read(path, start, stop) for path in self._paths}
        return np.stack([sum(sign * read[path] for path, sign in source) for source in self._sources])

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


@contextmanager
def open_waves(sources: Sequence[Signed]) -> Iterator[FileWaves]:
    """The sources of files, which are closed at the end.

    Raises:
        JaxsepError: a file cannot be opened.
    """
    with ExitStack() as stack:
        paths = dict.fromkeys(path for source in sources for path, _ in source)
        yield FileWaves(sources, {path: stack.enter_context(_open(path)) for path in paths})


def _open(path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise JaxsepError(f"{path}: not audio, or damaged ({error.error_string})") from None
