"""The `jaxsep` command. Each subcommand is a thin door to its room, which is imported when it is entered."""

import argparse
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxsep import __version__
from jaxsep.errors import JaxsepError

READ = ("detector", "model", "run", "runs")  # arguments that may be addresses of runs

SEPARATE = """\
Separates audio files, and all audio files in folders, with the model of one training run.

Outputs have the sample rate, length and channel count of their input. They go to OUT/<track>/<stem>.wav unless
--filename says otherwise; in a folder, <track> includes the folders below it. Existing files are left alone
without --force. A file that cannot be separated is reported and the others are done.

Exit status: 0 all done, 1 some files failed, 2 nothing was started.
"""

REPRODUCE = """\
From published weights to their paper's table: imports them, separates and scores MUSDB18's 50 test songs, and
prints published scores, ours and the difference.

Says what it needs and how long it will take; started again, it goes on where it stopped. Other songs with
MUSDB18's stems work, but their comparison says that it is none, and why.
"""

RENDER = """\
Makes a data set of multi-track MIDI songs: drums, bass, vocals (or a lead that stands in for them) and other are each
played by FluidSynth, all at one gain; the mixture is their exact sum. Songs without vocals have silent ones, and are
for training. Left out, and named: songs without drums, bass or other, songs under 20 s and copies.

Started again, it goes on where it stopped.

Exit status: 0 all done, 1 some files failed, 2 nothing was started.
"""

DETECTOR = """\
Trains a detector of silent sources on a data set, and chooses on its validation songs from which probability on it
calls a source silent: 95 % of what it then calls silent is (more than 30 dB below the mixture), as much as can be is
found. Sources that are hardly ever silent in the validation songs cannot be told so.

The same command goes on where it was stopped.
"""

MINE = """\
Finds extracts in which a source is silent in all songs below a folder, of any format and length, for data.unlabeled of
a training. The detector is one of `jaxsep data detector`, or any separator: a source is then silent where the mixture
is more than 30 dB above what is separated.

Writes an index and a report (report.md, report.json) to DIR. Started again, it goes on where it stopped, and tries
again what failed.

Exit status: 0 all songs listened to, 1 some failed, 2 nothing was started.
"""

BUILD = """\
Makes a data set for data.source="built": records of one song, stem and second in ArrayRecord files, which TensorFlow
Datasets can read, too. Songs are written by all cores, or by Apache Beam on machines that all see ROOT and DIR.

ROOT holds train, valid and test: MUSDB18's .stem.mp4 files for musdb18, <song>/<stem>.wav (or .flac) for musdb18_hq and
stem_folder; without valid, MUSDB18's 14 validation songs are taken out of train. What is written is compared with its
source bit for bit. The same command goes on where it was stopped, and writes songs anew whose files have changed.

Exit status: 0 the set is complete, 1 some songs failed, 2 nothing was started.
"""

NONFINITE = """\
Runs the training step behind the newest checkpoint of RUN once more and names the first layer, forward or backward,
out of which something comes that is not finite, its dtype, its largest magnitude, and the precision that puts this
layer to float32. A training that stops for that reason says so by itself, and saves the state before the step.
"""

