"""Seconds of mixture per second per core: the training stream against a plain loop, and demucs' own data set.

    python benchmarks/data_stream.py                # songs of noise, made for the occasion
    python benchmarks/data_stream.py --root /data/musdb18hq
    python benchmarks/data_stream.py --pitch 0.2    # pitch and tempo changed in one example of five, as Demucs has it

All read six-second stereo crops of four stems at 44.1 kHz, each stem from a random song and place, change gain, sign
and channels, and sum them into a batch of mixtures and sources. The plain loop is soundfile and numpy; with --pitch it
takes librosa's phase vocoder and soxr. demucs' `Wavset` and `augment` join where demucs 4 and dora-search are installed
(reading by soundfile where torchaudio does not work), with --pitch only where SoundTouch's `soundstretch` is, too; its
stems come from one song each and are exchanged in groups of four, and it reads more than it yields, to have room for
shifts and slower tempos. The seconds are those of the CPU, all threads and programs together, and the best of several
interleaved rounds, so that other programs on the machine disturb little.
"""

import argparse
import importlib.util
import itertools
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from jaxsep import memory
from jaxsep.config import defaults
from jaxsep.data.pipeline import batches
from jaxsep.data.presets import PRESETS
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


def plain_loop(tracks: list[Track], segment: int, batch_size: int, odds: float) -> Iterator[dict[str, np.ndarray]]:
    """What one would write in an afternoon."""
    rng = np.random.default_rng(0)
    while True:
        examples = []
        for _ in range(batch_size):
            stems, changed = [], rng.random() < odds
            semitones, tempo = int(rng.integers(-2, 3)), 1 + float(np.clip(0.05 * rng.standard_normal(), -0.12, 0.12))
            count = int(np.ceil(segment * tempo)) + 4096 if changed else segment
            for stem in STEMS:
                track = tracks[rng.integers(len(tracks))]
                start = int(rng.integers(track.length - count + 1))
                wave, _ = soundfile.read(track.stems[stem].path, count, start, dtype="float32", always_2d=True)
                if changed:
                    wave = repitch(wave, 2 ** (semitones / 12), tempo)[:segment]
                if rng.random() < CHANCE:
                    wave = wave[:, ::-1]
                sign = -1 if rng.random() < CHANCE else 1
                stems.append(wave * np.float32(sign * rng.uniform(*GAIN)))
            examples.append(np.stack(stems))
        sources = np.stack(examples)
        yield {"mix": sources.sum(axis=1), "sources": sources}


def repitch(wave: np.ndarray, pitch: float, tempo: float) -> np.ndarray:
    """librosa's phase vocoder, which locks no phases, then soxr."""
    import librosa
    import soxr

    stretched = librosa.effects.time_stretch(wave.T, rate=tempo / pitch)
    return soxr.resample(np.ascontiguousarray(stretched.T), pitch, 1)


def demucs_loop(root: Path, segment: int, batch_size: int, odds: float) -> Iterator[dict[str, np.ndarray]]:
    """demucs 4.1: `Wavset`, `RepitchedWrapper`, and the augmentations of its solver, in this process."""
    import torch

    if not (works("torchaudio") and works("torchcodec")):  # by which newer versions of the former read
        sys.modules["torchaudio"] = torchaudio_of_soundfile()
    from demucs import augment
    from demucs.repitch import RepitchedWrapper
    from demucs.wav import Wavset

    torch.set_num_threads(1)
    torch.manual_seed(0)
    songs = root / "train"
    suffix = next(songs.glob("*/vocals.*")).suffix
    metadata = {
        path.parent.name: {"length": soundfile.info(path).frames, "samplerate": 44100}
        for path in sorted(songs.glob(f"*/vocals{suffix}"))
    }
    shift, scale = 44100, 0.88 if odds else 1.0
    seconds = (segment + shift) / 44100 / scale
    data = Wavset(songs, metadata, STEMS, segment=seconds, shift=1, normalize=False, ext=suffix)
    if odds:
        data = RepitchedWrapper(data, proba=odds, vocals=[STEMS.index("vocals")])
    change = torch.nn.Sequential(
        augment.Shift(shift, same=False), augment.FlipChannels(), augment.FlipSign(), augment.Scale(), augment.Remix()
    )
    change.train()
    rng = np.random.default_rng(0)
    while True:
        streams = torch.stack([data[int(index)] for index in rng.integers(len(data), size=batch_size)])
        sources = change(streams)
        yield {"mix": sources.sum(dim=1).numpy(), "sources": sources.numpy()}


