"""Finding the layer in which the numbers of a training step stop being finite, forward or backward.

The step is run once more with a tap on all that enters and leaves each layer. A tap measures what passes, and on the
way back its gradient; both passes are then read in the order in which they ran. The first value that is not finite is
laid to the layer that it comes out of. If it enters a layer and came out of none, it is laid to the layer around, for
what that does between its layers. How large it is where its dtype cannot hold it, the same step in float32 says.
"""

import dataclasses
import math
import shlex
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Float32, Inexact, PyTree

from jaxsep import config as configs
from jaxsep import losses, optim, separator, training
from jaxsep.checkpoint import load_state
from jaxsep.data import levels, sets
from jaxsep.data.pipeline import batches
from jaxsep.data.roll import Roll
from jaxsep.data.tracks import open_tracks
from jaxsep.precision import is_layer
from jaxsep.workdir import describe_data, read_run

QUICK = {"xla_backend_optimization_level": 0}  # what runs once is not worth compiling well
NOTHING = "all values and all gradients are finite"
FRONT, LOSS = "the front end", "the head or the loss"
Names = tuple[str, ...]  # the path of a module
Measure = Float32[Array, "2"]  # how many values are not finite, and the largest magnitude of the others


@dataclasses.dataclass(frozen=True)
class Finding:
    """Where numbers first are not finite.

    Attributes:
        direction: "forward", or "backward" for a gradient.
        place: path of the layer, or words for what lies between or outside of layers.
        dtype: in which it computes.
        largest: largest magnitude in float32, of a gradient times the loss scale; None where that is not finite.
        precision: the policy that puts the layer to float32; "" where that would not help.
    """

    direction: str
    place: str
    dtype: str
    largest: float | None
    precision: str

    def __str__(self) -> str:
        what = "a gradient" if self.direction == "backward" else "what comes"
        size = "not finite in float32 either" if self.largest is None else f"up to {self.largest:.6g} in float32"
        remedy = f"; --config.precision='{self.precision}' puts it to float32" if self.precision else ""
        where = f"{self.place} ({self.direction}, {self.dtype})"
        return f"the first that is not finite is {what} out of {where}, {size}{remedy}"


Search = Callable[[training.TrainState, training.Batch], Finding | None]


def make_search(config: configs.Config, mesh: Mesh) -> Search:
    """(state before a step, its batch) -> where its numbers first are not finite; None where all are.

    What is compiled for it is kept for the next search.

    Args:
        config: of the run.
        mesh: over which the batch is spread.
    """
    exact = config.copy_and_resolve_references()
    exact.precision = "float32"
    run = _make_run(config, mesh)
    run_exactly = run if config.precision == exact.precision else _make_run(exact, mesh)

    def search(state: training.TrainState, batch: training.Batch) -> Finding | None:
        stats = state.batch_stats
        for part in range(config.optim.accumulate):
            events, after = run(state, stats, batch, part)
            bad = next((number for number, event in enumerate(events) if event.count), None)
            if bad is not None:
                return events[bad].finding(run_exactly(state, stats, batch, part)[0][bad], config.precision)
            stats = after
        return None

    return search


@dataclasses.dataclass(frozen=True)
class _Event:
    """What was measured at a moment of a step.

    Attributes:
        direction, place, dtype: as of the `Finding` that it would be.
        layer: path of the innermost layer that a policy can change; "" outside of the net.
        count, largest: the measure.
    """

    direction: str
    place: str
    dtype: str
    layer: str
    count: float
    largest: float

    def finding(self, exactly: "_Event", precision: str) -> Finding:
        """With the same moment of the step in float32, and the run's policy."""
        if exactly.count:
            return Finding(self.direction, self.place, self.dtype, None, "")
        remedy = f"{precision}, {self.layer}=f32" if self.layer else ""
        return Finding(self.direction, self.place, self.dtype, exactly.largest, remedy)


@dataclasses.dataclass(frozen=True)
class _Tap:
    """Where something enters or leaves a module; "weights": where the gradients of its own parameters are ready."""

    path: Names
    side: str
    dtype: str = ""
    number: int = -1  # among the measures