SCORE = """\
Scores <track>/<stem>.wav (or .flac) in ESTIMATES against files of the same names in REFERENCES.

Tracks may lie one folder further down; mixture.wav is not scored. Where ESTIMATES has accompaniment.wav and
REFERENCES has not, its reference is the sum of drums, bass and other. Writes DIR/<track>.json (museval's schema),
summary.json and table.md, and goes on where it stopped. All files are looked at before the first track is scored.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status.

    Args:
        argv: the arguments without the program's name; None = those of this process.
    """
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: no file name ends the work
    try:
        _fetch_runs(args)
        status = args.door(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("jaxsep: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does; nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except JaxsepError as error:
        print(f"jaxsep: error: {error}", file=sys.stderr)
        return 2


def _fetch_runs(args: argparse.Namespace) -> None:
    """Puts copies on disk in the place of runs in buckets; everything else has to lie on a disk."""
    for name, value in vars(args).items():
        many = isinstance(value, list)
        paths = value if many else [value]
        if not any(isinstance(path, Path) and ":/" in str(path) for path in paths):
            continue
        from jaxsep import storage  # half as long as all that every start imports

        if any(storage.is_address(path) for path in paths):
            if name not in READ:
                raise JaxsepError(f"{name} {value}: expected a path on a disk; runs alone are read from buckets")
            copies = [storage.here(path) for path in paths]
            setattr(args, name, copies if many else copies[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxsep", description="Music source separation in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxsep {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_separate(commands)

    models = _add(commands, "models", _models, "list the systems and their variants, pack and blend runs")
    _add_json(models)
    rooms = models.add_subparsers(title="commands", metavar="COMMAND")
    for name, words in (
        ("pack", "make one separator of runs that have a source each"),
        ("blend", "make one separator of runs of the same sources: the mean of their nets"),
    ):
        merge = _add(rooms, name, _merge, words)
        merge.set_defaults(merge=name)
        merge.add_argument("runs", nargs="+", metavar="RUN", type=Path)
        merge.add_argument("-o", "--out", required=True, metavar="DIR", type=Path, help="the new run folder")
        merge.add_argument("--checkpoint", type=_checkpoint, default="best", metavar="best|last|STEP")

    data = commands.add_parser("data", help="make, check and fetch data sets")
    rooms = data.add_subparsers(title="commands", metavar="COMMAND", required=True)
    example = _add(rooms, "example", _example, "write a real 6-second song with its stems as a data set")
    example.add_argument("folder", metavar="DIR", type=Path)
    synth = _add(rooms, "synth", _synth, "write the built-in songs as a data set")
    synth.add_argument("folder", metavar="DIR", type=Path)
    for split in ("train", "valid", "test"):
        synth.add_argument(f"--{split}", type=int, metavar="N", help=f"songs in {split}/")
    synth.add_argument("--seconds", type=float, default=30.0, help="length of each song; default: 30")
    synth.add_argument("--seed", type=int, default=0, help="of the set; default: 0")
    _add_render(rooms)
    check = _add(rooms, "check", _check, "list all problems of a data set at once")
    check.add_argument("folder", metavar="DIR", type=Path)
    _add_json(check)

    _add_build(rooms)
    _add_detector(rooms)
    _add_mine(rooms)

    weights = commands.add_parser("weights", help="use published weights: list, fetch and import them")
    rooms = weights.add_subparsers(title="commands", metavar="COMMAND", required=True)
    entry = _add(rooms, "import", _import, "make a run folder of a published checkpoint")
    entry.add_argument(
        "kind", metavar="KIND", help="asteroid, cunet, d3net, dccrn, demucs, lasaft, openunmix or spleeter"
    )
    entry.add_argument("files", nargs="+", metavar="FILE", type=Path)
    entry.add_argument("out", metavar="DEST", type=Path, help="the new run folder")
    entry.add_argument("--name", default="", help="these are the weights NAME of `jaxsep weights list`")
    fetch = _add(rooms, "fetch", _fetch, "download published weights and import them")
    fetch.add_argument("name", metavar="NAME", help="see `jaxsep weights list`")
    fetch.add_argument("out", nargs="?", metavar="DEST", type=Path, help="the new run folder; default: runs/NAME")
    published = _add(rooms, "list", _published, "say what is published, where, and under which licence")
    _add_json(published)

    tables = _add(commands, "tables", _tables, "print published scores with their protocols and sources")
    tables.add_argument("system", nargs="?", metavar="SYSTEM", help="or sisec18: its 31 methods; default: all systems")
    tables.add_argument("--protocol", metavar="NAME", help="only rows of this one; the legend below a table names them")
    _add_json(tables)

    _add_score(commands)
    compare = _add(commands, "compare", _compare, "say whether the second of two systems scores better, and how surely")
    compare.add_argument("scores", nargs=2, metavar="SCORES", type=Path, help="folders that score or eval.py wrote")

    _add_reproduce(commands)

    _add_report(commands)
    _add_study(commands)

    debug = commands.add_parser("debug", help="find out why a training fails")
    rooms = debug.add_subparsers(title="commands", metavar="COMMAND", required=True)
    entry = _add(
        rooms,
        "nonfinite",
        _nonfinite,
        "name the layer in which numbers stop being finite",
        description=NONFINITE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    entry.add_argument("run", metavar="RUN", type=Path, help="run folder (--workdir of a training)")

    doctor = _add(commands, "doctor", _doctor, "show versions, devices, audio formats and ffmpeg")
    _add_json(doctor)
    return parser


def _add(commands: Any, name: str, door: Callable[..., int], words: str, **more: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, **{"description": words.capitalize() + "."} | more)
    parser.set_defaults(door=door)
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs instead of people")


def _add_separate(commands: Any) -> None:
    parser = _add(
        commands,
        "separate",
        _separate,
        "separate songs into stems",
        description=SEPARATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="SONG|DIR", help="audio files, and folders to search for them")
    add("-o", "--out", required=True, type=Path, help="folder of the outputs")
    add("-m", "--model", required=True, type=Path, metavar="RUN", help="run folder (--workdir of a training)")
    add("--checkpoint", type=_checkpoint, default="best", metavar="best|last|STEP", help="default: best")
    add(
        "--device",
        default="auto",
        metavar="auto|cpu|gpu|gpu:1|tpu",
        help="default: auto, an accelerator if there is one",
    )

    group = parser.add_argument_group("which stems")
    add = group.add_argument
    add(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=SOURCES",
        help="of a conditioned model: NAME instead of its sources, e.g. duo=vocals+bass or soft=0.5*vocals; repeatable",
    )
    either = group.add_mutually_exclusive_group()
    either.add_argument("--stems", type=_names, default=(), metavar="A,B", help="write only these")
    either.add_argument(
        "--two-stems",
        default="",
        metavar="NAME",
        help="write NAME and no_NAME, the sum of all others (of a one-source model: the mixture without NAME)",
    )
    add(
        "--residual",
        action="store_true",
        help="also write what the outputs leave of the mixture, so that all add up to it",
    )

    group = parser.add_argument_group("how")
    add = group.add_argument
    add(
        "--segment",
        type=float,
        metavar="SECONDS",
        help="separated at a time; 0 = whole songs, in memory that grows with them",
    )
    add("--overlap", type=float, metavar="FRACTION", help="of a segment, shared with the next one")
    add(
        "--batch-size",
        type=_batch_size,
        metavar="auto|N",
        help="segments at a time; default: auto, halved when memory runs out",
    )
    add("--shifts", type=int, metavar="N", help="average over N random delays: slower, slightly better")
    add("--seed", type=int, default=0, help="of the shifts; default: 0")

    group = parser.add_argument_group("output files")
    add = group.add_argument
    add("--format", choices=("wav", "flac", "mp3", "ogg"), default="wav", help="default: wav")
    add("--bits", choices=("16", "24", "32f"), help="of wav and flac (32f: wav only); default: 24")
    add(
        "--clip",
        choices=("rescale", "clamp", "none"),
        help="beyond full scale: turn all outputs of the song down together, cut off, or leave as it is; "
        "default: rescale, none for 32f",
    )
    add(
        "--filename",
        default="{track}/{stem}.{ext}",
        metavar="TEMPLATE",
        help="below OUT, of {track}, {stem}, {ext}, {suffix} (of the input), {model}; default: %(default)s",
    )
    add("--force", action="store_true", help="replace existing files")
    add(
        "--progress",
        choices=("auto", "json", "none"),
        default="auto",
        help="auto: a percentage on a terminal; json: lines on stdout of "
        '{"file", "state": "running|done|failed", "done_seconds", "total_seconds", "fraction", ...}; default: auto',
    )


def _add_reproduce(commands: Any) -> None:
    parser = _add(
        commands,
        "reproduce",
        _reproduce,
        "hold published weights against their paper's table",
        description=REPRODUCE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("system", metavar="SYSTEM", help="a system, or weights of `jaxsep weights list`")
    add("--data", required=True, metavar="MUSDB18", type=Path, help="its folder: .stem.mp4 files, or MUSDB18-HQ's wavs")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--weights", nargs="+", default=[], metavar="FILE", type=Path, help="default: download them")
    either.add_argument("--run", metavar="RUN", type=Path, help="a run folder instead of weights")
    add("-o", "--out", metavar="DIR", type=Path, help="of run, scores and comparison; default: runs/reproduce/SYSTEM")
    add(
        "--backend",
        choices=("bsseval", "museval", "sdr"),
        default="bsseval",
        help="sdr: faster, without the ISR, SIR and SAR that no table compares",
    )
    add("--jobs", type=_jobs, default=1, metavar="N", help="processes that score; default: 1")
    add("--partial", action="store_true", help="leave out songs that fail; what is left compares with nothing")


def _add_study(commands: Any) -> None:
    study = commands.add_parser("study", help="ask one question of many trainings: run, tabulate and draw them")
    rooms = study.add_subparsers(title="commands", metavar="COMMAND", required=True)
    words = "train and score what a study consists of; goes on where it stopped"
    run = _add(rooms, "run", _study_run, words, epilog="Exit status: 0 all done, 1 some runs failed, 2 nothing began.")
    run.add_argument("study", metavar="STUDY", help="a file, FILE.py or FILE.py:VARIANT, as in configs/studies")
    run.add_argument("--workdir", required=True, metavar="DIR", type=Path, help="gets a run folder for each training")
    run.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="only every N-th run, from the I-th on"
    )
    table = _add(rooms, "table", _study_table, "say what came out; writes table.md and table.csv")
    plot = _add(rooms, "plot", _study_plot, "draw curves and boxes; writes PNG files")
    for parser in (table, plot):
        parser.add_argument("folder", metavar="DIR", type=Path, help="the --workdir of `jaxsep study run`")


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected I/N such as 1/4, with I from 1 to N")
    return int(index), int(count)


def _jobs(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of processes")
    return int(text)


def _add_render(rooms: Any) -> None:
    parser = _add(
        rooms,
        "render",
        _render,
        "make a data set of MIDI songs, played by FluidSynth",
        description=RENDER,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", metavar="MIDI_DIR", type=Path, help="of songs, searched with the folders below it")
    add("--soundfont", required=True, metavar="F.sf2", type=Path, help="the instruments")
    add("-o", "--out", required=True, metavar="DIR", type=Path, help="the data set")
    add("--jobs", type=_jobs, metavar="N", help="songs at a time; default: one per core")


def _add_build(rooms: Any) -> None:
    parser = _add(
        rooms,
        "build",
        _build,
        "make records of songs for fast, random reading",
        description=BUILD,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="musdb18, musdb18_hq or stem_folder")
    add("--root", required=True, metavar="ROOT", type=Path, help="the songs")
    add("-o", "--out", required=True, metavar="DIR", type=Path, help="gets NAME/VERSION/")
    add("--stems", default="", metavar="A,B", help="only these; default: all")
    add("--codec", choices=("pcm", "flac"), default="pcm", help="pcm: faster; flac: smaller; default: pcm")
    add(
        "--decoder",
        choices=("pyav", "ffmpeg"),
        default="pyav",
        help="of .stem.mp4 files; ffmpeg: the binary, for the very samples of the package musdb; default: pyav",
    )
    add("--verify", action="store_true", help="compare the songs that are there with their sources again")
    add(
        "--beam",
        nargs="+",
        default=[],
        metavar=("RUNNER", "OPTION=VALUE"),
        help="write by Apache Beam: DirectRunner, FlinkRunner, ..., and options of the pipeline",
    )


def _add_detector(rooms: Any) -> None:
    parser = _add(
        rooms,
        "detector",
        _detector,
        "train a detector of silent sources, for mine",
        description=DETECTOR,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("songs", metavar="SONGS", type=Path, help="data set: <split>/<song>/<stem>.wav, or MUSDB18's .stem.mp4 files")
    add("-o", "--out", required=True, metavar="RUN", type=Path, help="run folder")
    add("--stems", default="vocals,drums,bass,other", metavar="A,B", help="of the songs; default: %(default)s")
    add("--channels", type=int, metavar="N", help="of its first level; default: 32")
    add("--steps", type=int, metavar="N", help="default: 20000")
    add("--seed", type=int, default=0, metavar="N", help="default: 0")


def _add_mine(rooms: Any) -> None:
    parser = _add(
        rooms,
        "mine",
        _mine,
        "find extracts of unlabeled songs in which a source is silent",
        description=MINE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="of songs, searched with the folders below it")
    add("--detector", required=True, metavar="RUN", type=Path, help="run folder of a detector or of a separator")
    add("-o", "--out", required=True, metavar="DIR", type=Path, help="of index and report")
    add("--seconds", type=float, default=6.0, metavar="S", help="length of the shortest extract; default: 6")
    add("--copies", action="store_true", help="write the extracts as files, too, quicker to read than MP3")
    add("--checkpoint", type=_checkpoint, default="best", metavar="best|last|STEP", help="default: best")
    add("--device", default="auto", metavar="auto|cpu|gpu|gpu:1|tpu", help="default: auto")
    add("--progress", choices=("auto", "json", "none"), default="auto", help="as of separate; default: auto")


def _add_score(commands: Any) -> None:
    parser = _add(
        commands,
        "score",
        _score,
        "score folders of stems that any tool made",
        description=SCORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("references", metavar="REFERENCES", type=Path, help="the true stems")
    add("estimates", metavar="ESTIMATES", type=Path, help="the separated stems")
    add("-o", "--out", required=True, metavar="DIR", type=Path, help="of the score files")
    add("--stems", type=_names, default=(), metavar="A,B", help="score only these; default: all references")
    add(
        "--metrics",
        type=_names,
        default=(),
        metavar="A,B",
        help="of sdr, isr, sir, sar, sdr_whole_track, si_sdr, si_sar, lsd; default: all that the backend has",
    )
    add(
        "--backend",
        choices=("bsseval", "museval", "sdr"),
        default="bsseval",
        help="museval: the referee, far slower; sdr: without ISR, SIR, SAR; default: bsseval",
    )
    add("--jobs", type=_jobs, default=1, metavar="N", help="processes that score, on the CPU; default: this one")
    add("--partial", action="store_true", help="leave out tracks that cannot be scored, and say so in the table")


def _add_report(commands: Any) -> None:
    parser = _add(commands, "report", _report, "compare runs on one page: scores, plots, and songs to listen to")
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", type=Path, help="run folders, scored by eval.py")
    add("-o", "--out", metavar="DIR", type=Path, help="default: RUN/report of a single run, else report")
    add("--split", default="test", metavar="test|valid|train", help="default: test")
    add("--songs", type=int, default=2, metavar="N", help="to listen to, of each data set; default: 2")
    add("--seconds", type=int, default=10, metavar="S", help="of each song, from its middle; default: 10")
    add("--start", type=int, metavar="S", help="first second of each song instead of the middle")
    add("--clips", default="mp3", metavar="mp3|opus|flac", help="default: mp3")
    add("--data-root", metavar="DIR", help="listen to another data set than the runs' own")


def _checkpoint(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _batch_size(text: str) -> int | None:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected auto or a number of segments")
    return None if text == "auto" else int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _separate(args: argparse.Namespace) -> int:
    if args.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX starts, so that it does not occupy an accelerator
    from jaxsep import outputs, progress, songs, targets
    from jaxsep.cache import keep_compiled

    keep_compiled()
    given = {name: getattr(args, name) for name in ("segment", "overlap", "shifts", "seed", "batch_size")}
    failures = songs.separate_files(
        args.inputs,
        args.out,
        args.model,
        checkpoint=args.checkpoint,
        device=args.device,
        recipe={name: value for name, value in given.items() if value is not None},
        conditions=targets.parse(args.condition),
        stems=args.stems,
        two_stems=args.two_stems,
        residual=args.residual,
        encoding=outputs.Encoding.choose(args.format, args.bits, args.clip),
        filename=args.filename,
        force=args.force,
        progress=progress.Progress(args.progress),
    )
    return 1 if failures else 0


def _models(args: argparse.Namespace) -> int:
    from jaxsep import catalogue

    rows = catalogue.describe()
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    heads = ("name", "variant", "year", "params", "sources", "rate", "config")
    table = [
        (
            row["name"],
            row["variant"],
            str(row["year"]),
            f"{row['params']:,}",
            ",".join(row["sources"]),
            str(row["sample_rate"]),
            row["config"],
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *table, strict=True)]
    for line in (heads, *table):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _merge(args: argparse.Namespace) -> int:
    from jaxsep import packing

    command = ["jaxsep", "models", args.merge, *map(str, args.runs), "--out", str(args.out)]
    getattr(packing, args.merge)(args.runs, args.out, args.checkpoint, [*command, "--checkpoint", str(args.checkpoint)])
    print(args.out)
    return 0


def _import(args: argparse.Namespace) -> int:
    from jaxsep.weights import UNKNOWN, catalogue, importing

    command = ["jaxsep", "weights", "import", args.kind, *map(str, args.files), str(args.out)]
    command += ["--name", args.name] if args.name else []
    origin = importing.import_weights(args.kind, args.files, args.out, command, args.name)
    print(f"{args.out}: {catalogue.terms(origin)}")
    if origin.licence == UNKNOWN:
        print("weights that `jaxsep weights list` knows: --name NAME states their origin in the model card")
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from jaxsep.weights import fetch

    out = args.out or Path("runs", args.name)
    fetch.fetch_weights(args.name, out, ["jaxsep", "weights", "fetch", args.name, str(out)])
    print(out)
    return 0


def _published(args: argparse.Namespace) -> int:
    from jaxsep.weights import catalogue

    rows = [entry.row() for entry in catalogue.PUBLISHED]
    print(json.dumps(rows, indent=2) if args.json else catalogue.table())
    return 0


def _tables(args: argparse.Namespace) -> int:
    from jaxsep.tables import printing

    if args.json:
        print(json.dumps(printing.values(args.system, args.protocol), indent=2))
    else:
        print(printing.render(args.system, args.protocol))
    return 0


def _reproduce(args: argparse.Namespace) -> int:
    from jaxsep.cache import keep_compiled
    from jaxsep.scoring import reproduce

    keep_compiled()
    out = args.out or Path("runs", "reproduce", args.system)
    command = ["jaxsep", "reproduce", args.system, "--data", str(args.data), "--out", str(out)]
    command += ["--weights", *map(str, args.weights)] if args.weights else []
    command += ["--run", str(args.run)] if args.run else []
    text = reproduce.reproduce(
        args.system,
        args.data,
        out,
        files=args.weights,
        run=args.run,
        backend=args.backend,
        jobs=args.jobs,
        partial=args.partial,
        argv=command,
        say=_say,
    )
    print(f"{text}\n\nWritten to {out}")
    return 0


def _say(line: str) -> None:
    """What is said on the way, beside the answer on stdout."""
    print(line, file=sys.stderr, flush=True)


def _score(args: argparse.Namespace) -> int:
    from jaxsep.scoring import folders

    table = folders.score_folders(
        args.references,
        args.estimates,
        args.out,
        stems=args.stems,
        metrics=args.metrics,
        backend=args.backend,
        jobs=args.jobs,
        partial=args.partial,
        notify=_say,
    )
    print(f"{table}\n\nWritten to {args.out}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from jaxsep.scoring import significance

    print(significance.compare(*args.scores))
    return 0


def _report(args: argparse.Namespace) -> int:
    from jaxsep.report import command

    page = command.report(
        args.runs,
        args.out,
        split=args.split,
        songs=args.songs,
        seconds=args.seconds,
        start=args.start,
        clips=args.clips,
        data_root=args.data_root,
        notify=_say,
    )
    print(page)
    return 0


def _study_run(args: argparse.Namespace) -> int:
    from jaxsep.studies import definition, results, running, table

    failed = running.run(definition.load_study(args.study), args.workdir, args.shard, _say)
    print(table.write(results.read(args.workdir), args.workdir))
    return 1 if failed else 0


def _study_table(args: argparse.Namespace) -> int:
    from jaxsep.studies import results, table

    print(table.write(results.read(args.folder), args.folder))
    return 0


def _study_plot(args: argparse.Namespace) -> int:
    from jaxsep.studies import plots, results

    print(*plots.draw(results.read(args.folder), args.folder), sep="\n")
    return 0


def _nonfinite(args: argparse.Namespace) -> int:
    from jaxsep import nonfinite
    from jaxsep.cache import keep_compiled

    keep_compiled()
    print(nonfinite.debug(args.run))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from jaxsep import doctor

    found = doctor.examine()
    print(json.dumps(found, indent=2) if args.json else doctor.render(found))
    return 0


def _example(args: argparse.Namespace) -> int:
    from jaxsep.data import example

    example.write_example(args.folder)
    return 0


def _synth(args: argparse.Namespace) -> int:
    from jaxsep.data import synth

    counts = {split: getattr(args, split) for split in synth.COUNTS if getattr(args, split) is not None}
    synth.render_songs(args.folder, synth.COUNTS | counts, args.seconds, args.seed)
    print(args.folder)
    return 0


def _render(args: argparse.Namespace) -> int:
    from jaxsep.data import render

    outcomes = render.render(
        args.folder,
        args.soundfont,
        args.out,
        jobs=args.jobs,
        notify=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(f"{render.summary(outcomes)}\n\nWritten to {args.out}")
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _build(args: argparse.Namespace) -> int:
    from jaxsep.data.built import build, runners

    def report(done: int, count: int, song: str, why: str | None) -> None:
        print(f"{done}/{count} {song}{f': FAILED: {why}' if why else ''}", file=sys.stderr, flush=True)

    outcome = build.build(
        args.name,
        args.root,
        args.out,
        stems=args.stems,
        codec=args.codec,
        decoder=args.decoder,
        verify=args.verify,
        run=runners.by_beam(args.beam[0], args.beam[1:]) if args.beam else runners.in_processes,
        report=report,
    )
    for song, why in outcome.failed.items():
        print(f"jaxsep: error: {song}: {why}", file=sys.stderr)
    print(f"{outcome.folder}: {outcome.written} songs written, {outcome.kept} kept, {len(outcome.failed)} failed")
    return 1 if outcome.failed else 0


def _detector(args: argparse.Namespace) -> int:
    from jaxsep.mining import detector, points, training

    command = ["jaxsep", "data", "detector", str(args.songs), "--out", str(args.out), "--stems", args.stems]
    given = {key: getattr(args, key) for key in ("channels", "steps", "seed")}
    command += [f"--{key}={value}" for key, value in given.items() if value is not None]
    config = detector.of_songs(args.songs, args.stems, **given)
    found = training.train_detector(config, args.out, command, _say)
    print(f"{points.render(found)}\n\nWritten to {args.out}")
    return 0


def _mine(args: argparse.Namespace) -> int:
    if args.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxsep import progress
    from jaxsep.mining import mine

    failures = mine.mine(
        args.folder,
        args.detector,
        args.out,
        seconds=args.seconds,
        copies=args.copies,
        checkpoint=args.checkpoint,
        device=args.device,
        progress=progress.Progress(args.progress),
    )
    return 1 if failures else 0


def _check(args: argparse.Namespace) -> int:
    from jaxsep.data import check

    problems = check.check(args.folder)
    found = [dataclasses.asdict(problem) for problem in problems]
    print(json.dumps(found, indent=2) if args.json else check.render(problems))
    return 1 if any(problem.severity == "error" for problem in problems) else 0
