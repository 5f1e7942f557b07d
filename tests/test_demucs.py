"""Demucs against the authors' code: golden outputs and checkpoints made by `golden/make_demucs.py`."""

import argparse
import functools
import gzip
import importlib.util
import io
import json
import math
import pickle
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import audio, cli, separator
from jaxsep import config as configs
from jaxsep.data.example import excerpt
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model, load
from jaxsep.layers.resample import resample_frac
from jaxsep.models.demucs import Demucs, _Conv
from jaxsep.weights import demucs as weights
from jaxsep.weights import pickles, tensors, torch_files

GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("make_demucs", GOLDEN / "make_demucs.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)

FIELDS = {**weights.VERSION2, **weights.VERSION1}  # argument of the authors' class -> ours
OLD = {"resample": False, "epsilon": 0.0}


def net_of(kind):
    """Our net with the arguments of one of the authors'."""
    given = make.NARROW | (make.KINDS | make.OLD_KINDS)[kind]
    return Demucs(
        **{FIELDS[name]: value for name, value in given.items() if FIELDS[name]}, **(OLD if "v1" in kind else {})
    )


@functools.cache
def golden():
    with np.load(GOLDEN / "demucs.npz") as file:
        return dict(file)


def channels_last(array):
    return jnp.asarray(np.swapaxes(array, -1, -2))


def relative(ours, theirs):
    assert np.shape(ours) == np.shape(theirs)
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def loaded(net, names, mix):
    """Variables of the net from the drawn tensors of these names, by the rules of the weight import."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), mix, None, False))
    drawn = {name: make.draw(name, tuple(shape)) for name, shape in json.loads(str(names)).items()}
    return tensors.place(shapes, weights.table(net), drawn, "drawn")


@functools.cache
def narrow(kind):
    """(net, variables, mixture [2 t c]) of drawn weights."""
    net, shape = net_of(kind), golden()[f"{kind}/gradient"].shape
    mix = channels_last(make.draw("mix", shape))
    return net, jax.tree.map(jnp.asarray, loaded(net, golden()[f"{kind}/tensors"], mix)), mix


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(net, variables, mix, cotangent):
    def scalar(params, mix):
        out = net.apply({"params": params}, mix, None, False)
        return (out * cotangent).sum(), out

    (_, out), gradients = jax.value_and_grad(scalar, (0, 1), has_aux=True)(variables["params"], mix)
    return out, gradients


GRADIENTS = ("plain", "normalize")  # compiled with gradients, once for several tests


@pytest.mark.parametrize("kind", [*make.KINDS, *make.OLD_KINDS])
def test_equal_to_the_authors_code(kind):
    """All weights random, for every option of either version."""
    net, variables, mix = narrow(kind)
    output = channels_last(golden()[f"{kind}/output"])
    if kind in GRADIENTS:
        ours, _ = value_and_gradients(net, variables, mix, channels_last(make.draw("cotangent", output.mT.shape)))
    else:
        ours = jax.jit(net.apply, static_argnums=3)(variables, mix, None, False)
    assert relative(ours, output) < 1e-5
    assert net.lengths(make.LENGTH) == (mix.shape[1], ours.shape[2])


@pytest.mark.parametrize(
    "kind",
    [kind if kind in GRADIENTS else pytest.param(kind, marks=pytest.mark.full) for kind in make.KINDS | make.OLD_KINDS],
)
def test_input_gradient_is_that_of_the_authors_code(kind):
    net, variables, mix = narrow(kind)
    cotangent = channels_last(make.draw("cotangent", golden()[f"{kind}/output"].shape))
    _, (_, gradient) = value_and_gradients(net, variables, mix, cotangent)
    assert relative(gradient, channels_last(golden()[f"{kind}/gradient"])) < 1e-4


def test_gradients_of_the_parameters_are_those_of_the_authors_code():
    net, variables, mix = narrow("plain")
    cotangent = channels_last(make.draw("cotangent", golden()["plain/output"].shape))
    _, (ours, _) = value_and_gradients(net, variables, mix, cotangent)
    shapes = {name: tuple(shape) for name, shape in json.loads(str(golden()["plain/tensors"])).items()}
    parts = np.split(golden()["plain/gradients"], np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1])
    named = {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}
    theirs = tensors.place({"params": ours}, weights.table(net), named, "gradients")["params"]

    def close(path, ours, theirs):
        twice = path[0].key == "lstm" and path[-1].key == "bias"  # the rules add the gradients of the two biases
        assert relative(ours * (2 if twice else 1), theirs) < 1e-4, path

    jax.tree_util.tree_map_with_path(close, ours, theirs)


@pytest.mark.full
def test_full_width_is_equal_to_the_authors_code():
    """Version 2 with 64 channels on 44,100 samples: output, and gradients for the input and all parameters."""
    net = Demucs()
    mix = channels_last(make.draw("mix", (1, 2, net.lengths(44100)[0])))
    variables = loaded(net, golden()["full/tensors"], mix)
    cotangent = channels_last(make.draw("cotangent", tuple(golden()["full/shape"])))
    output, (gradients, gradient) = value_and_gradients(net, variables, mix, cotangent)
    assert tuple(channels_last(output).shape) == tuple(golden()["full/shape"]) == (1, 4, 2, 44374)
    assert relative(make.sampled(channels_last(output)), golden()["full/output"]) < 1e-4
    assert relative(make.sampled(channels_last(gradient)), golden()["full/gradient"]) < 1e-4
    shapes, theirs = (json.loads(str(golden()[f"full/{key}"])) for key in ("tensors", "products"))
    directions = {name: make.draw(f"{name}.direction", tuple(shape)) for name, shape in shapes.items()}
    placed = tensors.place(variables, weights.table(net), directions, "directions")
    ours, along = tensors._flat({"params": gradients}), tensors._flat(placed)
    for path, (names, _) in weights.table(net).items():  # of two biases that are added, either has the sum's gradient
        terms = np.asarray(ours[path], np.float64) * along[path]
        expected = sum(theirs[name] for name in ([names] if isinstance(names, str) else names))
        assert abs(terms.sum() - expected) < 1e-4 * np.linalg.norm(terms), path


@pytest.mark.parametrize("old, new", make.RATIOS)
@pytest.mark.parametrize("length", [3, 500])
def test_resampling_is_that_of_julius(old, new, length):
    theirs = golden()[f"resample/{old}-{new}-{length}"]
    ours = resample_frac(channels_last(make.draw("wave", (2, 1, length))), old, new)
    assert ours.shape == (2, length * new // old, 1)
    assert np.abs(ours - channels_last(theirs)).max() < 2e-6
    np.testing.assert_allclose(resample_frac(jnp.ones((1, length, 2)), old, new), 1, atol=1e-6)


def test_a_tone_keeps_its_pitch_and_its_place():
    """Half a second of 1 kHz at 44.1 kHz is half a second of 1 kHz at twice the rate, and back."""
    time = np.arange(22050) / 44100
    tone = jnp.asarray(np.sin(2 * np.pi * 1000 * time), jnp.float32)[None, :, None]
    double = resample_frac(tone, 1, 2)
    inner = slice(200, -200)
    expected = np.sin(2 * np.pi * 1000 * np.arange(44100) / 88200)
    np.testing.assert_allclose(double[0, inner, 0], expected[inner], atol=1e-3)
    np.testing.assert_allclose(resample_frac(double, 2, 1)[0, inner, 0], tone[0, inner, 0], atol=1e-3)


@pytest.mark.parametrize(
    "fields, length, fed, yielded",
    [
        ({}, 441_000, 447_146, 441_686),
        (OLD, 441_000, 451_924, 441_004),
        ({}, 44_100, 49_834, 44_374),
        ({}, 441_686, 447_146, 441_686),
    ],
)
def test_lengths_are_the_authors_valid_length(fields, length, fed, yielded):
    assert Demucs(**fields).lengths(length) == (fed, yielded)


@pytest.mark.parametrize(
    "fields", [{}, OLD, {"depth": 2}, {"context": 1}, {"rewrite": False}, {**OLD, "upsample": True}]
)
def test_lengths_are_those_of_the_net(fields):
    net = Demucs(**{"channels": 1, "lstm_layers": 0, "depth": 3} | fields)
    for length in (1, 2, 63, 64, 1001):
        fed, yielded = net.lengths(length)
        mix = jax.ShapeDtypeStruct((1, fed, 2), jnp.float32)
        out, _ = jax.eval_shape(lambda mix: net.init_with_output(jax.random.key(0), mix, None, False), mix)
        assert out.shape == (1, 4, yielded, 2) and yielded >= length


@pytest.mark.parametrize("variant", configs.load_module("demucs.py").VARIANTS)
def test_parameters_and_examples_of_every_variant(variant):
    """The count is the reference's less one LSTM bias; an example is taken whole, and what its middle is comes out."""
    config = configs.load_config(f"demucs.py:{variant}")
    made, net = separator.build(config), separator.build(config).net
    mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)

    def start(mix):
        out, variables = made.init_with_output(jax.random.key(0), mix, None, True)
        return out.stems, variables

    stems, variables = jax.eval_shape(start, mix)
    seconds = {"report": 6, "demo": 1}.get(variant, 10)
    assert stems.shape[2] == net.lengths(seconds * config.sample_rate)[1] >= seconds * config.sample_rate
    reference = configs.load_module("demucs.py").VARIANTS[variant]
    if reference:
        biases = net.lstm_layers * 2 * 4 * net.channels * 2 ** (net.depth - 1)
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)) == reference - biases


