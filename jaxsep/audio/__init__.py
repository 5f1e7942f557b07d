"""Audio files in and out, and sample rates: the only room that touches codecs.

Reads and writes are streams of blocks [t c], float32 with a nominal range of [-1, 1], in memory that does not
grow with the length of the file. libsndfile reads WAV, AIFF, FLAC and Ogg Vorbis; PyAV reads all else, MP3 and
Opus too: libsndfile cuts a variable-rate MP3 without a Xing header short without a word, and garbles the last
page of an Opus file that is read in blocks.
"""

from pathlib import Path

import numpy as np

from jaxsep.audio import containers, sndfile
from jaxsep.audio.containers import STEMS, AvReader, read_stems
from jaxsep.audio.ffmpeg import decode_ffmpeg
from jaxsep.audio.flac import decode_flac, encode_flac
from jaxsep.audio.reader import AudioReader, Dtype, PathLike, Samples
from jaxsep.audio.resampling import Resampler, resample, resampled_length
from jaxsep.audio.sndfile import SndReader
from jaxsep.audio.writer import FORMATS, AudioWriter, check_writer, open_writer
from jaxsep.errors import JaxsepError

__all__ = [
    "FORMATS",
    "STEMS",
    "SUFFIXES",
    "AudioReader",
    "AudioWriter",
    "JaxsepError",
    "Resampler",
    "check_writer",
    "decode_ffmpeg",
    "decode_flac",
    "encode_flac",
    "open_audio",
    "open_writer",
    "read",
    "read_segment",
    "read_stems",
    "resample",
    "resampled_length",
    "transcode",
]

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".aif", ".aiff", *containers.SUFFIXES)


def open_audio(path: PathLike, stream: int = 0) -> AudioReader:
    """Opens a sound file (or the sound of a video file) for reading; use it as a context manager.

    Args:
        path: WAV, AIFF, FLAC, Ogg, MP3, M4A/MP4/AAC/MOV or WebM/Matroska. The first four are known by their
            first bytes, the others by their suffix.
        stream: which of several audio streams (a `.stem.mp4` has `STEMS`).

    Raises:
        JaxsepError: no such file, a folder, unreadable, empty, not audio, or shorter than its header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
        str(path).encode()
    except OSError as error:
        raise JaxsepError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeEncodeError:
        raise JaxsepError(f"{path}: its name is not valid UTF-8, which the decoders need; rename it") from None
    if not magic:
        raise JaxsepError(f"{path}: empty file (0 bytes)")
    if magic in sndfile.MAGIC:
        reader = SndReader(path, stream)
        if reader.trusted:
            return reader
        reader.close()
    elif path.suffix.strip().lower() not in containers.SUFFIXES:
        raise JaxsepError(f"{path}: not audio, or not what its name says; known: {', '.join(SUFFIXES)}")
    return AvReader(path, stream)


def read(path: PathLike, *, dtype: Dtype = "float32") -> tuple[Samples, int]:
    """A whole file [t c] and its rate.

    Raises:
        JaxsepError: see `open_audio` and `AudioReader.blocks`.
    """
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks(dtype=dtype))), reader.rate


def read_segment(path: PathLike, start: int, count: int, dtype: Dtype | None = None, *, stream: int = 0) -> Samples:
    """Samples [start, start + count) of a file, equal to the same samples of the whole file; leaves the GIL.

    MP4 is entered by a seek with pre-roll; other containers of PyAV's are decoded from their start. A seek is
    exact but for AAC encoded with perceptual noise substitution (ffmpeg's own encoder uses it), whose noise is
    drawn anew from where the decoder starts.

    Args:
        path: see `open_audio`.
        start: first sample.
        count: number of samples.
        dtype: by default `AudioReader.dtype`: int16 for 16-bit sources, float32 otherwise.
        stream: which of several audio streams.

    Raises:
        JaxsepError: beyond the end, or see `open_audio` and `AudioReader.blocks`.
    """
    with open_audio(path, stream) as reader:
        return reader.segment(start, count, dtype)


def transcode(
    source: PathLike,
    target: PathLike,
    format: str,
    bits: int | str | None = None,
    bitrate: int | None = None,
    gain: float = 1.0,
) -> None:
    """Copies a file to another format, times `gain`.

    So one gain can be given to all stems of a song when the peak of the last of them is known: write them as
    32-bit float first (`AudioWriter.peak`), then transcode with gain = 1 / peak.

    Raises:
        JaxsepError: see `open_audio` and `open_writer`.
    """
    with (
        open_audio(source) as reader,
        open_writer(target, reader.rate, reader.channels, format, bits, bitrate) as writer,
    ):
        for block in reader.blocks():
            # In float64, or peak * (1 / peak) might come out above 1.
            writer.write((block * np.float64(gain)).astype(np.float32))
