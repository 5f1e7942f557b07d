"""What the papers say: published scores of MUSDB18 with protocol, evidence and source, and SiSEC 2018 track by track.

A number is compared with another of its own protocol or not at all; `PROTOCOLS` names them. `comparison` holds a run's
scores against the rows of the same one, `printing` shows rows. The data files are made by `scripts/tables.py`.
"""

import csv
import dataclasses
import difflib
import functools
import gzip
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxsep.errors import JaxsepError

FOLDER = Path(__file__).parent
STEMS = ("vocals", "drums", "bass", "other")
SCORES = (*STEMS, "accompaniment", "average")
EVIDENCE = {
    "recomputed": "from the published scores of every frame, anew",
    "printed": "by the system's authors, or by those who ran it",
    "second hand": "copied by others, not checked with the authors",
    "unverified": "second hand, with a reason to doubt it: bass and drums may be swapped",
    "not found": "a table that exists but could not be read",
}


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a row was scored.

    Attributes:
        words: for people.
        data: "MUSDB18", "MUSDB18-HQ", or another set.
        score: key of `aggregate.PROTOCOLS` that is the same, "" = none is.
        together: whose silence drops a frame of the vocals: all "stems", or vocals and "accompaniment" apart;
            "" = not stated, None = makes no difference.
    """

    words: str
    data: str
    score: str = ""
    together: str | None = ""


_MEDIANS = "museval v4, 1 s frames, median over frames, median over the 50 test songs of"
PROTOCOLS = {
    "musdb18-sisec": Protocol(
        f"{_MEDIANS} MUSDB18; vocals scored beside the accompaniment",
        "MUSDB18",
        "sdr_median_of_medians",
        "accompaniment",
    ),
    "musdb18-stems": Protocol(
        f"{_MEDIANS} MUSDB18; all four stems scored together", "MUSDB18", "sdr_median_of_medians", "stems"
    ),
    "musdb18": Protocol(
        f"{_MEDIANS} MUSDB18; what was scored together is not stated", "MUSDB18", "sdr_median_of_medians"
    ),
    "musdb18-mean": Protocol(
        "museval v4, 1 s frames, median over frames, mean over the test songs of MUSDB18; "
        "what was scored together is not stated",
        "MUSDB18",
        "sdr_mean_of_medians",
    ),
    "hq": Protocol(
        f"{_MEDIANS} MUSDB18-HQ (cSDR); what was scored together is not stated", "MUSDB18-HQ", "sdr_median_of_medians"
    ),
    "hq-mean": Protocol(
        "museval v4, 1 s frames, median over frames, mean over the 50 test songs of MUSDB18-HQ; "
        "what was scored together is not stated",
        "MUSDB18-HQ",
        "sdr_mean_of_medians",
    ),
    "hq-usdr": Protocol(
        "SDR of the whole song, mean over the 50 test songs of MUSDB18-HQ (uSDR)", "MUSDB18-HQ", "sdr_whole_track", None
    ),
    "mdx21": Protocol("SDR of the whole song, mean over the hidden songs of MDX 2021", "MDXDB21", together=None),
    "sdx23": Protocol("SDR of the whole song, mean over the hidden songs of SDX 2023", "MDXDB21", together=None),
    "speech": Protocol("speech enhancement", "speech", together=None),
    "unclear": Protocol("not stated, or not in full", ""),
}

SYSTEMS = {  # our names -> those of the published tables
    "spleeter": ("Spleeter",),
    "open_unmix": ("Open-Unmix", "UMX", "UMX baseline"),
    "blstm": (
        "BLSTM (Uhlich 2017)",
        "BLEND of 2 BLSTM (Uhlich 2017)",
        "BLSTM / BLEND (Uhlich 2017)",
        "BLEND MMDenseNet+BLSTM",
    ),
    "mmdensenet": ("MMDenseNet",),
    "mmdenselstm": ("MMDenseLSTM",),
    "d3net": ("D3Net",),
    "lasaft": ("LaSAFT",),
    "cunet": ("C-U-Net", "Dedicated U-Nets x4"),
    "phasen": ("PHASEN", "PHASEN (40-epoch reimplementation)"),
    "demucs": ("Demucs v1", "Demucs v2", "Demucs48-HQ"),
    "conv_tasnet": ("Conv-TasNet (music, Demucs repo)", "Conv-TasNet"),
    "tasnet": ("TasNet",),
    "meta_tasnet": ("Meta-TasNet",),
    "wave_unet": ("Wave-U-Net",),
    "wavenet": ("WaveNet (Lluis 2018)",),
    "hdemucs": ("HDemucs", "Demucs++ (HDemucs prototype)"),
    "htdemucs": ("HT Demucs",),
    "xumx": ("X-UMX", "X-UMXL", "X-UMX baseline"),
    "munet": ("M-U-Net",),
    "jy": ("U-Net-like denoising autoencoder (Liu & Yang)", "DGRU-DGConv (Liu & Yang 2019)"),
    "deepconvsep": ("DeepConvSep",),
    "sams_net": ("Sams-Net",),
    "tfc_tdf": (
        "TFC-TDF U-Net v1",
        "TFC-TDF U-Net v2",
        "TFC-TDF U-Net v3",
        "TFC-TDF v3 (SDX23 label noise)",
        "MDX23C (TFC-TDF v3 impl.)",
    ),
    "kuielab_mdx": ("KUIELab-MDX-Net",),
    "danna_sep": ("Danna-Sep", "Kazane Team (Danna-Sep)"),
    "resunet": ("ResUNetDecouple+", "ResUNet143", "MobileNet subband"),
    "cws_presunet": ("CWS-PResUNet",),
    "bsrnn": ("BSRNN",),
    "bs_roformer": ("BS-RoFormer", "Mel-RoFormer"),
    "scnet": ("SCNet",),
    "dttnet": ("DTTNet",),
    "dccrn": ("DCCRN", "DCCRN-E", "DCCRN variants R/C/E/CL", "DCCRNet (asteroid)"),
    "oracles": ("Oracle IBM", "Oracle IRM", "Oracle MWF"),
    "mixture": ("Mixture/4 (no separation)", "Noisy"),
    "sisec18_others": (
        *("2DFT", "HEL1", "HPLP", "HPSS", "MDL1", "MDLT", "MELO"),
        *("REP1", "REP2", "RGT1", "RGT2", "RPCA", "WK"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One published row; its attributes are the columns of `published.csv`.

    Attributes:
        system: the paper's name; `SYSTEMS` has ours.
        extra_data: "no", or what was trained on beside MUSDB18.
        protocol: key of `PROTOCOLS`.
        scores: dB by the names of `SCORES`, those that are printed.
        evidence: key of `EVIDENCE`.
        weights: names of `jaxsep weights list` that should reproduce it.
    """

    system: str
    variant: str
    extra_data: str
    protocol: str
    note: str
    scores: dict[str, float]
    params_millions: float | None
    evidence: str
    source: str
    weights: tuple[str, ...]

    @property
    def label(self) -> str:
        """System, variant, and what it was trained on beside MUSDB18."""
        extra = "" if self.extra_data in ("", "no") else f"+ {self.extra_data}"
        return ", ".join(filter(None, (self.system, self.variant, extra)))


