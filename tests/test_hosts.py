"""Several processes that train one model: the numbers of one process, one run folder, and no process left behind."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import test_train
from test_train import RATE, arrays, last_step, timeless

from jaxsep import integrity, supervision
from jaxsep.config import defaults
from jaxsep.errors import JaxsepError
from jaxsep.hosts import Group, Host, parse_group
from jaxsep.workdir import open_workdir

ROOT = Path(__file__).parent.parent
TIMEOUT = 40  # seconds without a sign, where one is to be missed; elsewhere a busy machine may take its time
STEPS = 24
SETTINGS = test_train.SETTINGS | {
    "optim.learning_rate": 0.01,
    "optim.accumulate": 1,
    "optim.schedule.name": "constant",
    "steps": STEPS,
    "save_every": 3,
    "eval_every": 8,
}
GOES_ON = "the same command, in all processes, goes on from the last checkpoint"


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Three songs for training and three for validation, of which two processes cannot have as many each."""
    root = tmp_path_factory.mktemp("songs")
    for number, split in enumerate(("train", "train", "train", "valid", "valid", "valid")):
        folder = root / split / f"song {number}"
        folder.mkdir(parents=True)
        tone = 0.3 * np.sin(2 * np.pi * (300 + 90 * number) * np.arange((number + 1) * RATE) / RATE)
        noise = 0.1 * np.random.default_rng(number).standard_normal((len(tone), 2))
        soundfile.write(folder / "vocals.wav", np.stack([tone, tone], axis=1), RATE, subtype="PCM_16")
        soundfile.write(folder / "other.wav", noise, RATE, subtype="PCM_16")
    return root


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """For the child processes: one device each, and one compilation of each program for all of them."""
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


