"""The training step: its arithmetic by hand, one device against four, and steps that are not finite."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxsep import losses, optim, training, validation
from jaxsep.config import defaults
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Identity, Stft
from jaxsep.heads import Mask
from jaxsep.loss_scale import LossScale
from jaxsep.separator import Separator

SOURCES = ("vocals", "other")


def as_it_is(y, z):
    return y


class Gains(nn.Module):
    """One gain per source on the mixture's wave."""

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        gains = self.param("gains", lambda key: jnp.array([0.5, 0.25]))
        return gains[:, None, None] * z[:, None]


class Noisy(nn.Module):
    """A small spectral net with batch norm and dropout."""

    norm: bool = True
    dropout: float = 0.0
    dtype: Any = jnp.float32

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        x = nn.Dense(6, dtype=self.dtype)(jnp.abs(z).astype(self.dtype))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, dtype=self.dtype)(x)
        x = nn.Dropout(self.dropout)(nn.elu(x), deterministic=not train)
        y = nn.Dense(2 * z.shape[-1], dtype=self.dtype)(x)
        return jnp.moveaxis(y.reshape(*y.shape[:-1], 2, -1), -2, 1)


def wave_separator():
    return Separator(front=Identity(), net=Gains(), head=as_it_is)


def spectral_separator(**net):
    return Separator(front=Stft(frame=32, hop=8, bins=16), net=Noisy(**net), head=Mask("sigmoid"))


def config(**values):
    config = defaults()
    config.sources = config.data.stems = ",".join(SOURCES)
    config.data.segment, config.data.batch_size = 64, 4
    config.optim.name, config.optim.b1, config.optim.learning_rate = "sgd", 0.0, 1.0
    for key, value in values.items():
        block, _, name = key.rpartition("__")
        (config[block] if block else config)[name] = value
    return config


def batch(seed=0, size=4):
    sources = np.random.default_rng(seed).standard_normal((size, 2, 64, 2)).astype(np.float32)
    return {"mix": sources.sum(axis=1), "sources": sources}


def on_device(data):
    return jax.tree.map(jnp.asarray, data)


@functools.cache
def compiled(separator, loss, devices, values):
    """Parts of a run that tests share: (config, mesh, first state on the host, jitted step)."""
    settings = config(**dict(values))
    mesh = training.make_mesh(jax.devices()[:devices])
    optimiser = optim.build(settings.optim, 100)
    state = training.init_state(separator, optimiser, settings, mesh)
    step = training.make_train_step(separator, losses.build({"name": loss}), optimiser, settings, mesh)
    return settings, mesh, jax.device_get(state.replace(key=jax.random.key_data(state.key))), step


class Run:
    """A separator in training, with everything around it."""

    def __init__(self, separator, loss, devices=1, **values):
        self.config, self.mesh, first, self.step_ = compiled(separator, loss, devices, tuple(values.items()))
        first = first.replace(key=jax.random.wrap_key_data(jnp.asarray(first.key)))
        self.state = jax.device_put(first, NamedSharding(self.mesh, PartitionSpec()))

    def step(self, batch, scale=1.0):
        self.state, metrics = self.step_(self.state, training.put(batch, self.mesh), jnp.float32(scale))
        return jax.device_get(metrics)

    def params(self):
        return jax.device_get(self.state.params)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(a, b, tolerance=1e-5):
    """Largest difference at most `tolerance` of the largest value, over the whole tree."""
    a, b = leaves(a), leaves(b)
    largest = max(np.abs(x).max() for x in a)
    assert len(a) == len(b) and largest > 1e-4
    assert max(np.abs(x - y).max() for x, y in zip(a, b, strict=True)) <= tolerance * largest


