"""Two short trainings before the long one: does the system learn a single batch, and at which learning rate?

    python train.py --config=FILE.py:VARIANT --workdir=FOLDER --overfit[=FRACTION]
    python train.py --config=FILE.py:VARIANT --workdir=FOLDER --find-rate

**Overfitting**: a system whose data, net, loss and gradient fit together learns one batch by heart, whatever else it
can do. The first batch of the run is trained on until its loss is FRACTION (a tenth) of what it was, or that many
decibels lower where the loss is one in decibels.

**The range of learning rates** (L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017,
section 3.3): the rate grows exponentially from one step to the next, over batches as the run has them, until the loss
is not finite or the largest rate is reached. Training diverges beyond the rate at which the smoothed loss is smallest;
a tenth of it is suggested. `rates.csv` has all of them.

Neither begins a run or changes one. Songs that are made up are kept in the folder for the run to come.
"""

import csv
import functools
import io
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep.errors import JaxsepError

FRACTION = 0.1
STEPS = 1000  # in which a batch is learned, or is not
EVERY = 50  # steps from one line about the loss to the next
RATES = tuple(float(rate) for rate in np.geomspace(1e-7, 10, 200))
WIDTH = 9  # rates over which losses are averaged, about a third of a decade
FILE = "rates.csv"

Trial = Callable[[configs.Config, Path], int]


def take(argv: Sequence[str]) -> tuple[Trial | None, list[str]]:
    """The trial that a command line asks for, if any, and its other words.

    Raises:
        JaxsepError: two of them, or a fraction that is none.
    """
    asked = [word for word in argv if word == "--find-rate" or word.split("=")[0] == "--overfit"]
    words = [word for word in argv if word not in asked]
    if len(asked) > 1:
        raise JaxsepError(f"{' and '.join(asked)}: one trial at a time")
    if not asked:
        return None, words
    name, equals, value = asked[0].partition("=")
    if name == "--find-rate":
        return find_rate, words
    try:
        fraction = float(value) if equals else FRACTION
    except ValueError:
        fraction = math.nan
    if not 0 < fraction < 1:
        raise JaxsepError(f"{asked[0]}: expected the fraction to which the loss is to fall, above 0 and below 1")
    return functools.partial(overfit, fraction=fraction), words


def overfit(config: configs.Config, workdir: Path, fraction: float = FRACTION) -> int:
    """Trains on the first batch and says whether it is learned.

    Args:
        config: of the run.
        workdir: the folder that the run is to have.
        fraction: of the first loss.

    Returns:
        0 where the loss falls so far, otherwise 1.

    Raises:
        JaxsepError: anything that the user can mend.
    """
    steps = min(config.steps, STEPS)
    trial = _prepare(config, workdir)
    batch = next(trial.batches)
    first = trial.step(batch)
    drop = -10 * math.log10(fraction)
    goal = first - drop if trial.decibels else fraction * first
    print(f"step 0: loss {first:.4g}, to fall to {goal:.4g} on this batch within {steps} steps", flush=True)
    for step in range(1, steps + 1):
        loss = trial.step(batch)  # after so many steps
        if not math.isfinite(loss):
            print(
                f"step {step}: the loss is not finite; lower optim.learning_rate, or see docs/training.md on precision"
            )
            return 1
        if loss <= goal:
            print(f"step {step}: loss {loss:.4g}: the batch is learned")
            return 0
        if step % EVERY == 0 or step == steps:
            print(f"step {step}: loss {loss:.4g}", flush=True)
    print(
        f"not learned: the loss did not fall to {goal:.4g}; see to the learning rate (--find-rate), data, net and loss"
    )
    return 1


