"""Trains, scores and uses the small variant of every system, and prints one table.

    python benchmarks/demos.py --workdir runs/demos
    python benchmarks/demos.py --workdir runs/demos --systems cunet,lasaft

Each system's `demo` config is trained on the built-in songs by `train.py`, scored on songs that it has not heard by
`eval.py` and separates a real 6-second recording by `jaxsep separate`. Started again, it goes on where it stopped.
Times are those of the whole `train.py` process, validation included: wall-clock and, since that of a machine with
other work says little, CPU. The scaled mixture and the fixed equaliser are at the model's own rate and channels.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from jaxsep import config as configs
from jaxsep.data import example
from jaxsep.log import read_metrics
from jaxsep.models import MODELS

ROOT = Path(__file__).resolve().parent.parent
CLI = "import sys; from jaxsep.cli import main; sys.exit(main())"
SCORE = "sdr_median_of_medians"
HEAD = (
    *("system", "parameters", "SDR, dB", "scaled mixture", "fixed equaliser", "above", "IRM1"),
    *("validation SDR on the way", "wall, s", "CPU, s"),
)


def run(*command: str) -> None:
    """One command in the checkout, its output passed on."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)


def train(system: str, folder: Path) -> dict[str, float]:
    """Trains, unless it is done; returns the seconds that it took, over all starts."""
    clock = folder / "seconds.json"
    spent = json.loads(clock.read_text()) if clock.exists() else {"wall": 0.0, "cpu": 0.0, "done": False}
    if not spent["done"]:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        run("train.py", f"--config=configs/{system}.py:demo", f"--workdir={folder}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        spent = {"wall": spent["wall"] + time.monotonic() - started, "cpu": spent["cpu"] + cpu, "done": True}
        clock.write_text(json.dumps(spent))
    return spent


def row(system: str, workdir: Path) -> list[str]:
    """The system's line of the table."""
    folder = workdir / system
    spent = train(system, folder)
    run("eval.py", f"--workdir={folder}", "--backend=sdr")
    run("-c", CLI, "separate", str(example.excerpt()), "-o", str(folder / "separated"), "-m", str(folder), "--force")
    summary = json.loads((folder / "scores/test/summary.json").read_text())
    model = summary["scores"][SCORE]["average"]
    trivial = [
        summary["baselines"][name][SCORE]["average"] for name in ("scaled mixture", "fixed equaliser", "IRM1 (oracle)")
    ]
    valid = [line["sdr"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "valid"]
    stems = list((folder / "separated").rglob("*.wav"))
    assert len(stems) == len(configs.parse_sources(configs.run_config(folder).sources)), stems
    return [
        system,
        f"{parameters(folder):,}",
        f"{model:.2f}",
        *(f"{score:.2f}" for score in trivial[:2]),
        f"{model - trivial[0]:+.2f} / {model - trivial[1]:+.2f}",
        f"{trivial[2]:.2f}",
        " ".join(f"{sdr:.1f}" for sdr in valid),
        f"{spent['wall']:.0f}",
        f"{spent['cpu']:.0f}",
    ]


def parameters(folder: Path) -> int:
    """Trainable parameters of a run."""
    import jax

    from jaxsep.checkpoint import load_variables

    return sum(leaf.size for leaf in jax.tree.leaves(load_variables(folder)[0]["params"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("runs/demos"))
    parser.add_argument("--systems", default=",".join(sorted(MODELS)), help="default: all")
    options = parser.parse_args()
    rows = [row(system, options.workdir.resolve()) for system in options.systems.split(",")]
    widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
    print(f"\n{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs\n")
    for line in (HEAD, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


if __name__ == "__main__":
    main()
