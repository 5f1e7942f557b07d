"""What a step of training does in a second, beside what its device could."""

import dataclasses
from collections.abc import Sequence
from typing import Any

# FLOP/s of matrix products without sparsity, by the `device_kind` of jax's devices, from the makers' data sheets.
# float32 is as jax multiplies it unless told otherwise: TF32 on NVIDIA's cards since 2020, bfloat16 on TPUs.
# Devices of TPU v2 and v3 are cores, of which a chip has two.
_HALF = {"bfloat16", "float16"}
_TPU = {"bfloat16", "float32"}
PEAKS: dict[str, dict[str, float]] = {
    "Tesla T4": {"float16": 65e12, "float32": 8.1e12},
    "Tesla V100-SXM2-16GB": {"float16": 125e12, "float32": 15.7e12},
    "Tesla V100-SXM2-32GB": {"float16": 125e12, "float32": 15.7e12},
    "NVIDIA L4": dict.fromkeys(_HALF, 121e12) | {"float32": 60e12},
    "NVIDIA A100-SXM4-40GB": dict.fromkeys(_HALF, 312e12) | {"float32": 156e12},
    "NVIDIA A100-SXM4-80GB": dict.fromkeys(_HALF, 312e12) | {"float32": 156e12},
    "NVIDIA A100 80GB PCIe": dict.fromkeys(_HALF, 312e12) | {"float32": 156e12},
    "NVIDIA H100 PCIe": dict.fromkeys(_HALF, 756e12) | {"float32": 378e12},
    "NVIDIA H100 80GB HBM3": dict.fromkeys(_HALF, 989e12) | {"float32": 494e12},
    "NVIDIA H200": dict.fromkeys(_HALF, 989e12) | {"float32": 494e12},
    "TPU v2": dict.fromkeys(_TPU, 22.5e12),
    "TPU v3": dict.fromkeys(_TPU, 61.5e12),
    "TPU v4": dict.fromkeys(_TPU, 275e12),
    "TPU v5 lite": dict.fromkeys(_TPU, 197e12),
    "TPU v5": dict.fromkeys(_TPU, 459e12),
    "TPU v6 lite": dict.fromkeys(_TPU, 918e12),
}


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step does.

    Attributes:
        examples: in its batch.
        seconds: of audio in an example.
        flops: floating-point operations of each device.
        peak: FLOP/s of which a device is capable; None where that is not known.
        memory: bytes of each device that the step takes, as XLA planned it.
        devices: of this process.
    """

    examples: int
    seconds: float
    flops: float = 0.0
    peak: float | None = None
    memory: int = 0
    devices: Sequence[Any] = ()

    def rates(self, steps: float) -> dict[str, float]:
        """Numbers for the log, of so many steps per second; without operations or memory where they are not known."""
        rates = {
            "examples_per_second": round(steps * self.examples, 3),
            "audio_seconds_per_second": round(steps * self.examples * self.seconds, 4),
        }
        if self.flops:
            rates["flops_per_second"] = round(steps * self.flops)
        if self.peak:
            rates["utilisation"] = round(steps * self.flops / self.peak, 4)
        if memory := self.in_use():
            rates["device_memory"] = memory
        return rates

    def in_use(self) -> int:
        """Bytes that a device of this process has held at most; what the step takes where devices do not say."""
        told = [stats["peak_bytes_in_use"] for device in self.devices if (stats := device.memory_stats())]
        return max(told, default=self.memory)
