"""Decoding by the ffmpeg binary, as musdb does it."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from jaxtyping import Int16

from jaxsep.errors import JaxsepError


def decode_ffmpeg(path: Path, stream: int, rate: int, channels: int) -> Int16[np.ndarray, "t c"]:
    """A whole audio stream in 16 bits; unlike musdb, with an eye on ffmpeg's exit status.

    Raises:
        JaxsepError: there is no ffmpeg, or it fails.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        raise JaxsepError("--decoder ffmpeg: no ffmpeg on the PATH; install it, or leave the flag out")
    command = [program, "-nostdin", "-v", "error", "-i", f"file:{os.path.abspath(path)}", "-map", f"0:a:{stream}"]
    done = subprocess.run([*command, "-f", "s16le", "-ar", str(rate), "pipe:"], capture_output=True)
    if done.returncode or done.stderr:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise JaxsepError(f"{path}: ffmpeg cannot decode it ({reason[-1] if reason else done.returncode})")
    return np.frombuffer(done.stdout, "<i2").reshape(-1, channels)
