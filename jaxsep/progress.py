"""How far `jaxsep separate` is: a line on a terminal, JSON lines for other programs, or nothing."""

import json
import sys
import time
from io import TextIOBase
from typing import Any

MODES = ("auto", "json", "none")
INTERVAL = 0.2  # seconds between two lines


class Progress:
    """Progress of one song after the other.

    JSON goes to stdout, one object per line: {"file", "state": "running" | "done" | "failed", "done_seconds",
    "total_seconds", "fraction"}, the last two null where the length is unknown; "done" adds "outputs", "remark" and
    "time" (seconds it took), "failed" adds "error". On a terminal, stderr shows a percentage that rewrites itself.
    In a log there is one line per finished song, on stdout; failures are lines on stderr.

    Args:
        mode: "auto", "json" or "none" (finished songs and failures only).
        out: stdout, for tests.
        err: stderr, for tests.
    """

    def __init__(self, mode: str = "auto", out: TextIOBase | None = None, err: TextIOBase | None = None):
        self._out, self._err = out or sys.stdout, err or sys.stderr
        self._json = mode == "json"
        self._live = mode == "auto" and self._err.isatty()

    def start(self, file: str, total: float | None) -> None:
        """A song of `total` seconds (None = unknown) begins."""
        self._file, self._total = file, total
        self._begun, self._last = time.monotonic(), 0.0
        self.update(0.0)

    def update(self, done: float) -> None:
        """So many seconds of the song are separated."""
        now = time.monotonic()
        if now - self._last < INTERVAL:
            return
        self._last = now
        if self._json:
            self._line("running", done)
        elif self._live:
            took = now - self._begun
            speed = f", {done / took:.1f} times real time" if done and took else ""
            share = f"{100 * done / self._total:3.0f} %" if self._total else clock(done)
            self._err.write(f"\r{self._file}: {share}{speed}\x1b[K")
            self._err.flush()

    def done(self, seconds: float, outputs: list[str], remark: str) -> None:
        """The song, `seconds` long, is finished and its files are in place."""
        took = time.monotonic() - self._begun
        self._total = seconds
        if self._json:
            self._line("done", seconds, outputs=outputs, remark=remark, time=round(took, 3))
            return
        self._clear()
        text = f"{self._file}: {clock(seconds)} in {took:.1f} s -> {', '.join(outputs)}"
        print(text + (f" ({remark})" if remark else ""), file=self._out, flush=True)

    def failed(self, file: str, error: str) -> None:
        """The song could not be separated."""
        if self._json:
            print(json.dumps({"file": file, "state": "failed", "error": error}), file=self._out, flush=True)
        self._clear()
        print(f"jaxsep: error: {error}", file=self._err, flush=True)

    def _clear(self) -> None:
        if self._live:
            self._err.write("\r\x1b[K")
            self._err.flush()

    def _line(self, state: str, done: float, **more: Any) -> None:
        fraction = min(done / self._total, 1.0) if self._total else None
        line = {
            "file": self._file,
            "state": state,
            "done_seconds": round(done, 3),
            "total_seconds": self._total and round(self._total, 3),
            "fraction": fraction and round(fraction, 4),
        }
        print(json.dumps(line | more), file=self._out, flush=True)


def clock(seconds: float) -> str:
    """`3:05`, or `1:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
