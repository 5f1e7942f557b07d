"""Scores of silence, window by window, of a song of any length: by an activity detector or by a separator."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxsep import config as configs
from jaxsep import devices, separator
from jaxsep.checkpoint import load_variables
from jaxsep.inference import Model
from jaxsep.mining import detector
from jaxsep.mining.points import read_points
from jaxsep.streams import Wave, rechunk, resample_stream

BELOW = 30.0  # dB of a separated source below the mixture: Luo & Yu, "Band-split RNN", arXiv 2209.15174
SECONDS = 0.5  # of a window, for separators
TINY = 1e-12  # mean square that a separated source has at least


@dataclasses.dataclass(frozen=True)
class Listener:
    """Hears which sources are silent.

    Attributes:
        model: a detector, whose stems are probabilities of silence, or a separator.
        window: samples at the model's rate that a score is about.
        thresholds: of sources that it can tell to be silent; the score is then as high or higher.
        separates: whether the model is a separator; scores are then dB of the mixture above the source.
        origin: of the model, in words that change when its weights or its config do.
    """

    model: Model
    window: int
    thresholds: Mapping[str, float]
    separates: bool
    origin: str = ""

    @classmethod
    def of_detector(cls, model: Model, thresholds: Mapping[str, float], origin: str = "") -> "Listener":
        """One that asks an activity detector."""
        return cls(model, detector.build(model.config).window, thresholds, separates=False, origin=origin)

    @classmethod
    def of_separator(cls, model: Model, origin: str = "") -> "Listener":
        """One that compares the energies of the mixture and of a separated source: the rule of Band-split RNN."""
        window = max(1, round(SECONDS * model.sample_rate))
        return cls(model, window, dict.fromkeys(model.sources, BELOW), separates=True, origin=origin)

    def listen(
        self, read: Callable[[], Iterable[Wave]], rate: int, channels: int
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n s"]]:
        """Mean square of the mixture, and the score of each source, in each window; the last one may be shorter.

        Args:
            read: returns the song's float32 blocks [t c] from its start.
            rate: of the song, in Hz.
            channels: of the song.

        Raises:
            JaxsepError: see `Model.separate_blocks`.
        """
        own = self.model.sample_rate
        blocks = read if rate == own else lambda: resample_stream(read(), rate, own, channels)
        stems = rechunk(self.model.separate_blocks(blocks, own, channels), self.window, axis=1)
        mixture = rechunk(blocks(), self.window, axis=0)
        energies, scores = [], []
        for mix, parts in zip(mixture, stems, strict=True):
            energies.append(float(np.square(mix).mean()))
            scores.append(self._score(energies[-1], parts))
        return np.array(energies), np.array(scores)

    def _score(self, energy: float, stems: Float[np.ndarray, "s _ c"]) -> Float[np.ndarray, " s"]:
        if not self.separates:
            return stems.mean(axis=(1, 2))
        return 10 * np.log10((energy + TINY) / (np.square(stems).mean(axis=(1, 2)) + TINY))


def load(run: str | Path, checkpoint: str | int = "best", device: str = "auto") -> Listener:
    """The listener of a run folder: a detector's, or any separator's.

    Raises:
        JaxsepError: not a run folder, a detector that is not trained to its end, or see `jaxsep.load`.
    """
    config: Any = configs.run_config(run)
    found, chosen = config.model.get("name") == detector.NAME, devices.pick(device)
    thresholds = read_points(run) if found else {}
    variables, info = load_variables(run, checkpoint)
    digest = hashlib.sha256(configs.to_json(config).encode()).hexdigest()[:16]
    origin = f"{config.name} {digest} at step {info['step']}"
    net = detector.build(config) if found else separator.build(config)
    model = Model.from_parts(net, variables, config, chosen)
    return Listener.of_detector(model, thresholds, origin) if found else Listener.of_separator(model, origin)
