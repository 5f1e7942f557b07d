"""Rates of parts: what is frozen stays bit for bit, what has a rate moves by it, and patterns say what they mean."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import losses, optim, training
from jaxsep.config import defaults
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft
from jaxsep.heads import Mask
from jaxsep.layers.complex import ComplexBatchNorm
from jaxsep.parts import Parts, parse_parts
from jaxsep.separator import Separator


class Layers(nn.Module):
    """first -> norm -> second; the norm is told to train by a field or in the call, as both occur."""

    by_field: bool = True

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        x = nn.Dense(6, name="first")(jnp.abs(z))
        fields, given = {"use_running_average": not train}, {}
        if not self.by_field:
            fields, given = given, fields
        x = nn.elu(nn.BatchNorm(momentum=0.9, name="norm", **fields)(x, **given))
        return nn.Dense(z.shape[-1], name="second")(x)[:, None]


def separator(**net):
    return Separator(front=Stft(frame=32, hop=8, bins=16), net=Layers(**net), head=Mask("sigmoid"))


def batch(seed=0):
    sources = np.random.default_rng(seed).standard_normal((4, 1, 64, 2)).astype(np.float32)
    return {"mix": 2 * sources[:, 0], "sources": sources}


@functools.cache
def trained(parts, steps=1, by_field=True, **optimiser):
    """Variables before and after training, with the metrics of the first step and the averaged weights."""
    config = defaults()
    config.sources = config.data.stems = "vocals"
    config.data.segment, config.data.batch_size = 64, 4
    config.optim.update({"name": "sgd", "b1": 0.0, "learning_rate": 1.0, "parts": parts, **optimiser})
    mesh, made = training.make_mesh(jax.devices()[:1]), separator(by_field=by_field)
    built = optim.build(config.optim, 10)
    state = training.init_state(made, built, config, mesh)
    before = jax.device_get((state.params, state.batch_stats))
    step = training.make_train_step(made, losses.build({"name": "l1"}), built, config, mesh)
    metrics = []
    for number in range(steps):
        state, told = step(state, training.put(batch(number), mesh), jnp.float32(1))
        metrics.append(jax.device_get(told))
    return (
        before,
        jax.device_get((state.params, state.batch_stats)),
        metrics,
        jax.device_get(state.ema[0] if state.ema else None),
    )


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_frozen_parts_stay_bit_for_bit():
    (before, stats), (after, moved), _, ema = trained(
        "net/first=0, net/norm=0", steps=3, weight_decay=0.1, ema=(0.9,), name="adamw", learning_rate=0.1
    )
    for name in ("first", "norm"):
        assert same(before["net"][name], after["net"][name]) and same(before["net"][name], ema["net"][name])
        assert not same(before["net"]["second"], after["net"]["second"])
        assert not same(ema["net"]["second"], after["net"]["second"])
    assert same(stats, moved)
    (_, stats), (_, moved), _, _ = trained("net/first=0", steps=1)
    assert not same(stats, moved)  # the norm is not frozen


@pytest.mark.parametrize("by_field", [True, False])
def test_a_frozen_norm_normalises_with_its_running_statistics(by_field):
    (params, stats), _, (frozen,), _ = trained("net/norm=0", by_field=by_field)
    _, _, (free,), _ = trained("", by_field=by_field)
    forward = training.make_losses(separator(by_field=by_field), losses.build({"name": "l1"}))
    data = jax.tree.map(jnp.asarray, batch())
    expected, _ = forward({"params": params, "batch_stats": stats}, data, False)
    np.testing.assert_allclose(frozen.losses, expected, rtol=1e-5)
    assert np.abs(free.losses - np.asarray(expected)).max() > 1e-3


def test_complex_norms_freeze_as_well():
    norm = ComplexBatchNorm()
    x = 3 + jax.random.normal(jax.random.key(0), (2, 4, 4, 6))
    variables = norm.init(jax.random.key(1), x, True)

    class Around(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return ComplexBatchNorm(name="norm")(x, train)

    around = {name: {"norm": tree} for name, tree in variables.items()}
    with parse_parts("no*=0").norms():
        y, updates = Around().apply(around, x, True, mutable=["batch_stats"])
    np.testing.assert_array_equal(y, norm.apply(variables, x, False))
    assert same(updates["batch_stats"], around["batch_stats"])
    with parse_parts("other=0").norms():
        y, updates = Around().apply(around, x, True, mutable=["batch_stats"])
    assert np.abs(y - norm.apply(variables, x, False)).max() > 0.1 and not same(updates, around["batch_stats"])


def test_parts_move_by_their_rates():
    """One step of plain gradient descent: a rate multiplies the change, and the last pattern decides."""
    (before, _), (whole, _), _, _ = trained("")
    _, (slow, _), _, _ = trained("net=0.25, net/second/bias=3")
    change = lambda after: jax.tree.map(np.subtract, after["net"], before["net"])
    for name, layer in change(whole).items():
        for kind, expected in layer.items():
            rate = 3 if (name, kind) == ("second", "bias") else 0.25
            if (name, kind) == ("first", "bias"):
                continue  # the norm behind it takes it away
            assert np.abs(expected).max() > 1e-5
            np.testing.assert_allclose(change(slow)[name][kind], rate * expected, rtol=1e-3, atol=1e-6)


def test_gradients_of_frozen_parts_do_not_count():
    """Neither in the norm that is logged nor in clipping."""
    (before, _), (after, _), (free,), _ = trained("")
    change = jax.tree.map(np.subtract, before["net"], after["net"])  # the gradient, at rate 1
    norm = lambda tree: np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(tree)))
    np.testing.assert_allclose(free.grad_norm, norm(change), rtol=1e-4)
    _, (after, _), (frozen,), _ = trained("net/first=0", clip=0.01)
    np.testing.assert_allclose(frozen.grad_norm, norm({k: change[k] for k in ("norm", "second")}), rtol=1e-4)
    assert frozen.grad_norm < 0.99 * free.grad_norm
    np.testing.assert_allclose(norm(jax.tree.map(np.subtract, before["net"], after["net"])), 0.01, rtol=1e-3)


def test_the_rate_of_a_front_end_multiplies_its_own():
    config = defaults().optim
    config.update(learning_rate=0.5, parts="front=0.5, net/a*=0")
    config.front.rate = 0.1
    params = {"front": {"kernels": jnp.ones(2)}, "net": {"ab": {"kernel": jnp.ones(2)}, "c": {"kernel": jnp.ones(2)}}}
    moved = optim.build(config, 10).moved(params, params, jnp.int32(0), jnp.float32(1))
    np.testing.assert_allclose(moved["front"]["kernels"], 1 - 0.5 * 0.1 * 0.5)
    np.testing.assert_array_equal(moved["net"]["ab"]["kernel"], 1)
    np.testing.assert_allclose(moved["net"]["c"]["kernel"], 0.5)


@pytest.mark.parametrize(
    ("path", "rate"),
    [
        ("net/vocals/conv1/kernel", 0.0),
        ("net/vocals/conv12/kernel", 1.0),
        ("net/vocals/deconv1/kernel", 0.5),
        ("net/drums/conv1/kernel", 1.0),
        ("net/drums/conv1/bias", 2.0),
    ],
)
def test_patterns_match_layers_and_all_within_them(path, rate):
    assert parse_parts("net/vocals/conv1=0,*/deconv*=0.5 , net/drums/*/bias=2").rate(path) == rate


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("net/frist=0", "'net/frist' matches no parameter of this system; near it are .*net/first"),
        ("first=0", "'first' matches no parameter of this system; near it are"),
        ("net/first=0, n*=0", "all parameters are frozen"),
    ],
)
def test_patterns_that_match_nothing_or_leave_nothing_are_named(parts, message):
    params = {"net": {"first": {"kernel": 0, "bias": 0}, "second": {"kernel": 0}}}
    with pytest.raises(JaxsepError, match=message):
        parse_parts(parts).check(params)


@pytest.mark.parametrize("parts", ["net/first", "=0", "net=-1", "net=nan", "net=inf", "net=slow", "net=0,"])
def test_what_is_no_rate_is_refused(parts):
    with pytest.raises(JaxsepError, match=r"optim\.parts=.*expected a pattern and a rate of 0"):
        parse_parts(parts)
    assert parse_parts("") == Parts() and Parts().rate("net/first") == 1
