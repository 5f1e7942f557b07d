"""MMDenseNet (N. Takahashi, Y. Mitsufuji: Multi-scale multi-band DenseNets, WASPAA 2017).

The authors published no code. Sizes and recipe are those of `mm-densenet/config/paper` in
github.com/tky823/DNN-based_source_separation: 44.1 kHz stereo, STFT 2048/1024, 256 frames, one net per source, mean
squared error between magnitudes, RMSprop at 1e-3, batch 8, 50 epochs of 6,400 excerpts, every stem from a song and
place of its own with a gain of 0.25 to 1.25 and its channels swapped half of the time.

Published: the paper's scores are on DSD100; the public recipe lists none. The authors' entry to SiSEC 2018 (TAK3: three
bands, 804 more songs, sizes unpublished) has vocals 6.80, drums 6.82, bass 5.29, other 4.40 on MUSDB18's test songs.

    python train.py --config=configs/mmdensenet.py --workdir=runs/mmdensenet --config.data.root=/data/musdb18hq

Variants: `paper` (default), `report` (the recipe of a comparative study: mono, STFT 4096/1024, 1,536 bins, learning
rate halved on milestones), `demo` (narrow, on the built-in songs, minutes on two cores).

What differs from the public code: frames start with one frame of zeros (`front.padding`), because a hop of half a Hann
window cannot be inverted at the end of a mirrored song; RMSprop's eps stands below the root; input standardised with
the training set's mean and deviation per bin.
"""

from jaxsep.config import Config, choose, defaults, study

# variant -> trainable parameters of the public implementation, None where there is none
VARIANTS = {
    "paper": dict.fromkeys(("vocals", "drums", "bass", "other"), 339_468),
    "report": None,
    "demo": None,
}

FRAMES = 256
EPOCH = 6400 // 8  # steps


def get_config(variant: str = "paper") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/mmdensenet.py")
    config: Config = defaults()
    config.name, config.variant = "mmdensenet", variant
    config.paper.title = "Multi-scale multi-band DenseNets for audio source separation"
    config.paper.year = 2017
    config.paper.url = "https://arxiv.org/abs/1706.09588"
    config.paper.score = "SiSEC 2018 TAK3, 804 more songs, MUSDB18 test: V 6.80 D 6.82 B 5.29 O 4.40"
    config.per_source = True
    config.model.update(name="mmdensenet", splits=(512,))
    config.front.update(frame=2048, hop=1024, bins=1025)
    config.head = {"name": "magnitude"}
    config.loss.name = "l2"
    config.data.batch_size = 8
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.25, 1.25), 0.5
    config.optim.update(name="rmsprop", learning_rate=1e-3, b2=0.99)
    config.steps = 50 * EPOCH
    _frames(config, FRAMES)
    if variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _frames(config: Config, frames: int) -> None:
    """Training crops of exactly so many frames, of which the front end pads `frame / hop`; songs in pieces of four."""
    config.data.segment = frames * config.front.hop - config.front.frame
    config.inference.segment = (4 * frames * config.front.hop - config.front.frame) / config.sample_rate


def _report(config: Config) -> None:
    """The study, with the split at the same Hz."""
    study(config)
    config.model.splits = (1024,)
    _frames(config, 512)


def _demo(config: Config) -> None:
    """Built-in songs, a quarter of the widths, one pooling less: minutes on two cores."""
    config.data.source = "builtin"
    config.data.batch_size = 4
    config.data.gain = (0.5, 1.5)
    growth, layers = ((3, 5, 7, 5, 3), (2,) * 3, (2, 3, 4, 3, 2)), ((1, 2, 3, 2, 1), (2,) * 3, (1, 1, 2, 1, 1))
    config.model.update(first=(4, 4, 4), growth=growth, layers=layers)
    config.optim.update(name="adam", learning_rate=1e-2, b2=0.999)
    config.optim.schedule.update(name="warmup_cosine", warmup=20)
    config.steps = 200
    config.log_every, config.save_every, config.eval_every = 20, 100, 200
    _frames(config, 32)
