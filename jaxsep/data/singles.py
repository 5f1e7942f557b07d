"""Collections of files that hold one stem each and do not belong together: vocals here, drums there, of any length.

An example takes a random place of a random file for each stem. A file's odds are its duration, so that each second of
a stem is heard as often as any other; a file that is shorter than the example lies somewhere in it, between silences.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from jaxsep import storage
from jaxsep.config import choose, parse_instruments, parse_stems
from jaxsep.data.layouts import visible
from jaxsep.data.plan import HEARD, REFERENCE, START, TRACK, Plan, below, unit
from jaxsep.data.readers import open_reader
from jaxsep.data.tracks import MISSING, SUFFIXES, Track, open_all
from jaxsep.errors import JaxsepError


def open_singles(block: Any, stems: str, refused: Any = None) -> list[Track]:
    """The files of a collection, `<root>/<instrument>/**/*.wav|flac`, each a track with its only stem.

    Args:
        block: of `data.also`; `instruments` says which folder is which stem, unless it has the stem's name.
        stems: the config's.
        refused: see `open_tracks`.

    Raises:
        JaxsepError: no such folder, a folder that is no stem, a stem without a file, or a file that cannot be opened.
    """
    root, names = storage.here(block.root), parse_stems(stems)
    if not block.root or not root.is_dir():
        raise JaxsepError(f"root={block.root!r} is not a folder; give the one with a folder of files for each stem")
    table = {name: name for name in names} | parse_instruments(block.instruments, names, "instruments")
    files: dict[str, dict[str, Path]] = {name: {} for name in names}
    for folder in sorted(path for path in visible(root) if path.is_dir()):
        if folder.name not in table:
            raise JaxsepError(
                f"{folder}: not a stem of data.stems={stems!r}; add '{folder.name}=STEM' to instruments, or with "
                "nothing behind the sign to leave it out"
            )
        if stem := table[folder.name]:
            files[stem] |= {str(path.relative_to(root)): path for path in _sounds(folder)}
    empty = [stem for stem in names if not files[stem]]
    if len(empty) == len(names) or (empty and not choose(MISSING, block.missing, "missing")):
        raise JaxsepError(
            f"{root}: no .wav or .flac for the stem {empty[0]!r}; add a folder {empty[0]}, let another one stand in "
            f"for it with instruments=('FOLDER={empty[0]}',), or set missing='silence'"
        )
    tracks = []
    for stem, paths in files.items():
        tracks += open_all(functools.partial(_open, root=root, stem=stem), paths, refused)
    return tracks


def _sounds(folder: Path) -> list[Path]:
    found = []
    for path in visible(folder):
        if path.is_dir():
            found += _sounds(path)
        elif path.suffix.lower() in SUFFIXES:
            found.append(path)
    return found


def _open(path: Path, root: Path, stem: str) -> Track:
    reader = open_reader(path)
    name = str(path.relative_to(root))
    return Track(name, "train", {stem: reader}, None, reader.rate, reader.channels, reader.length)


@dataclasses.dataclass(frozen=True, eq=False)
class Singles:
    """Draws the places of a collection's examples, and how loud they are to be.

    Attributes:
        stems: of the config.
        files: of each stem, which of the collection's tracks are its files.
        seconds: of each track.
        room: of each track, how many samples it is longer than an example; below 0 where it is shorter.
        heard: how often each stem is heard.
        rms: of each track, its level; None to leave levels as they are.
        reference: levels of the stems of songs, [songs stems]: each example's are those of one of them.
    """

    stems: tuple[str, ...]
    files: Mapping[str, Int64[np.ndarray, "_"]]
    seconds: Float64[np.ndarray, " tracks"]
    room: Int64[np.ndarray, " tracks"]
    heard: Float64[np.ndarray, " k"]
    rms: Float64[np.ndarray, " tracks"] | None = None
    reference: Float64[np.ndarray, "songs k"] | None = None

    def __call__(self, plan: Plan, draw: Any) -> Plan:
        """The plan with tracks, starts and gains of the collection; track -1 is silence.

        Args:
            plan: whose gains are multiplied; signs and swaps stay.
            draw: purpose -> bits [b k]; of stems alike for `together=True`.
        """
        drawn = unit(draw(TRACK)).T
        track = np.stack([self._file(stem, where) for stem, where in zip(self.stems, drawn, strict=True)], axis=1)
        room = self.room[track]
        start = np.where(room < 0, -1, 1) * below(draw(START), np.abs(room) + 1)
        heard = (unit(draw(HEARD)) < self.heard) & (track >= 0)
        gain = plan.gain
        if self.rms is not None and self.reference is not None:
            gain = (gain * self._match(track, heard, draw(REFERENCE, together=True))).astype(np.float32)
        return dataclasses.replace(plan, track=np.where(heard, track, -1), start=np.where(heard, start, 0), gain=gain)

    @functools.cached_property
    def _until(self) -> dict[str, Float64[np.ndarray, "_"]]:
        """Where each file of a stem ends, in seconds, if they lay one behind the other."""
        return {stem: np.cumsum(self.seconds[files]) for stem, files in self.files.items()}

    def _file(self, stem: str, where: Float64[np.ndarray, " b"]) -> Int64[np.ndarray, " b"]:
        files, until = self.files[stem], self._until[stem]
        if not len(files):
            return np.full(len(where), -1)
        return files[np.minimum(np.searchsorted(until, where * until[-1], "right"), len(files) - 1)]

    def _match(
        self, track: Int64[np.ndarray, "b k"], heard: Bool[np.ndarray, "b k"], bits: UInt64[np.ndarray, "b 1"]
    ) -> Float64[np.ndarray, "b k"]:
        """Factors that give each stem the level that it has in a song, and the mix that of the song's mix.

        Unrelated stems add in power, so the mix of those that are heard lacks the power of the others.
        """
        assert self.rms is not None and self.reference is not None
        level = self.reference[below(bits, np.array(len(self.reference)))[:, 0]]
        whole, there = (level**2).sum(1), np.where(heard, level**2, 0).sum(1)
        return level * np.sqrt(whole / there)[:, None] / self.rms[track]


def shares(proportions: Sequence[int | float], stems: Sequence[str], what: str) -> Float64[np.ndarray, " k"]:
    """How often each stem is heard: always for the greatest of the proportions, for the others in proportion.

    Raises:
        JaxsepError: not a number above 0 for each stem.
    """
    if not proportions:
        return np.ones(len(stems))
    if len(proportions) != len(stems) or min(proportions) <= 0:
        raise JaxsepError(
            f"{what}.proportions={tuple(proportions)}: expected a number above 0 for each of {', '.join(stems)}"
        )
    return np.array(proportions, np.float64) / max(proportions)
