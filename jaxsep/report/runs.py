"""Run folders as a report reads them: config, curves, scores of a split, and a name that no other run has."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.log import read_metrics
from jaxsep.workdir import read_run

NEEDED = {"system", "checkpoint", "data", "mixture", "tracks", "tracks_in_split", "scored_together", "protocols"}
NEEDED |= {"scores", "baselines", "missing", "failed", "silent"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        name: the system's, and with several runs of one system also the folder's.
        config: as it was trained.
        about: `run.json`, {} without one.
        metrics: the lines of `metrics.jsonl`.
        summary: of the split's scores, {} before they are made.
        tracks: the score file of each track of the summary, by name; of some, {} when a file is missing.
    """

    name: str
    folder: Path
    config: Any
    about: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any]
    tracks: Mapping[str, Mapping[str, Any]]

    @property
    def system(self) -> str:
        """Name and variant, as in `spleeter:demo`."""
        return system_name(self.config)

    @property
    def label(self) -> str:
        """The name with the step of the checkpoint that was scored."""
        return f"{self.name}, step {self.summary['checkpoint']['step']}"

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Source -> the stems that it is the sum of."""
        return configs.parse_sources(self.config.sources)

    def commands(self) -> list[str]:
        """What trained and scored it."""
        lines = (line["command"] for line in (self.about, self.summary) if "command" in line)
        return [line if line.split()[0] in ("python", "jaxsep") else f"python {line}" for line in lines]


def system_name(config: Any) -> str:
    """Name and variant of a config, as in `spleeter:demo`."""
    return ":".join(filter(None, (config.name, config.variant)))


def read_runs(folders: Sequence[str | Path], split: str) -> list[Run]:
    """Reads run folders, each with its scores of a split where it has some.

    Raises:
        JaxsepError: not a run folder, a folder given twice, or a damaged file in one.
    """
    paths = [Path(folder) for folder in folders]
    for path, count in Counter(path.resolve() for path in paths).items():
        if count > 1:
            raise JaxsepError(f"{path}: given {count} times; name each run once")
    read = [configs.run_config(path) for path in paths]
    return [
        _read(name, path, config, split)
        for name, path, config in zip(_names(paths, [system_name(config) for config in read]), paths, read, strict=True)
    ]


def _read(name: str, folder: Path, config: Any, split: str) -> Run:
    scores = folder / "scores" / split
    summary = _summary(scores / "summary.json")
    files = {track: scores / f"{track}.json" for track in summary.get("tracks", ())}
    tracks = {track: _json(file) for track, file in files.items() if file.is_file()}
    return Run(name, folder, config, read_run(folder), read_metrics(folder / "metrics.jsonl"), summary, tracks)


def _names(paths: Sequence[Path], systems: Sequence[str]) -> Iterator[str]:
    """Systems as they are where they differ, else with as many last parts of the folder's path as tell them apart."""
    for path, system in zip(paths, systems, strict=True):
        alike = [other.resolve().parts for other, name in zip(paths, systems, strict=True) if name == system]
        parts = path.resolve().parts
        count = 1
        while sum(other[-count:] == parts[-count:] for other in alike) > 1:
            count += 1
        yield system if len(alike) == 1 else f"{system} ({'/'.join(parts[-count:])})"


def _summary(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    summary = _json(path)
    if lacking := NEEDED - set(summary):
        raise JaxsepError(f"{path}: no {', '.join(sorted(lacking))} in it; run eval.py again")
    return summary


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JaxsepError(f"{path}: damaged ({error}); run eval.py again") from None
