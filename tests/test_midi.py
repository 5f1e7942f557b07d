"""MIDI songs: which stem a note belongs to, and files of single stems that stay in step."""

import mido
import pytest
from midifiles import BAND, BEAT, part, write

from jaxsep.data import midi
from jaxsep.errors import JaxsepError

LEAD = {"kit": BAND["kit"], "bass": BAND["bass"], "strings": BAND["strings"]}  # nothing sung


def stems(path):
    """(channel, program) of the parts of each stem."""
    found = midi.assign(midi.read_score(path))
    return {stem: [(part.channel, part.program) for part in parts] for stem, parts in found.items()}


@pytest.mark.parametrize(
    ("channel", "program", "stem"),
    [
        (9, 40, "drums"),
        (4, 116, "drums"),
        (4, 32, "bass"),
        (4, 39, "bass"),
        (4, 53, "vocals"),
        (4, 85, "vocals"),
        (4, 31, "other"),
        (4, 40, "other"),
        (4, 114, "other"),
        (8, 0, "other"),
    ],
)
def test_stems_by_channel_and_program(tmp_path, channel, program, stem):
    song = write(tmp_path / "song.mid", BAND | {"one more": (channel, program, (60,), 1)})
    assert (channel, program) in stems(song)[stem]
    assert sum(map(len, stems(song).values())) == len(BAND) + 1


def test_a_track_named_after_a_voice_is_sung(tmp_path):
    song = write(tmp_path / "song.mid", LEAD | {"Lead Vocal": (5, 0, (60,), 1), "Melody": (9, 0, (40,), 1)})
    assert stems(song) == {"vocals": [(5, 0)], "drums": [(9, 0), (9, 0)], "bass": [(0, 33)], "other": [(1, 48)]}


def test_a_lead_stands_in_where_nothing_is_sung(tmp_path):
    flute, sax = (3, 73, (72, 76), 1), (4, 65, (67,), 0.25)
    longer = write(tmp_path / "longer.mid", LEAD | {"flute": flute, "sax": part(*sax, seconds=10)})
    assert stems(longer)["vocals"] == [(3, 73)] and stems(longer)["other"] == [(1, 48), (4, 65)]
    doubled = write(tmp_path / "doubled.mid", LEAD | {"flute": flute, "double": (6, 73, (60,), 1)})
    assert stems(doubled)["vocals"] == [(3, 73), (6, 73)]
    sung = write(tmp_path / "sung.mid", LEAD | {"flute": flute, "voice": (5, 52, (60,), 1)})
    assert stems(sung)["vocals"] == [(5, 52)] and (3, 73) in stems(sung)["other"]


@pytest.mark.parametrize(
    "lead",
    [(3, 73, ((72, 76),), 1), (3, 73, (51,), 1), part(3, 73, (72,), 1, seconds=2), (3, 48, (72,), 1)],
    ids=["chords", "low", "rare", "strings"],
)
def test_what_is_no_lead(tmp_path, lead):
    assert stems(write(tmp_path / "song.mid", LEAD | {"one": lead}))["vocals"] == []


def test_a_lead_is_left_in_other_if_nothing_else_is(tmp_path):
    song = write(tmp_path / "song.mid", {"kit": BAND["kit"], "bass": BAND["bass"], "flute": (3, 73, (72,), 1)})
    assert stems(song) == {"vocals": [], "drums": [(9, 0)], "bass": [(0, 33)], "other": [(3, 73)]}


def test_a_channel_that_changes_its_program_is_two_parts(tmp_path):
    song = write(tmp_path / "song.mid", [("both", part(0, 33, (40,), 1, 10) + part(0, 52, (60,), 2, 10))])
    assert stems(song) == {"vocals": [(0, 52)], "drums": [], "bass": [(0, 33)], "other": []}
    notes = midi.read_score(song).notes
    assert {part.program: len(n) for part, n in notes.items()} == {33: 20, 52: 10}
    assert notes[midi.Part(0, 0, 33)][-1] == (19 * BEAT, 20 * BEAT, 40)


