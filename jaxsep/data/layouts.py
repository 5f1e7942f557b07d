"""How data sets of many instruments lie on the disk: Slakh2100, MoisesDB and MedleyDB, as they are unpacked.

A layout says which songs a folder has, which files a song is made of and what plays in each, and to which stem an
instrument belongs unless `data.instruments` says otherwise. An instrument that has finer names is written "class/name":
the table is asked for the whole, then for the class. Nothing here reads samples.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from jaxsep.errors import JaxsepError

# libyaml's parser where PyYAML has it: the other one takes half a minute for the 1,500 songs of Slakh2100.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclasses.dataclass(frozen=True)
class Parts:
    """The files of a song.

    Attributes:
        files: (instrument, file).
        mixture: the released mixture, where there is one.
    """

    files: list[tuple[str, Path]]
    mixture: Path | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """A data set's layout.

    Attributes:
        title: its name.
        form: what its songs look like, for messages.
        songs: the songs of a folder by name.
        parts: the files of a song.
        stems: instrument -> stem; "" leaves an instrument out.
    """

    title: str
    form: str
    songs: Callable[[Path], dict[str, Path]]
    parts: Callable[[Path], Parts]
    stems: Mapping[str, str]


def visible(folder: Path) -> list[Path]:
    """What is in a folder, hidden files aside."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _below(folder: Path, is_song: Callable[[Path], bool]) -> dict[str, Path]:
    """Songs in a folder and, where it holds folders of songs, one level further down."""
    songs = {}
    for path in visible(folder):
        if path.is_dir():
            for song in [path] if is_song(path) else filter(is_song, filter(Path.is_dir, visible(path))):
                songs[song.name] = song
    return songs


