"""Music source separation in JAX: train, compare and use the systems of a decade.

    model = jaxsep.load("runs/spleeter")
    stems = model.separate(audio, rate)  # {"vocals": float32 [t c], ...}

Importing the package imports neither JAX nor TensorFlow; the first call does what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from jaxsep.inference import Model

__version__ = "0.1.0"
__all__ = ["__version__", "load", "separate"]


def load(run: str | Path, checkpoint: str | int = "best", device: str = "auto") -> Model:
    """The model of a run folder, see `jaxsep.inference.load`."""
    from jaxsep import inference

    return inference.load(run, checkpoint, device)


def separate(audio: Any, rate: int, run: str | Path, **changes: Any) -> dict[str, np.ndarray]:
    """Separates one song with the model of a run folder; `load` it once to separate several.

    Args:
        audio: float [t] or [t c].
        rate: of `audio`, in Hz.
        run: the --workdir of a training.
        changes: see `jaxsep.inference.Model.separate`.

    Returns:
        Source name -> float32 [t c] at `rate`.
    """
    return load(run).separate(audio, rate, **changes)
