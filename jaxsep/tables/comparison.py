"""A run's scores beside the paper's: only where the protocol is the same, and otherwise the reason why not."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jaxsep import markdown, tables
from jaxsep.markdown import decibels
from jaxsep.tables import PROTOCOLS, SCORES, STEMS, Row

RATE = 44100
AMONG_STEMS = "_among_stems"  # scores of vocals that were scored both ways, as if all stems had been scored together
BASELINES = {  # -> how the variant of their row begins
    "baseline sisec-mix": "MIX: ",
    "baseline ibm1": "IBM1 ",
    "baseline ibm2": "IBM2 ",
    "baseline irm1": "IRM1 ",
    "baseline irm2": "IRM2 ",
    "baseline mwf": "local Gaussian model",
}
OTHER_STEMS = STEMS[1:]
PAIRS = ({"vocals", "accompaniment"}, {"vocals", "rest"})


def beside(summary: Mapping[str, Any]) -> str:
    """The paper's rows of the run's own protocol, in Markdown.

    Args:
        summary: what `eval.py` writes to `summary.json`.

    Returns:
        A table per protocol that has rows; one line with the reason where none can stand beside these scores; "" for
        a system without published scores.
    """
    published = rows_of(summary["system"])
    if not published:
        return ""
    if reason := obstacle(summary):
        return f"No published scores beside these: {reason}."
    found = {key: rows for key in summary["scores"] if (rows := comparable(summary, published, key))}
    if not found:
        where = sorted({PROTOCOLS[row.protocol].data for row in published} - {""})
        return (
            f"No published scores beside these: those of {summary['system'].partition(':')[0]} are of other protocols, "
            f"on {' and '.join(where) or 'data that is not stated'}; this is {flavour(summary['data'])}."
        )
    return "\n\n".join(_table(summary, key, rows) for key, rows in found.items())


def rows_of(system: str) -> list[Row]:
    """The rows of what a summary calls its system: `name:variant`, or a baseline that SiSEC 2018 scored as well."""
    name = system.partition(":")[0]
    if name in BASELINES:
        return [row for row in tables.published() if row.variant.startswith(BASELINES[name])]
    return [row for row in tables.rows_of(name) if row.scores] if name in tables.SYSTEMS else []


def obstacle(summary: Mapping[str, Any]) -> str:
    """Why no published row is comparable with a run's scores; "" where some may be."""
    data = summary["data"]
    if data["source"] == "builtin":
        return "the built-in songs are not MUSDB18"
    if data["split"] != "test":
        return f"the papers score the test split, this is {data['split']}"
    names = {unicodedata.normalize("NFC", name) for name in summary["tracks"]}
    if not names & tables.songs():
        return f"the songs of {data['root']} are not MUSDB18's"
    if names != tables.songs() or summary["tracks_in_split"] != len(names):
        there = len(names & tables.songs())
        return f"{there} of MUSDB18's 50 test songs were scored" + (", and others" if names - tables.songs() else "")
    if not flavour(data):
        return (
            f"whether {data['root']} is MUSDB18-HQ or MUSDB18 decoded to wav is not known; call the folder "
            "musdb18hq if it is, or score MUSDB18's .stem.mp4 files"
        )
    if summary["rate"] not in (None, RATE):
        return f"scored at {summary['rate']} Hz, the papers score at {RATE} Hz"
    if summary.get("channels", 2) != 2:
        return "scored in mono, the papers score in stereo"
    if summary["mixture"] != "original":
        return "the sum of the stems was separated, the papers separate the released mixture (--mixture=original)"
    if not company(summary):
        return "these sources are not the papers', or were not scored together as there"
    return ""


def flavour(data: Mapping[str, Any]) -> str:
    """ "MUSDB18" for its .stem.mp4 files, "MUSDB18-HQ" for stem folders under such a name, "" where it is not known."""
    if data["source"] == "musdb18":
        return "MUSDB18"
    return "MUSDB18-HQ" if "hq" in PurePath(data["root"]).name.lower() else ""


def company(summary: Mapping[str, Any]) -> str:
    """Beside what the vocals were scored: "accompaniment", all "stems", or "" for anything else."""
    calls = [set(names) for names in summary["scored_together"]]
    if any(names in PAIRS for names in calls):
        return "accompaniment"
    return "stems" if set(STEMS) in calls else ""


def comparable(summary: Mapping[str, Any], rows: Sequence[Row], score: str) -> list[Row]:
    """Those of the rows that have a number of the protocol of one of a run's scores."""
    return [row for row in rows if shared(summary, row, score)]


