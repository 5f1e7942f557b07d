"""Hybrid Transformer Demucs against the authors' package: golden outputs made by `golden/make_hdemucs.py`."""

import dataclasses
import importlib.util
import math
from fractions import Fraction
from pathlib import Path

import hybrid_parity as parity
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import audio, cli, inference, separator, weights
from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.models.htdemucs import HTDemucs
from jaxsep.weights.demucs_files import read_package
from jaxsep.weights.hdemucs import config_of

FILES = parity.GOLDEN / "hybrid"
BAG = FILES / "bag.yaml"


def file(name):
    (path,) = FILES.glob(f"{name}-*.th")
    return path


def test_values_and_gradients_are_equal_to_those_of_the_authors_code():
    """All weights random, scales of the residual branches too: both attentions, norms, 1x1 convs, both dconv sides."""
    output, wave, parameters = parity.errors("htdemucs", "trained")
    assert output < 1e-5 and wave < 1e-4 and parameters < 1e-4


@pytest.mark.parametrize("case", ["default", pytest.param("segment", marks=pytest.mark.full)])
def test_equal_to_the_authors_code(case):
    """Without the 1x1 convs, three layers; fed less than a segment."""
    assert parity.output_error("htdemucs", case) < 1e-5


@pytest.mark.full
def test_full_width_is_equal_to_the_authors_code():
    output, wave, parameters = parity.errors("htdemucs", "full", parity.make.FULL_LENGTH)
    assert output < 1e-4 and wave < 1e-4 and parameters < 1e-4


@pytest.mark.parametrize("fields, count", [({}, 41_984_456), ({"dconv_mode": 1, "bottom": 0}, 26_899_536)])
def test_parameter_counts(fields, count):
    wave = jax.ShapeDtypeStruct((1, 44_100, 2), jnp.float32)
    shapes = jax.eval_shape(lambda wave: HTDemucs(**fields).init(jax.random.key(0), wave, None, False), wave)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_a_segment_is_fed_whole():
    net = HTDemucs(segment=343_980)
    assert net.lengths(1) == (343_980, 343_980) and net.lengths(400_000) == (400_000, 400_000)
    assert HTDemucs().lengths(777) == (777, 777)
    config = configs.load_config("htdemucs.py")
    assert config.model.segment == config.data.segment == round(config.inference.segment * 44_100) == 343_980


def test_what_it_refuses():
    def start(**fields):
        wave = jax.ShapeDtypeStruct((1, 8_000, 2), jnp.float32)
        jax.eval_shape(lambda wave: HTDemucs(**fields).init(jax.random.key(0), wave, None, False), wave)

    for fields, message in (
        ({"frame": 1000}, r"model\.frame=1000: its bins cannot be divided 4 times"),
        ({"heads": 7}, r"model\.heads=7: expected a divisor of 512"),
        ({"dconv_mode": 5}, r"model\.dconv_mode=5"),
    ):
        with pytest.raises(JaxsepError, match=message):
            start(**fields)


def separated(files):
    """Stems [4 2 t] of the song of the golden files."""
    imported = weights.read("demucs", files)
    configs.check(imported.config)
    model = inference.Model.from_parts(separator.build(imported.config), imported.variables, imported.config)
    assert model.sources == tuple(parity.make.SOURCES)
    song = (parity.make.draw("song", (2, parity.make.SONG)) * 0.1 + 0.02).T
    return np.stack([stem.T for stem in model.separate(song, 44_100).values()])


@pytest.mark.parametrize(
    "name", ["aaaa", pytest.param("bag", marks=pytest.mark.full), pytest.param("cccc", marks=pytest.mark.full)]
)
def test_a_file_of_the_package_separates_as_the_package_does(name):
    """`apply_model` with shifts off: a segment, and a shorter one in its surroundings; the bag of two; version 3."""
    files = [BAG, file("aaaa"), file("bbbb")] if name == "bag" else [file(name)]
    with np.load(FILES / "stems.npz") as stems:
        assert parity.relative(separated(files), stems[name]) < 1e-5


def test_a_bag_is_its_nets_with_the_weights_of_its_file():
    bag, parts = weights.read("demucs", [BAG, file("bbbb"), file("aaaa")]), [file("aaaa"), file("bbbb")]
    assert bag.config.blend == 2 and [list(row) for row in bag.config.blend_weights] == parity.make.BAG
    for number, part in enumerate(parts):
        ours = weights.read("demucs", [part]).variables["params"]["net"]
        theirs = bag.variables["params"]["net"][str(number)]
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    plain = weights.read("demucs", parts)
    assert plain.config.blend == 2 and not plain.config.blend_weights
    built = separator.build(bag.config).net
    assert isinstance(built, separator.Blend) and len(built.nets) == 2
    assert built.nets[0] == separator.build(weights.read("demucs", parts[:1]).config).net


