"""Score files: one JSON per track, written as soon as it is known, and the summary of all of them.

Tracks are scored in this process or in several beside it, and those that have their scores already are left alone.
"""

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate
from jaxsep.metrics.record import REST, calls


@dataclasses.dataclass(frozen=True)
class Result:
    """A track with its scores, or with the reason why it has none.

    Attributes:
        record: what its JSON file holds.
        seconds: from reading to scores; None for scores that were there before.
    """

    name: str
    record: dict[str, Any] | None = None
    error: str | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.record is None:
            return f"{self.name}: left out, {self.error}"
        medians = {
            target["name"]: aggregate.over(aggregate.frames_of(self.record, target["name"], "SDR"), "median")
            for target in self.record["targets"]
        }
        spent = "scored before" if self.seconds is None else f"{self.seconds:.0f} s"
        return f"{self.name}: SDR {', '.join(f'{name} {value:.2f}' for name, value in medians.items())} ({spent})"


@dataclasses.dataclass(frozen=True)
class Work:
    """A track to be scored: `score(*arguments)` gives its record, in this or in another process.

    Attributes:
        provenance: goes into the record; its "fingerprint" is what `scored_before` compares.
        start: `time.monotonic()` when work on the track began; None = when its scoring begins.
    """

    name: str
    score: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...]
    provenance: Mapping[str, Any]
    start: float | None = None


def score_all(
    tracks: Iterable[Result | Work], folder: Path, *, jobs: int = 1, partial: bool = False
) -> Iterator[Result]:
    """Does the work and writes `<track>.json` for each; results are passed on.

    Args:
        tracks: in order; the next one is asked for while those before it are scored.
        folder: of the score files.
        jobs: processes that score; 1 = score in this one. Others leave an accelerator alone.
        partial: go on after a track that fails.

    Yields:
        A result per track, in the order in which they are known.

    Raises:
        JaxsepError: a track failed and `partial` is off (the tracks before it have their files), or a scoring process
            died.
    """
    pending: dict[Future, tuple[Work, float]] = {}

    def finished(leave: int) -> Iterator[Result]:
        """Writes what is done; waits until no more than `leave` tracks are being scored."""
        while len(pending) > leave or any(future.done() for future in pending):
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                yield _finish(future, *pending.pop(future), folder)

    def checked(results: Iterable[Result]) -> Iterator[Result]:
        for result in results:
            if result.error is not None and not partial:
                yield from (other for other in finished(leave=0) if other.error is None)
                raise JaxsepError(f"track {result.name!r}: {result.error}; --partial scores the others")
            yield result

    with _Here() if jobs == 1 else _processes(jobs) as pool:
        for track in tracks:
            if isinstance(track, Result):
                yield from checked([track])
                continue
            yield from checked(finished(leave=jobs - 1))
            start = track.start or time.monotonic()
            future = pool.submit(track.score, *track.arguments)
            pending[future] = dataclasses.replace(track, arguments=()), start
            yield from checked(finished(leave=jobs))
        yield from checked(finished(leave=0))


def _finish(future: Future, work: Work, start: float, folder: Path) -> Result:
    try:
        record = future.result()
    except JaxsepError as error:
        return Result(work.name, error=str(error))
    except (BrokenProcessPool, MemoryError):
        raise JaxsepError(
            f"track {work.name!r}: scoring it ran out of memory or was killed; what is done is kept, "
            "start again with fewer --jobs"
        ) from None
    record["jaxsep"]["provenance"] = dict(work.provenance)
    _write_text(folder / f"{work.name}.json", json.dumps(record, indent=2) + "\n")
    return Result(work.name, record, seconds=time.monotonic() - start)


class _Here:
    """As much of an executor as is needed, in this process."""

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def submit(self, function: Callable, *args: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def _processes(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_use_cpu)


def _use_cpu() -> None:
    """Before anything imports jax: each process would reserve most of an accelerator's memory."""
    os.environ["JAX_PLATFORMS"] = "cpu"


def scored_before(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The record in `path`, if it has this fingerprint."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        same = record["jaxsep"]["provenance"]["fingerprint"] == fingerprint
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def summarise(results: Sequence[Result], sources: Sequence[str]) -> dict[str, Any]:
    """What a summary says about its tracks, in the order of the results.

    Args:
        results: of all tracks.
        sources: what was scored, with "rest" where that was company for a single source.

    Returns:
        "scored_together" (lists of sources), "tracks", "failed" (track -> why), and what `aggregate.summarise` gives.

    Raises:
        JaxsepError: no track has scores.
    """
    records = [result.record for result in results if result.record is not None]
    if not records:
        raise JaxsepError(f"none of the {len(results)} tracks could be scored")
    return {
        "scored_together": [together for together, _ in calls(sources)],
        "tracks": [result.name for result in results if result.record is not None],
        "failed": {result.name: result.error for result in results if result.record is None},
        **aggregate.summarise(records, [source for source in sources if source != REST]),
    }


def write_summary(folder: Path, summary: Mapping[str, Any], table: str) -> None:
    """Writes `summary.json` (null for NaN) and `table.md`.

    Raises:
        JaxsepError: they cannot be written.
    """
    _write_text(folder / "summary.json", json.dumps(_without_nan(summary), indent=2, allow_nan=False) + "\n")
    _write_text(folder / "table.md", table + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_text(path: Path, text: str) -> None:
    replace(path, lambda part: part.write_text(text, encoding="utf-8"))


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file such that at any time it is the old one or the whole new one.

    Raises:
        JaxsepError: it cannot be written.
    """
    part = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise JaxsepError(f"{path}: cannot be written ({error.strerror}); make room or name another --out") from None
