"""Sample rates: a stream of blocks at another rate, by soxr."""

import numpy as np
from jaxtyping import Float32


class Resampler:
    """A stream at another rate, without delay: soxr's band-limited interpolation.

    For t samples in, `round(t * rate_out / rate_in)` (halves up) come out in all, the first at the time of the
    first; beyond its ends the input is taken for silence. Blocks give what one call would.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, quality: str = "HQ") -> None:
        self._channels = channels
        self._stream = None
        if rate_in != rate_out:
            import soxr

            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality=quality)

    def push(self, block: Float32[np.ndarray, "t c"]) -> Float32[np.ndarray, "u c"]:
        """Takes a block; returns what is final, possibly nothing."""
        return block if self._stream is None else self._stream.resample_chunk(np.ascontiguousarray(block))

    def finish(self) -> Float32[np.ndarray, "u c"]:
        """Returns the rest."""
        end = np.empty((0, self._channels), np.float32)
        return end if self._stream is None else self._stream.resample_chunk(end, last=True)


def resampled_length(length: int, rate_in: int, rate_out: int) -> int:
    """`round(length * rate_out / rate_in)`, halves up."""
    return (2 * length * rate_out + rate_in) // (2 * rate_in)


def resample(
    audio: Float32[np.ndarray, "t c"], rate_in: int, rate_out: int, quality: str = "HQ"
) -> Float32[np.ndarray, "u c"]:
    """A whole wave at another rate: `round(t * rate_out / rate_in)` samples (see `Resampler`)."""
    resampler = Resampler(rate_in, rate_out, audio.shape[1], quality)
    return np.concatenate([resampler.push(audio), resampler.finish()])
