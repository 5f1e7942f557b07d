"""What a run tells, and to whom: `metrics.jsonl` and the model card always, the terminal, TensorBoard on request."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsep.card import write_card
from jaxsep.config import Config
from jaxsep.log import MetricsFile, Progress, Silent, TensorBoard, Window
from jaxsep.training import LAST
from jaxsep.utilisation import Work
from jaxsep.validation import Result


class Journal:
    """The numbers of a run from a step on.

    Args:
        folder: the run folder.
        config: of the run.
        step: from which the run goes on.
        work: what a step does.
        window: what `state` said of the steps behind the last line.
        first: whether this process of several is the one that tells.

    Raises:
        JaxsepError: the metrics cannot be read or written; so in all methods.
    """

    def __init__(
        self, folder: Path, config: Config, step: int, work: Work, window: Mapping[str, Any] | None, first: bool
    ):
        self._folder, self._first = folder, first
        self._every, self._last = config.log_every, config.steps
        self._file = MetricsFile(folder / "metrics.jsonl", step) if first else Silent()
        self._board = TensorBoard(folder, config.sample_rate) if config.tensorboard and first else None
        self._window, self.progress = Window(window), Progress(step, config.steps, work)
        if first:
            write_card(folder)

    def state(self) -> dict[str, Any]:
        """JSON values that a checkpoint of this moment needs, once all that was told is on the disk."""
        self._file.sync()
        return self._window.state()

    def step(self, step: int, numbers: Mapping[str, Any], unreadable: Mapping[str, tuple[str, int]]) -> None:
        """A step's numbers by name, `loss` among them, and the files that could not be read so far."""
        self._window.add(numbers)
        self.progress.unreadable(unreadable)
        self.progress.step(step, loss=numbers["loss"])
        if step % self._every and step != self._last:
            return
        last = {name: value for name in LAST if (value := numbers.get(name)) is not None}
        means = self._window.take() | last
        self.progress.step(step, loss=means["loss"])
        self._file.write(step, "train", means, self.progress.line(step))
        if self._board:
            self._board.scalars(step, "train", means)

    def validation(self, step: int, result: Result, seconds: float) -> None:
        """What a validation found, and how long it took."""
        self._file.write(step, "valid", result.scores | result.shapes, {"seconds": round(seconds, 3)})
        if self._first:
            write_card(self._folder)
        self.progress.valid(step, result.scores["sdr"])
        if self._board:
            self._board.scalars(step, "valid", result.scores)
            self._board.excerpt(step, result.excerpt)

    def close(self) -> None:
        """Nothing more is told."""
        self.progress.close()
