"""What a run tells: `metrics.jsonl` always, a progress bar or plain lines, TensorBoard on request.

A line of `metrics.jsonl` is one JSON object {"step", "kind": "train" | "valid", numbers, "time": {...}}. All
that depends on the clock stands under "time", so the rest is the same for a run that was killed and resumed.
"""

import contextlib
import datetime
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxsep.errors import JaxsepError
from jaxsep.utilisation import Work
from jaxsep.workdir import unwritable


class MetricsFile:
    """`metrics.jsonl`, opened at a step: lines beyond it, from a run that went on and was killed, are dropped.

    Raises:
        JaxsepError: a line before the last cannot be read, or the file cannot be written.
    """

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= step]
        fresh = path.with_suffix(".jsonl.tmp")
        try:
            fresh.write_text("".join(kept))
            fresh.replace(path)
        except OSError as error:
            raise unwritable(path, error) from None

    def write(self, step: int, kind: str, numbers: Mapping[str, Any], clock: Mapping[str, float]) -> None:
        """Appends a line, so that SIGKILL cannot take it away any more.

        Raises:
            JaxsepError: the disk is full.
        """
        line = {"step": step, "kind": kind, **numbers, "time": {"unix": round(time.time(), 3), **clock}}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from None

    def sync(self) -> None:
        """Brings the lines to the disk, before the checkpoint that relies on them."""
        with self.path.open("a") as file:
            os.fsync(file.fileno())


