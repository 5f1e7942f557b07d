"""Files and folders in, stems on disk out: what `jaxsep separate` does.

Whatever can be known beforehand is checked before the model is loaded: names, formats, encoders, files in the way,
an unwritable folder. After that a song that fails does not stop the others. The files of a song are written in a
hidden folder beside their place and moved there when all of them are complete, so there are no partial outputs.
"""

import collections
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep import devices
from jaxsep import targets as conditioning
from jaxsep.audio import SUFFIXES, open_audio
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model, Recipe, load
from jaxsep.outputs import Encoding, Mixing, choose_outputs, name_output
from jaxsep.progress import Progress
from jaxsep.streams import Wave

SHOWN = 5  # names in a message about many files


@dataclasses.dataclass(frozen=True)
class Job:
    """One song, what is known of it before it is read, and where its outputs go (in the order of the mixing)."""

    path: Path
    rate: int
    channels: int
    seconds: float | None
    outputs: tuple[Path, ...]


def separate_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    run: str | Path,
    *,
    checkpoint: str | int = "best",
    device: str = "auto",
    recipe: dict[str, Any] | None = None,
    conditions: conditioning.Conditions | None = None,
    stems: Sequence[str] = (),
    two_stems: str = "",
    residual: bool = False,
    encoding: Encoding | None = None,
    filename: str = "{track}/{stem}.{ext}",
    force: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: print(f"jaxsep: {line}", file=sys.stderr, flush=True),
) -> int:
    """Separates files and folders with one model.

    Args:
        inputs: audio files, and folders that are searched for them.
        out: folder of the outputs; made if it does not exist.
        run: run folder of the model.
        checkpoint: "best", "last" or a step.
        device: as for `jaxsep.load`.
        recipe: fields of `Recipe` that replace the model's own.
        conditions: stems to ask a conditioned model for instead of its sources, see `Model.conditioned`.
        stems: see `choose_outputs`, as for `two_stems` and `residual`.
        two_stems: a stem and its complement instead of all stems.
        residual: also what the outputs leave of the mixture.
        encoding: format of the files; None = 24-bit wav.
        filename: template of the paths below `out`, see `name_output`.
        force: replace existing files.
        progress: where to report.
        say: takes a line about what is being done.

    Returns:
        The number of inputs that could not be separated; each has been reported.

    Raises:
        JaxsepError: something that concerns all songs, before any of them is touched.
    """
    progress, encoding = progress or Progress(), encoding or Encoding.choose()
    config: Any = configs.run_config(run)
    if conditions:
        conditioning.weights(config, conditions)  # refuses what the model cannot be asked for
    mixing = choose_outputs(tuple(conditions or configs.parse_sources(config.sources)), stems, two_stems, residual)
    name_output(filename, "track", "stem", encoding.format, "suffix", "model")  # speaks before any file does
    settings = dataclasses.replace(Recipe.from_config(config.inference), **{"batch_size": None} | (recipe or {}))
    chosen = devices.pick(device)

    failures = 0

    @contextlib.contextmanager
    def reported(path: Path) -> Iterator[None]:
        nonlocal failures
        try:
            yield
        except (JaxsepError, OSError, MemoryError) as error:
            failures += 1
            progress.failed(str(path), message(path, error))

    jobs = []
    for path, track in _find(inputs, Path(out), reported, say):
        with reported(path):
            jobs.append(_plan(path, track, Path(out), mixing, encoding, filename, Path(run).resolve().name))
    if not jobs:
        return failures
    _check_paths(jobs, force)
    for job in {(job.rate, job.channels): job for job in jobs}.values():
        try:
            encoding.check(job.rate, job.channels)
        except JaxsepError as error:
            raise JaxsepError(f"{job.path}: {error}") from None
    check_writable(Path(out))
    model = load(run, checkpoint, device)
    model = model.conditioned(conditions) if conditions else model
    say(f"separating with {config.name}:{config.variant} of {run} on {devices.describe(chosen, device)}")
    for job in jobs:
        with reported(job.path):
            _separate(job, model, settings, mixing, encoding, Path(out), progress)
    return failures


def _find(
    inputs: Sequence[str | Path],
    out: Path,
    reported: Callable[[Path], contextlib.AbstractContextManager[None]],
    say: Callable[[str], None],
) -> Iterator[tuple[Path, str]]:
    """(path, track name) of every song, each file once; what is not one is reported or said."""
    seen: set[Path] = set()
    for path in map(Path, inputs):
        found: list[tuple[Path, str]] = []
        with reported(path):
            found = search(path, out.resolve(), say) if path.is_dir() else [(path, _track(path.name))]
        for song, track in found:
            if song.absolute() not in seen:
                seen.add(song.absolute())
                yield song, track


