"""Initial weights: fans counted by running each layer, variances of what is drawn, Demucs' rescaling by hand."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxsep import config as configs
from jaxsep import initialisation, separator
from jaxsep.errors import JaxsepError
from jaxsep.layers import complex as complex_layers
from jaxsep.layers import conv, conv1d, dconv, hybrid, recurrent, transformer
from jaxsep.models import demucs, lasaft

QUICK = {"xla_backend_optimization_level": 0}

LAYERS = {
    "conv": (conv.Conv2D(4, (3, 5)), (1, 16, 16, 2)),
    "strided": (conv.Conv2D(4, (5, 5), (2, 2)), (1, 32, 32, 2)),
    "transposed": (conv.ConvTranspose2D(4, (5, 5), (2, 2)), (1, 16, 16, 6)),
    "conv1d": (conv1d.Conv1D(6, 5, groups=3, padding=(2, 2)), (1, 32, 9)),
    "strided1d": (conv1d.Conv1D(6, 8, stride=4), (1, 64, 2)),
    "transposed1d": (conv1d.ConvTranspose1D(3, 8, 4), (1, 32, 5)),
    "down": (hybrid.Down(6, 4), (1, 64, 2)),
    "up": (hybrid.Up(3, 4), (1, 32, 5)),
    "down to one": (hybrid.Down(6, 0), (1, 8, 3, 2)),
    "up from one": (hybrid.Up(3, 0, bins=8), (1, 3, 5)),
    "time": (dconv.TimeConv(6, 3), (1, 32, 2)),
    "demucs": (demucs._Conv(6, 8, 4, False, 0.0, jnp.float32), (1, 64, 2)),
    "demucs transposed": (demucs._Conv(3, 8, 4, True, 0.0, jnp.float32), (1, 32, 5)),
    "halved": (lasaft.Down(jnp.float32), (1, 8, 8, 3)),
    "doubled": (lasaft.Up(jnp.float32), (1, 8, 8, 3)),
    "dense": (nn.Dense(7), (1, 3)),
    "pytorch": (nn.Conv(4, (3, 3)), (1, 16, 16, 2)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_fans_are_the_products_of_an_output_and_the_outputs_of_an_input(layer):
    """Counted: with all weights and inputs 1, an output is its number of products, and so is an input's gradient."""
    made, shape = LAYERS[layer]
    x = jnp.ones(shape)
    params = jax.jit(made.init)(jax.random.key(0), x)["params"]
    ones = {name: jnp.full_like(value, name == "kernel") for name, value in params.items()}
    outputs, back = jax.vjp(lambda x: made.apply({"params": ones}, x), x)

    def middle(values):
        """Far from the ends of all axes but that of the channels: of a whole number of strides."""
        cuts = [slice(size // 4, size - size // 4) if size >= 16 else slice(None) for size in values.shape[1:-1]]
        return float(np.mean(values[:, *cuts]))

    assert initialisation.fans(made, "kernel", params["kernel"].shape) == pytest.approx(
        (middle(outputs), middle(back(jnp.ones_like(outputs))[0]))
    )


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (complex_layers.ComplexConv(64, 5, (1, 0)), (1, 128, 64, 6)),
        (complex_layers.ComplexConvTranspose(32, 5), (1, 128, 32, 12)),
        (complex_layers.ComplexDense(512), (512, 10)),
    ],
)
def test_complex_kernels_of_he_double_the_variance(made, shape):
    """As his do for layers of real numbers: what enters and leaves has parts of variance 1 and 2."""
    x = jax.random.normal(jax.random.key(1), shape)
    params = jax.jit(made.init)(jax.random.key(0), x)["params"]
    for number, name in enumerate(("real", "imag")):
        found = initialisation.fans(made, name, params[name].shape)
        params[name] = initialisation.kaiming(jax.random.key(number), params[name].shape, *found)
        params[f"{name}_bias"] = jnp.zeros_like(params[f"{name}_bias"])
    assert float(jnp.var(made.apply({"params": params}, x))) == pytest.approx(2.0, rel=0.1)


SMALL = {
    "open_unmix": {"model.hidden": 16, "model.layers": 1},
    "conv_tasnet": {"model.blocks": 1, "model.repeats": 2},
    "demucs": {"model.depth": 2, "model.lstm_layers": 1},
    "dccrn": {"model.widths": (8, 16), "model.layers": 1, "model.units": 8},
    "spleeter": {"model.channels": (8, 16)},
}


def run(model, config, seed=0):
    """Compiled in a hurry: each program runs once."""
    made = jax.jit(lambda key: initialisation.initialise(model, config, key), compiler_options=QUICK)
    return made(jax.random.key(seed))


def small(name, **initial):
    """A system of vocals only, if its nets differ, as small as it goes."""
    config = configs.load_config(f"{name}.py:demo")
    if config.per_source:
        config.sources = "vocals"
    for key, value in SMALL[name].items():
        block, _, field = key.rpartition(".")
        config[block][field] = value
    config.initial.update(initial)
    return config


@functools.cache
def initialised(name, kernels="paper", rescale=0.0, seed=0):
    """(path -> parameters, path -> module) of a small system."""
    config = small(name, kernels=kernels, rescale=rescale)
    model, modules = separator.build(config), {}

    def note(method, args, kwargs, context):
        if context.module.scope is not None:
            modules[context.module.path] = context.module
        return method(*args, **kwargs)

    with nn.intercept_methods(note):
        variables = run(model, config, seed)
    return {path: np.asarray(value) for path, value in flatten_dict(variables["params"]).items()}, modules


