"""The score table of a run: checkpoint -> separate tracks -> score -> table.

    python eval.py --workdir=runs/spleeter
    python eval.py --workdir=runs/spleeter --split=valid --checkpoint=last --backend=sdr
    python eval.py --workdir=runs/demo --data_root=/data/musdb18hq --mixture=original --jobs=8

Writes `<track>.json` (museval's schema), `summary.json` and `table.md` to `<workdir>/scores/<split>`. Started again,
it goes on with the tracks that have no scores of this checkpoint, data and code yet.
"""

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep.errors import JaxsepError


def evaluate(options: argparse.Namespace, command: str) -> str:
    """One table, in order.

    Raises:
        JaxsepError: not a run, no such checkpoint, or tracks that cannot be read, separated or scored.
    """
    from tqdm import tqdm

    from jaxsep import config as configs
    from jaxsep import scorefiles, scoring, separator
    from jaxsep.card import write_card
    from jaxsep.checkpoint import load_variables
    from jaxsep.data.tracks import open_tracks
    from jaxsep.inference import Model
    from jaxsep.metrics import aggregate, museval
    from jaxsep.metrics.song import Task
    from jaxsep.tables import comparison

    # --- Songs: those of the run's config, unless others are named ----------------------------------------------------
    config: Any = configs.run_config(options.workdir)
    data = scoring.data_at(config.data, options.data_root)
    known: dict[str, scoring.Result] = {}
    refused = lambda name, error: known.update({name: scoring.Result(name, error=str(error))})
    songs = open_tracks(data, options.split, options.workdir, refused if options.partial else None)
    tracks, in_split = songs[: options.limit], len(songs) + len(known)

    # --- Task: what is scored, and what it is held against ------------------------------------------------------------
    say = lambda line: tqdm.write(line, file=sys.stderr)
    missing: dict[str, str] = {}
    if options.backend == "museval" and (why := museval.unavailable()):
        options.backend, missing["ISR, SIR, SAR"] = "sdr", f"museval cannot be used: {why}"
    sources, stems = configs.parse_sources(config.sources), configs.parse_stems(config.data.stems)
    rate = config.sample_rate if options.rate == "model" else None
    task = Task(sources, stems, config.channels, options.mixture or data.mixture, options.backend, rate=rate)
    moved = config.data.root and not Path(config.data.root).is_dir()
    training = lambda: open_tracks(data if moved else config.data, "train", options.workdir)
    try:
        gains = scoring.fixed_equaliser(options.workdir / "scores/equaliser.npz", task, training, tracks, say)
        task = dataclasses.replace(task, equaliser=gains)
    except JaxsepError as error:
        missing["fixed equaliser"] = str(error)
    for what, why in missing.items():
        say(f"without {what}: {why}")

    # --- Model: from the run folder alone -----------------------------------------------------------------------------
    variables, checkpoint = load_variables(options.workdir, options.checkpoint)
    model = Model.from_parts(separator.build(config), variables, config)
    provenance = scoring.provenance(config, checkpoint, data, options.split)

    # --- Scores: a track is separated while those before it are scored ------------------------------------------------
    how = {"jobs": options.jobs, "partial": options.partial}
    separate = lambda song: model.separate(song.mixture, song.rate)
    results = scoring.score_tracks(tracks, separate, task, options.out, provenance, **how)
    for result in tqdm(results, total=len(tracks), unit="track", disable=None):
        known[result.name] = result
        say(f"[{len(known)}/{len(tracks) + in_split - len(songs)}] {result}")

    # --- Table --------------------------------------------------------------------------------------------------------
    summary = scoring.summarise([known[name] for name in sorted(known)], task, provenance)
    summary |= {"command": command, "tracks_in_split": in_split, "missing": missing, "channels": config.channels}
    table = "\n\n".join(filter(None, (aggregate.table(summary), comparison.beside(summary))))
    scorefiles.write_summary(options.out, summary, table)
    if options.workdir / "scores" in options.out.parents:
        write_card(options.workdir)
    academic = "; MUSDB18 is for academic use only, and so are these scores" if scoring.is_musdb18(data) else ""
    return f"{table}\n\nWritten to {options.out}{academic}"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="run folder, as train.py made it")
    add("--split", choices=("train", "valid", "test"), default="test")
    add("--checkpoint", default="best", help="best (default), last or a step")
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
    add("--out", type=Path, help="default: <workdir>/scores/<split>")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or (options.limit or 1) < 1:
        parser.error("--jobs and --limit must be 1 or more")
    options.checkpoint = int(options.checkpoint) if options.checkpoint.isdigit() else options.checkpoint
    options.out = options.out or options.workdir / "scores" / options.split
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the script; 0, or 2 and one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        print(evaluate(parse(arguments), shlex.join(["python", "eval.py", *arguments])))
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