def test_the_recipe_in_figures():
    config = configs.load_config("demucs.py")
    assert (config.data.segment, config.data.shift, config.data.batch_size) == (447_146, 44_100, 64)
    assert config.steps == 180 * config.eval_every and 590 < config.eval_every < 610
    assert config.sources == config.data.stems == "drums,bass,other,vocals"
    old = configs.load_config("demucs.py:v1")
    assert (old.data.segment, old.steps) == (451_924, 120 * old.eval_every) and tuple(old.data.gain) == (1, 1)
    assert configs.load_config("demucs.py:mse").loss.name == "wave_l2"
    plain = configs.load_config("demucs.py:no-repitch").data.augment.to_dict()
    assert plain == configs.defaults().data.augment.to_dict() != config.data.augment.to_dict()
    assert (config.inference.shifts, configs.load_config("demucs.py:no-shifts").inference.shifts) == (10, 0)


@pytest.mark.parametrize("transposed", [False, True])
def test_initial_values_are_torchs_rescaled(transposed):
    """W / sqrt(std(W) / 0.1) with the unbiased std, and b divided by the same."""
    plain, rescaled = (
        jax.jit(_Conv(6, 8, 4, transposed, a, jnp.float32).init)(jax.random.key(1), jnp.zeros((1, 8, 3)))["params"]
        for a in (0.0, 0.1)
    )
    kernel, bias = np.asarray(plain["kernel"]), np.asarray(plain["bias"])
    limit = (8 * (6 if transposed else 3)) ** -0.5
    assert 0.9 * limit < np.abs(kernel).max() <= limit and 0.5 * limit < np.abs(bias).max() <= limit
    scale = math.sqrt(np.std(kernel, ddof=1) / 0.1)
    np.testing.assert_allclose(rescaled["kernel"], kernel / scale, rtol=1e-5)
    np.testing.assert_allclose(rescaled["bias"], bias / scale, rtol=1e-5)


