"""How the process deals with memory that it has freed."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h), and values for them.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_freed() -> None:
    """Lets glibc keep what is freed instead of giving it back to Linux; elsewhere nothing happens.

    XLA's CPU backend allocates the buffers of a step anew each time. glibc maps large ones from the system, which then
    has to clear every page again: a third of the CPU time of a training step. Peak memory is unchanged; it just
    stays with the process.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return
    for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1)):
        mallopt(parameter, value)
