"""From an official checkpoint to the paper's table: import, separate MUSDB18's test songs, score, compare.

Everything is kept in one folder: `run/` (the imported weights), `scores/` (a file per song, `summary.json`,
`table.md`) and `reproduction.md`. Started again, it goes on with the songs that have no scores yet.
"""

import dataclasses
import json
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep import separator, tables
from jaxsep import workdir as workdirs
from jaxsep.checkpoint import load_variables
from jaxsep.data.tracks import Track, open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model
from jaxsep.metrics import aggregate
from jaxsep.metrics.song import Song, Task, score_song
from jaxsep.models import MODELS
from jaxsep.scoring import scorefiles, splits
from jaxsep.tables import STEMS, Row, comparison
from jaxsep.weights import KINDS, catalogue, fetch, importing

KIND = {"open_unmix": "openunmix"}  # where a system's name is not that of its checkpoints
DEFAULT = {
    "spleeter": "spleeter-4stems",
    "open_unmix": "umx",
    "d3net": "d3net",
    "lasaft": "lasaft-large-2020",
    "demucs": "demucs-v2",
}
SAMPLE = 2  # segments that are separated to see how long a song takes


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is reproduced.

    Attributes:
        system: our name.
        entry: the published weights, None where they are the user's own.
    """

    system: str
    entry: catalogue.Published | None

    @property
    def kind(self) -> str:
        """Key of `weights.KINDS`, if there is one."""
        return KIND.get(self.system, self.system)

    def rows(self) -> list[Row]:
        """The rows to hold the scores against: those of published weights, of other weights all but ablations."""
        rows = [row for row in tables.rows_of(self.system) if row.scores]
        if self.entry:
            return [row for row in rows if self.entry.name in row.weights]
        return [row for row in rows if not row.variant.startswith("ablation")]


def subject(name: str) -> Subject:
    """The system, or the published weights, of a name.

    Raises:
        JaxsepError: neither a system of ours nor weights that have a published row.
    """
    weights = {key: row for row in tables.published() for key in row.weights}
    configs.choose({**dict.fromkeys(MODELS), **weights}, name, "SYSTEM")
    if name in weights:
        return Subject(tables.find(weights[name].system), catalogue.find(name))
    return Subject(name, None)


def reproduce(
    name: str,
    root: Path,
    out: Path,
    *,
    files: Sequence[Path] = (),
    run: Path | None = None,
    backend: str = "bsseval",
    jobs: int = 1,
    partial: bool = False,
    argv: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> str:
    """The comparison in Markdown, which is also written to `out/reproduction.md`.

    Args:
        name: a system, or weights of `jaxsep weights list` that have a published row.
        root: MUSDB18 or MUSDB18-HQ; other songs with its stems do, with a comparison that says that it is none.
        out: gets the run folder, the scores and the comparison.
        files: the published weights; without them, and without a run, they are downloaded.
        run: a run folder instead.
        backend: of the scores: "bsseval", "museval", or "sdr", which is all that is compared.
        jobs: processes that score.
        partial: go on after a song that fails; such a comparison is none, and says so.
        argv: the command, for the record.
        say: takes a line on what is needed, how long it takes, and each song.

    Raises:
        JaxsepError: an unknown system, no such data, no weights, or songs that cannot be separated or scored.
    """
    chosen = subject(name)
    data = _data(root)
    refused: list[scorefiles.Result] = []

    def leave_out(name: str, error: JaxsepError) -> None:
        refused.append(scorefiles.Result(name, error=str(error)))
        say(f"left out: {name}: {error}")

    tracks = open_tracks(data, "test", refused=leave_out if partial else None)
    seconds = sum(track.length / track.rate for track in tracks)
    say(f"data: {len(tracks)} test songs in {root}, {_duration(seconds)}; MUSDB18 has {len(tables.songs())}")
    folder = _run_folder(chosen, out, files, run, argv, say)
    chosen = _recognised(chosen, folder)
    if chosen.entry is None:
        say("weights: not known as published ones; held against every published row of the system")
    config: Any = configs.run_config(folder)
    if config.name != chosen.system:
        raise JaxsepError(f"{folder}: is a run of {config.name}, not of {chosen.system}")
    task = _task(config, tracks, backend)
    variables, checkpoint = load_variables(folder, "best")
    model = Model.from_parts(separator.build(config), variables, config)
    separate = _separate(model, task)
    scores = out / "scores"
    _say_how_long(task, separate, tracks, model, scores, say)
    provenance = splits.provenance(config, checkpoint, data, "test")
    results: list[scorefiles.Result] = []
    for result in splits.score_tracks(tracks, separate, task, scores, provenance, jobs=jobs, partial=partial):
        results.append(result)
        say(f"[{len(results)}/{len(tracks)}] {result}")
    results = sorted([*results, *refused], key=lambda result: result.name)
    summary = splits.summarise(results, task, provenance)
    summary |= {
        "command": shlex.join(argv),
        "tracks_in_split": len(results),
        "missing": {},
        "channels": config.channels,
    }
    scorefiles.write_summary(scores, summary, aggregate.table(summary))
    text = comparison.differences(summary, chosen.rows()) or f"No scores of {chosen.system} are published."
    workdirs.write_text(out / "reproduction.md", text + "\n")
    return text


def _data(root: Path) -> Any:
    """The `data` block of a config whose test songs are those of MUSDB18, or of a folder like it."""
    if not root.is_dir():
        raise JaxsepError(
            f"{root}: no such folder; --data takes MUSDB18 (test/<song>.stem.mp4) or MUSDB18-HQ "
            "(test/<song>/<stem>.wav), from https://sigsep.github.io/datasets/musdb.html"
        )
    data = splits.data_at(configs.defaults().data, str(root))
    data.stems = ",".join(STEMS)
    return data


def _run_folder(
    chosen: Subject, out: Path, files: Sequence[Path], run: Path | None, argv: Sequence[str], say: Callable
) -> Path:
    """The run to score: the user's, the one imported before, or one that is imported now."""
    if run is not None:
        say(f"weights: run folder {run}")
        return run
    folder = out / "run"
    entry = chosen.entry or (catalogue.find(DEFAULT[chosen.system]) if chosen.system in DEFAULT else None)
    needed = ", ".join(file.name for file in entry.files) if entry else ""
    if files:
        _refuse_others(files, chosen.entry, needed)
        if (folder / "run.json").exists():
            _check_same(folder, importing.file_sums(files))
            say(f"weights: imported before, {folder}")
            return folder
        say(f"weights: {', '.join(map(str, files))}, to be imported to {folder}; {_free(out)}")
        stated = chosen.entry.name if chosen.entry else ""
        importing.import_weights(chosen.kind, files, folder, argv, stated)
    elif entry is None:
        hint = f"--weights FILE... ({KINDS[chosen.kind].files}) or " if chosen.kind in KINDS else ""
        raise JaxsepError(f"{chosen.system}: no weights are published for download; give {hint}--run RUN")
    elif (folder / "run.json").exists():
        if workdirs.read_run(folder).get("origin") != dataclasses.asdict(entry.origin):
            raise JaxsepError(f"{folder}: holds other weights than {entry.name}; choose another --out")
        say(f"weights: {entry.name}, imported before, {folder}")
    else:
        say(f"weights: {entry.name}, to be downloaded: {needed}; {_free(out)}")
        try:
            fetch.fetch_weights(entry.name, folder, argv)
        except JaxsepError as error:
            raise JaxsepError(f"{error}; with the files at hand: --weights {needed.replace(',', '')}") from None
    return folder


