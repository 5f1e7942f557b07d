"""Wave-U-Net against the authors' code (golden outputs of `golden/make_wave_unet.py`) and a transcription in numpy."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcription_wave_unet import wave_unet

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.models.wave_unet import WaveUNet, interpolated

GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("make_wave_unet", GOLDEN / "make_wave_unet.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)
FILE = configs.load_module(configs.configs_folder() / "wave_unet.py")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "wave_unet.npz") as file:
        return dict(file)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@functools.partial(jax.jit, static_argnums=(0, 3))
def run(net, params, mix, train=True):
    return net.apply({"params": params}, mix, None, train)


def initial(net, samples, channels):
    mix = jnp.zeros((1, net.lengths(samples)[0], channels))
    return jax.eval_shape(lambda mix: net.init(jax.random.key(0), mix, None, False), mix)["params"]


def authors_names(net):
    """Our parameter -> the authors' variable."""
    levels = range(1, net.levels + 1)
    order = [*(f"down{i}" for i in levels), "bottleneck", *(f"up{i}" for i in reversed(levels))]
    order += [f"source{s + 1}" for s in range(net.sources)]
    names = {(ours, part): f"separator/conv{n}/{part}" for n, ours in enumerate(order) for part in ("kernel", "bias")}
    return names | {(f"between{i}",): f"separator/interp_{net.levels - i}" for i in levels}


# The authors' code


@pytest.mark.parametrize("case", make.CASES)
def test_outputs_and_gradients_are_those_of_the_authors(golden, case):
    sources, channels, samples, fields = make.CASES[case]
    net = WaveUNet(sources=sources, **make.SHAPE, **fields)
    names = authors_names(net)

    def path(keys):
        return names[tuple(key.key for key in keys)]

    shapes = initial(net, samples, channels)
    params = jax.tree_util.tree_map_with_path(lambda keys, leaf: jnp.asarray(make.draw(path(keys), leaf.shape)), shapes)
    mix = jnp.asarray(make.draw("mix", (2, net.lengths(samples)[0], channels)))

    weight = jnp.asarray(make.draw("weight", golden[f"{case}/train"].shape))

    def weighted(params, mix):
        trained = run(net, params, mix)
        return (weight * trained).sum(), (trained, run(net, params, mix, train=False))

    (found, of_mix), outputs = jax.jit(jax.grad(weighted, argnums=(0, 1), has_aux=True))(params, mix)
    for mode, output in zip(("train", "eval"), outputs, strict=True):
        assert relative(output, golden[f"{case}/{mode}"]) < 1e-5
    assert relative(of_mix, golden[f"{case}/d mix"]) < 1e-4
    compared = [key for key in golden if key.startswith(f"{case}/d separator")]
    for keys, leaf in jax.tree_util.tree_leaves_with_path(found):
        compared.remove(f"{case}/d {path(keys)}")
        assert relative(leaf, golden[f"{case}/d {path(keys)}"]) < 1e-4, path(keys)
    assert not compared


# The transcription


