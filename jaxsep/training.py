"""The training step: state, loss, gradients, update, on one mesh axis `data`.

The batch is split over the devices and the state is copied to each, or split as well. What they exchange is for XLA to
find out where the step is one program over the whole batch, batch norms included, and one vector where each device has
a batch of its own (`PARALLEL`).

A step whose loss or gradient is not finite changes nothing and marks the state, so that all later steps change nothing
either: although the state is donated, what comes out of the loop is the state before the failing step. Under float16
a gradient that overflows while the loss is finite is no failure: its step is left out, and counted (`loss_scale.py`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import PyTree

from jaxsep import programs, remat, sharding
from jaxsep.config import Config, choose, parse_sources
from jaxsep.data.statistics import Statistics
from jaxsep.errors import CommonError, JaxsepError
from jaxsep.initialisation import initialise
from jaxsep.loss_scale import TOLERATED, LossScale
from jaxsep.losses import Loss, partly
from jaxsep.optim import Optimiser
from jaxsep.parts import parse_parts
from jaxsep.precision import parse_policy

# {"mix": [b t c], "sources": [b s t c]}, conditioned systems' "targets": [b k s], with unlabeled music "known": [b s]
Batch = Mapping[str, Array | np.ndarray]


# Of these the log has the last value; of all other numbers the mean.
LAST = ("learning_rate", "loss_scale", "skipped")

# A leaf of a state is an array, or what JAX puts in its place while it traces, compiles and restores.
Leaf = Any


@struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        step: finished steps, int32.
        params: trainable parameters.
        batch_stats: running statistics, {} without batch norm.
        opt_state: of the optimiser.
        ema: averaged parameters, by the decays of the config.
        key: of dropout; never changes, each step folds its number in.
        ok: whether no step has met a loss or gradient that is not finite, bool.
        loss_scale: under float16, otherwise None.
    """

    step: Leaf
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    ema: tuple[PyTree, ...]
    key: Leaf
    ok: Leaf
    loss_scale: LossScale | Leaf = None

    @property
    def averages(self) -> dict[str, PyTree]:
        """Averaged parameters by the name of their item in a checkpoint: ema, ema2, ..."""
        return {f"ema{number if number > 1 else ''}": params for number, params in enumerate(self.ema, 1)}

    @property
    def candidates(self) -> dict[str, dict[str, PyTree]]:
        """What validation compares and inference may use, by name: the averaged parameters where there are some."""
        weights = self.averages or {"params": self.params}
        return {name: {"params": params, "batch_stats": self.batch_stats} for name, params in weights.items()}

    @property
    def variables(self) -> dict[str, PyTree]:
        """The first of the candidates."""
        return next(iter(self.candidates.values()))

    def items(self) -> dict[str, PyTree]:
        """The state as the checkpoint holds it; inference reads all but `training` and `loss_scale`."""
        training = {"step": self.step, "opt_state": self.opt_state, "key": self.key}
        variables = {"params": self.params, **self.averages, "batch_stats": self.batch_stats}
        return {**variables, "training": training, "loss_scale": self.loss_scale}

    @classmethod
    def from_items(cls, items: Mapping[str, PyTree], ok: Array) -> "TrainState":
        """The inverse of `items`; `ok` is not saved."""
        return cls(
            params=items["params"],
            ema=tuple(params for name, params in items.items() if name.startswith("ema")),
            batch_stats=items["batch_stats"],
            ok=ok,
            loss_scale=items["loss_scale"],
            **items["training"],
        )


