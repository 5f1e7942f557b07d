"""Hybrid Demucs against the authors' package: golden outputs made by `golden/make_hdemucs.py`."""

import math

import hybrid_parity as parity
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.layers.hybrid import spectrum, standardise, waves
from jaxsep.models.hdemucs import HDemucs

LSTM_BIASES = 4 * 2 * 2 * 2 * (192 + 384)  # gates, directions, layers, branches: the second bias of PyTorch's
UNUSED_NORM = 2 * 768  # of torchaudio


def test_values_and_gradients_are_equal_to_those_of_the_authors_code():
    """All weights random, scales of the residual branches too: LSTM in chunks, local attention, norms, embedding."""
    output, wave, parameters = parity.errors("hdemucs", "hybrid")
    assert output < 1e-5 and wave < 1e-4 and parameters < 1e-4


@pytest.mark.parametrize("case", ["decoder", "old", pytest.param("medium", marks=pytest.mark.full)])
def test_equal_to_the_authors_code(case):
    """Residual branches in the decoder; the padding of the first models; torchaudio's other stride in the middle."""
    assert parity.output_error("hdemucs", case) < 1e-5


@pytest.mark.full
def test_full_width_is_equal_to_the_authors_code():
    output, wave, parameters = parity.errors("hdemucs", "full", parity.make.FULL_LENGTH)
    assert output < 1e-4 and wave < 1e-4 and parameters < 1e-4


@pytest.mark.parametrize(
    "fields, count",
    [
        ({}, 83_637_832 - LSTM_BIASES),
        ({"frame": 2048}, 78_908_488 - UNUSED_NORM - LSTM_BIASES),
        ({"frame": 1024, "depth": 5}, 20_040_296 - LSTM_BIASES // 3),
    ],
)
def test_parameter_counts(fields, count):
    wave = jax.ShapeDtypeStruct((1, 44_100, 2), jnp.float32)
    shapes = jax.eval_shape(lambda wave: HDemucs(**fields).init(jax.random.key(0), wave, None, False), wave)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == count
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_initial_values_have_the_scale_of_the_authors_code():
    """Deviations of the package's net, seed 0."""
    net = HDemucs(channels=16, frame=256, depth=4, norm_starts=2, dconv_lstm=2, dconv_attention=2)
    params = jax.jit(lambda: net.init(jax.random.key(0), jnp.zeros((1, 512, 2)), None, False))()["params"]
    for path, deviation in REFERENCE.items():
        leaf = params
        for key in path.split("/"):
            leaf = leaf[key]
        assert np.std(leaf) == pytest.approx(deviation, rel=0.2 if "bias" in path or "table" in path else 0.1), path
    bias = params["encoder2"]["dconv"]["attention0"]["decay"]["bias"]
    np.testing.assert_allclose(bias, DECAY_BIAS, rtol=0.1)
    assert np.abs(params["encoder0"]["dconv"]["scale0"] - 1e-3).max() < 1e-9


REFERENCE = {
    "encoder1/conv/kernel": 0.0713,
    "encoder1/conv/bias": 0.0638,
    "decoder1/up/kernel": 0.0714,
    "decoder1/rewrite/kernel": 0.0583,
    "time_encoder1/rewrite/kernel": 0.1008,
    "encoder2/dconv/attention0/decay/kernel": 0.0122,
    "encoder2/dconv/expand0/kernel": 0.1207,
    "embedding/table": 0.0964,
}
DECAY_BIAS = -16.3853


@pytest.mark.parametrize("length", [1, 7, 63, 64, 65, 200])
def test_spectrum_against_a_loop(length):
    """Also of waves shorter than what is mirrored, which get zeros first: behind, as far as they are mirrored there."""
    wave = np.random.default_rng(0).standard_normal((2, length, 2)).astype(np.float32)
    count = -(-length // 16)
    before, after = 24, 24 + 16 * count - length
    zeros = max(0, max(before, after) - length + 1)
    behind = min(zeros, after)
    longer = np.pad(wave, [(0, 0), (zeros - behind, behind), (0, 0)])
    padded = np.pad(longer, [(0, 0), (before - zeros + behind, after - behind), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(padded[:, 24 : 24 + length], wave)
    window = np.sin(np.pi * np.arange(64) / 64) ** 2
    frames = [np.fft.rfft(window[:, None] * padded[:, 16 * n : 16 * n + 64], axis=1) for n in range(count)]
    z = np.stack(frames, axis=2)[:, :32] / 8
    expected = np.stack([z[..., 0].real, z[..., 0].imag, z[..., 1].real, z[..., 1].imag], axis=-1)
    np.testing.assert_allclose(spectrum(jnp.asarray(wave), 64), expected, atol=1e-5)


def test_spectra_of_several_sources_do_not_mix():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 10, 12)), jnp.float32)
    together = waves(x, 3, 64, 160, 24)
    alone = [waves(x[..., 4 * i : 4 * i + 4], 1, 64, 160, 24)[:, 0] for i in range(3)]
    np.testing.assert_allclose(together, jnp.stack(alone, axis=1), atol=1e-6)


def test_standardised_with_the_unbiased_deviation_and_silence_stays_finite():
    x = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    x[2] = 0
    y, mean, std = standardise(jnp.asarray(x))
    np.testing.assert_allclose(std[:2, 0, 0], x[:2].reshape(2, -1).std(axis=1, ddof=1), rtol=1e-5)
    np.testing.assert_allclose(y * (std + 1e-5) + mean, x, atol=1e-6)
    assert np.isfinite(
        jax.grad(lambda x: (standardise(x)[0] ** 3).sum() + standardise(x)[2].sum())(jnp.asarray(x))
    ).all()


def test_what_it_refuses():
    def start(**fields):
        wave = jax.ShapeDtypeStruct((1, 8_000, 2), jnp.float32)
        jax.eval_shape(lambda wave: HDemucs(**fields).init(jax.random.key(0), wave, None, False), wave)

    with pytest.raises(JaxsepError, match=r"model\.depth=4: expected 5 or more for frame=4096"):
        start(depth=4)
    with pytest.raises(JaxsepError, match=r"model\.frame=4100: its bins cannot be divided"):
        start(frame=4100)
    with pytest.raises(JaxsepError, match=r"model\.dconv_mode=4"):
        start(dconv_mode=4)
