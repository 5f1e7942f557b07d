"""Four CPU devices for everybody, no accelerator, and songs of the suite's own where a test needs data."""

import importlib.util
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "agg")
# All processes of one test run share what they compile, and nothing goes into the cache of whoever runs the tests.
if "PYTEST_XDIST_WORKER" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="jaxsep-tests-")
    os.environ["JAXSEP_CACHE"] = cache.name

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="session")
def script():
    """eval.py as a module."""
    spec = importlib.util.spec_from_file_location("eval_script", Path(__file__).parents[1] / "eval.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
