"""The demo runs its stages in order, stops at the first that fails, and reports what they left."""

import base64
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from io import BytesIO

import browser
import numpy as np
import pytest
import soundfile
import test_report_browser

import jaxsep
from jaxsep import demo
from jaxsep.config import load_config, to_json
from jaxsep.data import example

RATE = 44100
SOURCES = ("vocals", "drums", "bass", "other")


class Quarter:
    """A model that hears a quarter of the mixture in every source."""

    def separate(self, audio, rate):
        assert rate == RATE and audio.shape == (12 * RATE, 2)
        return {source: np.float32(0.25) * audio for source in SOURCES}


def clips(song: str) -> dict[str, np.ndarray]:
    """The clips in the HTML of a song, by their labels."""
    found = re.findall(r'<audio[^>]* aria-label="([^"]*)"[^>]* src="data:audio/flac;base64,([^"]*)"', song)
    waves = {label: soundfile.read(BytesIO(base64.b64decode(data))) for label, data in found}
    assert {rate for _, rate in waves.values()} == {RATE}
    return {label: wave for label, (wave, _) in waves.items()}


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Stages that leave what train.py, eval.py and `jaxsep separate` would; the commands that were run."""
    folder, commands = tmp_path / "run ü", []

    def run(command, cwd, stdout):
        assert cwd == demo.ROOT
        commands.append(command)
        if "train.py" in command:
            config = load_config("configs/spleeter.py:demo")
            with config.unlocked():
                config.data.songs = {"train": 1, "valid": 1, "test": 1, "seconds": 12.0, "seed": 0}
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(to_json(config))
            line = {"step": 1, "kind": "valid", "loss": 1.0, "sdr": 2.0, "time": {}}
            (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        elif "eval.py" in command:
            (folder / "scores" / "test").mkdir(parents=True, exist_ok=True)
            (folder / "scores" / "test" / "table.md").write_text("| the table |\n")
        else:
            song = command[command.index("separate") + 1]
            mixture = jaxsep.audio.read(song)[0]
            for source in SOURCES:
                path = folder / "separated" / "The Easton Ellises - Falcon 69" / f"{source}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.5 * mixture, RATE, subtype="FLOAT")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(jaxsep, "load", lambda run: Quarter())
    return folder, commands


def test_the_demo_tells_all_stages(stages, capsys):
    folder, commands = stages
    if importlib.util.find_spec("stempeg") is None:
        pytest.skip("stempeg, which brings the real excerpt, is not installed")
    assert demo.main(["--workdir", str(folder), "--config.steps=20"]) == 0

    assert commands[0] == [
        sys.executable, "train.py", "--config=configs/spleeter.py:demo", f"--workdir={folder}", "--config.steps=20",
    ]  # fmt: skip
    assert commands[1] == [sys.executable, "eval.py", f"--workdir={folder}"]
    assert commands[2][:2] == [sys.executable, "-c"] and "separate" in commands[2]
    out = capsys.readouterr().out
    assert out.endswith(f"\n| the table |\n\nThe report: {folder / 'report' / 'index.html'}\n")

    report = folder / "report"
    page = (report / "index.html").read_text()
    assert page.index("The Easton Ellises - Falcon 69</h3>") < page.index("(held out)</h3>")
    assert "never a recording" in page and "--config.steps=20" in page and "jaxsep separate" in page
    stems, _ = jaxsep.audio.read_stems(example.excerpt())
    excerpt, held_out = (clips(song) for song in page.split("<article")[1:])
    np.testing.assert_allclose(excerpt["mixture"], stems["mixture"] / 32768, atol=2 / 32768)
    np.testing.assert_allclose(excerpt["vocals, reference"], stems["vocals"] / 32768, atol=2 / 32768)
    assert held_out["mixture"].shape == (10 * RATE, 2) and np.abs(held_out["mixture"]).max() > 0.01
    references = [held_out[f"{source}, reference"] for source in SOURCES]
    np.testing.assert_allclose(sum(references), held_out["mixture"], atol=5 / 32768)  # the same ten seconds
    np.testing.assert_allclose(held_out["vocals, spleeter:demo"], held_out["mixture"] / 4, atol=2 / 32768)


def test_without_the_excerpt_it_says_so_and_goes_on(stages, capsys, monkeypatch):
    folder, commands = stages
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.main(["--workdir", str(folder)]) == 0
    assert len(commands) == 2 and "3/4 No real recording was separated: " in capsys.readouterr().out
    page = (folder / "report" / "index.html").read_text()
    assert "No real recording was separated" in page and "Falcon" not in page


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failing_stage_ends_it_with_one_line(tmp_path, capsys, monkeypatch, failing):
    commands = []

    def run(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 2 if len(commands) > failing else 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert demo.main(["--workdir", str(tmp_path)]) == 2
    assert len(commands) == failing + 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "ended with status 2" in lines[0] and f"stage {failing + 1}/4" in lines[0]


def test_strange_arguments_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--step=3"])
    assert stopped.value.code == 2
    assert "'--step=3' is no argument" in capsys.readouterr().err


SMALL = (
    "--config.data.songs.train=2", "--config.data.songs.valid=1", "--config.data.songs.test=1",
    "--config.data.songs.seconds=12.0", "--config.steps=4", "--config.eval_every=2",
    "--config.optim.schedule.warmup=1", "--config.model.channels=(4,8)",
)  # fmt: skip


@pytest.mark.full
def test_the_whole_demo_runs_and_goes_on(tmp_path):
    command = [sys.executable, "-m", "jaxsep.demo", f"--workdir={tmp_path}", *SMALL]
    for _ in range(2):
        done = subprocess.run(command, cwd=demo.ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        page = (tmp_path / "report" / "index.html").read_text()
        assert "IRM1 (oracle)" in done.stdout and "IRM1 (oracle)" in page
        shutil.rmtree(tmp_path / "report")
    assert "finished at step 4" in done.stdout


@pytest.mark.full
@pytest.mark.skipif(bool(browser.MISSING), reason=f"no {' and no '.join(browser.MISSING)} on this machine")
def test_the_page_of_the_demo_passes_in_a_browser(tmp_path):
    command = [sys.executable, "-m", "jaxsep.demo", f"--workdir={tmp_path / 'run'}", *SMALL]
    subprocess.run(command, cwd=demo.ROOT, check=True, capture_output=True)
    with test_report_browser.Window(tmp_path / "profile") as window:
        test_report_browser.passes(window, tmp_path / "run" / "report" / "index.html")
