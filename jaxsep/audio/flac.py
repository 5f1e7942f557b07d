"""FLAC in memory."""

import os
from io import BytesIO

import numpy as np
import soundfile

from jaxsep.audio.reader import Dtype, Samples
from jaxsep.errors import JaxsepError


def encode_flac(samples: np.ndarray, rate: int) -> bytes:
    """Integers as a FLAC file: int16 in 16 bits, int32 in the 24 bits that they must fit in."""
    file = BytesIO()
    wide = samples.dtype == np.int32
    data = samples << 8 if wide else samples  # libsndfile takes the upper 24 of 32 bits
    soundfile.write(file, data, rate, "PCM_24" if wide else "PCM_16", format="FLAC")
    return file.getvalue()


def decode_flac(data: bytes | memoryview, dtype: Dtype) -> Samples:
    """The samples [t c] of a FLAC file, as int16 or float32.

    Raises:
        JaxsepError: not FLAC, or damaged.
    """
    try:
        if not hasattr(os, "memfd_create"):  # not Linux
            return soundfile.read(BytesIO(data), dtype=dtype, always_2d=True)[0]
        # libsndfile reads a file by itself, but a BytesIO through Python, whose lock keeps threads from each other.
        file = os.memfd_create("flac")
        os.write(file, data)
        os.lseek(file, 0, os.SEEK_SET)
        return soundfile.read(file, dtype=dtype, always_2d=True)[0]
    except soundfile.SoundFileError as error:
        raise JaxsepError(f"damaged FLAC ({error}); rebuild the data set") from None
