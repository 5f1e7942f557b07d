"""The recurrent layer against a float64 LSTM written from its equations, Keras, and the gradient of a plain scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxsep.layers import recurrent as recurrent_layers
from jaxsep.layers.recurrent import BLSTM, LSTM, lstm


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_direction(x, weights):
    """[b n d] -> [b n u] in float64, one example and one frame at a time."""
    w, r, b = (np.asarray(weights[name], np.float64) for name in ("input", "recurrent", "bias"))
    units = r.shape[0]
    out = np.zeros((*x.shape[:2], units))
    for example in range(len(x)):
        h, cell = np.zeros(units), np.zeros(units)
        for n, frame in enumerate(np.asarray(x[example], np.float64)):
            a = frame @ w + h @ r + b
            i, f, g, o = (a[k * units : (k + 1) * units] for k in range(4))
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            h = out[example, n] = sigmoid(o) * np.tanh(cell)
    return out


def numpy_blstm(x, params):
    for name in sorted(params):
        forward = numpy_direction(x, params[name]["forward"])
        backward = numpy_direction(x[:, ::-1], params[name]["backward"])[:, ::-1]
        x = np.concatenate([forward, backward], axis=-1)
    return x


def made(layers=2, units=5, shape=(3, 7, 4), seed=0, **fields):
    """A layer, its variables (large enough to leave the linear range) and an input."""
    x = jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
    net = BLSTM(units, layers, **fields)
    variables = jax.jit(lambda x: net.init(jax.random.key(seed), x, False))(x)
    return net, jax.tree.map(lambda leaf: 3 * leaf, variables), x


def evaluated(net, variables, x):
    return jax.jit(lambda v: net.apply(v, x, False))(variables)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("layers", [1, 3])
def test_equal_to_the_equations(layers):
    net, variables, x = made(layers)
    assert relative(evaluated(net, variables, x), numpy_blstm(np.asarray(x), variables["params"])) < 1e-5


def test_one_direction_is_equal_to_the_equations():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 7, 4)), jnp.float32)
    net = LSTM(5, 2)
    params = jax.tree.map(lambda leaf: 3 * leaf, net.init(jax.random.key(0), x)["params"])
    expected = numpy_direction(numpy_direction(np.asarray(x), params["layer0"]), params["layer1"])
    assert relative(net.apply({"params": params}, x), expected) < 1e-5
    half = net.clone(dtype=jnp.bfloat16).apply({"params": params}, x)
    assert half.dtype == jnp.bfloat16 and 0 < relative(half.astype(jnp.float32), expected) < 0.03


def test_equal_to_keras():
    keras = pytest.importorskip("keras", reason="the parity extra brings Keras")
    net, variables, x = made(1)
    layer = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True))
    layer.build(x.shape)
    directions = [variables["params"]["layer0"][name] for name in ("forward", "backward")]
    layer.set_weights([np.asarray(d[name]) for d in directions for name in ("input", "recurrent", "bias")])
    assert relative(evaluated(net, variables, x), layer(np.asarray(x))) < 1e-5


@pytest.mark.parametrize("large, rows, units", [(2**20, 3, 5), (0, 3, 5), (0, 1, 5), (0, 1, 64)])
def test_gradient_is_that_of_the_plain_scan(large, rows, units, monkeypatch):
    """The saved gates give what differentiating the recurrence step by step gives; one row has a product of its own."""
    monkeypatch.setattr(recurrent_layers, "LARGE", large)
    rng = np.random.default_rng(0)
    gates = jnp.asarray(rng.standard_normal((9, 2, rows, 4 * units)), jnp.float32)
    recurrent = tuple(jnp.asarray(rng.standard_normal((2, units, 4 * units)) / units**0.5, jnp.float32))
    weight = jnp.asarray(rng.standard_normal((9, 2, rows, units)), jnp.float32)

    def plain(gates, recurrent):
        def step(state, gates):
            h, cell = state
            i, f, g, o = jnp.split(gates + jnp.einsum("rbu,rug->rbg", h, jnp.stack(recurrent)), 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (h, cell), h

        return lax.scan(step, (jnp.zeros((2, rows, units)),) * 2, gates)[1]

    def both(function):
        return function(gates, recurrent), jax.grad(lambda *args: (function(*args) * weight).sum(), (0, 1))(
            gates, recurrent
        )

    results = [jax.tree.leaves(jax.jit(both, static_argnums=0)(function)) for function in (lstm, plain)]
    for ours, theirs in zip(*results, strict=True):
        assert relative(ours, theirs) < 1e-5


def test_gradient_follows_finite_differences():
    """Of every parameter of two layers, along a random direction, in float64 numpy."""
    net, variables, x = made(2, 3, (2, 5, 4))
    weight = np.random.default_rng(1).standard_normal((2, 5, 6))
    gradient = jax.jit(jax.grad(lambda v: (net.apply(v, x, False) * weight.astype(np.float32)).sum()))(variables)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), variables["params"])

    def value(step):
        moved = jax.tree.map(lambda p, d: np.asarray(p, np.float64) + step * d, variables["params"], direction)
        return (numpy_blstm(np.asarray(x), moved) * weight).sum()

    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient["params"], direction)
    assert sum(jax.tree.leaves(products)) == pytest.approx(expected, rel=1e-4)


def test_parameters_and_initial_values():
    net = BLSTM(16, 2)
    x = jnp.zeros((1, 3, 10))
    params = jax.jit(lambda x: net.init(jax.random.key(0), x, False))(x)["params"]
    shapes = jax.tree.map(jnp.shape, params["layer1"]["backward"])
    assert shapes == {"input": (32, 64), "recurrent": (16, 64), "bias": (64,)}
    assert params["layer0"]["forward"]["input"].shape == (10, 64)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert 0.99 * 0.25 < np.abs(values).max() <= 0.25 and abs(values.mean()) < 0.01
    directions = params["layer0"]["forward"]["input"], params["layer0"]["backward"]["input"]
    assert relative(*directions) > 0.1


def test_dropout_is_between_layers_only():
    def outputs(layers):
        net, variables, x = made(layers, dropout=0.5)
        run = jax.jit(lambda key: net.apply(variables, x, True, rngs={"dropout": key}))
        return run(jax.random.key(0)), run(jax.random.key(1))

    assert relative(*outputs(1)) == 0
    assert relative(*outputs(2)) > 1e-2
    assert all((out != 0).all() for out in outputs(2))
    net, variables, x = made(2, dropout=0.5)
    assert relative(evaluated(net, variables, x), evaluated(net.clone(dropout=0.0), variables, x)) == 0


def test_bfloat16_computes_near_float32():
    net, variables, x = made(2)
    half = net.clone(dtype=jnp.bfloat16)
    out = evaluated(half, variables, x)
    assert out.dtype == jnp.bfloat16
    assert 0 < relative(out.astype(jnp.float32), evaluated(net, variables, x)) < 0.03
    gradient = jax.jit(jax.grad(lambda v: half.apply(v, x, False).astype(jnp.float32).sum()))(variables)
    expected = jax.jit(jax.grad(lambda v: net.apply(v, x, False).sum()))(variables)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32 and relative(ours, theirs) < 0.1
