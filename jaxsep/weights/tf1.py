"""Checkpoints of TensorFlow 1 (`tf.train.Saver`)."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxsep.errors import JaxsepError
from jaxsep.weights.formats import refuse, unpack
from jaxsep.weights.tensors import matches

EXPECTED = "a TensorFlow checkpoint (its folder, .index file or .tar.gz)"


def read(path: Path, skip: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Variable -> numbers.

    Args:
        path: the checkpoint's folder, its prefix, its `.index` file, or a `.tar.gz` of the folder.
        skip: patterns of names that are not read (the optimiser's are twice the net's).

    Raises:
        JaxsepError: not a checkpoint, a damaged one, or TensorFlow is not installed.
    """
    try:
        import tensorflow as tf
    except ImportError:
        raise JaxsepError(f'{path}: reading it needs TensorFlow: pip install "jaxsep[train]"') from None
    with _prefix(path) as prefix:
        try:
            reader = tf.train.load_checkpoint(str(prefix))
            names = [name for name in reader.get_variable_to_shape_map() if not matches(name, skip)]
            return {name: np.asarray(reader.get_tensor(name)) for name in sorted(names)}
        except (tf.errors.OpError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise JaxsepError(f"{path}: damaged ({reason}); download it again") from None


@contextmanager
def _prefix(path: Path) -> Iterator[Path]:
    """The checkpoint's name without `.index`, in whatever form it was given."""
    if path.is_file() and path.suffix in (".gz", ".tgz", ".tar"):
        with tempfile.TemporaryDirectory(prefix="jaxsep-") as folder:
            unpack(path, Path(folder) / "checkpoint")
            yield _find(path, Path(folder))
    elif path.is_dir():
        yield _find(path, path)
    elif path.suffix == ".index" and path.is_file():
        yield path.with_suffix("")
    elif path.with_name(path.name + ".index").is_file():
        yield path
    elif path.exists():
        refuse(path, EXPECTED)
    else:
        raise JaxsepError(f"{path}: no such file; expected {EXPECTED}")


def _find(path: Path, folder: Path) -> Path:
    """The only checkpoint in a folder."""
    found = sorted(folder.rglob("*.index"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise JaxsepError(f"{path}: expected one file *.index in it, there are {len(found)} ({names})")
    return found[0].with_suffix("")