@pytest.mark.full
def test_initial_deviations_are_those_of_the_authors_net():
    """Of all convolutions of the net of 64 channels."""
    net = Demucs(lstm_layers=0)
    mix = jnp.zeros((1, net.lengths(1)[0], 2))
    params = jax.jit(lambda key: net.init(key, mix, None, False))(jax.random.key(0))["params"]
    rules = weights.table(Demucs(lstm_layers=0))
    ours = {names: path.split("/")[1] for path, (names, _) in rules.items() if path.endswith("kernel")}
    for name, theirs in zip(json.loads(str(golden()["rescale/names"])), golden()["rescale/deviations"], strict=True):
        leaf = params[ours[name.replace(".bias", ".weight")]]["bias" if name.endswith("bias") else "kernel"]
        assert np.std(leaf, ddof=1) == pytest.approx(theirs, rel=0.01 + 2 / math.sqrt(leaf.size)), name


def test_normalize_undoes_gain_and_offset_and_takes_silence():
    net, variables, mix = narrow("normalize")
    cotangent = channels_last(make.draw("cotangent", golden()["normalize/output"].shape))
    out, _ = value_and_gradients(net, variables, mix, cotangent)
    moved, _ = value_and_gradients(net, variables, 3 * mix + 1, cotangent)
    np.testing.assert_allclose(moved, 3 * out + 1, atol=2e-4)
    silent, (_, gradient) = value_and_gradients(net, variables, jnp.zeros_like(mix), cotangent)
    assert not silent.any() and np.isfinite(gradient).all()


