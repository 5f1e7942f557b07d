"""Who writes the songs of a built set: the cores of this machine, or Apache Beam's workers."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from jaxsep.data.built.writing import Job, attempt, read_note
from jaxsep.errors import JaxsepError

Runner = Callable[[Sequence[Job]], Iterable[tuple[str, str | None]]]  # song by song: its name, and why it failed


def in_processes(jobs: Sequence[Job]) -> Iterator[tuple[str, str | None]]:
    """Writes songs in one process for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Fresh processes: a fork of one that has threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(cores, len(jobs)), mp_context=context, initializer=_follow_parent) as pool:
        running = [pool.submit(attempt, job) for job in jobs]
        try:
            for done in as_completed(running):
                yield done.result()
        except BrokenProcessPool:
            raise JaxsepError(
                "a process that wrote songs was killed (for want of memory?); run the same command again, it goes on"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """In a process of the pool: leaves Ctrl-C to the parent, and ends with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def by_beam(runner: str, options: Sequence[str]) -> Runner:
    """Writes songs by Apache Beam, on machines that all see the folders.

    Args:
        runner: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner, ...
        options: of the pipeline, as NAME=VALUE.

    Raises:
        JaxsepError: Beam is not installed.
    """
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise JaxsepError("--beam needs the package apache-beam: `pip install 'jaxsep[beam]'`") from None

    def run(jobs: Sequence[Job]) -> Iterator[tuple[str, str | None]]:
        flags = [f"--runner={runner}", *(f"--{option}" for option in options)]
        with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
            _ = pipeline | beam.Create(jobs) | beam.Reshuffle() | beam.Map(attempt)
        for job in jobs:  # what a song came to stands beside it: Beam's results stay where they were made
            failure = {"why": "not written"} | (read_note(job.failure) or {})
            yield job.name, None if job.note.exists() else failure["why"]

    return run
