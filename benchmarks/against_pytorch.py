"""Training steps of every system on one device, in float32 and bfloat16, against PyTorch's, each at its best batch.

    pip install -e '.[train,cuda,parity-torch]'
    python benchmarks/against_pytorch.py --json figures.json
    python benchmarks/against_pytorch.py --systems open_unmix demucs:v2-48 --batch 8 --rounds 20

A step begins with waves and ends with moved weights: front end, net, the mean of absolute differences (of magnitudes
or of waves, as the system's own loss has it), gradient, Adam; in training mode, on examples of the config's length.
Ours is what `train.py` compiles. PyTorch's networks are those of `torch_nets.py`; they run eagerly and under
`torch.compile`, with Adam in one kernel and cuDNN's algorithms tried out, as XLA does. bfloat16 is the policy of that
name, and PyTorch's autocast. float32 is TF32 on cards that have it, in both: JAX's default, PyTorch's "high". Of
systems with one net per source the first source's is trained; those that PyTorch has no network for run alone.

The batch is doubled from `--batch` on until memory is at its end or `--largest` is reached; on a CPU only if that is
given, as a machine without memory kills what it likes. A row is the batch of most examples per second. The ratio is
PyTorch's seconds per example over ours, each at its best batch, and then at the largest batch that both can do. Seconds
are the median of `--rounds` steps, each waited for, after two. Memory is the most that the device has held; where JAX's
device does not say, what XLA plans.

Each row is measured in a process of its own; one that fails says why, and without PyTorch its rows say so. PyTorch runs
on the device that JAX chooses; `JAX_PLATFORMS=cpu` takes both to the CPU. `--json` has every batch of every row.
"""

import argparse
import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch_nets
from precision import training_step

from jaxsep import cache, losses, memory, training
from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.models import MODELS
from jaxsep.utilisation import Work

CANDIDATES = ("jaxsep", "PyTorch", "torch.compile")
DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # of JAX -> of PyTorch
# JAX takes memory as it needs it, and as much of the card as PyTorch; both see one card.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "XLA_CLIENT_MEM_FRACTION": "0.95",
    "CUDA_VISIBLE_DEVICES": "0",
}
WARM_UP = 2
LARGEST = 2**20
HEAD = (
    *("system", "precision", "candidate", "parameters", "batch"),
    *("step, s", "examples/s", "audio s/s", "MiB", "ratio", "note"),
)

Figures = dict[str, Any]


class Ended(Exception):
    """Why a candidate goes no further."""


@dataclasses.dataclass(frozen=True)
class Step:
    """What is measured.

    Attributes:
        take: takes a step, and waits for its end.
        work: what a step does, told after some.
        parameters: that are trained.
    """

    take: Callable[[], None]
    work: Callable[[], Work]
    parameters: int


# --- Candidates: (config) -> Step -----------------------------------------------------------------------------


def settings(spec: str, precision: str, batch: int) -> configs.Config:
    """A system's config with the benchmark's loss, optimiser and batch."""
    name, colon, variant = spec.partition(":")
    config = configs.load_config(f"{name}.py{colon}{variant}")
    waves = losses.from_config(config).domain == "wave"
    with config.unlocked():
        config.precision, config.data.batch_size, config.remat = precision, batch, ""
        config.optim, config.loss = configs.defaults().optim, configs.defaults().loss
        config.loss.name = "wave_l1" if waves else "l1"
        if config.per_source:
            config.sources = config.sources.split(",")[0]
    return config.lock()


def jaxsep_step(config: configs.Config) -> Step:
    mesh = training.make_mesh(jax.local_devices()[:1])
    program, state, batch = training_step(config, mesh)

    def take() -> None:
        nonlocal state
        state, metrics = program(state, batch, np.float32(1))
        jax.block_until_ready(metrics)

    return Step(take, lambda: program.work(config, mesh), sum(leaf.size for leaf in jax.tree.leaves(state.params)))


