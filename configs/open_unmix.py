"""Open-Unmix (Stoeter, Uhlich, Liutkus, Mitsufuji: Open-Unmix, JOSS 4(41), 1667, 2019).

The recipe is that of the authors' scripts/train.py: 44.1 kHz stereo, STFT 4096/1024, one net per source, squared
error of the magnitudes, crops of 6 s, batch 16, every stem from another song with a gain of 0.25 to 1.25 and exchanged
channels half of the time, Adam at 1e-3 with L2 decay 1e-5. An epoch is 64 crops of each of 86 songs, 344 steps; the
rate is multiplied by 0.3 after 80 epochs without a better validation, with a pause of 10, training ends after 140 or
1,000. Before the first step the mean and the deviation of each bin are measured on the training songs and put into
the nets. Separation: the whole song at once, one iteration of the Wiener filter in excerpts of 300 frames; of a single
source, what it leaves of the mixture stands in for the missing ones.

Published on MUSDB18's test songs (museval, median of frames, median of songs), vocals, drums, bass, other: umx 6.32,
5.73, 5.23, 4.02; umxhq 6.25, 6.04, 5.07, 4.28; umxl, trained on other data, 7.21, 7.15, 6.02, 4.89. The published
weights are the best of four seeds.

    python train.py --config=configs/open_unmix.py --workdir=runs/umxhq --config.data.root=/data/musdb18hq

Our deviations: in training, too, frames are centred and the crop's ends mirrored (the authors leave out the two frames
at either end that reach over it); the song with the best validation SDR is kept and waited for, not that with the
lowest validation loss.

Variants: `umxhq` (default: uncompressed MUSDB18-HQ), `umx` (compressed MUSDB18), `umxl` (1,024 hidden units; the
authors' training data is not public), `fullband` (the net sees all 2,049 bins), `report` (the recipe of a comparative
study, mono), `demo` (narrow, on the built-in songs, minutes on two cores).
"""

from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

SOURCES = ("vocals", "drums", "bass", "other")

# variant -> trainable parameters of the published implementation per source, two biases per LSTM gate; None: not
# published
VARIANTS = {
    "umxhq": dict.fromkeys(SOURCES, 8_893_348),
    "umx": dict.fromkeys(SOURCES, 8_893_348),
    "umxl": dict.fromkeys(SOURCES, 28_257_188),
    "fullband": dict.fromkeys(SOURCES, 9_469_960),
    "report": None,
    "demo": None,
}

EPOCH = 86 * 64 // 16  # steps


def get_config(variant: str = "umxhq") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/open_unmix.py")
    config: Config = defaults()
    config.name, config.variant = "open_unmix", variant
    config.paper.title = "Open-Unmix - A Reference Implementation for Music Source Separation"
    config.paper.year = 2019
    config.paper.url = "https://doi.org/10.21105/joss.01667"
    config.paper.score = "umxhq on MUSDB18 test: V 6.25 D 6.04 B 5.07 O 4.28"
    config.seed = 42
    config.sources = ",".join(SOURCES)
    config.model.name = "open_unmix"
    config.model.hidden, config.model.layers, config.model.max_bin = 512, 3, 1487
    config.model.dropout = 0.4
    config.per_source = True
    config.front.padding = "reflect"
    config.head.activation = "relu"
    config.loss.name = "l2"
    config.data.segment = 6 * config.sample_rate
    config.data.batch_size = 16
    presets.take(config, "umx")
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 1e-5
    config.optim.schedule.name = "plateau"
    config.optim.schedule.factor, config.optim.schedule.patience, config.optim.schedule.cooldown = 0.3, 80, 10
    config.steps = 1000 * EPOCH
    config.eval_every = config.save_every = EPOCH
    config.patience = 140
    config.inference.segment = 0.0
    config.inference.post = {"name": "wiener", "iterations": 1, "window_frames": 300}

    if variant == "umx":
        config.data.source = "musdb18"
        config.paper.score = "umx on MUSDB18 test: V 6.32 D 5.73 B 5.23 O 4.02"
    elif variant == "umxl":
        config.model.hidden = 1024
        config.paper.score = "umxl on MUSDB18 test: V 7.21 D 7.15 B 6.02 O 4.89, other training data"
    elif variant == "fullband":
        config.model.max_bin = 0
    elif variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _report(config: Config) -> None:
    """The study."""
    study(config)
    config.data.segment = 511 * config.front.hop  # 512 frames


def _demo(config: Config) -> None:
    """Built-in songs, a quarter of the width: minutes on two cores."""
    config.seed = 0
    config.model.hidden = 128
    config.data.source = "builtin"
    config.data.segment = 63 * config.front.hop  # 64 frames
    config.data.batch_size = 4
    config.data.gain = (0.5, 1.5)
    config.optim.learning_rate = 3e-3
    config.optim.schedule.name = "warmup_cosine"
    config.optim.schedule.warmup = 30
    config.steps = 900
    config.log_every, config.save_every, config.eval_every, config.patience = 20, 150, 450, 0
