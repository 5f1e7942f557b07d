"""What the TFDS builders share: the features of a record, and where songs come from."""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jaxsep.config import defaults
from jaxsep.data.built.examples import examples, stem_names
from jaxsep.data.layouts import visible
from jaxsep.data.tracks import MIXTURE, SPLITS, SUFFIXES, Track, open_tracks
from jaxsep.errors import JaxsepError


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file that people download, with the checksum of its public record."""

    name: str
    url: str
    size: int
    md5: str

    def check(self, path: Path) -> None:
        """Holds a download against the record.

        Raises:
            JaxsepError: another size or checksum.
        """
        if (size := path.stat().st_size) != self.size:
            raise JaxsepError(
                f"{path}: {size:,} bytes, the record has {self.size:,}; download it again from {self.url}"
            )
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != self.md5:
            raise JaxsepError(f"{path}: MD5 {digest}, the record has {self.md5}; fetch it again from {self.url}")


def features() -> tfds.features.FeaturesDict:
    """Of a record: a second of a stem, and what is known of it."""
    feature = tfds.features
    return feature.FeaturesDict(
        {
            "track": feature.Text(doc="Name of the song."),
            "stem": feature.Text(doc="Name of the stem, or `mixture`."),
            "second": feature.Scalar(np.int32, doc="Of the song, from 0."),
            "rate": feature.Scalar(np.int32, doc="Samples per second."),
            "channels": feature.Scalar(np.int32, doc="Interleaved in `audio`."),
            "samples": feature.Scalar(np.int32, doc="As many as `rate`, but for the last second."),
            "encoding": feature.Text(doc="pcm_s16le, pcm_s24le, pcm_f32le or flac."),
            "silent": feature.Scalar(np.bool_, doc="All samples are zero."),
            "loudness": feature.Scalar(np.float32, doc="LUFS (ITU-R BS.1770-4, no gate); -inf for digital silence."),
            "audio": feature.Tensor(shape=(), dtype=np.object_, doc="The samples, in `encoding`."),
        }
    )


class SongBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Songs by stem and second; the builders of the folders beside this file say which.

    Attributes:
        SOURCE: which `data.source` opens the songs.
        STEMS: of the songs; "" for all that there are.
        ARCHIVE: what can be downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "One record per song, stem and second."}
    SOURCE = "folder"
    STEMS = ""
    ARCHIVE: Archive | None = None
    HOMEPAGE = ""
    LICENSE = ""

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=features(), homepage=self.HOMEPAGE, license=self.LICENSE)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        splits, failures = self.songs(self._unpacked(dl_manager))
        for error in failures.values():
            raise error
        return {split: self._generate_examples(tracks) for split, tracks in splits.items()}

    def _generate_examples(self, tracks: list[Track]) -> Iterator[tuple[str, dict[str, Any]]]:
        for track in tracks:
            for stem in stem_names(track):
                for example in examples(track, stem, "pcm"):
                    yield f"{track.name}/{stem}/{example['second']:05d}", example

    def _unpacked(self, dl_manager: Any) -> Path:
        """The folder of the splits: as it is, or out of the archive, whose checksum is checked."""
        folder = Path(os.fspath(dl_manager.manual_dir))
        if self.ARCHIVE and not has_splits(folder) and (folder / self.ARCHIVE.name).is_file():
            self.ARCHIVE.check(folder / self.ARCHIVE.name)
            return Path(os.fspath(dl_manager.extract(folder / self.ARCHIVE.name)))
        return folder

    @classmethod
    def songs(cls, root: Path, stems: str = "") -> tuple[dict[str, list[Track]], dict[str, JaxsepError]]:
        """The songs of each split that there is, as training reads them, and why others cannot be opened.

        Args:
            root: folder of the splits.
            stems: only these; "" for the data set's own.

        Raises:
            JaxsepError: no folder, no songs.
        """
        if not has_splits(root):
            hint = f" (unpack {cls.ARCHIVE.name} there, from {cls.ARCHIVE.url})" if cls.ARCHIVE else ""
            raise JaxsepError(f"{root}: no folder train, valid or test{hint}; give the one that holds them")
        data = defaults().data
        data.update(source=cls.SOURCE, root=str(root), stems=stems or cls.STEMS or _stems(root))
        data.missing = "refuse" if cls.STEMS else "silence"  # training on the set says whether stems may be missing
        found: dict[str, list[Track]] = {}
        failures: dict[str, JaxsepError] = {}
        own: dict[str, JaxsepError]
        for split in SPLITS:
            folder, own = root / split, {}
            if folder.is_dir():
                if visible(folder):
                    found[split] = open_tracks(data, split, None, own.__setitem__)
            elif split == "valid" and "train" in found:
                with contextlib.suppress(JaxsepError):  # of songs that are not MUSDB18's none is for validation
                    found[split] = open_tracks(data, split, None, own.__setitem__)
            failures |= {f"{split}/{song}": error for song, error in own.items()}
        return found, failures


def has_splits(root: Path) -> bool:
    """Whether a folder holds a data set."""
    return any((root / split).is_dir() for split in SPLITS)


def _stems(root: Path) -> str:
    """The names of all stems of a stem folder."""
    files = (path for split in SPLITS for path in (root / split).glob("*/*") if path.suffix.lower() in SUFFIXES)
    names = sorted({path.stem for path in files if not path.name.startswith(".")} - {MIXTURE})
    if not names:
        raise JaxsepError(f"{root}: no stems; expected <split>/<song>/<stem>.wav or .flac")
    return ",".join(names)
