"""What is measured of the training songs once per run, and kept in its folder."""

import os
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxsep.errors import JaxsepError
from jaxsep.workdir import unwritable

Measured = TypeVar("Measured", bound=tuple)


def of_run(path: Path, kind: type[Measured], fingerprint: str, what: str, measure: Callable[[], Measured]) -> Measured:
    """Measured at a run's first start and read from its folder at the later ones.

    Args:
        path: the `.npz` in the run folder.
        kind: a NamedTuple of arrays.
        fingerprint: of the run's data.
        what: is measured, for the one line that says so.
        measure: measures it.

    Raises:
        JaxsepError: the file is of other data or damaged, or see `measure`.
    """
    if path.exists():
        return _load(path, kind, fingerprint)
    started = time.perf_counter()
    print(f"measuring {what}", flush=True)
    measured = measure()
    _save(path, measured, fingerprint)
    print(f"measured in {time.perf_counter() - started:.1f} s, kept in {path}", flush=True)
    return measured


def _save(path: Path, measured: Any, fingerprint: str) -> None:
    """As a whole: a kill leaves no file or the complete one."""
    fresh = path.with_name(f"{path.name}.tmp")
    try:
        with fresh.open("wb") as file:
            np.savez(file, **measured._asdict(), fingerprint=np.array(fingerprint))
        os.replace(fresh, path)
    except OSError as error:
        raise unwritable(path, error) from None


def _load(path: Path, kind: Any, fingerprint: str) -> Any:
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            measured, found = kind(*(file[field] for field in kind._fields)), str(file["fingerprint"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise JaxsepError(f"{path}: damaged ({error}); remove it, and it is measured again") from None
    if found != fingerprint:
        raise JaxsepError(f"{path}: of other data than there is now; restore the data, or choose another --workdir")
    return measured
