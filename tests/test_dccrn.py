"""DCCRN against the authors' code and asteroid's: golden outputs made by `golden/make_dccrn.py`."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from jax import lax

from jaxsep import catalogue, separator
from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft
from jaxsep.frontends.convstft import ConvStft
from jaxsep.heads import ComplexMask
from jaxsep.layers import complex as layers
from jaxsep.layers.recurrent import LSTM
from jaxsep.models.dccrn import DCCRN
from jaxsep.weights import dccrn as weights
from jaxsep.weights import tensors, torch_files

GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("make_dccrn", GOLDEN / "make_dccrn.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)

NARROW = {"widths": (4, 6, 8), "units": 6}
# kind of the golden file -> fields of the net, mask
KINDS = {
    "cl": ({}, "E"),
    "cl-c": ({}, "C"),
    "cl-r": ({}, "R"),
    "cl-whitened": ({"norm": "complex"}, "E"),
    "e": ({"lstm": "real"}, "E"),
    "asteroid": ({"layout": "asteroid", "widths": (8, 16), "units": 256, "sources": 2}, "E"),
}
DIFFERENTIATED = ("cl-whitened", "e", "asteroid")
STFTS = {"official": ConvStft(48, 12, 64, bins=33), "asteroid": ConvStft(24, 6, 32, "sqrt_hann", "asteroid", 17)}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "dccrn.npz") as file:
        return dict(file)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


def shapes(net, z):
    return jax.eval_shape(lambda: net.init(jax.random.key(0), z, None, False))


def rules(net):
    """Those of the weight import."""
    return (weights.table if net.layout == "official" else weights.asteroid_table)(net)


def drawn(names):
    return {name: make.draw(name, tuple(shape)) for name, shape in names.items() if "stft" not in name}


@functools.cache
def narrow(kind):
    """(separator, variables): the drawn weights of a narrow net, placed by the rules of the weight import."""
    fields, mode = KINDS[kind]
    net = DCCRN(**{**NARROW, **fields})
    with np.load(GOLDEN / "dccrn.npz") as file:
        return loaded(net, STFTS[net.layout], mode, json.loads(str(file[f"{kind}/tensors"])))


def loaded(net, front, mode, names):
    made = separator.Separator(front, net, ComplexMask(mode))
    shapes = jax.eval_shape(lambda mix: made.init(jax.random.key(0), mix, None, False), waves())
    variables = tensors.place(shapes, rules(net), drawn(names), "drawn", weights.IGNORED)
    return made, jax.tree.map(jnp.asarray, variables)


def waves(samples=make.SAMPLES, loudness=0.05):
    return jnp.asarray(make.wave(samples, loudness)[..., None])


def outputs(made, variables, mix, train=False):
    """Stems [b t] or [b s t], and the updated statistics."""
    out, updated = made.apply(variables, mix, None, train, mutable=["batch_stats"])
    stems = out.stems[..., 0]
    return (stems[:, 0] if made.net.layout == "official" else stems), updated


@functools.cache
def gradients(kind, train=False):
    """Output, gradients for the wave and the parameters as in `make_dccrn.run`, and the updated statistics."""
    made, variables = narrow(kind)
    rest = {key: tree for key, tree in variables.items() if key != "params"}

    def scalar(mix, params):
        stems, updated = outputs(made, {"params": params, **rest}, mix, train)
        return (stems * make.draw("weight", stems.shape)).sum(), (stems, updated)

    step = jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))
    (mix, params), (stems, updated) = step(waves(), variables["params"])
    return stems, mix[..., 0], params, updated["batch_stats"]["net"]


@functools.cache
def compiled(kind):
    made, variables = narrow(kind)
    return jax.jit(lambda mix, train: outputs(made, variables, mix, train), static_argnums=1)


def forward(kind, loudness=0.05):
    return compiled(kind)(waves(loudness=loudness), False)[0]


@pytest.mark.parametrize("kind", ["cl", "cl-c", "cl-r"])
def test_masks_are_those_of_the_authors_code(golden, kind):
    assert relative(forward(kind), golden[f"{kind}/output"]) < 1e-5


@pytest.mark.parametrize("kind", DIFFERENTIATED)
def test_equal_to_the_public_code(golden, kind):
    """Waves to 1e-5 of the largest sample, and their gradient to 1e-4; all weights and statistics random."""
    stems, gradient, *_ = gradients(kind)
    assert relative(stems, golden[f"{kind}/output"].reshape(stems.shape)) < 1e-5
    assert relative(gradient, golden[f"{kind}/gradient"].reshape(gradient.shape)) < 1e-4


@pytest.mark.parametrize("kind", DIFFERENTIATED)
def test_gradients_of_the_parameters_are_those_of_the_public_code(golden, kind):
    made, _ = narrow(kind)
    theirs = make.parted(golden, f"{kind}/parameters")
    ours = tensors._flat(gradients(kind)[2], "params/")
    table = rules(made.net)
    compared = 0
    for path, gradient in ours.items():
        names, convert = table[path]
        names = (names,) if isinstance(names, str) else names
        if not set(names) <= set(theirs):
            continue
        # Each of the two biases of an LSTM has the gradient of their sum.
        expected = theirs[names[0]] if convert is np.add else convert(*(theirs[name] for name in names))
        assert np.abs(np.asarray(gradient) - expected).max() < 1e-4 * max(np.abs(expected).max(), 1e-3), path
        compared += gradient.size
    assert compared > (1000 if kind == "asteroid" else 2000)


def test_equal_to_the_authors_code_in_training(golden):
    """Batch statistics, and what becomes of the running ones."""
    stems, updated = compiled("cl")(waves(), True)
    assert relative(stems, golden["cl/train/output"]) < 1e-5
    running(golden, "cl", updated["batch_stats"]["net"], {"mean": ("running_mean",)})
    stems, gradient, _, statistics = gradients("cl-whitened", True)
    assert relative(stems, golden["cl-whitened/train/output"]) < 1e-5
    assert relative(gradient, golden["cl-whitened/train/gradient"]) < 1e-4
    running(golden, "cl-whitened", statistics, {"mean": ("RMr", "RMi"), "cov": ("RVrr", "RVri", "RVii")})


def running(golden, kind, statistics, names):
    for name, parts in names.items():
        expected = np.concatenate([golden[f"{kind}/train/encoder.1.1.{part}"] for part in parts])
        assert relative(statistics["encoder1_norm"][name].reshape(-1), expected) < 1e-5


def test_clamp_is_that_of_the_authors_forward(golden):
    loud = forward("cl-c", 0.5)
    assert relative(jnp.clip(loud, -1, 1), golden["clamped/output"]) < 1e-5 and np.abs(loud).max() > 1.1
    front = STFTS["official"]
    latent = front.encode(2 * waves())
    wave, clamped = (front.clone(clamp=clamp).decode(latent * 10, make.SAMPLES) for clamp in (False, True))
    np.testing.assert_array_equal(clamped, np.clip(wave, -1, 1))
    assert np.abs(wave).max() > 1.1


@pytest.mark.full
@pytest.mark.parametrize("kind", ["full", "asteroid/full"])
def test_full_width_is_equal_to_the_public_code(golden, kind):
    layout = "official" if kind == "full" else "asteroid"
    front = ConvStft() if kind == "full" else ConvStft(window="sqrt_hann", form="asteroid")
    made, variables = loaded(DCCRN(layout=layout), front, "E", json.loads(str(golden[f"{kind}/tensors"])))

    def scalar(mix):
        stems, _ = outputs(made, variables, mix)
        return (stems * make.draw("weight", stems.shape)).sum(), stems

    gradient, stems = jax.jit(jax.grad(scalar, has_aux=True))(waves(1600))
    assert relative(stems, golden[f"{kind}/output"].reshape(stems.shape)) < 1e-5
    assert relative(gradient, golden[f"{kind}/gradient"].reshape(gradient.shape)) < 1e-4


def test_parameter_counts():
    """Those of the public codes, but for the second bias of each LSTM gate: 4 * 256 per layer."""
    module = configs.load_module("dccrn.py")
    for variant, reference in module.VARIANTS.items():
        if reference:
            config = module.get_config(variant)
            assert catalogue._counts(config)[""] == reference - 2 * 4 * config.model.units
    assert catalogue._counts(module.get_config("cl"))[""] == 3_669_005


# Weights


def test_import_of_the_authors_state_dict(golden):
    """A file that PyTorch saved: sizes, norm and STFT are read off its tensors, and out comes the net it was."""
    imported = weights.read([GOLDEN / "dccrn.pth"])
    config = imported.config
    assert (config.variant, config.sample_rate, config.sources) == ("imported", 16_000, "speech")
    assert separator.build(config) == narrow("cl-whitened")[0]
    expected = narrow("cl-whitened")[1]
    assert jax.tree.structure(imported.variables) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(imported.variables), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"encoder.1.0.imag_conv.weight": None}, "missing: encoder.1.0.imag_conv.weight"),
        ({"encoder.9.0.real_conv.weight": (2, 2, 5, 2)}, "cannot tell its sizes"),
        ({"decoder.0.0.real_conv.weight": (8, 3, 3, 2)}, "of another shape"),
        ({"encoder.0.0.real_conv.weight": (2, 1, 3, 2)}, "expected .5, 2."),
        ({"istft.window": (1, 48, 1)}, "window of its STFT"),
        ({"stft.weight": (66, 1, 48)}, "trained kernels"),
        ({"istft.window": None}, "expected weights of DCCRN"),
    ],
)
def test_other_files_are_refused_in_one_line(monkeypatch, changes, words):
    net = torch_files.read_tensors(GOLDEN / "dccrn.pth")
    for name, shape in changes.items():
        net.pop(name, None)
        if shape:
            net[name] = np.ones(shape, np.float32)
    monkeypatch.setattr(torch_files, "read_tensors", lambda file: net)
    with pytest.raises(JaxsepError, match=words) as error:
        weights.read([Path("net.pth")])
    assert "\n" not in str(error.value)


def test_asteroids_arguments():
    """Those of the default are the variant's; sources have no names there."""
    config = weights.asteroid_config("net.pth", {"architecture": "DCCRN-CL", "n_freqs": 256, "sample_rate": 16000.0})
    assert config.to_dict() == configs.load_config("dccrn.py:asteroid").to_dict()
    narrow_ = weights.asteroid_config("net.pth", {**make.ASTEROID, "sample_rate": 8000})
    assert separator.build(narrow_) == narrow("asteroid")[0]
    assert (narrow_.sources, narrow_.sample_rate, narrow_.loss.pit) == ("source1,source2", 8000, True)
    assert weights.asteroid_config("net.pth", {"mask_bound": None}).head.mode == "C"
    for arguments, words in [
        ({"architecture": "DCCRN"}, "architecture='DCCRN'"),
        ({"mask_bound": "sigmoid"}, "mask_bound='sigmoid'"),
        ({"n_freqs": 100}, "n_freqs=100"),
        ({"stft_stride": "hop"}, "model_args"),
    ]:
        with pytest.raises(JaxsepError, match=words):
            weights.asteroid_config("net.pth", arguments)


