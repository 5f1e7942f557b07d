"""The training stream: plan, read, augment, mix, batch, for any number of processes.

Global batch k holds the samples k*B ... k*B + B - 1, and process p takes its contiguous share of them. Each
sample is a pure function of (seed, sample number), so the batches do not depend on the number of processes or
threads, and a run continues at step k by asking for step k. Reading is one `tf.numpy_function` whose time
goes by without Python's lock (pread, libsndfile, soxr); all after it are graph ops. In memory are at most
`workers` examples and three batches.
"""

import dataclasses
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.fft
import soxr
from jaxtyping import Float32, Int16, Int64

from jaxsep.config import choose, parse_stems
from jaxsep.data import augment, vocoder, warps
from jaxsep.data.augment import tf
from jaxsep.data.changes import Changer, Changes
from jaxsep.data.conditions import KINDS, conditions
from jaxsep.data.levels import Levels
from jaxsep.data.plan import Plan, Planner
from jaxsep.data.readers import to_float
from jaxsep.data.sets import DataSet, Mixer, every
from jaxsep.data.singles import Singles
from jaxsep.data.tracks import MIXTURE, Track, silent_track
from jaxsep.data.unlabeled import Clips
from jaxsep.errors import JaxsepError

FAR = 2**48  # numbers that no run reaches: example n + FAR takes the place of example n where that cannot be read
ATTEMPTS = 100  # to find an example that can be read
MARGIN = 4096  # samples at the file's rate after which the resampler has forgotten an edge


