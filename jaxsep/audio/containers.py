"""MP3, MP4, Matroska and other containers by PyAV, in lengths and alignment as ffmpeg decodes them."""

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16

from jaxsep.audio.reader import BLOCK, AudioReader, Dtype, PathLike, Samples
from jaxsep.audio.sndfile import check_ogg
from jaxsep.errors import JaxsepError

SUFFIXES = (".mp3", ".m4a", ".m4b", ".mp4", ".aac", ".mov", ".webm", ".mkv", ".mka", ".opus", ".wma")
STEMS = ("mixture", "drums", "bass", "other", "vocals")  # the streams of a `.stem.mp4` of MUSDB18, in order
PREROLL = 4096  # samples decoded and dropped after a seek: AAC needs one frame (1,024), HE-AAC two of 2,048


class AvReader(AudioReader):
    """MP3, MP4 and other containers, by PyAV, whose lengths and alignment are those of ffmpeg."""

    def __init__(self, path: Path, stream: int = 0) -> None:
        self.path, self._stream = path, stream
        with open(path, "rb") as file:
            if file.read(4) == b"OggS":
                check_ogg(path)
        with open_container(path) as container:
            audio = self._audio(container)
            self.rate, self.channels = audio.rate, audio.channels
            self.subtype = audio.codec_context.codec.canonical_name
            self.bits = {"s16": 16, "s16p": 16}.get(audio.format.name)
            self.dtype = "int16" if self.bits == 16 or path.name.lower().endswith(".stem.mp4") else "float32"
            self._origin = audio.start_time or 0
            self._least = self._matroska_length(container)
            if container.duration is not None:
                self.seconds = container.duration / 1e6
            # MP4's index (not a fragmented file's) knows all frames, in samples where the time base is the rate.
            if "mp4" in container.format.name and audio.frames and audio.time_base == Fraction(1, self.rate):
                self.length = self._indexed_length(container, audio)
                self.seconds = self.length / self.rate

    def close(self) -> None:
        """Nothing: the file is open only while it is read."""

    def _audio(self, container: Any) -> Any:
        streams = container.streams.audio
        if self._stream >= len(streams):
            raise JaxsepError(
                f"{self.path}: audio stream {self._stream} asked for, the file has {len(streams) or 'none'}"
            )
        return streams[self._stream]

    def _indexed_length(self, container: Any, audio: Any) -> int:
        """Decodes the last frame to see where it ends: edit lists promise less than decoders give."""
        last = audio.index_entries[-1].timestamp
        end = None
        with contextlib.suppress(JaxsepError), decoding(self.path):
            if last > PREROLL:
                container.seek(last - PREROLL, stream=audio)
            for frame in container.decode(audio):
                end = frame.pts + frame.samples
        if end is None or end <= last:
            expected = last + (audio.codec_context.frame_size or 1) - self._origin
            raise self.truncated(expected, self._sound_samples())
        return end - self._origin

    def _matroska_length(self, container: Any) -> int:
        """Samples that a Matroska header promises at least: FFmpeg reads a truncated file without a word."""
        if container.duration is None or "matroska" not in container.format.name or container.streams.video:
            return 0
        return int((container.duration / 1e6 - 0.5) * self.rate)

    def _sound_samples(self) -> int:
        """Samples before the damage."""
        count = 0
        with contextlib.suppress(JaxsepError):
            for chunk in self._chunks(0, BLOCK, "float32"):
                count += len(chunk)
        return count

    def _check_end(self, found: int) -> None:
        if found < self._least:
            raise self.truncated(self._least, found)
        super()._check_end(found)

    def _chunks(self, start: int, size: int, dtype: Dtype) -> Iterator[Samples]:
        with open_container(self.path) as container:
            audio = self._audio(container)
            position = 0
            if seek := self.length is not None and start > PREROLL:
                container.seek(start - PREROLL + self._origin, stream=audio)
            with decoding(self.path):
                for frame in container.decode(audio):
                    if frame.sample_rate != self.rate or frame.layout.nb_channels != self.channels:
                        raise JaxsepError(f"{self.path}: changes its sample rate or channels midway; convert it")
                    if seek:
                        position, seek = frame.pts - self._origin, False
                    samples = frame_samples(self.path, frame, dtype)[max(0, start - position) :]
                    position += frame.samples
                    if len(samples):
                        yield samples


def open_container(path: Path) -> Any:
    """PyAV's container; an absolute path, so that a colon in a name is not taken for a protocol."""
    import av

    # Before version 19 a tag that is not UTF-8 would be an error.
    options: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    with decoding(path):
        return av.open(os.path.abspath(path), **options)


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turns FFmpeg's errors into a line that names the file."""
    from av.error import FFmpegError

    try:
        yield
    except FFmpegError as error:
        raise JaxsepError(f"{path}: not audio, damaged or truncated ({error.strerror})") from None


def frame_samples(path: Path, frame: Any, dtype: Dtype) -> Samples:
    """A decoded frame as [t c]; int16 is rounded and saturated like libswresample's, which musdb relies on."""
    samples = frame.to_ndarray()
    samples = np.ascontiguousarray(samples.reshape(frame.samples, -1) if frame.format.is_packed else samples.T)
    kind, width = samples.dtype.kind, samples.dtype.itemsize
    if dtype == "int16":
        if samples.dtype == np.int16:
            return samples
        if kind != "f":
            raise JaxsepError(f"{path}: {8 * width}-bit samples asked for as int16; read it as float32")
        return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    if kind == "f":
        return samples.astype(np.float32)
    middle = 128 if kind == "u" else 0
    return (samples.astype(np.float32) - middle) * np.float32(2.0 ** (1 - 8 * width))


def read_stems(path: PathLike) -> tuple[dict[str, Int16[np.ndarray, "t c"]], int]:
    """The five stems of a `.stem.mp4`, in one pass over the file, as musdb decodes them: 16 bits.

    Returns:
        {name: int16 [t c]} in the order of `STEMS`, and the rate.

    Raises:
        JaxsepError: not five audio streams of one rate and length, or see `open_audio`.
    """
    path = Path(path)
    reader = AvReader(path)
    with open_container(path) as container:
        streams = container.streams.audio
        if len(streams) != len(STEMS):
            raise JaxsepError(f"{path}: {len(streams)} audio streams, expected {len(STEMS)}: {', '.join(STEMS)}")
        if len({(stream.rate, stream.channels) for stream in streams}) > 1:
            raise JaxsepError(f"{path}: its streams differ in sample rate or channels")
        parts: dict[int, list[Samples]] = {stream.index: [] for stream in streams}
        with decoding(path):
            for packet in container.demux(streams):
                for frame in packet.decode():
                    parts[packet.stream_index].append(frame_samples(path, frame, "int16"))
        stems = {name: np.concatenate(part) for name, part in zip(STEMS, parts.values(), strict=True)}
    lengths = {name: len(stem) for name, stem in stems.items()}
    expected = max(reader.length or 0, *lengths.values())
    for length in lengths.values():
        if length != expected:
            raise reader.truncated(expected, length)
    return stems, reader.rate
