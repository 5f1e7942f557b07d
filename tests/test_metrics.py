"""Scores against museval, and against numbers worked out by hand."""

import importlib.util
import json
import types
from pathlib import Path

import av
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate, museval, sdr, spectral, statistics
from jaxsep.metrics.record import score_waves
from jaxsep.metrics.song import Song, Task, score_song

reason = museval.unavailable()
needs_museval = pytest.mark.skipif(reason is not None, reason=f"museval: {reason}")
RATE = 2000


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def estimates_of(references, seed=9):
    """Each with some of the other sources and some noise."""
    return references + 0.2 * references[::-1] + 0.1 * noise(*references.shape, seed=seed)


def excerpt(streams, seconds):
    """Streams of the real excerpt in stempeg's package: 1 drums, 2 bass, 3 other, 4 vocals."""
    spec = importlib.util.find_spec("stempeg")
    if spec is None or spec.origin is None:
        pytest.skip("stempeg is not installed")
    waves = []
    for stream in streams:
        with av.open(str(Path(spec.origin).parent / "data" / "The Easton Ellises - Falcon 69.stem.mp4")) as file:
            parts = [frame.to_ndarray() for frame in file.decode(audio=stream)]
        waves.append(np.concatenate(parts, axis=1).T[: int(seconds * 44100)])
    return np.stack(waves)


def with_silences(references, separate):
    """Two stereo sources and their estimates; of frames of 2,000 samples the second, fourth and fifth are silent."""
    references[0, 2000:4000] = 0
    references[1, 4000:5999] = 0  # all but a sample of the third
    estimates = separate(references)
    estimates[1, 6000:8000] = 0
    estimates[0, 8000:10000, 1] = -estimates[0, 8000:10000, 0]  # museval sums the channels, and so calls this silent
    return references, estimates


def close(ours, theirs):
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


@needs_museval
@pytest.mark.parametrize(
    ("sources", "length", "channels", "dtype"),
    [
        (2, 7000, 1, np.float64),
        (2, 6000, 2, np.float32),
        (3, 5999, 1, np.float32),
        (2, 2000, 2, np.float64),
        (2, 2001, 1, np.float32),
        (2, 1500, 2, np.float64),
    ],
)
def test_framewise_sdr_equals_musevals(sources, length, channels, dtype):
    references = noise(sources, length, channels).astype(dtype)
    estimates = estimates_of(references).astype(dtype)
    close(sdr.framewise_sdr(references, estimates, RATE), museval.bss_eval(references, estimates, RATE)["SDR"])


@needs_museval
def test_framewise_sdr_of_silences_equals_musevals():
    references, estimates = with_silences(noise(2, 12500, 2), estimates_of)
    ours = sdr.framewise_sdr(references, estimates, RATE)
    close(ours, museval.bss_eval(references, estimates, RATE)["SDR"])
    np.testing.assert_array_equal(np.isnan(ours), [[False, True, False, True, True, False]] * 2)


@needs_museval
def test_framewise_sdr_of_real_audio_equals_musevals():
    references = excerpt([4, 1], seconds=3.5)
    estimates = np.clip(estimates_of(references) * 0.9, -1, 1).astype(np.float32)
    ours = sdr.framewise_sdr(references, estimates, 44100)
    assert ours.shape == (2, 3)
    close(ours, museval.bss_eval(references, estimates, 44100)["SDR"])


def test_framewise_sdr_by_hand():
    reference = np.ones((1, 5, 2))
    estimate = np.stack([np.full((5, 2), 0.9)])
    estimate[0, 2:4] = 0.5
    np.testing.assert_allclose(sdr.framewise_sdr(reference, estimate, 2), [[20.0, 20 * np.log10(2)]])
    assert np.isposinf(sdr.framewise_sdr(reference, reference, 2)).all()


