"""Demucs, versions 1 and 2 (Defossez, Usunier, Bottou, Bach: Music source separation in the waveform domain, 2019).

The recipe is that of the authors' code (github.com/facebookresearch/demucs, branches v1 and v2): 44.1 kHz stereo, songs
standardised by their mono mix, L1 distance of waves, Adam at 3e-4 without decay or schedule, batch 64. A stem begins up
to a second later than its place in the song, by a draw of its own; its sign and its channels are turned half of the
time; version 2 scales it by 0.25 to 1.25; then every four examples exchange stems. The mixture is the sum of what comes
of that. Before it, version 2 changes the pitch of one song of five by up to two semitones and its tempo by some 5 %. An
epoch is two passes over the windows that begin on whole seconds of the 86 training songs; 180 epochs, in version 1 120.
An example is as long as `lengths` wants it for 10 s: 447,146 samples, of which the middle 441,686 are compared.
Separation: segments of 40 s in their surroundings, a quarter shared, 10 random shifts averaged.

Published on MUSDB18's test songs (museval, median of frames, median of songs), drums, bass, other, vocals: version 2
6.86, 7.01, 4.42, 6.84 (mean of three seeds: 6.28), 48 channels 6.20, 32 channels 6.08 on average; version 1 6.08, 5.83,
4.12, 6.29 (five seeds: 5.58). Ablations of version 2, one seed each, on average: no LSTM 5.40, the same with seven
levels 5.94, pitch and tempo as they are 5.80, no rescaling 5.88, no rewriting convolutions 5.89, ReLU for GLU 5.92,
squared error 5.99, no resampling 6.03, decoder kernel 1 6.11, no shifts at test time 6.05. Seeds differ by 0.13 dB.

    python train.py --config=configs/demucs.py --workdir=runs/demucs --config.data.root=/data/musdb18hq

Variants: `v2` (default), `v2-48` (the baseline of the Music Demixing Challenge 2021), `v2-32`; `v1`, `v1-80`, `v1-64`,
`v1-upsample` (interpolation for transposed convolutions, an option of the code); the ablations `no-lstm`, `no-lstm-7`,
`no-repitch`, `no-rescale`, `no-rewrite`, `no-glu`, `mse`, `no-resample`, `context-1`, `no-shifts`; `report` (the recipe
of a comparative study: mono, bfloat16, learning rate halved on milestones, this system's own loss); `demo` (narrow, on
the built-in songs, minutes on two cores). `--config.model.normalize=True` standardises within the net.

What differs from the authors' code:

- Pitch and tempo, which brought the authors 0.48 dB, are changed by a phase vocoder, theirs by SoundTouch.
- The authors separated test songs in one piece (`--config.inference.segment=0`); 40 s and the overlap are those of
  their command line.
- Songs are drawn alike whatever their length, and the epoch with the best validation SDR is kept, not that with the
  lowest L1 distance.
"""

from jaxsep import separator
from jaxsep.config import Config, choose, defaults, study
from jaxsep.data import presets

# variant -> parameters of the published implementation, two biases per LSTM gate; None where there is none
VARIANTS = {
    "v2": 265_679_496,
    "v2-48": 149_462_504,
    "v2-32": 66_443_592,
    "v1": 648_548_208,
    "v1-80": 415_094_568,
    "v1-64": 265_679_496,
    "v1-upsample": 648_622_724,
    "no-lstm": 89_451_144,
    "no-lstm-7": 357_909_128,
    "no-repitch": 265_679_496,
    "no-rescale": 265_679_496,
    "no-rewrite": 220_935_048,
    "no-glu": 243_307_272,
    "mse": 265_679_496,
    "no-resample": 265_679_496,
    "context-1": 243_315_336,
    "no-shifts": 265_679_496,
    "report": None,
    "demo": None,
}
ABLATIONS = {
    "no-lstm": {"lstm_layers": 0},
    "no-lstm-7": {"lstm_layers": 0, "depth": 7},
    "no-rescale": {"rescale": 0.0},
    "no-rewrite": {"rewrite": False},
    "no-glu": {"glu": False},
    "no-resample": {"resample": False},
    "context-1": {"context": 1},
}
SECONDS = 10  # that an example is at least to yield