def works(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, OSError):  # torchaudio without the libraries that it was built for
        return False
    return True


def torchaudio_of_soundfile() -> types.ModuleType:
    """The function that demucs calls, as torchaudio's soundfile backend had it."""
    import torch

    def load(path, frame_offset: int = 0, num_frames: int = -1):
        wave, rate = soundfile.read(path, num_frames, frame_offset, dtype="float32", always_2d=True)
        return torch.from_numpy(np.ascontiguousarray(wave.T)), rate

    module = types.ModuleType("torchaudio")
    vars(module).update(load=load)
    return module


def spent() -> float:
    """CPU seconds of this process and of the programs that it ran."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def cpu_seconds(make: Callable[[], Iterator[dict[str, np.ndarray]]], count: int) -> float:
    """CPU seconds per batch, after a warm-up."""
    stream = make()
    for _ in itertools.islice(stream, 3):
        pass
    start = spent()
    for _ in itertools.islice(stream, count):
        pass
    seconds = (spent() - start) / count
    stream.close()  # pyright: ignore[reportAttributeAccessIssue] - generators and streams have it, iterators not
    return seconds


def measure(root: Path, options: argparse.Namespace) -> None:
    config = defaults()
    config.data.root, config.data.stems = str(root), ",".join(STEMS)
    config.data.remix, config.data.gain, config.data.swap, config.data.sign = "stem", GAIN, CHANCE, CHANCE
    config.data.augment.update(PRESETS["demucs_v2"]["augment"] if options.pitch else {})
    config.data.augment.odds = options.pitch
    tracks = open_tracks(config.data, "train")
    segment, batch_size = config.data.segment, config.data.batch_size
    sources = {stem: (stem,) for stem in STEMS}
    candidates = {
        "jaxsep": lambda: batches(tracks, sources, config, first_step=0, workers=options.workers),
        "soundfile + numpy": lambda: plain_loop(tracks, segment, batch_size, options.pitch),
    }
    installed = all(importlib.util.find_spec(module) for module in ("demucs", "dora"))
    if installed and (not options.pitch or shutil.which("soundstretch")):
        candidates["demucs"] = lambda: demucs_loop(root, segment, batch_size, options.pitch)
    best = dict.fromkeys(candidates, float("inf"))
    for _ in range(options.rounds):
        for name, make in candidates.items():
            best[name] = min(best[name], cpu_seconds(make, options.batches))
    mixture = segment / config.sample_rate * batch_size
    for name, seconds in best.items():
        ratio = best["soundfile + numpy"] / seconds
        print(f"  {name:20}{mixture / seconds:6.0f} s of mixture per CPU second, {ratio:.2f} times the plain loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="a stem folder; songs are made if it is not given")
    parser.add_argument("--format", default="wav,flac", help="of the songs that are made")
    parser.add_argument("--pitch", type=float, default=0.0, help="odds of a change of pitch and tempo")
    parser.add_argument("--batches", type=int, default=12, help="per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    memory.keep_freed()  # as in training; all candidates gain
    print(f"6 s stereo crops of {len(STEMS)} stems, batch 4, pitch and tempo changed at odds of {options.pitch}")
    if options.root:
        print(options.root)
        measure(options.root, options)
        return
    for suffix in options.format.split(","):
        with tempfile.TemporaryDirectory() as folder:
            make_songs(Path(folder), suffix)
            print(suffix)
            measure(Path(folder), options)


if __name__ == "__main__":
    main()