def _refuse_others(files: Sequence[Path], entry: catalogue.Published | None, needed: str) -> None:
    """Files that are not there, and those that are not the published ones where their sums are known."""
    for file in files:
        if not importing.file_sums([file]):
            raise JaxsepError(f"{file}: no such file" + (f"; `jaxsep weights list` names {needed}" if needed else ""))
        digests = [digest for _, digest in importing.file_sums([file])]
        if entry and any(known.sha256 for known in entry.files) and catalogue.recognise(digests) != entry:
            raise JaxsepError(
                f"{file}: by its SHA-256 not a file of {entry.name}, which are {needed}; download it again"
            )


def _check_same(folder: Path, sums: Sequence[tuple[str, str]]) -> None:
    """That a run folder was imported from these very files, in their order."""
    before = [file["sha256"] for file in workdirs.read_run(folder).get("files", [])]
    if before != [digest for _, digest in sums]:
        raise JaxsepError(f"{folder}: holds weights of other files; choose another --out")


def _recognised(chosen: Subject, folder: Path) -> Subject:
    """With the published weights that a run was imported from, where it says so."""
    origin = workdirs.read_run(folder).get("origin")
    entries = (entry for entry in catalogue.PUBLISHED if dataclasses.asdict(entry.origin) == origin)
    return dataclasses.replace(chosen, entry=next(entries, chosen.entry))


