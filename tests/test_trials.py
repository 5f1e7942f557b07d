"""Trials: the range test on a parabola whose diverging rate is known, learning one batch, and their command line."""

import csv
import importlib.util
import io
import math
import os
from pathlib import Path

import numpy as np
import pytest

from jaxsep import determinism, losses, trials
from jaxsep.errors import JaxsepError

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
assert spec is not None and spec.loader is not None
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)


class Parabola:
    """Gradient descent on h w^2 / 2, which diverges beyond a learning rate of 2 / h."""

    def __init__(self, h, start=3.0):
        self.h, self.w, self.seen = h, start, []

    def __call__(self, rate):
        loss = self.h * self.w**2 / 2 if abs(self.w) < 1e150 else math.inf
        self.w -= rate * self.h * self.w
        self.seen.append(loss)
        return loss


@pytest.mark.parametrize("h", [0.7, 40.0, 900.0])
def test_the_range_test_finds_where_a_parabola_diverges(h):
    parabola = Parabola(h)
    tried = trials.search(parabola, trials.RATES)
    rates, values = (np.array(column) for column in zip(*tried, strict=True))
    # Each loss stands beside the rate of the step that led to it: 3 prod (1 - h rate).
    closed = h / 2 * (3 * np.cumprod(1 - h * rates)) ** 2
    np.testing.assert_allclose(values, closed, rtol=1e-6)
    best = rates[int(np.argmin(values))]
    assert best <= 2 / h < best * (trials.RATES[1] / trials.RATES[0]) * 1.0001
    smooth = trials.smoothed(values.tolist())
    found = trials.suggestion(rates.tolist(), smooth)
    assert found is not None  # a tenth of 2 / h, up to half the width of the mean
    assert abs(math.log(10 * found * h / 2)) < trials.WIDTH / 2 * math.log(trials.RATES[1] / trials.RATES[0])
    assert trials.suggestion(rates[:3].tolist(), [1.0, 2.0, 3.0]) is None


def test_the_search_ends_where_the_loss_is_not_finite():
    parabola = Parabola(1e6)
    tried = trials.search(parabola, trials.RATES)
    assert len(tried) < len(trials.RATES) - 1 and math.isfinite(tried[-1][1])
    assert not math.isfinite(parabola.seen[-1]) and len(parabola.seen) == len(tried) + 2


def test_rates_grow_exponentially_and_losses_are_smoothed_around_each():
    ratios = np.divide(trials.RATES[1:], trials.RATES[:-1])
    np.testing.assert_allclose(ratios, ratios[0])
    assert (trials.RATES[0], trials.RATES[-1]) == (pytest.approx(1e-7), pytest.approx(10))
    line = [float(n) for n in range(30)]
    assert trials.smoothed(line)[4:-4] == pytest.approx(line[4:-4])  # no lag
    step = [0.0] * 15 + [9.0] * 15
    assert trials.smoothed(step)[10:20] == pytest.approx([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])


SETTINGS = {
    "sources": "vocals",
    "sample_rate": 8000,
    "channels": 1,
    "data.resample": True,
    "block": 8,
    "front.frame": 64,
    "front.hop": 16,
    "front.bins": 32,
    "model.channels": "(8,16)",
    "model.batch_norm": "frozen",
    "data.segment": 64,
    "data.batch_size": 4,
    "data.songs.train": 1,
    "data.songs.seconds": 3.0,
    "optim.learning_rate": 1e-2,
    "optim.schedule.name": "constant",
    "steps": 400,
}


def command(workdir, *more):
    words = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    return ["train.py", "--config=configs/spleeter.py:demo", f"--workdir={workdir}", *words, *more]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of all trials: the songs are made once."""
    return tmp_path_factory.mktemp("trials")


def test_a_batch_is_learned_or_not(workdir, capsys):
    assert train.main(command(workdir, "--overfit=0.5")) == 0
    lines = capsys.readouterr().out.splitlines()
    begun = next(line for line in lines if line.startswith("step 0:"))
    first, goal = (float(begun.split()[i].rstrip(",")) for i in (3, 7))
    assert goal == pytest.approx(first / 2, rel=1e-3) and "the batch is learned" in lines[-1]
    assert float(lines[-1].split()[3].rstrip(":")) <= goal
    assert train.main(command(workdir, "--overfit", "--config.optim.learning_rate=1e-9", "--config.steps=3")) == 1
    assert "not learned: the loss did not fall" in capsys.readouterr().out
    assert {path.name for path in workdir.iterdir()} <= {"songs", "rates.csv"}  # no run is begun


def test_a_learning_rate_is_found(workdir, capsys):
    assert train.main(command(workdir, "--find-rate")) == 0
    said = capsys.readouterr().out
    rate = float(said.partition("--config.optim.learning_rate=")[2].partition(";")[0])
    rows = list(csv.DictReader(io.StringIO((workdir / "rates.csv").read_text())))
    assert len(rows) <= len(trials.RATES) - 1
    smallest = min(rows, key=lambda row: float(row["smoothed"]))
    assert rate == pytest.approx(float(smallest["learning_rate"]) / 10, rel=0.05)
    values = [float(row["loss"]) for row in rows]
    assert [float(row["smoothed"]) for row in rows] == pytest.approx(trials.smoothed(values), rel=1e-4)
    assert min(values) < 0.9 * np.mean(values[:20])


def test_losses_say_whether_they_are_in_decibels():
    decibels = {name for name in losses.LOSSES if losses.build({"name": name}).decibels}
    assert decibels == {"si_sdr", "si_snr"}
    assert losses.Permuted(losses.build({"name": "si_sdr"})).decibels
    assert not losses.Permuted(losses.build({"name": "wave_l1"})).decibels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--overfit=1.5"], "--overfit=1.5: expected the fraction to which the loss is to fall"),
        (["--overfit=none"], "--overfit=none: expected the fraction"),
        (["--overfit", "--find-rate"], "one trial at a time"),
    ],
)
def test_a_trial_that_makes_no_sense_is_refused(words, message):
    with pytest.raises(JaxsepError, match=message):
        trials.take(["train.py", *words])
    trial, words = trials.take(["train.py", "--workdir=x"])
    assert trial is None and words == ["train.py", "--workdir=x"]


def test_a_trial_without_memory_is_one_line_and_every_start_takes_the_flags_of_its_config(workdir, capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    seen = []

    def exhausted(config, folder):
        seen.append(os.environ["XLA_FLAGS"])
        raise MemoryError

    monkeypatch.setattr(trials, "_prepare", exhausted)
    assert train.main(command(workdir, "--overfit", "--config.deterministic=True")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory with data.batch_size=4") and seen == [determinism.FLAG]
