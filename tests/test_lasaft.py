"""LaSAFT-Net against the authors' code: golden outputs made by `golden/make_lasaft.py`."""

import functools
import importlib.util
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.layers.conditioning import film, gpocm, pocm
from jaxsep.models.lasaft import LaSAFTNet, pack, unpack
from jaxsep.weights import lasaft as weights
from jaxsep.weights import tensors, torch_files

GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("make_lasaft", GOLDEN / "make_lasaft.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)

NARROW = {"levels": 2, "channels": 4, "layers": 2, "latents": 3, "key_dim": 5, "embedding": 4}
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


def value_and_gradient(net, variables, frames, bins):
    """Output [b 4 n f] and gradient as in `make_lasaft.run`."""
    shape = (3, 4, frames, bins)
    z, weight = complex_spectra(make.draw("spectrum", shape)), complex_spectra(make.draw("weight", shape))
    targets = one_hot(make.SOURCES)[:, None]

    def scalar(real, imag):
        out, _ = net.apply(variables, jax.lax.complex(real, imag), targets, False, mutable=["batch_stats"])
        return (out[:, 0] * weight.conj()).real.sum(), out[:, 0]

    grads, out = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))(z.real, z.imag)
    return channels_first(out), channels_first(np.asarray(grads[0]) + 1j * np.asarray(grads[1]))


@functools.cache
def narrow(kind="gpocm-lasaft"):
    """(net, variables, spectra [3 8 17 2]) of drawn weights."""
    net, z = LaSAFTNet(**NARROW, **KINDS[kind]), complex_spectra(make.draw("spectrum", (3, 4, 8, 17)))
    with np.load(GOLDEN / "lasaft.npz") as file:
        return net, loaded(net, file[f"{kind}/tensors"], z), z


@functools.partial(jax.jit, static_argnums=(0, 4))
def evaluate(net, variables, z, targets, train=False, key=0):
    rngs = {"dropout": jax.random.key(key)}
    return net.apply(variables, z, targets, train, rngs=rngs, mutable=["batch_stats"])


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_authors_code(golden, kind):
    """To 1e-5 of the largest value, all weights and statistics random."""
    output, _ = evaluate(*narrow(kind), one_hot(make.SOURCES)[:, None])
    assert relative(channels_first(output[:, 0]), golden[f"{kind}/output"]) < 1e-5


@pytest.mark.parametrize("kind", ["film-tdf", "gpocm-lasaft", "gpocm-lightsaft"])
def test_input_gradient_is_equal_to_that_of_the_authors_code(golden, kind):
    net, variables, _ = narrow(kind)
    _, gradient = value_and_gradient(net, variables, 8, 17)
    assert relative(gradient, golden[f"{kind}/gradient"]) < 1e-4


def test_equal_to_the_authors_code_in_training(golden):
    """Batch statistics, those over the conditions among them; without dropout."""
    net, variables, z = narrow()
    output, _ = evaluate(net.clone(dropout=0.0), variables, z, one_hot(make.SOURCES)[:, None], True)
    assert relative(channels_first(output[:, 0]), golden["train/output"]) < 1e-4


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


LARGE = {"levels": 4, "embedding": 64}
MDX = {"levels": 4, "channels": 16, "latents": 16, "key_dim": 64, "embedding": 64, "block": "lightsaft"}


@pytest.mark.parametrize(
    "bins, fields, count",
    [
        (1025, KINDS["film"], 720_676),
        (1025, KINDS["film-tdf"], 1_069_508),
        (1025, KINDS["film-lasaft"], 7_998_436),
        (1025, KINDS["gpocm"], 1_146_268),
        (1025, KINDS["gpocm-tdf"], 1_495_100),
        (1025, {}, 8_424_028),
        (1025, KINDS["gpocm-lightsaft"], 2_374_236),
        (2049, LARGE, 31_541_908),
        (2049, LARGE | {"block": "lightsaft"}, 7_142_036),
        (1025, MDX, 4_159_844),
    ],
)
def test_parameter_counts(bins, fields, count):
    """Those of the authors' modules."""
    z = jax.ShapeDtypeStruct((1, 16, bins, 2), jnp.complex64)
    shapes = jax.eval_shape(lambda z: LaSAFTNet(**fields).init(jax.random.key(0), z, None, False), z)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_every_source_is_what_its_condition_gives():
    """No targets are all sources in their order; several targets per example do not touch each other."""
    net, variables, z = narrow()
    every, _ = evaluate(net, variables, z, None)
    for source in range(4):
        alone, _ = evaluate(net, variables, z, jnp.tile(one_hot([source]), (3, 1, 1)))
        assert relative(every[:, source], alone[:, 0]) < 1e-5
        assert all(relative(every[:, other], alone[:, 0]) > 0.01 for other in range(4) if other != source)
    reversed_, _ = evaluate(net, variables, z, jnp.tile(one_hot([3, 2, 1, 0]), (3, 1, 1)))
    assert relative(reversed_[:, ::-1], every) < 1e-5


