"""How trained front ends are trained: a learning rate and a time of their own, penalties, starts from other runs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import checkpoint, frontends, losses, optim, separator, training
from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.heads import Map
from jaxsep.workdir import open_workdir

QUICK = {"xla_backend_optimization_level": 0}
LENGTH = 128


class Gain(nn.Module):
    """The smallest net: one source, the mixture times a number."""

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        return self.param("gain", nn.initializers.constant(0.5), ()) * z[:, None]


def config(**changes):
    """`changes` are of the front end."""
    made = configs.load_config("spleeter.py:demo")
    with made.unlocked():
        made.sources = "vocals"
        made.front.update({"frame": 64, "hop": 16, "bins": 32, **changes})
        made.data.segment, made.data.batch_size = LENGTH, 2
        made.optim.name, made.optim.b1, made.optim.learning_rate = "sgd", 0.0, 0.1
        made.optim.schedule.name, made.steps = "constant", 10
    return made


def model(made):
    return separator.Separator(frontends.build(made), Gain(), Map())


def fresh(made):
    """Separator, optimiser, mesh and first state."""
    built, mesh = model(made), training.make_mesh(jax.devices()[:1])
    optimiser = optim.build(made.optim, made.steps)
    return built, optimiser, mesh, training.init_state(built, optimiser, made, mesh)


def batch():
    waves = np.random.default_rng(0).uniform(-1, 1, (2, 2, LENGTH, 2)).astype(np.float32)
    return {"mix": waves.sum(axis=1), "sources": waves[:, :1]}


def test_the_front_end_has_a_time_of_its_own():
    """It waits one step, moves for one, and stays, while the net moves on."""
    made = config(name="learnable_stft", trained="window")
    made.optim.front.update(first=1, last=2)
    built, optimiser, mesh, state = fresh(made)
    given = training.put(batch(), mesh)
    step = training.make_train_step(built, losses.from_config(made), optimiser, made, mesh)
    step = step.lower(state, given, np.float32(1)).compile(compiler_options=QUICK)
    windows, gains = [np.asarray(state.params["front"]["window"])], [float(state.params["net"]["gain"])]
    for _ in range(3):
        state, _ = step(state, given, np.float32(1))
        windows.append(np.asarray(state.params["front"]["window"]))
        gains.append(float(state.params["net"]["gain"]))
    first, waited, moved, stayed = windows
    np.testing.assert_array_equal(waited, first)
    np.testing.assert_array_equal(stayed, moved)
    assert np.abs(moved - first).max() > 1e-6 and len(set(gains)) == 4


def test_the_front_end_has_a_rate_of_its_own():
    made = config(name="learnable_stft")
    made.optim.front.rate = 0.25
    optimiser = optim.build(made.optim, made.steps)
    params = {"front": {"window": jnp.ones(3)}, "net": {"gain": jnp.ones(3)}}
    after = optimiser.moved(params, params, jnp.int32(4), jnp.float32(0.5))
    np.testing.assert_allclose(after["net"]["gain"], 1 - 0.1 * 0.5)
    np.testing.assert_allclose(after["front"]["window"], 1 - 0.1 * 0.5 * 0.25)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rate": -1.0}, r"optim\.front\.rate=-1\.0: expected 0 or more"),
        ({"first": 5, "last": 5}, "it would move from step 5 to step 5, never"),
    ],
)
def test_times_that_are_none_are_refused(changes, words):
    made = config(name="learnable_stft")
    made.optim.front.update(changes)
    with pytest.raises(JaxsepError, match=words):
        optim.build(made.optim, made.steps)


def test_a_fixed_front_end_has_no_rate():
    made = config()
    made.optim.front.reconstruction = 0.1
    with pytest.raises(JaxsepError, match=r"optim\.front\.reconstruction: front\.name='stft' has no parameters"):
        frontends.build(made)


def test_the_reconstruction_penalty_is_the_relative_error():
    """Of each mixture, on all of its sources alike; nothing where decoding inverts."""
    built, _, _, state = fresh(config(name="learnable_stft", synthesis="untied"))
    given, front = jax.tree.map(jnp.asarray, batch()), state.params["front"]
    mix = given["mix"]
    worse = {"front": {**front, "synthesis_kernels": 0.9 * front["synthesis_kernels"]}, "net": state.params["net"]}

    @jax.jit
    def measured(params):
        losses_ = [
            training.make_losses(built, losses.L1(), 1.0, weight)({"params": params}, given, False)[0]
            for weight in (0.0, 3.0)
        ]
        return losses_[1] - losses_[0]

    assert float(measured(state.params).max()) < 1e-5
    # A tenth of what the 32 trained bins hold is lost, nothing of the one above them.
    fixed = built.front.untrained()
    error = fixed.decode(fixed.encode(mix).at[..., :32, :].multiply(0.1).at[..., 32, :].set(0), LENGTH)
    expected = 3 * (error**2).sum(axis=(1, 2)) / (mix**2).sum(axis=(1, 2))
    np.testing.assert_allclose(measured(worse), expected[:, None], rtol=1e-4, atol=1e-5)
    assert float(expected.min()) > 0.015


@pytest.mark.parametrize("front", ["learnable_stft", "adaptive_stft"])
def test_a_trained_front_end_starts_from_a_run_with_a_fixed_one(tmp_path, front):
    """The net's weights come along, the front end's are fresh: the separator is the one that was trained."""
    open_workdir(tmp_path / "fixed", config())
    checkpoint.save_variables(tmp_path / "fixed", {"params": {"net": {"gain": np.float32(0.3)}}})
    made = config(name=front)
    made.init = str(tmp_path / "fixed")
    built, optimiser, _, state = fresh(made)
    variables, origin = checkpoint.load_start(made)
    state = training.start_from(state, variables, optimiser)
    assert set(state.params) == {"front", "net"} and origin["run"].endswith("fixed")
    mix = jnp.asarray(batch()["mix"])
    stems = jax.jit(lambda variables: built.apply(variables, mix, None, False).stems)(state.variables)
    fixed = built.front.untrained()
    expected = 0.3 * fixed.decode(fixed.crop(fixed.encode(mix)), LENGTH)
    assert float(jnp.abs(stems[:, 0] - expected).max()) <= 1e-5 * float(jnp.abs(expected).max())
    made.front.hop = 8
    with pytest.raises(JaxsepError, match="learnable_stft and adaptive_stft an stft with the same values"):
        checkpoint.load_start(made)


def test_statistics_are_those_of_the_first_parameters():
    """Random kernels have others than the STFT."""
    made = config(name="analytic")
    built, _, _, state = fresh(made)
    mix = jnp.asarray(batch()["mix"])
    ours = built.front.apply({"params": state.params["front"]}, mix, method="encode")
    np.testing.assert_allclose(training.first_front(built, made).encode(mix), ours, rtol=1e-5)
    assert training.first_front(model(config()), config()) == frontends.build(config())
