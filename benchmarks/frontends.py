"""What front ends cost: a training step on each of them against one on the fixed STFT 4096/1024.

    python benchmarks/frontends.py --system spleeter --rounds 5

A step is that of `train.py`, forward, backward and optimiser, of a system's small variant, or of another one
(`--variant 4stems --batch 1` is Spleeter at paper width), with the loss on a fixed STFT of the waves under all front
ends. Candidates take turns, and the best of all rounds counts; both wall-clock and CPU seconds are printed, since on a
machine with other work only the latter compare.

Full kernels are matrix products: beside the time that they add stands that of the same products alone, in both
directions, of the encoded mixture and of the decoded sources.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import config as configs
from jaxsep import losses, optim, separator, training
from jaxsep.data.statistics import Statistics
from jaxsep.frontends.kernels import product

FRONTS = {
    "stft": {"name": "stft"},
    "learnable_stft, window": {"name": "learnable_stft", "trained": "window"},
    "learnable_stft, kernels": {"name": "learnable_stft", "trained": "kernels"},
    "learnable_stft, kernels, untied": {"name": "learnable_stft", "trained": "kernels", "synthesis": "untied"},
    "adaptive_stft, length": {"name": "adaptive_stft", "trained": "length"},
    "adaptive_stft, length and hop": {"name": "adaptive_stft", "trained": "both"},
}


def with_front(system: str, variant: str, batch: int, front: dict[str, str]) -> configs.Config:
    """The config of the variant on a front end."""
    config = configs.load_config(f"{system}.py:{variant}")
    with config.unlocked():
        config.data.batch_size = batch
        bins = {key: config.front[key] for key in ("bins", "padding") if key in config.front}
        config.front = {"frame": 4096, "hop": 1024, **bins, **front}
        if losses.LOSSES[config.loss.name].domain == "magnitude":
            config.loss.domain = "stft"
    return config


def step_candidate(config: configs.Config) -> Callable[[], None]:
    """A compiled training step that goes on from where it was."""
    mesh = training.make_mesh(jax.devices()[:1])
    model, optimiser = separator.build(config), optim.build(config.optim, config.steps)
    bins = config.front.bins
    statistics = Statistics(np.zeros(bins, np.float32), np.ones(bins, np.float32))
    measured = statistics if separator.wants_statistics(model.net) else None
    state = training.init_state(model, optimiser, config, mesh, measured)
    step = training.compile_train_step(model, losses.from_config(config), optimiser, config, mesh, state)
    shape = config.data.batch_size, len(configs.parse_sources(config.sources)), config.data.segment, config.channels
    sources = 0.1 * np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    batch = {"mix": sources.sum(axis=1), "sources": sources}
    if config.data.conditions:
        batch["targets"] = np.tile(np.eye(shape[1], dtype=np.float32)[:1], (shape[0], 1, 1))
    batch = training.put(batch, mesh)

    def run():
        nonlocal state
        state, metrics = step(state, batch, np.float32(1))
        jax.block_until_ready(metrics.loss)

    return run


def products_candidate(config: configs.Config, untied: bool) -> Callable[[], None]:
    """The matrix products of full kernels, forward and backward."""
    front = separator.build(config).front
    examples, channels = config.data.batch_size, config.channels
    rows = examples * channels * front.frames(config.data.segment)
    sources = 1 if config.data.conditions else len(configs.parse_sources(config.sources))
    rng = np.random.default_rng(0)

    def noise(*shape: int):
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    width = 2 * (front.bins or front.available)
    frames, parts = noise(rows, front.frame), noise(rows * sources, width)
    outward, inward = noise(rows, width), noise(rows * sources, front.frame)

    def both(analysis, synthesis, parts, frames, outward, inward):
        encoded, encode = jax.vjp(lambda kernels: product(frames, kernels), analysis)
        decoded, decode = jax.vjp(lambda parts, kernels: product(parts, kernels.T), parts, synthesis)
        (grad,), (back, other) = encode(outward), decode(inward)
        return encoded, decoded, back, (grad, other) if untied else grad + other

    analysis, synthesis = noise(front.frame, width), noise(front.frame, width)
    compiled = jax.jit(both).lower(analysis, synthesis, parts, frames, outward, inward).compile()
    return lambda: jax.block_until_ready(compiled(analysis, synthesis, parts, frames, outward, inward))


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--system", default="spleeter")
    parser.add_argument("--variant", default="demo")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--fronts", nargs="+", default=list(FRONTS), choices=list(FRONTS))
    arguments = parser.parse_args()
    made = {
        name: with_front(arguments.system, arguments.variant, arguments.batch, FRONTS[name])
        for name in arguments.fronts
    }
    candidates = {name: step_candidate(config) for name, config in made.items()}
    kernels = [name for name in made if "kernels" in name]
    for name in kernels:
        candidates[f"products of {name}"] = products_candidate(made[name], "untied" in name)
    best: dict[str, np.ndarray] = {}
    for _ in range(arguments.rounds + 1):  # the first round warms up; the minimum forgets it
        for name, run in candidates.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            now = np.array([time.perf_counter() - wall, time.process_time() - cpu])
            best[name] = np.minimum(best.get(name, np.inf), now)
    print(f"{'':46}{'wall (CPU), s':>18}{'to stft':>10}{'added, to the products':>24}")
    for name in made:
        ratio = best[name] / best["stft"] if "stft" in best else np.full(2, np.nan)
        line = f"{name:46}{'{:.3f} ({:.3f})'.format(*best[name]):>18}{ratio[1]:>10.2f}"
        if name in kernels and "stft" in best:
            alone = best[f"products of {name}"]
            line += f"{(best[name] - best['stft'])[1] / alone[1]:>14.2f} of {alone[1]:.3f}"
        print(line)


if __name__ == "__main__":
    main()
