"""Separating a whole song of any length: overlapping segments in, stems out, in memory that does not grow.

A song is a stream of blocks (`streams.py`): standardised, resampled, cut, separated, overlap-added and
resampled back. Only `segment=0` (the whole song in one pass) looks further than a few segments. What a paper
does (segment, overlap, shifts, standardisation) is the `inference` part of its config, which scoring shares.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxsep import config as configs
from jaxsep import devices
from jaxsep import targets as conditioning
from jaxsep.errors import JaxsepError
from jaxsep.integrity import warn
from jaxsep.memory import exhausted
from jaxsep.phase import IdealPhase
from jaxsep.streams import Stems, Wave, no_context, resample_stream, separate_stream, shifted_mean, track_statistics

MAX_CHANNELS = 32  # more columns than this are samples: an array given as [c t]
MAX_SHIFT = 0.5  # seconds
AUTO_BATCH = 8  # segments an accelerator starts with under batch_size=None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a song is cut, separated and put together.

    Attributes:
        segment: seconds that the separator sees at a time; 0 = the whole song, in memory that grows with it.
        overlap: fraction of a segment that it shares with the next, in [0, 1).
        batch_size: segments per call; None = as many as fit, starting from a moderate number.
        shifts: random delays of up to half a second whose estimates are averaged (Demucs); 0 = none.
        seed: of the shifts.
        standardise: zero mean and unit variance of the song's mono mix in, undone on the stems (Demucs).
        last: the last segment is "moved" back to end with the song, or "short", as Demucs has it.
    """

    segment: float = 12.0
    overlap: float = 0.25
    batch_size: int | None = None
    shifts: int = 0
    seed: int = 0
    standardise: bool = False
    last: str = "moved"

    def __post_init__(self):
        if not (math.isfinite(self.segment) and self.segment >= 0):
            raise JaxsepError(f"segment={self.segment}: expected seconds, or 0 for the whole song at once")
        if not 0 <= self.overlap < 1:
            raise JaxsepError(f"overlap={self.overlap}: expected a fraction of the segment, from 0 to below 1")
        if self.batch_size is not None and self.batch_size < 1:
            raise JaxsepError(f"batch_size={self.batch_size}: expected 1 or more, or auto")
        if self.shifts < 0 or self.seed < 0:
            raise JaxsepError(f"shifts={self.shifts}, seed={self.seed}: expected 0 or more")
        if self.last not in ("moved", "short"):
            raise JaxsepError(f"inference.last={self.last!r} is unknown, expected moved or short")

    @classmethod
    def from_config(cls, inference: Any) -> "Recipe":
        """The recipe of a config's `inference` part."""
        names = [field.name for field in dataclasses.fields(cls) if field.name in inference]
        return cls(**{name: inference[name] for name in names})


@dataclasses.dataclass(frozen=True)
class _Static:
    """A separator as a constant of compiled code: equal ones share it. Its nets may stand in a dict, unhashable."""

    separator: Any

    def __hash__(self):
        return hash(type(self.separator))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(static: _Static, length: int, variables: Any, targets: jax.Array | None, mix: jax.Array) -> jax.Array:
    """[b t c] -> the middle [b s length c] of the stems.

    Compiled once per separator and shape, also when variables or targets [s r] change.
    """
    asked = None if targets is None else jnp.broadcast_to(targets, (len(mix), *targets.shape))
    stems = static.separator.apply(variables, mix, asked, False).stems
    skip = (stems.shape[2] - length) // 2  # what a net with context yields beyond the segment
    return stems[:, :, skip : skip + length]


