"""How the stems of a sample are changed beyond gain, sign and swap: a pure function of (seed, sample number, stem).

`data.augment` says by which laws. Nothing here reads a file or computes a sample of sound.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64
from scipy.special import ndtri

from jaxsep.config import choose
from jaxsep.data import warps
from jaxsep.data.plan import (
    BLEND,
    DECIBELS,
    FILTERED,
    HOOK,
    LOUDNESS,
    MIDDLE,
    PITCH,
    REPITCH,
    TEMPO,
    WARPED,
    WIDTH,
    Plan,
    random_bits,
    stem_key,
    unit,
)
from jaxsep.errors import JaxsepError

Units = Float64[np.ndarray, "*_"]  # uniform in [0, 1)
Law = Callable[[Units, float, float], Units]


def _uniform(units: Units, low: float, high: float) -> Units:
    return low + (high - low) * units


def _whole(units: Units, low: float, high: float) -> Units:
    return np.floor(low + (high - low + 1) * units)


def _normal(units: Units, deviation: float, limit: float) -> Units:
    return np.clip(deviation * ndtri(units), -limit, limit)


# What a law draws -> the factor of all frequencies, and that of the speed. "normal" has a deviation and a limit, at
# which it is clipped, the others a lowest and a highest value.
PITCH_LAWS: dict[str, Law] = {
    "uniform": lambda units, low, high: 2 ** (_uniform(units, low, high) / 12),  # semitones
    "whole": lambda units, low, high: 2 ** (_whole(units, low, high) / 12),
    "normal": lambda units, deviation, limit: 2 ** (_normal(units, deviation, limit) / 12),
    "percent": lambda units, low, high: 1 + _uniform(units, low, high) / 100,  # of the frequency
}
SPEED_LAWS: dict[str, Law] = {
    "uniform": lambda units, low, high: 1 + _uniform(units, low, high) / 100,  # percent of the speed
    "normal": lambda units, deviation, limit: 1 + _normal(units, deviation, limit) / 100,
    "length": lambda units, low, high: 1 / (1 + _uniform(units, low, high) / 100),  # percent of the duration
}
LAWS: dict[str, Mapping[str, Law]] = {"pitch": PITCH_LAWS, "tempo": SPEED_LAWS, "repitch": SPEED_LAWS}
RANGE = (0.5, 2.0)  # of the factors


@dataclasses.dataclass(frozen=True)
class Changes:
    """Of each row of one sample: its stems, and behind them their second clips where there are some.

    Attributes:
        warp: frame, out and hop of a change of pitch and tempo, see `jaxsep.data.warps`; zeros where there is none.
        band: middle and width, in Hz, of the Gaussian that is filtered out; width 0 where there is none.
        factor: beside the plan's gain.
        heard: not so are second clips that are not mixed in.
        key: seed of the hook.
    """

    warp: Int64[np.ndarray, "r 3"]
    band: Float32[np.ndarray, "r 2"]
    factor: Float32[np.ndarray, " r"]
    heard: Bool[np.ndarray, " r"]
    key: Int64[np.ndarray, "2"]

    def describe(self, row: int) -> list[str]:
        """What is done to a row, in words."""
        said = []
        if self.warp[row, 0]:
            warp = warps.Warp(*map(int, self.warp[row]))
            said.append(f"pitch x {warp.pitch:.4f}, tempo x {warp.tempo:.4f}")
        if self.band[row, 1]:
            said.append("without {:.0f} +- {:.0f} Hz".format(*self.band[row]))
        return said


@dataclasses.dataclass(frozen=True, eq=False)
class Changer:
    """Changes of any sample number.

    Attributes:
        augment: the config's `data.augment`, as a dict.
        stems: names.
        rate: of the samples, in Hz.
    """

    seed: int
    augment: Mapping[str, Any]
    stems: tuple[str, ...]
    rate: int

    def __post_init__(self):
        augment = self.augment
        for key in ("odds", "filter_odds", "blend"):
            if not 0 <= augment[key] <= 1:
                raise JaxsepError(f"data.augment.{key}={augment[key]}: expected a probability between 0 and 1")
        for key, laws in LAWS.items():
            _check_law(key, augment[key], laws)
        for key, least in (("gain_db", -200), ("loudness_db", -200), ("filter_middle", 0), ("filter_width", 1)):
            pair = tuple(augment[key])
            if len(pair) != 2 or not least <= pair[0] <= pair[1]:
                raise JaxsepError(f"data.augment.{key}={pair}: expected (lowest, highest), {least} or more")
        for what, (low, high) in (("pitch", self.pitch), ("tempo", self.tempo)):
            if low < RANGE[0] or high > RANGE[1]:
                raise JaxsepError(
                    f"data.augment: {what} and repitch multiply up to {low:.3g} to {high:.3g}, expected factors "
                    f"between {RANGE[0]} and {RANGE[1]}"
                )

    @property
    def warps(self) -> bool:
        """Whether pitch or tempo are changed."""
        return any(self.augment[key] for key in LAWS) and self.augment["odds"] > 0

    @property
    def filters(self) -> bool:
        """Whether stems are filtered."""
        return self.augment["filter_odds"] > 0

    @property
    def clips(self) -> int:
        """How many clips there may be of a stem."""
        return 2 if self.augment["blend"] > 0 else 1

    @property
    def active(self) -> bool:
        """Whether anything is changed."""
        levels = *self.augment["gain_db"], *self.augment["loudness_db"]
        return self.warps or self.filters or self.clips > 1 or any(levels) or bool(self.augment["hook"])

    @property
    def pitch(self) -> tuple[float, float]:
        """The lowest and the highest factor of all frequencies."""
        return self._extremes("pitch")

    @property
    def tempo(self) -> tuple[float, float]:
        """The lowest and the highest factor of the speed."""
        return self._extremes("tempo")

    def __call__(self, number: int, plan: Plan) -> Changes:
        """The changes of a sample number, whose plan has a column for each row."""
        if not self.active:
            return _nothing(len(self.stems))
        augment, own, column = self.augment, self._keys, np.array([[number]], np.uint64)
        everyone = np.full_like(own, stem_key(""))

        def draw(purpose: int, together: bool) -> Units:
            # All stems of a song alike: those that remix "group" brings together are of several.
            numbers = plan.origin.astype(np.uint64) if together else column
            return unit(random_bits(self.seed, numbers, everyone if together else own, purpose))[0]

        def alike(purpose: int) -> Units:
            return unit(random_bits(self.seed, column, everyone, purpose))[0]

        decibels = np.zeros(len(own))
        if any(augment["gain_db"]):
            decibels += _uniform(draw(DECIBELS, False), *map(float, augment["gain_db"]))
        if any(augment["loudness_db"]):
            decibels += _uniform(alike(LOUDNESS), *map(float, augment["loudness_db"]))
        warp, together = np.zeros((len(own), 3), np.int64), augment["together"]
        changed = np.flatnonzero(draw(WARPED, together) < augment["odds"]) if self.warps else []
        if len(changed):
            pitch, tempo, both = (
                self._factor(key, draw(purpose, together))
                for key, purpose in (("pitch", PITCH), ("tempo", TEMPO), ("repitch", REPITCH))
            )
            for row in changed:
                factors = float(pitch[row] * both[row]), float(tempo[row] * both[row])
                if factors != (1, 1):
                    warp[row] = warps.nearest(*factors, self.rate)
        band = np.zeros((len(own), 2), np.float32)
        if self.filters:
            band[:, 0] = _uniform(draw(MIDDLE, together), *map(float, augment["filter_middle"]))
            band[:, 1] = _uniform(draw(WIDTH, together), *map(float, augment["filter_width"]))
            band[draw(FILTERED, together) >= augment["filter_odds"]] = 0
        heard = np.ones(len(own), bool)
        if self.clips > 1:
            heard[len(self.stems) :] = draw(BLEND, False)[len(self.stems) :] < augment["blend"]
        key = random_bits(self.seed, column, np.zeros(1, np.uint64), HOOK)[0]
        halves = np.concatenate([key >> np.uint64(32), key & np.uint64(2**32 - 1)])
        return Changes(warp, band, (10 ** (decibels / 20)).astype(np.float32), heard, halves.astype(np.int64))

    @functools.cached_property
    def _keys(self) -> UInt64[np.ndarray, " r"]:
        return np.array([stem_key(stem, clip) for clip in range(self.clips) for stem in self.stems], np.uint64)

    def _factor(self, key: str, units: Units) -> Units:
        if not self.augment[key]:
            return np.ones_like(units)
        name, *values = self.augment[key]
        return LAWS[key][name](units, *map(float, values))

    def _extremes(self, key: str) -> tuple[float, float]:
        ends = np.array([0, 1 - 2.0**-53])  # each law is monotonic
        low, high = np.sort(self._factor(key, ends)) * np.sort(self._factor("repitch", ends))
        return float(low), float(high)


@functools.cache
def _nothing(rows: int) -> Changes:
    warp, band = np.zeros((rows, 3), np.int64), np.zeros((rows, 2), np.float32)
    return Changes(warp, band, np.ones(rows, np.float32), np.ones(rows, bool), np.zeros(2, np.int64))


def _check_law(key: str, law: Sequence[Any], laws: Mapping[str, Law]) -> None:
    if not law:
        return
    choose(laws, str(law[0]), f"data.augment.{key}")
    values = law[1:]
    if len(values) != 2 or not all(isinstance(value, int | float) for value in values):
        raise JaxsepError(f"data.augment.{key}={tuple(law)}: expected the name of a law and two numbers")
    if values[0] > values[1] or (law[0] == "normal" and values[0] < 0):
        raise JaxsepError(
            f"data.augment.{key}={tuple(law)}: expected "
            + ("a deviation of 0 or more and a limit above it" if law[0] == "normal" else "the lowest value first")
        )
    if law[0] == "whole" and any(value != int(value) for value in values):
        raise JaxsepError(f"data.augment.{key}={tuple(law)}: expected whole semitones")
