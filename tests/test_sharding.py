"""Fully sharded: each device holds its share of the state, and a run is the one that holds all of it everywhere."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxsep import losses, optim, sharding, training
from jaxsep.checkpoint import Checkpoints
from jaxsep.config import defaults
from jaxsep.frontends import Stft
from jaxsep.heads import Mask
from jaxsep.separator import Separator

WIDTH, CHANNELS = 1024, 64


class Wide(nn.Module):
    """A net nearly all of whose parameters are in two matrices."""

    dtype: Any = jnp.float32

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        x = nn.elu(nn.Dense(WIDTH, use_bias=False)(jnp.abs(z)))  # a bias would have no gradient but noise
        x = nn.BatchNorm(use_running_average=not train)(x)
        y = nn.Dense(2 * z.shape[-1])(x)
        return jnp.moveaxis(y.reshape(*y.shape[:-1], 2, -1), -2, 1)


class Run:
    """A training with this `parallel`, on four devices."""

    def __init__(self, parallel):
        self.config = defaults()
        self.config.sources = self.config.data.stems = "vocals,other"
        self.config.data.segment, self.config.data.batch_size, self.config.parallel = 64, 8, parallel
        self.config.optim.update(name="sgd", b1=0.9, learning_rate=0.1, ema=(0.9,))
        self.config.channels = CHANNELS
        self.model = Separator(front=Stft(frame=32, hop=8, bins=16), net=Wide(), head=Mask("sigmoid"))
        self.optimiser, self.mesh = optim.build(self.config.optim, 100), training.make_mesh()
        self.state = training.init_state(self.model, self.optimiser, self.config, self.mesh)
        loss = losses.build({"name": "l2"})
        compile_ = training.compile_train_step
        self.step = compile_(self.model, loss, self.optimiser, self.config, self.mesh, self.state)

    def train(self, seed):
        """A step; what it tells is fetched before the next begins."""
        sources = np.random.default_rng(seed).standard_normal((8, 2, 64, CHANNELS)).astype(np.float32)
        batch = training.put({"mix": sources.sum(axis=1), "sources": sources}, self.mesh)
        self.state, metrics = self.step(self.state, batch, np.float32(1))
        return jax.device_get(metrics)

    def arrays(self):
        state = self.state.replace(key=jax.random.key_data(self.state.key))
        return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree.leaves_with_path(state)}


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, x in one.items():
        np.testing.assert_allclose(x, other[name], rtol=0, atol=1e-5 * max(1e-8, np.abs(x).max()), err_msg=name)


@pytest.fixture(scope="module")
def runs():
    """The same three steps with the state in copies and in parts."""
    made = {parallel: Run(parallel) for parallel in ("global", "fsdp")}
    told = {parallel: [run.train(seed) for seed in range(3)] for parallel, run in made.items()}
    return made, told


def test_in_parts_is_the_same_training(runs):
    made, told = runs
    for one, other in zip(told["global"], told["fsdp"], strict=True):
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
        np.testing.assert_allclose(one.grad_norm, other.grad_norm, rtol=1e-5)
    assert_close(made["global"].arrays(), made["fsdp"].arrays())


def test_a_device_holds_a_fourth_before_and_after_a_step(runs):
    made, _ = runs
    whole = sharding.per_device(made["global"].state)
    total = 3 * sum(leaf.nbytes for leaf in jax.tree.leaves(made["global"].state.params))  # averages, momentum
    assert total < whole < 1.05 * total
    for state in (Run("fsdp").state, made["fsdp"].state):
        assert whole / 4 < sharding.per_device(state) < 0.27 * whole


def test_the_program_needs_less_than_with_copies(runs):
    made, _ = runs
    arguments = {name: run.step.compiled.memory_analysis().argument_size_in_bytes for name, run in made.items()}
    batch = 8 * 3 * 64 * CHANNELS * 4 / 4
    assert arguments["fsdp"] - batch < 0.27 * (arguments["global"] - batch)


def test_large_arrays_are_divided_along_their_longest_even_axis():
    mesh = training.make_mesh()
    shapes = {"a": (128, 256), "b": (257, 128), "c": (7, 9, 513), "d": (16,), "e": (16384,), "f": (4, 64, 64)}
    placed = sharding.in_parts({name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}, mesh)
    split = {"a": (None, "data"), "b": (None, "data"), "c": (), "d": (), "e": ("data",), "f": (None, "data")}
    assert {name: where.spec for name, where in placed.items()} == {n: PartitionSpec(*s) for n, s in split.items()}


def test_collected_is_whole_everywhere_and_nothing_is_copied_that_is(runs):
    made, _ = runs
    there = made["fsdp"].state.variables
    whole = sharding.collected(there, made["fsdp"].mesh)
    assert sharding.collected(whole, made["fsdp"].mesh) is whole
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(there), strict=True):
        assert one.is_fully_replicated
        np.testing.assert_array_equal(one.addressable_data(3), np.asarray(other))


@pytest.mark.parametrize(("saved", "restored"), [("fsdp", "global"), ("global", "fsdp")])
def test_a_run_goes_on_in_the_other_mode(runs, tmp_path, saved, restored):
    made, _ = runs
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, made[saved].state.items(), {})
        checkpoints.wait()
        other = made[restored]
        fresh = training.init_state(other.model, other.optimiser, other.config, other.mesh)
        found = checkpoints.restore(fresh.items())
    assert found is not None
    state = training.TrainState.from_items(found[1], fresh.ok)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), state.params, made[saved].state.params)
    shares = [leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state)]
    assert all(shares) == (restored == "global")
