"""Memory and time of a training step under each precision policy.

    python benchmarks/precision.py
    python benchmarks/precision.py --configs configs/demucs.py:demo --policies float32,bfloat16 --rounds 5

Seconds are the best of some rounds of one step, on the clock and of the CPU; memory is what XLA plans for the step, of
each device, arguments included. Most CPUs compute in float32 only, and XLA converts forth and back: there the table
only shows that the policies run.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxsep import config as configs
from jaxsep import losses, optim, programs, separator, training

DEMOS = ("spleeter", "open_unmix", "conv_tasnet", "demucs")
HEAD = ("config", "precision", "step, s", "CPU, s", "memory, MiB", "GFLOP/s")


def training_step(config: configs.Config, mesh: Mesh) -> tuple[programs.Program, training.TrainState, dict[str, Any]]:
    """The step of a config, a state before it, and a batch of noise; conditioned systems are asked for each source."""
    training.check_batch(config, mesh)
    model = separator.build(config)
    optimiser = optim.build(config.optim, config.steps, model.policy.float16)
    state = training.init_state(model, optimiser, config, mesh)
    step = training.compile_train_step(model, losses.from_config(config), optimiser, config, mesh, state)
    count = len(configs.parse_sources(config.sources))
    shape = (config.data.batch_size, count, config.data.segment, config.channels)
    sources = np.random.default_rng(0).uniform(-0.2, 0.2, shape).astype(np.float32)
    batch = {"mix": sources.sum(axis=1), "sources": sources}
    if config.data.conditions:
        batch["targets"] = np.eye(count, dtype=np.float32)[np.arange(len(sources)) % count, None]
    return step, state, training.put(batch, mesh)


def row(spec: str, policy: str, rounds: int) -> tuple[str, ...]:
    """A line of the table."""
    config = configs.load_config(spec)
    config.precision = policy
    step, state, batch = training_step(config, training.make_mesh())
    clock = []
    for _ in range(1 + rounds):
        started = time.perf_counter(), time.process_time()
        state, metrics = step(state, batch, np.float32(1))
        jax.block_until_ready(metrics)
        clock.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    wall, cpu = (min(times) for times in zip(*clock[1:], strict=True))
    numbers = f"{wall:.3f}", f"{cpu:.3f}", f"{step.memory / 2**20:.0f}", f"{step.flops / wall / 1e9:.1f}"
    return f"{config.name}:{config.variant}", policy, *numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default=",".join(f"configs/{name}.py:demo" for name in DEMOS))
    parser.add_argument("--policies", default="float32,bfloat16,float16")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, jax {jax.__version__}\n\n| {' | '.join(HEAD)} |")
    print("|---|---|" + "---:|" * (len(HEAD) - 2))
    for spec in options.configs.split(","):
        for policy in options.policies.split(","):
            print(f"| {' | '.join(row(spec, policy, options.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
