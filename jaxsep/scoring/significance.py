"""Whether one model is better than another on the same songs: `jaxsep compare A B`, two folders of score files."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import markdown
from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate, statistics
from jaxsep.metrics.museval import METRICS

# What a track is compared by: one value per source.
COMPARED = (
    *(f"{metric.lower()}_median_of_medians" for metric in METRICS),
    *("sdr_whole_track", "si_sdr", "si_sar", "lsd"),
)
Records = dict[str, dict[str, Any]]  # track -> its score file


def compare(first: Path, second: Path) -> str:
    """The paired differences, second less first, in Markdown: median, 95 % interval and p of each metric and source.

    Args:
        first: folder of score files, as `jaxsep score`, eval.py or museval write them.
        second: likewise, of the same tracks.

    Raises:
        JaxsepError: not such a folder, or no track or metric in common.
    """
    one, other = read_records(first), read_records(second)
    tracks = sorted(one.keys() & other.keys())
    if not tracks:
        raise JaxsepError(f"{first} and {second} have no track in common")
    _check_company(one, other, tracks, (first, second))
    rows = [row for key in COMPARED for row in _rows(key, [one[t] for t in tracks], [other[t] for t in tracks])]
    if not rows:
        raise JaxsepError(f"{first} and {second} have no metric in common")
    header = ["", f"median {first.name}", f"median {second.name}", "tracks", "difference", "95 % interval", "p"]
    alone = [(folder, sorted(a.keys() - b.keys())) for folder, a, b in ((first, one, other), (second, other, one))]
    notes = [
        f"difference: median over the tracks of {second} less {first}, in dB; interval: bootstrap over the tracks; "
        "p: Wilcoxon signed-rank test, two-sided, not corrected for the number of rows",
        *(f"only in {folder}, left out: {', '.join(names)}" for folder, names in alone if names),
    ]
    return "\n".join([markdown.table(header, rows), "", *(f"- {note}" for note in notes)])


def read_records(folder: Path) -> Records:
    """The score files of a folder by track.

    Raises:
        JaxsepError: no such folder, no score files in it, or one that cannot be read.
    """
    records: Records = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == "summary.json":
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            records[path.stem] = {"jaxsep": {}} | record
            sources_of(record)
        except (OSError, ValueError, KeyError, TypeError):
            raise JaxsepError(f"{path}: not a score file in museval's schema; remove it") from None
    if not records:
        raise JaxsepError(f"{folder}: no score files <track>.json in it; make them by `jaxsep score` or eval.py")
    return records


def sources_of(record: Mapping[str, Any]) -> list[str]:
    """The sources of a score file."""
    return [target["name"] for target in record["targets"]]


def _check_company(one: Records, other: Records, tracks: Sequence[str], folders: Sequence[Path]) -> None:
    """Scores of sources that were scored in different company do not compare."""
    for track in tracks:
        sources = [set(sources_of(records[track])) for records in (one, other)]
        if sources[0] != sources[1]:
            named = " and ".join(f"{', '.join(sorted(s))} in {f}" for s, f in zip(sources, folders, strict=True))
            raise JaxsepError(f"track {track!r} has scores of {named}: scored in other company, they do not compare")


def _rows(key: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for source in sources_of(one[0]):
        scores = [np.array([aggregate.track_score(record, source, key) for record in side]) for side in (one, other)]
        found = statistics.compare(scores[0], scores[1])
        if found.tracks:
            title = f"{aggregate.PROTOCOLS[key][0].removesuffix(' (median)')} {source}"
            medians = [f"{aggregate.over(values, 'median'):.2f}" for values in scores]
            interval = f"{found.low:+.2f} to {found.high:+.2f}" if np.isfinite(found.low) else "-"
            rows.append([title, *medians, str(found.tracks), f"{found.median:+.2f}", interval, f"{found.p:.2g}"])
    return rows
