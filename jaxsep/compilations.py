"""Whether a run compiles where all should be compiled: each time it does, its devices wait for seconds or minutes."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax

from jaxsep.errors import JaxsepError

_COMPILED = "/jax/core/compile/backend_compile_duration"  # JAX tells each compilation, and each that the cache spares


class Compilations:
    """While it is entered, counts what the thread that entered it compiles."""

    def __init__(self):
        self.names: list[str] = []
        self._done: set[str] = set()

    def __enter__(self) -> "Compilations":
        self._thread = threading.get_ident()
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    @contextlib.contextmanager
    def first_only(self, what: str) -> Iterator[None]:
        """Something that a run does again and again, and may compile for at the first time.

        Raises:
            JaxsepError: it has been done before, and compiles nevertheless.
        """
        before = len(self.names)
        yield
        compiled = self.names[before:]
        if compiled and what in self._done:
            raise JaxsepError(
                f"{what} compiles {', '.join(compiled)} although it was done before: a shape, a dtype or a function in "
                "it is another each time; see which with JAX_EXPLAIN_CACHE_MISSES=1, and make it the same"
            )
        self._done.add(what)

    def _note(self, event: str, duration_secs: float, **about: Any) -> None:
        if event == _COMPILED and threading.get_ident() == self._thread:
            self.names.append(str(about.get("fun_name", "a program")))
