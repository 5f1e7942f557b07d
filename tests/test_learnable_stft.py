"""LearnableStft: before training it is `Stft`, afterwards the sums that its docstring writes down."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import config as configs
from jaxsep import frontends, losses, packing
from jaxsep.errors import JaxsepError
from jaxsep.frontends import LearnableStft, Stft

FRAME, HOP, LENGTH = 64, 16, 301
KERNELS = ("wcos", "wsin")  # nnAudio's

GOLDEN = Path(__file__).parent / "golden"
spec = importlib.util.spec_from_file_location("make_filterbanks", GOLDEN / "make_filterbanks.py")
assert spec is not None and spec.loader is not None
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


@functools.cache
def golden():
    with np.load(GOLDEN / "filterbanks.npz") as file:
        return dict(file)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def both_ways(front, wave):
    """The spectrum, the wave that all of it gives, and the one that what a net sees of it gives."""
    latent = front.encode(wave)
    return latent, front.decode(latent, wave.shape[-2]), front.decode(front.crop(latent), wave.shape[-2])


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def applied(front, variables, wave):
    return front.apply(variables, wave, method=both_ways)


def initial(front, wave):
    return jax.jit(functools.partial(front.init, method=both_ways))(jax.random.key(0), wave)


def moved(variables, seed=0):
    """Away from the start, windows still positive."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: leaf + (0.3 * rng.uniform(0 if leaf.ndim == 1 else -1, 1, leaf.shape)).astype(np.float32),
        variables,
    )


KINDS = [
    ({"trained": "window"}, {"window": (64,)}),
    ({"trained": "kernels", "bins": 20}, {"kernels": (64, 2, 20)}),
    (
        {"trained": "kernels", "synthesis": "untied", "padding": "zeros"},
        {"kernels": (64, 2, 33), "synthesis_kernels": (64, 2, 33)},
    ),
    (
        {"trained": "both", "synthesis": "untied", "bins": 30, "fft": 80, "normalised": True, "padding": "reflect"},
        {"kernels": (64, 2, 30), "synthesis_kernels": (64, 2, 30), "window": (64,), "synthesis_window": (64,)},
    ),
]


@pytest.mark.parametrize("fields, shapes", KINDS)
def test_at_the_start_it_is_stft(fields, shapes):
    front, wave = LearnableStft(FRAME, HOP, **fields), jnp.asarray(noise(2, LENGTH, 2))
    variables = initial(front, wave)
    assert jax.tree.map(jnp.shape, variables) == {"params": shapes}
    for ours, fixed in zip(applied(front, variables, wave), applied(front.untrained(), {}, wave), strict=True):
        assert ours.shape == fixed.shape and ours.dtype == fixed.dtype
        assert float(jnp.abs(ours - fixed).max()) <= 1e-5 * float(jnp.abs(fixed).max())


def test_at_the_published_size_it_is_stft():
    front, wave = LearnableStft(bins=1024), jnp.asarray(noise(4096 + 5, 1))
    variables = initial(front, wave)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 4096 * 2 * 1024
    for ours, fixed in zip(applied(front, variables, wave), applied(front.untrained(), {}, wave), strict=True):
        assert float(jnp.abs(ours - fixed).max()) <= 1e-5 * float(jnp.abs(fixed).max())


def test_asteroids_stft_is_its_kernels_under_a_root_hann_window():
    """asteroid divides by half the root of frame x points / hop, and bins that stand for themselves by a root of 2."""
    front = LearnableStft(64, 16, window="sqrt_hann", trained="both", padding="zeros")
    params = initial(front, jnp.asarray(make.draw("wave", (1, 1, make.SAMPLES))[0].T))["params"]
    kernels = np.asarray(params["window"])[:, None, None] * np.asarray(params["kernels"])
    scale = np.full(33, 1 / (0.5 * np.sqrt(64 * 64 / 16)))
    scale[[0, 32]] /= np.sqrt(2)
    real, imaginary = golden()["stft/filters"].reshape(2, 33, 64)
    np.testing.assert_allclose((kernels * scale)[:, 0].T, real, atol=1e-6)
    np.testing.assert_allclose((kernels * scale)[:, 1].T, imaginary, atol=1e-6)
    wave = jnp.asarray(make.draw("wave", (1, 1, make.SAMPLES))[0].T)
    latent = np.asarray(applied(front, {"params": params}, wave)[0])[2:-2, :, 0].T * scale[:, None]  # whole frames
    real, imaginary = golden()["stft/coefficients"].reshape(2, 33, -1)
    np.testing.assert_allclose(latent.real[:, : real.shape[1]], real, atol=1e-5)
    np.testing.assert_allclose(latent.imag[:, : real.shape[1]], imaginary, atol=1e-5)


