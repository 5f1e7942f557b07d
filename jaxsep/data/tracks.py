"""Random access to songs: stem folders, MUSDB18's `.stem.mp4` files, data sets of many instruments, built-in songs.

Opening a data set lists folders and reads headers, in threads; samples are read when they are asked for.
"""

import dataclasses
import functools
import importlib.util
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float32

from jaxsep import audio, storage
from jaxsep.config import choose, parse_instruments, parse_stems
from jaxsep.data.layouts import LAYOUTS, Layout, visible
from jaxsep.data.readers import Reader, Samples, Silence, open_reader, sum_of, to_float
from jaxsep.errors import JaxsepError

SPLITS = ("train", "valid", "test")
MIXTURE = "mixture"
SUFFIXES = (".wav", ".flac")
STEM_MP4 = ".stem.mp4"
MISSING = {"refuse": False, "silence": True}  # may a song lack a stem?


@dataclasses.dataclass(frozen=True)
class Track:
    """A song: stems of one rate and length; mono stems beside stereo ones are read as stereo.

    Attributes:
        stems: the config's stems by name, in its order.
        mixture: the released mixture (`mixture.wav`, or stream 0), where there is one.
        length: samples at `rate`.
    """

    name: str
    split: str
    stems: dict[str, Reader]
    mixture: Reader | None
    rate: int
    channels: int
    length: int

    def reader(self, stem: str) -> Reader:
        """The reader of a stem, or of `"mixture"`.

        Raises:
            JaxsepError: the song has no such stem.
        """
        reader = self.mixture if stem == MIXTURE else self.stems.get(stem)
        if reader is None:
            raise JaxsepError(f"track {self.name!r} has no {stem!r}, only {', '.join(self.stems)}")
        return reader

    def read(self, stem: str, start: int, count: int) -> Samples:
        """Samples [start, start + count) of a stem (or `"mixture"`), as stored, in `channels` channels.

        Raises:
            JaxsepError: no such stem, samples beyond the song's end, or an unreadable file.
        """
        reader = self.reader(stem)
        if not 0 <= start <= start + count <= self.length:
            raise JaxsepError(
                f"{reader.path}: samples {start} to {start + count} asked for, the song has {self.length}"
            )
        samples = reader.read(start, count)
        return samples if reader.channels == self.channels else np.repeat(samples, self.channels, axis=1)

    def audio(self, stems: Sequence[str]) -> Float32[np.ndarray, "s t c"]:
        """Whole stems as float32; `"mixture"` is the released mixture.

        Raises:
            JaxsepError: see `read`.
        """
        return np.stack([to_float(self.read(stem, 0, self.length)) for stem in stems])


Songs = tuple[Callable[[Any], "Track"], dict[str, Any]]  # what opens a song, and the songs by name


def open_tracks(
    data: Any,
    split: str,
    workdir: str | Path | None = None,
    refused: Callable[[str, JaxsepError], None] | None = None,
) -> list[Track]:
    """The songs of a split, sorted by name; reads headers only.

    Args:
        data: the config's `data` block.
        split: "train", "valid" or "test". Without a `valid` folder MUSDB18's 14 validation songs, which the
            musdb package names, are taken out of `train`.
        workdir: where built-in songs are rendered when `data.root` is empty.
        refused: takes the name of each song that cannot be opened, and why, and the others are returned;
            without it the first such song is an error.

    Raises:
        JaxsepError: a missing folder, stem or mixture, an unreadable header, stems of unequal rate or length.
    """
    if split not in SPLITS:
        raise JaxsepError(f"split={split!r} is unknown, expected one of {', '.join(SPLITS)}")
    if MIXTURE in parse_stems(data.stems):
        raise JaxsepError(f"data.stems={data.stems!r}: {MIXTURE!r} is the whole song, not a stem; leave it out")
    try:
        opener, paths = choose(SOURCES, data.source, "data.source")(data, split, workdir)
        return open_all(opener, paths, refused)
    except OSError as error:
        raise JaxsepError(f"{error.filename or data.root}: cannot be read ({error.strerror})") from None


