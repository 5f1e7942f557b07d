"""BSS Eval against museval: values and NaN pattern, on everything that museval scores."""

import numpy as np
import pytest
from test_metrics import excerpt, needs_museval, with_silences

from jaxsep import baselines
from jaxsep.data.synth import synth_song
from jaxsep.metrics import bsseval, sdr
from jaxsep.metrics.bsseval import bss_eval

METRICS = ("SDR", "ISR", "SIR", "SAR")
TOLERANCE = {"SDR": 1e-9, "ISR": 1e-6, "SIR": 1e-6, "SAR": 1e-6}  # dB, on 16-bit material


def quantised(waves):
    """On the grid of 16-bit samples."""
    return np.round(np.clip(waves, -1, 1 - 2**-15) * 2**15) / 2**15


def sources(count, length, channels, seed=0):
    """Noise of different colours, in 16 bits."""
    random = np.random.default_rng(seed)
    white = random.standard_normal((count, length, channels))
    red = np.cumsum(white, axis=1)
    shares = np.linspace(0.1, 0.9, count)[:, None, None]
    return quantised(0.1 * shares * white + 0.02 * (1 - shares) * red)


def separated(references, seed=1):
    """Each with an echo, some of the other sources and some noise."""
    echo = 0.3 * np.roll(references, 7, axis=1)
    noise = 0.01 * np.random.default_rng(seed).standard_normal(references.shape)
    return 0.8 * references + echo + 0.2 * np.roll(references, 1, axis=0) + noise


def referee(references, estimates, window, hop, mode="v4"):
    import museval as package

    frames = mode == "v3"
    return package.metrics.bss_eval(references, estimates, window=window, hop=hop, framewise_filters=frames)[:4]


def agree(ours, theirs, tolerance=TOLERANCE):
    for name, mine, his in zip(METRICS, ours, theirs, strict=False):
        assert mine.shape == his.shape
        np.testing.assert_array_equal(np.isnan(mine), np.isnan(his), err_msg=name)
        np.testing.assert_allclose(mine, his, rtol=0, atol=tolerance[name], err_msg=name)


@needs_museval
@pytest.mark.parametrize(
    ("count", "length", "channels", "window", "hop", "mode"),
    [
        (2, 9000, 1, 2000, 2000, "v4"),
        (2, 9999, 2, 3000, 1700, "v4"),  # frames that overlap
        (2, 9000, 1, 1000, 2500, "v4"),  # and that leave gaps
        (3, 8000, 1, 8001, 8001, "v4"),  # a window longer than the song
        (2, 40_000, 1, 16_000, 16_000, "v4"),  # several blocks of correlations, an incomplete last frame
        (2, 6000, 3, 3000, 3000, "v4"),
        (6, 6000, 1, 3000, 3000, "v4"),
        (2, 700, 1, 300, 300, "v4"),  # frames shorter than the filters
        (2, 6001, 1, 2000, 2000, "v3"),
        (2, 7000, 2, 3000, 2000, "v3"),
    ],
)
def test_equals_museval(count, length, channels, window, hop, mode):
    references = sources(count, length, channels)
    estimates = separated(references)
    ours = bss_eval(references, estimates, window, hop, mode)
    agree(ours, referee(references, estimates, window, hop, mode))
    assert not ours.ill_conditioned


@needs_museval
def test_silences_equal_musevals():
    references, estimates = with_silences(sources(2, 12_500, 2), separated)
    ours = bss_eval(references, estimates, 2000, 2000)
    agree(ours, referee(references, estimates, 2000, 2000))
    np.testing.assert_array_equal(np.isnan(ours.sir), [[False, True, False, True, True, False]] * 2)


@needs_museval
@pytest.mark.parametrize("kind", ["mono on two channels", "one channel silent", "a panned mono source", "tones"])
def test_references_with_less_than_two_signals(kind):
    """Singular or nearly so; what the filters make of the references is unique all the same."""
    references = sources(2, 12_000, 2)
    if kind == "mono on two channels":
        references[:] = references[:, :, :1]
    elif kind == "one channel silent":
        references[0, :, 1] = 0
    elif kind == "a panned mono source":
        references[1, :, 1] = quantised(0.3 * references[1, :, 0])
    else:
        time = np.arange(12_000)[:, None] / 44100
        references = quantised(np.stack([np.sin(2 * np.pi * f * time * [1, 1.01]) / 2 for f in (440, 660)]))
    estimates = separated(references)
    ours = bss_eval(references, estimates, 4000, 4000)
    assert not ours.ill_conditioned
    agree(ours, referee(references, estimates, 4000, 4000), TOLERANCE | dict.fromkeys(METRICS[1:], 1e-3))


