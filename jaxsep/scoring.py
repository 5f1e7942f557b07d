"""Scoring a split: read a song, separate it, score it once, keep the scores, go on where it stopped.

The model runs in the main process; scoring runs beside it in worker processes, as museval takes far longer for a song
than most models do. A song's scores are one JSON file, written as soon as they are known.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxsep import baselines
from jaxsep import config as configs
from jaxsep import workdir as workdirs
from jaxsep.data.tracks import STEM_MP4
from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate
from jaxsep.metrics.song import Song, Task, score_song

Separate = Callable[[Song], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Result:
    """A track with its scores, or with the reason why it has none.

    Attributes:
        record: what its JSON file holds.
        seconds: from reading to scores; None for scores that were there before.
    """

    name: str
    record: dict[str, Any] | None = None
    error: str | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.record is None:
            return f"{self.name}: left out, {self.error}"
        medians = {
            target["name"]: aggregate.over(aggregate.frames_of(self.record, target["name"], "SDR"), "median")
            for target in self.record["targets"]
        }
        spent = "scored before" if self.seconds is None else f"{self.seconds:.0f} s"
        return f"{self.name}: SDR {', '.join(f'{name} {value:.2f}' for name, value in medians.items())} ({spent})"


def score_tracks(
    tracks: Sequence[Any],
    separate: Separate,
    task: Task,
    folder: Path,
    provenance: Mapping[str, Any],
    *,
    jobs: int = 1,
    partial: bool = False,
) -> Iterator[Result]:
    """Separates and scores each track that has no scores of the same task and provenance yet.

    Args:
        tracks: of `jaxsep.data.tracks`.
        separate: song -> {source: [t c]}; a model looks at its mixture only, an oracle at its stems as well.
        task: what is scored.
        folder: gets one `<track>.json` per track.
        provenance: where the estimates come from, in JSON values.
        jobs: processes that score; 1 = score in this one. museval takes some 6 GB for a four-minute song.
        partial: go on after a track that fails.

    Yields:
        A result per track, in the order in which they are known.

    Raises:
        JaxsepError: a track failed and `partial` is off (the tracks before it have their files), or a scoring process
            died.
    """
    fingerprint = _fingerprint(task, provenance)
    pending: dict[Future, tuple[str, float]] = {}

    def finished(leave: int) -> Iterator[Result]:
        """Writes what is done; waits until no more than `leave` songs are being scored."""
        while len(pending) > leave or any(future.done() for future in pending):
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                name, start = pending.pop(future)
                try:
                    record = future.result()
                except (BrokenProcessPool, MemoryError):
                    raise JaxsepError(
                        f"track {name!r}: scoring it ran out of memory or was killed; what is done is kept, "
                        "start again with fewer --jobs"
                    ) from None
                record["jaxsep"]["provenance"] = {**provenance, "fingerprint": fingerprint}
                _write_text(folder / f"{name}.json", json.dumps(record, indent=2) + "\n")
                yield Result(name, record, seconds=time.monotonic() - start)

    with _Here() if jobs == 1 else ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for track in tracks:
            record = _scored_before(folder / f"{track.name}.json", fingerprint, track)
            if record is not None:
                yield Result(track.name, record)
                continue
            start = time.monotonic()
            try:
                song = task.read(track)
                estimates = task.gather(song, separate(song))
            except JaxsepError as error:
                if not partial:
                    yield from finished(leave=0)
                    raise JaxsepError(f"track {track.name!r}: {error}; --partial scores the others") from None
                yield Result(track.name, error=str(error))
                continue
            yield from finished(leave=jobs - 1)
            pending[pool.submit(score_song, task, song, estimates)] = track.name, start
            yield from finished(leave=jobs)
        yield from finished(leave=0)


class _Here:
    """As much of an executor as is needed, in this process."""

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable, *args: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def _scored_before(path: Path, fingerprint: str, track: Any) -> dict[str, Any] | None:
    """The scores in `path`, if they are of this song and these very estimates."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        mine = record["jaxsep"]
        same = (mine["provenance"]["fingerprint"], mine["samples"]) == (fingerprint, track.length)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def _fingerprint(task: Task, provenance: Mapping[str, Any]) -> str:
    fields = {key: value for key, value in dataclasses.asdict(task).items() if key != "equaliser"}
    gains = b"" if task.equaliser is None else task.equaliser.tobytes()
    text = json.dumps([fields, dict(provenance)], sort_keys=True)
    return hashlib.sha256(text.encode() + gains).hexdigest()[:16]


