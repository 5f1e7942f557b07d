"""Weakly labelled examples: music in which a source is silent, and on top of it a labelled stem of that source.

Unlabeled remixing of Defossez et al. (arXiv 1909.01174). Of such an example one source is known, and all others only
as their sum, the music. Which examples are weak, and what they are made of, is a pure function of (seed, sample
number), as all else in the stream.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt64

from jaxsep.audio import open_audio
from jaxsep.config import parse_stems
from jaxsep.data.levels import Levels
from jaxsep.data.plan import CLIP, PLACE, SILENT, WEAK, Plan, below, random_bits, unit
from jaxsep.data.readers import Reader, Samples
from jaxsep.data.tracks import Track, silent_track
from jaxsep.errors import JaxsepError
from jaxsep.mining.index import Extract, Song, read_index, read_settings


@dataclasses.dataclass(frozen=True)
class Stretch(Reader):
    """A part of a file, from sample `start` of it on."""

    start: int = 0

    def read(self, start: int, count: int) -> Samples:
        """See `Reader.read`."""
        return super().read(self.start + start, count)


class Clips:
    """The extracts of a mined folder that are long enough, as songs of the stream.

    A clip takes the place of a stem that is not of its silent source; all other such stems are silence.

    Attributes:
        tracks: the clips, and last a track of silence.
        levels: of the songs that the clips are from, for `data.standardise`.
    """

    def __init__(self, sources: Mapping[str, Sequence[str]], config: Any, span: Callable[[int], int]):
        """Opens a mined folder.

        Args:
            sources: for each source its stems.
            config: the whole config.
            span: by a file's rate, how many of its samples an example takes.

        Raises:
            JaxsepError: a config that has no use for clips, a folder that was not mined, one without an extract of
                any of the sources as long as an example, or a file that cannot be read.
        """
        unlabeled = config.data.unlabeled
        self.seed, self.odds, self.stems = config.seed, unlabeled.odds, parse_stems(config.data.stems)
        self.sources = list(sources.values())
        _check(sources, self.stems, config)
        folder, found = Path(unlabeled.root), []
        songs = Path(read_settings(folder)["folder"])
        for song in read_index(folder):
            for extract in song.extracts:
                if extract.source in sources and extract.length >= span(song.rate):
                    found.append((song, extract))
        if not found:
            raise JaxsepError(
                f"{folder}: no extract of {', '.join(sources)} is as long as data.segment={config.data.segment}; set a "
                "shorter segment, or mine more songs"
            )
        self.tracks = [_track(song, extract, folder, songs, self.stems) for song, extract in found]
        self.positions = [track.length - span(track.rate) + 1 for track in self.tracks]
        self.levels = Levels(
            np.array([*(song.mean for song, _ in found), 0.0]), np.array([*(song.std for song, _ in found), 1.0])
        )
        self.clips: dict[int, list[int]] = {}  # number of a source -> numbers of the clips in which it is silent
        for clip, (_, extract) in enumerate(found):
            self.clips.setdefault(list(sources).index(extract.source), []).append(clip)
        self.tracks.append(silent_track(self.stems, config.sample_rate, span(config.sample_rate)))

    def place(self, plan: Plan, number: int, first: int) -> tuple[Plan, Float32[np.ndarray, " s"]]:
        """The plan with a clip in it where the example is weak.

        Args:
            plan: of this sample number alone.
            number: of the sample.
            first: number of the first clip among the stream's tracks.

        Returns:
            The plan, and which source is known: 1 for it and 0 for the others; all 0 where the example is not weak and
            each source is.
        """

        def draw(purpose: int) -> UInt64[np.ndarray, "1 1"]:
            return random_bits(self.seed, np.array([[number]], np.uint64), np.zeros(1, np.uint64), purpose)

        def pick(purpose: int, count: int) -> int:
            return int(below(draw(purpose), np.array(count))[0, 0])

        known = np.zeros(len(self.sources), np.float32)
        if unit(draw(WEAK))[0, 0] >= self.odds:
            return plan, known
        source = list(self.clips)[pick(SILENT, len(self.clips))]
        clip = self.clips[source][pick(CLIP, len(self.clips[source]))]
        known[source] = 1
        track, start = plan.track.copy(), plan.start.copy()
        others = [column for column, stem in enumerate(self.stems) if stem not in self.sources[source]]
        track[0, others], start[0, others] = first + len(self.tracks) - 1, 0
        track[0, others[0]] = first + clip
        start[0, others[0]] = pick(PLACE, self.positions[clip])
        return dataclasses.replace(plan, track=track, start=start), known


def _check(sources: Mapping[str, Sequence[str]], stems: Sequence[str], config: Any) -> None:
    unlabeled = config.data.unlabeled
    if not 0 < unlabeled.odds <= 1 or not unlabeled.weight >= 0:
        raise JaxsepError(
            f"data.unlabeled: odds={unlabeled.odds}, weight={unlabeled.weight}; expected odds above 0 to 1, and a "
            "weight of 0 or more"
        )
    if len(sources) < 2 or sorted(stem for members in sources.values() for stem in members) != sorted(stems):
        raise JaxsepError(
            f"data.unlabeled needs two sources or more that are the whole song, each stem in one of them; sources are "
            f"{', '.join(sources)}, data.stems={config.data.stems!r}"
        )
    if config.data.conditions or config.data.mixture != "sum" or config.loss.get("pit", False):
        raise JaxsepError("data.unlabeled goes with data.conditions='', data.mixture='sum' and loss.pit=False alone")


def _track(song: Song, extract: Extract, folder: Path, songs: Path, stems: Sequence[str]) -> Track:
    """An extract as a song, all of whose stems are the mixture."""
    path = folder / extract.copy if extract.copy else songs / song.file
    try:
        with open_audio(path) as file:
            dtype, length = np.dtype(file.dtype), file.length
    except JaxsepError as error:
        raise JaxsepError(f"data.unlabeled: {error}; mine again, or restore the songs") from None
    start = 0 if extract.copy else extract.start
    if length is not None and start + extract.length > length:
        raise JaxsepError(f"data.unlabeled: {path} has changed since it was mined; mine again")
    reader = Stretch(path, song.rate, song.channels, extract.length, dtype, start=start)
    name = f"{song.file} without {extract.source} from {extract.start / song.rate:.2f} s on"
    return Track(name, "train", dict.fromkeys(stems, reader), None, song.rate, song.channels, extract.length)
