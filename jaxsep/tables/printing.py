"""Rows as text: aligned for people and pipes, or as JSON values."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxsep import tables
from jaxsep.config import choose
from jaxsep.errors import JaxsepError
from jaxsep.tables import EVIDENCE, PROTOCOLS, SCORES, SYSTEMS, Row

SISEC18 = "sisec18"


def render(system: str | None = None, protocol: str | None = None) -> str:
    """Every published row, or those of a system and a protocol, with protocol and source.

    Args:
        system: as people call it, or "sisec18" for the 31 methods of SiSEC 2018; None = all.
        protocol: key of `PROTOCOLS`; None = all.

    Raises:
        JaxsepError: no such system or protocol.
    """
    if system == SISEC18:
        return _sisec18(protocol)
    found = select(system, protocol)
    parts = [_published(found["published"])] if found["published"] else []
    parts += [_speech(found["speech"])] if found["speech"] else []
    parts += [_demucs()] if found["runs"] else []
    return "\n\n".join(parts) or f"no rows of the protocol {protocol}: {PROTOCOLS[protocol or 'unclear'].words}"


def values(system: str | None = None, protocol: str | None = None) -> Any:
    """The same in JSON values.

    Raises:
        JaxsepError: no such system or protocol.
    """
    if system == SISEC18:
        return _methods(protocol)
    found = select(system, protocol)
    return {
        "protocols": {key: dataclasses.asdict(PROTOCOLS[key]) for key in PROTOCOLS},
        "published": [dataclasses.asdict(row) for row in found["published"]],
        "speech": found["speech"],
        "runs": [dataclasses.asdict(run) for run in found["runs"]],
    }


def select(system: str | None, protocol: str | None) -> dict[str, list[Any]]:
    """The rows of a system (None = all) by table: "published", "speech", and of Demucs "runs".

    Raises:
        JaxsepError: no such system or protocol.
    """
    chosen = tables.find(system) if system else None
    if protocol is not None:
        choose(PROTOCOLS, protocol, "--protocol")
    names = [name for key, aliases in SYSTEMS.items() if chosen in (None, key) for name in aliases]
    order = {name: rank for rank, name in enumerate(names)}
    rows = [row for row in tables.published() if row.system in order and protocol in (None, row.protocol)]
    spoken = [row for row in tables.speech() if row["system"] in order and protocol in (None, "speech")]
    runs = tables.demucs() if chosen == "demucs" and protocol in (None, "musdb18-stems") else []
    return {"published": sorted(rows, key=lambda row: order[row.system]), "speech": spoken, "runs": runs}


def _published(rows: Sequence[Row]) -> str:
    heads = ("system", "extra data", "protocol", *SCORES, "params (M)", "evidence", "source")
    columns = [
        [f"  {row.system}{', ' * bool(row.variant)}{row.variant}" for row in rows],
        [row.extra_data or "-" for row in rows],
        [row.protocol for row in rows],
        *(_points([row.scores.get(name) for row in rows]) for name in SCORES),
        _points([row.params_millions for row in rows]),
        [row.evidence for row in rows],
        ["; ".join(filter(None, (row.note, row.source))) for row in rows],
    ]
    head, *lines = _aligned([heads, *zip(*columns, strict=True)])
    groups = {key: [row.system in names for row in rows] for key, names in SYSTEMS.items()}
    text = [head]
    for key, mine in groups.items():
        if any(mine):
            text += [key, *(line for line, is_mine in zip(lines, mine, strict=True) if is_mine)]
    used = {row.protocol: PROTOCOLS[row.protocol].words for row in rows}
    marks = {row.evidence: EVIDENCE[row.evidence] for row in rows}
    return "\n".join([*text, "", "SDR in dB. Protocols:", *_legend(used), "", "Evidence:", *_legend(marks)])


def _speech(rows: Sequence[Mapping[str, str]]) -> str:
    heads = ("system", "data", "PESQ", "", "CSIG", "CBAK", "COVL", "STOI", "SDR", "params (M)", "evidence", "source")
    keys = ("system", "dataset", "pesq", "pesq_type", "csig", "cbak", "covl", "stoi", "si_sdr_or_sdr")
    cells = [[row[key] or "-" for key in (*keys, "params_millions", "evidence", "source")] for row in rows]
    return "\n".join(["Speech enhancement (SDR: SI-SDR or SDR, as printed)", *_aligned([heads, *cells])])


def _demucs() -> str:
    heads = ("commit", "settings", "runs", *tables.STEMS, "average", "average of means")
    runs = tables.demucs()
    cells = [
        [run.commit, run.settings, str(run.runs), *map(_three, run.medians.values()), _three(run.means["average"])]
        for run in runs
    ]
    return "\n".join(
        [
            "Ablations of Demucs v1 (facebookresearch/demucs@7cf5c60) and v2 (@d6abb13), recomputed",
            "from the scores of every frame: medians of medians, mean over runs that differ in their seed; in the last",
            "column means of medians. Settings are those of the commit's train.py: only what differs from its default;",
            "raw=musdb_raw_44_allstems: 150 more songs; tasnet=True: Conv-TasNet; baselines/: of other systems.",
            *_aligned([heads, *cells]),
        ]
    )


def _sisec18(protocol: str | None) -> str:
    rows = _methods(protocol)
    stems = (*tables.STEMS, "accompaniment")
    heads = ("method", *stems, "average", *(f"mean {stem}" for stem in tables.STEMS), "SIR/ISR/SAR vocals")
    keys = (*stems, "avg4", *(f"mean_of_medians_{stem}" for stem in tables.STEMS))
    columns = [
        [row["method"] for row in rows],
        *(_points([row[key] for row in rows]) for key in keys),
        [row["SIR/ISR/SAR_vocals"] for row in rows],
    ]
    return "\n".join(
        [
            "SiSEC 2018 on the 50 test songs of MUSDB18, recomputed from the scores of every frame",
            "(sigsep/sigsep-mus-2018@62fb479): SDR in dB, medians of medians; mean: mean over tracks of the medians.",
            "Vocals beside the accompaniment where a method has both, else all four together (HEL1, RGT1, RGT2, STL2).",
            *_aligned([heads, *zip(*columns, strict=True)]),
        ]
    )


def _methods(protocol: str | None) -> list[dict[str, Any]]:
    if protocol is not None:
        raise JaxsepError(f"--protocol={protocol}: the methods of SiSEC 2018 have one; leave it out")
    return tables.sisec18_methods()


def _legend(words: Mapping[str, str]) -> list[str]:
    return [f"  {line}" for line in _aligned(list(words.items()))]


def _three(value: float) -> str:
    return f"{value:.3f}"


def _points(numbers: Sequence[float | None]) -> list[str]:
    """Numbers with all their digits, at least two decimals, one point below the other."""
    texts = ["-   " if n is None else f"{n:.2f}" if round(n, 2) == n else str(n) for n in numbers]
    decimals = max(len(text.partition(".")[2]) for text in texts)
    padded = [text.ljust(text.find(".") + 1 + decimals) if "." in text else text.strip() for text in texts]
    width = max(map(len, padded))
    return [text.rjust(width) for text in padded]


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    cells = list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