def get_config(variant: str = "v2") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/demucs.py")
    config: Config = defaults()
    config.name, config.variant = "demucs", variant
    config.paper.title = "Music source separation in the waveform domain"
    config.paper.year = 2019
    config.paper.url = "https://arxiv.org/abs/1911.13254"
    config.paper.score = "MUSDB18 test, version 2: D 6.86 B 7.01 O 4.42 V 6.84; version 1: D 6.08 B 5.83 O 4.12 V 6.29"
    config.seed = 42
    config.sources = config.data.stems = "drums,bass,other,vocals"
    config.model.update(name="demucs", channels=64, depth=6, kernel=8, stride=4, growth=2.0, context=3)
    config.model.update(rewrite=True, glu=True, lstm_layers=2, resample=True, rescale=0.1)
    config.model.update(normalize=False, epsilon=1e-5, upsample=False)
    config.front, config.head = {"name": "identity"}, {"name": "map"}
    config.context = True
    config.loss.name = "wave_l1"
    presets.take(config, "demucs_v1" if variant.startswith("v1") else "demucs_v2")
    config.data.update(standardise=True, batch_size=64)
    config.optim.learning_rate = 3e-4
    config.inference.update(segment=40.0, overlap=0.25, last="short", shifts=10, standardise=True)
    epochs = 180
    if variant.startswith("v1"):
        epochs = 120
        _version1(config)
        config.model.channels = {"v1-80": 80, "v1-64": 64}.get(variant, 100)
        config.model.upsample = variant == "v1-upsample"
    elif variant.startswith("v2-"):
        config.model.channels = int(variant.removeprefix("v2-"))
    elif variant in ABLATIONS:
        config.model.update(ABLATIONS[variant])
    elif variant == "no-repitch":
        config.data.augment = defaults().data.augment
    elif variant == "mse":
        config.loss.name = "wave_l2"
    elif variant == "no-shifts":
        config.inference.shifts = 0
    _example(config, SECONDS)
    _epochs(config, epochs)
    if variant == "report":
        _report(config)
    elif variant == "demo":
        _demo(config)
    return config.lock()


def _version1(config: Config) -> None:
    """Before the revision of 2021: more channels, samples as they are."""
    config.model.update(resample=False, epsilon=0.0)


def _example(config: Config, seconds: float) -> None:
    """Examples of the length that yields at least so much."""
    config.data.segment, _ = separator.build(config).net.lengths(round(seconds * config.sample_rate))


def _epochs(config: Config, epochs: int) -> None:
    """Validation once per epoch: two passes over 86 songs of 236 s on average, a window each second that fits."""
    slowest = 0.88 if config.data.augment.tempo else 1.0  # of the tempo, for which windows are as much longer
    needed = (config.data.segment + config.data.shift) / config.sample_rate / slowest
    epoch = round(2 * 86 * (236 - needed) / config.data.batch_size)
    config.steps, config.eval_every = epochs * epoch, epoch


def _report(config: Config) -> None:
    """The study: 6 s, its augmentation instead of the authors', no shifts at test time."""
    study(config)
    config.front = {"name": "identity"}
    config.data.update(shift=0, sign=0.0)
    config.inference.shifts = 0
    _example(config, 6)


def _demo(config: Config) -> None:
    """Built-in songs at 16 kHz, mono, a second at a time; four levels of few channels."""
    config.seed = 0
    config.sample_rate, config.channels = 16_000, 1
    config.data.update(source="builtin", resample=True, remix="stem", shift=0, swap=0.0, batch_size=6)
    config.data.augment = defaults().data.augment
    config.model.update(channels=24, depth=4)
    _example(config, 1)
    config.inference.update(segment=8.0, shifts=0)
    config.optim.learning_rate = 1.5e-3
    config.optim.schedule.update(name="warmup_cosine", warmup=50)
    config.steps = 900
    config.log_every, config.save_every, config.eval_every = 20, 300, 450