def fans_of(modules, path, kernel):
    return initialisation.fans(modules[path[:-1]], path[-1], kernel.shape)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("demucs", "kaiming"), ("conv_tasnet", "kaiming"), ("dccrn", "xavier"), ("spleeter", "xavier")],
)
def test_all_kernels_have_the_variance_that_their_fans_ask_for(name, kernels):
    params, modules = initialised(name, kernels)
    before, _ = initialised(name)
    drawn = 0
    for path, value in params.items():
        if path[0] != "net" or value.ndim < 2 or path[-1] in ("table", "embedding", "keys", "scale", "bias"):
            np.testing.assert_array_equal(value, before[path])  # and biases, and front ends
            continue
        fan_in, fan_out = fans_of(modules, path, value)
        variance = 2 / fan_in if kernels == "kaiming" else 2 / (fan_in + fan_out)
        # The deviation of a sample variance: of a normal distribution sqrt(2/n), less of a uniform one.
        assert np.mean(value**2) == pytest.approx(variance, rel=5 * math.sqrt(2 / value.size)), path
        if kernels == "xavier":
            assert np.abs(value).max() <= math.sqrt(6 / (fan_in + fan_out))
        drawn += 1
    assert drawn >= 4


def test_gates_and_maps_of_attention_are_matrices_side_by_side():
    gates, attention = recurrent.Weights(8, *[nn.initializers.zeros] * 3), transformer.Attention(2, 0.0, jnp.float32)
    assert initialisation.fans(gates, "input", (30, 4 * 8)) == (30, 8)
    assert initialisation.fans(gates, "recurrent", (8, 4 * 8)) == (8, 8)
    assert initialisation.fans(attention, "inputs", (64, 3 * 64)) == (64, 64)


@pytest.mark.parametrize(("name", "kernels"), [("conv_tasnet", "kaiming"), ("dccrn", "paper")])
def test_kernels_and_biases_are_divided_by_the_root_of_their_relative_deviation(name, kernels):
    a, biases = 0.1, {"kernel": "bias", "real": "real_bias", "imag": "imag_bias"}
    before, after = initialised(name, kernels)[0], initialised(name, kernels, a)[0]
    expected = dict(before)
    for path, kernel in before.items():
        if path[0] == "net" and (path[-1] in biases or path[-1].endswith("_kernel")):
            factor = math.sqrt(a / np.std(kernel, ddof=1))
            bias = (*path[:-1], biases.get(path[-1]))
            expected[path] = kernel * factor
            if bias in before:
                expected[bias] = before[bias] * factor
            np.testing.assert_allclose(np.std(after[path], ddof=1) ** 2, a * np.std(kernel, ddof=1), rtol=1e-4)
    assert after.keys() == expected.keys()
    for path, value in expected.items():  # the LSTMs' among them, which stay
        np.testing.assert_allclose(after[path], value, rtol=1e-5, atol=1e-9, err_msg=str(path))


def test_the_rescaled_net_is_that_of_demucs():
    """Demucs' own field of the same name: after both, the kernels are the same."""
    config = small("demucs")
    with config.unlocked():
        config.initial.rescale, config.model.rescale = config.model.rescale, 0.0
    theirs, _ = initialised("demucs")
    ours = run(separator.build(config), config)
    for path, value in flatten_dict(ours["params"]).items():
        if "dense" in path:  # stays there
            continue
        np.testing.assert_allclose(value, theirs[path], rtol=1e-4, atol=1e-7, err_msg=str(path))


def test_a_kernel_of_one_value_or_of_equal_ones_stays():
    assert float(initialisation.rescaling(jnp.array([[0.5]]), 0.1)) == 1
    assert float(initialisation.rescaling(jnp.full((2, 3), 0.5), 0.1)) == 1


def test_a_net_for_one_source_starts_the_same_alone_and_beside_others():
    alone, _ = initialised("open_unmix", "kaiming")
    other, _ = initialised("open_unmix", "kaiming", seed=1)
    config = small("open_unmix", kernels="kaiming")
    config.sources = "drums,vocals"
    beside = flatten_dict(run(separator.build(config), config)["params"])
    for path, value in alone.items():
        np.testing.assert_array_equal(beside[path], value)
        if path[-1] == "kernel":
            drums = beside[*(("drums" if part == "vocals" else part) for part in path)]
            assert np.abs(np.corrcoef(np.ravel(drums), np.ravel(value))[0, 1]) < 0.2
            assert np.abs(np.corrcoef(np.ravel(other[path]), np.ravel(value))[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"initial.kernels": "kaming"}, "initial.kernels='kaming' is unknown, expected one of paper, .*did you mean"),
        ({"initial.rescale": -0.1}, "initial.rescale=-0.1: expected 0"),
        ({"initial.rescale": float("nan")}, "initial.rescale=nan"),
        ({"init": "runs/a", "initial.kernels": "xavier"}, "init=runs/a: the weights are that run's"),
    ],
)
def test_values_that_make_no_sense_are_named(values, message):
    config = configs.defaults()
    config.update_from_flattened_dict(values)
    with pytest.raises(JaxsepError, match=message):
        initialisation.check(config)
