"""Files that the demucs package (github.com/facebookresearch/demucs) saves: a class, its arguments, its tensors.

| version | file | holds |
|---|---|---|
| 1 | `.th`, or gzipped `.th.gz` | (class, args, kwargs, state) |
| 2 | `.th` | {klass, args, kwargs, state, training_args}; published ones hold the state alone |
| 3, 4 | `.th` | {klass, args, kwargs, state, training_args}, tensors in half precision |

Classes are known by their names alone: nothing of a file is imported or run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from jaxsep.errors import JaxsepError
from jaxsep.weights import formats, torch_files
from jaxsep.weights.pickles import Inert

SOURCES = ("drums", "bass", "other", "vocals")  # in the order of all published models
EXPECTED = "a model saved by demucs: (class, args, kwargs, state), a dict of these, or a dict of tensors"


@dataclasses.dataclass(frozen=True)
class Package:
    """What such a file holds.

    Attributes:
        file: for messages.
        version: 1 where a tuple was saved, 2 otherwise: files of later versions look the same but for their classes.
        klass: name of the class, e.g. "demucs.model.Demucs"; "" where the file holds the tensors alone.
        args, kwargs: that the class was made with; arguments that are foreign objects are `Inert`.
        state: the tensors by name, in the precision that they were saved in.
        training: the options of the training, as far as the file states them.
    """

    file: Path
    version: int
    klass: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    state: Mapping[str, np.ndarray]
    training: Mapping[str, Any]

    def arguments(self, order: Sequence[str]) -> dict[str, Any]:
        """All arguments by name.

        Args:
            order: names of the class's arguments as they may be given by position.

        Raises:
            JaxsepError: an argument that is not among them: a model of another version.
        """
        given = dict(zip(order, self.args, strict=False)) | dict(self.kwargs)
        unknown = sorted(set(given) - set(order))
        if unknown or len(self.args) > len(order):
            raise JaxsepError(
                f"{self.file}: {self.klass} of another version of demucs, made with {', '.join(unknown) or self.args}; "
                f"expected arguments among {', '.join(order)}"
            )
        return given


def read_package(file: Path) -> Package:
    """The content of one file.

    Raises:
        JaxsepError: not such a file, a damaged one, or quantised weights.
    """
    found = _read(file)
    if isinstance(found, tuple) and len(found) == 4:
        version, (klass, args, kwargs, state), training = 1, found, None
    elif isinstance(found, dict) and {"klass", "args", "kwargs", "state"} <= set(found):
        klass, args, kwargs, state = (found[key] for key in ("klass", "args", "kwargs", "state"))
        version, training = 2, found.get("training_args")
    else:
        version, klass, args, kwargs, state, training = 2, Inert(""), (), {}, found, None
    if isinstance(state, dict) and {"compressed", "__quantized", "quantized"} & set(state):
        raise JaxsepError(f"{file}: its weights are quantised by DiffQ; import the model that is not quantised")
    made = isinstance(klass, Inert) and isinstance(args, tuple | list) and isinstance(kwargs, dict)
    if not (made and isinstance(state, dict) and all(isinstance(leaf, np.ndarray) for leaf in state.values())):
        raise JaxsepError(f"{file}: expected {EXPECTED}; this file has something else")
    named = {str(name): tensor for name, tensor in state.items()}
    return Package(file, version, klass.name, args, kwargs, named, training if isinstance(training, dict) else {})


def source_names(package: Package, sources: Any) -> tuple[str, ...]:
    """Names of the sources from the argument `sources`: names, or their number (version 1).

    Raises:
        JaxsepError: a number other than four, or something else.
    """
    if sources == len(SOURCES):
        return SOURCES
    if isinstance(sources, list | tuple) and sources and all(isinstance(name, str) for name in sources):
        return tuple(sources)
    raise JaxsepError(
        f"{package.file}: sources={sources!r} says no names; expected a list, or 4 for {', '.join(SOURCES)}"
    )


def _read(file: Path) -> Any:
    """What was given to torch.save; of a gzipped file, its content."""
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    if not zipped:
        return torch_files.read(file, foreign=True)
    with TemporaryDirectory(prefix="jaxsep-") as folder:
        return torch_files.read(formats.gunzip(file, Path(folder)), foreign=True)