def test_upsampling_belongs_to_version_1():
    with pytest.raises(JaxsepError, match=r"model\.upsample is of version 1"):
        Demucs(upsample=True).init(jax.random.key(0), jnp.zeros((1, 1000, 2)), None, False)


# Checkpoints


def song(channels=2):
    return make.draw("song", (channels, make.SONG)).T


def separate(imported, wave, **changes):
    """[s c t], every fifth sample, as `make_demucs.separated`."""
    model = Model.from_parts(separator.build(imported.config), imported.variables, imported.config)
    stems = model.separate(wave, imported.config.sample_rate, standardise=False, **changes)
    assert list(stems) == make.SOURCES
    return np.stack([stem.T for stem in stems.values()])[..., ::5]


def test_a_model_saved_by_version_2_separates_as_there():
    """Segments shorter than the song, the song in one piece, and a song shorter than the net's minimum."""
    imported = weights.read([GOLDEN / "demucs2.th"])
    configs.check(imported.config)
    assert (imported.config.inference.segment, imported.config.model.channels) == (make.SEGMENT / 44100, 2)
    for length in (make.SONG, 50):
        for how, changes in (("split", {}), ("whole", {"segment": 0.0})):
            ours = separate(imported, song()[:length], **changes)
            assert relative(ours, golden()[f"apply/{how}-{length}"]) < 1e-5, (how, length)


def test_a_gzipped_model_saved_by_version_1_separates_as_there():
    imported = weights.read([GOLDEN / "demucs1.th.gz"])
    assert (imported.config.variant, imported.config.channels, imported.config.model.resample) == ("v1", 1, False)
    assert relative(separate(imported, song(1)), golden()["apply/v1"]) < 1e-5


def contents():
    return torch_files.read(GOLDEN / "demucs2.th", foreign=True)


def test_tensors_alone_are_the_same_model(monkeypatch):
    """As published ones of version 2 are saved; sizes are read off them. Half precision becomes single."""
    whole = weights.read([GOLDEN / "demucs2.th"])
    state = {name: tensor.astype(np.float16) for name, tensor in contents()["state"].items()}
    monkeypatch.setattr(torch_files, "read", lambda *_, **__: state)
    alone = weights.read([GOLDEN / "demucs2.th"])
    assert separator.build(alone.config) == separator.build(whole.config) and alone.config.inference.segment == 40
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), alone.variables, whole.variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(alone.variables)} == {np.dtype(np.float32)}


def test_sizes_of_nets_without_parts_are_read_off_their_tensors(monkeypatch):
    """Of every kind whose tensors say all: what they do not say is as published."""
    for kind in ("plain", "no-glu", "no-rewrite", "no-lstm", "context-1"):
        shapes = json.loads(str(golden()[f"{kind}/tensors"]))
        state = {name: make.draw(name, tuple(shape)) for name, shape in shapes.items()}
        monkeypatch.setattr(torch_files, "read", lambda *_, state=state, **__: state)
        found = separator.build(weights.read([GOLDEN / "demucs2.th"]).config).net
        assert found == net_of(kind), kind


