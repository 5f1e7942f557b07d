"""From frames to tracks to one number, every way of doing so with a name, and the table of them.

The same frames give numbers up to 2 dB apart, depending on what is averaged how. `PROTOCOLS` therefore names
every row; a score without its key from there means nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxsep import markdown
from jaxsep.markdown import decibels
from jaxsep.metrics.museval import METRICS
from jaxsep.metrics.statistics import bootstrap

FRAMES = "1 s frames as in museval (BSS Eval v4)"
HEADLINE = "sdr_median_of_medians"


class _Recipe(NamedTuple):
    """How a metric becomes one number.

    Attributes:
        metric: of museval's frames, or a key of the whole track's values.
        frames: "median", "mean", "pooled" with those of all tracks, or "" for a value of the whole track.
        tracks: "median" or "mean", over the tracks or over the pooled frames.
        among_stems: vocals by their frames together with the other stems, not with accompaniment alone.
    """

    metric: str
    frames: str
    tracks: str
    among_stems: bool = False


_RECIPES = {
    HEADLINE: _Recipe("SDR", "median", "median"),
    "sdr_mean_of_medians": _Recipe("SDR", "median", "mean"),
    **{key: _Recipe(key, "", "mean") for key in ("sdr_whole_track", "si_sdr")},
    **{f"{m.lower()}_median_of_medians": _Recipe(m, "median", "median") for m in METRICS[1:]},
    **{key: _Recipe(key, "", "mean") for key in ("si_sar", "lsd")},
    **{f"{m.lower()}_mean_of_medians": _Recipe(m, "median", "mean") for m in METRICS[1:]},
    **{f"{m.lower()}_{how}_of_means": _Recipe(m, "mean", how) for m in METRICS for how in ("median", "mean")},
    **{f"{m.lower()}_pooled_{how}": _Recipe(m, "pooled", how) for m in METRICS for how in ("median", "mean")},
    **{f"{m.lower()}_median_of_medians_among_stems": _Recipe(m, "median", "median", True) for m in METRICS},
    "sdr_mean_of_medians_among_stems": _Recipe("SDR", "median", "mean", True),
}
_WHOLE_TRACK = {
    "sdr_whole_track": ("SDR (MDX)", "whole track, epsilon 1e-7 (MDX 2021; uSDR), mean over the tracks"),
    "si_sdr": ("SI-SDR", "whole track, channels flattened, means not removed, mean over the tracks"),
    "si_sar": (
        "SI-SAR",
        "whole track, as SI-SDR, but what the other sources explain is no error, mean over the tracks",
    ),
    "lsd": ("LSD", "log-spectral distance, lower is better; frames of 2,048 samples, mean over the tracks"),
}


def _words(key: str, recipe: _Recipe) -> tuple[str, str]:
    metric, frames, tracks, among_stems = recipe
    if not frames:
        return _WHOLE_TRACK[key]
    if frames == "pooled":
        return f"{metric} (pooled {tracks})", f"{FRAMES}, {tracks} over the frames of all tracks together"
    title = f"{metric} ({tracks})" if frames == "median" else f"{metric} ({tracks} of means)"
    definition = f"{FRAMES}, {frames} over the frames, then {tracks} over the tracks"
    if among_stems:
        mask = (
            "vocals in seconds where all stems are audible (Open-Unmix, Demucs), not vocals and accompaniment (SiSEC)"
        )
        return f"{title}, 4-source mask", f"{definition}; {mask}"
    return title, f"{definition} (SiSEC 2018; cSDR)" if key == HEADLINE else definition


PROTOCOLS = {key: _words(key, recipe) for key, recipe in _RECIPES.items()}  # key -> (row title, definition)
# What tables on a terminal show: whole tracks and medians of frames, of SDR their mean as well.
SHOWN = {
    key
    for key, recipe in _RECIPES.items()
    if not recipe.frames or (recipe.frames == "median" and (recipe.metric == "SDR" or recipe.tracks == "median"))
}
_REDUCE = {"median": np.ma.median, "mean": np.ma.mean}


def over(values: Sequence[float] | np.ndarray, how: str) -> float:
    """Median or mean of the finite values; NaN where there is none.

    An infinite score counts as NaN, as it does in museval's score files.
    """
    return float(_over(np.array([*values, np.nan]), how, axis=0))  # with a NaN, none is not an empty array


def over_tracks(tracks: Sequence[Sequence[float]], frames: str, how: str) -> float:
    """Frames of several tracks to one number: `frames` within each track, then `how` over the tracks.

    "pooled" frames are reduced together, whatever their track: long tracks count more.
    """
    if frames == "pooled":
        return over([value for track in tracks for value in track], how)
    return over([over(values, frames) for values in tracks], how)


def frames_of(record: Mapping[str, Any], source: str, metric: str) -> list[float]:
    """The frames of one source in a track's score file (museval's schema); NaN where the metric was not computed."""
    target = next(target for target in record["targets"] if target["name"] == source)
    return [frame["metrics"].get(metric, float("nan")) for frame in target["frames"]]


def track_score(record: Mapping[str, Any], source: str, key: str) -> float:
    """One source's score of one track, before tracks are reduced; NaN where the record has none.

    Args:
        record: a track's score file.
        source: of the track.
        key: of `PROTOCOLS`, but none that pools frames.
    """
    metric, frames, _, among_stems = _RECIPES[key]
    if not frames:
        return record["jaxsep"].get(metric, {}).get(source, float("nan"))
    return over(frames_of(_among_stems(record) if among_stems else record, source, metric), frames)


def summarise(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> dict[str, Any]:
    """Every protocol over the score files of a split, per source and on average.

    Returns:
        {"scores": {protocol: {source: dB}}, "intervals": {protocol: {source: 95 % bootstrap interval over tracks}},
        "baselines": {name: {protocol: {source: dB}}}, "frames": {source: {"all", "nan", and where vocals were scored
        among stems, too, "nan_among_stems"}}, "silent": {track: sources silent throughout}, "ill_conditioned":
        {track: lists of sources whose ISR, SIR and SAR are rounding noise}}; protocols that not all tracks have are
        left out.
    """
    known = [key for key, recipe in _RECIPES.items() if all(_has(record, recipe) for record in records)]
    scores, intervals = {}, {}
    for key in known:
        recipe = _RECIPES[key]
        names = [name for name in sources if not (recipe.among_stems and name == "accompaniment")]
        statistic = lambda tracks, how=recipe.tracks: _with_average(_over(tracks, how, axis=-2))
        if recipe.frames == "pooled":
            frames = {name: [frames_of(record, name, recipe.metric) for record in records] for name in names}
            found = _with_average(np.array([over_tracks(frames[name], "pooled", recipe.tracks) for name in names]))
        else:
            tracks = np.array([[track_score(record, name, key) for name in names] for record in records])
            found = statistic(tracks)
            ends = bootstrap(tracks, statistic)
            intervals[key] = dict(zip([*names, "average"], ends.T.tolist(), strict=True))
        absent = dict.fromkeys(sources, float("nan"))
        scores[key] = absent | dict(zip([*names, "average"], found.tolist(), strict=True))
    return {
        "protocols": {key: ": ".join(PROTOCOLS[key]) for key in known},
        "scores": scores,
        "intervals": intervals,
        "baselines": _baselines(records, sources),
        "frames": {source: _count(records, source) for source in sources},
        "silent": {r["jaxsep"]["track"]: r["jaxsep"]["silent"] for r in records if r["jaxsep"]["silent"]},
        "ill_conditioned": {r["jaxsep"]["track"]: c for r in records if (c := r["jaxsep"].get("ill_conditioned"))},
    }


def _over(values: Float[np.ndarray, "..."], how: str, axis: int) -> Float[np.ndarray, "..."]:
    return np.ma.filled(_REDUCE[how](np.ma.masked_invalid(values), axis=axis), np.nan)


def _with_average(scores: Float[np.ndarray, "... s"]) -> Float[np.ndarray, "... s+1"]:
    return np.concatenate([scores, scores.mean(axis=-1, keepdims=True)], axis=-1)


def _has(record: Mapping[str, Any], recipe: _Recipe) -> bool:
    if not recipe.frames:
        return recipe.metric in record["jaxsep"]
    if recipe.among_stems and "among_stems" not in record["jaxsep"]:
        return False
    return all(recipe.metric in frame["metrics"] for target in record["targets"] for frame in target["frames"])


def _among_stems(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with vocals as they were scored together with the other stems."""
    vocals = record["jaxsep"]["among_stems"]
    return {
        "targets": [target | {"frames": vocals.get(target["name"], target["frames"])} for target in record["targets"]]
    }


