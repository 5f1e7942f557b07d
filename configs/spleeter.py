"""Spleeter's U-Net (Hennequin, Khlif, Voituret, Moussallam: Spleeter, JOSS 5(50), 2154, 2020).

The recipe is that of the authors' `musdb_config.json`: 44.1 kHz stereo, STFT 4096/1024, 512 frames by the lowest
1,024 bins, one U-Net per source, L1 between magnitudes, Adam at 1e-4, batch 4, 200,000 steps, no augmentation: the
changes of pitch and length in the authors' code were switched off (`--augment=spleeter` takes them).
Separation: ratio mask of power 2, nothing above 11 kHz (`mask_extension: zeros`).

Published on MUSDB18's test songs (museval, median of frames, median of songs): the released four-stem model,
trained on Deezer's own catalogue, vocals 6.55, drums 5.93, bass 5.10, other 4.24 (mask) and 6.86, 6.71, 5.51, 4.55
(Wiener filter).
Trained on MUSDB18 only, users and the authors report averages of 4.0 to 4.4.

    python train.py --config=configs/spleeter.py --workdir=runs/spleeter --config.data.root=/data/musdb18hq

Variants: `vocals`, `2stems`, `4stems` (default), `5stems` (softmax over the sources; needs piano stems); `16khz`
(1,536 bins); `1024` (a seventh level of 1,024 channels); `report` and `report22k` (the recipe of a comparative
study: mono, L2, learning rate halved on milestones; at 22,050 Hz the same for speed); `bands` (as `report`, with a net
for what lies below 2,756 Hz, one for what lies above, and one for both); `demo` (narrow, on the built-in songs,
minutes on two cores); `excerpt` (paper width, fitted to one short real excerpt); `rendered` (a quarter to half an hour
on two cores, on songs of `jaxsep data render` or others in stem folders: docs/data.md).
"""

from jaxsep.config import Config, choose, defaults, study

STEMS = ("vocals", "drums", "bass", "other")

# variant -> trainable parameters of the published implementation per source, None where there is none
VARIANTS = {
    "vocals": {"vocals": 9_823_749},
    "2stems": dict.fromkeys(("vocals", "accompaniment"), 9_823_749),
    "4stems": dict.fromkeys(STEMS, 9_823_749),
    "5stems": dict.fromkeys(("vocals", "piano", "drums", "bass", "other"), 9_823_749),
    "16khz": dict.fromkeys(STEMS, 9_823_749),
    "1024": None,
    "report": None,
    "report22k": None,
    "bands": None,
    "demo": None,
    "excerpt": dict.fromkeys(STEMS, 9_823_749),
    "rendered": None,
}

FRAMES = 512  # T: frames that the net sees at a time


def get_config(variant: str = "4stems") -> Config:
    """The config of a variant, locked."""
    choose(VARIANTS, variant, "variant of configs/spleeter.py")
    config: Config = defaults()
    config.name, config.variant = "spleeter", variant
    config.paper.title = "Spleeter: a fast and efficient music source separation tool with pre-trained models"
    config.paper.year = 2020
    config.paper.url = "https://doi.org/10.21105/joss.02154"
    config.paper.score = "released 4stems on MUSDB18 test: V 6.55 D 5.93 B 5.10 O 4.24 (mask), other training data"
    config.seed = 3
    config.model.name = "spleeter"
    config.model.channels = (16, 32, 64, 128, 256, 512)
    config.model.activation = "elu"
    config.model.batch_norm, config.model.dropout = "frozen", 0.0  # as the published code trains, see the net
    config.per_source = True
    config.front.bins = 1024
    config.loss.name = "l1"
    config.inference.post = {"name": "ratio_mask", "power": 2.0, "extension": "zeros"}
    config.steps = 200_000
    _frames(config, FRAMES)

    if variant == "vocals":
        config.sources = "vocals"
    elif variant == "2stems":
        config.sources = "vocals,accompaniment=drums+bass+other"
        config.model.activation = "leaky_relu"
    elif variant == "5stems":
        config.sources = config.data.stems = "vocals,piano,drums,bass,other"
        config.head.activation = "softmax"
    elif variant == "16khz":
        config.front.bins = 1536
    elif variant == "1024":
        config.model.channels = (16, 32, 64, 128, 256, 512, 1024)
    elif variant in ("report", "report22k", "bands"):
        _report(config, variant)
    elif variant == "demo":
        _demo(config)
    elif variant == "excerpt":
        _excerpt(config)
    elif variant == "rendered":
        _rendered(config)
    return config.lock()


