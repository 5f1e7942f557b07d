"""What a training draws its batches from: the songs of a config, opened, described and measured."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxsep import workdir
from jaxsep.config import Config, parse_sources
from jaxsep.data import levels, sets, statistics
from jaxsep.data.levels import Levels
from jaxsep.data.pipeline import Stream, batches
from jaxsep.data.roll import Roll
from jaxsep.data.sets import DataSet
from jaxsep.data.statistics import Statistics
from jaxsep.data.tracks import Track, open_tracks
from jaxsep.hosts import Host


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """The data of a training.

    Attributes:
        config: of the training.
        songs: to train on.
        further: data sets beside them.
        valid: songs to validate on.
        about: what `run.json` says of them all.
        levels: of the songs, where each is standardised.
        statistics: of the songs' bins, where the net standardises its input.
        skip: files that cannot be read are skipped.
    """

    config: Config
    songs: list[Track]
    further: list[DataSet]
    valid: list[Track]
    about: dict[str, Any]
    levels: Levels | None
    statistics: Statistics | None
    skip: bool

    def stream(self, first_step: int, host: Host | None = None) -> Stream:
        """This process's share of the batches from a step on; see `batches`."""
        host = host or Host()
        return batches(
            self.songs,
            parse_sources(self.config.sources),
            self.config,
            first_step=first_step,
            levels=self.levels,
            sets=self.further,
            skip=self.skip,
            process_index=host.index,
            process_count=host.count,
        )


def open_data(
    config: Config,
    folder: Path,
    front: Callable[[], Any] | None,
    skip: bool = False,
    first: bool = True,
    notes: Path | None = None,
) -> Data:
    """Opens the songs, and measures what a run measures once.

    Args:
        config: of the training.
        folder: where songs are that are made up.
        front: makes the front end through which the net's input statistics are measured, if it wants any.
        skip: leave out what cannot be read, and say so, instead of stopping.
        first: whether this process of several is the one that writes.
        notes: where what was found and measured is kept; the same folder by default.

    Raises:
        JaxsepError: songs that cannot be opened or read, or another folder's measurements.
    """
    notes = notes or folder
    roll = Roll(notes, skip)
    songs, further = sets.open_training(config, folder, roll, front is not None)
    valid = open_tracks(config.data, "valid", folder)
    named = {"train": songs, "valid": valid} | {f"also.{each.name}": each.tracks for each in further}
    about = workdir.describe_data(config, named)
    known = config, about["fingerprint"]
    measured = statistics.of_run(notes, front(), songs, *known) if front else None
    standard = levels.of_run(notes, sets.every(songs, further), *known) if config.data.standardise else None
    further = sets.match(notes, further, songs, *known)
    if first:
        roll.save()
    return Data(config, songs, further, valid, about, standard, measured, skip)
