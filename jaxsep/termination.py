"""SIGTERM, by which batch systems and clouds announce that a process is about to be killed."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

STATUS = 143  # of a process that SIGTERM ended, as shells have it: 128 + 15


class Terminated(Exception):
    """SIGTERM came, and all is saved that can be."""


class Termination:
    """While it is entered, SIGTERM does not end the process but sets `asked`, which a loop looks at between steps.

    What takes longer than the seconds that are left, and can be done again, is put under `interrupting`.
    """

    def __init__(self):
        self.asked = False
        self._interrupting = False

    def __enter__(self) -> "Termination":
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def look(self) -> None:
        """Where there are several processes, sets `asked` at the same step of all; each has to call it as often."""

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A stretch that SIGTERM breaks off, or has broken off already.

        Raises:
            Terminated: it did.
        """
        self._interrupting = True
        try:
            if self.asked:
                raise Terminated
            yield
        finally:
            self._interrupting = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._interrupting:
            raise Terminated
