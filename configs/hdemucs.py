"""Hybrid Demucs, version 3 (Defossez: Hybrid Spectrogram and Waveform Source Separation, MDX workshop 2021).

The recipe is that of the authors' package (github.com/facebookresearch/demucs, conf/config.yaml and its grid `repro`):
44.1 kHz stereo, songs standardised by their mono mix, L1 distance of waves, Adam at 3e-4, batch 64, 600 epochs of a
window each second of the 86 training songs. A window has 11 s; 8.68 s are left of it behind the change of tempo and the
shift. One song of five is changed in pitch by up to two semitones and in tempo by some 5 %; a stem begins up to a
second later than its place in the song, its sign and its channels are turned half of the time, it is scaled by 0.25 to
1.25, then every four examples exchange stems. The mixture is the sum of what comes of that. Weights are averaged.
Separation: segments of 44 s, a quarter shared.

Published on the test songs of MUSDB18-HQ (museval, median of frames, median of songs): drums 8.12, bass 8.43, other
5.65, vocals 8.35 (7.64; table 1 of arXiv 2211.08553); the entry to the Music Demixing Challenge was a bag of four.

    python train.py --config=configs/hdemucs.py --workdir=runs/hdemucs --config.data.root=/data/musdb18hq

Variants: `v3` (default, the package's; torchaudio's `hdemucs_high` adds 1,536 parameters that nothing depends on);
`medium` and `low`, torchaudio's nets for 16 to 32 kHz and for 8 kHz, of which the first has 1,536 such parameters, too;
`ft`, fine-tuning (`--config.init=RUN`) at 1e-4 without exchange of stems, scales or shifts of their own, as the
package's grid `repro_ft`; `report` (the recipe of a comparative study: mono, bfloat16, learning rate halved on
milestones, this system's own loss); `demo` (narrow, on the built-in songs, minutes on two cores).

What differs from the authors' code:

- Pitch and tempo are changed by a phase vocoder, theirs by SoundTouch.
- The largest weights had a penalty on their singular values (arXiv 2111.03600, section 3), and with it Adam's second
  decay was 0.9998: neither is here.
- The authors keep several averages of the weights and choose on the validation songs; here there is one. The epoch with
  the best validation SDR is kept, not that with the lowest L1 distance.
- Songs are drawn alike whatever their length.
"""

from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

# variant -> parameters of the published implementation, two biases per LSTM gate; None where there is none
VARIANTS = {
    "v3": 83_637_832,
    "medium": 78_908_488,
    "low": 20_040_296,
    "ft": 83_637_832,
    "report": None,
    "demo": None,
}


def get_config(variant: str = "v3") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/hdemucs.py")
    config: Config = defaults()
    config.name, config.variant = "hdemucs", variant
    config.paper.title = "Hybrid Spectrogram and Waveform Source Separation"
    config.paper.year = 2021
    config.paper.url = "https://arxiv.org/abs/2111.03600"
    config.paper.score = "MUSDB18-HQ test: D 8.12 B 8.43 O 5.65 V 8.35"
    config.seed = 42
    config.sources = config.data.stems = "drums,bass,other,vocals"
    config.model.update(name="hdemucs", channels=48, growth=2, frame=4096, depth=6, stride=4, time_stride=2)
    config.model.update(embedding=0.2, norm_starts=4, norm_groups=4, rescale=0.1, old_padding=False)
    config.model.update(dconv_mode=1, dconv_depth=2, dconv_compress=4, dconv_init=1e-3)
    config.model.update(dconv_lstm=4, dconv_attention=4)
    config.front, config.head = {"name": "identity"}, {"name": "map"}
    config.loss.name = "wave_l1"
    presets.take(config, "demucs_v2")
    config.data.update(standardise=True, batch_size=64)
    config.optim.update(learning_rate=3e-4, ema=(0.9999,))
    config.inference.update(segment=44.0, overlap=0.25, last="short", standardise=True)
    _rate(config, {"medium": 22_050, "low": 8_000}.get(variant, 44_100))
    _epochs(config, 600)
    if variant == "medium":
        config.model.frame = 2048
    elif variant == "low":
        config.model.update(frame=1024, depth=5)
    elif variant == "ft":
        _fine_tuning(config)
    elif variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _rate(config: Config, rate: int) -> None:
    """Examples of 11 s, slowed down or not, but for the second that is for the shift."""
    config.sample_rate, config.data.resample = rate, rate != 44_100
    config.data.shift, config.data.segment = rate, round((11 * 0.88 - 1) * rate)


def _epochs(config: Config, epochs: int) -> None:
    """Validation once per epoch: 86 songs of 236 s on average, a window of 11 s each second."""
    epoch = 86 * (236 - 11) // config.data.batch_size
    config.steps, config.eval_every = epochs * epoch, epoch


def _fine_tuning(config: Config) -> None:
    """Whole excerpts of songs, four epochs."""
    config.optim.learning_rate = 1e-4
    config.data.update(remix="none", shift=0, gain=(1.0, 1.0), batch_size=16)
    _epochs(config, 4)


def _report(config: Config) -> None:
    """The study: 6 s, its augmentation instead of the authors'."""
    study(config)
    config.front = {"name": "identity"}
    config.data.update(shift=0, sign=0.0, segment=6 * config.sample_rate)
    config.optim.ema = ()


def _demo(config: Config) -> None:
    """Built-in songs at 16 kHz, mono; a quarter of the frame and of the channels, five layers, one branch per layer."""
    config.seed = 0
    _rate(config, 16_000)
    config.channels = 1
    config.data.update(source="builtin", remix="stem", shift=0, batch_size=4, segment=24_000)
    config.data.augment = defaults().data.augment
    config.model.update(frame=1024, depth=5, channels=12, dconv_depth=1)
    config.model.update(norm_starts=3, dconv_lstm=3, dconv_attention=3)
    config.inference.update(segment=6.0, last="moved")
    config.optim.update(learning_rate=2e-3, ema=())
    config.optim.schedule.update(name="warmup_cosine", warmup=30)
    config.steps = 600
    config.log_every, config.save_every, config.eval_every = 20, 300, 300
