"""What `jaxsep separate` writes: which stems, under which names, in which format, at which level."""

import contextlib
import dataclasses
import string
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxsep.audio import FORMATS, check_writer, open_writer
from jaxsep.config import choose
from jaxsep.errors import JaxsepError
from jaxsep.streams import Stems

FIELDS = ("track", "stem", "ext", "suffix", "model")
RESIDUAL = "residual"


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Outputs as sums of sources and mixture: `weights[o] @ [*sources, mix]` is the output `names[o]`."""

    names: tuple[str, ...]
    weights: Float[np.ndarray, "o s_and_mix"]

    @property
    def needs_mix(self) -> bool:
        """Whether an output contains the mixture itself."""
        return bool(self.weights[:, -1].any())

    def __call__(self, stems: Stems, mix: Float[np.ndarray, "t c"] | None) -> Float[np.ndarray, "o t c"]:
        """The outputs of one block."""
        if mix is None:
            return np.tensordot(self.weights[:, :-1], stems, 1)
        return np.tensordot(self.weights, np.concatenate([stems, mix[None]]), 1)


def choose_outputs(
    sources: Sequence[str], stems: Sequence[str] = (), two_stems: str = "", residual: bool = False
) -> Mixing:
    """The outputs that a user asks for.

    Args:
        sources: what the model separates.
        stems: write only these; empty = all.
        two_stems: write this one and `no_<name>`: the sum of the others, or, of a model with this source only, the
            mixture minus it.
        residual: also write `residual`, the mixture minus everything else that is written.

    Raises:
        JaxsepError: a source that the model does not have, or a residual that is zero by construction.
    """
    rows = dict(zip([*sources, "mix"], np.eye(len(sources) + 1, dtype=np.float32), strict=True))
    known = {name: rows[name] for name in sources}
    if two_stems:
        chosen = choose(known, two_stems, "--two-stems")
        others = sum((row for name, row in known.items() if name != two_stems), np.zeros_like(chosen))
        if len(sources) == 1:
            others = rows["mix"] - chosen
        outputs = {two_stems: chosen, f"no_{two_stems}": others}
    else:
        outputs = {name: choose(known, name, "--stems") for name in stems or sources}
    if residual:
        rest = rows["mix"] - sum(outputs.values())
        if not rest.any():
            raise JaxsepError(f"--residual: {' and '.join(outputs)} add up to the mixture already; leave it out")
        if RESIDUAL in outputs:
            raise JaxsepError(f"--residual: the model has a source of the name {RESIDUAL!r}; leave it out")
        outputs[RESIDUAL] = rest
    return Mixing(tuple(outputs), np.stack(list(outputs.values())))


@dataclasses.dataclass(frozen=True)
class Encoding:
    """Format and level of the files.

    Attributes:
        format: "wav", "flac", "mp3" or "ogg".
        bits: "16", "24" or "32f" (wav); "16" or "24" (flac); None otherwise.
        clip: what becomes of samples beyond full scale: "rescale" turns all outputs of a song down by one gain,
            so that they still add up; "clamp" cuts them off; "none" keeps them in 32f and refuses the song in
            other formats, which cannot hold them.
    """

    format: str
    bits: str | None
    clip: str

    @classmethod
    def choose(cls, format: str = "wav", bits: str | None = None, clip: str | None = None) -> "Encoding":
        """Fills in what is not given: 24 bits where there is a choice, rescale except for 32f.

        Raises:
            JaxsepError: an unknown format, or bits that it does not have.
        """
        depths = choose(FORMATS, format, "--format").bits
        if bits is not None and bits not in depths:
            expected = f"expected {' or '.join(depths)}" if depths else "it has no bit depth: leave --bits out"
            raise JaxsepError(f"--bits {bits} does not go with --format {format}; {expected}")
        bits = bits or ("24" if depths else None)
        return cls(format, bits, clip or ("none" if bits == "32f" else "rescale"))

    def check(self, rate: int, channels: int) -> None:
        """Tries the encoder.

        Raises:
            JaxsepError: it is missing, or does not take this rate or channel count.
        """
        check_writer(self.format, self.bits, rate, channels)

    def write(
        self, blocks: Iterable[Float[np.ndarray, "o t c"]], paths: Sequence[Path], rate: int, channels: int
    ) -> str:
        """Encodes a stream of outputs, one file each, and returns a remark on their level (empty if there is none).

        Under "rescale" the stems wait as 32-bit floats beside the files until the peak of the song is known.

        Raises:
            JaxsepError: a file cannot be written, or clips under "none".
            OSError: the disk is full.
        """
        level = _Level()
        if self.clip == "none":
            self._encode(blocks, paths, rate, channels)
            return ""
        if self.clip == "clamp":
            self._encode((block.clip(-1, 1) for block in level.watch(blocks)), paths, rate, channels)
            if not level.beyond:
                return ""
            return f"{level.beyond} samples beyond full scale cut off, peak {_decibels(level.peak):+.1f} dB"
        with tempfile.TemporaryFile(dir=paths[0].parent) as spill:
            lengths = []
            for block in level.watch(blocks):
                lengths.append(block.shape[1])
                spill.write(np.ascontiguousarray(block, np.float32).data)
            spill.seek(0)
            gain = 1 / np.float64(max(1.0, level.peak))  # double, or peak * gain may come out above 1
            read = (_read(spill, (len(paths), length, channels)) * gain for length in lengths)
            self._encode((block.astype(np.float32) for block in read), paths, rate, channels)
        return f"all outputs turned down by {-_decibels(gain):.1f} dB, so that none clips" if gain < 1 else ""

    def _encode(self, blocks: Iterable[np.ndarray], paths: Sequence[Path], rate: int, channels: int) -> None:
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(open_writer(path, rate, channels, self.format, self.bits)) for path in paths]
            for block in blocks:
                for writer, samples in zip(writers, block, strict=True):
                    writer.write(samples)


class _Level:
    """Peak of a stream, and how many of its samples lie beyond full scale."""

    def __init__(self):
        self.peak = 0.0
        self.beyond = 0

    def watch(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self.peak = max(self.peak, float(np.abs(block).max(initial=0)))
            self.beyond += int((np.abs(block) > 1).sum())
            yield block


def _read(file, shape: tuple[int, ...]) -> np.ndarray:
    block = np.empty(shape, np.float32)
    file.readinto(block.data.cast("B"))
    return block


def _decibels(gain: float) -> float:
    return float(20 * np.log10(gain))


def name_output(template: str, track: str, stem: str, ext: str, suffix: str, model: str) -> Path:
    """The path of one output below the output folder.

    Args:
        template: such as `{track}/{stem}.{ext}`.
        track: name of the song, with the folders below the one that was given.
        stem: name of the output.
        ext: of the output, without the dot.
        suffix: of the input, without the dot.
        model: name of the run folder.

    Raises:
        JaxsepError: an unknown field, or a path that leaves the output folder or does not end in the format's suffix.
    """
    values = {"track": track, "stem": stem, "ext": ext, "suffix": suffix, "model": model}
    try:
        for _, field, spec, conversion in string.Formatter().parse(template):
            if field is not None:
                choose(values, field, "--filename: field")
            if spec or conversion:
                raise JaxsepError(f"--filename {template!r}: fields take no format; write {{{field}}}")
    except ValueError as error:
        if isinstance(error, JaxsepError):
            raise
        raise JaxsepError(f"--filename {template!r}: {error}; braces go around {', '.join(FIELDS)}") from None
    path = Path(template.format_map(values))
    if path.is_absolute() or ".." in path.parts:
        raise JaxsepError(f"--filename {template!r} leads out of the output folder; give -o for that")
    if path.suffix.lower() != f".{ext}":
        raise JaxsepError(f"--filename {template!r} must end in .{{ext}}; it names {path.name!r}")
    return path
