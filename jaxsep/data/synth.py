"""Built-in songs: made of numbers alone, so that training and scoring run anywhere without a download.

A song is a pure function of (seed, number, seconds): tempo, key, chords and form are drawn once and shared by
drums, bass, a sung lead ("vocals") and an accompaniment of two or three instruments ("other"); each stem is
then played on instruments of its own timbre, register, room and equaliser, so that held-out songs sound different
from training songs. Songs of another length share only the generator.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from jaxsep import audio
from jaxsep.data.instruments import (
    Note,
    Stereo,
    Timbre,
    Voice,
    convolve,
    panned,
    play,
    play_drums,
    room,
    sing,
)
from jaxsep.errors import JaxsepError

VERSION = 1  # of the generator; songs of another version are not mixed with these
STEMS = ("vocals", "drums", "bass", "other")
SPLITS = ("train", "valid", "test")

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # degrees of the scale, one per bar
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4), (1, 4, 0, 5), (3, 0, 4, 5)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (5, 6, 0, 0), (0, 2, 6, 3), (3, 0, 6, 4)),
}
# Sections and their bars; after the bridge it goes on with the first verse.
FORM = (("intro", 1), ("verse", 4), ("chorus", 4), ("verse", 4), ("chorus", 4), ("bridge", 2))
FULL_SCALE = 32768
RATE = 44100
LOWEST = 28  # MIDI pitch of a bass guitar's lowest string
COUNTS = {"train": 24, "valid": 4, "test": 6}


@dataclass(frozen=True)
class Bar:
    """Four beats from `onset` (seconds) on; `chord` is a degree of the scale; `left`: bars left in the section."""

    onset: float
    section: str
    chord: int
    first: bool
    left: int


@dataclass(frozen=True)
class Score:
    """What all stems share."""

    name: str
    beat: float
    tonic: int
    mode: str
    bars: tuple[Bar, ...]

    def pitch(self, degree: int, low: float) -> float:
        """MIDI pitch of a degree of the scale counted from the first tonic at or above `low`."""
        tonic = self.tonic + 12 * np.ceil((low - self.tonic) / 12)
        return tonic + SCALES[self.mode][degree % 7] + 12 * (degree // 7)

    def chord(self, degree: int, low: float, tones: int = 3) -> list[float]:
        """MIDI pitches of the chord on a degree, each in the octave from `low` on, rising."""
        return sorted(low + (self.pitch(degree + 2 * i, low) - low) % 12 for i in range(tones))


def _draws(seed: int, number: int, part: int) -> np.random.Generator:
    """A stream of its own for each song and part, so that a change to one stem leaves the others alone."""
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, part]))


def _pick(rng: np.random.Generator, items):
    return items[int(rng.random() * len(items))]


def _aside(rng: np.random.Generator) -> float:
    """A place left or right of the middle, where voice, bass, kick and snare are."""
    return rng.uniform(0.3, 0.9) * _pick(rng, (-1, 1))


def compose(seed: int, number: int, seconds: float | int) -> Score:
    """Tempo, key, chords and form of a song."""
    rng = _draws(seed, number, 0)
    tempo = int(rng.uniform(76, 141))
    tonic = int(rng.random() * 12)
    mode = _pick(rng, ("major", "minor"))
    chords = {section: _pick(rng, PROGRESSIONS[mode]) for section in ("verse", "chorus", "bridge")}
    chords["intro"] = chords["verse"]
    beat = 60 / tempo
    bars: list[Bar] = []
    form = list(FORM)
    while 4 * beat * len(bars) < seconds:
        section, length = form.pop(0)
        for i in range(length):
            bars.append(Bar(4 * beat * len(bars), section, chords[section][i % 4], i == 0, length - 1 - i))
        form = form or list(FORM[1:])
    name = f"song {number:04d} - {TONICS[tonic]} {mode} {tempo} bpm"
    return Score(name, beat, tonic, mode, tuple(bars))


def _drums(score: Score, rng: np.random.Generator, length: int, rate: int) -> Stereo:
    """Kick, snare and hats in sixteenths, fills at the end of sections, a crash at their start."""
    kicks = {
        section: (rng.random(16) < _pick(rng, (0.12, 0.2, 0.3))) & (np.arange(16) % 2 == 0)
        for section in ("verse", "chorus")
    }
    four = rng.random() < 0.3
    ghosts = rng.random(16) < 0.12
    hats_every = _pick(rng, (1, 2, 2, 4))
    opens = rng.random(16) < 0.1
    swing = _pick(rng, (0.0, 0.0, 0.06, 0.12))
    hits: list[tuple[float, str, float]] = []

    def hit(bar: Bar, step: int, piece: str, velocity: float) -> None:
        late = swing * (step % 2 == 1) + 0.02 * rng.standard_normal()
        onset = bar.onset + (step + late) * score.beat / 4
        hits.append((max(0.0, onset), piece, velocity * rng.uniform(0.75, 1.0)))

    for bar in score.bars:
        calm = bar.section in ("intro", "bridge")
        pattern = kicks["verse" if bar.section == "verse" else "chorus"]
        fill = 12 if bar.left == 0 and rng.random() < 0.8 else 16
        if bar.first and bar.section != "intro":
            hit(bar, 0, "crash", 0.8)
        for step in range(16):
            if step in (0, 8) or (step < fill and (pattern[step] or (four and step % 4 == 0))):
                hit(bar, step, "kick", 1.0)
            if step in (4, 12) and step < fill and not calm:
                hit(bar, step, "snare", 1.0)
            elif ghosts[step] and not calm and step < fill:
                hit(bar, step, "snare", 0.25)
            if step >= fill:
                hit(
                    bar,
                    step,
                    _pick(rng, ("snare", "high tom", "low tom", "low tom")),
                    0.6 + 0.1 * (step - fill),
                )
            elif step % hats_every == 0:
                hit(bar, step, "open" if opens[step] else "hat", 1.0 if step % 4 == 0 else 0.6)
    return play_drums(rng, hits, length, rate)


def _bass(score: Score, rng: np.random.Generator, length: int, rate: int) -> Stereo:
    """Roots, fifths and octaves of the chords, from a style per song; through a more or less driven amplifier."""
    timbre = Timbre(
        tilt=rng.uniform(1.0, 2.0),
        hollow=_pick(rng, (0.0, rng.uniform(0.08, 0.3))),
        flash=rng.uniform(0.1, 0.5),
        fade=rng.uniform(0.05, 0.3),
        attack=0.004,
        decay=rng.uniform(0.5, 2.5),
        release=0.03,
        pluck=rng.uniform(0.05, 0.4),
    )
    low = rng.uniform(27, 33)
    steps = _pick(rng, ((0, 2, 4, 6, 8, 10, 12, 14), (0, 6, 8, 14), (0, 3, 6, 8, 11, 14), (0, 4, 8, 12), (0, 8, 12)))
    walk = _pick(rng, ((0, 0, 0, 4), (0, 4, 7, 4), (0, 7, 0, 7), (0, 0, 4, 7)))
    notes = []
    for bar in score.bars:
        now = steps if bar.section not in ("intro", "bridge") else (0, 8)
        for i, (step, until) in enumerate(zip(now, (*now[1:], 16), strict=True)):
            root = bar.chord - 7 * (bar.chord > 3)
            pitch = score.pitch(root + (walk[i % 4] if step else 0), low)
            pitch += 12 * (pitch < LOWEST)
            held = (until - step) * rng.uniform(0.7, 1.0) * score.beat / 4
            onset = bar.onset + (step + 0.03 * rng.standard_normal()) * score.beat / 4
            notes.append(Note(onset, held, pitch, rng.uniform(0.6, 1.0)))
    drive = rng.uniform(0.3, 1.0)
    return np.tanh(drive * play(rng, notes, timbre, length, rate))


def _melody(score: Score, rng: np.random.Generator) -> list[tuple[Note, int]]:
    """A tune in phrases of two bars that walks along the scale and likes the notes of the chord.

    Returns:
        notes, without pitch, and their degrees.
    """
    notes: list[tuple[Note, int]] = []
    degree = 4
    for i, bar in enumerate(score.bars):
        if bar.section == "intro" and len(score.bars) > 1:
            continue
        slow = bar.section in ("chorus", "bridge")
        end = 4.0 if i % 2 else 4 - rng.uniform(0.5, 1.5)
        beat = _pick(rng, (0.0, 0.5, 1.0)) if i % 2 else _pick(rng, (0.0, 0.0, 0.5))
        while beat < end - 0.25:
            beats = min(_pick(rng, (1, 1, 1.5, 2) if slow else (0.5, 0.5, 0.5, 1, 1.5)), end - beat)
            degree = min(max(degree + _pick(rng, (-2, -1, -1, 0, 1, 1, 2)), 0), 9)
            if beat % 2 == 0 and (degree - bar.chord) % 7 not in (0, 2, 4):
                degree += 1 if degree < 5 else -1
            onset = bar.onset + (beat + 0.02 * rng.standard_normal()) * score.beat
            notes.append((Note(onset, 0.95 * beats * score.beat, 0.0, rng.uniform(0.6, 1.0)), degree))
            beat += beats
    return notes


def _vocals(score: Score, rng: np.random.Generator, length: int, rate: int) -> Stereo:
    """The tune; in half of the songs with a second voice a third above."""
    low = rng.uniform(49, 61)
    voice = Voice(
        tilt=rng.uniform(0.4, 0.9),
        tract=1 + (low - 54) / 80 + rng.uniform(-0.05, 0.05),
        vibrato=rng.uniform(4.8, 6.5),
        depth=rng.uniform(40, 100),
        glide=rng.uniform(0.05, 0.16),
        breath=rng.uniform(0.02, 0.12),
        consonants=rng.uniform(0.5, 1.2),
    )
    tune = _melody(score, rng)
    voices = [(0, 1.0, 0.0)] + ([(2, 0.4, rng.uniform(-0.7, 0.7))] if rng.random() < 0.4 else [])
    track = np.zeros((length, 2), np.float32)
    for above, level, pan in voices:
        notes = [note._replace(pitch=score.pitch(degree + above, low)) for note, degree in tune]
        track += np.float32(level) * panned(sing(rng, notes, voice, length, rate), pan)
    return track


def _held(score: Score, rng: np.random.Generator, low: float) -> list[Note]:
    """Chords held for a bar, spread over the stereo field."""
    notes = []
    for bar in score.bars:
        chord = score.chord(bar.chord, low, _pick(rng, (3, 3, 4)))
        for i, pitch in enumerate(chord):
            late = abs(0.02 * rng.standard_normal())
            pan = 0.8 * (2 * i / (len(chord) - 1) - 1)
            notes.append(Note(bar.onset + late, 4 * score.beat, pitch, rng.uniform(0.6, 1.0), pan))
    return notes


def _broken(score: Score, rng: np.random.Generator, low: float) -> list[Note]:
    """Broken chords in eighths or sixteenths."""
    step = _pick(rng, (0.25, 0.5, 0.5))
    order = _pick(rng, ((0, 1, 2, 3), (0, 2, 1, 2), (3, 2, 1, 0), (0, 1, 2, 3, 2, 1)))
    pan, ring = _aside(rng), rng.uniform(1, 4)
    notes = []
    for bar in score.bars:
        chord = score.chord(bar.chord, low)
        chord.append(chord[0] + 12)
        for i in range(int(4 / step)):
            onset = bar.onset + (i * step + 0.015 * rng.standard_normal()) * score.beat
            velocity = rng.uniform(0.5, 0.8) + 0.2 * (i % int(1 / step) == 0)
            notes.append(Note(onset, ring * step * score.beat, chord[order[i % len(order)]], velocity, pan))
    return notes


def _struck(score: Score, rng: np.random.Generator, low: float) -> list[Note]:
    """Chords struck in a rhythm, the strings one after the other."""
    steps = _pick(rng, ((0, 4, 8, 12), (0, 6, 8, 14), (2, 6, 10, 14), (0, 3, 6, 10, 12), (0, 2, 4, 6, 8, 10, 12, 14)))
    pan, damp, spread = _aside(rng), rng.uniform(0.4, 1.0), rng.uniform(0.0, 0.02)
    notes = []
    for bar in score.bars:
        chord = score.chord(bar.chord, low)
        for step, until in zip(steps, (*steps[1:], 16), strict=True):
            velocity = rng.uniform(0.6, 1.0)
            for i, pitch in enumerate(chord):
                onset = bar.onset + (step + 0.03 * rng.standard_normal()) * score.beat / 4 + i * spread
                notes.append(Note(onset, damp * (until - step) * score.beat / 4, pitch, velocity, pan))
    return notes


def _other(score: Score, rng: np.random.Generator, length: int, rate: int) -> Stereo:
    """Two or three of: strings, organ, electric piano, guitar, lead synthesizer."""
    u = rng.uniform
    instruments = (
        (
            _held,
            Timbre(u(0.8, 1.4), flash=0.0, attack=u(0.08, 0.3), decay=20.0, release=0.3, detune=u(4, 10)),
            1.0,
        ),
        (
            _held,
            Timbre(u(0.4, 1.2), hollow=_pick(rng, (0.0, 0.25)), flash=0.1, decay=30.0, detune=u(0, 4)),
            1.0,
        ),
        (_struck, Timbre(u(1.0, 1.8), flash=u(0.2, 0.8), fade=u(0.1, 0.5), decay=u(0.6, 2), pluck=0.1), 1.0),
        (
            _struck,
            Timbre(u(0.6, 1.1), hollow=u(0.1, 0.3), flash=0.5, fade=0.2, decay=u(0.4, 1.2), pluck=0.2),
            1.0,
        ),
        (
            _broken,
            Timbre(u(0.7, 1.2), hollow=u(0.1, 0.3), flash=0.6, fade=0.15, decay=u(0.5, 1.5), pluck=0.2),
            1.2,
        ),
        (
            _broken,
            Timbre(u(0.5, 1.0), hollow=0.5, flash=0.5, fade=u(0.05, 0.2), decay=u(0.3, 1), detune=u(2, 6)),
            1.0,
        ),
    )
    held, plucked = _pick(rng, instruments[:2]), _pick(rng, instruments[2:])
    band = [held, plucked] + ([_pick(rng, instruments[2:])] if rng.random() < 0.4 else [])
    track = np.zeros((length, 2), np.float32)
    for write, timbre, level in band:
        part = play(rng, write(score, rng, u(50, 66)), timbre, length, rate)
        track += part * np.float32(level * u(0.6, 1.2) / np.sqrt(np.mean(part**2) + 1e-12))
    return track


PLAYERS = {"vocals": _vocals, "drums": _drums, "bass": _bass, "other": _other}
LEVELS = {"vocals": 0.5, "drums": 1.0, "bass": 0.0, "other": 0.0}  # dB, before the balance of the song
WET = {"vocals": 0.1, "drums": 0.03, "bass": 0.01, "other": 0.08}


def synth_song(
    seed: int, number: int, seconds: float | int, rate: int = 44100
) -> dict[str, Float32[np.ndarray, "t 2"]]:
    """The stems of a built-in song.

    Args:
        seed: of the set of songs.
        number: of the song within the set.
        seconds: length.
        rate: samples per second.

    Returns:
        stem -> [t 2], whole multiples of 1/32768 whose sum stays below 0.99; no stem is ever silent for long:
        its rests hold the room and a noise of about one step.

    Raises:
        JaxsepError: less than half a second.
    """
    if seconds < 0.5:
        raise JaxsepError(f"built-in songs last at least 0.5 s, not {seconds}")
    score, length = compose(seed, number, seconds), round(seconds * rate)
    stems = {}
    for part, stem in enumerate(STEMS, start=1):
        rng = _draws(seed, number, part)
        dry = PLAYERS[stem](score, rng, length, rate)
        sound = convolve(dry, room(rng, rate, rng.uniform(0.3, 1.2), WET[stem] * rng.uniform(0.3, 1.5), 1.5))
        level = 10 ** ((LEVELS[stem] + rng.uniform(-3, 3)) / 20)
        stems[stem] = sound * np.float32(level / np.sqrt(np.mean(sound**2)))
    peak = max(np.abs(sound).max() for sound in (*stems.values(), sum(stems.values())))
    loudness = _draws(seed, number, len(STEMS) + 1).uniform(0.7, 0.95)
    for part, stem in enumerate(STEMS, start=len(STEMS) + 2):
        floor = 1.5 * _draws(seed, number, part).standard_normal((length, 2), dtype=np.float32)
        steps = np.round(stems[stem] * np.float32(loudness * FULL_SCALE / peak) + floor)
        stems[stem] = steps / np.float32(FULL_SCALE)
    return stems


def render_songs(
    root: str | os.PathLike[str],
    counts: Mapping[str, int] = COUNTS,
    seconds: float | int = 30.0,
    seed: int = 0,
) -> None:
    """Writes built-in songs as a data set, `root/<split>/<song>/<stem>.wav` (16 bits), and `root/songs.json`.

    Songs appear when they are complete and are never written twice, so an interrupted call is repeated to go on.
    Song i of the splits train, valid, test has number 3 i, 3 i + 1, 3 i + 2: a longer split keeps its songs.

    Args:
        root: a new or empty folder, or one that was begun with the same settings.
        counts: songs per split.
        seconds: length of each song.
        seed: of the set.

    Raises:
        JaxsepError: `root` holds something else, or songs of other settings, or cannot be written.
    """
    root = Path(root)
    settings = {"version": VERSION, "seed": seed, "seconds": float(seconds), "songs": dict(counts)}
    try:
        _claim(root, settings)
        songs = {}
        for split, count in counts.items():
            (root / split).mkdir(exist_ok=True)
            for number in range(SPLITS.index(split), 3 * count, len(SPLITS)):
                songs[root / split / compose(seed, number, seconds).name] = number
        missing = {folder: number for folder, number in songs.items() if not folder.is_dir()}
        if missing:
            print(f"making {len(missing)} built-in songs of {seconds:g} s in {root}", file=sys.stderr, flush=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda folder: _render(folder, missing[folder], seed, seconds), missing))
    except OSError as error:
        raise JaxsepError(f"{error.filename or root}: cannot be written ({error.strerror})") from None


def _claim(root: Path, settings: Mapping[str, object]) -> None:
    """Writes the settings into a fresh folder, or holds them against those that are there."""
    path = root / "songs.json"
    if not path.exists():
        if root.is_dir() and any(root.iterdir()):
            raise JaxsepError(f"{root}: not empty, and not a folder of built-in songs; name a new one")
        root.mkdir(parents=True, exist_ok=True)
        part = root / f".songs.json.part{os.getpid()}"
        part.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise JaxsepError(f"{path}: not JSON; remove the folder to have its songs made again") from None
    if found != settings:
        raise JaxsepError(
            f"{path}: these songs were made with {json.dumps(found)}, asked for are {json.dumps(settings)}; "
            "name another folder or remove this one"
        )


def _render(folder: Path, number: int, seed: int, seconds: float | int) -> None:
    """One song, under a hidden name until it is complete."""
    part = folder.with_name(f".{folder.name}.part{os.getpid()}")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for stem, sound in synth_song(seed, number, seconds).items():
            with audio.open_writer(part / f"{stem}.wav", RATE, 2, "wav", 16) as writer:
                writer.write(sound)
        part.rename(folder)
    except (OSError, JaxsepError):
        if not folder.is_dir():  # otherwise another process was faster with the same song
            raise
    for leftover in folder.parent.glob(f".{folder.name}.part*"):
        shutil.rmtree(leftover, ignore_errors=True)
