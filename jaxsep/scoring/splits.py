"""Scoring a split: read a song, separate it, score it once, keep the scores, go on where it stopped."""

import dataclasses
import hashlib
import json
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from jaxsep import baselines, storage
from jaxsep import config as configs
from jaxsep import workdir as workdirs
from jaxsep.data.tracks import STEM_MP4
from jaxsep.errors import JaxsepError
from jaxsep.metrics.song import Song, Task, score_song
from jaxsep.scoring import scorefiles
from jaxsep.scoring.scorefiles import Result, Work, replace, score_all, scored_before

Separate = Callable[[Song], Mapping[str, np.ndarray]]


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
        jobs: see `score_all`.
        partial: go on after a track that fails.

    Yields:
        A result per track, in the order in which they are known.

    Raises:
        JaxsepError: see `score_all`.
    """

    def separated(track: Any) -> Result | Work:
        fingerprint = _fingerprint(task, provenance, track.length)
        record = scored_before(folder / f"{track.name}.json", fingerprint)
        if record is not None:
            return Result(track.name, record)
        start = time.monotonic()
        try:
            song = task.read(track)
            estimates = task.gather(song, separate(song))
        except JaxsepError as error:
            return Result(track.name, error=str(error))
        return Work(track.name, score_song, (task, song, estimates), {**provenance, "fingerprint": fingerprint}, start)

    return score_all(map(separated, tracks), folder, jobs=jobs, partial=partial)


def _fingerprint(task: Task, provenance: Mapping[str, Any], length: int) -> str:
    fields = {key: value for key, value in dataclasses.asdict(task).items() if key != "equaliser"}
    gains = b"" if task.equaliser is None else task.equaliser.tobytes()
    text = json.dumps([fields, dict(provenance), length], sort_keys=True)
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
        replace(path, lambda part: np.savez(part, gains=gains, key=key))
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
    moved.source = "musdb18" if any(storage.here(root).glob(f"*/*{STEM_MP4}")) else "folder"
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
        **surroundings(data, split),
    }


def surroundings(data: Any, split: str) -> dict[str, Any]:
    """The part of `provenance` that is not the model's: code and data."""
    return {
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
        `provenance`, with "mixture", "rate" and "backend" of the task, and what `scorefiles.summarise` gives.

    Raises:
        JaxsepError: no track has scores.
    """
    how = {"mixture": task.mixture, "rate": task.rate, "backend": task.backend}
    return {**provenance, **how, **scorefiles.summarise(results, list(task.scored))}
