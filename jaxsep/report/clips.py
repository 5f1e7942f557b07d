"""Clips of a song in the page itself: a browser that opens a page from disk lets it play files, not read them."""

import base64
import dataclasses
from io import BytesIO

import numpy as np
from jaxtyping import Float

from jaxsep import audio
from jaxsep.audio.encoders import encoder
from jaxsep.audio.reader import BLOCK
from jaxsep.errors import JaxsepError

TYPES = {"flac": "audio/flac", "mp3": "audio/mpeg", "opus": "audio/ogg"}
OPUS_RATE = 48000
MP3_BITRATE = 192  # kbit/s, at 32 kHz and above


@dataclasses.dataclass(frozen=True)
class Clip:
    """An encoded wave.

    Attributes:
        url: `data:` with the bytes in it.
        rate: of the encoded samples, in Hz.
        bytes: how many there are before base64, which makes four of three.
    """

    url: str
    rate: int
    bytes: int


def encode(wave: Float[np.ndarray, "t c"], rate: int, format: str) -> Clip:
    """A wave within [-1, 1] as FLAC (16 bits), MP3 (192 kbit/s) or Opus (which knows 48 kHz only).

    Raises:
        JaxsepError: another format, or a rate or channel count that it does not hold.
    """
    if format not in TYPES:
        raise JaxsepError(f"clips={format!r}: expected {', '.join(TYPES)}")
    samples = np.ascontiguousarray(wave, np.float32)
    if format == "opus" and rate != OPUS_RATE:
        samples, rate = audio.resample(samples, rate, OPUS_RATE), OPUS_RATE
    bits, bitrate = (16 if format == "flac" else None), (MP3_BITRATE if format == "mp3" and rate >= 32000 else None)
    audio.check_writer(format, bits, rate, samples.shape[1], bitrate)
    file = BytesIO()
    encoding = encoder(file, format, bits, rate, samples.shape[1], bitrate)
    for start in range(0, len(samples), BLOCK):
        encoding.write(samples[start : start + BLOCK])
    encoding.close()
    data = file.getvalue()
    return Clip(f"data:{TYPES[format]};base64,{base64.b64encode(data).decode()}", rate, len(data))
