"""The records of a song: one for each stem and second, in the stem's own sample format."""

from collections.abc import Iterator
from typing import Any

from jaxsep.data.built.loudness import loudness
from jaxsep.data.built.samples import encoding_of, pack
from jaxsep.data.readers import Silence
from jaxsep.data.tracks import MIXTURE, Track
from jaxsep.errors import JaxsepError


def stem_names(track: Track) -> list[str]:
    """The mixture, where there is one, and the stems that are there: the order of a song's records."""
    stems = [stem for stem, reader in track.stems.items() if not isinstance(reader, Silence)]
    return [*([MIXTURE] if track.mixture else []), *stems]


def examples(track: Track, stem: str, codec: str) -> Iterator[dict[str, Any]]:
    """The records of a stem, second by second, as `jaxsep.data.built.builder.features` describes them.

    The whole stem is in memory, as lossy formats are decoded in one go, and its loudness is measured in one go.

    Raises:
        JaxsepError: unreadable, or not to be held by the codec.
    """
    reader = track.reader(stem)
    samples = reader.read(0, reader.length)
    try:
        encoding = encoding_of(samples, codec)
    except JaxsepError as error:
        raise JaxsepError(f"{reader.path}: {error}") from None
    for second, level in enumerate(loudness(samples, reader.rate)):
        part = samples[second * reader.rate :][: reader.rate]
        yield {
            "track": track.name,
            "stem": stem,
            "second": second,
            "rate": reader.rate,
            "channels": reader.channels,
            "samples": len(part),
            "encoding": encoding,
            "silent": not part.any(),
            "loudness": level,
            "audio": pack(part, encoding, reader.rate),
        }