def test_one_step_by_hand():
    run, data = Run(wave_separator(), "wave_l2", optim__learning_rate=0.125), batch()
    gains = np.array([0.5, 0.25])
    error = gains[:, None, None] * data["mix"][:, None] - data["sources"]
    gradient = (2 * error * data["mix"][:, None]).mean(axis=(0, 2, 3)) / 2  # mean over both sources
    metrics = run.step(data, scale=2.0)
    np.testing.assert_allclose(metrics.losses, (error**2).mean(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(metrics.loss, (error**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics.grad_norm, np.linalg.norm(gradient), rtol=1e-5)
    assert metrics.learning_rate == 0.25 and metrics.ok
    np.testing.assert_allclose(run.params()["net"]["gains"], gains - 0.25 * gradient, rtol=1e-5)
    assert int(run.state.step) == 1
    numbers = metrics.numbers(SOURCES)
    assert list(numbers) == ["loss", "grad_norm", "learning_rate", "loss/vocals", "loss/other"]
    np.testing.assert_allclose(numbers["loss/other"], (error[:, 1] ** 2).mean(), rtol=1e-5)


def test_spectral_losses_compare_latents():
    separator = spectral_separator()
    run, data = Run(separator, "l1"), batch()
    variables = jax.device_get(run.state.variables)
    mix, sources = on_device(data)["mix"], on_device(data)["sources"]
    estimates, _ = separator.apply(variables, mix, None, True, mutable=["batch_stats"])
    references = separator.front.encode(sources)[..., :16, :]
    expected = np.abs(np.abs(estimates.latents) - np.abs(references)).mean(axis=(2, 3, 4))
    np.testing.assert_allclose(run.step(data).losses, expected, rtol=1e-4)


@pytest.mark.parametrize(("norm", "dropout"), [(False, 0.0), (True, 0.5)])
def test_four_devices_are_one(norm, dropout):
    runs = [Run(spectral_separator(norm=norm, dropout=dropout), "l1", devices) for devices in (1, 4)]
    before = runs[0].params()
    metrics = [run.step(batch()) for run in runs]
    assert_close(metrics[0].losses, metrics[1].losses)
    gradients = [jax.tree.map(np.subtract, before, run.params()) for run in runs]  # SGD at rate 1
    assert_close(*gradients)
    norm_of_four = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in leaves(gradients[1])))
    np.testing.assert_allclose(metrics[0].grad_norm, norm_of_four, rtol=1e-4)
    if norm:
        assert_close(runs[0].state.batch_stats, runs[1].state.batch_stats)
    for leaf in jax.tree.leaves(runs[1].state.params):
        assert len(leaf.sharding.device_set) == 4 and leaf.is_fully_replicated


@pytest.mark.parametrize(("devices", "size", "parts"), [(1, 4, 4), (2, 4, 2)])
def test_accumulation_is_the_large_batch(devices, size, parts):
    large = Run(spectral_separator(norm=False), "l1", data__batch_size=size)
    small = Run(spectral_separator(norm=False), "l1", devices, data__batch_size=size, optim__accumulate=parts)
    before = large.params()
    a, b = large.step(batch(size=size)), small.step(batch(size=size))
    assert_close(a.losses, b.losses)  # in the order of the batch, too
    assert_close(*(jax.tree.map(np.subtract, before, run.params()) for run in (large, small)))


def test_micro_batches_have_statistics_of_their_own():
    one, two = (Run(spectral_separator(), "l1", optim__accumulate=parts) for parts in (1, 2))
    for run in (one, two):
        run.step(batch())
    a, b = one.state.batch_stats, two.state.batch_stats
    assert max(np.abs(x - y).max() for x, y in zip(leaves(a), leaves(b), strict=True)) > 1e-4


def test_clipping_bounds_the_update():
    run = Run(wave_separator(), "wave_l2", optim__clip=0.01)
    before = run.params()
    metrics = run.step(batch())
    moved = np.linalg.norm(before["net"]["gains"] - run.params()["net"]["gains"])
    assert metrics.grad_norm > 0.05  # the log has the norm before clipping
    np.testing.assert_allclose(moved, 0.01, rtol=1e-4)


def test_averaged_parameters():
    run = Run(wave_separator(), "wave_l2", optim__ema=(0.75, 0.0, 0.5), optim__learning_rate=0.1)
    slow = fast = run.params()["net"]["gains"]
    for seed in range(3):
        run.step(batch(seed))
        slow = 0.75 * slow + 0.25 * run.params()["net"]["gains"]
        fast = 0.5 * fast + 0.5 * run.params()["net"]["gains"]
    for found, expected in zip(run.state.ema, (slow, run.params()["net"]["gains"], fast), strict=True):
        np.testing.assert_allclose(found["net"]["gains"], expected, rtol=1e-6)
    assert list(run.state.candidates) == ["ema", "ema2", "ema3"]
    assert run.state.candidates["ema3"]["params"] is run.state.ema[2]
    assert min(np.abs(a - b).max() for a, b in ((slow, fast), (fast, run.params()["net"]["gains"]))) > 1e-3
    again = training.TrainState.from_items(run.state.items(), run.state.ok)
    assert all(a is b for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(run.state), strict=True))
    alone = Run(wave_separator(), "wave_l2").state
    assert alone.ema == () and alone.candidates["params"]["params"] is alone.params


