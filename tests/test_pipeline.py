import dataclasses
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from ml_collections import ConfigDict
from scipy import stats

from jaxsep import log
from jaxsep.config import defaults
from jaxsep.data import augment, levels
from jaxsep.data.augment import tf
from jaxsep.data.pipeline import Crops, Window, batches
from jaxsep.data.plan import Planner, random_bits
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.utilisation import Work

STEMS = ("vocals", "drums", "bass")
SOURCES = {"vocals": ("vocals",), "accompaniment": ("drums", "bass")}
SINGLE = {stem: (stem,) for stem in STEMS}
LENGTHS = (1000, 1500, 4000, 2500)
SEGMENT = 1000

# Draws of the first version: they must never change, or old runs could not be continued.
GOLDEN = {
    "track": [[2, 0, 0], [2, 0, 1]],
    "start": [[54897, 1, 3], [33092, 0, 231]],
    "gain": [[0.38613924, 0.6288791, 1.0697273], [0.80804014, 0.82206446, 1.0917573]],
    "sign": [[False, True, True], [True, True, False]],
    "swap": [[False, False, True], [False, True, True]],
}


def write(root: Path, rate=44100, channels=2, suffix="wav", subtype="PCM_16", lengths=LENGTHS) -> Path:
    """Songs of noise, no sample of which is like another, and a mixture that is not their sum."""
    rng = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        folder = root / "train" / f"Song {number}"
        folder.mkdir(parents=True)
        for stem in (*STEMS, "mixture"):
            samples = rng.integers(-32768, 32768, (length, channels)).astype(np.int16)
            soundfile.write(folder / f"{stem}.{suffix}", samples, rate, subtype=subtype)
    (root / "valid").mkdir()
    return root


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("songs"))


def config(root: Path, seed=7, sample_rate=44100, channels=2, augment=None, **data) -> ConfigDict:
    block = {
        "source": "folder",
        "root": str(root),
        "stems": ",".join(STEMS),
        "segment": SEGMENT,
        "remix": "stem",
        "gain": (0.25, 1.25),
        "swap": 0.5,
        "sign": 0.5,
    }
    block = defaults().data.to_dict() | block | data
    block["augment"] |= augment or {}
    values = {"seed": seed, "sample_rate": sample_rate, "channels": channels, "data": block}
    return ConfigDict(values).lock()


PLAIN = {"remix": "none", "gain": (1.0, 1.0), "swap": 0.0, "sign": 0.0}


def take(cfg: ConfigDict, count: int, sources=SINGLE, first_step=0, **options) -> list[dict[str, np.ndarray]]:
    tracks = open_tracks(cfg.data, "train")
    return list(itertools.islice(batches(tracks, sources, cfg, first_step=first_step, **options), count))


def planner(cfg: ConfigDict) -> Planner:
    data = cfg.data
    positions = np.array(LENGTHS) - data.segment - data.shift + 2 * data.pad + 1
    shift, first = np.array([data.shift]), np.array([-data.pad])
    settings = data.remix, tuple(data.gain), data.swap, data.sign, data.group, shift, first
    return Planner(cfg.seed, STEMS, positions, *settings)


def song_stems(root: Path, number: int) -> np.ndarray:
    """A whole song [k t c]."""
    folder = root / "train" / f"Song {number}"
    return np.stack([soundfile.read(folder / f"{stem}.wav", dtype="float32")[0] for stem in STEMS])


def by_hand(cfg: ConfigDict, number: int) -> np.ndarray:
    """The augmented stems [k t c] of a sample number, by soundfile and numpy."""
    plan = planner(cfg)([number])
    stems = []
    for index, stem in enumerate(STEMS):
        song = Path(cfg.data.root) / "train" / f"Song {plan.track[0, index]}"
        wave = np.pad(soundfile.read(song / f"{stem}.wav", dtype="float32")[0], [(SEGMENT, SEGMENT), (0, 0)])
        wave = wave[SEGMENT + plan.start[0, index] :][: cfg.data.segment]
        wave = wave[:, ::-1] if plan.swap[0, index] else wave
        stems.append(wave * (-plan.gain[0, index] if plan.sign[0, index] else plan.gain[0, index]))
    return np.stack(stems)


# The plan