def _builtin(data: Any, split: str, workdir: str | Path | None) -> Songs:
    from jaxsep.data.synth import render_songs

    if not data.root and workdir is None:
        raise JaxsepError("data.root is empty; name a folder for the built-in songs")
    root = Path(data.root or Path(workdir or "") / "songs")
    songs = data.songs
    render_songs(root, {name: songs[name] for name in SPLITS}, songs.seconds, songs.seed)
    return _stem_folders(data, split, root)


def _folder(data: Any, split: str, workdir: str | Path | None) -> Songs:
    return _stem_folders(data, split, _root(data))


def _stem_folders(data: Any, split: str, root: Path) -> Songs:
    def entries(folder: Path) -> dict[str, Path]:
        return {path.name: path for path in visible(folder) if path.is_dir()}

    folders = _split(root, split, entries, "one folder per song, with <stem>.wav or <stem>.flac in it")
    parts = _Parts.of(data)
    return functools.partial(_open_folder, split=split, parts=parts), folders


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Sorts the files of a song to the stems of the config.

    Attributes:
        stems: of the config.
        table: instrument -> stem, "" for none.
        missing: may a song lack a stem?
    """

    stems: tuple[str, ...]
    table: Mapping[str, str]
    missing: bool

    @classmethod
    def of(cls, data: Any, table: Mapping[str, str] | None = None) -> "_Parts":
        """By a config's `data` block; without a table, every stem is called what it is."""
        stems = parse_stems(data.stems)
        own = parse_instruments(data.instruments, stems)
        missing = choose(MISSING, data.missing, "data.missing")
        return cls(stems, {**({stem: stem for stem in stems} if table is None else table), **own}, missing)

    def stem(self, instrument: str) -> str | None:
        """The stem of an instrument, "" for none, None for one that the table does not know."""
        return self.table.get(instrument, self.table.get(instrument.partition("/")[0]))

    def readers(self, song: Path, parts: Mapping[str, Sequence[Reader]], length: int, hint: str) -> dict[str, Reader]:
        """One reader per stem: files of one stem are summed, and a stem that may be missing is silence."""
        lacking = [stem for stem in self.stems if stem not in parts]
        if len(lacking) == len(self.stems) or (lacking and not self.missing):
            raise JaxsepError(
                f"{song}: no file for the stem {lacking[0]!r} of data.stems ({hint}); add it, change data.stems or "
                "data.instruments, or set data.missing='silence' where songs may lack stems"
            )
        first = next(iter(parts.values()))[0]
        silence = Silence(song, first.rate, 1, length, np.dtype(np.int16))
        return {stem: sum_of(parts[stem], length) if stem in parts else silence for stem in self.stems}


def _open_folder(folder: Path, split: str, parts: _Parts) -> Track:
    files: dict[str, Path] = {}
    for path in visible(folder):
        if path.suffix.lower() in SUFFIXES:
            if path.stem in files:
                raise JaxsepError(f"{folder}: both {files[path.stem].name} and {path.name}; keep one of them")
            files[path.stem] = path
    hint = f"found {', '.join(sorted(files)) or 'no .wav or .flac'}; list every problem with `jaxsep data check`"
    return _sorted(folder, folder.name, split, files, open_reader, parts, hint)


def _sorted(
    song: Path,
    name: str,
    split: str,
    files: Mapping[str, Any],
    opener: Callable[[Any], Reader],
    parts: _Parts,
    hint: str,
) -> Track:
    """A song of the files that its stems take; the others stay closed."""
    found: dict[str, list[Reader]] = {}
    for instrument in sorted(files, key=lambda name: (name not in parts.stems, name)):
        if stem := parts.stem(instrument):
            found.setdefault(stem, []).append(opener(files[instrument]))
    readers = [reader for stem in parts.stems for reader in found.get(stem, [])]
    _alike(readers, "rate", "length")
    stems = parts.readers(song, found, readers[0].length if readers else 0, hint)
    return _track(name, split, stems | ({MIXTURE: opener(files[MIXTURE])} if MIXTURE in files else {}))


