"""Rendered songs: stems of one song in step, their exact sum, whose notes they are, and what is left out."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import mido
import numpy as np
import pytest
import scipy.signal
import soundfile
from midifiles import BAND, BEAT, fluidsynth, part, soundfont, write

from jaxsep import cli
from jaxsep.data import check, render
from jaxsep.errors import JaxsepError

STEMS = ("vocals", "drums", "bass", "other")
RATE = 44100


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder for the PATH with a program that plays sines, named fluidsynth."""
    return fluidsynth(tmp_path_factory.mktemp("bin"), offset=0.3)


@pytest.fixture
def path(programs, monkeypatch):
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory, programs):
    """A folder of MIDI files, the data set that came of it, and the outcomes by name."""
    root = tmp_path_factory.mktemp("songs")
    write(root / "midi" / "band.mid", BAND)
    shutil.copy(root / "midi" / "band.mid", root / "midi" / "copy of band.mid")
    (root / "midi" / "sub").mkdir()
    last = lambda channel, program, *rest: [
        *part(channel, program, *rest),
        mido.Message("note_on", channel=channel, note=64, velocity=100, time=4 * BEAT),
        mido.Message("note_off", channel=channel, note=64, time=BEAT),
    ]
    instrumental = {name: last(*BAND[name]) for name in ("kit", "bass", "strings")}
    instrumental |= {"port": part(1, 0, (79,), 1, port=1)}
    write(root / "midi" / "sub" / "band.MIDI", instrumental, tempi=[(0, 450_000), (20, 550_000)])
    write(root / "midi" / "short.mid", BAND, seconds=19.0)
    write(root / "midi" / "solo.mid", {"bass": BAND["bass"]})
    (root / "midi" / "broken.mid").write_bytes(b"MThd")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
        lines = []
        outcomes = render.render(root / "midi", soundfont(root / "font.sf2"), root / "out", notify=lines.append)
    assert len(lines) == 6 and all(line.startswith(f"[{i}/6] ") for i, line in enumerate(lines, start=1))
    return root, {outcome.midi.name: outcome for outcome in outcomes}


def read(folder, name, dtype="int16"):
    samples, rate = soundfile.read(folder / f"{name}.wav", dtype=dtype)
    assert rate == RATE
    return samples


def loudness(samples, key):
    """Amplitude of a sine of that key in the first 0.2 s, where every part plays its first note."""
    time = np.arange(RATE // 5) / RATE
    wave = np.exp(-2j * np.pi * 440 * 2 ** ((key - 69) / 12) * time)
    return 2 * abs(np.mean(samples[: len(time), 0] / 32768 * wave))


def test_stems_hold_their_own_notes_at_one_gain(rendered):
    folder = rendered[1]["band.mid"].folder
    keys = {"vocals": 72, "drums": 36, "bass": 40, "other": 60}
    found = np.array([[loudness(read(folder, stem), key) for key in keys.values()] for stem in keys])
    gain = json.loads((folder / "song.json").read_text())["gain"]
    played = [100 / 127 * (1 + program / 128) for program in (52, 0, 33, 48)]  # by the program of sines
    assert np.diag(found) / played == pytest.approx([gain] * 4, rel=0.05)
    for stem, other in (("vocals", 36), ("drums", 72), ("bass", 72), ("other", 36)):  # far apart: no leakage of bins
        assert loudness(read(folder, stem), other) < 0.02 * gain


def test_the_mixture_is_the_exact_sum_and_does_not_clip(rendered):
    for name in ("band.mid", "band.MIDI"):
        folder = rendered[1][name].folder
        stems = [read(folder, stem).astype(int) for stem in STEMS]
        mixture = read(folder, "mixture")
        assert np.array_equal(sum(stems), mixture)
        peak = max(np.abs(sound).max() for sound in (*stems, mixture))
        assert peak == pytest.approx(0.95 * 32768, abs=3)
        assert len({sound.shape for sound in (*stems, mixture)}) == 1
        assert soundfile.info(folder / "mixture.wav").subtype == "PCM_16"


def test_stems_are_in_step_through_changes_of_tempo(rendered):
    """After a rest of four beats all stems begin at one time, which is that of the song's own tempi."""
    folder = rendered[1]["band.MIDI"].folder
    onset = 20 * 0.45 + (28 + 4) * 0.55
    for stem in ("drums", "bass", "other"):
        sound = read(folder, stem)
        rest = round((onset - 1.0) * RATE)
        assert rest + np.flatnonzero(sound[rest:].any(1))[0] == pytest.approx(onset * RATE, abs=3)
        assert len(sound) == pytest.approx((onset + 0.55 + 2) * RATE, abs=2)
    assert not read(folder, "vocals").any()


def test_what_is_not_rendered_is_named(rendered):
    why = {name: str(outcome) for name, outcome in rendered[1].items() if not outcome.folder}
    assert why == {
        "copy of band.mid": "left out: the same file as band.mid",
        "short.mid": "left out: 19.0 s, shorter than 20 s",
        "solo.mid": "left out: no drums and no other",
        "broken.mid": why["broken.mid"],
    }
    assert "broken.mid: cannot be read as MIDI" in why["broken.mid"] and rendered[1]["broken.mid"].failed
    splits = [outcome.folder.parent.name for outcome in rendered[1].values() if outcome.folder]
    counts = ", ".join(f"{split} {splits.count(split)}" for split in ("train", "valid", "test"))
    assert render.summary(list(rendered[1].values())) == f"2 songs ({counts}), 3 files left out, 1 failed"


def test_provenance(rendered):
    root, outcomes = rendered
    folder = outcomes["band.MIDI"].folder
    assert folder == root / "out" / "train" / "sub - band"  # its vocals are silent, so it is not scored on
    record = json.loads((folder / "song.json").read_text())
    assert record["midi"] == "sub/band.MIDI" and record["renderer"] == "fluidsynth 9.8.7"
    assert record["soundfont"]["name"] == "font.sf2" and len(record["sha256"]) == 64
    assert record["stems"]["vocals"] == []
    assert record["stems"]["bass"] == [{"port": 0, "channel": 0, "program": 33, "sung": False, "notes": 49}]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{s}.wav" for s in STEMS), "mixture.wav", "song.json"]
    )