def _metadata(path: Path, read: Callable[[Any], Any]) -> Any:
    """What `read` finds in a metadata file."""
    if not path.is_file():
        raise JaxsepError(f"{path}: no such file, and without it nobody knows what its song's files are; restore it")
    try:
        text = path.read_text(encoding="utf-8")
        return read(json.loads(text) if path.suffix == ".json" else yaml.load(text, LOADER))
    except (ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise JaxsepError(f"{path}: not the metadata of a song ({' '.join(str(error).split())}); restore it") from None


def _either(path: Path) -> Path:
    """The file as FLAC, or as WAV where it was converted."""
    return path if path.is_file() or not path.with_suffix(".wav").is_file() else path.with_suffix(".wav")


def _slakh_parts(song: Path) -> Parts:
    """`metadata.yaml`: stems.<S00>.{inst_class, midi_program_name, audio_rendered}; `stems/<S00>.flac`, `mix.flac`."""

    def read(found: Any) -> list[tuple[str, Path]]:
        folder = song / found.get("audio_dir", "stems")
        return [
            (
                "/".join(filter(None, (stem["inst_class"], stem.get("midi_program_name")))),
                _either(folder / f"{name}.flac"),
            )
            for name, stem in found["stems"].items()
            if stem.get("audio_rendered", True)
        ]

    mixture = _either(song / "mix.flac")
    return Parts(_metadata(song / "metadata.yaml", read), mixture if mixture.is_file() else None)


def _moises_parts(song: Path) -> Parts:
    """`data.json`: stems[].{stemName, tracks[].{id, extension, trackType}}; `<stemName>/<id>.<extension>`."""

    def read(found: Any) -> list[tuple[str, Path]]:
        return [
            (
                f"{stem['stemName']}/{track['trackType']}",
                song / stem["stemName"] / f"{track['id']}.{track['extension']}",
            )
            for stem in found["stems"]
            for track in stem["tracks"]
        ]

    return Parts(_metadata(song / "data.json", read), None)


def _medley_parts(song: Path) -> Parts:
    """`<song>_METADATA.yaml`, beside the audio or in a folder `Metadata` above: stems.<S01>.{instrument, filename}."""

    def read(found: Any) -> tuple[list[tuple[str, Path]], Path]:
        folder = song / found.get("stem_dir", f"{song.name}_STEMS")
        files = []
        for stem in found["stems"].values():
            played = stem["instrument"] if isinstance(stem["instrument"], list) else [stem["instrument"]]
            files.append((" + ".join(played), folder / stem["filename"]))
        return files, song / found.get("mix_filename", f"{song.name}_MIX.wav")

    name = f"{song.name}_METADATA.yaml"
    places = [song, *(folder / "Metadata" for folder in list(song.parents)[:3])]
    files, mixture = _metadata(next((p / name for p in places if (p / name).is_file()), song / name), read)
    return Parts(files, mixture if mixture.is_file() else None)


def _all(stem: str, *instruments: str) -> dict[str, str]:
    return dict.fromkeys(instruments, stem)


# The classes of `inst_class`, General MIDI's with "Drums" for channel 10. Nobody sings.
SLAKH_STEMS = {
    **_all("drums", "Drums", "Percussive"),
    **_all("bass", "Bass"),
    **_all("other", "Piano", "Chromatic Percussion", "Organ", "Guitar", "Strings", "Strings (continued)", "Brass"),
    **_all("other", "Reed", "Pipe", "Synth Lead", "Synth Pad", "Synth Effects", "Ethnic"),
    **_all("other", "Sound Effects", "Sound effects"),
}

# As the moisesdb package mixes four stems (mix_4_stems in its defaults.py): all but three are "other".
MOISES_STEMS = {
    **_all("vocals", "vocals"),
    **_all("drums", "drums"),
    **_all("bass", "bass"),
    **_all("other", "other", "guitar", "other_plucked", "percussion", "piano", "other_keys", "bowed_strings", "wind"),
}

# The instruments of medleydb's taxonomy.yaml and instrument_f0_type.json. Percussion without pitch goes to the drums,
# as in MUSDB18; "Main System", microphones before the whole ensemble, is no stem.
MEDLEY_STEMS = {
    "Main System": "",
    **_all("vocals", "male singer", "female singer", "male speaker", "female speaker", "male rapper", "female rapper"),
    **_all("vocals", "male screamer", "female screamer", "beatboxing", "vocalists", "choir"),
    **_all("bass", "electric bass", "double bass"),
    **_all("drums", "drum set", "drum machine", "kick drum", "snare drum", "bass drum", "toms", "timpani", "bongo"),
    **_all("drums", "conga", "darbuka", "doumbek", "tabla", "tambourine", "auxiliary percussion", "high hat", "cymbal"),
    **_all("drums", "gong", "triangle", "cowbell", "sleigh bells", "cabasa", "guiro", "gu", "castanet", "claps"),
    **_all("drums", "snaps", "rattle", "shaker", "maracas"),
    **_all("other", "xylophone", "vibraphone", "marimba", "glockenspiel", "chimes", "whistle", "crowd", "Unlabeled"),
    **_all("other", "erhu", "violin", "viola", "cello", "dilruba", "violin section", "viola section", "cello section"),
    **_all("other", "string section", "acoustic guitar", "banjo", "guzheng", "harp", "harpsichord", "liuqin"),
    **_all("other", "mandolin", "oud", "slide guitar", "ukulele", "zhongruan", "sitar", "dulcimer", "yangqin"),
    **_all("other", "piano", "tack piano", "electric piano", "electronic organ", "pipe organ", "harmonium"),
    **_all("other", "dizi", "flute", "flute section", "piccolo", "bamboo flute", "panpipes", "recorder"),
    **_all("other", "alto saxophone", "baritone saxophone", "tenor saxophone", "soprano saxophone", "bass clarinet"),
    **_all("other", "clarinet", "clarinet section", "oboe", "english horn", "bassoon", "bagpipe", "trumpet", "cornet"),
    **_all("other", "trombone", "french horn", "euphonium", "tuba", "brass section", "french horn section"),
    **_all("other", "trombone section", "horn section", "trumpet section", "harmonica", "concertina", "accordion"),
    **_all("other", "bandoneon", "melodica", "clean electric guitar", "distorted electric guitar", "lap steel guitar"),
    **_all("other", "synthesizer", "theremin", "fx/processed sound", "scratch", "scratches", "sampler"),
}

LAYOUTS = {
    "slakh2100": Layout(
        "Slakh2100",
        "folders TrackNNNNN with metadata.yaml and stems/",
        lambda folder: _below(folder, lambda song: (song / "metadata.yaml").is_file()),
        _slakh_parts,
        SLAKH_STEMS,
    ),
    "moisesdb": Layout(
        "MoisesDB",
        "folders with data.json, alone or in a provider's folder",
        lambda folder: _below(folder, lambda song: (song / "data.json").is_file()),
        _moises_parts,
        MOISES_STEMS,
    ),
    "medleydb": Layout(
        "MedleyDB",
        "folders <song> with <song>_STEMS in them, as in Audio/",
        lambda folder: _below(folder, lambda song: (song / f"{song.name}_STEMS").is_dir()),
        _medley_parts,
        MEDLEY_STEMS,
    ),
}
