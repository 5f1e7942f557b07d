"""`jaxsep report`: run folders -> their songs separated -> one page."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxsep.data.tracks import SPLITS
from jaxsep.errors import JaxsepError
from jaxsep.report.clips import TYPES
from jaxsep.report.listening import separated_songs
from jaxsep.report.page import check_out, write_page
from jaxsep.report.runs import Run, read_runs
from jaxsep.scoring import splits

LONGEST = 60  # seconds; all clips of a song are in the browser's memory, and in the page


def report(
    folders: Sequence[Path],
    out: Path | None,
    *,
    split: str = "test",
    songs: int = 2,
    seconds: int = 10,
    start: int | None = None,
    clips: str = "mp3",
    data_root: str | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> Path:
    """Makes the report of runs.

    Args:
        folders: run folders, each with scores of the split.
        out: the folder of the report; None = `<run>/report` of a single run, else `report`.
        split: "train", "valid" or "test".
        songs: to listen to, of each data set.
        seconds: of each song.
        start: where in each song; None = the middle.
        clips: a key of `TYPES`.
        data_root: songs of another data set than the runs'.
        notify: takes lines about the progress.

    Returns:
        The page.

    Raises:
        JaxsepError: a choice that does not exist, not a run folder, a run without scores, runs that name other stems
            alike, or a folder that cannot be written.
    """
    _check(split, songs, seconds, start, clips)
    out = out or (folders[0] / "report" if len(folders) == 1 else Path("report"))
    check_out(out)
    runs = read_runs(folders, split)
    for run in runs:
        if not run.summary:
            raise JaxsepError(
                f"{run.folder}: no scores/{split}/summary.json; score it first: python eval.py "
                f"--workdir={shlex.quote(str(run.folder))} --split={split}"
            )
    heard, reasons = separated_songs(runs, split, songs, seconds, start, data_root, notify) if songs else ([], [])
    if heard and any(splits.is_musdb18(splits.data_at(run.config.data, data_root)) for run in runs):
        reasons.append("MUSDB18 is for academic use only, and so are its clips here: do not publish this page.")
    options = [f"--split={split}", f"--songs={songs}", f"--seconds={seconds}", f"--clips={clips}"]
    options += [f"--start={start}"] if start is not None else []
    options += [f"--data-root={data_root}"] if data_root else []
    again = shlex.join(["jaxsep", "report", *map(str, folders), f"--out={out}", *options])
    return write_page(
        folders,
        out,
        songs=heard,
        title=_title(runs),
        split=split,
        notes=reasons,
        commands=[*(line for run in runs for line in run.commands()), again],
        clips=clips,
    )


def _check(split: str, songs: int, seconds: int, start: int | None, clips: str) -> None:
    if split not in SPLITS:
        raise JaxsepError(f"--split={split}: expected one of {', '.join(SPLITS)}")
    if songs < 0:
        raise JaxsepError(f"--songs={songs}: expected 0 or more")
    if not 1 <= seconds <= LONGEST:
        raise JaxsepError(f"--seconds={seconds}: expected 1 to {LONGEST}")
    if (start or 0) < 0:
        raise JaxsepError(f"--start={start}: expected 0 or more seconds")
    if clips not in TYPES:
        raise JaxsepError(f"--clips={clips}: expected one of {', '.join(TYPES)}")


def _title(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    shown = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
    return "jaxsep: " + (", ".join(shown[:-1]) + " and " + shown[-1] if len(shown) > 1 else shown[0])
