"""Random access to built data sets, without TensorFlow."""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data.built.samples import FLAC, unpack
from jaxsep.data.readers import Reader, Samples
from jaxsep.errors import JaxsepError

INDEX = "index.json"  # written last: a set that has it is complete
UNFINISHED = "unfinished"  # folder of what a build that was stopped has
AUDIO = b"\n\x05audio\x12"  # in a tf.train.Example, the key of the feature and the tag of its value
# ArrayRecord files are of Riegeli's format (github.com/google/riegeli, doc/riegeli_records_file_format.md): chunks, a
# header in front of each, through which block headers cut wherever the file's position is a multiple of 64 KiB.
BLOCK, HEADER, CHUNK = 1 << 16, 24, 40
BODY = BLOCK - HEADER
WORD = 8  # bytes
PARTS = 1000  # of one read: Linux takes 1,024
# Where a record's audio starts, block headers not counted, how many bytes it has, and the sum of them.
PLACE = np.dtype([("start", "<u8"), ("size", "<u8"), ("sum", "<u8")])


@dataclasses.dataclass(frozen=True)
class Records(Reader):
    """One stem of one song in a built set; `path` is the file of the song's records.

    Attributes:
        encoding: see `jaxsep.data.built.samples`.
        first: number of the stem's first record in the file.
    """

    encoding: str = "pcm_s16le"
    first: int = 0

    def read(self, start: int, count: int) -> Samples:
        """Samples [start, start + count); leaves Python's lock while it reads, copies and decodes.

        Raises:
            JaxsepError: the file is gone or damaged, or is not the one that the index was made for.
        """
        if not count:
            return np.empty((0, self.channels), self.dtype)
        seconds = range(start // self.rate, -(-(start + count) // self.rate))
        audio, sizes = read_audio(self.path, self.first + seconds.start, len(seconds))
        lengths = [min(self.rate, self.length - second * self.rate) for second in seconds]
        try:
            if self.encoding == FLAC:
                parts = np.split(audio, np.cumsum(sizes)[:-1])
                samples = [unpack(part.data, FLAC, self.channels, self.dtype) for part in parts]
                found, whole = list(map(len, samples)), np.concatenate(samples)
            else:
                whole = unpack(audio.data, self.encoding, self.channels, self.dtype)
                found = (sizes * len(whole) // len(audio)).tolist()
        except JaxsepError as error:
            raise JaxsepError(f"{self.path}: {error}") from None
        if found != lengths:
            wrong = next(n for n, (f, e) in enumerate(zip(found, lengths, strict=True)) if f != e)
            raise JaxsepError(
                f"{self.path}: {found[wrong]} samples in record {self.first + seconds[wrong]}, expected "
                f"{lengths[wrong]}; build the data set again"
            )
        origin = start - seconds.start * self.rate
        return whole[origin : origin + count]


def read_audio(path: Path, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The features `audio` of so many records in a row as bytes, and the size of each.

    They are read by their places and held against their sums. The package array-record reads the same files, but
    keeps Python's lock, so that a second thread gains nothing.

    Raises:
        JaxsepError: no such file, damaged, or fewer records.
    """
    try:
        with open(places_of(path), "rb") as file:
            file.seek(first * PLACE.itemsize)
            places = np.frombuffer(file.read(count * PLACE.itemsize), PLACE)
        if len(places) < count:
            raise ValueError(f"record {first + len(places)} is not there")
        sizes = places["size"].astype(np.int64)
        audio = np.empty(int(sizes.sum()), np.uint8)
        with open(path, "rb", buffering=0) as file:
            _read_into(file.fileno(), audio, zip(places["start"].tolist(), sizes.tolist(), strict=True))
    except (OSError, ValueError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or error) from None
    # As one where records are of whole words: threads get in each other's way by many small steps.
    if (sizes[:-1] % WORD).any() or checksum(audio) != int(places["sum"].sum()):
        ends = np.cumsum(sizes)
        for number, (end, size, total) in enumerate(zip(ends, sizes, places["sum"].tolist(), strict=True)):
            if checksum(audio[end - size : end]) != total:
                raise _damaged(path, f"record {first + number} is not as it was written")
    return audio, sizes


def _read_into(file: int, audio: np.ndarray, places: Iterable[tuple[int, int]]) -> None:
    """Reads records' audio into its array, without a copy: what lies in between goes into a waste bin.

    Args:
        file: descriptor.
        audio: bytes, as many as all places have.
        places: start, block headers not counted, and size of each.

    Raises:
        ValueError: the file ends before.
    """
    kept, waste = audio.data, memoryview(bytearray(BLOCK))
    parts: list[memoryview] = []
    begin = position = filled = 0
    for start, size in places:
        done = 0
        while done < size:
            row, column = divmod(start + done, BODY)
            at, step = row * BLOCK + HEADER + column, min(size - done, BODY - column)
            if not parts:
                begin = at
            elif at > position:
                parts.append(waste[: at - position])
            parts.append(kept[filled : filled + step])
            done, filled, position = done + step, filled + step, at + step
    for first in range(0, len(parts), PARTS):
        group = parts[first : first + PARTS]
        count = sum(map(len, group))
        if os.preadv(file, group, begin) < count:
            raise ValueError("cut short")
        begin += count


def write_places(path: Path, audio: Sequence[tuple[int, int, int, int]]) -> None:
    """Notes where the audio of a file's records lies, so that it can be read without looking for it.

    Args:
        path: of the records, in the order of writing, each in a chunk of its own, not compressed.
        audio: of each record its size, and where its audio starts, how long it is, and its checksum.
    """
    places = np.empty(len(audio), PLACE)
    end = CHUNK  # behind the file's signature
    for number, (size, start, length, total) in enumerate(audio):
        varint = max(1, -(-size.bit_length() // 7))
        end += CHUNK + 1 + 1 + varint  # no compression; the length of the list of sizes; the only size
        places[number] = end + start, length, total
        end += size
    places_of(path).write_bytes(places.tobytes())


def places_of(path: Path) -> Path:
    """The file beside the records that says where their audio lies."""
    return path.with_name(path.name + ".places")


def checksum(data: bytes | memoryview | np.ndarray) -> int:
    """The sum of a record's 64-bit words, the last one filled up with zeros."""
    given = np.frombuffer(data, np.uint8)
    whole = len(given) // WORD * WORD
    total = int(np.add.reduce(given[:whole].view("<u8"), dtype=np.uint64)) if whole else 0
    return (total + int.from_bytes(given[whole:].tobytes(), "little")) % 2**64


def find_audio(record: bytes) -> tuple[int, int]:
    """Start and size of the feature `audio` in a serialised tf.train.Example.

    Raises:
        JaxsepError: there is none.
    """
    position = record.find(AUDIO) + len(AUDIO)
    if position < len(AUDIO):
        raise JaxsepError("a record without the feature 'audio'; build the data set again")
    size = 0
    for _ in range(3):  # Feature, its BytesList, its only value: lengths as varints, and a tag between two
        size = shift = 0
        while True:
            byte = record[position]
            position += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        position += 1
    return position - 1, size


def _damaged(path: Path, why: object) -> JaxsepError:
    return JaxsepError(f"{path}: missing or damaged ({why}); build the data set again with --verify")


def find_set(root: Path) -> Path:
    """The folder of the only built set at or below a folder: the set, its version, or where it was built.

    Raises:
        JaxsepError: none, several, or one that is not finished.
    """
    found = sorted(path.parent for depth in ("", "*/", "*/*/") for path in root.glob(depth + INDEX))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(map(str, found))
        raise JaxsepError(f"data.root={str(root)!r} holds {len(found)} built sets; name one of {names}")
    if any(path for depth in ("", "*/", "*/*/") for path in root.glob(depth + UNFINISHED)):
        raise JaxsepError(f"data.root={str(root)!r}: the build was stopped; run the same `jaxsep data build` again")
    raise JaxsepError(f"data.root={str(root)!r} holds no built set ({INDEX}); make one with `jaxsep data build`")


def load_index(folder: Path) -> dict[str, Any]:
    """The index of a built set.

    Raises:
        JaxsepError: unreadable.
    """
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JaxsepError(f"{folder / INDEX}: unreadable ({error}); build the data set again") from None


def open_stem(folder: Path, song: Mapping[str, Any], name: str) -> Records:
    """The reader of a song's stem, or of "mixture".

    Args:
        folder: of the set.
        song: its entry in the index.
        name: one of its stems.
    """
    stem = song["stems"][name]
    return Records(
        folder / song["file"],
        song["rate"],
        stem["channels"],
        song["length"],
        np.dtype(stem["dtype"]),
        encoding=stem["encoding"],
        first=stem["first"],
    )
