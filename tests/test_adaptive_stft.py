"""AdaptiveStft: `Stft` at whole numbers, its definition in between, and gradients that finite differences confirm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsep import frontends
from jaxsep.errors import JaxsepError
from jaxsep.frontends import AdaptiveStft, Stft
from jaxsep.frontends.adaptivestft import concentration

FRAME, HOP, LENGTH = 64, 16, 301


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def both_ways(front, wave):
    latent = front.encode(wave)
    return latent, front.decode(latent, wave.shape[-2]), front.decode(front.crop(latent), wave.shape[-2])


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def applied(front, variables, wave):
    return front.apply(variables, wave, method=both_ways)


def ratios(front, length=None, hop=None):
    """The parameters that make these sizes."""
    sizes = {"length": length and np.log(length / front.frame), "hop": hop and np.log(hop / front.hop)}
    return {
        "params": {name: jnp.float32(value or 0) for name, value in sizes.items() if front.trained in (name, "both")}
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"trained": "length", "bins": 20},
        {"trained": "hop", "padding": "reflect", "window": "sqrt_hann", "normalised": True},
        {"trained": "both", "padding": "zeros", "window": "gaussian", "fft": 128, "bins": 50},
    ],
)
def test_at_the_start_it_is_stft(fields):
    front, wave = AdaptiveStft(FRAME, HOP, **fields), jnp.asarray(noise(2, 293, 2))
    variables = jax.jit(functools.partial(front.init, method=both_ways))(jax.random.key(0), wave)
    assert jax.tree.map(float, variables) == jax.tree.map(float, ratios(front))
    for ours, fixed in zip(applied(front, variables, wave), applied(front.untrained(), {}, wave), strict=True):
        assert ours.shape == fixed.shape and ours.dtype == fixed.dtype
        assert float(jnp.abs(ours - fixed).max()) <= 1e-5 * float(jnp.abs(fixed).max())


@pytest.mark.parametrize("padding", ["left", "zeros"])
def test_at_other_whole_numbers_it_is_another_stft(padding):
    """A window of 48 at hops of 12; "left" has the first middle 32 samples before the wave, not 24."""
    front = AdaptiveStft(FRAME, HOP, padding=padding, fft=80, trained="both", shortest_hop=8)
    wave = noise(LENGTH, 1)
    latent, decoded, _ = applied(front, ratios(front, 48, 12), jnp.asarray(wave))
    assert len(latent) == Stft(FRAME, 8, padding=padding).frames(LENGTH) + (padding == "zeros")
    late = np.pad(wave, [(8, 0), (0, 0)]) if padding == "left" else wave
    fixed = Stft(48, 12, padding=padding, fft=80).encode(jnp.asarray(late))
    np.testing.assert_allclose(latent[: len(fixed)], fixed, atol=2e-5)
    assert len(fixed) < len(latent) and np.abs(latent[len(fixed) + 4 :]).max() == 0
    np.testing.assert_allclose(decoded, wave, atol=2e-6)


@pytest.mark.parametrize("padding", ["left", "reflect", "zeros"])
@pytest.mark.parametrize("length", [1, 9, 100])
def test_the_shortest_windows_reach_all_samples(padding, length):
    """Beyond the bound of 3/2 hops, at hops that leave any number of samples behind the last middle."""
    front, wave = AdaptiveStft(FRAME, HOP, padding=padding, trained="both"), jnp.asarray(noise(length, 1))
    for hop in (HOP, 17.3, 40):
        decoded = applied(front, ratios(front, 1, hop), wave)[1]
        np.testing.assert_allclose(decoded, wave, atol=2e-6)


def test_in_between_it_is_what_the_docstring_says():
    """The sum over real times, in float64; decoding inverts at any length and hop, to the ends of the wave."""
    front = AdaptiveStft(FRAME, HOP, padding="zeros", trained="both", fft=100)
    variables, wave = ratios(front, 71.3, 19.7), noise(LENGTH, 1)
    length, hop = map(float, front.apply(variables, method="sizes"))
    assert (length, hop) == pytest.approx((71.3, 19.7), rel=1e-6)
    latent, decoded, _ = applied(front, variables, jnp.asarray(wave))
    padded = np.pad(wave[:, 0].astype(np.float64), [(50, 1000)])
    for n in (0, 1, 7, 15):
        at = np.arange(len(padded)) - n * hop - 50  # from the real middle of frame n
        window = np.where(np.abs(at) < length / 2, np.cos(np.pi * at / length) ** 2, 0)
        expected = (padded * window) @ np.exp(-2j * np.pi * np.outer(at + 50, np.arange(51)) / 100)
        np.testing.assert_allclose(latent[n, :, 0], expected, atol=2e-5)
    np.testing.assert_allclose(decoded, wave, atol=2e-6)


@pytest.mark.parametrize("padding, hop", [("left", 20.0), ("reflect", 19.3)])
def test_gradients_are_those_of_finite_differences(padding, hop):
    """Of a loss on decoded waves, in float64; also at a whole hop, where frames jump to the next sample."""
    front = AdaptiveStft(FRAME, HOP, padding=padding, trained="both", fft=96)
    with jax.enable_x64(True):
        wave, weight = (jnp.asarray(noise(LENGTH, 1, seed=seed), jnp.float64) for seed in (0, 1))
        gain = jnp.asarray(noise(front.frames(LENGTH), 49, 1, seed=2), jnp.float64)

        @jax.jit
        def loss(length, hop):
            params = {"length": jnp.log(length / FRAME), "hop": jnp.log(hop / HOP)}

            def run(front, wave):
                latent = front.encode(wave)
                return (front.decode(gain * latent, LENGTH) * weight).sum() + concentration(latent)

            return front.apply({"params": params}, wave, method=run)

        at, step = (jnp.float64(70.2), jnp.float64(hop)), 1e-5
        found = jax.jit(jax.grad(loss, argnums=(0, 1)))(*at)
        expected = [
            (loss(at[0] + dl, at[1] + dh) - loss(at[0] - dl, at[1] - dh)) / (2 * step)
            for dl, dh in ((step, 0), (0, step))
        ]
        assert min(map(abs, expected)) > 3e-4
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_bounds_hold_and_let_go():
    """Beyond them sizes stay, gradients that lead further are nothing and others are there."""
    front = AdaptiveStft(FRAME, HOP, trained="both", fft=128, shortest_hop=8)

    def size(name, towards, **at):
        def objective(params):
            length, hop = front.apply({"params": params}, method="sizes")
            return towards * (length if name == "length" else hop)

        value, gradient = jax.value_and_grad(objective)(ratios(front, **at)["params"])
        return abs(float(value)), float(gradient[name])

    assert size("length", -1, length=200)[0] == pytest.approx(128) and size("length", -1, length=200)[1] == 0
    assert size("length", 1, length=200)[1] == pytest.approx(128)
    assert size("length", 1, length=20) == (pytest.approx(24), 0)  # one and a half hops
    assert size("hop", 1, hop=5) == (pytest.approx(8), 0) and size("hop", -1, hop=5)[1] == pytest.approx(-8)
    assert size("hop", -1, hop=99) == (pytest.approx(128 / 1.5), 0)
    assert size("length", -1) == (64, pytest.approx(-64)) and size("hop", -1, hop=24)[1] == pytest.approx(-24)


@pytest.mark.parametrize("kind", ["tones", "clicks"])
def test_the_window_finds_its_length(kind):
    """Zhao et al.'s experiment: from 1,024 samples, energy is to be concentrated in few places."""
    wave = np.zeros(16384, np.float32)
    if kind == "clicks":
        wave[1000::2311] = 1
    else:
        wave += sum(np.sin(2 * np.pi * f * np.arange(len(wave))) for f in (0.021, 0.0287, 0.05))
    front = AdaptiveStft(1024, 256, fft=4096)
    optimiser = optax.adam(0.05)

    @jax.jit
    def step(params, state):
        def objective(params):
            return -concentration(front.apply({"params": params}, jnp.asarray(wave)[:, None], method="encode"))

        updates, state = optimiser.update(jax.grad(objective)(params), state)
        return optax.apply_updates(params, updates), state

    params = ratios(front)["params"]
    state = optimiser.init(params)
    for _ in range(40):
        params, state = step(params, state)
    length = float(front.apply({"params": params}, method="sizes")[0])
    assert length >= 1.5 * 1024 if kind == "tones" else length <= 1024 / 1.5


def test_numbers_say_what_has_become_of_it():
    front = AdaptiveStft(FRAME, HOP, trained="both", fft=128)
    variables = {"params": {"front": ratios(front, 100, 24)["params"]}}
    assert frontends.numbers(front, variables) == pytest.approx({"front/length": 100, "front/hop": 24})
    assert frontends.numbers(Stft(), {"params": {}}) == {}


def test_concentration_by_hand():
    one = jnp.zeros((2, 3, 4, 1), jnp.complex64).at[:, 1, 2].set(3j)
    even = jnp.ones((2, 3, 4, 1), jnp.complex64)
    np.testing.assert_allclose(concentration(one), [1, 1], rtol=1e-6)
    np.testing.assert_allclose(concentration(5 * even), [1 / 12, 1 / 12], rtol=1e-6)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"window": "hamming"}, "takes one of hann, sqrt_hann, gaussian"),
        ({"trained": "window"}, "takes one of length, hop, both"),
        ({"shortest_hop": 32}, "expected 1 to"),
        ({"fft": 62}, "at least"),
    ],
)
def test_fields_that_do_not_fit(fields, words):
    with pytest.raises(JaxsepError, match=words):
        AdaptiveStft(**{"frame": FRAME, "hop": HOP, **fields}).check()
