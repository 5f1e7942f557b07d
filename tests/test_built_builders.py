"""The TFDS builders, by TFDS' own tests, on data that is made for the occasion."""

import hashlib
import tempfile
import zipfile
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from jaxsep import audio
from jaxsep.data.built.builder import Archive
from jaxsep.data.built.musdb18.musdb18_dataset_builder import Builder as Musdb18
from jaxsep.data.built.musdb18_hq.musdb18_hq_dataset_builder import Builder as Musdb18Hq
from jaxsep.data.built.samples import unpack
from jaxsep.data.built.stem_folder.stem_folder_dataset_builder import Builder as StemFolder
from jaxsep.data.readers import to_float
from jaxsep.errors import JaxsepError

# TFDS, TensorFlow and what they bring warn about themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

RATE = 8000
STEMS = ("mixture", "drums", "bass", "other", "vocals")
# As published: seven of MUSDB18's 14 validation songs do not do, eight are the validation set.
VALID = (
    "Actions - One Minute Smile",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Johnny Lokke - Promises & Lies",
    "Patrick Talbot - A Reason To Leave",
    "Triviul - Angelsaint",
    "Alexander Ross - Goodbye Bolero",
    "Fergessen - Nos Palpitants",
    "Leaf - Summerghost",
)


def noise(seed: int, length: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9000, 9000, (length, 2)).astype(np.int16)


def write_song(folder: Path, seed: int, length: int = 9000, stems=STEMS) -> None:
    folder.mkdir(parents=True)
    for number, stem in enumerate(stems):
        soundfile.write(folder / f"{stem}.wav", noise(10 * seed + number, length), RATE)


def write_stem_mp4(path: Path, seed: int, length: int = 9000) -> None:
    """A song of MUSDB18's kind: five streams of AAC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as out:
        streams = [out.add_stream("aac", rate=RATE, layout="stereo") for _ in STEMS]
        for number, stream in enumerate(streams):
            wave = np.ascontiguousarray(to_float(noise(10 * seed + number, length)).T)
            for start in range(0, length, 1024):
                frame = av.AudioFrame.from_ndarray(
                    np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", "stereo"
                )
                frame.sample_rate, frame.pts = RATE, start
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))


class Made(tfds.testing.DatasetBuilderTestCase):
    """The data is made once for each class, in a folder of its own."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = cls.folder.name
        cls.make(Path(cls.folder.name))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.folder.cleanup()


class TestStemFolder(Made):
    DATASET_CLASS = StemFolder
    SPLITS: ClassVar = {"train": 2 * 2 * 2, "valid": 2}

    @staticmethod
    def make(root: Path) -> None:
        write_song(root / "train" / "one", 1, stems=("keys", "voice"))
        write_song(root / "train" / "two", 2, stems=("keys", "voice"))
        write_song(root / "valid" / "three", 3, stems=("voice",))


class TestMusdb18Hq(Made):
    DATASET_CLASS = Musdb18Hq
    SPLITS: ClassVar = {"train": 10, "valid": 80, "test": 10}

    @staticmethod
    def make(root: Path) -> None:
        for number, name in enumerate((*VALID, "Zeno - Signs")):
            write_song(root / "train" / name, number)
        write_song(root / "test" / "Al James - Schoolboy Facination", 20)


class TestMusdb18(Made):
    DATASET_CLASS = Musdb18
    SPLITS: ClassVar = {"train": 10, "test": 10}

    @staticmethod
    def make(root: Path) -> None:
        write_stem_mp4(root / "train" / "Zeno - Signs.stem.mp4", 1)
        write_stem_mp4(root / "test" / "Al James - Schoolboy Facination.stem.mp4", 2)


del Made  # pytest would collect it


@pytest.mark.parametrize("builder", [Musdb18, Musdb18Hq, StemFolder])
def test_builders_say_what_they_are(builder, tmp_path):
    info = builder(data_dir=tmp_path).info
    assert len(info.description) > 80 and info.homepage.startswith("https://")
    assert info.redistribution_info.license and builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if builder is StemFolder:
        return
    assert "10.5281/zenodo." in info.citation and "academic" in info.redistribution_info.license
    assert builder.ARCHIVE.name in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert builder.ARCHIVE.url in builder.MANUAL_DOWNLOAD_INSTRUCTIONS


def test_the_published_checksum_of_musdb18_hq_is_in_tfds_table():
    (info,) = Musdb18Hq.url_infos.values()
    assert info.size == Musdb18Hq.ARCHIVE.size and len(info.checksum) == 64


def test_an_archive_is_checked_and_unpacked(tmp_path, monkeypatch):
    """As `tfds build` does it, with ArrayRecord files, and the records of a decoded `.stem.mp4`."""
    manual = tmp_path / "manual"
    manual.mkdir()
    song = tmp_path / "test" / "A song.stem.mp4"
    write_stem_mp4(song, 5)
    with zipfile.ZipFile(manual / "small.zip", "w") as archive:
        archive.write(song, "test/A song.stem.mp4")
    content = (manual / "small.zip").read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    config = tfds.download.DownloadConfig(manual_dir=manual, extract_dir=tmp_path / "extracted")
    for size, digest, match in ((len(content) + 1, md5, "bytes, the record has"), (len(content), "0" * 32, "MD5")):
        monkeypatch.setattr(Musdb18, "ARCHIVE", Archive("small.zip", "https://x", size, digest))
        with pytest.raises(JaxsepError, match=match):
            Musdb18(data_dir=tmp_path / "bad").download_and_prepare(download_config=config)
    monkeypatch.setattr(Musdb18, "ARCHIVE", Archive("small.zip", "https://x", len(content), md5))
    builder = Musdb18(data_dir=tmp_path / "good")
    builder.download_and_prepare(download_config=config, file_format="array_record")
    stems, rate = audio.read_stems(song)
    records = {(r["stem"].decode(), int(r["second"])): r for r in builder.as_data_source("test")}
    assert rate == RATE and len(records) == 10
    for stem, wave in stems.items():
        found = [unpack(records[stem, n]["audio"], "pcm_s16le", 2, np.dtype(np.int16)) for n in range(2)]
        np.testing.assert_array_equal(np.concatenate(found), wave)
        assert wave.std() > 1000
