"""Which front end should a separator use?

Spectral systems on a fixed STFT, on one whose window or kernels are trained, and on one whose window length is found by
gradient: the same songs, steps, nets and loss. The loss of spectral systems is taken on one fixed STFT of the waves, in
all cells: with trained kernels on both sides of the difference, smaller kernels would win.

    jaxsep study run configs/studies/frontends.py --workdir runs/frontends
    jaxsep study table runs/frontends

Variants: `demos` (default; the small variants of three systems on built-in songs, hours on two cores), `smoke` (the
same machinery in minutes).
"""

from jaxsep.config import Config, choose, load_config
from jaxsep.losses import LOSSES
from jaxsep.studies.definition import Cell, Study, changed

FRONTS = {
    "fixed": {"front__name": "stft"},
    "window": {"front__name": "learnable_stft", "front__trained": "window"},
    "kernels": {"front__name": "learnable_stft", "front__trained": "kernels"},
    "adaptive": {"front__name": "adaptive_stft"},
}
SYSTEMS = ("spleeter", "open_unmix", "dccrn")
VARIANTS = ("demos", "smoke")


def get_study(variant: str = "demos") -> Study:
    """The study of a variant."""
    choose({name: name for name in VARIANTS}, variant, "variant of configs/studies/frontends.py")
    systems = SYSTEMS[:2] if variant == "smoke" else SYSTEMS
    fronts = {name: FRONTS[name] for name in (("fixed", "kernels") if variant == "smoke" else FRONTS)}
    cells = [
        Cell({"system": system, "front": front}, changed(_base(system, variant), **changes))
        for system in systems
        for front, changes in fronts.items()
    ]
    return Study("Front ends", "front", cells, seeds=(0, 1) if variant == "smoke" else (0, 1, 2))


def _base(system: str, variant: str) -> Config:
    """A system's small variant, with losses between spectra on a fixed STFT."""
    config = load_config(f"configs/{system}.py:demo")
    kept = ("frame", "hop", "bins", "fft", "window", "padding")
    front = {key: config.front[key] for key in kept if key in config.front}
    config = changed(config, front={"name": "stft", **front})
    if choose(LOSSES, config.loss.name, "loss.name").domain == "magnitude":
        stft = {"frame": front["frame"], "hop": front["hop"]}
        config = changed(config, loss__domain="stft", loss__stft=stft)
    if variant == "smoke":
        songs = {"train": 2, "valid": 1, "test": 2, "seconds": 8.0, "seed": 0}
        config = changed(config, channels=1, data__songs=songs, data__batch_size=1, steps=6)
        config = changed(config, log_every=2, save_every=3, eval_every=3, optim__schedule__warmup=1)
    return config
