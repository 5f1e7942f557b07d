"""One separator out of several runs: packed, a net for each source, or blended, the mean of several nets."""

import datetime
import json
import os
import platform
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsep import config as configs
from jaxsep import frontends
from jaxsep import workdir as workdirs
from jaxsep.card import terms, write_card
from jaxsep.checkpoint import load_variables, save_variables
from jaxsep.errors import JaxsepError

# What makes the separator; in all else the parts may differ, and the first one's value is written down.
ARCHITECTURE = (
    *("name", "model", "model_by_source", "per_source", "bands", "front", "head", "block", "blend"),
    *("sample_rate", "channels", "inference"),
)


def pack(runs: Sequence[Path], out: Path, checkpoint: str | int, argv: Sequence[str]) -> None:
    """Writes a run folder whose separator has the nets of all runs, each of which has other sources.

    Args:
        runs: run folders of a system with one net per source.
        out: the new run folder.
        checkpoint: of each run: "best", "last" or a step.
        argv: the command, for the record.

    Raises:
        JaxsepError: runs of different separators, a source that two of them have, a system that is not one net per
            source, or a folder that exists.
    """
    parts = [configs.run_config(run) for run in runs]
    _alike(runs, parts)
    if not parts[0].per_source:
        raise JaxsepError(f"{runs[0]}: {parts[0].name} is one net for all its sources; there is nothing to pack")
    sources: dict[str, Path] = {}
    for run, part in zip(runs, parts, strict=True):
        for source in configs.parse_sources(part.sources):
            if source in sources:
                raise JaxsepError(f"{run}: {source!r} is in {sources[source]} already; give each source once")
            sources[source] = run
    config = parts[0].copy_and_resolve_references()
    config.sources = ",".join(part.sources for part in parts)

    def merge(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {source: net for tree in trees for source, net in tree.items()}

    _write(runs, out, config, checkpoint, argv, merge)


def blend(runs: Sequence[Path], out: Path, checkpoint: str | int, argv: Sequence[str]) -> None:
    """Writes a run folder whose nets give the mean output of the runs' nets (UHL2 of SiSEC 2018, with two runs).

    Args:
        runs: two or more run folders of one system and the same sources.
        out: the new run folder.
        checkpoint: of each run: "best", "last" or a step.
        argv: the command, for the record.

    Raises:
        JaxsepError: fewer than two runs, runs of different separators or sources, or a folder that exists.
    """
    parts = [configs.run_config(run) for run in runs]
    _alike(runs, parts)
    if len(runs) < 2:
        raise JaxsepError("one run is its own mean; give two or more")
    for run, part in zip(runs, parts, strict=True):
        if part.sources != parts[0].sources:
            raise JaxsepError(f"{run}: has {part.sources}, but {runs[0]} has {parts[0].sources}")
        if part.blend > 1:
            raise JaxsepError(f"{run}: is a blend itself; give the runs that it is made of")
    config = parts[0].copy_and_resolve_references()
    with config.unlocked():
        config.blend = len(runs)

    def merge(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not config.per_source:
            return {str(index): tree for index, tree in enumerate(trees)}
        return {source: {str(index): tree[source] for index, tree in enumerate(trees)} for source in trees[0]}

    _write(runs, out, config, checkpoint, argv, merge)


def _alike(runs: Sequence[Path], parts: Sequence[configs.Config]) -> None:
    """Refuses runs that are not of one separator, its front end included."""
    if not frontends.build(parts[0]).fixed:
        name = parts[0].front.name
        raise JaxsepError(
            f"{runs[0]}: front.name={name!r} is trained, by each run for itself; one model has one front end"
        )
    first = json.loads(configs.to_json(parts[0]))
    for run, part in zip(runs, parts, strict=True):
        other = json.loads(configs.to_json(part))
        if differing := [key for key in ARCHITECTURE if first[key] != other[key]]:
            key = differing[0]
            raise JaxsepError(f"{run}: {key} is {other[key]!r}, in {runs[0]} {first[key]!r}; they cannot be one model")


def _write(
    runs: Sequence[Path], out: Path, config: configs.Config, checkpoint: str | int, argv: Sequence[str], merge: Any
) -> None:
    refuse_existing(out)
    loaded = [load_variables(run, checkpoint) for run in runs]
    trees = [variables for variables, _ in loaded]
    variables = {}
    for collection in trees[0]:
        rest = {key: tree for key, tree in trees[0][collection].items() if key != "net"}
        variables[collection] = {**rest, "net": merge([tree[collection]["net"] for tree in trees])}
    facts = {
        "data": workdirs.read_run(runs[0]).get("data", {}),
        "parts": [
            {"run": str(run), "sources": configs.run_config(run).sources, **info}
            for run, (_, info) in zip(runs, loaded, strict=True)
        ],
        **_origins(runs),
    }
    write_run(out, config, variables, argv, facts)


def _origins(runs: Sequence[Path]) -> dict[str, Any]:
    """Where imported parts come from, and what holds for all parts together; {} where none was imported."""
    imported = [run for run in map(workdirs.read_run, runs) if "origin" in run]
    if not imported:
        return {}
    stated = [terms(run) for run in runs]
    origin = {key: _joined(part["origin"][key] for part in imported) for key in ("name", "address")}
    return {
        "origin": origin | {key: _joined(part[key] for part in stated) for key in stated[0]},
        "verified": all(part["verified"] for part in imported),
        "files": [file for part in imported for file in part["files"]],
    }


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def refuse_existing(out: Path) -> None:
    """Raises a JaxsepError where a new run folder would hide something."""
    if out.exists():
        raise JaxsepError(f"{out}: exists; name a folder that does not")


def write_run(
    out: Path, config: configs.Config, variables: Mapping[str, Any], argv: Sequence[str], facts: Mapping[str, Any]
) -> None:
    """Writes a run folder, as a whole or not at all, that separates and is scored but cannot be trained further.

    Args:
        out: the folder, which does not exist.
        config: what the variables belong to.
        variables: "params" and where there are some "batch_stats".
        argv: the command, for the record.
        facts: further items of `run.json`.

    Raises:
        JaxsepError: the folder exists or cannot be written.
    """
    refuse_existing(out)
    record = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(argv),
        "git": workdirs.git_revision(),
        "versions": workdirs.versions(),
        "python": platform.python_version(),
        **facts,
    }
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        workdirs.open_workdir(unfinished, config)
        workdirs.write_text(unfinished / "run.json", json.dumps(record, indent=2) + "\n")
        save_variables(unfinished, variables)
        write_card(unfinished)
        unfinished.rename(out)
    except OSError as error:
        raise workdirs.unwritable(out, error) from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
