"""WAV, AIFF, FLAC and Ogg Vorbis by libsndfile, which is not trusted to notice a file cut short."""

import contextlib
import os
import struct
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.audio.reader import BLOCK, AudioReader, Dtype, Samples
from jaxsep.errors import JaxsepError

MAGIC = (b"RIFF", b"RF64", b"FORM", b"fLaC", b"OggS")
# Bytes per sample of what a WAV or AIFF may hold.
WIDTHS = {
    "PCM_U8": 1,
    "PCM_S8": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
    "ULAW": 1,
    "ALAW": 1,
}
BITS: dict[str, int | str] = {"PCM_16": 16, "PCM_24": 24, "FLOAT": "32f"}
STREAMED = (0x7FFFF000, 0xFFFFFFFF)  # the sizes sox and ffmpeg write into a WAV header when writing to a pipe


class _Forward(soundfile.SoundFile):
    """A file that soundfile leaves where a read ended: it seeks there otherwise, which takes FLAC a search."""

    def seekable(self) -> bool:
        """Whether reads are to be followed by a seek; `seek` itself does not ask."""
        return False


class SndReader(AudioReader):
    """WAV, AIFF, FLAC and Ogg Vorbis, by libsndfile."""

    def __init__(self, path: Path, stream: int = 0) -> None:
        self.path = path
        if stream:
            raise JaxsepError(f"{path}: audio stream {stream} asked for, the file has one")
        self._file = self._open()
        self.rate, self.channels, self.subtype = self._file.samplerate, self._file.channels, self._file.subtype
        self.bits = BITS.get(self.subtype)
        self.dtype = "int16" if self.subtype == "PCM_16" else "float32"
        self.length = self._frames = self._file.frames
        self.seconds = self._frames / self.rate
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            if self._file.format == "OGG":
                check_ogg(path)
            elif self._file.format != "FLAC":
                self._check_pcm()
            if self._frames == 0:
                raise JaxsepError(f"{path}: holds no samples")
            stack.pop_all()

    @property
    def trusted(self) -> bool:
        """Whether libsndfile gets it right: it loses the end of Opus, and of FLAC that states no length."""
        return self.subtype != "OPUS" and self._frames < 1 << 62

    def _open(self) -> soundfile.SoundFile:
        try:
            return _Forward(self.path)
        except soundfile.LibsndfileError as error:
            raise JaxsepError(f"{self.path}: not audio, or damaged ({error.error_string})") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _chunks(self, start: int, size: int, dtype: Dtype) -> Iterator[Samples]:
        if dtype == "int16" and self.subtype != "PCM_16":
            raise JaxsepError(f"{self.path}: {self.subtype} samples asked for as int16; read it as float32")
        try:
            self._file.seek(start)
            while len(chunk := self._file.read(size, dtype, always_2d=True)):
                yield chunk
        except soundfile.LibsndfileError:
            raise self.truncated(self._frames, self._sound_samples()) from None

    def _sound_samples(self) -> int:
        """Samples before the damage: decodes once more, into a buffer in which NaN marks what is missing."""
        count, block = 0, np.empty((BLOCK, self.channels), np.float32)
        with self._open() as file:
            while True:
                block.fill(np.nan)
                try:
                    got = len(file.read(out=block))
                except soundfile.LibsndfileError:
                    return count + int(np.isfinite(block).all(1).sum())
                count += got
                if not got:
                    return count

    def _check_pcm(self) -> None:
        """Raises if a WAV or AIFF is shorter than its header says: libsndfile reads what is there, silently."""
        if self.subtype not in WIDTHS:
            raise JaxsepError(f"{self.path}: {self.subtype} samples are not supported; convert it to 16-bit PCM")
        with open(self.path, "rb") as file:
            promised, present = _data_bytes(file)
        frame = WIDTHS[self.subtype] * self.channels
        if promised // frame > present // frame:
            raise self.truncated(promised // frame, present // frame)


def _data_bytes(file: BufferedIOBase) -> tuple[int, int]:
    """Bytes of samples that a WAV, RF64 or AIFF header promises, and that there are."""
    size = os.fstat(file.fileno()).st_size
    form = file.read(12)[:4]
    order, data = (">", b"SSND") if form == b"FORM" else ("<", b"data")
    long_count = 0
    while len(head := file.read(8)) == 8:
        name, count = struct.unpack(f"{order}4sI", head)
        if name == b"ds64":
            long_count = struct.unpack("<8xQ", file.read(16))[0]
            count -= 16
        if name == data:
            offset = 8 if data == b"SSND" else 0  # AIFF's alignment fields
            present = size - file.tell() - offset
            if form == b"RF64" and count == 0xFFFFFFFF:
                count = long_count
            return (present if form == b"RIFF" and count in STREAMED else count - offset), present
        file.seek(count + count % 2, os.SEEK_CUR)
    return 0, 0


def check_ogg(path: Path) -> None:
    """Raises if an Ogg file ends within a page: decoders then drop the rest without a word (RFC 3533)."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - (1 << 17)))  # a page has 65,307 bytes at most
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise JaxsepError(f"{path}: truncated: the file ends within an Ogg page; get a whole copy")
