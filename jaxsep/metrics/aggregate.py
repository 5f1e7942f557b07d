"""From frames to tracks to one number, every way of doing so with a name, and the table of them.

The same frames give numbers up to 2 dB apart, depending on what is averaged how. `PROTOCOLS` therefore names
every column; a score without its key from there means nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

FRAMES = "1 s frames as in museval (BSS Eval v4)"
PROTOCOLS = {  # key -> (column title, definition)
    "sdr_median_of_medians": (
        "SDR (median)",
        f"{FRAMES}, median over the frames, then median over the tracks (SiSEC 2018)",
    ),
    "sdr_mean_of_medians": ("SDR (mean)", f"{FRAMES}, median over the frames, then mean over the tracks"),
    "sdr_whole_track": ("SDR (MDX)", "whole track, epsilon 1e-7 (MDX 2021), mean over the tracks"),
    "si_sdr": ("SI-SDR", "whole track, channels flattened, means not removed, mean over the tracks"),
    **{
        f"{metric.lower()}_median_of_medians": (
            f"{metric} (median)",
            f"{FRAMES}, median over the frames, then median over the tracks",
        )
        for metric in ("ISR", "SIR", "SAR")
    },
}
_REDUCE = {"median": np.median, "mean": np.mean}


def over(values: Sequence[float] | np.ndarray, how: str) -> float:
    """Median or mean of the finite values; NaN where there is none.

    An infinite score counts as NaN, as it does in museval's score files.
    """
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    return float(_REDUCE[how](finite)) if finite.size else float("nan")


def over_tracks(tracks: Sequence[Sequence[float]], frames: str, how: str) -> float:
    """Frames of several tracks to one number: `frames` within each track, then `how` over the tracks."""
    return over([over(values, frames) for values in tracks], how)


def frames_of(record: Mapping[str, Any], source: str, metric: str) -> list[float]:
    """The frames of one source in a track's score file (museval's schema); NaN where the metric was not computed."""
    target = next(target for target in record["targets"] if target["name"] == source)
    return [frame["metrics"].get(metric, float("nan")) for frame in target["frames"]]


def summarise(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> dict[str, Any]:
    """Every protocol over the score files of a split, per source and on average.

    Returns:
        {"scores": {protocol: {source: dB}}, "baselines": {name: {protocol: {source: dB}}},
        "frames": {source: {"all", "nan"}}, "silent": {track: sources silent throughout}}; protocols that no
        track has are left out.
    """

    def column(of: Callable[[str], float]) -> dict[str, float]:
        scores = {source: of(source) for source in sources}
        return {**scores, "average": float(np.mean(list(scores.values())))}

    def medians(of: Callable[[Mapping[str, Any], str], Sequence[float]], how: str) -> dict[str, float]:
        return column(lambda source: over_tracks([of(record, source) for record in records], "median", how))

    scores = {
        f"{metric.lower()}_{how}_of_medians": medians(lambda r, s, m=metric: frames_of(r, s, m), how)
        for metric, how in (("SDR", "median"), ("SDR", "mean"), ("ISR", "median"), ("SIR", "median"), ("SAR", "median"))
    }
    for key in ("sdr_whole_track", "si_sdr"):
        scores[key] = column(lambda s, k=key: over([record["jaxsep"][k][s] for record in records], "mean"))
    has_all = all("ISR" in frame["metrics"] for r in records for t in r["targets"] for frame in t["frames"])
    known = [key for key in PROTOCOLS if has_all or not key.startswith(("isr", "sir", "sar"))]
    baselines = {
        name: {
            f"sdr_{how}_of_medians": medians(lambda r, s, b=name: r["jaxsep"]["baselines"][b][s], how)
            for how in ("median", "mean")
        }
        for name in records[0]["jaxsep"]["baselines"]
    }
    frames = {source: np.concatenate([frames_of(r, source, "SDR") for r in records]) for source in sources}
    return {
        "protocols": {key: ": ".join(PROTOCOLS[key]) for key in known},
        "scores": {key: scores[key] for key in known},
        "baselines": baselines,
        "frames": {s: {"all": v.size, "nan": int(np.isnan(v).sum())} for s, v in frames.items()},
        "silent": {r["jaxsep"]["track"]: r["jaxsep"]["silent"] for r in records if r["jaxsep"]["silent"]},
    }


def table(summary: Mapping[str, Any]) -> str:
    """A summary in Markdown: the system against the baselines, the system by every protocol, and the small print."""
    system, scores = f"{summary['system']}, step {summary['checkpoint']['step']}", summary["scores"]
    data = summary["data"]
    first = "sdr_median_of_medians"
    columns = list(scores[first])
    rows = {f"**{system}**": scores[first], **{name: row[first] for name, row in summary["baselines"].items()}}
    against = _markdown(
        [f"{PROTOCOLS[first][0]}, dB", *columns],
        [[name, *(_decibels(row[column]) for column in columns)] for name, row in rows.items()],
    )
    protocols = _markdown(
        [f"{system}, dB", *(PROTOCOLS[key][0] for key in scores)],
        [[column, *(_decibels(scores[key][column]) for key in scores)] for column in columns],
    )
    notes = [
        f"{len(summary['tracks'])} of {summary['tracks_in_split']} tracks of {data['root']}, split {data['split']}; "
        f"mixture: {summary['mixture']}; {_rate(summary['rate'])}; scored together, in seconds where none of them is "
        "silent: " + "; ".join(", ".join(names) for names in summary["scored_together"]),
        *summary["protocols"].values(),
        *(f"not here: {what}: {why}" for what, why in summary["missing"].items()),
        *(f"left out: {name}: {why}" for name, why in summary["failed"].items()),
        *(
            f"silent throughout in {name}: " + "; ".join(f"{what} {', '.join(s)}" for what, s in silent.items())
            for name, silent in summary["silent"].items()
        ),
    ]
    return "\n".join([*against, "", *protocols, "", *(f"- {note}" for note in notes)])


def _rate(rate: int | None) -> str:
    return f"separated and scored at {rate} Hz" if rate else "scored at the songs' own rate"


def _decibels(value: float | None) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [
        "| " + " | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) + " |"
        for row in (header, rule, *rows)
    ]
