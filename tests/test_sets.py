"""Several data sets in one stream, and collections of single stems among them."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from jaxsep.config import add_further, defaults
from jaxsep.data import loudness, sets
from jaxsep.data.pipeline import Crops, batches
from jaxsep.data.readers import to_float
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError

STEMS = ("vocals", "drums", "other")
SINGLE = {stem: (stem,) for stem in STEMS}
SEGMENT = 400


def noise(seed, length: int, level=0.1) -> np.ndarray:
    return level * np.random.default_rng(seed).uniform(-1, 1, (length, 2)).astype(np.float32)


def write_songs(root: Path, levels: np.ndarray, seed: int, stems=STEMS) -> None:
    """Songs of noise, of these levels [songs stems]."""
    for number, song in enumerate(levels):
        for stem, level in zip(stems, song, strict=True):
            path = root / "train" / f"song {number}" / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise([seed, number, STEMS.index(stem)], 1500 + 100 * number, level), 44100)
    (root / "valid").mkdir()


def write_singles(root: Path, files: dict[str, list[int]], level=0.05) -> Path:
    """Files of noise, of these lengths."""
    for folder, lengths in files.items():
        for number, length in enumerate(lengths):
            path = root / folder / ("a", "b/c")[number % 2] / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise([len(folder), number], length, level * 1.3**number), 44100)
    return root


LEVELS = np.array([[0.5, 0.3, 0.1], [0.2, 0.6, 0.3], [0.05, 0.2, 0.4], [0.9, 0.1, 0.2]])  # peaks of uniform noise
FILES = {"vocals": [5000, 1000], "drums": [250, 3000, 750], "keys": [2000, 2000, 2000, 2000]}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_songs(folder / "first", LEVELS, 1)
    write_songs(folder / "second", np.full((2, 2), 0.2), 2, stems=("drums", "other"))
    write_singles(folder / "singles", FILES)
    return folder


def config(root: Path, also: dict[str, dict], **data) -> ConfigDict:
    cfg = defaults()
    cfg.seed = 5
    cfg.data.update(root=str(root / "first"), stems=",".join(STEMS), segment=SEGMENT, **data)
    cfg.sources = cfg.data.stems
    for name, block in also.items():
        add_further(cfg, name, **{"root": str(root / name)} | block)
    return cfg.lock()


SECOND = {"odds": 0.25, "missing": "silence"}
KEYS = {"source": "singles", "odds": 0.4, "instruments": ("keys=other",), "match": False}


def opened(cfg: ConfigDict):
    """Songs and further data sets, with the levels that collections are to have."""
    songs, further = open_tracks(cfg.data, "train"), sets.open_sets(cfg)
    for index, each in enumerate(further):
        if each.matched:
            found = loudness.measure(songs, each.tracks, cfg)
            further[index] = dataclasses.replace(each, loudness=found)
    return songs, further


def crops(cfg: ConfigDict) -> Crops:
    songs, further = opened(cfg)
    return Crops(songs, SINGLE, cfg, None, further)


def take(cfg: ConfigDict, count: int, first_step=0, **options) -> np.ndarray:
    """The sources of so many batches, [batches b s t c]."""
    songs, further = opened(cfg)
    stream = batches(songs, SINGLE, cfg, first_step=first_step, sets=further, **options)
    made = np.stack([batch["sources"] for batch in itertools.islice(stream, count)])
    stream.close()
    return made


def example(known: Crops, number: int) -> np.ndarray:
    """The stems [k t c] of a sample number, without TensorFlow."""
    plan, _ = known.plan(number)
    changes = known.changer(number, plan)
    samples = known.read(plan, known.counts(changes)).reshape(len(known.rows), known.segment, -1)
    return to_float(samples) * known.level(plan, changes)[0][:, None, None]


@pytest.mark.parametrize("remix", ["none", "stem", "group"])
def test_an_example_is_of_one_data_set_by_the_odds_and_else_what_it_was(root, remix):
    """Songs 0 to 3 are the first set's, 4 and 5 the second's, the collection's files follow, the last is silence."""
    plain = crops(config(root, {}, remix=remix, gain=(0.5, 1.0), sign=0.5)).planner
    whole = crops(config(root, {"singles": KEYS, "second": SECOND}, remix=remix, gain=(0.5, 1.0), sign=0.5))
    numbers = np.arange(8000)
    before, after = plain(numbers), whole.planner(numbers)
    kind = np.digitize(after.track, [4, 6])
    assert (kind == kind[:, :1]).all()
    np.testing.assert_allclose(np.bincount(kind[:, 0]) / 8000, [0.35, 0.25, 0.4], atol=0.02)
    mine = kind[:, 0] == 0
    for name in ("track", "start", "gain", "sign", "swap"):
        np.testing.assert_array_equal(getattr(after, name)[mine], getattr(before, name)[mine])
    np.testing.assert_array_equal(after.gain, before.gain)
    second = after.track[kind[:, 0] == 1]
    assert (second == second[:, :1]).all() == (remix == "none") and set(second.flat) == {4, 5}
    for index, stem in enumerate(STEMS):
        assert {*STEMS} - {*whole.tracks[4].stems} == set()
        assert all(stem in whole.tracks[track].stems for track in set(after.track[:, index]))
    np.testing.assert_array_equal(whole.planner([77]).start, after.start[77:78])


