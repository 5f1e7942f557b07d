"""Spleeter's BLSTM, and as its re-reading UHL1 and UHL2 (Uhlich et al., ICASSP 2017).

`spleeter` is the net of github.com/deezer/spleeter (spleeter/model/functions/blstm.py) under the recipe of Spleeter's
`musdb_config.json`: 44.1 kHz stereo, STFT 4096/1024, 512 frames by the lowest 1,024 bins, L1 between magnitudes, Adam
at 1e-4, batch 4, 200,000 steps. Deezer publishes neither a config nor weights nor scores for it.

`uhl1` re-reads UHL1 of SiSEC 2018 in Spleeter's style and is not claimed exact, for there is no code: all 2,049 bins,
squared error of the magnitudes, random mixes with gains of 0.25 to 1.25 and exchanged channels, Wiener filter. The
paper's optimiser, its dropout and its regularisation are not published; the optimiser is that of Open-Unmix, of which
it is the forerunner. Raw magnitudes train badly: `--config.model.standardise=True`, an option of ours, scales input and
output as Open-Unmix does. UHL2 is the mean of two UHL1 that were trained from two seeds:

    python train.py --config=configs/blstm.py:uhl1 --workdir=runs/uhl1a --config.data.root=/data/musdb18hq
    python train.py --config=configs/blstm.py:uhl1 --workdir=runs/uhl1b --config.seed=1 \
        --config.data.root=/data/musdb18hq
    jaxsep models blend runs/uhl1a runs/uhl1b runs/uhl2

Published on MUSDB18's test songs (SiSEC 2018: median of frames, median of songs), vocals, drums, bass, other: UHL1
5.85, 5.51, 4.98, 4.03; UHL2 5.93, 5.92, 5.03, 4.19.

Variants: `spleeter` (default), `uhl1` (250 units per direction, which are 500 outputs), `uhl1_500` (500 units per
direction), `4layers` (`spleeter` with a fourth layer), `report` (the recipe of a comparative study, mono,
standardised), `demo` (narrow, standardised, on the built-in songs, minutes on two cores).
"""

from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

SOURCES = ("vocals", "drums", "bass", "other")

# variant -> trainable parameters of the published implementation per source, two biases per LSTM gate (cuDNN's); None
# where there is none
VARIANTS = {
    "spleeter": dict.fromkeys(SOURCES, 8_634_048),
    "uhl1": None,
    "uhl1_500": None,
    "4layers": None,
    "report": None,
    "demo": None,
}

FRAMES = 512


def get_config(variant: str = "spleeter") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/blstm.py")
    config: Config = defaults()
    config.name, config.variant = "blstm", variant
    config.paper.title = (
        "Improving music source separation based on deep neural networks through data augmentation and network blending"
    )
    config.paper.year = 2017
    config.paper.url = "https://doi.org/10.1109/ICASSP.2017.7952158"
    config.paper.score = "none for Spleeter's net; UHL1 on MUSDB18 test: V 5.85 D 5.51 B 4.98 O 4.03"
    config.sources = ",".join(SOURCES)
    config.model.name = "blstm"
    config.model.layers, config.model.units, config.model.standardise = 3, 250, False
    config.per_source = True
    config.front.bins = 1024
    config.head = {"name": "magnitude"}
    config.loss.name = "l1"
    config.inference.post = {"name": "ratio_mask", "power": 2.0, "extension": "zeros"}
    config.steps = 200_000
    _frames(config, FRAMES)

    if variant in ("uhl1", "uhl1_500"):
        _uhl1(config)
        config.model.units = 500 if variant == "uhl1_500" else 250
    elif variant == "4layers":
        config.model.layers = 4
    elif variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _frames(config: Config, frames: int) -> None:
    """Training crops and separation segments of exactly so many frames, of which the front end pads `frame / hop`."""
    config.block = frames
    config.data.segment = frames * config.front.hop - config.front.frame
    config.inference.segment = config.data.segment / config.sample_rate


def _uhl1(config: Config) -> None:
    """All bins, trained as Open-Unmix is, without its early stopping."""
    config.front.bins = 2049
    config.loss.name = "l2"
    presets.take(config, "uhlich")
    config.data.batch_size = 16
    config.optim.learning_rate = 1e-3
    config.inference.post = {"name": "wiener", "iterations": 1}


def _report(config: Config) -> None:
    """The study, with L2 and standardised input."""
    study(config)
    config.model.standardise = True
    config.loss.name = "l2"


def _demo(config: Config) -> None:
    """Built-in songs, two layers of a quarter of the width, standardised: minutes on two cores."""
    config.data.source = "builtin"
    config.data.batch_size = 4
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.5, 1.5), 0.5
    config.model.layers, config.model.units, config.model.standardise = 2, 64, True
    config.optim.learning_rate = 3e-3
    config.optim.schedule.name = "warmup_cosine"
    config.optim.schedule.warmup = 30
    config.steps = 900
    config.log_every, config.save_every, config.eval_every = 20, 150, 450
    _frames(config, 64)