@functools.cache
def published() -> tuple[Row, ...]:
    """Every published row, in the order of the tables."""
    return tuple(
        Row(
            scores={name: float(row[name]) for name in SCORES if row[name]},
            params_millions=float(row["params_millions"]) if row["params_millions"] else None,
            weights=tuple(row["weights"].split()),
            **{name: row[name] for name in ("system", "variant", "extra_data", "protocol")},
            **{name: row[name] for name in ("note", "evidence", "source")},
        )
        for row in _rows("published.csv")
    )


def rows_of(system: str) -> list[Row]:
    """The rows of one of our names."""
    return [row for row in published() if row.system in SYSTEMS[system]]


def find(name: str) -> str:
    """Our name of a system that goes by this name here or in a paper, whatever its case and dashes.

    Raises:
        JaxsepError: there is none.
    """
    names = {_plain(alias): key for key, aliases in SYSTEMS.items() for alias in (*aliases, key)}
    if _plain(name) in names:
        return names[_plain(name)]
    near = dict.fromkeys(names[match] for match in difflib.get_close_matches(_plain(name), names, n=3, cutoff=0.5))
    hint = f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(SYSTEMS)}, sisec18"
    raise JaxsepError(f"SYSTEM={name!r}: no published scores; {hint}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class TrackScore(NamedTuple):
    """SDR of a method on a track: median over 1 s frames; NaN where no frame counts."""

    method: str
    track: str
    target: str
    sdr: float


@functools.cache
def sisec18() -> tuple[TrackScore, ...]:
    """SiSEC 2018: 31 methods, the 50 test tracks of MUSDB18, 2 or up to 5 targets each."""
    return tuple(
        TrackScore(row["method"], row["track"], target, float(row[target]))
        for row in _rows("sisec18_tracks.csv.gz")
        for target in (*STEMS, "accompaniment")
        if row[target]
    )


def songs() -> frozenset[str]:
    """The names of MUSDB18's 50 test songs."""
    return frozenset(score.track for score in sisec18())


def sisec18_methods() -> list[dict[str, float | str | None]]:
    """A row per method as recomputed: SDR (two ways of averaging), frames, and SIR/ISR/SAR of the four stems."""
    return [{name: _value(text) for name, text in row.items()} for row in _rows("sisec18.csv")]


def _value(text: str) -> float | str | None:
    try:
        return float(text)
    except ValueError:
        return text or None


def speech() -> list[dict[str, str]]:
    """The rows of papers that enhance speech: PESQ and its kin."""
    return list(_rows("speech.csv"))


@dataclasses.dataclass(frozen=True)
class Ablation:
    """Runs of the Demucs papers that differ in their seeds only, recomputed from their frames.

    Attributes:
        commit: of facebookresearch/demucs, which holds the scores.
        settings: what differs from the default.
        runs: how many.
        medians: medians of medians, mean over the runs; by `STEMS`, and their average.
        means: means over the tracks of the medians over the frames, likewise.
    """

    commit: str
    settings: str
    runs: int
    medians: dict[str, float]
    means: dict[str, float]


def demucs() -> list[Ablation]:
    """The ablation tables of Demucs v1 (7cf5c60) and v2 (d6abb13), with Conv-TasNet and the baselines beside them."""
    grouped: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in _rows("demucs.csv"):
        settings = re.sub(r"\bseed=\d+ ?", "", row["run"]).strip() or "default"
        grouped.setdefault((row["commit"].removeprefix("demucs_"), settings), []).append(row)

    def over(rows: list[Mapping[str, str]], how: str) -> dict[str, float]:
        columns = dict(zip((*STEMS, "average"), (*STEMS, "avg"), strict=True))
        return {
            name: float(np.mean([float(row[f"{how}_{column}"]) for row in rows])) for name, column in columns.items()
        }

    return [
        Ablation(commit, settings, len(rows), over(rows, "med"), over(rows, "mean"))
        for (commit, settings), rows in grouped.items()
    ]


def _rows(name: str) -> Iterator[dict[str, str]]:
    contents = (FOLDER / name).read_bytes()
    text = gzip.decompress(contents) if name.endswith(".gz") else contents
    yield from csv.DictReader(io.StringIO(text.decode()))