def torch_step(device: str, compiled: bool, config: configs.Config) -> Step:
    import torch

    torch.compiler.reset()  # else it gives up after a few shapes and goes on eagerly
    torch.cuda.empty_cache()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    make = torch_nets.maker(config)
    assert make is not None
    net, prepare = make(config)
    net.to(device)
    run = torch.compile(net, dynamic=False) if compiled else net
    adam = torch.optim.Adam(net.parameters(), config.optim.learning_rate, fused=True)
    count = len(configs.parse_sources(config.sources))
    sources = 0.2 * torch.randn(config.data.batch_size, count, config.channels, config.data.segment, device=device)
    mix, half = sources.sum(1), config.precision == "bfloat16"

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def take() -> None:
        adam.zero_grad()
        reference = prepare(sources)
        with torch.autocast(device, torch.bfloat16, enabled=half):
            estimate = run(prepare(mix))
        (estimate.float().reshape(reference.shape) - reference).abs().mean().backward()
        adam.step()
        wait()

    def work() -> Work:
        most = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        return Work(config.data.batch_size, config.data.segment / config.sample_rate, memory=most)

    return Step(take, work, sum(parameter.numel() for parameter in net.parameters()))


# --- Measuring, in a process of its own -----------------------------------------------------------------------


def measured(candidate: str, kind: str, spec: str, precision: str, *sizes: int) -> Iterator[Figures]:
    """Figures of each batch of a candidate.

    Args:
        candidate: one of `CANDIDATES`.
        kind: of JAX's device: cpu, gpu, ...
        spec: of the system: name, or name:variant.
        precision: policy.
        sizes: see `grown`.

    Raises:
        Ended: there is no such candidate here, or see `grown`.
    """
    if candidate == "jaxsep":
        memory.keep_freed()
        cache.keep_compiled()
        make = jaxsep_step
    else:
        jax.config.update("jax_platforms", "cpu")  # the device is PyTorch's alone
        try:
            import torch
        except ModuleNotFoundError:
            raise Ended("PyTorch is not installed") from None
        if kind not in DEVICES or (kind == "gpu" and not torch.cuda.is_available()):
            raise Ended(f"this PyTorch has no {kind}")
        make = functools.partial(torch_step, DEVICES[kind], candidate == "torch.compile")
    yield from grown(lambda batch: make(settings(spec, precision, batch)), *sizes)


def grown(make: Callable[[int], Step], batch: int, largest: int, rounds: int) -> Iterator[Figures]:
    """Figures of each batch, doubled as long as there is memory.

    Args:
        make: of a batch's size.
        batch: the first.
        largest: none is larger.
        rounds: steps that are timed.

    Raises:
        Ended: no memory was left.
    """
    while batch <= largest:
        try:
            yield timed(make(batch), rounds)
        except Exception as error:
            if memory.exhausted(error) or type(error).__name__ == "OutOfMemoryError":  # JAX's, PyTorch's
                raise Ended(f"out of memory at batch {batch}") from None
            raise
        gc.collect()
        batch *= 2


def timed(step: Step, rounds: int) -> Figures:
    """Seconds of a step and what follows from them."""
    clock = []
    for _ in range(WARM_UP + rounds):
        started = time.perf_counter()
        step.take()
        clock.append(time.perf_counter() - started)
    seconds, work = statistics.median(clock[WARM_UP:]), step.work()
    figures = {"batch": work.examples, "seconds": seconds, "parameters": step.parameters, "device_memory": None}
    return figures | work.rates(1 / seconds)


def described() -> Iterator[dict[str, Any]]:
    """The device, as JAX sees it, and what computes on it."""
    versions = {}
    for name in ("jax", "jaxlib", "torch", "openunmix", "demucs", "asteroid"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    device = jax.local_devices()[0]
    backend = " ".join(device.client.platform_version.split())
    about = {"device": device.device_kind, "platform": device.platform, "backend": backend}
    about |= {"cores": os.cpu_count(), "python": platform.python_version(), **versions}
    about |= {"float32 in jax": jax.config.values["jax_default_matmul_precision"] or "default"}
    with contextlib.suppress(ModuleNotFoundError):
        import torch

        about |= {"float32 in PyTorch": "high, cuDNN's TF32 on", "cuda in PyTorch": torch.version.cuda}
    if query := shutil.which("nvidia-smi"):
        asked = [query, "--query-gpu=driver_version", "--format=csv,noheader"]
        about["driver"] = subprocess.run(asked, capture_output=True, text=True).stdout.partition("\n")[0]
    yield about


def sent(sender: Connection, make: Callable[..., Iterator[dict[str, Any]]], arguments: tuple) -> None:
    """Sends what a generator yields, at last why it ended, if that has a reason. Nothing is printed."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        for item in make(*arguments):
            sender.send(item)
    except Ended as reason:
        sender.send(str(reason))
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        sender.send(f"{type(error).__name__}: {lines[0][:100]}")


def apart(limit: float, make: Callable[..., Iterator[dict[str, Any]]], *arguments: Any) -> tuple[list[Figures], str]:
    """What a generator yields in a process of its own, and why it ended before its end.

    Args:
        limit: seconds until it is ended.
        make: the generator.
        arguments: of it.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=sent, args=(sender, make, arguments))
    process.start()
    sender.close()
    items, deadline = [], time.monotonic() + limit
    while receiver.poll(max(0.0, deadline - time.monotonic())):
        try:
            item = receiver.recv()
        except EOFError:
            process.join()
            return items, f"its process ended with {process.exitcode}" if process.exitcode else ""
        if isinstance(item, str):
            process.join()
            return items, item
        items.append(item)
    process.kill()
    process.join()
    return items, f"stopped after {limit:.0f} s"


