"""A folder of one's own songs, by their stems."""

from jaxsep.data.built.builder import SongBuilder


class Builder(SongBuilder):
    """Songs with stems of any names."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Put your songs here, in folders train, valid and test, as <split>/<song>/<stem>.wav (or .flac); a file `mixture` is
    the song's own mixture. `jaxsep data check` finds what is wrong with them.
    """
    HOMEPAGE = "https://github.com/jaxsep/jaxsep"
    LICENSE = "That of your songs."
