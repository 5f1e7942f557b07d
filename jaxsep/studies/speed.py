"""How fast a run separates, written as JSON: `python -m jaxsep.studies.speed RUN FILE`."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from jaxsep.cache import keep_compiled
from jaxsep.checkpoint import load_variables
from jaxsep.inference import load
from jaxsep.workdir import write_text

SECONDS = 10.0  # of noise; what it sounds like takes no more or less time
ROUNDS = 3


def measure(run: Path) -> dict[str, float | int | str]:
    """Seconds of music that are separated in one, at the model's rate and by its recipe; the best of three rounds.

    Returns:
        "times_real_time" and "parameters", and the "device" that was used.
    """
    model = load(run, "last")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(SECONDS * model.sample_rate), model.channels))
    clock = []
    for _ in range(1 + ROUNDS):  # the first compiles
        started = time.perf_counter()
        model.separate(noise.astype(np.float32), model.sample_rate)
        clock.append(time.perf_counter() - started)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(load_variables(run, "last")[0]["params"]))
    return {
        "times_real_time": round(SECONDS / min(clock[1:]), 3),
        "parameters": int(parameters),
        "device": model.device.device_kind,
    }


if __name__ == "__main__":
    keep_compiled()
    write_text(Path(sys.argv[2]), json.dumps(measure(Path(sys.argv[1]))) + "\n")
