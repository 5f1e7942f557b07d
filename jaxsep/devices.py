"""Choosing the device to separate on, and saying which it is and why."""

from pathlib import Path
from typing import Any

import jax

from jaxsep.errors import JaxsepError

Device = Any  # jax.Device, a variable to type checkers
KINDS = ("cpu", "gpu", "tpu")


def pick(name: str = "auto") -> Device:
    """The device of a name.

    Args:
        name: "auto" (an accelerator where jax sees one), "cpu", "gpu", "tpu", or one of several: "gpu:1".

    Raises:
        JaxsepError: not a name of that form, or no such device here.
    """
    if name == "auto":
        return jax.local_devices()[0]
    kind, _, number = name.partition(":")
    if kind not in KINDS or (number and not number.isdecimal()) or name.endswith(":"):
        raise JaxsepError(f"device={name!r}: expected auto, cpu, gpu or tpu, or one of several as in gpu:1")
    try:
        found = jax.local_devices(backend=kind)
    except RuntimeError:
        raise JaxsepError(f"device={name!r}: {_why_not(kind)}") from None
    if int(number or 0) >= len(found):
        raise JaxsepError(f"device={name!r}: there are {len(found)} {kind} devices, numbered from 0")
    return found[int(number or 0)]


def describe(device: Device, asked: str = "auto") -> str:
    """One line: the device, and why it is this one when nobody asked for it.

    Args:
        device: what `pick` returned.
        asked: what it was asked for.
    """
    count = len(jax.local_devices(backend=device.platform))
    kind = "" if device.device_kind == device.platform else f", {device.device_kind}"
    text = f"{device.platform}:{device.id} (of {count}{kind})" if count > 1 else f"{device.platform}{kind}"
    if asked != "auto":
        return f"{text}, as asked"
    if device.platform != "cpu":
        return f"{text}, jax's first accelerator"
    return f"{text}, because {_why_not('gpu')}"


def _why_not(kind: str) -> str:
    """Why jax shows no device of this kind."""
    platforms = _platforms()
    if platforms and kind not in platforms:
        return f"JAX_PLATFORMS={platforms} leaves jax nothing else"
    if kind == "gpu" and Path("/proc/driver/nvidia/version").exists():
        return "jax does not see the NVIDIA GPU of this machine; install its support: pip install 'jaxsep[cuda]'"
    return f"jax sees no {'GPU or TPU' if kind == 'gpu' else kind.upper()} here"


def _platforms() -> str:
    """The environment's JAX_PLATFORMS, unless the program changed it."""
    return getattr(jax.config, "jax_platforms", None) or ""


def listing() -> list[str]:
    """One line per device that jax can use, the one that "auto" picks first."""
    lines = [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.local_devices()]
    return [f"{lines[0]} (what auto uses: {describe(jax.local_devices()[0])})", *lines[1:]]