def _count(records: Sequence[Mapping[str, Any]], source: str) -> dict[str, int]:
    frames = np.array([value for record in records for value in frames_of(record, source, "SDR")])
    count = {"all": frames.size, "nan": int(np.isnan(frames).sum())}
    if all(source in record["jaxsep"].get("among_stems", ()) for record in records):
        among = [value for record in records for value in frames_of(_among_stems(record), source, "SDR")]
        count["nan_among_stems"] = int(np.isnan(among).sum())
    return count


def _baselines(records: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> dict[str, Any]:
    def column(name: str, how: str) -> dict[str, float]:
        of = lambda source: [record["jaxsep"]["baselines"][name][source] for record in records]
        scores = {source: over_tracks(of(source), "median", how) for source in sources}
        return {**scores, "average": float(np.mean(list(scores.values())))}

    return {
        name: {f"sdr_{how}_of_medians": column(name, how) for how in ("median", "mean")}
        for name in records[0]["jaxsep"].get("baselines", {})
    }


def table(summary: Mapping[str, Any]) -> str:
    """A summary in Markdown: the system against baselines, then by the protocols of `SHOWN`, and the small print."""
    scores, intervals = summary["scores"], summary.get("intervals", {})
    step = f", step {summary['checkpoint']['step']}" if "checkpoint" in summary else ""
    columns = list(scores[HEADLINE])
    numbers = lambda row: [decibels(row[column]) for column in columns]
    against = [[f"**{summary['system']}{step}**", *numbers(scores[HEADLINE])]]
    if HEADLINE in intervals:
        against += [["95 % interval", *(_interval(intervals[HEADLINE][column]) for column in columns)]]
    against += [[name, *numbers(row[HEADLINE])] for name, row in summary["baselines"].items()]
    protocols = [[PROTOCOLS[key][0], *numbers(row)] for key, row in scores.items() if key in SHOWN]
    return "\n".join(
        [
            markdown.table([f"{PROTOCOLS[HEADLINE][0]}, dB", *columns], against),
            "",
            markdown.table([f"{summary['system']}{step}, dB", *columns], protocols),
            "",
            *(f"- {note}" for note in _notes(summary)),
        ]
    )


def _notes(summary: Mapping[str, Any]) -> list[str]:
    together = "; ".join(", ".join(names) for names in summary["scored_together"])
    alike: dict[str, list[str]] = {}
    for key in (key for key in summary["scores"] if key in SHOWN):
        title, definition = summary["protocols"][key].split(": ", 1)
        alike.setdefault(definition, []).append(title)
    noise: dict[str, list[str]] = {}
    for track, sources in summary.get("ill_conditioned", {}).items():
        for names in sources:
            noise.setdefault(", ".join(names), []).append(track)
    return [
        f"{len(summary['tracks'])} of {summary['tracks_in_split']} tracks of {_songs(summary)}; scored together, in "
        f"seconds where none of them is silent: {together}",
        *(f"{', '.join(titles)}: {definition}" for definition, titles in alike.items()),
        "summary.json has more: means of frames, pooled frames, means over the tracks",
        *(["95 % interval: bootstrap over the tracks, percentiles"] if summary.get("intervals") else []),
        *(f"ISR, SIR, SAR of {names} are rounding noise in {', '.join(tracks)}" for names, tracks in noise.items()),
        *(f"not here: {what}: {why}" for what, why in summary["missing"].items()),
        *(f"left out: {name}: {why}" for name, why in summary["failed"].items()),
        *(
            f"silent throughout in {name}: " + "; ".join(f"{what} {', '.join(s)}" for what, s in silent.items())
            for name, silent in summary["silent"].items()
        ),
    ]


def _songs(summary: Mapping[str, Any]) -> str:
    if "data" not in summary:
        return summary["references"]
    data, rate = summary["data"], summary["rate"]
    rates = f"separated and scored at {rate} Hz" if rate else "scored at the songs' own rate"
    return f"{data['root']}, split {data['split']}; mixture: {summary['mixture']}; {rates}"


def _interval(ends: Sequence[float | None]) -> str:
    low, high = map(decibels, ends)
    return "-" if "-" in (low, high) else f"{low} to {high}"
