"""Slakh2100, MoisesDB and MedleyDB, in tiny trees of their layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from ml_collections import ConfigDict

from jaxsep.config import defaults
from jaxsep.data.layouts import LAYOUTS
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError

RATE = 44100
BAND = "drums,bass,other"


def write(path: Path, seed: int, length=60, channels=1, rate=RATE) -> np.ndarray:
    """Noise of 16 bits, and as floats what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-9000, 9000, (length, channels)).astype(np.int16)
    soundfile.write(path, samples, rate)
    return (samples / np.float32(32768)).astype(np.float32)


def data(source: str, root: Path, stems: str, **keys) -> ConfigDict:
    block = defaults().data
    block.update(source=source, root=str(root), stems=stems, **keys)
    return block


def refusal(*args) -> str:
    with pytest.raises(JaxsepError) as caught:
        open_tracks(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def slakh(folder: Path, instruments: dict[str, tuple[str, str]], silent=()) -> dict[str, np.ndarray]:
    """A song of Slakh2100, as its metadata.yaml is described in slakh-utils."""
    waves = {name: write(folder / "stems" / f"{name}.flac", number) for number, name in enumerate(instruments)}
    soundfile.write(folder / "mix.flac", np.clip(sum(waves.values()), -1, 1), RATE)
    stems = {
        name: {"audio_rendered": True, "inst_class": kind, "is_drum": kind == "Drums", "midi_program_name": program}
        for name, (kind, program) in instruments.items()
    }
    stems |= {name: {"audio_rendered": False, "inst_class": "Bass", "midi_program_name": "x"} for name in silent}
    found = {"UUID": "1a81", "audio_dir": "stems", "midi_dir": "MIDI", "overall_gain": 0.18, "stems": stems}
    (folder / "metadata.yaml").write_text(yaml.safe_dump(found))
    return waves


SONG = {
    "S00": ("Guitar", "Distortion Guitar"),
    "S01": ("Bass", "Electric Bass (finger)"),
    "S02": ("Strings (continued)", "Choir Aahs"),
    "S04": ("Drums", "Drums"),
}


@pytest.fixture
def slakh_root(tmp_path) -> Path:
    slakh(tmp_path / "validation" / "Track01501", SONG)
    slakh(tmp_path / "test" / "Track01876", SONG)
    slakh(tmp_path / "train" / "Track00002", {name: SONG[name] for name in ("S00", "S04")})
    slakh(tmp_path / "omitted" / "Track00049", SONG)
    return tmp_path


def test_slakh2100_sums_the_files_of_a_stem(slakh_root):
    waves = slakh(slakh_root / "train" / "Track00001", SONG, silent=("S03",))
    found = data("slakh2100", slakh_root, BAND, missing="silence")
    first, second = open_tracks(found, "train")
    assert (first.name, second.name, first.channels, first.length) == ("Track00001", "Track00002", 1, 60)
    np.testing.assert_array_equal(first.audio(["drums", "bass"]), [waves["S04"], waves["S01"]])
    np.testing.assert_array_equal(first.audio(["other"])[0], waves["S00"] + waves["S02"])
    np.testing.assert_array_equal(first.audio(["other"])[0, 20:35], first.read("other", 20, 15))
    np.testing.assert_allclose(first.audio(["mixture"])[0], sum(waves.values()), atol=1 / 32768)
    assert not second.read("bass", 0, 60).any()
    assert [track.name for track in open_tracks(found, "valid")] == ["Track01501"]
    assert [track.name for track in open_tracks(found, "test")] == ["Track01876"]
    assert "Track00002: no file for the stem 'bass'" in refusal(data("slakh2100", slakh_root, BAND), "train")
    assert "no file for the stem 'vocals'" in refusal(data("slakh2100", slakh_root, "vocals,bass"), "test")


def test_a_finer_name_of_an_instrument_goes_before_its_class(slakh_root):
    table = ("Strings (continued)/Choir Aahs=vocals", "Guitar=guitar")
    (track,) = open_tracks(data("slakh2100", slakh_root, "vocals,guitar,drums,bass", instruments=table), "test")
    choir, _ = soundfile.read(slakh_root / "test" / "Track01876" / "stems" / "S02.flac", dtype="float32")
    guitar, _ = soundfile.read(slakh_root / "test" / "Track01876" / "stems" / "S00.flac", dtype="float32")
    np.testing.assert_array_equal(track.audio(["vocals", "guitar"])[..., 0], [choir, guitar])


def test_a_flat_slakh_is_all_training_songs_and_wav_is_as_good(tmp_path):
    waves = slakh(tmp_path / "Track00001", SONG)
    flac = tmp_path / "Track00001" / "stems" / "S01.flac"
    soundfile.write(flac.with_suffix(".wav"), waves["S01"], RATE)
    flac.unlink()
    (track,) = open_tracks(data("slakh2100", tmp_path, BAND), "train")
    np.testing.assert_array_equal(track.audio(["bass"])[0], waves["S01"])
    assert "no folder 'valid'" in refusal(data("slakh2100", tmp_path, BAND), "valid")


MOISES = [
    ("vocals", "lead female singer", 2),
    ("vocals", "background vocals", 1),
    ("bass", "bass guitar", 1),
    ("drums", "full acoustic drumkit", 2),
    ("percussion", "a-tonal percussion (claps, shakers, congas, cowbell etc)", 1),
    ("other", "fx/processed sound, scratches, gun shots, explosions etc", 2),
]


def test_moisesdb_is_mixed_as_its_own_package_does(tmp_path):
    """Two files of a stem are summed, and a file that ends before the others is followed by silence."""
    song = tmp_path / "moisesdb_v0.1" / "0a1b2c"
    stems: dict[str, list] = {}
    waves = []
    for number, (stem, kind, channels) in enumerate(MOISES):
        waves.append(write(song / stem / f"f{number}.wav", number, length=80 - number, channels=channels))
        waves[-1] = np.pad(waves[-1], [(0, number), (0, 0)]) * np.ones((1, 2), np.float32)
        track = {"id": f"f{number}", "extension": "wav", "trackType": kind, "has_bleed": False}
        stems.setdefault(stem, []).append(track)
    listed = [{"id": stem, "stemName": stem, "tracks": tracks} for stem, tracks in stems.items()]
    (song / "data.json").write_text(json.dumps({"song": "Name", "artist": "Who", "stems": listed}))
    (track,) = open_tracks(data("moisesdb", tmp_path, "vocals,drums,bass,other"), "train")
    assert (track.name, track.length, track.channels, track.mixture) == ("0a1b2c", 80, 2, None)
    expected = [waves[0] + waves[1], waves[3], waves[2], waves[4] + waves[5]]
    np.testing.assert_array_equal(track.audio(["vocals", "drums", "bass", "other"]), expected)
    np.testing.assert_array_equal(track.read("other", 70, 10), expected[3][70:])
    table = ("percussion/a-tonal percussion (claps, shakers, congas, cowbell etc)=drums", "other=")
    found = data("moisesdb", tmp_path / "moisesdb_v0.1", "drums,bass", instruments=table)
    (track,) = open_tracks(found, "train")
    assert track.length == 78  # of the longest file that is asked for
    np.testing.assert_array_equal(track.audio(["drums"])[0], (waves[3] + waves[4])[:78])
    (song / "data.json").write_text("{}")
    assert "data.json: not the metadata of a song" in refusal(found, "train")


def medley(audio: Path, metadata: Path, name: str, instruments) -> list[np.ndarray]:
    """A song of MedleyDB."""
    song, waves, stems = audio / name, [], {}
    for number, instrument in enumerate(instruments, 1):
        file = f"{name}_STEM_{number:02d}.wav"
        waves.append(write(song / f"{name}_STEMS" / file, number, channels=2))
        stems[f"S{number:02d}"] = {"component": "", "filename": file, "instrument": instrument}
    soundfile.write(song / f"{name}_MIX.wav", np.clip(sum(waves), -1, 1), RATE)
    found = {"artist": "A", "mix_filename": f"{name}_MIX.wav", "stem_dir": f"{name}_STEMS", "stems": stems}
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / f"{name}_METADATA.yaml").write_text(yaml.safe_dump(found))
    return waves


