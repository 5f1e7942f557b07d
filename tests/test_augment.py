"""What augmentations mean: in pitch, time, space and spectrum, eagerly and in a tf.data map."""

import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from ml_collections import ConfigDict
from scipy import stats

from jaxsep.config import defaults
from jaxsep.data import augment, presets, vocoder, warps
from jaxsep.data.augment import tf
from jaxsep.data.changes import Changer
from jaxsep.data.pipeline import Crops, _read_padded, batches
from jaxsep.data.plan import Planner
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError

RATE, SECONDS = 22050, 1.5
SEGMENT = int(RATE * SECONDS)
FIRST = 3000  # the sample at which results begin
STEMS = ("vocals", "drums", "bass")
SINGLE = {stem: (stem,) for stem in STEMS}
SEMITONE = 2 ** (1 / 12)
# pitch, tempo: Demucs' extremes, both at once, and Pretet's
FACTORS = [
    (SEMITONE**2, 1.0),
    (SEMITONE**-2, 1.0),
    (SEMITONE, 1.12),
    (SEMITONE**-1, 0.88),
    (1.0, 0.88),
    (1.3, 1.0),
    (0.7, 1.0),
]

COMPILED = tf.function(vocoder.warp, reduce_retracing=True)


def eager(function, *arrays):
    return function(*(tf.constant(array) for array in arrays)).numpy()


def mapped(function, *arrays):
    """In the graph of a data set that runs on several threads."""
    data = tf.data.Dataset.from_tensors(tuple(arrays)).repeat(3).map(function, num_parallel_calls=2)
    first, *others = data.as_numpy_iterator()
    for other in others:
        np.testing.assert_array_equal(other, first)
    return first


def wave(length: float = 4.0) -> np.ndarray:
    """Seconds, from the first sample of the result on."""
    return (np.arange(int(RATE * length) + FIRST) - FIRST) / RATE


def warped(samples: np.ndarray, pitch: float, tempo: float, run=None, rate=RATE) -> tuple[np.ndarray, warps.Warp]:
    change = warps.nearest(pitch, tempo, rate)
    assert change.before <= FIRST
    given = samples[: FIRST + change.after(SEGMENT)].astype(np.float32)
    assert len(given) == FIRST + change.after(SEGMENT)  # the wave is long enough
    arguments = given, np.array(change, np.int32)
    if run is None:
        return COMPILED(*arguments, FIRST, SEGMENT).numpy(), change
    return run(lambda samples, change: vocoder.warp(samples, change, FIRST, SEGMENT), *arguments), change


