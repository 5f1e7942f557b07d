"""docs/own-stems.md: every command of the page, in its order, on songs of a second and with a net of a few weights."""

import importlib.util
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxsep.cli import main

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own-stems.md"
STEMS = ("guitar", "keys", "drums")
RATE = 8000
TINY = [
    f"--config.sample_rate={RATE}",
    "--config.model.channels=(2, 4)",
    "--config.front.frame=64",
    "--config.front.hop=16",
    "--config.front.bins=16",
    "--config.block=8",
    "--config.data.segment=64",
    "--config.inference.segment=0.5",
    "--config.optim.schedule.warmup=0",
    "--config.steps=2",
]


spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)


def commands():
    """The indented lines of the page that are commands."""
    lines = [line.strip() for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    return [shlex.split(line) for line in lines]


def test_the_page_goes_all_the_way():
    assert [command[:3] for command in commands()] == [
        ["jaxsep", "data", "check"],
        ["python", "train.py", "--config=configs/spleeter.py:rendered"],
        ["python", "train.py", "--config=configs/spleeter.py:rendered"],
        ["python", "eval.py", "--workdir=runs/tuned"],
        ["jaxsep", "separate", "song.wav"],
    ]


@pytest.fixture
def songs(tmp_path):
    """What the page says that a reader has: stems, and a song to separate."""
    for number, (split, name) in enumerate((("train", "a"), ("train", "b"), ("valid", "c"), ("test", "d"))):
        folder = tmp_path / "stems" / split / name
        folder.mkdir(parents=True)
        for index, stem in enumerate(STEMS):
            wave = 0.1 * np.random.default_rng([number, index]).standard_normal((3 * RATE, 2))
            soundfile.write(folder / f"{stem}.wav", wave, RATE)
    wave = 0.1 * np.random.default_rng(9).standard_normal((RATE + 123, 2))
    soundfile.write(tmp_path / "song.wav", wave, RATE)
    return tmp_path


@pytest.mark.full
def test_every_command_of_the_page(songs, monkeypatch, capsys, script):
    monkeypatch.chdir(songs)
    for program, *arguments in commands():
        if program == "jaxsep":
            assert main(arguments) == 0
        elif arguments[0] == "eval.py":
            assert script.main(arguments[1:]) == 0
        else:
            assert train.main([*arguments, *TINY]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("no problems\n") and "| scaled mixture" in printed
    start = json.loads((songs / "runs" / "tuned" / "run.json").read_text())
    assert "runs/own" in json.dumps(start)
    scores = json.loads((songs / "runs" / "tuned" / "scores" / "test" / "summary.json").read_text())
    assert scores["tracks"] == ["d"] and set(STEMS) < set(scores["scores"]["sdr_median_of_medians"])
    written = {path.stem: soundfile.read(path)[0] for path in (songs / "out" / "song").iterdir()}
    assert set(written) == set(STEMS)
    assert all(wave.shape == (RATE + 123, 2) and wave.any() for wave in written.values())
