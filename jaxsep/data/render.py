"""Stem folders of MIDI songs: each stem is played by FluidSynth alone, and the mixture is the sum of what it played."""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import scipy.signal
from jaxtyping import Float32

from jaxsep import audio
from jaxsep.audio.reader import BLOCK
from jaxsep.data import making, midi
from jaxsep.data.tracks import MIXTURE, SPLITS
from jaxsep.errors import JaxsepError

VERSION = 1  # of the rule that makes stems of parts, and of the rendering
SUFFIXES = (".mid", ".midi", ".kar")
NEEDED = ("drums", "bass", "other")  # of every song; its vocals may be silent
SHORTEST = 20.0  # seconds
TAIL = 2.0  # seconds after the last event
RATE, FULL_SCALE, PEAK = 44100, 32768, 0.95
HIGH_PASS = np.asarray(
    scipy.signal.butter(2, 20, "highpass", fs=RATE, output="sos")
)  # SoundFonts hold samples with an offset
# Of the songs that have all stems, so that every score is defined; the rest is for training.
TEST, VALID = 0.22, 0.12
INSTALL = "install it (Debian: apt install fluidsynth; macOS: brew install fluid-synth)"
SONG = "song.json"


@dataclasses.dataclass(frozen=True)
class Player:
    """FluidSynth and a SoundFont; `settings` says which, exactly."""

    program: str
    soundfont: Path
    settings: dict[str, object]

    def play(self, midi: Path, wav: Path) -> None:
        """Renders a MIDI file to 32-bit float WAV, without the user's own settings of FluidSynth.

        Without its chorus, too, whose defaults make a channel that asks for it three times as loud.

        Raises:
            JaxsepError: FluidSynth says so, or writes nothing.
        """
        options = [
            "-n",
            "-i",
            "-q",
            "-f",
            os.devnull,
            "-C",
            "0",
            "-T",
            "wav",
            "-O",
            "float",
            "-r",
            str(RATE),
            "-F",
            str(wav),
        ]
        done = subprocess.run(
            [self.program, *options, str(self.soundfont), str(midi)], capture_output=True, text=True, errors="replace"
        )
        if done.returncode or not wav.is_file():
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise JaxsepError(f"{midi.name}: fluidsynth failed ({reason})")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a MIDI file: the song at `folder`, or none, and why; `failed` if it should have been one."""

    midi: Path
    folder: Path | None = None
    why: str = ""
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}" if self.folder else self.why


def open_player(soundfont: Path) -> Player:
    """FluidSynth from the PATH, and a SoundFont.

    Raises:
        JaxsepError: one of them is missing, or the file is no SoundFont.
    """
    program = shutil.which("fluidsynth")
    if program is None:
        raise JaxsepError(f"fluidsynth is not on the PATH; {INSTALL}")
    try:
        with open(soundfont, "rb") as file:
            head = file.read(12)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise JaxsepError(
            f"{soundfont}: cannot be read ({error.strerror}); give a SoundFont (Debian: apt install "
            "fluid-soundfont-gm, then /usr/share/sounds/sf2/FluidR3_GM.sf2)"
        ) from None
    if head[:4] != b"RIFF" or head[8:] != b"sfbk":
        raise JaxsepError(f"{soundfont}: not a SoundFont; give an .sf2 or .sf3 file")
    words = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.split()
    version = next((word for word in words if word[:1].isdigit()), "of unknown version")
    font = {"name": soundfont.name, "sha256": digest}
    return Player(program, soundfont, {"version": VERSION, "renderer": f"fluidsynth {version}", "soundfont": font})


def render(
    folder: str | os.PathLike[str],
    soundfont: str | os.PathLike[str],
    out: str | os.PathLike[str],
    jobs: int | None = None,
    notify: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Renders all MIDI files below a folder to `out/<split>/<song>/<stem>.wav` and `mixture.wav`, 16 bits.

    Songs appear when they are complete and are never made twice: an interrupted call is repeated to go on. A song
    is in the same split whatever other songs there are: by the hash of its file.

    Args:
        folder: searched with the folders below it.
        soundfont: an .sf2 or .sf3 file.
        out: a new or empty folder, or one that was begun with the same SoundFont and FluidSynth.
        jobs: songs at a time; all cores by default.
        notify: takes a line for each song and each file that becomes none.

    Raises:
        JaxsepError: no MIDI files, no FluidSynth, no SoundFont, or `out` holds something else.
    """
    root, out = Path(folder), Path(out)
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise JaxsepError(f"{root}: no MIDI files ({', '.join(SUFFIXES)}) in it or in folders below it")
    player = open_player(Path(soundfont))
    digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    first = {digest: path for path, digest in reversed(digests.items())}
    names = _names(root, files, digests)
    outcomes = []
    try:
        making.claim(out, player.settings, "rendered songs")
        for split in SPLITS:
            (out / split).mkdir(exist_ok=True)
    except OSError as error:
        raise JaxsepError(f"{error.filename or out}: cannot be written ({error.strerror})") from None

    def one(path: Path) -> Outcome:
        if (same := first[digests[path]]) != path:
            return Outcome(path, why=f"left out: the same file as {same.relative_to(root)}")
        provenance = {"midi": path.relative_to(root).as_posix(), "sha256": digests[path]}
        try:
            return _song(path, out, names[path], provenance, player)
        except JaxsepError as error:
            return Outcome(path, why=f"failed: {error}", failed=True)
        except OSError as error:
            return Outcome(path, why=f"failed: {error.filename}: {error.strerror}", failed=True)

    pool = ThreadPoolExecutor(jobs or os.cpu_count())
    try:
        for count, future in enumerate(as_completed([pool.submit(one, path) for path in files]), start=1):
            outcome = future.result()
            outcomes.append(outcome)
            notify(f"[{count}/{len(files)}] {outcome.midi.relative_to(root)}: {outcome}")
    finally:
        pool.shutdown(cancel_futures=True)
    return sorted(outcomes, key=lambda outcome: outcome.midi)


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many songs there are in each split, how many files became none."""
    splits = collections.Counter(outcome.folder.parent.name for outcome in outcomes if outcome.folder)
    failed = sum(outcome.failed for outcome in outcomes)
    counts = ", ".join(f"{split} {splits[split]}" for split in SPLITS)
    left_out = len(outcomes) - splits.total() - failed
    return f"{splits.total()} songs ({counts}), {left_out} files left out, {failed} failed"


def _names(root: Path, files: Sequence[Path], digests: Mapping[Path, str]) -> dict[Path, str]:
    """A folder's name for each file: its path, with some of its hash where two would be alike."""
    names = {path: " - ".join(path.relative_to(root).with_suffix("").parts) for path in files}
    counts = collections.Counter(name.lower() for name in names.values())
    return {path: name if counts[name.lower()] == 1 else f"{name} {digests[path][:8]}" for path, name in names.items()}


