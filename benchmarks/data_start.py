"""How soon the first batch comes from a thousand songs, and how much memory the stream takes.

    python benchmarks/data_start.py                       # 1,000 songs of four stems of 10 s, most of them hard links
    python benchmarks/data_start.py --songs 200 --suffix flac

Seconds from after the imports to the first batch of six-second stereo crops, on the clock and of the CPU, and how much
the process grows from before the songs are opened until then, and from then until after many batches.
"""

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.config import defaults, parse_sources
from jaxsep.data.pipeline import batches
from jaxsep.data.tracks import open_tracks

STEMS = ("vocals", "drums", "bass", "other")


def make_songs(root: Path, suffix: str, count: int) -> None:
    """One song of noise, and hard links to it."""
    first = root / "train" / "song 0000"
    for number in range(count):
        folder = root / "train" / f"song {number:04d}"
        folder.mkdir(parents=True)
        for index, stem in enumerate(STEMS):
            if number:
                os.link(first / f"{stem}.{suffix}", folder / f"{stem}.{suffix}")
            else:
                noise = np.random.default_rng(index).uniform(-0.5, 0.5, (10 * 44100, 2))
                soundfile.write(folder / f"{stem}.{suffix}", noise, 44100, subtype="PCM_16")
    (root / "valid").mkdir()


def resident() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--songs", type=int, default=1000)
    parser.add_argument("--suffix", choices=("wav", "flac"), default="wav")
    parser.add_argument("--batches", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_songs(Path(folder), options.suffix, options.songs)
        config = defaults()
        config.data.update(root=folder, remix="stem", gain=(0.25, 1.25), swap=0.5, sign=0.5)
        empty, clock, cpu = resident(), time.perf_counter(), time.process_time()
        tracks = open_tracks(config.data, "train")
        opened = time.perf_counter() - clock
        stream = batches(tracks, parse_sources(config.sources), config, first_step=0)
        example = next(stream)
        clock, cpu, first = time.perf_counter() - clock, time.process_time() - cpu, resident()
        batch = sum(wave.nbytes for wave in example.values()) / 1e6
        print(f"{len(tracks)} songs: first batch after {clock:.2f} s ({opened:.2f} s to open), {cpu:.2f} s of the CPU")
        peak = max(resident() for _ in itertools.islice(stream, options.batches))
        stream.close()
        print(f"memory: +{first - empty:.0f} MB at the first batch of {batch:.0f} MB")
        print(f"memory: +{peak - first:.0f} MB more at most in the next {options.batches} batches")


if __name__ == "__main__":
    main()
