"""Songs to listen to: parts of a split's songs, as each run separates them, with the truth beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import jaxsep
from jaxsep import config as configs
from jaxsep.data.tracks import MIXTURE, Track, open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.metrics.aggregate import frames_of
from jaxsep.report.runs import Run
from jaxsep.report.song import Song
from jaxsep.scoring import splits

SEEN = {  # split -> what the models know of it, in words
    "train": (", which the models were trained on", " (trained on)"),
    "valid": (", by which the models were chosen, but not trained", " (held out)"),
    "test": (", which the models were not trained on", " (held out)"),
}


def separated_songs(
    runs: Sequence[Run],
    split: str,
    count: int,
    seconds: int,
    start: int | None = None,
    data_root: str | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> tuple[list[Song], list[str]]:
    """The middle of the first songs of a split, cut from what each run's own model makes of the whole song.

    Runs of the same data share their songs; runs of other data have songs of their own.

    Args:
        runs: with the data of their configs.
        split: of the data.
        count: songs of each data set.
        seconds: of each song; it begins on a whole second, as the frames of the scores do.
        start: its first second, or so late that it ends with the song; None = it is the middle.
        data_root: another data set, for all runs.
        notify: takes a line before each separation.

    Returns:
        The songs, and for each run that cannot be heard the reason.

    Raises:
        JaxsepError: runs that mean other stems by the same source.
    """
    songs: list[Song] = []
    reasons: list[str] = []
    for group in _of_the_same_data(runs, data_root):
        members = _members(group)
        tracks, mixture = _open(group, split, count, data_root, reasons)
        known = [_known(track, _part(track, seconds, start), members, mixture, data_root is None) for track in tracks]
        estimates: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in tracks]
        for run in group if tracks else ():
            try:
                model = jaxsep.load(run.folder)
                for song, track, found in zip(known, tracks, estimates, strict=True):
                    notify(f"{run.name}: separating {track.name}")
                    part = _part(track, seconds, start)
                    found[run.name] = {s: w[part].copy() for s, w in model.separate(song.whole, song.rate).items()}
            except JaxsepError as error:
                reasons.append(f"{run.name} cannot be heard: {error}")
                for found in estimates:
                    found.pop(run.name, None)
        for song, track, found in zip(known, tracks, estimates, strict=True):
            if found:
                scored = _scored(group, track) if data_root is None else {}
                songs.append(replace(song, estimates=found, scored=scored, parts=_parts(found, members)))
    return songs, reasons


def _of_the_same_data(runs: Sequence[Run], data_root: str | None) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        data = splits.data_at(run.config.data, data_root)
        made = (data.songs.to_dict(),) if data.source == "builtin" and not data.root else ()
        stems = sorted(configs.parse_stems(data.stems))
        groups.setdefault(repr((data.source, data.root, stems, _mixture(run), made)), []).append(run)
    return list(groups.values())


def _mixture(run: Run) -> str:
    """What is separated: what was scored, and before that what was trained on."""
    return run.summary.get("mixture", run.config.data.mixture)


def _open(
    group: Sequence[Run], split: str, count: int, data_root: str | None, reasons: list[str]
) -> tuple[list[Track], str]:
    """The first songs, those with scores before others; of the first run whose data is there."""
    for run in group:
        try:
            tracks = open_tracks(splits.data_at(run.config.data, data_root), split, run.folder)
        except JaxsepError as error:
            reasons.append(f"{run.name}: its songs cannot be read: {error}")
            continue
        scored = [track for track in tracks if track.name in run.summary.get("tracks", ())]
        return (scored or tracks)[:count], _mixture(run)
    return [], ""


def _members(group: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Source -> stems, over all runs."""
    members: dict[str, tuple[str, ...]] = {}
    for run in group:
        for source, stems in run.sources.items():
            if set(members.setdefault(source, stems)) != set(stems):
                raise JaxsepError(
                    f"{run.name}: its {source!r} is {'+'.join(stems)}, that of another run "
                    f"{'+'.join(members[source])}; report them apart"
                )
    return members


def _part(track: Track, seconds: int, start: int | None) -> slice:
    latest = max(0, track.length // track.rate - seconds)
    first = latest // 2 if start is None else min(start, latest)
    return slice(first * track.rate, min((first + seconds) * track.rate, track.length))


def _known(track: Track, part: slice, members: Mapping[str, tuple[str, ...]], mixture: str, own: bool) -> Song:
    """A part of a song before it is separated; `own`: of the data that the runs were trained on."""
    names = list(track.stems)
    stems = dict(zip(names, track.audio(names), strict=True))
    whole = track.audio([MIXTURE])[0] if mixture == "original" else np.sum(list(stems.values()), axis=0)
    words, suffix = SEEN[track.split] if own else ("", "")
    first, last = part.start / track.rate, part.stop / track.rate
    return Song(
        name=track.name + suffix,
        rate=track.rate,
        mixture=whole[part],
        estimates={},
        references=references(stems, members, part) or None,
        note=f"Seconds {first:.4g} to {last:.4g} of a song of the {track.split} set{words}, cut from what was made of "
        f"the whole song. The mixture is {'the released one' if mixture == 'original' else 'the sum of the stems'}.",
        start=first,
        whole=whole,
    )


def _scored(runs: Sequence[Run], track: Track) -> dict[str, dict[str, list[float]]]:
    """SDR by second of the runs that were scored on this song."""
    records = {run.name: run.tracks[track.name] for run in runs if track.name in run.tracks}
    return {
        name: {target["name"]: frames_of(record, target["name"], "SDR") for target in record["targets"]}
        for name, record in records.items()
    }


def references(
    stems: Mapping[str, Any], members: Mapping[str, tuple[str, ...]], part: slice = slice(None)
) -> dict[str, np.ndarray]:
    """Sources as sums of stems, as far as the stems are known."""
    known = {source: names for source, names in members.items() if set(names) <= set(stems)}
    return {source: np.sum([stems[name][part] for name in names], axis=0) for source, names in known.items()}


def _parts(estimates: Mapping[str, Mapping[str, Any]], members: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Sources that would repeat what sources before them hold."""
    covered: set[str] = set()
    parts = set()
    for source in dict.fromkeys(source for stems in estimates.values() for source in stems):
        if covered & set(members[source]):
            parts.add(source)
        covered |= set(members[source])
    return parts
