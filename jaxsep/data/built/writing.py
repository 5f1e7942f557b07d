"""Writes one song of a built set: all of it, equal to its source, or nothing."""

import dataclasses
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.data.built import store
from jaxsep.data.built.examples import examples, stem_names
from jaxsep.data.tracks import Track
from jaxsep.errors import JaxsepError

OPTIONS = "group_size:1,uncompressed"  # each record on its own; what is to be compressed is FLAC already


@dataclasses.dataclass(frozen=True)
class Job:
    """One song to write.

    Attributes:
        folder: of the set.
        file: name of the song's file in it.
        codec: "pcm" or "flac".
        source: of what it is made, to be recognised.
    """

    track: Track
    folder: Path
    file: str
    codec: str
    source: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Split and song."""
        return f"{self.track.split}/{self.track.name}"

    @property
    def note(self) -> Path:
        """Where it stands that the song is done, until all are."""
        return self.folder / store.UNFINISHED / f"{self.file}.json"

    @property
    def failure(self) -> Path:
        """Where it stands why the song could not be written."""
        return self.note.with_suffix(".failed")


def attempt(job: Job) -> tuple[str, str | None]:
    """Writes a song; its name, and why it failed."""
    try:
        write_song(job)
    except (JaxsepError, OSError) as error:
        write_note(job.failure, {"why": str(error)})
        return job.name, str(error)
    return job.name, None


def write_song(job: Job) -> None:
    """Writes a song's file and note, when the file has proved to hold what its source does.

    Raises:
        JaxsepError: the source is unreadable, or what was written differs from it.
        OSError: the disk is full, or the folder not writable.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    from jaxsep.data.built.builder import features

    job.note.parent.mkdir(parents=True, exist_ok=True)
    part = job.note.with_name(f"{job.file}.{os.getpid()}-{secrets.token_hex(4)}.part")
    example_features = features()
    stems: dict[str, dict[str, Any]] = {}
    audio: list[tuple[int, int, int, int]] = []
    try:
        writer = ArrayRecordWriter(str(part), OPTIONS)
        for stem in stem_names(job.track):
            reader, first, encoding = job.track.reader(stem), len(audio), ""
            for example in examples(job.track, stem, job.codec):
                record = example_features.serialize_example(example_features.encode_example(example))
                writer.write(record)
                encoding = example["encoding"]
                audio.append((len(record), *store.find_audio(record), store.checksum(example["audio"])))
            kind = {"channels": reader.channels, "dtype": reader.dtype.name, "encoding": encoding}
            stems[stem] = {"first": first, **kind}
        writer.close()
        store.write_places(part, audio)
        song = {
            "name": job.track.name,
            "split": job.track.split,
            "file": job.file,
            "rate": job.track.rate,
            "length": job.track.length,
            "records": len(audio),
            "bytes": part.stat().st_size,
            "stems": stems,
            "source": job.source,
        }
        compare(job, {**song, "file": str(part.relative_to(job.folder))})
        for written, name in (
            (store.places_of(part), store.places_of(job.folder / job.file)),
            (part, job.folder / job.file),
        ):
            with open(written, "rb") as file:
                os.fsync(file.fileno())
            os.replace(written, name)
        write_note(job.note, song)
    except RuntimeError as error:
        raise JaxsepError(f"{part}: cannot be written ({error}); check the folder and the disk") from None
    finally:
        part.unlink(missing_ok=True)
        store.places_of(part).unlink(missing_ok=True)


def compare(job: Job, song: Mapping[str, Any]) -> None:
    """Holds the records of a song against its source, bit for bit."""
    for stem in song["stems"]:
        source, reader = job.track.reader(stem), store.open_stem(job.folder, song, stem)
        expected, found = source.read(0, source.length), reader.read(0, reader.length)
        bits = np.dtype(f"u{reader.dtype.itemsize}")  # or 0 would equal -0
        if expected.dtype != found.dtype or not np.array_equal(expected.view(bits), found.view(bits)):
            raise JaxsepError(f"{source.path}: {stem} of {job.track.name!r} was not written as it is; build it again")


def read_note(path: Path) -> dict[str, Any] | None:
    """A note, None where it is not there or was cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def write_note(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON; there is all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(part, path)
