"""What a study consists of, as a file like `configs/studies/report.py` says it."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from jaxsep import config as configs
from jaxsep.errors import JaxsepError

# Where the same data lies may differ from one machine to the next.
PLACES = ("root",)


@dataclass(frozen=True)
class Cell:
    """One setting that is trained under every seed.

    Attributes:
        factors: what differs between cells, by name, such as {"system": "spleeter", "front": "stft"}.
        config: of its trainings, but for the seed.
        phase: with which they are scored, as eval.py takes it: mixture, or ideal.
    """

    factors: Mapping[str, str]
    config: configs.Config
    phase: str = "mixture"

    @property
    def name(self) -> str:
        """The levels of its factors, fit for a file name."""
        return "-".join(self.factors.values()).replace("/", "_").replace(" ", "_")


@dataclass(frozen=True)
class Study:
    """Cells and seeds.

    Attributes:
        title: what is asked.
        compare: the factor whose levels are compared on the same tracks, with its first level as the reference; cells
            are compared where all their other factors are alike.
        cells: in the order of the table.
        seeds: each cell is trained under each of them.
    """

    title: str
    compare: str
    cells: Sequence[Cell]
    seeds: Sequence[int] = (0, 1, 2)

    def __post_init__(self):
        names = [cell.name for cell in self.cells]
        double = sorted({name for name in names if names.count(name) > 1})
        if double or not names or not self.seeds:
            raise JaxsepError(f"study {self.title!r}: {f'two cells {double[0]!r}' if double else 'no cells or seeds'}")
        for cell in self.cells:
            if [*cell.factors] != [*self.cells[0].factors] or self.compare not in cell.factors:
                raise JaxsepError(
                    f"study {self.title!r}: cell {cell.name!r} has the factors {', '.join(cell.factors)}; expected "
                    f"those of the first, {', '.join(self.cells[0].factors)}, with {self.compare!r} among them"
                )

    def configs(self) -> dict[str, configs.Config]:
        """The config of each training by its name, seed by seed, so that a part of a study is a whole one of fewer."""
        found = {}
        for seed in self.seeds:
            for cell in self.cells:
                config = cell.config.copy_and_resolve_references()
                with config.unlocked():
                    config.seed = seed
                found[run_name(cell.name, seed)] = config.lock()
        return found

    @property
    def fingerprint(self) -> str:
        """Of all that results depend on."""
        runs = {name: _without_places(config.to_dict()) for name, config in self.configs().items()}
        scored = {cell.name: cell.phase for cell in self.cells if cell.phase != "mixture"}
        text = json.dumps([self.compare, runs, *([scored] if scored else [])], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def phases(self) -> dict[str, str]:
        """With which phase each training is scored, by its name."""
        return {run_name(cell.name, seed): cell.phase for seed in self.seeds for cell in self.cells}


def run_name(cell: str, seed: int) -> str:
    """Of a cell's training."""
    return f"{cell}-seed{seed}"


def changed(config: configs.Config, **changes: object) -> configs.Config:
    """A copy of a config with other values, `changed(config, loss__name="l2")`, where `__` stands for a dot.

    A dict takes the place of a whole block. Fields that only another class than the config's has may be given, too.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        for key, value in changes.items():
            *blocks, last = key.split("__")
            functools.reduce(lambda block, name: block[name], blocks, config)[last] = (
                ConfigDict(value) if isinstance(value, dict) else value
            )
    return config.lock()


def load_study(spec: str | Path) -> Study:
    """The study of `path.py` or `path.py:variant`.

    Raises:
        JaxsepError: no such file or variant, or a file that defines no study.
    """
    path, _, variant = str(spec).partition(":")
    if not Path(path).is_file() and (known := configs.configs_folder() / "studies" / Path(path).name).is_file():
        path = str(known)
    module = configs.load_module(path)
    if not hasattr(module, "get_study"):
        raise JaxsepError(f"{path}: no study, which has a function get_study(variant)")
    return module.get_study(variant) if variant else module.get_study()


def _without_places(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items() if key not in PLACES}
    return value