def test_draws_are_splitmix64_and_stay_what_they_are():
    def mix(state: int) -> int:
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # first output of SplitMix64 for seed 0, as published
    numbers = np.array([[0], [1], [2**40]], np.uint64)
    stems = np.array([3, 2**64 - 1], np.uint64)
    state = 0
    for key in (5, 2**40, 2**64 - 1, 2):
        state = mix(state ^ (key + 1) * 0x9E3779B97F4A7C15 % 2**64)
    assert int(random_bits(5, numbers, stems, 2)[2, 1]) == state
    plan = Planner(3, STEMS, np.array([10, 1000, 100_000]), "stem", (0.25, 1.25), 0.5, 0.5)([0, 10**12])
    np.testing.assert_array_equal(plan.track, GOLDEN["track"])
    np.testing.assert_array_equal(plan.start, GOLDEN["start"])
    np.testing.assert_array_equal(plan.gain, np.float32(GOLDEN["gain"]))
    np.testing.assert_array_equal(plan.sign, GOLDEN["sign"])
    np.testing.assert_array_equal(plan.swap, GOLDEN["swap"])


def test_draws_are_uniform_and_independent_of_stem_neighbour_and_seed():
    count = 40_000
    make = Planner(11, STEMS, np.full(20, 997), "stem", (0.25, 1.25), 0.3, 0.6)
    plan = make(np.arange(count))
    for column in range(3):
        assert stats.chisquare(np.bincount(plan.track[:, column], minlength=20)).pvalue > 1e-4
        assert stats.chisquare(np.bincount(plan.start[:, column], minlength=997)).pvalue > 1e-4
        assert stats.kstest(plan.gain[:, column] - 0.25, "uniform").pvalue > 1e-4
    assert plan.gain.min() >= 0.25 and plan.gain.max() <= 1.25
    assert abs(plan.swap.mean() - 0.3) < 0.01 and abs(plan.sign.mean() - 0.6) < 0.01
    other = dataclasses.replace(make, seed=12)(np.arange(count))
    draws = [plan.track, plan.start, plan.gain, plan.sign, plan.swap]
    columns = [draw[:, index] for draw in draws for index in range(3)]
    columns += [np.roll(column, 1) for column in columns] + [other.start[:, 0], np.roll(other.start[:, 0], 1)]
    correlation = np.corrcoef(np.array(columns, np.float64)) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(count)


def test_remix_none_takes_all_stems_from_one_place_and_stem_does_not():
    positions = np.array([500, 10, 7000])
    numbers = np.arange(2000)
    together = Planner(1, STEMS, positions, "none", (0.5, 1.0))(numbers)
    assert (together.track == together.track[:, :1]).all() and (together.start == together.start[:, :1]).all()
    assert (together.gain[:, 0] != together.gain[:, 1]).mean() > 0.99
    apart = Planner(1, STEMS, positions, "stem")(numbers)
    assert abs((apart.track[:, 0] == apart.track[:, 1]).mean() - 1 / 3) < 0.05
    for plan in (together, apart):
        assert (plan.start < positions[plan.track]).all() and plan.start.max() > 6900
        assert plan.start[plan.track == 1].max() == 9 and plan.start[plan.track == 1].min() == 0


def test_a_stem_is_drawn_alike_whatever_the_others_and_the_order_of_asking():
    positions, numbers = np.array([500, 10, 7000]), np.arange(50)
    plan = Planner(1, STEMS, positions, "stem", (0.5, 1.0))(numbers)
    alone = Planner(1, ("bass",), positions, "stem", (0.5, 1.0))(numbers[::-1])
    np.testing.assert_array_equal(alone.start[::-1, 0], plan.start[:, 2])
    np.testing.assert_array_equal(alone.gain[::-1, 0], plan.gain[:, 2])


