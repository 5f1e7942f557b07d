"""Freed memory stays with the process; too little of it is said in one line."""

import platform
import subprocess
import sys

import jax
import pytest

from jaxsep import memory
from jaxsep.config import defaults
from jaxsep.errors import JaxsepError

FAULTS = """
import resource, sys
import numpy as np
from jaxsep.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
def step():
    np.zeros(8_000_000).fill(1)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_buffers_are_not_cleared_by_the_system_again():
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, check=True).stdout)
        for mode in ("give", "keep")
    }
    assert faults["keep"] < 100 < faults["give"]


def config(**values):
    made = defaults()
    for key, value in values.items():
        block, _, name = key.rpartition("__")
        (made[block] if block else made)[name] = value
    return made


SAID = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes."


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError(SAID), MemoryError()])
def test_too_little_memory_is_one_line_that_says_what_takes_less(error):
    with pytest.raises(JaxsepError) as caught, memory.suggesting(config(data__batch_size=12, optim__accumulate=2)):
        raise error
    (line,) = str(caught.value).splitlines()
    assert line.startswith("out of memory with data.batch_size=12, optim.accumulate=2; try data.batch_size=6 or ")
    for remedy in ("optim.accumulate=3", "shorter data.segment", "remat=net", "precision=bfloat16", "parallel=fsdp"):
        assert remedy in line


def test_only_what_can_be_done_is_suggested():
    with pytest.raises(JaxsepError) as caught, memory.suggesting(config(data__batch_size=1, remat="net")):
        raise MemoryError
    assert "try a shorter data.segment in a new run" in str(caught.value)
    assert "data.batch_size=0" not in str(caught.value) and "remat=net" not in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("out of memory"), jax.errors.JaxRuntimeError("INTERNAL: a bug")])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error), match=str(error)), memory.suggesting(config()):
        raise error
