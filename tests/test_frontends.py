"""Front ends against scipy, the definition of the DFT, and their own inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxsep.errors import JaxsepError
from jaxsep.frontends import FRONTS, Identity, Stft

FRAME, HOP = 64, 16


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def dft(frames):
    """The sum that defines the DFT, in float64: not an FFT of anybody's."""
    samples = frames.shape[-1]
    angle = np.outer(np.arange(samples), np.arange(samples // 2 + 1)) / samples
    return frames.astype(np.float64) @ np.exp(-2j * np.pi * angle)


def taps(window):
    """scipy's, of FRAME samples."""
    if window == "sqrt_hann":
        return np.sqrt(scipy.signal.get_window("hann", FRAME))
    return scipy.signal.get_window(("gaussian", FRAME / 6) if window == "gaussian" else window, FRAME)


@pytest.mark.parametrize("padding, boundary", [("reflect", "even"), ("zeros", "zeros")])
@pytest.mark.parametrize(
    "window, length", [("hann", 5 * FRAME), ("hamming", 3 * FRAME + 7), ("sqrt_hann", 257), ("gaussian", 191)]
)
def test_frames_around_their_middle_are_scipys(window, length, padding, boundary):
    wave = noise(length, 2)
    options = {"nperseg": FRAME, "noverlap": FRAME - HOP, "boundary": boundary, "padded": False, "axis": 0}
    _, _, expected = scipy.signal.stft(wave, window=taps(window), **options)
    latent = Stft(FRAME, HOP, padding, window=window).encode(jnp.asarray(wave))
    np.testing.assert_allclose(latent, expected.transpose(2, 0, 1) * taps(window).sum(), atol=2e-5)


def test_frames_lie_in_the_middle_of_a_longer_transform():
    """As torch.stft has a win_length below n_fft; orthonormal, energy is kept: Parseval."""
    wave = noise(5 * FRAME, 1)
    front = Stft(FRAME, HOP, padding="zeros", fft=100, normalised=True)
    latent = np.asarray(front.encode(jnp.asarray(wave)))[..., 0]
    starts = range(0, 5 * FRAME + 1, HOP)
    surrounded = np.pad(wave[:, 0], FRAME // 2)
    frames = np.stack([np.pad(surrounded[k : k + FRAME] * taps("hann"), 18) for k in starts])
    np.testing.assert_allclose(latent, dft(frames) / 10, atol=2e-6)
    energy = 2 * (np.abs(latent) ** 2).sum(axis=1) - (np.abs(latent[:, [0, -1]]) ** 2).sum(axis=1)
    np.testing.assert_allclose(energy, (frames**2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(front.decode(front.encode(jnp.asarray(wave)), len(wave)), wave, atol=2e-6)


@pytest.mark.parametrize("length", [1, HOP, 2 * FRAME, 2 * FRAME + 5])
def test_left_padding_is_a_frame_of_zeros_and_covers_the_end(length):
    wave = noise(length, 2)
    latent = Stft(FRAME, HOP).encode(jnp.asarray(wave))
    # tf.signal.stft(pad_end=True) starts a frame at every hop within the padded wave.
    starts = range(0, FRAME + length, HOP)
    padded = np.concatenate([np.zeros((FRAME, 2)), wave, np.zeros((FRAME, 2))])
    taps = scipy.signal.get_window("hann", FRAME)
    expected = dft(np.stack([(padded[k : k + FRAME].T * taps) for k in starts]))
    assert latent.shape == (len(starts), FRAME // 2 + 1, 2)
    np.testing.assert_allclose(latent, expected.transpose(0, 2, 1), atol=2e-5)


def test_an_impulse_has_the_phase_of_its_sample():
    """Exact time: one sample earlier or later turns every bin of every frame."""
    at = 37
    wave = np.zeros((4 * FRAME, 1), np.float32)
    wave[at] = 1
    latent = np.asarray(Stft(FRAME, HOP).encode(jnp.asarray(wave)))[..., 0]
    bins = np.arange(FRAME // 2 + 1)
    for frame in range(len(latent)):
        offset = at + FRAME - frame * HOP
        inside = 0 <= offset < FRAME
        height = np.sin(np.pi * offset / FRAME) ** 2 if inside else 0.0
        np.testing.assert_allclose(latent[frame], height * np.exp(-2j * np.pi * bins * offset / FRAME), atol=1e-6)


def test_a_delay_of_one_hop_is_one_frame():
    front = Stft(FRAME, HOP)
    wave = noise(6 * FRAME, 2)
    late = np.concatenate([np.zeros((HOP, 2), np.float32), wave])
    np.testing.assert_allclose(front.encode(jnp.asarray(late))[1:], front.encode(jnp.asarray(wave)), atol=1e-5)
    np.testing.assert_allclose(front.encode(jnp.asarray(late))[0], 0, atol=1e-6)


@pytest.mark.parametrize("padding", ["left", "reflect", "zeros"])
@pytest.mark.parametrize("frame, hop", [(64, 16), (64, 8), (4096, 1024)])
@pytest.mark.parametrize("kind", ["1", "3", "hop-1", "frame+1", "long"])
def test_decode_inverts_encode(padding, frame, hop, kind):
    length = {"1": 1, "3": 3, "hop-1": hop - 1, "frame+1": frame + 1, "long": 7 * frame + 5}[kind]
    front = Stft(frame, hop, padding=padding)
    wave = noise(3, length, 2)
    wave /= np.abs(wave).max()
    latent = jax.jit(front.encode)(jnp.asarray(wave))
    assert latent.shape == (3, front.frames(length), frame // 2 + 1, 2) and latent.dtype == jnp.complex64
    back = jax.jit(front.decode, static_argnums=1)(latent, length)
    assert back.shape == wave.shape and back.dtype == jnp.float32
    np.testing.assert_allclose(back, wave, atol=2e-6)


@pytest.mark.parametrize("padding", ["left", "reflect", "zeros"])
@pytest.mark.parametrize(
    "window, hop", [("sqrt_hann", 32), ("hamming", 16), ("hann", 16), ("hann", 32), ("hamming", 64), ("gaussian", 16)]
)
def test_every_window_inverts(window, hop, padding):
    wave = noise(300, 1)
    wave /= np.abs(wave).max()
    for options in ({}, {"fft": 80, "normalised": True}):
        front = Stft(FRAME, hop, padding, window=window, **options)
        back = jax.jit(lambda wave, front=front: front.decode(front.encode(wave), 300))(jnp.asarray(wave))
        np.testing.assert_allclose(back, wave, atol=2e-6)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 40, 319, 320, 333, 351])
def test_half_overlap_inverts_at_the_end_too(length):
    """Frames as torch has them, and one more where a Hann window would leave the last samples in the dark."""
    front = Stft(64, 32, padding="reflect")
    wave = noise(length, 1)
    assert front.frames(length) - (1 + length // 32) == (length % 32 > 27)
    np.testing.assert_allclose(front.decode(front.encode(jnp.asarray(wave)), length), wave, atol=2e-5)


def test_decode_is_spleeters_synthesis():
    """Any latent, not only a consistent one: overlap-add under a Hann window times 2/3."""
    length = 3 * FRAME + 9
    front = Stft(FRAME, HOP)
    count = front.frames(length)
    latent = noise(count, FRAME // 2 + 1, 2, 2)
    latent = latent[..., 0] + 1j * latent[..., 1]
    frames = np.fft.irfft(latent.transpose(2, 0, 1), n=FRAME) * scipy.signal.get_window("hann", FRAME) * 2 / 3
    expected = np.zeros((2, (count - 1) * HOP + FRAME))
    for k in range(count):
        expected[:, k * HOP : k * HOP + FRAME] += frames[:, k]
    wave = front.decode(jnp.asarray(latent.astype(np.complex64)), length)
    np.testing.assert_allclose(wave, expected[:, FRAME : FRAME + length].T, atol=1e-6)


def test_missing_bins_are_zero():
    front = Stft(FRAME, HOP, bins=20)
    latent = front.encode(jnp.asarray(noise(2, 3, 200, 2)))
    cropped = front.crop(latent)
    assert latent.shape == (2, 3, front.frames(200), 33, 2) and cropped.shape == (
        2,
        3,
        front.frames(200),
        20,
        2,
    )
    np.testing.assert_array_equal(cropped, latent[..., :20, :])
    np.testing.assert_allclose(front.decode(cropped, 200), front.decode(latent.at[..., 20:, :].set(0), 200), atol=1e-6)


@pytest.mark.parametrize("padding", ["left", "reflect"])
def test_gradients_are_finite_and_right(padding):
    front = Stft(FRAME, HOP, padding=padding)
    wave, weight = jnp.asarray(noise(100, 1)), jnp.asarray(noise(100, 1, seed=1))
    gradient = jax.jit(jax.grad(lambda x: (front.decode(front.encode(x), 100) * weight).sum()))(wave)
    np.testing.assert_allclose(gradient, weight, atol=1e-5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"window": "hanning"}, "front.window='hanning'"),
        ({"padding": "center"}, "front.padding='center'"),
        ({"frame": 64, "hop": 24}, "hop=24 does not divide front.frame=64; use 16 or 32"),
        ({"frame": 64, "hop": 128}, "use 32"),
        ({"frame": 63, "hop": 21}, "frame=63: expected an even"),
        ({"frame": 64, "hop": 16, "fft": 62}, "front.fft=62"),
        ({"frame": 64, "hop": 64}, "too long to invert a hann window"),
        ({"frame": 64, "hop": 64, "padding": "reflect"}, "too long to invert a hann window"),
        ({"frame": 64, "hop": 16, "bins": 34}, "front.bins=34"),
    ],
)
def test_fields_that_do_not_fit(fields, words):
    with pytest.raises(JaxsepError, match=words):
        Stft(**fields).encode(jnp.zeros((100, 1)))


def test_wrong_lengths():
    front = Stft(FRAME, HOP)
    with pytest.raises(JaxsepError, match="0 samples"):
        front.encode(jnp.zeros((0, 1)))
    with pytest.raises(JaxsepError, match="20 frames, but 100 samples have 11"):
        front.decode(jnp.zeros((20, 33, 1), jnp.complex64), 100)
    with pytest.raises(JaxsepError, match="gave 9 samples where 10"):
        Identity().decode(jnp.zeros((9, 1)), 10)


def test_identity():
    front = FRONTS["identity"]()
    wave = jnp.asarray(noise(2, 10, 1))
    assert front.frames(10) == 10
    np.testing.assert_array_equal(front.decode(front.crop(front.encode(wave)), 10), wave)
