"""What the benchmarks of imported checkpoints share: separation by the command line, and how far results are apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.cli import main as jaxsep


def mixture(song: Path, stems: Sequence[str], file: Path) -> np.ndarray:
    """The sum of the stems in a folder, [t c], also written to a file."""
    waves = [soundfile.read(song / f"{stem}.wav", dtype="float32") for stem in stems]
    mix = sum(wave for wave, _ in waves)
    soundfile.write(file, mix, waves[0][1], subtype="FLOAT")
    return np.asarray(mix)


def separate_by_jaxsep(kind: str, files: Sequence[Path], song: Path, out: Path) -> dict[str, np.ndarray]:
    """Stems [t c] by name: the files imported, the song separated."""
    run = out / "run"
    assert jaxsep(["weights", "import", kind, *map(str, files), str(run)]) == 0
    options = ["--model", str(run), "--out", str(out / "stems"), "--bits", "32f", "--clip", "none"]
    assert jaxsep(["separate", str(song), *options]) == 0
    written = sorted((out / "stems" / song.stem).glob("*.wav"))
    return {file.stem: soundfile.read(file, dtype="float32")[0] for file in written}


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max |a - b| / max |b|."""
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
