"""The flag is there before XLA reads it, beside those of the user, and XLA knows it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = """
import os
from jaxsep import determinism
assert not determinism.required()
determinism.require()
assert determinism.required()
determinism.require()
import jax
print(jax.jit(lambda x: 2 * x)(3), os.environ["XLA_FLAGS"])
"""


def test_the_flag_joins_those_of_the_user_once_and_xla_takes_it():
    flags = "--xla_cpu_enable_fast_math=false"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", flags, "--xla_gpu_deterministic_ops=true"]