def test_a_source_silent_throughout_does_not_silence_the_others():
    references = np.stack([noise(6000, 1), np.zeros((6000, 1))])
    estimates = references + 0.1 * noise(2, 6000, 1, seed=1)
    alone = sdr.framewise_sdr(references[:1], estimates[:1], RATE)
    together = sdr.framewise_sdr(references, estimates, RATE)
    np.testing.assert_array_equal(together, np.concatenate([alone, np.full((1, 3), np.nan)]))
    silence = sdr.framewise_sdr(references[:1], np.zeros((1, 6000, 1)), RATE)
    np.testing.assert_array_equal(silence, np.zeros((1, 3)))


@needs_museval
def test_museval_refuses_what_is_silent_throughout():
    references = np.stack([noise(3000, 1), np.zeros((3000, 1))])
    with pytest.raises(ValueError, match="non-silent"):
        import museval as package

        package.evaluate(references, references, win=RATE, hop=RATE)
    assert museval.bss_eval(references, references, RATE) is None
    assert museval.bss_eval(references[:1], references[1:], RATE) is None


def test_whole_track_sdr_by_hand():
    reference = np.array([[[3.0, 4.0], [0.0, 0.0]]])
    np.testing.assert_allclose(sdr.whole_track_sdr(reference, reference * 0.9), [10 * np.log10(25 / 0.25)], atol=1e-4)
    silence = np.zeros((1, 2, 2))
    np.testing.assert_allclose(sdr.whole_track_sdr(silence, silence), [0.0])
    np.testing.assert_allclose(sdr.whole_track_sdr(silence, reference), [10 * np.log10(1e-7 / 25)], atol=1e-6)
    np.testing.assert_allclose(sdr.whole_track_sdr(reference, reference), [10 * np.log10(25 / 1e-7)], atol=1e-6)


def test_si_sdr_by_hand():
    reference = np.array([[[1.0, 1.0], [1.0, 1.0]]])
    orthogonal = np.array([[[1.0, -1.0], [-1.0, 1.0]]])
    estimate = 3 * (reference + 0.1 * orthogonal)
    np.testing.assert_allclose(sdr.si_sdr(reference, estimate), [20.0])
    # The mean counts: without it, this estimate's error would be zero.
    np.testing.assert_allclose(sdr.si_sdr(orthogonal, orthogonal + reference), [0.0], atol=1e-12)
    # The channels share one factor: a channel that is twice as loud is an error.
    panned = reference * [1.0, 2.0]
    np.testing.assert_allclose(sdr.si_sdr(reference, panned), [10 * np.log10(9)])
    assert np.isnan(sdr.si_sdr(np.zeros((1, 2, 2)), reference)).all()
    assert np.isnan(sdr.si_sdr(reference, np.zeros((1, 2, 2)))).all()


def test_si_sar_by_hand():
    one, two, artifact = np.array([[[1.0, 1, 1, 1]], [[1.0, -1, 1, -1]], [[1.0, 1, -1, -1]]]).transpose(0, 2, 1)
    references, estimates = np.stack([one, two]), np.stack([2 * one + two + 0.1 * artifact, 0.5 * two + 0.1 * artifact])
    np.testing.assert_allclose(sdr.si_sar(references, estimates), [10 * np.log10(4 / 0.01), 10 * np.log10(0.25 / 0.01)])
    np.testing.assert_allclose(sdr.si_sdr(references, estimates), [10 * np.log10(4 / 1.01), 10 * np.log10(0.25 / 0.01)])
    silent = np.stack([one, 0 * two])
    np.testing.assert_allclose(sdr.si_sar(silent, estimates)[0], 10 * np.log10(4 / 1.01))
    assert np.isnan(sdr.si_sar(silent, estimates)[1]) and np.isnan(sdr.si_sar(references, silent)[1])