def test_channels_are_real_parts_first():
    z = jnp.asarray([1 + 3j, 2 + 4j], jnp.complex64).reshape(1, 1, 1, 2)
    assert pack(z).reshape(-1).tolist() == [1, 2, 3, 4]
    assert (unpack(pack(z)) == z).all()


def test_modulations():
    """Against sums written out; PoCM sums over the first of gamma's axes."""
    rng = np.random.default_rng(0)
    x, gamma, beta = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in [(2, 3, 4, 5), (2, 5), (2, 5)])
    expected = [[g * row + b for row in image] for image, g, b in zip(x, gamma, beta, strict=True)]
    assert relative(film(x, gamma, beta), expected) < 1e-6
    assert relative(film(x, gamma[:, :1], beta[:, :1]), x * gamma[:, :1, None, None] + beta[:, :1, None, None]) < 1e-6
    matrix = jnp.asarray(rng.standard_normal((2, 5, 6)), jnp.float32)
    bias = jnp.asarray(rng.standard_normal((2, 6)), jnp.float32)
    expected = np.stack([np.asarray(x[i]) @ np.asarray(matrix[i]) + np.asarray(bias[i]) for i in range(2)])
    assert relative(pocm(x, matrix, bias), expected) < 1e-5
    gate = 1 / (1 + np.exp(-np.asarray(pocm(x, matrix[..., :5], bias[:, :5]))))
    assert relative(gpocm(x, matrix[..., :5], bias[:, :5]), gate * np.asarray(x)) < 1e-5


def test_initial_weights_are_xavier_normal():
    """Not truncated, the fan of latent sources and of embeddings counted; biases as torch's."""
    z = jnp.zeros((1, 8, 257, 2), jnp.complex64)
    params = jax.jit(lambda: LaSAFTNet().init(jax.random.key(0), z, None, False))()["params"]
    transform = params["encoder0_transform"]
    for kernel, fans in (
        (transform["second"]["kernel"], 96 + 6 * 256),
        (params["encoder0_tfc"]["conv4"]["kernel"], 9 * (5 * 24 + 24)),
        (params["up0"]["kernel"], 4 * (24 + 24)),
        (params["embedding"], 4 + 32),
        (transform["keys"], 32 + 6),
    ):
        assert np.std(kernel) == pytest.approx(math.sqrt(2 / fans), rel=0.15)
    assert np.abs(transform["second"]["kernel"]).max() > 3.5 * math.sqrt(2 / (96 + 6 * 256))
    bias = np.abs(params["condition"]["gamma"]["bias"])
    assert 0.98 / 16 < bias.max() <= 1 / 16


def test_training_normalises_over_the_conditions_and_drops_in_their_layers():
    net, variables, z = narrow()
    targets = one_hot([0, 1, 2])[:, None]
    first, updated = evaluate(net, variables, z, targets, True, 0)
    assert relative(first, evaluate(net, variables, z, targets, True, 1)[0]) > 1e-3
    before, after = (stats["batch_stats"]["condition"]["gamma_norm"]["mean"] for stats in (variables, updated))
    quiet = net.clone(dropout=0.0)
    _, kept = evaluate(quiet, variables, z, targets, True)
    swapped = evaluate(quiet, variables, z, targets[::-1], True)[1]["batch_stats"]["condition"]["gamma_norm"]["mean"]
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(kept["batch_stats"]["condition"]["gamma_norm"]["mean"], swapped, atol=1e-5)


def test_parameters_without_effect_in_training_are_those_that_the_docstring_names():
    net, variables, z = narrow()
    net = net.clone(dropout=0.0)
    weight = jnp.asarray(np.random.default_rng(1).standard_normal((3, 1, 8, 17, 2)), jnp.float32)

    def scalar(params):
        variables_ = {**variables, "params": params}
        out, _ = net.apply(variables_, z, one_hot([0, 1, 2])[:, None], True, mutable=["batch_stats"])
        return ((out.real + out.imag) * weight).sum()

    flat, _ = jax.tree_util.tree_flatten_with_path(jax.jit(jax.grad(scalar))(variables["params"]))
    sizes = {"/".join(key.key for key in path): float(np.abs(leaf).max()) for path, leaf in flat}
    dead = {path for path, size in sizes.items() if size < 1e-3}
    before_norms = ("/conv", "down", "up", "first/bias")
    named = {path for path in sizes if path.endswith("/bias") and any(part in path for part in before_norms)}
    named = {path for path in named if "norm" not in path}
    named |= {"condition/gamma/bias", "condition/beta/bias", "condition/norm2/bias"}
    assert dead == named


