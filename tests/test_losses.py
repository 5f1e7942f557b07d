"""Losses by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.bands import log_filters, mel_filters
from jaxsep.errors import JaxsepError
from jaxsep.losses import LOSSES, build

SPECTRAL = ("l1", "weighted_l1", "smooth_l1", "l2")


def noise(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def spectrum(values):
    """[s, f] magnitudes as [1 s 1 f 1]."""
    return jnp.asarray(values, jnp.float32)[None, :, None, :, None]


@pytest.mark.parametrize(
    "spec, expected",
    [
        ({"name": "l1"}, [2.0, 0.5]),  # differences 4 0 and 0 -1
        ({"name": "weighted_l1"}, [2.0 * 2.0, 0.5 * 3.5]),  # times the means of 1 3 and 3 4
        ({"name": "l2"}, [8.0, 0.5]),
        ({"name": "smooth_l1"}, [1.75, 0.25]),  # 4 - 1/2 and 0; 0 and 1 - 1/2
        ({"name": "smooth_l1", "beta": 2.0}, [1.5, 0.125]),  # 4 - 1 and 0; 0 and 1/4
    ],
)
def test_spectral_losses_by_hand(spec, expected):
    reference, estimate = spectrum([[1, 3], [3, 4]]), spectrum([[5, 3], [3, 3]])
    loss = build(spec)
    assert loss.domain == "magnitude"
    np.testing.assert_allclose(loss(estimate, reference), [expected], rtol=1e-6)
    turned = jnp.exp(1j * noise(*estimate.shape)) * estimate
    np.testing.assert_allclose(loss(turned, reference * 1j), [expected], rtol=1e-5)


@pytest.mark.parametrize(
    "name, expected",
    [("wave_l1", [1.0, 0.5]), ("wave_l2", [1.5, 0.5])],
)
def test_wave_losses_by_hand(name, expected):
    # source 0: differences 2 0 1 1; source 1: 1 0 -1 0
    reference = jnp.array([[1.0, 2, 3, 4], [0, 0, 0, 0]]).reshape(1, 2, 2, 2)
    estimate = jnp.array([[3.0, 2, 4, 5], [1, 0, -1, 0]]).reshape(1, 2, 2, 2)
    assert build({"name": name}).domain == "wave"
    np.testing.assert_allclose(build({"name": name})(estimate, reference), [expected], rtol=1e-6)


def test_si_sdr_by_hand():
    """The estimate is 2 s + e with e orthogonal to s and |e|^2 = |2 s|^2 / 100: 20 dB."""
    reference = jnp.array([3.0, 4, 0, 0]).reshape(1, 1, 2, 2)
    error = jnp.array([0.0, 0, 1, 0]).reshape(1, 1, 2, 2)
    loss = build({"name": "si_sdr"})
    np.testing.assert_allclose(loss(2 * reference + error, reference), [[-20.0]], atol=1e-4)
    np.testing.assert_allclose(loss(7 * (2 * reference + error), reference / 3), [[-20.0]], atol=1e-4)
    assert float(loss(reference, reference)[0, 0]) < -90


def test_si_snr_ignores_the_mean_and_si_sdr_does_not():
    reference, error = noise(1, 2, 500, 2), 0.1 * noise(1, 2, 500, 2, seed=1)
    shift = jnp.array([0.5, -0.3])
    si_snr, si_sdr = build({"name": "si_snr"}), build({"name": "si_sdr"})
    np.testing.assert_allclose(
        si_snr(reference + error + shift, reference), si_snr(reference + error, reference), atol=1e-3
    )
    assert (si_sdr(reference + error + shift, reference) > si_sdr(reference + error, reference) + 5).all()
    centred = [np.asarray(x - x.mean(2, keepdims=True), np.float64) for x in (reference + error, reference)]
    for source in range(2):
        e, r = (x[0, source].ravel() for x in centred)
        target = (e @ r) / (r @ r) * r
        expected = -10 * math.log10((target @ target) / ((e - target) @ (e - target)))
        assert float(si_snr(reference + error, reference)[0, source]) == pytest.approx(expected, abs=1e-3)


def test_silence():
    """A silent reference: finite, best for a silent estimate, with a gradient towards it."""
    zero, wave = jnp.zeros((1, 1, 100, 2)), noise(1, 1, 100, 2)
    loss = build({"name": "si_sdr"})
    np.testing.assert_allclose(loss(zero, zero), [[0.0]], atol=1e-6)
    values = [float(loss(gain * wave, zero)[0, 0]) for gain in (1e-3, 1e-1, 1.0)]
    assert 0 < values[0] < values[1] < values[2] < 200
    energy = float((wave**2).sum())
    assert values[2] == pytest.approx(10 * math.log10(energy / 1e-8), abs=1e-3)
    slope = jax.grad(lambda x: loss(x, zero).sum())(wave)
    assert float((slope * wave).sum()) > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", ["both silent", "silent reference", "silent estimate", "equal"])
def test_values_and_gradients_are_finite(name, case):
    if build({"name": name}).domain == "magnitude":
        sound = noise(2, 3, 4, 5, 2) + 1j * noise(2, 3, 4, 5, 2, seed=1)
    else:
        sound = noise(2, 3, 50, 2)
    estimate = sound * (case in ("silent reference", "equal"))
    reference = sound * (case in ("silent estimate", "equal"))
    loss = build({"name": name})
    value = loss(estimate, reference)
    gradient = jax.grad(lambda e: loss(e, reference).sum())(estimate)
    assert value.shape == (2, 3)
    assert np.isfinite(np.asarray(value)).all() and np.isfinite(np.asarray(gradient)).all()


def complexes(values):
    """[s, f] as [1 s 1 f 1] complex."""
    return jnp.asarray(values, jnp.complex64)[None, :, None, :, None]


def test_complex_l2_by_hand():
    """Differences 3+4j, 0 and 0, 2j: squares 25, 0 and 0, 4; the mean over real and imaginary parts halves them."""
    reference, estimate = complexes([[1, 2j], [1, 1]]), complexes([[4 + 4j, 2j], [1, 1 + 2j]])
    loss = build({"name": "complex_l2"})
    assert loss.domain == "magnitude"
    np.testing.assert_allclose(loss(estimate, reference), [[25 / 4, 4 / 4]], rtol=1e-6)


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_compressed_by_hand(power):
    """Of 8 against 27 the amplitudes differ only; of 8 against 8j the phases; a turn by pi doubles |S'|."""
    reference, estimate = complexes([[27, 1], [8, 1], [8, 1]]), complexes([[8, 1], [8j, 1], [-8, 1]])
    louder, turned, opposed = (27**power - 8**power) ** 2, 2 * 8 ** (2 * power), 4 * 8 ** (2 * power)
    expected = np.array([[0.5 * louder + 0.5 * louder, 0.5 * turned, 0.5 * opposed]]) / 2  # the mean over two bins
    loss = build({"name": "compressed", "power": power})
    assert loss.domain == "magnitude"
    np.testing.assert_allclose(loss(estimate, reference), expected, rtol=1e-5)
    np.testing.assert_allclose(loss(reference, reference), 0)


