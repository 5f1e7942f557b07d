"""Conv-TasNet and TasNet against asteroid 0.7.0, demucs 2.0.3 and torchaudio 2.11.0: nets, filterbanks, files, PIT."""

import functools
import importlib.util
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep import config as configs
from jaxsep import losses, separator, training, validation, weights
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Identity, LearnedBank
from jaxsep.heads import Mask
from jaxsep.inference import load
from jaxsep.layers.norm import NORMS
from jaxsep.metrics.song import Task
from jaxsep.models.conv_tasnet import ConvTasNet
from jaxsep.scoring import estimators
from jaxsep.types import Separation
from jaxsep.weights import asteroid, conv_tasnet, demucs_files, tensors
from jaxsep.weights.importing import import_weights

GOLDEN = Path(__file__).parent / "golden"
spec = importlib.util.spec_from_file_location("make_conv_tasnet", GOLDEN / "make_conv_tasnet.py")
assert spec is not None and spec.loader is not None
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

QUICK = {"xla_backend_optimization_level": 0}  # small nets: compiling takes longer than running
REDUCED = [name for name in make.CASES if not name.startswith("full")]


@functools.cache
def golden():
    with np.load(GOLDEN / "conv_tasnet.npz") as file:
        return dict(file)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def fresh(net, x):
    """Variables of which none is where it starts, and the net as a compiled function."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, None, False), x)
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.2, 0.4, leaf.shape), jnp.float32), shapes)
    return variables, jax.jit(lambda variables, x: net.apply(variables, x, None, False), compiler_options=QUICK)


def initial(net, x):
    return jax.jit(lambda: net.init(jax.random.key(0), x, None, False)["params"])()


def torchaudio_config(arguments):
    config = configs.load_config("conv_tasnet.py:torchaudio").copy_and_resolve_references().unlock()
    if arguments:
        config.model.update(bottleneck=6, skip=6, hidden=10, blocks=2, repeats=2)
        config.front.update(filters=12, kernel=arguments["enc_kernel_size"], stride=4)
        config.head.activation = arguments.get("msk_activate", "sigmoid")
    return config


def torchaudio_table(net):
    def block(i):
        layers = f"mask_generator.conv_layers.{i}"
        order = ("expand", "prelu1", "norm1", "depthwise", "prelu2", "norm2")
        shared = {name: f"{layers}.conv_layers.{number}" for number, name in enumerate(order)}
        return shared | {"residual": f"{layers}.res_out", "skip": f"{layers}.skip_out"}

    generator = {"input_norm": "input_norm", "bottleneck": "input_conv", "mask_prelu": "output_prelu"}
    generator["masks"] = "output_conv"
    layers = {ours: f"mask_generator.{theirs}" for ours, theirs in generator.items()}
    layers |= {"analysis": "encoder.weight", "synthesis": "decoder.weight"}
    return conv_tasnet.table(net, conv_tasnet.Names(layers, block, conv_tasnet.transposed, affine=("weight", "bias")))


def described(name):
    """Config and table of a golden case; of asteroid and demucs as the importers read them."""
    family, arguments, _ = make.CASES[name]
    if family == "torchaudio":
        config = torchaudio_config(arguments)
        return config, torchaudio_table(separator.build(config).net)
    if family == "demucs":
        package = demucs_files.Package(Path("x.th"), 2, "demucs.tasnet.ConvTasNet", (make.SOURCES,), arguments, {}, {})
        config = conv_tasnet.config_of(package)
        net = separator.build(config).net
        return config, conv_tasnet.table(net, conv_tasnet.demucs(net, config.channels))
    model = asteroid.MODELS["ConvTasNet" if family == "asteroid" else "LSTMTasNet"]
    config = model.config("x.pth", arguments)
    return config, model.table(separator.build(config).net)


@functools.cache
def made(name):
    """A golden case: separator, its variables, a function that places the reference's tensors, the mixture [b t c]."""
    config, table = described(name)
    shapes = json.loads(golden()["shapes"].tobytes())[name]
    place = functools.partial(tensors.place, tensors.shapes(config), table, file=name)
    variables = place(tensors={key: make.draw(key, tuple(shape)) for key, shape in shapes.items()})
    mix = make.wave(name, make.CASES[name][2]).swapaxes(1, 2)
    return separator.build(config), jax.tree.map(jnp.asarray, variables), shapes, place, jnp.asarray(mix)


