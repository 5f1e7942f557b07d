"""A song and what a model makes of it: read, checked and scored, beside the baselines."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float

from jaxsep import baselines
from jaxsep.errors import JaxsepError
from jaxsep.metrics.record import REST, score_waves, sdr_frames


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
        backend: of the framewise scores: "bsseval", "museval", or "sdr" for SDR alone.
        equaliser: gains [s f] of the fixed equaliser, or None to leave it out.
        rate: Hz at which songs are separated and scored, resampled where theirs is another; None = their own.
    """

    sources: Mapping[str, tuple[str, ...]]
    stems: tuple[str, ...]
    channels: int = 2
    mixture: str = "sum"
    backend: str = "bsseval"
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
    names, references = list(task.scored), task.combine(song.stems)
    record = score_waves(song.name, names, references, estimates, song.rate, task.backend)
    answers: dict[str, Callable] = {
        "untouched mixture": baselines.untouched_mixture,
        "scaled mixture": baselines.scaled_mixture,
    }
    if task.equaliser is not None:
        gains = task.equaliser
        answers["fixed equaliser"] = lambda mixture, stems: baselines.equalise(mixture, gains)
    answers["IRM1 (oracle)"] = baselines.irm1
    record["jaxsep"]["baselines"] = {
        name: sdr_frames(names, references, task.combine(answer(song.mixture, song.stems)), song.rate)
        for name, answer in answers.items()
    }
    return record
