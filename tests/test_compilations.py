"""A run that compiles again is stopped; what it compiles at the first time is its right."""

import threading

import jax
import numpy as np
import pytest

from jaxsep.compilations import Compilations
from jaxsep.errors import JaxsepError


def compiling(size):
    """Compiles for each size that it has not met."""
    return double(np.zeros(size, np.float32))


@jax.jit
def double(x):
    return 2 * x


@pytest.fixture(autouse=True)
def fresh():
    double.clear_cache()


def test_the_first_time_may_compile_and_no_other():
    with Compilations() as compilations:
        for size in (3, 3):
            with compilations.first_only("the step"):
                compiling(size)
        with compilations.first_only("the validation"):
            compiling(4)
        again = pytest.raises(JaxsepError, match=r"the step compiles jit\(double\) although it was done before")
        with again, compilations.first_only("the step"):
            compiling(5)
    compiling(6)
    assert len(compilations.names) == 3, "it listens only while it is entered"


def test_what_other_threads_compile_is_not_this_ones_step():
    with Compilations() as compilations:
        for size in (3, 4):
            with compilations.first_only("the step"):
                thread = threading.Thread(target=compiling, args=(size,))
                thread.start()
                thread.join()
    assert not compilations.names


def test_an_error_within_is_the_one_that_is_told():
    with Compilations() as compilations:
        with compilations.first_only("the step"):
            compiling(3)
        with pytest.raises(ZeroDivisionError), compilations.first_only("the step"):
            compiling(4)
            print(1 / 0)