def test_medleydb_with_its_metadata_beside_the_audio_or_in_a_folder_of_their_own(tmp_path):
    played = ["electric bass", "male singer", ["piano", "synthesizer"], "drum set", "tambourine", "Main System"]
    inside = medley(tmp_path / "Audio", tmp_path / "Audio" / "A_Song", "A_Song", played[:5])
    apart = medley(tmp_path / "Audio", tmp_path / "Metadata", "B_Song", played)
    table = ("piano + synthesizer=other",)
    found = data("medleydb", tmp_path, "vocals,drums,bass,other", instruments=table)
    for track, waves in zip(open_tracks(found, "train"), (inside, apart), strict=True):
        expected = [waves[1], waves[3] + waves[4], waves[0], waves[2]]
        np.testing.assert_array_equal(track.audio(["vocals", "drums", "bass", "other"]), expected)
        assert track.mixture is not None
    message = refusal(data("medleydb", tmp_path, "vocals,drums,bass,other"), "train")
    assert "'piano + synthesizer' is in no table of MedleyDB" in message and "data.instruments" in message
    (tmp_path / "Metadata" / "B_Song_METADATA.yaml").unlink()
    assert "B_Song_METADATA.yaml: no such file" in refusal(found, "train")


def test_what_is_damaged_is_named(slakh_root):
    folder = slakh_root / "test" / "Track01876"
    found = data("slakh2100", slakh_root, BAND)
    (folder / "stems" / "S04.flac").unlink()
    assert "S04.flac" in refusal(found, "test")
    write(folder / "stems" / "S04.flac", 4, rate=48000)
    assert "rate" in refusal(found, "test")
    (folder / "metadata.yaml").write_text("stems: [1, 2")
    assert "metadata.yaml: not the metadata of a song" in refusal(found, "test")
    (folder / "metadata.yaml").write_text("stems: {S00: {inst_class: Kazoo}}")
    assert "'Kazoo' is in no table of Slakh2100" in refusal(found, "test")
    (slakh_root / "empty").mkdir()
    assert "no songs; expected Slakh2100's" in refusal(data("slakh2100", slakh_root / "empty", BAND), "train")


def test_the_tables_know_four_stems():
    for layout in LAYOUTS.values():
        assert set(layout.stems.values()) <= {"", "vocals", "drums", "bass", "other"}
