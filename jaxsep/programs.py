"""A compiled step: what it asks of each device, and how the next process finds it again.

JAX's compilation cache (`cache.py`) spares XLA's part, but its key is the traced program, and tracing is what then
takes longest. Here the key is all that the trace depends on, so that a second start does not trace.
"""

import dataclasses
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxsep import cache, workdir
from jaxsep.compilations import Compilations
from jaxsep.config import Config, to_json
from jaxsep.precision import parse_policy
from jaxsep.utilisation import PEAKS, Work

# cuDNN's LSTM as JAX calls it, and its forward passes' worth: the gradient has products for inputs and for weights.
LSTM = {"rnn_fwd": 1, "rnn_bwd": 2}

_HIT = "/jax/compilation_cache/cache_hits"


@dataclasses.dataclass(frozen=True)
class Program:
    """What XLA compiled; called as the function that it was compiled from.

    Attributes:
        compiled: for arguments of one shape; others are a TypeError.
        flops: floating-point operations of each device, as XLA's cost analysis counts them.
        memory: bytes of each device that arguments, results and what lies between them take at once.
    """

    compiled: Callable[..., Any]
    flops: float
    memory: int

    def __call__(self, *args: Any) -> Any:
        """What the function returns."""
        return self.compiled(*args)

    def work(self, config: Config, mesh: Mesh) -> Work:
        """What a step of a run does on the devices of this process, which are of one kind."""
        kind, dtype = mesh.local_devices[0].device_kind, parse_policy(config.precision).compute.name
        return Work(
            examples=config.data.batch_size,
            seconds=config.data.segment / config.sample_rate,
            flops=self.flops,
            peak=PEAKS.get(kind, {}).get(dtype),
            memory=self.memory,
            devices=mesh.local_devices,
        )


def build(function: Any, devices: int, *args: Any) -> Program:
    """Compiles a jitted function for arguments of these shapes, whose batch is split over so many devices.

    XLA counts the body of a loop once, and cuDNN's LSTM not at all. What the matrix products of `lax.scan`, LSTMs'
    above all, do in all other rounds is added, and what those of cuDNN's LSTM do.
    """
    traced = function.trace(*args)
    compiled = traced.lower().compile()
    costs: Any = compiled.cost_analysis()
    memory: Any = compiled.memory_analysis()
    return Program(
        compiled,
        flops=costs["flops"] + _uncounted(traced.jaxpr.jaxpr, rounds=1, share=1 / devices),
        memory=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
    )


def _uncounted(jaxpr: Jaxpr, rounds: int, share: float) -> float:
    """Operations of matrix products in the second and later rounds of scans, and in cuDNN's LSTM, on one device.

    Args:
        jaxpr: where they are looked for.
        rounds: how often it runs.
        share: of its operations that are one device's: within `shard_map` shapes are those of a device already.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            given: Any = equation.invars[0].aval
            found: Any = equation.outvars[0].aval
            inner = math.prod(given.shape[axis] for axis in contracted)
            total += (rounds - 1) * share * 2 * inner * found.size
        elif name in LSTM:
            total += rounds * share * LSTM[name] * _lstm(equation)
        within = rounds * equation.params["length"] if name == "scan" else rounds
        for inside in _inside(equation.params):
            total += _uncounted(inside, within, 1.0 if name == "shard_map" else share)
    return total


def _lstm(equation: JaxprEqn) -> int:
    """Operations of the matrix products in a forward pass of cuDNN's LSTM, which a backward pass names as well."""
    given: Any = equation.invars[0].aval  # x, or the gradient of y
    batch, frames, _ = given.shape
    features, units, layers = (equation.params[name] for name in ("input_size", "hidden_size", "num_layers"))
    directions = 2 if equation.params["bidirectional"] else 1
    inputs = features + (layers - 1) * directions * units
    return 2 * batch * frames * directions * 4 * units * (inputs + layers * units)


