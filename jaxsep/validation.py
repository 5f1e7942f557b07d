"""Validation: whole songs through the code that separates and scores them later, at the model's own rate, unshifted.

The SDR is that of the score tables: median over seconds, median over songs, and their mean over sources. The loss
is that of training, on consecutive segments in evaluation mode.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import soxr
from jax.sharding import Mesh
from jaxtyping import Float

from jaxsep import frontends, training
from jaxsep.config import Config, parse_sources, parse_stems
from jaxsep.data import levels
from jaxsep.data.tracks import MIXTURE, Track
from jaxsep.errors import JaxsepError
from jaxsep.hosts import Host
from jaxsep.inference import Model
from jaxsep.losses import Loss, Permuted
from jaxsep.metrics.sdr import framewise_sdr

EXCERPT = 10  # seconds of the first song, to look at and listen to


@dataclasses.dataclass(frozen=True)
class Result:
    """What there is to tell of variables.

    Attributes:
        scores: numbers by name: `sdr`, `sdr/<source>`, `loss`; those of `frontends.numbers`.
        shapes: lists of numbers by name: `frontends.shapes`.
        excerpt: waves [t c] by name.
    """

    scores: dict[str, float]
    shapes: dict[str, list[float]]
    excerpt: dict[str, Float[np.ndarray, "t c"]]


def make_validate(
    separator: Any, loss: Loss, config: Config, mesh: Mesh, tracks: Sequence[Track], host: Host | None = None
) -> Callable[..., Result]:
    """(variables, look) -> Result over whole songs; `look` is called before each of them.

    Of several processes each has a share of the songs, and all have the result, but for the excerpt, which is that of
    process 0. They call `look` equally often.

    Args:
        separator: of the run.
        loss: of the run.
        config: of the run.
        mesh: this process's devices.
        tracks: the songs.
        host: this process among others.

    Raises:
        JaxsepError: no songs, or one shorter than a training segment.
    """
    sources = parse_sources(config.sources)
    if not tracks:
        raise JaxsepError("no songs to validate on; see `jaxsep data check`")
    for track in tracks:
        if track.length * config.sample_rate < config.data.segment * track.rate:
            raise JaxsepError(
                f"validation track {track.name!r}: {track.length} samples at {track.rate} Hz, shorter than "
                f"data.segment={config.data.segment} at {config.sample_rate} Hz; remove the song or set a shorter "
                "segment"
            )
    host = host or Host()
    measured = levels.measure(tracks, config) if config.data.standardise else None
    forward = training.make_losses(separator, loss)
    eval_step = jax.jit(lambda variables, batch: forward(variables, batch, False)[0])

    def validate(variables: Mapping[str, Any], look: Callable[[], None] = lambda: None) -> Result:
        variables = training.local(variables, mesh)
        model = Model.from_parts(separator, variables, config)
        scored, excerpt = [], {}
        for first in range(0, len(tracks), host.count):
            look()
            index = first + host.index
            if index >= len(tracks):
                break
            track = tracks[index]
            mix, references = read_song(track, sources, config)
            # Without the random shifts of scoring, as Demucs' authors validate: they cost their number.
            estimates = np.stack(list(model.separate(mix, config.sample_rate, shifts=0).values()))
            if isinstance(loss, Permuted):
                estimates = loss.arrange(estimates, references)
            median = _median(framewise_sdr(references, estimates, config.sample_rate), axis=1)
            excerpt = excerpt or _excerpt(mix, references, estimates, tuple(sources), config.sample_rate)
            if measured is not None:
                mean, std = measured.mean[index], measured.std[index]
                mix, references = _standardised(mix, references, mean, std, sources, config)
            losses = _losses(eval_step, variables, mix, references, config, mesh)
            scored.append((median.tolist(), losses.tolist()))
        shares = host.gather(scored)
        medians, losses = zip(*(shares[n % host.count][n // host.count] for n in range(len(tracks))), strict=True)
        sdr = _median(np.array(medians), axis=0)
        for source, value in zip(sources, sdr, strict=True):
            if np.isnan(value):
                raise JaxsepError(f"{source!r} is silent in all validation songs, so it cannot be scored; add others")
        scores = {"sdr": float(sdr.mean())}
        scores |= {f"sdr/{source}": float(value) for source, value in zip(sources, sdr, strict=True)}
        scores |= {"loss": float(np.concatenate(losses).mean())}
        scores |= frontends.numbers(separator.front, variables)
        return Result(scores, frontends.shapes(separator.front, variables), excerpt)

    return validate


def best(
    validate: Callable[[Mapping[str, Any]], Result], candidates: Mapping[str, Mapping[str, Any]]
) -> tuple[str, Result]:
    """Which of a state's candidates has the best SDR, the first of those that are equal.

    Args:
        validate: of `make_validate`.
        candidates: variables by name.

    Returns:
        Its name and its result; where there are several, with the SDR of each among the scores, as `sdr_of/<name>`.
    """
    results = {name: validate(variables) for name, variables in candidates.items()}
    name = max(results, key=lambda name: results[name].scores["sdr"])
    each = {f"sdr_of/{name}": result.scores["sdr"] for name, result in results.items()} if len(results) > 1 else {}
    return name, dataclasses.replace(results[name], scores=results[name].scores | each)


def read_song(
    track: Track, sources: Mapping[str, Sequence[str]], config: Config
) -> tuple[Float[np.ndarray, "t c"], Float[np.ndarray, "s t c"]]:
    """The mixture and the sources of a whole song, with the model's rate and channels."""
    names = parse_stems(config.data.stems)
    stems = dict(zip(names, track.audio(names), strict=True))
    original = config.data.mixture == "original"
    mix = track.audio([MIXTURE])[0] if original else np.sum(list(stems.values()), axis=0)
    waves = [mix, *(np.sum([stems[stem] for stem in members], axis=0) for members in sources.values())]
    waves = np.stack([_fit(wave, track.rate, config) for wave in waves])
    return waves[0], waves[1:]


