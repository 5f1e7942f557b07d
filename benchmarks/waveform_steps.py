"""Time of a forward pass and of a training step, ours against the PyTorch reference of the same network.

    pip install -e '.[train,parity-demucs2]'
    python benchmarks/waveform_steps.py --rounds 5

| system | input | reference |
|---|---|---|
| conv_tasnet | music, 10,977,872 parameters, 1 x 80,000 x 2 samples | demucs 2.0.3, tasnet.ConvTasNet |
| demucs | version 2, 64 channels, 265.6 M, 1 x 5.1 s x 2 | demucs 2.0.3, model.Demucs |
| open_unmix | 8.9 M, 4 x 256 frames x 2,049 bins x 2 | openunmix 1.3.0, OpenUnmix |
| spleeter | one instrument, 9.8 M, 2 x 512 frames x 1,024 bins x 2 | the same net in PyTorch, see spleeter_step.py |

A step is forward, backward and Adam on the mean of absolute outputs, in training mode. Candidates take turns on the
same cores, each in all the threads there are, and the best of all rounds counts; both wall-clock and CPU seconds are
printed. PyTorch runs eagerly, in its default layout but for the last row. What is not installed is left out.

On a machine with other work neither clock is fair to two threads: PyTorch's wait for each other in busy loops. CPU
seconds on one core (`taskset -c 0 python benchmarks/waveform_steps.py`) compare even there.

Both candidates stay in memory: up to 16 GB (6 and 10 for the activations of Conv-TasNet; 5 and 5 for Demucs).
"""

import argparse
import gc
import os
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from spleeter_step import jax_candidate as spleeter
from spleeter_step import torch_candidate as torch_spleeter

from jaxsep import separator
from jaxsep.models.open_unmix import OpenUnmix

SPLEETER = 2, 512, (16, 32, 64, 128, 256, 512)
Candidate = tuple[Callable[[], None], Callable[[], None]]  # forward, step


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def jax_candidate(net, estimate: Callable, x: np.ndarray) -> Candidate:
    """Compiled forward and step of a module; `estimate` is (apply, variables, input, train) -> output."""
    x = jnp.asarray(x)
    variables = jax.jit(lambda x: net.init(jax.random.key(0), x, None, False))(x)
    adam = optax.adam(3e-4)
    params = variables.pop("params")
    state = {"params": params, "adam": jax.jit(adam.init)(params)}

    def forward(params, x):
        return estimate(net.apply, {"params": params, **variables}, x, False)

    def update(params, moments, x):
        def loss(params):
            return jnp.abs(estimate(net.apply, {"params": params, **variables}, x, True)).mean()

        change, moments = adam.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, change), moments

    compiled = jax.jit(forward).lower(params, x).compile()
    compiled_step = jax.jit(update, donate_argnums=(0, 1)).lower(params, state["adam"], x).compile()
    del params

    def step():
        state["params"], state["adam"] = compiled_step(state["params"], state["adam"], x)
        jax.block_until_ready(state)

    return lambda: jax.block_until_ready(compiled(state["params"], x)), step


def torch_candidate(net, x: np.ndarray) -> Candidate:
    """Forward and step of a PyTorch module."""
    import torch

    adam, tensor = torch.optim.Adam(net.parameters(), 3e-4), torch.from_numpy(x)

    def forward():
        net.eval()
        with torch.no_grad():
            net(tensor)

    def step():
        net.train()
        adam.zero_grad()
        net(tensor).abs().mean().backward()
        adam.step()

    return forward, step


def waves(config, length: int) -> Candidate:
    """A system from wave to waves."""

    def estimate(apply, variables, x, train):
        return apply(variables, x, None, train).stems

    return jax_candidate(separator.build(config), estimate, noise(1, length, 2))


def conv_tasnet() -> Candidate:
    from configs.conv_tasnet import get_config

    return waves(get_config("music"), 80_000)


def torch_conv_tasnet() -> Candidate:
    from demucs.tasnet import ConvTasNet

    return torch_candidate(ConvTasNet(["drums", "bass", "other", "vocals"], X=10), noise(1, 2, 80_000))


def demucs() -> Candidate:
    from configs.demucs import get_config

    config = get_config("v2")
    fed, _ = separator.build(config).net.lengths(round(5.1 * 44_100))
    return waves(config, fed)


def torch_demucs() -> Candidate:
    from demucs.model import Demucs

    net = Demucs(["drums", "bass", "other", "vocals"], channels=64)
    return torch_candidate(net, noise(1, 2, net.valid_length(round(5.1 * 44_100))))


def open_unmix() -> Candidate:
    def estimate(apply, variables, z, train):
        mutable = ["batch_stats"] if train else []
        output, _ = apply(variables, z, None, train, mutable=mutable, rngs={"dropout": jax.random.key(1)})
        return jax.nn.relu(output) * jnp.abs(z)

    return jax_candidate(OpenUnmix(), estimate, noise(4, 256, 2049, 2) + 1j * noise(4, 256, 2049, 2))


def torch_open_unmix() -> Candidate:
    from openunmix.model import OpenUnmix as Reference

    return torch_candidate(Reference(2049, 2, 512, max_bin=1487), np.abs(noise(4, 2, 2049, 256)))


SYSTEMS = {
    "conv_tasnet": (conv_tasnet, torch_conv_tasnet),
    "demucs": (demucs, torch_demucs),
    "open_unmix": (open_unmix, torch_open_unmix),
    "spleeter": (lambda: spleeter(*SPLEETER), lambda: torch_spleeter(*SPLEETER, False)),
    "spleeter, channels last": (lambda: spleeter(*SPLEETER), lambda: torch_spleeter(*SPLEETER, True)),
}


def best_of(rounds: int, candidates: list[Candidate]) -> np.ndarray:
    """Seconds, wall and CPU, of each candidate's forward and step, [candidate kind 2]."""
    best = np.full((len(candidates), 2, 2), np.inf)
    for _ in range(rounds + 1):  # the first round warms up; the minimum forgets it
        for kind in range(2):
            for i, candidate in enumerate(candidates):
                wall, cpu = time.perf_counter(), time.process_time()
                candidate[kind]()
                best[i, kind] = np.minimum(best[i, kind], [time.perf_counter() - wall, time.process_time() - cpu])
    return best


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{len(os.sched_getaffinity(0))} cores; seconds, wall (CPU); ratios: PyTorch / jaxsep")
    print(f"{'':26}{'':10}{'jaxsep':>18}{'PyTorch':>18}{'wall':>8}{'CPU':>8}")
    for name in arguments.systems:
        candidates = []
        for make in SYSTEMS[name]:
            try:
                candidates.append(make())
            except ModuleNotFoundError as error:
                print(f"{name}: PyTorch's left out, {error}")
        best = best_of(arguments.rounds, candidates)
        for kind, label in enumerate(("forward", "step")):
            cells = [f"{wall:.3f} ({cpu:.3f})" for wall, cpu in best[:, kind]] + [""] * (2 - len(candidates))
            ratios = best[1, kind] / best[0, kind] if len(candidates) == 2 else ()
            print(f"{name:26}{label:10}" + "".join(f"{cell:>18}" for cell in cells), end="")
            print("".join(f"{ratio:8.2f}" for ratio in ratios), flush=True)
        del candidates
        jax.clear_caches()
        gc.collect()


if __name__ == "__main__":
    main()
