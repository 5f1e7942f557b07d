"""D3Net (N. Takahashi, Y. Mitsufuji: D3Net, arXiv:2010.01733, 2020).

The recipe is that of the authors' code (github.com/sony/ai-research-code, d3net/music-source-separation): 44.1 kHz
stereo, STFT 4096/1024, 256 frames, one net per source with band splits and widths of its own, mean squared error
between magnitudes of all 2,049 bins, Adam at 1e-3, a tenth of it from epoch 40 of 50, weight decay 1e-4 within the
gradient, batch 6. An epoch is 64 excerpts of each of the 100 training songs, every stem from a song and place of its
own, with a gain of 0.75 to 1.25 and its channels swapped half of the time; there is no validation. The input is
standardised with the training set's mean and deviation per bin. Separation: patches of 256 frames that overlap by
half, the mean with the exchanged channels' output, the mixture's phase, one pass of a multichannel Wiener filter.

Published on MUSDB18's test songs (museval, median of frames, median of songs): paper, vocals 7.24, drums 7.01, bass
5.25, other 4.53; the authors' released weights 7.14, 6.85, 5.32, 4.82. All of it includes the Wiener filter.

    python train.py --config=configs/d3net.py --workdir=runs/d3net --config.data.root=/data/musdb18hq

Variants: `paper` (default), `report` (the recipe of a comparative study: mono, 1,536 bins, learning rate halved on
milestones), `demo` (narrow, on the built-in songs, minutes on two cores).

What differs from the authors' code:

- Songs are separated in pieces of 24 s, cross-faded, so the Wiener filter's covariances are those of a piece, where
  theirs are the whole song's. Bass is separated in blocks of 256 frames like the others, theirs in blocks of 384.
- Their Wiener filter adds 1e-10 of its peak to each source's power and falls back to a pseudo-inverse where a
  determinant is below 1e-10; ours adds a small multiple of the identity before it solves (see `heads.Wiener`).
- The 14 validation songs stay out of training here unless the data say otherwise.
"""

from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

# variant -> trainable parameters of the published implementation, None where there is none
VARIANTS = {
    "paper": {"vocals": 2_967_407, "drums": 2_873_284, "bass": 2_419_822, "other": 2_967_407},
    "report": None,
    "demo": None,
}

FRAMES = 256
EPOCH = 64 * 100 // 6  # steps

_MIDDLE = (2,) * 5
DRUMS = {
    "splits": (128,),
    "growth": ((16, 18, 20, 22, 20, 18, 16), _MIDDLE, (13, 14, 15, 16, 16, 16, 14, 12, 11)),
    "layers": ((5, 5, 5, 4, 4, 4, 4), (1,) * 5, (4, 5, 6, 7, 8, 6, 6, 4, 4)),
}
BASS = {
    "splits": (192,),
    "growth": ((16, 18, 18, 20, 18, 16, 16), (2,) * 7, (10, 10, 12, 14, 16, 14, 12, 8, 8)),
    "layers": ((5, 5, 5, 5, 4, 4, 4), (1,) * 7, (4, 5, 6, 7, 8, 6, 6, 4, 4)),
}


def get_config(variant: str = "paper") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/d3net.py")
    config: Config = defaults()
    config.name, config.variant = "d3net", variant
    config.paper.title = "D3Net: densely connected multidilated DenseNet for music source separation"
    config.paper.year = 2020
    config.paper.url = "https://arxiv.org/abs/2010.01733"
    config.paper.score = "MUSDB18 test: V 7.24 D 7.01 B 5.25 O 4.53 (paper), V 7.14 D 6.85 B 5.32 O 4.82 (released)"
    config.per_source = True
    config.model.update(name="d3net", splits=(256,), top=1600)
    config.model_by_source = {"drums": DRUMS, "bass": BASS}
    config.front.padding = "reflect"
    config.head = {"name": "magnitude"}
    config.loss.name = "l2"
    config.data.batch_size = 6
    presets.take(config, "d3net")
    config.optim.learning_rate, config.optim.weight_decay = 1e-3, 1e-4
    config.optim.schedule.update(name="milestones", milestones=(40 * EPOCH,), factor=0.1)
    config.steps = 50 * EPOCH
    config.inference.block_overlap, config.inference.swap_channels = 0.5, True
    config.inference.post = {"name": "wiener", "iterations": 1}
    _frames(config, FRAMES)
    if variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _frames(config: Config, frames: int) -> None:
    """Training crops and blocks of exactly so many frames; songs in pieces of four blocks."""
    config.block = frames
    config.data.segment = (frames - 1) * config.front.hop
    config.inference.segment = (4 * frames - 1) * config.front.hop / config.sample_rate


def _report(config: Config) -> None:
    """The study: all of its bins are in use."""
    study(config)
    config.model.top = config.front.bins
    config.inference.swap_channels = False
    _frames(config, 512)


def _demo(config: Config) -> None:
    """Built-in songs, a handful of channels, 1,024 bins, two poolings less: minutes on two cores."""
    config.data.source = "builtin"
    config.data.batch_size = 4
    config.data.gain = (0.5, 1.5)
    growth, layers = (4, 6, 8, 6, 4), (1, 2, 2, 2, 1)
    config.model.update(top=1024, first=(4, 2, 4), growth=((2, 4, 6, 4, 2), (2,) * 3, growth), blocks=(2, 1, 1))
    config.model.update(layers=(layers, (1,) * 3, layers), final_growth=4, final_layers=2)
    config.model_by_source = {"drums": {"splits": (128,)}, "bass": {"splits": (192,)}}
    config.optim.learning_rate, config.optim.weight_decay = 1e-2, 0.0
    config.optim.schedule = {**defaults().optim.schedule.to_dict(), "name": "warmup_cosine", "warmup": 20}
    config.steps = 160
    config.log_every, config.save_every, config.eval_every = 20, 80, 160
    _frames(config, 32)