class Processes:
    """`train.py` in some processes, with what each writes in files beside the run folder."""

    def __init__(self, songs, workdir, environment, count=2, own=None, timeout=300, **changes):
        values = SETTINGS | {"data.root": songs} | {key.replace("__", "."): value for key, value in changes.items()}
        words = ["train.py", "--config=configs/spleeter.py:demo", f"--workdir={workdir}"]
        words += [f"--config.{key}={value}" for key, value in values.items()]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            where = f"localhost:{free.getsockname()[1]}"
        self.errors = [workdir.with_name(f"{workdir.name}.{index}.err") for index in range(count)]
        self.outputs = [path.with_suffix(".out") for path in self.errors]
        self.running = []
        for index in range(count):
            group = [f"--coordinator={where}", f"--processes={count}", f"--process={index}"]
            mine = [*words, *group, f"--host-timeout={timeout}", *((own or {}).get(index, ()))]
            with self.errors[index].open("w") as err, self.outputs[index].open("w") as out:
                command = [sys.executable, *mine]
                self.running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err))

    def end(self, patience=900):
        """Exit statuses, and the lines of stderr, of all processes."""
        statuses = [process.wait(timeout=patience) for process in self.running]
        return statuses, [path.read_text().splitlines() for path in self.errors]

    def signal(self, index, number):
        """A signal to the process that trains, which is the child of the one that was started."""
        parent = self.running[index].pid
        children = Path(f"/proc/{parent}/task/{parent}/children")
        while not (child := children.read_text().split()):  # it has only just been started
            time.sleep(0.01)
        os.kill(int(child[0]), number)
        return int(child[0])

    def wait_for(self, workdir, step):
        """Until the metrics have a line of this step."""
        while last_step(workdir) < step:
            assert all(process.poll() is None for process in self.running), self.end()
            time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(songs, environment, tmp_path_factory):
    """A run of two processes that nothing interrupts; beside it, how long it took."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    begun = time.monotonic()
    processes = Processes(songs, workdir, environment)
    assert processes.end() == ([0, 0], [[], []])
    assert "2 x cpu in 2 processes, step 0" in processes.outputs[0].read_text()
    assert processes.outputs[1].read_text() == ""
    workdir.with_name("seconds").write_text(str(time.monotonic() - begun))
    return workdir


def floats(workdir):
    """The arrays of the newest checkpoint that hold 32-bit floats, by path, as numbers."""
    _, found, _ = arrays(workdir)
    kinds = ("kernel", "scale", "bias", "mean", "var")
    return {name: np.frombuffer(x, np.float32) for name, x in found.items() if any(kind in name for kind in kinds)}


def test_two_processes_are_one_training(whole, songs, environment, tmp_path):
    """Two processes of one device have the batches, losses, scores and weights of one process with two devices."""
    values = SETTINGS | {"data.root": songs}
    words = ["train.py", "--config=configs/spleeter.py:demo", f"--workdir={tmp_path / 'one'}"]
    words += [f"--config.{key}={value}" for key, value in values.items()]
    subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment | {"JAX_NUM_CPU_DEVICES": "2"}, check=True, timeout=300
    )
    alone, together = timeless(tmp_path / "one"), timeless(whole)
    assert len(alone) == len(together) == STEPS // 4 + STEPS // 8
    for mine, theirs in zip(alone, together, strict=True):
        assert mine.pop("kind") == theirs.pop("kind")
        assert theirs == pytest.approx(mine, rel=1e-4)
    expected, found = floats(tmp_path / "one"), floats(whole)
    assert found.keys() == expected.keys() and len(found) > 50
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert integrity.steps(whole / "checkpoints") == integrity.steps(tmp_path / "one" / "checkpoints")
    assert all(integrity.damage(whole / "checkpoints" / str(step)) is None for step in (21, 24))
    files = {path.name for path in whole.iterdir()}
    assert files == {path.name for path in (tmp_path / "one").iterdir()}


def test_none_is_left_behind_and_nothing_is_lost(whole, songs, environment, tmp_path):
    """Killed, stopped and terminated on the way, a run ends as one that was not, to the last bit."""
    workdir = tmp_path / "run"

    processes = Processes(songs, workdir, environment)
    processes.wait_for(workdir, 4)
    processes.signal(1, signal.SIGKILL)
    begun = time.monotonic()
    statuses, errors = processes.end()
    assert statuses == [75, 128 + signal.SIGKILL] and time.monotonic() - begun < 60
    assert len(errors[0]) == 1 and " died" in errors[0][0] and errors[0][0].endswith(GOES_ON)
    assert errors[1] == [f"process 1 of 2 was ended by SIGKILL; {GOES_ON}"]

    processes = Processes(songs, workdir, environment, timeout=TIMEOUT)
    processes.wait_for(workdir, 8)
    processes.signal(0, signal.SIGSTOP)
    begun = time.monotonic()
    statuses, errors = processes.end()
    assert statuses == [75, 75] and time.monotonic() - begun < 2 * TIMEOUT
    assert errors[0] == [f"process 0 of 2 gave no sign for {TIMEOUT} s and was ended; {GOES_ON}"]
    assert errors[1] == [f"process 1 of 2 stopped: process 0 died or hangs; {GOES_ON}"]

    processes = Processes(songs, workdir, environment)
    while "parameters" not in processes.outputs[0].read_text():  # JAX looks for the signal once a second, and all
        time.sleep(0.01)  # steps may be done in less; compiling takes longer
    processes.running[1].send_signal(signal.SIGTERM)
    said = "terminated; the state is saved and the same command goes on from it"
    assert processes.end() == ([143, 143], [[said], [said]])
    (saved, *_) = integrity.steps(workdir / "checkpoints")[::-1]
    assert STEPS > saved > json.loads((workdir / "run.json").read_text())["resumed"][-1]["step"] > 0

    processes = Processes(songs, workdir, environment)
    assert processes.end() == ([0, 0], [[], []])
    assert f"step {saved} of {STEPS}" in processes.outputs[0].read_text()
    assert timeless(workdir) == timeless(whole) and arrays(workdir) == arrays(whole)
    assert arrays(workdir)[0] == STEPS and not list((workdir / "checkpoints").glob("*tmp*"))
    # the first kill may have come before the first save, and a start from step 0 is none that goes on
    assert len(json.loads((workdir / "run.json").read_text())["resumed"]) in (2, 3)


def test_processes_that_differ_stop_with_one_line_each(songs, environment, tmp_path):
    processes = Processes(songs, tmp_path / "run", environment, own={1: ["--config.optim.clip=1.0"]})
    line = "error: process 1 has other config than process 0: optim.clip (1.0, there 0.0); start all processes with "
    statuses, errors = processes.end()
    assert statuses == [2, 2] and errors == [[f"{line}the same"]] * 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_stop_at_once_when_one_dies(songs, environment, tmp_path, victim):
    """While both compile: JAX alone would notice when the heartbeats have been missing for 225 s."""
    processes = Processes(songs, tmp_path / "run", environment)
    while not (tmp_path / "run" / "songs.json").exists():
        time.sleep(0.01)
    begun = time.monotonic()
    processes.signal(victim, signal.SIGKILL)
    statuses, errors = processes.end(patience=110)
    assert statuses[victim] == 137 and statuses[1 - victim] == 75, errors
    (line,) = errors[1 - victim]  # which names the victim, unless a collective fails first
    assert " died" in line and line.endswith(GOES_ON) and f"process {1 - victim} died" not in line
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("log", "culprit"),
    [
        ("Task crash (stopped sending heartbeats):\n/job:jax_worker/replica:0/task:3\n5\nRPC: x", "process 3, 5"),
        ("518] [1213509107] 2 unexpectedly tried to connect with a different incarnation.\nABORTED: 2", "process 2"),
        ("UNAVAILABLE: failed to connect to all addresses", "process 0"),
    ],
)
def test_what_jax_says_of_who_is_missing(log, culprit):
    assert supervision._culprit(log) == culprit


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_do_not_wait_for_a_process_that_died_before_it_joined(songs, environment, tmp_path, victim):
    begun = time.monotonic()
    processes = Processes(songs, tmp_path / "run", environment)
    processes.signal(victim, signal.SIGKILL)
    statuses, errors = processes.end(patience=110)
    assert statuses[victim] == 137 and errors[victim] == [f"process {victim} of 2 was ended by SIGKILL; {GOES_ON}"]
    line = f"process {victim} stopped: it ended with status 137; {GOES_ON}"
    assert statuses[1 - victim] == 75 and errors[1 - victim] == [f"error: {line}"]
    assert time.monotonic() - begun < 110


def test_the_others_hear_why_a_process_has_stopped(songs, environment, tmp_path):
    (tmp_path / "file").touch()
    statuses, errors = Processes(songs, tmp_path / "file", environment).end()
    line = f"--workdir={tmp_path / 'file'} is a file; give a folder"
    assert statuses == [2, 75]
    assert errors == [[f"error: {line}"], [f"error: process 0 stopped: {line}; {GOES_ON}"]]


def test_four_processes_and_then_one(whole, songs, environment, tmp_path):
    """Any number of processes goes on with the same data, however the state was spread over devices."""
    workdir = tmp_path / "run"
    assert Processes(songs, workdir, environment, count=4, steps=12, parallel="fsdp").end() == ([0] * 4, [[]] * 4)
    assert Processes(songs, workdir, environment, count=1).end() == ([0], [[]])
    records = [line for line in timeless(workdir) if line["step"] != 12 or line["kind"] == "train"]
    for mine, theirs in zip(records, timeless(whole), strict=True):
        assert mine.pop("kind") == theirs.pop("kind")
        assert mine == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("count", [pytest.param(2, id="two"), pytest.param(20, id="soak", marks=pytest.mark.full)])
def test_kills_of_either_process_at_any_time(whole, songs, environment, tmp_path, capsys, count):
    """From the first import to the last save; whatever is killed, the end is that of a run that was not."""
    workdir, dice, kills, ended = tmp_path / "killed", random.Random(count), [], 0
    usual = float(whole.with_name("seconds").read_text())
    while len(kills) < count:
        processes = Processes(songs, workdir, environment)
        victim = dice.randrange(2)
        try:
            processes.running[victim].wait(timeout=dice.uniform(0, usual))
        except subprocess.TimeoutExpired:
            processes.signal(victim, signal.SIGKILL)
            kills.append(f"{victim} at {last_step(workdir)}")
        statuses, errors = processes.end()
        assert all(status in (0, 75, 137) for status in statuses), errors
        if statuses == [0, 0]:
            assert timeless(workdir) == timeless(whole) and arrays(workdir) == arrays(whole)
            shutil.rmtree(workdir)
            ended += 1
    assert Processes(songs, workdir, environment).end()[0] == [0, 0]
    assert timeless(workdir) == timeless(whole) and arrays(workdir) == arrays(whole)
    with capsys.disabled():
        print(f"\n{count} kills of two processes (which, at step): {', '.join(kills)}; {ended + 1} runs ended alike")


class Pair(Host):
    """Process 0 of two, of which the other one has values of its own."""

    count = 2

    def __init__(self, theirs):
        self.theirs = theirs

    def gather(self, value):
        return [value, self.theirs]


def test_what_differs_is_named():
    Pair({"a": 1}).agree("code", {"a": 1})
    with pytest.raises(JaxsepError, match=r"process 1 has other code than process 0: a \(2, there 1\); start all"):
        Pair({"a": 2, "b": None}).agree("code", {"a": 1})
    with pytest.raises(JaxsepError, match=r"a \(None, there 0\), b \(None, there 1\), c \(None, there 2\) and 1 more"):
        Pair({}).agree("data", {name: number for number, name in enumerate("abcd")})
    Host().agree("data", {"a": 1})


def test_process_0_goes_ahead():
    heard = []

    class Recorder(Host):
        def gather(self, value):
            heard.append(f"{self.index} waits")
            return [value]

    for index in (0, 1):
        host = Recorder()
        host.index = index
        with host.ahead():
            heard.append(f"{index} works")
    assert heard == ["0 works", "0 waits", "1 waits", "1 works"]


def test_a_run_folder_that_the_first_process_does_not_share_is_refused(tmp_path):
    with pytest.raises(JaxsepError, match="what process 0 writes there is not seen here"):
        open_workdir(tmp_path, defaults(), first=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator=host:1"], "--processes=None --process=None: expected --coordinator=HOST:PORT of process 0"),
        (["--coordinator=host", "--processes=2", "--process=0"], "expected --coordinator=HOST:PORT"),
        (["--coordinator=host:1", "--processes=2", "--process=2"], "and which one this is, from 0"),
        (["--coordinator=host:1", "--processes=0", "--process=0"], "flag --processes=0"),
        (["--coordinator=auto", "--processes=2"], "--processes and --process go with --coordinator=HOST:PORT"),
        (["--process=1"], "--processes and --process go with --coordinator=HOST:PORT"),
        (["--host-timeout=0"], "flag --host-timeout=0"),
    ],
)
def test_groups_that_are_none(words, message):
    with pytest.raises(JaxsepError, match=message.replace("(", r"\(")):
        parse_group(["train.py", "--config=x", *words])


def test_the_flags_of_a_group_are_taken_out_of_the_command():
    words = ["train.py", "--config=x", "--coordinator", "host:1", "--processes=2", "--process=1", "--config.a=3"]
    assert parse_group(words) == (Group("host:1", 2, 1), ["train.py", "--config=x", "--config.a=3"])
    assert parse_group(["train.py", "--coordinator=auto"])[0] == Group("auto")
    assert parse_group(["train.py"]) == (Group(), ["train.py"])