def test_the_check_passes(rendered):
    """Without offsets, too, though the program's notes have one."""
    problems = check.check(rendered[0] / "out")
    about_songs = [p for p in problems if "/" in p.path]
    assert [(p.severity, p.path, p.what) for p in about_songs] == [
        ("warning", "train/sub - band/vocals.wav", "silent from end to end")
    ]


def test_splits_are_a_matter_of_the_song_alone():
    drawn = [render._split(f"{number * 2654435761 % 2**32:08x}" + "0" * 56, whole=True) for number in range(2000)]
    shares = {split: drawn.count(split) / len(drawn) for split in ("train", "valid", "test")}
    assert shares == pytest.approx({"train": 0.66, "valid": 0.12, "test": 0.22}, abs=0.02)
    assert {render._split(f"{n:08x}", whole=False) for n in range(0, 2**32, 2**25)} == {"train"}


def test_two_ports_are_two_synthesisers(rendered):
    """Channel 2 of the second port keeps its own program, and both are heard in one stem."""
    other = read(rendered[1]["band.MIDI"].folder, "other")
    assert loudness(other, 60) / loudness(other, 79) == pytest.approx(1 + 48 / 128, rel=0.05)


def test_started_again_it_goes_on(rendered, path, capsys):
    """What is there is not played again, what a killed run left half done is done anew."""
    root, outcomes = rendered
    one, two = outcomes["band.MIDI"].folder, outcomes["band.mid"].folder
    before, inode = read(two, "mixture"), one.stat().st_ino
    shutil.move(two, two.with_name(".band.part1"))
    arguments = [
        "data",
        "render",
        str(root / "midi"),
        "--soundfont",
        str(root / "font.sf2"),
        "--out",
        str(root / "out"),
    ]
    assert cli.main(arguments) == 1  # for the broken file
    printed = capsys.readouterr()
    assert "2 songs (" in printed.out and "1 failed" in printed.out and f"Written to {root / 'out'}" in printed.out
    assert "broken.mid: failed: " in printed.err and "/6] sub/band.MIDI: train/sub - band\n" in printed.err
    assert np.array_equal(read(two, "mixture"), before) and one.stat().st_ino == inode
    assert not [found for found in (root / "out").rglob(".*")]
    another = soundfont(root / "another.sf2", b"LIST")
    with pytest.raises(JaxsepError, match=r"songs\.json: these songs were made with"):
        render.render(root / "midi", another, root / "out")


def test_files_of_one_name_become_songs_of_two(tmp_path):
    files = [tmp_path / name for name in ("a/song.mid", "a/Song.kar", "song.mid")]
    names = render._names(tmp_path, files, {file: f"{number}" * 64 for number, file in enumerate(files)})
    assert list(names.values()) == ["a - song 00000000", "a - Song 11111111", "song"]


