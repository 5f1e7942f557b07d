"""museval as the referee: SDR, ISR, SIR and SAR of BSS Eval v4, computed by museval itself.

museval imports musdb and stempeg, which refuse to load without an ffmpeg binary, so it is imported on first use
only; `unavailable()` says why it cannot be.
"""

import importlib

import numpy as np
from jaxtyping import Float

from jaxsep.metrics.sdr import is_silent

METRICS = ("SDR", "ISR", "SIR", "SAR")


def unavailable() -> str | None:
    """Why museval cannot be used here, in one line; None if it can."""
    try:
        importlib.import_module("museval")
    except (ImportError, RuntimeError) as error:
        return " ".join(str(error).split())
    return None


def version() -> str:
    """The version of museval, as it writes it into its score files."""
    from museval.version import _version

    return _version


def bss_eval(
    references: Float[np.ndarray, "s t c"], estimates: Float[np.ndarray, "s t c"], rate: int
) -> dict[str, Float[np.ndarray, "s n"]] | None:
    """The four metrics of each second: v4 filters over the whole track, window and hop of one second.

    The arrays are scored as they are given, in float64 inside museval. On material that a codec has band-limited
    and that was not quantised to 16 bits, ISR, SIR and SAR are ill-conditioned in museval.

    Returns:
        metric -> [s n]; None where museval refuses because a reference or an estimate is silent throughout.
    """
    import museval

    if any(is_silent(wave) for wave in (*references, *estimates)):
        return None
    values = museval.evaluate(references, estimates, win=rate, hop=rate, mode="v4", padding=False)
    return dict(zip(METRICS, values, strict=True))
