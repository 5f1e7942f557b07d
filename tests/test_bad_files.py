"""Files that cannot be read, under `--on-bad-file=skip`: the same stream for all processes, and never zeros."""

import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxsep.config import defaults
from jaxsep.data import pipeline
from jaxsep.data.pipeline import Crops, batches
from jaxsep.data.roll import Roll
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError

STEMS = ("vocals", "drums")
SINGLE = {stem: (stem,) for stem in STEMS}
SEGMENT = 2000


@pytest.fixture
def root(tmp_path) -> Path:
    """Six songs of noise, in which no sample is 0."""
    for number in range(6):
        for index, stem in enumerate(STEMS):
            path = tmp_path / "songs" / "train" / f"song {number}" / f"{stem}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, index]).integers(1, 30000, (40_000, 2)).astype(np.int16)
            soundfile.write(path, noise, 44100)
    (tmp_path / "songs" / "valid").mkdir()
    return tmp_path / "songs"


def config(root: Path, **data):
    cfg = defaults()
    cfg.data.update(root=str(root), stems=",".join(STEMS), segment=SEGMENT, remix="stem", **data)
    return cfg.lock()


def take(tracks, cfg, steps: int, skip=True, **options) -> tuple[np.ndarray, dict]:
    stream = batches(tracks, SINGLE, cfg, first_step=options.pop("first_step", 0), skip=skip, **options)
    made = np.stack([batch["sources"] for batch in itertools.islice(stream, steps)])
    stream.close()
    return made, stream.unreadable