def test_tracks_of_one_channel_share_its_program_and_ports_do_not(tmp_path):
    silent = [mido.Message("program_change", channel=0, program=33)]
    notes = part(0, 0, (60,), 1)[1:]  # without a program of its own
    assert stems(write(tmp_path / "shared.mid", [("setup", silent), ("notes", notes)]))["bass"] == [(0, 33)]
    port = [mido.MetaMessage("midi_port", port=1), *notes]
    song = write(tmp_path / "ports.mid", [("setup", part(0, 33, (40,), 1)), ("notes", port)])
    assert sorted(midi.read_score(song).notes) == [midi.Part(0, 0, 33), midi.Part(1, 0, 0)]
    score = midi.read_score(song)
    solo = score.solo(list(score.notes), 1, 0.0)
    assert [m.program for m in solo if m.type == "program_change"] == []  # port 0's channel is another one
    assert {m.note for m in solo if m.type == "note_on" and m.velocity} == {60}


def sounding(file):
    """(second, channel, key) of the notes that are heard, and the length."""
    now, found = 0.0, []
    for message in file:
        now += message.time
        if message.type == "note_on" and message.velocity:
            found.append((round(now, 6), message.channel, message.note))
    return found, now


def test_solos_keep_time(tmp_path):
    """Together they are the song, each at the song's tempi, all of one length."""
    bend = [
        mido.Message("pitchwheel", channel=1, pitch=777, time=BEAT),
        mido.MetaMessage("lyrics", text="la", time=BEAT),
    ]
    late = [mido.MetaMessage("set_tempo", tempo=250_000, time=6 * BEAT)]  # in a track of its own
    song = write(
        tmp_path / "song.mid", [*BAND.items(), ("bend", bend), ("late", late)], tempi=[(0, 600_000), (3, 900_000)]
    )
    score = midi.read_score(song)
    whole, length = sounding(mido.MidiFile(song))
    parts = {stem: sounding(score.solo(parts, 0, tail=2.0)) for stem, parts in midi.assign(score).items()}
    assert sorted(note for notes, _ in parts.values() for note in notes) == sorted(whole)
    assert all(notes for notes, _ in parts.values())
    assert {channel for _, channel, _ in parts["drums"][0]} == {9}
    assert {round(end, 3) for _, end in parts.values()} == {round(length + 2.0, 3)}
    assert score.seconds == pytest.approx(length, abs=1e-6) == pytest.approx(3 * 0.6 + 3 * 0.9 + 42 * 0.25)
    bass = score.solo(midi.assign(score)["bass"], 0, 2.0)
    assert [m.pitch for m in bass if m.type == "pitchwheel"] == [777] and "lyrics" in {m.type for m in bass}


def test_what_is_held_at_the_end_is_released(tmp_path):
    held = [
        mido.Message("control_change", channel=0, control=64, value=127),
        mido.Message("note_on", channel=0, note=60, velocity=90, time=BEAT),
        mido.Message("note_on", channel=0, note=62, velocity=90, time=BEAT),
        mido.MetaMessage("marker", text="far behind", time=100 * BEAT),
    ]
    score = midi.read_score(write(tmp_path / "song.mid", [("held", held)]))
    assert score.end == 2 * BEAT and score.notes == {
        midi.Part(0, 0, 0): [(BEAT, 2 * BEAT, 60), (2 * BEAT, 2 * BEAT, 62)]
    }
    controls = [(m.control, m.value) for m in score.solo(list(score.notes), 0, 2.0) if m.is_cc() and m.channel == 0]
    assert controls == [(64, 127), (64, 0), (123, 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends too early"),
        (b"RIFFxxxx", "MThd not found"),
        (b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0MTrk\x00\x00\x00\x04\x00\x90<", "ends too early"),
        (b"MThd\x00\x00\x00\x06\x00\x02\x00\x00\x01\xe0", "without a common time"),
        (b"MThd\x00\x00\x00\x06\x00\x01\x00\x00\xe7(", "without a common time"),
    ],
    ids=["empty", "other", "truncated", "type 2", "smpte"],
)
def test_what_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "song.mid"
    path.write_bytes(content)
    with pytest.raises(JaxsepError, match=rf"song\.mid: .*{message}.*; export it"):
        midi.read_score(path)