def test_the_candidate_with_the_best_score_counts():
    def validate(variables):
        return validation.Result({"sdr": variables["score"], "loss": -variables["score"]}, {}, {})

    found = {name: {"score": score} for name, score in {"ema": 1.0, "ema2": 3.0, "ema3": 3.0}.items()}
    name, result = validation.best(validate, found)
    assert name == "ema2"
    assert result.scores == {"sdr": 3.0, "loss": -3.0, "sdr_of/ema": 1.0, "sdr_of/ema2": 3.0, "sdr_of/ema3": 3.0}
    name, result = validation.best(validate, {"params": {"score": 2.0}})
    assert (name, result.scores) == ("params", {"sdr": 2.0, "loss": -2.0})


def test_dropout_differs_by_step_and_repeats_by_seed():
    def losses_of_steps(seed):
        run = Run(spectral_separator(dropout=0.5), "l1")
        run.state = run.state.replace(key=jax.random.key(seed))
        return [float(run.step(batch(), scale=1e-12).loss) for _ in range(2)]

    first, again, other = losses_of_steps(0), losses_of_steps(0), losses_of_steps(1)
    assert first == again
    assert first[0] != first[1] and first != other


def test_statistics_move_in_training_only():
    run = Run(spectral_separator(), "l1")
    before = leaves(run.state.batch_stats)
    run.step(batch())
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(before, leaves(run.state.batch_stats), strict=True))
    forward = training.make_losses(spectral_separator(), losses.build({"name": "l1"}))
    _, after = forward(run.state.variables, on_device(batch()), False)
    assert all(np.array_equal(a, b) for a, b in zip(leaves(run.state.batch_stats), leaves(after), strict=True))


def test_bfloat16_computes_in_bfloat16_and_keeps_float32():
    exact, rough = (Run(spectral_separator(dtype=dtype), "l1") for dtype in (jnp.float32, jnp.bfloat16))
    a, b = exact.step(batch()), rough.step(batch())
    assert b.losses.dtype == np.float32 and all(leaf.dtype == np.float32 for leaf in leaves(rough.params()))
    assert a.loss != b.loss
    np.testing.assert_allclose(a.loss, b.loss, rtol=0.02)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing(poison):
    run = Run(spectral_separator(), "l1", optim__ema=(0.9,), optim__name="adam")
    run.step(batch())
    good = run.state.items()
    good = jax.tree.map(np.copy, jax.device_get({**good, "training": {**good["training"], "key": None}}))
    bad = batch(1)
    bad["sources"] = bad["sources"].copy()
    bad["sources"][2, 1, 10] = poison
    metrics = run.step(bad)
    assert not metrics.ok and not np.isfinite(metrics.loss)
    later = run.step(batch(2))  # already on its way when the loop reads the numbers of the step before
    assert not later.ok
    found = run.state.items()
    found = jax.device_get({**found, "training": {**found["training"], "key": None}})
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(good), strict=True):
        np.testing.assert_array_equal(a, b)
    assert int(run.state.step) == 1
    error = str(training.failure(metrics, 2, SOURCES, [f"song {n}" for n in range(4)]))
    assert error.startswith("step 2: loss/other is ") and "examples: song 2." in error
    assert len(error.splitlines()) == 1
    restored = training.TrainState.from_items(run.state.items(), jnp.bool(True))
    run.state = restored
    assert run.step(batch(2)).ok and int(run.state.step) == 2


# --- Each device with a batch of its own

COLLECTIVES = (
    r"= \S+ (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast)(-start)?\("
)


def collectives(run):
    data = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch().items()}
    text = run.step_.lower(run.state, data, jax.ShapeDtypeStruct((), jnp.float32)).compile().as_text()
    return [match[1] for match in re.finditer(COLLECTIVES, text)]


def test_one_exchange_per_step():
    """Of gradients, batch statistics and losses together."""
    run = Run(spectral_separator(), "l1", 4, parallel="device", optim__name="adam", optim__ema=(0.9,), optim__clip=1.0)
    assert collectives(run) == ["all-reduce"]
    assert len(collectives(Run(spectral_separator(), "l1", 4))) > 1  # what XLA makes of the whole batch