@struct.dataclass
class Metrics:
    """What a step tells.

    Attributes:
        losses: of each example and source, [b s].
        loss: their mean.
        grad_norm: global norm of its gradient, before clipping.
        learning_rate: by which the parameters moved.
        ok: whether loss and gradient are finite, and those of all steps before; overflows that are tolerated are.
        loss_scale: under float16, after the step; otherwise None.
    """

    losses: Leaf
    loss: Leaf
    grad_norm: Leaf
    learning_rate: Leaf
    ok: Leaf
    loss_scale: LossScale | None = None

    def numbers(self, sources: Sequence[str]) -> dict[str, float | None]:
        """What is logged, by name; the norm of a gradient that overflowed is None."""
        named = {"loss": self.loss, "grad_norm": self.grad_norm, "learning_rate": self.learning_rate}
        if self.loss_scale is not None:
            named |= {"loss_scale": self.loss_scale.scale, "skipped": self.loss_scale.skipped}
            named["grad_norm"] = None if self.loss_scale.row else self.grad_norm
        terms = zip(sources, np.asarray(self.losses).mean(axis=0), strict=True)
        named |= {f"loss/{source}": loss for source, loss in terms}
        return {name: None if value is None else float(value) for name, value in named.items()}


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices on one axis, `data`: those of process 0, then those of process 1, as the shares of a batch are."""
    ordered = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(ordered), ("data",))


def local(tree: PyTree, mesh: Mesh) -> PyTree:
    """What every device has a copy of, as arrays over these of them, which are of this process."""
    whole, devices = sharding.whole(mesh), set(mesh.devices.flat)

    def here(x: Array) -> Array:
        copies = [shard.data for shard in x.addressable_shards if shard.device in devices]
        return jax.make_array_from_single_device_arrays(x.shape, whole, copies)

    return jax.tree.map(here, tree)


def check_batch(config: Config, mesh: Mesh) -> None:
    """That micro-batches come out even on every device.

    Raises:
        JaxsepError: the batch size is no multiple of devices x accumulated micro-batches; or no such `parallel`.
    """
    choose(PARALLEL, config.parallel, "parallel")
    size, parts, devices = config.data.batch_size, config.optim.accumulate, mesh.size
    if size < 1 or parts < 1 or size % (parts * devices):
        raise JaxsepError(
            f"data.batch_size={size} is not a multiple of {parts * devices} = {devices} device(s) x "
            f"optim.accumulate={parts}; change one of the two, or use fewer devices"
        )


def init_state(
    separator: Any, optimiser: Optimiser, config: Config, mesh: Mesh, statistics: Statistics | None = None
) -> TrainState:
    """The state before the first step, a copy on every device of the mesh or, under `fsdp`, in parts.

    Args:
        separator: whose variables are made.
        optimiser: of the run.
        config: of the run.
        mesh: the devices.
        statistics: of the training data, for nets that want them (`separator.wants_statistics`).

    Raises:
        JaxsepError: a pattern of `optim.parts` that matches nothing.
    """

    def create() -> TrainState:
        key = jax.random.key(config.seed)
        variables = initialise(separator, config, jax.random.fold_in(key, 0))
        params = variables["params"]
        optimiser.parts.check(params)
        if statistics is not None:
            mean, std = (jnp.asarray(values) for values in statistics)
            params = {**params, "net": separator.net.with_statistics(params["net"], mean, std)}
        return TrainState(
            step=jnp.int32(0),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimiser.directions.init(params),
            ema=(params,) * len(config.optim.ema),
            key=jax.random.fold_in(key, 1),
            ok=jnp.bool(True),
            loss_scale=LossScale.fresh() if parse_policy(config.precision).float16 else None,
        )

    fsdp = config.parallel == "fsdp"
    where = sharding.in_parts(jax.eval_shape(create), mesh) if fsdp else sharding.whole(mesh)
    return jax.jit(create, out_shardings=where)()


def first_front(separator: Any, config: Config) -> Any:
    """The front end with the parameters that `init_state` gives it, for statistics of what the net will see first."""
    if separator.front.fixed:
        return separator.front

    def create() -> PyTree:
        mix = jnp.zeros((1, config.data.segment, config.channels))
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        return separator.init(key, mix, None, False)["params"]["front"]

    return separator.front.bind({"params": jax.jit(create)()})


def start_from(state: TrainState, variables: Mapping[str, PyTree], optimiser: Optimiser) -> TrainState:
    """The fresh state with the weights and batch statistics of another run; a front end that had none stays fresh.

    Args:
        state: as `init_state` made it.
        variables: "params" and where there are some "batch_stats", of a checkpoint.
        optimiser: of the run, which begins anew.

    Raises:
        JaxsepError: a parameter that is missing, or is not there, or has another shape.
    """
    params = variables["params"]
    if "front" not in params and "front" in state.params:
        params = {**params, "front": state.params["front"]}
    given = {"params": params, "batch_stats": variables.get("batch_stats", {})}
    there, here = _shapes(given), _shapes({"params": state.params, "batch_stats": state.batch_stats})
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            raise JaxsepError(
                f"init: {name}: {there.get(name, 'no such parameter')} there, {here.get(name, 'no such parameter')} in "
                "this config; give a run of the same model, with the same sources and widths"
            )

    def create(given: Mapping[str, PyTree]) -> dict[str, PyTree]:
        # Copies: the state is donated, and on a CPU an array may be the memory of the one that it was made from.
        copied = jax.tree.map(jnp.copy, given)
        averaged = (copied["params"],) * len(state.ema)
        return {**copied, "opt_state": optimiser.directions.init(copied["params"]), "ema": averaged}

    fresh = {name: getattr(state, name) for name in ("params", "batch_stats", "opt_state", "ema")}
    where = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    return dataclasses.replace(state, **jax.jit(create, out_shardings=where)(given))


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shape of each leaf by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def make_losses(separator: Any, loss: Loss, weight: float = 1.0, reconstruction: float = 0.0) -> Callable:
    """(variables, batch, train, key) -> (losses [b s], new batch statistics).

    To each of an example's losses `reconstruction` times the relative error is added with which the front end decodes
    its mixture.

    Where the batch has targets [b k s], the net is asked for these mixtures of sources instead of for every source,
    and the losses are [b k]: the reference of target k is sum_s targets[k, s] source_s. Where it has known [b s], some
    examples are weak, see `losses.partly`; `weight` is that of their unknown sources.
    """

    def losses(variables: PyTree, batch: Batch, train: bool, key: Array | None = None) -> tuple[Array, PyTree]:
        targets, references = batch.get("targets"), jnp.asarray(batch["sources"])
        if targets is not None:
            references = jnp.einsum("bks,bstc->bktc", targets, references)
        out, updates = separator.apply(
            variables,
            batch["mix"],
            targets,
            train,
            rngs={} if key is None else {"dropout": key},
            mutable=["batch_stats"],
        )
        if loss.domain == "wave":
            estimate = out.stems
            skip = (references.shape[2] - estimate.shape[2]) // 2  # under `context` the stems are those of the middle
            references = references[:, :, skip : skip + estimate.shape[2]]
        else:
            estimate, references = out.latents, separator.apply(variables, references, method="encode")
        if "known" in batch:
            terms = partly(loss, estimate, references, jnp.asarray(batch["known"]), weight)
        else:
            terms = loss(estimate, references)
        if reconstruction:
            terms += reconstruction * separator.apply(variables, batch["mix"], method="front_error")[:, None]
        return terms, updates.get("batch_stats", {})

    return losses


def make_objective(separator: Any, loss: Loss, config: Config) -> Callable:
    """(params, state, batch statistics, micro-batch, its number) -> (scalar, (losses [b s], new batch statistics)).

    The scalar is the mean loss, multiplied by the state's loss scale where it has one; the parameters, by which it is
    differentiated, take the place of the state's.
    """
    forward = make_losses(separator, loss, config.data.unlabeled.weight, config.optim.front.reconstruction)
    parts = parse_parts(config.optim.parts)

    def objective(
        params: PyTree, state: TrainState, batch_stats: PyTree, batch: Batch, part: int | Array
    ) -> tuple[Array, tuple[Array, PyTree]]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), part)
        variables = {"params": parts.stopped(params), "batch_stats": batch_stats}
        with parts.norms():
            losses, batch_stats = forward(variables, batch, True, key)
        mean = losses.mean()
        return mean if state.loss_scale is None else mean * state.loss_scale.scale, (losses, batch_stats)

    return objective


def micro_batch(batch: Batch, parts: int, part: int | Array) -> Batch:
    """Every parts-th example: then each device has its share of the micro-batch in its share of the batch."""
    return {name: x.reshape(-1, parts, *x.shape[1:])[:, part] for name, x in batch.items()}


def make_gradient(separator: Any, loss: Loss, config: Config) -> Callable:
    """(state, batch) -> (mean gradient, new batch statistics, losses [b s] in the order of the batch)."""
    objective = remat.rematerialised(make_objective(separator, loss, config), config.remat)
    parts = config.optim.accumulate

    def gradient(state: TrainState, batch: Batch) -> tuple[PyTree, PyTree, Array]:
        """Over micro-batches, unrolled: scans of convolutions are slow on CPUs."""
        grads, losses, batch_stats = [], [], state.batch_stats
        for part in range(parts):
            micro = micro_batch(batch, parts, part)
            grad, (loss, batch_stats) = jax.grad(objective, has_aux=True)(state.params, state, batch_stats, micro, part)
            grads.append(grad)
            losses.append(loss)
        mean = jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]) / parts, *grads)
        if state.loss_scale is not None:
            scale = state.loss_scale.scale
            mean = jax.tree.map(lambda grad: grad / scale, mean)
        return mean, batch_stats, jnp.stack(losses, axis=1).reshape(-1, losses[0].shape[1])

    return gradient


def over_the_batch(gradient: Callable, mesh: Mesh) -> Callable:
    """One program over the whole batch: batch norms see all of it, and XLA adds what the devices exchange."""
    return gradient


def own_state(state: TrainState) -> TrainState:
    """The state as one device has it under `by_device`: with dropout of its own."""
    return dataclasses.replace(state, key=jax.random.fold_in(state.key, jax.lax.axis_index("data")))


def by_device(gradient: Callable, mesh: Mesh) -> Callable:
    """Each device has its share of the batch to itself, with dropout of its own, as under `jax.pmap`.

    Batch norms see the share only. Gradients, batch statistics and losses are put into one vector and summed over the
    devices: one all-reduce, after which all of them go on with the same numbers.
    """

    def share(state: TrainState, batch: Batch) -> tuple[PyTree, PyTree, Array]:
        grads, batch_stats, losses = gradient(own_state(state), batch)
        changes = jax.tree.map(jnp.subtract, batch_stats, state.batch_stats)  # of frozen statistics exactly 0
        mean = jax.tree.map(lambda x: x / mesh.size, (grads, changes))
        rows = jnp.zeros((mesh.size, *losses.shape)).at[jax.lax.axis_index("data")].set(losses)
        vector, restore = ravel_pytree((*mean, rows))
        grads, changes, rows = restore(jax.lax.psum(vector, "data"))
        return grads, jax.tree.map(jnp.add, state.batch_stats, changes), rows.reshape(-1, losses.shape[1])

    whole, split = PartitionSpec(), PartitionSpec("data")
    return jax.shard_map(share, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=False)


PARALLEL = {"global": over_the_batch, "fsdp": over_the_batch, "device": by_device}


def make_train_step(
    separator: Any, loss: Loss, optimiser: Optimiser, config: Config, mesh: Mesh
) -> Callable[[TrainState, Batch, Array], tuple[TrainState, Metrics]]:
    """The jitted step (state, batch, scale) -> (state, metrics); `scale` multiplies the learning rate.

    The state is donated: the one passed in cannot be used again.
    """
    parallel = choose(PARALLEL, config.parallel, "parallel")
    gradient, decays = parallel(make_gradient(separator, loss, config), mesh), tuple(config.optim.ema)

    def step(state: TrainState, batch: Batch, scale: Array) -> tuple[TrainState, Metrics]:
        grads, batch_stats, losses = gradient(state, batch)
        norm = optax.tree.norm(grads)
        finite, loss_scale = jnp.isfinite(norm), None
        ok = state.ok & finite & jnp.isfinite(losses).all()
        rate = optimiser.learning_rate(state.step) * scale
        directions: Any
        directions, opt_state = optimiser.directions.update(grads, state.opt_state, state.params)
        params = optimiser.moved(state.params, directions, state.step, scale)
        ema = tuple(
            jax.tree.map(lambda e, p, share=1 - decay: e + share * (p - e), average, params)
            for decay, average in zip(decays, state.ema, strict=True)
        )
        moved = TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.key, state.ok)
        if state.loss_scale is not None:
            loss_scale = state.loss_scale.after(finite)
            ok = state.ok & ~loss_scale.exhausted & jnp.isfinite(losses).all()
            skipped = dataclasses.replace(state, step=moved.step, loss_scale=None)
            moved = dataclasses.replace(_where(finite, moved, skipped), loss_scale=loss_scale)
        metrics = Metrics(losses, losses.mean(), norm, rate, ok, loss_scale)
        return dataclasses.replace(_where(ok, moved, state), ok=ok), metrics

    def step_in_parts(state: TrainState, batch: Batch, scale: Array) -> tuple[TrainState, Metrics]:
        moved, metrics = step(state, batch, scale)
        where = sharding.in_parts(moved, mesh), jax.tree.map(lambda _: sharding.whole(mesh), metrics)
        return jax.lax.with_sharding_constraint((moved, metrics), where)

    if config.parallel == "fsdp":
        return jax.jit(step_in_parts, donate_argnums=0)
    whole = sharding.whole(mesh)
    return jax.jit(step, donate_argnums=0, in_shardings=(whole, sharding.split(mesh), whole), out_shardings=whole)


def _where(condition: Array, one: TrainState, other: TrainState) -> TrainState:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)


def compile_train_step(
    separator: Any,
    loss: Loss,
    optimiser: Optimiser,
    config: Config,
    mesh: Mesh,
    state: TrainState,
    reuse: bool = False,
) -> programs.Program:
    """`make_train_step`, compiled for the config's batch; a batch of another shape is then a TypeError.

    With `reuse`, what an earlier process compiled for this config is loaded instead (`programs.reuse`). Separator, loss
    and optimiser are then those that the config describes.
    """
    examples, length, channels = config.data.batch_size, config.data.segment, config.channels
    sources = len(parse_sources(config.sources))
    shapes = {"mix": (examples, length, channels), "sources": (examples, sources, length, channels)}
    if config.data.conditions:
        shapes["targets"] = (examples, 1, sources)
    if config.data.unlabeled.root:
        shapes["known"] = (examples, sources)
    where = sharding.split(mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where) for name, shape in shapes.items()}
    given = state, batch, jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.whole(mesh))

    def make() -> programs.Program:
        return programs.build(make_train_step(separator, loss, optimiser, config, mesh), mesh.size, *given)

    returned = state, Metrics(0, 0, 0, 0, 0, state.loss_scale)
    return programs.reuse(config, mesh, given, returned, make) if reuse else make()


def put(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This process's share of a batch as global arrays, split over the mesh."""
    where = sharding.split(mesh)
    return {name: jax.make_array_from_process_local_data(where, value) for name, value in batch.items()}


