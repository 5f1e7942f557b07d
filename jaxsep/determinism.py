"""The same numbers from the same start on a GPU, too, where it is chance in which order threads add."""

import os

NAME = "--xla_gpu_deterministic_ops"
FLAG = f"{NAME}=true"


def require() -> None:
    """Has XLA choose operations whose results repeat, and refuse those that have none; slower, and for GPUs only.

    Call it before JAX compiles anything: XLA reads its flags once. What CPUs and TPUs compute repeats anyway.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    if FLAG not in given:
        os.environ["XLA_FLAGS"] = " ".join([*given, FLAG])


def required() -> bool:
    """Whether XLA's flag is set, by `require` or by the user; for what XLA runs without knowing whether it repeats."""
    given = [flag.partition("=") for flag in os.environ.get("XLA_FLAGS", "").split()]
    values = [value for name, _, value in given if name == NAME]
    return bool(values) and values[-1].lower() in ("", "1", "true")
