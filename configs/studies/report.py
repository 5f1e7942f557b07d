"""What a comparative study of separation systems asked, on one system: losses, masks, bands, augmentations and more.

Each question is a variant, on the small Spleeter of `configs/spleeter.py:demo` and built-in songs, so that one machine
answers it; the study's own recipe for long trainings is `configs/spleeter.py:report`.

    jaxsep study run configs/studies/report.py:losses --workdir runs/losses

Variants: `losses` (L1, amplitude-weighted L1, smooth L1, L2, L1 on mel bands, SI-SDR, SI-SNR), `masks` (a sigmoid for
each source against a softmax over all), `levels` (four against five of them), `precision` (float32 against bfloat16 and
float16), `phase` (what is lost by the mixture's phases: the same magnitudes scored with those of the true sources),
`initialisation` (the kernels of Spleeter's code against He's, Glorot's, and its own rescaled as Demucs'), `bands` (one
net for all bins against one for those below 2,756 Hz and one above, with a net for all beside them, and with one that
merges their outputs), `augmentations` (none against each alone). What further data are worth, and music without stems,
needs data that are not made up: docs/data.md, docs/mining.md.
"""

from jaxsep.config import Config, choose, load_config
from jaxsep.studies.definition import Cell, Study, changed

PLAIN = {"data__remix": "none", "data__gain": (1.0, 1.0), "data__swap": 0.0}
SPLIT = {"bands__splits": (256,)}

# question -> level -> what differs; the first level is the reference
QUESTIONS = {
    "losses": {
        "l1": {"loss__name": "l1"},
        "weighted_l1": {"loss__name": "weighted_l1"},
        "smooth_l1": {"loss__name": "smooth_l1"},
        "l2": {"loss__name": "l2"},
        "mel_l1": {"loss__name": "l1", "loss__mel_bins": 128},
        "si_sdr": {"loss__name": "si_sdr"},
        "si_snr": {"loss__name": "si_snr"},
    },
    "masks": {"sigmoid": {"head__activation": "sigmoid"}, "softmax": {"head__activation": "softmax"}},
    "levels": {"four": {"model__channels": (8, 16, 32, 64)}, "five": {"model__channels": (8, 16, 32, 64, 128)}},
    "precision": {name: {"precision": name} for name in ("float32", "bfloat16", "float16")},
    "phase": {"mixture": {}, "ideal": {}},
    "initialisation": {
        "paper": {"initial__kernels": "paper"},
        "kaiming": {"initial__kernels": "kaiming"},
        "xavier": {"initial__kernels": "xavier"},
        "rescaled": {"initial__rescale": 0.1},
    },
    "bands": {
        "whole": {},
        "split": SPLIT,
        "helped": {**SPLIT, "bands__full": True},
        "merged": {**SPLIT, "bands__full": True, "bands__merge": 8},
    },
    "augmentations": {
        "none": PLAIN,
        "remix": {**PLAIN, "data__remix": "stem"},
        "swap": {**PLAIN, "data__swap": 0.5},
        "gain": {**PLAIN, "data__gain": (0.5, 1.5)},
        "loudness": {**PLAIN, "data__augment__loudness_db": (-10.0, 10.0)},
        "pitch": {**PLAIN, "data__augment__pitch": ("uniform", -2, 2)},
        "tempo": {**PLAIN, "data__augment__tempo": ("length", -10, 10)},
        "filter": {**PLAIN, "data__augment__filter_odds": 0.5},
    },
}


def get_study(variant: str = "losses") -> Study:
    """The study of a question."""
    levels = choose(QUESTIONS, variant, "variant of configs/studies/report.py")
    demo: Config = load_config("configs/spleeter.py:demo")
    phases = {level: level if variant == "phase" else "mixture" for level in levels}
    cells = [Cell({variant: level}, changed(demo, **changes), phases[level]) for level, changes in levels.items()]
    return Study(f"Report: {variant}", variant, cells)