def test_trained_kernels_give_what_nnaudios_trainable_stft_gives():
    """nnAudio folds the window into its kernels: ours at the start; trained ones stand under a window of 1."""
    front = LearnableStft(64, 16, trained="both", padding="reflect")
    wave = jnp.asarray(make.draw("wave", (1, 1, make.SAMPLES))[0].T)
    params = initial(front, wave)["params"]
    start = np.asarray(params["window"])[:, None, None] * np.asarray(params["kernels"])
    np.testing.assert_allclose(start[:, 0].T, golden()["nnaudio/wcos"], atol=1e-6)
    np.testing.assert_allclose(start[:, 1].T, -golden()["nnaudio/wsin"], atol=1e-6)
    moved = {key: golden()[f"nnaudio/{key}"] + 0.1 * make.draw(f"nnaudio/{key}", (33, 1, 64))[:, 0] for key in KERNELS}
    kernels = np.stack([moved["wcos"].T, -moved["wsin"].T], axis=1)
    params = {"window": jnp.ones(64), "kernels": jnp.asarray(kernels, jnp.float32)}
    ours = np.asarray(front.apply({"params": params}, wave, method="encode"))[:, :, 0].T
    theirs = golden()["nnaudio/spectrum"]
    np.testing.assert_allclose(ours[:, : theirs.shape[1]], theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("synthesis", ["tied", "untied"])
def test_trained_kernels_are_the_sums_of_the_docstring(synthesis):
    """In float64, with the kernels that are not trained from numpy; synthesis of what is no wave's spectrum."""
    front = LearnableStft(FRAME, HOP, trained="both", synthesis=synthesis, bins=20)
    wave = noise(LENGTH, 1)
    variables = moved(initial(front, jnp.asarray(wave)))
    params = {name: np.asarray(leaf, np.float64) for name, leaf in variables["params"].items()}
    dft = np.exp(-2j * np.pi * np.outer(np.arange(FRAME), np.arange(33)) / FRAME)

    def kernels(name):
        return np.concatenate([params[name][:, 0] + 1j * params[name][:, 1], dft[:, 20:]], axis=1)

    count = front.frames(LENGTH)
    padded = np.pad(wave[:, 0].astype(np.float64), [(FRAME, 2 * FRAME)])
    frames = np.stack([padded[n * HOP : n * HOP + FRAME] for n in range(count)])
    expected = (frames * params["window"]) @ kernels("kernels")
    latent = front.apply(variables, jnp.asarray(wave), method="encode")[..., 0]
    assert np.abs(latent - expected).max() < 1e-5 * np.abs(expected).max()

    prefix = "synthesis_" if synthesis == "untied" else ""
    anything = (noise(count, 33, seed=1) + 1j * noise(count, 33, seed=2)).astype(np.complex64)
    mirrored = np.where(np.isin(np.arange(33), [0, 32]), 1, 2) / FRAME  # the other bins count for -f, too
    total, energy = np.zeros(len(padded)), np.zeros(len(padded))
    divisor = params["window"] if synthesis == "tied" else np.sin(np.pi * np.arange(FRAME) / FRAME) ** 2
    for n in range(count):
        there = slice(n * HOP, n * HOP + FRAME)
        total[there] += (kernels(prefix + "kernels").conj() @ (mirrored * anything[n])).real * params[prefix + "window"]
        energy[there] += divisor**2
    expected = (total / np.maximum(energy, 1e-9))[FRAME : FRAME + LENGTH]
    decoded = front.apply(variables, jnp.asarray(anything[..., None]), LENGTH, method="decode")[:, 0]
    assert np.abs(decoded - expected).max() < 1e-5 * np.abs(expected).max()


def test_tied_windows_are_inverted_whatever_they_are():
    wave = jnp.asarray(noise(LENGTH, 1))
    front = LearnableStft(FRAME, HOP, trained="window", padding="reflect")
    variables = moved(initial(front, wave))
    assert float(jnp.abs(variables["params"]["window"] - front._taps).max()) > 0.2
    latent, decoded, _ = applied(front, variables, wave)
    assert float(jnp.abs(latent - front.untrained().encode(wave)).max()) > 0.1
    np.testing.assert_allclose(decoded, wave, atol=2e-6)
    untied = front.clone(synthesis="untied")
    assert float(jnp.abs(applied(untied, moved(initial(untied, wave)), wave)[1] - wave).max()) > 0.1


@pytest.mark.parametrize("constraint", ["unit", "energy"])
def test_constraints_take_the_size_from_windows_and_kernels(constraint):
    """At the start nothing changes; no scale does, and one bin's only under "energy"."""
    wave = jnp.asarray(noise(LENGTH, 1))
    front = LearnableStft(FRAME, HOP, trained="both", synthesis="untied", constraint=constraint)
    variables = initial(front, wave)
    first = applied(front, variables, wave)
    for ours, fixed in zip(first, applied(front.untrained(), {}, wave), strict=True):
        assert float(jnp.abs(ours - fixed).max()) <= 1e-5 * float(jnp.abs(fixed).max())
    scaled = applied(front, jax.tree.map(lambda leaf: 0.2 * leaf, variables), wave)
    for ours, fixed in zip(scaled, first, strict=True):
        np.testing.assert_allclose(ours, fixed, atol=2e-5)
    louder = {"params": {**variables["params"], "kernels": variables["params"]["kernels"].at[..., 3].multiply(5.0)}}
    latent = applied(front, louder, wave)[0]
    ratio = 1 if constraint == "unit" else 5 / ((32 + 25) / 33) ** 0.5
    np.testing.assert_allclose(latent[:, 3], ratio * first[0][:, 3], atol=1e-4)


def test_gradients_reach_both_sides():
    front, wave = LearnableStft(FRAME, HOP, trained="both", synthesis="untied"), jnp.asarray(noise(LENGTH, 1))
    variables = moved(initial(front, wave))
    gradient = jax.jit(jax.grad(lambda v: (front.apply(v, wave, method=both_ways)[1] ** 3).sum()))(variables)
    assert all(float(jnp.abs(leaf).max()) > 0 and jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"trained": "all"}, "front.trained='all' is unknown, expected one of window, kernels, both"),
        ({"synthesis": "free"}, "front.synthesis='free'"),
        ({"constraint": "l2"}, "front.constraint='l2' is unknown, expected one of none, unit, energy"),
        ({"hop": 24}, "front.hop=24 does not divide"),
    ],
)
def test_fields_that_do_not_fit(fields, words):
    with pytest.raises(JaxsepError, match=words):
        initial(LearnableStft(**{"frame": FRAME, "hop": HOP, **fields}), jnp.zeros((100, 1)))