def frequency(samples: np.ndarray, near: float) -> tuple[float, np.ndarray]:
    """Of a sine close to `near` Hz: its frequency by the slope of its phase, and its amplitude over time."""
    seconds = np.arange(len(samples)) / RATE
    size = RATE // 10
    turned = samples * np.exp(-2j * np.pi * near * seconds)
    starts = np.arange(0, len(samples) - size, RATE // 50)
    window = np.hanning(size)
    values = np.array([2 * (turned[start : start + size] * window).sum() / window.sum() for start in starts])
    slope = np.polyfit(starts / RATE, np.unwrap(np.angle(values)), 1)[0]
    return near + slope / (2 * np.pi), np.abs(values)


# Pitch and tempo


@pytest.mark.parametrize("rate", [44100, 22050, 16000])
def test_a_warp_is_near_what_is_wanted_and_reads_no_more_than_it_says(rate):
    for semitones in range(-12, 13):
        change = warps.nearest(SEMITONE**semitones, 1.0, rate)
        assert change.tempo == 1
        assert abs(1200 * np.log2(change.pitch) - 100 * semitones) < (0.4 if rate == 44100 else 2.5)
    rng = np.random.default_rng(0)
    pitch, tempo = (0.7, 1.3), (0.77, 1.43)
    before, after = warps.margins(pitch, tempo, rate, 5000)
    for one, other in zip(rng.uniform(*pitch, 200), rng.uniform(*tempo, 200), strict=True):
        change = warps.nearest(one, other, rate)
        assert change.frame % 2 == change.hop % 2 == change.out % 4 == 0
        assert abs(1200 * np.log2(change.pitch / one)) < 3 * 44100 / rate
        assert abs(change.tempo / other - 1) < 1.5e-3 * 44100 / rate
        assert change.before <= before and change.after(5000) <= after
    assert before < 0.1 * rate and after < 5000 * tempo[1] + 0.2 * rate


@pytest.mark.parametrize("run", [eager, mapped])
@pytest.mark.parametrize("hertz", [110.0, 440.0, 3000.0])
def test_a_sine_moves_by_its_factor_within_three_cents_and_keeps_its_length(run, hertz):
    sine = 0.5 * np.sin(2 * np.pi * hertz * wave())[:, None] * [1.0, 0.4]
    for pitch, tempo in FACTORS if hertz == 440 else FACTORS[:2]:
        made, _ = warped(sine, pitch, tempo, run)
        assert made.shape == (SEGMENT, 2)
        for channel, level in enumerate((0.5, 0.2)):
            found, amplitude = frequency(made[:, channel], hertz * pitch)
            assert abs(1200 * np.log2(found / (hertz * pitch))) < 3
            np.testing.assert_allclose(amplitude, level, rtol=0.01)  # from the first sample to the last


@pytest.mark.parametrize(("pitch", "tempo"), FACTORS)
def test_a_click_stays_where_it_was(pitch, tempo):
    """Within 5 ms, its energy and its peak; where the tempo changes, at the time that it has then."""
    for at in (0.4, 0.4131, 0.7077):
        clicks = np.zeros((len(wave()), 2))
        clicks[FIRST + round(at * RATE)] = 1
        made, change = warped(clicks, pitch, tempo)
        energy = (made.astype(np.float64) ** 2).sum(1)
        wanted = at / change.tempo
        assert abs(energy.argmax() / RATE - wanted) < 0.005
        assert abs((energy * np.arange(SEGMENT)).sum() / energy.sum() / RATE - wanted) < 0.005
        assert energy[(np.abs(np.arange(SEGMENT) / RATE - wanted) < 0.015)].sum() > 0.9 * energy.sum()


def test_the_stereo_image_is_kept():
    seconds, rng = wave(), np.random.default_rng(0)
    noise = rng.standard_normal((len(seconds), 1))
    made, _ = warped(noise * [1.0, -0.4], *FACTORS[0])
    np.testing.assert_allclose(made[:, 1], -0.4 * made[:, 0], atol=1e-5)
    assert made.std() > 0.3
    # Two notes, each from a place of its own, and one of them with its channels a quarter of a period apart.
    left = np.sin(2 * np.pi * 500 * seconds) + 0.2 * np.sin(2 * np.pi * 900 * seconds)
    right = np.cos(2 * np.pi * 500 * seconds) * 0.5 + np.sin(2 * np.pi * 900 * seconds)
    pair = np.stack([left, right], 1)
    made, change = warped(pair, *FACTORS[3])
    spectrum = np.fft.rfft(made * np.hanning(SEGMENT)[:, None], axis=0)
    for hertz, ratio in ((500, 0.5j), (900, 5.0)):
        peak = round(hertz * change.pitch * SECONDS)
        assert abs(spectrum[peak, 1] / spectrum[peak, 0] - ratio) < 0.02 * abs(ratio)
    exchanged, _ = warped(pair[:, ::-1], *FACTORS[3])
    np.testing.assert_allclose(exchanged, made[:, ::-1], atol=1e-5)


def test_stems_that_change_together_stay_aligned_to_the_sample():
    """Two stems with the same noise, each with a note of its own."""
    noise = np.random.default_rng(0).standard_normal((len(wave()), 1))
    for pitch, tempo in FACTORS[:4]:
        notes = [np.sin(2 * np.pi * hertz * wave())[:, None] for hertz in (300, 2100)]
        one, other = (warped(0.3 * noise + note, pitch, tempo)[0][:, 0] for note in notes)
        spectra = [np.fft.rfft(np.diff(samples, n=2), 2 * SEGMENT) for samples in (one, other)]
        correlation = np.fft.irfft(spectra[0] * spectra[1].conj())
        assert min(correlation.argmax(), 2 * SEGMENT - correlation.argmax()) <= 1
        assert correlation.max() > 0.5 * np.sqrt((np.diff(one, n=2) ** 2).sum() * (np.diff(other, n=2) ** 2).sum())


def test_no_change_changes_nothing_and_repitching_is_resampling():
    noise = np.random.default_rng(0).standard_normal((len(wave()), 2)).astype(np.float32)
    made, _ = warped(noise, 1.0, 1.0)
    np.testing.assert_allclose(made, noise[FIRST : FIRST + SEGMENT], atol=2e-6)
    for factor in (1.06, 0.9):
        change = warps.nearest(factor, factor, RATE)
        assert 4 * change.hop == change.frame
        band = soxr.resample(soxr.resample(noise, 2, 1), 1, 2)[: len(noise)]  # nothing near the new Nyquist frequency
        made, change = warped(band, factor, factor)
        wanted = soxr.resample(band[FIRST:], change.frame, change.out)
        error = made[500:-500] - wanted[500 : SEGMENT - 500]
        assert 10 * np.log10((wanted**2).mean() / (error**2).mean()) > 50
    with pytest.raises(tf.errors.InvalidArgumentError):  # a wave that is too short is not filled up
        COMPILED(tf.constant(noise[: FIRST + SEGMENT - 100]), tf.constant([1024, 1024, 256]), FIRST, SEGMENT)


# The filter


@pytest.mark.parametrize("run", [eager, mapped])
@pytest.mark.parametrize("band", [(1000.0, 500.0), (3000.0, 700.0), (4410.0, 1000.0)])
def test_the_filter_has_the_response_of_one_minus_a_gaussian(run, band):
    margin, size = 300, 4096
    impulse = np.zeros((size + 2 * margin, 2), np.float32)
    impulse[margin + 1500] = 1, -2
    filtered = run(lambda wave: augment.inverse_gaussian(wave, tf.constant(band), RATE, margin), impulse)
    assert filtered.shape == (size, 2)
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    shift = np.exp(2j * np.pi * hertz / RATE * 1500)
    response = np.fft.rfft(filtered[:, 0]) * shift
    np.testing.assert_allclose(response, 1 - np.exp(-((hertz - band[0]) ** 2) / (2 * band[1] ** 2)), atol=2e-3)
    np.testing.assert_allclose(filtered[:, 1], -2 * filtered[:, 0], atol=1e-6)


# What is drawn


def changer(stems=STEMS, seed=3, rate=44100, **values) -> Changer:
    return Changer(seed, defaults().data.augment.to_dict() | values, stems, rate)


def plans(count: int, remix="none", **values) -> tuple[list, list]:
    make = Planner(3, STEMS, np.array([500, 10_000, 7000]), remix)
    change = changer(**values)
    found = [make([number]) for number in range(count)]
    if change.clips > 1:
        seconds = dataclasses.replace(make, clip=1)
        pairs = [
            zip(dataclasses.astuple(p), dataclasses.astuple(seconds([n])), strict=True) for n, p in enumerate(found)
        ]
        found = [type(found[0])(*(np.concatenate(pair, 1) for pair in pairs_)) for pairs_ in pairs]
    return found, [change(number, plan) for number, plan in enumerate(found)]


def test_demucs_draws_whole_semitones_and_a_clipped_normal_tempo_for_a_fifth_of_the_songs():
    values = presets.PRESETS["demucs_v2"]["augment"]
    count = 800
    _, changes = plans(count, **values)
    warp = np.stack([change.warp for change in changes])
    assert (warp == warp[:, :1]).all()  # all stems alike
    changed = warp[warp[:, 0, 0] > 0, 0]
    assert abs(len(changed) / count - 0.2) < 4 * np.sqrt(0.16 / count)
    frame, out, hop = changed.T
    semitones = 12 * np.log2(frame / out)
    assert np.abs(semitones - semitones.round()).max() < 0.03
    assert stats.chisquare(np.unique(semitones.round(), return_counts=True)[1]).pvalue > 1e-4
    assert set(semitones.round()) == {-2, -1, 0, 1, 2}
    percent = 100 * (4 * hop / out - 1)
    assert percent.max() <= 12.1 and percent.min() >= -12.1
    assert stats.kstest(percent[np.abs(percent) < 11], stats.truncnorm(-2.2, 2.2, scale=5).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(percent, semitones)[0, 1]) < 4 / np.sqrt(len(changed))


def test_stems_have_draws_of_their_own_where_they_are_not_to_change_together():
    _, changes = plans(400, pitch=("uniform", -1, 1), odds=0.5, together=False)
    changed = np.stack([change.warp[:, 0] > 0 for change in changes])
    assert np.abs(np.corrcoef(changed.T) - np.eye(3)).max() < 4 / np.sqrt(len(changed))
    assert np.abs(changed.mean(0) - 0.5).max() < 4 * 0.5 / np.sqrt(len(changed))


def test_exchanged_stems_keep_the_change_of_their_song():
    """Demucs changes a song's pitch before its stems go to other examples of the group."""
    values = {"pitch": ("uniform", -2, 2), "odds": 0.5, "filter_odds": 0.5}
    _, own = plans(40, "none", **values)
    mixed, changes = plans(40, "group", **values)
    moved = 0
    for number, (plan, change) in enumerate(zip(mixed, changes, strict=True)):
        for stem, origin in enumerate(plan.origin[0]):
            np.testing.assert_array_equal(change.warp[stem], own[origin].warp[stem])
            np.testing.assert_array_equal(change.band[stem], own[origin].band[stem])
            moved += origin != number
    assert moved > 40


def test_levels_in_decibels_are_of_a_stem_or_of_all_and_clips_are_drawn_apart():
    found, changes = plans(500, gain_db=(-9.0, 9.0), loudness_db=(-10.0, -2.0), blend=0.3)
    decibels = 20 * np.log10(np.stack([change.factor for change in changes]))
    alone = 20 * np.log10(np.stack([change.factor for change in plans(500, loudness_db=(-10.0, -2.0))[1]]))
    assert (alone == alone[:, :1]).all()
    assert stats.kstest((alone[:, 0] + 10) / 8, "uniform").pvalue > 1e-4
    own = decibels - alone[:, :1]
    for column in own.T:
        assert stats.kstest((column + 9) / 18, "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(own.T) - np.eye(6)).max() < 4 / np.sqrt(500)
    heard = np.stack([change.heard for change in changes])
    assert heard[:, :3].all() and np.abs(heard[:, 3:].mean(0) - 0.3).max() < 4 * np.sqrt(0.21 / 500)
    places = np.concatenate([plan.start for plan in found])
    assert (places[:, :3] == places[:, :1]).all()
    assert np.abs(np.corrcoef(places[:, [0, 3, 4, 5]].T) - np.eye(4)).max() < 5 / np.sqrt(500)


def test_a_draw_is_of_seed_number_and_stem_alone():
    values = {"pitch": ("uniform", -2, 2), "gain_db": (-3.0, 3.0), "together": False}
    plan = Planner(3, STEMS, np.array([500]))([17])
    whole = changer(**values)(17, plan)
    alone = changer(stems=("bass",), **values)(17, Planner(3, ("bass",), np.array([500]))([17]))
    np.testing.assert_array_equal(alone.warp[0], whole.warp[2])
    assert alone.factor[0] == whole.factor[2]
    other = changer(seed=4, **values)(17, plan)
    assert (other.warp != whole.warp).any() and (other.factor != whole.factor).all()


# The stream

SONG_RATE, LENGTH, CROP = 8000, 12_000, 4000
EVERYTHING = {
    "pitch": ("whole", -2, 2),
    "tempo": ("normal", 5, 12),
    "odds": 0.6,
    "filter_odds": 0.4,
    "blend": 0.3,
    "gain_db": (-3.0, 3.0),
    "loudness_db": (-6.0, 0.0),
}


def hertz(song: int, stem: int) -> float:
    return 300.0 + 100 * (3 * song + stem)


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    """Each stem a note of its own, on the left louder than on the right, and a click in the middle."""
    root = tmp_path_factory.mktemp("notes")
    seconds = np.arange(LENGTH) / SONG_RATE
    for song, stem in itertools.product(range(4), range(3)):
        folder = root / "train" / f"Song {song}"
        folder.mkdir(parents=True, exist_ok=True)
        note = 0.25 * np.sin(2 * np.pi * hertz(song, stem) * seconds)
        note[LENGTH // 2] += 0.7
        soundfile.write(folder / f"{STEMS[stem]}.wav", note[:, None] * [1, 0.5], SONG_RATE, subtype="PCM_16")
    (root / "valid").mkdir()
    return root


def config(root: Path, augment=None, **data) -> ConfigDict:
    cfg = defaults()
    cfg.seed, cfg.sample_rate, cfg.data.root, cfg.data.stems = 7, SONG_RATE, str(root), ",".join(STEMS)
    cfg.data.update(segment=CROP, batch_size=4)
    cfg.data.update(data)
    cfg.data.augment.update(augment or {})
    return cfg


def stream(cfg: ConfigDict, **options):
    return batches(open_tracks(cfg.data, "train"), SINGLE, cfg, **{"first_step": 0, **options})


def take(cfg: ConfigDict, count: int, **options) -> list[dict[str, np.ndarray]]:
    made = stream(cfg, **options)
    found = [{key: np.array(value) for key, value in batch.items()} for batch in itertools.islice(made, count)]
    made.close()
    return found


def loudest(samples: np.ndarray) -> float:
    """The frequency of the highest peak, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 8 * len(samples)))
    return spectrum.argmax() * SONG_RATE / (8 * len(samples))


@pytest.mark.parametrize("remix", ["none", "stem", "group"])
def test_every_stem_has_its_songs_content_in_its_new_pitch_and_segments_are_full(songs, remix):
    """So nothing is filled with zeros and nothing cut: the note sounds from the first to the last 50 ms."""
    values = {"pitch": ("whole", -2, 2), "tempo": ("uniform", -12, 12), "odds": 0.7}
    cfg = config(songs, values, remix=remix)
    crops = Crops(open_tracks(cfg.data, "train"), SINGLE, cfg, None)
    pitches = set()
    for step, batch in enumerate(take(cfg, 6)):
        np.testing.assert_allclose(batch["mix"], batch["sources"].sum(1), atol=1e-6)
        for position in range(4):
            number = 4 * step + position
            plan, _ = crops.plan(number)
            changes = crops.changer(number, plan)
            said = crops.describe(number)
            for stem in range(3):
                frame, out, _ = changes.warp[stem]
                pitch = frame / out if frame else 1.0
                pitches.add(round(12 * np.log2(pitch)))
                assert (f"pitch x {pitch:.4f}" in said) == (frame > 0) or remix != "none"
                samples = batch["sources"][position, stem]
                assert abs(loudest(samples[:, 0]) / (hertz(plan.track[0, stem], stem) * pitch) - 1) < 0.004
                for piece in (samples[:400], samples[-400:]):
                    assert np.sqrt((piece[:, 0] ** 2).mean()) > 0.8 * 0.25 / np.sqrt(2)
                np.testing.assert_allclose(samples[:, 1], samples[:, 0] / 2, atol=1e-4)
    assert pitches == {-2, -1, 0, 1, 2}


def test_the_stems_of_a_song_keep_their_common_time(songs):
    """The click that all have at one time is, in all of them, where the tempo puts it."""
    cfg = config(songs, {"pitch": ("whole", -2, 2), "tempo": ("uniform", -12, 12)}, segment=6000)
    crops = Crops(open_tracks(cfg.data, "train"), SINGLE, cfg, None)
    met = 0
    for number, sources in enumerate(np.concatenate([batch["sources"] for batch in take(cfg, 4)])):
        plan, _ = crops.plan(number)
        frame, out, hop = crops.changer(number, plan).warp[0]
        tempo = 4 * hop / out if frame else 1.0
        wanted = (LENGTH // 2 - plan.start[0, 0] - crops.lead) / tempo
        if 300 < wanted < 5700:
            highs = np.diff(sources[..., 0], n=4)  # of which the notes have little
            places = np.abs(highs).argmax(1) + 2
            assert np.abs(places - wanted).max() <= 0.005 * SONG_RATE
            met += 1
    assert met >= 5


def test_two_clips_of_a_stem_are_the_sum_of_both(songs):
    cfg = config(songs, {"blend": 0.5}, remix="stem", gain=(0.5, 1.0), swap=0.5, sign=0.5)
    crops = Crops(open_tracks(cfg.data, "train"), SINGLE, cfg, None)
    heard = []
    for number, sources in enumerate(np.concatenate([batch["sources"] for batch in take(cfg, 4)])):
        plan, _ = crops.plan(number)
        changes = crops.changer(number, plan)
        for stem in range(3):
            wanted = np.zeros((CROP, 2))
            for row in (stem, stem + 3):
                path = songs / "train" / f"Song {plan.track[0, row]}" / f"{STEMS[stem]}.wav"
                samples = soundfile.read(path, CROP, int(plan.start[0, row]))[0]
                samples = samples[:, ::-1] if plan.swap[0, row] else samples
                sign = -1 if plan.sign[0, row] else 1
                wanted += samples * (sign * plan.gain[0, row] * changes.heard[row])
            np.testing.assert_allclose(sources[stem], wanted, atol=1e-6)
            heard.append(changes.heard[stem + 3])
        assert crops.describe(number).count(" at ") == changes.heard.sum()
    assert 0.2 < np.mean(heard) < 0.8


def test_filtered_stems_are_those_of_the_unfiltered_stream_without_their_band(songs):
    block = {"filter_odds": 0.5, "filter_middle": (300.0, 1500.0), "filter_width": (100.0, 200.0), "together": False}
    cfg, plain = config(songs, block, remix="stem"), config(songs, remix="stem")
    crops = Crops(open_tracks(cfg.data, "train"), SINGLE, cfg, None)
    assert crops.margin > 50
    done = 0
    for number, sources in enumerate(np.concatenate([batch["sources"] for batch in take(cfg, 3)])):
        plan, _ = crops.plan(number)
        changes = crops.changer(number, plan)
        for stem, (middle, width) in enumerate(changes.band):
            note = hertz(plan.track[0, stem], stem)
            kept = 1 - np.exp(-((note - middle) ** 2) / (2 * width**2)) if width else 1.0
            spectrum = np.abs(np.fft.rfft(sources[stem, :, 0] * np.hanning(CROP)))
            assert abs(spectrum[round(note * CROP / SONG_RATE)] / (0.25 * CROP / 4) - kept) < 0.05
            done += width > 0
    assert 8 < done < 28
    assert take(plain, 1)[0]["sources"].shape == (4, 3, CROP, 2)


def digest(found: list[dict[str, np.ndarray]]) -> list[str]:
    return [hashlib.sha256(batch["sources"].tobytes() + batch["mix"].tobytes()).hexdigest() for batch in found]


PROGRAM = """
import sys, json
sys.path.insert(0, sys.argv[2])
from pathlib import Path
import test_augment
cfg = test_augment.config(Path(sys.argv[1]), test_augment.EVERYTHING, remix="group")
print(json.dumps(test_augment.digest(test_augment.take(cfg, 1, first_step=1, workers=1))))
"""


def test_the_same_bytes_in_any_order_process_and_thread(songs):
    cfg = config(songs, EVERYTHING, remix="group")
    whole = take(cfg, 2, workers=1)
    assert digest(take(cfg, 1, first_step=1, workers=4)) == digest(whole[1:])
    shares = [take(cfg, 1, first_step=1, process_index=index, process_count=2) for index in range(2)]
    joined = [{key: np.concatenate([share[0][key] for share in shares]) for key in whole[0]}]
    assert digest(joined) == digest(whole[1:])
    command = [sys.executable, "-c", PROGRAM, str(songs), str(Path(__file__).parent)]
    run = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "random"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == digest(whole[1:])


def test_resampled_songs_are_changed_at_the_rate_of_the_model(songs):
    cfg = config(songs, {"pitch": ("whole", 1, 1)}, resample=True, segment=1000)
    cfg.sample_rate = 4000
    crops = Crops(open_tracks(cfg.data, "train"), SINGLE, cfg, None)
    (batch,) = take(cfg, 1)
    plan, _ = crops.plan(1)
    found = loudest(batch["sources"][1, 0, :, 0]) / 2
    assert abs(found / (hertz(plan.track[0, 0], 0) * SEMITONE) - 1) < 0.005


# The hook


def write_hook(folder: Path, monkeypatch, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(
        f"import tensorflow as tf\n\ndef change(stems, seed, names, rate):\n    {body}\n"
    )
    monkeypatch.syspath_prepend(str(folder))


def test_a_hook_changes_stems_before_they_are_mixed(songs, tmp_path, monkeypatch):
    body = "return stems * tf.random.stateless_uniform([3, 1, 1], seed) * tf.constant([1.0, 0.0, 2.0])[:, None, None]"
    write_hook(tmp_path, monkeypatch, "hook_that_scales", body)
    cfg, plain = config(songs, {"hook": "hook_that_scales:change"}), config(songs)
    batch, before = take(cfg, 1)[0], take(plain, 1)[0]
    scale = (batch["sources"] / np.where(before["sources"] == 0, np.nan, before["sources"]))[..., 0]
    factor = np.nanmedian(scale, axis=-1)
    assert (factor[:, 1] == 0).all() and len(np.unique(factor[:, 0])) == 4 and (factor[:, 2] <= 2).all()
    np.testing.assert_allclose(batch["mix"], batch["sources"].sum(1), atol=1e-6)
    np.testing.assert_array_equal(take(cfg, 1)[0]["sources"], batch["sources"])


@pytest.mark.parametrize(
    ("body", "match"),
    [("return stems[:, :5]", "expected a float32 tensor of shape"), ("raise ValueError('no')", "ValueError: no")],
)
def test_a_hook_that_fails_is_named(songs, tmp_path, monkeypatch, body, match):
    name = "hook_" + hashlib.sha256(body.encode()).hexdigest()[:8]
    write_hook(tmp_path, monkeypatch, name, body)
    with pytest.raises(JaxsepError, match=rf"data\.augment\.hook={name}:change.*{match}"):
        take(config(songs, {"hook": f"{name}:change"}), 1)


# What is refused, and what papers want


@pytest.mark.parametrize(
    ("block", "match"),
    [
        ({"odds": 1.5}, r"data\.augment\.odds=1\.5"),
        ({"pitch": ("unifrom", -1, 1)}, r"data\.augment\.pitch='unifrom'.*did you mean 'uniform'"),
        ({"pitch": ("whole", -1)}, r"data\.augment\.pitch.*two numbers"),
        ({"pitch": ("whole", -1.5, 2)}, r"data\.augment\.pitch.*whole semitones"),
        ({"tempo": ("uniform", 5, -5)}, r"data\.augment\.tempo.*the lowest value first"),
        ({"pitch": ("uniform", -9, 0), "repitch": ("uniform", -40, 0)}, "multiply up to"),
        ({"gain_db": (3.0, -3.0)}, r"data\.augment\.gain_db"),
        ({"filter_odds": 0.5, "filter_width": (0.0, 10.0)}, r"data\.augment\.filter_width"),
        ({"hook": "no_such_package:change"}, r"data\.augment\.hook='no_such_package:change'.*package\.module:function"),
        ({"hook": "jaxsep.data.augment:no_such"}, r"data\.augment\.hook"),
        ({"tempo": ("uniform", 60, 99)}, r"'Song 0': 12000 samples, shorter than the .* and data\.augment"),
    ],
)
def test_what_cannot_be_done_is_refused(songs, block, match):
    with pytest.raises(JaxsepError, match=match):
        stream(config(songs, block, segment=6500))


def test_the_songs_own_mixture_goes_with_no_change(songs):
    with pytest.raises(JaxsepError, match=r"no data\.augment"):
        stream(config(songs, {"loudness_db": (-1.0, 0.0)}, mixture="original"))


def test_a_preset_sets_what_it_names_and_switches_off_all_else():
    names = ["demucs_v1", "demucs_v2", "uhlich", "pretet", "umx", "d3net", "spleeter"]
    assert sorted(presets.PRESETS) == sorted(names)
    for name in names:
        cfg = defaults()
        cfg.data.update(remix="group", gain=(0.1, 0.2), swap=0.9, sign=0.9, shift=5, segment=777)
        cfg.data.augment.update(blend=0.5, hook="a:b")
        presets.take(cfg, name)
        assert cfg.data.segment == 777 and cfg.data.augment.blend == 0 and cfg.data.augment.hook == ""
        assert cfg.data.shift == (44100 if name.startswith("demucs") else 0)
        assert tuple(cfg.data.gain) == {"demucs_v2": (0.25, 1.25), "d3net": (0.75, 1.25)}.get(
            name, (0.25, 1.25) if name in ("uhlich", "umx") else (1, 1)
        )
        Changer(0, cfg.data.augment.to_dict(), STEMS, cfg.sample_rate)
    with pytest.raises(JaxsepError, match="did you mean 'demucs_v2'"):
        presets.take(defaults(), "demucs_v3")


def test_a_file_in_a_longer_read_is_where_it_is(songs):
    """Between silences, before them or behind them, or wholly outside of what is read."""
    cfg = config(songs)
    track = open_tracks(cfg.data, "train")[0]
    whole = track.read("bass", 0, LENGTH)
    around = np.pad(whole, [(LENGTH, LENGTH), (0, 0)])
    for start, count in ((0, 100), (-50, 100), (LENGTH - 40, 100), (-60, LENGTH + 90), (-500, 300), (LENGTH + 5, 10)):
        np.testing.assert_array_equal(_read_padded(track, "bass", start, count), around[LENGTH + start :][:count])