def test_weights_of_a_blend_are_those_of_each_source():
    """Two nets that return 1 and 2 for every source."""

    class Constant(separator.nn.Module):
        @separator.nn.compact
        def __call__(self, wave, targets, train):
            value = self.param("value", separator.nn.initializers.ones, ())
            return value * jnp.ones((len(wave), 3, wave.shape[1], 1))

    blend = separator.Blend([Constant(), Constant()], ((1.0, 0.0, 1.0), (0.0, 2.0, 3.0)))
    params = {"0": {"value": jnp.float32(1)}, "1": {"value": jnp.float32(2)}}
    out = blend.apply({"params": params}, jnp.zeros((2, 4, 1)), None, False)
    np.testing.assert_allclose(out, np.broadcast_to(np.array([1, 2, 1.75])[:, None, None], (2, 3, 4, 1)))


def test_bags_that_are_none(tmp_path):
    def refused(text, files, message):
        bag = tmp_path / "bag.yaml"
        bag.write_text(text)
        with pytest.raises(JaxsepError, match=message) as error:
            weights.read("demucs", [bag, *files])
        assert "\n" not in str(error.value)

    both = [file("aaaa"), file("bbbb")]
    refused("models: ['aaaa', 'dddd']", both, "needs the model dddd; give dddd-\\*.th, too")
    refused("models: ['aaaa']", both, "bbbb-.*th: is not in .*bag.yaml")
    refused("models: ['aaaa', 'bbbb']\nweights: [[1, 1, 1, 1]]", both, "expected weights for 2 models and 4 sources")
    refused("models: ['aaaa', 'bbbb']\nsegment: -1", both, "segment=-1 of the bag")
    refused("models: __import__('os')", both, "expected a bag of demucs")
    refused("models: ['aaaa', 'cccc']", [file("aaaa"), file("cccc")], "cccc-.*: name is 'hdemucs', in .*'htdemucs'")
    for rows, message in (
        (((1.0,) * 4,), "expected 2 nets' weights for 4 sources"),
        (((1.0, 1.0, 1.0, 0.0),) * 2, "above 0 for one net"),
    ):
        config = weights.read("demucs", both).config.copy_and_resolve_references()
        config.blend_weights = rows
        with pytest.raises(JaxsepError, match=message):
            configs.check(config)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"t_sparse_self_attn": True}, "t_sparse_self_attn=True, but only t_sparse_self_attn=False is known"),
        ({"cac": False}, "cac=False"),
        ({"kernel_size": 6}, "kernel_size=6 and stride=4"),
        ({"lstm": 2}, "another version of demucs, made with lstm"),
        ({"channels": "many"}, "made with arguments that are no numbers"),
        ({"segment": 0}, "segment=0"),
        ({"sources": 3}, "sources=3 says no names"),
    ],
)
def test_models_that_are_not_known_here_say_so(change, message):
    package = read_package(file("aaaa"))
    given = {"sources": parity.make.SOURCES, **package.kwargs, **change}
    with pytest.raises(JaxsepError, match=message) as error:
        config_of("htdemucs", dataclasses.replace(package, args=(), kwargs=given))
    assert "\n" not in str(error.value)


WIDTHS = {
    "narrow": {"channels": 8, "dconv_mode": 3, "bottom_channels": 16, "t_layers": 2, "segment": Fraction(39, 10)},
    "as trained": {"dconv_mode": 3, "bottom_channels": 512, "segment": Fraction(39, 5)},
}


@pytest.mark.full
@pytest.mark.parametrize("width", WIDTHS)
def test_the_excerpt_of_stempeg_separates_as_in_the_package(width, tmp_path):
    """A random net that the package saved, imported by the command line; the package's own `apply_model` beside it."""
    torch = pytest.importorskip("torch", reason="needs PyTorch; the golden files stand in")
    pytest.importorskip("demucs", reason="needs demucs 4 of PyPI; the golden files stand in")
    states = importlib.import_module("demucs.states")
    spec = importlib.util.find_spec("stempeg")
    if spec is None or spec.origin is None:
        pytest.skip("stempeg ships the excerpt")
    (excerpt,) = (Path(spec.origin).parent / "data").glob("*.stem.mp4")
    song, rate = audio.read(excerpt)
    path = parity.make.save(torch, "htdemucs", "net", WIDTHS[width] | {"use_train_segment": True}, tmp_path)
    theirs = parity.make.separate(torch, states.load_model(path).eval(), np.ascontiguousarray(song.T))
    assert cli.main(["weights", "import", "demucs", str(path), str(tmp_path / "run")]) == 0
    stems = inference.load(tmp_path / "run").separate(song, rate)
    error = parity.relative(np.stack([stem.T for stem in stems.values()]), theirs)
    assert error < 1e-4