@dataclasses.dataclass(frozen=True)
class Window:
    """What is read for `segment` samples at `sample_rate` from a file of another rate.

    The resampler sees `margin` more samples at both sides, a whole number of them at either rate, so that the
    segment's edges are those of the resampled song.
    """

    rate: int
    sample_rate: int
    segment: int

    @property
    def step(self) -> tuple[int, int]:
        """The smallest pair (samples in the file, samples in the segment) of equal duration."""
        divisor = math.gcd(self.rate, self.sample_rate)
        return self.rate // divisor, self.sample_rate // divisor

    @property
    def margin(self) -> int:
        """Samples before the segment, at the file's rate."""
        return 0 if self.rate == self.sample_rate else math.ceil(MARGIN / self.step[0]) * self.step[0]

    @property
    def span(self) -> int:
        """Samples to read."""
        source, target = self.step
        return 2 * self.margin - (-self.segment * source // target)

    def stored(self, samples: int) -> int:
        """Samples of the file in `samples` of the segment, rounded down."""
        return samples * self.rate // self.sample_rate

    def cut(self, samples: np.ndarray) -> np.ndarray:
        """The segment [segment c] of the `span` samples read."""
        if self.rate == self.sample_rate:
            return samples
        source, target = self.step
        start = self.margin // source * target
        return soxr.resample(to_float(samples), self.rate, self.sample_rate)[start : start + self.segment]


class Crops:
    """Plans and reads the stems of any sample number."""

    def __init__(
        self,
        tracks: Sequence[Track],
        sources: Mapping[str, Sequence[str]],
        config: Any,
        levels: Levels | None,
        sets: Sequence[DataSet] = (),
    ):
        data = config.data
        self.sources, self.conditions = sources, data.conditions
        self.stems, self.rate, self.segment = parse_stems(data.stems), config.sample_rate, data.segment
        self.changer = Changer(config.seed, data.augment.to_dict(), self.stems, config.sample_rate)
        self.hook = augment.load_hook(data.augment.hook) if data.augment.hook else None
        self.margin, self.lead, longest = _reach(self.changer, data.segment)
        self.clips = None
        if data.unlabeled.root:
            self.clips = Clips(sources, config, lambda rate: Window(rate, config.sample_rate, longest).span)
        labelled = every(tracks, sets)
        if any(each.heard is not None for each in sets):
            labelled.append(silent_track(self.stems, config.sample_rate, longest))
        self.labelled, self.tracks = len(labelled), [*labelled, *(self.clips.tracks if self.clips else ())]
        self.levels = levels
        if levels is not None and self.clips:
            self.levels = Levels(*map(np.concatenate, zip(levels, self.clips.levels, strict=True)))
        self.original = data.mixture == "original"
        self.rows = (*self.stems * self.changer.clips, *([MIXTURE] if self.original else []))
        self.channels, self.seed, self.swap = config.channels, config.seed, data.swap
        self.windows = [Window(track.rate, config.sample_rate, longest) for track in self.tracks]
        self.width = max(config.channels, *(track.channels for track in self.tracks))
        _check(self, config)
        same_rate = all(window.margin == 0 for window in self.windows)
        stored = {reader.dtype for track in self.tracks for reader in track.stems.values()}
        stored |= {track.reader(MIXTURE).dtype for track in self.tracks if self.original}
        self.dtype = np.dtype(np.int16 if same_rate and stored == {np.dtype(np.int16)} else np.float32)
        self.planner = self._plans(len(tracks), sets, config, clip=0)
        self.second = self._plans(len(tracks), sets, config, clip=1) if self.changer.clips > 1 else None

    def _plans(self, songs: int, sets: Sequence[DataSet], config: Any, clip: int) -> Planner | Mixer:
        """Of the first or second clip of each stem."""
        first, others, offset = self._planner(range(songs), config, clip), [], songs
        for each in sets:
            numbers = range(offset, offset + len(each.tracks))
            planner = self._planner(numbers, config, clip) if each.heard is None else self._singles(each, numbers)
            others.append((each.odds, offset, planner))
            offset = numbers.stop
        return Mixer(first, others, silence=offset) if others else first

    def _planner(self, numbers: range, config: Any, clip: int) -> Planner:
        """Of the songs of one data set."""
        data, tracks = config.data, [self.tracks[number] for number in numbers]
        windows = [self.windows[number] for number in numbers]
        shift, pad = (np.array([w.stored(n) for w in windows], np.int64) for n in (data.shift, data.pad))
        spans = np.array([w.span for w in windows])
        positions = np.array([track.length for track in tracks]) + 2 * pad - spans - shift + 1
        _check_lengths(tracks, positions, config, self.changer.active)
        return Planner(
            seed=config.seed,
            stems=self.stems,
            positions=positions,
            remix=data.remix,
            gain=tuple(data.gain),
            swap=data.swap,
            sign=data.sign,
            group=data.group,
            shift=shift,
            first=-pad,
            clip=clip,
        )

    def _singles(self, each: DataSet, numbers: range) -> Singles:
        assert each.heard is not None
        tracks, windows = [self.tracks[n] for n in numbers], [self.windows[n] for n in numbers]
        files = {
            stem: np.array([index for index, track in enumerate(tracks) if stem in track.stems], np.int64)
            for stem in self.stems
        }
        # Where no file is of the stem with the greatest share, the next one is always heard.
        heard = np.array([len(files[stem]) > 0 for stem in self.stems]) * each.heard
        return Singles(
            stems=self.stems,
            files=files,
            seconds=np.array([track.length / track.rate for track in tracks]),
            room=np.array([track.length - window.span for track, window in zip(tracks, windows, strict=True)]),
            heard=heard / heard.max(),
            rms=each.loudness and each.loudness.files,
            reference=each.loudness and each.loudness.reference,
        )

    @property
    def marks(self) -> dict[str, tuple[int, ...]]:
        """What examples have beside waves, and its shape: "targets" that are asked for, or which source is "known"."""
        if self.conditions:
            return {"targets": (1, len(self.sources))}
        return {"known": (len(self.sources),)} if self.clips else {}

    @property
    def core(self) -> int:
        """Samples of a row before it is filtered."""
        return self.segment + 2 * self.margin

    def plan(self, number: int) -> tuple[Plan, Float32[np.ndarray, "..."] | None]:
        """What the example is made of, a column per row of stems, and its mark, where there are some."""
        if self.conditions:
            drawn = conditions(self.conditions, self.seed, [number], self.sources, self.stems)
            plan, mark = self.planner([number], drawn.apart), drawn.targets[0]
        else:
            plan, mark = self.planner([number]), None
        if self.second:
            pairs = zip(dataclasses.astuple(plan), dataclasses.astuple(self.second([number])), strict=True)
            plan = Plan(*(np.concatenate(pair, axis=1) for pair in pairs))
        return self.clips.place(plan, number, self.labelled) if self.clips else (plan, mark)

    def counts(self, changes: Changes) -> Int64[np.ndarray, " r"]:
        """How many samples each row is read of, at the rate of the model."""
        counts = np.full(len(self.rows), self.lead + self.core)
        for row, (warp, heard) in enumerate(zip(changes.warp, changes.heard, strict=True)):
            if warp[0]:
                counts[row] = self.lead + warps.Warp(*map(int, warp)).after(self.core)
            counts[row] *= heard
        return counts

    def read(
        self, plan: Plan, counts: Int64[np.ndarray, " r"]
    ) -> Int16[np.ndarray, "t c"] | Float32[np.ndarray, "t c"]:
        """The stored samples of the plan's only example, one row behind the other; the original mixture comes last.

        Raises:
            JaxsepError: a file that cannot be read, by name.
        """
        samples = np.empty((counts.sum(), self.width), self.dtype)
        ends = np.cumsum(counts)
        for index, (row, count, end) in enumerate(zip(self.rows, counts, ends, strict=True)):
            if not count:
                continue
            column = index % plan.track.shape[1]  # the mixture lies where every stem lies
            track, start = plan.track[0, column], plan.start[0, column]
            window = dataclasses.replace(self.windows[track], segment=int(count))
            stored = window.cut(_read_padded(self.tracks[track], row, int(start), window.span))
            samples[end - count : end] = stored if self.dtype == np.int16 else to_float(stored)
        return samples

    def level(self, plan: Plan, changes: Changes) -> tuple[Float32[np.ndarray, " r"], Float32[np.ndarray, " r"]]:
        """Factor and offset of each row that `read` returns: the gains, on standardised songs if so asked."""
        gain = (np.where(plan.sign, -plan.gain, plan.gain) * (changes.factor * changes.heard))[0]
        if self.original:
            gain = np.append(gain, np.float32(1))
        if self.levels is None:
            return gain, np.zeros_like(gain)
        track = plan.track[0, np.arange(len(gain)) % plan.track.shape[1]]
        factor = gain / self.levels.std[track]
        return factor.astype(np.float32), (-factor * self.levels.mean[track]).astype(np.float32)

    def describe(self, number: int) -> str:
        """Says of which songs a sample is made, from where, and how they are changed."""
        plan, mark = self.plan(number)
        changes = self.changer(number, plan)
        parts = []
        for index, stem in enumerate(self.stems * self.changer.clips):
            if not changes.heard[index]:
                continue
            track = plan.track[0, index]
            window = self.windows[track]
            seconds = (plan.start[0, index] + window.margin) / window.rate + self.lead / self.rate
            sign, gain = "-" if plan.sign[0, index] else "", plan.gain[0, index] * changes.factor[index]
            done = [f"gain {sign}{gain:.2f}", *(["swapped"] if plan.swap[0, index] else []), *changes.describe(index)]
            parts.append(f"{stem} {self.tracks[track].name!r} at {seconds:.2f} s ({', '.join(done)})")
        if self.conditions and mark is not None:
            weights = zip(mark[0], self.sources, strict=True)
            asked = " + ".join(f"{weight:.2f} {source}" for weight, source in weights if weight)
            parts.append(f"asked for {asked or 'nothing'}")
        return "; ".join(parts)


def _reach(changer: Changer, segment: int) -> tuple[int, int, int]:
    """What changes need beyond a segment.

    Returns:
        Samples around it that the filter cuts off at either end, samples that all rows are read of before that, and
        how many are read of the longest row.
    """
    margin = 0
    if changer.filters:  # a Gaussian's response falls to 1e-8 in six of its deviations
        reach = math.ceil(6 * changer.rate / (2 * math.pi * changer.augment["filter_width"][0]))
        quick: Any = scipy.fft.next_fast_len(segment + 2 * reach, real=True)
        margin = (quick - segment + 1) // 2
    core = segment + 2 * margin
    if not changer.warps:
        return margin, 0, core
    lead, after = warps.margins(changer.pitch, changer.tempo, changer.rate, core)
    return margin, lead, lead + max(after, core)


def _read_padded(track: Track, row: str, start: int, count: int) -> np.ndarray:
    """Samples [start, start + count) as stored, with silence where the song has not begun or is over."""
    first = min(max(-start, 0), count)
    last = max(first, min(track.length - start, count))
    samples = track.read(row, min(max(start + first, 0), track.length), last - first)
    return samples if last - first == count else np.pad(samples, [(first, count - last), (0, 0)])


def _check_lengths(
    tracks: Sequence[Track], positions: Int64[np.ndarray, " tracks"], config: Any, changed: bool
) -> None:
    for track, count in zip(tracks, positions, strict=True):
        if count < 1:
            raise JaxsepError(
                f"track {track.name!r}: {track.length} samples, shorter than the {track.length - count + 1} that "
                f"data.segment={config.data.segment} needs with data.shift={config.data.shift}"
                f"{' and data.augment' if changed else ''}; remove the song or set a shorter segment"
            )


def _check(crops: Crops, config: Any) -> None:
    data = config.data
    for key, least in (("segment", 1), ("shift", 0), ("pad", 0)):
        if data[key] < least:
            raise JaxsepError(f"data.{key}={data[key]}: expected {least} or more samples")
    if data.pad >= data.segment:
        raise JaxsepError(f"data.pad={data.pad}: a segment of data.segment={data.segment} could be nothing but padding")
    for track in crops.tracks:
        if track.rate != config.sample_rate and not data.resample:
            raise JaxsepError(
                f"track {track.name!r}: {track.rate} Hz, the config has sample_rate={config.sample_rate}; "
                "resample the files, change sample_rate, or set data.resample=True"
            )
        if track.channels not in (1, crops.width) or crops.channels not in (1, crops.width):
            raise JaxsepError(
                f"track {track.name!r}: {track.channels} channels, channels={crops.channels} in the config; "
                "expected mono or stereo songs"
            )
    if data.mixture not in ("sum", "original"):
        raise JaxsepError(f"data.mixture={data.mixture!r} is unknown, expected 'sum' or 'original'")
    if crops.conditions:
        choose(KINDS, crops.conditions, "data.conditions")
    if crops.clips and crops.changer.clips > 1:
        raise JaxsepError(f"data.augment.blend={data.augment.blend} does not go with data.unlabeled; set it to 0")
    if not crops.original:
        return
    exchanged = data.remix != "none" or crops.conditions == "cunet" or crops.changer.active
    if exchanged or tuple(data.gain) != (1, 1) or data.swap or data.sign or data.shift:
        raise JaxsepError(
            "data.mixture='original' is no longer the sum of changed stems: it needs data.remix='none', "
            "data.gain=(1, 1), data.swap=0, data.sign=0, data.shift=0 and no data.augment, and no "
            "data.conditions='cunet'"
        )
    for track in crops.tracks:
        if track.mixture is None:
            raise JaxsepError(f"track {track.name!r}: no mixture.wav for data.mixture='original'; add it, or set 'sum'")


class Stream(Iterator[dict[str, np.ndarray]]):
    """One process's share of the global batches, without end; `batches` makes it.

    Each item is `{"mix": float32 [b t c], "sources": float32 [b s t c]}`, to be read only, and with
    `data.conditions` also has `"targets": float32 [b 1 s]`, with `data.unlabeled` `"known": float32 [b s]`: 1 for the
    source of a weak example that is known. `close()` ends the reading ahead.
    """

    def __init__(
        self,
        crops: Crops,
        batch_size: int,
        share: range,
        first_step: int,
        workers: int,
        skip: bool,
    ):
        self._crops, self._batch_size, self._share, self._skip = crops, batch_size, share, skip
        self._failures: dict[int, JaxsepError] = {}
        self._lock = threading.Lock()
        self._unreadable: dict[str, tuple[str, int]] = {}
        options = tf.data.Options()
        options.deterministic = True
        options.autotune.enabled = False
        options.threading.private_threadpool_size = workers
        options.threading.max_intra_op_parallelism = 1
        local = len(share)
        example = tf.autograph.experimental.do_not_convert(self._example)  # which would wrap what a hook raises
        examples = tf.data.Dataset.range(first_step * local, np.iinfo(np.int64).max).map(
            example, num_parallel_calls=workers, deterministic=True
        )
        dataset = examples.batch(local, drop_remainder=True).prefetch(2).with_options(options)
        self._iterators = [dataset.as_numpy_iterator()]
        # Also at exit: a thread still reading when the interpreter goes down would wait for its lock for ever.
        self.close = weakref.finalize(self, self._iterators.clear)

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch.

        Raises:
            StopIteration: after `close()`.
            JaxsepError: a file cannot be read, by name.
        """
        if not self._iterators:
            raise StopIteration
        try:
            return dict(next(self._iterators[0]))
        except tf.errors.OpError:
            if not self._failures:
                raise
        # What the reader said, without TensorFlow's traceback around it; of several, the first in the stream.
        raise self._failures[min(self._failures)]

    @property
    def unreadable(self) -> dict[str, tuple[str, int]]:
        """Files that were skipped -> what the first error was, and how many examples were drawn anew."""
        with self._lock:
            return dict(self._unreadable)

    def describe(self, step: int) -> list[str]:
        """Says for each example of global batch `step` what it is made of, whichever process made it."""
        first = step * self._batch_size
        numbers = range(first, first + self._batch_size)
        return [self._crops.describe(self._readable(number)[0]) for number in numbers]

    def _number(self, index: int) -> int:
        """The sample number of this process's example number `index`."""
        step, position = divmod(index, len(self._share))
        return step * self._batch_size + self._share[position]

    def _read(self, index: Any) -> tuple[np.ndarray, ...]:
        """Samples [t c] and how many are of each row, its factor, offset, swap, warp and band, and the hook's key.

        The example's mark comes last where there are some.
        """
        number, crops = self._number(int(index)), self._crops
        try:
            _, plan, mark, changes, counts, samples = self._readable(number)
        except JaxsepError as error:
            self._failures[number] = error
            raise
        drawn = *crops.level(plan, changes), plan.swap[0], changes.warp.astype(np.int32), changes.band, changes.key
        return (samples, counts, *drawn) if mark is None else (samples, counts, *drawn, mark)

    def _readable(self, number: int) -> tuple[int, Plan, np.ndarray | None, Changes, np.ndarray, np.ndarray]:
        """Number, plan, mark, changes, counts and samples of the example, or of the one in its place.

        Another one is in its place where files that cannot be read are skipped. An example is made by one process
        alone, and whichever makes it finds the same files damaged. So no process needs to know what another one found,
        and the batches are the same for any number of them and after any restart.
        """
        attempts = ATTEMPTS if self._skip else 1
        for attempt in range(attempts):
            candidate = number + attempt * FAR
            plan, mark = self._crops.plan(candidate)
            changes = self._crops.changer(candidate, plan)
            counts = self._crops.counts(changes)
            try:
                return candidate, plan, mark, changes, counts, self._crops.read(plan, counts)
            except JaxsepError as error:
                if attempt + 1 == attempts:
                    raise
                file, why = str(error).partition(": ")[0], str(error)  # the errors of readers begin with the file
                with self._lock:
                    first, count = self._unreadable.get(file, (why, 0))
                    self._unreadable[file] = (first, count + 1)
        raise AssertionError("unreachable")

    def _example(self, index: Any) -> dict[str, Any]:
        crops, rows = self._crops, len(self._crops.rows)
        kinds = [crops.dtype, tf.int64, tf.float32, tf.float32, tf.bool, tf.int32, tf.float32, tf.int64]
        kinds += [tf.float32] * len(crops.marks)
        waves, counts, gain, offset, swap, warp, band, key, *marks = tf.numpy_function(self._read, [index], kinds)
        gain, offset = (tf.ensure_shape(factors, rows) for factors in (gain, offset))
        if crops.changer.warps or crops.changer.filters or crops.second:
            waves = self._changed(waves, counts, warp, band)
        else:
            waves = tf.reshape(waves, (rows, crops.segment, crops.width))
        if crops.swap:
            waves = augment.swap(waves, tf.ensure_shape(swap, len(crops.stems) * crops.changer.clips))
        waves = augment.level(waves, gain, None if crops.levels is None else offset)
        stems = waves[: len(crops.stems)]
        if crops.second:
            stems += waves[len(crops.stems) :]
        if crops.hook:
            stems = augment.hooked(crops.hook, stems, tf.ensure_shape(key, 2), crops.stems, crops.rate)
        mixture = waves[-1] if crops.original else tf.add_n(tf.unstack(stems))
        sources = augment.sums(stems, crops.sources, crops.stems)
        if crops.channels < crops.width:
            mixture, sources = augment.mono(mixture), augment.mono(sources)
        example = {"mix": mixture, "sources": sources}
        for (name, shape), mark in zip(crops.marks.items(), marks, strict=True):
            example[name] = tf.ensure_shape(mark, shape)
        return example

    def _changed(self, waves: Any, counts: Any, warp: Any, band: Any) -> Any:
        """Rows [r t c] in their own pitch and tempo, and filtered."""
        rows, stems = len(self._crops.rows), len(self._crops.stems)
        waves = tf.ensure_shape(waves, (None, self._crops.width))
        warp, band = tf.ensure_shape(warp, (rows, 3)), tf.ensure_shape(band, (rows, 2))
        change = tf.function(self._change, autograph=False)  # one graph for all rows
        made = []
        for index, wave in enumerate(tf.split(waves, tf.ensure_shape(counts, rows), num=rows)):
            make = lambda index=index, wave=wave: change(augment.to_float(wave), warp[index], band[index])
            silence = lambda: tf.zeros((self._crops.segment, self._crops.width))
            # A stem's second clip is empty where it is not heard.
            made.append(make() if index < stems else tf.cond(counts[index] > 0, make, silence))
        return tf.stack(made)

    def _change(self, wave: Any, warp: Any, band: Any) -> Any:
        """One row [t c]."""
        crops = self._crops
        wave = tf.ensure_shape(wave, (None, crops.width))
        plain = lambda: tf.ensure_shape(wave[crops.lead : crops.lead + crops.core], (crops.core, crops.width))
        warped = lambda: vocoder.warp(wave, warp, crops.lead, crops.core)
        core = tf.cond(warp[0] > 0, warped, plain) if crops.changer.warps else plain()
        if not crops.changer.filters:
            return core
        filtered = lambda: augment.inverse_gaussian(core, band, crops.rate, crops.margin)
        return tf.cond(band[1] > 0, filtered, lambda: core[crops.margin : crops.margin + crops.segment])


def batches(
    tracks: Sequence[Track],
    sources: Mapping[str, Sequence[str]],
    config: Any,
    *,
    first_step: int,
    levels: Levels | None = None,
    sets: Sequence[DataSet] = (),
    process_index: int = 0,
    process_count: int = 1,
    workers: int | None = None,
    skip: bool = False,
) -> Stream:
    """The stream of training batches, from global batch `first_step` on.

    Args:
        tracks: the songs, in the order of `open_tracks`.
        sources: for each source its stems.
        config: the whole config; `seed`, `sample_rate`, `channels` and `data` are read.
        levels: of the songs and then of those of `sets`, by which they are standardised, under `data.standardise`.
        sets: further data sets, see `jaxsep.data.sets.open_sets`.
        process_index: which contiguous share of each global batch to make.
        process_count: how many shares there are.
        workers: threads; by default one per core this process may use.
        skip: draw examples anew whose files cannot be read, instead of stopping.

    Raises:
        JaxsepError: songs that do not fit the config, or a batch that cannot be shared out.
        ValueError: levels without `data.standardise`, or the reverse.
    """
    if config.data.standardise != (levels is not None):
        raise ValueError(f"data.standardise={config.data.standardise} with levels={levels}")
    size = config.data.batch_size
    if size < 1 or size % process_count:
        raise JaxsepError(f"data.batch_size={size}: expected a multiple of the {process_count} processes")
    if not tracks:
        raise JaxsepError("no songs to train on; see `jaxsep data check`")
    crops = Crops(tracks, sources, config, levels, sets)
    for source, members in sources.items():
        if unknown := [stem for stem in members if stem not in crops.stems]:
            raise JaxsepError(f"sources: {source!r} needs the stem {unknown[0]!r}; data.stems={config.data.stems!r}")
    local = size // process_count
    share = range(process_index * local, (process_index + 1) * local)
    return Stream(crops, size, share, first_step, workers or _cores(), skip)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
