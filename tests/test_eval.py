"""eval.py and the flow behind it: what is scored, resumed, refused, written and printed."""

import dataclasses
import json
import sys
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import soundfile

from jaxsep.errors import JaxsepError
from jaxsep.metrics import museval
from jaxsep.metrics.song import Task, score_song
from jaxsep.scoring import scorefiles, splits

RATE = 2000
STEMS = ("vocals", "drums", "bass", "other")
TASK = Task({stem: (stem,) for stem in STEMS}, STEMS, channels=2, backend="sdr")


@dataclasses.dataclass(frozen=True)
class FakeTrack:
    """A song of noise, as `jaxsep.data.tracks.Track` is used."""

    name: str
    seed: int = 0
    length: int = 3000
    broken: str = ""
    rate: int = RATE
    channels: int = 2

    def audio(self, stems):
        if self.broken:
            raise JaxsepError(self.broken)
        waves = np.random.default_rng(self.seed).standard_normal((5, self.length, 2)).astype(np.float32)
        waves[4] *= 0.1  # "mixture": unlike the stems' sum
        return waves[[[*STEMS, "mixture"].index(stem) for stem in stems]]


TRACKS = [FakeTrack("A: ä song", 1), FakeTrack("B", 2, length=4500), FakeTrack("C", 3)]


class Halver:
    """Estimates: half the mixture each; counts its calls."""

    def __init__(self):
        self.lengths = []

    def __call__(self, song):
        assert song.rate == RATE
        self.lengths.append(len(song.mixture))
        return {stem: 0.5 * song.mixture for stem in STEMS}


def run(folder, tracks=TRACKS, separate=None, task=TASK, provenance=None, **options):
    provenance = provenance or {"checkpoint": 1}
    return list(splits.score_tracks(tracks, separate or Halver(), task, folder, provenance, **options))