@pytest.mark.parametrize("parts", [1, 2])
def test_devices_with_batches_of_their_own_are_one(parts):
    """Without batch norm; every number and every array."""
    one = Run(spectral_separator(norm=False), "l1", 1, data__batch_size=8)
    four = Run(spectral_separator(norm=False), "l1", 4, data__batch_size=8, parallel="device", optim__accumulate=parts)
    before, data = one.params(), batch(size=8)
    a, b = one.step(data), four.step(data)
    assert_close(a.losses, b.losses)
    np.testing.assert_allclose([a.loss, a.grad_norm], [b.loss, b.grad_norm], rtol=1e-5)
    assert_close(*(jax.tree.map(np.subtract, before, run.params()) for run in (one, four)))
    for leaf in jax.tree.leaves((four.state.params, four.state.opt_state)):
        assert len(leaf.sharding.device_set) == 4 and leaf.is_fully_replicated


def test_batch_norm_sees_the_batch_of_its_device():
    """Gradients, losses and statistics are the means of those of four steps, each on one device's share."""
    four, data = Run(spectral_separator(), "l1", 4, parallel="device", data__batch_size=8), batch(size=8)
    before, stats = four.params(), jax.device_get(four.state.batch_stats)
    metrics = four.step(data)
    shares = []
    for first in range(0, 8, 2):
        one = Run(spectral_separator(), "l1", 1, data__batch_size=2)
        losses_ = one.step({name: x[first : first + 2] for name, x in data.items()}).losses
        shares.append((losses_, jax.tree.map(np.subtract, before, one.params()), leaves(one.state.batch_stats)))
    rows, moves, expected = zip(*shares, strict=True)
    assert_close(np.concatenate(rows), metrics.losses)
    mean = jax.tree.map(lambda *x: sum(x) / 4, *moves)
    assert_close(mean, jax.tree.map(np.subtract, before, four.params()))
    means = [sum(x) / 4 for x in zip(*expected, strict=True)]
    assert_close(means, leaves(four.state.batch_stats))
    assert max(np.abs(x - y).max() for x, y in zip(means, leaves(stats), strict=True)) > 1e-4
    whole = Run(spectral_separator(), "l1", 4, data__batch_size=8)
    whole.step(data)
    assert max(np.abs(x - y).max() for x, y in zip(means, leaves(whole.state.batch_stats), strict=True)) > 1e-4


def test_devices_drop_out_by_themselves_and_go_on_from_each_other():
    """A state of one mode is one of the other: it is the same on all devices."""
    run = Run(spectral_separator(dropout=0.5, norm=False), "l1", 4, parallel="device")
    alike = jax.tree.map(lambda x: np.repeat(x[:1], 4, axis=0), batch())
    first, second = (run.step(alike, scale=1e-12).losses for _ in range(2))
    assert len({row.tobytes() for row in (*first, *second)}) == 8
    other = Run(spectral_separator(dropout=0.5, norm=False), "l1", 4)
    assert jax.tree.structure(run.state.items()) == jax.tree.structure(other.state.items())
    other.state = run.state
    assert other.step(batch()).ok and int(other.state.step) == 3


def test_an_overflow_on_one_device_is_one_on_all():
    run = Run(wave_separator(), "wave_l2", 4, parallel="device", precision="float16")
    with_scale(run, scale=LARGE)
    data = batch()
    data["mix"][3] *= 1e4
    assert run.step(data).ok and scale_of(run.state)["skipped"] == 1
    np.testing.assert_array_equal(run.params()["net"]["gains"], [0.5, 0.25])
    data["sources"][2, 1, 10] = np.nan
    metrics = run.step(data)
    assert not metrics.ok and np.argwhere(np.isnan(metrics.losses)).tolist() == [[2, 1]]


# --- The loss scale


def with_scale(run, **values):
    """The run with another loss scale."""
    fresh = jax.tree.map(jnp.copy, LossScale.fresh())
    given = {name: jnp.asarray(value, getattr(fresh, name).dtype) for name, value in values.items()}
    run.state = run.state.replace(loss_scale=fresh.replace(**given))


def scale_of(state):
    found = jax.device_get(state.loss_scale)
    return {name: getattr(found, name).item() for name in ("scale", "good", "row", "skipped")}


LARGE = 2.0**127  # of float32, too, that the loss and gradients are in


def loud(seed):
    """A batch whose gradient overflows under a large scale, and whose loss does not."""
    return jax.tree.map(lambda x: 1e4 * x, batch(seed))


