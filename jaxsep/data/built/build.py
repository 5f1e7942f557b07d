"""Writes a built set, song by song, on the cores of one machine or on many machines; continues where it was stopped.

A song is one ArrayRecord file. It is written under another name, compared with its source bit for bit, and renamed; a
note beside it says of which files it was made, so that no later start makes it again unless they have changed. When all
songs are there, TFDS gets its metadata and the reader its index.
"""

import contextlib
import dataclasses
import importlib
import itertools
import json
import multiprocessing
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import audio
from jaxsep.config import choose
from jaxsep.data.built import store
from jaxsep.data.built.examples import examples, stem_names
from jaxsep.data.readers import Reader
from jaxsep.data.tracks import Track
from jaxsep.errors import JaxsepError

NAMES = ("musdb18", "musdb18_hq", "stem_folder")
DECODERS = ("pyav", "ffmpeg")
CODECS = ("pcm", "flac")
FORMAT = 1  # of the records; songs of another one are made again
# No number of files in the names: a song that is added later changes no other song's.
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
OPTIONS = "group_size:1,uncompressed"  # each record on its own; what is to be compressed is FLAC already


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


Runner = Callable[[Sequence[Job]], Iterable[tuple[str, str | None]]]  # song by song: its name, and why it failed


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


def in_processes(jobs: Sequence[Job]) -> Iterator[tuple[str, str | None]]:
    """Writes songs in one process for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Fresh processes: a fork of one that has threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(cores, len(jobs)), mp_context=context, initializer=_follow_parent) as pool:
        running = [pool.submit(attempt, job) for job in jobs]
        try:
            for done in as_completed(running):
                yield done.result()
        except BrokenProcessPool:
            raise JaxsepError(
                "a process that wrote songs was killed (for want of memory?); run the same command again, it goes on"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """In a process of the pool: leaves Ctrl-C to the parent, and ends with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def by_beam(runner: str, options: Sequence[str]) -> Runner:
    """Writes songs by Apache Beam, on machines that all see the folders.

    Args:
        runner: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, ...
        options: of the pipeline, as NAME=VALUE.

    Raises:
        JaxsepError: Beam is not installed.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise JaxsepError("--beam needs the package apache-beam: `pip install 'jaxsep[beam]'`") from None

    def run(jobs: Sequence[Job]) -> Iterator[tuple[str, str | None]]:
        flags = [f"--runner={runner}", *(f"--{option}" for option in options)]
        with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
            _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(attempt)
        for job in jobs:  # what a song came to stands beside it: Beam's results stay where they were made
            failure = {"why": "not written"} | (_read(_failure(job)) or {})
            yield job.name, None if job.note.exists() else failure["why"]

    return run


def attempt(job: Job) -> tuple[str, str | None]:
    """Writes a song; its name, and why it failed."""
    try:
        write_song(job)
    except (JaxsepError, OSError) as error:
        _write(_failure(job), {"why": str(error)})
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
    count = 0
    try:
        writer = ArrayRecordWriter(str(part), OPTIONS)
        for stem in stem_names(job.track):
            reader, first, encoding = job.track.reader(stem), count, ""
            for example in examples(job.track, stem, job.codec):
                writer.write(example_features.serialize_example(example_features.encode_example(example)))
                encoding = example["encoding"]
                count += 1
            kind = {"channels": reader.channels, "dtype": reader.dtype.name, "encoding": encoding}
            stems[stem] = {"first": first, **kind}
        writer.close()
        song = {
            "name": job.track.name,
            "split": job.track.split,
            "file": job.file,
            "rate": job.track.rate,
            "length": job.track.length,
            "records": count,
            "bytes": part.stat().st_size,
            "stems": stems,
            "source": job.source,
        }
        _compare(job, {**song, "file": str(part.relative_to(job.folder))})
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        os.replace(part, job.folder / job.file)
        _write(job.note, song)
    except RuntimeError as error:
        raise JaxsepError(f"{part}: cannot be written ({error}); check the folder and the disk") from None
    finally:
        part.unlink(missing_ok=True)


def _compare(job: Job, song: Mapping[str, Any]) -> None:
    """Holds the records of a song against its source, bit for bit."""
    for stem in song["stems"]:
        source, reader = job.track.reader(stem), store.open_stem(job.folder, song, stem)
        expected, found = source.read(0, source.length), reader.read(0, reader.length)
        if expected.dtype != found.dtype or expected.shape != found.shape or expected.tobytes() != found.tobytes():
            raise JaxsepError(f"{source.path}: {stem} of {job.track.name!r} was not written as it is; build it again")


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
    songs = [*finished, *(note for path in notes if (note := _read(path)) and "file" in note)]
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
            _compare(job, known[job.file])
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
            _write(note, song)
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
    _write(folder / store.INDEX, {"name": builder.name, "version": str(builder.version), "songs": songs})
    shutil.rmtree(folder / store.UNFINISHED, ignore_errors=True)


def _failure(job: Job) -> Path:
    return job.note.with_suffix(".failed")


def _read(path: Path) -> dict[str, Any] | None:
    """A note, None where it is not there or was cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON; there is all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    part.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(part, path)