def test_stems_that_the_soundfont_does_not_play(tmp_path, monkeypatch):
    """A program that writes no file is a failure with the file's name; silence is left out."""
    write(tmp_path / "midi" / "song.mid", BAND, seconds=20.0)
    font = soundfont(tmp_path / "font.sf2")
    monkeypatch.setenv("PATH", str(fluidsynth(tmp_path / "bin", mute=".bass")))
    (failed,) = render.render(tmp_path / "midi", font, tmp_path / "out")
    assert failed.failed and "bass0.mid: fluidsynth failed (exit status 0)" in failed.why
    program = fluidsynth(tmp_path / "bin") / "fluidsynth"
    program.write_text(program.read_text().replace("(velocity / 127", "(message.channel * velocity / 127"))
    (silent,) = render.render(tmp_path / "midi", font, tmp_path / "out")
    assert str(silent) == "left out: its bass are silent with this SoundFont" and not silent.failed
    assert not list((tmp_path / "out").rglob("*song*.wav"))


def test_what_is_missing_is_one_line(tmp_path, path, capsys, monkeypatch):
    midi, font = tmp_path / "midi", tmp_path / "font.sf2"

    def message():
        status = cli.main(["data", "render", str(midi), "--soundfont", str(font), "--out", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert status == 2 and error.count("\n") == 1 and not (tmp_path / "out").exists()
        return error

    assert f"{midi}: no MIDI files" in message()
    write(midi / "song.mid", BAND)
    assert "font.sf2: cannot be read (No such file or directory); give a SoundFont (Debian: apt install" in message()
    font.write_bytes(b"RIFF\0\0\0\0WAVE")
    assert "font.sf2: not a SoundFont" in message()
    monkeypatch.setenv("PATH", "")
    assert "fluidsynth is not on the PATH; install it (Debian: apt install fluidsynth" in message()


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mido", None)
    monkeypatch.delitem(sys.modules, "jaxsep.data.midi")
    with pytest.raises(JaxsepError, match=r'pip install "jaxsep\[midi\]"'):
        importlib.import_module("jaxsep.data.midi")


REAL = "/usr/share/sounds/sf2/TimGM6mb.sf2"


@pytest.mark.skipif(
    not (shutil.which("fluidsynth") and os.path.isfile(REAL)),
    reason="needs FluidSynth and a SoundFont (Debian: apt install fluidsynth timgm6mb-soundfont)",
)
def test_fluidsynth_itself(tmp_path):
    """Notes begin when the song says, at the pitch it says, and the stems add up to the song that it plays itself."""
    bass = [
        message
        for _ in range(6)
        for message in (
            mido.Message("note_on", channel=0, note=45, velocity=120, time=3 * 480),
            mido.Message("note_off", channel=0, note=45, time=480),
        )
    ]
    bass.insert(0, mido.Message("program_change", channel=0, program=38))
    song = write(
        tmp_path / "midi" / "song.mid", BAND | {"bass": bass}, seconds=24.0, tempi=[(0, 500_000), (8, 750_000)]
    )
    (outcome,) = render.render(song.parent, REAL, tmp_path / "out")
    sound = read(outcome.folder, "bass", "float32").mean(1)
    level = np.sqrt(np.convolve(sound**2, np.full(441, 1 / 441), "same"))
    onsets = [1.5, 3.5, 4 + 3 * 0.75, *(4 + 3 * 0.75 + 3 * n for n in (1, 2, 3))]
    for onset in onsets:
        before, after = (level[round((onset + shift) * RATE)] for shift in (-0.1, 0.1))
        assert after > 30 * before
    spectrum = np.abs(
        np.fft.rfft(sound[round(1.6 * RATE) : round(1.9 * RATE)] * np.hanning(round(0.3 * RATE)), 1 << 18)
    )
    peak = np.argmax(spectrum[: round(150 / RATE * (1 << 18))]) * RATE / (1 << 18)
    assert 1200 * abs(np.log2(peak / 110.0)) < 30  # cents
    record = json.loads((outcome.folder / "song.json").read_text())
    player = render.open_player(Path(REAL))
    player.play(song, tmp_path / "whole.wav")
    whole = scipy.signal.sosfilt(render.HIGH_PASS, soundfile.read(tmp_path / "whole.wav")[0] * record["gain"], axis=0)
    mixture = read(outcome.folder, "mixture", "float32")
    whole = whole[: len(mixture)]
    assert 10 * np.log10((whole**2).sum() / ((whole - mixture[: len(whole)]) ** 2).sum()) > 30