def _fit(wave: np.ndarray, rate: int, config: Config) -> np.ndarray:
    if config.channels == 1:
        wave = wave.mean(axis=1, keepdims=True)
    if rate != config.sample_rate:
        wave = soxr.resample(wave, rate, config.sample_rate)
    return np.broadcast_to(wave, (len(wave), config.channels))


def _standardised(
    mix: Float[np.ndarray, "t c"],
    references: Float[np.ndarray, "s t c"],
    mean: float,
    std: float,
    sources: Mapping[str, Sequence[str]],
    config: Config,
) -> tuple[Float[np.ndarray, "t c"], Float[np.ndarray, "s t c"]]:
    """A song as the training stream has it: each stem is mapped, and then they are summed."""
    mixed = 1 if config.data.mixture == "original" else len(parse_stems(config.data.stems))
    members = np.array([len(members) for members in sources.values()])[:, None, None]
    return ((mix - mixed * mean) / std).astype(np.float32), ((references - members * mean) / std).astype(np.float32)


def _losses(
    eval_step: Callable,
    variables: Mapping[str, Any],
    mix: Float[np.ndarray, "t c"],
    references: Float[np.ndarray, "s t c"],
    config: Config,
    mesh: Mesh,
) -> Float[np.ndarray, "n s"]:
    """Losses of a song's segments; the last one ends with the song."""
    size, length, batch = config.data.segment, len(mix), config.data.batch_size
    starts = [*range(0, length - size, size), length - size]
    losses: list[np.ndarray] = []
    for first in range(0, len(starts), batch):
        group = starts[first : first + batch]
        filled = group + group[-1:] * (batch - len(group))  # one compiled shape; the repeats are cut off below
        segments = {
            "mix": np.stack([mix[start : start + size] for start in filled]),
            "sources": np.stack([references[:, start : start + size] for start in filled]),
        }
        # Fetched one by one: of several programs that exchange data between more CPU devices than there are cores, each
        # may hold a thread that another one waits for, until XLA aborts the process.
        losses.append(np.asarray(eval_step(variables, training.put(segments, mesh)))[: len(group)])
    return np.concatenate(losses)


def _excerpt(
    mix: np.ndarray, references: np.ndarray, estimates: np.ndarray, sources: Sequence[str], rate: int
) -> dict[str, np.ndarray]:
    start = max(0, (len(mix) - EXCERPT * rate) // 2)
    cut = slice(start, start + EXCERPT * rate)
    named = {"mixture": mix[cut]}
    for source, reference, estimate in zip(sources, references, estimates, strict=True):
        named |= {f"{source}/reference": reference[cut], f"{source}/estimate": estimate[cut]}
    return named


def _median(values: Float[np.ndarray, "..."], axis: int) -> Float[np.ndarray, "..."]:
    """Median of what is not NaN; NaN where nothing is."""
    empty = np.isnan(values).all(axis=axis)
    known = np.where(np.expand_dims(empty, axis), 0.0, values)
    return np.where(empty, np.nan, np.nanmedian(known, axis=axis))
