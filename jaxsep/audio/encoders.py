"""Encoders onto an open file: WAV by hand (for RF64 beyond 4 GB), the others by libsndfile."""

import struct
from io import BufferedIOBase, BytesIO
from typing import Any

import numpy as np
import soundfile

from jaxsep.audio.reader import Wave

# Constant bit rates in kbit/s by MPEG version, which the sample rate decides. libsndfile refuses the lowest.
MPEG_1 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
MPEG_2 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MPEG_2_5 = (8, 16, 24, 32, 40, 48, 56, 64)


def _mpeg(rate: int) -> tuple[int, ...]:
    return MPEG_1 if rate >= 32000 else MPEG_2 if rate >= 16000 else MPEG_2_5


def mp3_bitrates(rate: int) -> tuple[int, ...]:
    """The constant bit rates that an MP3 of this sample rate can be given, in kbit/s."""
    return _mpeg(rate)[1:]


def encoder(
    file: Any, format: str, bits: int | str | None, rate: int, channels: int, bitrate: int | None
) -> "WavEncoder | SndEncoder":
    """The encoder of checked choices (see `check_writer`) onto a file open for writing."""
    if format == "wav":
        return WavEncoder(file, rate, channels, str(bits or 16))
    return SndEncoder(file, format, rate, channels, str(bits or 16), bitrate)


def _quantised(block: Wave, bits: int) -> np.ndarray:
    """Samples in [-1, 1] as the nearest integers of so many bits, in float32, which holds 24 exactly."""
    return np.minimum(np.rint(block * np.float32(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


ELSEWHERE = 0xFFFFFFFF  # an RF64 size that stands in the ds64 chunk


class WavEncoder:
    """PCM or float WAV, RF64 beyond 4 GB: a chunk of junk keeps the room for its sizes (EBU Tech 3306)."""

    LIMIT = 0xFFFFFFFF  # of RIFF's sizes

    def __init__(self, file: BufferedIOBase, rate: int, channels: int, bits: str) -> None:
        self._file, self._bits = file, bits
        self._frame = channels * {"16": 2, "24": 3, "32f": 4}[bits]
        self._format = (3 if bits == "32f" else 1), channels, rate
        self._size = 0
        self._write_header()

    def _write_header(self) -> None:
        size, frames = self._size, self._size // self._frame
        tag, channels, rate = self._format
        form = struct.pack("<HHIIHH", tag, channels, rate, rate * self._frame, self._frame, 8 * self._frame // channels)
        riff = 84 + size + size % 2  # all but its own first 8 bytes
        if large := riff > self.LIMIT:
            sizes = _chunk(b"ds64", struct.pack("<QQQI", riff, size, frames, 0))
        else:
            sizes = _chunk(b"JUNK", bytes(28))
        self._file.write(
            struct.pack("<4sI4s", b"RF64" if large else b"RIFF", ELSEWHERE if large else riff, b"WAVE")
            + sizes
            + _chunk(b"fmt ", form)
            + _chunk(b"fact", struct.pack("<I", min(frames, ELSEWHERE)))
            + struct.pack("<4sI", b"data", ELSEWHERE if large else size)
        )

    def write(self, block: Wave) -> None:
        """Appends a block."""
        if self._bits == "32f":
            data = block.astype("<f4").tobytes()
        elif self._bits == "16":
            data = _quantised(block, 16).astype("<i2").tobytes()
        else:
            data = _quantised(block, 24).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        self._file.write(data)
        self._size += len(data)

    def close(self) -> None:
        """Completes the stream; the file stays open."""
        self._file.write(bytes(self._size % 2))
        self._file.seek(0)
        self._write_header()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data


class SndEncoder:
    """FLAC, MP3, Ogg Vorbis and Opus by libsndfile.

    LAME's delay and padding are written to the MP3's header, so gapless decoders return as many samples as
    went in, in their places.
    """

    def __init__(
        self, file: BufferedIOBase, format: str, rate: int, channels: int, bits: str, bitrate: int | None
    ) -> None:
        self._sink: Any = _Sink(file)
        self._bits = int(bits) if format == "flac" else None
        options: dict[str, Any] = {"subtype": {"flac": f"PCM_{bits}", "ogg": "VORBIS", "opus": "OPUS"}.get(format)}
        if format == "mp3":
            bottom, *_, top = _mpeg(rate)
            level = (top - (bitrate or top)) / (top - bottom)  # libsndfile's, 0 the best
            options = {"subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": level}
        container = "OGG" if format == "opus" else format.upper()
        self._out = soundfile.SoundFile(self._sink, "w", rate, channels, format=container, **options)
        self._sink.check()

    def write(self, block: Wave) -> None:
        """Appends a block."""
        if self._bits is not None:  # libsndfile takes 16 bits as int16, 24 as the upper bits of int32
            values = _quantised(block, self._bits)
            block = values.astype(np.int16) if self._bits == 16 else values.astype(np.int32) << 8
        self._out.write(block)
        self._sink.check()

    def close(self) -> None:
        """Completes the stream; the file stays open."""
        self._out.close()
        self._sink.check()


class _Sink:
    """A file for libsndfile, which tells nobody when a write fails, least of all when it closes.

    The first error is kept for `check`; from then on libsndfile goes on in peace, to nowhere.
    """

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._error: OSError | None = None

    def _call(self, name: str, *args: Any) -> Any:
        try:
            return getattr(self._file, name)(*args)
        except OSError as error:
            self._error, self._file = error, BytesIO()
            return getattr(self._file, name)(*args)

    def write(self, data: bytes) -> int:
        return self._call("write", data)

    def read(self, size: int) -> bytes:
        return self._call("read", size)

    def seek(self, offset: int, whence: int) -> int:
        return self._call("seek", offset, whence)

    def tell(self) -> int:
        return self._call("tell")

    def check(self) -> None:
        """Raises the first error."""
        if self._error is not None:
            raise self._error
