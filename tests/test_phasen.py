"""PHASEN against a transcription into float64 numpy that was written apart from it, and by what must hold for it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transcription_phasen import phasen as transcribed
from transcription_phasen import shapes

from jaxsep.errors import JaxsepError
from jaxsep.heads import AmplitudePhase
from jaxsep.models.phasen import PHASEN

NARROW = {"amplitude": 6, "phase": 4, "reduced": 3, "units": 5, "blocks": 2}
ONE = {**NARROW, "blocks": 1}


def spectrum(*shape, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((*shape, 2)) @ [1, 1j], jnp.complex64)


def drawn(table, seed=0):
    """The transcription's parameters, all random, scales and variances around 1."""
    rng = np.random.default_rng(seed)

    def draw(name, shape):
        leaf = name.rsplit(".")[-1]
        if leaf.startswith("weight"):
            gain = 3 if ".fc" in name else 1  # so that the mask is not near 1/2 everywhere
            return gain * rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
        return (leaf in ("gamma", "var")) + 0.3 * rng.uniform(-1, 1, shape)

    return {name: draw(name, shape).astype(np.float32) for name, shape in table.items()}


class Ported:
    """The transcription's arrays as the model's: bins and frames exchanged, channels inside of bins."""

    def __init__(self, arrays, bins):
        self.arrays, self.bins, self.params, self.stats = arrays, bins, {}, {}

    def put(self, path, value, tree=None):
        *parents, leaf = path.split("/")
        node = self.params if tree is None else tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = jnp.asarray(value)

    def conv(self, ours, theirs):
        self.put(f"{ours}/kernel", self.arrays[f"{theirs}.weight"].transpose(3, 2, 1, 0))
        self.put(f"{ours}/bias", self.arrays[f"{theirs}.bias"])

    def norm(self, ours, theirs):
        for leaf, name in (("scale", "gamma"), ("bias", "beta")):
            self.put(f"{ours}/{leaf}", self.arrays[f"{theirs}.{name}"].T)
        if f"{theirs}.mean" in self.arrays:
            for leaf in ("mean", "var"):
                self.put(f"{ours}/{leaf}", self.arrays[f"{theirs}.{leaf}"], self.stats)

    def conv_norm(self, ours, theirs):
        self.conv(f"{ours}/conv", f"{theirs}.conv")
        self.norm(f"{ours}/norm", f"{theirs}.norm")

    def dense(self, ours, theirs):
        self.put(f"{ours}/kernel", self.arrays[f"{theirs}.weight"].T)
        self.put(f"{ours}/bias", self.arrays[f"{theirs}.bias"])

    def ftb(self, ours, theirs):
        for part, name in (("reduce", "reduce"), ("merge", "join")):
            self.conv_norm(f"{ours}/{part}", f"{theirs}.{name}")
        self.norm(f"{ours}/attend/norm", f"{theirs}.attend.norm")
        weight = self.arrays[f"{theirs}.attend.conv.weight"]  # [out, channels outside and bins inside, 9]
        weight = self.inside(weight.transpose(2, 1, 0), 1)
        self.put(f"{ours}/attend/conv/kernel", weight[:, None])
        self.put(f"{ours}/attend/conv/bias", self.arrays[f"{theirs}.attend.conv.bias"])
        self.dense(f"{ours}/freq", f"{theirs}.freq")

    def inside(self, x, axis):
        """An axis that runs over channels, then bins, to one that runs over bins, then channels."""
        split = x.reshape(*x.shape[:axis], -1, self.bins, *x.shape[axis + 1 :])
        return np.swapaxes(split, axis, axis + 1).reshape(x.shape)

    def block(self, ours, theirs):
        for i in range(2):
            self.ftb(f"{ours}/ftb{i + 1}", f"{theirs}.amplitude.ftb{i}")
            self.norm(f"{ours}/norm{i + 1}", f"{theirs}.phase.norm{i}")
            self.conv(f"{ours}/phase{i + 1}", f"{theirs}.phase.conv{i}")
        for i in range(3):
            self.conv_norm(f"{ours}/amplitude{i + 1}", f"{theirs}.amplitude.conv{i}")
        for name in ("to_amplitude", "to_phase"):  # 1x1 convolutions
            self.put(f"{ours}/{name}/kernel", self.arrays[f"{theirs}.{name}.weight"][:, :, 0, 0].T)
            self.put(f"{ours}/{name}/bias", self.arrays[f"{theirs}.{name}.bias"])

    def recurrent(self):
        for direction in ("forward", "backward"):
            ours, theirs = f"blstm/layer0/{direction}", f"amplitude.lstm.{direction}"
            self.put(f"{ours}/input", self.inside(self.arrays[f"{theirs}.weight_ih"].T, 0))
            self.put(f"{ours}/recurrent", self.arrays[f"{theirs}.weight_hh"].T)
            self.put(f"{ours}/bias", self.arrays[f"{theirs}.bias_ih"] + self.arrays[f"{theirs}.bias_hh"])

    def variables(self, blocks):
        for i in range(2):
            self.conv_norm(f"amplitude_in{i + 1}", f"amplitude.in{i}")
            self.conv(f"phase_in{i + 1}", f"phase.in{i}")
            self.dense(f"dense{i + 1}", f"amplitude.fc{i}")
        for i in range(blocks):
            self.block(f"block{i + 1}", f"block{i}")
        self.conv("squeeze", "amplitude.squeeze")
        self.conv("phasor", "phase.out")
        self.recurrent()
        self.put("mask/kernel", self.inside(self.arrays["amplitude.fc2.weight"].T, 1))
        self.put("mask/bias", self.inside(self.arrays["amplitude.fc2.bias"], 0))
        return {"params": self.params, "batch_stats": self.stats}


