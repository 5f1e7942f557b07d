"""eval.py with --baseline in place of a model, and with --phase."""

import json

import jax
import numpy as np
import pytest
import soundfile

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.checkpoint import Checkpoints

RATE = 4000
STEMS = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run folder with a tiny untrained net for vocals and accompaniment at 2 kHz, and songs at 4 kHz."""
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    for split, name in (("train", "t"), ("test", "one"), ("test", "two")):
        song = folder / "songs" / split / name
        song.mkdir(parents=True)
        for stem in STEMS:
            soundfile.write(song / f"{stem}.wav", random.uniform(-0.2, 0.2, (2 * RATE, 2)), RATE)
    config = configs.load_config("configs/spleeter.py:demo")
    with config.unlocked():
        config.data.source, config.data.root = "folder", str(folder / "songs")
        config.sources = "vocals,accompaniment=drums+bass+other"
        config.sample_rate, config.channels, config.model.channels = RATE // 2, 2, (2, 4)
        config.front.frame, config.front.hop, config.front.bins = 256, 64, 128
        config.block, config.inference.segment = 0, 0.8
    (folder / "config.json").write_text(configs.to_json(config))
    net = separator.build(config)
    init = jax.jit(net.init, static_argnums=(2, 3))
    variables = init(jax.random.key(0), jax.numpy.zeros((1, RATE, 2)), None, False)
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(10, dict(variables), {}, 1.0)
        checkpoints.wait()
    return folder


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def frames_of(folder, name="one"):
    targets = json.loads((folder / f"{name}.json").read_text())["targets"]
    return {target["name"]: [frame["metrics"]["SDR"] for frame in target["frames"]] for target in targets}


@pytest.mark.parametrize(
    ("name", "row"), [("mixture", "untouched mixture"), ("scaled-mixture", "scaled mixture"), ("irm1", "IRM1 (oracle)")]
)
def test_a_baseline_in_place_of_the_model(script, workdir, capsys, name, row):
    """Scored like a model, it has the scores that it has as company of a model."""
    assert script.main([f"--workdir={workdir}", f"--baseline={name}", "--backend=sdr"]) == 0
    out, _ = capsys.readouterr()
    folder = workdir / "baselines" / name / "test"
    summary = summary_of(folder)
    assert summary["system"] == f"baseline {name}" and f"| **baseline {name}** " in out
    assert "checkpoint" not in summary and summary["missing"] == {} and summary["rate"] == RATE // 2
    assert summary["tracks"] == ["one", "two"]
    company = json.loads((folder / "one.json").read_text())["jaxsep"]["baselines"][row]
    assert frames_of(folder) == company
    headline = "sdr_median_of_medians"
    assert summary["scores"][headline] == pytest.approx(summary["baselines"][row][headline], abs=1e-9)
    assert not (workdir / "MODEL_CARD.md").exists()


def test_a_baseline_without_a_run(script, workdir, capsys, tmp_path, monkeypatch):
    """Songs at their own rate; sources are what the baseline gives."""
    monkeypatch.chdir(tmp_path)
    data = f"--data_root={workdir / 'songs'}"
    assert script.main(["--baseline=mid-side", data, "--backend=sdr"]) == 0
    folder = tmp_path / "scores" / "mid-side" / "test"
    summary = summary_of(folder)
    assert list(summary["scores"]["sdr_whole_track"]) == ["vocals", "accompaniment", "average"]
    assert summary["rate"] is None and list(summary["missing"]) == ["fixed equaliser"]
    stems = {stem: soundfile.read(workdir / "songs" / "test" / "one" / f"{stem}.wav")[0] for stem in STEMS}
    middle = np.repeat(sum(stems.values()).mean(axis=1, keepdims=True), 2, axis=1)
    expected = [
        10 * np.log10(np.sum(true**2) / np.sum((true - found) ** 2))
        for true, found in zip(np.split(stems["vocals"], 2), np.split(middle, 2), strict=True)
    ]
    assert frames_of(folder)["vocals"] == pytest.approx(expected, abs=1e-4)

    assert script.main(["--baseline=ibm2", data, "--backend=sdr", "--limit=1"]) == 0
    assert list(frames_of(tmp_path / "scores" / "ibm2" / "test")) == list(STEMS)
    capsys.readouterr()
    assert script.main(["--baseline=ibm2", data, "--backend=sdr"]) == 0
    assert capsys.readouterr().err.count("scored before") == 1  # it goes on where it stopped
    assert script.main(["--baseline=irm2", data, "--backend=sdr", "--out=scores/ibm2/test"]) == 0
    assert "scored before" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baseline=irm3", "--data_root={run}/songs"], "'irm3' is unknown, expected one of mixture, sisec-mix, "),
        (["--baseline=hpss", "--workdir={run}"], "hpss gives drums, not vocals, accompaniment; without --workdir"),
        (["--baseline=irm1", "--data_root={run}/nowhere"], "is not a folder"),
    ],
)
def test_refusals_are_one_line(script, workdir, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert script.main([argument.format(run=workdir) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir is required"),
        (["--baseline=irm1"], "--workdir is required, unless there are --baseline and --data_root"),
        (["--baseline=irm1", "--workdir=x", "--checkpoint=best"], "neither a --checkpoint nor a --phase"),
        (["--baseline=irm1", "--workdir=x", "--phase=mixture"], "neither a --checkpoint nor a --phase"),
        (["--workdir=x", "--phase=zero"], "invalid choice: 'zero'"),
    ],
)
def test_arguments_that_do_not_go_together(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        script.main(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_phase(script, workdir, capsys, tmp_path):
    common = [f"--workdir={workdir}", "--backend=sdr", "--limit=1"]
    for rate in ("model", "song"):
        plain, mixture, ideal = (tmp_path / f"{rate} {name}" for name in ("plain", "mixture", "ideal"))
        assert script.main([*common, f"--rate={rate}", f"--out={plain}"]) == 0
        assert script.main([*common, f"--rate={rate}", f"--out={mixture}", "--phase=mixture"]) == 0
        assert script.main([*common, f"--rate={rate}", f"--out={ideal}", "--phase=ideal"]) == 0
        assert (plain / "one.json").read_bytes() == (mixture / "one.json").read_bytes()
        for source, frames in frames_of(ideal).items():
            assert np.all(np.array(frames) > np.array(frames_of(plain)[source]) + 0.3)
        assert summary_of(ideal)["system"] == f"{summary_of(plain)['system']} with ideal phase"
        assert summary_of(ideal)["checkpoint"]["step"] == 10

    capsys.readouterr()
    assert script.main([*common, "--phase=ideal"]) == 0
    folder = workdir / "scores" / "test-ideal-phase"
    assert f"Written to {folder}" in (out := capsys.readouterr().out) and " with ideal phase, step 10** |" in out
    assert "published" not in out.lower()  # no paper was told the phases
    assert frames_of(folder) == frames_of(tmp_path / "model ideal")
    assert not (workdir / "scores" / "test").exists()


def test_ideal_phase_of_a_system_with_phases_of_its_own(script, workdir, capsys, tmp_path):
    for part in ("checkpoints", "songs"):
        (tmp_path / part).symlink_to(workdir / part)
    config = json.loads((workdir / "config.json").read_text())
    config["head"] = {"name": "map"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert script.main([f"--workdir={tmp_path}", "--phase=ideal"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --phase=ideal is for systems that estimate magnitudes") and "head Map" in line
