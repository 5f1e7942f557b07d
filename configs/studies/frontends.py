"""Which front end should a separator use?

Four systems, each on a fixed STFT, on one whose window or kernels are trained, and on one whose window length is found
by gradient; Conv-TasNet on its own filterbank, too. The same songs, crops, steps and nets, and one loss for all: L1
between waves. Between spectra of a trained front end it would not do: smaller kernels would lower it.

    jaxsep study run configs/studies/frontends.py --workdir runs/frontends
    jaxsep study table runs/frontends
    jaxsep study plot runs/frontends

Variants: `demos` (default: the small variants of the systems on built-in songs, each with its own STFT, many hours on
two cores), `small` (mono at 11,025 Hz on one STFT of 1,024 samples, narrower, without DCCRN, whose steps take four
times as long as Spleeter's: under two hours on one core, docs/studies/frontends.md), `smoke` (two systems and front
ends of it, 6 steps each, in minutes).
"""

from jaxsep.config import Config, choose, defaults, load_config
from jaxsep.studies.definition import Cell, Study, changed

FRONTS = {
    "fixed": {"front__name": "stft"},
    "window": {"front__name": "learnable_stft", "front__trained": "window"},
    "kernels": {"front__name": "learnable_stft", "front__trained": "kernels"},
    "adaptive": {"front__name": "adaptive_stft"},
}
OWN = "filterbank"  # Conv-TasNet's
SYSTEMS = {
    "demos": ("spleeter", "open_unmix", "dccrn", "conv_tasnet"),
    "small": ("spleeter", "open_unmix", "conv_tasnet"),
    "smoke": ("spleeter", "open_unmix"),
}
# What is narrower in a net of `small` and `smoke` than in the small variant of its system.
NARROW = {
    "spleeter": {},
    "open_unmix": {"model__hidden": 96, "model__max_bin": 0},
    "conv_tasnet": {"model__blocks": 6},
}


def get_study(variant: str = "demos") -> Study:
    """The study of a variant."""
    systems = choose(SYSTEMS, variant, "variant of configs/studies/frontends.py")
    fronts = {name: FRONTS[name] for name in (("fixed", "kernels") if variant == "smoke" else FRONTS)}
    cells = []
    for system in systems:
        base = _base(system, variant)
        levels = {name: changed(base, **changes) for name, changes in fronts.items()}
        if system == "conv_tasnet":
            levels[OWN] = changed(base, front=load_config("configs/conv_tasnet.py:demo").front.to_dict())
        cells += [Cell({"system": system, "front": name}, config) for name, config in levels.items()]
    return Study("Front ends", "front", cells, seeds=(0, 1) if variant == "smoke" else (0, 1, 2))


def _base(system: str, variant: str) -> Config:
    """A system's small variant on a fixed STFT, with the loss of all of them."""
    config = load_config(f"configs/{system}.py:demo")
    kept = ("frame", "hop", "bins", "fft", "window", "padding")
    front = {key: config.front[key] for key in kept if key in config.front}
    if system == "conv_tasnet":
        front = {"frame": 512, "hop": 128, "bins": 257}
    config = changed(config, front={"name": "stft", **front}, loss=defaults().loss.to_dict() | {"name": "wave_l1"})
    if variant != "demos":
        config = _small(changed(config, **NARROW[system]))
    if variant == "smoke":
        songs = {"train": 2, "valid": 1, "test": 2, "seconds": 8.0, "seed": 0}
        config = changed(config, data__songs=songs, data__batch_size=1, steps=6, optim__schedule__warmup=1)
        config = changed(config, log_every=2, save_every=3, eval_every=3)
    return config


def _small(config: Config) -> Config:
    """One rate, STFT, crop, batch, set of songs, augmentation and optimiser for all systems."""
    hop, frames = 256, 64
    front = {"name": "stft", "frame": 4 * hop, "hop": hop, "bins": 2 * hop, "padding": "reflect"}
    songs = {"train": 24, "valid": 4, "test": 12, "seconds": 15.0, "seed": 0}
    config = changed(config, sample_rate=11025, channels=1, front=front, data__resample=True, data__songs=songs)
    config = changed(config, block=0, data__segment=frames * hop, data__batch_size=4, data__standardise=False)
    config = changed(config, data__remix="stem", data__gain=(0.5, 1.5), data__swap=0.0, data__sign=0.5)
    schedule = {**defaults().optim.schedule.to_dict(), "name": "warmup_cosine", "warmup": 50}
    optim = {**defaults().optim.to_dict(), "learning_rate": 3e-3, "schedule": schedule, "clip": 5.0}
    inference = {**defaults().inference.to_dict(), "segment": 15.0}
    config = changed(config, optim=optim, inference=inference)
    return changed(config, steps=600, log_every=40, save_every=300, eval_every=120, patience=0)
