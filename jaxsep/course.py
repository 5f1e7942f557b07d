"""When a run is validated, by how much its learning rate has fallen since, and when it is over."""

from typing import Any

from jaxsep import optim
from jaxsep.config import Config


class Course:
    """The validations of a run, and what follows from them.

    Args:
        config: of the run.

    Attributes:
        history: [step, validation SDR] of each; belongs to the state, so the checkpoint holds it.
    """

    def __init__(self, config: Config):
        self._config: Any = config
        self.history: list[list] = []

    def add(self, step: int, sdr: float) -> None:
        """A validation is done."""
        self.history.append([step, sdr])

    def over(self, step: int) -> bool:
        """Whether no step follows."""
        return step >= self._config.steps or optim.stalled(self._sdrs(), self._config.patience)

    def validated(self, step: int) -> bool:
        """Whether there is no validation at this step, or it is done: SIGTERM may have come before it was."""
        due = step > 0 and (step % self._config.eval_every == 0 or step == self._config.steps)
        return not due or step in (at for at, _ in self.history[-1:])

    def scale(self) -> float:
        """By which the learning rate is multiplied under the plateau rule."""
        return optim.plateau_scale(self._sdrs(), self._config.optim.schedule)

    def conclusion(self, step: int) -> str:
        """How the run ended, for people."""
        best = max(self.history, key=lambda entry: entry[1])
        why = f", {self._config.patience} evaluations without a better one" if step < self._config.steps else ""
        return f"finished at step {step}{why}; best validation SDR {best[1]:.2f} dB at step {best[0]}"

    def _sdrs(self) -> list[float]:
        return [sdr for _, sdr in self.history]
