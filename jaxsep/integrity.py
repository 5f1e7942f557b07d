"""Which checkpoint folders are whole: a list of SHA-256 sums inside each, compared before anything is read.

Knows folders and files only. A checkpoint is a folder named by its step below the run's `checkpoints`.
"""

import hashlib
import json
import sys
from pathlib import Path

from jaxsep.errors import JaxsepError

FOLDER = "checkpoints"  # of a run folder
DELETED = "deleted"  # superseded checkpoints are renamed into it, so that a kill leaves no half of one
TEMPORARY = ".orbax-checkpoint-tmp"  # behind the name of a checkpoint that is being written
SUMS = "SHA256SUMS"
METADATA = "_CHECKPOINT_METADATA"
LATER = (
    SUMS,
    METADATA,
    "commit_success.txt",
)  # written after the sums; METADATA is JSON, and so checked as such


def warn(line: str) -> None:
    """One line on stderr."""
    print(line, file=sys.stderr, flush=True)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, whole or not, in order."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def seal(checkpoint: Path) -> None:
    """Writes the sums of all files of a checkpoint."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    names = [path.relative_to(checkpoint).as_posix() for path in files]
    lines = [f"{_sum(checkpoint / name)}  {name}\n" for name in names if name not in LATER]
    (checkpoint / SUMS).write_text("".join(lines))


def sums(path: Path) -> list[tuple[str, str]]:
    """The sums of a list, each with the name of its file."""
    return [(line[:64], line[66:]) for line in path.read_text().splitlines()]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        listed = sums(checkpoint / SUMS)
        for expected, name in listed:
            if _sum(checkpoint / name) != expected:
                return f"{name} has changed"
        json.loads((checkpoint / METADATA).read_text())
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None if listed else f"{SUMS} is empty"


def set_damaged_aside(folder: Path) -> None:
    """Renames damaged checkpoints, and says so, so that the newest that is left can be restored.

    Raises:
        JaxsepError: there are checkpoints, and none is whole: a run does not start over silently.
    """
    reasons = {step: damage(folder / str(step)) for step in steps(folder)}
    whole = [step for step, reason in reasons.items() if reason is None]
    if reasons and not whole:
        newest = max(reasons)
        raise JaxsepError(
            f"{folder}: none of the checkpoints {sorted(reasons)} can be read ({newest}: {reasons[newest]}); "
            "restore one from a backup, or train anew in another --workdir"
        )
    for step, reason in reasons.items():
        if reason is not None:
            name = f"{folder / str(step)}"
            warn(f"{name}: damaged ({reason}); renamed to {step}.damaged, the newest is now {whole[-1]}")
            (folder / str(step)).rename(_unused(folder / f"{step}.damaged"))


def _unused(path: Path) -> Path:
    """`path`, or the first of `path.2`, `path.3`, ... that does not exist."""
    candidates = (path, *(path.with_name(f"{path.name}.{n}") for n in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