def as_theirs(stems):
    """[b s t c] -> [b s c t], or [b s t] of a mono net, as the public codes return them."""
    stems = np.asarray(stems).swapaxes(2, 3)
    return stems[:, :, 0] if stems.shape[2] == 1 else stems


@pytest.mark.parametrize(
    "name", [*REDUCED, *(pytest.param(n, marks=pytest.mark.full) for n in make.CASES if n not in REDUCED)]
)
def test_equal_to_the_public_code(name):
    """Values, and gradients for the input and every parameter; none of the weights is where it starts."""
    model, variables, shapes, place, mix = made(name)
    full = name.startswith("full")
    output = golden()[f"{name}/output"]
    stereo = mix.shape[2] == 2
    shape = (len(mix), model.net.sources, *((2,) if stereo else ()), mix.shape[1])
    weight = make.wave(f"{name}/weight", shape)
    weight = jnp.asarray(weight if stereo else weight[:, :, None]).swapaxes(2, 3)

    @functools.partial(jax.jit, compiler_options=None if full else QUICK)
    def run(variables, mix):
        stems, pull = jax.vjp(lambda v, m: model.apply(v, m, None, False).stems, variables, mix)
        return stems, *pull(weight)

    stems, for_variables, for_mix = run(variables, mix)
    keep = make.sampled if full else np.asarray
    assert relative(keep(as_theirs(stems)), output) < (1e-4 if full else 1e-5)
    # At full width some of the millions of PReLUs and ReLUs stand within rounding of their kink: PyTorch's own gradient
    # in single precision is 6e-3 from that in double.
    assert relative(keep(np.asarray(for_mix).swapaxes(1, 2)), golden()[f"{name}/input"]) < (1e-2 if full else 1e-4)
    if f"{name}/parameters" not in golden():
        return
    ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes.values()])
    parts = np.split(golden()[f"{name}/parameters"], ends[:-1])
    theirs = {key: part.reshape(shape) for (key, shape), part in zip(shapes.items(), parts, strict=True)}
    scale = max(np.abs(part).max() for part in parts)
    for ours, expected in zip(jax.tree.leaves(for_variables), jax.tree.leaves(place(tensors=theirs)), strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-4 * max(np.abs(expected).max(), 1e-2 * scale))


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_golden_file_is_what_torchaudio_computes():
    """Of the three packages the one that can be beside this suite: `parity-torch` brings it."""
    torch = pytest.importorskip("torch", reason="the parity-torch extra brings PyTorch")
    path = importlib.util.find_spec("torchaudio")
    if path is None or not path.submodule_search_locations:
        pytest.skip("the parity-torch extra brings torchaudio")
    file = Path(path.submodule_search_locations[0]) / "models" / "conv_tasnet.py"
    for name in ("torchaudio", "torchaudio-odd"):
        family, arguments, shape = make.CASES[name]
        for key, array in make.run(torch, make.build(torch, family, arguments, file), name, shape).items():
            assert relative(array, golden()[f"{name}/{key}"]) < 1e-4


def count(variant):
    config = configs.load_config(f"conv_tasnet.py:{variant}")
    return sum(leaf.size for leaf in jax.tree.leaves(tensors.shapes(config)["params"]))


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("speech", 5_050_545),
        ("torchaudio", 4_984_881),
        ("enhance", 4_984_497),
        ("speech-no-skips", 3_474_609),
        ("damp", 12_954_945),
        ("music", 10_977_872),
        ("music-x8", 8_852_032),
    ],
)
def test_parameters(variant, parameters):
    assert count(variant) == parameters


def test_parameters_of_the_lstm():
    """asteroid's LSTMTasNet has 21,400,832: two biases per gate, and here the analysis kernels are not there twice."""
    config = asteroid.MODELS["LSTMTasNet"].config("x", {"n_src": 2})
    ours = sum(leaf.size for leaf in jax.tree.leaves(tensors.shapes(config)["params"]))
    assert ours == 21_400_832 - 4 * 4 * 512 * 2