def test_songs_are_scored_at_the_rate_of_the_task():
    """A band-limited song at half its rate: the same sound, half the samples; at its own rate it is left alone."""
    time = np.arange(4000) / RATE
    wave = np.repeat(np.sin(2 * np.pi * 100 * time)[:, None], 2, axis=1).astype(np.float32)

    class Tone(FakeTrack):
        def audio(self, stems):
            return np.stack([wave * (i + 1) for i, _ in enumerate(stems)])

    song = dataclasses.replace(TASK, rate=RATE // 2).read(Tone("tone"))
    assert song.rate == RATE // 2 and song.stems.shape == (4, 2000, 2)
    np.testing.assert_allclose(song.stems[1, 100:-100], 2 * wave[200:-200:2], atol=0.01)
    np.testing.assert_allclose(song.mixture, song.stems.sum(axis=0), atol=1e-6)
    np.testing.assert_array_equal(TASK.read(Tone("tone")).stems[0], wave)


def test_scores_are_of_the_right_song_and_stem(tmp_path):
    results = run(tmp_path)
    assert [result.name for result in results] == [track.name for track in TRACKS]
    for track, result in zip(TRACKS, results, strict=True):
        stems = track.audio(STEMS)
        mixture = stems.sum(axis=0)
        record = json.loads((tmp_path / f"{track.name}.json").read_text())
        assert record == result.record
        for stem, wave in zip(STEMS, stems, strict=True):
            frames = next(target["frames"] for target in record["targets"] if target["name"] == stem)
            assert len(frames) == track.length // RATE
            for n, frame in enumerate(frames):
                cut = slice(n * RATE, (n + 1) * RATE)
                error = np.sum((wave[cut] - 0.5 * mixture[cut]) ** 2, dtype=np.float64)
                expected = 10 * np.log10(np.sum(wave[cut] ** 2, dtype=np.float64) / error)
                assert frame == {"time": n, "duration": 1, "metrics": {"SDR": pytest.approx(expected, abs=1e-4)}}
        scaled = record["jaxsep"]["baselines"]["scaled mixture"]["vocals"]
        assert scaled[0] == pytest.approx(1.25, abs=0.3)  # one of four equal stems: 10 log10(4 / 3)


def test_processes_score_as_one_process_does(tmp_path):
    alone, together = run(tmp_path / "1"), run(tmp_path / "2", jobs=2)
    assert {r.name: r.record for r in alone} == {r.name: r.record for r in together}


def platform():
    import jax

    return {"jaxsep": {"platform": jax.default_backend()}}


def test_processes_leave_the_accelerator_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")  # there is none: whoever starts jax with this fails
    work = [scorefiles.Work(name, platform, (), {}) for name in "ab"]
    results = list(scorefiles.score_all(work, tmp_path, jobs=2))
    assert sorted(result.name for result in results) == ["a", "b"]
    assert all(result.record["jaxsep"]["platform"] == "cpu" for result in results)


def test_goes_on_where_it_stopped(tmp_path):
    with pytest.raises(RuntimeError, match="killed"):
        for result in splits.score_tracks(TRACKS, Halver(), TASK, tmp_path, {"checkpoint": 1}):
            if result.name == "B":
                raise RuntimeError("killed")
    again = Halver()
    results = run(tmp_path, separate=again)
    assert again.lengths == [3000]  # only C
    assert [result.seconds is None for result in results] == [True, True, False]
    assert "scored before" in str(results[0])
    assert {r.name: r.record for r in results} == {r.name: r.record for r in run(tmp_path / "fresh")}


def test_goes_on_at_another_rate_than_the_songs(tmp_path):
    task = dataclasses.replace(TASK, rate=RATE // 2)
    results = [run(tmp_path, separate=lambda song: dict.fromkeys(STEMS, song.mixture / 2), task=task) for _ in "12"]
    assert [[result.seconds is None for result in start] for start in results] == [[False] * 3, [True] * 3]


@pytest.mark.parametrize(
    ("task", "provenance", "tracks"),
    [
        (TASK, {"checkpoint": 2}, TRACKS[:1]),
        (dataclasses.replace(TASK, mixture="original"), {"checkpoint": 1}, TRACKS[:1]),
        (dataclasses.replace(TASK, equaliser=np.ones((4, 1025))), {"checkpoint": 1}, TRACKS[:1]),
        (TASK, {"checkpoint": 1}, [dataclasses.replace(TRACKS[0], length=2999)]),
    ],
    ids=["checkpoint", "mixture", "equaliser", "song"],
)
def test_other_scores_are_not_taken_for_these(tmp_path, task, provenance, tracks):
    run(tmp_path, TRACKS[:1])
    again = Halver()
    (result,) = run(tmp_path, tracks, again, task, provenance)
    assert again.lengths == [tracks[0].length] and result.seconds is not None


def test_a_torn_score_file_is_made_again(tmp_path):
    (result,) = run(tmp_path, TRACKS[:1])
    path = tmp_path / f"{TRACKS[0].name}.json"
    path.write_text(path.read_text()[:200])
    (again,) = run(tmp_path, TRACKS[:1])
    assert again.seconds is not None and again.record == result.record


def test_a_failed_track_is_an_error_unless_partial(tmp_path):
    tracks = [TRACKS[0], FakeTrack("bad", broken="x.wav: truncated"), TRACKS[2]]
    with pytest.raises(JaxsepError, match=r"track 'bad': x\.wav: truncated; --partial") as caught:
        run(tmp_path, tracks)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [f"{TRACKS[0].name}.json"]
    results = run(tmp_path, tracks, partial=True)
    assert [result.record is None for result in results] == [False, True, False]
    summary = splits.summarise(results, TASK, {})
    assert summary["failed"] == {"bad": "x.wav: truncated"}
    assert summary["tracks"] == [TRACKS[0].name, "C"]
    with pytest.raises(JaxsepError, match="none of the 1 tracks"):
        splits.summarise(results[1:2], TASK, {})


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        (lambda mix: {"vocals": mix}, "no estimate of 'drums' \\(got vocals\\)"),
        (lambda mix: dict.fromkeys(STEMS, mix[:-1]), "'vocals' has shape \\(2999, 2\\), the song \\(3000, 2\\)"),
        (lambda mix: dict.fromkeys(STEMS, np.pad(mix, ((0, 1), (0, 0)))), "'vocals' has shape \\(3001, 2\\)"),
        (lambda mix: dict.fromkeys(STEMS, mix[:, :1]), "'vocals' has shape \\(3000, 1\\)"),
        (lambda mix: {**dict.fromkeys(STEMS, mix), "bass": mix * np.nan}, "'bass' holds NaN"),
    ],
    ids=["missing", "shorter", "longer", "mono", "nan"],
)
def test_bad_estimates(tmp_path, estimate, message):
    with pytest.raises(JaxsepError, match=f"track 'C': .*{message}") as caught:
        run(tmp_path, TRACKS[2:], lambda song: estimate(song.mixture))
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [MemoryError(), BrokenProcessPool()])
def test_a_scoring_process_that_dies(tmp_path, monkeypatch, error):
    def score(task, song, estimates):
        if song.name == "B":
            raise error
        return score_song(task, song, estimates)

    monkeypatch.setattr(splits, "score_song", score)
    with pytest.raises(JaxsepError, match=r"track 'B': scoring it ran out of memory or was killed; .* fewer --jobs"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [f"{TRACKS[0].name}.json"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxsepError, match="cannot be written"):
        run(tmp_path / "file" / "scores", TRACKS[:1])


def test_mono_and_original_mixture():
    mono = dataclasses.replace(TASK, channels=1).read(TRACKS[0])
    stereo = TASK.read(TRACKS[0])
    np.testing.assert_allclose(mono.stems, stereo.stems.mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(mono.mixture, stereo.mixture.mean(axis=-1, keepdims=True), atol=1e-6)
    original = dataclasses.replace(TASK, mixture="original").read(TRACKS[0])
    np.testing.assert_array_equal(original.mixture, TRACKS[0].audio(["mixture"])[0])
    np.testing.assert_array_equal(original.stems, stereo.stems)


def test_equaliser_is_learned_once(tmp_path):
    opened, path = [], tmp_path / "scores" / "equaliser.npz"

    def training():
        opened.append(1)
        return TRACKS

    gains = splits.fixed_equaliser(path, TASK, training, TRACKS, print)
    again = splits.fixed_equaliser(path, TASK, training, TRACKS, print)
    np.testing.assert_array_equal(gains, again)
    assert gains.shape == (4, 1025) and len(opened) == 1
    path.write_bytes(path.read_bytes()[:100])  # a torn file is learned again
    np.testing.assert_array_equal(splits.fixed_equaliser(path, TASK, training, TRACKS, print), gains)
    mono = splits.fixed_equaliser(path, dataclasses.replace(TASK, channels=1), training, TRACKS, print)
    assert len(opened) == 3 and not np.allclose(mono, gains)
    other = [FakeTrack("other rate", rate=8000)]
    with pytest.raises(JaxsepError, match="'other rate' has 8000 Hz"):
        splits.fixed_equaliser(tmp_path / "new.npz", TASK, lambda: other, TRACKS, print)


# --- eval.py on a run folder -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run folder with a tiny untrained mono net, and stereo songs of noise."""
    import jax

    from jaxsep import config as configs
    from jaxsep import separator
    from jaxsep.checkpoint import Checkpoints

    folder = tmp_path_factory.mktemp("a run")
    random = np.random.default_rng(0)
    for split, name in (("train", "t"), ("valid", "v"), ("test", "one"), ("test", "two: zwei")):
        song = folder / "songs" / split / name
        song.mkdir(parents=True)
        for stem in STEMS:
            soundfile.write(song / f"{stem}.wav", random.uniform(-0.2, 0.2, (2 * 4000, 2)), 4000)
    config = configs.load_config("configs/spleeter.py:demo")
    with config.unlocked():
        config.data.source, config.data.root = "folder", str(folder / "songs")
        config.sources = "vocals,accompaniment=drums+bass+other"
        config.sample_rate, config.channels, config.model.channels = 4000, 1, (2, 4)
        config.front.frame, config.front.hop, config.front.bins = 256, 64, 128
        config.block, config.inference.segment = 0, 1.0
    (folder / "config.json").write_text(configs.to_json(config))
    net = separator.build(config)
    init = jax.jit(net.init, static_argnums=(2, 3))
    variables = init(jax.random.key(0), jax.numpy.zeros((1, 4000, 1)), None, False)
    with Checkpoints(folder) as checkpoints:
        for step, sdr in ((10, 1.0), (20, 0.5)):
            checkpoints.save(step, dict(variables), {}, sdr)
            checkpoints.wait()
    return folder


def test_eval(script, workdir, capsys, monkeypatch):
    assert script.main([f"--workdir={workdir}", "--jobs=1"]) == 0
    out, err = capsys.readouterr()
    scores = workdir / "scores" / "test"
    assert out.rstrip().endswith(f"Written to {scores}")
    assert out.startswith((scores / "table.md").read_text().rstrip())
    assert "[2/2] two: zwei: SDR vocals" in err
    summary = json.loads((scores / "summary.json").read_text())
    assert summary["checkpoint"] == {"step": 10, "valid_sdr": 1.0}
    assert summary["tracks"] == ["one", "two: zwei"] and summary["tracks_in_split"] == 2
    assert summary["command"] == f"python eval.py '--workdir={workdir}' --jobs=1"
    assert list(summary["baselines"]) == ["untouched mixture", "scaled mixture", "fixed equaliser", "IRM1 (oracle)"]
    columns = summary["scores"]["sdr_median_of_medians"]
    assert list(columns) == ["vocals", "accompaniment", "average"]
    baselines = {name: rows["sdr_median_of_medians"]["average"] for name, rows in summary["baselines"].items()}
    assert baselines["untouched mixture"] < baselines["scaled mixture"] < baselines["IRM1 (oracle)"]
    record = json.loads((scores / "one.json").read_text())
    metrics = record["targets"][0]["frames"][0]["metrics"]
    assert set(metrics) == set(museval.METRICS) and summary["missing"] == {}
    assert record["jaxsep"]["backend"] == summary["backend"] == "bsseval" and "museval_version" not in record
    assert "| SIR (median) " in out
    assert "sdr_median_of_medians" in (workdir / "MODEL_CARD.md").read_text()


def test_eval_without_ffmpeg(script, workdir, capsys, monkeypatch):
    """museval cannot be imported then, which only those who ask for it will notice: the rest is missing by name."""
    for name in ("museval", "musdb", "stempeg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert script.main([f"--workdir={workdir}", "--limit=1", "--checkpoint=last"]) == 0
    assert "| SIR (median) " in capsys.readouterr().out
    assert script.main([f"--workdir={workdir}", "--limit=1", "--checkpoint=last", "--backend=museval"]) == 0
    out, err = capsys.readouterr()
    assert "without ISR, SIR, SAR: museval cannot be used" in err
    summary = json.loads((workdir / "scores" / "test" / "summary.json").read_text())
    assert "ISR, SIR, SAR" in summary["missing"] and summary["checkpoint"]["step"] == 20
    assert "isr_median_of_medians" not in summary["scores"]
    assert "1 of 2 tracks" in out and "not here: ISR, SIR, SAR" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir={run}/songs"], "not a run folder"),
        (["--workdir={run}", "--checkpoint=15"], "no checkpoint 15"),
        (["--workdir={run}", "--data_root={run}/nowhere"], "is not a folder"),
        (["--workdir={run}", "--data_root={run}/checkpoints"], "no such folder"),
        (["--workdir={run}", "--mixture=original", "--out={run}/original"], "has no 'mixture'"),
    ],
)
def test_refusals_are_one_line(script, workdir, capsys, arguments, message):
    assert script.main([argument.format(run=workdir) for argument in arguments]) == 2
    _, err = capsys.readouterr()
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_another_data_set(script, workdir, tmp_path):
    """`--data_root` says what is scored: folders of stems or MUSDB18's files, whatever the run was trained on."""
    from jaxsep import config as configs

    data = configs.run_config(workdir).data
    assert splits.data_at(data, None) is data
    folder = splits.data_at(data, str(tmp_path))
    assert (folder.source, folder.root, folder.stems) == ("folder", str(tmp_path), data.stems)
    (tmp_path / "musdb" / "test").mkdir(parents=True)
    (tmp_path / "musdb" / "test" / "song.stem.mp4").touch()
    musdb18 = splits.data_at(data, str(tmp_path / "musdb"))
    assert musdb18.source == "musdb18" and splits.is_musdb18(musdb18)
    folder.root = str(tmp_path / "MUSDB18-HQ")
    assert splits.is_musdb18(folder) and not splits.is_musdb18(data)
    assert data.root == str(workdir / "songs")


def test_a_track_without_a_stem(script, workdir, capsys, tmp_path):
    song = tmp_path / "test" / "half a song"
    song.mkdir(parents=True)
    soundfile.write(song / "vocals.wav", np.zeros((100, 2)), 4000)
    assert script.main([f"--workdir={workdir}", f"--data_root={tmp_path}"]) == 2
    assert "half a song" in (err := capsys.readouterr().err) and "'drums'" in err
