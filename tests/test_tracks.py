import importlib.util
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from jaxsep import audio
from jaxsep.config import defaults
from jaxsep.data import tracks as tracks_module
from jaxsep.data.readers import PlainWav, Reader, open_reader, to_float
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError

STEMS = ("vocals", "drums", "bass", "other")
# The validation songs of MUSDB18 as published, independent of the package that the code asks.
VALID = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
    "Skelpolu - Human Mistakes",
    "Young Griffo - Pennies",
    "ANiMAL - Rockshow",
    "James May - On The Line",
    "Meaxic - Take A Step",
    "Traffic Experiment - Sirens",
)


def noise(seed: int, length: int = 50, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, (length, channels)).astype(np.int16)


def song(folder: Path, stems=STEMS, length=50, channels=2, rate=44100, suffix="wav", seed=0) -> Path:
    folder.mkdir(parents=True)
    for number, stem in enumerate(stems):
        soundfile.write(folder / f"{stem}.{suffix}", noise(seed + number, length, channels), rate)
    return folder


def data(root: Path | str, source="folder", stems="vocals,drums,bass,other", **keys) -> ConfigDict:
    block = defaults().data
    block.update(source=source, root=str(root), stems=stems, **keys)
    return block


def refusal(*args) -> str:
    with pytest.raises(JaxsepError) as caught:
        open_tracks(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("suffix", "subtype", "reader", "dtype"),
    [
        ("wav", "PCM_16", PlainWav, np.int16),
        ("wav", "FLOAT", Reader, np.float32),
        ("wav", "PCM_24", Reader, np.float32),
        ("flac", "PCM_16", Reader, np.int16),
        ("flac", "PCM_24", Reader, np.float32),
    ],
)
def test_every_format_reads_what_soundfile_reads_from_any_position(tmp_path, suffix, subtype, reader, dtype):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, to_float(noise(1, 20_000)) * np.float32(0.7), 48000, subtype=subtype)
    opened = open_reader(path)
    assert type(opened) is reader and opened.dtype == dtype
    assert (opened.rate, opened.channels, opened.length) == (48000, 2, 20_000)
    whole = soundfile.read(path, dtype="float32")[0]
    for start, count in ((0, 20_000), (0, 1), (7777, 1234), (19_999, 1)):
        samples = opened.read(start, count)
        assert samples.dtype == dtype
        np.testing.assert_array_equal(to_float(samples), whole[start : start + count])


def test_wav_with_foreign_chunks_and_extensible_format(tmp_path):
    """Editors write chunks before and after the samples, of odd size too."""
    path = tmp_path / "a.wav"
    samples = noise(2, 100)
    soundfile.write(path, samples, 44100, format="WAVEX", subtype="PCM_16")
    body = path.read_bytes()
    at = body.index(b"fmt ")
    path.write_bytes(body[:at] + b"LIST\x05\x00\x00\x00hello\x00" + body[at:] + b"id3 \x02\x00\x00\x00ab")
    reader = open_reader(path)
    assert isinstance(reader, PlainWav)
    np.testing.assert_array_equal(reader.read(10, 90), samples[10:])


