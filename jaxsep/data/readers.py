"""Readers: one file each, its header checked when it is opened, its samples read from any position.

A reader opens its file for each read, so thousands of songs need no open file descriptors, and reads leave
Python's lock while they wait.
"""

import dataclasses
import os
import struct
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile
from jaxtyping import Float32, Int16

from jaxsep.types import JaxsepError

Samples = Int16[np.ndarray, "t c"] | Float32[np.ndarray, "t c"]


def to_float(samples: np.ndarray) -> np.ndarray:
    """16-bit samples as float32 in [-1, 1); float32 stays as it is."""
    return samples if samples.dtype == np.float32 else samples.astype(np.float32) * np.float32(1 / 32768)


class Reader(Protocol):
    """One stem of one song: its header, and its samples from any position."""

    path: Path
    rate: int
    channels: int
    length: int
    dtype: np.dtype

    def read(self, start: int, count: int) -> Samples:
        """Samples [start, start + count): int16 where the file holds 16 bits, float32 otherwise."""
        ...


@dataclasses.dataclass(frozen=True)
class PlainWav:
    """A WAV file whose samples are read as they lie: 16-bit PCM or 32-bit float, at byte `offset`."""

    path: Path
    rate: int
    channels: int
    length: int
    dtype: np.dtype
    offset: int

    def read(self, start: int, count: int) -> Samples:
        """See `Reader.read`.

        Raises:
            JaxsepError: the file is gone or shorter than it was when it was opened.
        """
        frame = self.dtype.itemsize * self.channels
        try:
            file = os.open(self.path, os.O_RDONLY)
            try:
                data = os.pread(file, count * frame, self.offset + start * frame)
            finally:
                os.close(file)
        except OSError as error:
            raise JaxsepError(f"{self.path}: cannot be read ({error.strerror}); restore the file") from None
        if len(data) != count * frame:
            raise _torn(self.path, start, count, len(data) // frame)
        return np.frombuffer(data, self.dtype).reshape(count, self.channels)


@dataclasses.dataclass(frozen=True)
class SoundFile:
    """Anything else that libsndfile decodes: FLAC, and WAV of other sample formats."""

    path: Path
    rate: int
    channels: int
    length: int
    dtype: np.dtype

    def read(self, start: int, count: int) -> Samples:
        """See `Reader.read`.

        Raises:
            JaxsepError: the file is gone, damaged or shorter than its header says.
        """
        try:
            with soundfile.SoundFile(self.path) as file:
                file.seek(start)
                samples = file.read(
                    count, dtype="int16" if self.dtype == np.int16 else "float32", always_2d=True
                )
        except (soundfile.SoundFileError, OSError) as error:
            raise JaxsepError(f"{self.path}: cannot be decoded at sample {start} ({error})") from None
        if samples.shape != (count, self.channels):
            raise _torn(self.path, start, count, len(samples))
        return samples


def _torn(path: Path, start: int, count: int, got: int) -> JaxsepError:
    return JaxsepError(
        f"{path}: truncated, {got} of {count} samples at sample {start}; restore the file, "
        "and list what else is wrong with `jaxsep data check`"
    )


def open_reader(path: Path) -> PlainWav | SoundFile:
    """Reads the header of a WAV or FLAC file, and holds a WAV's against the size of the file.

    Raises:
        JaxsepError: not audio, no samples, or fewer bytes than the header promises.
    """
    try:
        with open(path, "rb") as file:
            plain = _wav_header(path, file)
        if plain is not None:
            return plain
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        raise JaxsepError(f"{path}: not a readable audio file ({error}); replace it") from None
    if info.frames < 1:
        raise JaxsepError(f"{path}: holds no samples; replace it")
    dtype = np.dtype(np.int16 if info.subtype == "PCM_16" else np.float32)
    return SoundFile(path, info.samplerate, info.channels, info.frames, dtype)


def _wav_header(path: Path, file: BinaryIO) -> PlainWav | None:
    """The reader of a plain RIFF WAV, None for other formats.

    libsndfile would shorten a truncated WAV without a word, so every WAV's size is checked here.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(12)
    if size == 0:
        raise JaxsepError(f"{path}: empty file (0 bytes); replace it")
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return None
    form = b""
    while True:
        chunk = file.read(8)
        if len(chunk) < 8:
            raise JaxsepError(f"{path}: a WAV file without samples (no data chunk); replace it")
        name, count = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        if name == b"fmt ":
            form = file.read(count + count % 2)
        else:
            file.seek(count + count % 2, 1)
    if len(form) < 16:
        raise JaxsepError(f"{path}: a WAV file without a format chunk; replace it")
    offset = file.tell()
    if offset + count > size:
        raise JaxsepError(
            f"{path}: truncated, {size - offset} bytes of samples where its header promises {count}; "
            "restore the file"
        )
    tag, channels, rate, _, frame, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == 0xFFFE and len(form) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the format stands in the sub-format
        tag = struct.unpack("<H", form[24:26])[0]
    dtype = {(1, 16): "<i2", (3, 32): "<f4"}.get((tag, bits))
    if dtype is None or frame != channels * bits // 8:
        return None
    if count < frame or count % frame:
        raise JaxsepError(f"{path}: {count} bytes of samples are no whole number of frames; replace it")
    return PlainWav(path, rate, channels, count // frame, np.dtype(dtype), offset)
