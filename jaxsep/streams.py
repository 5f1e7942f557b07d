"""Songs as streams of blocks: overlap-add of segments, shifts, statistics and rates, in constant memory.

A song is an iterable of float32 blocks [t c] of any lengths, an estimate one of blocks [s t c]. The functions
are generators over numpy arrays that look no further than a few segments ahead; none of them knows a model.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxsep.audio import Resampler

Wave = Float[np.ndarray, "_ c"]  # the blocks of a stream have lengths of their own
Stems = Float[np.ndarray, "s _ c"]
Apply = Callable[[Any, int], Any]  # [b t c], n -> [b s n c]
Context = Callable[[int], tuple[int, int]]  # samples of a segment -> samples fed before and behind it


def no_context(length: int) -> tuple[int, int]:
    """The segment alone."""
    return 0, 0


def separate_stream(
    apply: Apply,
    blocks: Iterable[Wave],
    *,
    segment: int,
    overlap: float = 0.25,
    batch_size: int = 1,
    context: Context = no_context,
    last: str = "moved",
) -> Iterator[Stems]:
    """Separates a stream of blocks by overlapping segments.

    Segments are weighted by a triangle (Demucs' `apply_model`) and divided by the sum of the weights, so the
    ends of a song are not faded and an identity returns its input.

    Args:
        apply: (float32 [b t c], n) -> [b s n c]; t is n and its context.
        blocks: float32 [t c] of any lengths, in order.
        segment: samples per segment; 0 = the whole stream in one call, whatever its length.
        overlap: fraction of a segment shared with the next, in [0, 1).
        batch_size: segments per call.
        context: how many samples of the song surround a segment when it is fed; beyond the song's ends they are zeros.
        last: "moved": the last segment is moved back to end with the song and so sees real context, and a song shorter
            than a segment is padded with zeros, cut off again; `apply` always gets one shape (a short last batch is
            padded). "short": the last segments end where the song does, as Demucs has it, and have shapes of their own.

    Yields:
        float32 [s t c] blocks whose lengths add up to that of the input; nothing for an empty stream.
    """
    if segment == 0:
        whole = list(blocks)
        if whole:
            song = np.concatenate(whole)
            yield np.asarray(apply(np.pad(song, [context(len(song)), (0, 0)])[None], len(song)))[0]
        return
    stride = max(1, int(segment * (1 - overlap)))
    pieces = _segments(blocks, segment, stride, context, last)
    yield from _overlap_add(_separated(apply, pieces, segment, batch_size), segment)


def _segments(
    blocks: Iterable[Wave], segment: int, stride: int, context: Context, last: str
) -> Iterator[tuple[int, int, int, Wave]]:
    """(start, n, number of real samples, fed samples [t c]) of each segment of n samples with its context."""
    start, base, held = 0, 0, None  # `held` begins at sample `base`

    def piece(start: int, size: int, held: Wave) -> tuple[int, int, int, Wave]:
        before, after = context(size)
        first, end = start - before - base, start + size + after - base
        wave = np.pad(held[max(0, first) : end], [(max(0, -first), max(0, end - len(held))), (0, 0)])
        return start, size, min(size, base + len(held) - start), wave

    before, after = context(segment)
    for block in rechunk(blocks, stride, axis=0):
        held = block if held is None else np.concatenate([held, block])
        while base + len(held) >= start + segment + after:
            yield piece(start, segment, held)
            start += stride
        # What the last segments may yet look back to: from one stride before, and with all of their context.
        if (done := start - stride - segment - before - base) > 0:
            base, held = base + done, held[done:]
    if held is None:
        return
    length = base + len(held)
    while start + segment <= length or (last == "short" and start < length):
        yield piece(start, min(segment, length - start), held)
        start += stride
    if last == "moved" and (start == 0 or start - stride + segment < length):
        yield piece(max(0, length - segment), segment, held)


def _separated(
    apply: Apply, pieces: Iterator[tuple[int, int, int, Wave]], segment: int, batch_size: int
) -> Iterator[tuple[int, int, Stems]]:
    """The segments of `_segments`, separated in batches; those of full size always in batches of one shape."""
    for size, alike in itertools.groupby(pieces, key=lambda piece: piece[1]):
        while group := list(itertools.islice(alike, batch_size)):
            batch = np.stack([wave for *_, wave in group])
            if size == segment:
                batch = np.pad(batch, [(0, batch_size - len(group)), (0, 0), (0, 0)])
            for (start, _, real, _), estimate in zip(group, np.asarray(apply(batch, size)), strict=False):
                yield start, real, estimate


def _overlap_add(pieces: Iterator[tuple[int, int, Stems]], segment: int) -> Iterator[Stems]:
    """Weighted mean of overlapping pieces; what lies before the newest piece is final and leaves.

    Sums are float64: a high overlap adds many small weights.
    """
    ramp = np.arange(1, segment + 1)
    weight = np.minimum(ramp, ramp[::-1])[:, None] / segment
    base = end = 0
    total = norm = None
    for start, real, stems in pieces:
        if total is None or norm is None:
            total, norm = np.zeros((len(stems), segment, stems.shape[2])), np.zeros((segment, 1))
        if done := start - base:
            yield (total[:, :done] / norm[:done]).astype(np.float32)
            for window in (total, norm[None]):
                window[:, : segment - done] = window[:, done:]
                window[:, segment - done :] = 0
            base = start
        total[:, : stems.shape[1]] += stems * weight[: stems.shape[1]]
        norm[: stems.shape[1]] += weight[: stems.shape[1]]
        end = max(end, start + real)
    if total is not None and norm is not None:
        yield (total[:, : end - base] / norm[: end - base]).astype(np.float32)


def rechunk(stream: Iterable[np.ndarray], size: int, axis: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `size` along `axis`; the last one may be shorter."""
    held: list[np.ndarray] = []
    count = 0
    for block in stream:
        held.append(block)
        count += block.shape[axis]
        if count < size:
            continue
        joined = np.concatenate(held, axis)
        full = count - count % size
        yield from np.split(joined[(slice(None),) * axis + (slice(full),)], full // size, axis)
        held, count = [joined[(slice(None),) * axis + (slice(full, None),)]], count % size
    if count:
        yield np.concatenate(held, axis)


def _drop(stream: Iterable[Stems], count: int) -> Iterator[Stems]:
    """The stream without its first `count` samples."""
    for chunk in stream:
        skipped = min(count, chunk.shape[1])
        count -= skipped
        if skipped < chunk.shape[1]:
            yield chunk[:, skipped:]


def shifted_mean(
    separate: Callable[[Iterable[Wave]], Iterator[Stems]],
    blocks: Iterable[Wave],
    delays: Sequence[int],
    channels: int,
) -> Iterator[Stems]:
    """Mean of `separate` over delayed copies of a stream, delays undone (Demucs' "shift trick").

    The copies advance in step, so each block is read once and forgotten once the slowest copy has used it.

    Args:
        separate: blocks [t c] -> blocks [s t c] of the same total length.
        blocks: float32 [t c].
        delays: samples of silence put before each copy.
        channels: c.
    """
    copies = []
    for delay, copy in zip(delays, itertools.tee(blocks, len(delays)), strict=True):
        late = itertools.chain([np.zeros((delay, channels), np.float32)], copy)
        copies.append(rechunk(_drop(separate(late), delay), 1 << 16, axis=1))
    for chunks in zip(*copies, strict=True):
        yield functools.reduce(np.add, chunks) / np.float32(len(delays))


def track_statistics(blocks: Iterable[Wave]) -> tuple[float, float]:
    """Mean and standard deviation of a song's mono mix in one pass; 1e-8 is added to the latter (Demucs)."""
    count, mean, spread = 0, 0.0, 0.0
    for block in blocks:
        if not len(block):
            continue
        mono = block.mean(1, dtype=np.float64)
        total = count + len(mono)
        delta = mono.mean() - mean  # Chan, Golub & LeVeque 1983: merge two parts without cancellation
        spread += ((mono - mono.mean()) ** 2).sum() + delta**2 * count * len(mono) / total
        mean += delta * len(mono) / total
        count = total
    return float(mean), math.sqrt(spread / max(count - 1, 1)) + 1e-8


def resample_stream(blocks: Iterable[Wave], source: int, target: int, channels: int) -> Iterator[Wave]:
    """Blocks [t c] at another rate: exactly ceil(t * target / source) samples, aligned with the input."""
    resampler = Resampler(source, target, channels)
    fed = left = 0

    def resampled() -> Iterator[Wave]:
        nonlocal fed
        for block in blocks:
            fed += len(block)
            yield resampler.push(block)
        # The filter takes what follows the end for silence; some of it spelt out makes its rounded length enough.
        yield resampler.push(np.zeros((source // target + 2, channels), np.float32))
        yield resampler.finish()

    for block in resampled():
        block = block[: -(-fed * target // source) - left]
        left += len(block)
        if len(block):
            yield block
