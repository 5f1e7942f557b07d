"""One pass over the stems of a song, all in step: what each of them holds, and how far their sum is from the mixture.

Memory holds one block of each stem, however long the song.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxsep import audio
from jaxsep.data.tracks import MIXTURE
from jaxsep.errors import JaxsepError

Block = Float32[np.ndarray, "_ _"]  # samples and channels of one stem; those of another may differ

FULL_SCALE = 1 - 1 / 32768
CLIPPED_RUN = 3  # samples at full scale in a row that no converter gives unclipped


@dataclasses.dataclass(frozen=True)
class Stem:
    """What a whole pass over one stem found; `what` and `fix` are empty for a sound one.

    Attributes:
        clipped: runs at full scale, of all channels.
        offset: the mean of the channel that is farthest from 0.
        digest: of the samples, whatever format holds them.
    """

    name: str
    path: Path
    rate: int = 0
    channels: int = 0
    length: int = 0
    silent: bool = False
    clipped: int = 0
    offset: float = 0.0
    digest: str = ""
    what: str = ""
    fix: str = ""


def measure(files: Sequence[tuple[str, Path, int]]) -> tuple[tuple[Stem, ...], float | None]:
    """Decodes the stems of a song, in threads: the decoders leave Python's lock.

    Args:
        files: (stem, file, stream of the file).

    Returns:
        the stems, and the energy of mixture minus sum of the stems against that of the mixture in dB; None where
        there is no mixture, or the stems cannot be summed.
    """
    passes = [_Pass(*file) for file in files]
    distance = _Distance(tuple(name for name, _, _ in files))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = bool(passes)
        while running:
            blocks = list(pool.map(_Pass.step, passes))
            distance.add(blocks)
            running = any(block is not None for block in blocks)
    return tuple(one.stem for one in passes), distance.decibels()


class _Pass:
    """One stem from its beginning to its end, or to where it is damaged."""

    def __init__(self, name: str, path: Path, stream: int) -> None:
        self.stem = Stem(name, path)
        self._blocks = self._read(stream)

    def step(self) -> Block | None:
        """The next block; None behind the last one."""
        return next(self._blocks, None)

    def _read(self, stream: int) -> Iterator[Block]:
        stem = self.stem
        length, total, silent, digest, clipped = 0, np.zeros(1), True, hashlib.blake2b(digest_size=16), _Clipped()
        try:
            with audio.open_audio(stem.path, stream) as reader:
                for block in reader.blocks():
                    length += len(block)
                    total = total + block.sum(0, dtype=np.float64)
                    silent = silent and not block.any()
                    digest.update(np.ascontiguousarray(block).data)
                    clipped.add(block)
                    yield block
                offset = float(total[np.argmax(np.abs(total))]) / length
                facts = (reader.rate, reader.channels, length, silent, clipped.runs, offset, digest.hexdigest())
            self.stem = Stem(stem.name, stem.path, *facts)
        except JaxsepError as error:
            what, _, fix = str(error).removeprefix(f"{stem.path}: ").partition("; ")
            self.stem = Stem(stem.name, stem.path, what=what, fix=fix or "export or copy it again")


class _Clipped:
    """Counts runs at full scale, also those that span two blocks."""

    def __init__(self) -> None:
        self.runs = 0
        self._last: np.ndarray | None = None  # whether the last samples of the blocks before were at full scale

    def add(self, block: Block) -> None:
        full = np.abs(block) >= FULL_SCALE
        before = np.zeros((CLIPPED_RUN, full.shape[1]), bool) if self._last is None else self._last
        full = np.concatenate([before, full])
        self._last = full[-CLIPPED_RUN:]
        if full.any() and len(full) > CLIPPED_RUN:
            runs = np.all(np.lib.stride_tricks.sliding_window_view(full, CLIPPED_RUN, axis=0), axis=-1)
            self.runs += int((runs[1:] & ~runs[:-1]).sum())


class _Distance:
    """Energies of the mixture and of what the sum of the stems leaves of it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._mixture = names.index(MIXTURE) if MIXTURE in names and len(set(names)) == len(names) > 1 else None
        self._energy = self._rest = 0.0

    def add(self, blocks: Sequence[Block | None]) -> None:
        if self._mixture is None:
            return
        there = [block for block in blocks if block is not None]
        if not there:
            return
        shapes = {block.shape for block in there}
        channels = {shape[1] for shape in shapes}
        if len(there) < len(blocks) or len({shape[0] for shape in shapes}) > 1 or len(channels - {1}) > 1:
            self._mixture = None  # damaged, or of unequal lengths: told elsewhere
            return
        mixture = there[self._mixture].astype(np.float64)
        rest = mixture - sum(block for index, block in enumerate(there) if index != self._mixture)
        self._energy += float(np.square(mixture).mean(1).sum())
        self._rest += float(np.square(rest).mean(1).sum())

    def decibels(self) -> float | None:
        if self._mixture is None or not self._energy:
            return None
        return 10 * float(np.log10(self._rest / self._energy)) if self._rest else -np.inf