def fixed_equaliser(
    path: Path, task: Task, training: Callable[[], Iterable[Any]], tracks: Sequence[Any], notify: Callable[[str], None]
) -> Float[np.ndarray, "s f"]:
    """The gains of the fixed equaliser, learned on the training songs once and kept in `path`.

    Args:
        path: an `.npz` file in the run folder.
        task: its stems, channels and mixture are what is learned from.
        training: opens the training songs; called only if the gains are not there yet.
        tracks: to be scored; without a rate of the task, all songs must have one.
        notify: takes a line.

    Raises:
        JaxsepError: training songs that cannot be read, or songs of several rates.
    """
    rate = task.rate or tracks[0].rate
    key = json.dumps([task.stems, task.channels, task.mixture, rate])
    gains = _kept_gains(path, key)
    songs = [] if gains is not None else list(training())
    if other := [song for song in (*tracks, *songs) if rate not in (task.rate, song.rate)]:
        raise JaxsepError(f"needs songs of one rate: {other[0].name!r} has {other[0].rate} Hz, others {rate} Hz")
    if gains is None:
        notify(f"learning the fixed equaliser on {len(songs)} training songs, once")
        read = (task.read(song) for song in songs)
        gains = baselines.learn_equaliser((song.mixture, song.stems) for song in read)
        _replace(path, lambda part: np.savez(part, gains=gains, key=key))
    return gains


def _kept_gains(path: Path, key: str) -> Float[np.ndarray, "s f"] | None:
    try:
        with open(path, "rb") as file, np.load(file) as kept:
            return kept["gains"] if str(kept["key"]) == key else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def data_at(data: Any, root: str | None) -> Any:
    """The `data` block of a config with another data set in it: MUSDB18's `.stem.mp4` files, or stem folders."""
    if root is None:
        return data
    moved = ConfigDict(data.to_dict())
    moved.root = root
    moved.source = "musdb18" if any(Path(root).glob(f"*/*{STEM_MP4}")) else "folder"
    return moved


def is_musdb18(data: Any) -> bool:
    """Whether the data go by the name of MUSDB18, whose licence asks for academic use."""
    return data.source == "musdb18" or "musdb" in Path(data.root).name.lower()


def provenance(config: Any, checkpoint: Mapping[str, Any], data: Any, split: str) -> dict[str, Any]:
    """Where a split's estimates come from: system, checkpoint, code and data, in JSON values.

    Args:
        config: of the run.
        checkpoint: the second value of `load_variables`.
        data: what is scored, as `data_at` gives it.
        split: of the data.
    """
    return {
        "system": ":".join(filter(None, (config.name, config.variant))),
        "checkpoint": {"step": checkpoint["step"], "valid_sdr": checkpoint["sdr"]},
        "config": hashlib.sha256(configs.to_json(config).encode()).hexdigest()[:16],
        "git": workdirs.git_revision(),
        "versions": workdirs.versions(),
        "data": {
            "source": data.source,
            "root": Path(data.root).resolve().name if data.root else "the built-in songs",
            "split": split,
        },
    }


def summarise(results: Sequence[Result], task: Task, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Every aggregate of a split, with where it comes from: what `summary.json` holds.

    Args:
        results: of all tracks, in the order of the tracks.
        task: what was scored.
        provenance: of the estimates.

    Returns:
        `provenance`, with "backend", "scored_together" (lists of sources), "tracks", "failed" (track -> why),
        and what `aggregate.summarise` gives: "protocols", "scores", "baselines", "frames", "silent".

    Raises:
        JaxsepError: no track has scores.
    """
    records = [result.record for result in results if result.record is not None]
    if not records:
        raise JaxsepError(f"none of the {len(results)} tracks could be scored")
    return {
        **provenance,
        "mixture": task.mixture,
        "rate": task.rate,
        "backend": task.backend,
        "scored_together": [together for together, _ in task.calls()],
        "tracks": [result.name for result in results if result.record is not None],
        "failed": {result.name: result.error for result in results if result.record is None},
        **aggregate.summarise(records, list(task.sources)),
    }


def write_summary(folder: Path, summary: Mapping[str, Any], table: str) -> None:
    """Writes `summary.json` (null for NaN) and `table.md`.

    Raises:
        JaxsepError: they cannot be written.
    """
    _write_text(folder / "summary.json", json.dumps(_without_nan(summary), indent=2, allow_nan=False) + "\n")
    _write_text(folder / "table.md", table + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_text(path: Path, text: str) -> None:
    _replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file such that at any time it is the old one or the whole new one."""
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise JaxsepError(f"{path}: cannot be written ({error.strerror}); make room or name another --out") from None