def both(fields, frames, bins, channels, attention="frequency"):
    """Net, variables, mixture [1 n f c] and the transcription's arrays."""
    z = spectrum(1, frames, bins, channels)
    net = PHASEN(**fields, attention=attention)
    arrays = drawn(shapes(bins, audio=channels, channel_map=attention == "channel", **fields))
    variables = Ported(arrays, bins).variables(net.blocks)
    made = jax.eval_shape(lambda: net.init(jax.random.key(0), z, None, False))
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, made)
    return net, variables, z, arrays


CASES = [
    pytest.param(NARROW, (13, 11, 1), "frequency", id="speech"),
    pytest.param(NARROW, (13, 11, 2), "channel", id="music"),
    pytest.param({}, (6, 257, 1), "frequency", id="full", marks=pytest.mark.full),
]


@pytest.mark.parametrize("fields, shape, attention", CASES)
def test_equal_to_the_transcription(fields, shape, attention):
    """Mask, phasor and estimate to 1e-5 of the largest."""
    net, variables, z, arrays = both(fields, *shape, attention)
    y = run(net, variables, z)
    mask, phasor, estimate = transcribed(arrays, np.asarray(z[0], np.complex128))
    assert mask.max() - mask.min() > 0.5 and mask.std(axis=0).max() > 0.01
    assert relative(y[0], mask * phasor) < 1e-5
    assert relative(jnp.abs(y[0]), mask) < 1e-5
    assert relative(AmplitudePhase()(y[:, None], z)[0, 0], estimate) < 1e-5


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("shape, attention", [((9, 7, 1), "frequency"), ((9, 7, 2), "channel")])
def test_gradient_by_finite_differences(shape, attention):
    """Along random directions of the input, those of the float64 transcription to 1e-4."""
    net, variables, z, arrays = both(ONE, *shape, attention)
    weight, *directions = (np.asarray(spectrum(*shape, seed=seed)) for seed in range(2, 7))

    def scalar(real, imag):
        z = (real + 1j * imag)[None]
        estimate = AmplitudePhase()(net.apply(variables, z, None, False)[:, None], z)[0, 0]
        return (estimate * weight.conj()).real.sum()

    slopes = jax.jit(jax.grad(scalar, (0, 1)))(z[0].real, z[0].imag)
    point = np.asarray(z[0], np.complex128)

    def at(step):
        return (transcribed(arrays, point + step)[2] * weight.conj()).real.sum()

    ours = [(slopes[0] * d.real + slopes[1] * d.imag).sum() for d in directions]
    theirs = [(at(1e-6 * d) - at(-1e-6 * d)) / 2e-6 for d in directions]
    assert relative(np.array(ours), np.array(theirs)) < 1e-4


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def made(net, *shape):
    return jax.eval_shape(
        lambda z: net.init(jax.random.key(0), z, None, False), jax.ShapeDtypeStruct(shape, jnp.complex64)
    )["params"]


