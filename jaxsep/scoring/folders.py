"""Scores of folders of stems that any tool made: `jaxsep score REFERENCES ESTIMATES --out DIR`.

Songs are read in pieces and scored as they are: nothing is resampled, cut, padded or rounded.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsep import __version__
from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate, museval
from jaxsep.metrics.record import BACKENDS, METRICS, score_waves
from jaxsep.scoring import pairing
from jaxsep.scoring.filewaves import open_waves
from jaxsep.scoring.pairing import Pair
from jaxsep.scoring.scorefiles import Result, Work, score_all, scored_before, summarise, write_summary

FILTERED = ("isr", "sir", "sar")  # what needs BSS Eval's filters


def score_folders(
    references: Path,
    estimates: Path,
    out: Path,
    *,
    stems: Sequence[str] = (),
    metrics: Sequence[str] = (),
    backend: str = "bsseval",
    jobs: int = 1,
    partial: bool = False,
    notify: Callable[[str], None] = print,
) -> str:
    """Scores each track that has no scores of these very files yet; returns the table.

    Args:
        references: the true stems, `<track>/<stem>.wav` or `.flac`, or a folder of such folders.
        estimates: what was separated, in the same way. Where it has an `accompaniment` and `references` does not,
            the sum of drums, bass and other is the reference.
        out: gets `<track>.json` in museval's schema, `summary.json` and `table.md`.
        stems: what is scored; default: all there is. One alone is scored beside the rest of the references.
        metrics: of `METRICS`; default: all that the backend has.
        backend: one of `BACKENDS`.
        jobs: see `score_all`.
        partial: leave out tracks that cannot be scored, and name them in the table.
        notify: takes a line: a problem, or a finished track.

    Raises:
        JaxsepError: no folders, nothing to score, problems of tracks without `partial`, or `out` cannot be written.
    """
    metrics, backend = _choose(metrics, backend)
    _check_out(out)
    true, made = pairing.find_tracks(references), pairing.find_tracks(estimates)
    sources = pairing.choose_sources(true, made, stems)
    if len(sources) == 1 and backend != "sdr":
        raise JaxsepError(f"{sources[0]!r} is the only stem; ISR, SIR, SAR need another beside it: give --backend sdr")

    pairs, problems = pairing.pair_tracks(true, made, sources, strict=not stems)
    work = {pair.name: _work(pair, out, backend, metrics) for pair in pairs}
    new = [pair for pair in pairs if isinstance(work[pair.name], Work)]
    problems |= {pair.name: wrong for pair in new if (wrong := pairing.damages(pair))}
    for name in sorted(problems):
        for problem in problems[name]:
            notify(f"track {name!r}: {problem}")
    if problems and not partial:
        raise JaxsepError(f"{len(problems)} of the tracks cannot be scored, see above; --partial scores the others")

    results = {name: Result(name, error="; ".join(wrong)) for name, wrong in problems.items()}
    sound = [work[pair.name] for pair in pairs if pair.name not in problems]
    for result in score_all(sound, out, jobs=jobs, partial=partial):
        results[result.name] = result
        notify(f"[{len(results)}/{len(problems) + len(sound)}] {result}")

    summary = {
        "system": estimates.resolve().name,
        "references": references.resolve().name,
        "versions": {"jaxsep": __version__},
        "backend": backend,
        "metrics": list(metrics),
        "missing": {},
        "tracks_in_split": len(results),
        **summarise([results[name] for name in sorted(results)], sources),
    }
    table = aggregate.table(summary)
    write_summary(out, summary, table)
    return table


def score_pair(pair: Pair, backend: str, metrics: Sequence[str]) -> dict[str, Any]:
    """The record of one track, see `score_waves`.

    Raises:
        JaxsepError: a file that cannot be read to its end.
    """
    with open_waves(pair.references) as references, open_waves(pair.estimates) as estimates:
        return score_waves(pair.name, pair.sources, references, estimates, references.rate, backend, metrics)


def _choose(metrics: Sequence[str], backend: str) -> tuple[tuple[str, ...], str]:
    """The metrics in order, and the least backend that has them.

    Raises:
        JaxsepError: an unknown name, or metrics that the backend does not have, or museval cannot be used.
    """
    if unknown := [name for name in metrics if name not in METRICS]:
        raise JaxsepError(f"metrics={','.join(unknown)}: unknown, expected some of {', '.join(METRICS)}")
    if backend not in BACKENDS:
        raise JaxsepError(f"backend={backend!r} is unknown, expected one of {', '.join(BACKENDS)}")
    if backend == "sdr" and (lacking := set(metrics) & set(FILTERED)):
        raise JaxsepError(f"metrics={','.join(sorted(lacking))}: not in the backend sdr; leave out --backend")
    chosen = {"sdr", *(metrics or METRICS)} - (set(FILTERED) if backend == "sdr" else set())
    if not chosen & set(FILTERED):
        backend = "sdr"
    if backend == "museval" and (why := museval.unavailable()):
        raise JaxsepError(f"museval cannot be used: {why}; leave out --backend")
    return tuple(name for name in METRICS if name in chosen), backend


def _check_out(out: Path) -> None:
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise JaxsepError(f"{there}: a file, expected a folder; name another --out")
    if not os.access(there, os.W_OK):
        raise JaxsepError(f"{there}: cannot be written; name another --out")


def _work(pair: Pair, out: Path, backend: str, metrics: Sequence[str]) -> Work | Result:
    """What is to be done, or what was done before; a file is known again by its size and time of change."""
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in pair.files]
    roles = [[(path.name, sign) for path, sign in source] for source in (*pair.references, *pair.estimates)]
    versions = [__version__, museval.version() if backend == "museval" else ""]
    text = json.dumps([facts, roles, pair.sources, backend, versions, metrics])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    record = scored_before(out / f"{pair.name}.json", fingerprint)
    if record is not None:
        return Result(pair.name, record)
    return Work(pair.name, score_pair, (pair, backend, metrics), {"fingerprint": fingerprint})
