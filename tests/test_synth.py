"""The built-in songs: the same numbers every time, music that hangs together, a task of the stated difficulty."""

import json
import re

import numpy as np
import pytest
import scipy.signal
import soundfile

from jaxsep import audio
from jaxsep.data import synth
from jaxsep.errors import JaxsepError

RATE = 44100
SEED = 77  # not the seed that the levels and timbres were tuned on
SECONDS = 20.0


@pytest.fixture(scope="module", params=[5, 12], ids="song{}".format)
def song(request):
    return synth.compose(SEED, request.param, SECONDS), synth.synth_song(SEED, request.param, SECONDS)


def stft(wave):
    return scipy.signal.stft(wave.T, nperseg=2048, noverlap=1024)[2]


def framewise_sdr(reference, estimate):
    """Median over seconds of the energy ratio that museval calls SDR."""
    seconds = len(reference) // RATE * RATE
    s, e = (x[:seconds].reshape(-1, 2 * RATE) for x in (reference, reference - estimate))
    return np.median(10 * np.log10((s**2).sum(1) / (e**2).sum(1)))


def onset_strength(wave, hop=512):
    spectrum = np.abs(scipy.signal.stft(wave.mean(1), nperseg=1024, noverlap=1024 - hop)[2])
    return np.maximum(np.diff(np.log1p(1000 * spectrum), axis=1), 0).mean(0)


def test_a_song_is_a_function_of_its_numbers():
    first, again, *others = (synth.synth_song(seed, number, 2.5) for seed, number in ((1, 2), (1, 2), (1, 3), (2, 2)))
    assert list(first) == ["vocals", "drums", "bass", "other"]
    for stem in first:
        assert first[stem].shape == (round(2.5 * RATE), 2) and first[stem].dtype == np.float32
        assert np.array_equal(first[stem], again[stem])
        assert not any(np.array_equal(first[stem], other[stem]) for other in others)
    assert len({synth.compose(0, number, 30).name for number in range(30)}) == 30
    for seed, seconds in ((0, 0.1), (-1, 2.0)):
        with pytest.raises(JaxsepError, match=rf"not {seconds} s, seed {seed}"):
            synth.synth_song(seed, 0, seconds)


@pytest.mark.parametrize(("seconds", "rate"), [(0.5, 44100), (3.3, 22050), (2, 8000)])
def test_short_songs_and_other_rates(seconds, rate):
    for number in range(8):
        for wave in synth.synth_song(0, number, seconds, rate).values():
            assert wave.shape == (round(seconds * rate), 2)
            assert np.isfinite(wave).all() and wave.std() > 1e-3


def test_stems_fit_into_16_bits_and_never_fall_silent(song):
    _, stems = song
    mixture = sum(stems.values())
    assert 0.3 < np.abs(mixture).max() < 0.99
    levels = [10 * np.log10(np.mean(wave**2)) for wave in stems.values()]
    assert max(levels) - min(levels) < 12
    for wave in stems.values():
        steps = wave * 32768
        assert np.array_equal(steps, np.round(steps)) and np.abs(wave).max() < 0.99
        assert wave[: len(wave) // RATE * RATE].reshape(-1, 2 * RATE).any(1).all()
        assert not np.array_equal(wave[:, 0], wave[:, 1])  # stereo
    correlation = np.corrcoef([wave.ravel() for wave in stems.values()])
    assert np.abs(correlation - np.eye(4)).max() < 0.1


def test_stems_share_the_tempo_in_the_name(song):
    """Onsets gather at one phase of the eighths of this tempo, and not of tempos near it."""
    score, stems = song
    assert f"{round(60 / score.beat)} bpm" in score.name
    for stem, wave in stems.items():
        strength = onset_strength(wave)
        time = np.arange(len(strength)) * 512 / RATE
        gathered = lambda beat, strength=strength, time=time: abs(np.dot(strength, np.exp(4j * np.pi * time / beat)))
        elsewhere = max(gathered(score.beat * factor) for factor in (0.89, 0.93, 0.97, 1.03, 1.07, 1.11))
        assert gathered(score.beat) > 1.5 * elsewhere, stem


def test_stems_share_the_key_in_the_name(song):
    score, stems = song
    tonic, mode = re.search(r"- (\w+) (\w+) \d+ bpm", score.name).groups()
    scale = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}[mode]
    tonic = ["C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"].index(tonic)
    for stem, low, high in (("bass", 30, 250), ("other", 200, 1000), ("vocals", 150, 700)):
        f, _, power = scipy.signal.stft(stems[stem].mean(1), RATE, nperseg=16384)
        f, power = f[1:], (np.abs(power) ** 2).sum(1)[1:]
        band = (f > low) & (f < high)
        pitch_class = np.round(12 * np.log2(f / 440) + 69 - tonic).astype(int) % 12
        inside = power[band & np.isin(pitch_class, scale)].sum() / power[band].sum()
        assert inside > 0.75, stem  # 7/12 = 0.58 for a sound that knows no key


