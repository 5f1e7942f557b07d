"""One song, all its scores: what is scored together, museval's frames, the other protocols, the baselines.

A song's scores are a dict in museval's JSON schema; what museval does not know stands under its key "jaxsep".
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float

from jaxsep import baselines
from jaxsep.errors import JaxsepError
from jaxsep.metrics import museval, sdr

REST = "rest"  # what a single source is scored against: the sum of all other stems, the mixture minus the estimate
Scores = dict[str, dict[str, np.ndarray]]  # source -> metric -> [n]


@dataclasses.dataclass(frozen=True)
class Song:
    """A song in memory: mixture [t c], and the stems it is made of [s t c]."""

    name: str
    rate: int
    mixture: np.ndarray
    stems: np.ndarray


@dataclasses.dataclass(frozen=True)
class Task:
    """What is scored, and how.

    Attributes:
        sources: name -> the stems that it is the sum of; a single source is scored with "rest" beside it.
        stems: every stem of a song, in order.
        channels: of the model; songs are mixed down to mono for a mono model.
        mixture: "sum" of the stems, or the song's "original" mixture.
        backend: "museval", or "sdr" for SDR alone.
        equaliser: gains [s f] of the fixed equaliser, or None to leave it out.
        rate: Hz at which songs are separated and scored, resampled where theirs is another; None = their own.
    """

    sources: Mapping[str, tuple[str, ...]]
    stems: tuple[str, ...]
    channels: int = 2
    mixture: str = "sum"
    backend: str = "museval"
    equaliser: np.ndarray | None = None
    rate: int | None = None

    def __post_init__(self):
        if len(self.sources) == 1 and set(self.stems) == set(*self.sources.values()):
            raise JaxsepError(f"sources={next(iter(self.sources))!r} is all there is in the mixture; nothing to score")

    @property
    def scored(self) -> dict[str, tuple[str, ...]]:
        """The sources, and with a single one the rest."""
        if len(self.sources) > 1:
            return dict(self.sources)
        (members,) = self.sources.values()
        return {**self.sources, REST: tuple(stem for stem in self.stems if stem not in members)}

    def calls(self) -> list[tuple[list[str], list[str]]]:
        """(sources scored together, those whose scores are kept): vocals and accompaniment apart, as museval does.

        A frame counts only where all that are scored together are audible, so this choice is part of a score.
        """
        names = list(self.scored)
        pair = ["vocals", "accompaniment"]
        if not set(pair) <= set(names):
            return [(names, names)]
        others = [name for name in names if name != "accompaniment"]
        first = [(others, [name for name in others if name != "vocals"])] if len(others) > 1 else []
        return [*first, (pair, pair)]

    def read(self, track: Any) -> Song:
        """A track of `jaxsep.data.tracks` as a song.

        Raises:
            JaxsepError: unreadable, or samples that are not finite.
        """
        names = [*self.stems, "mixture"] if self.mixture == "original" else list(self.stems)
        waves = track.audio(names)
        for name, wave in zip(names, waves, strict=True):
            if not np.isfinite(wave).all():
                raise JaxsepError(f"stem {name!r} holds NaN or infinite samples; restore the file")
        if self.channels == 1:
            waves = waves.mean(axis=-1, keepdims=True)
        rate = self.rate or track.rate
        if rate != track.rate:
            waves = np.stack([soxr.resample(wave, track.rate, rate) for wave in waves])
        stems = waves[: len(self.stems)]
        return Song(track.name, rate, waves[-1] if self.mixture == "original" else stems.sum(axis=0), stems)

    def combine(self, stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "k t c"]:
        """Stems to scored sources, by sums."""
        return np.stack([stems[[self.stems.index(m) for m in members]].sum(axis=0) for members in self.scored.values()])

    def gather(self, song: Song, estimates: Mapping[str, np.ndarray]) -> Float[np.ndarray, "k t c"]:
        """A model's estimates as one array, checked.

        Raises:
            JaxsepError: a source is missing, has another shape than the song or is not finite.
        """
        for source in self.sources:
            if source not in estimates:
                raise JaxsepError(f"no estimate of {source!r} (got {', '.join(estimates)})")
            wave = estimates[source]
            if wave.shape != song.mixture.shape:
                raise JaxsepError(
                    f"the estimate of {source!r} has shape {wave.shape}, the song {song.mixture.shape} [t c]"
                )
            if not np.isfinite(wave).all():
                raise JaxsepError(
                    f"the estimate of {source!r} holds NaN or infinite samples; the checkpoint is unusable"
                )
        waves = [estimates[source] for source in self.sources]
        return np.stack(waves if len(waves) > 1 else [waves[0], song.mixture - waves[0]])


def score_song(task: Task, song: Song, estimates: Float[np.ndarray, "k t c"]) -> dict[str, Any]:
    """All scores of one song, as they go into its JSON file (but for the provenance)."""
    names = list(task.scored)
    references = task.combine(song.stems)
    scores = _in_calls(task, song.rate, references, estimates, _museval if task.backend == "museval" else _sdr)
    answers: dict[str, Callable] = {
        "untouched mixture": baselines.untouched_mixture,
        "scaled mixture": baselines.scaled_mixture,
    }
    if task.equaliser is not None:
        gains = task.equaliser
        answers["fixed equaliser"] = lambda mixture, stems: baselines.equalise(mixture, gains)
    answers["IRM1 (oracle)"] = baselines.irm1
    others = {
        name: _in_calls(task, song.rate, references, task.combine(answer(song.mixture, song.stems)), _sdr)
        for name, answer in answers.items()
    }
    whole, scale_invariant = sdr.whole_track_sdr(references, estimates), sdr.si_sdr(references, estimates)
    silent = {
        what: [name for name, wave in zip(names, waves, strict=True) if sdr.is_silent(wave)]
        for what, waves in (("references", references), ("estimates", estimates))
    }
    return {
        "targets": [{"name": source, "frames": _frames(scores[source])} for source in task.sources],
        **({"museval_version": museval.version()} if task.backend == "museval" else {}),
        "jaxsep": {
            "track": song.name,
            "rate": song.rate,
            "samples": len(song.mixture),
            "silent": {what: found for what, found in silent.items() if found},
            "sdr_whole_track": {s: _rounded(whole[names.index(s)]) for s in task.sources},
            "si_sdr": {s: _rounded(scale_invariant[names.index(s)]) for s in task.sources},
            "baselines": {
                name: {s: [_rounded(value) for value in found[s]["SDR"]] for s in task.sources}
                for name, found in others.items()
            },
        },
    }


def _in_calls(task: Task, rate: int, references: np.ndarray, estimates: np.ndarray, metrics: Callable) -> Scores:
    names = list(task.scored)
    scores: Scores = {}
    for together, kept in task.calls():
        rows = [names.index(name) for name in together]
        values = metrics(references[rows], estimates[rows], rate)
        for name in kept:
            scores[name] = {metric: value[together.index(name)] for metric, value in values.items()}
    return scores


def _sdr(references: np.ndarray, estimates: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    return {"SDR": sdr.framewise_sdr(references, estimates, rate)}


def _museval(references: np.ndarray, estimates: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    """museval's metrics; where it refuses a source that is silent throughout, SDR alone and NaN for the others."""
    values = museval.bss_eval(references, estimates, rate)
    if values is None:
        ours = sdr.framewise_sdr(references, estimates, rate)
        return {metric: ours if metric == "SDR" else np.full_like(ours, np.nan) for metric in museval.METRICS}
    return values


def _frames(metrics: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"time": float(n), "duration": 1.0, "metrics": {name: _rounded(value[n]) for name, value in metrics.items()}}
        for n in range(len(metrics["SDR"]))
    ]


def _rounded(value: float) -> float:
    """As museval writes numbers: five decimals, infinity as NaN."""
    return round(float(value), 5) if np.isfinite(value) else float("nan")
