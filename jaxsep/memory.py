"""What the process does with memory that it has freed, and says where there is too little."""

import contextlib
import ctypes
import sys
from collections.abc import Iterator

from jaxsep.config import Config
from jaxsep.errors import JaxsepError

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


def exhausted(error: BaseException) -> bool:
    """Whether an error says that a device, or this process, has no memory left."""
    text = str(error)
    said = "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()
    return isinstance(error, MemoryError) or (type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError") and said)


@contextlib.contextmanager
def suggesting(config: Config) -> Iterator[None]:
    """A stretch of a training; if memory runs out in it, the error says what would take less.

    Raises:
        JaxsepError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if not exhausted(error):
            raise
        size, parts = config.data.batch_size, config.optim.accumulate
        smaller = [f"data.batch_size={size // 2}"] if size > 1 else []
        if more := next((more for more in range(parts + 1, size + 1) if size % more == 0), None):
            smaller.append(f"the same batch in smaller parts, optim.accumulate={more}")
        new = " or ".join([*smaller, "a shorter data.segment"])
        same = "remat with fewer layers" if config.remat else "remat=net"
        raise JaxsepError(
            f"out of memory with data.batch_size={size}, optim.accumulate={parts}; try {new} in a new run, or go on "
            f"from the last checkpoint with {same}, precision=bfloat16, or on several devices parallel=fsdp"
        ) from None