@pytest.mark.parametrize("suffix", ["wav", "flac"])
@pytest.mark.parametrize("content", [b"", b"RIFF", b"garbage" * 99, b"RIFF\x00\x00\x00\x00WAVEfmt "])
def test_what_is_not_audio_is_named(tmp_path, suffix, content):
    path = tmp_path / f"torn.{suffix}"
    path.write_bytes(content)
    with pytest.raises(JaxsepError, match=f"torn.{suffix}"):
        open_reader(path)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_truncated_wav_is_refused_when_it_is_opened(tmp_path, subtype):
    path = tmp_path / "torn.wav"
    soundfile.write(path, to_float(noise(3)), 44100, subtype=subtype)
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(JaxsepError, match=r"torn\.wav: truncated"):
        open_reader(path)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_that_is_torn_or_removed_later_is_named_by_the_read(tmp_path, suffix):
    path = tmp_path / f"torn.{suffix}"
    soundfile.write(path, noise(3, 50_000), 44100)
    reader = open_reader(path)
    os.truncate(path, path.stat().st_size // 2)
    assert reader.read(0, 100).shape == (100, 2)
    with pytest.raises(JaxsepError, match=f"torn.{suffix}"):
        reader.read(49_000, 1000)
    path.unlink()
    with pytest.raises(JaxsepError, match=f"torn.{suffix}"):
        reader.read(0, 100)


def test_stem_folder_of_any_stem_names_sorted_by_name(tmp_path):
    song(tmp_path / "train" / "Öl & Wasser", ("kick", "keys", "mixture"), suffix="flac", seed=10)
    song(tmp_path / "train" / "A song", ("keys", "kick", "unused"), channels=1, seed=20)
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "valid").mkdir()
    first, second = open_tracks(data(tmp_path, stems="kick,keys"), "train")
    assert (first.name, second.name) == ("A song", "Öl & Wasser")
    assert list(second.stems) == ["kick", "keys"] and second.mixture is not None and first.mixture is None
    assert (first.split, first.rate, first.channels, first.length) == ("train", 44100, 1, 50)
    np.testing.assert_array_equal(first.read("kick", 3, 40), noise(21, channels=1)[3:43])
    np.testing.assert_array_equal(second.read("mixture", 3, 40), noise(12)[3:43])
    whole = second.audio(["keys", "kick"])
    np.testing.assert_array_equal(whole, np.stack([noise(11), noise(10)]) / np.float32(32768))
    with pytest.raises(JaxsepError, match="unused"):
        first.read("unused", 0, 1)
    with pytest.raises(JaxsepError, match=r"kick\.wav"):
        first.read("kick", 40, 11)


def test_a_mono_stem_beside_stereo_ones_is_doubled(tmp_path):
    folder = song(tmp_path / "test" / "A", ("a",))
    soundfile.write(folder / "b.wav", noise(9, channels=1), 44100)
    (track,) = open_tracks(data(tmp_path, stems="a,b"), "test")
    assert track.channels == 2
    np.testing.assert_array_equal(track.read("b", 0, 50), noise(9, channels=1)[:, [0, 0]])


def test_stems_are_missing_only_where_the_config_says_so(tmp_path):
    song(tmp_path / "test" / "A", ("a", "b"))
    song(tmp_path / "test" / "B", ("b",))
    message = refusal(data(tmp_path, stems="a,b"), "test")
    assert "B: no file for the stem 'a'" in message and "data.missing='silence'" in message
    first, second = open_tracks(data(tmp_path, stems="a,b", missing="silence"), "test")
    np.testing.assert_array_equal(first.read("a", 0, 50), noise(0))
    np.testing.assert_array_equal(second.read("b", 5, 45), noise(0)[5:])
    silence = second.read("a", 5, 45)
    assert silence.shape == (45, 2) and silence.dtype == np.int16 and not silence.any()
    (tmp_path / "test" / "C").mkdir()
    assert "C: no file" in refusal(data(tmp_path, stems="a,b", missing="silence"), "test")
    assert "did you mean 'silence'" in refusal(data(tmp_path, missing="silent"), "test")