def _frames(config: Config, frames: int) -> None:
    """Training crops and separation segments of exactly so many frames, of which the front end pads `frame / hop`."""
    config.block = frames
    config.data.segment = frames * config.front.hop - config.front.frame
    config.inference.segment = config.data.segment / config.sample_rate


def _report(config: Config, variant: str) -> None:
    """The study, with L2; `report22k` has half the rate, the same frame length in seconds, every bin but Nyquist's.

    `bands` has a net for each band and one for all bins, half as wide.
    """
    study(config)
    if variant == "bands":
        config.bands.update(splits=(256,), full=True)
        config.bands.by_band.full = {"channels": tuple(width // 2 for width in config.model.channels)}
    if variant == "report22k":
        config.sample_rate, config.data.resample = 22050, True
        config.front.update(frame=2048, hop=512, bins=1024)
    config.model.batch_norm, config.model.dropout = "batch", 0.5
    config.loss.name = "l2"
    _frames(config, FRAMES)


def _demo(config: Config) -> None:
    """Built-in songs, half of the widths and four levels instead of six: minutes on two cores."""
    config.seed = 0
    config.data.source = "builtin"
    config.data.batch_size = 4
    config.data.remix, config.data.gain, config.data.swap = "stem", (0.5, 1.5), 0.5
    config.model.channels = (8, 16, 32, 64)
    config.model.batch_norm = "batch"
    config.optim.learning_rate = 3e-3
    config.optim.schedule.name = "warmup_cosine"
    config.optim.schedule.warmup = 30
    config.steps = 900
    config.log_every, config.save_every, config.eval_every = 20, 150, 300
    _frames(config, 64)


def _excerpt(config: Config) -> None:
    """Paper width on one short song, the stems' sum as the mixture, no augmentation: how far the net can follow."""
    config.data.source = "folder"
    config.data.batch_size = 1
    config.model.batch_norm = "batch"
    config.optim.learning_rate = 1e-3
    config.optim.schedule.name = "warmup_cosine"
    config.optim.schedule.warmup = 20
    config.steps = 800
    config.log_every, config.save_every, config.eval_every = 10, 100, 100
    _frames(config, 128)


def _rendered(config: Config) -> None:
    """Songs in stem folders, at the band that Spleeter separates (to 11 kHz), half of the widths and five levels.

    Mono at half the rate costs a third of stereo, and separates both channels of a stereo song. The loss is between
    complex spectra, as phases count in the SDR, and the masks are applied as they are. Augmented as Uhlich et al.
    (2017) do, and by sign. Rendered songs have a lead at best, no voice: it is part of what is neither drums nor bass.
    """
    config.seed = 0
    config.sources = "drums,bass,other=other+vocals"
    config.sample_rate, config.channels, config.data.resample = 22050, 1, True
    config.front.update(frame=2048, hop=512, bins=1024)
    config.data.batch_size = 4
    config.data.remix, config.data.gain, config.data.swap, config.data.sign = "stem", (0.25, 1.25), 0.5, 0.5
    config.model.channels = (8, 16, 32, 64, 128)
    config.model.batch_norm = "batch"
    config.loss.name = "complex_l2"
    config.optim.learning_rate = 2e-3
    config.optim.schedule.name = "warmup_cosine"
    config.optim.schedule.warmup = 100
    config.steps = 8000
    config.log_every, config.save_every, config.eval_every = 100, 500, 2000
    config.inference.post = {"name": ""}
    _frames(config, 64)