def test_si_sar_adds_up_with_si_sdr_and_si_sir():
    """Le Roux et al.: 1 / SI-SDR = 1 / SI-SIR + 1 / SI-SAR, whatever the references have in common."""
    references = noise(3, 500, 2)
    references[2] += 0.5 * references[0]
    estimates = estimates_of(references)
    flat, ratio = references.reshape(3, -1), lambda x: 10 ** (x / 10)
    for own, estimate, si_sdr, si_sar in zip(
        flat,
        estimates.reshape(3, -1),
        sdr.si_sdr(references, estimates),
        sdr.si_sar(references, estimates),
        strict=True,
    ):
        target = own * (own @ estimate) / (own @ own)
        explained = flat.T @ np.linalg.lstsq(flat.T, estimate - target, rcond=None)[0]
        si_sir = 10 * np.log10((target @ target) / (explained @ explained))
        assert 1 / ratio(si_sdr) == pytest.approx(1 / ratio(si_sir) + 1 / ratio(si_sar), rel=1e-9)


class Pieces:
    """Waves of which only pieces can be read, and not too long ones."""

    def __init__(self, waves, longest):
        self.waves, self.longest, self.shape = waves, longest, waves.shape

    def __getitem__(self, piece):
        if isinstance(piece, list):
            return Pieces(self.waves[piece], self.longest)
        everything, part = piece
        assert everything == slice(None) and part.stop - part.start <= self.longest
        return self.waves[:, part]


def test_pieces_score_as_the_whole_does(monkeypatch):
    references = noise(2, 11_500, 2)
    references[1, 2000:4000] = 0
    references[0, :11_400] = 0  # audible in the incomplete last second only: silent in all frames, yet not throughout
    estimates = estimates_of(references)
    scores = [sdr.whole_track_sdr, sdr.si_sdr, sdr.si_sar, lambda r, e: sdr.framewise_sdr(r, e, RATE)]
    scores += [spectral.log_spectral_distance, lambda r, e: np.array(sdr.silent_throughout(r))]
    whole = [score(references, estimates) for score in scores]
    assert np.isnan(whole[3]).all() and not whole[5].any()
    monkeypatch.setattr(sdr, "BLOCK", 4500)
    monkeypatch.setattr(spectral, "BATCH", 3)
    for score, expected in zip(scores, whole, strict=True):
        found = score(Pieces(references, 4500), Pieces(estimates, 4500))
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_log_spectral_distance_by_hand():
    wave = noise(1, 5000, 2)
    np.testing.assert_allclose(spectral.log_spectral_distance(wave, 0.5 * wave), 20 * np.log10(2))
    np.testing.assert_array_equal(spectral.log_spectral_distance(wave, wave), 0)
    # An impulse in the middle of the only frame has a flat spectrum, of which a sine of amplitude 1 has 512 times more.
    click, silence = np.zeros((1, 2048, 1)), np.zeros((1, 2048, 1))
    click[0, 1024] = 1
    flat = -20 * np.log10(512)
    np.testing.assert_allclose(spectral.log_spectral_distance(click, silence), flat - spectral.FLOOR)
    np.testing.assert_array_equal(spectral.log_spectral_distance(silence, silence), 0)
    # Half of the way to the window's end it is half as loud; a full-scale sine is 0 dB.
    np.testing.assert_allclose(spectral.log_spectral_distance(click, np.roll(click, 512, axis=1)), 20 * np.log10(2))
    sine = np.sin(np.pi / 2 * np.arange(2048))[:, None]
    assert spectral._levels(sine)[0, 0, 512] == pytest.approx(0, abs=1e-9)
    short = np.full((1, 100, 1), 0.1)
    padded = np.pad(short, ((0, 0), (0, 1948), (0, 0)))
    expected = spectral.log_spectral_distance(padded, 0 * padded)
    np.testing.assert_array_equal(spectral.log_spectral_distance(short, 0 * short), expected)


def test_log_spectral_distance_equals_scipys_spectrogram():
    from scipy.signal import stft

    references = noise(2, 9000, 2) * np.linspace(0, 1, 9000)[:, None]  # frames differ
    estimates = estimates_of(references)

    def levels(waves):
        found = stft(waves, nperseg=2048, noverlap=1024, boundary=None, padded=False, axis=1)[2]
        return np.maximum(20 * np.log10(2 * np.abs(found)), -100)  # [s f c n]

    expected = np.sqrt(np.square(levels(references) - levels(estimates)).mean(axis=1)).mean(axis=(1, 2))
    np.testing.assert_allclose(spectral.log_spectral_distance(references, estimates), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "score",
    [
        sdr.whole_track_sdr,
        sdr.si_sdr,
        sdr.si_sar,
        spectral.log_spectral_distance,
        lambda r, e: sdr.framewise_sdr(r, e, RATE),
    ],
)
def test_shapes_must_agree(score):
    with pytest.raises((ValueError, TypeError)):  # TypeError from the annotations, where they are executed
        score(noise(2, 100, 1), noise(2, 99, 1))


