"""MUSDB18-HQ: MUSDB18's songs as uncompressed WAV files."""

from jaxsep.data.built.builder import Archive, SongBuilder
from jaxsep.data.built.musdb18.musdb18_dataset_builder import Builder as Compressed


class Builder(SongBuilder):
    """MUSDB18-HQ, as it is."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download musdb18hq.zip (22.7 GB) from https://zenodo.org/records/3338373, and put it here, or unpack it here, so
    that there are folders train and test of <song>/<stem>.wav files.
    """
    STEMS = Compressed.STEMS
    ARCHIVE = Archive(
        "musdb18hq.zip", "https://zenodo.org/records/3338373", 22_656_664_047, "12d4f2ecd55245a4688754dd76363103"
    )
    HOMEPAGE = Compressed.HOMEPAGE
    LICENSE = Compressed.LICENSE