# Losses


def config(**front):
    made = configs.load_config("spleeter.py:demo")
    with made.unlocked():
        made.front.update(frame=FRAME, hop=HOP, bins=20, **front)
    return made


def test_smaller_kernels_make_no_smaller_loss():
    """Estimates of the mixture with a mask that errs: what a net that could shrink its front end would be paid for."""
    made = config(name="learnable_stft", synthesis="untied")
    front, mix = frontends.build(made), jnp.asarray(noise(1, 1, LENGTH, 2))
    variables = initial(front, mix)
    mask = jnp.asarray(0.7 + 0.3 * noise(1, 1, front.frames(LENGTH), 20, 2))
    loss = losses.from_config(made)
    assert isinstance(loss, losses.OnStft) and loss.domain == "wave"

    @jax.jit
    def measured(analysis, synthesis):
        params = {"kernels": analysis * variables["params"]["kernels"]}
        params["synthesis_kernels"] = synthesis * variables["params"]["synthesis_kernels"]
        latent = front.apply({"params": params}, mix, method=lambda m, x: m.crop(m.encode(x)))
        wave = front.apply({"params": params}, mask * latent, LENGTH, method="decode")
        return loss(wave, mix)[0, 0], losses.L1()(mask * latent, latent)[0, 0]

    (whole, latents), (shrunk, cheated), (exchanged, paid), (faded, _) = (
        map(float, measured(*scales)) for scales in [(1, 1), (0.5, 1), (0.5, 2), (0.01, 1)]
    )
    assert cheated == pytest.approx(latents / 2) and paid == pytest.approx(latents / 2)
    assert exchanged == pytest.approx(whole, rel=1e-5) and whole < shrunk < faded