class _Taps:
    """An interceptor that puts taps around the modules within the net, and the net.

    Attributes:
        order: the taps, in the order of the forward pass.
        measures: what they measured in it.
        layers: paths of the modules that a policy can change.
    """

    def __init__(self, probes: Sequence[Array] | None = None):
        self.order: list[_Tap] = []
        self.measures: list[Array] = []
        self.layers: set[Names] = set()
        self._probes = probes

    def __call__(self, method: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        path = context.module.path
        if context.method_name != "__call__" or path[:1] != ("net",):
            return method(*args, **kwargs)
        if is_layer(context):
            self.layers.add(path)
        self.order.append(_Tap(path, "weights"))
        args, kwargs = jax.tree.map(partial(self._tap, path, "in"), (args, kwargs))
        return jax.tree.map(partial(self._tap, path, "out"), method(*args, **kwargs))

    def _tap(self, path: Names, side: str, x: Any) -> Any:
        if not isinstance(x, Array) or not jnp.issubdtype(x.dtype, jnp.inexact) or not x.size:
            return x
        number = len(self.measures)
        self.order.append(_Tap(path, side, str(x.dtype), number))
        self.measures.append(_measure(x))
        return _pass(x, jnp.zeros(2) if self._probes is None else self._probes[number])


@jax.custom_vjp
def _pass(x: Array, probe: Measure) -> Array:
    """`x`; the "gradient" of the probe is the measure of that of `x`."""
    return x


_pass.defvjp(lambda x, probe: (x, None), lambda _, gradient: (gradient, _measure(gradient)))


def _measure(x: Inexact[Array, "..."]) -> Measure:
    # Rounded for certain: XLA may keep what it has just computed more exactly than its dtype could.
    limits = jnp.finfo(x.dtype)
    parts = (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)
    sizes = [jnp.abs(jax.lax.reduce_precision(p.astype(jnp.float32), limits.nexp, limits.nmant)) for p in parts]
    size = jnp.maximum(sizes[0], sizes[-1])
    finite = jnp.isfinite(size)
    return jnp.stack([jnp.sum(~finite, dtype=jnp.float32), jnp.max(jnp.where(finite, size, 0))])


def _make_run(config: configs.Config, mesh: Mesh) -> Callable[..., tuple[list[_Event], PyTree]]:
    """(state, batch statistics, batch, number of a micro-batch) -> (what happens in it, batch statistics after it)."""
    objective = training.make_objective(separator.build(config), losses.from_config(config), config)

    def tapped(taps: _Taps, params: PyTree, state: Any, stats: PyTree, batch: Any, part: Any) -> tuple:
        micro = training.micro_batch(batch, config.optim.accumulate, part)
        with nn.intercept_methods(taps):
            return objective(params, state, stats, micro, part)

    def measure(probes: list[Array], *step: Any) -> tuple[tuple, PyTree]:
        def scalar(params: PyTree, probes: list[Array]) -> tuple[Array, tuple]:
            taps = _Taps(probes)
            value, (terms, after) = tapped(taps, params, *step)
            return value, (taps.measures, _measure(terms), after)

        gradients = jax.grad(scalar, argnums=(0, 1), has_aux=True)
        (weights, backward), (forward, terms, after) = gradients(step[0].params, probes)
        norm = _measure(optax.tree.norm(weights))
        return (forward, terms, backward, jax.tree.map(_measure, weights), norm), after

    def measure_share(probes: list[Array], state: Any, *step: Any) -> tuple[tuple, PyTree]:
        measures, after = measure(probes, training.own_state(state), *step)
        return jax.tree.map(lambda x: x[None], measures), jax.lax.pmean(after, "data")

    if config.parallel == "device":
        whole, split = PartitionSpec(), PartitionSpec("data")
        given = (whole, whole, whole, split, whole)
        program = jax.shard_map(measure_share, mesh=mesh, in_specs=given, out_specs=(split, whole), check_vma=False)
    else:
        program = measure
    compiled = jax.jit(program, compiler_options=QUICK if jax.default_backend() == "cpu" else None)
    taps = _Taps()

    def run(*step: Any) -> tuple[list[_Event], PyTree]:
        if not taps.order:
            jax.eval_shape(partial(tapped, taps), step[0].params, *step)
        measures, after = compiled([np.zeros(2, np.float32)] * len(taps.measures), *step)
        return _events(taps, *jax.device_get(measures)), after

    return run


def _events(
    taps: _Taps, forward: list[np.ndarray], terms: np.ndarray, backward: list[np.ndarray], weights: PyTree, norm: Any
) -> list[_Event]:
    """All measures of a step in the order in which it ran."""
    own: dict[Names, list[np.ndarray]] = {}
    for path, measure in jax.tree_util.tree_leaves_with_path(weights):
        own.setdefault(tuple(key.key for key in path[:-1]), []).append(measure)
    dtypes = {tap.path: tap.dtype for tap in taps.order if tap.side == "out"}
    ahead = [_event("forward", tap, dtypes, taps.layers, [forward[tap.number]]) for tap in taps.order if tap.dtype]
    back = [
        _event("backward", tap, dtypes, taps.layers, [backward[tap.number]] if tap.dtype else own.get(tap.path, []))
        for tap in reversed(taps.order)
    ]
    front = [measure for path, measures in own.items() if path[:1] != ("net",) for measure in measures]
    return [
        *ahead,
        _Event("forward", LOSS, "float32", "", *_joined([terms])),
        *back,
        _Event("backward", FRONT, "float32", "", *_joined(front)),
        _Event("backward", "the norm over all parameters", "float32", "", *_joined([norm])),
    ]


def _event(
    direction: str, tap: _Tap, dtypes: dict[Names, str], layers: set[Names], measures: list[np.ndarray]
) -> _Event:
    """What a tap measured, laid to the module that it comes out of."""
    entering = "in" if direction == "forward" else "out"
    if tap.side != entering:
        path, place, dtype = tap.path, "/".join(tap.path), dtypes.get(tap.path, tap.dtype)
    else:
        path, dtype = tap.path[:-1], tap.dtype
        outside = FRONT if direction == "forward" else LOSS
        place = f"{'/'.join(path)} between its layers" if path else outside
    around = [path[:depth] for depth in range(len(path), 0, -1) if path[:depth] in layers]
    return _Event(direction, place, dtype, "/".join(around[0]) if around else "", *_joined(measures))


def _joined(measures: list[np.ndarray]) -> tuple[float, float]:
    """Of several values, or of those of several devices: how many are not finite, and the largest magnitude."""
    rows = np.concatenate([np.zeros((1, 2)), *(np.reshape(measure, (-1, 2)) for measure in measures)])
    return float(rows[:, 0].sum()), float(rows[:, 1].max())


def describe(config: configs.Config, mesh: Mesh, state: training.TrainState, batch: training.Batch) -> str:
    """What a search finds, or why it could not be made."""
    try:
        return str(make_search(config, mesh)(state, batch) or NOTHING)
    except jax.errors.JaxRuntimeError as error:  # the search takes memory beside the training's
        reason = str(error).splitlines()[0][:200]
        return f"its layer could not be found ({reason}); try `jaxsep debug nonfinite` where there is more memory"


def debug(run: str | Path) -> str:
    """Runs the step behind a run's newest checkpoint, and says where it is not finite.

    Raises:
        JaxsepError: no run with a checkpoint, or its data cannot be read.
    """
    folder, config = Path(run), configs.run_config(run)
    model, mesh = separator.build(config), _mesh(config)
    optimiser = optim.build(config.optim, config.steps, model.policy.float16)
    started = read_run(folder)
    command = shlex.split([started, *started.get("resumed", [])][-1].get("command", ""))
    roll = Roll(folder, skip="--on-bad-file=skip" in command)
    songs, further = sets.open_training(config, folder, roll, separator.wants_statistics(model.net))
    tracks = {"train": songs, "valid": open_tracks(config.data, "valid", folder)}
    data = describe_data(config, tracks | {f"also.{each.name}": each.tracks for each in further})
    known = config, data["fingerprint"]
    standard = levels.of_run(folder, sets.every(songs, further), *known) if config.data.standardise else None
    further = sets.match(folder, further, songs, *known)

    state = training.init_state(model, optimiser, config, mesh)
    step, items, _ = load_state(folder, state.items())
    state = training.TrainState.from_items(items, state.ok)
    sources = configs.parse_sources(config.sources)
    stream = batches(songs, sources, config, first_step=step, levels=standard, sets=further, skip=roll.skip)
    found = make_search(config, mesh)(state, training.put(next(stream), mesh))
    return f"step {step + 1}: {found or NOTHING}"


def _mesh(config: configs.Config) -> Mesh:
    """As many devices as micro-batches come out even on: the run may have had others."""
    devices = jax.devices()
    return training.make_mesh(devices[: math.gcd(len(devices), config.data.batch_size // config.optim.accumulate)])
