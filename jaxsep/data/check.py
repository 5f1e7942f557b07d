"""All problems of a data set at once: every file is decoded from end to end, in memory that does not grow.

Understands what `jaxsep.data.tracks` reads: stem folders, `<root>/<split>/<track>/<stem>.wav|flac`, and MUSDB18's
`<root>/<split>/<track>.stem.mp4`.
"""

import collections
import dataclasses
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from jaxsep import audio
from jaxsep.data.tracks import MIXTURE, SPLITS, STEM_MP4, SUFFIXES
from jaxsep.errors import JaxsepError

Severity = Literal["error", "warning"]
# Beginnings of the names of files that are at home in a root, or beside stems.
COMPANIONS = ("songs.json", "song.json", "license", "licence", "readme")
FULL_SCALE = 1 - 1 / 32768
CLIPPED_RUN = 3  # samples at full scale in a row that no converter gives unclipped


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing to mend.

    Attributes:
        severity: "error": training or scoring would stop or be wrong; "warning": worth a look.
        path: file or folder, relative to the data set's root.
        what: what is wrong.
        fix: what to do.
    """

    severity: Severity
    path: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.path}: {self.what}; {self.fix}"


@dataclasses.dataclass(frozen=True)
class Stem:
    """What a whole pass over one stem found; `what` and `fix` are empty for a sound one."""

    name: str
    path: Path
    rate: int = 0
    channels: int = 0
    length: int = 0
    silent: bool = False
    clipped: int = 0
    what: str = ""
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class Song:
    """A track and its stems."""

    split: str
    path: Path
    stems: tuple[Stem, ...]

    @property
    def sound(self) -> list[Stem]:
        """The stems that could be decoded."""
        return [stem for stem in self.stems if not stem.what]


def check(root: str | os.PathLike[str]) -> list[Problem]:
    """All problems of a data set, errors first, then by path.

    Raises:
        JaxsepError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise JaxsepError(f"{root}: no such folder; give the one that holds {', '.join(SPLITS)}")
    problems = [*_layout(root)]
    songs = []
    for split in SPLITS:
        for path in _songs(root / split):
            problems += _strays(path)
            songs.append(Song(split, path, tuple(_measure(_files(path)))))
    for song in songs:
        problems += _song_problems(song)
    problems += _set_problems(songs)
    problems = [dataclasses.replace(p, path=os.path.relpath(p.path, root)) for p in problems]
    return sorted(problems, key=lambda p: (p.severity, p.path))


def render(problems: Sequence[Problem]) -> str:
    """One line per problem, and the count."""
    errors = sum(problem.severity == "error" for problem in problems)
    count = f"{errors} errors, {len(problems) - errors} warnings" if problems else "no problems"
    return "\n".join([*map(str, problems), count])


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _songs(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in _visible(folder) if path.is_dir() or path.name.endswith(STEM_MP4)]


def _files(song: Path) -> list[tuple[str, Path, int]]:
    """(stem, file, stream) of a song."""
    if song.is_file():
        return [(stem, song, stream) for stream, stem in enumerate(audio.STEMS)]
    return [(path.stem, path, 0) for path in _visible(song) if path.suffix.lower() in SUFFIXES]


def _layout(root: Path) -> Iterator[Problem]:
    """Splits that are missing or empty, and what does not belong."""
    for split in SPLITS:
        folder = root / split
        if not folder.is_dir():
            needed: dict[str, tuple[Severity, str]] = {
                "train": ("error", "nothing to train on"),
                "valid": ("warning", "fine for MUSDB18 only, whose validation songs are known by name"),
                "test": ("warning", "nothing to score"),
            }
            severity, why = needed[split]
            yield Problem(severity, str(folder), f"no such folder ({why})", "make it, with one folder per song")
        elif not _songs(folder):
            yield Problem("error", str(folder), "no songs", f"add folders of <stem>.wav, or {STEM_MP4} files")
        else:
            for path in _visible(folder):
                if path not in _songs(folder):
                    yield _stray(path)
    for path in _visible(root):
        if path.name not in SPLITS and not path.name.lower().startswith(COMPANIONS):
            yield _stray(path)


