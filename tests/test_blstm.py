"""Spleeter's BLSTM against the same layers in Keras."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.models.blstm import MagnitudeBLSTM
from jaxsep.separator import wants_statistics


def keras_blstm(layers, units, bins, channels):
    """As spleeter/model/functions/blstm.py has its layers: flatten per frame, BLSTMs, dense with ReLU."""
    keras = pytest.importorskip("keras", reason="the parity extra brings Keras")
    x = entry = keras.Input((None, bins, channels))
    x = keras.layers.TimeDistributed(keras.layers.Flatten())(x)
    for i in range(layers):
        lstm = keras.layers.LSTM(units, return_sequences=True, kernel_initializer="he_uniform")
        x = keras.layers.Bidirectional(lstm, name=f"layer{i}")(x)
    x = keras.layers.Dense(bins * channels, activation="relu", kernel_initializer="he_uniform", name="dense")(x)
    return keras.Model(entry, keras.layers.TimeDistributed(keras.layers.Reshape((bins, channels)))(x))


def copy_to(model, params):
    """Our arrays into Keras layers of the same name, without transposition."""
    for name, layer in params["lstm"].items():
        weights = [layer[way][key] for way in ("forward", "backward") for key in ("input", "recurrent", "bias")]
        model.get_layer(name).set_weights([np.asarray(x) for x in weights])
    model.get_layer("dense").set_weights([np.asarray(params["dense"][key]) for key in ("kernel", "bias")])


def spectrum(*shape, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((*shape, 2)) @ [1, 1j], jnp.complex64)


def initial(net, z, seed=0):
    return jax.jit(lambda z: net.init(jax.random.key(seed), z, None, False))(z)


def moved(variables, seed=0):
    """Every leaf away from where it starts."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.2 * rng.standard_normal(leaf.shape).astype(np.float32), variables)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


CASES = [
    pytest.param(3, 6, (2, 9, 10, 2), id="narrow"),
    pytest.param(4, 5, (1, 7, 6, 1), id="four layers"),
    pytest.param(3, 250, (1, 12, 1024, 2), id="full", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("layers", "units", "shape"), CASES)
def test_equal_to_keras(layers, units, shape):
    """Values to 1e-5 of the largest, gradients for the input to 1e-4, all weights random."""
    z = spectrum(*shape)
    net = MagnitudeBLSTM(layers, units)
    variables = initial(net, z)
    variables = variables if units > 100 else moved(variables)
    model = keras_blstm(layers, units, *shape[2:])
    copy_to(model, variables["params"])
    weight = jnp.asarray(np.random.default_rng(2).standard_normal(shape), jnp.float32)

    def theirs(x):
        trainable, others = ([v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables))
        return model.stateless_call(trainable, others, x)[0]

    def both(function):
        def values(x):
            return function(x), jax.grad(lambda x: (function(x) * weight).sum())(x)

        return jax.jit(values)(jnp.abs(z))

    value, gradient = both(lambda x: net.apply(variables, x.astype(jnp.complex64), None, False))
    expected, expected_gradient = both(theirs)
    assert relative(value, expected) < 1e-5
    assert relative(gradient, expected_gradient) < 1e-4


def test_parameter_counts():
    """Per source; Spleeter's cuDNN biases are 4 x 250 x 2 x 3 more."""

    def count(bins, **fields):
        z = jax.ShapeDtypeStruct((1, 4, bins, 2), jnp.complex64)
        net = MagnitudeBLSTM(**fields)
        shapes = jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), z)["params"]
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    assert count(1024) == 8_628_048 == 8_634_048 - 6_000
    assert count(2049) == 13_755_098
    assert count(2049, units=500) == 34_506_098
    assert count(1024, layers=4) == 8_628_048 + 4 * 250 * (500 + 250 + 1) * 2


def test_initial_values_are_those_of_keras():
    """he_uniform kernels, orthogonal recurrent weights, forget gates open."""
    params = initial(MagnitudeBLSTM(1, 8), spectrum(1, 2, 20, 1))["params"]
    lstm = params["lstm"]["layer0"]["backward"]
    for kernel, inputs in ((lstm["input"], 20), (params["dense"]["kernel"], 16)):
        limit = math.sqrt(6 / inputs)
        assert 0.9 * limit < np.abs(kernel).max() <= limit
    recurrent = np.asarray(lstm["recurrent"])
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(8), atol=1e-5)
    np.testing.assert_array_equal(lstm["bias"], [0] * 8 + [1] * 8 + [0] * 16)


def test_standardising_scales_input_and_output():
    """The standardised net is the plain one between two linear maps per bin."""
    z = spectrum(2, 5, 6, 2)
    plain, scaled = MagnitudeBLSTM(1, 4), MagnitudeBLSTM(1, 4, standardise=True)
    assert wants_statistics(scaled) and not wants_statistics(plain)
    mean, std = -jnp.arange(1.0, 7), jnp.arange(2.0, 8)  # a mean below 0 keeps what the plain net is fed above it
    params = scaled.with_statistics(initial(scaled, z)["params"], mean, std)
    fed = ((jnp.abs(z) - mean[:, None]) / std[:, None]).astype(jnp.complex64)
    shared = {name: params[name] for name in ("lstm", "dense")}
    expected = plain.apply({"params": shared}, fed, None, False) * std[:, None]
    assert relative(scaled.apply({"params": params}, z, None, False), expected) < 1e-5


def test_bins_of_other_weights_are_refused():
    z = spectrum(1, 3, 6, 2)
    net = MagnitudeBLSTM(1, 4)
    variables = initial(net, z)
    with pytest.raises(JaxsepError, match="blstm: 5 bins in 2 channels, the weights are for 12 values"):
        net.apply(variables, z[:, :, :5], None, False)
