"""References and estimates in folders of any tool: `<track>/<stem>.wav` or `.flac`, paired by name, never by order.

Everything that can be known beforehand is checked here, so that a bad file does not end a night's work.
"""

import dataclasses
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from jaxsep import audio
from jaxsep.errors import JaxsepError
from jaxsep.metrics.record import REST
from jaxsep.scoring.filewaves import Signed

SUFFIXES = (".wav", ".flac")
MIXTURE = "mixture"  # not a stem: never scored
ACCOMPANIMENT = "accompaniment"
BACKING = ("drums", "bass", "other")  # the accompaniment is their sum, as in museval
ORDER = ("vocals", *BACKING, ACCOMPANIMENT)
Tracks = dict[str, dict[str, list[Path]]]  # track -> stem -> its files, of which there should be one


@dataclasses.dataclass(frozen=True)
class Pair:
    """A track: for each source the files that it is the sum of, all of one length."""

    name: str
    sources: tuple[str, ...]
    references: tuple[Signed, ...]
    estimates: tuple[Signed, ...]

    @property
    def files(self) -> list[Path]:
        """All files, the first reference first."""
        return _distinct((*self.references, *self.estimates))


def find_tracks(root: Path) -> Tracks:
    """The stems in a folder of tracks, or in a folder of such folders.

    Raises:
        JaxsepError: not a folder, or no stems where they should be.
    """
    if not root.is_dir():
        raise JaxsepError(f"{root}: not a folder; expected <track>/<stem>.wav or .flac in it")
    tracks: Tracks = {}
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(root.glob(pattern)):
            if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            if pattern == "*":
                raise JaxsepError(f"{path}: not in the folder of a track; expected <track>/<stem>.wav in {root}")
            track, stem = (unicodedata.normalize("NFC", name) for name in (path.parent.name, path.stem))
            tracks.setdefault(track, {}).setdefault(stem, []).append(path)
    if not tracks:
        raise JaxsepError(f"{root}: no stems in it; expected <track>/<stem>.wav or .flac")
    return tracks


def choose_sources(references: Tracks, estimates: Tracks, stems: Sequence[str] = ()) -> tuple[str, ...]:
    """What is scored, the same for all tracks.

    Args:
        references: found by `find_tracks`.
        estimates: likewise.
        stems: asked for; default: all references, with estimates of accompaniment these, too, and then no stems of
            it that nobody estimated.

    Returns:
        the sources in order; one alone has "rest" beside it, where there are other references.

    Raises:
        JaxsepError: stems without references.
    """
    known, made = (_names(tracks) for tracks in (references, estimates))
    summed = set(BACKING) <= known
    if lacking := [stem for stem in stems if stem not in known and not (stem == ACCOMPANIMENT and summed)]:
        raise JaxsepError(f"stems={','.join(lacking)}: no reference of that name, only {', '.join(sorted(known))}")
    chosen = set(stems)
    if not stems:
        chosen = known - {ACCOMPANIMENT} if summed else set(known)
        if ACCOMPANIMENT in made and (summed or ACCOMPANIMENT in known):
            chosen = {ACCOMPANIMENT} | (chosen if made & set(BACKING) else chosen - set(BACKING))
    sources = (*(name for name in ORDER if name in chosen), *sorted(chosen - set(ORDER)))
    return (*sources, REST) if len(sources) == 1 and _others(known, *sources) else sources


def pair_tracks(
    references: Tracks, estimates: Tracks, sources: Sequence[str], strict: bool = True
) -> tuple[list[Pair], dict[str, list[str]]]:
    """The tracks that can be scored, as far as their headers tell, and what is wrong with the others.

    Args:
        references: found by `find_tracks`.
        estimates: likewise.
        sources: what is scored.
        strict: an estimate of anything else is a problem.
    """
    pairs, problems = [], {}
    for name in sorted({*references, *estimates}):
        if name not in estimates:
            problems[name] = ["references without estimates"]
        elif name not in references:
            problems[name] = ["estimates without references"]
        elif name == "summary":
            problems[name] = ["summary.json is the summary of all tracks; rename this one"]
        else:
            pair = _pair(name, references[name], estimates[name], sources, strict)
            if isinstance(pair, Pair):
                pairs.append(pair)
            else:
                problems[name] = pair
    return pairs, problems