def test_initial_values():
    """Those of demucs: Xavier-normal kernels, and the norms' gains and biases with them; PReLU 0.25 everywhere."""
    bank = LearnedBank(2, 256, 20, 10, "relu", "demucs")
    net = ConvTasNet(4, bottleneck=256, blocks=1, repeats=1, skip=0, bias=False, mask_prelu=False, initial="xavier")
    mix = jnp.ones((1, 400, 2))
    front = jax.jit(lambda: bank.init(jax.random.key(0), mix, method="encode"))()["params"]
    params = initial(net, jnp.ones((1, 9, 256)))
    assert {name: leaf.shape for name, leaf in front.items()} == {"analysis": (20, 2, 256), "synthesis": (256, 20, 2)}
    expected = {
        "block0_expand/kernel": 2 / (256 + 512),
        "block0_depthwise_kernel": 2 / (3 + 3 * 512),
        "block0_norm1/scale": 2 / 513,
        "block0_norm2/bias": 2 / 513,
        "block0_residual/kernel": 2 / (512 + 256),
        "masks/kernel": 2 / (256 + 1024),
    }
    flat = {"/".join(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    flat |= {f"front/{name}": leaf for name, leaf in front.items()}
    expected |= {"front/analysis": 2 / (40 + 20 * 256), "front/synthesis": 2 / (256 + 40)}
    for name, variance in expected.items():
        assert abs(float(flat[name].std()) / variance**0.5 - 1) < 0.15, name
    assert float(flat["block0_prelu1"][0]) == 0.25


def test_fresh_torch_initial_values():
    params = initial(ConvTasNet(2, blocks=1, repeats=1), jnp.ones((1, 9, 512)))
    for name, fan in (("bottleneck", 512), ("block0_expand", 128), ("block0_skip", 512), ("masks", 128)):
        for leaf in params[name].values():
            assert 0.9 * fan**-0.5 < np.abs(leaf).max() <= fan**-0.5
    assert 0.9 * 3**-0.5 < np.abs(params["block0_depthwise_kernel"]).max() <= 3**-0.5
    assert (np.asarray(params["block0_norm1"]["scale"]) == 1).all()


# Norms


def reference_norm(kind, x, scale, bias):
    """In float64, frame by frame."""
    x = np.asarray(x, np.float64)
    out = np.empty_like(x)
    for b, n in np.ndindex(x.shape[:2]):
        seen = {"gln": x[b], "cln": x[b, n], "cumulative": x[b, : n + 1]}[kind]
        out[b, n] = (x[b, n] - seen.mean()) / np.sqrt(seen.var() + 1e-8)
    return out * scale + bias


@pytest.mark.parametrize("kind", NORMS)
def test_norms(kind):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2, 40, 6)) * rng.uniform(0.1, 3, (2, 40, 1)) + 0.7).astype(np.float32)
    scale, bias = rng.uniform(0.5, 2, (2, 6)).astype(np.float32)
    assert relative(jax.jit(NORMS[kind])(x, scale, bias), reference_norm(kind, x, scale, bias)) < 1e-5


def test_the_global_norms_gradient_is_that_of_its_formula():
    rng = np.random.default_rng(1)
    x, weight = (jnp.asarray(rng.standard_normal((3, 50, 7)) + 0.5, jnp.float32) for _ in range(2))
    scale, bias = jnp.asarray(rng.uniform(0.5, 2, (2, 7)), jnp.float32)

    def plain(x, scale, bias):
        mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        return (x - mean) / jnp.sqrt(variance + 1e-8) * scale + bias

    ours, theirs = (
        jax.jit(jax.grad(lambda *a, norm=norm: (norm(*a) * weight).sum(), argnums=(0, 1, 2)))(x, scale, bias)
        for norm in (NORMS["gln"], plain)
    )
    for mine, expected in zip(ours, theirs, strict=True):
        assert relative(mine, expected) < 1e-5


