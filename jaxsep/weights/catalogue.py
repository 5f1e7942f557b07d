"""Which weights are published: from where, under which licence, and which score of the paper they should reproduce.

Addresses are those that the authors' code or README names. Sums are stated by the authors: in a test of Spleeter, in
the file names of Open-Unmix and Demucs, in the code of Demucs' first version, as the object names of LaSAFT's Git LFS.
Where they state none there is none here.
"""

import dataclasses
from collections.abc import Collection
from typing import Any

from jaxsep import config as configs
from jaxsep.weights import UNKNOWN, Origin

MUSEVAL = "museval SDR, median of frames, median of the 50 test songs of MUSDB18"
MUSDB18 = "MUSDB18 (its licence: research and education only)"
EXTRA = f"{MUSDB18} and 150 songs that are not published"
DEMUCS = "https://dl.fbaipublicfiles.com/demucs"


@dataclasses.dataclass(frozen=True)
class File:
    """A file to download.

    Attributes:
        address: http or https.
        sha256: its first digits, as many as are published; "" = none.
    """

    address: str
    sha256: str = ""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights that somebody has published.

    Attributes:
        name: for `jaxsep weights fetch`.
        kind: key of `weights.KINDS`.
        sources: comma-separated.
        origin: page, licence, training data.
        score: what the authors state, with the protocol.
        files: to download; () = there is nothing to be had by address.
    """

    name: str
    kind: str
    sources: str
    origin: Origin
    score: str
    files: tuple[File, ...] = ()

    def row(self) -> dict[str, Any]:
        """For `jaxsep weights list --json`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "sources": self.sources.split(","),
            "page": self.origin.address,
            "files": [{"address": f.address, "sha256": f.sha256 or UNKNOWN} for f in self.files] or "by hand",
            "licence": self.origin.licence,
            "training_data": self.origin.training_data,
            "commercial_use": self.origin.commercial_use,
            "score": self.score,
        }


def _spleeter(stems: int, sources: str, sha256: str, score: str) -> Published:
    release = "https://github.com/deezer/spleeter/releases/download/v1.4.0"
    origin = Origin(
        f"Spleeter {stems}stems (Deezer)",
        "https://github.com/deezer/spleeter",
        "MIT (doi.org/10.21105/joss.02154: code and pre-trained models)",
        "songs of Deezer's own, not published",
        "yes",
    )
    files = (File(f"{release}/{stems}stems.tar.gz", sha256),)
    return Published(f"spleeter-{stems}stems", "spleeter", sources, origin, score, files)


def _open_unmix(name: str, record: int, sums: dict[str, str], origin: Origin, score: str) -> Published:
    files = tuple(
        File(f"https://zenodo.org/records/{record}/files/{target}-{sha256}.pth", sha256)
        for target, sha256 in sums.items()
    )
    return Published(
        name, "openunmix", ",".join(sums), origin, f"{score}, Wiener filter of one iteration ({MUSEVAL})", files
    )


def _lasaft(seed: int, sha256: str) -> Published:
    origin = Origin(
        f"LaSAFT-Net large, seed {seed} (Choi et al.)",
        "https://github.com/ws-choi/Conditioned-Source-Separation-LaSAFT",
        "MIT (of the repository; of the weights not stated)",
        MUSDB18,
    )
    score = f"vocals 7.33, drums 5.68, bass 5.63, other 4.87 ({MUSEVAL}; of which seed is not stated)"
    files = (File(f"http://intelligence.korea.ac.kr/assets/lasaft_large_{seed}.ckpt", sha256),)
    return Published(f"lasaft-large-{seed}", "lasaft", "vocals,drums,bass,other", origin, score, files)


HYBRID = "MUSDB18-HQ (its licence: research and education only) and 800 more songs"


def _demucs(name: str, file: File, words: str, score: str, data: str = MUSDB18) -> Published:
    origin = Origin(
        f"Demucs, {words} (Defossez et al.)",
        "https://github.com/facebookresearch/demucs",
        "MIT (of the repository; of the weights not stated)",
        data,
    )
    score = score if score == UNKNOWN else f"{score} ({MUSEVAL})"
    return Published(name, "demucs", "drums,bass,other,vocals", origin, score, (file,))