def search(folder: Path, out: Path, say: Callable[[str], None]) -> list[tuple[Path, str]]:
    """The songs below a folder, without those in an output folder inside it.

    Raises:
        JaxsepError: there are none.
        OSError: a folder cannot be listed.
    """
    inside = folder.resolve() in out.parents
    files = [path for path in _walk(folder) if not (inside and out in path.resolve().parents)]
    is_song = lambda path: path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    songs = list(filter(is_song, files))
    others = [path.relative_to(folder).as_posix() for path in files if not is_song(path)]
    if not songs:
        raise JaxsepError(f"{folder}: no audio in this folder; looked for {', '.join(SUFFIXES)}")
    if others:
        more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        say(f"{folder}: not audio, left out: {', '.join(others[:SHOWN])}{more}")
    return [(path, _track(path.relative_to(folder).as_posix())) for path in songs]


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, in order; unlike `rglob` not silent about folders that it may not list."""

    def fail(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        yield from (Path(root) / name for name in sorted(names))


def _track(name: str) -> str:
    """The name without its suffix; `.stem.mp4` counts as one."""
    stem = name.rsplit(".", 1)[0]
    return stem.removesuffix(".stem") if name.lower().endswith(".stem.mp4") else stem


def _plan(path: Path, track: str, out: Path, mixing: Mixing, encoding: Encoding, filename: str, model: str) -> Job:
    """Opens a song for a moment."""
    names = [out / name_output(filename, track, stem, encoding.format, path.suffix[1:], model) for stem in mixing.names]
    with open_audio(path) as reader:
        return Job(path, reader.rate, reader.channels, reader.seconds, tuple(names))


def _check_paths(jobs: Sequence[Job], force: bool) -> None:
    """No two outputs in one place, none in the place of an input, none in the way.

    Raises:
        JaxsepError: otherwise.
    """
    paths = collections.Counter(path for job in jobs for path in job.outputs)
    for path, count in paths.items():
        if count > 1:
            songs = [str(job.path) for job in jobs if path in job.outputs]
            what = " and ".join(songs) if len(songs) > 1 else f"several stems of {songs[0]}"
            raise JaxsepError(
                f"{path}: {what} would be written there; tell them apart by {{track}}, {{stem}} and {{suffix}} "
                "in --filename, or separate them into two folders"
            )
    resolved = {path.resolve() for path in paths}
    for job in jobs:
        if job.path.resolve() in resolved:
            raise JaxsepError(f"{job.path}: would be replaced by an output; choose another -o or --filename")
    taken = [str(path) for path in paths if path.exists()]
    if taken and not force:
        more = f" and {len(taken) - 1} more files" if len(taken) > 1 else ""
        raise JaxsepError(f"{taken[0]}{more} exist already; --force replaces them")


def check_writable(out: Path) -> None:
    """Makes the folder, and a file in it for a moment.

    Raises:
        JaxsepError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise JaxsepError(f"{out}: cannot write there ({error.strerror}); choose another -o") from None


def _separate(
    job: Job, model: Model, recipe: Recipe, mixing: Mixing, encoding: Encoding, out: Path, progress: Progress
) -> None:
    """One song, from its file to its outputs."""
    progress.start(str(job.path), job.seconds)
    samples = 0

    def watched(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal samples
        for block in blocks:
            samples += block.shape[1]
            progress.update(samples / job.rate)
            yield block

    with tempfile.TemporaryDirectory(prefix=".jaxsep-", dir=out) as folder:
        staged = [Path(folder) / f"{number}.{encoding.format}" for number in range(len(job.outputs))]
        blocks = watched(_outputs(job, model, recipe, mixing))
        remark = encoding.write(blocks, staged, job.rate, job.channels)
        for source, target in zip(staged, job.outputs, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    progress.done(samples / job.rate, [str(path) for path in job.outputs], remark)


def _outputs(job: Job, model: Model, recipe: Recipe, mixing: Mixing) -> Iterator[np.ndarray]:
    """The outputs of a song, block by block; the mixture beside the stems is a second read of the file."""
    stems = model.separate_blocks(lambda: read_blocks(job.path), job.rate, job.channels, recipe)
    if not mixing.needs_mix:
        yield from (mixing(chunk, None) for chunk in stems)
        return
    mix = _Cursor(read_blocks(job.path), job.channels)
    for chunk in stems:
        yield mixing(chunk, mix.take(chunk.shape[1]))


def read_blocks(path: Path) -> Iterator[Wave]:
    """A file's blocks [t c], float32."""
    with open_audio(path) as reader:
        yield from reader.blocks()


class _Cursor:
    """Takes blocks of any length from a stream of blocks [t c]."""

    def __init__(self, blocks: Iterator[Wave], channels: int):
        self._blocks = blocks
        self._held = np.zeros((0, channels), np.float32)

    def take(self, count: int) -> Wave:
        parts = [self._held]
        have = len(self._held)
        while have < count:
            parts.append(next(self._blocks))
            have += len(parts[-1])
        joined = np.concatenate(parts)
        self._held = joined[count:]
        return joined[:count]


def message(path: Path, error: Exception) -> str:
    """One line that names the file."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return text if str(path) in text else f"{path}: {text}"