def test_parameter_counts_of_every_part():
    """35,000,553 with the LSTM's second biases, 4,800; the parts by their closed formulas."""
    params = made(PHASEN(), 1, 4, 257, 1)
    assert count(params) == 35_000_553 - 4_800 == 34_995_753
    parts = {key: count(value) for key, value in params.items()}
    assert parts["amplitude_in1"] + parts["amplitude_in2"] == 66_432
    assert parts["phase_in1"] + parts["phase_in2"] == 59_136
    assert parts["block1"] == parts["block2"] == parts["block3"] == 6_960_018
    block = {key: count(value) for key, value in params["block1"].items()}
    assert block["ftb1"] == block["ftb2"] == 3_058_497
    assert block["amplitude1"] == block["amplitude2"] == block["amplitude3"] == 230_688
    assert [block[name] for name in ("norm1", "phase1", "norm2", "phase2")] == [24_672, 34_608, 24_672, 57_648]
    assert (block["to_amplitude"], block["to_phase"]) == (4_704, 4_656)
    behind = sum(parts[name] for name in ("squeeze", "blstm", "dense1", "dense2", "mask"))
    assert behind == 13_994_833 - 4_800 and parts["phasor"] == 98
    kernels = {name: params["block1"][name]["conv"]["kernel"].shape[:2] for name in ("amplitude1", "amplitude2")}
    assert kernels == {"amplitude1": (5, 5), "amplitude2": (25, 1)}  # frames x bins
    assert params["block1"]["phase1"]["kernel"].shape[:2] == (5, 3)
    assert params["amplitude_in1"]["conv"]["kernel"].shape[:2] == (1, 7)


@pytest.mark.parametrize(
    "bins, by_bin, by_channel, four_stereo",
    [(257, 35.0, 23.8, 24.9), (513, 99.5, 41.8, 43.9), (1025, 337, 80.0, 84.4), (2049, 1246, 166, 174.6)],
)
def test_parameters_by_bins(bins, by_bin, by_channel, four_stereo):
    """In millions, two biases per gate; the attention map with a value per bin grows with 9 * 5 * F^2."""
    frequency, channel = (made(PHASEN(attention=kind), 1, 1, bins, 1) for kind in ("frequency", "channel"))
    biases = 8 * 600
    assert (count(frequency) + biases) / 1e6 == pytest.approx(by_bin, abs=0.5 if by_bin > 300 else 0.05)
    assert (count(channel) + biases) / 1e6 == pytest.approx(by_channel, abs=0.5 if by_channel > 100 else 0.05)
    # One net for four stereo sources would share all but its edges: 4 real inputs, 8 masks, 8 phasors.
    edges = 2 * 96 * 7 + 2 * 48 * 15 + 7 * 601 * bins + 14 * 49
    assert (count(channel) + biases + edges) / 1e6 == pytest.approx(four_stereo, abs=0.06)


def test_music_form_counts():
    """Stereo, a value of the attention per channel: two more inputs, masks F, phasors two for one."""
    mono, stereo = (made(PHASEN(attention="channel"), 1, 1, 513, channels) for channels in (1, 2))
    assert count(stereo) == 42_083_748
    assert count(made(PHASEN(attention="channel"), 1, 1, 257, 2)) == 23_978_404
    assert count(stereo) - count(mono) == 2 * 96 * 7 + 2 * 48 * 15 + 601 * 513 + 2 * 49


def run(net, variables, z):
    return jax.jit(lambda variables, z: net.apply(variables, z, None, False))(variables, z)


def layers(net, variables, z):
    """Outputs of every layer, by name."""
    apply = jax.jit(lambda variables, z: net.apply(variables, z, None, False, capture_intermediates=True))
    return apply(variables, z)[1]["intermediates"]


