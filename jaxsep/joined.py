"""One process of several that train together, joined by `jax.distributed`.

Each computes its share of every batch on its own devices; process 0 alone writes into the run folder, which all of them
have to see, and speaks. What the processes tell each other beside the steps goes through JAX's coordination service,
which can be waited for as long as it takes, where a collective would time out.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # the only way to the coordination service beside `initialize`
from jax.experimental import multihost_utils

from jaxsep.errors import CommonError, JaxsepError
from jaxsep.hosts import AGAIN, LOST, SUPERVISED, Group, Host, Lost, tells_of_loss
from jaxsep.termination import Terminated, Termination

PATIENCE = 7 * 24 * 3600  # seconds that processes wait for each other, in which one of them may measure or validate
BEAT = 1.0  # seconds between two signs


@contextlib.contextmanager
def join(group: Group) -> Iterator[Host]:
    """This process among the others of its group, which it leaves in the end.

    Raises:
        JaxsepError: the address or the cluster is none that JAX can use.
        Lost: another process has stopped, died, or hangs.
    """
    sign, out, err = (int(number) for number in os.environ[SUPERVISED].split(","))
    sys.stdout, sys.stderr = os.fdopen(out, "w", buffering=1), os.fdopen(err, "w", buffering=1)
    _connect(group, 3 * group.timeout)
    signs = Signs(sign, group.timeout)
    signs.start()  # before devices are looked for, in which all processes wait for each other
    try:
        jax.devices()
    except RuntimeError as error:
        raise JaxsepError(f"--coordinator={group.coordinator}: {_short(error)}") from None
    host = Joined(signs)
    if not host.first:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays open until the process ends)
    try:
        yield host
        host.leave()
    except (Terminated, CommonError):
        host.leave()
        raise
    except (JaxsepError, KeyboardInterrupt) as error:
        host.stop(str(error) or "interrupted")
        raise
    except Exception as error:
        if not tells_of_loss(error):
            traceback.print_exc()
            host.stop(_short(error))
            os._exit(1)
        raise Lost(f"{host.reason() or f'another process died ({_short(error)})'}; {AGAIN}") from None


def _connect(group: Group, patience: float) -> None:
    auto = group.coordinator == "auto"
    try:
        jax.distributed.initialize(
            None if auto else group.coordinator,
            group.processes,
            group.process,
            cluster_detection_method=None if auto else "deactivate",
            initialization_timeout=int(patience),
            heartbeat_timeout_seconds=max(1, int(0.75 * group.timeout)),
        )
    except (ValueError, RuntimeError) as error:
        raise JaxsepError(f"--coordinator={group.coordinator}: {_short(error)}") from None


class Signs(threading.Thread):
    """Tells the supervisor, again and again, that this process does not hang, and sees when another one has stopped.

    Args:
        supervisor: file descriptor of the pipe to it.
        timeout: seconds without a step, after which no signs are given any more.
    """

    def __init__(self, supervisor: int, timeout: float):
        super().__init__(daemon=True)
        self._supervisor, self._timeout = supervisor, timeout
        self._step: float | None = None
        self._ended = threading.Event()

    def step(self) -> None:
        """A step is about to be made; the next one is expected before the timeout."""
        self._step = time.monotonic()

    def rest(self) -> None:
        """What is done next may take its time."""
        self._step = None

    def end(self) -> None:
        """No more signs."""
        self._ended.set()
        self.join()

    def run(self) -> None:
        """Until `end`, or the end of the supervisor, or that of another process of the training."""
        while True:
            step = self._step
            if step is None or time.monotonic() - step < self._timeout:
                try:
                    os.write(self._supervisor, b".")
                except BrokenPipeError:
                    os._exit(LOST)
            if self._ended.wait(BEAT):
                return
            if reason := _stopped():
                time.sleep(2 * BEAT)  # this process may be about to say the same
                print(f"error: {reason}; {AGAIN}", file=sys.stderr, flush=True)
                os._exit(LOST)


class Joined(Host):
    """One of several processes."""

    def __init__(self, signs: Signs):
        self.index, self.count = jax.process_index(), jax.process_count()
        self._signs, self._numbers = signs, itertools.count()

    def gather(self, value: Any) -> list[Any]:
        """See `Host`. All processes have to gather the same things in the same order."""
        name = f"jaxsep/{next(self._numbers)}"
        _client().key_value_set(f"{name}/{self.index}", json.dumps(value))
        keys = [f"{name}/{process}" for process in range(self.count)]
        return [json.loads(_client().blocking_key_value_get(key, PATIENCE * 1000)) for key in keys]

    def termination(self) -> Termination:
        """See `Host`."""
        return Agreed(self._signs)

    def leave(self) -> None:
        """Ends what has gone well, with all others."""
        self.gather(None)
        self._signs.end()
        jax.distributed.shutdown()

    def stop(self, line: str) -> None:
        """Lets the other processes know why this one ends; process 0, where they look it up, stays until they have."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _tell(line)
        if self.first:
            time.sleep(4 * BEAT)

    def reason(self) -> str:
        """Why another process has stopped, as far as it can still be learnt."""
        for _ in range(10):
            if reason := _stopped():
                return reason
            time.sleep(BEAT / 5)
        return ""


class Agreed(Termination):
    """SIGTERM to any of the processes is one to all, between the same two steps or validation songs.

    JAX's preemption service, which took the signal over when the processes joined, finds out between which.
    """

    def __init__(self, signs: Signs):
        super().__init__()
        self._signs, self._looks = signs, 0

    def __enter__(self) -> Termination:
        return self

    def __exit__(self, *_: object) -> None:
        self._signs.rest()

    def look(self) -> None:
        """See `Termination`."""
        self._looks += 1
        self.asked |= multihost_utils.reached_preemption_sync_point(self._looks)
        if self._interrupting and self.asked:
            raise Terminated
        if not self._interrupting:
            self._signs.step()

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A stretch that `look` breaks off."""
        self._interrupting = True
        self._signs.rest()
        try:
            yield
        finally:
            self._interrupting = False
            self._signs.step()


def stand_in(group: Group, line: str, patience: float) -> None:
    """Joins in the place of a process that has ended, so that the others need not wait for it.

    To those that are about to join it says why; of those that have joined JAX ends each, as one of them has two selves.

    Args:
        group: the processes, of which that one was one.
        line: why it has ended.
        patience: seconds in which the others may come.
    """
    _connect(group, patience)
    _tell(line)
    time.sleep(4 * BEAT)
    os._exit(0)


def _client() -> Any:
    return distributed.global_state.client


def _tell(line: str) -> None:
    """What the others learn of the end of this process."""
    _client().key_value_set(f"jaxsep/stopped/{distributed.global_state.process_id}", line)


def _stopped() -> str:
    """Which other process has stopped and why; "" if none has."""
    try:
        found = _client().key_value_dir_get("jaxsep/stopped/")
    except jax.errors.JaxRuntimeError:
        return ""
    lines = {int(key.rpartition("/")[2]): line for key, line in found}
    own = distributed.global_state.process_id
    others = [f"process {process} stopped: {line}" for process, line in lines.items() if process != own]
    return "; ".join(others[:1])


def _short(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


if __name__ == "__main__":
    stand_in(Group(**json.loads(sys.argv[1])), sys.argv[2], float(sys.argv[3]))
