"""Open-Unmix against openunmix 1.3.0: the net, and a whole separator imported from its files."""

import importlib.util
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import weights
from jaxsep.errors import JaxsepError
from jaxsep.inference import load
from jaxsep.models.open_unmix import OpenUnmix
from jaxsep.weights import tensors
from jaxsep.weights.importing import import_weights
from jaxsep.weights.openunmix import _table

GOLDEN = Path(__file__).parent / "golden"
spec = importlib.util.spec_from_file_location("make_openunmix", GOLDEN / "make_openunmix.py")
assert spec is not None and spec.loader is not None
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "openunmix.npz") as file:
        return dict(file)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def made(name):
    """The net of a golden case with its weights."""
    bins, channels, hidden, seen, shape = make.SIZES[name]
    net = OpenUnmix(hidden, max_bin=seen)
    z = jax.ShapeDtypeStruct((*shape, bins, channels), jnp.complex64)
    shapes = jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), z)
    variables = tensors.place(shapes, _table(3), make.draw(0, bins, channels, hidden, seen), name)
    return net, jax.tree.map(jnp.asarray, variables)


@pytest.mark.parametrize("name", ["reduced", pytest.param("full", marks=pytest.mark.full)])
def test_equal_to_openunmix(golden, name):
    """Values to 1e-5 of the largest, gradients for the input to 1e-4, through the mask: the mixture is detached."""
    net, variables = made(name)
    bins, channels, _, _, shape = make.SIZES[name]
    magnitude, weight = make.spectrum(7, bins, channels, shape)

    def output(x):
        return jax.nn.relu(net.apply(variables, x.astype(jnp.complex64), None, False)) * magnitude

    value, gradient = jax.jit(lambda x: (output(x), jax.grad(lambda x: (output(x) * weight).sum())(x)))(magnitude)
    keep = make.sampled if name == "full" else np.asarray
    assert relative(keep(value), golden[f"{name}/output"]) < 1e-5
    assert relative(keep(gradient), golden[f"{name}/gradient"]) < 1e-4


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_golden_file_is_what_openunmix_computes(golden, tmp_path, monkeypatch):
    pytest.importorskip("openunmix", reason="the parity-torch extra brings openunmix")
    monkeypatch.setattr(make, "HERE", tmp_path)
    make.main()
    with np.load(tmp_path / "openunmix.npz") as file:
        assert set(file) == set(golden)
        for name, expected in golden.items():
            assert relative(file[name], expected) < 1e-4, name


@pytest.mark.parametrize(("targets", "case"), [(("drums", "vocals"), "both"), (("vocals",), "vocals")])
def test_imported_separator_is_equal_to_openunmix(golden, tmp_path, targets, case):
    """Transform, nets, Wiener filter (of one target: with what is left of the mixture) and inverse, from its files."""
    files = [GOLDEN / "openunmix" / f"{target}.pth" for target in targets]
    import_weights("openunmix", files, tmp_path / "run", ["jaxsep"])
    model = load(tmp_path / "run")
    stems = model.separate(make.wave(), make.RATE)
    assert tuple(stems) == targets
    assert relative(np.stack(list(stems.values())), golden[f"separated/{case}"]) < 1e-4


def test_published_file_names_and_stft(tmp_path, monkeypatch):
    """Without JSON, files named as published, of unequal widths, are taken for 4096/1024 at 44.1 kHz."""
    read = {
        "vocals-b62c91ce.pth": make.draw(1, 2049, 2, 4, 7) | {"stft.window": np.ones(4096), "sample_rate": np.ones(())},
        "bass.pth": make.draw(1, 2049, 2, 6, 9),
    }
    monkeypatch.setattr("jaxsep.weights.torch_files.read_tensors", lambda file: read[file.name])
    config = weights.read("openunmix", [tmp_path / name for name in read]).config
    assert config.sources == "vocals,bass" and config.inference.segment == 0
    assert (config.sample_rate, config.front.frame, config.front.hop, config.front.padding) == (
        44100,
        4096,
        1024,
        "reflect",
    )
    assert (config.model.hidden, config.model.max_bin) == (4, 7)
    assert config.model_by_source.to_dict() == {"bass": {"hidden": 6, "max_bin": 9}}


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("separator.json", "nfft", 128, r"separator\.json: a frame of 128 has 65 bins, .*vocals\.pth has 33"),
        ("separator.json", "nb_channels", 1, r"separator\.json: nb_channels=1, but .*vocals\.pth has 2"),
        ("vocals.json", "hidden_size", 16, r"vocals\.json: hidden_size=16, but the weights beside it have 12"),
        ("vocals.json", "bandwidth", 2000, r"vocals\.json: bandwidth=2000 are 17 bins, .* have 25"),
        ("vocals.json", "nhop", 32, r"vocals\.json: nhop=32, but the weights beside it have 16"),
    ],
)
def test_json_that_says_other_than_the_weights(tmp_path, file, key, value, message):
    folder = shutil.copytree(GOLDEN / "openunmix", tmp_path / "weights")
    said = json.loads((folder / file).read_text())
    said.get("args", said)[key] = value
    (folder / file).write_text(json.dumps(said))
    with pytest.raises(JaxsepError, match=message):
        weights.read("openunmix", [folder / "vocals.pth"])


