"""MIDI songs for the tests, and a program that plays them as FluidSynth would: a sine per note."""

import sys
from pathlib import Path

import mido

BEAT = 480  # ticks

# name -> (channel, program, keys, beats of a note); a full set of stems without doubt
BAND = {
    "kit": (9, 0, (36, 42), 0.5),
    "bass": (0, 33, (40, 43), 1),
    "strings": (1, 48, (60, 64), 2),
    "choir": (2, 52, (72, 74), 2),
}

FLUIDSYNTH = """#!{python}
import sys
import mido, numpy as np, soundfile

if "--version" in sys.argv:
    print("FluidSynth runtime version 9.8.7")
    sys.exit()
out, midi = sys.argv[sys.argv.index("-F") + 1], sys.argv[-1]
file = mido.MidiFile(midi)
sound = np.zeros((round((file.length + 0.5) * 44100), 2), np.float32)  # goes on a little longer, as FluidSynth does
now, begun, programs = 0.0, {{}}, {{}}
for message in file:
    now += message.time
    if message.type == "program_change":
        programs[message.channel] = message.program
    if message.type in ("note_on", "note_off"):
        key = message.channel, message.note
        if key in begun:
            first, velocity, program = begun.pop(key)
            span = slice(round(first * 44100), round(now * 44100))
            time = np.arange(span.stop - span.start)
            tone = np.sin(2 * np.pi * 440 * 2 ** ((message.note - 69) / 12) * time / 44100)
            sound[span] += (velocity / 127 * (1 + program / 128) * (tone + {offset}))[:, None].astype(np.float32)
        if message.type == "note_on" and message.velocity:
            begun[key] = now, message.velocity, programs.get(message.channel, 0)
if "{mute}" not in midi or not "{mute}":
    soundfile.write(out, sound, 44100, subtype="FLOAT", format="WAV")
"""


def write(path, tracks, seconds=24.0, type=1, tempi=()):
    """A song: each track is (channel, program, keys in turn, beats of a note), or a list of mido's messages.

    `tempi` are (beat, microseconds of a beat); otherwise a beat takes half a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = mido.MidiFile(type=type, ticks_per_beat=BEAT)
    now, meta = 0, mido.MidiTrack()
    for beat, tempo in tempi:
        meta.append(mido.MetaMessage("set_tempo", tempo=tempo, time=round(beat * BEAT) - now))
        now = round(beat * BEAT)
    file.tracks.append(meta)
    items = tracks.items() if isinstance(tracks, dict) else tracks
    for name, content in items:
        track = mido.MidiTrack(
            [
                mido.MetaMessage("track_name", name=name),
                *(content if isinstance(content, list) else part(*content, seconds)),
            ]
        )
        file.tracks.append(track)
    file.save(path)
    return path


def part(channel, program, keys, beats, seconds=24.0, port=None):
    """Notes without gaps, one key after the other, at half a second a beat; a key that is a tuple is a chord."""
    messages = [] if port is None else [mido.MetaMessage("midi_port", port=port)]
    messages.append(mido.Message("program_change", channel=channel, program=program))
    for number in range(round(seconds * 2 / beats)):
        key = keys[number % len(keys)]
        chord = key if isinstance(key, tuple) else (key,)
        messages += [mido.Message("note_on", channel=channel, note=note, velocity=100) for note in chord]
        for index, note in enumerate(chord):
            length = 0 if index else round(beats * BEAT)
            messages.append(mido.Message("note_off", channel=channel, note=note, time=length))
    return messages


def fluidsynth(folder, mute="", offset=0.0):
    """Puts the program into a folder for the PATH; of files with `mute` in their names it makes none.

    Every note has an offset, in amplitudes of its sine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = Path(folder) / "fluidsynth"
    program.write_text(FLUIDSYNTH.format(python=sys.executable, mute=mute, offset=offset))
    program.chmod(0o755)
    return folder


def soundfont(path, content=b""):
    """What passes for a SoundFont by its first bytes."""
    path.write_bytes(b"RIFF\0\0\0\0sfbk" + content)
    return path
