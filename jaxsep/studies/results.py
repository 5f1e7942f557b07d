"""What a study's folder holds so far."""

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep.config import run_config
from jaxsep.errors import JaxsepError
from jaxsep.log import read_metrics
from jaxsep.scoring.significance import Records, read_records

STUDY = "study.json"
SPEED = "speed.json"
FRONT = "front.npz"
SCORES = Path("scores", "test")


@dataclasses.dataclass(frozen=True)
class Run:
    """One training of a cell.

    Attributes:
        folder: of the run.
        state: "done", or what is missing.
        records: score files by track; {} until it is done.
        scores: SDR by source and "average", median over seconds and songs, in dB.
        curve: (step, validation SDR in dB) of each validation.
        steps: that it trained.
        step_seconds: of one step on the clock, the median over the lines of its log.
        speed: as `measures.speed` returned it.
        baselines: SDR of what is scored beside it, such as "scaled mixture", averaged over sources, by name, in dB.
        windows: (step, window) of each validation, where the front end's window is trained (`frontends.shapes`).
        front: as `measures.front_end` returned it.
    """

    folder: Path
    state: str
    records: Records = dataclasses.field(default_factory=dict)
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    curve: Sequence[tuple[int, float]] = ()
    steps: int = 0
    step_seconds: float = float("nan")
    speed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)
    windows: Sequence[tuple[int, Sequence[float]]] = ()
    front: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class CellRuns:
    """A cell with its trainings, whether done or not, in the order of the seeds."""

    name: str
    factors: Mapping[str, str]
    runs: Sequence[Run]

    @property
    def done(self) -> list[Run]:
        """Those that have scores."""
        return [run for run in self.runs if run.state == "done"]


@dataclasses.dataclass(frozen=True)
class Results:
    """All cells of a study, none left out."""

    title: str
    compare: str
    cells: Sequence[CellRuns]

    @property
    def sources(self) -> list[str]:
        """What was separated, by all runs alike."""
        return [name for name in next((r.scores for c in self.cells for r in c.done), {}) if name != "average"]


def is_done(folder: Path) -> bool:
    """Whether a run is trained, scored and timed."""
    return (folder / SPEED).is_file()


def read(folder: Path) -> Results:
    """Reads the folder of a study.

    Raises:
        JaxsepError: it is none, or a file in it is damaged.
    """
    path = folder / STUDY
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        cells = [
            CellRuns(name, cell["factors"], [_read_run(folder / run) for run in cell["runs"]])
            for name, cell in said["cells"].items()
        ]
        return Results(said["title"], said["compare"], cells)
    except FileNotFoundError:
        raise JaxsepError(f"{folder}: not the folder of a study (no {STUDY}); make one by `jaxsep study run`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise JaxsepError(f"{path}: damaged ({error}); remove it and run the study again") from None


def _read_run(folder: Path) -> Run:
    lines = read_metrics(folder / "metrics.jsonl")
    valid = [line for line in lines if line["kind"] == "valid"]
    curve = [(line["step"], line["sdr"]) for line in valid]
    steps = max((line["step"] for line in lines), default=0)
    if not (folder / "config.json").is_file():
        return Run(folder, "not begun")
    config: Any = run_config(folder)
    if not is_done(folder):
        return Run(folder, f"at step {steps} of {config.steps}" if steps < config.steps else "not scored", curve=curve)
    times = [line["time"]["examples_per_second"] for line in lines if line["kind"] == "train"]
    summary = json.loads((folder / SCORES / "summary.json").read_text(encoding="utf-8"))
    median = "sdr_median_of_medians"
    return Run(
        folder,
        "done",
        read_records(folder / SCORES),
        {name: float("nan") if value is None else value for name, value in summary["scores"][median].items()},
        curve,
        steps,
        statistics.median(config.data.batch_size / speed for speed in times if speed) if any(times) else float("nan"),
        json.loads((folder / SPEED).read_text(encoding="utf-8")),
        {name: scores[median]["average"] for name, scores in summary.get("baselines", {}).items()},
        [(line["step"], line["front/window"]) for line in valid if "front/window" in line],
        dict(np.load(folder / FRONT)) if (folder / FRONT).is_file() else {},
    )
