"""What a run tells, and what is left of it after a kill."""

import io
import json

import numpy as np
import pytest

from jaxsep import log
from jaxsep.errors import JaxsepError
from jaxsep.utilisation import Work


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def filled(path):
    metrics = log.MetricsFile(path, 0)
    for step in (2, 4, 6):
        metrics.write(step, "train", {"loss": 1 / step}, {"seconds": 0.5})
    metrics.write(6, "valid", {"sdr": 3.0}, {})
    return path


def test_one_object_per_line_with_the_clock_under_time(tmp_path):
    first, *_, last = lines(filled(tmp_path / "metrics.jsonl"))
    assert list(first) == ["step", "kind", "loss", "time"]
    assert (first["step"], first["kind"], first["loss"], first["time"]["seconds"]) == (2, "train", 0.5, 0.5)
    assert last["kind"] == "valid" and last["sdr"] == 3.0


def test_lines_beyond_the_checkpoint_are_dropped(tmp_path):
    path = filled(tmp_path / "metrics.jsonl")
    kept = path.read_text().splitlines()[:2]
    metrics = log.MetricsFile(path, 5)
    assert path.read_text().splitlines() == kept
    metrics.write(6, "train", {"loss": 0.25}, {})
    assert [line["step"] for line in lines(path)] == [2, 4, 6]
    log.MetricsFile(path, 6)
    assert [line["step"] for line in lines(path)] == [2, 4, 6]
    log.MetricsFile(path, 0)
    assert path.read_text() == ""


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = filled(tmp_path / "metrics.jsonl")
    path.write_bytes(path.read_bytes()[:-cut])
    assert [line["step"] for line in log.read_metrics(path)] == [2, 4, 6]
    log.MetricsFile(path, 6).write(8, "train", {"loss": 0.0}, {})
    assert [line["step"] for line in lines(path)] == [2, 4, 6, 8]


def test_another_damaged_line_is_named(tmp_path):
    path = filled(tmp_path / "metrics.jsonl")
    path.write_text(path.read_text().replace('{"step": 4', '{"step: 4'))
    with pytest.raises(JaxsepError, match=r"metrics\.jsonl, line 2: not a line of metrics"):
        log.MetricsFile(path, 6)


def test_unwritable_metrics(tmp_path):
    with pytest.raises(JaxsepError, match=r"metrics\.jsonl: cannot be written"):
        log.MetricsFile(tmp_path / "missing" / "metrics.jsonl", 0)


def test_a_window_goes_on_where_its_state_was_saved():
    whole, first = log.Window(), log.Window()
    values = [0.1, 0.7, -3.0]
    for value in values:
        whole.add({"loss": value, "loss/vocals": 2 * value})
    first.add({"loss": 0.1, "loss/vocals": 0.2})
    second = log.Window(json.loads(json.dumps(first.state())))
    for value in values[1:]:
        second.add({"loss": value, "loss/vocals": 2 * value})
    taken = whole.take()
    assert second.take() == taken
    assert taken["loss"] == (0.1 + 0.7 + -3.0) / 3
    whole.add({"loss": 5.0})
    assert whole.take() == {"loss": 5.0}


def test_a_number_that_a_step_does_not_have_is_averaged_over_the_others():
    window = log.Window()
    for norm in (None, 2.0, None, 5.0):
        window.add({"loss": 1.0, "grad_norm": norm})
        window = log.Window(json.loads(json.dumps(window.state())))
    assert window.take() == {"loss": 1.0, "grad_norm": 3.5}
    window.add({"loss": 2.0, "grad_norm": None})
    assert window.take() == {"loss": 2.0}
    window.add({"loss": 2.0, "grad_norm": 4.0})
    assert window.state() == {"count": 1, "sums": {"loss": 2.0, "grad_norm": 4.0}}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Device:
    """An accelerator that says how much memory it has held."""

    def __init__(self, peak):
        self.peak = peak

    def memory_stats(self):
        return {"peak_bytes_in_use": self.peak, "bytes_in_use": 1} if self.peak else None


