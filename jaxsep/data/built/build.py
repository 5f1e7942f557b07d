"""Writes a built set, song by song, on the cores of one machine or on many machines; continues where it was stopped.

A song is one ArrayRecord file. It is written under another name, compared with its source bit for bit, and renamed; a
note beside it says of which files it was made, so that no later start makes it again unless they have changed. When all
songs are there, TFDS gets its metadata and the reader its index.
"""

import contextlib
import dataclasses
import importlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import audio
from jaxsep.config import choose
from jaxsep.data.built import store
from jaxsep.data.built.examples import stem_names
from jaxsep.data.built.runners import Runner, in_processes
from jaxsep.data.built.writing import Job, compare, read_note, write_note
from jaxsep.data.readers import Reader
from jaxsep.data.tracks import Track
from jaxsep.errors import JaxsepError

NAMES = ("musdb18", "musdb18_hq", "stem_folder")
CODECS = ("pcm", "flac")
FORMAT = 2  # of the records; songs of another one are made again
# No number of files in the names: a song that is added later changes no other song's.
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"


class WholeDecoder(Reader):
    """A stream of a `.stem.mp4` by the ffmpeg binary, which musdb uses, decoded from its start for each read."""

    def read(self, start: int, count: int) -> np.ndarray:
        """See `Reader.read`."""
        samples = audio.decode_ffmpeg(self.path, self.stream, self.rate, self.channels)
        if len(samples) != self.length:
            raise JaxsepError(
                f"{self.path}: {len(samples)} samples by ffmpeg, expected {self.length}; get a whole copy"
            )
        return samples[start : start + count]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a build.

    Attributes:
        folder: of the set.
        written: songs written by this start.
        kept: songs that were there.
        failed: name of a song that could not be written -> why.
    """

    folder: Path
    written: int
    kept: int
    failed: dict[str, str]


def build(
    name: str,
    root: Path,
    out: Path,
    *,
    stems: str = "",
    codec: str = "pcm",
    decoder: str = "pyav",
    verify: bool = False,
    run: Runner | None = None,
    report: Callable[[int, int, str, str | None], None] = lambda *_: None,
) -> Outcome:
    """Builds a data set below `out`, or continues or renews it.

    Args:
        name: one of `NAMES`.
        root: folder of train, valid and test.
        out: gets NAME/VERSION/.
        stems: only these; "" for all.
        codec: "pcm" or "flac".
        decoder: of `.stem.mp4`: "pyav", as training on them reads, or "ffmpeg", as the package musdb does.
        verify: compare the songs that are there with their sources once more, and write those anew that differ.
        run: writes songs; by default in processes, one for each core.
        report: takes (songs done, of how many, name, why it failed) after each song.

    Raises:
        JaxsepError: no songs, a song that is no longer there, an unknown choice.
    """
    choose(dict.fromkeys(NAMES), name, "NAME")
    if decoder == "ffmpeg" and name != "musdb18":
        raise JaxsepError(f"--decoder ffmpeg is for musdb18's .stem.mp4 files; leave it out for {name}")
    module = importlib.import_module(f"jaxsep.data.built.{name}.{name}_dataset_builder")
    songs, failures = module.Builder.songs(root, stems)
    failed = {song: str(error) for song, error in failures.items()}
    builder = module.Builder(data_dir=out)
    folder = Path(os.fspath(builder.data_dir))
    known = _known(folder)
    jobs = _jobs(songs, root, folder, name, codec, decoder, known)
    _refuse_vanished(known, jobs, failed, folder, root)
    todo = [job for job in jobs if not _is_done(job, known.get(job.file))]
    if verify:
        todo += _unsound([job for job in jobs if job not in todo], known)
    for count, (song, why) in enumerate(_written(todo, known, folder, run or in_processes), start=1):
        report(count, len(todo), song, why)
        if why is not None:
            failed[song] = why
    if not failed and (todo or not (folder / store.INDEX).exists()):
        _finish(builder, folder, jobs)
    wrong = sum(job.name in failed for job in todo)
    return Outcome(folder, len(todo) - wrong, len(jobs) - len(todo), failed)


def _jobs(
    songs: Mapping[str, Sequence[Track]],
    root: Path,
    folder: Path,
    name: str,
    codec: str,
    decoder: str,
    known: Mapping[str, Mapping[str, Any]],
) -> list[Job]:
    """The songs in the order of their names; each has the file that it had before, or the next free one."""
    files = {(song["split"], song["name"]): file for file, song in known.items()}
    jobs = []
    for split, tracks in songs.items():
        free = (f"{name}-{split}.array_record-{number:05d}" for number in itertools.count())
        free = (file for file in free if file not in known)
        for track in tracks:
            file = files.get((split, track.name)) or next(free)
            made_of = {"format": FORMAT, "codec": codec, "decoder": decoder, "files": _files(track, root)}
            jobs.append(Job(_decoded(track, decoder), folder, file, codec, made_of))
    return jobs


def _files(track: Track, root: Path) -> dict[str, list[int | str]]:
    """What recognises the files of a song: stem -> path, stream, size, time of its last change."""
    found = {}
    for stem in stem_names(track):
        reader = track.reader(stem)
        status = reader.path.stat()
        found[stem] = [reader.path.relative_to(root).as_posix(), reader.stream, status.st_size, status.st_mtime_ns]
    return found


def _decoded(track: Track, decoder: str) -> Track:
    """The song as the decoder reads it."""
    if decoder == "pyav":
        return track

    def other(reader: Reader) -> Reader:
        return WholeDecoder(**{field.name: getattr(reader, field.name) for field in dataclasses.fields(Reader)})

    mixture = track.mixture and other(track.mixture)
    return dataclasses.replace(track, stems={stem: other(r) for stem, r in track.stems.items()}, mixture=mixture)


def _known(folder: Path) -> dict[str, dict[str, Any]]:
    """The songs that are there by their files: those of a finished set, and of one in the making."""
    finished = store.load_index(folder)["songs"] if (folder / store.INDEX).exists() else []
    notes = (folder / store.UNFINISHED).glob("*.json")
    songs = [*finished, *(note for path in notes if (note := read_note(path)) and "file" in note)]
    return {song["file"]: song for song in songs}


def _refuse_vanished(
    known: Mapping[str, Any], jobs: Sequence[Job], failed: Mapping[str, str], folder: Path, root: Path
) -> None:
    there = {job.file for job in jobs}
    gone = [f"{song['split']}/{song['name']}" for file, song in known.items() if file not in there]
    if gone := [song for song in gone if song not in failed]:
        raise JaxsepError(
            f"{folder} holds {len(gone)} songs that {root} has no longer, as {gone[0]!r}; choose another --out"
        )


def _is_done(job: Job, song: Mapping[str, Any] | None) -> bool:
    if song is None or song["source"] != job.source:
        return False
    with contextlib.suppress(OSError):
        return (job.folder / job.file).stat().st_size == song["bytes"]
    return False


def _unsound(jobs: Sequence[Job], known: Mapping[str, Mapping[str, Any]]) -> list[Job]:
    """The songs whose records differ from their sources."""

    def sound(job: Job) -> bool:
        try:
            compare(job, known[job.file])
        except JaxsepError:
            return False
        return True

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [job for job, good in zip(jobs, pool.map(sound, jobs), strict=True) if not good]


def _written(
    todo: Sequence[Job], known: Mapping[str, Mapping[str, Any]], folder: Path, run: Runner
) -> Iterator[tuple[str, str | None]]:
    """Writes the songs; from the first on the set is unfinished again, and what was done stands in notes."""
    if not todo:
        return
    again = {job.file for job in todo}
    for file, song in known.items():
        note = folder / store.UNFINISHED / f"{file}.json"
        if file in again:
            note.unlink(missing_ok=True)
        elif not note.exists():
            write_note(note, song)
    (folder / store.INDEX).unlink(missing_ok=True)
    yield from run(todo)


def _finish(builder: Any, folder: Path, jobs: Sequence[Job]) -> None:
    """Writes TFDS' metadata and, last of all, the index."""
    import tensorflow_datasets as tfds

    known = _known(folder)
    songs = sorted((known[job.file] for job in jobs), key=lambda song: song["file"])
    info = builder.info
    template = tfds.core.ShardedFileTemplate(builder.data_path, TEMPLATE, builder.name, filetype_suffix="array_record")
    splits = []
    for split in dict.fromkeys(job.track.split for job in jobs):
        own = [song for song in songs if song["split"] == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[song["records"] for song in own],
                num_bytes=sum(song["bytes"] for song in own),
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=info.features,
        split_infos=splits,
        version=str(builder.version),
        filename_template=TEMPLATE,
        check_data=False,  # it would read by tf.data, which has no ArrayRecord
        description=info.description,
        citation=info.citation,
        homepage=builder.HOMEPAGE,
        license=builder.LICENSE,
    )
    write_note(folder / store.INDEX, {"name": builder.name, "version": str(builder.version), "songs": songs})
    shutil.rmtree(folder / store.UNFINISHED, ignore_errors=True)