def random_song(random):
    """Sources and estimates of any number, length and kind, in 16 bits."""
    count, channels = random.choice([(2, 1), (3, 1), (4, 1), (2, 2)])
    length = int(random.integers(2000, 20_000))
    references = random.standard_normal((count, length, channels))
    pause = slice(first := int(random.integers(0, length)), first + int(random.integers(100, 8000)))
    for source in references:
        kind = random.choice(["white", "red", "tone", "mono", "pause", "quiet with an offset"])
        if kind == "red":
            source[:] = 0.05 * np.cumsum(source, axis=0)
        elif kind == "tone":
            tone = np.sin(2 * np.pi * random.uniform(50, 5000) * np.arange(length) / 44100)
            source[:] = tone[:, None] * random.uniform(0.2, 1, channels)
        elif kind == "mono":
            source[:] = source[:, :1]
        elif kind == "pause":
            source[pause] = 0
        elif kind == "quiet with an offset":
            source[:] = source * 10 ** random.uniform(-4, 0) + random.uniform(-0.2, 0.2)
    references = quantised(0.2 * references)
    leaking = random.uniform(0.5, 1.2) * references + random.uniform(0, 0.4) * np.roll(references, 1, axis=0)
    estimates = leaking + 10 ** random.uniform(-4, -1) * random.standard_normal(references.shape)
    if random.random() < 0.3:
        estimates[0, pause] = 0
    return references, estimates if random.random() < 0.5 else quantised(estimates)


@needs_museval
@pytest.mark.full
@pytest.mark.parametrize("seed", range(60))
def test_random_songs_equal_musevals(seed):
    random = np.random.default_rng(seed)
    references, estimates = random_song(random)
    mode = "v3" if random.random() < 0.15 else "v4"
    window, hop = random.integers(300 if mode == "v4" else 3000, 6000, 2).tolist()
    ours = bss_eval(references, estimates, window, hop, mode)
    if any(sdr.is_silent(wave) for wave in (*references, *estimates)):
        assert all(np.isnan(metric).all() for metric in ours[:4])  # museval refuses
        return
    agree(ours, referee(references, estimates, window, hop, mode), TOLERANCE | dict.fromkeys(METRICS[1:], 1e-3))


def test_sources_that_are_the_same():
    """Their sum could be split in any way, but what both span is clear: nothing is left over but the noise."""
    references = np.repeat(sources(1, 12_000, 1), 2, axis=0)
    noise = 1e-3 * np.random.default_rng(5).standard_normal(references.shape)
    ours = bss_eval(references, references + noise, 6000, 6000)
    assert ours.ill_conditioned
    expected = 10 * np.log10(
        np.square(references).reshape(2, 2, -1).sum(-1) / np.square(noise).reshape(2, 2, -1).sum(-1)
    )
    np.testing.assert_allclose(ours.sdr, expected, atol=1e-9)
    np.testing.assert_allclose(ours.sar, expected, atol=1.0)  # the filters take some of the noise for signal


def test_by_hand():
    """White, independent sources: gain, delay and leakage end up in the ratios that are named after them."""
    random = np.random.default_rng(3)
    references = random.standard_normal((2, 200_000, 1))
    delayed = np.roll(references, 100, axis=1)
    estimates = np.stack([0.5 * references[0] + 0.1 * delayed[1], delayed[1]])
    estimates[0] += 0.01 * random.standard_normal(references[0].shape)
    ours = bss_eval(references, estimates, 50_000, 50_000)
    expected = [
        [10 * np.log10(1 / (0.25 + 0.01 + 0.0001)), 10 * np.log10(1 / 2)],
        [10 * np.log10(1 / 0.25), 10 * np.log10(1 / 2)],  # the gain and the delay are spatial distortions
        [10 * np.log10(0.25 / 0.01), None],
        # The noise, and what the hard cuts take from the delayed source and leave behind it, 100 samples each.
        [10 * np.log10((0.25 + 0.01) / (0.0001 + 0.01 * 200 / 50_000)), None],
    ]
    for metric, row in zip(ours[:4], expected, strict=True):
        for values, value in zip(metric, row, strict=True):
            if value is not None:
                np.testing.assert_allclose(values, value, atol=0.4)
    assert (ours.sir[1] > 25).all()  # a pure delay within the filters is no interference
    beyond = np.roll(references, 600, axis=1)
    late = bss_eval(references, beyond, 50_000, 50_000)
    assert (late.sar < 0).all()  # and beyond them it is an artifact


