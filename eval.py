"""The score table of a run, or of a baseline: checkpoint -> separate tracks -> score -> table.

    python eval.py --workdir=runs/spleeter
    python eval.py --workdir=runs/spleeter --split=valid --checkpoint=last --backend=sdr
    python eval.py --workdir=runs/demo --data_root=/data/musdb18hq --mixture=original --jobs=8
    python eval.py --workdir=runs/spleeter --phase=ideal
    python eval.py --baseline=irm1 --data_root=/data/musdb18hq

Writes `<track>.json` (museval's schema), `summary.json` and `table.md` to `<workdir>/scores/<split>`, of a baseline to
`<workdir>/baselines/<NAME>/<split>`, or without a run to `scores/<NAME>/<split>`. Started again, it goes on with the
tracks that have no scores of this checkpoint, data and code yet.
"""

import argparse
import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep import storage
from jaxsep.errors import JaxsepError


def evaluate(options: argparse.Namespace, command: str) -> str:
    """One table, in order.

    Raises:
        JaxsepError: not a run, no such checkpoint, or tracks that cannot be read, separated or scored.
    """
    from tqdm import tqdm

    from jaxsep import config as configs
    from jaxsep.baselines import catalogue
    from jaxsep.cache import keep_compiled
    from jaxsep.card import write_card
    from jaxsep.data.tracks import open_tracks
    from jaxsep.metrics import aggregate, museval
    from jaxsep.metrics.song import Task
    from jaxsep.scoring import estimators, scorefiles, splits
    from jaxsep.tables import comparison

    keep_compiled()

    # --- Songs: those of the run's config, unless others are named ----------------------------------------------------
    config: Any = configs.run_config(options.workdir) if options.workdir else configs.defaults()
    data = splits.data_at(config.data, options.data_root)
    known: dict[str, splits.Result] = {}
    refused = lambda name, error: known.update({name: splits.Result(name, error=str(error))})
    songs = open_tracks(data, options.split, options.workdir, refused if options.partial else None)
    tracks, in_split = songs[: options.limit], len(songs) + len(known)

    # --- Task: what is scored, whose estimates, and what they are held against ----------------------------------------
    say = lambda line: tqdm.write(line, file=sys.stderr)
    missing: dict[str, str] = {}
    if options.backend == "museval" and (why := museval.unavailable()):
        options.backend, missing["ISR, SIR, SAR"] = "sdr", f"museval cannot be used: {why}"
    sources, stems = configs.parse_sources(config.sources), configs.parse_stems(config.data.stems)
    if not options.workdir:
        sources = catalogue.sources_of(options.baseline, stems)
    rate = config.sample_rate if options.rate == "model" and options.workdir else None
    task = Task(sources, stems, config.channels, options.mixture or data.mixture, options.backend, rate=rate)
    if options.baseline:
        separate, provenance = estimators.of_baseline(options.baseline, task, data, options.split)
    else:
        run = options.workdir, options.checkpoint, options.phase, config
        separate, provenance = estimators.of_run(*run, task, data, options.split)
    try:
        if not options.workdir:
            raise JaxsepError("needs the training songs of a run; give --workdir")
        moved = config.data.root and not (storage.is_address(config.data.root) or Path(config.data.root).is_dir())
        training = lambda: open_tracks(data if moved else config.data, "train", options.workdir)
        gains = splits.fixed_equaliser(options.workdir / "scores/equaliser.npz", task, training, tracks, say)
        task = dataclasses.replace(task, equaliser=gains)
    except JaxsepError as error:
        missing["fixed equaliser"] = str(error)
    for what, why in missing.items():
        say(f"without {what}: {why}")

    # --- Scores: a track is separated while those before it are scored ------------------------------------------------
    how = {"jobs": options.jobs, "partial": options.partial}
    results = splits.score_tracks(tracks, separate, task, options.out, provenance, **how)
    for result in tqdm(results, total=len(tracks), unit="track", disable=None):
        known[result.name] = result
        say(f"[{len(known)}/{len(tracks) + in_split - len(songs)}] {result}")

    # --- Table --------------------------------------------------------------------------------------------------------
    summary = splits.summarise([known[name] for name in sorted(known)], task, provenance)
    summary |= {"command": command, "tracks_in_split": in_split, "missing": missing, "channels": config.channels}
    published = "" if options.phase == "ideal" else comparison.beside(summary)
    table = "\n\n".join(filter(None, (aggregate.table(summary), published)))
    scorefiles.write_summary(options.out, summary, table)
    if not options.baseline and options.workdir / "scores" in options.out.parents:
        write_card(options.workdir)
    academic = "; MUSDB18 is for academic use only, and so are these scores" if splits.is_musdb18(data) else ""
    return f"{table}\n\nWritten to {options.out}{academic}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workdir", type=Path, help="run folder, as train.py made it; a --baseline can do without")
    add("--split", choices=("train", "valid", "test"), default="test")
    add("--checkpoint", help="best (default), last or a step")
    add("--baseline", metavar="NAME", help="score this instead of the run's model: irm1, scaled-mixture, hpss, ...")
    add("--phase", choices=("mixture", "ideal"), help="ideal: the model's magnitudes with the true sources' phases")
    add("--data_root", help="another data set than the run's: stem folders or MUSDB18's .stem.mp4 files")
    add("--mixture", choices=("sum", "original"), help="what is separated; default: as in training")
    add("--rate", choices=("model", "song"), default="model", help="separate and score at the model's rate (default)")
    add(
        "--backend",
        choices=("bsseval", "museval", "sdr"),
        default="bsseval",
        help="museval: the referee, far slower; sdr: without ISR, SIR, SAR",
    )
    add("--jobs", type=int, default=1, help="scoring processes (default: this one); museval takes 6 GB for 4 minutes")
    add("--limit", type=int, help="the first so many tracks only")
    add("--partial", action="store_true", help="leave out tracks that fail, and say so, instead of stopping")
    add("--out", type=Path, help="default: see above; with --phase=ideal <workdir>/scores/<split>-ideal-phase")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or (options.limit or 1) < 1:
        parser.error("--jobs and --limit must be 1 or more")
    if options.baseline and (options.checkpoint or options.phase):
        parser.error("--baseline has neither a --checkpoint nor a --phase")
    if not options.workdir and not (options.baseline and options.data_root):
        parser.error("--workdir is required, unless there are --baseline and --data_root")
    checkpoint, options.phase = options.checkpoint or "best", options.phase or "mixture"
    options.checkpoint = int(checkpoint) if checkpoint.isdigit() else checkpoint
    options.folder = f"scores/{options.split}" + "-ideal-phase" * (options.phase == "ideal")
    if options.baseline:
        options.folder = f"{'baselines' if options.workdir else 'scores'}/{options.baseline}/{options.split}"
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the script; 0, or 2 and one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parse(arguments)
        copy = storage.working_copy(options.workdir) if options.workdir else contextlib.nullcontext()
        with copy as options.workdir:
            options.out = options.out or (options.workdir or Path()) / options.folder
            print(evaluate(options, shlex.join(["python", "eval.py", *arguments])))
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