def shared(summary: Mapping[str, Any], row: Row, score: str) -> list[str]:
    """The columns in which a row's protocol is that of one of a run's scores, in all that it states.

    What vocals are scored with makes no difference to the other stems, which are scored together either way.
    """
    protocol = PROTOCOLS[row.protocol]
    if (protocol.score, protocol.data) != (score.removesuffix(AMONG_STEMS), flavour(summary["data"])):
        return []
    with_vocals = "stems" if score.endswith(AMONG_STEMS) else company(summary)
    same = protocol.together in ("", None, with_vocals)
    mine, printed = own(summary["scores"][score]), theirs(row)
    return [name for name in SCORES if name in mine and name in printed and (same or name in OTHER_STEMS)]


def label(row: Row) -> str:
    """A row's name with what its reader has to know."""
    unstated = "what was scored together is not stated" if PROTOCOLS[row.protocol].together == "" else ""
    remarks = [row.evidence if row.evidence != "printed" else "", row.note, unstated]
    return f"{row.label} ({'; '.join(filter(None, remarks))})" if any(remarks) else row.label


def own(scores: Mapping[str, float | None]) -> dict[str, float]:
    """A run's scores with the papers' average: the mean of the four stems, whatever other sources there are."""
    known = {name: float(value) for name, value in scores.items() if value is not None and name != "average"}
    return _with_average({name: value for name, value in known.items() if math.isfinite(value)})


def theirs(row: Row) -> dict[str, float]:
    """A row's scores, with the mean of its four stems where no average is printed."""
    return {**_with_average(row.scores), **row.scores}


def _with_average(scores: Mapping[str, float]) -> dict[str, float]:
    if not set(STEMS) <= scores.keys():
        return dict(scores)
    return {**scores, "average": sum(scores[stem] for stem in STEMS) / len(STEMS)}


def _table(summary: Mapping[str, Any], key: str, rows: list[Row]) -> str:
    mine = own(summary["scores"][key])
    columns = [name for name in SCORES if name in mine]
    step = f", step {summary['checkpoint']['step']}" if "checkpoint" in summary else ""
    cells = [[f"**{summary['system']}{step}**", *(decibels(mine[column]) for column in columns)]]
    for row in rows:
        known = {name: row.scores.get(name) for name in shared(summary, row, key)}
        cells.append([label(row), *(decibels(known.get(column)) for column in columns)])
    words = PROTOCOLS[rows[0].protocol].words.partition(";")[0]
    return markdown.table(["SDR, dB", *columns], cells) + f"\n\n- published: {words}; see `jaxsep tables`"


def differences(summary: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """A run's scores, the rows that it should reproduce and run minus row, in Markdown; says what does not compare.

    Args:
        summary: of `eval.py`.
        rows: of any protocol; those that no score of the run goes with are named.
    """
    reason = obstacle(summary)
    parts = [f"NOT COMPARABLE with the published scores: {reason}."] if reason else []
    for row in rows:
        protocol = PROTOCOLS[row.protocol]
        key = protocol.score
        if protocol.together == "stems" and key + AMONG_STEMS in summary["scores"]:
            key += AMONG_STEMS
        if key in summary["scores"]:
            parts.append(_difference(summary, row, key, not reason))
        else:
            parts.append(f"{label(row)}: scored as nothing here is ({protocol.words}).")
    return "\n\n".join(parts)


def _difference(summary: Mapping[str, Any], row: Row, key: str, comparable_data: bool) -> str:
    protocol, mine, printed = PROTOCOLS[row.protocol], own(summary["scores"][key]), theirs(row)
    columns = [name for name in SCORES if name in mine and name in printed]
    same = shared(summary, row, key) if comparable_data else []
    minus = {name: f"{mine[name] - printed[name]:+.2f}" for name in same or columns}
    notes = [f"published: {protocol.words}; {row.source}"]
    if "average" in columns and "average" not in row.scores:
        notes.append("published average: none is printed, this is the mean of the four")
    if comparable_data and not same:
        notes.append(f"not comparable: published for {protocol.data}, this is {flavour(summary['data'])}")
    elif comparable_data and same != columns:
        notes.append(f"vocals: published beside {protocol.together}, here beside {company(summary)}")
    table = markdown.table(
        ["SDR, dB", *columns],
        [
            [f"**{summary['system']}**", *(decibels(mine[name]) for name in columns)],
            [label(row), *(decibels(printed[name]) for name in columns)],
            ["difference" if same else "difference, NOT COMPARABLE", *(minus.get(name, "-") for name in columns)],
        ],
    )
    return "\n".join([table, "", *(f"- {note}" for note in notes)])
