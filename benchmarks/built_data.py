"""Built data sets beside the stem folder that they are made of: speed of the stream, of two threads, of the start.

    python benchmarks/built_data.py

The stream is that of data_stream.py: six-second stereo crops of four stems at 44.1 kHz, each from a random song and
place, with gain, sign and channels changed; its seconds are those of the CPU, the best of interleaved rounds. The
threads read such crops of stems without a stream around, in seconds of the clock: they want two idle cores.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from data_stream import CHANCE, GAIN, STEMS, cpu_seconds, make_songs

from jaxsep.config import Config, defaults
from jaxsep.data.built import build, store
from jaxsep.data.pipeline import Stream, batches
from jaxsep.data.tracks import Track, open_tracks

SOURCES = {stem: (stem,) for stem in STEMS}


def config(source: str, root: Path) -> Config:
    values = defaults()
    values.data.update(source=source, root=str(root), stems=",".join(STEMS))
    values.data.update(remix="stem", gain=GAIN, swap=CHANCE, sign=CHANCE)
    return values


def stream(source: str, root: Path, workers: int = 1) -> Stream:
    values = config(source, root)
    return batches(open_tracks(values.data, "train"), SOURCES, values, first_step=0, workers=workers)


def per_crop(tracks: list[Track], threads: int, count: int = 60) -> float:
    """Seconds of the clock for each crop of a stem."""

    def read(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            track, stem = tracks[rng.integers(len(tracks))], STEMS[rng.integers(len(STEMS))]
            track.read(stem, int(rng.integers(track.length - 6 * track.rate)), 6 * track.rate)

    workers = [threading.Thread(target=read, args=(seed,)) for seed in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - start) / threads / count


def multiply(folder: Path, many: Path, count: int) -> None:
    """A set of so many songs whose files are links."""
    many.mkdir()
    songs = [song for song in store.load_index(folder)["songs"] if song["split"] == "train"]
    entries = []
    for number in range(count):
        song = songs[number % len(songs)]
        file = f"many-train.array_record-{number:05d}"
        os.link(folder / song["file"], many / file)
        os.link(store.places_of(folder / song["file"]), store.places_of(many / file))
        entries.append(song | {"name": f"{number:05d}", "file": file})
    (many / store.INDEX).write_text(json.dumps({"songs": entries}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=12, help="per round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "songs"
        make_songs(root, "wav")
        start = time.perf_counter()
        sets = {
            codec: build.build("stem_folder", root, Path(folder) / codec, codec=codec).folder for codec in build.CODECS
        }
        print(f"two sets of eight songs of 20 s built and compared in {time.perf_counter() - start:.1f} s")

        candidates = {
            "16-bit WAV": lambda: stream("folder", root),
            "built, PCM": lambda: stream("built", sets["pcm"]),
            "built, FLAC": lambda: stream("built", sets["flac"]),
        }
        best = dict.fromkeys(candidates, float("inf"))
        for _ in range(options.rounds):
            for name, make in candidates.items():
                best[name] = min(best[name], cpu_seconds(make, options.batches))
        for name, seconds in best.items():
            print(f"{name:12} {4 * 6 / seconds:4.0f} s of mixture per CPU second")

        for codec, made in sets.items():
            tracks = open_tracks(config("built", made).data, "train")
            rounds = [[per_crop(tracks, threads) for threads in (1, 2)] for _ in range(2 * options.rounds)]
            one, two = (min(column) for column in zip(*rounds, strict=True))
            print(f"{codec}: {1e3 * one:.2f} ms for a stem's crop, two threads {one / two:.2f} times as fast as one")

        multiply(sets["pcm"], Path(folder) / "many", 1000)
        start, spent = time.perf_counter(), time.process_time()
        next(stream("built", Path(folder) / "many", workers=2))
        wall, spent = time.perf_counter() - start, time.process_time() - spent
        print(f"first batch from 1,000 songs after {wall:.1f} s of the clock, {spent:.1f} s of CPU")


if __name__ == "__main__":
    main()