def test_a_large_example_keeps_its_digits():
    """4 million values far from zero: statistics in one pass, and in single precision."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 8000, 512)) + 2).astype(np.float32)
    expected = (x - x.mean(dtype=np.float64)) / x.std(dtype=np.float64)
    assert np.abs(np.asarray(NORMS["gln"](jnp.asarray(x), jnp.ones(512), jnp.zeros(512))) - expected).max() < 2e-5


def test_an_unknown_norm():
    with pytest.raises(JaxsepError, match=r"model.norm='BN' is unknown, expected one of gln, cln, cumulative"):
        jax.eval_shape(lambda: ConvTasNet(2, norm="BN").init(jax.random.key(0), jnp.ones((1, 9, 8)), None, False))


# Time


@pytest.mark.parametrize(
    ("kind", "causal", "norm"),
    [
        ("tcn", True, "cln"),
        ("tcn", True, "cumulative"),
        ("tcn", False, "cln"),
        ("lstm", True, "cln"),
        ("lstm", False, "cln"),
    ],
)
def test_a_causal_net_does_not_see_the_future_and_others_do(kind, causal, norm):
    fields = {"bottleneck": 6, "hidden": 8, "blocks": 2, "repeats": 2, "skip": 5, "units": 5, "layers": 2}
    net = ConvTasNet(2, kind, norm=norm, input_norm=norm, causal=causal, **fields)
    x = jax.random.normal(jax.random.key(0), (1, 30, 7))
    variables, run = fresh(net, x)
    moved = np.abs(np.asarray(run(variables, x.at[:, 20:].set(3.0)) - run(variables, x)))[0].max(axis=(0, 2))
    assert moved[20] > 1e-3
    assert (moved[:20] < 1e-6).all() if causal else moved[19] > 1e-4


def test_receptive_field():
    """2 R (2^X - 1) + 1 frames of three taps: with norms per frame, nothing beyond moves the output."""
    net = ConvTasNet(1, bottleneck=4, hidden=5, blocks=3, repeats=2, skip=0, norm="cln", input_norm="cln")
    x = jax.random.normal(jax.random.key(0), (1, 61, 6))
    variables, _ = fresh(net, x)
    slopes = jax.jit(jax.grad(lambda x: net.apply(variables, x, None, False)[0, 0, 30].sum()), compiler_options=QUICK)(
        x
    )
    reached = np.flatnonzero(np.abs(np.asarray(slopes)[0]).max(axis=1))
    assert (reached[0], reached[-1]) == (30 - 14, 30 + 14)


def test_a_causal_net_with_a_norm_that_is_not_is_refused():
    for fields in ({"input_norm": "gln", "norm": "cln"}, {"input_norm": "cln", "norm": "gln"}):
        with pytest.raises(JaxsepError, match=r"model.causal=True: model.\w+='gln' sees the future"):
            net = ConvTasNet(2, causal=True, **fields)
            jax.eval_shape(lambda net=net: net.init(jax.random.key(0), jnp.ones((1, 9, 8)), None, False))


def test_shortcuts_join_layers_from_the_second_on():
    x = jax.random.normal(jax.random.key(0), (1, 12, 6))
    plain = ConvTasNet(2, "lstm", input_norm="cln", units=4, layers=1)
    joined = ConvTasNet(2, "lstm", input_norm="cln", units=4, layers=2, shortcuts=True)
    variables, run = fresh(joined, x)
    params = dict(variables["params"])
    params["lstm1"] = jax.tree.map(jnp.zeros_like, params["lstm1"])  # a layer that returns zeros
    short = {key: value for key, value in params.items() if key != "lstm1"}
    alone = jax.jit(lambda params: plain.apply({"params": params}, x, None, False))(short)
    np.testing.assert_allclose(run({"params": params}, x), alone, atol=1e-6)


# The filterbank


@pytest.mark.parametrize("convention", ["asteroid", "demucs", "torchaudio"])
@pytest.mark.parametrize("length", [1, 17, 803])
def test_every_length_comes_back(convention, length):
    """Also shorter than a kernel; the front end knows its frames, and takes axes before them."""
    bank = LearnedBank(2, 5, 16, 8, "linear", convention)
    wave = jnp.asarray(np.random.default_rng(0).standard_normal((3, 2, length, 2)), jnp.float32)
    rng = np.random.default_rng(1)
    shapes = {"analysis": (16, 2, 5), "synthesis": (5, 16, 2)}
    variables = {"params": {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}}
    encode = jax.jit(lambda wave: bank.apply(variables, wave, method="encode"))
    latent = encode(wave)
    assert latent.shape == (3, 2, bank.frames(length), 5)
    again = jax.jit(lambda latent: bank.apply(variables, latent, length, method="decode"))(latent)
    assert again.shape == wave.shape and np.isfinite(np.asarray(again)).all()
    np.testing.assert_allclose(latent[1, 0], encode(wave[1, 0]), atol=1e-4)
    with pytest.raises(JaxsepError, match=rf"front: \d+ frames, but {length + 800} samples have \d+"):
        jax.eval_shape(lambda: bank.apply(variables, latent, length + 800, method="decode"))


@pytest.mark.parametrize(("convention", "stride"), [("asteroid", 3), ("asteroid", 8), ("torchaudio", 4)])
def test_a_bank_of_shifted_impulses_inverts_itself(convention, stride):
    """Analysis that picks each sample, synthesis that puts it back: the wave, as often as frames hold it."""
    bank = LearnedBank(1, 8, 8, stride, "linear", convention)
    pick = np.eye(8, dtype=np.float32)
    params = {"analysis": jnp.asarray(pick[:, None]), "synthesis": jnp.asarray(pick[:, :, None])}
    wave = jnp.asarray(np.random.default_rng(0).standard_normal((1, 83, 1)), jnp.float32)
    both = lambda bank, wave: bank.decode(bank.encode(wave), 83)
    again = np.asarray(jax.jit(lambda wave: bank.apply({"params": params}, wave, method=both))(wave))[0, :, 0]
    starts = np.arange(bank.frames(83)) * stride - (stride if convention == "torchaudio" else 0)
    held = sum((np.arange(83) >= start) & (np.arange(83) < start + 8) for start in starts)
    np.testing.assert_allclose(again, held * np.asarray(wave)[0, :, 0], atol=1e-6)
    assert (held == 2).all() if convention == "torchaudio" else (held[: starts[-1]] > 0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"convention": "speechbrain"}, "front.convention='speechbrain' is unknown"),
        ({"activation": "tanh"}, "front.activation='tanh' is unknown"),
        ({"stride": 17}, "front: stride=17, expected 1 to kernel=16"),
        ({"convention": "torchaudio", "stride": 4}, "front: stride=4, but convention='torchaudio' has 8"),
        ({"channels": 2}, "front: a wave of 1 channels, expected 2"),
    ],
)
def test_filterbanks_that_cannot_be(fields, message):
    with pytest.raises(JaxsepError, match=message):
        bank = LearnedBank(**{"channels": 1, **fields})
        jax.eval_shape(lambda: bank.init(jax.random.key(0), jnp.ones((1, 99, 1)), method="encode"))
    with pytest.raises(JaxsepError, match="a wave of 0 samples"):
        jax.eval_shape(lambda: LearnedBank(1).init(jax.random.key(0), jnp.ones((1, 0, 1)), method="encode"))


def test_linear_masks_multiply():
    y, z = jnp.full((1, 2, 3, 4), -2.0), jnp.arange(12.0).reshape(1, 3, 4)
    np.testing.assert_array_equal(Mask("linear")(y, z), jnp.stack([-2 * z, -2 * z], axis=1))
    np.testing.assert_array_equal(Mask("relu")(y, z), jnp.zeros((1, 2, 3, 4)))


# Permutation invariant training


def si_snr(estimate, reference):
    """Negative, in float64, of one source [t c]."""
    e, r = (x - x.mean(axis=0) for x in (estimate.astype(np.float64), reference.astype(np.float64)))
    target = (e * r).sum() / (r * r).sum() * r
    return -10 * np.log10((target**2).sum() / ((e - target) ** 2).sum())


def l1(estimate, reference):
    return np.abs(estimate - reference).mean()


@pytest.mark.parametrize(("name", "plain", "sources"), [("si_snr", si_snr, 2), ("wave_l1", l1, 1), ("wave_l1", l1, 4)])
def test_the_best_order_of_all(name, plain, sources):
    """Against all orders tried one by one; each example has its own."""
    rng = np.random.default_rng(sources)
    references = rng.standard_normal((5, sources, 60, 2)).astype(np.float32)
    estimates = (references + 1.5 * rng.standard_normal(references.shape)).astype(np.float32)
    estimates = np.stack([wave[rng.permutation(sources)] for wave in estimates])
    permuted = losses.Permuted(losses.build({"name": name}))
    orders, values = jax.jit(lambda e, r: (permuted.order(e, r), permuted(e, r)))(estimates, references)
    for b in range(5):
        tried = {
            order: [plain(estimates[b, e], references[b, s]) for s, e in enumerate(order)]
            for order in itertools.permutations(range(sources))
        }
        best = min(tried, key=lambda order: sum(tried[order]))
        assert tuple(np.asarray(orders[b])) == best
        np.testing.assert_allclose(values[b], tried[best], rtol=1e-4)


def test_its_gradient_is_that_of_the_chosen_order():
    references = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 50, 1)), jnp.float32)
    estimates = references[:, ::-1] + 0.1
    permuted = losses.Permuted(losses.build({"name": "wave_l2"}))
    ours = jax.jit(jax.grad(lambda e: permuted(e, references).sum()))(estimates)
    expected = 2 * (estimates - references[:, ::-1]) / 50  # a mean over 50 samples
    np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_pit_of_a_config():
    config = configs.load_config("conv_tasnet.py:speech").copy_and_resolve_references()
    assert losses.from_config(config) == losses.Permuted(losses.SiSnr())
    config.loss.pit = False
    assert losses.from_config(config) == losses.SiSnr()
    config.loss.update(name="l1", pit=True)
    with pytest.raises(JaxsepError, match="or a loss on waves"):
        losses.from_config(config)
    with pytest.raises(JaxsepError, match="7 sources have too many orders"):
        losses.Permuted(losses.SiSnr())(jnp.ones((1, 7, 9, 1)), jnp.ones((1, 7, 9, 1)))


class ByPolarity:
    """A separator of two speakers, one of positive samples and one of negative ones, that returns the second first."""

    front = Identity()

    def apply(self, variables, mix, targets, train, rngs=None, mutable=None):
        waves = jnp.stack([jnp.minimum(mix, 0), jnp.maximum(mix, 0)], axis=1)
        return (Separation(waves, waves), {}) if mutable else Separation(waves, waves)


@pytest.fixture
def speakers(tmp_path):
    """A song of the two, and the config of a separator that is trained on such songs."""
    rng = np.random.default_rng(0)
    mix = 0.2 * rng.standard_normal(16_000)
    (tmp_path / "valid" / "talk").mkdir(parents=True)
    for name, wave in (("speaker1", np.maximum(mix, 0)), ("speaker2", np.minimum(mix, 0))):
        soundfile.write(tmp_path / "valid" / "talk" / f"{name}.wav", wave, 8000, subtype="FLOAT")
    config = configs.load_config("conv_tasnet.py:speech").copy_and_resolve_references().unlock()
    config.data.update(root=str(tmp_path), segment=4000, batch_size=4)
    return config


def test_validation_finds_the_order_of_a_song(speakers):
    """Of a pit run; without it the same estimates are compared as they come."""
    tracks = open_tracks(speakers.data, "valid")
    mesh = training.make_mesh(jax.devices()[:1])
    for pit in (True, False):
        speakers.loss.pit = pit
        loss = losses.from_config(speakers)
        scores = validation.make_validate(ByPolarity(), loss, speakers, mesh, tracks)({}).scores
        assert (scores["sdr/speaker1"] > 60 and scores["loss"] < -60) if pit else scores["sdr"] < 0


def test_scoring_finds_the_order_of_a_song(speakers, monkeypatch):
    monkeypatch.setattr(estimators, "load_variables", lambda *_: ({}, {}))
    monkeypatch.setattr(estimators.separator, "build", lambda _: ByPolarity())
    monkeypatch.setattr(estimators.splits, "provenance", lambda *_: {})
    names = ("speaker1", "speaker2")
    task = Task({name: (name,) for name in names}, names, channels=1)
    song = task.read(open_tracks(speakers.data, "valid")[0])
    for pit in (True, False):
        speakers.loss.pit = pit
        separate, _ = estimators.of_run(Path("run"), "best", "mixture", speakers, task, None, "valid")
        np.testing.assert_allclose(separate(song)["speaker1" if pit else "speaker2"], song.stems[0], atol=1e-6)


# Files


def test_a_file_of_asteroid(tmp_path):
    """By the command's way: the imported run separates as asteroid's net does."""
    import_weights("asteroid", [GOLDEN / "asteroid_tasnet.pth"], tmp_path / "run", ["jaxsep"])
    model = load(tmp_path / "run")
    mix = make.wave("asteroid", (2, 1, 301))[0, 0]
    stems = model.separate(mix, 16000)
    assert tuple(stems) == ("source1", "source2") and model.sample_rate == 16000
    assert relative(np.stack([stem[:, 0] for stem in stems.values()]), golden()["asteroid/output"][0]) < 1e-5


def test_a_file_of_demucs(tmp_path):
    """As demucs' apply_model cuts, weights and joins segments, on the standardised song."""
    import_weights("demucs", [GOLDEN / "demucs_tasnet.th"], tmp_path / "run", ["jaxsep"])
    model = load(tmp_path / "run")
    stems = model.separate(make.song(), 8000)
    assert list(stems) == make.SOURCES and model.sample_rate == 8000
    assert relative(np.stack(list(stems.values())), golden()["apply"]) < 1e-4