def test_the_scale_is_halved_by_an_overflow_and_doubled_by_two_thousand_steps():
    scale, after = LossScale.fresh(), jax.jit(LossScale.after)
    assert [float(x) for x in jax.tree.leaves(scale)] == [65536, 0, 0, 0]
    for row in (1, 2):
        scale = after(scale, jnp.bool(False))
        assert [float(x) for x in jax.tree.leaves(scale)] == [65536 / 2**row, 0, row, row]
    for _ in range(1999):
        scale = after(scale, jnp.bool(True))
    assert [float(x) for x in jax.tree.leaves(scale)] == [16384, 1999, 0, 2]
    assert [float(x) for x in jax.tree.leaves(after(scale, jnp.bool(True)))] == [32768, 0, 0, 2]
    assert [float(x) for x in jax.tree.leaves(after(scale, jnp.bool(False)))] == [8192, 0, 1, 3]
    largest = scale.replace(scale=jnp.float32(2**24))
    assert float(after(largest, jnp.bool(True)).scale) == 2**24


def test_a_scaled_gradient_is_that_of_the_loss():
    """To the bit, where nothing computes in float16: the scale is a power of two."""
    plain, scaled = Run(spectral_separator(), "l1"), Run(spectral_separator(), "l1", precision="float16")
    assert plain.state.loss_scale is None
    for seed in range(2):
        a, b = plain.step(batch(seed)), scaled.step(batch(seed))
        assert (a.loss, a.grad_norm) == (b.loss, b.grad_norm) and b.loss_scale.scale == 65536
    for x, y in zip(leaves(plain.state.items()["params"]), leaves(scaled.state.items()["params"]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert scale_of(scaled.state) == {"scale": 65536, "good": 2, "row": 0, "skipped": 0}
    numbers = b.numbers(SOURCES)
    assert (numbers["loss_scale"], numbers["skipped"]) == (65536, 0) and numbers["grad_norm"] == b.grad_norm
    assert "loss_scale" not in a.numbers(SOURCES)


def test_a_step_that_overflows_is_left_out_and_counted():
    run = Run(spectral_separator(), "l1", precision="float16", optim__ema=(0.9,), optim__name="adam")
    run.step(batch())
    before = [np.copy(x) for x in leaves((run.state.params, run.state.ema, run.state.batch_stats, run.state.opt_state))]
    with_scale(run, scale=LARGE, good=7)
    metrics = run.step(loud(1))
    after = leaves((run.state.params, run.state.ema, run.state.batch_stats, run.state.opt_state))
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)
    assert int(run.state.step) == 2 and scale_of(run.state) == {"scale": 2**126, "good": 0, "row": 1, "skipped": 1}
    assert metrics.ok and np.isfinite(metrics.loss) and not np.isfinite(metrics.grad_norm)
    numbers = metrics.numbers(SOURCES)
    assert numbers["grad_norm"] is None and numbers["skipped"] == 1 and numbers["loss"] == metrics.loss
    with_scale(run, scale=1024, row=1, skipped=1)
    metrics = run.step(batch(2))
    assert metrics.ok and scale_of(run.state) == {"scale": 1024, "good": 1, "row": 0, "skipped": 1}
    assert all(np.abs(x - y).max() > 0 for x, y in zip(before[:4], leaves(run.state.params), strict=False))


def test_twenty_overflows_in_a_row_stop_the_run_at_the_state_before_the_last():
    run = Run(wave_separator(), "wave_l2", precision="float16")
    with_scale(run, scale=LARGE, row=18, skipped=30)
    assert run.step(loud(0)).ok and scale_of(run.state)["row"] == 19
    with_scale(run, scale=LARGE, row=19, skipped=31)
    metrics = run.step(loud(1))
    assert not metrics.ok and int(run.state.step) == 1
    assert scale_of(run.state) == {"scale": LARGE, "good": 0, "row": 19, "skipped": 31}
    assert not run.step(batch(2)).ok and int(run.state.step) == 1
    error = str(training.failure(metrics, 2, SOURCES, ["a"], "first: net/x (backward)"))
    assert ", the 20th overflow in a row; examples: a. First: net/x (backward). The state before it is saved" in error


def test_a_loss_that_is_not_finite_is_no_overflow_of_the_gradient():
    run = Run(spectral_separator(), "l1", precision="float16", optim__ema=(0.9,), optim__name="adam")
    bad = batch()
    bad["sources"][2, 1, 10] = np.nan
    metrics = run.step(bad)
    assert not metrics.ok and int(run.state.step) == 0 and scale_of(run.state)["skipped"] == 0
    assert "overflow" not in str(training.failure(metrics, 1, SOURCES, list("abcd")))


def test_a_gradient_that_is_not_finite_is_told_from_a_loss():
    metrics = training.Metrics(np.ones((2, 2)), np.float32(1), np.float32(np.inf), np.float32(0.1), np.bool_(False))
    error = str(training.failure(metrics, 7, SOURCES, ["a", "b"]))
    assert "step 7: the loss is 1.0, its gradient's norm inf" in error and "examples: a; b" in error


@pytest.mark.parametrize(("size", "parts", "devices"), [(6, 1, 4), (4, 2, 4), (0, 1, 1), (4, 0, 1)])
def test_batches_that_do_not_come_out_even(size, parts, devices):
    mesh = training.make_mesh(jax.devices()[:devices])
    with pytest.raises(JaxsepError, match=f"data.batch_size={size} is not a multiple of {parts * devices}"):
        training.check_batch(config(data__batch_size=size, optim__accumulate=parts), mesh)
    training.check_batch(config(data__batch_size=8, optim__accumulate=2), training.make_mesh())


def test_the_compiled_step_takes_one_shape():
    run = Run(wave_separator(), "wave_l2")
    optimiser, loss = optim.build(run.config.optim, 100), losses.build({"name": "wave_l2"})
    step = training.compile_train_step(wave_separator(), loss, optimiser, run.config, run.mesh, run.state)
    _, metrics = step(run.state, training.put(batch(), run.mesh), np.float32(1))
    assert metrics.ok
    with pytest.raises(TypeError):
        step(run.state, training.put(batch(size=5), run.mesh), np.float32(1))


class Asked(nn.Module):
    """The mixture times a gain for each source, summed as the targets say."""

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        gains = self.param("gains", lambda key: jnp.array([0.5, 0.25]))
        weights = jnp.eye(2)[None] if targets is None else targets
        return jnp.einsum("bks,s,btc->bktc", jnp.broadcast_to(weights, (len(z), *weights.shape[1:])), gains, z)


def test_targets_ask_for_weighted_sums_of_sources():
    """Loss and gradient by hand: of target sum_s w_s source_s, for a net that is asked for it."""
    data = batch()
    targets = np.array([[[1, 0]], [[0, 1]], [[1, 1]], [[0.5, 0]]], np.float32)
    run = Run(Separator(Identity(), Asked(), as_it_is), "wave_l2", data__conditions="one_hot")
    metrics = run.step({**data, "targets": targets})
    gains = targets[:, 0] @ np.array([0.5, 0.25])
    error = gains[:, None, None] * data["mix"] - np.einsum("bs,bstc->btc", targets[:, 0], data["sources"])
    np.testing.assert_allclose(metrics.losses[:, 0], (error**2).mean((1, 2)), rtol=1e-5)
    slopes = np.einsum("btc,btc,bs->s", error, data["mix"], targets[:, 0]) * 2 / error.size
    np.testing.assert_allclose(run.state.params["net"]["gains"], [0.5, 0.25] - slopes, rtol=1e-4)
    assert metrics.numbers(("target",))["loss/target"] == pytest.approx((error**2).mean(), rel=1e-5)


class Inner(nn.Module):
    """What it is fed without three samples at each end, for two sources."""

    def lengths(self, length):
        return length + 6, length

    def __call__(self, wave, targets, train):
        return jnp.stack([wave[:, 3:-3]] * 2, axis=1)


def test_under_context_the_loss_compares_the_middle():
    """The mixture is each source here: with its ends as context the estimate is perfect, and not one sample late."""
    wave = jnp.asarray(np.random.default_rng(0).standard_normal((2, 50, 1)), jnp.float32)
    data = {"mix": wave, "sources": jnp.stack([wave] * 2, axis=1)}
    separator = Separator(Identity(), Inner(), as_it_is, context=True)
    compute = training.make_losses(separator, losses.WaveL1())
    np.testing.assert_array_equal(compute({}, data, True)[0], np.zeros((2, 2)))
    late = {**data, "sources": jnp.roll(data["sources"], 1, axis=2)}
    assert float(compute({}, late, True)[0].min()) > 0.5
