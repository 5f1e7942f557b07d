"""The scores of one track, as a record in museval's JSON schema.

What is scored together, museval's frames by one of three backends, the values of the whole track. What museval does
not know stands under the key "jaxsep".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxsep.metrics import museval, sdr
from jaxsep.metrics.spectral import log_spectral_distance
from jaxsep.metrics.waves import Waves

REST = "rest"  # what a single source is scored against: the sum of all other stems, the mixture minus the estimate
BACKENDS = ("bsseval", "museval", "sdr")
WHOLE_TRACK = {"sdr_whole_track": sdr.whole_track_sdr, "si_sdr": sdr.si_sdr, "lsd": log_spectral_distance}
METRICS = (*map(str.lower, museval.METRICS), *WHOLE_TRACK, "si_sar")


def calls(names: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """(sources scored together, those whose scores are kept): vocals and accompaniment apart, as museval does.

    A frame counts only where all that are scored together are audible, so this choice is part of a score.
    """
    names, pair = list(names), ["vocals", "accompaniment"]
    if not set(pair) <= set(names):
        return [(names, names)]
    others = [name for name in names if name != "accompaniment"]
    first = [(others, [name for name in others if name != "vocals"])] if len(others) > 1 else []
    return [*first, (pair, pair)]


def score_waves(
    track: str,
    names: Sequence[str],
    references: Waves,
    estimates: Waves,
    rate: int,
    backend: str = "bsseval",
    metrics: Sequence[str] = METRICS,
) -> dict[str, Any]:
    """The scores of a track in museval's schema, read in blocks (by museval itself as a whole).

    The waves are scored as they are given. Where a source is silent throughout, museval refuses; here the sources
    scored together have no ISR, SIR and SAR (NaN), and "silent" names it.

    Args:
        track: its name.
        names: of the sources, in the order of the waves; "rest" is company for a single source and has no scores.
        references: the true sources.
        estimates: what was separated.
        rate: samples per second.
        backend: one of `BACKENDS`.
        metrics: of `METRICS`; SDR is always there.

    Returns:
        {"targets": museval's frames, "jaxsep": {"track", "rate", "samples", "backend", "silent", "ill_conditioned":
        the calls whose ISR, SIR, SAR are rounding noise, whole-track metric: {source: dB}, "among_stems": the frames
        of vocals scored together with the other stems, which museval discards where there is accompaniment}}, and
        "museval_version" where museval computed.
    """
    silent = {"references": sdr.silent_throughout(references), "estimates": sdr.silent_throughout(estimates)}
    whole = {
        key: dict(zip(names, WHOLE_TRACK[key](references, estimates), strict=True))
        for key in WHOLE_TRACK
        if key in metrics
    }
    whole |= {"si_sar": {}} if "si_sar" in metrics else {}
    targets, among_stems, ill_conditioned = {}, {}, []
    for together, kept in calls(names):
        rows = [names.index(name) for name in together]
        theirs = references[rows], estimates[rows]
        refused = any(flags[row] for flags in silent.values() for row in rows)
        values, noise = _framewise(backend, *theirs, rate, refused)
        frames = {name: _frames(values, row, metrics) for row, name in enumerate(together)}
        targets |= {name: frames[name] for name in kept}
        among_stems |= {name: frames[name] for name in together if name not in kept}
        ill_conditioned += [together] if noise else []
        if "si_sar" in metrics:
            whole["si_sar"] |= {n: value for n, value in zip(together, sdr.si_sar(*theirs), strict=True) if n in kept}
    shown = [name for name in names if name != REST]
    named = {what: [n for n, flag in zip(names, flags, strict=True) if flag] for what, flags in silent.items()}
    return {
        "targets": [{"name": name, "frames": targets[name]} for name in shown],
        **({"museval_version": museval.version()} if backend == "museval" else {}),
        "jaxsep": {
            "track": track,
            "rate": rate,
            "samples": references.shape[1],
            "backend": backend,
            "silent": {what: sources for what, sources in named.items() if sources},
            "ill_conditioned": ill_conditioned,
            **{key: {name: _rounded(values[name]) for name in shown} for key, values in whole.items()},
            **({"among_stems": among_stems} if among_stems else {}),
        },
    }


def _framewise(
    backend: str, references: Waves, estimates: Waves, rate: int, refused: bool
) -> tuple[dict[str, Float[np.ndarray, "s n"]], bool]:
    """{metric: [s n]} of one call, and whether all but SDR are rounding noise; SDR alone where museval refuses."""
    if backend == "bsseval" and not refused:
        from jaxsep.metrics.bsseval import bss_eval

        found = bss_eval(references, estimates, rate, rate)
        return {name: getattr(found, name.lower()) for name in museval.METRICS}, found.ill_conditioned
    if backend == "museval" and (values := museval.bss_eval(references[:, :], estimates[:, :], rate)) is not None:
        return values, False
    ours = sdr.framewise_sdr(references, estimates, rate)
    without = {} if backend == "sdr" else dict.fromkeys(museval.METRICS[1:], np.full_like(ours, np.nan))
    return {"SDR": ours, **without}, False


def sdr_frames(names: Sequence[str], references: Waves, estimates: Waves, rate: int) -> dict[str, list[float]]:
    """{source: SDR of each frame}, as `score_waves` gives it."""
    frames = {}
    for together, kept in calls(names):
        rows = [names.index(name) for name in together]
        values = sdr.framewise_sdr(references[rows], estimates[rows], rate)
        frames |= {name: [_rounded(v) for v in values[together.index(name)]] for name in kept}
    return {name: frames[name] for name in names if name != REST}


def _frames(values: Mapping[str, Float[np.ndarray, "s n"]], row: int, metrics: Sequence[str]) -> list[dict[str, Any]]:
    shown = {name: value[row] for name, value in values.items() if name == "SDR" or name.lower() in metrics}
    return [
        {"time": float(n), "duration": 1.0, "metrics": {name: _rounded(value[n]) for name, value in shown.items()}}
        for n in range(len(shown["SDR"]))
    ]


def _rounded(value: float) -> float:
    """As museval writes numbers: five decimals, infinity as NaN."""
    return round(float(value), 5) if np.isfinite(value) else float("nan")
