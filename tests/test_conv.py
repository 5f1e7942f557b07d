"""Every fast form equals the plain one in values and both gradients, and that one equals the definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsep.layers import conv
from jaxsep.layers.conv import Conv2D, ConvTranspose2D


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def values_and_gradients(function, x, kernel):
    """The function's value and the gradients for both arguments under a random cotangent."""
    y, pull = jax.vjp(function, x, kernel)
    return (y, *pull(noise(*y.shape, seed=9)))


def assert_equal(ours, plain, x, kernel):
    results = jax.jit(lambda x, k: values_and_gradients(ours, x, k))(x, kernel)
    expected = jax.jit(lambda x, k: values_and_gradients(plain, x, k))(x, kernel)
    for a, b in zip(results, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(np.asarray(a - b)).max() <= 1e-5 * np.abs(np.asarray(b)).max()


# kernel, strides, input channels, output channels
STRIDED = [
    ((5, 5), (2, 2), 1, 4),
    ((5, 5), (2, 2), 2, 8),  # folded
    ((5, 5), (2, 2), 16, 8),  # sub-pixel input gradient
    ((5, 5), (2, 2), 40, 48),  # columns
    ((4, 3), (2, 1), 3, 5),
    ((8, 5), (4, 2), 2, 6),
    ((7, 4), (3, 4), 34, 40),
    ((1, 1), (1, 1), 34, 40),
]


@pytest.mark.parametrize("kernel, strides, entering, leaving", STRIDED)
def test_strided_convolution(kernel, strides, entering, leaving):
    x, k = noise(2, 4 * strides[0], 3 * strides[1], entering), noise(*kernel, entering, leaving, seed=1)
    assert_equal(lambda x, k: conv.conv2d(x, k, strides), lambda x, k: conv._conv(x, k, strides), x, k)


@pytest.mark.parametrize("kernel, strides, leaving, entering", STRIDED)
def test_transposed_convolution(kernel, strides, leaving, entering):
    x, k = noise(2, 4, 3, entering), noise(*kernel, leaving, entering, seed=1)
    ours, plain = (lambda x, k, f=f: f(x, k, strides) for f in (conv.conv_transpose2d, conv._conv_transpose))
    assert_equal(ours, plain, x, k)


@pytest.mark.parametrize("form", [conv._subpixel, conv._columns])
@pytest.mark.parametrize("kernel, strides", [((5, 5), (2, 2)), ((2, 3), (2, 2)), ((9, 4), (4, 3))])
def test_every_form_on_every_kernel(form, kernel, strides):
    x, k = noise(2, 4, 3, 6), noise(*kernel, 5, 6, seed=1)
    ours, plain = (lambda x, k, f=f: f(x, k, strides) for f in (form, conv._conv_transpose))
    assert_equal(ours, plain, x, k)


@pytest.mark.parametrize("channels", [(1, 2), (1, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("kernel, dilation", [((4, 4), (2, 2)), ((3, 5), (1, 1)), ((3, 2), (3, 4))])
def test_narrow_convolution(channels, kernel, dilation):
    x, k = noise(2, 12, 16, channels[0]), noise(*kernel, *channels, seed=1)
    ours = lambda x, k: conv.conv2d(x, k, (1, 1), dilation)
    assert_equal(ours, lambda x, k: conv._conv(x, k, (1, 1), dilation), x, k)


@pytest.mark.parametrize(
    "shape, kernel, strides, dilation",
    [
        ((1, 7, 9, 3), (5, 5), (2, 2), (1, 1)),  # sizes that the strides do not divide
        ((1, 8, 8, 1), (4, 4), (1, 1), (1, 1)),  # padded more behind than before
        ((1, 8, 8, 3), (3, 3), (1, 1), (2, 2)),
        ((1, 8, 8, 3), (1, 1), (2, 2), (1, 1)),  # a kernel that skips samples
    ],
)
def test_what_has_no_fast_form_is_still_right(shape, kernel, strides, dilation):
    x, k = noise(*shape), noise(*kernel, shape[-1], 2, seed=1)
    ours = lambda x, k: conv.conv2d(x, k, strides, dilation)
    assert_equal(ours, lambda x, k: conv._conv(x, k, strides, dilation), x, k)


def test_definition_of_the_strided_convolution():
    """out[m] = sum_t x[2 m + t - 1] k[t] on each axis: one zero before, two behind."""
    x, k = np.asarray(noise(1, 4, 6, 2)), np.asarray(noise(5, 5, 2, 3, seed=1))
    padded = np.pad(x, [(0, 0), (1, 2), (1, 2), (0, 0)])
    expected = np.zeros((1, 2, 3, 3))
    for m in range(2):
        for g in range(3):
            patch = padded[:, 2 * m : 2 * m + 5, 2 * g : 2 * g + 5]
            expected[:, m, g] = np.einsum("bijd,ijde->be", patch, k)
    np.testing.assert_allclose(conv.conv2d(jnp.asarray(x), jnp.asarray(k), (2, 2)), expected, rtol=1e-4, atol=1e-5)


def test_transposed_is_the_adjoint():
    """<conv(x), y> = <x, conv_transpose(y)> with the same kernel."""
    x, y, k = noise(2, 8, 6, 3), noise(2, 4, 3, 5, seed=1), noise(5, 5, 3, 5, seed=2)
    left = (conv.conv2d(x, k, (2, 2)) * y).sum()
    right = (x * conv.conv_transpose2d(y, k, (2, 2))).sum()
    np.testing.assert_allclose(left, right, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_modules_are_linens(dtype, transposed):
    """Same parameters by name, shape and initial value; same output."""
    x = noise(1, 8, 8, 3)
    if transposed:
        ours = ConvTranspose2D(6, (5, 5), (2, 2), dtype=dtype)
        linen = nn.ConvTranspose(6, (5, 5), (2, 2), transpose_kernel=True, dtype=dtype, kernel_init=ours.kernel_init)
    else:
        ours = Conv2D(6, (5, 5), (2, 2), dtype=dtype)
        linen = nn.Conv(6, (5, 5), (2, 2), dtype=dtype, kernel_init=ours.kernel_init)
    variables, expected = ours.init(jax.random.key(0), x), linen.init(jax.random.key(0), x)
    assert jax.tree.structure(variables) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == jnp.float32
    y = ours.apply(variables, x)
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(y.astype(jnp.float32), linen.apply(expected, x).astype(jnp.float32), atol=tolerance * 10)


def test_sharded_over_devices():
    """The batch on four devices: the same filter gradient as on one."""
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    x, k = noise(4, 8, 8, 3), noise(5, 5, 2, 3, seed=1)
    gradient = jax.jit(jax.grad(lambda k, x: (conv.conv_transpose2d(x, k, (2, 2)) ** 2).sum()))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    everywhere = jax.device_put(k, NamedSharding(mesh, PartitionSpec()))
    np.testing.assert_allclose(gradient(everywhere, spread), gradient(k, x), rtol=1e-4, atol=1e-3)


def test_other_platforms_run_the_plain_form():
    """On a GPU the transposed convolution stays one convolution over a dilated input."""
    x, k = jax.ShapeDtypeStruct((1, 4, 4, 8), jnp.float32), jax.ShapeDtypeStruct((5, 5, 2, 8), jnp.float32)
    traced = jax.jit(lambda x, k: conv.conv_transpose2d(x, k, (2, 2))).trace(x, k)
    dilated = {
        p: "lhs_dilate = [2, 2]" in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cuda", "tpu", "cpu")
    }
    assert dilated == {"cuda": True, "tpu": True, "cpu": False}