def test_stems_overlap_in_frequency(song):
    _, stems = song
    third_octaves = 40 * 2 ** (np.arange(28) / 3)
    spectra = {}
    for stem, wave in stems.items():
        power = (np.abs(stft(wave)) ** 2).mean((0, 2))
        band = np.digitize(np.arange(1025) * RATE / 2048, third_octaves)
        spectra[stem] = np.bincount(band, power, minlength=29) / power.sum()
    shared = lambda a, b: np.minimum(spectra[a], spectra[b]).sum()
    assert shared("vocals", "other") > 0.3
    assert shared("drums", "bass") > 0.3
    assert shared("drums", "other") > 0.05


def test_the_task_is_of_the_stated_difficulty(song):
    """IRM1 of SiSEC 2018 at 6 to 11 dB, the scaled mixture at 0.5 to 4 dB."""
    stems = np.stack(list(song[1].values())).astype(np.float64)
    mixture = stems.sum(0)
    magnitudes = np.abs([stft(stem) for stem in stems])
    masks = magnitudes / (np.finfo(float).eps + magnitudes.sum(0))
    ideal = [scipy.signal.istft(stft(mixture) * mask, nperseg=2048, noverlap=1024)[1].T for mask in masks]
    assert 6 < np.mean([framewise_sdr(s, e[: len(s)]) for s, e in zip(stems, ideal, strict=True)]) < 11
    scaled = [mixture * (mixture * stem).sum() / (mixture**2).sum() for stem in stems]
    assert 0.5 < np.mean([framewise_sdr(s, e) for s, e in zip(stems, scaled, strict=True)]) < 4


COUNTS = {"train": 2, "valid": 1, "test": 1}


def test_songs_are_written_once_and_go_on_after_an_interruption(tmp_path, monkeypatch, capsys):
    root = tmp_path / "built-in söngs"

    def full(*_):
        raise OSError(28, "No space left on device", str(root))

    with monkeypatch.context() as patch:
        patch.setattr(audio.AudioWriter, "write", full)
        with pytest.raises(JaxsepError, match="No space left") as error:
            synth.render_songs(root, COUNTS, 1.0, seed=3)
        assert "\n" not in str(error.value)
    assert not [path for path in root.glob("*/*") if not path.name.startswith(".")]

    synth.render_songs(root, COUNTS, 1.0, seed=3)
    assert "making 4 built-in songs" in capsys.readouterr().err
    songs = sorted(root.glob("*/*"))  # hidden ones too: nothing is left of the interrupted call
    assert [song.parent.name for song in songs] == ["test", "train", "train", "valid"]
    assert all(re.fullmatch(r"song \d{4} - [A-G]b? (major|minor) \d+ bpm", song.name) for song in songs)
    assert [song.name[5:9] for song in songs] == ["0002", "0000", "0003", "0001"]
    assert json.loads((root / "songs.json").read_text())["songs"] == COUNTS
    for stem, wave in synth.synth_song(3, 3, 1.0).items():
        written, rate = soundfile.read(songs[2] / f"{stem}.wav", dtype="float32")
        assert rate == RATE and np.array_equal(written, wave)

    before = {path: path.stat().st_mtime_ns for path in root.glob("*/*/*")}
    bass = (songs[0] / "bass.wav").read_bytes()
    for path in songs[0].iterdir():
        path.unlink()
    songs[0].rename(root / "test" / ".gone")
    synth.render_songs(root, COUNTS, 1.0, seed=3)
    assert "making 1 " in capsys.readouterr().err
    assert (songs[0] / "bass.wav").read_bytes() == bass
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path.parent != songs[0])
    synth.render_songs(root, COUNTS, 1.0, seed=3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "change", [{"seconds": 2.0}, {"seed": 4}, {"counts": COUNTS | {"train": 1}}], ids=["seconds", "seed", "counts"]
)
def test_songs_of_other_settings_are_not_mixed(tmp_path, change):
    settings = {"counts": {"train": 0, "valid": 0, "test": 0}, "seconds": 1.0, "seed": 3}
    synth.render_songs(tmp_path, **settings)
    with pytest.raises(JaxsepError, match=r"songs\.json: these songs were made with .*another folder"):
        synth.render_songs(tmp_path, **settings | change)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.wav").write_bytes(b"")
    with pytest.raises(JaxsepError, match="not empty"):
        synth.render_songs(tmp_path, COUNTS, 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.wav"]
    with pytest.raises(JaxsepError, match=r"mine\.wav.*cannot be written"):
        synth.render_songs(tmp_path / "mine.wav" / "songs", COUNTS, 1.0)
