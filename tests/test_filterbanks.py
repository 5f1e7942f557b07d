"""Learned filterbanks against asteroid-filterbanks 0.4.0: golden outputs made by `golden/make_filterbanks.py`."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxsep.errors import JaxsepError
from jaxsep.frontends import AnalyticBank, LearnedBank, SincBank

GOLDEN = Path(__file__).parent / "golden"
spec = importlib.util.spec_from_file_location("make_filterbanks", GOLDEN / "make_filterbanks.py")
assert spec is not None and spec.loader is not None
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

WAVE = make.draw("wave", (1, 1, make.SAMPLES))[0].T
BANKS = {
    "free": LearnedBank(1, 24, 16, 8),
    "analytic_free": AnalyticBank(16, 4, bins=6),
    "param_sinc": SincBank(16, 8, bins=5, rate=8000),
}


@functools.cache
def golden():
    with np.load(GOLDEN / "filterbanks.npz") as file:
        return dict(file)


def drawn(name, side):
    """The parameters of one side, as this suite lays them out."""
    if name == "param_sinc":
        shapes = {"low": "low_hz_", "band": "band_hz_"}
        return {f"{side}_{ours}": make.draw(f"{name}/{side}/{key}", (5, 1))[:, 0] for ours, key in shapes.items()}
    count = make.BANKS[name][0] // (1 if name == "free" else 2)
    kernels = make.draw(f"{name}/{side}/_filters", (count, 1, 16))[:, 0]
    if name == "free":
        return {side: kernels.T[:, None] if side == "analysis" else kernels[:, :, None]}
    return {side: kernels.T}


def variables(name, **changes):
    bank = BANKS[name].clone(**changes)
    sides = ("analysis",) if bank.synthesis == "pinv" else ("analysis", "synthesis")
    params = {key: jnp.asarray(value) for side in sides for key, value in drawn(name, side).items()}
    return bank, {"params": params}


def both_ways(bank, wave):
    latent = bank.encode(wave)
    return latent, bank.decode(latent, wave.shape[-2])


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def applied(bank, variables, wave):
    return bank.apply(variables, wave, method=both_ways)


def near(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() <= 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["analytic_free", "param_sinc"])
def test_complex_filters_and_coefficients_are_asteroids(name):
    """Real parts are its first half, imaginary ones its second; its sinc filters have one sample less than a frame."""
    bank, params = variables(name)
    kernels = bank.apply(params, method=lambda bank: bank.analysis)
    theirs = golden()[f"{name}/filters"]
    late = 16 - theirs.shape[1]
    assert near(jnp.concatenate([kernels[:, 0], kernels[:, 1]], axis=1)[late:], theirs.T)
    assert not late or not np.abs(kernels[0]).max()
    # Its first frame begins with the wave: ours that one follows a frame of zeros.
    latent, _ = applied(bank, params, jnp.asarray(WAVE))
    first, theirs = 16 // bank.hop, golden()[f"{name}/coefficients"].T
    if late:
        shifted = np.concatenate([np.zeros((1, 1), np.float32), WAVE])
        latent, _ = applied(bank, params, jnp.asarray(shifted))
    ours = latent[first : first + len(theirs), :, 0]
    assert near(jnp.concatenate([ours.real, ours.imag], axis=1), theirs)


@pytest.mark.parametrize(
    "name, synthesis", [("analytic_free", "free"), ("analytic_free", "pinv"), ("param_sinc", "free")]
)
def test_complex_synthesis_is_asteroids(name, synthesis):
    """On its coefficients alone; what a sum of all overlapping frames is to be divided by is 1."""
    bank, params = variables(name, synthesis=synthesis)
    theirs = golden()[f"{name}/coefficients"].T
    latent = theirs[:, : bank.bins] + 1j * theirs[:, bank.bins :]
    count = bank.frames(make.SAMPLES)
    first, late = 16 // bank.hop, int(name == "param_sinc")
    padded = np.pad(latent, [(first, count - first - len(latent)), (0, 0)])[..., None]
    wave = bank.apply(params, jnp.asarray(padded, jnp.complex64), make.SAMPLES, method="decode")[:, 0]
    expected = golden()[f"{name}/{'wave' if synthesis == 'free' else 'inverse'}"]
    assert near(wave[late : late + len(expected)], expected[: len(wave) - late])


@pytest.mark.parametrize("synthesis", ["free", "pinv"])
def test_the_free_bank_is_asteroids(synthesis):
    bank, params = variables("free", synthesis=synthesis)
    latent, wave = applied(bank, params, jnp.asarray(WAVE))
    assert near(latent, golden()["free/coefficients"].T)
    assert near(wave[:, 0], golden()[f"free/{'wave' if synthesis == 'free' else 'inverse'}"])


def test_first_sinc_filters_lie_on_the_mel_scale_as_asteroids():
    bank = BANKS["param_sinc"]
    params = jax.jit(functools.partial(bank.init, method=both_ways))(jax.random.key(0), jnp.asarray(WAVE))["params"]
    for side in ("analysis", "synthesis"):
        for ours, theirs in (("low", "low_hz_"), ("band", "band_hz_")):
            np.testing.assert_allclose(params[f"{side}_{ours}"], golden()[f"initial/{theirs}"], rtol=1e-5)


def test_analytic_kernels_are_scipys_analytic_signals():
    bank, params = variables("analytic_free")
    kernels = np.asarray(bank.apply(params, method=lambda bank: bank.analysis))
    expected = scipy.signal.hilbert(drawn("analytic_free", "analysis")["analysis"].astype(np.float64), axis=0)
    np.testing.assert_allclose(kernels[:, 1], expected.imag, atol=1e-6)


@pytest.mark.parametrize("padding", ["left", "reflect", "zeros"])
def test_the_pseudo_inverse_inverts(padding):
    """A complete bank, to the ends of the wave; any channels."""
    bank = AnalyticBank(16, 4, padding, bins=10, synthesis="pinv")
    wave = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 203, 2)), jnp.float32)
    made = jax.jit(functools.partial(bank.init, method=both_ways))(jax.random.key(0), wave)
    assert jax.tree.map(jnp.shape, made) == {"params": {"analysis": (16, 10)}}
    latent, back = applied(bank, made, wave)
    assert latent.shape == (3, bank.frames(203), 10, 2)
    np.testing.assert_allclose(back, wave, atol=2e-5)


@pytest.mark.parametrize("bank", [LearnedBank(2, 24, 16, 8), AnalyticBank(16, 8, bins=20)])
@pytest.mark.parametrize("constraint", ["unit", "energy"])
def test_constraints_take_the_size_from_kernels(bank, constraint):
    """What is done does not depend on their scale; "unit" not even on that of each."""
    wave = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 80, 2)), jnp.float32)
    bank = bank.clone(constraint=constraint)
    made = jax.jit(functools.partial(bank.init, method=both_ways))(jax.random.key(0), wave)
    scaled = jax.tree.map(lambda leaf: 7 * leaf, made)
    for ours, theirs in zip(applied(bank, scaled, wave), applied(bank, made, wave), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    one = {"params": {**made["params"], "analysis": made["params"]["analysis"].at[..., 3].multiply(5.0)}}
    same = np.allclose(applied(bank, one, wave)[0], applied(bank, made, wave)[0], atol=1e-5)
    assert same == (constraint == "unit")
    kernels = made["params"]["analysis"]
    free = applied(bank.clone(constraint="none"), made, wave)[0]
    norms = np.sqrt((np.asarray(kernels) ** 2).sum(axis=tuple(range(kernels.ndim - 1))))
    scale = 1 / norms if constraint == "unit" else np.full_like(norms, 1 / np.sqrt((norms**2).mean()))
    np.testing.assert_allclose(
        applied(bank, made, wave)[0], free * (scale if free.ndim == 3 else scale[:, None]), atol=1e-5
    )


@pytest.mark.parametrize(
    "bank, words",
    [
        (LearnedBank(1, constraint="norm"), r"front\.constraint='norm' is unknown"),
        (LearnedBank(1, synthesis="tied"), r"front\.synthesis='tied' is unknown"),
        (AnalyticBank(synthesis="tied"), r"front\.synthesis='tied': a filterbank takes one of free, pinv"),
        (SincBank(hop=1000), r"front\.hop=1000 does not divide front\.frame=4096; use 512 or 1024"),
    ],
)
def test_fields_that_do_not_fit(bank, words):
    with pytest.raises(JaxsepError, match=words):
        bank.check()