@pytest.mark.parametrize(
    "change, message",
    [
        ({"klass": pickles.Inert("demucs.demucs.Demucs")}, "a demucs.demucs.Demucs; expected one of"),
        ({"kwargs": {"channels": 4}}, "of another shape: .*encoder.0.0.weight"),
        ({"kwargs": {"depth": 4}}, "missing: .*encoder.3.0.weight"),
        ({"kwargs": {"dconv_depth": 2}}, "another version of demucs, made with dconv_depth"),
        ({"kwargs": {"channels": "wide"}}, "arguments that make up no net"),
        ({"kwargs": {"depth": 10**9}}, "arguments that make up no net"),
        ({"kwargs": {"growth": math.nan}}, "arguments that make up no net"),
        ({"args": (["piano"],)}, r"of another shape: .*decoder.2.2"),
        ({"args": (3,)}, "sources=3 says no names"),
        ({"args": tuple(range(20))}, "another version of demucs"),
        ({"state": {"compressed": b"", "x": 1}}, "quantised by DiffQ"),
        ({"state": {"__quantized": True}}, "quantised by DiffQ"),
        ({"state": [1, 2]}, "expected a model saved by demucs"),
        ({"klass": "Demucs"}, "expected a model saved by demucs"),
    ],
)
def test_models_that_do_not_fit_are_refused_in_one_line(monkeypatch, change, message):
    found = contents() | change
    if isinstance(found["kwargs"], dict) and "kwargs" in change:
        found["kwargs"] = contents()["kwargs"] | change["kwargs"]
    monkeypatch.setattr(torch_files, "read", lambda *_, **__: found)
    with pytest.raises(JaxsepError, match=message) as error:
        weights.read([GOLDEN / "demucs2.th"])
    assert "\n" not in str(error.value)


def test_other_files_are_refused_in_one_line(monkeypatch, tmp_path):
    packed = (GOLDEN / "demucs1.th.gz").read_bytes()
    for name, data, message in (
        ("cut.th.gz", packed[:-2000], "damaged"),
        ("bomb.th.gz", gzip.compress(bytes(10**6)), "expands to over 20 times its size"),
        ("page.th", b"<html>", "this looks like a web page"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(JaxsepError, match=message) as error:
            weights.read([tmp_path / name])
        assert "\n" not in str(error.value)
    other = {"fc1.weight": np.ones(1), "lstm.weight_ih_l0": np.ones(1)}
    monkeypatch.setattr(torch_files, "read", lambda *_, **__: other)
    with pytest.raises(JaxsepError, match="looks like Open-Unmix"):
        weights.read([tmp_path / "page.th"])


def test_fractions_in_a_file_are_numbers():
    """The segment of HTDemucs is 39/5 s; as the pickles of different Python versions have it."""
    names = torch_files._names(lambda *_: None)
    for numbers in (("39/5",), (39, 5)):
        data = pickle.dumps(_Fraction(numbers))
        assert pickles.load(io.BytesIO(data), "file", names, lambda _: None) == Fraction(39, 5)


class _Fraction:
    def __init__(self, numbers):
        self.numbers = numbers

    def __reduce__(self):
        return Fraction, self.numbers


@pytest.mark.full
def test_a_random_model_separates_the_excerpt_as_the_package_does(tmp_path):
    """End to end: saved by demucs 2.0.3, imported by the command line, beside its `apply_model`."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    model = pytest.importorskip("demucs.model", reason="demucs 2.0.3 is not installed")
    utils = pytest.importorskip("demucs.utils")
    torch.manual_seed(0)
    net = model.Demucs(make.SOURCES, channels=8, segment_length=2 * 44100 + 1).eval()
    utils.save_model(net, None, argparse.Namespace(diffq=0, qat=None, q_min_size=1), tmp_path / "model.th")
    assert cli.main(["weights", "import", "demucs", str(tmp_path / "model.th"), str(tmp_path / "run")]) == 0
    mix = audio.read_stems(excerpt())[0]["mixture"].astype(np.float32) / 32768
    wave = torch.from_numpy(mix.T.copy())
    mean, std = wave.mean(0).mean(), wave.mean(0).std()
    ours = load(tmp_path / "run")
    for split in (True, False):
        segment = {} if split else {"segment": 0.0}
        plain = utils.apply_model(net, wave, split=split)
        standardised = utils.apply_model(net, (wave - mean) / std, split=split) * std + mean
        for theirs, standardise in ((plain, False), (standardised, True)):
            stems = ours.separate(mix, 44100, standardise=standardise, **segment)
            assert relative([stem.T for stem in stems.values()], theirs.numpy()) < 1e-4
