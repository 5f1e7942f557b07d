"""The processes of a training: one alone, or several, on one host or many, that train one model together.

`Host` is what a process has of the others. Of one alone there are none to wait for or to agree with; `joined.py` has it
of several. Nothing here imports JAX.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from jaxsep.errors import CommonError, JaxsepError
from jaxsep.termination import Termination

LOST = 75  # exit status when another process, or this one, died or hangs: EX_TEMPFAIL of sysexits.h
TIMEOUT = 100.0  # seconds without a sign
AGAIN = "the same command, in all processes, goes on from the last checkpoint"
FEW = 3  # differences that are named
GONE = "gloo|nccl|coordination|unavailable|deadline_exceeded|aborted|cancelled"  # in errors of XLA: others are gone
SUPERVISED = "JAXSEP_SUPERVISED"  # in the process that trains: file descriptors of its signs, stdout and stderr


class Lost(JaxsepError):
    """Another process of the training has stopped, died, or hangs."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a training, of which this is one.

    Attributes:
        coordinator: where process 0 listens, HOST:PORT; "auto": as SLURM, Open MPI, Kubernetes or a TPU pod says;
            "" = there is one process.
        processes: how many there are; None under "auto".
        process: which one this is, from 0; None under "auto".
        timeout: seconds without a sign after which a process is taken for dead.
    """

    coordinator: str = ""
    processes: int | None = None
    process: int | None = None
    timeout: float = TIMEOUT

    def __str__(self) -> str:
        return "this process" if self.process is None else f"process {self.process} of {self.processes}"


def parse_group(argv: Sequence[str]) -> tuple[Group, list[str]]:
    """The group of a command line, and the words that are none of its flags.

    Raises:
        JaxsepError: flags that do not go together, or values that are none.
    """
    values = flags.FlagValues()
    coordinator = flags.DEFINE_string("coordinator", "", "HOST:PORT or auto", flag_values=values)
    processes = flags.DEFINE_integer("processes", None, "how many", lower_bound=1, flag_values=values)
    process = flags.DEFINE_integer("process", None, "which, from 0", lower_bound=0, flag_values=values)
    timeout = flags.DEFINE_float("host-timeout", TIMEOUT, "seconds", lower_bound=5, flag_values=values)
    try:
        rest = values(argv, known_only=True)
    except flags.Error as error:
        raise JaxsepError(" ".join(str(error).split())) from None
    where, count, index = coordinator.value, processes.value, process.value
    given = where and where != "auto"
    if given and (not re.fullmatch(r".+:\d+", where) or count is None or index is None or index >= count):
        raise JaxsepError(
            f"--coordinator={where} --processes={count} --process={index}: expected --coordinator=HOST:PORT of process "
            "0, the number of processes, and which one this is, from 0; or --coordinator=auto alone"
        )
    if not given and (count, index) != (None, None):
        raise JaxsepError("--processes and --process go with --coordinator=HOST:PORT")
    return Group(where, count, index, timeout.value), rest


@contextlib.contextmanager
def join(group: Group) -> Iterator["Host"]:
    """This process as one of its group.

    Raises:
        JaxsepError: the address or the cluster is none that JAX can use.
        Lost: another process has stopped, died, or hangs.
    """
    if not group.coordinator:
        yield Host()
        return
    from jaxsep import joined

    with joined.join(group) as host:
        yield host


def tells_of_loss(error: BaseException) -> bool:
    """Whether an error of JAX or of what is built on it, met by one of several processes, says that others are gone."""
    return re.search(GONE, str(error), re.IGNORECASE) is not None


class Host:
    """This process among those of its training, which is alone."""

    index, count = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.index == 0

    def gather(self, value: Any) -> list[Any]:
        """A JSON value of each process, in their order, once all of them have come here."""
        return [value]

    def ahead(self) -> "Ahead":
        """A stretch that process 0 is through with before the others begin it, so that they find what it has made."""
        return Ahead(self)

    def agree(self, what: str, values: Mapping[str, Any]) -> None:
        """Compares the same values of all processes.

        Raises:
            CommonError: they are not the same; with the first process that differs and in what.
        """
        found = self.gather(dict(values))
        for process, theirs in enumerate(found):
            if keys := sorted(key for key in found[0] | theirs if found[0].get(key) != theirs.get(key)):
                named = [f"{key} ({theirs.get(key)}, there {found[0].get(key)})" for key in keys[:FEW]]
                more = f" and {len(keys) - FEW} more" if len(keys) > FEW else ""
                raise CommonError(
                    f"process {process} has other {what} than process 0: {', '.join(named)}{more}; "
                    "start all processes with the same"
                )

    def termination(self) -> Termination:
        """SIGTERM to this process, or to any of several."""
        return Termination()


class Ahead:
    """See `Host.ahead`."""

    def __init__(self, host: Host):
        self._host = host

    def __enter__(self) -> None:
        if not self._host.first:
            self._host.gather(None)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._host.first and kind is None:
            self._host.gather(None)