def tear(path: Path) -> None:
    """Garbage in the middle of a FLAC, which its header does not show."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 3)
        file.write(bytes(size // 3))


def test_examples_with_a_torn_file_are_drawn_anew_and_the_others_stay(root):
    cfg = config(root)
    tracks = open_tracks(cfg.data, "train")
    sound, unreadable = take(tracks, cfg, 12)
    assert not unreadable
    victim = root / "train" / "song 2" / "drums.flac"
    tear(victim)
    with pytest.raises(JaxsepError, match=r"song 2.drums\.flac"):
        take(tracks, cfg, 12, skip=False)
    made, unreadable = take(tracks, cfg, 12, workers=1)
    changed = (made != sound).any((2, 3, 4))
    (found,) = unreadable.items()
    assert found[0] == str(victim) and "drums.flac" in found[1][0] and changed.sum() <= found[1][1]
    assert 1 <= changed.sum() <= 12 and (made != 0).all()
    # Each of the others is the one of a number that no run reaches.
    crops = Crops(tracks, SINGLE, cfg, None)
    for step, position in np.argwhere(changed):
        number = 4 * int(step) + int(position)
        assert crops.plan(number)[0].track[0, 1] == 2
        attempt = next(a for a in range(1, 9) if crops.plan(number + a * pipeline.FAR)[0].track[0, 1] != 2)
        plan, _ = crops.plan(number + attempt * pipeline.FAR)
        counts = crops.counts(crops.changer(number, plan))
        expected = crops.read(plan, counts).reshape(2, SEGMENT, 2) / np.float32(32768)
        np.testing.assert_array_equal(made[step, position], expected)
    # The same for any number of processes and after a restart with another one.
    parts = [take(tracks, cfg, 12, process_index=p, process_count=4)[0] for p in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), made)
    np.testing.assert_array_equal(take(tracks, cfg, 5, first_step=7)[0], made[7:])


def test_described_are_the_examples_that_were_made(root):
    cfg = config(root)
    tracks = open_tracks(cfg.data, "train")
    shutil.rmtree(root / "train" / "song 2")
    stream = batches(tracks, SINGLE, cfg, first_step=0, skip=True)
    lines = [line for step in range(8) for line in stream.describe(step)]
    assert len(lines) == 32 and not any("song 2" in line for line in lines)
    stream.close()


def test_data_that_is_gone_altogether_stops_the_run(root):
    cfg = config(root)
    tracks = open_tracks(cfg.data, "train")
    shutil.rmtree(root)
    with pytest.raises(JaxsepError, match="song"):
        take(tracks, cfg, 1)


def call(roll: Roll, cfg, whole=False):
    return roll.call("train", lambda refused: open_tracks(cfg.data, "train", None, refused), whole)


def test_what_cannot_be_opened_at_the_first_start_is_not_in_the_plan(root, tmp_path):
    cfg = config(root)
    victim = root / "train" / "song 3" / "drums.flac"
    content = victim.read_bytes()
    victim.write_bytes(b"fLaC")
    with pytest.raises(JaxsepError, match="song 3"):
        call(Roll(tmp_path), cfg)
    roll = Roll(tmp_path, skip=True)
    tracks = call(roll, cfg)
    assert [track.name[-1] for track in tracks] == ["0", "1", "2", "4", "5"]
    assert len(roll.left_out) == 1 and "train: song 3 is left out" in roll.left_out[0]
    roll.save()
    first, _ = take(tracks, cfg, 6)
    assert (first != 0).all()
    # The plan is fixed: a file that is mended later does not come in.
    victim.write_bytes(content)
    later = Roll(tmp_path, skip=True)
    tracks = call(later, cfg)
    assert len(tracks) == 5 and "not in the plan since" in later.left_out[0]
    np.testing.assert_array_equal(take(tracks, cfg, 6)[0], first)


@pytest.mark.parametrize("how", ["gone", "torn", "another"])
def test_a_song_lost_between_two_starts_moves_no_other_song(root, tmp_path, how):
    cfg = config(root)
    roll = Roll(tmp_path)  # the run began without --on-bad-file=skip
    whole, _ = take(call(roll, cfg), cfg, 8)
    roll.save()
    saved = (tmp_path / "songs.json").read_text()
    folder = root / "train" / "song 1"
    if how == "gone":
        shutil.rmtree(folder)
    elif how == "torn":
        os.truncate(folder / "vocals.flac", 30)
    else:
        soundfile.write(folder / "vocals.flac", np.ones((100, 2), np.int16), 44100)
        soundfile.write(folder / "drums.flac", np.ones((100, 2), np.int16), 44100)
    again = Roll(tmp_path, skip=True)
    tracks = call(again, cfg)
    again.save()
    assert (tmp_path / "songs.json").read_text() == saved
    assert [track.length for track in tracks] == [40_000] * 6 and len(again.left_out) == 1
    made, unreadable = take(tracks, cfg, 8)
    changed = (made != whole).any((2, 3, 4))
    hit = (Crops(tracks, SINGLE, cfg, None).planner(np.arange(32)).track == 1).any(1).reshape(8, 4)
    np.testing.assert_array_equal(changed, hit)
    assert hit.any() and (made != 0).all() and sum(count for _, count in unreadable.values()) >= hit.sum()


def test_where_songs_are_measured_they_are_read_from_end_to_end_first(root, tmp_path):
    tear(root / "train" / "song 4" / "vocals.flac")
    cfg = config(root)
    assert len(call(Roll(tmp_path, skip=True), cfg)) == 6
    roll = Roll(tmp_path, skip=True)
    assert [track.name[-1] for track in call(roll, cfg, whole=True)] == ["0", "1", "2", "3", "5"]
    assert "vocals.flac" in roll.left_out[0]


def test_nothing_left_and_a_damaged_roll_are_named(root, tmp_path):
    for path in root.rglob("*.flac"):
        path.write_bytes(b"")
    with pytest.raises(JaxsepError, match="no song can be read"):
        call(Roll(tmp_path, skip=True), config(root))
    (tmp_path / "songs.json").write_text(json.dumps({})[:1])
    with pytest.raises(JaxsepError, match=r"songs\.json: damaged"):
        Roll(tmp_path)