def variables_of(net, z):
    """All random: as the initialisers draw them, moved a little."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, None, False))
    rng = np.random.default_rng(3)

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return (rng.standard_normal(leaf.shape) / math.sqrt(math.prod(leaf.shape[:-1]))).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def test_training_starts_from_the_phase_of_the_mixture():
    z = spectrum(1, 30, 65, 2)
    net = PHASEN(**{**ONE, "phase": 8}, attention="channel")
    y = run(net, jax.jit(lambda z: net.init(jax.random.key(0), z, None, False))(z), z)
    turn = np.asarray(jnp.cos(jnp.angle(y * z.conj())))
    assert 0.9 < turn.mean() < 0.9999


def test_the_mask_is_below_one_and_the_phasor_turns_it():
    z = spectrum(2, 20, 17, 2)
    net = PHASEN(**ONE, attention="channel")
    y = run(net, variables_of(net, z), z)
    mask = jnp.abs(y)
    assert float(mask.min()) > 0 and float(mask.max()) < 1
    estimate = AmplitudePhase()(y[:, None], z)[:, 0]
    np.testing.assert_allclose(jnp.abs(estimate), mask * jnp.abs(z), rtol=1e-5)
    assert float(jnp.abs(jnp.angle(estimate * z.conj())).mean()) > 0.5  # the phase is another one
    with_mixture_phase = AmplitudePhase()((mask * z / jnp.abs(z))[:, None], z)[:, 0]
    np.testing.assert_allclose(with_mixture_phase, mask * z, rtol=1e-5)


def test_a_phasor_without_direction_is_one_and_its_gradient_finite():
    z = spectrum(1, 9, 7, 1)
    net = PHASEN(**ONE)
    variables = variables_of(net, z)
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["phasor"])
    variables = {**variables, "params": {**variables["params"], "phasor": silent}}
    y = run(net, variables, z)
    assert (np.asarray(y.imag) == 0).all() and (np.asarray(y.real) > 0).all()

    def scalar(params):
        return net.apply({**variables, "params": params}, z, None, False).real.sum()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(scalar))(variables["params"])):
        assert np.isfinite(np.asarray(leaf)).all()


def test_the_phase_stream_sees_phasors_or_the_spectrum():
    """Louder input: the same phasors in; the spectrum's form is another net."""
    z = spectrum(1, 9, 7, 1)
    for kind, same in (("unit", True), ("spectrum", False)):
        net = PHASEN(**ONE, phase_input=kind)
        variables = variables_of(net, z)
        quiet, loud = (layers(net, variables, x)["phase_in1"]["__call__"][0] for x in (z, 100 * z))
        assert bool(jnp.abs(loud - quiet).max() < 1e-5) == same


def test_residual_adds_the_first_streams_to_later_blocks():
    z = spectrum(1, 9, 7, 1)
    for blocks, same in ((1, True), (2, False)):
        net = PHASEN(**{**NARROW, "blocks": blocks})
        variables = variables_of(net, z)
        plain, added = (run(net.clone(residual=flag), variables, z) for flag in (False, True))
        assert bool((plain == added).all()) == same


def test_reach():
    """Convolutions alone reach so far: one frame of the phase stream 12 + 2 + 12 + 2 frames each way."""
    z = spectrum(1, 80, 5, 1)
    net = PHASEN(**ONE)
    variables = variables_of(net, z)
    a, b = (layers(net, variables, x)["block1"]["phase2"]["__call__"][0] for x in (z, z.at[0, 40].mul(1j)))
    moved = np.flatnonzero(np.abs(np.asarray(a - b)).max(axis=(0, 2, 3)) > 1e-6)
    assert (moved.min(), moved.max()) == (40 - 28, 40 + 28)


def test_what_it_refuses():
    z = spectrum(1, 5, 7, 1)
    net = PHASEN(**ONE)
    with pytest.raises(JaxsepError, match=r"6 bins, the weights are for 7; set front\.bins"):
        net.apply(variables_of(net, z), z[:, :, :6], None, False)
    with pytest.raises(JaxsepError, match=r"model\.attention='time', expected frequency or channel"):
        PHASEN(attention="time").init(jax.random.key(0), z, None, False)
    with pytest.raises(JaxsepError, match=r"model\.phase_input='mixture', expected unit or spectrum"):
        PHASEN(phase_input="mixture").init(jax.random.key(0), z, None, False)
    assert net.lengths(5) == (5, 5)