def _task(config: Any, tracks: Sequence[Track], backend: str) -> Task:
    """What is scored: as the papers do, the released mixture's stems, and with four of them accompaniment as well.

    So vocals get both of their scores, beside the accompaniment as in SiSEC and among all stems.
    """
    sources = configs.parse_sources(config.sources)
    if lacking := {member for members in sources.values() for member in members} - set(STEMS):
        raise JaxsepError(
            f"sources={config.sources!r}: MUSDB18 has no {', '.join(sorted(lacking))}; nothing to compare"
        )
    if sources == {stem: (stem,) for stem in sources} and set(sources) == set(STEMS):
        sources = {**sources, "accompaniment": tuple(stem for stem in sources if stem != "vocals")}
    mixture = "original" if all(track.mixture for track in tracks) else "sum"
    return Task(sources, STEMS, config.channels, mixture, backend, rate=config.sample_rate)


def _separate(model: Model, task: Task) -> Callable[[Song], Mapping[str, np.ndarray]]:
    """The model's stems, and the sums of them that are scored as well."""
    added = {name: members for name, members in task.sources.items() if name not in model.sources}

    def separate(song: Song) -> dict[str, np.ndarray]:
        stems = dict(model.separate(song.mixture, song.rate))
        return stems | {name: np.sum([stems[m] for m in members], axis=0) for name, members in added.items()}

    return separate


def _say_how_long(
    task: Task, separate: Callable, tracks: Sequence[Track], model: Model, scores: Path, say: Callable
) -> None:
    """Separates and scores the first seconds of the first song that is left, twice, as the first time compiles."""
    left = [track for track in tracks if not (scores / f"{track.name}.json").exists()]
    if not left:
        say(f"all {len(tracks)} songs have score files; those of other weights, data or code are made again")
        return
    track = left[0]
    count = min(track.length, round(SAMPLE * (model.recipe.segment or 6.0) * track.rate))
    try:
        song = task.read(dataclasses.replace(track, length=count))
        estimates, _ = _timed(lambda: task.gather(song, separate(song)))
    except JaxsepError as error:
        say(f"{len(left)} of {len(tracks)} songs to do; how long cannot be said, {track.name!r} fails: {error}")
        return
    _, separating = _timed(lambda: separate(song))
    score_song(task, song, estimates)
    record, scoring_it = _timed(lambda: score_song(task, song, estimates))
    times = sum(other.length / other.rate for other in left) / (count / track.rate)
    say(
        f"{len(left)} of {len(tracks)} songs to do: about {_duration(times * separating)} to separate and at most "
        f"{_duration(times * scoring_it)} to score them in one process, judged by the first "
        f"{count / track.rate:.0f} s of {track.name!r}; {_megabytes(times * len(json.dumps(record, indent=2)))} of "
        f"scores, {_free(scores)}"
    )


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    result = work()
    return result, time.monotonic() - start


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def _free(folder: Path) -> str:
    there = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return f"{shutil.disk_usage(there).free / 1e9:,.1f} GB free"
