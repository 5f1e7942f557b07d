"""The floors and the ceiling against transcriptions of their definitions in plain float64."""

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest
import scipy.signal

from jaxsep import baselines
from jaxsep.metrics import aggregate, sdr


@pytest.fixture(scope="module")
def song():
    """(mixture [t c], stems [s t c]) of the real excerpt in stempeg's package; the mixture is the stems' sum."""
    spec = importlib.util.find_spec("stempeg")
    if spec is None or spec.origin is None:
        pytest.skip("stempeg is not installed")
    stems = []
    for stream in (4, 1, 2, 3):  # vocals, drums, bass, other
        with av.open(str(Path(spec.origin).parent / "data" / "The Easton Ellises - Falcon 69.stem.mp4")) as file:
            stems.append(np.concatenate([frame.to_ndarray() for frame in file.decode(audio=stream)], axis=1).T)
    return np.sum(stems, axis=0), np.stack(stems)


def frames_of(wave):
    """STFT without scipy.signal: [n f] of a mono wave, Hann 2048, hop 1024, centred, zeros around it."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    padded = np.concatenate([np.zeros(1024), wave.astype(np.float64), np.zeros(1024 + -len(wave) % 1024)])
    return np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, 2048)[::1024] * window) / window.sum()


def transcribed_irm1(mixture, stems):
    """As sigsep-mus-oracle writes it: model = eps + sum of magnitudes, mask = magnitude / model."""
    estimates = []
    for target in stems:
        channels = []
        for c in range(mixture.shape[1]):
            model = np.finfo(np.float64).eps + sum(
                np.abs(scipy.signal.stft(stem[:, c].astype(np.float64), nperseg=2048)[-1]) for stem in stems
            )
            magnitude = np.abs(scipy.signal.stft(target[:, c].astype(np.float64), nperseg=2048)[-1])
            spectrum = scipy.signal.stft(mixture[:, c].astype(np.float64), nperseg=2048)[-1]
            channels.append(scipy.signal.istft(spectrum * np.divide(magnitude, model))[1][: len(mixture)])
        estimates.append(np.stack(channels, axis=1))
    return np.stack(estimates)


def test_irm1_is_sisecs(song):
    mixture, stems = (wave[..., 50_000:90_001, :] for wave in song)
    estimates = baselines.irm1(mixture, stems)
    np.testing.assert_allclose(estimates, transcribed_irm1(mixture, stems), rtol=0, atol=1e-10)
    np.testing.assert_allclose(estimates.sum(axis=0), mixture, atol=1e-6)  # the masks sum to 1


def test_the_scores_of_the_real_excerpt(song):
    mixture, stems = song

    def average(estimates):
        return np.mean([aggregate.over(row, "median") for row in sdr.framewise_sdr(stems, estimates, 44100)])

    assert average(baselines.irm1(mixture, stems)) == pytest.approx(7.5, abs=0.1)
    assert average(baselines.scaled_mixture(mixture, stems)) == pytest.approx(1.3, abs=0.1)
    assert average(np.zeros(stems.shape)) == 0
    own = baselines.equalise(mixture, baselines.learn_equaliser([(mixture, stems)]))
    assert 1.3 < average(own) < 7.5
    assert average(baselines.untouched_mixture(mixture, stems)) < 0


def test_scaled_mixture_is_the_least_squares_gain(song):
    mixture, stems = song
    estimates = baselines.scaled_mixture(mixture, stems)
    column = mixture.astype(np.float64).reshape(-1, 1)
    for stem, estimate in zip(stems, estimates, strict=True):
        (gain,), *_ = np.linalg.lstsq(column, stem.astype(np.float64).ravel(), rcond=None)
        np.testing.assert_allclose(estimate, gain * mixture.astype(np.float64), atol=1e-9)
    np.testing.assert_array_equal(baselines.scaled_mixture(np.zeros((9, 1)), np.ones((2, 9, 1))), np.zeros((2, 9, 1)))


def test_untouched_mixture():
    mixture = np.random.default_rng(0).standard_normal((7, 2)).astype(np.float32)
    np.testing.assert_array_equal(baselines.untouched_mixture(mixture, np.zeros((3, 7, 2))), np.stack([mixture] * 3))


def test_equaliser_gains_are_least_squares_over_all_songs(song):
    mixture, stems = song
    songs = [(mixture[:30_000], stems[:, :30_000]), (mixture[100_000:151_000], stems[:, 100_000:151_000])]
    gains = baselines.learn_equaliser(songs)
    assert gains.shape == (4, 1025)
    rows = [[], [], [], [], []]
    for mix, parts in songs:
        for wave, row in zip([mix, *parts], rows, strict=True):
            row.extend(frames_of(wave[:, c]) for c in range(2))
    spectrum, *targets = (np.concatenate(row) for row in rows)
    for gain, target in zip(gains, targets, strict=True):
        for f in (0, 3, 100, 700):
            real = np.concatenate([spectrum[:, f].real, spectrum[:, f].imag])[:, None]
            (expected,), *_ = np.linalg.lstsq(real, np.concatenate([target[:, f].real, target[:, f].imag]), rcond=None)
            assert gain[f] == pytest.approx(expected, abs=1e-10)
    np.testing.assert_allclose(gains.sum(axis=0), 1, atol=1e-4)  # the stems sum to the mixture


def test_equaliser_separates_what_does_not_overlap():
    """A low and a high sine: the gains are 1 and 0, and applying them returns the sines."""
    time = np.arange(44100)[:, None] / 44100
    low, high = np.sin(2 * np.pi * 200 * time), 0.3 * np.sin(2 * np.pi * 9000 * time)
    stems = np.stack([low, high])
    gains = baselines.learn_equaliser([(low + high, stems)])
    estimates = baselines.equalise(low + high, gains)
    assert np.abs(estimates - stems)[:, 2048:-2048].max() < 1e-3
    quiet = baselines.learn_equaliser([(np.zeros((5000, 1)), np.zeros((2, 5000, 1)))])
    np.testing.assert_array_equal(quiet, np.zeros((2, 1025)))


@pytest.mark.parametrize("length", [3, 2047, 2049, 5000])
def test_any_length(length):
    stems = np.random.default_rng(1).standard_normal((2, length, 1))
    mixture = stems.sum(axis=0)
    np.testing.assert_allclose(baselines.irm1(mixture, stems).sum(axis=0), mixture, atol=1e-9)
    np.testing.assert_allclose(baselines.equalise(mixture, np.ones((2, 1025))), np.stack([mixture] * 2), atol=1e-12)
