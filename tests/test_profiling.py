"""Traces hold the steps that were asked for."""

import jax
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.profiling import Profile


@jax.jit
def product(x):
    return x @ x


def train(profile, steps):
    for number in range(1, steps + 1):
        with profile.step(number):
            out = product(np.ones((64, 64), np.float32))
        out.block_until_ready()
        profile.finished(number)


def traced(folder):
    """Numbers of the steps in the only trace of a folder, and all names in it."""
    (path,) = folder.rglob("*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    ]
    steps = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
    return sorted(steps), {event.name for event in events}


@pytest.mark.parametrize(("asked", "steps"), [("3,2", [3, 4]), ("6", [6])])
def test_the_steps_that_were_asked_for_are_in_the_trace(tmp_path, asked, steps):
    with Profile(tmp_path, asked, 0, 6) as profile:
        train(profile, 6)
    found, names = traced(tmp_path / "profile")
    assert found == steps
    assert any("Execute" in name for name in names), "what the device did is in it, too"


def test_a_run_that_stops_within_leaves_its_trace(tmp_path):
    with pytest.raises(ZeroDivisionError), Profile(tmp_path, "2,3", 0, 6) as profile:
        train(profile, 2)
        print(1 / 0)
    assert traced(tmp_path / "profile")[0] == [2]


def test_nothing_is_traced_unasked(tmp_path):
    with Profile(tmp_path, "", 0, 6) as profile:
        train(profile, 6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["a", "0,2", "3,0", "3,", ",2", "1,2,3", "-1"])
def test_what_is_no_stretch_of_steps(tmp_path, text):
    with pytest.raises(JaxsepError, match=f"--profile={text}: expected FIRST or FIRST,COUNT"):
        Profile(tmp_path, text, 0, 10)


@pytest.mark.parametrize(("text", "steps"), [("4", "4 to 4"), ("9,3", "9 to 11")])
def test_steps_that_this_start_does_not_run(tmp_path, text, steps):
    with pytest.raises(JaxsepError, match=f"--profile={text}: steps {steps}, but this start runs 5 to 10"):
        Profile(tmp_path, text, 4, 10)
