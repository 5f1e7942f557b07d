"""MMDenseLSTM (N. Takahashi, N. Goswami, Y. Mitsufuji: MMDenseLSTM, IWAENC 2018).

The authors published no code. Sizes and recipe are those of `mm-dense-lstm/config/lstm-after-dense` in
github.com/tky823/DNN-based_source_separation: 44.1 kHz stereo, STFT 4096/1024, 256 frames, one net per source, mean
squared error between magnitudes, RMSprop at 1e-3, batch 8, 50 epochs of 6,400 excerpts, every stem from a song and
place of its own with a gain of 0.25 to 1.25 and its channels swapped half of the time.

Published on MUSDB18's test songs (museval, median of frames, median of songs): the authors' entry to SiSEC 2018 (TAK1,
with a Wiener filter, sizes unpublished) vocals 6.60, drums 6.43, bass 5.16, other 4.15; with 804 more songs (TAK2)
7.16, 6.81, 5.40, 4.80; the public recipe 6.87, 6.22, 4.80, 4.43.

    python train.py --config=configs/mmdenselstm.py --workdir=runs/mmdenselstm --config.data.root=/data/musdb18hq

Variants: `paper` (default, LSTMs after dense blocks), `lstm-before` and `lstm-parallel`, `report` (the recipe of a
comparative study: mono, 1,536 bins, learning rate halved on milestones), `demo` (narrow, on the built-in songs,
minutes on two cores).

What differs from the public code: RMSprop's eps stands below the root; input standardised with the training set's mean
and deviation per bin.
"""

from jaxsep.config import Config, choose, defaults, study

SOURCES = ("vocals", "drums", "bass", "other")
# variant -> trainable parameters of the public implementation with the LSTMs' two biases, None where there is none
VARIANTS = {
    "paper": dict.fromkeys(SOURCES, 1_370_784),
    "lstm-before": dict.fromkeys(SOURCES, 1_370_402),
    "lstm-parallel": dict.fromkeys(SOURCES, 1_370_805),
    "report": None,
    "demo": None,
}

FRAMES = 256
EPOCH = 6400 // 8  # steps


def get_config(variant: str = "paper") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/mmdenselstm.py")
    config: Config = defaults()
    config.name, config.variant = "mmdenselstm", variant
    config.paper.title = "MMDenseLSTM: an efficient combination of convolutional and recurrent neural networks"
    config.paper.year = 2018
    config.paper.url = "https://arxiv.org/abs/1805.02410"
    config.paper.score = "MUSDB18 test: SiSEC 2018 TAK1 V 6.60 D 6.43 B 5.16 O 4.15; public recipe 6.87 6.22 4.80 4.43"
    config.per_source = True
    config.model.update(name="mmdenselstm", splits=(380, 1024), placement="after")
    config.front.padding = "reflect"
    config.head = {"name": "magnitude"}
    config.loss.name = "l2"
    config.data.batch_size = 8
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.25, 1.25), 0.5
    config.optim.update(name="rmsprop", learning_rate=1e-3, b2=0.99)
    config.steps = 50 * EPOCH
    _frames(config, FRAMES)
    if variant.startswith("lstm-"):
        config.model.placement = variant.removeprefix("lstm-")
    elif variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _frames(config: Config, frames: int) -> None:
    """Training crops of exactly so many frames; songs in pieces of four of them."""
    config.data.segment = (frames - 1) * config.front.hop
    config.inference.segment = (4 * frames - 1) * config.front.hop / config.sample_rate


def _report(config: Config) -> None:
    """The study, with twice the frames."""
    study(config)
    _frames(config, 512)


def _demo(config: Config) -> None:
    """Built-in songs, a quarter of the widths, one pooling less: minutes on two cores."""
    config.data.source = "builtin"
    config.data.batch_size = 4
    config.data.gain = (0.5, 1.5)
    growth = ((3, 5, 7, 5, 3), (2,) * 3, (2, 0, 2), (2, 3, 4, 3, 2))
    layers = ((1, 2, 3, 2, 1), (1,) * 3, (1, 0, 1), (1, 1, 2, 1, 1))
    units = ((0, 0, 16, 16, 0), (0, 4, 0), (0, 2, 0), (0, 0, 16, 0, 0))
    config.model.update(first=(4, 2, 2, 2), growth=growth, layers=layers, units=units, final_growth=4, final_layers=2)
    config.optim.update(name="adam", learning_rate=1e-2, b2=0.999)
    config.optim.schedule.update(name="warmup_cosine", warmup=20)
    config.steps = 200
    config.log_every, config.save_every, config.eval_every = 20, 100, 200
    _frames(config, 32)