def test_sums_keep_their_precision_over_a_long_track():
    """Sums of ten million float32 squares: naive float32 would be off by a tenth of a decibel."""
    reference = np.full((1, 5_000_000, 2), 0.1, np.float32)
    estimate = np.full((1, 5_000_000, 2), 0.09, np.float32)
    expected = 20 * np.log10(float(reference[0, 0, 0]) / (float(reference[0, 0, 0]) - float(estimate[0, 0, 0])))
    np.testing.assert_allclose(sdr.whole_track_sdr(reference, estimate), expected, atol=1e-6)
    np.testing.assert_allclose(sdr.framewise_sdr(reference, estimate, 44100), np.full((1, 113), expected), atol=1e-9)


def test_aggregates_by_hand():
    nan, inf = float("nan"), float("inf")
    tracks = [[1.0, 2.0, 9.0, nan], [4.0, inf, 6.0], [nan, nan], [20.0]]
    assert aggregate.over_tracks(tracks, "median", "median") == 5.0
    assert aggregate.over_tracks(tracks, "median", "mean") == 9.0
    assert aggregate.over_tracks(tracks, "mean", "median") == 5.0
    assert aggregate.over_tracks(tracks, "mean", "mean") == pytest.approx(29 / 3)
    assert np.isnan(aggregate.over([nan, inf], "mean"))


def test_pooled_frames_by_hand():
    tracks = [[1.0, 2.0, 9.0, float("nan")], [4.0, float("inf"), 6.0], [20.0]]
    assert aggregate.over_tracks(tracks, "pooled", "median") == 5.0
    assert aggregate.over_tracks(tracks, "pooled", "mean") == 7.0
    assert np.isnan(aggregate.over_tracks([], "pooled", "mean"))


def test_bootstrap_equals_scipys():
    from scipy.stats import bootstrap

    values = noise(40, 1)[:, 0] ** 3
    for how in (np.median, np.mean):
        ours = statistics.bootstrap(values[:, None], lambda tracks, how=how: how(tracks, axis=-2))[:, 0]
        theirs = bootstrap((values,), how, method="percentile", n_resamples=20_000, rng=1).confidence_interval
        np.testing.assert_allclose(ours, theirs, atol=0.06)  # 90 % would be 0.1 narrower
        again = statistics.bootstrap(values[:, None], lambda tracks, how=how: how(tracks, axis=-2))[:, 0]
        np.testing.assert_array_equal(ours, again)


def test_bootstrap_draws_whole_tracks():
    tracks = noise(10, 1) + np.array([0.0, 3.0])
    difference = lambda values: np.diff(values.mean(axis=-2), axis=-1)
    np.testing.assert_allclose(statistics.bootstrap(tracks, difference), 3.0)
    assert np.isnan(statistics.bootstrap(tracks[:1], difference)).all()


def test_paired_comparison_by_hand():
    first = np.array([1.0, 2, 3, 4, 5, np.nan, 9])
    found = statistics.compare(first, first + np.array([0.1, 0.2, 0.3, 0.4, 0.5, 1.0, np.inf]))
    assert (found.tracks, found.median) == (5, pytest.approx(0.3))
    assert found.p == pytest.approx(2 / 2**5)  # all signs alike: one of 32 assignments, on both sides
    assert 0.09 < found.low < found.median < found.high < 0.51
    assert statistics.compare(first, first).p == 1
    assert statistics.compare(first[5:6], first[5:6]).tracks == 0