def test_files_that_it_refuses(tmp_path):
    folder = shutil.copytree(GOLDEN / "openunmix", tmp_path / "weights")
    with pytest.raises(JaxsepError, match=r"vocals\.pth: a second file for 'vocals'"):
        weights.read("openunmix", [folder / "vocals.pth", folder / "vocals.pth"])
    shutil.copy(folder / "vocals.pth", folder / "my vocals.ckpt")
    with pytest.raises(JaxsepError, match="expected a file named after its target"):
        weights.read("openunmix", [folder / "my vocals.ckpt"])
    (folder / "separator.json").write_text("{")
    with pytest.raises(JaxsepError, match=r"separator\.json: cannot be read"):
        weights.read("openunmix", [folder / "vocals.pth"])
    (folder / "separator.json").unlink()
    with pytest.raises(
        JaxsepError, match=r"separator\.json is missing, and the published STFT: .* 2049 bins, .* has 33"
    ):
        weights.read("openunmix", [folder / "vocals.pth"])


def test_parameter_counts():
    """The reference's less the second biases of its LSTM, 4 x 256 x 2 x 3 (umxl: 4 x 512 x 2 x 3)."""

    def count(**fields):
        net = OpenUnmix(**fields)
        z = jax.ShapeDtypeStruct((1, 4, 2049, 2), jnp.complex64)
        shapes = jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), z)["params"]
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))

    assert count() == 8_887_204 == 8_893_348 - 6_144
    assert count(hidden=1024) == 28_244_900 == 28_257_188 - 12_288
    assert count(max_bin=0) == 9_469_960 - 6_144


def spectrum(*shape, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((*shape, 2)) @ [1, 1j], jnp.complex64)


def initial(net, z):
    return jax.jit(lambda z: net.init(jax.random.key(0), z, None, False))(z)


def test_the_mask_starts_at_about_one():
    """output_mean and output_scale start at 1: before training, the estimates are near the mixture."""
    net, z = OpenUnmix(8, max_bin=9), spectrum(2, 6, 12, 2)
    variables = initial(net, z)
    mask = np.asarray(jax.jit(lambda z: net.apply(variables, z, None, False))(z))
    assert 0 < np.abs(mask - 1).max() < 0.9 and abs(mask.mean() - 1) < 0.2


def test_norms_run_over_frames_and_examples():
    """In training each hidden value has mean 0 over both axes; the running mean moves by a tenth, as in PyTorch."""
    net, z = OpenUnmix(8, layers=1, max_bin=9, dropout=0.0), spectrum(3, 10, 12, 2)
    variables = initial(net, z)
    out, updated = jax.jit(lambda v: net.apply(v, z, None, True, mutable=["batch_stats"]))(variables)
    np.testing.assert_allclose(np.asarray(out).mean(axis=(0, 1)), 1, atol=1e-5)
    kernel = np.asarray(variables["params"]["fc1"]["kernel"])
    x = np.moveaxis(np.abs(np.asarray(z)[:, :, :9]), 3, 2).reshape(30, 18) @ kernel
    statistics = updated["batch_stats"]["bn1"]
    np.testing.assert_allclose(statistics["mean"], 0.1 * x.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(statistics["var"], 0.9 + 0.1 * x.var(axis=0), rtol=1e-4)


def test_bins_above_the_limit_are_not_seen_but_separated():
    net, z = OpenUnmix(8, max_bin=9), spectrum(1, 6, 12, 2)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: leaf + 0.2 * rng.uniform(size=leaf.shape), initial(net, z))
    apply = jax.jit(lambda z: net.apply(variables, z, None, False))
    mask = apply(z)
    assert (apply(z.at[:, :, 9:].multiply(3)) == mask).all()
    assert relative(apply(z.at[:, :, 8].multiply(3)), mask) > 1e-4
    assert np.abs(np.asarray(mask)[:, :, 9:]).std() > 1e-3
    with pytest.raises(JaxsepError, match=r"open_unmix: 8 bins, model\.max_bin=9; set front\.bins or model\.max_bin"):
        net.init(jax.random.key(0), z[:, :, :8], None, False)
    with pytest.raises(JaxsepError, match=r"open_unmix: 11 bins, the weights are for 12; set front\.bins=12"):
        net.apply(variables, z[:, :, :11], None, False)