def test_compressed_lifts_what_is_quiet():
    """The same relative error at a thousandth of the level: a millionth of the cost squared, 1000^-0.6 compressed."""
    estimate, reference = complexes([[2]]), complexes([[1]])
    compressed, plain = build({"name": "compressed"}), build({"name": "complex_l2"})
    for loss, expected in ((compressed, 1000**-0.6), (plain, 1000**-2)):
        ratio = float(loss(estimate / 1000, reference / 1000)[0, 0] / loss(estimate, reference)[0, 0])
        assert ratio == pytest.approx(expected, rel=0.01)


def test_compressed_pulls_from_zero_towards_the_reference():
    """The slope of |S|^0.3 is infinite at zero; the loss's is finite, and points where the reference is."""
    loss = build({"name": "compressed"})
    reference = complexes([[1 + 1j, -2, 0]])

    def cost(real, imag):
        return loss(real + 1j * imag, reference).sum()

    zero = jnp.zeros(reference.shape)
    real, imag = (np.asarray(slope).ravel() for slope in jax.grad(cost, (0, 1))(zero, zero))
    assert np.isfinite(real).all() and np.isfinite(imag).all()
    assert real[0] < 0 and imag[0] == pytest.approx(real[0]) and real[1] > 0
    assert imag[1] == real[2] == imag[2] == 0


def test_examples_and_sources_are_apart():
    complex_noise = noise(2, 3, 4, 5, 2, seed=2) + 1j * noise(2, 3, 4, 5, 2, seed=3)
    for name in ("complex_l2", "compressed"):
        loss = build({"name": name})
        whole = loss(complex_noise, complex_noise[::-1])
        np.testing.assert_allclose(whole[1, 2], loss(complex_noise[1:, 2:], complex_noise[:1, 2:])[0, 0], rtol=1e-5)
    estimate, reference = noise(2, 3, 4, 5, 2), noise(2, 3, 4, 5, 2, seed=1)
    for name in SPECTRAL:
        loss = build({"name": name})
        one = loss(estimate[1:, 2:], reference[1:, 2:])
        np.testing.assert_allclose(loss(estimate, reference)[1, 2], one[0, 0], rtol=1e-5)


