"""Builds the data files of `jaxsep.tables` from research tables: values as they are, words made plain.

    python scripts/tables.py FOLDER

FOLDER holds paper_sdr.csv, paper_speech.csv, demucs_recomputed.csv, sisec18_recomputed.csv and
sisec18_pertrack_sdr.csv. The tags of their sources become the column `evidence`.
"""

import csv
import gzip
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxsep import tables

EVIDENCE = {
    "RAW": "recomputed",
    "REPO": "printed",
    "FIG": "printed",
    "PAPER-MD": "printed",
    "LATEX": "printed",
    "SEC": "second hand",
    "": "not found",
    "NOT FOUND": "not found",
}

# What also lists systems of others: there these are the authors' own, all others second hand.
AUTHORS = {
    "pfnet-research/meta-tasnet": ("Meta-TasNet",),
    "ws-choi/ISMIR2020_U_Nets_SVS": ("TFC-TDF U-Net v1",),
    "junyuchen-cjy/DTTNet-Pytorch": ("DTTNet",),
    "KUIELab MDX workshop": ("TFC-TDF U-Net v2", "KUIELab-MDX-Net", "HDemucs"),  # HDemucs as they measured it
    "ws-choi/Conditioned-Source-Separation-LaSAFT": ("LaSAFT",),
}

FRAMES = "museval-v4 1s/1s median-of-medians"
MEASURED = f"{FRAMES} (MUSDB18, 50 test)"
HQ = f"{FRAMES} = cSDR (MUSDB18-HQ, 50 test)"
PROTOCOLS = {  # protocol -> (key of `tables.PROTOCOLS`, note)
    f"{MEASURED}; vocals scored in 2-source voc/acc run": ("musdb18-sisec", ""),
    f"{MEASURED}; vocals scored in 4-source run": ("musdb18-stems", ""),
    f"{MEASURED}; 4-source run": ("musdb18-stems", ""),
    f"{MEASURED}; 4-source run; mean over seeds": ("musdb18-stems", ""),
    MEASURED: ("musdb18", ""),
    f"{MEASURED} (compressed MUSDB18)": ("musdb18", ""),
    f"{MEASURED}; model trained on HQ, evaluated on compressed stems": ("musdb18", "trained on MUSDB18-HQ"),
    "museval-v4 mean-of-medians": ("musdb18-mean", "data set assumed"),
    HQ: ("hq", ""),
    f"{HQ}; mean +- std over tracks": ("hq-mean", ""),
    "uSDR = mean over tracks of whole-track SDR (MUSDB18-HQ)": ("hq-usdr", ""),
    "MDX21 SDR (whole-track; hidden MDXDB21)": ("mdx21", ""),
    "SDX23 SDR (whole-track; hidden MDXDB21)": ("sdx23", ""),
    "median over MUSDB18 (README)": ("unclear", "median over MUSDB18"),
    "SDR vocals (README)": ("unclear", "SDR of the vocals"),
    "BSS Eval (protocol details not stated in the text read); MEAN over tracks +- std, median in variant": (
        "unclear",
        "BSS Eval, mean over the tracks",
    ),
    "speech": ("speech", ""),
    "NOT FOUND in stored sources": ("unclear", ""),
}
ASSUMED = ("D3Net", "X-UMX", "X-UMXL", "TFC-TDF U-Net v1", "LaSAFT")  # do not say which MUSDB18 they scored

WEIGHTS = {  # rows that published weights should reproduce, by the names of `jaxsep weights list`
    ("Open-Unmix", "UMX"): "umx",
    ("Open-Unmix", "UMX-HQ"): "umxhq",
    ("Open-Unmix", "UMX-L"): "umxl",
    ("Spleeter", "4stems soft mask"): "spleeter-4stems",
    ("D3Net", ""): "d3net",
    ("D3Net", "official NNabla weights"): "d3net",
    ("LaSAFT", "LaSAFT+GPoCM-Net"): "lasaft-large-2019 lasaft-large-2020 lasaft-large-2021",
}