def damages(pair: Pair) -> list[str]:
    """What only reading the samples tells: NaN in float files, FLAC that breaks off."""
    wrong = []
    for path in pair.files:
        try:
            with audio.open_audio(path) as reader:
                if path.suffix.lower() == ".flac" or reader.subtype in ("FLOAT", "DOUBLE"):
                    for _ in reader.blocks():
                        pass
        except JaxsepError as error:
            wrong.append(str(error))
    return wrong


def _names(tracks: Tracks) -> set[str]:
    return {stem for stems in tracks.values() for stem in stems} - {MIXTURE}


def _others(stems: Collection[str], source: str) -> list[str]:
    """The stems that are the rest of a song when `source` is taken away."""
    parts = set(stems) - {source, MIXTURE}
    if set(BACKING) & parts:
        parts -= {ACCOMPANIMENT}
    return sorted(parts - set(BACKING) if source == ACCOMPANIMENT else parts)


def _pair(
    name: str,
    references: Mapping[str, list[Path]],
    estimates: Mapping[str, list[Path]],
    sources: Sequence[str],
    strict: bool,
) -> Pair | list[str]:
    scored = [source for source in sources if source != REST]
    parts: dict[str, tuple[str, ...]] = {source: (source,) for source in scored}
    if ACCOMPANIMENT in parts and ACCOMPANIMENT not in references:
        parts[ACCOMPANIMENT] = BACKING
    wrong = [
        *_misplaced("reference", references, [part for members in parts.values() for part in members]),
        *_misplaced("estimate", estimates, scored),
    ]
    extra = sorted(set(estimates) - {*scored, MIXTURE}) if strict else ()
    wrong += [f"{estimates[stem][0]}: no reference of that name; --stems says what is scored" for stem in extra]
    if wrong:
        return wrong
    true: list[Signed] = [tuple((references[part][0], 1) for part in parts[source]) for source in scored]
    made: list[Signed] = [((estimates[source][0], 1),) for source in scored]
    if REST in sources:
        true.append(tuple((references[part][0], 1) for part in _others(references, scored[0])))
        made.append((*true[0], *true[1], (estimates[scored[0]][0], -1)))  # the mixture less the estimate
    return _differences(_distinct((*true, *made))) or Pair(name, tuple(sources), tuple(true), tuple(made))


def _misplaced(what: str, stems: Mapping[str, list[Path]], needed: Sequence[str]) -> list[str]:
    """Stems that are missing, and stems that are there twice."""
    there = ", ".join(sorted(stems))
    folders = sorted({str(path.parent) for files in stems.values() for path in files})
    return [
        *(f"no {what} of {stem!r}, only of {there}" for stem in needed if stem not in stems),
        *(f"two {what}s of one stem: {', '.join(map(str, files))}" for files in stems.values() if len(files) > 1),
        *([f"{what}s in several folders of that name: {', '.join(folders)}"] if len(folders) > 1 else []),
    ]


def _distinct(sources: Sequence[Signed]) -> list[Path]:
    return list(dict.fromkeys(path for source in sources for path, _ in source))


def _differences(files: Sequence[Path]) -> list[str]:
    """Which files cannot be read, or are unlike the first in length, rate or channels."""
    first, wrong = None, []
    for path in files:
        try:
            with audio.open_audio(path) as reader:
                facts = {"samples": reader.length, "Hz": reader.rate, "channels": reader.channels}
        except JaxsepError as error:
            wrong.append(str(error))
            continue
        if facts["samples"] is None:
            wrong.append(f"{path}: does not state its length; convert it to WAV")
        elif first is None:
            first = path, facts
        else:
            wrong += [
                f"{path}: {facts[what]} {what}, expected {expected} as in {first[0]}"
                for what, expected in first[1].items()
                if facts[what] != expected
            ]
    return wrong