def test_batches_hold_what_the_plan_says(root):
    cfg = config(root, {"singles": KEYS | {"match": True}, "second": SECOND}, remix="stem", gain=(0.5, 1.0))
    made, known = take(cfg, 15), crops(cfg)
    padded = 0
    for number, stems in enumerate(np.concatenate(made)):
        plan = known.planner([number])
        for index, stem in enumerate(STEMS):
            track, start = known.tracks[plan.track[0, index]], plan.start[0, index]
            wave = to_float(track.read(stem, 0, track.length)) * plan.gain[0, index]
            wave = np.pad(wave, [(max(0, -start), SEGMENT), (0, 0)])[max(0, start) :][:SEGMENT]
            np.testing.assert_allclose(stems[index], wave * np.ones((1, 2)), atol=1e-6)
            padded += 0 < track.length < SEGMENT and np.abs(wave).max() > 0.01
            if 4 <= plan.track[0, index] < 6 and stem == "vocals":
                assert not stems[index].any()
    assert padded  # files shorter than the segment were heard


def test_each_second_of_a_stem_is_heard_as_often_as_any_other(root):
    known = crops(config(root, {"singles": KEYS | {"odds": 1.0}}))
    plan = known.planner(np.arange(20_000))
    for index, folder in enumerate(FILES):
        files = [number for number, track in enumerate(known.tracks) if track.name.startswith(folder)]
        lengths = np.array([known.tracks[number].length for number in files])
        assert sorted(lengths) == sorted(FILES[folder])
        heard = (plan.track[:, index] == np.array(files)[:, None]).mean(axis=1)
        np.testing.assert_allclose(heard, lengths / lengths.sum(), atol=0.02)
    room = np.array([track.length for track in known.tracks])[plan.track] - SEGMENT
    assert ((np.minimum(room, 0) <= plan.start) & (plan.start <= np.maximum(room, 0))).all()
    for exact in (room, np.zeros_like(room)):  # both ends are reached
        assert (plan.start == exact)[np.abs(room) < 200].any()
    assert np.abs(np.corrcoef(plan.start.T) - np.eye(3)).max() < 0.05


def test_proportions_say_how_often_a_stem_is_heard(root):
    known = crops(config(root, {"singles": KEYS | {"odds": 1.0, "proportions": (2, 3, 1)}}))
    plan = known.planner(np.arange(20_000))
    silence = len(known.tracks) - 1
    np.testing.assert_allclose((plan.track != silence).mean(0), [2 / 3, 1, 1 / 3], atol=0.02)
    both = (plan.track[:, [0, 2]] != silence).all(1).mean()
    assert both == pytest.approx(2 / 9, abs=0.02)  # each for itself
    for number in range(9):
        np.testing.assert_array_equal((example(known, number) == 0).all((1, 2)), plan.track[number] == silence)


