"""Extracts of unlabeled songs in which a source is silent: what `jaxsep data mine` finds and writes down.

The folder it fills holds `mine.json` (how it was mined), `index.jsonl` (a song per line, with its extracts) and the
report. A line is written when its song is finished, so that a kill costs one song and the same command goes on.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxsep import songs
from jaxsep.audio import open_audio, open_writer
from jaxsep.errors import JaxsepError
from jaxsep.markdown import table
from jaxsep.mining.detector import AUDIBLE
from jaxsep.mining.index import INDEX, SETTINGS, Extract, Song, read_index, read_settings
from jaxsep.mining.listening import Listener, load
from jaxsep.progress import Progress, clock
from jaxsep.streams import Wave, track_statistics
from jaxsep.workdir import unwritable, write_text

VERSION = 1
REPORT, EXTRACTS = "report", "extracts"


def mine(
    folder: str | Path,
    run: str | Path,
    out: str | Path,
    *,
    seconds: float = 6.0,
    copies: bool = False,
    checkpoint: str | int = "best",
    device: str = "auto",
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: print(f"jaxsep: {line}", file=sys.stderr, flush=True),
) -> int:
    """Mines a folder of songs, or goes on with it.

    Args:
        folder: searched for audio files, and the folders below it.
        run: run folder of an activity detector, or of any separator.
        out: folder of index and report.
        seconds: length of the shortest extract.
        copies: whether to write each extract as a file, too.
        checkpoint: of the run: "best", "last" or a step.
        device: as for `jaxsep.load`.
        progress: where to report.
        say: takes a line about what is being done.

    Returns:
        The number of songs that could not be listened to; each has been reported.

    Raises:
        JaxsepError: something that concerns all songs, or a folder that was mined otherwise.
    """
    folder, out, progress = Path(folder), Path(out), progress or Progress()
    if not seconds > 0:
        raise JaxsepError(f"seconds={seconds}: expected more than 0")
    if not folder.is_dir():
        raise JaxsepError(f"{folder}: not a folder; name the one in which the unlabeled songs lie")
    found = songs.search(folder, out.resolve(), say)
    songs.check_writable(out)
    listener = load(run, checkpoint, device)
    settings = _settings(folder, run, listener, seconds, copies)
    _claim(out, settings)
    done = {song.file: song for song in read_index(out)}
    write_text(out / INDEX, "".join(song.line() for song in done.values()))  # without a line that a kill tore
    kept, failures = [], {}
    for path, _ in found:
        name = path.relative_to(folder).as_posix()
        try:
            size = path.stat().st_size
            if name in done and done[name].bytes == size:
                kept.append(done[name])
                continue
            song = _listen(listener, path, name, size, seconds, progress)
            song = _copied(song, path, out) if copies else song
        except (JaxsepError, OSError, MemoryError) as error:
            failures[name] = songs.message(path, error)
            progress.failed(str(path), failures[name])
            continue
        _append(out, song)
        progress.done(song.length / song.rate, _found(song, listener.thresholds), "")
        kept.append(song)
    write_text(out / INDEX, "".join(song.line() for song in kept))
    _write_report(out, settings, kept, failures)
    return len(failures)


def _settings(folder: Path, run: str | Path, listener: Listener, seconds: float, copies: bool) -> dict[str, Any]:
    return {
        "version": VERSION,
        "folder": str(folder.resolve()),
        "detector": str(run),
        "origin": listener.origin,
        "thresholds": dict(listener.thresholds),
        "unit": "dB of the mixture above the source" if listener.separates else "probability of silence",
        "seconds": seconds,
        "copies": copies,
    }


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Writes the settings, if they are those of what is there already; the songs and the detector may have moved."""
    if (out / SETTINGS).exists():
        before = read_settings(out)
        for key in settings.keys() - {"folder", "detector"}:
            if before.get(key) != settings[key]:
                raise JaxsepError(
                    f"{out}: was mined with {key} {json.dumps(before.get(key))}, asked for is "
                    f"{json.dumps(settings[key])}; choose another --out"
                )
    elif (out / INDEX).exists():
        raise JaxsepError(f"{out}: has an index but no {SETTINGS}; restore it, or choose another --out")
    write_text(out / SETTINGS, json.dumps(settings, indent=2) + "\n")


def _append(out: Path, song: Song) -> None:
    """Adds a line to the index that SIGKILL and a power cut cannot take away."""
    try:
        with (out / INDEX).open("a") as file:
            file.write(song.line())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise unwritable(out / INDEX, error) from None