def find_rate(config: configs.Config, workdir: Path) -> int:
    """Prints a learning rate for the run and writes the losses of all rates that were tried.

    Args:
        config: of the run; its rate and schedule do not matter.
        workdir: the folder that the run is to have; gets `rates.csv`.

    Returns:
        0, or 1 where the loss falls at no rate.

    Raises:
        JaxsepError: anything that the user can mend.
    """
    from jaxsep.workdir import write_text

    flat = config.copy_and_resolve_references()
    flat.optim.learning_rate = 1.0
    flat.optim.schedule.name = "constant"
    trial = _prepare(flat, workdir)
    tried = search(lambda rate: trial.step(next(trial.batches), rate), RATES)
    losses = smoothed([loss for _, loss in tried])
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("learning_rate", "loss", "smoothed"))
    rows.writerows(
        (f"{rate:.6g}", f"{loss:.6g}", f"{mean:.6g}") for (rate, loss), mean in zip(tried, losses, strict=True)
    )
    path = workdir / FILE
    write_text(path, table.getvalue())
    rate = suggestion([rate for rate, _ in tried], losses)
    if rate is None:
        print(f"the loss falls at no learning rate up to {RATES[-1]:g}: {path}; try --overfit")
        return 1
    print(
        f"the loss is smallest, {min(losses):.4g}, where the learning rate has grown to {10 * rate:.2g}; suggested: "
        f"--config.optim.learning_rate={rate:.2g}; all rates: {path}"
    )
    return 0


def search(train: Callable[[float], float], rates: Sequence[float]) -> list[tuple[float, float]]:
    """Rates and the losses behind the steps at them; ends before the first loss that is not finite.

    Args:
        train: makes a step at a rate and returns the loss before it.
        rates: one for each step.
    """
    tried: list[tuple[float, float]] = []
    train(rates[0])
    for before, rate in itertools.pairwise(rates):
        loss = train(rate)
        if not math.isfinite(loss):
            break
        tried.append((before, loss))
    return tried


def smoothed(losses: Sequence[float]) -> list[float]:
    """The mean over `WIDTH` losses around each, fewer at the ends."""
    half = WIDTH // 2
    return [float(np.mean(losses[max(0, i - half) : i + half + 1])) for i in range(len(losses))]


def suggestion(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """A tenth of the rate with the smallest of these smoothed losses; None where that is the first one."""
    best = int(np.argmin(losses)) if losses else 0
    return rates[best] / 10 if best else None


@dataclass
class _Training:
    """A training that leaves nothing behind.

    Attributes:
        decibels: whether the loss is in dB.
        batches: on the devices, as the run will have them.
    """

    decibels: bool
    batches: Any
    _state: Any
    _step: Any

    def step(self, batch: Any, scale: float = 1.0) -> float:
        """Makes a step and returns the loss before it, NaN where it or its gradient is not finite.

        Args:
            batch: of `batches`.
            scale: of the learning rate.
        """
        self._state, metrics = self._step(self._state, batch, np.float32(scale))
        return float(metrics.loss) if metrics.ok else math.nan


def _prepare(config: configs.Config, folder: Path) -> _Training:
    """All that a run prepares before its first step, without beginning one."""
    configs.check(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JaxsepError(f"{folder}: cannot be made ({error.strerror}); choose another --workdir") from None

    from jaxsep import memory, separator, training
    from jaxsep.assembly import assemble
    from jaxsep.cache import keep_compiled
    from jaxsep.checkpoint import load_start
    from jaxsep.data.opening import open_data

    memory.keep_freed()
    keep_compiled()
    mesh = training.make_mesh()
    training.check_batch(config, mesh)
    model, loss, optimiser = assemble(config)
    front = functools.partial(training.first_front, model, config) if separator.wants_statistics(model.net) else None
    with tempfile.TemporaryDirectory() as scratch:  # what is measured belongs to this config, not to the folder
        data = open_data(config, folder, front, notes=Path(scratch))
    state = training.init_state(model, optimiser, config, mesh, data.statistics)
    if config.init:
        state = training.start_from(state, load_start(config)[0], optimiser)
    step = training.compile_train_step(model, loss, optimiser, config, mesh, state)
    stream = data.stream(0)
    return _Training(loss.decibels, (training.put(batch, mesh) for batch in stream), state, step)