def test_what_it_refuses():
    def start(net, z, targets=None, train=False):
        jax.eval_shape(lambda z: net.init(jax.random.key(0), z, targets, train), z)

    z = jax.ShapeDtypeStruct((1, 16, 33, 2), jnp.complex64)
    assert LaSAFTNet().lengths(1) == (8, 8) and LaSAFTNet(levels=4).lengths(129) == (144, 144)
    with pytest.raises(JaxsepError, match=r"32 bins, expected a multiple of 8 .* and one; set front\.bins"):
        start(LaSAFTNet(), jax.ShapeDtypeStruct((1, 16, 32, 2), jnp.complex64))
    with pytest.raises(JaxsepError, match="20 frames, expected a multiple of 8"):
        start(LaSAFTNet(), jax.ShapeDtypeStruct((1, 20, 33, 2), jnp.complex64))
    with pytest.raises(JaxsepError, match="targets over 5 sources, expected 4"):
        start(LaSAFTNet(), z, jnp.eye(5)[None])
    with pytest.raises(JaxsepError, match="one condition in the batch"):
        start(LaSAFTNet(), z, one_hot([2])[None], True)
    for field, value in (("block", "saft"), ("conditioning", "pofilm"), ("pocm_form", "einsum")):
        with pytest.raises(JaxsepError, match=f"model.{field}='{value}', expected one of"):
            start(LaSAFTNet(**{field: value}), z)


CHECKPOINT = GOLDEN / "lasaft.ckpt"


def test_a_lightning_checkpoint_becomes_a_run(golden):
    """Fields from shapes and hyper-parameters; the net gives what the authors' net gave."""
    imported = weights.read([CHECKPOINT])
    config = imported.config
    assert (config.front.frame, config.front.hop, config.front.bins) == (32, 8, 17)
    assert config.model.block == "lightsaft" and config.data.segment == 63 * 8
    net = separator.build(config).net
    variables = {key: tree["net"] for key, tree in imported.variables.items()}
    z = complex_spectra(make.draw("spectrum", (3, 4, 8, 17)))
    output, _ = evaluate(net, variables, z, one_hot(make.SOURCES)[:, None])
    assert relative(channels_first(output[:, 0]), golden["ckpt/output"]) < 1e-5
    configs.check(config)


def test_published_sizes_are_their_variant():
    """The shapes of the large net alone, without hyper-parameters."""
    config = configs.load_config("lasaft.py:large")
    shapes = tensors.net_shapes(config)
    rules = weights.table(config.model.to_dict())
    assert set(rules) == set(tensors._flat(shapes))
    names = {
        "first_conv.0.weight": (24, 4, 1, 2),
        "embedding.weight": (4, 64),
        "encoders.0.tdfs.tdf.0.weight": (768, 2048),
        "encoders.0.keys": (32, 6),
        **{f"downsamplings.{i}.0.weight": (24, 24, 2, 2) for i in range(4)},
        **{f"encoders.0.tfc.H.{i}.0.weight": (24, 24 * (i + 1), 3, 3) for i in range(5)},
        "condition_generator.linear_gamma.2.running_mean": (2304,),
    }
    found = weights.config_of({name: np.zeros(shape) for name, shape in names.items()}, {}, "large.ckpt")
    assert found.variant == "large" and found.front.padding == "reflect" and found.front.bins == 2049
    assert separator.build(found) == separator.build(config)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda net: net.pop("spec2spec.mid_block.keys"), "missing: mid_block.keys"),
        (lambda net: net.update({"spec2spec.extra": np.zeros(3)}), "not expected: extra"),
        (lambda net: net.update({"spec2spec.mid_block.keys": np.zeros((3, 5))}), r"mid_block.keys \(3, 5\)"),
        (lambda net: net.pop("spec2spec.embedding.weight"), "cannot tell its sizes from 'embedding.weight'"),
        (lambda net: net.update({"spec2spec.embedding.weight": np.zeros((3, 4))}), "embeds 3 sources, expected 4"),
        (lambda net: net.clear() or net.update({"fc1.weight": np.zeros(3)}), "expected weights of LaSAFT"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused_by_name(monkeypatch, change, message):
    content = torch_files.read(CHECKPOINT)
    change(content["state_dict"])
    monkeypatch.setattr(torch_files, "read", lambda *_, **__: content)
    with pytest.raises(JaxsepError, match=message) as error:
        weights.read([CHECKPOINT])
    assert "\n" not in str(error.value)