def _listen(listener: Listener, path: Path, name: str, size: int, seconds: float, progress: Progress) -> Song:
    """One song, from its file to its extracts."""
    with open_audio(path) as reader:
        rate, channels = reader.rate, reader.channels
        progress.start(str(path), reader.seconds)
    length = 0

    def read() -> Iterator[Wave]:
        nonlocal length
        heard = 0
        for block in songs.read_blocks(path):
            heard += len(block)
            progress.update(heard / rate)
            yield block
        length = heard

    mean, std = track_statistics(songs.read_blocks(path))  # also says of a damaged file that it is, before the net runs
    energies, scores = listener.listen(read, rate, channels)
    extracts = find_extracts(listener, energies, scores, rate, length, seconds)
    return Song(name, size, rate, channels, length, mean, std, tuple(extracts))


def find_extracts(
    listener: Listener,
    energies: Float[np.ndarray, " n"],
    scores: Float[np.ndarray, "n s"],
    rate: int,
    length: int,
    seconds: float,
) -> Iterator[Extract]:
    """The longest stretches of audible windows in which a source is silent.

    Args:
        listener: whose windows and thresholds they are.
        energies: mean square of the mixture in each window; where there is nothing to hear, there is no extract.
        scores: of each source.
        rate: of the song, in Hz.
        length: of the song, in samples.
        seconds: of the shortest extract.
    """
    own, window = listener.model.sample_rate, listener.window
    for index, source in enumerate(listener.model.sources):
        if source not in listener.thresholds:
            continue
        silent = (scores[:, index] >= listener.thresholds[source]) & (energies > AUDIBLE)
        for first, last in np.flatnonzero(np.diff(silent, prepend=False, append=False)).reshape(-1, 2).tolist():
            start, end = -(-first * window * rate // own), min(length, last * window * rate // own)
            if end - start >= seconds * rate:
                yield Extract(source, start, end - start, round(float(scores[first:last, index].min()), 4))


def _copied(song: Song, path: Path, out: Path) -> Song:
    """The song with its extracts written as 32-bit float files, which hold whatever a decoder gives."""
    extracts = []
    for extract in song.extracts:
        copy = f"{EXTRACTS}/{song.file}.{extract.source}.{extract.start}.wav"
        (out / copy).parent.mkdir(parents=True, exist_ok=True)
        with open_writer(out / copy, song.rate, song.channels, "wav", "32f") as writer:
            position = 0
            for block in songs.read_blocks(path):
                first, last = extract.start - position, extract.start + extract.length - position
                position += len(block)
                if last <= 0:
                    break
                writer.write(block[max(first, 0) : last])
        extracts.append(dataclasses.replace(extract, copy=copy))
    return dataclasses.replace(song, extracts=tuple(extracts))


def _found(song: Song, sources: Iterable[str]) -> list[str]:
    """What was found in a song, in words."""
    words = [f"{source} silent {song.seconds(source):.1f} s" for source in sources if song.seconds(source)]
    return words or ["nothing silent"]


def _write_report(out: Path, settings: dict[str, Any], kept: list[Song], failures: dict[str, str]) -> None:
    """`report.json`, and the same as `report.md` for people."""
    thresholds = settings["thresholds"]
    whole = sum(song.length / song.rate for song in kept)

    def row(found: list[Song], seconds: float) -> dict[str, dict[str, float]]:
        silent = {source: sum(song.seconds(source) for song in found) for source in thresholds}
        return {
            source: {"seconds": round(value, 3), "share": round(value / seconds, 4) if seconds else 0.0}
            for source, value in silent.items()
        }

    rows = {song.file: row([song], song.length / song.rate) for song in kept}
    total = row(kept, whole)
    report = {**settings, "total_seconds": round(whole, 3), "total": total, "songs": rows, "failed": failures}
    write_text(out / f"{REPORT}.json", json.dumps(report, indent=2) + "\n")
    cells = lambda found: [f"{value['seconds']:.1f} s ({value['share']:.1%})" for value in found.values()]
    lines = [
        [song.file.replace("|", "/"), clock(song.length / song.rate), *cells(rows[song.file])] for song in kept
    ] + [[f"all {len(kept)} songs", clock(whole), *cells(total)]]
    lines.append([f"threshold ({settings['unit']})", "", *(f"{value:.4g}" for value in thresholds.values())])
    text = [
        f"# Silent sources in {settings['folder']}",
        "",
        f"Extracts of {settings['seconds']:g} s and more, found with {settings['detector']}.",
        "",
        table(["song", "length", *thresholds], lines),
    ]
    text += ["", f"{len(failures)} could not be listened to:", ""] if failures else []
    text += [f"- {line}" for line in failures.values()]
    write_text(out / f"{REPORT}.md", "\n".join(text) + "\n")