def transcribed(net, params, mix):
    """The transcription on our parameters, [s t c]."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def layer(name):
        return wide[name]["kernel"], wide[name]["bias"]

    levels = range(1, net.levels + 1)
    learned = [wide[f"between{i}"] for i in levels] if net.upsampling == "learned" else None
    down, up = ([layer(f"{way}{i}") for i in levels] for way in ("down", "up"))
    heads = [layer(name) for name in sorted(wide) if name.startswith("source")]
    given = (down, layer("bottleneck"), up, heads, learned, net.context, net.difference)
    return np.stack(wave_unet(np.asarray(mix, np.float64), *given))


def random_params(net, samples, channels, seed=0):
    """Of the initial size of kernels, and biases that are not zero."""
    rng = np.random.default_rng(seed)

    def one(leaf):
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1])) if leaf.ndim == 3 else 0.3
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(one, initial(net, samples, channels))


@pytest.mark.parametrize("upsampling", ["linear", "learned"])
@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("difference", [False, True])
def test_equal_to_the_transcription(upsampling, context, difference):
    net = WaveUNet(3, 4, 3, kernel=9, upsampling=upsampling, context=context, difference=difference)
    params = random_params(net, 50, 2)
    mix = 0.5 * np.random.default_rng(1).standard_normal((2, net.lengths(50)[0], 2)).astype(np.float32)
    found = np.asarray(run(net, params, jnp.asarray(mix)))
    assert found.shape[2] == net.lengths(50)[1]
    assert relative(found, np.stack([transcribed(net, params, wave) for wave in mix])) < 1e-5


@pytest.mark.full
@pytest.mark.parametrize("variant", ["m2", "m4", "m5", "m6", "m7"])
def test_equal_to_the_transcription_at_full_width(variant):
    config = FILE.get_config(variant)
    net = separator.build(config).net
    params = random_params(net, 1, config.channels)
    mix = 0.3 * np.random.default_rng(1).standard_normal((1, net.lengths(1)[0], config.channels)).astype(np.float32)
    found = np.asarray(run(net, params, jnp.asarray(mix)))
    assert relative(found[0], transcribed(net, params, mix[0])) < 1e-4


# Lengths, sizes, laws


@pytest.mark.parametrize("variant", FILE.COUNTS)
def test_published_sizes(variant):
    config = FILE.get_config(variant)
    net = separator.build(config).net
    params = initial(net, 1, config.channels)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == FILE.VARIANTS[variant]
    again = FILE.get_config(f"{variant}-finetune")
    assert separator.build(again).net == net and FILE.VARIANTS[f"{variant}-finetune"] == FILE.VARIANTS[variant]


def test_lengths_follow_the_papers_law():
    assert WaveUNet().lengths(16_384) == WaveUNet().lengths(16_389) == (147_443, 16_389)
    assert WaveUNet().lengths(16_390)[1] > 16_390
    assert WaveUNet(filters=34).lengths(127 * 768 + 1024) == (233_459, 102_405)
    assert WaveUNet(context=False).lengths(16_384) == (16_384, 16_384)
    assert WaveUNet(context=False).lengths(16_385) == (20_480, 20_480)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("kernels", [(15, 5), (9, 3), (5, 1)])
def test_what_is_fed_yields_what_was_said(context, kernels):
    net = WaveUNet(2, 3, 2, *kernels, context=context)
    for length in (1, 7, 8, 9, 50, 101):
        fed, yielded = net.lengths(length)
        made = jax.eval_shape(
            lambda mix: net.init_with_output(jax.random.key(0), mix, None, False)[0], jnp.zeros((1, fed, 1))
        )
        assert made.shape == (1, 2, yielded, 1) and length <= yielded < length + 2**3 + (8 if length < 8 else 0)
        assert (fed - yielded) % 2 == 0 and (context or fed == yielded)


def test_impulse_responses_of_the_upsampling():
    impulse = jnp.zeros((1, 7, 2)).at[0, 3].set(1)
    tent = np.zeros((13, 2))
    tent[5:8] = [[0.5], [1], [0.5]]
    np.testing.assert_array_equal(interpolated(impulse, 0.5, None)[0], tent)
    share = jnp.array([0.2, 0.9])
    tent[5:8] = [[0.8, 0.1], [1, 1], [0.2, 0.9]]
    np.testing.assert_allclose(interpolated(impulse, share, None)[0], tent, atol=1e-7)
    np.testing.assert_allclose(
        interpolated(impulse, share, jnp.zeros((1, 1, 2)))[0], np.pad(tent, [(0, 1), (0, 0)]), atol=1e-7
    )
    ramp = jnp.arange(7.0)[None, :, None]
    np.testing.assert_array_equal(interpolated(ramp, 0.5, None)[0, :, 0], np.arange(13) / 2)
    np.testing.assert_array_equal(interpolated(ramp, 0.5, ramp[:, -1:])[0, :, 0], [*np.arange(13) / 2, 6])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_difference_sums_to_the_middle_of_the_mixture(dtype):
    net = WaveUNet(4, 3, 4, dtype=dtype)
    params = random_params(net, 60, 2)
    fed, yielded = net.lengths(60)
    mix = 2 * jax.random.normal(jax.random.key(2), (2, fed, 2))
    start = (fed - yielded) // 2
    middle = mix[:, start : start + yielded]
    trained, heard = (run(net, params, mix, train) for train in (True, False))
    np.testing.assert_allclose(trained.sum(1), middle, atol=2e-6)
    assert np.abs(trained[:, -1]).max() > 1 and np.abs(trained[:, :-1]).max() <= 1
    np.testing.assert_array_equal(heard[:, -1], np.clip(trained[:, -1], -1, 1))
    np.testing.assert_array_equal(heard[:, :-1], trained[:, :-1])


def test_estimates_move_with_the_mixture():
    """By whole periods of the decimation: not by a sample more or less, and with nothing at the borders."""
    net = WaveUNet(2, 3, 4)
    params = random_params(net, 60, 1)
    fed, yielded = net.lengths(60)
    song = jax.random.normal(jax.random.key(3), (1, fed + 8, 1))
    early, late = (run(net, params, song[:, start : start + fed]) for start in (0, 8))
    np.testing.assert_allclose(early[:, :, 8:], late[:, :, : yielded - 8], atol=1e-5)
    assert np.abs(early[:, :, 7:-1] - late[:, :, : yielded - 8]).max() > 0.1


def test_initial_values_are_tensorflows():
    net = WaveUNet(2, 1, 48, upsampling="learned")
    mix = jnp.zeros((1, net.lengths(9)[0], 2))
    params = jax.jit(lambda mix: net.init(jax.random.key(0), mix, None, False))(mix)["params"]
    for name, leaf in params.items():
        values = leaf["kernel"] if isinstance(leaf, dict) else leaf
        fans = values.shape[0] * (values.shape[1] + values.shape[2]) if values.ndim == 3 else 2 * len(values)
        limit = np.sqrt(6 / fans)
        assert np.abs(values).max() <= limit and values.std() == pytest.approx(limit / np.sqrt(3), rel=0.25), name
        assert not isinstance(leaf, dict) or not leaf["bias"].any()


def test_what_does_not_fit_is_said():
    mix = jnp.zeros((1, 64, 1))
    with pytest.raises(JaxsepError, match=r"model\.upsampling='cubic'"):
        WaveUNet(2, 2, 2, upsampling="cubic").init(jax.random.key(0), mix, None, False)
    with pytest.raises(JaxsepError, match=r"2 or more sources"):
        WaveUNet(1, 2, 2, context=False).init(jax.random.key(0), mix, None, False)


# The recipe


def test_the_two_phases():
    first, second = FILE.get_config("m6"), FILE.get_config("m6-finetune")
    assert (first.data.batch_size, first.optim.learning_rate, first.patience, first.eval_every) == (16, 1e-4, 20, 2000)
    assert (second.data.batch_size, second.optim.learning_rate, second.patience) == (32, 1e-5, 20)
    assert first.init == "" and second.init
    changed = {"variant", "init"}
    assert {key for key in first if first[key] != second[key]} == changed | {"data", "optim"}
    assert FILE.get_config("m7").data.batch_size == 4
    assert [*configs.parse_sources(FILE.get_config("m4").sources)] == ["accompaniment", "vocals"]


@pytest.mark.parametrize("variant", FILE.VARIANTS)
def test_songs_are_padded_by_what_a_snippet_has_around_what_it_yields(variant):
    """So that their first samples are trained, too; and it is what the net asks for."""
    config = FILE.get_config(variant)
    configs.check(config)
    net = separator.build(config).net
    yielded = config.data.segment - 2 * config.data.pad
    assert net.lengths(yielded) == (config.data.segment, yielded)
    assert config.context == net.context == (config.data.pad > 0)
