"""Samples as bytes and back, bit for bit: PCM as narrow as the samples allow, or FLAC.

Encodings have ffmpeg's names: `pcm_s16le`, `pcm_s24le`, `pcm_f32le` (little-endian, channels interleaved) and `flac`.
"""

import numpy as np

from jaxsep import audio
from jaxsep.data.readers import Samples
from jaxsep.errors import JaxsepError

FULL_SCALE = 1 << 23  # of 24 bits
FLAC = "flac"
PCM = "pcm"


def encoding_of(samples: Samples, codec: str) -> str:
    """The encoding that holds a stem: 16 bits as they are, floats in 24 bits if these give the same floats.

    Args:
        samples: of a whole stem.
        codec: "pcm" or "flac".

    Raises:
        JaxsepError: FLAC is asked for and cannot hold the samples.
    """
    if samples.dtype == np.int16:
        return FLAC if codec == FLAC else "pcm_s16le"
    if np.array_equal(_floats(_integers(samples)).view(np.uint32), samples.view(np.uint32)):
        return FLAC if codec == FLAC else "pcm_s24le"
    if codec == FLAC:
        raise JaxsepError("samples that 24 bits cannot hold, so that FLAC cannot, either; leave --codec flac out")
    return "pcm_f32le"


def pack(samples: Samples, encoding: str, rate: int) -> bytes:
    """Samples as bytes of an encoding that holds them."""
    if encoding == "pcm_s16le":
        return samples.astype("<i2").tobytes()
    if encoding == "pcm_f32le":
        return samples.astype("<f4").tobytes()
    if encoding == FLAC:
        return audio.encode_flac(samples if samples.dtype == np.int16 else _integers(samples), rate)
    lower = _integers(samples).astype("<i4").view(np.uint8).reshape(*samples.shape, 4)[..., :3]
    return lower.tobytes()


def unpack(data: bytes | memoryview, encoding: str, channels: int, dtype: np.dtype) -> Samples:
    """The samples again; of 16 bits and floats a view of `data`.

    Raises:
        JaxsepError: not so encoded.
    """
    if encoding == FLAC:
        samples = audio.decode_flac(data, "int16" if dtype == np.int16 else "float32")
        if samples.shape[1] != channels:
            raise JaxsepError(f"FLAC of {samples.shape[1]} channels, expected {channels}")
        return samples
    width = {"pcm_s16le": 2, "pcm_s24le": 3, "pcm_f32le": 4}.get(encoding)
    if width is None or len(data) % (width * channels):
        raise JaxsepError(f"{len(data)} bytes of {encoding!r} for {channels} channels; rebuild the data set")
    if width != 3:
        return np.frombuffer(data, "<i2" if width == 2 else "<f4").reshape(-1, channels)
    padded = np.zeros((len(data) // 3, 4), np.uint8)
    padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return _floats(padded.view("<i4").reshape(-1, channels) >> 8)


def _integers(samples: Samples) -> np.ndarray:
    """Floats as the nearest 24-bit integers."""
    return np.clip(np.rint(samples * np.float32(FULL_SCALE)), -FULL_SCALE, FULL_SCALE - 1).astype(np.int32)


def _floats(integers: np.ndarray) -> np.ndarray:
    return integers.astype(np.float32) * np.float32(1 / FULL_SCALE)
