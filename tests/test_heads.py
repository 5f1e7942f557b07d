"""Masks by hand, Wiener filter against norbert."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft
from jaxsep.heads import HEADS, POSTS, AmplitudePhase, Magnitude, Map, Mask, RatioMask, Wiener

with warnings.catch_warnings():  # norbert imports by a path that scipy deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    import norbert


def spectra(batch, sources, frames, bins, channels, seed=0, scale=1.0):
    """Random source latents with the mixture's phase, and the mixture."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((batch, frames, bins, channels, 2)) @ [1, 1j] * scale
    masks = rng.random((batch, sources, frames, bins, channels))
    return jnp.asarray(masks * mix[:, None], jnp.complex64), jnp.asarray(mix, jnp.complex64)


def songlike(seconds=2.0, rate=8000, seed=0):
    """Panned tones and noise with silences, one source in the middle; estimates with cross-talk."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    voice = np.sin(2 * np.pi * (220 + 5 * np.sin(30 * time)) * time) * (time > 0.3)
    bass = np.sin(2 * np.pi * 55 * time) * np.exp(-3 * (time % 0.5))
    drums = rng.standard_normal(len(time)) * np.exp(-30 * (time % 0.25))
    pans = [(1.0, 1.0), (0.9, 0.3), (0.2, 0.8)]
    waves = np.stack([s[:, None] * pan for s, pan in zip((voice, bass, drums), pans, strict=True)])
    front = Stft(512, 128)
    latents = np.asarray(jax.jit(front.encode)(jnp.asarray(waves, jnp.float32)))[None]
    mix = latents.sum(1)
    size = 0.8 * np.abs(latents) + 0.1 * np.abs(mix)[:, None]
    phase = np.exp(1j * np.angle(mix))[:, None]
    return jnp.asarray(size * phase, jnp.complex64), jnp.asarray(mix, jnp.complex64)


def oracle(latents, mix, eps=1e-10, softmask=False, iterations=1):
    """norbert in double precision, one example at a time."""
    out = []
    for y, x in zip(np.asarray(latents, np.complex128), np.asarray(mix, np.complex128), strict=True):
        v = np.pad(np.abs(y), [(0, 0), (0, 0), (0, x.shape[1] - y.shape[2]), (0, 0)])
        out.append(norbert.wiener(np.moveaxis(v, 0, -1), x.copy(), iterations, softmask, eps))
    return np.moveaxis(np.stack(out), -1, 1)


def close(ours, theirs, tolerance):
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.abs(theirs).max()


def distance(a, b):
    """Relative distance in energy, for what holds in all bins but the faintest."""
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))


def test_sigmoid_and_relu_masks():
    z = jnp.full((1, 1, 1, 2), 2 + 2j, jnp.complex64)
    y = jnp.array([0.0, -1.0])[None, :, None, None, None] * jnp.ones((1, 2, 1, 1, 2))
    np.testing.assert_allclose(Mask("sigmoid")(y, z)[0, 0], 1 + 1j)
    np.testing.assert_allclose(Mask("sigmoid")(y, z)[0, 1], (2 + 2j) / (1 + np.e), rtol=1e-6)
    np.testing.assert_allclose(Mask("relu")(y + 3, z)[0, :, 0, 0, 0], [6 + 6j, 4 + 4j])


def test_softmax_masks_share_the_mixture():
    latents, mix = spectra(2, 3, 4, 5, 2)
    logits = jnp.log(jnp.arange(1.0, 4.0))[None, :, None, None, None] + jnp.zeros(latents.shape)
    out = Mask("softmax")(logits.astype(jnp.bfloat16).astype(jnp.float32), mix)
    np.testing.assert_allclose(out[:, 1], mix * 2 / 6, rtol=5e-3)
    np.testing.assert_allclose(Mask("softmax")(latents.real, mix).sum(1), mix, rtol=1e-5)
    assert Mask()(logits.astype(jnp.bfloat16), mix).dtype == jnp.complex64


def test_ratio_mask_is_spleeters():
    """Magnitudes 3 and 4 share by their squares; no estimate at all shares equally."""
    latents = jnp.array([[3.0, 0.0], [4.0, 0.0]], jnp.complex64)[None, :, None, :, None]
    mix = jnp.full((1, 1, 4, 1), 1j, jnp.complex64)
    zeros = RatioMask()(latents, mix)
    np.testing.assert_allclose(zeros[0, :, 0, :, 0], [[9j / 25, 0.5j, 0, 0], [16j / 25, 0.5j, 0, 0]], atol=1e-7)
    average = RatioMask(extension="average")(latents, mix)
    np.testing.assert_allclose(average[0, 0, 0, 2:, 0], [(9 / 25 + 0.5) / 2 * 1j] * 2, atol=1e-7)
    np.testing.assert_allclose(average.sum(1), mix, atol=1e-6)
    linear = RatioMask(power=1.0)(latents, mix)
    np.testing.assert_allclose(linear[0, :, 0, 0, 0], [3j / 7, 4j / 7], atol=1e-7)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_wiener_is_norbert_on_noise(channels, softmask, iterations):
    latents, mix = spectra(2, 3, 30, 9, channels, scale=20.0)
    ours = jax.jit(Wiener(iterations, softmask))(latents, mix)
    assert ours.shape == latents.shape and ours.dtype == jnp.complex64
    close(ours, oracle(latents, mix, softmask=softmask, iterations=iterations), 1e-5)


def test_wiener_on_three_channels():
    latents, mix = spectra(1, 2, 30, 5, 3)
    close(Wiener()(latents, mix), oracle(latents, mix), 1e-4)  # norbert's pseudo-inverse cuts small values


@pytest.mark.parametrize("softmask", [False, True])
@pytest.mark.parametrize("eps", [1e-10, float(np.finfo(np.float32).eps)])
def test_wiener_is_norbert_on_song_like_spectra(softmask, eps):
    """Silence, a source in the middle, peaks of 100: what single precision has to survive."""
    latents, mix = songlike()
    close(jax.jit(Wiener(softmask=softmask, eps=eps))(latents, mix), oracle(latents, mix, eps, softmask), 2e-4)


def test_wiener_on_a_mono_song_in_stereo():
    """Both channels equal: all covariances are singular, and the filter is that of one channel."""
    latents, mix = songlike()
    latents, mix = (jnp.broadcast_to(z[..., :1], z.shape) for z in (latents, mix))
    ours = Wiener()(latents, mix)
    assert np.isfinite(np.asarray(ours)).all()
    close(ours, oracle(latents, mix), 1e-3)
    close(ours[..., 0], np.asarray(Wiener()(latents[..., :1], mix[..., :1]))[..., 0], 1e-3)


def test_wiener_sources_add_up_to_the_mixture():
    latents, mix = songlike()
    assert distance(jax.jit(Wiener())(latents, mix).sum(1), mix) < 2e-3


def test_wiener_windows_are_filtered_alone():
    latents, mix = spectra(2, 2, 25, 5, 2, scale=30.0)
    whole = jax.jit(Wiener(window_frames=10))(latents, mix)
    parts = [jax.jit(Wiener())(latents[:, :, k : k + 10], mix[:, k : k + 10]) for k in (0, 10, 20)]
    np.testing.assert_allclose(whole, jnp.concatenate(parts, axis=2), atol=1e-4)
    assert np.abs(np.asarray(whole - jax.jit(Wiener())(latents, mix))).max() > 0.1


def test_wiener_extends_with_zeros_and_survives_silence():
    latents, mix = spectra(1, 2, 20, 8, 2)
    out = jax.jit(Wiener())(latents[:, :, :, :5], mix)
    close(out, oracle(latents[:, :, :, :5], mix), 1e-5)
    np.testing.assert_array_equal(out[:, :, :, 5:], 0)
    np.testing.assert_array_equal(Wiener()(latents * 0, mix * 0), 0)
    np.testing.assert_array_equal(Wiener(softmask=True)(latents * 0, mix * 0), 0)


def test_wiener_of_one_source_has_a_residual():
    """Alone, the only source would be given the whole mixture."""
    latents, mix = songlike()
    voice = latents[:, :1]
    out = jax.jit(Wiener())(voice, mix)
    assert out.shape == voice.shape
    rest = mix[:, None] - voice
    two = jax.jit(Wiener())(jnp.concatenate([voice, rest], axis=1), mix)
    np.testing.assert_allclose(out, two[:, :1], atol=1e-5)
    assert distance(oracle(voice, mix)[:, 0], mix) < 0.1
    assert distance(out[:, 0], mix) > 0.4


def test_a_single_source_is_held_against_the_rest_of_the_mixture():
    latents, mix = spectra(1, 1, 5, 16, 2)
    share = np.abs(latents[:, 0]) / np.abs(mix)
    expected = share**2 / (share**2 + (1 - share) ** 2) * mix
    np.testing.assert_allclose(RatioMask()(latents, mix)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("post", [RatioMask(), Wiener()])
def test_estimates_wider_than_the_mixture(post):
    latents, mix = spectra(1, 2, 4, 6, 1)
    with pytest.raises(JaxsepError, match="6 bins, the mixture only 5"):
        post(latents, mix[:, :, :5])


def test_fields_are_checked():
    with pytest.raises(JaxsepError, match="activation='tanh'"):
        HEADS["mask"]("tanh")
    with pytest.raises(JaxsepError, match="extension='mean'"):
        POSTS["ratio_mask"](extension="mean")
    with pytest.raises(JaxsepError, match="window_frames=0"):
        POSTS["wiener"](window_frames=0)


def test_magnitudes_take_the_phase_of_the_mixture():
    z = jnp.asarray([3 + 4j, -2j, 0, 5], jnp.complex64).reshape(1, 1, 4, 1)
    y = jnp.asarray([10.0, 7.0, 6.0, -1.0], jnp.bfloat16).reshape(1, 1, 1, 4, 1)
    out = Magnitude()(y, z)
    np.testing.assert_allclose(out.ravel(), [6 + 8j, -7j, 0, 0], rtol=1e-6)
    assert out.dtype == jnp.complex64
    gradient = jax.grad(lambda z: jnp.abs(Magnitude()(y.astype(jnp.float32), z)[..., :2, :]).sum())(z)
    assert np.isfinite(np.asarray(gradient)).all()


def test_maps_and_amplitude_phase():
    z = jnp.asarray([3 + 4j, -2j], jnp.complex64).reshape(1, 1, 2, 1)
    y = jnp.asarray([0.5j, 0.25], jnp.complex64).reshape(1, 1, 1, 2, 1)
    np.testing.assert_array_equal(Map()(y, z), y)
    np.testing.assert_allclose(AmplitudePhase()(y, z).ravel(), [2.5j, 0.5], rtol=1e-6)