def test_files_of_a_folder_may_be_summed_to_a_stem_or_stand_in_for_it(tmp_path):
    song(tmp_path / "test" / "A", ("drums", "piano", "synth", "other"))
    table = ("piano=other", "synth=other", "other=other")
    (track,) = open_tracks(data(tmp_path, stems="drums,other", instruments=table), "test")
    np.testing.assert_array_equal(track.read("drums", 10, 9), noise(0)[10:19])
    expected = sum(noise(seed).astype(np.float32) for seed in (1, 2, 3)) / 32768
    np.testing.assert_allclose(track.read("other", 0, 50), expected, atol=1e-6)
    np.testing.assert_array_equal(track.read("other", 7, 11), track.read("other", 0, 50)[7:18])
    (track,) = open_tracks(data(tmp_path, stems="drums,other", instruments=("synth=other", "other=")), "test")
    np.testing.assert_array_equal(track.read("other", 0, 50), noise(2))
    assert "expected 'instrument=stem'" in refusal(data(tmp_path, instruments=("piano",)), "test")
    assert "did you mean 'other'" in refusal(data(tmp_path, instruments=("piano=othr",)), "test")
    soundfile.write(tmp_path / "test" / "A" / "synth.wav", noise(2, 49), 44100)
    assert "synth.wav: length 49" in refusal(data(tmp_path, stems="drums,other", instruments=table), "test")


def test_musdb18_hq_without_valid_folder_takes_the_published_validation_songs_out_of_train(tmp_path):
    others = {"A Classic Education - NightOwl", "Zeno - Signs"}
    for name in (*VALID, *others):
        song(tmp_path / "train" / name, (*STEMS, "mixture"))
    song(tmp_path / "test" / "Al James - Schoolboy Facination")
    assert {track.name for track in open_tracks(data(tmp_path), "valid")} == set(VALID)
    assert {track.name for track in open_tracks(data(tmp_path), "train")} == others
    assert [track.name for track in open_tracks(data(tmp_path), "test")] == ["Al James - Schoolboy Facination"]
    (tmp_path / "valid").mkdir()
    assert len(open_tracks(data(tmp_path), "train")) == 16
    (tmp_path / "valid").rmdir()
    for name in VALID[:5]:
        shutil.rmtree(tmp_path / "train" / name)
    assert {track.name for track in open_tracks(data(tmp_path), "valid")} == set(VALID[5:])


def test_other_data_without_valid_folder_is_all_train(tmp_path, monkeypatch):
    song(tmp_path / "train" / "Mine")
    assert [track.name for track in open_tracks(data(tmp_path), "train")] == ["Mine"]
    assert "it has 0 of the 14" in refusal(data(tmp_path), "valid")
    monkeypatch.setattr(tracks_module.importlib.util, "find_spec", lambda name: None)
    assert "pip install musdb" in refusal(data(tmp_path), "train")


def test_what_does_not_fit_is_named_with_the_fix(tmp_path):
    (tmp_path / "valid").mkdir()
    assert "no such folder" in refusal(data(tmp_path), "train")
    (tmp_path / "train").mkdir()
    assert "no songs" in refusal(data(tmp_path), "train")
    folder = song(tmp_path / "train" / "Song one")
    (folder / "bass.wav").unlink()
    message = refusal(data(tmp_path), "train")
    assert "Song one" in message and "'bass'" in message and "jaxsep data check" in message
    soundfile.write(folder / "bass.wav", noise(0, 49), 44100)
    assert "bass.wav: length 49 samples, but vocals.wav has 50" in refusal(data(tmp_path), "train")
    soundfile.write(folder / "bass.wav", noise(0), 48000)
    assert "bass.wav: rate 48000 Hz, but vocals.wav has 44100" in refusal(data(tmp_path), "train")
    soundfile.write(folder / "bass.wav", noise(0, channels=3), 44100)
    assert "channels" in refusal(data(tmp_path), "train")
    soundfile.write(folder / "bass.flac", noise(0), 44100)
    assert "keep one" in refusal(data(tmp_path), "train")
    (tmp_path / "train" / "Song two").mkdir()
    assert "Song two" in refusal(data(tmp_path), "train") or "Song one" in refusal(data(tmp_path), "train")
    assert "data.root" in refusal(data(tmp_path / "nowhere"), "train")
    assert "did you mean 'folder'" in refusal(data(tmp_path, source="folders"), "train")
    assert "not a stem" in refusal(data(tmp_path, stems="vocals,mixture"), "train")
    assert "expected one of train" in refusal(data(tmp_path), "validation")