@pytest.fixture
def now(monkeypatch):
    """The clock of the log, which a test sets forward."""
    time = [100.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: time[0])
    return time


def test_plain_lines_where_there_is_no_terminal(now):
    out = io.StringIO()
    progress = log.Progress(10, 40, Work(4, 2.5), out)
    for step in (11, 12):
        with progress.waiting("input"):
            now[0] += 0.25
        with progress.waiting("device"):
            now[0] += 0.6
        now[0] += 0.15
        progress.step(step, loss=0.5)
    progress.line(12)
    progress.valid(12, 7.25)
    progress.step(13)
    progress.line(13)
    progress.close()
    printed = out.getvalue().splitlines()
    speed = "4.0 examples/s  10 audio s/s  input wait 25%  device wait 60%  host 15%"
    assert printed[0] == f"step 12/40  loss 0.5  {speed}  eta 0:00:28"
    assert printed[1] == "step 12/40  validation SDR 7.25 dB"
    assert printed[2].startswith("step 13/40  loss 0.5  sdr 7.25  ")


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    out = Terminal()
    progress = log.Progress(10, 40, Work(4, 1.0), out)
    progress.step(20, loss=0.5)
    progress.valid(20, 7.25)
    progress.line(20)
    progress.close()
    last = out.getvalue().split("\r")[-1]
    for text in ("20/40", "50%", "loss=0.5", "sdr=7.25", "ex/s=", "wait=", "<"):
        assert text in last, last


def test_time_spent_elsewhere_is_left_out(now):
    progress = log.Progress(0, 10, Work(8, 0.5), io.StringIO())
    with progress.waiting("device"):
        now[0] += 50  # compiling
    progress.skip(0)
    now[0] += 1.25
    with progress.waiting("input"):
        now[0] += 0.5
    with progress.waiting("device"):
        now[0] += 0.25
    clock = progress.line(4)
    assert clock == {
        **{"seconds": 2.0, "examples_per_second": 16.0, "audio_seconds_per_second": 8.0},
        **{"input_wait": 0.25, "device_wait": 0.125, "host": 0.625},
    }


def test_arithmetic_and_memory_of_each_device(now):
    out = io.StringIO()
    work = Work(8, 0.5, flops=3e12, peak=12e12, memory=2**30, devices=[Device(2**31), Device(2**32)])
    progress = log.Progress(0, 10, work, out)
    now[0] += 4
    clock = progress.line(8)
    assert (clock["flops_per_second"], clock["utilisation"], clock["device_memory"]) == (6e12, 0.5, 2**32)
    assert "  6 TFLOP/s (50.0% of peak)  4.00 GiB  " in out.getvalue()
    now[0] += 4
    progress.work = Work(8, 0.5, flops=3e12, memory=2**30, devices=[Device(None)])
    clock = progress.line(16)
    assert clock["device_memory"] == 2**30 and clock["flops_per_second"] == 6e12
    assert "utilisation" not in clock and "  6 TFLOP/s  1.00 GiB  " in out.getvalue()


def test_the_picture_has_a_line_where_the_tone_is():
    rate, frame = 8000, 1024
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate).astype(np.float32)
    picture = log.picture(np.stack([tone, tone], axis=1), frame)
    assert picture.shape == (frame // 2 + 1, 16) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    row = frame // 2 - 1000 * frame // rate  # low frequencies at the bottom
    middle = picture[:, 8]
    assert middle.argmax() == row and middle[row] > 0.99 and middle[row - 100] < 0.1 and middle[row + 100] < 0.1


def test_tensorboard_gets_scalars_audio_and_pictures(tmp_path):
    board = log.TensorBoard(tmp_path, 8000)
    board.scalars(3, "train", {"loss": 0.5})
    board.excerpt(3, {"vocals/estimate": np.zeros((8000, 2), np.float32)})
    (events,) = (tmp_path / "tensorboard").iterdir()
    written = events.read_bytes()
    for text in (b"train/loss", b"vocals/estimate", b"vocals/estimate/spectrogram", b"RIFF", b"PNG"):
        assert text in written, text
