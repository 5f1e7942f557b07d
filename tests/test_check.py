"""`jaxsep data check` finds everything at once; `jaxsep data example` writes the real excerpt."""

import importlib.util
import json
import os
import shutil
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile

from jaxsep import cli
from jaxsep.audio.reader import BLOCK
from jaxsep.data import check, example, measure
from jaxsep.errors import JaxsepError

RATE, LENGTH = 8000, 4000
STEMS = ("bass", "drums", "other", "vocals")


def tone(path, length=LENGTH, channels=2):
    """A wave [t c] of the file's own."""
    pitch = 0.1 + zlib.crc32("/".join(path.with_suffix("").parts[-3:]).encode()) / 2**33
    return 0.3 * np.sin(np.arange(length)[:, None] * (pitch + 0.01 * np.arange(channels)))


def write(path, *, rate=RATE, length=LENGTH, channels=2, gain=1.0, subtype="PCM_16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(gain * tone(path, length, channels), -1, 1), rate, subtype=subtype)


@pytest.fixture
def data(tmp_path):
    """A sound data set: two songs per split, one of them with blanks and an umlaut in its name."""
    for split in ("train", "valid", "test"):
        for stem in STEMS:
            write(tmp_path / split / "one" / f"{stem}.wav")
            write(tmp_path / split / "zwei, für dich" / f"{stem}.flac")
    return tmp_path


def test_a_sound_data_set_has_no_problems(data):
    (data / "LICENCE.txt").write_text("free")
    (data / "train" / ".DS_Store").write_text("hidden")
    assert check.check(data) == []
    assert check.render([]) == "no problems"


def zero_bytes(one):
    (one / "bass.wav").write_bytes(b"")


def truncated(one):
    os.truncate(one / "bass.wav", 44 + 4 * 1000)


def truncated_flac(one):
    write(one / "bass.flac", length=40_000, gain=3.0)
    (one / "bass.wav").unlink()
    os.truncate(one / "bass.flac", (one / "bass.flac").stat().st_size // 2)


def garbage(one):
    (one / "bass.wav").write_bytes(bytes(range(256)) * 50)


def not_a_number(one):
    wave = np.zeros((LENGTH, 2), np.float32)
    wave[3000] = np.nan
    soundfile.write(one / "bass.wav", wave, RATE, subtype="FLOAT")


def infinite(one):
    wave = np.zeros((LENGTH, 2), np.float32)
    wave[10, 1] = -np.inf
    soundfile.write(one / "bass.wav", wave, RATE, subtype="FLOAT")


def silent(one):
    write(one / "bass.wav", gain=0.0)


def missing(one):
    (one / "bass.wav").unlink()


def other_length(one):
    write(one / "bass.wav", length=LENGTH - 1)


def other_rate(one):
    write(one / "bass.wav", rate=RATE + 25)


def rate_of_song(one):
    for stem in STEMS:
        write(one / f"{stem}.wav", rate=2 * RATE)


def mono_stem(one):
    write(one / "bass.wav", channels=1)


def mono_song(one):
    for stem in STEMS:
        write(one / f"{stem}.wav", channels=1)


def clipped(one):
    write(one / "bass.wav", gain=5.0)


def offset(one):
    soundfile.write(one / "bass.wav", tone(one / "bass.wav") - np.array([0.0, 0.02]), RATE)


def copied_stem(one):
    shutil.copy(one / "drums.wav", one / "bass.wav")


def copied_song(one):
    copy(one.parent / "zwei, für dich", one, STEMS)


def leak(one):
    copy(one.parent.parent / "train" / "one", one, STEMS)


def leak_of_stems(one):
    copy(one.parent.parent / "valid" / "one", one, ("bass", "drums"))


def copy(source, target, stems):
    """The same samples in another format."""
    for stem in stems:
        (file,) = source.glob(f"{stem}.*")
        (target / f"{stem}.wav").unlink()
        soundfile.write(target / f"{stem}.flac", *soundfile.read(file, dtype="int16"))


def twice(one):
    write(one / "bass.flac")


def empty_folder(one):
    shutil.rmtree(one)
    one.mkdir()


def stray(one):
    (one / "cover.jpg").write_bytes(b"x")


def stray_beside(one):
    (one.parent / "list.txt").write_text("x")


def stray_in_root(one):
    (one.parent.parent / "tarin").mkdir()


def no_train(one):
    shutil.rmtree(one.parent.parent / "train")


def no_valid(one):
    shutil.rmtree(one.parent.parent / "valid")


def empty_split(one):
    shutil.rmtree(one.parent.parent / "valid")
    (one.parent.parent / "valid").mkdir()


BASS, ONE = "test/one/bass.wav", "test/one"


@pytest.mark.parametrize(
    ("damage", "severity", "path", "words"),
    [
        (zero_bytes, "error", BASS, "empty file (0 bytes)"),
        (truncated, "error", BASS, "expected 4000 samples (0.50 s), found 1000"),
        (truncated_flac, "error", "test/one/bass.flac", "truncated"),
        (garbage, "error", BASS, "not audio"),
        (not_a_number, "error", BASS, "NaN or infinite sample at second 0.375"),
        (infinite, "error", BASS, "NaN or infinite sample at second 0.001"),
        (silent, "error", BASS, "silent from end to end, so no score is defined"),
        (
            missing,
            "error",
            ONE,
            "no stem 'bass', which other songs have; add bass.wav, or train with data.missing=silence",
        ),
        (other_length, "error", ONE, "stems differ in length (bass 3999, drums 4000"),
        (other_rate, "error", ONE, "stems differ in rate (bass 8025, drums 8000"),
        (rate_of_song, "warning", ONE, "16000 Hz, most songs have 8000; resample it"),
        (mono_stem, "warning", ONE, "stems differ in channels (bass 1, drums 2"),
        (mono_song, "warning", ONE, "1 channels, most songs have 2"),
        (clipped, "warning", BASS, "clipped at"),
        (offset, "warning", BASS, "a DC offset of -0.020 of full scale; export it through a high-pass"),
        (copied_stem, "error", ONE, "bass and drums hold the same sound"),
        (copied_song, "warning", "test/zwei, für dich", "the same song as test/one; remove one of them"),
        (leak, "error", ONE, "the same song as train/one (a leak: test scores what was trained on); remove one"),
        (leak_of_stems, "error", ONE, "the same bass and drums as valid/one (it is scored twice)"),
        (twice, "error", ONE, "2 files for the stem 'bass'; keep one of them"),
        (empty_folder, "error", ONE, "no stems"),
        (stray, "warning", "test/one/cover.jpg", "not part of a data set, ignored; move it elsewhere"),
        (stray_beside, "warning", "test/list.txt", "not part of a data set"),
        (stray_in_root, "warning", "tarin", "not part of a data set"),
        (no_train, "error", "train", "no such folder (nothing to train on)"),
        (no_valid, "warning", "valid", "no such folder (fine for MUSDB18 only"),
        (empty_split, "error", "valid", "no songs; add folders of <stem>.wav"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_problem_is_one_line_with_its_remedy(data, damage, severity, path, words):
    damage(data / "test" / "one")
    problems = check.check(data)
    assert [(problem.severity, problem.path) for problem in problems] == [(severity, path)]
    line = str(problems[0])
    assert words in line and "\n" not in line and line.startswith(f"{severity}: {path}: ")
    assert problems[0].what and problems[0].fix


def test_all_problems_at_once_errors_first(data):
    for damage in (truncated, stray):
        damage(data / "test" / "one")
    zero_bytes(data / "train" / "one")
    silent(data / "train" / "one")  # replaces the empty file: may be meant in training songs
    no_valid(data / "test" / "one")
    problems = check.check(data)
    assert [(problem.severity, problem.path) for problem in problems] == [
        ("error", BASS),
        ("warning", "test/one/cover.jpg"),
        ("warning", "train/one/bass.wav"),
        ("warning", "valid"),
    ]
    assert check.render(problems).splitlines()[-1] == "1 errors, 3 warnings"


def test_a_peak_at_full_scale_is_not_clipping(data):
    wave = np.zeros((LENGTH, 2))
    wave[100:102] = 1.0  # two samples: a peak
    wave[200:400:4], wave[202:402:4] = -1.0, 1.0
    soundfile.write(data / BASS, wave, RATE, subtype="PCM_16")
    assert check.check(data) == []
    wave[100:103] = 1.0
    soundfile.write(data / BASS, wave, RATE, subtype="PCM_16")
    assert [problem.what for problem in check.check(data)] == ["clipped at 2 places"]


def test_how_far_the_stems_are_from_the_mixture(data):
    """In dB of what the sum leaves; what 24 bits round away is none."""

    def distances(gain, shift=0):
        for song in sorted(data.glob("*/*")):
            stems = sum(soundfile.read(file, always_2d=True)[0] for file in song.iterdir() if file.stem != "mixture")
            mixture = np.roll(gain * stems if song.parent.name == "test" else stems, shift, axis=0)
            soundfile.write(song / "mixture.wav", mixture, RATE, subtype="PCM_24")
        return {problem.path: (problem.severity, problem.what) for problem in check.check(data)}

    for song in data.glob("*/*"):
        for file in song.iterdir():
            write(file, gain=0.2)
    assert distances(1.0) == {}
    rest = 20 * np.log10(1 - 1 / 1.1)
    told = ("warning", f"the sum of the stems is {rest:.1f} dB from mixture")
    assert distances(1.1) == {"test/one": told, "test/zwei, für dich": told}
    assert len(distances(1.0, shift=1)) == 6  # every song is a sample late
    write(data / "test" / "one" / "bass.wav", gain=0.2, channels=1)
    mono = "stems differ in channels (bass 1, drums 2, mixture 2, other 2, vocals 2)"
    assert distances(1.0) == {"test/one": ("warning", mono)}  # a mono stem is heard on both sides


def test_clipping_and_sums_do_not_depend_on_where_blocks_end(tmp_path):
    """A run at full scale across the border of two blocks is one run; a long one is one, too."""
    song = tmp_path / "train" / "one"
    wave = tone(song / "bass", 2 * BLOCK + 10)
    for start, count in ((BLOCK - 1, 3), (2 * BLOCK - 2, 4), (5000, 1000)):
        wave[start : start + count, 0] = 1.0
    song.mkdir(parents=True)
    soundfile.write(song / "bass.wav", wave, RATE, subtype="PCM_16")
    soundfile.write(song / "mixture.wav", wave, RATE, subtype="PCM_16")
    (tmp_path / "valid" / "two").mkdir(parents=True)
    stems, distance = measure.measure([("bass", song / "bass.wav", 0), ("mixture", song / "mixture.wav", 0)])
    assert [stem.clipped for stem in stems] == [3, 3] and distance == -np.inf
    assert stems[0].length == len(wave) and stems[0].digest == stems[1].digest


def test_memory_does_not_grow_with_the_song(tmp_path):
    peaks = []
    for blocks in (4, 20):
        song = tmp_path / f"{blocks}"
        for stem in ("bass", "drums", "mixture"):
            write(song / f"{stem}.wav", length=blocks * BLOCK)
        tracemalloc.start()
        measure.measure([(path.stem, path, 0) for path in song.iterdir()])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_command(data, capsys):
    arguments = ["data", "check", str(data)]
    assert cli.main(arguments) == 0 and capsys.readouterr().out == "no problems\n"
    no_valid(data / "test" / "one")
    assert cli.main(arguments) == 0 and capsys.readouterr().out.endswith("0 errors, 1 warnings\n")
    truncated(data / "test" / "one")
    assert cli.main([*arguments, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [(item["severity"], item["path"]) for item in found] == [("error", BASS), ("warning", "valid")]
    assert all(item["what"] and item["fix"] for item in found)


def test_not_a_folder(tmp_path):
    with pytest.raises(JaxsepError, match=r"nowhere: no such folder"):
        check.check(tmp_path / "nowhere")


needs_stempeg = pytest.mark.skipif(
    importlib.util.find_spec("stempeg") is None, reason="the excerpt is part of stempeg (extra: eval)"
)


SONG = "The Easton Ellises - Falcon 69"


@needs_stempeg
def test_the_example_is_the_excerpt_in_all_splits(tmp_path, capsys):
    import av

    example.write_example(tmp_path / "a song")
    assert "BY-NC-SA 3.0" in capsys.readouterr().out
    found = {(problem.severity, problem.path, problem.what) for problem in check.check(tmp_path / "a song")}
    same = f"the same song as train/{SONG} (a leak: {{}} scores what was trained on)"
    assert found == {("error", f"{split}/{SONG}", same.format(split)) for split in ("valid", "test")}
    licence = (tmp_path / "a song" / "LICENCE.txt").read_text()
    assert "BY-NC-SA 3.0" in licence and "the same excerpt" in licence and "sum of the four stems" in licence
    names = ["bass.wav", "drums.wav", "other.wav", "vocals.wav"]
    for split in ("train", "valid", "test"):
        folder = tmp_path / "a song" / split / SONG
        assert sorted(path.name for path in folder.iterdir()) == names
    with av.open(str(example.excerpt())) as container:  # stream 4 holds the vocals
        frames = [frame.to_ndarray() for frame in container.decode(container.streams.audio[4])]
    expected = np.rint(np.concatenate(frames, axis=1).T * 32768)
    vocals, rate = soundfile.read(folder / "vocals.wav", dtype="int16")
    assert rate == 44100 and np.array_equal(vocals, expected)
    with pytest.raises(JaxsepError, match="not an empty folder"):
        example.write_example(tmp_path / "a song")


def test_the_example_needs_stempeg(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(JaxsepError, match=r"stempeg; `pip install jaxsep\[eval\]`"):
        example.write_example(tmp_path / "x")
    assert not (tmp_path / "x").exists()
