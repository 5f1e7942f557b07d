"""MIDI songs: which of their notes belong to drums, bass, vocals and other, and each of these as a MIDI file.

What sounds together is a *part*: the notes of one port, channel and program, so a channel that changes its program
in the middle is two parts, and the tracks that share a channel share its program. The rule, in this order:

1. drums: channel 10, and the programs of drums and woodblocks on other channels (agogo, woodblock, taiko, melodic
   tom, synth drum, reverse cymbal);
2. bass: the eight bass programs;
3. vocals: what is sung, i.e. tracks named after a voice or a melody, and the programs of voices (choir, oohs, synth
   voice, voice lead);
4. where nothing is sung, a lead stands in for the voice: of the parts on solo strings, brass, reeds, pipes and synth
   leads that are one line (a single note for 80 % of the time they sound), not low (the median note is E3 or above)
   and no mere fill (they sound for a tenth of the song), the one that sounds longest, and all parts that share its
   program, since doubled leads are common. It is left where it is if nothing else would be left in other;
5. other: all else.

Programs are General MIDI's, counted from 0.
"""

import dataclasses
import functools
import statistics
from collections.abc import Collection
from pathlib import Path
from typing import Any

from jaxsep.errors import JaxsepError

try:
    import mido
except ModuleNotFoundError:
    raise JaxsepError('MIDI is read with mido: pip install "jaxsep[midi]"') from None

STEMS = ("vocals", "drums", "bass", "other")
DRUM_CHANNEL = 9
DRUMS = (113, *range(115, 120))
BASSES = range(32, 40)
VOICES = (52, 53, 54, 85)
LEADS = (*range(40, 43), *range(56, 88))
SUNG = ("vocal", "voice", "vox", "sing", "melody")  # in names of tracks
LOWEST = 52  # E3
ONE_LINE, PRESENT = 0.8, 0.1
TEMPO = 500_000  # microseconds a beat where a file says nothing


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """What the notes of one instrument have in common.

    Attributes:
        sung: its track is named after a voice or a melody.
    """

    port: int
    channel: int
    program: int
    sung: bool = False


@dataclasses.dataclass(frozen=True)
class Event:
    """A message of mido's at its time in ticks; the start of a note belongs to a part."""

    tick: int
    port: int
    message: Any
    part: Part | None = None


@dataclasses.dataclass(frozen=True)
class Score:
    """All of a song's events in order of time, those of one time in order of the tracks."""

    ticks_per_beat: int
    events: tuple[Event, ...]

    @functools.cached_property
    def notes(self) -> dict[Part, list[tuple[int, int, int]]]:
        """(first tick, last tick, key) of the notes of each part; what never ends, ends with the song."""
        notes: dict[Part, list[tuple[int, int, int]]] = {}
        begun: dict[tuple[int, int, int], tuple[Part, int]] = {}
        for event in self.events:
            if event.message.type not in ("note_on", "note_off"):
                continue
            key = event.port, event.message.channel, event.message.note
            if key in begun:
                part, first = begun.pop(key)
                notes.setdefault(part, []).append((first, event.tick, event.message.note))
            if event.part:
                begun[key] = event.part, event.tick
        for (_, _, note), (part, first) in begun.items():
            notes.setdefault(part, []).append((first, self.end, note))
        return notes

    @functools.cached_property
    def end(self) -> int:
        """Tick of the last event that can be heard."""
        return max((event.tick for event in self.events if not event.message.is_meta), default=0)

    @property
    def seconds(self) -> float:
        """Where the last note ends."""
        return self.time(max((last for notes in self.notes.values() for _, last, _ in notes), default=0))

    def time(self, tick: int) -> float:
        """Seconds at a tick, by the tempi of all tracks."""
        seconds, now, tempo = 0.0, 0, TEMPO
        for event in self.events:
            if event.tick >= tick:
                break
            if event.message.type == "set_tempo":
                seconds += mido.tick2second(event.tick - now, self.ticks_per_beat, tempo)
                now, tempo = event.tick, event.message.tempo
        return seconds + mido.tick2second(tick - now, self.ticks_per_beat, tempo)

    def solo(self, parts: Collection[Part], port: int, tail: float) -> mido.MidiFile:
        """The song with these parts only, for one port: other notes start with velocity 0, all else stays.

        So tempi, controllers and the end are those of the whole song, and files of other parts stay in step.

        Args:
            parts: those that are heard.
            port: whose channels they are.
            tail: seconds after the last event, for sounds to die away; notes and pedals that are still held are
                released before.
        """
        messages: list[tuple[int, Any]] = []
        tempo = TEMPO
        for event in self.events:
            if event.message.type == "set_tempo":
                tempo = event.message.tempo
            if event.tick > self.end or event.message.type == "end_of_track" or event.message.is_realtime:
                continue
            if event.message.is_meta or event.message.type == "sysex" or event.port == port:
                muted = event.part is not None and event.part not in parts
                messages.append((event.tick, event.message.copy(velocity=0) if muted else event.message))
        for channel in range(16):
            for control in (64, 123):  # sustain, all notes off
                release = mido.Message("control_change", channel=channel, control=control, value=0)
                messages.append((self.end, release))
        last = self.end + round(mido.second2tick(tail, self.ticks_per_beat, tempo))
        messages.append((last, mido.MetaMessage("end_of_track")))
        track, now = mido.MidiTrack(), 0
        for tick, message in messages:
            track.append(message.copy(time=tick - now))
            now = tick
        return mido.MidiFile(type=0, ticks_per_beat=self.ticks_per_beat, tracks=[track])


