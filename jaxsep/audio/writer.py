"""Sound files being written: what each format can hold, and a file that appears only when it is complete."""

import contextlib
import dataclasses
import errno
import os
import secrets
from collections.abc import Container, Iterator
from io import BufferedIOBase, BytesIO
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from jaxsep.audio.encoders import SndEncoder, WavEncoder, encoder, mp3_bitrates
from jaxsep.audio.reader import BLOCK, PathLike
from jaxsep.errors import JaxsepError


@dataclasses.dataclass(frozen=True)
class Format:
    """What an output format can hold: bits (none: lossy), channels and sample rates."""

    bits: tuple[str, ...]
    channels: int
    rates: Container[int]
    rates_in_words: str


MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
FORMATS = {
    "wav": Format(("16", "24", "32f"), 255, range(1, 1_000_001), "1 to 1,000,000"),
    "flac": Format(("16", "24"), 8, range(1, 655_351), "1 to 655,350"),
    "mp3": Format((), 2, MP3_RATES, ", ".join(map(str, MP3_RATES))),
    # libvorbis ends the process beyond 200 kHz.
    "ogg": Format((), 255, range(1, 192_001), "1 to 192,000"),
    "opus": Format((), 255, OPUS_RATES, ", ".join(map(str, OPUS_RATES))),
}


def check_writer(format: str, bits: int | str | None, rate: int, channels: int, bitrate: int | None = None) -> None:
    """Encodes a few samples to memory, so that a bad choice shows before the work.

    Args:
        format: "wav", "flac", "mp3", "ogg" (Vorbis) or "opus" (in Ogg).
        bits: 16, 24 or "32f" (WAV only); None for MP3, Ogg and Opus, and 16 where it is None.
        rate: in Hz.
        channels: number of channels.
        bitrate: of an MP3, in kbit/s; by default the highest, 320 at 32 kHz and above.

    Raises:
        JaxsepError: names the choice and those allowed.
    """
    if format not in FORMATS:
        raise JaxsepError(f"format={format!r} is unknown, expected one of {', '.join(FORMATS)}")
    allowed = FORMATS[format]
    if bits is not None and str(bits) not in allowed.bits:
        choices = f"expected one of {', '.join(allowed.bits)}" if allowed.bits else "it is lossy and takes none"
        raise JaxsepError(f"bits={bits} with format={format}: {choices}")
    if not 1 <= channels <= allowed.channels:
        raise JaxsepError(f"{format} holds at most {allowed.channels} channels, not {channels}; try wav")
    if rate not in allowed.rates:
        raise JaxsepError(f"{format} cannot hold {rate} Hz, only {allowed.rates_in_words}; try wav or flac")
    if bitrate is not None and format != "mp3":
        raise JaxsepError(f"bitrate={bitrate} with format={format}: only mp3 takes one")
    if bitrate is not None and bitrate not in mp3_bitrates(rate):
        choices = ", ".join(map(str, mp3_bitrates(rate)))
        raise JaxsepError(f"bitrate={bitrate} kbit/s for an mp3 at {rate} Hz: expected one of {choices}")
    try:
        trial = encoder(BytesIO(), format, bits, rate, channels, bitrate)
        trial.write(np.zeros((64, channels), np.float32))
        trial.close()
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise JaxsepError(f"cannot encode {format} at {rate} Hz with {channels} channels: {error}") from None


class AudioWriter:
    """A sound file being written: to a temporary file beside it, renamed when all of it is there.

    A context manager: an exception inside removes the temporary file and leaves an older file as it was.

    Attributes:
        path: the file to be.
        length: samples written so far.
        peak: the largest magnitude written so far.
    """

    def __init__(
        self,
        path: Path,
        temporary: Path,
        file: BufferedIOBase,
        encoder: WavEncoder | SndEncoder,
        rate: int,
        channels: int,
        limited: bool,
    ) -> None:
        self.path = path
        self.length, self.peak = 0, 0.0
        self._temporary, self._file, self._encoder = temporary, file, encoder
        self._rate, self._channels, self._limited = rate, channels, limited

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, block: Float32[np.ndarray, "t c"]) -> None:
        """Appends a block [t c].

        Raises:
            JaxsepError: the disk is full, another channel count, a sample that is not finite, or one beyond
                [-1, 1] where the format is not 32-bit float: nothing is clipped here. +1 itself becomes the
                largest integer.
        """
        if block.ndim != 2 or block.shape[1] != self._channels:
            raise JaxsepError(f"{self.path}: block of shape {block.shape}, expected [t, {self._channels}]")
        peak = float(np.abs(block).max(initial=0))
        with self._removing_on_error():
            if not np.isfinite(peak):
                raise JaxsepError(f"{self.path}: NaN or infinite sample near second {self._now():.2f}")
            self.peak = max(self.peak, peak)
            if peak > 1 and self._limited:
                raise JaxsepError(
                    f"{self.path}: peak {peak:.3f} near second {self._now():.2f} would clip; "
                    "rescale or clamp (--clip), or write 32-bit float WAV"
                )
            for start in range(0, len(block), BLOCK):  # libvorbis overflows its stack on long blocks
                self._encoder.write(np.ascontiguousarray(block[start : start + BLOCK]))
        self.length += len(block)

    def close(self) -> None:
        """Completes the file and gives it its name.

        Raises:
            JaxsepError: the disk is full.
        """
        if self._file.closed:
            return
        with self._removing_on_error():
            self._encoder.close()
            self._file.flush()
            os.fsync(self._file.fileno())  # some file systems find the disk full only now
            self._file.close()
            os.replace(self._temporary, self.path)

    def abort(self) -> None:
        """Gives up: removes what is written so far."""
        if not self._file.closed:
            with contextlib.suppress(OSError, soundfile.SoundFileError):
                self._encoder.close()  # or libsndfile would write its end to a closed file
            with contextlib.suppress(OSError):
                self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _now(self) -> float:
        return self.length / self._rate

    @contextlib.contextmanager
    def _removing_on_error(self) -> Iterator[None]:
        try:
            with _writing(self.path):
                yield
        except BaseException:
            self.abort()
            raise


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns errors of the disk and of encoders into a line that names the file."""
    try:
        yield
    except OSError as error:
        raise JaxsepError(f"{path}: cannot be written ({error.strerror}); check the folder and the disk") from None
    except soundfile.SoundFileError as error:
        raise JaxsepError(f"{path}: cannot be encoded ({error})") from None


def open_writer(
    path: PathLike,
    rate: int,
    channels: int,
    format: str = "wav",
    bits: int | str | None = None,
    bitrate: int | None = None,
) -> AudioWriter:
    """Opens a file for writing; use it as a context manager. Arguments as in `check_writer`.

    An older file of that name is replaced when the writer closes, not before.

    Raises:
        JaxsepError: an impossible choice, a missing or unwritable folder.
    """
    check_writer(format, bits, rate, channels, bitrate)
    path = Path(path)
    temporary = path.parent / f".jaxsep-{os.getpid()}-{secrets.token_hex(4)}.part"
    with _writing(path), contextlib.ExitStack() as on_error:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        file = open(temporary, "xb+")  # noqa: SIM115 (it outlives this function: the AudioWriter closes it)
        on_error.callback(temporary.unlink)
        on_error.callback(file.close)
        encoding = encoder(file, format, bits, rate, channels, bitrate)
        on_error.pop_all()
    return AudioWriter(path, temporary, file, encoding, rate, channels, limited=str(bits) != "32f")
