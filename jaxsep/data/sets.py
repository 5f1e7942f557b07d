"""Several data sets in one stream: of which an example is, is drawn by odds, from (seed, sample number) as all else.

The first data set is that of `config.data`; validation and scoring know only it. The others are in `data.also`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64, UInt64

from jaxsep.config import Config, choose, further, parse_stems
from jaxsep.data import loudness
from jaxsep.data.loudness import Loudness
from jaxsep.data.plan import SET, Plan, Planner, random_bits, stem_key, unit
from jaxsep.data.roll import Refused, Roll
from jaxsep.data.singles import Singles, open_singles, shares
from jaxsep.data.tracks import SOURCES, Track, open_tracks
from jaxsep.errors import JaxsepError

SINGLES = "singles"  # the source that a collection is


@dataclasses.dataclass(frozen=True, eq=False)
class DataSet:
    """A further data set.

    Attributes:
        odds: that an example is of it.
        tracks: its songs; of a collection its files, each with its only stem.
        heard: of a collection, how often each stem is heard; None for songs.
        matched: of a collection, whether its levels are to be those of the first data set.
        loudness: which they are, once measured.
    """

    name: str
    odds: float
    tracks: list[Track]
    heard: np.ndarray | None = None
    matched: bool = False
    loudness: Loudness | None = None


def open_training(config: Config, folder: Path, roll: Roll, statistical: bool) -> tuple[list[Track], list[DataSet]]:
    """A run's training songs and its further data sets.

    Args:
        config: the whole config.
        folder: of the run.
        roll: the run's, which says what becomes of files that cannot be opened.
        statistical: input statistics are measured of the songs.

    Raises:
        JaxsepError: see `open_tracks` and `open_sets`.
    """
    further = open_sets(config, roll)
    whole = statistical or config.data.standardise or any(each.matched for each in further)
    opener = lambda refused: open_tracks(config.data, "train", folder, refused)
    return roll.call("train", opener, whole), further


def every(songs: Sequence[Track], sets: Sequence[DataSet]) -> list[Track]:
    """All songs and single stems, in the order of their numbers in the plan."""
    return [*songs, *(track for each in sets for track in each.tracks)]


def open_sets(config: Config, roll: Roll | None = None) -> list[DataSet]:
    """The data sets of `data.also`, by name; reads headers only.

    Args:
        config: the whole config.
        roll: the run's, which says what becomes of files that cannot be opened.

    Raises:
        JaxsepError: one that cannot be opened, or that does not fit the config.
    """
    return [_open_set(name, block, config, roll) for name, block in further(config).items()]


def _open_set(name: str, block: Config, config: Config, roll: Roll | None) -> DataSet:
    data, what = config.data, f"data.also.{name}"
    choose({**SOURCES, SINGLES: None}, block.source, f"{what}.source")
    single = block.source == SINGLES
    heard = shares(block.proportions, parse_stems(data.stems), what) if single else None
    if not single and len(block.proportions):
        raise JaxsepError(f"{what}.proportions: songs have their own; it is for source={SINGLES!r}")
    if single and (data.standardise or data.mixture == "original"):
        raise JaxsepError(f"{what}: single stems have no song; set data.standardise=False and data.mixture='sum'")

    def opener(refused: Refused | None) -> list[Track]:
        if single:
            return open_singles(block, data.stems, refused)
        own = data.copy_and_resolve_references()
        own.update({key: block[key] for key in ("source", "root", "instruments", "missing")})
        return open_tracks(own, "train", refused=refused)

    matched = single and block.match
    try:
        tracks = roll.call(f"also.{name}", opener, matched or data.standardise) if roll else opener(None)
    except JaxsepError as error:
        raise JaxsepError(f"{what}: {error}") from None
    return DataSet(name, block.odds, tracks, heard, matched)


def match(
    folder: Path, sets: Sequence[DataSet], songs: Sequence[Track], config: Config, fingerprint: str
) -> list[DataSet]:
    """The data sets with the levels that collections are to have; measured once per run, if at all.

    Raises:
        JaxsepError: see `jaxsep.data.loudness`.
    """
    files = [track for each in sets if each.matched for track in each.tracks]
    if not files:
        return list(sets)
    found = loudness.of_run(folder, songs, files, config, fingerprint)
    done, first = [], 0
    for each in sets:
        if each.matched:
            last = first + len(each.tracks)
            each, first = dataclasses.replace(each, loudness=Loudness(found.reference, found.files[first:last])), last
        done.append(each)
    return done


@dataclasses.dataclass(frozen=True, eq=False)
class Mixer:
    """Plans of a stream of several data sets; called as a `Planner` is.

    Attributes:
        first: of the first data set.
        others: (odds, number of its first track, planner) of the others.
        silence: number of the track that is silent.
    """

    first: Planner
    others: Sequence[tuple[float, int, Planner | Singles]]
    silence: int

    def __call__(
        self, numbers: Sequence[int] | Int64[np.ndarray, " b"], apart: Bool[np.ndarray, "b k"] | None = None
    ) -> Plan:
        """The plan of each sample number, see `Planner`."""
        column = np.asarray(numbers, np.int64).astype(np.uint64)[:, None]
        own = np.array([stem_key(stem, self.first.clip) for stem in self.first.stems], np.uint64)
        alike = np.zeros(1, np.uint64)

        def draw(purpose: int, together: bool = False) -> UInt64[np.ndarray, "b k"]:
            return random_bits(self.first.seed, column, alike if together else own, purpose)

        plan = self.first(numbers, apart)
        drawn, low = unit(draw(SET, together=True)), 0.0
        for odds, offset, planner in self.others:
            other = planner(plan, draw) if isinstance(planner, Singles) else planner(numbers, apart)
            track = np.where(other.track < 0, self.silence, other.track + offset)
            mine, low = (low <= drawn) & (drawn < low + odds), low + odds
            plan = _where(mine, dataclasses.replace(other, track=track), plan)
        return plan


def _where(mine: Bool[np.ndarray, "b 1"], other: Plan, plan: Plan) -> Plan:
    fields = [field.name for field in dataclasses.fields(Plan)]
    return Plan(**{name: np.where(mine, getattr(other, name), getattr(plan, name)) for name in fields})
