"""The main job on one machine: train on built-in songs, score, separate a real recording, write a report.

    python -m jaxsep.demo --workdir runs/demo
    python -m jaxsep.demo --workdir runs/quick --config.steps=20

Run again, it goes on where it stopped. Values of the config can be set as for `train.py`.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep import audio
from jaxsep.config import parse_sources, run_config
from jaxsep.data import example
from jaxsep.data.readers import to_float
from jaxsep.errors import JaxsepError
from jaxsep.report.listening import references, separated_songs
from jaxsep.report.page import write_page
from jaxsep.report.runs import read_runs, system_name
from jaxsep.report.song import Song

ROOT = Path(__file__).resolve().parent.parent
CLI = "import sys; from jaxsep.cli import main; sys.exit(main())"  # `jaxsep`, wherever it is installed
SECONDS = 10  # of the held-out song on the page


def run_demo(workdir: Path, config: str, overrides: Sequence[str]) -> str:
    """All stages; returns the score table and where the page is.

    Raises:
        JaxsepError: a stage failed, or this is no checkout.
    """
    if not (ROOT / "train.py").is_file():
        raise JaxsepError(f"{ROOT}: no train.py here; the demo runs in a checkout of the repository")
    folder = str(workdir.relative_to(ROOT) if workdir.is_relative_to(ROOT) else workdir)  # stages run in ROOT
    commands = [
        ["python", "train.py", f"--config={config}", f"--workdir={folder}", *overrides],
        ["python", "eval.py", f"--workdir={folder}"],
    ]
    _stage("1/4 training on built-in songs", commands[0])
    _stage("2/4 scoring songs that it has not heard", commands[1], quiet=True)

    try:
        excerpt, notes = example.excerpt(), []
    except JaxsepError as error:
        excerpt, notes = None, [f"No real recording was separated: {error}"]
        print(f"3/4 {notes[0]}", flush=True)
    else:
        song, out = str(excerpt), f"{folder}/separated"
        commands.append(["jaxsep", "separate", song, "-o", out, "-m", folder, "--bits=32f", "--force"])
        _stage("3/4 separating a real recording", commands[-1])

    print("4/4 writing the report", flush=True)
    again = ["python", "-m", "jaxsep.demo", f"--workdir={folder}", f"--config={config}", *overrides]
    page = _report(workdir, excerpt, notes, [shlex.join(again), "", "# or by stages:", *map(shlex.join, commands)])
    table = (workdir / "scores" / "test" / "table.md").read_text(encoding="utf-8")
    return f"\n{table}\nThe report: {page}"


def _stage(title: str, command: Sequence[str], quiet: bool = False) -> None:
    """Runs one command in the checkout with this Python; `quiet` keeps its standard output back."""
    print(f"{title}: {shlex.join(command)}", flush=True)
    output = subprocess.DEVNULL if quiet else None
    program = [sys.executable] if command[0] == "python" else [sys.executable, "-c", CLI]
    status = subprocess.run([*program, *command[1:]], cwd=ROOT, stdout=output).returncode
    if status:
        raise JaxsepError(
            f"stage {title} ended with status {status}, see above; run again, the demo goes on from there"
        )


def _report(workdir: Path, excerpt: Path | None, notes: Sequence[str], commands: Sequence[str]) -> Path:
    config = run_config(workdir)
    held_out, reasons = separated_songs(read_runs([workdir], "test"), "test", 1, SECONDS)
    notes = [*notes, *reasons]
    if config.variant == "demo":
        notes.append("The demo is made to train in minutes: its network is smaller than the paper's.")
    return write_page(
        [workdir],
        workdir / "report",
        songs=[*([_recording(workdir, config, excerpt)] if excerpt else []), *held_out],
        title=f"jaxsep: {config.name} trained, scored and heard",
        facts={"Machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"},
        notes=notes,
        commands=commands,
    )


def _recording(workdir: Path, config: Any, path: Path) -> Song:
    """The real recording, with what `jaxsep separate` made of its released mixture."""
    stems, rate = audio.read_stems(path)
    files = {source: workdir / "separated" / example.NAME / f"{source}.wav" for source in parse_sources(config.sources)}
    estimates = {source: audio.read(file)[0] for source, file in files.items()}
    note = (
        "Six seconds of a recording from MUSDB18 (CC BY-NC-SA 3.0), as the stempeg package brings it. The mixture is "
        "the released one, not the sum of the stems: what they differ by lies 15 dB below it, and bounds the SDR."
    )
    if config.data.source == "builtin":
        note += " The model has heard built-in songs only, never a recording."
    waves = {key: to_float(wave) for key, wave in stems.items()}
    truth = references(waves, parse_sources(config.sources))
    return Song(example.NAME, rate, waves["mixture"], {system_name(config): estimates}, truth or None, note)


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0, or 2 with one line on stderr, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m jaxsep.demo", description=__doc__, allow_abbrev=False)
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"), help="run folder")
    parser.add_argument("--config", default="configs/spleeter.py:demo", help="config file and variant")
    options, overrides = parser.parse_known_args(argv)
    if wrong := [word for word in overrides if not word.startswith("--config.")]:
        parser.error(f"{wrong[0]!r} is no argument; values of the config are set as in --config.steps=20")
    try:
        print(run_demo(options.workdir.resolve(), options.config, overrides))
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
