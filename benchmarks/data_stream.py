"""Seconds of mixture per second per core: the training stream against a plain soundfile + numpy loop.

    python benchmarks/data_stream.py                # songs of noise, made for the occasion
    python benchmarks/data_stream.py --root /data/musdb18hq --format wav

Both read six-second stereo crops of four stems at 44.1 kHz, each stem from a random song and place, change gain,
sign and channels, and sum them into a batch of mixtures and sources. The seconds are those of the CPU, all threads
together, and the best of several interleaved rounds, so that other programs on the machine disturb little.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from jaxsep.config import defaults
from jaxsep.data.pipeline import batches
from jaxsep.data.tracks import Track, open_tracks

STEMS = ("vocals", "drums", "bass", "other")
GAIN = (0.25, 1.25)
CHANCE = 0.5  # of a swap, and of a sign flip


def make_songs(root: Path, suffix: str, count: int = 8, seconds: int = 20) -> None:
    """Low-passed noise: FLAC cannot compress white noise, and music lies between."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / "train" / f"song {number}"
        folder.mkdir(parents=True)
        for stem in STEMS:
            noise = np.cumsum(rng.standard_normal((seconds * 44100, 2)), axis=0)
            noise -= np.linspace(noise[0], noise[-1], len(noise))
            soundfile.write(folder / f"{stem}.{suffix}", 0.9 * noise / np.abs(noise).max(), 44100, subtype="PCM_16")
    (root / "valid").mkdir()


def plain_loop(tracks: list[Track], segment: int, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """What one would write in an afternoon."""
    rng = np.random.default_rng(0)
    while True:
        examples = []
        for _ in range(batch_size):
            stems = []
            for stem in STEMS:
                track = tracks[rng.integers(len(tracks))]
                start = int(rng.integers(track.length - segment + 1))
                wave, _ = soundfile.read(track.stems[stem].path, segment, start, dtype="float32", always_2d=True)
                if rng.random() < CHANCE:
                    wave = wave[:, ::-1]
                sign = -1 if rng.random() < CHANCE else 1
                stems.append(wave * np.float32(sign * rng.uniform(*GAIN)))
            examples.append(np.stack(stems))
        sources = np.stack(examples)
        yield {"mix": sources.sum(axis=1), "sources": sources}


def cpu_seconds(make: Callable[[], Iterator[dict[str, np.ndarray]]], count: int) -> float:
    """CPU seconds per batch, after a warm-up."""
    stream = make()
    for _ in itertools.islice(stream, 3):
        pass
    start = time.process_time()
    for _ in itertools.islice(stream, count):
        pass
    seconds = (time.process_time() - start) / count
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] - generators and streams have it, iterators not
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a stem folder; songs are made if it is not given")
    parser.add_argument("--format", default="wav", choices=("wav", "flac"), help="of the songs that are made")
    parser.add_argument("--batches", type=int, default=12, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder)
        if not options.root:
            make_songs(root, options.format)
        config = defaults()
        config.data.root, config.data.stems = str(root), ",".join(STEMS)
        config.data.remix, config.data.gain, config.data.swap, config.data.sign = "stem", GAIN, CHANCE, CHANCE
        tracks = open_tracks(config.data, "train")
        segment, batch_size = config.data.segment, config.data.batch_size
        sources = {stem: (stem,) for stem in STEMS}
        candidates = {
            "jaxsep": lambda: batches(tracks, sources, config, first_step=0, workers=options.workers),
            "soundfile + numpy": lambda: plain_loop(tracks, segment, batch_size),
        }
        best = dict.fromkeys(candidates, float("inf"))
        for _ in range(options.rounds):
            for name, make in candidates.items():
                best[name] = min(best[name], cpu_seconds(make, options.batches))

    mixture = segment / config.sample_rate * batch_size
    source = str(options.root) if options.root else options.format
    print(f"{mixture / batch_size:g} s stereo crops of {len(STEMS)} stems, batch {batch_size}, {source}")
    for name, seconds in best.items():
        ratio = best["soundfile + numpy"] / seconds
        print(f"{name:20}{mixture / seconds:6.0f} s of mixture per CPU second, {ratio:.2f} times the plain loop")


if __name__ == "__main__":
    main()
