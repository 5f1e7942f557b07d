"""LaSAFT-Net with GPoCM (Choi, Kim, Chung, Jung: LaSAFT, ICASSP 2021) and LightSAFT.

One net for all sources; the condition says which source it returns. The recipe is that of the authors' code
(github.com/ws-choi/Conditioned-Source-Separation-LaSAFT, `conf/`): 44.1 kHz stereo, 128 frames of an STFT of 2048
(small) or 4096 (large) with a hop of 1024, complex spectra mapped to complex spectra, mean squared error between them,
Adam at 1e-3, halved when validation has not improved for 50 epochs, batch 8 (its quick start: 6). Every stem of a
training mixture is a window of a song and a place of its own, without gain or swap, and each example asks for one
source. An epoch is four windows for each window that fits the 86 training songs; at most 1,000 epochs.

Published on MUSDB18's test songs (museval, median of frames, median of songs): large, vocals 7.33, drums 5.68, bass
5.63, other 4.87 (also in the readme of the authors' next version); small, 6.96, 5.84, 5.24, 4.54 (the authors' slides).

    python train.py --config=configs/lasaft.py --workdir=runs/lasaft --config.data.root=/data/musdb18hq

Variants: `small` (default), `large`, `light` and `light-large` (LightSAFT in its place), `mdx` (LightSAFT as entered in
the Music Demixing Challenge 2021); the ablations `film`, `film-tdf`, `film-lasaft`, `gpocm`, `gpocm-tdf`; `report` (the
recipe of a comparative study: mono, bfloat16, learning rate halved on milestones, this system's own loss); `demo`
(narrow, on the built-in songs, minutes on two cores).

What differs from the authors' code:

- Separation. Theirs discards 5,120 samples at both edges of a window of 130,048 and puts what is left side by side;
  here neighbouring windows share the same 10,240 samples and are cross-faded there.
- The authors train in float16 with loss scaling; here it is float32, and `--config.precision=bfloat16` for speed.
- The learning rate follows the validation SDR, theirs the L1 distance of waves.
"""

from jaxsep.config import Config, choose, defaults, study

# variant -> trainable parameters of the published implementation, None where there is none
VARIANTS = {
    "small": 8_424_028,
    "large": 31_541_908,
    "light": 2_374_236,
    "light-large": 7_142_036,
    "mdx": 4_159_844,
    "film": 720_676,
    "film-tdf": 1_069_508,
    "film-lasaft": 7_998_436,
    "gpocm": 1_146_268,
    "gpocm-tdf": 1_495_100,
    "report": None,
    "demo": None,
}

FRAMES = 128
TRIM = 5120  # samples that the authors discard at each edge: 5,000, rounded up to whole hops


def get_config(variant: str = "small") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/lasaft.py")
    config: Config = defaults()
    config.name, config.variant = "lasaft", variant
    config.paper.title = "LaSAFT: latent source attentive frequency transformation for conditioned source separation"
    config.paper.year = 2021
    config.paper.url = "https://arxiv.org/abs/2010.11631"
    config.paper.score = "MUSDB18 test: large V 7.33 D 5.68 B 5.63 O 4.87, small V 6.96 D 5.84 B 5.24 O 4.54"
    config.model.update(name="lasaft", block="lasaft", conditioning="gpocm", levels=3, channels=24, layers=5)
    config.model.update(latents=6, key_dim=32, embedding=32, dropout=0.5)
    config.front.update(frame=2048, hop=1024, padding="reflect", bins=1025)
    config.head = {"name": "map"}
    config.loss.name = "complex_l2"
    config.data.remix, config.data.conditions = "stem", "one_hot"
    config.data.batch_size = 8
    config.optim.learning_rate = 1e-3
    config.optim.schedule.update(name="plateau", factor=0.5, patience=50)
    _frames(config, FRAMES)
    _epochs(config, 1000)
    if variant in ("large", "light-large"):
        config.front.update(frame=4096, bins=2049)
        config.model.levels, config.model.embedding = 4, 64
        _frames(config, FRAMES)
    if variant in ("light", "light-large"):
        config.model.block = "lightsaft"
    elif variant == "mdx":
        config.model.update(block="lightsaft", levels=4, channels=16, latents=16, key_dim=64, embedding=64)
        _frames(config, 256)
    elif variant.startswith(("film", "gpocm")):
        conditioning, _, block = variant.partition("-")
        config.model.update(conditioning=conditioning, block=block or "none")
    elif variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _frames(config: Config, frames: int) -> None:
    """Training crops and separation segments of exactly so many frames; neighbours share what the authors discard."""
    config.data.segment = (frames - 1) * config.front.hop
    config.inference.segment = config.data.segment / config.sample_rate
    config.inference.overlap = 2 * TRIM / config.data.segment


def _epochs(config: Config, epochs: int) -> None:
    """Validation once per epoch: MUSDB18's 86 training songs of 236 s on average, in windows, times four sources."""
    epoch = 4 * 86 * 236 * config.sample_rate // config.data.segment // config.data.batch_size
    config.steps, config.eval_every = epochs * epoch, epoch


def _report(config: Config) -> None:
    """The study, with 1,537 bins: the first convolution takes one away."""
    study(config, bins=1537)
    _frames(config, FRAMES)


def _demo(config: Config) -> None:
    """Built-in songs, two levels of half the width, two convs per block, two latent sources."""
    config.seed = 0
    config.data.source = "builtin"
    config.data.batch_size = 12
    config.model.update(levels=2, channels=12, layers=2, latents=2, dropout=0.1)
    config.optim.learning_rate = 5e-3
    config.optim.schedule.update(name="warmup_cosine", warmup=30)
    config.steps = 600
    config.log_every, config.save_every, config.eval_every = 20, 200, 300
    _frames(config, 8)
    config.inference.overlap = 0.25
