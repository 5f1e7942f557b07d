"""The index of a mined folder: `mine.json`, how it was mined, and `index.jsonl`, a song per line with its extracts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from jaxsep.errors import JaxsepError

SETTINGS, INDEX = "mine.json", "index.jsonl"


@dataclasses.dataclass(frozen=True)
class Extract:
    """A stretch of a song, in samples at its own rate, in which a source is silent.

    Attributes:
        source: the silent one.
        start, length: of the stretch.
        score: the lowest of its windows: a probability, or dB of the mixture above the source.
        copy: file with these samples alone, below the mined folder; "" = none was asked for.
    """

    source: str
    start: int
    length: int
    score: float
    copy: str = ""


@dataclasses.dataclass(frozen=True)
class Song:
    """A line of the index.

    Attributes:
        file: path below the folder of songs.
        bytes: its size: a file of another size is listened to again.
        rate, channels, length: of the file.
        mean, std: of the mono mix, see `jaxsep.streams.track_statistics`.
        extracts: in the order of the sources, then of time.
    """

    file: str
    bytes: int
    rate: int
    channels: int
    length: int
    mean: float
    std: float
    extracts: tuple[Extract, ...]

    @classmethod
    def from_line(cls, line: str) -> "Song":
        """The inverse of `line`."""
        values = json.loads(line)
        return cls(**{**values, "extracts": tuple(Extract(**extract) for extract in values["extracts"])})

    def line(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self)) + "\n"

    def seconds(self, source: str) -> float:
        """How long a source is silent in its extracts."""
        return sum(extract.length for extract in self.extracts if extract.source == source) / self.rate


def read_settings(out: str | Path) -> dict[str, Any]:
    """How a folder was mined.

    Raises:
        JaxsepError: it was not, or the file is damaged.
    """
    path = Path(out) / SETTINGS
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JaxsepError(
            f"{path}: cannot be read ({error.strerror}); give a folder that `jaxsep data mine` made"
        ) from None
    except ValueError as error:
        raise JaxsepError(f"{path}: damaged ({error}); remove the folder and mine again") from None


def read_index(out: str | Path) -> list[Song]:
    """The finished songs of a mined folder, [] when there are none; a torn last line, left by a kill, is left out.

    Raises:
        JaxsepError: another line cannot be read.
    """
    path = Path(out) / INDEX
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    found = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(Song.from_line(line))
        except (ValueError, TypeError, KeyError):
            raise JaxsepError(f"{path}, line {number}: damaged; remove the line to have its song mined again") from None
    return found