class Model:
    """A separator with its weights, ready for songs of any rate, length and channel count.

    A song with the model's channel count goes in as it is. Of any other, each channel is separated as mono,
    repeated for a model with more channels, whose outputs are averaged again: mono in, mono out.

    Attributes:
        sources: names of the stems, in output order.
        sample_rate: Hz that the separator works at.
        channels: audio channels that it works on.
        recipe: how songs are cut unless a call says otherwise.
        config: the run's config.
    """

    def __init__(
        self,
        separator: Any,
        variables: Any,
        config: Any,
        device: devices.Device | None = None,
        notify: Callable[[str], None] = warn,
    ):
        self.sources = tuple(configs.parse_sources(config.sources))
        self.sample_rate: int = config.sample_rate
        self.channels: int = config.channels
        self.recipe = Recipe.from_config(config.inference)
        self.config = config
        self.device = device or jax.local_devices()[0]
        self._separator = _Static(separator)
        self._variables = jax.tree.map(self._place, variables)
        self._targets: jax.Array | None = None  # weights over the net's sources, [s r]; None = each source
        self._references = 0  # sources that enter beside the mixture
        self._notify = notify
        self._limit: int | None = None  # rows per call that memory is known to hold

    @classmethod
    def from_parts(
        cls,
        separator: Any,
        variables: Any,
        config: Any,
        device: devices.Device | None = None,
        notify: Callable[[str], None] = warn,
    ) -> "Model":
        """A model from a separator and its variables, such as those of a training step.

        Args:
            separator: an object with `apply(variables, mix, targets, train) -> Separation`.
            variables: its variables; of arrays replicated over a mesh, this process's first copy is used.
            config: a run's config.
            device: where to compute; None = this process's first device.
            notify: takes one line when the batch is halved because memory ran out.
        """
        return cls(separator, variables, config, device, notify)

    def conditioned(self, conditions: conditioning.Conditions) -> "Model":
        """A model that returns weighted sums of sources, as the net of a conditioned system makes them when asked.

        `model.conditioned({"duo": {"vocals": 1.0, "bass": 1.0}})` has one stem, "duo".

        Args:
            conditions: for each stem the weights of its sources, from 0 to 1; they are those of the run's config, also
                where this model is conditioned itself.

        Raises:
            JaxsepError: a system that takes no conditions or other ones, a source that the model does not have.
        """
        model = copy.copy(self)
        model._targets = self._place(conditioning.weights(self.config, conditions))
        model.sources = tuple(conditions)
        return model

    def with_ideal_phase(self) -> "Model":
        """A model that is told the phases: the magnitudes that this one estimates, with the phases of the true sources.

        What enters it is [t (1 + s) c]: the c channels of the mixture, then those of each of its s sources; what leaves
        it has c channels. See `jaxsep.phase`. A model that is to be `conditioned` is so first.

        Raises:
            JaxsepError: the system does not estimate magnitudes.
        """
        model = copy.copy(self)
        model._separator = _Static(IdealPhase(self._separator.separator, len(self.sources)))
        model._references = len(self.sources)
        return model

    def separate(self, audio: Any, rate: int, **changes: Any) -> dict[str, Wave]:
        """Separates a song.

        Args:
            audio: float [t] or [t c], nominally in [-1, 1].
            rate: of `audio`, in Hz.
            changes: fields of `Recipe` to use instead of the model's own, such as `shifts=2, seed=1`.

        Returns:
            Source name -> float32 [t c] at `rate`, with the length and channels of the input ([t 1] for [t]).

        Raises:
            JaxsepError: an array that is not a song (empty, integers, NaN, [c t]), a rate that is not
                positive, or a value that the recipe does not take.
        """
        wave = _checked_wave(audio)
        recipe = dataclasses.replace(self.recipe, **changes) if changes else self.recipe
        stems = np.concatenate(list(self.separate_blocks(lambda: [wave], rate, wave.shape[1], recipe)), axis=1)
        return dict(zip(self.sources, stems, strict=True))

    def separate_blocks(
        self, read: Callable[[], Iterable[Wave]], rate: int, channels: int, recipe: Recipe | None = None
    ) -> Iterator[Stems]:
        """Separates a song that is read block by block, in memory that does not depend on its length.

        Args:
            read: returns the song's float32 blocks [t c] from its start; called twice under `standardise`.
            rate: of the song, in Hz.
            channels: of the song.
            recipe: how to cut it; None = the model's own.

        Yields:
            float32 [s t c] at `rate`, together exactly as long as the song.

        Raises:
            JaxsepError: no samples, a sample that is not finite, or not enough memory for one segment.
        """
        if not (isinstance(rate, int | np.integer) and rate > 0):
            raise JaxsepError(f"rate={rate!r}: expected the sample rate in Hz, a positive whole number such as 44100")
        recipe = recipe or self.recipe
        heard = channels // (1 + self._references)
        mixture = (block[:, :heard] for block in _checked_blocks(read()))
        mean, scale = track_statistics(mixture) if recipe.standardise else (0.0, 1.0)
        entered = 0

        def counted() -> Iterator[Wave]:
            nonlocal entered
            for block in _checked_blocks(read()):
                entered += len(block)
                yield ((block - mean) / scale).astype(np.float32) if recipe.standardise else block

        left = 0
        for chunk in self._at_rate(counted(), rate, channels, recipe):
            chunk = chunk[:, : entered - left]
            left += chunk.shape[1]
            if not chunk.size:
                continue  # what the resampler has beyond the end
            if not np.isfinite(chunk).all():
                raise JaxsepError(f"the model returned NaN or infinity before {left / rate:.1f} s; train it again")
            yield (chunk * scale + mean).astype(np.float32) if recipe.standardise else chunk
        if not entered:
            raise JaxsepError("the song has no samples")
        assert left == entered, (left, entered)

    def _at_rate(self, blocks: Iterable[Wave], rate: int, channels: int, recipe: Recipe) -> Iterator[Stems]:
        """Stems at `rate`, perhaps a few samples longer than the song, by way of the model's own rate."""
        if rate == self.sample_rate:
            yield from self._at_own_rate(blocks, channels, recipe)
            return
        stems = self._at_own_rate(resample_stream(blocks, rate, self.sample_rate, channels), channels, recipe)
        count, heard = len(self.sources), channels // (1 + self._references)
        flat = (np.moveaxis(chunk, 0, 1).reshape(-1, count * heard) for chunk in stems)
        for block in resample_stream(flat, self.sample_rate, rate, count * heard):
            yield np.moveaxis(block.reshape(-1, count, heard), 1, 0)

    def _at_own_rate(self, blocks: Iterable[Wave], channels: int, recipe: Recipe) -> Iterator[Stems]:
        accelerated = self.device.platform != "cpu"
        separate = functools.partial(
            separate_stream,
            functools.partial(self._apply, halve=recipe.batch_size is None),
            segment=max(1, round(recipe.segment * self.sample_rate)) if recipe.segment else 0,
            overlap=recipe.overlap,
            batch_size=recipe.batch_size or (AUTO_BATCH if accelerated else 1),
            context=getattr(self._separator.separator, "surroundings", no_context),
            last=recipe.last,
        )
        if not recipe.shifts:
            return separate(blocks)
        random = np.random.default_rng(recipe.seed)
        delays = random.integers(0, int(MAX_SHIFT * self.sample_rate) + 1, recipe.shifts)
        return shifted_mean(separate, blocks, delays.tolist(), channels)

    def _apply(self, batch: Float[np.ndarray, "b t _"], length: int, halve: bool) -> Float[np.ndarray, "b s n c"]:
        """The separator on segments of `length` with their context, whose channel count need not be its own."""
        examples, fed, columns = batch.shape
        waves = 1 + self._references
        channels = columns // waves
        if channels == self.channels:
            return self._run(batch, length, halve)
        rows = np.moveaxis(batch.reshape(examples, fed, waves, channels), 3, 1)
        rows = rows.reshape(examples * channels, fed, waves)
        stems = self._run(np.repeat(rows, self.channels, axis=2), length, halve).mean(-1)
        return np.moveaxis(stems.reshape(examples, channels, -1, length), 1, 3)

    def _run(self, batch: Float[np.ndarray, "b t _"], length: int, halve: bool) -> Float[np.ndarray, "b s n c"]:
        """The separator on equal parts of a batch, made smaller when memory runs out if `halve` allows."""
        rows = len(batch)
        limit = min(rows, self._limit or rows)
        run = functools.partial(_forward, self._separator, length, self._variables, self._targets)
        while True:
            size = max(n for n in range(1, limit + 1) if rows % n == 0)
            try:
                with jax.default_device(self.device):  # some layers ask for it as they are traced
                    parts = [
                        np.asarray(run(jax.device_put(part, self.device))) for part in np.split(batch, rows // size)
                    ]
                return np.concatenate(parts) if len(parts) > 1 else parts[0]
            except Exception as error:
                if not exhausted(error):
                    raise
                if not halve or size == 1:
                    raise JaxsepError(self._too_large(batch.shape[1], size)) from None
                self._limit = limit = size // 2
                self._notify(f"out of memory with {size} segments at a time; going on with {limit}")

    def _too_large(self, length: int, size: int) -> str:
        smaller = "a smaller batch size (or auto)" if size > 1 else "shorter segments"
        return f"out of memory on {self.device} with {size} x {length / self.sample_rate:.1f} s; use {smaller}"

    def _place(self, leaf: Any) -> jax.Array:
        """One array on the model's device; of an array replicated over a mesh, this process's copy."""
        return jax.device_put(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf, self.device)


def _checked_wave(audio: Any) -> Wave:
    """`audio` as float32 [t c], or an error that says what it is instead."""
    wave = np.asarray(audio)
    if not np.issubdtype(wave.dtype, np.floating):
        hint = ""
        if np.issubdtype(wave.dtype, np.signedinteger):
            hint = f": pass audio.astype('float32') / {-int(np.iinfo(wave.dtype).min)}"
        raise JaxsepError(f"audio has dtype {wave.dtype}, expected floats in [-1, 1]{hint}")
    if wave.ndim not in (1, 2):
        raise JaxsepError(f"audio has shape {wave.shape}, expected [samples] or [samples, channels]")
    wave = wave[:, None] if wave.ndim == 1 else wave
    if not wave.size:
        raise JaxsepError(f"audio is empty (shape {np.shape(audio)})")
    if wave.shape[1] > MAX_CHANNELS:
        raise JaxsepError(
            f"audio has shape {wave.shape}: {wave.shape[1]} channels? Expected [samples, channels]: audio.T?"
        )
    return wave.astype(np.float32, copy=False)


def _checked_blocks(blocks: Iterable[Wave]) -> Iterator[Wave]:
    count = 0
    for block in blocks:
        bad = ~np.isfinite(block).all(1)
        if bad.any():
            raise JaxsepError(f"sample {count + int(bad.argmax())} is NaN or infinite; mend the recording first")
        count += len(block)
        yield block


def load(run: str | Path, checkpoint: str | int = "best", device: str = "auto") -> Model:
    """The model of a run folder.

    Args:
        run: the --workdir of a training.
        checkpoint: "best" by validation SDR, "last", or a step.
        device: "auto", "cpu", "gpu", "tpu", or one of several as in "gpu:1".

    Raises:
        JaxsepError: not a run folder, no such checkpoint, or no such device.
    """
    from jaxsep import checkpoint as checkpoints
    from jaxsep import separator

    config: Any = configs.run_config(run)
    chosen = devices.pick(device)
    variables, _ = checkpoints.load_variables(run, checkpoint)
    return Model.from_parts(separator.build(config), variables, config, chosen)
