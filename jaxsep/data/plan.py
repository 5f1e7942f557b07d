"""What sample number n of the stream is made of: a pure function of (seed, n, stem).

Every draw is a hash, not a state: integers mixed by the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014), one round per key. So a plan is the same on every
machine, in any order, process or thread, and resuming needs one integer. Nothing here reads a file.
"""

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt64

from jaxsep.errors import JaxsepError

# What a draw is for. A number never gets a second meaning: the streams of old runs would change.
TRACK, START, GAIN, SIGN, SWAP, CONDITION, GRADED, FACTOR, APART, SHIFT, ORDER, WEAK, SILENT, CLIP, PLACE = range(15)
WARPED, PITCH, TEMPO, REPITCH, DECIBELS, LOUDNESS, FILTERED, MIDDLE, WIDTH, BLEND, HOOK = range(15, 26)
SET, HEARD, REFERENCE = range(26, 29)


def random_bits(
    seed: int, numbers: UInt64[np.ndarray, "b #k"], stems: UInt64[np.ndarray, " #k"], purpose: int
) -> UInt64[np.ndarray, "b k"]:
    """64 random bits for each (sample number, stem), uint64 [b k]; a number may stand for all stems, and a stem too."""
    state = np.zeros((1, 1), np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        for key in (np.uint64(seed % 2**64), numbers, stems, np.uint64(purpose)):
            state = state ^ (key + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def unit(bits: UInt64[np.ndarray, "b k"]) -> Float64[np.ndarray, "b k"]:
    """Uniform in [0, 1): the upper 53 bits, exactly."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(bits: UInt64[np.ndarray, "b k"], count: Int64[np.ndarray, "..."]) -> Int64[np.ndarray, "b k"]:
    """Uniform integers in [0, count), for counts below 2^32, in integers alone."""
    scaled = (bits >> np.uint64(32)) * np.broadcast_to(count, bits.shape).astype(np.uint64)
    return (scaled >> np.uint64(32)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to read for each (sample number, stem), and how to change it.

    Attributes:
        track: index into the tracks.
        start: first sample, at the track's own rate; below 0 where songs are padded.
        gain: linear factor, without the sign.
        sign: the stem's polarity is turned.
        swap: its left and right are exchanged.
        origin: the sample number whose song it is; another than its own under remix "group".
    """

    track: Int64[np.ndarray, "b k"]
    start: Int64[np.ndarray, "b k"]
    gain: Float32[np.ndarray, "b k"]
    sign: Bool[np.ndarray, "b k"]
    swap: Bool[np.ndarray, "b k"]
    origin: Int64[np.ndarray, "b k"]


@dataclasses.dataclass(frozen=True, eq=False)
class Planner:
    """Plans of any sample numbers.

    Tracks are drawn uniformly, whatever their length, then a start uniformly among the track's positions. A
    stem's draws hang on its name, not on which other stems there are.

    Under remix "group" (Demucs), sample numbers stand in groups, 0 to 3, 4 to 7, ... for `group=4`. Within a group each
    stem is permuted: the songs and places are those of "none", and every number's vocals go to a number of the group,
    its drums to another. As the groups are of sample numbers and not of a batch, a batch may hold any part of one, and
    any process may make it.

    Attributes:
        stems: names.
        positions: for each track, how many starts it has.
        remix: "none", all stems from one song at one position; "stem", each from its own; or "group".
        gain: range of the linear factor.
        swap: probability of a channel swap.
        sign: probability of a sign flip.
        group: how many sample numbers exchange stems under remix "group".
        shift: for each track, by how many samples at most a stem begins after the start, each by its own draw (Demucs).
        first: for each track, its earliest start.
        clip: 0, or 1 for a second clip of each stem, from a song and place of its own.
    """

    seed: int
    stems: tuple[str, ...]
    positions: Int64[np.ndarray, " tracks"]
    remix: str = "none"
    gain: tuple[float, float] = (1.0, 1.0)
    swap: float = 0.0
    sign: float = 0.0
    group: int = 4
    shift: Int64[np.ndarray, "#tracks"] = dataclasses.field(default_factory=lambda: np.zeros(1, np.int64))
    first: Int64[np.ndarray, "#tracks"] = dataclasses.field(default_factory=lambda: np.zeros(1, np.int64))
    clip: int = 0

    def __post_init__(self):
        if self.remix not in ("none", "stem", "group"):
            raise JaxsepError(f"data.remix={self.remix!r} is unknown, expected 'none', 'stem' or 'group'")
        if self.group < 2:
            raise JaxsepError(f"data.group={self.group}: expected 2 or more samples that exchange stems")
        if len(self.gain) != 2 or not 0 < self.gain[0] <= self.gain[1]:
            raise JaxsepError(f"data.gain={self.gain}: expected (lowest, highest) linear factors above 0")
        for key, value in (("swap", self.swap), ("sign", self.sign)):
            if not 0 <= value <= 1:
                raise JaxsepError(f"data.{key}={value}: expected a probability between 0 and 1")

    def __call__(
        self, numbers: Sequence[int] | Int64[np.ndarray, " b"], apart: Bool[np.ndarray, "b k"] | None = None
    ) -> Plan:
        """The plan of each sample number, in their order; stems marked `apart` come from songs of their own."""
        column = np.asarray(numbers, np.int64).astype(np.uint64)[:, None]
        own = np.array([stem_key(stem, self.clip) for stem in self.stems], np.uint64)
        song = own if self.remix == "stem" or self.clip else np.full_like(own, stem_key(""))
        exchanged = self.remix == "group" and not self.clip
        origin = self._exchanged(column, own) if exchanged else np.broadcast_to(column, (len(column), len(own)))

        def draw(purpose: int) -> UInt64[np.ndarray, "b k"]:
            return random_bits(self.seed, column, own, purpose)

        def place(purpose: int) -> UInt64[np.ndarray, "b k"]:
            together = random_bits(self.seed, origin, song, purpose)
            return together if apart is None else np.where(apart, draw(purpose), together)

        track = below(place(TRACK), np.array(len(self.positions)))
        start = below(place(START), self.positions[track]) + self._of(self.first, track)
        shift = below(draw(SHIFT), self._of(self.shift, track) + 1)
        low, high = self.gain
        gain = (low + (high - low) * unit(draw(GAIN))).astype(np.float32)
        sign, swap = unit(draw(SIGN)) < self.sign, unit(draw(SWAP)) < self.swap
        return Plan(track, start + shift, gain, sign, swap, origin.astype(np.int64))

    def _exchanged(self, column: UInt64[np.ndarray, "b 1"], own: UInt64[np.ndarray, " k"]) -> UInt64[np.ndarray, "b k"]:
        """The number of its group from which each number gets each stem: the ranks of one hash per number of it."""
        place = column % np.uint64(self.group)
        members = column - place + np.arange(self.group, dtype=np.uint64)
        bits = random_bits(self.seed, members.reshape(-1, 1), own, ORDER).reshape(*members.shape, len(own))
        ranks = np.argsort(bits, axis=1)[np.arange(len(column)), place[:, 0].astype(np.int64)]
        return column - place + ranks.astype(np.uint64)

    def _of(self, values: Int64[np.ndarray, "#tracks"], track: Int64[np.ndarray, "b k"]) -> Int64[np.ndarray, "b k"]:
        return np.broadcast_to(values, self.positions.shape)[track]


def stem_key(name: str, clip: int = 0) -> int:
    """What the draws of a stem hang on; those of its second clip on its name and a plus, which no name has."""
    return int.from_bytes(hashlib.blake2b((name + "+" * clip).encode(), digest_size=8).digest(), "little")