@pytest.mark.parametrize("proportions", [(), (2, 3, 2)])
def test_matched_mixes_are_as_loud_as_the_songs_of_the_first_data_set(root, proportions):
    """Mean and deviation, over examples, of the mix's level in decibels; and each stem's."""

    def levels(cfg: ConfigDict) -> np.ndarray:
        known = crops(cfg)
        found = np.stack([example(known, number) for number in range(600)])
        whole = np.concatenate([found, found.sum(1, keepdims=True)], axis=1)
        return 10 * np.log10((whole.astype(np.float64) ** 2).mean((2, 3)) + 1e-30)

    block = KEYS | {"odds": 1.0, "proportions": proportions}
    # Whole files only: an example of a short one is mostly silence.
    whole = write_singles(root / f"long {len(proportions)}", {name: [5000] * len(n) for name, n in FILES.items()})
    reference = levels(config(root, {}))
    before, after = (levels(config(root, {whole.name: block | {"match": match}})) for match in (False, True))
    assert before[:, -1].mean() < reference[:, -1].mean() - 5
    assert after[:, -1].mean() == pytest.approx(reference[:, -1].mean(), abs=0.4)
    assert after[:, -1].std() == pytest.approx(reference[:, -1].std(), abs=0.4)
    if not proportions:  # each example has the levels of all stems of one song, and every song its turn
        songs = 20 * np.log10(LEVELS / 3**0.5)
        apart = np.abs(after[:, None, :3] - songs).max(axis=2)
        assert apart.min(axis=1).max() < 1
        np.testing.assert_allclose(np.bincount(apart.argmin(axis=1)) / len(after), 1 / 4, atol=0.07)


def test_levels_are_measured_once_per_run(root, tmp_path, capsys):
    cfg = config(root, {"singles": KEYS | {"match": True}, "second": SECOND})
    songs, further = open_tracks(cfg.data, "train"), sets.open_sets(cfg)
    first = sets.match(tmp_path, further, songs, cfg, "a")
    assert "levels of 4 songs and 9 single stems" in capsys.readouterr().out
    again = sets.match(tmp_path, further, songs, cfg, "a")
    assert capsys.readouterr().out == ""
    assert [each.name for each in first] == ["second", "singles"] and first[0].loudness is None
    assert first[1].loudness is not None and again[1].loudness is not None
    for left, right in zip(first[1].loudness, again[1].loudness, strict=True):
        np.testing.assert_array_equal(left, right)
    wave = to_float(songs[2].read("drums", 0, songs[2].length)).astype(np.float64)
    assert first[1].loudness.reference[2, 1] == pytest.approx(np.sqrt((wave**2).mean()), rel=1e-12)
    with pytest.raises(JaxsepError, match="of other data"):
        sets.match(tmp_path, further, songs, cfg, "b")


def test_same_batches_for_any_processes_and_restarts(root):
    cfg = config(root, {"singles": KEYS | {"match": True, "proportions": (2, 3, 2)}, "second": SECOND}, remix="group")
    whole = take(cfg, 4, workers=1)
    parts = [take(cfg, 4, process_index=index, process_count=4, workers=2) for index in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)
    np.testing.assert_array_equal(take(cfg, 2, first_step=2), whole[2:])


def test_what_does_not_fit_is_named(root, tmp_path):
    def refused(match: str, also: dict[str, dict], **data):
        with pytest.raises(JaxsepError, match=match) as caught:
            crops(config(root, also, **data))
        assert "\n" not in str(caught.value)

    refused(r"data\.also\.singles\.odds=0", {"singles": KEYS | {"odds": 0}})
    refused("the odds are 1.4 together", {"singles": KEYS | {"odds": 0.9}, "second": SECOND | {"odds": 0.5}})
    refused("did you mean 'root'", {"second": {"roots": "x"}})
    refused(r"data\.also\.second: .*no file for the stem 'vocals'", {"second": {"odds": 0.5}})
    refused("keys: not a stem.*'keys=STEM'", {"singles": KEYS | {"instruments": ()}})
    refused("no .wav or .flac for the stem 'other'", {"singles": KEYS | {"instruments": ("keys=",)}})
    refused("is not a folder", {"nowhere": KEYS})
    refused("did you mean 'singles'", {"singles": KEYS | {"source": "single"}})
    refused("proportions.*each of vocals, drums, other", {"singles": KEYS | {"proportions": (1, 2)}})
    refused("songs have their own", {"second": SECOND | {"proportions": (1, 2, 3)}})
    refused(r"data\.standardise=False", {"singles": KEYS}, standardise=True)
    silent = write_singles(tmp_path / "singles", FILES)
    soundfile.write(silent / "drums" / "a" / "0.wav", np.zeros((300, 2)), 44100)
    refused("0.wav: silent from end to end", {"singles": KEYS | {"match": True, "root": str(silent)}})
    (silent / "drums" / "a" / "0.wav").write_bytes(b"RIFF")
    refused(r"data\.also\.singles: .*0\.wav", {"singles": KEYS | {"root": str(silent)}})
