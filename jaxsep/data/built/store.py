"""Random access to built data sets, without TensorFlow."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data.built.samples import unpack
from jaxsep.data.readers import Reader, Samples
from jaxsep.errors import JaxsepError

INDEX = "index.json"  # written last: a set that has it is complete
UNFINISHED = "unfinished"  # folder of what a build that was stopped has
# Seconds are read one by one: no reading ahead, and no megabyte of the file's end for each opening.
OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:32k"
BUFFER = 1 << 16
AUDIO = b"\n\x05audio\x12"  # in a tf.train.Example, the key of the feature and the tag of its value


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
        """Samples [start, start + count).

        Raises:
            JaxsepError: the file is gone or damaged, or is not the one that the index was made for.
        """
        samples = np.empty((count, self.channels), self.dtype)
        seconds = range(start // self.rate, -(-(start + count) // self.rate)) if count else range(0)
        records = read_records(self.path, [self.first + second for second in seconds])
        for second, record in zip(seconds, records, strict=True):
            origin = second * self.rate
            found = self._decode(record)
            if len(found) != min(self.rate, self.length - origin):
                raise JaxsepError(
                    f"{self.path}: {len(found)} samples in record {self.first + second}, expected "
                    f"{min(self.rate, self.length - origin)}; build the data set again"
                )
            low, high = max(start, origin), min(start + count, origin + len(found))
            samples[low - start : high - start] = found[low - origin : high - origin]
        return samples

    def _decode(self, record: bytes) -> Samples:
        try:
            return unpack(payload(record), self.encoding, self.channels, self.dtype)
        except JaxsepError as error:
            raise JaxsepError(f"{self.path}: {error}") from None


def read_records(path: Path, numbers: Sequence[int]) -> list[bytes]:
    """Records of an ArrayRecord file, which is opened for it; leaves Python's lock while it reads.

    Raises:
        JaxsepError: no such file, damaged, or fewer records.
    """
    if not numbers:
        return []
    try:
        from array_record.python.array_record_module import ArrayRecordReader
    except ImportError:
        raise JaxsepError(
            "data.source='built' needs the package array-record (Linux, Apple silicon): `pip install 'jaxsep[train]'`"
        ) from None
    try:
        reader = ArrayRecordReader(str(path), OPTIONS, file_reader_buffer_size=BUFFER)
        return reader.read(list(numbers))
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise JaxsepError(f"{path}: missing or damaged ({why}); build the data set again with --verify") from None


def payload(record: bytes) -> memoryview:
    """The feature `audio` of a serialised tf.train.Example, where it lies: a parser would copy it twice.

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
    return memoryview(record)[position - 1 : position - 1 + size]


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