PLAIN = (  # pattern -> words, in order, within a source
    (r"^RAW: recomputed from (\S+) (\S+)/\*\.json", r"scores per frame in \1, \2"),
    (r"^RAW: recomputed from (\S+) (\S+)", r"scores per frame in \1, \2"),
    (r"; accompaniment SDR=[\d.]*$", ""),
    (r"^SEC:? ?\((?:quotes |transcribes )?(arXiv [^()]*)\)", r"a transcription of \1"),
    (r"^SEC:? ?\(same file: ([^()]*)\)", r"a third party's measurement; \1"),
    (r"^SEC:? ?\((?=, \d+ \(arXiv)", ""),
    (r"^, \d+ \((arXiv [\d.]+)\);", r"a citation of \1;"),
    (r"^SEC:? ?\((: |$)", "a citation of arXiv 2008.00264; "),
    (r"^(LATEX|SEC):? ?\(([^()]*)\)", r"\2"),
    (r"^LATEX:? ?", ""),
    (r"^(results table of)", r"LaTeX source, \1"),
    (r"^FIG: ", "figure "),
    (r"^(REPO|PAPER-MD|SEC):? ?", ""),
    (r"confirmed RAW from", "confirmed by the scores per frame in"),
    (r"\bFIG: ", "from the figure "),
    (r"\bPWC\b", "Papers with Code"),
    (r" \(ids [\d, ]+\)", ""),
    (r"NOT FOUND.*", ""),
    (r"[;:, ]+$", ""),
)


def published(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The rows of paper_sdr.csv in the columns of `tables.COLUMNS`."""
    return [
        {
            "system": row["system"],
            "variant": row["variant"].replace("see paper_speech.csv", "see the speech table"),
            "extra_data": row["extra_data"],
            **dict(zip(("protocol", "note"), _protocol(row), strict=True)),
            **{stem: row[stem] for stem in tables.STEMS},
            "accompaniment": "".join(re.findall(r"accompaniment SDR=([\d.-]+)", row["source"])),
            "average": row["avg"],
            "params_millions": row["params_millions"],
            "evidence": _evidence(row),
            "source": plain(row["source"]),
            "weights": WEIGHTS.get((row["system"], row["variant"]), "") if row["extra_data"] != "1.5k songs" else "",
        }
        for row in rows
    ]


def plain(source: str) -> str:
    """A source without its tags."""
    for pattern, words in PLAIN:
        source = re.sub(pattern, words, source)
    return source


def _protocol(row: Mapping[str, str]) -> tuple[str, str]:
    key, note = PROTOCOLS[row["protocol"]]
    if "(= TAK1" in row["source"]:
        key = "musdb18-sisec"  # the row of SiSEC, printed again
    notes = [
        note,
        "MUSDB18 rather than MUSDB18-HQ is assumed" if key == "musdb18" and row["system"] in ASSUMED else "",
        "average second hand" if "avg from PWC" in row["source"] else "",
    ]
    return key, "; ".join(filter(None, notes))


def _evidence(row: Mapping[str, str]) -> str:
    tag = re.match(r"[A-Z- ]*[A-Z]|", row["source"])
    assert tag is not None
    evidence = EVIDENCE[tag.group()]
    first = row["source"].split(";")[0]
    others = [systems for file, systems in AUTHORS.items() if evidence == "printed" and file in first]
    if row["system"] == "BS-RoFormer" and evidence == "second hand":
        return "unverified"  # more bass than drums, unlike a retraining by others: columns may be swapped
    return "second hand" if others and row["system"] not in others[0] else evidence


def speech(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """The rows of paper_speech.csv, with evidence."""
    return [{**row, "evidence": _evidence(row), "source": plain(row["source"])} for row in rows]


def tracks(rows: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """One row per method and track; a median of numbers of five decimals has six, the rest is float noise."""
    wide: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        value = repr(round(float(row["median_sdr"]), 6)) if row["median_sdr"] else ""
        wide.setdefault((row["method"], row["track"]), {})[row["target"]] = value
    columns = (*tables.STEMS, "accompaniment")
    return [
        {"method": method, "track": track, **{column: values.get(column, "") for column in columns}}
        for (method, track), values in wide.items()
    ]


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _text(rows: Sequence[Mapping[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def build(folder: Path) -> dict[str, bytes]:
    """Name -> contents of every data file."""
    return {
        "published.csv": _text(published(_read(folder / "paper_sdr.csv"))),
        "speech.csv": _text(speech(_read(folder / "paper_speech.csv"))),
        "demucs.csv": _text(_read(folder / "demucs_recomputed.csv")),
        "sisec18.csv": _text(_read(folder / "sisec18_recomputed.csv")),
        "sisec18_tracks.csv.gz": gzip.compress(_text(tracks(_read(folder / "sisec18_pertrack_sdr.csv"))), 9, mtime=0),
    }


if __name__ == "__main__":
    for name, contents in build(Path(sys.argv[1])).items():
        (tables.FOLDER / name).write_bytes(contents)