def _strays(song: Path) -> Iterator[Problem]:
    """Files of a song that are not read, and stems that are there twice."""
    if song.is_file():
        return
    files = [path for _, path, _ in _files(song)]
    for path in _visible(song):
        if path not in files and not path.name.lower().startswith(COMPANIONS):
            yield _stray(path)
    for stem, count in collections.Counter(path.stem for path in files).items():
        if count > 1:
            yield Problem("error", str(song), f"{count} files for the stem {stem!r}", "keep one of them")


def _stray(path: Path) -> Problem:
    return Problem("warning", str(path), "not part of a data set, ignored", "move it elsewhere")


def _measure(files: Iterable[tuple[str, Path, int]]) -> list[Stem]:
    """Decodes the stems of a song, in threads: the decoders leave Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: _decode(*file), files))


def _decode(name: str, path: Path, stream: int) -> Stem:
    length = clipped = 0
    silent = True
    try:
        with audio.open_audio(path, stream) as reader:
            for block in reader.blocks():
                length += len(block)
                silent = silent and not block.any()
                clipped += _clipped(block)
            return Stem(name, path, reader.rate, reader.channels, length, silent, clipped)
    except JaxsepError as error:
        what, _, fix = str(error).removeprefix(f"{path}: ").partition("; ")
        return Stem(name, path, what=what, fix=fix or "export or copy it again")


def _clipped(block: np.ndarray) -> int:
    """Samples that begin a run at full scale (a run that spans two blocks may escape)."""
    full = np.abs(block) >= FULL_SCALE
    if not full.any():
        return 0
    runs = np.lib.stride_tricks.sliding_window_view(full, CLIPPED_RUN, axis=0).all(-1)
    return int(runs.sum())


def _song_problems(song: Song) -> Iterator[Problem]:
    if not song.stems:
        yield Problem("error", str(song.path), "no stems", "add <stem>.wav or <stem>.flac, or remove the folder")
    for stem in song.stems:
        label = str(stem.path) if song.path.is_dir() else f"{stem.path} ({stem.name})"
        if stem.what:
            yield Problem("error", label, stem.what, stem.fix)
        elif stem.silent:
            if song.split == "train":
                yield Problem("warning", label, "silent from end to end", "check that it was meant to be")
            else:
                yield Problem("error", label, "silent from end to end, so no score is defined", "remove the song")
        elif stem.clipped:
            yield Problem("warning", label, f"clipped at {stem.clipped} places", "export it with a lower level")
    for what, unit in (("rate", "Hz"), ("length", "samples")):
        if len({getattr(stem, what) for stem in song.sound}) > 1:
            values = ", ".join(f"{stem.name} {getattr(stem, what)}" for stem in song.sound)
            yield Problem("error", str(song.path), f"stems differ in {what} ({values} {unit})", "export them alike")
    channels = {stem.channels for stem in song.sound}
    if len(channels) > 1:
        values = ", ".join(f"{stem.name} {stem.channels}" for stem in song.sound)
        severity: Severity = "warning" if len(channels - {1}) == 1 else "error"
        yield Problem(severity, str(song.path), f"stems differ in channels ({values})", "export them alike")


def _set_problems(songs: Sequence[Song]) -> Iterator[Problem]:
    """What shows only when songs are compared: missing stems, other rates, mono songs among stereo ones."""
    names = sorted({stem.name for song in songs for stem in song.stems})
    for song in songs:
        there = {stem.name for stem in song.stems}
        for name in names if there else ():
            if name not in there:
                severity: Severity = "warning" if name == MIXTURE else "error"
                yield Problem(severity, str(song.path), f"no stem {name!r}, which other songs have", f"add {name}.wav")
    for what, unit, fix in (("rate", " Hz", "resample it"), ("channels", " channels", "check that it was meant to be")):
        values = {
            song.path: statistics.mode(getattr(stem, what) for stem in song.sound) for song in songs if song.sound
        }
        usual = statistics.mode(values.values()) if values else 0
        for path, value in values.items():
            if value != usual:
                yield Problem("warning", str(path), f"{value}{unit}, most songs have {usual}", fix)