class Silent:
    """Stands in for `MetricsFile` in processes that do not write: every method does nothing."""

    def write(self, step: int, kind: str, numbers: Mapping[str, Any], clock: Mapping[str, float]) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, [] when there is none; a torn last line, left by a kill, is left out.

    Raises:
        JaxsepError: another line cannot be read.
    """
    path = Path(path)
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is nothing, or torn
        try:
            records.append(json.loads(line))
        except ValueError:
            raise JaxsepError(f"{path}, line {number}: not a line of metrics; remove it") from None
    return records


class Window:
    """Means over the steps since the last train line. The sums belong to the state, so the checkpoint holds them.

    A number that is None in some steps is averaged over the others.
    """

    def __init__(self, state: Mapping[str, Any] | None = None):
        self.count: int = state["count"] if state else 0
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.missing: dict[str, int] = dict(state.get("missing", {})) if state else {}

    def add(self, numbers: Mapping[str, float | None]) -> None:
        """Joins a step."""
        self.count += 1
        for name, value in numbers.items():
            if value is None:
                self.missing[name] = self.missing.get(name, 0) + 1
            else:
                self.sums[name] = self.sums.get(name, 0.0) + value

    def state(self) -> dict[str, Any]:
        """JSON values from which `Window` goes on."""
        return {"count": self.count, "sums": self.sums} | ({"missing": self.missing} if self.missing else {})

    def take(self) -> dict[str, float]:
        """The means, and starts over."""
        means = {name: value / (self.count - self.missing.get(name, 0)) for name, value in self.sums.items()}
        self.count, self.sums, self.missing = 0, {}, {}
        return means


class Progress:
    """A bar on a terminal, plain lines elsewhere: loss, SDR, speed, what is waited for, time left.

    Args:
        step: from which the run goes on.
        steps: with which it ends.
        work: what a step does.
        out: where to, standard output by default.
    """

    def __init__(self, step: int, steps: int, work: Work, out: Any = None):
        self.out, self.steps, self.work = out or sys.stdout, steps, work
        self._first, self._start = step, time.perf_counter()
        self._line_step, self._line_time, self._waited = step, self._start, {"input": 0.0, "device": 0.0}
        self.shown: dict[str, float] = {}
        self._unreadable: dict[str, int] = {}
        self._bar = None
        if self.out.isatty():
            from tqdm import tqdm

            width, height = shutil.get_terminal_size()  # 80 x 24 where a terminal does not say
            self._bar = tqdm(total=steps, initial=step, unit="step", file=self.out, ncols=width, nrows=height)

    @contextlib.contextmanager
    def waiting(self, on: Literal["input", "device"]) -> Iterator[None]:
        """A stretch in which the loop waits for the next batch, or for the device to begin or to finish a step."""
        started = time.perf_counter()
        yield
        self._waited[on] += time.perf_counter() - started

    def unreadable(self, files: Mapping[str, tuple[str, int]]) -> None:
        """Names files that were skipped, each once, and counts the examples that were drawn anew because of them."""
        for file, (why, count) in sorted(files.items()):
            if file not in self._unreadable:
                print(f"unreadable, examples are drawn anew: {why}", file=sys.stderr, flush=True)
            self._unreadable[file] = count

    def step(self, step: int, **numbers: float) -> None:
        """A step is done; `numbers` replace those shown, e.g. loss or sdr."""
        self.shown |= numbers
        if self._bar is not None:
            speed = self.clock(step)
            text = {name: f"{value:.4g}" for name, value in self.shown.items()}
            text |= {"ex/s": f"{speed['examples_per_second']:.1f}", "wait": f"{speed['input_wait']:.0%}"}
            self._bar.set_postfix(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def clock(self, step: int) -> dict[str, float]:
        """Since the last line: seconds, what `Work.rates` says, and the shares of the time that the loop spent.

        `input_wait` is that of waiting for data, `device_wait` that of waiting for the device, `host` the rest.
        """
        seconds = max(time.perf_counter() - self._line_time, 1e-9)
        shares = {on: waited / seconds for on, waited in self._waited.items()}
        return {
            "seconds": round(seconds, 3),
            **self.work.rates((step - self._line_step) / seconds),
            "input_wait": round(shares["input"], 4),
            "device_wait": round(shares["device"], 4),
            "host": round(1 - sum(shares.values()), 4),
            **({"drawn_anew": sum(self._unreadable.values())} if self._unreadable else {}),
        }

    def line(self, step: int) -> dict[str, float]:
        """Ends a stretch of steps: prints it where there is no bar, and returns its clock."""
        clock = self.clock(step)
        if self._bar is None:
            left = (self.steps - step) * (time.perf_counter() - self._start) / max(step - self._first, 1)
            values = "  ".join(f"{name} {value:.4g}" for name, value in self.shown.items())
            eta = datetime.timedelta(seconds=math.ceil(left))
            print(f"step {step}/{self.steps}  {values}  {self._speed(clock)}  eta {eta}", file=self.out, flush=True)
        self.skip(step)
        return clock

    def _speed(self, clock: Mapping[str, float]) -> str:
        parts = [f"{clock['examples_per_second']:.1f} examples/s"]
        parts.append(f"{clock['audio_seconds_per_second']:.4g} audio s/s")
        if "flops_per_second" in clock:
            used = f" ({clock['utilisation']:.1%} of peak)" if "utilisation" in clock else ""
            parts.append(f"{clock['flops_per_second'] / 1e12:.3g} TFLOP/s{used}")
        if "device_memory" in clock:
            parts.append(f"{clock['device_memory'] / 2**30:.2f} GiB")
        parts += [f"{name.replace('_', ' ')} {clock[name]:.0%}" for name in ("input_wait", "device_wait", "host")]
        if self._unreadable:
            parts.append(f"unreadable files {len(self._unreadable)}  drawn anew {clock['drawn_anew']}")
        return "  ".join(parts)

    def valid(self, step: int, sdr: float) -> None:
        """A validation is done."""
        self.step(step, sdr=sdr)
        if self._bar is None:
            print(f"step {step}/{self.steps}  validation SDR {sdr:.2f} dB", file=self.out, flush=True)

    def skip(self, step: int) -> None:
        """Leaves what happened since the last line (compiling, validating, saving) out of the speed."""
        self._line_step, self._line_time = step, time.perf_counter()
        self._waited = dict.fromkeys(self._waited, 0.0)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


class TensorBoard:
    """Scalars, and audio and spectrograms of the validation excerpt, under `<workdir>/tensorboard`."""

    def __init__(self, workdir: Path, rate: int):
        import tensorflow as tf

        self._summary, self._rate = tf.summary, rate
        self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))

    def scalars(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """One point per number."""
        with self._writer.as_default(step=step):
            for name, value in numbers.items():
                self._summary.scalar(f"{kind}/{name}", value)

    def excerpt(self, step: int, waves: Mapping[str, np.ndarray]) -> None:
        """Waves [t c] as players and as log-magnitude spectrograms."""
        with self._writer.as_default(step=step):
            for name, wave in waves.items():
                self._summary.audio(name, wave[None], self._rate)
                self._summary.image(f"{name}/spectrogram", picture(wave)[None, :, :, None])
        self._writer.flush()


def picture(wave: np.ndarray, frame: int = 1024, floor: float = -80.0) -> np.ndarray:
    """Log-magnitude spectrogram of a wave [t c] as a grey picture [f n] in [0, 1], low frequencies at the bottom.

    1 is the level of a full-scale sine, 0 is `floor` dB below it; hop is half a frame.
    """
    mono = np.pad(wave.mean(axis=1), (0, frame))
    frames = np.lib.stride_tricks.sliding_window_view(mono, frame)[:: frame // 2] * np.hanning(frame)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames)) * 4 / frame + 1e-9)
    return np.clip(1 - level / floor, 0, 1).astype(np.float32).T[::-1]