def test_every_protocol_by_hand():
    """Two tracks of one source: frames 1, 2, 6 and 4, 8 (and pauses), of the whole track 5 and 7."""
    nan = float("nan")
    records = [
        {
            "targets": [{"name": "vocals", "frames": [{"metrics": {"SDR": value}} for value in frames]}],
            "jaxsep": {"track": name, "silent": {}, "sdr_whole_track": {"vocals": whole}},
        }
        for name, frames, whole in (("a", [1.0, 2.0, 6.0, nan], 5.0), ("b", [4.0, nan, 8.0], 7.0))
    ]
    summary = aggregate.summarise(records, ["vocals"])
    assert {key: row["vocals"] for key, row in summary["scores"].items()} == {
        "sdr_median_of_medians": 4.0,
        "sdr_mean_of_medians": 4.0,
        "sdr_whole_track": 6.0,
        "sdr_median_of_means": 4.5,
        "sdr_mean_of_means": 4.5,
        "sdr_pooled_median": 4.0,
        "sdr_pooled_mean": pytest.approx(4.2),
    }
    assert summary["intervals"]["sdr_whole_track"] == {"vocals": [5.0, 7.0], "average": [5.0, 7.0]}
    assert set(summary["scores"]) - set(summary["intervals"]) == {"sdr_pooled_median", "sdr_pooled_mean"}
    assert summary["frames"] == {"vocals": {"all": 7, "nan": 2}}
    assert set(aggregate.PROTOCOLS) >= set(summary["scores"]) and len(set(aggregate.PROTOCOLS.values())) == len(
        aggregate.PROTOCOLS
    )


def song_of(stems, name="A song"):
    return Song(name, RATE, stems.sum(axis=0), stems)


HOW = (*(f"{a}_of_{b}s" for a in ("median", "mean") for b in ("median", "mean")), "pooled_median", "pooled_mean")
FOUR = ("vocals", "drums", "bass", "other")


@needs_museval
@pytest.mark.parametrize("backend", ["museval", "bsseval"])
@pytest.mark.parametrize(
    "sources",
    [
        {"vocals": ("vocals",), "accompaniment": ("drums", "bass")},
        {**{name: (name,) for name in FOUR[:3]}, "accompaniment": ("drums", "bass")},
    ],
    ids=["two", "four"],
)
def test_a_song_is_scored_as_musevals_eval_mus_track_does(sources, backend):
    """Values, who is scored with whom, rounding and the names of the JSON's keys."""
    import museval as package

    stems = noise(3, 6500, 1)
    stems[2, 2000:4000] = 0  # only the bass pauses, so vocals with accompaniment score in this second
    task = Task(sources, FOUR[:3], channels=1, backend=backend)
    references = task.combine(stems)
    estimates = dict(zip(sources, estimates_of(references), strict=True))
    record = json.loads(json.dumps(score_song(task, song_of(stems), np.stack([estimates[name] for name in sources]))))
    targets = {name: types.SimpleNamespace(audio=wave) for name, wave in zip(sources, references, strict=True)}
    track = types.SimpleNamespace(name="A song", rate=RATE, targets=targets, subset="test")
    theirs = package.eval_mus_track(track, estimates)
    package.TrackStore("A song").validate()
    expected = json.loads(theirs.json)
    assert record.get("museval_version") == (expected["museval_version"] if backend == "museval" else None)
    assert record["jaxsep"]["backend"] == backend
    assert sorted(sources) == sorted(target["name"] for target in record["targets"])
    for target in expected["targets"]:
        mine = next(found for found in record["targets"] if found["name"] == target["name"])
        assert len(mine["frames"]) == len(target["frames"]) == 3
        for ours, reference in zip(mine["frames"], target["frames"], strict=True):
            assert ours["metrics"].keys() == reference["metrics"].keys()
            assert [ours[key] for key in ("time", "duration")] == [reference[key] for key in ("time", "duration")]
            theirs = pytest.approx(reference["metrics"], abs=0 if backend == "museval" else 2e-5, nan_ok=True)
            assert ours["metrics"] == theirs
    for source in sources:
        with_bass = source in ("drums", "bass")
        pauses = np.isnan(aggregate.frames_of(record, source, "SDR")).tolist()
        assert pauses == [False, with_bass, False]


