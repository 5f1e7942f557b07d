"""Readers: one stem each, its header checked when it is opened, its samples read from any position.

A file is opened for each read, so thousands of songs need no open file descriptors, and reading leaves Python's
lock to others.
"""

import dataclasses
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int16

from jaxsep import audio
from jaxsep.errors import JaxsepError

Samples = Int16[np.ndarray, "t c"] | Float32[np.ndarray, "t c"]


def to_float(samples: np.ndarray) -> np.ndarray:
    """16-bit samples as float32 in [-1, 1); float32 stays as it is."""
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) * np.float32(1 / 32768)


@dataclasses.dataclass(frozen=True)
class Reader:
    """One stem of one song: what its header says, and its samples.

    Attributes:
        length: samples at `rate`.
        dtype: of the samples read: int16 where the file holds 16 bits, float32 otherwise.
        stream: which of several audio streams of the file.
    """

    path: Path
    rate: int
    channels: int
    length: int
    dtype: np.dtype
    stream: int = 0

    def read(self, start: int, count: int) -> Samples:
        """Samples [start, start + count).

        Raises:
            JaxsepError: the file is gone, damaged, or shorter than it was when it was opened.
        """
        return audio.read_segment(self.path, start, count, stream=self.stream)


@dataclasses.dataclass(frozen=True)
class PlainWav(Reader):
    """A 16-bit RIFF WAV, whose samples are taken as they lie, from byte `offset` on."""

    offset: int = 0

    def read(self, start: int, count: int) -> Samples:
        """See `Reader.read`."""
        frame = 2 * self.channels
        try:
            file = os.open(self.path, os.O_RDONLY)
            try:
                data = os.pread(file, count * frame, self.offset + start * frame)
            finally:
                os.close(file)
        except OSError as error:
            raise JaxsepError(f"{self.path}: cannot be read ({error.strerror}); restore the file") from None
        if len(data) != count * frame:
            raise JaxsepError(
                f"{self.path}: truncated since it was opened, {len(data) // frame} of {count} samples at sample "
                f"{start}; restore the file and look for others with `jaxsep data check`"
            )
        return np.frombuffer(data, "<i2").reshape(count, self.channels)


@dataclasses.dataclass(frozen=True)
class Silence(Reader):
    """Zeros of any length."""

    def read(self, start: int, count: int) -> Samples:
        """See `Reader.read`."""
        return np.zeros((count, self.channels), self.dtype)


@dataclasses.dataclass(frozen=True)
class Sum(Reader):
    """The sum of files; those that are over before the others are followed by silence. `sum_of` makes it."""

    parts: tuple[Reader, ...] = ()

    def read(self, start: int, count: int) -> Samples:
        """See `Reader.read`."""
        total = np.zeros((count, self.channels), self.dtype)
        for part in self.parts:
            here = min(start + count, part.length) - start
            if here > 0:
                samples = part.read(start, here)
                total[:here] += samples if self.dtype == samples.dtype else to_float(samples)
        return total


def sum_of(parts: Sequence[Reader], length: int) -> Reader:
    """One reader of `length` samples for files of one rate, mono and one other number of channels."""
    first = parts[0]
    if len(parts) == 1 and first.length == length:
        return first
    dtype = first.dtype if len(parts) == 1 else np.dtype(np.float32)
    channels = max(part.channels for part in parts)
    return Sum(first.path, first.rate, channels, length, dtype, parts=tuple(parts))


def open_reader(path: Path, stream: int = 0) -> Reader:
    """Reads a file's header, and holds it against the file's size.

    Raises:
        JaxsepError: not audio, no samples, fewer bytes than the header promises, or a length that is not known
            without decoding.
    """
    with audio.open_audio(path, stream) as file:
        if file.length is None:
            raise JaxsepError(f"{path}: its length is not known without decoding all of it; convert it to FLAC")
        header = (path, file.rate, file.channels, file.length, np.dtype(file.dtype), stream)
        plain = file.subtype == "PCM_16"
    offset = _riff_offset(path) if plain else None
    return Reader(*header) if offset is None else PlainWav(*header, offset)


def _riff_offset(path: Path) -> int | None:
    """The first byte of a RIFF file's samples, None for other files."""
    with open(path, "rb") as file:
        if file.read(12)[:4] != b"RIFF":
            return None
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                return file.tell()
            file.seek(size + size % 2, os.SEEK_CUR)
    return None
