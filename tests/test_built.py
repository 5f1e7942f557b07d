"""Built data sets: what is written is the source bit for bit, whatever stops the writing, and training cannot tell."""

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from jaxsep import audio, memory
from jaxsep.config import defaults
from jaxsep.data.built import build, runners, samples, store, writing
from jaxsep.data.built.loudness import k_filter, loudness
from jaxsep.data.pipeline import batches
from jaxsep.data.readers import to_float
from jaxsep.data.tracks import MIXTURE, open_tracks
from jaxsep.errors import JaxsepError

ROOT = Path(__file__).parent.parent
RATE = 1000  # seconds are short, songs of few samples have many records
STEMS = ("bass", "drums", "vocals")
# (suffix, subtype, channels) of a song's stems; every sample format beside mono and stereo
KINDS = {
    "a": ("wav", "PCM_16", 2),
    "b": ("flac", "PCM_24", 2),
    "c": ("wav", "FLOAT", 1),
    "é": ("flac", "PCM_16", 2),
}


def noise(seed: int, length: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32768, 32768, (length, channels)).astype(np.int16)


def song(folder: Path, length: int, seed: int, kind=KINDS["a"], stems=(*STEMS, MIXTURE)) -> Path:
    """Stems of noise, the second second of whose drums is silent."""
    folder.mkdir(parents=True)
    suffix, subtype, channels = kind
    for number, stem in enumerate(stems):
        wave = noise(100 * seed + number, length, channels)
        wave[RATE : 2 * RATE] *= stem != "drums"
        values = wave if subtype == "PCM_16" else to_float(wave) / np.float32(3 if subtype == "FLOAT" else 4)
        soundfile.write(folder / f"{stem}.{suffix}", values, RATE, subtype=subtype)
    return folder


def serial(jobs):
    """Writes songs here: no test needs the seconds in which processes import everything."""
    return map(writing.attempt, jobs)


def make(root: Path, out: Path, name="stem_folder", **options) -> build.Outcome:
    return build.build(name, root, out, **{"run": serial} | options)


def data(root: Path, source="built", stems=STEMS, **changes) -> ConfigDict:
    block = defaults().data
    block.update(source=source, root=str(root), stems=",".join(stems), **changes)
    return block


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> Path:
    """Songs of all formats; their lengths are and are not whole seconds."""
    root = tmp_path_factory.mktemp("songs")
    for number, (name, kind) in enumerate(KINDS.items()):
        song(root / "train" / name, (4321, 3000, 2999, 3001)[number], number, kind)
    song(root / "valid" / "d", 2500, 8)
    (root / "valid" / ".DS_Store").write_bytes(b"")
    song(root / "test" / "e", 1, 9)
    return root


@pytest.fixture(scope="module")
def built(songs, tmp_path_factory) -> Path:
    outcome = make(songs, tmp_path_factory.mktemp("built"))
    assert (outcome.written, outcome.kept, outcome.failed) == (6, 0, {})
    return outcome.folder


# Samples as bytes


def test_every_sample_format_returns_bit_for_bit_in_the_narrowest_encoding():
    sixteen = np.array([[-32768, 32767], [0, 1], [-1, 257]], np.int16)
    twenty_four = np.array([[-1.0, 1 - 2**-23], [2**-23, -(2**-23)], [0.5, 3 * 2**-15]], np.float32)
    for wave, codec, encoding, size in (
        (sixteen, "pcm", "pcm_s16le", 12),
        (twenty_four, "pcm", "pcm_s24le", 18),
        (np.float32([[1.0, 0.0]]), "pcm", "pcm_f32le", 8),  # +1 is beyond what integers hold
        (np.float32([[-0.0, 0.0]]), "pcm", "pcm_f32le", 8),
        (np.float32([[2**-24, 0.1]]), "pcm", "pcm_f32le", 8),
        (np.float32([[-1.5, 7.0]]), "pcm", "pcm_f32le", 8),
        (sixteen, "flac", "flac", None),
        (twenty_four, "flac", "flac", None),
    ):
        assert samples.encoding_of(wave, codec) == encoding
        packed = samples.pack(wave, encoding, 44100)
        assert size in (None, len(packed))
        found = samples.unpack(memoryview(packed), encoding, 2, wave.dtype)
        assert found.dtype == wave.dtype and found.tobytes() == wave.tobytes()