PUBLISHED = (
    Published(
        "cunet",
        "cunet",
        "bass,drums,rest,vocals",
        Origin("C-U-Net (Meseguer-Brocal)", "https://github.com/gabolsgabs/cunet", "AFL-3.0 (of the code)", MUSDB18),
        "no weights are published; the authors' training script writes the .h5 that is read here",
    ),
    Published(
        "d3net",
        "d3net",
        "vocals,drums,bass,other",
        Origin(
            "D3Net (Sony)",
            "https://github.com/sony/ai-research-code/tree/master/d3net/music-source-separation",
            "Apache-2.0 (of the repository; of the weights not stated)",
            MUSDB18,
        ),
        f"vocals 7.14, drums 6.85, bass 5.32, other 4.82, with the Wiener filter ({MUSEVAL})",
        (File("https://nnabla.org/pretrained-models/ai-research-code/d3net/mss/d3net-mss.zip"),),
    ),
    _demucs(
        "demucs-v1",
        File(f"{DEMUCS}/v2.0/demucs.th", "f6c4148ba0dc92242d82d7b3f2af55c77bd7cb4ff1a0a3028a523986f36a3cfd"),
        "version 1, 100 channels",
        "drums 6.08, bass 5.83, other 4.12, vocals 6.29, mean of five seeds, of which this is one",
    ),
    _demucs(
        "demucs-v1-extra",
        File(f"{DEMUCS}/v2.0/demucs_extra.th", "3331bcc5d09ba1d791c3cf851970242b0bb229ce81dbada557b6d39e8c6a6a87"),
        "version 1, 100 channels",
        "drums 7.08, bass 6.70, other 4.47, vocals 7.05, mean of five seeds, of which this is one",
        EXTRA,
    ),
    _demucs(
        "demucs-v1-light",
        File(f"{DEMUCS}/v2.0/light.th", "79d1ee3c1541c729c552327756954340a1a46a11ce0009dea77dc583e4b6269c"),
        "version 1, 64 channels",
        "drums 6.04, bass 6.20, other 3.86, vocals 6.00, mean of three seeds, of which this is one",
    ),
    _demucs(
        "demucs-v1-light-extra",
        File(f"{DEMUCS}/v2.0/light_extra.th", "9e9b4af564229c80cc73c95d02d2058235bb054c6874b3cba4d5b26943a5ddcb"),
        "version 1, 64 channels",
        UNKNOWN,
        EXTRA,
    ),
    _demucs(
        "demucs-v2",
        File(f"{DEMUCS}/v3.0/demucs-e07c671f.th", "e07c671f"),
        "version 2, 64 channels",
        "drums 6.86, bass 7.01, other 4.42, vocals 6.83, mean of three seeds, of which this is one",
    ),
    _demucs(
        "demucs-v2-extra",
        File(f"{DEMUCS}/v3.0/demucs_extra-3646af93.th", "3646af93"),
        "version 2, 64 channels",
        "drums 7.58, bass 7.60, other 4.69, vocals 7.29, mean of three seeds, of which this is one",
        EXTRA,
    ),
    _demucs(
        "demucs-v2-48-hq",
        File(f"{DEMUCS}/v3.0/demucs48_hq-28a1282c.th", "28a1282c"),
        "version 2, 48 channels",
        UNKNOWN,
        "MUSDB18-HQ (its licence: research and education only)",
    ),
    _demucs(
        "hdemucs-mmi",
        File(f"{DEMUCS}/hybrid_transformer/75fc33f5-1941ce65.th", "1941ce65"),
        "version 3, hybrid",
        "drums 9.31, bass 9.13, other 6.18, vocals 8.75",
        HYBRID,
    ),
    _demucs(
        "htdemucs",
        File(f"{DEMUCS}/hybrid_transformer/955717e8-8726e21a.th", "8726e21a"),
        "version 4, hybrid transformer",
        "drums 10.05, bass 9.78, other 6.42, vocals 8.93",
        HYBRID,
    ),
    Published(
        "dccrn",
        "dccrn",
        "speech",
        Origin("DCCRN (Hu et al.)", "https://github.com/huyanxin/DeepComplexCRN", "Apache-2.0 (of the code)"),
        "no weights are published; the state_dict of a training with the authors' code is read here",
    ),
    Published(
        "dccrnet-libri1mix",
        "asteroid",
        "speech",
        Origin(
            "DCCRNet of asteroid (Cosentino)",
            "https://huggingface.co/JorisCos/DCCRNet_Libri1Mix_enhsingle_16k",
            "CC BY-SA 4.0",
            "Libri1Mix, 16 kHz: LibriSpeech with noise of WHAM (CC BY-NC 4.0, research only)",
        ),
        "SI-SDR 13.33 dB, 9.88 dB above the noisy speech (Libri1Mix min test)",
        (File("https://huggingface.co/JorisCos/DCCRNet_Libri1Mix_enhsingle_16k/resolve/main/pytorch_model.bin"),),
    ),
    _lasaft(2019, "f9022f2c7c513a826932deb2e91f63858ee5b7d6cd5afcdfdac1cd012231ac0f"),
    _lasaft(2020, "d14d2dd27ed568f552be88e9ed4d8bb8ca2722e03c936ea16e8e260ab49da9f1"),
    _lasaft(2021, "8a5320702a3315088f455dbb4c541b6b9aaa3f16296358fe026c501de65973d9"),
    _spleeter(2, "vocals,accompaniment", "f3a90b39dd2874269e8b05a48a86745df897b848c61f3958efc80a39152bd692", UNKNOWN),
    _spleeter(
        4,
        "vocals,drums,bass,other",
        "3adb4a50ad4eb18c7c4d65fcf4cf2367a07d48408a5eb7d03cd20067429dfaa8",
        "vocals 6.55, drums 5.93, bass 5.10, other 4.24 by mask; 6.86, 6.71, 5.51, 4.55 by Wiener filter "
        f"({MUSEVAL}, doi.org/10.21105/joss.02154)",
    ),
    _spleeter(
        5,
        "vocals,piano,drums,bass,other",
        "25a1e87eb5f75cc72a4d2d5467a0a50ac75f05611f877c278793742513cc7218",
        UNKNOWN,
    ),
    _open_unmix(
        "umx",
        3370486,
        {"vocals": "c8df74a5", "drums": "5a48008b", "bass": "646024d3", "other": "f8e132cc"},
        Origin(
            "Open-Unmix umx",
            "https://doi.org/10.5281/zenodo.3370486",
            "MIT (of the repository; of the weights not stated there)",
            MUSDB18,
        ),
        "vocals 6.32, drums 5.73, bass 5.23, other 4.02",
    ),
    _open_unmix(
        "umxhq",
        3370489,
        {"vocals": "b62c91ce", "drums": "9619578f", "bass": "8d85a5bd", "other": "b52fbbf7"},
        Origin(
            "Open-Unmix umxhq",
            "https://doi.org/10.5281/zenodo.3370489",
            "MIT (of the repository; of the weights not stated there)",
            "MUSDB18-HQ (its licence: research and education only)",
        ),
        "vocals 6.25, drums 6.04, bass 5.07, other 4.28",
    ),
    _open_unmix(
        "umxl",
        5069601,
        {"vocals": "bccbd9aa", "drums": "69e0ebd4", "bass": "2ca1ce51", "other": "c8c5b3e6"},
        Origin(
            "Open-Unmix umxl",
            "https://doi.org/10.5281/zenodo.5069601",
            "CC BY-NC-SA 4.0",
            "stems that are not published",
            "no",
        ),
        "vocals 7.21, drums 7.15, bass 6.02, other 4.89",
    ),
)


def find(name: str) -> Published:
    """The entry of a name.

    Raises:
        JaxsepError: there is none.
    """
    return configs.choose({entry.name: entry for entry in PUBLISHED}, name, "NAME")


def recognise(sums: Collection[str]) -> Published | None:
    """The entry that files with these SHA-256 sums are of, where their authors published sums."""
    for entry in PUBLISHED:
        known = tuple(file.sha256 for file in entry.files if file.sha256)
        if sums and all(digest.startswith(known) for digest in sums):
            return entry
    return None


def table() -> str:
    """For people: a paragraph per entry."""
    return "\n\n".join(
        f"{entry.name}: {entry.origin.name}, {entry.sources}\n"
        f"  from: {', '.join(file.address for file in entry.files) or 'by hand, see ' + entry.origin.address}\n"
        f"  {terms(entry.origin)}\n"
        f"  published score: {entry.score}"
        for entry in PUBLISHED
    )


def terms(origin: Origin) -> str:
    """Licence, training data and commercial use in one line."""
    return f"licence: {origin.licence}; training data: {origin.training_data}; commercial use: {origin.commercial_use}"
