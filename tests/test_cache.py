"""What outlives a process is found again by the next, and does not grow without end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsep import cache

ROOT = Path(__file__).parent.parent


STEP = """
import hashlib, time
import jax
import numpy as np
from jaxsep import cache, config as configs, losses, optim, separator, training

cache.keep_compiled()
config = configs.load_config("configs/spleeter.py:demo")
parts = separator.build(config), losses.from_config(config), optim.build(config.optim, config.steps)
mesh = training.make_mesh()
state = training.init_state(parts[0], parts[2], config, mesh)
started = time.process_time()
step = training.compile_train_step(*parts, config, mesh, state, reuse=True)
spent = time.process_time() - started
sources = np.random.default_rng(0).uniform(-1, 1, (config.data.batch_size, 4, config.data.segment, config.channels))
batch = training.put({"mix": sources.sum(1, dtype=np.float32), "sources": sources.astype(np.float32)}, mesh)
before, (state, metrics) = state, step(state, batch, np.float32(1))
assert metrics.ok and before.step.is_deleted()
state = state.replace(key=jax.random.key_data(state.key))
sums = [hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest() for leaf in jax.tree.leaves((state, metrics))]
print(spent, hashlib.sha256("".join(sums).encode()).hexdigest())
"""


def start(home):
    """CPU seconds until a training step is there in a fresh process, and a sum over what it yields."""
    environment = os.environ | {"JAXSEP_CACHE": str(home)}
    done = subprocess.run([sys.executable, "-c", STEP], cwd=ROOT, env=environment, capture_output=True, check=True)
    seconds, yielded = done.stdout.split()
    return float(seconds), yielded


def test_a_second_start_loads_what_the_first_compiled(tmp_path):
    first, yielded = start(tmp_path)
    files = set(tmp_path.rglob("*-cache"))
    second, again = start(tmp_path)
    assert files and set(tmp_path.rglob("*-cache")) == files
    assert second < first / 5, f"first start: {first} s, second: {second} s"
    assert again == yielded, "to the last bit"


def test_what_was_not_read_for_longest_goes_first(tmp_path):
    for age, name in enumerate(["new", "older", "oldest"]):
        path = tmp_path / "of one processor" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e8))
    cache._prune(tmp_path, 250)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"new", "older"}
    cache._prune(tmp_path, 200)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"new", "older"}


@pytest.mark.parametrize("blocked", ["a file in the way", "the user's own cache"])
def test_nothing_is_changed_where_it_cannot_or_should_not_be(tmp_path, blocked):
    environment = os.environ | {"JAXSEP_CACHE": str(tmp_path / "kept")}
    if blocked == "a file in the way":
        (tmp_path / "kept").write_text("not a folder")
    else:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "own")
    code = "import jax; from jaxsep import cache; cache.keep_compiled(); print(jax.config.jax_compilation_cache_dir)"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == ("None" if blocked == "a file in the way" else str(tmp_path / "own"))
    assert not (tmp_path / "kept").is_dir()