def test_what_is_not_so_encoded_is_refused():
    with pytest.raises(JaxsepError, match="FLAC cannot"):
        samples.encoding_of(np.float32([[0.1]]), "flac")
    for encoding, channels in (("pcm_s16le", 2), ("pcm_s24le", 1), ("opus", 1)):
        with pytest.raises(JaxsepError, match="rebuild"):
            samples.unpack(b"12345", encoding, channels, np.dtype(np.int16))
    with pytest.raises(JaxsepError, match="damaged FLAC"):
        samples.unpack(b"fLaC but no more", "flac", 2, np.dtype(np.int16))
    with pytest.raises(JaxsepError, match="of 1 channels, expected 2"):
        samples.unpack(samples.pack(noise(1, 9, 1), "flac", 8000), "flac", 2, np.dtype(np.int16))


def test_loudness_is_that_of_the_standard():
    """ITU-R BS.1770-4: its coefficients at 48 kHz, and a full-scale 997 Hz sine on one channel of -3.01 LUFS."""
    (shelf, shelf_poles), (high_pass, high_pass_poles) = k_filter(48000)
    np.testing.assert_allclose(shelf, [1.53512485958697, -2.69169618940638, 1.19839281085285], atol=1e-11)
    np.testing.assert_allclose(shelf_poles, [1.0, -1.69065929318241, 0.73248077421585], atol=1e-11)
    np.testing.assert_allclose(high_pass, [1, -2, 1])
    np.testing.assert_allclose(high_pass_poles, [1.0, -1.99004745483398, 0.99007225036621], atol=1e-11)
    for rate in (44100, 48000):
        sine = np.sin(2 * np.pi * 997 / rate * np.arange(3 * rate + rate // 2))
        left = np.stack([sine, 0 * sine], axis=1).astype(np.float32)
        np.testing.assert_allclose(loudness(left, rate), np.full(4, -3.01), atol=0.02)
        np.testing.assert_allclose(loudness(left[:, [0, 0]] / 2, rate), np.full(4, -6.02), atol=0.02)
        quiet = np.rint(left * 3276.8).astype(np.int16)
        np.testing.assert_allclose(loudness(quiet, rate), np.full(4, -23.01), atol=0.02)
    assert loudness(np.zeros((250, 2), np.int16), 200).tolist() == [-np.inf, -np.inf]
    assert [len(poles) for _, poles in k_filter(3000)] == [3]


# What is written


@pytest.mark.parametrize("codec", ["pcm", "flac"])
def test_every_stem_reads_as_its_source_from_any_position(songs, built, tmp_path, codec):
    folder, sources = built, songs
    if codec == "flac":
        sources = shutil.copytree(songs, tmp_path / "songs")
        shutil.rmtree(sources / "train" / "c")  # floats
        folder = make(sources, tmp_path / "out", codec="flac").folder
    for split in ("train", "valid", "test"):
        expected, found = (
            open_tracks(data(root, source), split) for root, source in ((sources, "folder"), (folder, "built"))
        )
        assert [track.name for track in found] == [track.name for track in expected]
        for left, right in zip(expected, found, strict=True):
            facts = ("split", "rate", "channels", "length")
            assert [getattr(left, fact) for fact in facts] == [getattr(right, fact) for fact in facts]
            assert list(left.stems) == list(right.stems)
            ends = {0, 1, RATE - 1, RATE, RATE + 1, 2 * RATE, left.length - 1, left.length}
            spans = [(a, b) for a, b in itertools.combinations_with_replacement(sorted(ends), 2) if b <= left.length]
            for stem in (*STEMS, MIXTURE):
                assert left.reader(stem).dtype == right.reader(stem).dtype
                for start, end in spans:
                    wave = right.read(stem, start, end - start)
                    assert wave.dtype == left.reader(stem).dtype
                    np.testing.assert_array_equal(wave, left.read(stem, start, end - start))


def test_records_say_what_they_hold_and_tfds_reads_them_without_tensorflow(songs, built):
    program = """
import json, sys
import numpy as np, tensorflow_datasets as tfds
builder = tfds.builder_from_directory(sys.argv[1])
found = {split: [dict(record) for record in builder.as_data_source(split)] for split in builder.info.splits}
text = lambda value: value.decode("latin1") if isinstance(value, bytes) else np.asarray(value).item()
said = {split: [{key: text(record[key]) for key in record} for record in found[split]] for split in found}
json.dump(said, sys.stdout)
assert "tensorflow" not in sys.modules and builder.info.redistribution_info.license
"""
    done = subprocess.run([sys.executable, "-c", program, str(built)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {split: len(records) for split, records in found.items()} == {
        "train": 4 * (5 + 3 + 3 + 4),
        "valid": 12,
        "test": 4,
    }
    records = {(r["track"].encode("latin1").decode(), r["stem"], r["second"]): r for r in found["train"]}
    assert len(records) == 60
    encodings = {"a": "pcm_s16le", "b": "pcm_s24le", "c": "pcm_f32le", "é": "pcm_s16le"}
    for (name, stem, second), record in records.items():
        suffix, _, channels = KINDS[name]
        wave, rate = soundfile.read(songs / "train" / name / f"{stem}.{suffix}", dtype="float32", always_2d=True)
        part = wave[second * RATE : (second + 1) * RATE]
        dtype = np.dtype(np.int16 if encodings[name] == "pcm_s16le" else np.float32)
        stored = samples.unpack(record["audio"].encode("latin1"), record["encoding"], channels, dtype)
        np.testing.assert_array_equal(to_float(stored), part)
        assert (record["rate"], record["channels"], record["encoding"]) == (rate, channels, encodings[name])
        assert record["samples"] == len(part) and record["silent"] == (stem == "drums" and second == 1)
        assert record["loudness"] == pytest.approx(loudness(wave, RATE)[second], abs=1e-4)


def test_reading_needs_neither_tensorflow_nor_tfds(built):
    program = """
import sys
from jaxsep.config import defaults
from jaxsep.data.tracks import open_tracks
data = defaults().data
data.update(source="built", root=sys.argv[1], stems="drums")
assert open_tracks(data, "train")[0].read("drums", 500, 3000).any()
print([name for name in ("tensorflow", "tensorflow_datasets", "musdb", "jax") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program, str(built)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_audio_is_found_where_a_parser_finds_it():
    from tensorflow_datasets.proto import tf_example_pb2

    for size in (0, 1, 127, 128, 16384, 200_000):
        example = tf_example_pb2.Example()
        example.features.feature["track"].bytes_list.value.append(b"audio")
        example.features.feature["audio"].bytes_list.value.append(
            bytes(range(256)) * (size // 256) + b"\n" * (size % 256)
        )
        example.features.feature["second"].int64_list.value.append(3)
        record = example.SerializeToString()
        start, length = store.find_audio(record)
        assert record[start : start + length] == example.features.feature["audio"].bytes_list.value[0]
    with pytest.raises(JaxsepError, match="without the feature 'audio'"):
        store.find_audio(b"\n\x05audit\x12")


def test_the_audio_of_records_is_read_where_array_record_reads_it(songs, tmp_path):
    """Of records from hundreds of bytes to beyond several blocks of 64 KiB."""
    from array_record.python.array_record_module import ArrayRecordReader

    root = tmp_path / "songs"
    (root / "train" / "long").mkdir(parents=True)
    for name, seconds in (("vocals", 131), ("drums", 131)):  # beyond second 127 a record's number takes a byte more
        soundfile.write(root / "train" / "long" / f"{name}.wav", noise(1, 700 * seconds + 5), 700)
    (root / "train" / "wide").mkdir()
    for name in ("vocals", "drums"):
        soundfile.write(root / "train" / "wide" / f"{name}.wav", noise(2, 3 * 96000 + 9, 8), 96000)
    folder = make(root, tmp_path / "out", stems="vocals,drums").folder
    for song in store.load_index(folder)["songs"]:
        path = folder / song["file"]
        expected = ArrayRecordReader(str(path)).read(list(range(song["records"])))
        for first, count in ((0, song["records"]), (song["records"] - 2, 2), (1, 1)):
            audio, sizes = store.read_audio(path, first, count)
            for record, part in zip(
                expected[first : first + count], np.split(audio, np.cumsum(sizes)[:-1]), strict=True
            ):
                start, size = store.find_audio(record)
                assert part.tobytes() == record[start : start + size]
        with pytest.raises(JaxsepError, match=f"record {song['records']} is not there"):
            store.read_audio(path, song["records"] - 1, 2)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // store.BLOCK // 2 * store.BLOCK])
        with pytest.raises(JaxsepError, match=r"cut short|not as it was written"):
            store.read_audio(path, 0, song["records"])


def test_a_checksum_is_of_all_bytes():
    data = np.random.default_rng(0).integers(0, 256, 21, np.uint8)
    words = [int.from_bytes(data[i : i + 8].tobytes(), "little") for i in (0, 8, 16)]
    assert store.checksum(data) == sum(words) % 2**64
    assert store.checksum(b"") == 0
    for byte in range(21):
        other = data.copy()
        other[byte] ^= 1
        assert store.checksum(other) != store.checksum(data)


def config(block: ConfigDict, **changes) -> ConfigDict:
    cfg = defaults()
    cfg.data = block
    cfg.update(sample_rate=RATE, **changes)
    return cfg


@pytest.mark.parametrize(
    "changes", [{"remix": "stem", "gain": (0.25, 1.25), "swap": 0.5, "sign": 0.5}, {"mixture": "original"}]
)
def test_the_stream_is_that_of_the_stem_folder(songs, built, changes):
    def stream(root: Path, source: str):
        cfg = config(data(root, source, segment=2900, batch_size=3, **changes), seed=5)
        return itertools.islice(batches(open_tracks(cfg.data, "train"), {s: (s,) for s in STEMS}, cfg, first_step=2), 8)

    seen = set()
    for left, right in zip(stream(songs, "folder"), stream(built, "built"), strict=True):
        np.testing.assert_array_equal(left["mix"], right["mix"])
        np.testing.assert_array_equal(left["sources"], right["sources"])
        seen.add(left["mix"].tobytes())
    assert len(seen) == 8


# Stopped, continued, changed


def files(folder: Path) -> dict[str, int]:
    """The songs' files and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*array_record-?????")}


def test_a_set_is_continued_where_it_was_killed_and_finished_songs_are_not_written_again(tmp_path):
    """The command as people run it, in processes."""
    root, out = tmp_path / "songs", tmp_path / "out"
    for number in range(20):
        split = ("train", "train", "valid", "test")[number % 4]
        song(
            root / split / f"song {number:02d}",
            2000 + 50 * number,
            number,
            stems=("drums", "bass", "other", "vocals", "mixture"),
        )
    command = [sys.executable, "-m", "jaxsep.cli", "data", "build", "musdb18_hq", f"--root={root}", f"--out={out}"]
    command = [
        sys.executable,
        "-c",
        "import sys; from jaxsep.cli import main; sys.exit(main(sys.argv[1:]))",
        *command[3:],
    ]
    folder = out / "musdb18_hq" / "1.0.0"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list((folder / store.UNFINISHED).glob("*.json"))) < 8:
        time.sleep(0.002)
    process.kill()
    process.wait()
    time.sleep(1)  # its processes end with it
    before = files(folder)
    noted = {path.name.removesuffix(".json") for path in (folder / store.UNFINISHED).glob("*.json")}
    assert 8 <= len(noted) < 20 and noted <= set(before)
    with pytest.raises(JaxsepError, match="the build was stopped; run the same"):
        open_tracks(data(out), "train")

    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{20 - len(noted)} songs written, {len(noted)} kept, 0 failed" in done.stdout
    after = files(folder)
    assert len(after) == 20 and all(after[name] == before[name] for name in noted)
    assert not (folder / store.UNFINISHED).exists() and not list(folder.glob("*.part"))
    assert make(root, out, "musdb18_hq", verify=True) == build.Outcome(folder, 0, 20, {})
    assert files(folder) == after
    for split, count in (("train", 10), ("valid", 5), ("test", 5)):
        expected, found = (
            open_tracks(data(path, source), split) for path, source in ((root, "folder"), (out, "built"))
        )
        assert [track.name for track in found] == [track.name for track in expected] and len(found) == count
        for left, right in zip(expected, found, strict=True):
            names = [*STEMS, MIXTURE]
            np.testing.assert_array_equal(left.audio(names), right.audio(names))


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """Two songs and the set that they make."""
    root = tmp_path / "songs"
    for number, name in enumerate(("one", "two")):
        song(root / "train" / name, 2500, number)
    return root, make(root, tmp_path / "out").folder


def drums(folder: Path) -> dict[str, np.ndarray]:
    return {track.name: track.read("drums", 0, track.length) for track in open_tracks(data(folder), "train")}


def test_changed_and_new_songs_are_written_and_no_others(two):
    root, folder = two
    before = files(folder)
    shutil.rmtree(root / "train" / "one")
    song(root / "train" / "one", 1800, 7)
    song(root / "train" / "a new one", 2100, 8)
    assert make(root, folder.parent.parent) == build.Outcome(folder, 2, 1, {})
    found = drums(folder)
    assert list(found) == ["a new one", "one", "two"]
    for name, wave in found.items():
        np.testing.assert_array_equal(wave, soundfile.read(root / "train" / name / "drums.wav", dtype="int16")[0])
    unchanged = [name for name, when in files(folder).items() if before.get(name) == when]
    assert len(unchanged) == 1 and len(files(folder)) == 3
    assert make(root, folder.parent.parent, stems="drums").written == 3  # without the other stems
    with pytest.raises(JaxsepError, match=r"stem 'bass' .*'a new one' has mixture, drums"):
        open_tracks(data(folder), "train")
    assert set(drums_only(folder)) == {"a new one", "one", "two"}
    shutil.rmtree(root / "train" / "two")
    with pytest.raises(JaxsepError, match=r"1 songs that .* has no longer, as 'train/two'"):
        make(root, folder.parent.parent)


def drums_only(folder: Path) -> list[str]:
    return [track.name for track in open_tracks(data(folder, stems=("drums",)), "train")]


def test_damage_is_named_when_it_is_read_and_mended_by_verify(two):
    root, folder = two
    expected = drums(folder)
    (victim,) = (song["file"] for song in store.load_index(folder)["songs"] if song["name"] == "two")
    size = (folder / victim).stat().st_size
    with open(folder / victim, "r+b") as file:
        start = (folder / victim).read_bytes().index(expected["two"][:50].tobytes())
        file.seek(start)
        file.write(b"\0\0\0\0\1")
    assert (folder / victim).stat().st_size == size
    with pytest.raises(JaxsepError, match=f"{victim}: missing or damaged .*--verify"):
        drums(folder)
    assert make(root, folder.parent.parent).written == 0  # nobody asked
    assert make(root, folder.parent.parent, verify=True) == build.Outcome(folder, 1, 1, {})
    np.testing.assert_array_equal(drums(folder)["two"], expected["two"])
    (folder / victim).unlink()
    with pytest.raises(JaxsepError, match=f"{victim}: missing or damaged"):
        drums(folder)
    assert make(root, folder.parent.parent).written == 1
    np.testing.assert_array_equal(drums(folder)["two"], expected["two"])


def test_songs_of_another_length_than_the_index_says_are_refused(two):
    root, folder = two
    one, _ = store.load_index(folder)["songs"]
    for change, match in (
        ({"length": 2400}, "500 samples in record"),
        ({"length": 3500}, "missing or damaged|samples in"),
    ):
        reader = store.open_stem(folder, one | change, "vocals")
        with pytest.raises(JaxsepError, match=match):
            reader.read(0, reader.length)
    assert root


def test_a_write_that_differs_from_its_source_is_no_song(two, monkeypatch, tmp_path):
    root, _ = two
    right = samples.pack
    monkeypatch.setattr("jaxsep.data.built.examples.pack", lambda part, *given: right(part + np.int16(1), *given))
    outcome = make(root, tmp_path / "wrong")
    assert outcome.written == 0 and set(outcome.failed) == {"train/one", "train/two"}
    assert "not written as it is" in outcome.failed["train/one"]
    assert not files(outcome.folder) and not (outcome.folder / store.INDEX).exists()
    assert not list(outcome.folder.rglob("*.part"))


def test_songs_that_cannot_be_read_are_named_and_the_others_kept(two, capsys):
    from jaxsep import cli

    root, folder = two
    out = folder.parent.parent / "other"
    torn = root / "train" / "one" / "bass.wav"
    whole = torn.read_bytes()
    torn.write_bytes(whole[:-7])
    song(root / "train" / "odd", 100, 3, stems=("other",))
    outcome = make(root, out, stems="drums,bass,vocals")
    assert outcome.written == 1 and set(outcome.failed) == {"train/one", "train/odd"}
    assert "bass.wav: truncated" in outcome.failed["train/one"] and "'drums'" in outcome.failed["train/odd"]
    torn.write_bytes(whole)
    shutil.rmtree(root / "train" / "odd")
    assert make(root, out) == build.Outcome(out / "stem_folder" / "1.0.0", 1, 1, {})
    assert cli.main(["data", "build", "stem_folder", f"--root={root / 'train'}", f"--out={out}"]) == 2
    assert "no folder train, valid or test" in capsys.readouterr().err
    with pytest.raises(JaxsepError, match="did you mean 'musdb18'"):
        make(root, out, "musdb8")
    with pytest.raises(JaxsepError, match="ffmpeg is for musdb18"):
        make(root, out, decoder="ffmpeg")


def test_stems_may_be_missing_where_training_says_so(two):
    root, folder = two
    (root / "train" / "one" / "bass.wav").unlink()
    make(root, folder.parent.parent)
    with pytest.raises(JaxsepError, match=r"stem 'bass' .*data\.missing='silence'"):
        open_tracks(data(folder), "train")
    one, two_ = open_tracks(data(folder, missing="silence"), "train")
    assert not one.read("bass", 0, one.length).any() and two_.read("bass", 0, 100).any()
    mapped = data(folder, stems=("low",), instruments=("bass=low", "drums=low"), missing="silence")
    low = open_tracks(mapped, "train")[1].read("low", 0, 2500)
    np.testing.assert_array_equal(low, to_float(two_.read("bass", 0, 2500)) + to_float(two_.read("drums", 0, 2500)))


def test_a_root_that_holds_no_set_or_several_is_named(songs, built, tmp_path):
    with pytest.raises(JaxsepError, match="holds no built set"):
        open_tracks(data(songs), "train")
    for name in ("x", "y"):
        shutil.copytree(built, tmp_path / name / "1.0.0")
    with pytest.raises(JaxsepError, match=r"2 built sets; name one of .*x.1\.0\.0"):
        open_tracks(data(tmp_path), "train")
    assert len(open_tracks(data(tmp_path / "x"), "train")) == 4
    index = tmp_path / "x" / "1.0.0" / store.INDEX
    index.write_text(index.read_text()[:-30])
    with pytest.raises(JaxsepError, match=r"index\.json: unreadable"):
        open_tracks(data(tmp_path / "x"), "train")


def test_a_thousand_songs_open_and_give_a_batch_in_seconds(two, tmp_path):
    _, folder = two
    many = tmp_path / "many"
    many.mkdir()
    one, _ = store.load_index(folder)["songs"]
    entries = []
    for number in range(1000):
        file = f"many-train.array_record-{number:05d}"
        os.link(folder / one["file"], many / file)
        os.link(store.places_of(folder / one["file"]), store.places_of(many / file))
        entries.append(one | {"name": f"{number:04d}", "file": file})
    (many / store.INDEX).write_text(json.dumps({"songs": entries}))
    cfg = config(data(many, remix="stem", segment=1500))
    start = time.process_time()
    stream = batches(open_tracks(cfg.data, "train"), {stem: (stem,) for stem in STEMS}, cfg, first_step=0)
    assert next(stream)["mix"].any()
    assert time.process_time() - start < 5


# MUSDB18


@pytest.fixture(scope="module")
def excerpt(tmp_path_factory) -> Path:
    """The one song of MUSDB18 that the package stempeg ships, six seconds of it, as a data set of one song."""
    spec = importlib.util.find_spec("stempeg")
    if spec is None or spec.origin is None:
        pytest.skip("needs the song that the package stempeg ships")
    path = Path(spec.origin).parent / "data" / "The Easton Ellises - Falcon 69.stem.mp4"
    root = tmp_path_factory.mktemp("musdb18")
    (root / "test").mkdir()
    (root / "test" / path.name).symlink_to(path)
    return root


def musdb_stems(root: Path) -> dict[str, np.ndarray]:
    """As the package musdb decodes the song, in 16 bits."""
    if not shutil.which("ffmpeg") or not shutil.which("ffprobe"):
        pytest.skip("the package musdb needs ffmpeg and ffprobe")
    import musdb

    (track,) = musdb.DB(root=str(root), subsets=["test"])
    stems = dict(zip(audio.STEMS, track.stems, strict=True))
    return {name: np.rint(wave * 32768).astype(np.int16) for name, wave in stems.items()}


def test_musdb18_is_as_the_package_musdb_decodes_it(excerpt, tmp_path):
    expected = musdb_stems(excerpt)
    for decoder in ("pyav", "ffmpeg"):
        folder = make(excerpt, tmp_path / decoder, "musdb18", decoder=decoder).folder
        (track,) = open_tracks(data(folder, stems=("vocals", "drums", "bass", "other")), "test")
        assert track.name == "The Easton Ellises - Falcon 69" and track.mixture is not None
        for name, wave in expected.items():
            found = track.read(name, 0, track.length)
            assert found.dtype == np.int16 and found.shape == wave.shape and wave.std() > 100
            off = np.abs(found.astype(np.int32) - wave)
            assert off.max() <= (decoder == "pyav") and (off > 0).mean() <= 0.001
    assert make(excerpt, tmp_path / "pyav", "musdb18", decoder="ffmpeg").written == 1  # another decoder, another song


def test_musdb18_reads_from_the_set_as_from_the_files(excerpt, tmp_path):
    folder = make(excerpt, tmp_path, "musdb18").folder
    stems = ("vocals", "drums", "bass", "other")
    (left,), (right,) = (open_tracks(data(p, s, stems), "test") for p, s in ((excerpt, "musdb18"), (folder, "built")))
    for name in (*stems, MIXTURE):
        np.testing.assert_array_equal(left.read(name, 100_001, 90_000), right.read(name, 100_001, 90_000))


def test_ffmpeg_that_fails_or_gives_another_length_is_named(excerpt, tmp_path, monkeypatch):
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(b"no audio" * 100)
    with pytest.raises(JaxsepError, match=r"torn\.mp4: ffmpeg cannot decode it"):
        audio.decode_ffmpeg(torn, 0, 44100, 2)
    monkeypatch.setattr(audio, "decode_ffmpeg", lambda *_: noise(0, 1000))
    outcome = make(excerpt, tmp_path / "out", "musdb18", decoder="ffmpeg")
    assert outcome.written == 0 and "1000 samples by ffmpeg" in next(iter(outcome.failed.values()))
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(JaxsepError, match="no ffmpeg on the PATH"):
        audio.decode_ffmpeg(torn, 0, 44100, 2)


# Many machines, threads


def test_beam_writes_the_same_set(two, tmp_path):
    pytest.importorskip("apache_beam", reason="apache-beam is not installed")
    root, folder = two
    outcome = make(root, tmp_path / "beam", run=runners.by_beam("DirectRunner", ["direct_num_workers=1"]))
    assert (outcome.written, outcome.failed) == (2, {})
    for left, right in zip(drums(folder).items(), drums(outcome.folder).items(), strict=True):
        assert left[0] == right[0]
        np.testing.assert_array_equal(left[1], right[1])


def test_beam_that_is_missing_is_named():
    if importlib.util.find_spec("apache_beam"):
        pytest.skip("apache-beam is installed")
    with pytest.raises(JaxsepError, match=r"pip install 'jaxsep\[beam\]'"):
        runners.by_beam("DirectRunner", [])


@pytest.mark.full
def test_threads_decode_flac_side_by_side(tmp_path):
    """Two gain three quarters at least of what they gain at sines of numpy, which never ask for Python's lock.

    Nothing can be gained at PCM: a crop takes a tenth of a millisecond, and half of that is Python. The best of many
    rounds counts, as other programs take the cores, too.
    """
    root = tmp_path / "songs"
    folder = root / "train" / "song"
    folder.mkdir(parents=True)
    for number, stem in enumerate(STEMS):
        soundfile.write(folder / f"{stem}.wav", noise(number, 44100 * 60), 44100)
    made = make(root, tmp_path / "out", codec="flac").folder
    (track,) = open_tracks(data(made), "train")
    memory.keep_freed()  # as training does: otherwise threads wait for each other in the kernel

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, track.length - 6 * 44100, 20):
            track.read(STEMS[seed], int(start), 6 * 44100)

    def sines(seed: int) -> None:
        wave = np.full(1_000_000, seed, np.float32)
        for _ in range(20):
            np.sin(wave, out=wave)

    def seconds(work: Callable[[int], None], threads: int) -> float:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return (time.perf_counter() - start) / threads

    def gain(work: Callable[[int], None]) -> float:
        rounds = [(seconds(work, 1), seconds(work, 2)) for _ in range(15)]
        one, two = (min(column) for column in zip(*rounds, strict=True))
        return one / two

    assert gain(read) >= 0.75 * gain(sines)