def failure(
    metrics: Metrics, step: int, sources: Sequence[str], examples: Sequence[str], where: str = ""
) -> CommonError:
    """The error that stops a run at a step whose loss or gradient is not finite.

    Args:
        metrics: of the failing step.
        step: its number; the first is 1.
        sources: names in the order of the losses.
        examples: what the batch is made of, in the order of the losses.
        where: what `nonfinite` found.
    """
    bad = ~np.isfinite(metrics.losses)
    if bad.any():
        rows, columns = np.nonzero(bad)
        terms = ", ".join(f"loss/{sources[s]}" for s in sorted(set(columns.tolist())))
        value = metrics.losses[rows[0], columns[0]]
        what, named = f"{terms} is {value}", [examples[b] for b in sorted(set(rows.tolist()))]
    else:
        what, named = f"the loss is {metrics.loss}, its gradient's norm {metrics.grad_norm}", list(examples)
        if metrics.loss_scale is not None:
            what += f", the {TOLERATED}th overflow in a row"
    place = f" {where[0].upper()}{where[1:]}." if where else ""
    return CommonError(
        f"step {step}: {what}; examples: {'; '.join(named)}.{place} The state before it is saved: the same command "
        "replays the step; mend the data, or start again with a lower optim.learning_rate or with optim.clip"
    )