def _inside(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs among the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def reuse(config: Config, mesh: Mesh, given: PyTree, returned: PyTree, make: Callable[[], Program]) -> Program:
    """The program that an earlier process kept for the same, or a new one, kept for the next process.

    It lies in the folder of JAX's compilation cache, where there is one. It is loaded only if all is the same that a
    step can depend on: config, code of this package, versions, processor, devices, flags of JAX and XLA, shapes, and
    where the arguments lie. A file that is damaged, or that JAX refuses, counts for nothing. The programs of several
    hosts are not kept, nor is what came out of JAX's own cache: written a second time, it lacks functions, of which
    nothing is heard before it runs (jaxlib 0.10.2 on CPUs).

    Args:
        config: which describes all that the program was made of.
        mesh: its devices.
        given: arguments, or their shapes.
        returned: anything of the structure of what it returns.
        make: compiles it.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or jax.process_count() > 1:
        return make()
    identity = _identity(config, mesh, given)
    path = Path(folder) / f"step-{hashlib.sha256(identity.encode()).hexdigest()[:32]}"
    found = _load(path, identity, mesh, given, returned)
    if found is None:
        hits: list[str] = []
        note = lambda event, **_: hits.append(event) if event == _HIT else None
        jax.monitoring.register_event_listener(note)
        try:
            with Compilations() as compilations:
                found = make()
        finally:
            jax.monitoring.unregister_event_listener(note)
        if compilations.names and not hits:
            _save(path, identity, found)
    return found


def _identity(config: Config, mesh: Mesh, given: PyTree) -> str:
    """All that a step depends on, as JSON."""
    leaves, tree = jax.tree.flatten(given)
    return json.dumps(
        {
            "config": to_json(config),
            "code": _code(),
            "versions": [platform.python_version(), *map(str, sorted(workdir.versions().items()))],
            "devices": [f"{device.id} {device.device_kind}" for device in mesh.devices.flat],
            "processor": cache.processor(),
            "platform": mesh.local_devices[0].client.platform_version,
            "axes": str(mesh),
            "options": str(sorted(jax.config.values.items())),
            "flags": {name: os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")},
            "arguments": [
                f"{leaf.shape} {leaf.dtype} {getattr(leaf, 'weak_type', False)} {getattr(leaf, 'sharding', None)}"
                for leaf in leaves
            ],
            "tree": str(tree),
        }
    )


def _code() -> str:
    """A sum over the source of this package."""
    total = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _save(path: Path, identity: str, program: Program) -> None:
    """A line about the program, and the program; nothing where it cannot be written or cannot be kept."""
    compiled: Any = program.compiled
    try:
        executable = serialize_executable.serialize(compiled)[0]
    except (NotImplementedError, ValueError, jax.errors.JaxRuntimeError):
        # How JAX says, in this order, that the program has constants for arguments, that the backend serialises
        # nothing, and that the program calls Python: each start compiles it.
        return
    about = {"identity": identity, "sum": hashlib.sha256(executable).hexdigest()}
    about |= {"flops": program.flops, "memory": program.memory}
    fresh = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        fresh.write_bytes(json.dumps(about).encode() + b"\n" + executable)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)


def _load(path: Path, identity: str, mesh: Mesh, given: PyTree, returned: PyTree) -> Program | None:
    try:
        line, _, executable = path.read_bytes().partition(b"\n")
        about = json.loads(line)
        whole = about["identity"] == identity and about["sum"] == hashlib.sha256(executable).hexdigest()
    except (OSError, ValueError, KeyError):
        return None
    if not whole:
        return None
    trees = jax.tree.structure((given, {})), jax.tree.structure(returned)
    devices = list(mesh.devices.flat)
    try:
        compiled = serialize_executable.deserialize_and_load(executable, *trees, execution_devices=devices)
    except jax.errors.JaxRuntimeError:
        return None
    return Program(compiled, about["flops"], about["memory"])
