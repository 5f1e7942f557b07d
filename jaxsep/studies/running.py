"""Trains, scores and times what a study consists of, one run after the other, and goes on where it was stopped."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.studies.definition import Study, changed, run_name
from jaxsep.studies.results import SCORES, STUDY, is_done
from jaxsep.workdir import write_text

ROOT = Path(__file__).resolve().parents[2]
LOG = "study.log"


def run(
    study: Study, folder: Path, shard: tuple[int, int] = (1, 1), say: Callable[[str], None] = print
) -> dict[str, str]:
    """Does what is not done yet.

    Each run is a run folder below `folder`, made by the same `train.py` and `eval.py` that a user calls; what they
    print is in its `study.log`. A run that fails is named, and the others go on.

    Args:
        study: what is asked.
        folder: of the study; several machines may work in one, each at its shard.
        shard: (i, n) does runs i, i + n, i + 2 n, ... of all.
        say: takes a line per run.

    Returns:
        For each run that failed, why.

    Raises:
        JaxsepError: a folder of another study, no checkout, or one that cannot be written.
    """
    if not (ROOT / "train.py").is_file():
        raise JaxsepError(f"{ROOT}: no train.py here; studies run in a checkout of the repository")
    folder = folder.absolute()
    _claim(study, folder)
    runs = list(study.configs().items())[shard[0] - 1 :: shard[1]]
    failed, phases = {}, study.phases()
    for number, (name, config) in enumerate(runs, 1):
        place = folder / name
        if is_done(place):
            say(f"[{number}/{len(runs)}] {name}: done before")
            continue
        say(f"[{number}/{len(runs)}] {name}")
        if why := _run(place, _placed(config, folder), phases[name]):
            failed[name] = why
            say(f"{name}: failed: {why}; see {place / LOG}")
    return failed


def _claim(study: Study, folder: Path) -> None:
    """Writes `study.json`, or finds in it the same study."""
    path = folder / STUDY
    said = {
        "title": study.title,
        "compare": study.compare,
        "fingerprint": study.fingerprint,
        "seeds": list(study.seeds),
        "cells": {
            cell.name: {"factors": dict(cell.factors), "runs": [run_name(cell.name, seed) for seed in study.seeds]}
            for cell in study.cells
        },
    }
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known != json.loads(json.dumps(said)):
            raise JaxsepError(
                f"{folder} is of another study, {known['title']!r}, or of this one as it was before its file changed; "
                "choose another --workdir"
            )
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JaxsepError(f"{folder}: cannot be made ({error.strerror}); choose another --workdir") from None
        write_text(path, json.dumps(said, indent=2) + "\n")


def _placed(config: configs.Config, folder: Path) -> configs.Config:
    """The config, with one folder of built-in songs for all runs of the study."""
    made = config.data.source == "builtin" and not config.data.root
    return changed(config, data__root=str(folder / "songs")) if made else config


def _run(place: Path, config: configs.Config, phase: str) -> str:
    """Trains, scores and times; what failed, or ""."""
    recipe = place.with_suffix(".json")
    write_text(recipe, configs.to_json(config))
    for command in (
        ["train.py", f"--config={recipe}", f"--workdir={place}"],
        ["eval.py", f"--workdir={place}", "--backend=sdr", f"--phase={phase}", f"--out={place / SCORES}"],
        ["-m", "jaxsep.studies.measures", str(place)],
    ):
        place.mkdir(exist_ok=True)
        if why := _logged(command, place / LOG):
            return why
    return ""


def _logged(command: Sequence[str], log: Path) -> str:
    """Runs a command in the checkout with this Python; the last thing that it said if it failed, or ""."""
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {shlex.join(['python', *command])}\n")
        file.flush()
        done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if not done.returncode:
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    return f"{command[0]} ended with status {done.returncode}: {lines[-1]}"
