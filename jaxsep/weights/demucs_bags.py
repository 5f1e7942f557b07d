"""Bags of the demucs package: several models whose stems are averaged, each with a weight for each source.

A bag is a `.yaml` file of the package's `demucs/remote/`, as `htdemucs_ft.yaml`, and the `.th` files of its models; or
such files alone, which count alike.
"""

import ast
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.weights import Imported, Origin

SUFFIXES = (".yaml", ".yml")
KEYS = ("models", "weights", "segment")
ALIKE = ("name", "model", "sources", "sample_rate", "channels")  # what one separator has once


def read(files: Sequence[Path], model: Callable[[Path], Imported]) -> Imported:
    """The blend that a bag is.

    Args:
        files: one `.yaml` or none, and the models.
        model: reads one of those.

    Raises:
        JaxsepError: files that are missing or too many, or models that differ in more than their weights.
    """
    bags = [file for file in files if file.suffix in SUFFIXES]
    models = [file for file in files if file not in bags]
    if len(bags) > 1:
        raise JaxsepError(f"{bags[1]}: a second bag; import one at a time")
    bag = _bag(bags[0]) if bags else {"models": [file.name for file in models]}
    found = [_file(signature, models, bags[0] if bags else files[0]) for signature in bag["models"]]
    if unused := [file for file in models if file not in found]:
        raise JaxsepError(f"{unused[0]}: is not in {bags[0]}; leave it away")
    made = {file: model(file) for file in dict.fromkeys(found)}
    parts = [made[file] for file in found]
    config = parts[0].config.copy_and_resolve_references()
    for part in parts:
        _shorten(part.config, bag.get("segment"))
    _check_alike(found, parts)
    sources = len(configs.parse_sources(config.sources))
    with config.unlocked():
        config.inference.segment = parts[0].config.inference.segment
        config.model = parts[0].config.model
        config.blend = len(parts)
        config.blend_weights = _weights(bag, sources, bags[0]) if "weights" in bag else ()
    variables = {"params": {"net": {str(i): part.variables["params"]["net"] for i, part in enumerate(parts)}}}
    return Imported(config.lock(), variables, Origin(f"a bag of {len(parts)}: {parts[0].origin.name}"))


def _bag(file: Path) -> dict[str, Any]:
    """Keys and values of the file: lists and numbers in one style, so no parser of all YAML is needed."""
    try:
        parts = re.split(r"^(\w+):", re.sub(r"#.*", "", file.read_text()), flags=re.MULTILINE)
        bag = {key: ast.literal_eval(value.strip()) for key, value in zip(parts[1::2], parts[2::2], strict=True)}
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError):
        bag = {}
    models = bag.get("models")
    if set(bag) - set(KEYS) or not (isinstance(models, list) and models and all(isinstance(m, str) for m in models)):
        raise JaxsepError(
            f"{file}: expected a bag of demucs: models, weights and segment; this file has something else"
        )
    return bag


def _file(signature: str, files: Sequence[Path], bag: Path) -> Path:
    """The file of a model: named by its signature, perhaps with the start of its sum."""
    for file in files:
        if file.name == signature or file.stem.partition("-")[0] == signature:
            return file
    raise JaxsepError(f"{bag}: needs the model {signature}; give {signature}-*.th, too")


def _shorten(config: configs.Config, segment: Any) -> None:
    """The bag's segment, if any; a net that is to see its training length takes no longer one."""
    if segment is None:
        return
    if not isinstance(segment, int | float) or segment <= 0:
        raise JaxsepError(f"segment={segment!r} of the bag: expected seconds")
    trained = config.model.get("segment", 0) / config.sample_rate
    if trained and segment > trained:
        return
    with config.unlocked():
        config.inference.segment = float(segment)
        if trained:
            config.model.segment = int(segment * config.sample_rate)


def _check_alike(files: Sequence[Path], parts: Sequence[Imported]) -> None:
    first = parts[0].config.to_dict()
    for file, part in zip(files, parts, strict=True):
        other = part.config.to_dict()
        for key in ALIKE:
            if first[key] != other[key]:
                raise JaxsepError(f"{file}: {key} is {other[key]!r}, in {files[0]} {first[key]!r}; not one separator")
        if first["inference"]["segment"] != other["inference"]["segment"]:
            raise JaxsepError(f"{file}: segments of another length than {files[0]}; give the bag's .yaml, too")


def _weights(bag: dict[str, Any], sources: int, file: Path) -> tuple[tuple[float, ...], ...]:
    rows = bag["weights"]
    whole = isinstance(rows, list) and all(isinstance(row, list) and len(row) == sources for row in rows)
    if not whole or len(rows) != len(bag["models"]):
        raise JaxsepError(f"{file}: expected weights for {len(bag['models'])} models and {sources} sources each")
    return tuple(tuple(float(weight) for weight in row) for row in rows)