def test_losses_follow_the_front_end():
    assert losses.from_config(config()) == losses.L1(frame=FRAME)
    on_stft = losses.OnStft(losses.L1(frame=FRAME), Stft(FRAME, HOP, bins=20, parent=None))
    assert losses.from_config(config(name="learnable_stft")) == on_stft
    every = config()
    every.loss.domain = "stft"
    assert losses.from_config(every) == on_stft
    every.loss.stft.frame, every.loss.mel_bins = 512, 30
    own = losses.from_config(every)
    assert (own.loss.frame, own.front.frame, own.front.hop, own.front.bins) == (512, 512, 128, None)
    wave = jnp.asarray(noise(1, 2, 900, 1))
    latents = [own.front.encode(x) for x in (wave, 0.5 * wave)]
    np.testing.assert_allclose(own(wave, 0.5 * wave), own.loss(*latents), rtol=1e-6)
    every.loss.update(name="si_sdr", mel_bins=0)
    with pytest.raises(JaxsepError, match=r"loss\.domain is not a field of SiSdr"):
        losses.from_config(every)


def test_a_loss_between_trained_latents_is_refused():
    made = config(name="learnable_stft")
    made.loss.domain = "latents"
    with pytest.raises(JaxsepError, match=r"trained: smaller kernels would make a smaller loss; set loss\.domain=stft"):
        losses.from_config(made)
    made.loss.domain = "spectra"
    with pytest.raises(JaxsepError, match=r"loss\.domain='spectra' is unknown"):
        losses.from_config(made)
    waves = configs.load_config("conv_tasnet.py:demo")
    waves.loss.name = "l1"
    with pytest.raises(JaxsepError, match=r"front\.name='learned' gives none; set loss\.stft\.frame"):
        losses.from_config(waves)
    waves.loss.stft.frame = 512
    assert losses.from_config(waves).front == Stft(512, 128, padding="reflect", parent=None)


# Configs


@pytest.mark.parametrize("system", ["dccrn", "open_unmix"])
def test_the_name_alone_changes_the_front_end(system):
    """Fields that only the old one has are passed over at their defaults, and refused otherwise."""
    made = configs.load_config(f"{system}.py:demo")
    made.front.name = "learnable_stft"
    front = frontends.build(made)
    assert isinstance(front, LearnableStft)
    assert (front.frame, front.hop, front.bins) == (made.front.frame, made.front.hop, made.front.bins)
    with made.unlocked():
        made.front.form = "asteroid"
    with pytest.raises(JaxsepError, match=r"front\.form is not a field of LearnableStft"):
        frontends.build(made)


def test_the_command_line_names_fields_of_front_ends():
    made = configs.load_config("spleeter.py:demo")
    frontends.name_fields(made, ["--config.front.synthesis=untied", "--config.front.fft=8192", "--config.seed=1"])
    assert isinstance(made.front.synthesis, str) and made.front.fft == 0 and "filters" not in made.front


def test_trained_front_ends_are_not_packed(tmp_path):
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        run.mkdir()
        (run / "config.json").write_text(configs.to_json(config(name="learnable_stft")))
    with pytest.raises(JaxsepError, match=r"front\.name='learnable_stft' is trained, by each run for itself"):
        packing.pack(runs, tmp_path / "c", "best", [])
