"""The blocks that the dense nets share, each against its transcription and its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transcription_dense as oracle
from dense_parity import count, randomised, relative, renamed, shapes

from jaxsep.errors import JaxsepError
from jaxsep.layers import dense
from jaxsep.layers.conv import Conv2D


class Block:
    """A block as `dense_parity` wants nets: called like one."""

    def __init__(self, module):
        self.module = module

    def init(self, key, x, targets, train):
        return self.module.init(key, x, train)


def features(*shape):
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)


def compare(module, x, reference, bands=(), poolings=()):
    """[b n f d] through ours and, example by example, through (parameters, x [d n f]) -> [e n f]."""
    variables = randomised(Block(module), x)
    parameters = renamed(variables, bands, poolings)
    ours = jax.jit(module.apply, static_argnums=2)(variables, x, False)
    theirs = [reference(parameters, np.asarray(example, np.float64).transpose(2, 0, 1)) for example in x]
    assert relative(ours, np.stack(theirs).transpose(0, 2, 3, 1)) <= 1e-5


@pytest.mark.parametrize("kernel", [(3, 3), (3, 4), (1, 2)])
@pytest.mark.parametrize("dilated", [False, True])
def test_dense_block(kernel, dilated):
    """Even kernels too: of their padding the smaller half stands in front."""
    x = features(2, 9, 17, 5)
    block = dense.DenseBlock(3, 4, kernel, dilated)

    def reference(p, x):
        groups = {f"block/{path}": value for path, value in p.items()}
        return oracle.d2_block(oracle.Parameters(groups), "block", x, 3, 4, kernel, dilated)

    compare(block, x, reference)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_d3_block(blocks):
    def reference(p, x):
        groups = {f"block/{path}": value for path, value in p.items()}
        return oracle.d3_block(oracle.Parameters(groups), "block", x, 2, 3, blocks)

    compare(dense.D3Block(2, 3, blocks, dilated=True), features(2, 9, 17, 4), reference)


def test_split_convolution_is_the_dense_one():
    """A layer is one convolution of all that it sees, each source normalised once: written out for three layers."""
    x = features(1, 6, 8, 4)
    g, block = 2, dense.DenseBlock(2, 3)
    variables = randomised(Block(block), x)

    @jax.jit
    def written_out(params, stats):
        seen, kernels, biases, outputs = x, [], [], []
        for i in range(3):
            p, s = params[f"layer{i}"], stats[f"layer{i}"]["norm"]
            normed = (seen - s["mean"]) / jnp.sqrt(s["var"] + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
            outputs.append(jax.nn.relu(normed))
            kernels, biases = [*kernels, p["conv"]["kernel"]], [*biases, p["conv"]["bias"]]
            # of source j, the channels for layer i are its (i - j)-th group
            kernel = jnp.concatenate([k[..., (i - j) * g : (i - j + 1) * g] for j, k in enumerate(kernels)], axis=2)
            bias = sum(b[(i - j) * g : (i - j + 1) * g] for j, b in enumerate(biases))
            everything = jnp.concatenate(outputs, axis=-1)
            dimensions = ("NHWC", "HWIO", "NHWC")
            seen = jax.lax.conv_general_dilated(everything, kernel, (1, 1), "SAME", dimension_numbers=dimensions) + bias
        return seen

    assert (
        relative(block.apply(variables, x, False), written_out(variables["params"], variables["batch_stats"])) <= 1e-5
    )


@pytest.mark.parametrize("width, growth, layers", [(27, 12, 3), (32, 16, 5), (8, 2, 1)])
def test_parameters_of_a_dense_block(width, growth, layers):
    """2 d + (9 d + 1) L g + sum over l = 1 .. L - 1 of [2 g + (9 g + 1) (L - l) g]."""
    later = sum(2 * growth + (9 * growth + 1) * rest * growth for rest in range(1, layers))
    expected = 2 * width + (9 * width + 1) * layers * growth + later
    block = Block(dense.DenseBlock(growth, layers, dilated=True))
    assert count(shapes(block, features(1, 4, 4, width))["params"]) == expected


def test_u_net_of_odd_sizes():
    """13 x 21: 7 x 11, 4 x 6 and back."""
    sizes = (4, (2, 3, 4, 3, 2), (1, 2, 3, 2, 1), 2, (3, 4), True)
    net, x = dense.BandNet(*sizes), features(1, 13, 21, 2)
    variables = randomised(Block(net), x)
    parameters = renamed({kind: {"full": tree} for kind, tree in variables.items()}, (), (net.poolings,))
    theirs = oracle.unet(parameters, "full", np.asarray(x[0], np.float64).transpose(2, 0, 1), oracle.Net(*sizes))
    ours = jax.jit(net.apply, static_argnums=2)(variables, x, False)
    assert relative(ours[0], theirs.transpose(1, 2, 0)) <= 1e-5


def test_pool_counts_what_is_missing_as_zero():
    x = jnp.ones((1, 3, 3, 1))
    assert np.array_equal(dense.pool(x)[0, ..., 0], [[1, 0.5], [0.5, 0.25]])


def test_where_the_lstm_stands_decides_what_it_sees_and_what_sees_it():
    x = features(1, 6, 8, 3)

    def run(placement):
        net = dense.BandNet(2, (2,), (1,), units=(3,), placement=placement)
        variables = randomised(Block(net), x)

        def part(module, name, *args):
            own = {kind: tree[name] for kind, tree in variables.items() if name in tree}
            return module.apply(own, *args)

        entry = part(Conv2D(2, (3, 3)), "entry", x)
        lstm = lambda x: part(dense.FrameLSTM(3), "bottleneck_lstm", x, False)
        block = lambda x: part(dense.D3Block(2, 1), "bottleneck", x, False)
        if placement == "before":
            expected = block(jnp.concatenate([entry, lstm(entry)], axis=-1))
        else:
            y = block(entry)
            expected = jnp.concatenate([y, lstm(y if placement == "after" else entry)], axis=-1)
        return net.apply(variables, x, False), expected

    for placement, width in (("after", 3), ("before", 2), ("parallel", 3)):
        y, expected = jax.jit(run, static_argnums=0)(placement)
        assert y.shape[-1] == width
        assert relative(y, expected) <= 1e-5


def test_standardise_and_rescale():
    x = features(2, 3, 4, 2)
    module = dense.Standardise()
    params = dense.with_statistics(
        {"input": {"offset": jnp.zeros(4), "scale": jnp.ones(4)}, "rest": 1}, jnp.arange(4.0), jnp.arange(1.0, 5.0)
    )
    assert params["rest"] == 1
    y = module.apply({"params": params["input"]}, x)
    np.testing.assert_allclose(y[:, :, 2], (x[:, :, 2] - 2) / 3, rtol=1e-6)
    scaled = dense.Rescale().apply({"params": {"scale": params["input"]["scale"], "bias": jnp.arange(4.0)}}, x)
    np.testing.assert_allclose(scaled[:, :, 3], x[:, :, 3] * 4 + 3, rtol=1e-6)
    assert np.array_equal(dense.Rescale().init(jax.random.key(0), x)["params"]["bias"], np.ones(4))
    with pytest.raises(JaxsepError, match="5 bins for a net made for 4"):
        module.apply({"params": params["input"]}, features(1, 2, 5, 1))
    with pytest.raises(JaxsepError, match="statistics of 3 bins for a net of 4"):
        dense.with_statistics(params, jnp.zeros(3), jnp.ones(3))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(growth=(2, 2), layers=(1, 1)), "the same odd number"),
        (dict(growth=(2,) * 3, layers=(1,) * 5), "the same odd number"),
        (dict(growth=(2,) * 3, layers=(1,) * 3, units=(0, 1)), "the same odd number"),
        (dict(growth=(2,) * 3, layers=(1, 0, 1)), "needs an LSTM"),
        (dict(growth=(2,), layers=(1,), units=(1,), placement="beside"), "placement='beside'"),
    ],
)
def test_what_a_band_refuses(fields, message):
    with pytest.raises(JaxsepError, match=message):
        dense.BandNet(2, **fields).init(jax.random.key(0), features(1, 4, 4, 1), False)
