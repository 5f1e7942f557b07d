"""The songs that a run's plan is made over, fixed by its first start: `songs.json` in the run folder.

A plan draws song number i of so many, so a song that comes or goes would change every draw behind it. With
`--on-bad-file=skip` the songs that cannot be opened at the first start are not in the plan at all. A song that is lost
later stays in it, by what its header said, and cannot be read: examples that would hear it are drawn anew
(`jaxsep.data.pipeline`). So the stream is the same in all processes and after any restart, and no song moves.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxsep.data.levels import PIECE
from jaxsep.data.readers import Reader, Samples
from jaxsep.data.tracks import Track
from jaxsep.errors import JaxsepError
from jaxsep.workdir import write_text

FILE = "songs.json"
Refused = Callable[[str, JaxsepError], None]


@dataclasses.dataclass(frozen=True)
class Lost(Reader):
    """A stem of a song that can no longer be opened."""

    why: str = ""

    def read(self, start: int, count: int) -> Samples:
        """Raises JaxsepError, always."""
        raise JaxsepError(self.why)


class Roll:
    """The songs of a run by data set.

    Attributes:
        skip: leave out what cannot be opened, and say so on stderr, instead of stopping.
        left_out: a line for each song that was.
    """

    def __init__(self, folder: Path, skip: bool = False):
        """Reads the run's `songs.json`, if there is one.

        Raises:
            JaxsepError: it is damaged.
        """
        self.skip, self.left_out = skip, list[str]()
        self._path, self._now = folder / FILE, dict[str, dict]()
        try:
            self._known = json.loads(self._path.read_text()) if self._path.exists() else {}
        except ValueError as error:
            raise JaxsepError(f"{self._path}: damaged ({error}); remove it") from None

    def call(self, name: str, opener: Callable[[Refused | None], Sequence[Track]], whole: bool = False) -> list[Track]:
        """The songs of a data set.

        Args:
            name: of the data set.
            opener: opens its songs; takes `refused` of `open_tracks`.
            whole: with `skip`, leaves out songs of which any part cannot be read, too; they are read from end to end.

        Raises:
            JaxsepError: a song that cannot be opened, without `skip`; or none that can.
        """
        why: dict[str, str] = {}
        if not self.skip:
            tracks = list(opener(None))
        else:
            tracks = list(opener(lambda song, error: why.update({song: str(error)})))
            if name in self._known:
                tracks = self._as_known(self._known[name], tracks, why)
            elif whole:
                tracks = [track for track in tracks if _is_whole(track, why)]
            lines = [f"{name}: {song} is left out: {reason}" for song, reason in why.items()]
            self.left_out += lines
            if lines:
                print(*lines, f"{name}: {len(lines)} left out", sep="\n", file=sys.stderr, flush=True)
            if not tracks:
                raise JaxsepError(f"{name}: no song can be read; {next(iter(why.values()), 'there is none')}")
        self._now[name] = {track.name: _header(track) for track in tracks}
        return tracks

    def save(self) -> None:
        """Writes `songs.json` at a run's first start.

        Raises:
            JaxsepError: it cannot be written.
        """
        if not self._path.exists():
            write_text(self._path, json.dumps(self._now, indent=1) + "\n")

    def _as_known(self, known: dict[str, dict], tracks: Sequence[Track], why: dict[str, str]) -> list[Track]:
        """The songs of the run's first start, in their order; those that are lost cannot be read."""
        there = {track.name: track for track in tracks if _header(track) == known.get(track.name)}
        for name in known:
            if name not in there:
                why.setdefault(name, f"{name}: gone, or another file than it was")
        for track in tracks:
            if track.name not in known:
                why[track.name] = f"{track.name}: not in the plan since the run's first start"
        return [there.get(name) or _lost(name, header, why[name]) for name, header in known.items()]


def _header(track: Track) -> dict:
    return {
        "rate": track.rate,
        "channels": track.channels,
        "length": track.length,
        "stems": [*track.stems],
        "bits": [reader.dtype.itemsize * 8 for reader in track.stems.values()],
        "mixture": track.mixture is not None,
    }


def _lost(name: str, header: dict, why: str) -> Track:
    rate, channels, length = header["rate"], header["channels"], header["length"]

    def reader(bits: int) -> Reader:
        return Lost(Path(name), rate, channels, length, np.dtype(np.int16 if bits == 16 else np.float32), why=why)

    stems = {stem: reader(bits) for stem, bits in zip(header["stems"], header["bits"], strict=True)}
    mixture = reader(16) if header["mixture"] else None
    return Track(name, "train", stems, mixture, rate, channels, length)


def _is_whole(track: Track, why: dict[str, str]) -> bool:
    try:
        for stem in track.stems:
            for start in range(0, track.length, PIECE):
                track.read(stem, start, min(PIECE, track.length - start))
    except JaxsepError as error:
        why[track.name] = str(error)
        return False
    return True
