"""All problems of a data set at once: every file is decoded from end to end, in memory that does not grow.

Understands what `jaxsep.data.tracks` reads: stem folders, `<root>/<split>/<track>/<stem>.wav|flac`, and MUSDB18's
`<root>/<split>/<track>.stem.mp4`.
"""

import collections
import dataclasses
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from jaxsep import audio
from jaxsep.data.measure import Stem, measure
from jaxsep.data.tracks import MIXTURE, SPLITS, STEM_MP4, SUFFIXES
from jaxsep.errors import JaxsepError

Severity = Literal["error", "warning"]
# Beginnings of the names of files that are at home in a root, or beside stems.
COMPANIONS = ("songs.json", "song.json", "license", "licence", "readme")
OFFSET = 0.005  # of full scale
NEAR = -40.0  # dB: what rounding and dither leave of a mixture is below


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
class Song:
    """A track and its stems; `distance` of their sum from the mixture, as `measure` gives it."""

    split: str
    path: Path
    stems: tuple[Stem, ...]
    distance: float | None

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
            songs.append(Song(split, path, *measure(_files(path))))
    for song in songs:
        problems += _song_problems(song)
    problems += [*_set_problems(songs), *_copies(songs, root)]
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
        if stem.clipped:
            yield Problem("warning", label, f"clipped at {stem.clipped} places", "export it with a lower level")
        if abs(stem.offset) >= OFFSET:
            what = f"a DC offset of {stem.offset:+.3f} of full scale"
            yield Problem("warning", label, what, "export it through a high-pass filter of 20 Hz")
    for what, unit in (("rate", "Hz"), ("length", "samples")):
        if len({getattr(stem, what) for stem in song.sound}) > 1:
            values = ", ".join(f"{stem.name} {getattr(stem, what)}" for stem in song.sound)
            yield Problem("error", str(song.path), f"stems differ in {what} ({values} {unit})", "export them alike")
    if song.distance is not None and song.distance >= NEAR:
        yield Problem(
            "warning",
            str(song.path),
            f"the sum of the stems is {song.distance:.1f} dB from {MIXTURE}",
            "export stems and mixture without effects on their sum, or use the sum (data.mixture=sum, the default)",
        )
    for same in _heard(song).values():
        if len(same) > 1:
            what = f"{' and '.join(same)} hold the same sound"
            yield Problem("error", str(song.path), what, f"export {' and '.join(same)} again")
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
                fix = f"add {name}.wav" if name == MIXTURE else f"add {name}.wav, or train with data.missing=silence"
                yield Problem(severity, str(song.path), f"no stem {name!r}, which other songs have", fix)
    for what, unit, fix in (("rate", " Hz", "resample it"), ("channels", " channels", "check that it was meant to be")):
        values = {
            song.path: statistics.mode(getattr(stem, what) for stem in song.sound) for song in songs if song.sound
        }
        usual = statistics.mode(values.values()) if values else 0
        for path, value in values.items():
            if value != usual:
                yield Problem("warning", str(path), f"{value}{unit}, most songs have {usual}", fix)


def _heard(song: Song) -> dict[str, list[str]]:
    """Digest -> names, of the stems that are not silent."""
    found: dict[str, list[str]] = {}
    for stem in song.sound:
        if not stem.silent and stem.name != MIXTURE:
            found.setdefault(stem.digest, []).append(stem.name)
    return found


def _copies(songs: Sequence[Song], root: Path) -> Iterator[Problem]:
    """Songs that hold the same samples as one before them, under any name and in any format."""
    owners: dict[str, Song] = {}
    for song in songs:
        heard = _heard(song)
        same = {digest: owners[digest] for digest in heard if digest in owners}
        for digest in heard:
            owners.setdefault(digest, song)
        if not same:
            continue
        other = statistics.mode(owner.path for owner in same.values())
        split = next(owner.split for owner in same.values() if owner.path == other)
        names = sorted(name for digest in same if same[digest].path == other for name in heard[digest])
        shared = "the same song as" if len(same) == len(heard) else f"the same {' and '.join(names)} as"
        where = os.path.relpath(other, root)
        if split == song.split:
            yield Problem("warning", str(song.path), f"{shared} {where}", "remove one of them")
        else:
            leak = f"a leak: {song.split} scores what was trained on" if split == "train" else "it is scored twice"
            yield Problem("error", str(song.path), f"{shared} {where} ({leak})", "remove one of them")