def read_score(path: Path) -> Score:
    """Reads a MIDI file.

    Raises:
        JaxsepError: not MIDI, damaged, or of a kind without a common time (type 2, SMPTE time).
    """
    try:
        file = mido.MidiFile(path)
    except (OSError, EOFError, ValueError, LookupError, mido.KeySignatureError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "it ends too early"
        raise JaxsepError(f"{path}: cannot be read as MIDI ({reason}); export it again") from None
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise JaxsepError(f"{path}: tracks without a common time in beats; export it as type 1")
    placed = []
    for track in file.tracks:
        tick, port = 0, 0
        sung = any(word in track.name.lower() for word in SUNG)
        for message in track:
            tick += message.time
            if message.type == "midi_port":
                port = message.port
            placed.append((tick, port, sung, message))
    placed.sort(key=lambda item: item[0])
    programs: dict[tuple[int, int], int] = {}
    events = []
    for tick, port, sung, message in placed:
        part = None
        if message.type == "program_change":
            programs[port, message.channel] = message.program
        elif message.type == "note_on" and message.velocity:
            part = Part(port, message.channel, programs.get((port, message.channel), 0), sung)
        events.append(Event(tick, port, message, part))
    return Score(file.ticks_per_beat, tuple(events))


def assign(score: Score) -> dict[str, list[Part]]:
    """The parts of each stem, by the rule above; a stem may have none."""
    stems: dict[str, list[Part]] = {stem: [] for stem in STEMS}
    for part in sorted(score.notes):
        stems[_kind(part)].append(part)
    if not stems["vocals"]:
        leads = [part for part in stems["other"] if _is_lead(score, part)]
        if leads:
            best = max(leads, key=lambda part: _sounding(score.notes[part])[0])
            doubled = [part for part in stems["other"] if part.program == best.program]
            if len(doubled) < len(stems["other"]):
                stems["vocals"] = doubled
                stems["other"] = [part for part in stems["other"] if part not in doubled]
    return stems


def _kind(part: Part) -> str:
    if part.channel == DRUM_CHANNEL or part.program in DRUMS:
        return "drums"
    if part.program in BASSES:
        return "bass"
    return "vocals" if part.sung or part.program in VOICES else "other"


def _is_lead(score: Score, part: Part) -> bool:
    notes = score.notes[part]
    if part.program not in LEADS or statistics.median(note for _, _, note in notes) < LOWEST:
        return False
    sounding, alone = _sounding(notes)
    return alone >= ONE_LINE * sounding and sounding >= PRESENT * score.end


def _sounding(notes: list[tuple[int, int, int]]) -> tuple[int, int]:
    """Ticks in which at least one note sounds, and in which exactly one does."""
    changes = sorted([(first, 1) for first, _, _ in notes] + [(last, -1) for _, last, _ in notes])
    sounding = alone = level = now = 0
    for tick, change in changes:
        sounding += (tick - now) * (level > 0)
        alone += (tick - now) * (level == 1)
        level, now = level + change, tick
    return sounding, alone
