"""What the band of the built-in songs plays: tempo, key, chords and form, and the parts that follow from them."""

from dataclasses import dataclass

import numpy as np

from jaxsep.data.instruments import Note, Stereo, Timbre, Voice, panned, play, play_drums, sing
from jaxsep.errors import JaxsepError

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # degrees of the scale, one per bar
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (5, 3, 0, 4), (0, 3, 0, 4), (1, 4, 0, 5), (3, 0, 4, 5)),
    "minor": ((0, 5, 2, 6), (0, 3, 5, 4), (0, 6, 5, 6), (5, 6, 0, 0), (0, 2, 6, 3), (3, 0, 6, 4)),
}
# Sections and their bars; after the bridge it goes on with the first verse.
FORM = (("intro", 1), ("verse", 4), ("chorus", 4), ("verse", 4), ("chorus", 4), ("bridge", 2))
LOWEST = 28  # MIDI pitch of a bass guitar's lowest string


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


def draws(seed: int, number: int, part: int) -> np.random.Generator:
    """A stream of its own for each song and part, so that a change to one stem leaves the others alone."""
    return np.random.Generator(np.random.Philox(key=[seed, number], counter=[0, 0, 0, part]))


def _pick(rng: np.random.Generator, items):
    return items[int(rng.random() * len(items))]


def rms(sound: Stereo) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(sound**2) + 1e-12))


def _aside(rng: np.random.Generator) -> float:
    """A place left or right of the middle, where voice, bass, kick and snare are."""
    return rng.uniform(0.3, 0.9) * _pick(rng, (-1, 1))


def compose(seed: int, number: int, seconds: float | int) -> Score:
    """Tempo, key, chords and form of a song.

    Raises:
        JaxsepError: less than half a second, or a negative seed.
    """
    if seconds < 0.5 or seed < 0:
        raise JaxsepError(f"built-in songs last at least 0.5 s, of a seed >= 0; not {seconds} s, seed {seed}")
    rng = draws(seed, number, 0)
    tempo = int(rng.uniform(76, 141))
    tonic = int(rng.random() * 12)
    mode = _pick(rng, ("major", "minor"))
    chords = {section: _pick(rng, PROGRESSIONS[mode]) for section in ("verse", "chorus", "bridge")}
    chords["intro"] = chords["verse"]
    beat = 60 / tempo
    bars: list[Bar] = []
    form = list(FORM if seconds > 24 * beat else FORM[1:])  # a short song has no time for an intro
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
        if bar.section == "intro":
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
    """The tune; in some songs with a second voice a third above."""
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
    """One instrument that holds chords and one or two that pluck or strike them."""
    u = rng.uniform
    strings = Timbre(u(0.8, 1.4), flash=0.0, attack=u(0.08, 0.3), decay=20.0, release=0.3, detune=u(4, 10))
    organ = Timbre(u(0.4, 1.2), hollow=_pick(rng, (0.0, 0.25)), flash=0.1, decay=30.0, detune=u(0, 4))
    piano = Timbre(u(1.0, 1.8), flash=u(0.2, 0.8), fade=u(0.1, 0.5), decay=u(0.6, 2), pluck=0.1)
    guitar = Timbre(u(0.6, 1.1), hollow=u(0.1, 0.3), fade=0.2, decay=u(0.4, 1.2), pluck=0.2)
    harp = Timbre(u(0.7, 1.2), hollow=u(0.1, 0.3), flash=0.6, fade=0.15, decay=u(0.5, 1.5), pluck=0.2)
    synth = Timbre(u(0.5, 1.0), hollow=0.5, fade=u(0.05, 0.2), decay=u(0.3, 1), detune=u(2, 6))
    plucked = ((_struck, piano), (_struck, guitar), (_broken, harp), (_broken, synth))
    band = [(_held, _pick(rng, (strings, organ))), _pick(rng, plucked)]
    if rng.random() < 0.4:
        band.append(_pick(rng, plucked))
    track = np.zeros((length, 2), np.float32)
    for write, timbre in band:
        part = play(rng, write(score, rng, u(50, 66)), timbre, length, rate)
        track += part * np.float32(u(0.6, 1.2) / rms(part))
    return track


PLAYERS = {"vocals": _vocals, "drums": _drums, "bass": _bass, "other": _other}
