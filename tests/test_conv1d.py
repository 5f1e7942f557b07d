"""1-D convolutions against their definitions, and every fast form against the plain one, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.layers import conv1d
from jaxsep.layers.conv1d import Conv1D, ConvTranspose1D


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def numpy_conv(x, kernel, stride, dilation, groups, padding):
    """out[n] = sum_j x[n stride + j dilation] kernel[j] per group, one output sample at a time."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    x = np.pad(x, [(0, 0), padding, (0, 0)])
    k, entering, leaving = kernel.shape
    length = (x.shape[1] - (k - 1) * dilation - 1) // stride + 1
    out = np.zeros((len(x), length, leaving))
    for n in range(length):
        taps = x[:, n * stride :: dilation][:, :k]
        for g in range(groups):
            ins, outs = (slice(g * w, (g + 1) * w) for w in (entering, leaving // groups))
            out[:, n, outs] = np.einsum("bjc,jce->be", taps[..., ins], kernel[..., outs])
    return out


def numpy_conv_transpose(x, kernel, stride):
    """out[i stride + j] += x[i] kernel[j], one input sample at a time."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    out = np.zeros((len(x), (x.shape[1] - 1) * stride + len(kernel), kernel.shape[2]))
    for i in range(x.shape[1]):
        out[:, i * stride : i * stride + len(kernel)] += np.einsum("bc,jce->bje", x[:, i], kernel)
    return out


def relative(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


# samples, kernel, stride, dilation, groups, padding, input channels, output channels
CONVOLUTIONS = [
    (40, 8, 4, 1, 1, (0, 0), 2, 6),
    (43, 8, 4, 1, 1, (0, 0), 6, 4),  # a tail that no kernel reaches
    (41, 5, 3, 1, 1, (2, 1), 3, 4),  # a kernel that the stride does not divide
    (20, 2, 4, 1, 1, (0, 0), 3, 4),  # a kernel that skips samples
    (21, 3, 1, 1, 1, (0, 0), 5, 7),
    (21, 15, 1, 1, 1, (7, 7), 2, 4),
    (21, 1, 1, 1, 1, (0, 0), 5, 7),
    (21, 3, 1, 4, 1, (4, 4), 5, 7),
    (21, 3, 1, 2, 6, (2, 2), 6, 6),  # depthwise
    (21, 3, 2, 2, 3, (8, 0), 6, 9),
    (9, 8, 4, 1, 1, (0, 0), 16, 20),  # kernels larger than the input
    (9, 3, 1, 2, 1, (2, 0), 16, 20),
]


@pytest.mark.parametrize("samples, kernel, stride, dilation, groups, padding, entering, leaving", CONVOLUTIONS)
def test_convolution(samples, kernel, stride, dilation, groups, padding, entering, leaving):
    x, k = noise(2, samples, entering), noise(kernel, entering // groups, leaving, seed=1)
    sizes = (stride, dilation, groups, padding)
    assert_equal(lambda x, k: conv1d.conv1d(x, k, *sizes), lambda x, k: conv1d._conv(x, k, *sizes), x, k)
    assert relative(conv1d.conv1d(x, k, *sizes), numpy_conv(x, k, *sizes)) <= 1e-5


@pytest.mark.parametrize("kernel, stride", [(8, 4), (3, 1), (5, 3), (2, 4), (20, 10), (1, 1)])
@pytest.mark.parametrize("entering, leaving", [(6, 2), (1, 1), (12, 16)])
def test_transposed_convolution(kernel, stride, entering, leaving):
    x, k = noise(2, 7, entering), noise(kernel, entering, leaving, seed=1)
    ours, plain = (lambda x, k, f=f: f(x, k, stride) for f in (conv1d.conv_transpose1d, conv1d._conv_transpose))
    assert_equal(ours, plain, x, k)
    assert relative(ours(x, k), numpy_conv_transpose(x, k, stride)) <= 1e-5


@pytest.mark.parametrize("dilation, padding", [(1, (1, 1)), (4, (4, 4)), (2, (4, 0)), (3, (0, 0)), (1, (7, 0))])
def test_depthwise(dilation, padding):
    x, k = noise(2, 15, 4), noise(3, 4, seed=1)
    ours = lambda x, k: conv1d.depthwise(x, k, dilation, padding)
    plain = lambda x, k: conv1d._conv(x, k[:, None], 1, dilation, 4, padding)
    assert_equal(ours, plain, x, k)
    assert relative(ours(x, k), numpy_conv(x, k[:, None], 1, dilation, 4, padding)) <= 1e-5


def assert_equal(ours, plain, x, k):
    """Values, and the gradients for both arguments under a random cotangent."""

    def both(function, x, k):
        y, pull = jax.vjp(function, x, k)
        return (y, *pull(noise(*y.shape, seed=9)))

    results = [jax.jit(both, static_argnums=0)(function, x, k) for function in (ours, plain)]
    for a, b in zip(*results, strict=True):
        assert relative(a, b) <= 1e-5


@pytest.mark.parametrize("module", [Conv1D(6, 8, 4), ConvTranspose1D(6, 8, 4)])
def test_parameters_and_initial_values(module):
    """PyTorch's bounds, of a transposed convolution by its outputs; biases are drawn, too."""
    x = noise(1, 20, 50)
    params = module.init(jax.random.key(0), x)["params"]
    limit = (8 * (50 if isinstance(module, Conv1D) else 6)) ** -0.5
    assert jax.tree.map(jnp.shape, params) == {"kernel": (8, 50, 6), "bias": (6,)}
    for leaf in params.values():
        assert 0.3 * limit < np.abs(leaf).max() <= limit and len(np.unique(leaf)) > 0.99 * leaf.size
    assert 0.99 * limit < np.abs(params["kernel"]).max() and abs(params["kernel"].mean()) < 0.1 * limit
    unbiased = module.clone(bias=False).init(jax.random.key(0), x)["params"]
    assert list(unbiased) == ["kernel"]


@pytest.mark.parametrize("module", [Conv1D(6, 8, 4, padding=(2, 1)), ConvTranspose1D(6, 8, 4)])
def test_module_adds_the_bias_and_computes_in_its_precision(module):
    x = noise(1, 20, 5)
    variables = module.init(jax.random.key(0), x)
    params = variables["params"]
    if isinstance(module, Conv1D):
        expected = numpy_conv(x, params["kernel"], 4, 1, 1, (2, 1))
    else:
        expected = numpy_conv_transpose(x, params["kernel"], 4)
    expected = expected + np.asarray(params["bias"], np.float64)
    assert relative(module.apply(variables, x), expected) < 1e-5
    half = module.clone(dtype=jnp.bfloat16).apply(variables, x)
    assert half.dtype == jnp.bfloat16 and 0 < relative(half.astype(jnp.float32), expected) < 2e-2


def test_other_platforms_run_the_plain_form():
    """On a GPU one strided convolution, and one over a dilated input; a CPU never sees either."""
    x, k = jax.ShapeDtypeStruct((1, 400, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8, 4), jnp.float32)
    for function, sign in ((conv1d.conv1d, "stride = [4]"), (conv1d.conv_transpose1d, "lhs_dilate = [4]")):
        traced = jax.jit(jax.grad(lambda x, k, f=function: (f(x, k, 4) ** 2).sum(), (0, 1))).trace(x, k)
        seen = {p: sign in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cuda", "tpu", "cpu")}
        assert seen == {"cuda": True, "tpu": True, "cpu": False}
