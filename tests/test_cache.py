"""What outlives a process is found again by the next, and does not grow without end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsep import cache

ROOT = Path(__file__).parent.parent


STEP = """
import time
from jaxsep import cache, config as configs, losses, optim, separator, training

cache.keep_compiled()
config = configs.load_config("configs/spleeter.py:demo")
parts = separator.build(config), losses.from_config(config), optim.build(config.optim, config.steps)
mesh = training.make_mesh()
state = training.init_state(parts[0], parts[2], config, mesh)
started = time.process_time()
training.compile_train_step(*parts, config, mesh, state)
print(time.process_time() - started)
"""


def start(home):
    """CPU seconds of trace and compilation of a training step in a fresh process."""
    environment = os.environ | {"JAXSEP_CACHE": str(home)}
    done = subprocess.run([sys.executable, "-c", STEP], cwd=ROOT, env=environment, capture_output=True, check=True)
    return float(done.stdout)


def test_a_second_start_loads_what_the_first_compiled(tmp_path):
    first = start(tmp_path)
    files = set(tmp_path.rglob("*-cache"))
    second = start(tmp_path)
    assert files and set(tmp_path.rglob("*-cache")) == files
    assert second < first / 2, f"first start: {first} s, second: {second} s"


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