def test_demucs_files_of_tensors_alone_and_of_version_1():
    """Published files hold the tensors alone; version 1 has other arguments."""
    shapes = json.loads(golden()["shapes"].tobytes())
    for name in ("demucs", "demucs-causal"):
        state = {key: make.draw(key, tuple(shape)) for key, shape in shapes[name].items()}
        alone = conv_tasnet.config_of(demucs_files.Package(Path("x.th"), 2, "", (), {}, state, {}))
        described_config, _ = described(name)
        ignored = {"norm"} if name == "demucs-causal" else set()
        for key in set(alone.model) - ignored:
            assert alone.model[key] == described_config.model[key], key
        assert alone.front.to_dict() == described_config.front.to_dict() and alone.channels == 2
    first = demucs_files.Package(
        Path("x.th.gz"), 1, "demucs.tasnet.ConvTasNet", (), {"X": 10, "audio_channels": 2}, {}, {}
    )
    config = conv_tasnet.config_of(first)
    assert (config.variant, config.model.blocks, config.inference.overlap) == ("music-v1", 10, 0.0)
    assert config.sources == "drums,bass,other,vocals"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fb_name": "ParamSincFB"}, "fb_name='ParamSincFB' is not known here, expected one of free"),
        ({"norm_type": "BN"}, "norm_type='BN' is not known here, expected one of gLN, cLN, cgLN"),
        ({"mask_act": "tanh"}, "mask_act='tanh' is not known here"),
        ({"n_blocks": "x"}, "model_args: invalid literal"),
        ({"n_src": None}, "n_src=0, expected the number of sources"),
    ],
)
def test_models_of_asteroid_that_are_not_known(changes, message):
    with pytest.raises(JaxsepError, match=message):
        asteroid.MODELS["ConvTasNet"].config("x.pth", make.A | changes)


def test_files_that_do_not_fit(tmp_path, monkeypatch):
    file = tmp_path / "x.pth"
    for content, message in (
        ({"state_dict": {}}, "expected a dict with model_name, model_args, state_dict"),
        ({"model_name": "DPTNet", "model_args": {}, "state_dict": {}}, "model_name='DPTNet' is unknown"),
        ({"model_name": "ConvTasNet", "model_args": [], "state_dict": {}}, "expected model_args, a dict"),
        ({"model_name": "ConvTasNet", "model_args": make.A, "state_dict": {}}, "does not fit the net; tensors missing"),
    ):
        monkeypatch.setattr("jaxsep.weights.torch_files.read", lambda *_, content=content, **__: content)
        with pytest.raises(JaxsepError, match=message):
            weights.read("asteroid", [file])
    with pytest.raises(JaxsepError, match="2 files, expected one"):
        weights.read("asteroid", [file, file])
    package = demucs_files.Package(file, 2, "demucs.tasnet.ConvTasNet", (make.SOURCES,), {"norm_type": "BN"}, {}, {})
    with pytest.raises(JaxsepError, match="norm_type='BN'"):
        conv_tasnet.config_of(package)