def _song(path: Path, out: Path, name: str, provenance: Mapping[str, object], player: Player) -> Outcome:
    """Renders one song, unless it is there or is to be left out.

    Raises:
        JaxsepError, OSError: unreadable MIDI, FluidSynth fails, a full disk.
    """
    score = midi.read_score(path)
    stems = midi.assign(score)
    if missing := [stem for stem in NEEDED if not stems[stem]]:
        return Outcome(path, why=f"left out: no {' and no '.join(missing)}")
    if score.seconds < SHORTEST:
        return Outcome(path, why=f"left out: {score.seconds:.1f} s, shorter than {SHORTEST:g} s")
    folder = out / _split(str(provenance["sha256"]), whole=all(stems.values())) / name
    if folder.is_dir():
        return Outcome(path, folder)
    with making.whole(folder) as part:
        units = {stem: _play(score, parts, stem, part, player) for stem, parts in stems.items()}
        length = round((score.time(score.end) + TAIL) * RATE)
        peaks = _peaks(units, length)
        for stem, parts in stems.items():
            if parts and not peaks[stem]:
                return Outcome(path, why=f"left out: its {stem} are silent with this SoundFont")
        gain = PEAK / max(peaks.values())
        _write(part, units, length, gain)
        for wav in (wav for wavs in units.values() for wav in wavs):
            wav.unlink()
        record = {
            **provenance,
            **player.settings,
            "gain": gain,
            "stems": {
                stem: [dataclasses.asdict(p) | {"notes": len(score.notes[p])} for p in parts]
                for stem, parts in stems.items()
            },
        }
        (part / SONG).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return Outcome(path, folder)


