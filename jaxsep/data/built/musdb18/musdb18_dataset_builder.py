"""MUSDB18: 150 songs as `.stem.mp4` files."""

from jaxsep.data.built.builder import Archive, SongBuilder

STEMS = "drums,bass,other,vocals"


class Builder(SongBuilder):
    """MUSDB18, decoded to 16 bits, with the alignment and length of the musdb package."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download musdb18.zip (4.4 GB) from https://zenodo.org/records/1117372, and put it here, or unpack it here, so that
    there are folders train and test of <song>.stem.mp4 files.
    """
    SOURCE = "musdb18"
    STEMS = STEMS
    ARCHIVE = Archive(
        "musdb18.zip", "https://zenodo.org/records/1117372", 4_684_228_845, "af06762477334799bfc5abf237648207"
    )
    HOMEPAGE = "https://sigsep.github.io/datasets/musdb.html"
    LICENSE = (
        "For academic purposes only. 100 songs are of DSD100, and so of the 'Mixing Secrets' library, 46 of MedleyDB "
        "(CC BY-NC-SA 4.0), 2 of Native Instruments, 2 of The Easton Ellises (CC BY-NC-SA 3.0)."
    )