@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize("bins", [257, 128])
def test_mel_filters_by_their_definition(htk, bins):
    """Band m rises from the mel-spaced edge m to m+1 and falls to m+2, with an area of 1 over Hz."""

    def hertz(mel):
        if htk:
            return 700 * (10 ** (mel / 2595) - 1)
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    rate, frame, bands = 16000, 512, 20
    highest = (bins - 1) * rate / frame
    low, high = 0.0, 5000.0  # mel of the highest bin by bisection: no second formula
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if hertz(middle) < highest else (low, middle)
    edges = [hertz(low * m / (bands + 1)) for m in range(bands + 2)]
    expected = np.zeros((bins, bands))
    for band in range(bands):
        for k in range(bins):
            points = [edges[band], edges[band + 1], edges[band + 2]]
            expected[k, band] = np.interp(k * rate / frame, points, [0, 2 / (points[2] - points[0]), 0], 0, 0)
    np.testing.assert_allclose(mel_filters(bands, bins, rate, frame, htk), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("htk", [False, True])
def test_mel_filters_are_librosas(htk):
    filters = pytest.importorskip("librosa.filters", reason="librosa is not installed")
    theirs = filters.mel(sr=44100, n_fft=2048, n_mels=64, fmax=900 * 44100 / 2048, htk=htk)[:, :901]
    np.testing.assert_allclose(mel_filters(64, 901, 44100, 2048, htk).T, theirs, atol=1e-7)


def test_log_bands_are_as_wide_as_they_are_high():
    """A tone an interval higher falls into the band as many further; where bins are wider than bands, none is empty."""
    rate, frame, bands, lowest = 44100, 4096, 60, 30.0
    filters = log_filters(bands, 2049, rate, frame, lowest)
    ratio = (rate / 2 / lowest) ** (1 / (bands + 1))
    hertz = np.arange(2049) * rate / frame
    centres = lowest * ratio ** np.arange(1, bands + 1)
    np.testing.assert_array_less(np.abs(hertz[filters.argmax(axis=0)] - centres), rate / frame)
    high = centres > 500  # bands of many bins: unit area over Hz, the mean at that of the three edges
    np.testing.assert_allclose(filters[:, high].sum(axis=0) * rate / frame, 1, rtol=0.05)
    means = (hertz[:, None] * filters).sum(axis=0) / filters.sum(axis=0)
    np.testing.assert_allclose(means[high], (centres * (1 / ratio + 1 + ratio) / 3)[high], rtol=5e-3)
    assert (filters.max(axis=0) > 0).all() and filters[0].max() == 0
    for bin in (3, 40, 700):  # what is between the first centre and the last one lies in two bands, at least
        assert (filters[bin] > 0).sum() >= 2 or np.isclose(hertz[bin], centres, rtol=1e-3).any()
    with pytest.raises(JaxsepError, match="no bands between 30 and 20 Hz"):
        log_filters(4, 3, 10, 1)


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize(("key", "filters"), [("mel_bins", mel_filters), ("log_bins", log_filters)])
def test_losses_on_bands_compare_bands(name, key, filters):
    estimate, reference = (jnp.abs(noise(1, 2, 3, 65, 2, seed=seed)) for seed in (0, 1))
    bands = filters(8, 65, 8000, 128)
    summed = [jnp.asarray(np.einsum("bsnfc,fm->bsnmc", np.asarray(x), bands)) for x in (estimate, reference)]
    loss = build({"name": name, key: 8, "rate": 8000, "frame": 128})
    np.testing.assert_allclose(loss(estimate, reference), build({"name": name})(*summed), rtol=1e-5)


@pytest.mark.parametrize(
    "spec, words",
    [
        ({"name": "l3"}, "loss.name='l3' is unknown"),
        ({"name": "smooth_l1", "betta": 2.0}, "did you mean 'beta'"),
        ({"name": "smooth_l1", "beta": 0.0}, "loss.beta=0.0"),
    ],
)
def test_wrong_specs(spec, words):
    with pytest.raises(JaxsepError, match=words):
        build(spec)


def test_wrong_inputs():
    with pytest.raises(JaxsepError, match="use a loss on waves"):
        build({"name": "l1"})(jnp.zeros((1, 1, 10, 2)), jnp.zeros((1, 1, 10, 2)))
    with pytest.raises(JaxsepError, match=r"choose one"):
        build({"name": "l1", "mel_bins": 4, "log_bins": 4})(*[jnp.zeros((1, 1, 2, 65, 1))] * 2)
    with pytest.raises(JaxsepError, match="bands lie between the bins"):
        mel_filters(200, 257, 44100, 512)


def test_a_config_chooses_loss_and_mel_scale():
    from jaxsep.config import load_config
    from jaxsep.losses import from_config

    config = load_config("configs/spleeter.py")
    config.loss.mel_bins = 64
    loss = from_config(config)
    assert (loss.mel_bins, loss.rate, loss.frame) == (64, 44100, 4096)
    config.loss.name = "smooth_l1"
    config.loss.beta = 0.5
    assert from_config(config).beta == 0.5
    config.loss.name, config.loss.mel_bins = "wave_l1", 0
    with pytest.raises(JaxsepError, match=r"loss\.beta is not a field of WaveL1"):
        from_config(config)
    config.loss.beta = 1.0
    assert from_config(config).domain == "wave"