# The front end


def kernels(front):
    """Kernels of the authors' convolutions, [bins frame] complex: analysis, synthesis by numpy's pseudo-inverse."""
    basis = np.fft.rfft(np.eye(front.fft))[: front.frame].T
    rows = np.concatenate([basis.real, basis.imag])
    window = scipy.signal.get_window("hann", front.frame)
    return rows * window, np.linalg.pinv(rows).T * window, window


@pytest.mark.parametrize("sizes", [(48, 12, 64), (40, 10, 40), (12, 3, 22)])
def test_stft_is_the_authors_convolutions(sizes):
    """Against the matrices, in float64; synthesis of arrays that are no spectra of a wave."""
    front = ConvStft(*sizes)
    frame, hop, fft = sizes
    analysis, synthesis, window = kernels(front)
    wave = make.draw("wave", (20 * hop,)).astype(np.float64)
    padded = np.pad(wave, frame - hop)
    starts = range(0, len(padded) - frame + 1, hop)
    expected = np.stack([analysis @ padded[i : i + frame] for i in starts])
    latent = np.asarray(front.encode(jnp.asarray(wave[:, None], jnp.float32)))[..., 0]
    assert relative(np.concatenate([latent.real, latent.imag], axis=1), expected) < 1e-6
    anything = np.random.default_rng(0).standard_normal(expected.shape)
    total, energy = np.zeros(len(padded)), np.zeros(len(padded))
    for i, values in zip(starts, anything, strict=True):
        total[i : i + frame] += values @ synthesis
        energy[i : i + frame] += window**2
    decoded = front.decode(
        jnp.asarray(anything @ np.kron([[1], [1j]], np.eye(fft // 2 + 1)), jnp.complex64)[..., None], len(wave)
    )
    assert relative(decoded[:, 0], (total / (energy + 1e-8))[frame - hop : hop - frame]) < 1e-6


@pytest.mark.parametrize("length", [1, 12, 485])
@pytest.mark.parametrize("form", ["official", "asteroid"])
def test_stft_of_any_length_is_inverted(form, length):
    """asteroid's where all windows overlap: it fades in and out."""
    front = STFTS[form]
    wave = jnp.asarray(np.random.default_rng(0).standard_normal((length, 2)), jnp.float32)
    latent, back = jax.jit(lambda wave: (latent := front.encode(wave), front.decode(latent, length)))(wave)
    assert latent.shape == (front.frames(length), front.fft // 2 + 1, 2)
    inside = slice(None) if form == "official" else slice(front.frame - front.hop, max(length - front.frame, 0))
    assert back.shape == wave.shape and np.abs(back - wave)[inside].max(initial=0) < 2e-6


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"fft": 46}, "fft=46"),
        ({"form": "torch"}, "form='torch'"),
        ({"hop": 7}, "hop=7"),
        ({"bins": 99}, "bins=99"),
    ],
)
def test_stft_refuses_what_does_not_fit(fields, words):
    with pytest.raises(JaxsepError, match=words):
        STFTS["official"].clone(**fields).encode(jnp.zeros((100, 1)))


