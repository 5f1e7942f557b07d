"""Optimisers against their published update rules, schedules against values worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import optim
from jaxsep.config import defaults
from jaxsep.errors import JaxsepError


def config(**values):
    block = defaults().optim
    for key, value in values.items():
        target, _, name = key.rpartition("__")
        (block[target] if target else block)[name] = value
    return block


def directions(block, grads, params):
    """The direction of each of a series of gradients of one scalar."""
    built = optim.build(block, 100)
    state, found = built.directions.init({"w": jnp.float32(params)}), []
    for grad in grads:
        direction, state = built.directions.update({"w": jnp.float32(grad)}, state, {"w": jnp.float32(params)})
        found.append(float(direction["w"]))
    return found


def adam(grads, b1, b2, eps):
    m = v = 0.0
    for t, g in enumerate(grads, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        yield (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)


def test_adam_is_that_of_the_paper_with_its_epsilon():
    grads = [1.0, -3.0, 0.5, 1e-4]
    block = config(b1=0.8, b2=0.95, eps=0.1)
    np.testing.assert_allclose(directions(block, grads, 0.0), list(adam(grads, 0.8, 0.95, 0.1)), rtol=1e-4)


def test_epsilon_is_larger_for_gradients_of_float16():
    def first(eps, float16):
        built = optim.build(config(eps=eps), 100, float16)
        grads = {"w": jnp.float32(1e-6)}
        return float(built.directions.update(grads, built.directions.init(grads), grads)[0]["w"])

    np.testing.assert_allclose(first(1e-8, False), 1e-6 / (1e-6 + 1e-8), rtol=1e-4)
    np.testing.assert_allclose(first(1e-8, True), 1e-6 / (1e-6 + 1e-4), rtol=1e-4)
    np.testing.assert_allclose(first(1e-2, True), 1e-6 / (1e-6 + 1e-2), rtol=1e-4)


def test_weight_decay_joins_the_gradient_in_adam_and_the_direction_in_adamw():
    grads, weight, decay = [1.0, -2.0], 4.0, 0.25
    coupled = list(adam([g + decay * weight for g in grads], 0.9, 0.999, 1e-8))
    decoupled = [d + decay * weight for d in adam(grads, 0.9, 0.999, 1e-8)]
    np.testing.assert_allclose(directions(config(weight_decay=decay), grads, weight), coupled, rtol=1e-4)
    block = config(name="adamw", weight_decay=decay)
    np.testing.assert_allclose(directions(block, grads, weight), decoupled, rtol=1e-4)


def test_sgd_has_momentum_and_rmsprop_divides_by_the_root_mean_square():
    np.testing.assert_allclose(directions(config(name="sgd", b1=0.5), [1.0, 1.0, 0.0], 0.0), [1, 1.5, 0.75])
    block = config(name="rmsprop", b2=0.75, eps=1e-8)
    squares = [0.25 * 4, 0.75 * (0.25 * 4) + 0.25 * 16]
    np.testing.assert_allclose(directions(block, [2.0, 4.0], 0.0), [2, 4] / np.sqrt(squares), rtol=1e-5)


def test_gradients_are_clipped_by_their_global_norm():
    built = optim.build(config(name="sgd", b1=0.0, clip=1.0), 100)
    for scale, expected in ((1.0, 1 / 5), (0.1, 0.1)):  # |(3, 4)| = 5 is cut to 1, 0.5 is left alone
        grads = {"a": jnp.float32(3 * scale), "b": jnp.float32(4 * scale)}
        clipped, _ = built.directions.update(grads, built.directions.init(grads), grads)
        np.testing.assert_allclose([clipped["a"], clipped["b"]], [3 * expected, 4 * expected], rtol=1e-6)


def rates(block, steps, at):
    rate = optim.build(block, steps).learning_rate
    return [float(rate(jnp.int32(step))) for step in at]


def test_halved_every_so_many_steps():
    block = config(learning_rate=0.8, schedule__name="milestones", schedule__every=10)
    np.testing.assert_allclose(rates(block, 100, [0, 9, 10, 19, 20, 35]), [0.8, 0.8, 0.4, 0.4, 0.2, 0.1], rtol=1e-6)


def test_changed_at_milestones():
    block = config(learning_rate=1.0, schedule__name="milestones", schedule__milestones=(5, 7), schedule__factor=0.1)
    np.testing.assert_allclose(rates(block, 100, [0, 4, 5, 6, 7, 99]), [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5)


def test_warm_up_then_cosine_to_zero():
    block = config(learning_rate=2.0, schedule__name="warmup_cosine", schedule__warmup=4)
    found = rates(block, 12, range(12))
    np.testing.assert_allclose(found[:5], [0.5, 1.0, 1.5, 2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found[8], 1.0, rtol=1e-6)  # half way down
    assert all(np.diff(found[4:]) < 0) and 0 < found[11] < 0.1
    block.schedule.warmup = 0
    assert rates(block, 12, [0]) == [2.0]


def test_plateau_counts_evaluations_without_a_better_one():
    schedule = config(schedule__name="plateau", schedule__patience=2, schedule__factor=0.5).schedule
    scores = [1.0, 2.0, 2.0, 1.9, 2.1, 2.0, 2.1, 2.1, 2.0, 9.0]
    scales = [optim.plateau_scale(scores[:n], schedule) for n in range(len(scores) + 1)]
    assert scales == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    schedule.cooldown = 2
    scales = [optim.plateau_scale([1.0] * n, schedule) for n in range(9)]
    assert scales == [1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    schedule.name = "constant"
    assert optim.plateau_scale(scores, schedule) == 1.0


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([1.0, 2.0, 3.0], 0, False),
        ([], 2, False),
        ([3.0, 2.0], 2, False),
        ([3.0, 2.0, 1.0], 2, True),
        ([3.0, 3.0, 3.0], 2, True),  # no better is not better
        ([1.0, 3.0, 2.0], 2, False),
        ([3.0, 1.0, 4.0], 2, False),
    ],
)
def test_stops_after_so_many_evaluations_without_a_better_one(scores, patience, expected):
    assert optim.stalled(scores, patience) is expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "adm"}, "optim.name='adm' is unknown, expected one of adam, .*did you mean 'adam'"),
        ({"schedule__name": "cosine"}, "optim.schedule.name='cosine' is unknown, expected one of constant"),
        ({"learning_rate": 0.0}, "optim.learning_rate=0.0: expected more than 0"),
        ({"learning_rate": float("nan")}, "optim.learning_rate=nan"),
        ({"b2": 1.0}, "optim.b2=1.0: expected 0 <= b2 < 1"),
        ({"ema": (0.9, 1.0)}, r"optim.ema=\(0.9, 1.0\): expected decays from 0 to below 1, each once"),
        ({"ema": (0.9, 0.9)}, r"optim.ema=\(0.9, 0.9\): expected decays"),
        ({"clip": -1.0}, "optim.clip=-1.0"),
        ({"schedule__name": "milestones"}, r"milestones=\(\), every=0; .* one of the two"),
        ({"schedule__name": "milestones", "schedule__milestones": (7, 5)}, "rising step numbers"),
        ({"schedule__name": "warmup_cosine", "schedule__warmup": 100}, "warmup=100: expected 0 to steps - 1 = 99"),
        ({"schedule__name": "plateau", "schedule__patience": 0}, "patience=0: expected 1 or more"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(JaxsepError, match=message):
        optim.build(config(**values), 100)
