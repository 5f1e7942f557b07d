"""A trace of some steps, on request: what host and devices did in them, operation by operation."""

import contextlib
import re
from pathlib import Path

import jax

from jaxsep.errors import JaxsepError

FOLDER = "profile"  # of the run folder; TensorBoard's profile plugin and Perfetto read what is in it


class Profile:
    """Traces a stretch of steps into `<workdir>/profile`; a step is one event `train` with its number.

    Args:
        workdir: the run folder.
        steps: those that are traced, "100,5" for 100 to 104, "100" for one; "" for none.
        start: the step that the run goes on from.
        end: its last.

    Raises:
        JaxsepError: not of that form, or the run has no such steps.
    """

    def __init__(self, workdir: Path, steps: str, start: int, end: int):
        self.folder = workdir / FOLDER
        self._running, self._first, self._last = False, 0, 0
        if not steps:
            return
        match = re.fullmatch(r"([1-9]\d*)(?:,([1-9]\d*))?", steps)
        if match is None:
            raise JaxsepError(f"--profile={steps}: expected FIRST or FIRST,COUNT, both from 1, as in --profile=100,5")
        self._first = int(match[1])
        self._last = self._first + int(match[2] or 1) - 1
        if not start < self._first <= self._last <= end:
            raise JaxsepError(
                f"--profile={steps}: steps {self._first} to {self._last}, but this start runs {start + 1} to {end}"
            )

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def step(self, number: int) -> contextlib.AbstractContextManager[None]:
        """Around what the host does to start a step."""
        if number == self._first:
            jax.profiler.start_trace(self.folder)
            self._running = True
        return jax.profiler.StepTraceAnnotation("train", step_num=number) if self._running else contextlib.nullcontext()

    def finished(self, number: int) -> None:
        """A step has come to its end on the devices."""
        if number == self._last:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
