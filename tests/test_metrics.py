"""Scores against museval, and against numbers worked out by hand."""

import importlib.util
import json
import types
from pathlib import Path

import av
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate, museval, sdr
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
    references = noise(2, 12500, 2)
    references[0, 2000:4000] = 0  # all of the second frame
    references[1, 4000:5999] = 0  # all but a sample of the third
    estimates = estimates_of(references)
    estimates[1, 6000:8000] = 0
    estimates[0, 8000:10000, 1] = -estimates[0, 8000:10000, 0]  # museval sums the channels, and so calls this silent
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


@pytest.mark.parametrize("score", [sdr.whole_track_sdr, sdr.si_sdr, lambda r, e: sdr.framewise_sdr(r, e, RATE)])
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


def song_of(stems, name="A song"):
    return Song(name, RATE, stems.sum(axis=0), stems)


FOUR = ("vocals", "drums", "bass", "other")


@needs_museval
@pytest.mark.parametrize(
    "sources",
    [
        {"vocals": ("vocals",), "accompaniment": ("drums", "bass")},
        {**{name: (name,) for name in FOUR[:3]}, "accompaniment": ("drums", "bass")},
    ],
    ids=["two", "four"],
)
def test_a_song_is_scored_as_musevals_eval_mus_track_does(sources):
    """Values, who is scored with whom, rounding and the names of the JSON's keys."""
    import museval as package

    stems = noise(3, 6500, 1)
    stems[2, 2000:4000] = 0  # only the bass pauses, so vocals with accompaniment score in this second
    task = Task(sources, FOUR[:3], channels=1)
    references = task.combine(stems)
    estimates = dict(zip(sources, estimates_of(references), strict=True))
    record = json.loads(json.dumps(score_song(task, song_of(stems), np.stack([estimates[name] for name in sources]))))
    targets = {name: types.SimpleNamespace(audio=wave) for name, wave in zip(sources, references, strict=True)}
    track = types.SimpleNamespace(name="A song", rate=RATE, targets=targets, subset="test")
    theirs = package.eval_mus_track(track, estimates)
    package.TrackStore("A song").validate()
    expected = json.loads(theirs.json)
    assert record["museval_version"] == expected["museval_version"]
    assert sorted(sources) == sorted(target["name"] for target in record["targets"])
    for target in expected["targets"]:
        mine = next(found for found in record["targets"] if found["name"] == target["name"])
        assert len(mine["frames"]) == len(target["frames"]) == 3
        for ours, reference in zip(mine["frames"], target["frames"], strict=True):
            assert ours["metrics"].keys() == reference["metrics"].keys()
            np.testing.assert_equal(ours, reference)
    for source in sources:
        with_bass = source in ("drums", "bass")
        pauses = np.isnan(aggregate.frames_of(record, source, "SDR")).tolist()
        assert pauses == [False, with_bass, False]


@needs_museval
def test_median_of_medians_equals_musevals():
    import museval as package

    task = Task({"vocals": ("vocals",), "other": ("other",)}, ("vocals", "other"), channels=1)
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


def test_a_song_with_a_silent_stem_is_named_and_its_other_stems_scored():
    stems = noise(2, 4000, 1)
    stems[1] = 0
    task = Task({"vocals": ("vocals",), "bass": ("bass",)}, ("vocals", "bass"), channels=1)
    if reason is not None:
        task = Task(task.sources, task.stems, channels=1, backend="sdr")
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
    assert set(summary["protocols"]) == {"sdr_median_of_medians", "sdr_mean_of_medians", "sdr_whole_track", "si_sdr"}
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
    assert len({len(line) for line in lines[:6]}) == 1
    for row in ("untouched mixture", "scaled mixture", "IRM1 (oracle)"):
        assert any(line.startswith(f"| {row}") for line in lines)
    for text in ("2 of 3 tracks", "ISR, SIR, SAR: no ffmpeg", "song 2: no bass", "| SI-SDR |", "MDX 2021"):
        assert text in table