# --- The table ------------------------------------------------------------------------------------------------


def best(figures: list[Figures]) -> Figures:
    """That of most examples in a second."""
    return max(figures, key=lambda figure: figure["batch"] / figure["seconds"])


def ratio(figures: list[Figures], ours: list[Figures]) -> str:
    """Seconds of an example over ours: each at its best batch; at the largest that both have."""
    if not figures or not ours:
        return ""
    one, other = best(figures), best(ours)
    text = f"{one['seconds'] / one['batch'] / (other['seconds'] / other['batch']):.2f}"
    both = {figure["batch"]: figure["seconds"] for figure in ours}
    shared = [figure for figure in figures if figure["batch"] in both]
    if not shared:
        return text
    last = max(shared, key=lambda figure: figure["batch"])
    return f"{text}; {last['seconds'] / both[last['batch']]:.2f} at {last['batch']}"


def row(system: str, precision: str, candidate: str, figures: list[Figures], ours: list[Figures], note: str) -> str:
    """A line of the table."""
    cells = [""] * 6
    if figures:
        top = best(figures)
        held = top["device_memory"]
        cells = [f"{top['parameters']:,}", str(top["batch"]), f"{top['seconds']:.4g}"]
        cells += [f"{top['examples_per_second']:.4g}", f"{top['audio_seconds_per_second']:.4g}"]
        cells += [f"{held / 2**20:,.0f}" if held else ""]
    against = "" if candidate == "jaxsep" else ratio(figures, ours)
    return f"| {' | '.join([system, precision, candidate, *cells, against, note])} |"


def systems() -> list[str]:
    """Each system as its paper has it, and the variants that PyTorch has."""
    return sorted({*MODELS, *torch_nets.NETS})


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", default=systems(), metavar="NAME[:VARIANT]")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=CANDIDATES)
    parser.add_argument("--batch", type=int, default=2, help="the first; LaSAFT cannot train on one example")
    parser.add_argument("--largest", type=int, help="on a CPU the first, else what memory allows")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--limit", type=float, default=1800, help="seconds of a row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure, as far as there are some")
    options = parser.parse_args(words)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        compared = {system: torch_nets.maker(settings(system, "float32", 1)) for system in options.systems}
    except JaxsepError as error:
        parser.error(str(error))
    known, why = apart(options.limit, described)
    if not known:
        parser.error(f"no device: {why}")
    about, results = known[0], []
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    largest = options.largest or (options.batch if about["platform"] == "cpu" else LARGEST)
    print(f"\n| {' | '.join(HEAD)} |\n|---|---|---|{'---:|' * (len(HEAD) - 4)}---|")
    for system, net in compared.items():
        candidates = options.candidates if net else ["jaxsep"]
        for precision in options.precisions:
            ours: list[Figures] = []
            for candidate in candidates:
                case = candidate, about["platform"], system, precision, options.batch, largest, options.rounds
                figures, note = apart(options.limit, measured, *case)
                ours = figures if candidate == "jaxsep" else ours
                print(row(system, precision, candidate, figures, ours, note), flush=True)
                case = {"system": system, "precision": precision, "candidate": candidate}
                results.append(case | {"figures": figures, "note": note})
                if options.json:
                    told = {"command": sys.argv if words is None else words, "about": about, "rows": results}
                    options.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
