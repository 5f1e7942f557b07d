"""The same numbers from the same start on a GPU, too, where it is chance in which order threads add."""

import os

FLAG = "--xla_gpu_deterministic_ops=true"


def require() -> None:
    """Has XLA choose operations whose results repeat, and refuse those that have none; slower, and for GPUs only.

    Call it before JAX compiles anything: XLA reads its flags once. What CPUs and TPUs compute repeats anyway.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    if FLAG not in given:
        os.environ["XLA_FLAGS"] = " ".join([*given, FLAG])
