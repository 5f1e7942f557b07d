"""The process that a user starts on each of several hosts: it starts the one that trains, and says how that one ended.

When a process of a joined training dies or hangs, JAX aborts the others, each with a stack trace. So the training runs
in a child, where what is written below Python goes into a file of which only one line is made; and what the child
cannot say of itself any more, that it was killed or stopped, is said for it. Nothing here imports JAX.
"""

import dataclasses
import functools
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NoReturn

from jaxsep.errors import JaxsepError
from jaxsep.hosts import AGAIN, LOST, SUPERVISED, Group, Lost
from jaxsep.termination import STATUS as TERMINATED
from jaxsep.termination import Terminated

INTERRUPTED = 130  # exit status after Ctrl-C
ABORTED = "JAX distributed service detected fatal errors"  # what JAX logs as it aborts a process that has lost others
REPLACED = r"(\d+) unexpectedly tried to connect"  # and of one for which another one stands in
PRESENT, COMING = 10, 60  # seconds in which others are told of the end of a process, once all have joined and before


def supervised() -> bool:
    """Whether this is the child."""
    return SUPERVISED in os.environ


def supervise(argv: Sequence[str], group: Group) -> int:
    """Runs the command in a child and returns its exit status; `LOST` with one line where another process is gone.

    SIGTERM is passed on, Ctrl-C reaches the child from the terminal. A child that has given signs and then gives none
    for `group.timeout` seconds is killed.
    """
    signs, sign = os.pipe()
    speech = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile("w+", errors="replace") as noise:
        passed = (sign, *speech)
        environment = os.environ | {SUPERVISED: ",".join(map(str, passed))}
        child = subprocess.Popen([sys.executable, *argv], env=environment, stdout=noise, stderr=noise, pass_fds=passed)
        for descriptor in passed:
            os.close(descriptor)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, frame: child.send_signal(number))
        joined, silent = _watch(child, signs, group.timeout)
        noise.seek(0)
        status, line = _account(child.wait(), noise, group, joined, silent)
    if line:
        print(line, file=sys.stderr, flush=True)
    unheard = status not in (0, LOST, INTERRUPTED) and (child.returncode < 0 or not joined)
    if silent or unheard:
        _stand_in(group, f"it ended with status {status}", PRESENT if joined else COMING)
    return status


def exit_status(command: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
    """The command with one line on stderr and an exit status for what ends it."""

    @functools.wraps(command)
    def told(argv: Sequence[str]) -> int:
        try:
            return command(argv)
        except JaxsepError as error:
            status, line = LOST if isinstance(error, Lost) else 2, f"error: {error}"
        except KeyboardInterrupt:
            status, line = INTERRUPTED, "interrupted; the same command goes on from the last checkpoint"
        except Terminated:
            status, line = TERMINATED, "terminated; the state is saved and the same command goes on from it"
        print(line, file=sys.stderr)
        return status

    return told


def leave(status: int) -> NoReturn:
    """Ends the process; one of several that has failed must not wait for the others, as JAX does at exit."""
    if supervised() and status not in (0, TERMINATED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _watch(child: subprocess.Popen, signs: int, timeout: float) -> tuple[bool, bool]:
    """Waits for the end of the child; whether it gave signs, and whether it was killed because it gave no more."""
    last = None
    while child.poll() is None:
        if select.select([signs], [], [], 0.2)[0]:
            if os.read(signs, 4096):
                last = time.monotonic()
            else:  # closed: the child is ending
                child.wait()
        elif last is not None and time.monotonic() - last > timeout:
            child.kill()
            child.wait()
            return True, True
    return last is not None, False


def _account(code: int, noise: IO[str], group: Group, joined: bool, silent: bool) -> tuple[int, str]:
    """Exit status, and the line that the child could not write itself."""
    if silent:
        return LOST, f"{group} gave no sign for {group.timeout:g} s and was ended; {AGAIN}"
    if code in (0, 2, LOST, INTERRUPTED, TERMINATED):
        return code, ""
    text = noise.read()
    if ABORTED in text and not joined:
        return LOST, f"{group}: not all have come to {group.coordinator} in {3 * group.timeout:g} s; start all of them"
    if ABORTED in text:
        return LOST, f"{group} stopped: {_culprit(text)} died or hangs; {AGAIN}"
    if code != -signal.SIGKILL:  # a crash of its own
        sys.stderr.write(text)
    if code > 0:
        return code, f"{group} failed with status {code}"
    return 128 - code, f"{group} was ended by {signal.Signals(-code).name}; {AGAIN}"


def _stand_in(group: Group, line: str, patience: int) -> None:
    """Tells the others of the end of the child, for which they would wait."""
    command = [sys.executable, "-m", "jaxsep.joined", json.dumps(dataclasses.asdict(group)), line, str(patience)]
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    quiet = subprocess.DEVNULL
    subprocess.run(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, check=False)


def _culprit(text: str) -> str:
    """Whom JAX misses: it lists numbers of processes one a line, or names the one for which another one stands in.

    Who cannot reach process 0 misses that one.
    """
    listed = re.search(r"stopped sending heartbeats\):\n((?:\S*\d+\n)+)", text)
    numbers = re.findall(r"(\d+)$", listed[1], re.MULTILINE) if listed else re.findall(REPLACED, text)[:1] or ["0"]
    return f"process {', '.join(numbers)}"