# Layers


def test_sub_pixel_form_is_the_transposed_convolution():
    """And its filter gradient: against the plain form, zeros between the bins."""
    rng = np.random.default_rng(0)
    for bins in (3, 5, 13):
        x = jnp.asarray(rng.standard_normal((2, 5, 6, 4)), jnp.float32)
        kernel = jnp.asarray(rng.standard_normal((2, bins, 4, 3)), jnp.float32)

        def plain(x, kernel, half=bins // 2, bins=bins):
            padding = ((1, 1), (bins - 1 - half, bins - half))
            flipped, order = kernel[::-1, ::-1], ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(x, flipped, (1, 1), padding, lhs_dilation=(1, 2), dimension_numbers=order)

        expected, pullback = jax.vjp(plain, x, kernel)
        found, fast = jax.vjp(layers.up, x, kernel)
        assert relative(found, expected) < 1e-5
        for ours, theirs in zip(jax.jit(fast)(expected), jax.jit(pullback)(expected), strict=True):
            assert relative(ours, theirs) < 1e-5


def test_one_real_convolution_is_four():
    """A complex layer on parts is the complex convolution written out, biases b_r - b_i and b_r + b_i."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, 5, 8, 6)), jnp.float32)
    layer = layers.ComplexConv(2, 5, (1, 0))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32), layer.init(jax.random.key(0), x)
    )
    real, imag = jnp.split(x, 2, axis=-1)
    r, i, b_r, b_i = (params["params"][name] for name in ("real", "imag", "real_bias", "imag_bias"))
    re = layers.down(real, r, (1, 0)) + b_r - layers.down(imag, i, (1, 0)) - b_i
    im = layers.down(real, i, (1, 0)) + b_i + layers.down(imag, r, (1, 0)) + b_r
    assert relative(layer.apply(params, x), jnp.concatenate([re, im], axis=-1)) < 1e-5


def test_complex_lstm_is_two_lstms():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 7, 6)), jnp.float32)
    net = layers.ComplexLSTM(4)
    params = jax.jit(lambda x: net.init(jax.random.key(0), x))(x)["params"]

    @functools.partial(jax.jit, static_argnums=0)
    def apply(part, x):
        return LSTM(4).apply({"params": {"layer0": params[f"layer0_{part}"]}}, x)

    re, im = jnp.split(x, 2, axis=-1)
    expected = [apply("real", re) - apply("imag", im), apply("real", im) + apply("imag", re)]
    assert relative(jax.jit(net.apply)({"params": params}, x), jnp.concatenate(expected, axis=-1)) < 1e-5


def test_complex_batch_norm_whitens():
    """Out come uncorrelated parts of variance 1, whatever the parts' scales and correlation."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((4, 50, 20, 1, 2)) @ np.array([[3.0, 2.0], [0.0, 0.5]]) + [1.0, -2.0]
    x = jnp.asarray(np.moveaxis(base, -1, 0).reshape(2, 4, 50, 20).transpose(1, 2, 3, 0), jnp.float32)
    norm = layers.ComplexBatchNorm()
    variables = jax.jit(lambda x: norm.init(jax.random.key(0), x, False))(x)
    assert -0.9 < float(variables["params"]["scale"][1, 0]) < 0.9 and float(variables["params"]["scale"][1, 0]) != 0
    plain = {**variables, "params": {**variables["params"], "scale": jnp.asarray([[1.0], [0.0], [1.0]])}}

    @jax.jit
    def whitened(x):
        y = norm.apply(plain, x, True, mutable=["batch_stats"])[0]
        return jnp.sum(y**3), y

    step = jax.value_and_grad(whitened, has_aux=True)
    y = np.asarray(step(x)[0][1]).reshape(-1, 2)
    assert np.abs(np.cov(y.T) - np.eye(2)).max() < 1e-3 and np.abs(y.mean(axis=0)).max() < 1e-3
    # One direction only: the smallest variance is rounding, not a NaN.
    flat = jnp.concatenate([x[..., :1], 100 * x[..., :1]], axis=-1) * 100
    (value, _), gradient = step(flat)
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize("mode", ["E", "C", "R"])
def test_masks_by_hand(mode):
    rng = np.random.default_rng(0)
    mask, mix = (
        rng.standard_normal(shape) + 1j * rng.standard_normal(shape) for shape in [(1, 2, 3, 4, 1), (1, 3, 4, 1)]
    )
    mask[0, 0, 0] *= 1e-3
    found = ComplexMask(mode)(jnp.asarray(mask, jnp.complex64), jnp.asarray(mix, jnp.complex64))
    y = mix[:, None]
    expected = {
        "E": np.abs(y) * np.tanh(np.abs(mask)) * np.exp(1j * (np.angle(y) + np.angle(mask))),
        "C": y * mask,
        "R": y.real * mask.real + 1j * y.imag * mask.imag,
    }[mode]
    assert relative(found, expected) < 1e-6


@pytest.mark.parametrize("mode", ["E", "C", "R"])
def test_phase_at_zero_has_a_finite_gradient(mode):
    """Where mask, mixture or both are 0; at a mask of 0 that of E is the one of C."""
    values = jnp.asarray([0, 0, 1e-30, 1 + 1j, 1e-20j], jnp.complex64)
    mask, mix = (x.reshape(1, 1, 5, 5, 1) for x in jnp.meshgrid(values, values))

    def energy(mask, mix):
        z = ComplexMask(mode)(mask, mix[:, 0])
        return (z.real + 2 * z.imag).sum()

    for gradient in jax.jit(jax.grad(energy, argnums=(0, 1)))(mask, mix):
        assert np.isfinite(np.asarray(gradient)).all()
    if mode == "E":
        at_zero = [
            jax.grad(lambda m, mode=m: (ComplexMask(mode)(m, mix[:, 0]).real).sum())(jnp.zeros_like(mask)) for m in "EC"
        ]
        np.testing.assert_array_equal(*at_zero)


@pytest.mark.parametrize("samples", [1, 100])
@pytest.mark.parametrize("layout", ["official", "asteroid"])
def test_any_length_and_any_spectrum_will_do(layout, samples):
    """Shorter than a frame, fewer frames than levels; also on the front end of the other systems."""
    net = DCCRN(**NARROW, layout=layout, sources=3)
    assert net.lengths(1) == ((1, 1) if layout == "official" else (4, 4))
    for front in (STFTS[layout], Stft(64, 16)):
        made = separator.Separator(front, net, ComplexMask())

        def stems(mix, made=made):
            return made.init_with_output(jax.random.key(0), mix, None, False)[0].stems

        assert jax.eval_shape(stems, jnp.zeros((2, samples, 2))).shape == (2, 3, samples, 2)


def test_unknown_settings_are_refused():
    with pytest.raises(JaxsepError, match="mode='e'"):
        ComplexMask("e")
    z = jnp.zeros((1, 4, 17, 1), jnp.complex64)
    for fields, words in [
        ({"layout": "mine"}, "layout='mine'"),
        ({"norm": "real"}, "norm='real'"),
        ({"kernel": 4}, "kernel=4"),
        ({"widths": (4, 5)}, "5 is odd"),
        ({"widths": (4,) * 5}, "17 bins, expected a multiple of 32"),
    ]:
        with pytest.raises(JaxsepError, match=words):
            shapes(DCCRN(**{**NARROW, **fields}), z)
    net = DCCRN(**NARROW)
    with pytest.raises(JaxsepError, match="the weights are for 17"):
        jax.eval_shape(lambda v: net.apply(v, z[:, :, :9], None, False), shapes(net, z))