def test_exact_estimates_and_silent_sources():
    references = sources(2, 8000, 1)
    exact = bss_eval(references, references, 4000, 4000)
    assert np.isposinf(exact.sdr).all() and (exact.sir > 150).all()
    silent = references * np.array([1, 0])[:, None, None]
    for pair in ((references, silent), (silent, references)):
        for metric in bss_eval(*pair, 4000, 4000)[:4]:
            assert metric.shape == (2, 2) and np.isnan(metric).all()


class Reader:
    """Waves that are read in pieces, and how long the longest was."""

    def __init__(self, waves):
        self.waves, self.shape, self.longest = waves, waves.shape, 0

    def __getitem__(self, piece):
        rows, samples = piece
        assert rows == slice(None)
        self.longest = max(self.longest, samples.stop - samples.start)
        return self.waves[piece]


def test_pieces_do_not_matter(monkeypatch):
    """A song is read in pieces whose size changes nothing; what is read at a time does not grow with the song."""
    references = sources(2, 150_000, 2).astype(np.float32)
    estimates = separated(references).astype(np.float32)
    whole = bss_eval(references, estimates, 10_000, 10_000)
    monkeypatch.setattr(bsseval, "BLOCKS", 3)
    readers = Reader(references), Reader(estimates)
    pieces = bss_eval(*readers, 10_000, 10_000)
    for a, b in zip(whole[:4], pieces[:4], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
    assert max(reader.longest for reader in readers) < 30_000


def test_float64_stays_inside():
    import jax.numpy as jnp

    bss_eval(sources(2, 2000, 1), sources(2, 2000, 1, seed=4), 1000, 1000)
    assert jnp.zeros(2).dtype == jnp.float32 and jnp.asarray(np.zeros(2)).dtype == jnp.float32


def test_refusals():
    waves = sources(2, 1000, 1)
    with pytest.raises(ValueError, match=r"\(2, 1000, 1\) and estimates \(2, 999, 1\) differ"):
        bss_eval(waves, waves[:, 1:], 500, 500)
    with pytest.raises(ValueError, match="mode='v5': expected one of v4, v3"):
        bss_eval(waves, waves, 500, 500, "v5")
    for bad in (np.nan, np.inf):
        broken = waves.copy()
        broken[1, 700, 0] = bad
        for pair in ((waves, broken), (broken, waves)):
            with pytest.raises(ValueError, match="NaN or infinite samples between 0 and 1000"):
                bss_eval(*pair, 500, 500)
    for window, hop, pair in ((0, 500, waves), (500, 0, waves), (500, 500, waves[:, :0])):
        with pytest.raises(ValueError, match="expected 1 or more each"):
            bss_eval(pair, pair, window, hop)


@needs_museval
@pytest.mark.parametrize("streams", [[1, 4], pytest.param([1, 2, 3, 4], marks=pytest.mark.full)])
def test_real_audio_in_16_bits_equals_museval(streams):
    """What museval is used for, with an ideal ratio mask as the separator."""
    references = quantised(excerpt(streams, seconds=7).astype(np.float64))
    estimates = baselines.irm1(references.sum(axis=0), references)
    ours = bss_eval(references, estimates, 44100, 44100)
    agree(ours, referee(references, estimates, 44100, 44100))
    assert not ours.ill_conditioned


@needs_museval
def test_built_in_songs_equal_musevals():
    """Music whose stems overlap in frequency and never rest entirely."""
    song = synth_song(seed=0, number=1, seconds=2.5)
    references = np.stack([song["bass"], song["other"]]).astype(np.float64)
    estimates = baselines.irm1(references.sum(axis=0), references)
    ours = bss_eval(references, estimates, 44100, 44100)
    assert ours.sdr.shape == (2, 2) and not ours.ill_conditioned
    agree(ours, referee(references, estimates, 44100, 44100))


def test_audio_that_a_codec_has_band_limited_is_named():
    """As decoded, with float noise above 16 kHz: there is nothing to determine the filters by."""
    decoded = excerpt([1, 2, 3, 4], seconds=1.5).astype(np.float64)
    estimates = baselines.irm1(decoded.sum(axis=0), decoded)
    assert bss_eval(decoded, estimates, 22_050, 22_050).ill_conditioned
    assert not bss_eval(quantised(decoded), estimates, 22_050, 22_050).ill_conditioned
