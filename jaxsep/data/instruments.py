"""The band of the built-in songs: drums, plucked and held tones, a voice, and the room they stand in.

Everything is numpy, vectorised over samples, and drawn from the generator that it is handed. Sounds are made from
band-limited wave tables (one period, looked up by phase), filtered noise, and convolution with a made-up room.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

Mono = Float32[np.ndarray, "t"]
Stereo = Float32[np.ndarray, "t 2"]

TABLE = 8192  # samples of one period
CONTROL = 100  # samples between two values of a pitch or loudness contour
BLOCK = 1 << 16  # samples per block of a convolution
FRAME = 1024  # samples per frame of the voice's formant filter


class Note(NamedTuple):
    """A note: onset and length in seconds, pitch as MIDI number, velocity in (0, 1], pan from -1 (left) to 1."""

    onset: float
    length: float
    pitch: float
    velocity: float
    pan: float = 0.0


def hertz(pitch):
    """Frequency of a MIDI pitch (69 = 440 Hz)."""
    return 440.0 * 2.0 ** ((pitch - 69.0) / 12.0)


def add(track: np.ndarray, sound: np.ndarray, onset: int) -> None:
    """Adds `sound` to `track` from sample `onset` on; what lies outside the track is not heard."""
    start, stop = max(onset, 0), min(onset + len(sound), len(track))
    if start < stop:
        track[start:stop] += sound[start - onset : stop - onset]


def panned(sound: Float32[np.ndarray, "t"] | Float32[np.ndarray, "t 2"], pan: float) -> Stereo:
    """Mono or stereo to a place between left (-1) and right (1), constant power."""
    angle = (pan + 1) * np.pi / 4
    gains = np.float32(np.sqrt(2)) * np.array([np.cos(angle), np.sin(angle)], np.float32)
    return sound.reshape(len(sound), -1) * gains


def noise(rng: np.random.Generator, length: int, rate: int, low: float, high: float) -> Mono:
    """Noise of unit power between `low` and `high` Hz, second-order slopes."""
    spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32))
    f = np.fft.rfftfreq(length, 1 / rate)
    spectrum *= (f / low) ** 2 / (1 + (f / low) ** 2) / (1 + (f / high) ** 2)
    sound = np.fft.irfft(spectrum, length)
    return (sound / (sound.std() + 1e-12)).astype(np.float32)


def wavetable(amplitudes: Float[np.ndarray, "h"], rng: np.random.Generator) -> Float32[np.ndarray, "p"]:
    """One period with harmonics 1, 2, ... of these amplitudes, random phases, unit power."""
    phases = np.exp(2j * np.pi * rng.random(len(amplitudes)))
    spectrum = np.zeros(TABLE // 2 + 1, np.complex64)
    spectrum[1 : len(amplitudes) + 1] = amplitudes * phases
    table = np.fft.irfft(spectrum).astype(np.float32)
    return table / (table.std() + 1e-12)


def look_up(table: Float32[np.ndarray, "p"], phase: Float[np.ndarray, "*t"]) -> Float32[np.ndarray, "*t"]:
    """The table at `phase` periods."""
    return table[(phase * TABLE).astype(np.int64) & (TABLE - 1)]


def convolve(sound: Stereo, response: Float32[np.ndarray, "r 2"]) -> Stereo:
    """The first len(sound) samples of the convolution, per channel, by overlap-add; response <= BLOCK samples."""
    blocks = -(-len(sound) // BLOCK)
    padded = np.zeros((blocks * BLOCK, 2), np.float32)
    padded[: len(sound)] = sound
    out = np.zeros(((blocks + 1) * BLOCK, 2), np.float32)
    gain = np.fft.rfft(response.T, 2 * BLOCK)
    for start in range(0, blocks * BLOCK, BLOCK):
        spectrum = np.fft.rfft(np.ascontiguousarray(padded[start : start + BLOCK].T), 2 * BLOCK)
        out[start : start + 2 * BLOCK] += np.fft.irfft(spectrum * gain, 2 * BLOCK).T.astype(np.float32)
    return out[: len(sound)]


def room(rng: np.random.Generator, rate: int, seconds: float, wet: float, colour: float) -> Stereo:
    """Impulse response of a room with an equaliser.

    Args:
        rng: draws the reflections and the equaliser's curve.
        rate: samples per second.
        seconds: reverberation time (to -60 dB).
        wet: energy of the reverberation relative to the direct sound.
        colour: standard deviation of the equaliser's curve, dB.
    """
    length = min(int(seconds * rate), BLOCK // 2)
    t = np.arange(length, dtype=np.float32)[:, None] / rate
    tail = rng.standard_normal((length, 2), dtype=np.float32) * np.exp(-6.9 * t / seconds)
    tail[: int(0.008 * rate)] = 0
    spectrum = np.fft.rfft(tail.T, 2 * BLOCK)
    f = np.fft.rfftfreq(2 * BLOCK, 1 / rate)
    spectrum *= (f / 200) / np.hypot(1, f / 200) / (1 + (f / rng.uniform(3000, 7000)) ** 2)  # tails are dull and thin
    energy = np.mean(np.abs(spectrum) ** 2)
    spectrum *= np.sqrt(wet / energy)
    octave = np.log2(np.maximum(f, 20) / 20)
    knots = np.arange(0, 11, 1.5)
    curve = np.interp(octave, knots, colour * rng.standard_normal(len(knots)))
    curve -= np.mean(np.interp(np.linspace(1.5, 8, 50), knots, np.interp(knots, octave, curve)))
    response = np.fft.irfft((1 + spectrum) * 10 ** (curve / 20), 2 * BLOCK).T.astype(np.float32)
    return response[:BLOCK]


# -- drums ---------------------------------------------------------------------------------------------------------


def drum(rng: np.random.Generator, rate: int, top: float, bottom: float, sweep: float, decay: float) -> Mono:
    """A skin: a sine that falls from `top` to `bottom` Hz within about `sweep` seconds and dies with `decay`."""
    t = np.arange(int(5 * decay * rate)) / rate
    phase = bottom * t + (top - bottom) * sweep * (1 - np.exp(-t / sweep))
    return (np.sin(2 * np.pi * (phase + 0.1 * rng.random())) * np.exp(-t / decay)).astype(np.float32)


def burst(rng: np.random.Generator, rate: int, low: float, high: float, decay: float) -> Mono:
    """Filtered noise that dies with `decay` seconds."""
    length = int(5 * decay * rate)
    return noise(rng, length, rate, low, high) * np.exp(-np.arange(length, dtype=np.float32) / rate / decay)


def drum_kit(rng: np.random.Generator, rate: int) -> dict[str, list[Stereo]]:
    """Piece -> takes of it; a hit picks one of them."""
    tune, size, bright = rng.uniform(0.8, 1.25), rng.uniform(0.7, 1.4), rng.uniform(0.7, 1.4)
    click, wires, ring = rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.0), rng.uniform(0.3, 0.9)
    side = rng.uniform(0.2, 0.6) * (1 if rng.random() < 0.5 else -1)

    def kick() -> Stereo:
        body = drum(rng, rate, 190 * tune, 52 * tune, 0.025, 0.09 * size)
        add(body, click * burst(rng, rate, 800.0, 5e3 * bright, 0.006), 0)
        return panned(0.8 * np.tanh(1.5 * body), 0.0)

    def snare() -> Stereo:
        body = 0.7 * wires * burst(rng, rate, 350.0, 8e3 * bright, 0.07 * size)
        add(body, ring * drum(rng, rate, 310 * tune, 195 * tune, 0.01, 0.045 * size), 0)
        add(body, 0.4 * ring * drum(rng, rate, 450 * tune, 340 * tune, 0.01, 0.03 * size), 0)
        return panned(body, 0.05)

    def hat(decay: float) -> Stereo:
        return panned(0.4 * burst(rng, rate, 5e3 * bright, 12e3 * bright, decay * size), side)

    def tom(pitch: float, pan: float) -> Stereo:
        body = drum(rng, rate, 1.7 * pitch * tune, pitch * tune, 0.04, 0.13 * size)
        add(body, 0.1 * burst(rng, rate, 300.0, 4e3, 0.02), 0)
        return panned(body, pan)

    def crash() -> Stereo:
        left, right = (burst(rng, rate, 1500 * bright, 11e3, 0.5 * size) for _ in range(2))
        return 0.3 * np.stack([left, right], axis=1)

    pieces: dict[str, tuple[int, Callable[[], Stereo]]] = {
        "kick": (2, kick),
        "snare": (3, snare),
        "hat": (4, lambda: hat(0.022)),
        "open": (2, lambda: hat(0.11)),
        "high tom": (1, lambda: tom(165.0, -0.5)),
        "low tom": (1, lambda: tom(95.0, 0.5)),
        "crash": (1, crash),
    }
    return {name: [make() for _ in range(takes)] for name, (takes, make) in pieces.items()}


def play_drums(rng: np.random.Generator, hits: Sequence[tuple[float, str, float]], length: int, rate: int) -> Stereo:
    """Hits (onset in seconds, piece, velocity) on a kit of its own."""
    kit = drum_kit(rng, rate)
    track = np.zeros((length, 2), np.float32)
    for onset, piece, velocity in hits:
        takes = kit[piece]
        add(track, np.float32(velocity) * takes[int(rng.random() * len(takes))], round(onset * rate))
    return np.tanh(1.2 * track)


# -- tones ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timbre:
    """A plucked, struck or held instrument. Times in seconds.

    Attributes:
        tilt: harmonic h of the body has amplitude h^-tilt.
        hollow: point of plucking; harmonics are weighted by |sin(pi h hollow)|; 0 = not at all.
        flash: level of the harmonics that only the onset has, relative to the body's.
        fade: how fast these die.
        attack: rise.
        decay: fall to 1/e.
        release: fall after the end of the note.
        detune: half the distance of the left and the right voice, cents.
        pluck: level of the noise of finger, plectrum or hammer.
    """

    tilt: float
    hollow: float = 0.0
    flash: float = 0.5
    fade: float = 0.1
    attack: float = 0.005
    decay: float = 1.0
    release: float = 0.05
    detune: float = 0.0
    pluck: float = 0.0


def play(rng: np.random.Generator, notes: Sequence[Note], timbre: Timbre, length: int, rate: int) -> Stereo:
    """Notes on one instrument."""
    track = np.zeros((length, 2), np.float32)
    tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    finger = panned(burst(rng, rate, 500.0, 4e3, 0.008), 0.0)
    for note in notes:
        key = round(note.pitch)
        if key not in tables:
            h = np.arange(1.0, max(2, min(128, int(0.42 * rate / hertz(note.pitch)))))
            body = h**-timbre.tilt * (np.abs(np.sin(np.pi * h * timbre.hollow)) if timbre.hollow else 1)
            tables[key] = wavetable(body, rng), timbre.flash * wavetable(body * h, rng)
        sound = _tone(note, timbre, *tables[key], rng.random(), rate)
        add(sound, np.float32(timbre.pluck * note.velocity) * finger, 0)
        add(track, panned(sound, note.pan), round(note.onset * rate))
    return track


def _tone(
    note: Note, timbre: Timbre, body: np.ndarray, bright: np.ndarray, start: float, rate: int
) -> Float32[np.ndarray, "n 2"]:
    """One note, the left and the right voice detuned against each other."""
    seconds = note.length + timbre.release
    t = np.arange(int(seconds * rate), dtype=np.float32)[:, None] / np.float32(rate)
    envelope = note.velocity * np.minimum(1, t / timbre.attack) * np.exp(-t / timbre.decay)
    envelope *= np.clip((seconds - t) / timbre.release, 0, 1)
    cents = np.array([-timbre.detune, timbre.detune] if timbre.detune else [0.0])
    phase = start + np.arange(len(t))[:, None] * (hertz(note.pitch + cents / 100) / rate)
    sound = envelope * (look_up(body, phase) + np.exp(-t / timbre.fade) * look_up(bright, phase))
    return np.broadcast_to(sound, (len(t), 2)).copy()


# -- voice ---------------------------------------------------------------------------------------------------------

# First four formants, Hz, of sung a, e, i, o, u (rounded textbook values), with bandwidths and levels.
VOWELS = np.array(
    [
        [800, 1200, 2800, 3700],
        [450, 1800, 2600, 3500],
        [320, 2100, 2900, 3600],
        [480, 850, 2700, 3400],
        [340, 750, 2500, 3400],
    ]
)
BANDWIDTHS = np.array([90, 110, 150, 220])
LEVELS = np.array([1.0, 0.8, 0.6, 0.4])


@dataclass(frozen=True)
class Voice:
    """A singer.

    Attributes:
        tilt: harmonic h of the glottal pulse has amplitude h^-tilt.
        tract: factor on all formants (shorter throats have higher ones).
        vibrato: rate, Hz.
        depth: of the vibrato, cents.
        glide: seconds from one pitch to the next.
        breath: level of the noise in the tone.
        consonants: level of hisses at the onsets.
    """

    tilt: float
    tract: float
    vibrato: float
    depth: float
    glide: float
    breath: float
    consonants: float


def smooth(values: Float[np.ndarray, "t *d"], width: int) -> Float[np.ndarray, "t *d"]:
    """Convolved along the first axis with a Hann window of `width` points, the ends held."""
    width = 2 * (width // 2) + 1
    window = np.hanning(width + 2)[1:-1]
    padded = np.pad(values, [(width // 2, width // 2)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    columns = padded.reshape(len(padded), -1).T
    result = np.stack([np.convolve(column, window / window.sum(), "valid") for column in columns], axis=-1)
    return result.reshape(values.shape)


def sing(rng: np.random.Generator, notes: Sequence[Note], voice: Voice, length: int, rate: int) -> Mono:
    """Notes (in order, one at a time) as vowels: glottal pulses with vibrato and glides through moving formants."""
    times = np.arange(-(-length // CONTROL) + 1) * CONTROL / rate
    step = CONTROL / rate
    onsets = np.array([note.onset for note in notes])
    index = np.maximum(np.searchsorted(onsets, times, "right") - 1, 0)
    since = times - onsets[index]
    sounding = (since >= 0) & (since < np.array([note.length for note in notes])[index])

    pitch = smooth(np.array([note.pitch for note in notes], float)[index], int(voice.glide / step))
    swing = np.clip((since - 0.12) / 0.25, 0, 1) * voice.depth / 100
    drift = smooth(rng.standard_normal(len(times)), int(0.12 / step)) * 0.6
    wander = np.cumsum(smooth(rng.standard_normal(len(times)), int(0.5 / step))) * step
    pitch = pitch + swing * np.sin(2 * np.pi * (voice.vibrato * times + wander)) + drift
    loudness = smooth(sounding * np.array([note.velocity for note in notes])[index], int(0.06 / step))
    loudness *= 1 + 0.15 * swing * np.sin(2 * np.pi * (voice.vibrato * times + wander + 0.2))

    f0 = hertz(pitch)
    samples = np.arange(length)
    phase = np.interp(samples, np.arange(len(f0)) * CONTROL, np.cumsum(f0) * step)
    harmonics = np.arange(1.0, max(2, min(100, int(0.45 * rate / f0.max()))))
    envelope = np.interp(samples, np.arange(len(f0)) * CONTROL, loudness).astype(np.float32)
    table = wavetable(harmonics**-voice.tilt, rng)
    sound = look_up(table, phase) + voice.breath * rng.standard_normal(length, dtype=np.float32)
    vowels = (rng.random(len(notes)) * len(VOWELS)).astype(int)
    return formants(sound * envelope, vowels[index], voice.tract, rate) + hisses(rng, notes, voice, length, rate)


def formants(sound: Mono, vowels: Int[np.ndarray, "v"], tract: float, rate: int) -> Mono:
    """Filters overlapping frames by the vocal tract of the vowel sung there (`vowels`: one per CONTROL samples)."""
    f = np.fft.rfftfreq(FRAME, 1 / rate)
    poles = VOWELS[:, :, None] * tract
    tracts = (LEVELS[:, None] / np.hypot(1, (f - poles) / (BANDWIDTHS[:, None] / 2))).sum(1) + 0.02
    hop = FRAME // 2
    frames = len(sound) // hop + 2
    padded = np.zeros((frames + 1) * hop, np.float32)
    padded[hop : hop + len(sound)] = sound
    at = np.minimum((np.arange(frames) * hop) // CONTROL, len(vowels) - 1)
    gain = smooth(np.eye(len(VOWELS))[vowels[at]], 5) @ tracts
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)).astype(np.float32)
    halves = padded.reshape(-1, hop)
    framed = np.concatenate([halves[:-1], halves[1:]], axis=1) * window
    framed = np.fft.irfft(np.fft.rfft(framed) * gain, FRAME).astype(np.float32)
    out = np.zeros_like(halves)
    out[:-1] += framed[:, :hop]
    out[1:] += framed[:, hop:]
    return out.reshape(-1)[hop : hop + len(sound)]


def hisses(rng: np.random.Generator, notes: Sequence[Note], voice: Voice, length: int, rate: int) -> Mono:
    """Consonants before most notes, and a breath before each phrase."""
    track = np.zeros(length, np.float32)
    kinds = [noise(rng, rate, rate, low, high) for low, high in ((4500.0, 9e3), (2000.0, 5e3), (900.0, 7e3))]
    breath = noise(rng, rate, rate, 700.0, 3500.0)
    end = 0.0
    for note in notes:
        if note.onset - end > 0.3:
            seconds = rng.uniform(0.2, 0.35)
            sound = breath[: int(seconds * rate)] * np.hanning(int(seconds * rate)).astype(np.float32)
            add(track, np.float32(0.05 * voice.consonants) * sound, int((note.onset - seconds) * rate))
        if rng.random() < 0.65:
            kind = kinds[int(rng.random() * len(kinds))]
            n = int(rng.uniform(0.04, 0.12) * rate)
            first = int(rng.random() * (rate - n))
            sound = kind[first : first + n] * np.hanning(n).astype(np.float32)
            add(
                track,
                np.float32(0.3 * note.velocity * voice.consonants) * sound,
                int(note.onset * rate) - n // 2,
            )
        end = note.onset + note.length
    return track
