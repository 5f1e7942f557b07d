"""The run folder: `config.json`, which no later start may contradict, and `run.json`, which says how it came about."""

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.mining.index import read_index

# What a later start may change: how long, how often, where the (same) data lies; and in which precision, for a layer
# that overflows is put to float32, and the parameters are float32 anyway; and how a batch and the state are spread over
# devices, and what is computed twice to save memory.
CHANGEABLE = (
    "steps",
    "precision",
    "parallel",
    "remat",
    "deterministic",
    "log_every",
    "eval_every",
    "save_every",
    "on_full_disk",
    "patience",
    "tensorboard",
    "data.root",
    "data.unlabeled.root",
)

PACKAGES = (
    "jaxsep",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow",
    "tensorflow-cpu",
    "numpy",
)


def open_workdir(folder: Path, config: configs.Config, first: bool = True) -> None:
    """Makes the run folder, or finds in it a run of the same config, and writes `config.json`.

    Args:
        folder: the run folder.
        config: the config of this start.
        first: whether this process of several is the one that writes.

    Raises:
        JaxsepError: not a folder, not writable, a run of another config (its differing keys are named), a run that was
            packed, blended or imported, or a folder that the first process does not see.
    """
    if not first and not (folder / "config.json").exists():
        raise JaxsepError(
            f"{folder}: what process 0 writes there is not seen here; give a --workdir, or for gs:// a JAXSEP_CACHE, "
            "on a file system that all processes share"
        )
    if folder.exists() and not folder.is_dir():
        raise JaxsepError(f"--workdir={folder} is a file; give a folder")
    path = folder / "config.json"
    if {"parts", "origin"} & set(read_run(folder)):
        raise JaxsepError(f"{folder}: packed, blended or imported, not trained here; choose another --workdir")
    if path.exists():
        _compare(
            folder,
            json.loads(configs.to_json(configs.run_config(folder))),
            json.loads(configs.to_json(config)),
        )
    elif (folder / "checkpoints").exists():
        raise JaxsepError(f"{folder}: has checkpoints but no config.json; restore it, or choose another --workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    text = configs.to_json(config)
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def comparable(config: configs.Config) -> dict[str, Any]:
    """Values by key of all that the processes of a training have to agree on: where the data lies, they do not."""
    flat = _flat(json.loads(configs.to_json(config)))
    return {key: value for key, value in flat.items() if not re.fullmatch(r"data\.(.*\.)?root", key)}


def code() -> dict[str, str]:
    """Short sums of the package's sources, and the versions of what they use, by name."""
    root = Path(__file__).parent
    files = {path.relative_to(root.parent).as_posix(): path.read_bytes() for path in sorted(root.rglob("*.py"))}
    return {name: hashlib.sha256(text).hexdigest()[:8] for name, text in files.items()} | versions()


def record_run(
    workdir: Path, argv: Sequence[str], data: Mapping[str, Any], step: int, init: Mapping[str, Any] | None = None
) -> None:
    """Writes `run.json`; a start at a later step adds itself to `resumed`.

    Args:
        workdir: the run folder.
        argv: the command.
        data: what `describe_data` said.
        step: the step that this start goes on from.
        init: the run and the checkpoint whose weights a fresh run starts from.

    Raises:
        JaxsepError: the data differs from the data that the run began with.
    """
    path = workdir / "run.json"
    start = {"step": step, "time": _now(), "command": shlex.join(argv), "git": git_revision()}
    run = read_run(workdir)
    if not run:
        run = {
            **start,
            "versions": versions(),
            "python": platform.python_version(),
            "data": data,
            **({"init": init} if init else {}),
            "resumed": [],
        }
    elif run["data"]["fingerprint"] != data["fingerprint"]:
        raise JaxsepError(
            f"{workdir}: this run began with {_songs(run['data'])}, now there are {_songs(data)} or other names or "
            "lengths; restore the data, or choose another --workdir"
        )
    elif step:
        run["resumed"].append(start)
    write_text(path, json.dumps(run, indent=2) + "\n")


def read_run(workdir: str | Path) -> dict[str, Any]:
    """The contents of `run.json`, {} when there is none.

    Raises:
        JaxsepError: it is damaged.
    """
    path = Path(workdir) / "run.json"
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise JaxsepError(f"{path}: damaged ({error}); remove it") from None


def describe_data(config: configs.Config, tracks: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Source, songs per split, seconds, and a fingerprint of names, rates, channels, lengths and unlabeled extracts.

    Args:
        config: the run's config.
        tracks: split -> songs.
    """
    songs = [[s, t.name, t.rate, t.channels, t.length] for s, split in tracks.items() for t in split]
    if config.data.unlabeled.root:
        songs.append(["unlabeled", *(song.line() for song in read_index(config.data.unlabeled.root))])
    return {
        "source": config.data.source,
        "stems": config.data.stems,
        "songs": {split: len(songs) for split, songs in tracks.items()},
        "seconds": {split: round(sum(t.length / t.rate for t in songs), 1) for split, songs in tracks.items()},
        "fingerprint": hashlib.sha256(json.dumps(songs).encode()).hexdigest()[:16],
    }


def git_revision() -> str:
    """Commit of the checkout that the code runs from, with `+changes` where it differs; "unknown" outside one."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Versions of the packages that a result depends on, as far as they are installed."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def write_text(path: Path, text: str) -> None:
    """Replaces a file as a whole: a kill leaves the old one or the new one.

    Raises:
        JaxsepError: the disk is full, or the folder cannot be written.
    """
    fresh = path.with_name(path.name + ".tmp")
    try:
        fresh.write_text(text)
        os.replace(fresh, path)
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: OSError) -> JaxsepError:
    """The error for a file of the run folder."""
    reason = error.strerror or str(error)
    return JaxsepError(f"{path}: cannot be written ({reason}); make room, or choose another --workdir")


def _compare(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    before, now = _flat(old), _flat(new)
    differing = [key for key in sorted(before | now) if before.get(key) != now.get(key)]
    fixed = [key for key in differing if key not in CHANGEABLE and not re.fullmatch(r"data\.also\..*\.root", key)]
    if fixed:
        named = ", ".join(f"{key} ({before.get(key)!r}, now {now.get(key)!r})" for key in fixed)
        raise JaxsepError(f"{folder} is a run of another config: {named}; choose another --workdir")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _songs(data: Mapping[str, Any]) -> str:
    return " and ".join(f"{count} {split}" for split, count in data["songs"].items()) + " songs"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