def test_an_empty_song_folder_is_named(tmp_path):
    (tmp_path / "test" / "Nothing here").mkdir(parents=True)
    assert "Nothing here" in refusal(data(tmp_path), "test")


def test_a_thousand_songs_open_in_seconds(tmp_path):
    first = song(tmp_path / "test" / "0000", length=10)
    for number in range(1, 1000):
        folder = tmp_path / "test" / f"{number:04d}"
        folder.mkdir()
        for stem in STEMS:
            os.link(first / f"{stem}.wav", folder / f"{stem}.wav")
    start = time.process_time()  # of all threads; the clock on the wall also shows what else the machine does
    opened = open_tracks(data(tmp_path), "test")
    assert time.process_time() - start < 5
    assert [track.name for track in opened] == [f"{number:04d}" for number in range(1000)]


def test_built_in_songs_are_made_once_in_the_run_folder(tmp_path):
    cfg = data("", "builtin")
    cfg.songs = {"train": 2, "valid": 1, "test": 1, "seconds": 4.0, "seed": 3}
    songs = {split: open_tracks(cfg, split, tmp_path) for split in ("train", "valid", "test")}
    assert {split: len(tracks) for split, tracks in songs.items()} == {"train": 2, "valid": 1, "test": 1}
    assert len({track.name for tracks in songs.values() for track in tracks}) == 4
    assert all(track.length == 176_400 and track.rate == 44100 for track in songs["train"])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "songs").rglob("*.wav")}
    assert len(written) == 16
    open_tracks(cfg, "train", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "songs").rglob("*.wav")} == written
    assert "name a folder" in refusal(cfg, "train")


@pytest.fixture
def musdb18(tmp_path) -> Path:
    """The one song of MUSDB18 that the package stempeg ships, six seconds of it, as a data set of one song."""
    spec = importlib.util.find_spec("stempeg")
    if spec is None or spec.origin is None:
        pytest.skip("needs the song that the package stempeg ships")
    song = Path(spec.origin).parent / "data" / "The Easton Ellises - Falcon 69.stem.mp4"
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / song.name).symlink_to(song)
    return tmp_path


def test_musdb18_stem_mp4(musdb18):
    cfg = data(musdb18, "musdb18", "vocals,drums,bass,other")
    (track,) = open_tracks(cfg, "test")
    assert track.name == "The Easton Ellises - Falcon 69" and list(track.stems) == list(STEMS)
    assert (track.rate, track.channels) == (44100, 2) and 6 < track.length / track.rate < 6.1
    stems, _ = audio.read_stems(musdb18 / "test" / f"{track.name}.stem.mp4")
    for stem in (*STEMS, "mixture"):
        np.testing.assert_array_equal(track.read(stem, 0, track.length), stems[stem])
        np.testing.assert_array_equal(track.read(stem, 100_001, 5000), stems[stem][100_001:105_001])
    powers = track.audio(["vocals", "bass"]).std(axis=(1, 2))
    assert powers.shape == (2,) and abs(powers[0] / powers[1] - 1) > 0.01
    assert "did you mean 'vocals'" in refusal(data(musdb18, "musdb18", "vocal"), "test")
    assert "train" in refusal(cfg, "train")


def test_songs_that_cannot_be_opened_are_handed_over_where_they_may_be_missing(tmp_path):
    for name in ("a", "c"):
        song(tmp_path / "test" / name)
    song(tmp_path / "test" / "b", stems=("vocals", "drums", "bass"))
    (song(tmp_path / "test" / "d") / "bass.wav").write_bytes(b"")
    refused = {}
    tracks = open_tracks(data(tmp_path), "test", None, lambda name, error: refused.update({name: str(error)}))
    assert [track.name for track in tracks] == ["a", "c"]
    assert set(refused) == {"b", "d"} and "'other'" in refused["b"] and "bass.wav" in refused["d"]
