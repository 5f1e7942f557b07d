"""What all readers of sound files share: header facts, blocks, segments and the checks of what was decoded."""

import abc
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int16

from jaxsep.errors import JaxsepError

Wave = Float32[np.ndarray, "t c"]
Samples = Float32[np.ndarray, "t c"] | Int16[np.ndarray, "t c"]
Dtype = Literal["float32", "int16"]
PathLike = str | os.PathLike[str]
BLOCK = 1 << 16  # samples per block where nothing else asks for a size


class AudioReader(abc.ABC):
    """A sound file open for reading: header facts, and its samples from the start or from any position.

    Attributes:
        path: as given.
        rate: in Hz.
        channels: number of channels.
        length: samples, exactly, or None where the container does not say (MP3, Matroska, raw AAC).
        seconds: duration, approximate where `length` is None; None if nothing is known.
        subtype: sample format ("PCM_16", "FLOAT", "VORBIS", ...) or codec ("aac", "mp3", ...).
        bits: 16, 24 or "32f" for such samples, None for other formats and lossy codecs.
        dtype: what holds the samples without loss or excess: "int16" for 16-bit sources, and for `.stem.mp4`
            because musdb decodes it so; "float32" otherwise.
    """

    path: Path
    rate: int
    channels: int
    length: int | None = None
    seconds: float | None = None
    subtype: str = ""
    bits: int | str | None = None
    dtype: Dtype = "float32"

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @abc.abstractmethod
    def close(self) -> None:
        """Closes the file."""

    def blocks(self, size: int = BLOCK, dtype: Dtype = "float32") -> Iterator[Samples]:
        """The whole file in blocks of `size` samples (the last may be shorter); each call starts anew.

        Args:
            size: samples per block.
            dtype: "int16" takes 16-bit PCM as it is and rounds a lossy codec's floats as ffmpeg's s16le does,
                saturating.

        Raises:
            JaxsepError: damaged or truncated (fewer samples than promised), or a sample is NaN or infinite.
        """
        done = 0
        for block in _rechunk(self._chunks(0, size, dtype), size):
            self._check_finite(block, done)
            done += len(block)
            yield block
        self._check_end(done)

    def segment(self, start: int, count: int, dtype: Dtype | None = None) -> Samples:
        """Samples [start, start + count), equal to those of `blocks` (see `read_segment`)."""
        if start < 0 or count < 0 or (self.length is not None and start + count > self.length):
            raise JaxsepError(f"{self.path}: samples {start} to {start + count} asked for, the file has {self.length}")
        parts, missing = [], count
        for chunk in self._chunks(start, count, dtype or self.dtype) if count else ():
            parts.append(chunk[:missing])
            missing -= len(parts[-1])
            if not missing:
                break
        if missing:
            raise self.truncated(start + count, start + count - missing)
        empty = np.empty((0, self.channels), dtype or self.dtype)
        samples = parts[0] if len(parts) == 1 else np.concatenate([empty, *parts])
        self._check_finite(samples, start)
        return samples

    @abc.abstractmethod
    def _chunks(self, start: int, size: int, dtype: Dtype) -> Iterator[Samples]:
        """Samples from `start` on, in chunks of any lengths; `size` is what the caller would like."""

    def _check_finite(self, block: Samples, start: int) -> None:
        if block.dtype == np.float32 and not np.isfinite(block).all():
            second = (start + int(np.argmin(np.isfinite(block).all(1)))) / self.rate
            raise JaxsepError(f"{self.path}: NaN or infinite sample at second {second:.3f}; export it again")

    def _check_end(self, found: int) -> None:
        """Raises unless the number of samples decoded is the number promised."""
        if self.length is not None and found != self.length:
            raise self.truncated(self.length, found)
        if found == 0:
            raise JaxsepError(f"{self.path}: holds no samples")

    def truncated(self, expected: int, found: int) -> JaxsepError:
        """The error for a file that holds fewer samples than it promises."""
        return JaxsepError(
            f"{self.path}: truncated or damaged: expected {expected} samples ({expected / self.rate:.2f} s), "
            f"found {found} ({found / self.rate:.2f} s); get a whole copy"
        )


def _rechunk(chunks: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples in blocks of `size`; the last one may be shorter."""
    held: list[Samples] = []
    count = 0
    for chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        if count >= size:
            joined = np.concatenate(held) if len(held) > 1 else chunk
            full = count - count % size
            yield from (joined[i : i + size] for i in range(0, full, size))
            held, count = [joined[full:]], count - full
    if count:
        yield np.concatenate(held)
