"""Training an activity detector on songs with stems, and choosing where each of its sigmoids says "silent".

A run folder like that of `train.py`: `config.json`, `run.json`, `metrics.jsonl`, `checkpoints/`, and at its end
`detector.json`, the operating points. The same command goes on where it was stopped.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import soxr
from jax import Array
from jaxtyping import Bool, Float

from jaxsep import config as configs
from jaxsep import log, optim
from jaxsep import workdir as workdirs
from jaxsep.checkpoint import Checkpoints
from jaxsep.data.pipeline import batches
from jaxsep.data.tracks import Track, open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model
from jaxsep.mining import detector
from jaxsep.mining.listening import Listener
from jaxsep.mining.points import operating_point, write_points

RESTS = 0.3  # odds that a source of a training example rests for a while
FADE = 0.05  # seconds in which it goes and comes


def train_detector(
    config: configs.Config, workdir: str | Path, argv: Sequence[str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Trains a detector, or goes on with it, and returns its operating points by source.

    Args:
        config: of `detector.get_config`, with `data` and `sources` (all stems) of the data set.
        workdir: the run folder.
        argv: the command, for `run.json`.
        say: takes lines about the progress.

    Raises:
        JaxsepError: anything that the user can mend.
    """
    configs.check(config)
    folder = Path(workdir)
    workdirs.open_workdir(folder, config)
    tracks = {split: open_tracks(config.data, split, folder) for split in ("train", "valid")}
    data = workdirs.describe_data(config, tracks)
    net, optimiser = detector.build(config), optim.build(config.optim, config.steps)
    with Checkpoints(folder) as checkpoints:
        step, state = 0, _init(net, optimiser, config)
        if restored := checkpoints.restore(state):
            step, state, _ = restored
        workdirs.record_run(folder, argv, data, step)
        metrics, update = log.MetricsFile(folder / "metrics.jsonl", step), _make_step(net, optimiser, config)
        stream = batches(tracks["train"], configs.parse_sources(config.sources), config, first_step=step)
        losses = []
        while step < config.steps:
            state, loss = update(state, next(stream)["sources"], step)
            step += 1
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise JaxsepError(f"step {step}: the loss is {losses[-1]}; start again with a lower learning rate")
            if step % config.log_every == 0 or step == config.steps:
                metrics.write(step, "train", {"loss": float(np.mean(losses))}, {})
                say(f"step {step} of {config.steps}: loss {np.mean(losses):.3f}")
                losses = []
            if step % config.save_every == 0 or step == config.steps:
                metrics.sync()
                checkpoints.save(step, state, {"history": []})
    model = Model.from_parts(net, {"params": state["params"]}, config)
    points = operating_points(Listener.of_detector(model, {}), tracks["valid"])
    write_points(folder, points)
    return points


def _init(net: detector.Activity, optimiser: optim.Optimiser, config: configs.Config) -> dict[str, Any]:
    mix = jnp.zeros((1, config.data.segment, config.channels))
    params = jax.jit(lambda key: net.init(key, mix, method="logits"))(jax.random.key(config.seed))["params"]
    return {"params": params, "training": {"opt_state": optimiser.directions.init(params)}}


def _make_step(net: detector.Activity, optimiser: optim.Optimiser, config: configs.Config) -> Callable:
    """The jitted step (state, sources [b s t c], step) -> (state, loss)."""
    fade = max(1, round(FADE * config.sample_rate))

    @jax.jit
    def update(state: dict[str, Any], sources: Array, step: Array) -> tuple[dict[str, Any], Array]:
        sources = muted(jax.random.fold_in(jax.random.key(config.seed + 1), step), sources, RESTS, fade)
        mix = sources.sum(axis=1)
        silent, audible = detector.labels(mix, sources, net.window)

        def objective(params: Any) -> Array:
            logits = net.apply({"params": params}, mix, method="logits")
            terms = optax.sigmoid_binary_cross_entropy(logits, silent.astype(jnp.float32))
            return (terms * audible).mean()

        loss, grads = jax.value_and_grad(objective)(state["params"])
        directions, opt_state = optimiser.directions.update(grads, state["training"]["opt_state"], state["params"])
        rate = optimiser.learning_rate(step)
        params = jax.tree.map(lambda p, d: p - rate * d, state["params"], directions)
        return {"params": params, "training": {"opt_state": opt_state}}, loss

    return update


def muted(key: Array, sources: Float[Array, "b s t c"], odds: float, fade: int) -> Float[Array, "b s t c"]:
    """Sources that each rest for a stretch at the given odds, so that silence is not rare and falls on any of them.

    The ends of a stretch are uniform in the example and half of its length beyond either end.

    Args:
        key: of the draws.
        sources: as they are played.
        odds: of a rest, for each example and source.
        fade: samples in which a source goes and comes.
    """
    length = sources.shape[2]
    draws = jax.random.uniform(key, (3, *sources.shape[:2], 1))
    ends = length * (2 * jnp.sort(draws[:2], axis=0) - 0.5)
    time = jnp.arange(length)
    outside = jnp.maximum(ends[0] - time, time - ends[1])
    gain = jnp.where(draws[2] < odds, jnp.clip(outside / fade, 0, 1), 1)
    return sources * gain[..., None]


def operating_points(listener: Listener, tracks: Sequence[Track]) -> dict[str, dict[str, Any]]:
    """For each source the threshold with the highest recall at the precision aimed at, and both, on whole songs.

    The songs are heard as they are, nothing muted, with the windows and the overlaps of mining.
    """
    scores, truths = [], []
    for track in tracks:
        found = _heard(listener, track)
        scores.append(found[0])
        truths.append(found[1])
    score, truth = np.concatenate(scores), np.concatenate(truths)
    names = listener.model.sources
    return {name: operating_point(score[:, i], truth[:, i]) for i, name in enumerate(names)}


def _heard(listener: Listener, track: Track) -> tuple[Float[np.ndarray, "n s"], Bool[np.ndarray, "n s"]]:
    """Scores and truth of a song's audible windows."""
    model = listener.model
    stems = track.audio(model.sources)
    mix = stems.sum(axis=0)
    _, scores = listener.listen(lambda: [mix], track.rate, track.channels)
    at_rate = np.stack([soxr.resample(stem, track.rate, model.sample_rate) for stem in stems])
    silent, audible = detector.labels(at_rate.sum(axis=0)[None], at_rate[None], listener.window)
    keep = np.asarray(audible)[0, :, 0]
    return scores[: len(keep)][keep], np.asarray(silent)[0][keep]
