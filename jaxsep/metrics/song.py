"""One song, all its scores: what is scored together, museval's frames, the other protocols, the baselines.

A song's scores are a dict in museval's JSON schema; what museval does not know stands under its key "jaxsep".
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import soxr
from jaxtyping import Float

from jaxsep import baselines
from jaxsep.errors import JaxsepError
from jaxsep.metrics import museval, sdr
from jaxsep.metrics.spectral import log_spectral_distance
from jaxsep.metrics.waves import Waves

REST = "rest"  # what a single source is scored against: the sum of all other stems, the mixture minus the estimate
BACKENDS = ("bsseval", "museval", "sdr")
FRAMEWISE = ("SDR", "ISR", "SIR", "SAR")  # in museval's order
WHOLE_TRACK = {"sdr_whole_track": sdr.whole_track_sdr, "si_sdr": sdr.si_sdr, "lsd": log_spectral_distance}
METRICS = (*map(str.lower, FRAMEWISE), *WHOLE_TRACK, "si_sar")


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

    def calls(self) -> list[tuple[list[str], list[str]]]:
        """`calls` of what is scored."""
        return calls(list(self.scored))

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


def calls(names: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """(sources scored together, those whose scores are kept): vocals and accompaniment apart, as museval does.

    A frame counts only where all that are scored together are audible, so this choice is part of a score.
    """
    names, pair = list(names), ["vocals", "accompaniment"]
    if not set(pair) <= set(names):
        return [(names, names)]
    others = [name for name in names if name != "accompaniment"]
    first = [(others, [name for name in others if name != "vocals"])] if len(others) > 1 else []
    return [*first, (pair, pair)]


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
        name: _sdr(names, references, task.combine(answer(song.mixture, song.stems)), song.rate)
        for name, answer in answers.items()
    }
    return record


def score_waves(
    track: str,
    names: Sequence[str],
    references: Waves,
    estimates: Waves,
    rate: int,
    backend: str = "bsseval",
    metrics: Sequence[str] = METRICS,
) -> dict[str, Any]:
    """The scores of a track in museval's schema, read in blocks (by museval itself as a whole).

    The waves are scored as they are given. Where a source is silent throughout, museval refuses; here the sources
    scored together have no ISR, SIR and SAR (NaN), and "silent" names it.

    Args:
        track: its name.
        names: of the sources, in the order of the waves; "rest" is company for a single source and has no scores.
        references: the true sources.
        estimates: what was separated.
        rate: samples per second.
        backend: one of `BACKENDS`.
        metrics: of `METRICS`; SDR is always there.

    Returns:
        {"targets": museval's frames, "jaxsep": {"track", "rate", "samples", "backend", "silent", "ill_conditioned":
        the calls whose ISR, SIR, SAR are rounding noise, whole-track metric: {source: dB}, "among_stems": the frames
        of vocals scored together with the other stems, which museval discards where there is accompaniment}}, and
        "museval_version" where museval computed.
    """
    silent = [sdr.silent_throughout(waves) for waves in (references, estimates)]
    whole = {key: metric(references, estimates) for key, metric in WHOLE_TRACK.items() if key in metrics}
    si_sar, targets, among_stems, ill_conditioned = {}, {}, {}, []
    for together, kept in calls(names):
        rows = [names.index(name) for name in together]
        theirs = references[rows], estimates[rows]
        refused = any(flags[row] for flags in silent for row in rows)
        values, noise = _framewise(backend, *theirs, rate, refused)
        frames = {name: _frames(values, row, metrics) for row, name in enumerate(together)}
        targets |= {name: frames[name] for name in kept}
        among_stems |= {name: frames[name] for name in together if name not in kept}
        ill_conditioned += [together] if noise else []
        if "si_sar" in metrics:
            si_sar |= {n: value for n, value in zip(together, sdr.si_sar(*theirs), strict=True) if n in kept}
    shown = [name for name in names if name != REST]
    column = lambda values: {name: _rounded(values[name]) for name in shown}
    found = {
        key: [name for name, flag in zip(names, flags, strict=True) if flag]
        for key, flags in zip(("references", "estimates"), silent, strict=True)
    }
    return {
        "targets": [{"name": name, "frames": targets[name]} for name in shown],
        **({"museval_version": museval.version()} if backend == "museval" else {}),
        "jaxsep": {
            "track": track,
            "rate": rate,
            "samples": references.shape[1],
            "backend": backend,
            "silent": {what: sources for what, sources in found.items() if sources},
            "ill_conditioned": ill_conditioned,
            **{key: column(dict(zip(names, values, strict=True))) for key, values in whole.items()},
            **({"si_sar": column(si_sar)} if si_sar else {}),
            **({"among_stems": among_stems} if among_stems else {}),
        },
    }


def _framewise(
    backend: str, references: Waves, estimates: Waves, rate: int, refused: bool
) -> tuple[dict[str, Float[np.ndarray, "s n"]], bool]:
    """{metric: [s n]} of one call, and whether all but SDR are rounding noise; SDR alone where museval refuses."""
    if backend == "bsseval" and not refused:
        from jaxsep.metrics.bsseval import bss_eval

        found = bss_eval(references, estimates, rate, rate)
        return dict(zip(FRAMEWISE, (found.sdr, found.isr, found.sir, found.sar), strict=True)), found.ill_conditioned
    if backend == "museval" and (values := museval.bss_eval(references[:, :], estimates[:, :], rate)) is not None:
        return values, False
    ours = sdr.framewise_sdr(references, estimates, rate)
    without = {} if backend == "sdr" else dict.fromkeys(FRAMEWISE[1:], np.full_like(ours, np.nan))
    return {"SDR": ours, **without}, False


def _sdr(names: Sequence[str], references: Waves, estimates: Waves, rate: int) -> dict[str, list[float]]:
    """Frames of SDR alone, of all sources."""
    frames = {}
    for together, kept in calls(names):
        rows = [names.index(name) for name in together]
        values = sdr.framewise_sdr(references[rows], estimates[rows], rate)
        frames |= {name: [_rounded(v) for v in values[together.index(name)]] for name in kept}
    return {name: frames[name] for name in names if name != REST}


def _frames(values: Mapping[str, Float[np.ndarray, "s n"]], row: int, metrics: Sequence[str]) -> list[dict[str, Any]]:
    shown = {name: value[row] for name, value in values.items() if name == "SDR" or name.lower() in metrics}
    return [
        {"time": float(n), "duration": 1.0, "metrics": {name: _rounded(value[n]) for name, value in shown.items()}}
        for n in range(len(shown["SDR"]))
    ]


def _rounded(value: float) -> float:
    """As museval writes numbers: five decimals, infinity as NaN."""
    return round(float(value), 5) if np.isfinite(value) else float("nan")