@pytest.mark.parametrize("group", [2, 4, 5])
def test_a_group_permutes_each_stem_of_its_songs(group):
    """Each stem of the songs of "none" is heard exactly once, with the one of another song, and only in its group."""
    positions, groups = np.array([500, 10, 7000, 30_000]), 3000
    numbers = np.arange(group * groups)
    base = Planner(1, STEMS, positions, "none", (0.5, 1.0))(numbers)
    mixed = Planner(1, STEMS, positions, "group", (0.5, 1.0), group=group)(numbers)
    np.testing.assert_array_equal(mixed.gain, base.gain)
    rows = [np.stack([plan.track, plan.start], -1).reshape(groups, group, 3, 2) for plan in (base, mixed)]
    names = [row[..., 0].astype(np.int64) * 10**6 + row[..., 1] for row in rows]
    np.testing.assert_array_equal(*(np.sort(name, axis=1) for name in names))
    # Where in its group a song's stem went to: uniform, and independent of where its other stems went.
    distinct = np.array([len(set(name)) == group for name in names[0][:, :, 0].tolist()])
    goes = [np.argsort(name, axis=1).argsort(axis=1)[distinct] for name in names]
    moves = np.take_along_axis(np.argsort(goes[1], axis=1), goes[0], axis=1)
    assert (np.sort(moves, axis=1) == np.arange(group)[:, None]).all()
    for stem, other in itertools.product(range(3), range(group)):
        share = (moves[:, other, stem][:, None] == np.arange(group)).mean(0)
        assert np.abs(share - 1 / group).max() < 5 * np.sqrt(1 / group / len(moves))
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert abs((moves[:, 0, left] == moves[:, 0, right]).mean() - 1 / group) < 5 * np.sqrt(1 / group / len(moves))


def test_a_group_is_one_of_sample_numbers_whatever_is_asked_for():
    positions = np.array([500, 10, 7000, 30_000])
    make = Planner(1, STEMS, positions, "group")
    whole = make(np.arange(12))
    for number in range(12):
        alone = make([number])
        np.testing.assert_array_equal(alone.track[0], whole.track[number])
        np.testing.assert_array_equal(alone.start[0], whole.start[number])


def test_each_stem_is_shifted_by_its_own_draw():
    positions, shift = np.array([500, 700]), np.array([30, 9])
    numbers = np.arange(8000)
    base = Planner(1, STEMS, positions)(numbers)
    late = Planner(1, STEMS, positions, shift=shift, first=np.array([-100]))(numbers)
    np.testing.assert_array_equal(late.track, base.track)
    offsets = late.start - base.start + 100
    for track, most in enumerate(shift):
        for stem in range(3):
            drawn = offsets[base.track[:, 0] == track, stem]
            assert stats.chisquare(np.bincount(drawn, minlength=most + 1)).pvalue > 1e-4
    assert np.abs(np.corrcoef(offsets.T / shift[base.track].T) - np.eye(3)).max() < 5 / np.sqrt(len(numbers))


# The stream


@pytest.mark.parametrize("remix", ["none", "stem", "group"])
def test_batches_equal_a_computation_by_hand(songs, remix):
    cfg = config(songs, remix=remix)
    changed = set()
    for step, batch in enumerate(take(cfg, 6, SOURCES)):
        assert batch["mix"].shape == (4, SEGMENT, 2) and batch["sources"].shape == (4, 2, SEGMENT, 2)
        assert batch["mix"].dtype == batch["sources"].dtype == np.float32
        for position in range(4):
            vocals, drums, bass = by_hand(cfg, 4 * step + position)
            np.testing.assert_array_equal(batch["sources"][position, 0], vocals)
            np.testing.assert_array_equal(batch["sources"][position, 1], drums + bass)
            np.testing.assert_array_equal(batch["mix"][position], vocals + drums + bass)
        plan = planner(cfg)(np.arange(4 * step, 4 * step + 4))
        changed |= {("sign", flag) for flag in plan.sign.flat} | {("swap", flag) for flag in plan.swap.flat}
    assert len(changed) == 4  # every branch was taken


def test_shifted_and_padded_batches_equal_a_computation_by_hand(songs):
    cfg = config(songs, remix="none", shift=300, pad=400, segment=900)
    silent = 0
    for step, batch in enumerate(take(cfg, 8)):
        for position in range(4):
            stems = by_hand(cfg, 4 * step + position)
            np.testing.assert_array_equal(batch["sources"][position], stems)
            np.testing.assert_array_equal(batch["mix"][position], stems[0] + stems[1] + stems[2])
            assert (stems != 0).all(-1).any(1).all()
            silent += (stems == 0).all(-1).sum()
    assert silent > 500  # beyond the ends of songs
    (batch,) = take(config(songs, shift=0, pad=0, segment=900), 1)
    assert (batch["sources"] == 0).all(-1).mean() < 0.01


