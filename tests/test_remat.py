"""What the backward pass finds in memory is what was asked for, and the gradient is the same."""

import functools
import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import losses, optim, precision, remat, training
from jaxsep.config import defaults
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft
from jaxsep.heads import Mask
from jaxsep.separator import Separator

LENGTH, FRAMES, BINS, WIDTH, SIZE = 88, 15, 16, 24, 4


class Block(nn.Module):
    """Two layers, and what lies between them."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(WIDTH, name="inner", dtype=self.dtype)(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm", dtype=self.dtype)(x)
        return nn.elu(nn.Dropout(0.5)(x, deterministic=not train))


class Net(nn.Module):
    """Three blocks in a row."""

    dtype: Any = jnp.float32

    def lengths(self, length):
        return length, length

    @nn.compact
    def __call__(self, z, targets, train):
        x = jnp.abs(z).reshape(*z.shape[:2], -1)
        for number in range(3):
            x = Block(name=f"block{number}", dtype=self.dtype)(x, train)
        y = nn.Dense(2 * z.shape[2] * z.shape[3], name="last", dtype=self.dtype)(x)
        return jnp.moveaxis(y.reshape(*z.shape, 2), -1, 1)


def parts(text):
    """Separator, loss, config and optimiser of a run with this `remat`."""
    config = defaults()
    config.sources = config.data.stems = "vocals,other"
    config.data.segment, config.data.batch_size, config.remat = LENGTH, SIZE, text
    model = Separator(front=Stft(frame=32, hop=8, bins=BINS), net=Net(), head=Mask("sigmoid"))
    return model, losses.build({"name": "l2"}), config, optim.build(config.optim, 10)


def batch():
    sources = np.random.default_rng(0).standard_normal((SIZE, 2, LENGTH, 2)).astype(np.float32)
    return {"mix": jnp.asarray(sources.sum(1)), "sources": jnp.asarray(sources)}


def residuals(text, capsys):
    """Shapes of what the gradient of the objective keeps, apart from its arguments: (named, others)."""
    model, loss, config, optimiser = parts(text)
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(model, optimiser, config, mesh)
    objective = remat.rematerialised(training.make_objective(model, loss, config), text)
    capsys.readouterr()
    scalar = lambda params, data: objective(params, state, state.batch_stats, data, 0)[0]
    jax.ad_checkpoint.print_saved_residuals(scalar, state.params, batch())
    lines = [line for line in capsys.readouterr().out.splitlines() if "from the argument" not in line]
    shapes = [(tuple(map(int, filter(None, re.findall(r"\[([\d,]*)\]", line)[0].split(",")))), line) for line in lines]
    return (
        [shape for shape, line in shapes if "named 'kept'" in line],
        [shape for shape, line in shapes if "named 'kept'" not in line and "constant" not in line],
    )


def test_only_the_outputs_that_were_asked_for_are_kept(capsys):
    activation = lambda shape: np.prod(shape) >= SIZE * BINS * 2
    named, others = residuals("", capsys)
    assert not named and sum(map(activation, others)) > 10, "everything is kept unless it is asked otherwise"
    one_of_each_block = [(SIZE, FRAMES, WIDTH)]
    for text, count in (("net/block*", 3 * 3), ("net/block?/inner, net/block1/norm", 4), ("net/block1", 1)):
        named, others = residuals(text, capsys)
        assert set(named) == set(one_of_each_block) and len(named) <= count and len(named) >= min(count, 4)
        assert not list(filter(activation, others)), others


def test_the_gradient_is_the_same():
    """With statistics and losses, of two micro-batches, with dropout."""
    results = {}
    for text in ("", "net/block1, net/block2/inner", "net"):
        model, loss, config, optimiser = parts(text)
        config.optim.accumulate = 2
        state = training.init_state(model, optimiser, config, training.make_mesh(jax.devices()[:1]))
        results[text] = jax.device_get(jax.jit(training.make_gradient(model, loss, config))(state, batch()))
    gradient, stats, terms = results.pop("")
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    for found, *others in results.values():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * largest), found, gradient)
        # Means of a standardised layer are about 0: of the numbers that they are means of, 1e-7 is rounding.
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), others, [stats, terms])


def test_what_is_not_kept_is_computed_again():
    count = {}
    for text in ("", "net/block*", "net"):
        model, loss, config, optimiser = parts(text)
        mesh = training.make_mesh(jax.devices()[:1])
        state = jax.eval_shape(functools.partial(training.init_state, model, optimiser, config, mesh))
        gradient = training.make_gradient(model, loss, config)
        count[text] = str(jax.make_jaxpr(gradient)(state, batch())).count(" dot_general[")
    assert count[""] < count["net"] and count["net/block*"] <= count["net"]


def test_a_pattern_that_matches_nothing_is_refused_at_the_start():
    model, _, config, _ = parts("net/block0, net/blokc1")
    with pytest.raises(JaxsepError, match=r"remat: 'net/blokc1' matches no layer of this net; near it are net/block1"):
        precision.check_layers(model, config)
    precision.check_layers(model, parts("net/block?, net/last")[2])