@needs_museval
def test_median_of_medians_equals_musevals():
    import museval as package

    task = Task({"vocals": ("vocals",), "other": ("other",)}, ("vocals", "other"), channels=1, backend="museval")
    records, store = [], package.EvalStore()
    for seed, length in enumerate((4100, 6100, 10_100)):
        stems = noise(2, length, 1, seed=seed) * [[[1.0]], [[0.5 + seed]]]
        record = score_song(task, song_of(stems), estimates_of(stems, seed=seed + 50))
        records.append(record)
        store.add_track(package.aggregate.json2df(record, str(seed)))
    theirs = store.agg_frames_tracks_scores()
    summary = aggregate.summarise(records, ["vocals", "other"])
    for metric in museval.METRICS:
        ours = summary["scores"][f"{metric.lower()}_median_of_medians"]
        assert ours["vocals"] == pytest.approx(theirs["vocals"][metric], abs=1e-12)
        assert ours["average"] == pytest.approx((ours["vocals"] + ours["other"]) / 2)


def test_a_single_source_is_scored_beside_the_rest():
    stems = noise(4, 4000, 2)
    stems[1:, :2000] = 0  # the rest pauses, so this second does not count
    task = Task({"vocals": ("vocals",)}, FOUR, backend="sdr")
    song = song_of(stems)
    estimate = stems[0] + 0.1 * noise(4000, 2, seed=3)
    gathered = task.gather(song, {"vocals": estimate})
    np.testing.assert_allclose(gathered[1], song.mixture - estimate)
    np.testing.assert_allclose(task.combine(stems)[1], stems[1:].sum(axis=0))
    record = score_song(task, song, gathered)
    assert [target["name"] for target in record["targets"]] == ["vocals"]
    frames = aggregate.frames_of(record, "vocals", "SDR")
    assert np.isnan(frames[0]) and frames[1] == pytest.approx(20, abs=0.5)
    with pytest.raises(JaxsepError, match="nothing to score"):
        Task({"vocals": ("vocals",)}, ("vocals",))


def test_vocals_are_reported_by_both_masks():
    """The drums pause for a second, the accompaniment does not: vocals score there beside it, not beside the stems."""
    stems = noise(3, 6000, 1)
    stems[1, 2000:4000] = 0
    references = np.stack([*stems, stems[1] + stems[2]])
    estimates = estimates_of(references)
    record = score_waves("A song", ["vocals", "drums", "bass", "accompaniment"], references, estimates, RATE, "sdr")
    two, four = (sdr.framewise_sdr(references[r], estimates[r], RATE)[0] for r in ([0, 3], [0, 1, 2]))
    assert np.isnan(two).tolist() == [False] * 3 and np.isnan(four).tolist() == [False, True, False]
    np.testing.assert_allclose(aggregate.frames_of(record, "vocals", "SDR"), two, atol=1e-5)
    record = json.loads(json.dumps(record))
    sources = [target["name"] for target in record["targets"]]
    summary = aggregate.summarise([record], sources)
    assert summary["scores"]["sdr_median_of_medians"]["vocals"] == pytest.approx(np.median(two), abs=1e-5)
    among = summary["scores"]["sdr_median_of_medians_among_stems"]
    assert among["vocals"] == pytest.approx(np.nanmedian(four), abs=1e-5)
    assert among["drums"] == summary["scores"]["sdr_median_of_medians"]["drums"] and np.isnan(among["accompaniment"])
    assert among["average"] == pytest.approx(np.mean([among[name] for name in FOUR[:3]]))
    assert summary["frames"]["vocals"] == {"all": 3, "nan": 0, "nan_among_stems": 1}
    with_pair = score_waves("A song", ["vocals", "accompaniment"], references[[0, 3]], estimates[[0, 3]], RATE, "sdr")
    assert not [key for key in aggregate.summarise([with_pair], sources[::3])["scores"] if "among" in key]