def test_a_shift_is_in_samples_of_the_model_whatever_the_rate_of_the_file(tmp_path):
    """A song of 20,000 samples at twice the model's rate has room for a shift of 8,000 and not for one of 9,000."""
    write(tmp_path, lengths=(20_000,))
    cfg = config(tmp_path, sample_rate=22050, resample=True, segment=500, shift=500, **PLAIN)
    crops = Crops(open_tracks(cfg.data, "train"), SINGLE, cfg, None)
    starts = np.concatenate([crops.plan(number)[0].start for number in range(400)])
    assert (starts.max(1) - starts.min(1)).max() in range(900, 1001)
    with pytest.raises(JaxsepError, match=r"data\.shift=9000"):
        take(config(tmp_path, sample_rate=22050, resample=True, segment=500, shift=9000, **PLAIN), 1)


@pytest.mark.parametrize("remix", ["none", "stem"])
def test_standardised_songs_have_a_mono_mix_of_unit_deviation(songs, remix):
    cfg = config(songs, standardise=True, remix=remix)
    measured = levels.measure(open_tracks(cfg.data, "train"), cfg)
    for number in range(4):
        mono = song_stems(songs, number).astype(np.float64).sum(0).mean(-1)
        assert measured.mean[number] == pytest.approx(mono.mean(), abs=1e-9)
        assert measured.std[number] == pytest.approx(mono.std(ddof=1) + 1e-8, rel=1e-9)
    for step, batch in enumerate(take(cfg, 3, levels=measured)):
        for position in range(4):
            plan = planner(cfg)([4 * step + position])
            stems = by_hand(cfg, 4 * step + position)
            signed = np.where(plan.sign, -plan.gain, plan.gain)[0]
            mean, std = (values[plan.track[0]] for values in measured)
            expected = ((stems / signed[:, None, None] - mean[:, None, None]) / std[:, None, None]) * signed[
                :, None, None
            ]
            np.testing.assert_allclose(batch["sources"][position], expected, atol=2e-6)
            np.testing.assert_allclose(batch["mix"][position], expected.sum(0), atol=4e-6)
    with pytest.raises(ValueError, match=r"data\.standardise=True"):
        take(cfg, 1)


def test_a_stem_that_is_no_source_is_in_the_mixture_all_the_same(songs):
    cfg = config(songs)
    (batch,) = take(cfg, 1, {"bass": ("bass",)})
    assert batch["sources"].shape == (4, 1, SEGMENT, 2)
    np.testing.assert_array_equal(batch["sources"][2, 0], by_hand(cfg, 2)[2])
    np.testing.assert_array_equal(batch["mix"][2], np.add.reduce(by_hand(cfg, 2)))


def test_sources_may_share_stems_and_stand_in_any_order(songs):
    cfg = config(songs)
    (batch,) = take(cfg, 1, {"low": ("bass", "drums"), "bass": ("bass",), "vocals": ("vocals",)})
    vocals, drums, bass = by_hand(cfg, 1)
    np.testing.assert_array_equal(batch["sources"][1], np.stack([bass + drums, bass, vocals]))


@pytest.mark.parametrize("batch_size", [4, 8])
@pytest.mark.parametrize("changes", [{}, {"remix": "group", "group": 3, "segment": 700, "shift": 300, "pad": 50}])
def test_same_batches_for_any_workers_processes_and_restarts(songs, changes, batch_size):
    cfg = config(songs, batch_size=batch_size, **changes)
    whole = take(cfg, 5, workers=1)
    assert len({batch["mix"].tobytes() for batch in whole}) == 5
    for other in (
        take(cfg, 5, workers=4),
        take(cfg, 2, first_step=0) + take(cfg, 3, first_step=2),
        [
            {key: np.concatenate([part[key] for part in parts]) for key in ("mix", "sources")}
            for parts in zip(*(take(cfg, 5, process_index=p, process_count=2) for p in range(2)), strict=True)
        ],
        [
            {key: np.concatenate([part[key] for part in parts]) for key in ("mix", "sources")}
            for parts in zip(*(take(cfg, 5, process_index=p, process_count=4) for p in range(4)), strict=True)
        ],
    ):
        for left, right in zip(whole, other, strict=True):
            for key in ("mix", "sources"):
                np.testing.assert_array_equal(left[key], right[key])
    other = config(songs, seed=8, batch_size=batch_size, **changes)
    assert not np.array_equal(take(other, 1)[0]["mix"], whole[0]["mix"])


