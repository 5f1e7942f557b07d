"""LaSAFT-Net against the authors' code: golden outputs made by `golden/make_lasaft.py`."""

import importlib.util
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.models.lasaft import LaSAFTNet
from jaxsep.weights import lasaft as weights
from jaxsep.weights import tensors

GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("make_lasaft", GOLDEN / "make_lasaft.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)

NARROW = {"levels": 2, "channels": 4, "layers": 3, "latents": 3, "key_dim": 5, "embedding": 4}
NARROW |= {"bottleneck": 4, "bottleneck_min": 4}
FULL = {"levels": 3, "channels": 24, "layers": 5, "latents": 6, "key_dim": 32, "embedding": 32}
KINDS = {
    "film": {"block": "none", "conditioning": "film"},
    "film-tdf": {"block": "tdf", "conditioning": "film"},
    "film-lasaft": {"block": "lasaft", "conditioning": "film"},
    "gpocm": {"block": "none", "conditioning": "gpocm"},
    "gpocm-tdf": {"block": "tdf", "conditioning": "gpocm"},
    "gpocm-lasaft": {"block": "lasaft", "conditioning": "gpocm"},
    "gpocm-lightsaft": {"block": "lightsaft", "conditioning": "gpocm"},
    "naive": {"block": "lasaft", "conditioning": "gpocm", "pocm_form": "naive"},
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "lasaft.npz") as file:
        return dict(file)


def complex_spectra(array):
    """[b 4 n f], re L, re R, im L, im R, to [b n f 2]."""
    re_left, re_right, im_left, im_right = np.moveaxis(array, 1, 0)
    return jnp.asarray(np.stack([re_left + 1j * im_left, re_right + 1j * im_right], axis=-1), jnp.complex64)


def channels_first(z):
    """The inverse of `complex_spectra`."""
    z = np.asarray(z)
    return np.stack([z[..., 0].real, z[..., 1].real, z[..., 0].imag, z[..., 1].imag], axis=1)


def one_hot(sources):
    return jnp.eye(4)[jnp.asarray(sources)]


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def loaded(net, names, z):
    """Variables of the net from the drawn tensors of these names, by the rules of the weight import."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, None, False))
    drawn = {name: make.draw(name, tuple(shape)) for name, shape in json.loads(str(names)).items()}
    fields = {name: getattr(net, name) for name in net.__dataclass_fields__}
    return tensors.place(shapes, weights.table(fields), drawn, "drawn", weights.IGNORED)


def value_and_gradient(net, variables, frames, bins, train=False):
    """Output [b 4 n f] and gradient as in `make_lasaft.run`."""
    shape = (3, 4, frames, bins)
    z, weight = complex_spectra(make.draw("spectrum", shape)), complex_spectra(make.draw("weight", shape))
    targets = one_hot(make.SOURCES)[:, None]

    def scalar(real, imag):
        out, _ = net.apply(variables, jax.lax.complex(real, imag), targets, train, mutable=["batch_stats"])
        return (out[:, 0] * weight.conj()).real.sum(), out[:, 0]

    grads, out = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(z.real, z.imag)
    return channels_first(out), channels_first(np.asarray(grads[0]) + 1j * np.asarray(grads[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_authors_code(golden, kind):
    """Values to 1e-5 of the largest, gradients for the input to 1e-4, all weights and statistics random."""
    net = LaSAFTNet(**NARROW, **KINDS[kind])
    variables = loaded(net, golden[f"{kind}/tensors"], complex_spectra(make.draw("spectrum", (3, 4, 8, 17))))
    output, gradient = value_and_gradient(net, variables, 8, 17)
    assert relative(output, golden[f"{kind}/output"]) < 1e-5
    assert relative(gradient, golden[f"{kind}/gradient"]) < 1e-4


def test_equal_to_the_authors_code_in_training(golden):
    """Batch statistics, those over the conditions among them; without dropout."""
    net = LaSAFTNet(**NARROW, **KINDS["gpocm-lasaft"], dropout=0.0)
    variables = loaded(net, golden["gpocm-lasaft/tensors"], complex_spectra(make.draw("spectrum", (3, 4, 8, 17))))
    output, _ = value_and_gradient(net, variables, 8, 17, train=True)
    assert relative(output, golden["train/output"]) < 1e-4


@pytest.mark.full
def test_full_width_is_equal_to_the_authors_code(golden):
    """Values in float32; gradients in float64, where rounding does not decide which of ten million ReLUs is on."""
    net = LaSAFTNet(**FULL)
    variables = loaded(net, golden["full/tensors"], complex_spectra(make.draw("spectrum", (3, 4, 16, 1025))))
    output = jax.jit(net.apply, static_argnums=3)(
        variables, complex_spectra(make.draw("spectrum", (3, 4, 16, 1025))), one_hot(make.SOURCES)[:, None], False
    )
    assert relative(make.sampled(channels_first(output[:, 0])), golden["full/output"]) < 1e-5
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables)
        output, gradient = value_and_gradient(net.clone(dtype=jnp.float64), double, 16, 1025)
    assert relative(make.sampled(output), golden["full/output"]) < 1e-6
    assert relative(make.sampled(gradient), golden["full/gradient"]) < 1e-6