def _split(digest: str, whole: bool) -> str:
    draw = int(digest[:8], 16) / 16**8
    if not whole or draw >= TEST + VALID:
        return "train"
    return "test" if draw < TEST else "valid"


def _play(score: midi.Score, parts: Sequence[midi.Part], stem: str, folder: Path, player: Player) -> list[Path]:
    """A WAV for each port that the parts are on: none for a silent stem."""
    wavs = []
    for port in sorted({part.port for part in parts}):
        solo, wav = (folder / f".{stem}{port}.{suffix}" for suffix in ("mid", "wav"))
        score.solo(parts, port, TAIL).save(solo)
        player.play(solo, wav)
        solo.unlink()
        wavs.append(wav)
    return wavs


def _blocks(units: Mapping[str, Sequence[Path]], length: int) -> Iterator[dict[str, Float32[np.ndarray, "t c"]]]:
    """All stems in step, without offsets, cut where the song ends: FluidSynth goes on until the last voice is silent.

    Raises:
        JaxsepError: FluidSynth ended before the song.
    """
    with contextlib.ExitStack() as stack:
        readers = {stem: [stack.enter_context(audio.open_audio(wav)) for wav in wavs] for stem, wavs in units.items()}
        for reader in (reader for those in readers.values() for reader in those):
            if reader.length is None or reader.length < length:
                raise reader.truncated(length, reader.length or 0)
        streams = {stem: [reader.blocks() for reader in those] for stem, those in readers.items()}
        states = {stem: np.zeros((len(HIGH_PASS), 2, 2)) for stem in units}
        for start in range(0, length, BLOCK):
            count = min(BLOCK, length - start)
            block = {}
            for stem, those in streams.items():
                sound = sum((next(wave)[:count] for wave in those), np.zeros((count, 2), np.float32))
                filtered, states[stem] = scipy.signal.sosfilt(HIGH_PASS, sound, axis=0, zi=states[stem])
                block[stem] = filtered.astype(np.float32)
            yield block


def _peaks(units: Mapping[str, Sequence[Path]], length: int) -> dict[str, float]:
    """The largest magnitude of each stem and of their sum."""
    peaks = dict.fromkeys((*units, MIXTURE), 0.0)
    for block in _blocks(units, length):
        for name, sound in (block | {MIXTURE: np.sum(list(block.values()), axis=0)}).items():
            peaks[name] = max(peaks[name], float(np.abs(sound).max()))
    return peaks


def _write(folder: Path, units: Mapping[str, Sequence[Path]], length: int, gain: float) -> None:
    """The stems at one gain, in whole steps of 16 bits, and their exact sum."""
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(audio.open_writer(folder / f"{name}.wav", RATE, 2, "wav", 16))
            for name in (*units, MIXTURE)
        }
        for block in _blocks(units, length):
            steps = {stem: np.round(sound * np.float32(gain * FULL_SCALE)) for stem, sound in block.items()}
            for name, sound in (steps | {MIXTURE: np.sum(list(steps.values()), axis=0)}).items():
                writers[name].write(sound / np.float32(FULL_SCALE))
