"""Built-in songs: made of numbers alone, so that training and scoring run anywhere without a download.

A song is a pure function of (seed, number, seconds): tempo, key, chords and form are drawn once and shared by
drums, bass, a sung lead ("vocals") and an accompaniment of two or three instruments ("other"); each stem is
then played on instruments of its own timbre, register, room and equaliser, so that held-out songs sound different
from training songs. Songs of another length share only the generator.
"""

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxsep import audio
from jaxsep.data import making
from jaxsep.data.arrangement import PLAYERS, compose, draws, rms
from jaxsep.data.instruments import convolve, room
from jaxsep.errors import JaxsepError

VERSION = 1  # of the generator; songs of another version are not mixed with these
STEMS = ("vocals", "drums", "bass", "other")
SPLITS = ("train", "valid", "test")

FULL_SCALE = 32768
RATE = 44100
COUNTS = {"train": 24, "valid": 4, "test": 6}
LEVELS = {"vocals": 0.5, "drums": 1.0, "bass": 0.0, "other": 0.0}  # dB, before the balance of the song
WET = {"vocals": 0.1, "drums": 0.03, "bass": 0.01, "other": 0.08}  # energy of the room, of the direct sound's


def synth_song(
    seed: int, number: int, seconds: float | int, rate: int = 44100
) -> dict[str, Float32[np.ndarray, "t 2"]]:
    """The stems of a built-in song.

    Args:
        seed: of the set of songs.
        number: of the song within the set.
        seconds: length.
        rate: samples per second.

    Returns:
        stem -> [t 2], whole multiples of 1/32768 whose sum stays below 0.99; no stem is ever silent for long:
        its rests hold the room and a noise of about one step.

    Raises:
        JaxsepError: less than half a second, or a negative seed.
    """
    score, length = compose(seed, number, seconds), round(seconds * rate)
    stems = {}
    for part, stem in enumerate(STEMS, start=1):
        rng = draws(seed, number, part)
        dry = PLAYERS[stem](score, rng, length, rate)
        sound = convolve(dry, room(rng, rate, rng.uniform(0.3, 1.2), WET[stem] * rng.uniform(0.3, 1.5), 1.5))
        level = 10 ** ((LEVELS[stem] + rng.uniform(-3, 3)) / 20)
        stems[stem] = sound * np.float32(level / rms(sound))
    peak = max(np.abs(sound).max() for sound in (*stems.values(), sum(stems.values())))
    loudness = draws(seed, number, len(STEMS) + 1).uniform(0.7, 0.95)
    for part, stem in enumerate(STEMS, start=len(STEMS) + 2):
        floor = 1.5 * draws(seed, number, part).standard_normal((length, 2), dtype=np.float32)
        steps = np.round(stems[stem] * np.float32(loudness * FULL_SCALE / peak) + floor)
        stems[stem] = steps / np.float32(FULL_SCALE)
    return stems


def render_songs(
    root: str | os.PathLike[str],
    counts: Mapping[str, int] = COUNTS,
    seconds: float | int = 30.0,
    seed: int = 0,
) -> None:
    """Writes built-in songs as a data set, `root/<split>/<song>/<stem>.wav` (16 bits), and `root/songs.json`.

    Songs appear when they are complete and are never written twice, so an interrupted call is repeated to go on.
    Song i of the splits train, valid, test has number 3 i, 3 i + 1, 3 i + 2: a longer split keeps its songs.

    Args:
        root: a new or empty folder, or one that was begun with the same settings.
        counts: songs per split.
        seconds: length of each song.
        seed: of the set.

    Raises:
        JaxsepError: `root` holds something else, or songs of other settings, or cannot be written.
    """
    root = Path(root)
    songs = {
        root / split / compose(seed, number, seconds).name: number
        for split, count in counts.items()
        for number in range(SPLITS.index(split), len(SPLITS) * count, len(SPLITS))
    }
    try:
        settings = {"version": VERSION, "seed": seed, "seconds": float(seconds), "songs": dict(counts)}
        making.claim(root, settings, "built-in songs")
        for split in counts:
            (root / split).mkdir(exist_ok=True)
        missing = [folder for folder in songs if not folder.is_dir()]
        if missing:
            print(f"making {len(missing)} built-in songs of {seconds:g} s in {root}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda folder: _render(folder, songs[folder], seed, seconds), missing))
    except OSError as error:
        raise JaxsepError(f"{error.filename or root}: cannot be written ({error.strerror})") from None


def _render(folder: Path, number: int, seed: int, seconds: float | int) -> None:
    """One song, under a hidden name until it is complete."""
    with making.whole(folder) as part:
        for stem, sound in synth_song(seed, number, seconds).items():
            with audio.open_writer(part / f"{stem}.wav", RATE, 2, "wav", 16) as writer:
                writer.write(sound)
