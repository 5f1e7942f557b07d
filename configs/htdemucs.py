"""Hybrid Transformer Demucs (Rouard, Massa, Defossez: Hybrid Transformers for Music Source Separation, ICASSP 2023).

The recipe is that of the authors' package (github.com/facebookresearch/demucs, conf/config.yaml and its grid `mmi`) and
of the paper: 44.1 kHz stereo, songs standardised by their mono mix, L1 distance of waves, Adam at 3e-4, batch 32, 1,200
epochs of 800 batches, dropout 0.02 in the transformer. A window has 10 s; 7.8 s are left of it behind the change of
tempo and the shift. One song of five is changed in pitch by up to two semitones and in tempo by some 5 %; a stem begins
up to a second later than its place in the song, its sign and its channels are turned half of the time, it is scaled by
0.25 to 1.25, then every four examples exchange stems. The mixture is the sum of what comes of that. Weights are
averaged. Separation: segments of the length of the examples, a quarter shared; the last ones are fed with what comes
before them, up to that length.

Published on the test songs of MUSDB18-HQ (museval, median of frames, median of songs; table 1 of the paper), drums,
bass, other, vocals: trained on MUSDB18-HQ alone 7.94, 8.48, 5.72, 7.93; with 800 more songs 10.05, 9.78, 6.42, 8.93;
fine-tuned, one net per source, 10.08, 10.39, 6.32, 9.20.

    python train.py --config=configs/htdemucs.py --workdir=runs/htdemucs --config.data.root=/data/musdb18hq

Variants: `v4` (default: what the published models are), `class` (the defaults of the package's class: residual branches
in the encoder alone, a transformer of 384 channels); `ft`, fine-tuning (`--config.init=RUN`) at 1e-4 on excerpts of
songs as they are; `report` (the recipe of a comparative study: mono, bfloat16, learning rate halved on milestones, this
system's own loss); `demo` (narrow, on the built-in songs, minutes on two cores).

What differs from the authors' code:

- Pitch and tempo are changed by a phase vocoder, theirs by SoundTouch.
- The authors keep several averages of the weights and choose on the validation songs; here there is one. The epoch with
  the best validation SDR is kept, not that with the lowest L1 distance.
- Songs are drawn alike whatever their length.
- Fine-tuning: the authors made four nets, each with the loss of one source, and separate with each one's own source:
  a bag, as `jaxsep weights import demucs` makes of their files.
"""

from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

# variant -> parameters of the published implementation, None where there is none
VARIANTS = {"v4": 41_984_456, "class": 26_899_536, "ft": 41_984_456, "report": None, "demo": None}


def get_config(variant: str = "v4") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/htdemucs.py")
    config: Config = defaults()
    config.name, config.variant = "htdemucs", variant
    config.paper.title = "Hybrid Transformers for Music Source Separation"
    config.paper.year = 2023
    config.paper.url = "https://arxiv.org/abs/2211.08553"
    config.paper.score = "MUSDB18-HQ test: D 7.94 B 8.48 O 5.72 V 7.93; with 800 more songs 10.05 9.78 6.42 8.93"
    config.seed = 42
    config.sources = config.data.stems = "drums,bass,other,vocals"
    config.model.update(name="htdemucs", channels=48, growth=2, frame=4096, depth=4, stride=4, embedding=0.2)
    config.model.update(norm_starts=4, norm_groups=4, rescale=0.1)
    config.model.update(dconv_mode=3, dconv_depth=2, dconv_compress=8, dconv_init=1e-3)
    config.model.update(bottom=512, layers=5, heads=8, hidden=4.0, dropout=0.02)
    config.front, config.head = {"name": "identity"}, {"name": "map"}
    config.context = True
    config.loss.name = "wave_l1"
    presets.take(config, "demucs_v2")
    config.data.update(standardise=True, batch_size=32)
    config.optim.update(learning_rate=3e-4, ema=(0.9999,))
    config.inference.update(overlap=0.25, last="short", standardise=True)
    config.steps, config.eval_every = 1_200 * 800, 800
    _segment(config, round((10 * 0.88 - 1) * config.sample_rate))
    if variant == "class":
        config.model.update(dconv_mode=1, bottom=0)
    elif variant == "ft":
        _fine_tuning(config)
    elif variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _segment(config: Config, samples: int) -> None:
    """Examples and segments of one length, which the net is to see always."""
    config.data.segment = config.model.segment = samples
    config.inference.segment = samples / config.sample_rate


def _fine_tuning(config: Config) -> None:
    """The grid `mmi_ft`: songs as they are, AdamW, small batches, 50 epochs."""
    config.data.update(remix="none", shift=0, gain=(1.0, 1.0), batch_size=8)
    config.optim.update(name="adamw", learning_rate=1e-4, weight_decay=0.05, clip=5.0)
    config.steps = 50 * 800


def _report(config: Config) -> None:
    """The study: 6 s, its augmentation instead of the authors'."""
    study(config)
    config.front = {"name": "identity"}
    config.data.update(shift=0, sign=0.0)
    config.optim.ema = ()
    _segment(config, 6 * config.sample_rate)


def _demo(config: Config) -> None:
    """Built-in songs at 16 kHz, mono; half of the frame, a sixth of the channels, two attention layers."""
    config.seed = 0
    config.sample_rate, config.channels, config.data.resample = 16_000, 1, True
    config.data.update(source="builtin", remix="stem", shift=0, batch_size=4, augment=defaults().data.augment)
    config.model.update(frame=2048, channels=8, dconv_depth=1, dconv_compress=4, bottom=64, layers=2, heads=4)
    config.inference.last = "moved"
    config.optim.update(learning_rate=2e-3, ema=())
    config.optim.schedule.update(name="warmup_cosine", warmup=30)
    config.steps = 450
    config.log_every, config.save_every, config.eval_every = 20, 225, 225
    _segment(config, 24_000)