def test_ill_conditioned_calls_are_named():
    """A band that the references do not have determines no filter there."""
    spectrum = np.fft.rfft(noise(2, 6000, 1), axis=1)
    spectrum[:, 1500:] = 0
    stems = np.fft.irfft(spectrum, axis=1)
    task = Task({"vocals": ("vocals",), "bass": ("bass",)}, ("vocals", "bass"), channels=1)
    record = score_song(task, song_of(stems), estimates_of(stems))
    assert record["jaxsep"]["ill_conditioned"] == [["vocals", "bass"]]
    assert score_song(task, song_of(noise(2, 6000, 1)), stems)["jaxsep"]["ill_conditioned"] == []
    summary = aggregate.summarise([record], ["vocals", "bass"]) | {"system": "x", "references": "songs", "missing": {}}
    summary |= {"tracks": ["A song"], "tracks_in_split": 1, "scored_together": [["vocals", "bass"]], "failed": {}}
    assert "ISR, SIR, SAR of vocals, bass are rounding noise in A song" in aggregate.table(summary)


def test_a_song_with_a_silent_stem_is_named_and_its_other_stems_scored():
    stems = noise(2, 4000, 1)
    stems[1] = 0
    task = Task({"vocals": ("vocals",), "bass": ("bass",)}, ("vocals", "bass"), channels=1)
    record = score_song(task, song_of(stems), stems + 0.1 * noise(2, 4000, 1, seed=1))
    assert record["jaxsep"]["silent"] == {"references": ["bass"]}
    assert aggregate.frames_of(record, "vocals", "SDR") == pytest.approx([20, 20], abs=0.5)
    for source, metric in (("vocals", "SIR"), ("bass", "SDR"), ("bass", "SAR")):
        assert np.isnan(aggregate.frames_of(record, source, metric)).all()
    assert aggregate.summarise([record], ["vocals", "bass"])["silent"] == {"A song": {"references": ["bass"]}}


def test_summary_and_table_name_every_column():
    task = Task({name: (name,) for name in FOUR}, FOUR, channels=1, backend="sdr")
    records = []
    for seed in range(2):
        stems = noise(4, 4000, 1, seed=seed)
        records.append(score_song(task, song_of(stems, f"song {seed}"), 0.9 * stems))
    summary = aggregate.summarise(records, list(task.sources))
    framewise = {f"sdr_{how}" for how in HOW}
    assert set(summary["protocols"]) == framewise | {"sdr_whole_track", "si_sdr", "si_sar", "lsd"}
    for key in ("sdr_median_of_medians", "sdr_mean_of_medians", "sdr_whole_track"):
        assert summary["scores"][key] == pytest.approx({**dict.fromkeys(FOUR, 20.0), "average": 20.0}, abs=1e-3)
    summary |= {
        "system": "spleeter:demo",
        "checkpoint": {"step": 600},
        "data": {"root": "songs", "split": "test"},
        "tracks": ["song 0", "song 1"],
        "tracks_in_split": 3,
        "mixture": "sum",
        "rate": 44100,
        "scored_together": [list(FOUR)],
        "missing": {"ISR, SIR, SAR": "no ffmpeg"},
        "failed": {"song 2": "no bass"},
    }
    table = aggregate.table(summary)
    lines = table.splitlines()
    assert lines[0].split("|")[1].strip() == "SDR (median), dB"
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["**spleeter:demo, step 600**", *["20.00"] * 5]
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["95 % interval", *["20.00 to 20.00"] * 5]
    assert len({len(line) for line in lines[:7]}) == 1
    for row in ("untouched mixture", "scaled mixture", "IRM1 (oracle)"):
        assert any(line.startswith(f"| {row}") for line in lines)
    for text in ("2 of 3 tracks", "ISR, SIR, SAR: no ffmpeg", "song 2: no bass", "| SI-SDR ", "MDX 2021"):
        assert text in table
    assert "sdr_pooled_median" in summary["scores"] and "pooled median" not in table  # in the file only
