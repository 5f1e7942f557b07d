"""A real song to try things on: the six-second excerpt of MUSDB18 that the stempeg package ships."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np

from jaxsep import audio
from jaxsep.errors import JaxsepError

NAME = "The Easton Ellises - Falcon 69"
SPLITS = ("train", "valid", "test")
LICENCE = f"""\
{NAME}

A six-second excerpt, with its stems, of a song of MUSDB18, as the Python package stempeg ships it.
Licence: Creative Commons BY-NC-SA 3.0, https://creativecommons.org/licenses/by-nc-sa/3.0/
(name the artist, no commercial use, share alike).

The folders {", ".join(SPLITS)} hold the same excerpt: it shows that a model can be fitted and scored, not
that it separates songs it never heard. The mixture is the sum of the four stems. It is not the released mixture,
which is not their sum and is therefore left out.
"""


def excerpt() -> Path:
    """The `.stem.mp4` inside the stempeg package, which is not imported (its import needs an ffmpeg binary).

    Raises:
        JaxsepError: stempeg is not installed, or has no such file.
    """
    spec = importlib.util.find_spec("stempeg")
    if spec is None or spec.origin is None:
        raise JaxsepError("the example song is part of the package stempeg; `pip install jaxsep[eval]` brings it")
    path = Path(spec.origin).parent / "data" / f"{NAME}.stem.mp4"
    if not path.is_file():
        raise JaxsepError(f"{path}: no such file; `pip install --force-reinstall stempeg` brings it back")
    return path


def write_example(dest: str | os.PathLike[str]) -> None:
    """Writes the excerpt as a data set, `dest/{train,valid,test}/<song>/<stem>.wav` (16 bits), and its licence.

    All splits are the same song, and there is no `mixture.wav`: the mixture is the sum of the stems.

    Raises:
        JaxsepError: `dest` is not empty or cannot be written, or stempeg is missing.
    """
    dest = Path(dest)
    source = excerpt()
    try:
        if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
            raise JaxsepError(f"{dest}: not an empty folder; name a new one, nothing is overwritten")
        stems, rate = audio.read_stems(source)
        first = dest / SPLITS[0] / NAME
        first.mkdir(parents=True)
        for stem, samples in stems.items():
            if stem != "mixture":
                with audio.open_writer(first / f"{stem}.wav", rate, samples.shape[1], "wav", 16) as writer:
                    writer.write(samples.astype(np.float32) / np.float32(32768))
        for split in SPLITS[1:]:
            shutil.copytree(first, dest / split / NAME)
        (dest / "LICENCE.txt").write_text(LICENCE, encoding="utf-8")
    except OSError as error:
        raise JaxsepError(f"{error.filename or dest}: cannot be written ({error.strerror})") from None
    print(LICENCE + f"\nWritten to {dest}")