def test_two_operating_system_processes_share_the_same_global_batch(songs, tmp_path):
    """And the other one ends at once, though its threads are reading ahead."""
    program = """
import itertools, json, sys, time
import numpy as np
from ml_collections import ConfigDict
from jaxsep.data.pipeline import Crops, batches
from jaxsep.data.tracks import open_tracks
read = Crops.read
Crops.read = lambda *given: (time.sleep(0.2), read(*given))[1]
config = ConfigDict(json.loads(sys.argv[1]))
tracks = open_tracks(config.data, "train")
sources = {stem: (stem,) for stem in config.data.stems.split(",")}
stream = batches(tracks, sources, config, first_step=3, process_index=1, process_count=2)
np.save(sys.argv[2], np.stack([batch["sources"] for batch in itertools.islice(stream, 2)]))
"""
    cfg, path = config(songs), tmp_path / "share.npy"
    command = [sys.executable, "-c", program, json.dumps(cfg.to_dict()), str(path)]
    environment = os.environ | {"PYTHONHASHSEED": "random"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    shares = [
        [batch["sources"] for batch in take(cfg, 2, first_step=3, process_index=0, process_count=2)],
        np.load(path),
    ]
    whole = np.stack([batch["sources"] for batch in take(cfg, 2, first_step=3)])
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


DISTRIBUTED = """
import itertools, json, sys
import jax
import numpy as np
address, index, count, first_step, steps, out, values = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 4 // int(count))
jax.distributed.initialize(address, int(count), int(index))
from ml_collections import ConfigDict
from jaxsep import training
from jaxsep.data.pipeline import batches
from jaxsep.data.tracks import open_tracks
config = ConfigDict(json.loads(values))
sources = {stem: (stem,) for stem in config.data.stems.split(",")}
index, count = jax.process_index(), jax.process_count()
stream = batches(open_tracks(config.data, "train"), sources, config, first_step=int(first_step),
                 process_index=index, process_count=count)
mesh, found = training.make_mesh(), []
assert mesh.size == 4
for batch in itertools.islice(stream, int(steps)):
    whole = training.put(batch, mesh)["sources"]
    assert len(whole.addressable_shards) == 4 // count
    found.append(np.asarray(jax.jit(lambda x: x, out_shardings=jax.sharding.NamedSharding(
        mesh, jax.sharding.PartitionSpec()))(whole)))
if index == count - 1:
    np.save(out, np.stack(found))
"""


def distributed(cfg: ConfigDict, count: int, first_step: int, steps: int, out: Path) -> np.ndarray:
    """Global batches, as the last of so many processes under jax.distributed sees them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = {key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}
    started = []
    for index in range(count):
        arguments = [address, index, count, first_step, steps, out, json.dumps(cfg.to_dict())]
        command = [sys.executable, "-c", DISTRIBUTED, *map(str, arguments)]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    said = [process.communicate(timeout=300)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * count, said
    return np.load(out)


@pytest.mark.parametrize(
    ("before", "after"),
    [(4, 1), pytest.param(1, 2, marks=pytest.mark.full), pytest.param(2, 4, marks=pytest.mark.full)],
)
def test_a_restart_under_another_number_of_processes_continues_the_same_stream(songs, tmp_path, before, after):
    """Started with jax.distributed on one machine, and put together to global arrays over four devices."""
    cfg = config(songs)
    whole = np.stack([batch["sources"] for batch in take(cfg, 4)])
    first = distributed(cfg, before, 0, 2, tmp_path / "first.npy")
    np.testing.assert_array_equal(first, whole[:2])
    if after > 1:
        np.testing.assert_array_equal(distributed(cfg, after, 2, 2, tmp_path / "second.npy"), whole[2:])
    else:
        np.testing.assert_array_equal(np.stack([b["sources"] for b in take(cfg, 2, first_step=2)]), whole[2:])


def test_what_is_read_ahead_of_a_busy_consumer_is_bounded_and_waiting_shows_in_the_log(songs, monkeypatch):
    """While a step runs two batches are made, the next is begun, and then reading stops: memory does not grow."""
    cfg = config(songs, batch_size=8)
    stream = batches(open_tracks(cfg.data, "train"), SINGLE, cfg, first_step=0, workers=4)
    reads, read = [], stream._crops.read

    def slow(*given):
        time.sleep(0.01)
        reads.append(1)
        return read(*given)

    monkeypatch.setattr(stream._crops, "read", slow)  # of this stream: those of other tests may still read ahead
    next(stream)
    until = time.monotonic() + 60
    while len(reads) < 3 * 8:  # so many without being asked
        assert time.monotonic() < until
        time.sleep(0.05)
    time.sleep(1)
    assert len(reads) <= 4 * 8 + 2 * 4  # the batch handed over, two made, one in the making, and what the threads hold
    progress = log.Progress(0, 9, Work(examples=8, seconds=1.0), out=io.StringIO())
    for _ in range(6):  # a consumer that does nothing but wait
        with progress.waiting("input"):
            next(stream)
    stream.close()
    assert progress.clock(6)["input_wait"] > 0.8


def test_the_original_mixture_is_fed_as_it_is(songs):
    cfg = config(songs, mixture="original", **PLAIN)
    (batch,) = take(cfg, 1)
    plan = planner(cfg)([3])
    path = songs / "train" / f"Song {plan.track[0, 0]}" / "mixture.wav"
    expected = soundfile.read(path, SEGMENT, int(plan.start[0, 0]), dtype="float32")[0]
    np.testing.assert_array_equal(batch["mix"][3], expected)
    np.testing.assert_array_equal(batch["sources"][3], by_hand(cfg, 3))
    for change in ({"remix": "stem"}, {"remix": "group"}, {"gain": (0.5, 1.0)}, {"swap": 0.1}, {"sign": 0.1}):
        with pytest.raises(JaxsepError, match=r"data\.mixture='original'"):
            take(config(songs, mixture="original", **(PLAIN | change)), 1)


def test_a_mono_model_hears_the_mean_of_the_channels(songs):
    stereo, mono = take(config(songs), 1)[0], take(config(songs, channels=1), 1)[0]
    assert mono["mix"].shape == (4, SEGMENT, 1)
    for key in ("mix", "sources"):
        np.testing.assert_array_equal(mono[key], stereo[key].mean(-1, keepdims=True))


def test_mono_files_feed_a_stereo_model_twice(tmp_path):
    cfg = config(write(tmp_path, channels=1))
    (batch,) = take(cfg, 1)
    np.testing.assert_array_equal(batch["mix"][..., 0], batch["mix"][..., 1])
    assert batch["mix"].std() > 0.1
    (mono,) = take(config(tmp_path, channels=1), 1)
    np.testing.assert_array_equal(mono["sources"], batch["sources"][..., :1])


@pytest.mark.parametrize(("suffix", "subtype"), [("flac", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24")])
def test_every_file_format_gives_the_same_batches(songs, tmp_path, suffix, subtype):
    root = tmp_path / "songs"
    for path in songs.rglob("*.wav"):
        target = (root / path.relative_to(songs)).with_suffix(f".{suffix}")
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, soundfile.read(path, dtype="float64")[0], 44100, subtype=subtype)
    (root / "valid").mkdir()
    for left, right in zip(take(config(songs), 2), take(config(root), 2), strict=True):
        np.testing.assert_array_equal(left["sources"], right["sources"])
        np.testing.assert_array_equal(left["mix"], right["mix"])


@pytest.mark.parametrize(("rate", "sample_rate"), [(44100, 22050), (48000, 44100), (32000, 44100)])
def test_a_resampled_crop_is_a_crop_of_the_resampled_song(rate, sample_rate):
    """Edges included: their error stays below that of 24 bits."""
    song = np.random.default_rng(4).standard_normal((40_000, 2)).astype(np.float32)
    whole = soxr.resample(song, rate, sample_rate)
    window = Window(rate, sample_rate, 5001)
    for start in (0, 37 * window.step[0]):
        crop = window.cut(song[start : start + window.span])
        assert crop.shape == (5001, 2)
        first = (start + window.margin) * sample_rate // rate
        assert np.abs(crop - whole[first : first + 5001]).max() < 3e-6


def test_resampling_is_asked_for_and_never_silent(tmp_path):
    write(tmp_path, lengths=(20_000, 30_000))
    with pytest.raises(JaxsepError, match=r"data\.resample=True"):
        take(config(tmp_path, sample_rate=22050), 1)
    cfg = config(tmp_path, sample_rate=22050, resample=True, **PLAIN)
    (batch,) = take(cfg, 1)
    assert batch["mix"].shape == (4, SEGMENT, 2)
    np.testing.assert_allclose(batch["mix"], batch["sources"].sum(1), atol=1e-6)
    assert 0.5 < batch["sources"].std() / (65536 / 32768 / 12**0.5) / 0.5**0.5 < 1.1  # half the band of white noise


def test_a_file_torn_while_training_stops_the_stream_by_name(tmp_path):
    cfg = config(write(tmp_path))
    tracks = open_tracks(cfg.data, "train")
    stream = batches(tracks, SINGLE, cfg, first_step=0)
    next(stream)
    victim = tmp_path / "train" / "Song 2" / "drums.wav"
    os.truncate(victim, 100)
    with pytest.raises(JaxsepError, match=r"Song 2.drums\.wav: truncated") as caught:
        for _ in range(100):
            next(stream)
    assert "\n" not in str(caught.value)


def test_describe_names_the_examples_of_a_global_batch(songs):
    cfg = config(songs)
    stream = batches(open_tracks(cfg.data, "train"), SINGLE, cfg, first_step=0, process_index=1, process_count=2)
    lines = stream.describe(5)
    assert len(lines) == 4
    plan = planner(cfg)(np.arange(20, 24))
    for line, track, start in zip(lines, plan.track, plan.start, strict=True):
        for index, stem in enumerate(STEMS):
            assert f"{stem} 'Song {track[index]}' at {start[index] / 44100:.2f} s" in line


def test_what_cannot_be_streamed_is_refused(songs, tmp_path):
    def refused(match: str, cfg: ConfigDict, sources=SINGLE, **options):
        with pytest.raises(JaxsepError, match=match):
            take(cfg, 1, sources, **options)

    refused(r"'Song 0'.*1000 samples, shorter than the 1001", config(songs, segment=1001))
    refused("data.segment=0", config(songs, segment=0))
    refused("data.batch_size=4", config(songs), process_count=3)
    refused("data.remix='song'", config(songs, remix="song"))
    refused("data.group=1", config(songs, remix="group", group=1))
    refused("data.shift=-1", config(songs, shift=-1))
    refused(r"'Song 0'.*1000 samples, shorter than the 1005.*data.shift=205", config(songs, segment=800, shift=205))
    refused("data.pad=1000", config(songs, pad=1000))
    refused("data.swap=2", config(songs, swap=2.0))
    refused("data.gain", config(songs, gain=(2.0, 1.0)))
    refused("data.mixture='mean'", config(songs, mixture="mean"))
    refused("needs the stem 'piano'", config(songs), {"keys": ("bass", "piano")})
    refused("4 channels", config(write(tmp_path / "quad", channels=4)))
    (write(tmp_path / "unmixed") / "train" / "Song 1" / "mixture.wav").unlink()
    refused(r"'Song 1': no mixture\.wav", config(tmp_path / "unmixed", mixture="original", **PLAIN))
    with pytest.raises(JaxsepError, match="no songs"):
        batches([], SINGLE, config(songs), first_step=0)


def test_a_closed_stream_is_over(songs):
    cfg = config(songs)
    stream = batches(open_tracks(cfg.data, "train"), SINGLE, cfg, first_step=0)
    next(stream)
    stream.close()
    assert list(stream) == []


# The ops


def test_swap_and_level_change_what_they_say():
    stems = np.random.default_rng(1).integers(-32768, 32768, (3, 5, 2)).astype(np.int16)
    swapped = augment.swap(tf.constant(stems), tf.constant([True, False, True])).numpy()
    np.testing.assert_array_equal(swapped, np.stack([stems[0, :, ::-1], stems[1], stems[2, :, ::-1]]))
    levelled = augment.level(tf.constant(stems), tf.constant([0.5, -2.0, 1.0])).numpy()
    np.testing.assert_array_equal(levelled, stems / np.float32(32768) * np.float32([0.5, -2, 1])[:, None, None])
    floats = (stems / 32768).astype(np.float32)
    np.testing.assert_array_equal(augment.level(tf.constant(floats), tf.constant([0.5, -2.0, 1.0])), levelled)


def test_tensorflow_sees_no_accelerator():
    assert not tf.config.get_visible_devices("GPU") and not tf.config.get_visible_devices("TPU")