def _many(name: str) -> Callable[[Any, str, str | Path | None], Songs]:
    """The source of a layout."""

    def source(data: Any, split: str, workdir: str | Path | None) -> Songs:
        layout, root = LAYOUTS[name], _root(data)
        parts = _Parts.of(data, layout.stems)
        return functools.partial(_open_many, split=split, layout=layout, parts=parts), _song_folders(
            layout, root, split
        )

    return source


def _song_folders(layout: Layout, root: Path, split: str) -> dict[str, Path]:
    """The songs of a split; where there are no folders of splits, all songs are for training."""
    folders = {name: root / name for name in ("train", "valid", "validation", "test") if (root / name).is_dir()}
    folders["valid"] = folders.pop("validation", folders.get("valid", root / "valid"))
    if not folders["valid"].is_dir() and len(folders) == 1:
        folders = {"train": root}
    if split not in folders or not folders[split].is_dir():
        raise JaxsepError(
            f"{root}: no folder {split!r}, and {layout.title} does not say which songs are for that; make the folders "
            "train, valid and test, and move songs there"
        )
    songs = layout.songs(folders[split])
    if not songs:
        raise JaxsepError(f"{folders[split]}: no songs; expected {layout.title}'s {layout.form}")
    return songs


def _open_many(folder: Path, split: str, layout: Layout, parts: _Parts) -> Track:
    song = layout.parts(folder)
    found: dict[str, list[Reader]] = {}
    for instrument, path in song.files:
        if (stem := parts.stem(instrument)) is None:
            raise JaxsepError(
                f"{folder}: {instrument!r} is in no table of {layout.title}; add '{instrument}=STEM' to "
                "data.instruments, or with nothing behind the sign to leave it out"
            )
        if stem in parts.stems:
            found.setdefault(stem, []).append(open_reader(path))
    mixture = [open_reader(song.mixture)] if song.mixture else []
    readers = [*(reader for stem in found.values() for reader in stem), *mixture]
    _alike(readers, "rate")
    length = max((reader.length for reader in readers), default=0)
    stems = parts.readers(folder, found, length, f"found {', '.join(sorted({name for name, _ in song.files}))}")
    return _track(folder.name, split, stems | ({MIXTURE: sum_of(mixture, length)} if mixture else {}))


def _musdb18(data: Any, split: str, workdir: str | Path | None) -> Songs:
    def entries(folder: Path) -> dict[str, Path]:
        return {p.name.removesuffix(STEM_MP4): p for p in visible(folder) if p.name.endswith(STEM_MP4)}

    stems = parse_stems(data.stems)
    streams = {name: index for index, name in enumerate(audio.STEMS)}
    wanted = {stem: choose(streams, stem, "data.stems") for stem in stems} | {MIXTURE: streams[MIXTURE]}
    files = _split(_root(data), split, entries, f"MUSDB18's <song>{STEM_MP4} files")
    return functools.partial(_open_stem_mp4, split=split, streams=wanted), files


def _open_stem_mp4(path: Path, split: str, streams: Mapping[str, int]) -> Track:
    readers = {stem: open_reader(path, stream) for stem, stream in streams.items()}
    return _track(path.name.removesuffix(STEM_MP4), split, readers)


def _built(data: Any, split: str, workdir: str | Path | None) -> Songs:
    from jaxsep.data.built import store

    folder = store.find_set(_root(data))
    songs = {song["name"]: song for song in store.load_index(folder)["songs"] if song["split"] == split}
    if not songs:
        raise JaxsepError(f"{folder}: no songs in the split {split!r}; it was built of a data set without one")
    return functools.partial(_open_built, folder=folder, split=split, parts=_Parts.of(data)), songs


def _open_built(song: Mapping[str, Any], folder: Path, split: str, parts: _Parts) -> Track:
    from jaxsep.data.built import store

    opener = functools.partial(store.open_stem, folder, song)
    hint = f"the song {song['name']!r} has {', '.join(song['stems'])}"
    return _sorted(folder, song["name"], split, {stem: stem for stem in song["stems"]}, opener, parts, hint)


SOURCES = {
    "builtin": _builtin,
    "folder": _folder,
    "musdb18": _musdb18,
    "built": _built,
    **{name: _many(name) for name in LAYOUTS},
}


