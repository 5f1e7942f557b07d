"""Data sets that the suite makes: a folder belongs to one set of settings, and songs appear in it when complete."""

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxsep.errors import JaxsepError

SETTINGS = "songs.json"


def claim(root: Path, settings: Mapping[str, object], what: str) -> None:
    """Writes the settings into a fresh folder, or holds them against those that are there.

    Raises:
        JaxsepError: `root` holds something else, or `what` of other settings.
    """
    path = root / SETTINGS
    if not path.exists():
        # Listed before the second look for the settings, which another process writes before all else.
        foreign = root.is_dir() and any(not entry.name.startswith(".") for entry in root.iterdir())
        if foreign and not path.exists():
            raise JaxsepError(f"{root}: not empty, and not a folder of {what}; name a new one")
        root.mkdir(parents=True, exist_ok=True)
        part = root / f".{SETTINGS}.part{os.getpid()}"
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise JaxsepError(f"{path}: not JSON; remove the folder to have its songs made again") from None
    if found != settings:
        raise JaxsepError(
            f"{path}: these songs were made with {json.dumps(found)}, asked for are {json.dumps(settings)}; "
            "name another folder or remove this one"
        )


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A hidden folder to write a song into, which gets its name when the block ends well."""
    part = folder.with_name(f".{folder.name}.part{os.getpid()}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        part.rename(folder)
    except (OSError, JaxsepError):
        shutil.rmtree(part, ignore_errors=True)
        if not folder.is_dir():  # otherwise another process was faster with the same song
            raise
    for leftover in folder.parent.glob(f".{glob.escape(folder.name)}.part*"):
        shutil.rmtree(leftover, ignore_errors=True)
