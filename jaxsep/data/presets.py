"""The augmentations of papers, by name: what `take(config, name)` and `train.py --augment=NAME` set."""

from typing import Any

from jaxsep.config import Config, choose, defaults

# name -> values of the config's data block. What a preset does not name is off. Not verified, as the papers' texts do
# not say or were not at hand: all values of `pretet` (remembered, not read; `filter_middle` and `filter_width` of the
# defaults are his, too), and that `uhlich` draws swaps and gains per stem (as all ports that cite the paper do).
# `spleeter` is in its authors' code, on magnitude spectrograms, but was switched off when they trained. Demucs' authors
# change pitch and tempo with SoundTouch, in the time domain.
PRESETS: dict[str, dict[str, Any]] = {
    "demucs_v1": {"remix": "group", "group": 4, "shift_seconds": 1, "swap": 0.5, "sign": 0.5},
    "demucs_v2": {
        "remix": "group",
        "group": 4,
        "shift_seconds": 1,
        "swap": 0.5,
        "sign": 0.5,
        "gain": (0.25, 1.25),
        "augment": {"odds": 0.2, "pitch": ("whole", -2, 2), "tempo": ("normal", 5, 12)},
    },
    "uhlich": {"remix": "stem", "swap": 0.5, "gain": (0.25, 1.25)},
    "umx": {"remix": "stem", "swap": 0.5, "gain": (0.25, 1.25)},
    "d3net": {"remix": "stem", "swap": 0.5, "gain": (0.75, 1.25)},
    "spleeter": {"augment": {"pitch": ("uniform", -1, 1), "tempo": ("length", -10, 10)}},
    # His "combined"; alone he also tried loudness_db (-10, 10) and the filter.
    "pretet": {
        "swap": 0.5,
        "augment": {"pitch": ("percent", -30, 30), "tempo": ("length", -30, 30), "gain_db": (-9.0, 9.0)},
    },
}


def take(config: Config, name: str) -> None:
    """Sets a config's augmentations to those of a paper; all others are off.

    Raises:
        JaxsepError: an unknown name.
    """
    values = dict(choose(PRESETS, name, "augmentations"))
    plain = defaults().data
    for key in ("remix", "group", "gain", "swap", "sign", "shift", "augment"):
        config.data[key] = plain[key]
    config.data.augment.update(values.pop("augment", {}))
    config.data.shift = round(values.pop("shift_seconds", 0) * config.sample_rate)
    config.data.update(values)
