"""Unlabeled remixing: which sources are called silent, what is mined of songs, and what training makes of it."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep import cli, losses, optim
from jaxsep import config as configs
from jaxsep import training as steps
from jaxsep.checkpoint import load_variables
from jaxsep.data import synth
from jaxsep.data.pipeline import batches
from jaxsep.data.readers import Silence
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model
from jaxsep.mining import detector, listening, mine, points, training
from jaxsep.mining.index import read_index
from jaxsep.streams import track_statistics
from jaxsep.types import Separation

ROOT = Path(__file__).parent.parent
RATE = 8000
THREE = ("vocals", "drums", "bass")


def song_with_rests(number, seconds=40.0):
    """A built-in song whose players rest for stretches of their own: {stem: [t 1]}."""
    rng = np.random.default_rng(number)
    stems = {}
    for name, stem in synth.synth_song(5, number, seconds, RATE).items():
        plays = np.ones(len(stem), np.float32)
        start = rng.uniform(0, 8) * RATE
        while start < len(plays):
            end = start + rng.uniform(3, 7) * RATE
            plays[int(start) : int(end)] = 0
            start = end + rng.uniform(6, 16) * RATE
        stems[name] = stem.mean(axis=1, keepdims=True) * plays[:, None]
    return stems


def write_songs(folder, numbers):
    """A data set of such songs."""
    for split, members in numbers.items():
        for number in members:
            path = folder / split / f"song {number}"
            path.mkdir(parents=True)
            for name, wave in song_with_rests(number).items():
                soundfile.write(path / f"{name}.wav", wave, RATE, subtype="PCM_16")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    write_songs(root, {"train": range(12), "valid": range(100, 118)})
    return root


def tiny(root, steps, stems=THREE):
    config = detector.of_songs(root, ",".join(stems), steps=steps)
    config.sample_rate, config.channels = RATE, 1
    config.model.update(channels=8, depth=4, layers=1, frames=16)
    config.data.update(batch_size=8, swap=0.0, gain=(0.5, 1.5))
    config.optim.learning_rate = 6e-3
    config.optim.schedule.warmup = 20
    config.save_every = 200
    detector.cut(config, windows=12)
    return config


def heard(listener, numbers):
    """Of songs never seen: truly silent, and called so, [windows s], where there is something to hear."""
    truths, calls, names = [], [], listener.model.sources
    for number in numbers:
        played = song_with_rests(number)
        stems = np.stack([played[name] for name in names])
        mix = stems.sum(axis=0)
        _, scores = listener.listen(lambda mix=mix: [mix], RATE, 1)
        truth, audible = (np.asarray(x)[0] for x in detector.labels(mix[None], stems[None], listener.window))
        limits = [listener.thresholds.get(name, np.inf) for name in names]
        truths.append(truth[audible[:, 0]])
        calls.append((scores[: len(truth)] >= limits)[audible[:, 0]])
    return np.concatenate(truths), np.concatenate(calls)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """A small detector, trained within a minute of two quiet cores."""
    out = tmp_path_factory.mktemp("detector") / "run"
    training.train_detector(tiny(dataset, 450), out, ["test"], lambda line: None)
    return out


# What is silent


def test_labels_compare_the_energies_of_windows():
    """Windows of 4 samples: far below the mixture, just not, just so, and nothing to hear at all."""
    level = 10 ** (-30 / 20)
    quiet = np.repeat([0.0, level * 1.02, level * 0.98, 0.0], 4)
    loud = np.repeat([1.0, 1.0, 1.0, 0.0], 4)
    sources = np.stack([quiet, loud, -loud * 0])[None, :, :, None].astype(np.float32)
    mix = np.repeat([1.0, 1.0, 1.0, 0.0], 4)[None, :, None].astype(np.float32)
    silent, audible = detector.labels(mix, sources, 4)
    assert silent[0, :3].tolist() == [[True, False, True], [False, False, True], [True, False, True]]
    assert audible[0, :, 0].tolist() == [True, True, True, False]
    ragged = detector.labels(mix[:, :-1], sources[:, :, :-1], 4)[0]
    assert ragged.shape == (1, 3, 3)


def test_muted_sources_rest_for_a_stretch_and_play_otherwise():
    sources = jnp.ones((64, 3, 200, 2))
    out = np.asarray(training.muted(jax.random.key(0), sources, 0.5, fade=4))
    assert (out[..., 0] == out[..., 1]).all() and out.min() == 0 and out.max() == 1
    rests = (out[..., 0] < 1).any(axis=2)
    assert 0.2 < rests.mean() < 0.6  # at odds of one half, less the stretches outside of the example
    silent = out[..., 0] == 0
    assert (np.diff(silent.astype(int), axis=2) == 1).sum(axis=2).max() <= 1  # one stretch
    partly = (out[..., 0] > 0) & (out[..., 0] < 1)
    assert partly.sum(axis=2).max() <= 2 * 4  # faded in and out
    assert (np.asarray(training.muted(jax.random.key(0), sources, 0.0, fade=4)) == 1).all()


def test_the_operating_point_has_the_most_recall_at_a_sure_precision():
    scores = np.linspace(1, 0, 400)
    silent = np.arange(400) < 200
    silent[[150, 170]] = False
    point = points.operating_point(scores, silent)
    said = scores >= point["threshold"]
    assert 0.95 < point["precision"] == silent[said].mean() < 1
    assert point["recall"] == silent[said].sum() / silent.sum() > 0.95
    fewer = points.operating_point(scores[:40], silent[:40])
    assert fewer["threshold"] is None  # 40 of 40 are right, but that might be luck
    assert points.operating_point(scores, ~silent)["threshold"] is None
    ties = np.round(scores, 1)
    chosen = points.operating_point(ties, silent)["threshold"]
    assert silent[ties >= chosen].mean() > 0.95
    assert points.operating_point(np.zeros(0), np.zeros(0, bool)) == {
        "threshold": None,
        "precision": None,
        "recall": 0.0,
        "silent": 0.0,
    }


def test_a_detector_is_precise_on_songs_it_never_saw(run):
    """Precision of at least 95 % at a recall of at least 30 %, by the operating points of other songs."""
    truth, called = heard(listening.load(run), range(200, 212))
    hits = truth & called
    assert hits.sum() / called.sum() >= 0.95
    assert hits.sum() / truth.sum() >= 0.3
    assert 0.1 < truth.mean() < 0.5 and len(truth) > 700
    stored = json.loads((run / points.FILE).read_text())
    assert stored["silent_below_db"] == -30 and set(stored["sources"]) == set(THREE)


@pytest.mark.full
def test_a_detector_of_four_sources(dataset, tmp_path):
    """Voice and accompaniment are harder to tell apart than the three sources above."""
    training.train_detector(tiny(dataset, 1500, synth.STEMS), tmp_path / "run", ["test"], lambda line: None)
    truth, called = heard(listening.load(tmp_path / "run"), range(200, 212))
    hits = truth & called
    assert hits.sum() / called.sum() >= 0.95
    assert hits.sum() / truth.sum() >= 0.3


@pytest.mark.full
def test_training_goes_on_where_it_was_stopped(dataset, tmp_path):
    class Stop(Exception):
        pass

    def stop(line):
        if line.startswith("step 2 "):
            raise Stop

    root = tmp_path / "songs"
    for song in ("train/song 0", "train/song 1", "valid/song 100"):
        shutil.copytree(dataset / song, root / song)
    config = tiny(root, 4)
    config.model.update(channels=2, depth=3, frames=16)
    config.optim.schedule.warmup = 1
    config.log_every = config.save_every = 1
    detector.cut(config, windows=4)
    training.train_detector(config, tmp_path / "whole", ["test"], lambda line: None)
    with pytest.raises(Stop):
        training.train_detector(config, tmp_path / "parts", ["test"], stop)
    with pytest.raises(JaxsepError, match=r"detector\.json: missing; the same `jaxsep data detector` goes on"):
        listening.load(tmp_path / "parts")
    training.train_detector(config, tmp_path / "parts", ["test"], lambda line: None)
    whole, parts = (jax.tree.leaves(load_variables(tmp_path / name)[0]) for name in ("whole", "parts"))
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))
    config.optim.learning_rate = 1e-3
    with pytest.raises(JaxsepError, match=r"run of another config: optim\.learning_rate"):
        training.train_detector(config, tmp_path / "parts", ["test"], print)


def test_the_command_trains_on_a_data_set(monkeypatch, tmp_path, capsys):
    given = {}

    def train(config, out, argv, say):
        given.update(config=config, out=out, argv=argv)
        return {
            "lead": {"threshold": 0.5, "precision": 0.98, "recall": 0.6, "silent": 0.31},
            "pad": {"threshold": None, "precision": None, "recall": 0.0, "silent": 0.0},
        }

    monkeypatch.setattr(training, "train_detector", train)
    words = [str(tmp_path), "-o", str(tmp_path / "run"), "--stems", "lead, pad", "--steps", "7", "--channels", "4"]
    assert cli.main(["data", "detector", *words]) == 0
    config = given["config"]
    assert (config.sources, config.data.stems, config.steps, config.seed) == ("lead,pad", "lead,pad", 7, 0)
    assert (config.data.source, config.data.root, config.model.channels) == ("folder", str(tmp_path), 4)
    assert "--steps=7" in given["argv"]
    said = capsys.readouterr().out
    assert "| lead   |  31.0% |     0.500 |     0.980 |  0.600 |" in said and "| pad    |   0.0% |         - |" in said
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.stem.mp4").touch()
    assert cli.main(["data", "detector", *words]) == 0 and given["config"].data.source == "musdb18"


# Mining


class Sides:
    """A separator of two sources, one of which is all of the left channel and the other of the right."""

    def apply(self, variables, mix, targets, train):
        stems = jnp.stack([mix * jnp.array([1.0, 0.0]), mix * jnp.array([0.0, 1.0])], axis=1)
        return Separation(stems, stems)


def sides_listener(rate=RATE):
    config = configs.defaults()
    config.sources, config.sample_rate, config.inference.segment = "left,right", rate, 1.0
    return listening.Listener.of_separator(Model.from_parts(Sides(), {}, config), "sides")


def write_sides(path, rests, seconds=12, rate=RATE, level=0.2):
    """Noise without its left channel from second a to second b of each (0, a, b), its right one of each (1, a, b)."""
    wave = np.random.default_rng(len(rests)).uniform(-level, level, (seconds * rate, 2)).astype(np.float32)
    for side, start, end in rests:
        wave[int(start * rate) : int(end * rate), side] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate)
    return wave


@pytest.fixture
def sides(monkeypatch):
    monkeypatch.setattr(mine, "load", lambda run, checkpoint, device: sides_listener())


@pytest.fixture
def music(tmp_path):
    """Three songs of different formats and rates; what is silent where is known."""
    folder = tmp_path / "music"
    write_sides(folder / "b.wav", [(0, 2, 9), (1, 10, 11)])
    write_sides(folder / "a" / "late.flac", [(1, 4, 12)], rate=2 * RATE)
    write_sides(folder / "pause.wav", [(0, 0, 12), (1, 0, 12)])
    return folder


def command(music, run, out, *more):
    return ["data", "mine", str(music), "--detector", str(run), "--out", str(out), "--progress", "none", *more]


def test_mining_finds_what_is_silent_and_nothing_else(sides, music, tmp_path, capsys):
    (music / "cover.jpg").write_bytes(b"no audio")
    out = tmp_path / "out"
    assert cli.main(command(music, "sides", out, "--seconds", "2")) == 0
    b, pause, late = read_index(out)
    found = [[(e.source, e.start / s.rate, e.length / s.rate) for e in s.extracts] for s in (b, late, pause)]
    assert found == [[("left", 2, 7)], [("right", 4, 8)], []]  # a pause of all is no extract, nor is one second
    assert (late.file, late.rate, late.length, late.channels) == ("a/late.flac", 2 * RATE, 24 * RATE, 2)
    wave = soundfile.read(music / "b.wav", dtype="float32")[0]
    assert (b.mean, b.std) == pytest.approx(track_statistics([wave]), rel=1e-4)
    assert b.extracts[0].score > 60 and late.extracts[0].score > 30  # dB; resampling rings at the end of the music
    report = json.loads((out / "report.json").read_text())
    assert report["songs"]["b.wav"]["left"] == {"seconds": 7.0, "share": round(7 / 12, 4)}
    assert report["total"]["right"] == {"seconds": 8.0, "share": round(8 / 36, 4)}
    assert report["thresholds"] == {"left": 30.0, "right": 30.0} and report["failed"] == {}
    text = (out / "report.md").read_text()
    assert "| a/late.flac" in text and "8.0 s (66.7%)" in text and "| threshold (dB of the mixture" in text
    said = capsys.readouterr()
    assert "b.wav: 0:12 in" in said.out and "left silent 7.0 s" in said.out
    assert "not audio, left out: cover.jpg" in said.err


def test_the_rule_is_thirty_decibels(music, tmp_path):
    """The left channel 31 dB below the mixture is silent, 29 dB below it is not."""
    for below, expected in ((31, True), (29, False)):
        wave = np.random.default_rng(0).standard_normal((4 * RATE, 2)).astype(np.float32)
        wave *= 0.1 * np.array([10 ** (-below / 20), 1], np.float32)
        listener = sides_listener()
        energies, scores = listener.listen(lambda wave=wave: np.array_split(wave, 7), RATE, 2)
        assert energies.shape == (8,) and scores.shape == (8, 2)
        assert scores[:, 0] == pytest.approx(below, abs=0.5) and scores[:, 1] == pytest.approx(0, abs=0.1)
        extracts = list(mine.find_extracts(listener, energies, scores, RATE, len(wave), 1.0))
        assert [(e.source, e.start, e.length) for e in extracts] == ([("left", 0, len(wave))] if expected else [])


def test_damaged_songs_are_named_and_tried_again(sides, music, tmp_path, capsys):
    whole = (music / "b.wav").read_bytes()
    (music / "b.wav").write_bytes(whole[: len(whole) // 2])
    (music / "empty.mp3").write_bytes(b"")
    out = tmp_path / "out"
    assert cli.main(command(music, "sides", out)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 2 and "b.wav: truncated or damaged: expected 96000 samples" in errors[0]
    assert "empty.mp3: empty file (0 bytes)" in errors[1]
    assert set(json.loads((out / "report.json").read_text())["failed"]) == {"b.wav", "empty.mp3"}
    assert "2 could not be listened to" in (out / "report.md").read_text()
    assert [song.file for song in read_index(out)] == ["pause.wav", "a/late.flac"]
    (music / "b.wav").write_bytes(whole)
    (music / "empty.mp3").unlink()
    assert cli.main(command(music, "sides", out)) == 0
    assert [song.file for song in read_index(out)] == ["b.wav", "pause.wav", "a/late.flac"]
    assert "late.flac" not in capsys.readouterr().out  # listened to before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seconds", "3"], r"was mined with seconds 6\.0, asked for is 3\.0; choose another --out"),
        (["--copies"], r"was mined with copies false, asked for is true"),
        (["--seconds", "0"], r"seconds=0\.0: expected more than 0"),
    ],
)
def test_a_folder_is_mined_in_one_way(sides, music, tmp_path, capsys, more, message):
    assert cli.main(command(music, "sides", tmp_path / "out")) == 0
    assert cli.main(command(music, "sides", tmp_path / "out", *more)) == 2
    capsys.readouterr()
    with pytest.raises(JaxsepError, match=message):
        options = {"seconds": float(more[1])} if "--seconds" in more else {"copies": True}
        mine.mine(music, "sides", tmp_path / "out", **options)


def test_copies_are_the_samples_of_the_extracts(sides, music, tmp_path):
    assert cli.main(command(music, "sides", tmp_path / "out", "--copies")) == 0
    songs = read_index(tmp_path / "out")
    extracts = [(song, extract) for song in songs for extract in song.extracts]
    assert len(extracts) == 2
    for song, extract in extracts:
        wave = soundfile.read(music / song.file, dtype="float32")[0]
        copy, rate = soundfile.read(tmp_path / "out" / extract.copy, dtype="float32")
        assert rate == song.rate
        np.testing.assert_array_equal(copy, wave[extract.start : extract.start + extract.length])


def test_mining_goes_on_after_a_kill_with_the_same_index(run, tmp_path):
    """SIGKILL at the second song, in a process of its own; then the rest, and the same in one go."""
    folder, out = tmp_path / "music", tmp_path / "out"
    folder.mkdir()
    for number in range(300, 308):
        mix = sum(song_with_rests(number).values())
        soundfile.write(folder / f"{number}.wav", mix, RATE, subtype="PCM_16")
    words = command(folder, run, out, "--seconds", "2", "--device", "cpu")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    start = "import sys; from jaxsep.cli import main; sys.exit(main())"
    child = subprocess.Popen([sys.executable, "-c", start, *words], cwd=ROOT, env=environment)
    while not (out / "index.jsonl").exists() or not (out / "index.jsonl").read_text():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = (out / "index.jsonl").read_text()
    assert 1 <= before.count("\n") < 8
    (out / "index.jsonl").write_text(before + '{"file": "307.wav", "by')  # as if the kill had torn a line
    assert cli.main(words) == 0
    assert cli.main(command(folder, run, tmp_path / "again", "--seconds", "2")) == 0
    index = (out / "index.jsonl").read_bytes()
    assert index == (tmp_path / "again" / "index.jsonl").read_bytes() and index.count(b"\n") == 8
    assert index.startswith(before.encode())
    assert sum(len(song.extracts) for song in read_index(out)) > 4


# The loss


@pytest.fixture
def separated():
    rng = np.random.default_rng(0)
    reference = jnp.asarray(rng.standard_normal((3, 4, 50, 2)), jnp.float32)
    return reference, reference + 0.1 * jnp.asarray(rng.standard_normal(reference.shape), jnp.float32)


KNOWN = jnp.array([[0.0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]])  # the bass, all, the first


@pytest.mark.parametrize("name", ["wave_l1", "wave_l2"])
def test_the_weak_loss_is_that_of_the_known_source_and_of_the_sum_of_the_others(separated, name):
    reference, estimate = separated
    loss = losses.build({"name": name})
    assert float(jnp.abs(losses.partly(loss, reference, reference, KNOWN, 0.7)).max()) == 0
    out = np.asarray(losses.partly(loss, estimate, reference, KNOWN, 0.7))
    assert (out > 0).all()
    np.testing.assert_allclose(out[1], loss(estimate, reference)[1], rtol=1e-6)
    difference = np.asarray(estimate - reference)
    size = (lambda x: np.abs(x).mean()) if name == "wave_l1" else (lambda x: (x**2).mean())
    others = size(difference[0, [0, 1, 3]].sum(axis=0))
    np.testing.assert_allclose(out[0], [*[0.7 * others / 3] * 2, size(difference[0, 2]), 0.7 * others / 3], rtol=1e-5)


def test_the_weak_loss_asks_nothing_of_the_split_among_the_others(separated):
    reference, estimate = separated
    loss = losses.build({"name": "wave_l2"})

    def total(estimate):
        return losses.partly(loss, estimate, reference, KNOWN, 1.0)[0].sum()

    gradient = np.asarray(jax.grad(total)(estimate))
    assert np.abs(gradient[0, 0]).max() > 0
    np.testing.assert_array_equal(gradient[0, 0], gradient[0, 1])
    np.testing.assert_array_equal(gradient[0, 0], gradient[0, 3])
    assert not np.allclose(gradient[0, 0], gradient[0, 2])
    moved = estimate.at[0, 0].add(3.0).at[0, 3].add(-3.0)
    assert float(total(moved)) == pytest.approx(float(total(estimate)), rel=1e-5)
    assert float(total(estimate.at[0, 0].add(3.0).at[0, 2].add(-3.0))) > 1


def test_sums_of_spectra_are_added_before_their_magnitude():
    """Two wrong estimates of opposite phase whose sum is right cost nothing."""
    loss = losses.build({"name": "l1"})
    reference = jnp.ones((1, 3, 2, 5, 1), jnp.complex64)
    estimate = reference.at[:, 1].add(1j).at[:, 2].add(-1j)
    known = jnp.array([[1.0, 0, 0]])
    assert float(losses.partly(loss, estimate, reference, known, 1.0).max()) < 1e-6
    assert float(loss(estimate, reference).max()) > 0.4


class Shares:
    """A separator whose estimates are shares of the mixture, its parameters."""

    def apply(self, variables, mix, targets, train, rngs, mutable):
        stems = variables["params"]["share"][:, None, None] * mix[:, None]
        return Separation(stems, stems), {}


def test_a_step_of_training_weighs_what_is_known_as_a_sum(separated):
    reference, _ = separated
    batch = {"mix": reference.sum(axis=1), "sources": reference, "known": KNOWN}
    config = configs.defaults()
    config.data.unlabeled.weight = 0.3
    config.optim.name = "sgd"
    optimiser, loss, share = optim.build(config.optim, 1), losses.build({"name": "wave_l2"}), jnp.full(4, 0.25)
    expected = losses.partly(loss, share[:, None, None] * batch["mix"][:, None], reference, KNOWN, 0.3)
    params = {"share": share}
    state = steps.TrainState(
        jnp.int32(0), params, {}, optimiser.directions.init(params), (), jax.random.key(0), jnp.bool(True)
    )
    mesh = steps.make_mesh(jax.devices()[:1])
    _, metrics = steps.make_train_step(Shares(), loss, optimiser, config, mesh)(state, batch, jnp.float32(1))
    np.testing.assert_allclose(metrics.losses, expected, rtol=1e-5)


# The stream


@pytest.fixture
def mined(sides, tmp_path):
    """A data set with the stems left and right, and music in which one of them is silent."""
    for name in ("x", "y"):
        for number, stem in enumerate(("left", "right")):
            path = tmp_path / "songs" / "train" / name / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = np.random.default_rng([number, name == "x"]).uniform(-0.1, 0.1, (4 * RATE, 2))
            soundfile.write(path, wave, RATE, subtype="PCM_16")
    (tmp_path / "songs" / "valid").mkdir()
    write_sides(tmp_path / "music" / "b.wav", [(0, 2, 9), (1, 9.5, 12)])
    write_sides(tmp_path / "music" / "c.wav", [(1, 4, 12)])
    assert mine.mine(tmp_path / "music", "sides", tmp_path / "mined", seconds=2.0) == 0
    return tmp_path


def stream_config(root, **data):
    config = configs.defaults()
    config.sources = config.data.stems = "left,right"
    config.sample_rate, config.seed = RATE, 3
    config.data.update(root=str(root / "songs"), segment=RATE, remix="stem", gain=(0.5, 1.0), swap=0.5)
    config.data.unlabeled.update(root=str(root / "mined"), odds=0.5)
    config.data.update(data)
    return config


def take(config, count, sources=None, **options):
    tracks = open_tracks(config.data, "train")
    sources = sources or configs.parse_sources(config.sources)
    stream = batches(tracks, sources, config, first_step=options.pop("first_step", 0), **options)
    return list(itertools.islice(stream, count))


def test_weak_examples_are_music_without_a_source_and_a_stem_of_it(mined):
    config = stream_config(mined, swap=0.0, gain=(1.0, 1.0))
    examples = [{name: rows[i] for name, rows in batch.items()} for batch in take(config, 24) for i in range(4)]
    known = np.stack([example["known"] for example in examples])
    assert set(map(tuple, known.tolist())) == {(0, 0), (1, 0), (0, 1)}
    assert 0.3 < known.any(axis=1).mean() < 0.7
    music = {name: soundfile.read(mined / "music" / f"{name}.wav", dtype="float32")[0] for name in "bc"}
    stems = ["left", "right"]
    songs = mined / "songs" / "train"
    labelled = [[soundfile.read(songs / x / f"{stem}.wav", dtype="float32")[0] for x in "xy"] for stem in stems]
    seen = set()
    for example in examples:
        np.testing.assert_allclose(example["mix"], example["sources"].sum(axis=0), atol=1e-7)
        for source, wave in enumerate(example["sources"]):
            clip = example["known"].any() and not example["known"][source]
            pools = list(music.values()) if clip else labelled[source]
            index = find(wave, pools)
            if clip:
                silent = 1 - source
                assert not wave[:, silent].any() and wave[:, source].any()  # the known source is silent in it
                seen.add(("bc"[index], stems[silent]))
    assert seen == {("b", "left"), ("b", "right"), ("c", "right")}


def find(wave, pools):
    """Which of them a wave is a part of."""
    for index, pool in enumerate(pools):
        column = int(np.abs(wave).sum(axis=0).argmax())
        for place in np.flatnonzero(pool[: len(pool) - len(wave) + 1, column] == wave[0, column]):
            if np.array_equal(pool[place : place + len(wave)], wave):
                return index
    raise AssertionError("not a part of any")


def test_the_stream_stays_a_function_of_seed_and_number(mined):
    config = stream_config(mined)
    whole = take(config, 6, workers=3)
    again = take(config, 4, first_step=2, workers=1)
    for a, b in zip(whole[2:], again, strict=True):
        assert set(a) == {"mix", "sources", "known"}
        assert all(np.array_equal(a[name], b[name]) for name in a)
    half = take(config, 6, process_index=1, process_count=2)
    assert all(np.array_equal(a["mix"][2:], b["mix"]) for a, b in zip(whole, half, strict=True))
    other = take(configs.from_json(configs.to_json(config).replace('"seed": 3', '"seed": 4')), 6)
    assert not np.array_equal(np.stack([b["known"] for b in whole]), np.stack([b["known"] for b in other]))
    plain = take(stream_config(mined, unlabeled={"root": "", "odds": 0.5, "weight": 1.0}), 6)
    for a, b in zip(whole, plain, strict=True):  # what is not weak is as it was
        full = ~a["known"].any(axis=1)
        assert np.array_equal(a["mix"][full], b["mix"][full]) and "known" not in b


def test_clips_are_standardised_by_their_own_song(mined):
    from jaxsep.data import levels

    config = stream_config(mined, swap=0.0, gain=(1.0, 1.0), standardise=True)
    tracks = open_tracks(config.data, "train")
    measured = levels.measure(tracks, config)
    plain = take(stream_config(mined, swap=0.0, gain=(1.0, 1.0)), 6)
    for a, b in zip(plain, take(config, 6, levels=measured), strict=True):
        for row in np.flatnonzero(a["known"].any(axis=1)):
            source = int(np.flatnonzero(a["known"][row] == 0)[0])
            song = [s for s in read_index(mined / "mined")]
            options = [(a["sources"][row, source] - s.mean) / s.std for s in song]
            assert any(np.allclose(option, b["sources"][row, source], atol=1e-5) for option in options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segment": 9 * RATE}, r"no extract of left, right is as long as data\.segment=72000"),
        ({"conditions": "one_hot"}, r"data\.unlabeled goes with data\.conditions=''"),
        (
            {"unlabeled": {"root": "mined", "odds": 1.5, "weight": 1.0}},
            r"odds=1\.5, weight=1\.0; expected odds above 0",
        ),
        ({"unlabeled": {"root": "songs", "odds": 0.5, "weight": 1.0}}, r"mine\.json: cannot be read"),
    ],
)
def test_unlabeled_music_that_cannot_be_used_is_refused(mined, change, message):
    config = stream_config(mined, **change)
    if "unlabeled" in change:
        config.data.unlabeled.root = str(mined / change["unlabeled"]["root"])
    with pytest.raises(JaxsepError, match=message):
        take(config, 1)


def test_sources_must_be_the_whole_song_and_songs_must_stay(mined):
    config = stream_config(mined)
    with pytest.raises(JaxsepError, match="needs two sources or more that are the whole song"):
        take(config, 1, {"left": ("left",)})
    (mined / "music" / "c.wav").rename(mined / "gone.wav")
    with pytest.raises(JaxsepError, match=r"c\.wav: cannot be read .*; mine again, or restore the songs"):
        take(config, 1)
    assert Silence(Path(), RATE, 1, 5, np.dtype(np.int16)).read(2, 3).tolist() == [[0]] * 3


def test_training_with_weak_examples_is_reproducible(mined, monkeypatch, tmp_path, capsys):
    """train.py from end to end, twice, to the same weights; another index is another stream."""
    spec = importlib.util.spec_from_file_location("train_script", ROOT / "train.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (mined / "songs" / "train" / "y").rename(mined / "songs" / "valid" / "y")
    monkeypatch.chdir(ROOT)
    settings = {
        "sources": "left,right",
        "sample_rate": RATE,
        "block": 8,
        "model.channels": "(2,4)",
        "front.frame": 64,
        "front.hop": 16,
        "front.bins": 16,
        "data.source": "folder",
        "data.root": mined / "songs",
        "data.stems": "left,right",
        "data.segment": 8 * 16 - 64,
        "data.unlabeled.root": mined / "mined",
        "data.unlabeled.odds": 0.5,
        "inference.segment": 0.5,
        "optim.schedule.name": "constant",
        "steps": 2,
        "eval_every": 2,
    }

    def train(name, **changes):
        words = [f"--config.{key}={value}" for key, value in (settings | changes).items()]
        return script.main(["train.py", "--config=configs/spleeter.py:demo", f"--workdir={tmp_path / name}", *words])

    def weights(name):
        return jax.tree.leaves(load_variables(tmp_path / name, "last")[0])

    assert [train("first"), train("second")] == [0, 0]
    assert all(np.array_equal(a, b) for a, b in zip(weights("first"), weights("second"), strict=True))
    listener = listening.load(tmp_path / "first")
    assert listener.separates and listener.thresholds == {"left": 30.0, "right": 30.0}
    assert listener.origin.startswith("spleeter ") and listener.origin.endswith(" at step 2")
    index = mined / "mined" / "index.jsonl"
    index.write_text(index.read_text().split("\n")[0] + "\n")
    capsys.readouterr()
    assert train("first", steps=6) == 2  # another index, another stream
    assert "restore the data" in capsys.readouterr().err