def open_all(
    opener: Callable[[Any], Track],
    paths: Mapping[str, Any],
    refused: Callable[[str, JaxsepError], None] | None = None,
) -> list[Track]:
    """Songs by name, opened in threads; see `open_tracks`."""
    names = sorted(paths)
    tracks = []
    with ThreadPoolExecutor(16) as pool:
        opened = [pool.submit(opener, paths[name]) for name in names]
        for name, track in zip(names, opened, strict=True):
            try:
                tracks.append(_opened(track))
            except JaxsepError as error:
                if refused is None:
                    raise
                refused(name, error)
    return tracks


def _opened(track: Future[Track]) -> Track:
    try:
        return track.result()
    except OSError as error:
        raise JaxsepError(f"{error.filename}: cannot be read ({error.strerror})") from None


def _track(name: str, split: str, readers: dict[str, Reader]) -> Track:
    """Checks that the stems belong together."""
    _alike([*readers.values()], "rate", "length")
    first = next(iter(readers.values()))
    channels = max(reader.channels for reader in readers.values())
    for reader in readers.values():
        if reader.channels not in (1, channels):
            raise JaxsepError(
                f"{reader.path}: {reader.channels} channels, expected 1 or {channels} as in the other stems"
            )
    stems = {stem: reader for stem, reader in readers.items() if stem != MIXTURE}
    return Track(name, split, stems, readers.get(MIXTURE), first.rate, channels, first.length)


def silent_track(stems: Sequence[str], rate: int, length: int) -> Track:
    """A song of nothing but silence."""
    reader = Silence(Path("silence"), rate, 1, length, np.dtype(np.int16))
    return Track("silence", "train", dict.fromkeys(stems, reader), None, rate, 1, length)


def _alike(readers: Sequence[Reader], *properties: str) -> None:
    for what in properties:
        for reader in readers:
            if getattr(reader, what) != getattr(readers[0], what):
                unit = {"rate": "Hz", "length": "samples"}[what]
                raise JaxsepError(
                    f"{reader.path}: {what} {getattr(reader, what)} {unit}, but {readers[0].path.name} has "
                    f"{getattr(readers[0], what)}; stems of a song need one {what}, see `jaxsep data check`"
                )


def _root(data: Any) -> Path:
    root = storage.here(data.root)
    if not data.root or not root.is_dir():
        raise JaxsepError(f"data.root={data.root!r} is not a folder; give the data set's with --config.data.root=...")
    return root


def _split(root: Path, split: str, entries: Any, layout: str) -> dict[str, Path]:
    """Name -> path of a split's songs; `entries` lists the songs of a folder."""
    shared = split != "test" and not (root / "valid").is_dir()
    folder = root / ("train" if shared else split)
    if not folder.is_dir():
        raise JaxsepError(f"{folder}: no such folder; a data set has train, valid and test, with {layout}")
    songs = entries(folder)
    if not songs:
        raise JaxsepError(f"{folder}: no songs; expected {layout}")
    if not shared:
        return songs
    names = _musdb_validation_names(root)
    valid = {name for name in songs if unicodedata.normalize("NFC", name) in names}
    if 2 * len(valid) > len(names):
        return {name: path for name, path in songs.items() if (name in valid) == (split == "valid")}
    if split == "valid":
        raise JaxsepError(
            f"{root}: no folder 'valid', and train is not MUSDB18's (it has {len(valid)} of the {len(names)} "
            f"validation songs); make {root / 'valid'} and move some songs there"
        )
    return songs


def _musdb_validation_names(root: Path) -> set[str]:
    """Read without importing musdb, whose import needs an ffmpeg binary."""
    spec = importlib.util.find_spec("musdb")
    if spec is None or spec.origin is None:
        raise JaxsepError(
            f"{root}: no folder 'valid', and the package musdb, which names MUSDB18's validation songs, is "
            "missing; `pip install musdb`, or make the folder"
        )
    text = (Path(spec.origin).parent / "configs" / "mus.yaml").read_text(encoding="utf-8")
    return {unicodedata.normalize("NFC", name) for name in yaml.safe_load(text)["validation_tracks"]}
