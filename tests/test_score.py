"""`jaxsep score` and `jaxsep compare`: folders of any tool, paired by name, checked first, scored as museval does."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
from test_metrics import excerpt, needs_museval, noise

from jaxsep import baselines, cli
from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate
from jaxsep.scoring import folders, pairing, scorefiles, significance
from jaxsep.scoring.filewaves import open_waves

RATE = 2000
STEMS = ("vocals", "drums", "bass", "other")


def write(path, wave, rate=RATE, subtype="PCM_16"):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)


def waves(stems=STEMS, length=4500, seed=0):
    return dict(zip(stems, 0.1 * noise(len(stems), length, 2, seed=seed), strict=True))


@pytest.fixture
def song(tmp_path):
    """Folders with one song: estimates are the references and a tenth of the next stem."""
    stems = waves()
    for name, other in zip(STEMS, (*STEMS[1:], STEMS[0]), strict=True):
        write(tmp_path / "refs" / "A song" / f"{name}.wav", stems[name])
        write(tmp_path / "ests" / "A song" / f"{name}.wav", stems[name] + 0.1 * stems[other])
    return tmp_path


def score(folder, **options):
    """The summary, and the lines that were said."""
    lines = []
    options = {"backend": "sdr", "notify": lines.append} | options
    folders.score_folders(folder / "refs", folder / "ests", folder / "out", **options)
    return json.loads((folder / "out" / "summary.json").read_text()), lines


def read(path):
    return json.loads(path.read_text())


def frames(record, source, metric="SDR"):
    return aggregate.frames_of(record, source, metric)


# --- The numbers ------------------------------------------------------------------------------------------------------


def musevals(references, estimates, rate):
    """What `eval_mus_track` and `EvalStore` say: the JSON, and the medians of medians."""
    import museval

    targets = {name: types.SimpleNamespace(audio=wave) for name, wave in references.items()}
    track = types.SimpleNamespace(name="Falcon", rate=rate, targets=targets, subset="test")
    store = museval.EvalStore()
    record = museval.eval_mus_track(track, estimates)
    store.add_track(record.df)
    return json.loads(record.json), store.agg_frames_tracks_scores()


def int16(wave):
    return np.clip(np.rint(wave * 32768), -32768, 32767) / 32768


def equals_museval(tmp_path, stems, made):
    """`jaxsep score` on 16-bit files of both: JSON and medians as museval's, to 1e-3 dB."""
    stems, made = ({name: int16(wave) for name, wave in side.items()} for side in (stems, made))
    for side, found in (("refs", stems), ("ests", made)):
        for name, wave in found.items():
            write(tmp_path / side / "Falcon" / f"{name}.wav", wave, 44100)
    summary, _ = score(tmp_path, backend="bsseval")
    if "accompaniment" in made:
        stems = stems | {"accompaniment": sum(wave for name, wave in stems.items() if name != "vocals")}
    expected, medians = musevals(stems, made, 44100)
    record = read(tmp_path / "out" / "Falcon.json")
    assert {target["name"] for target in record["targets"]} == {target["name"] for target in expected["targets"]}
    for target in expected["targets"]:
        for metric in ("SDR", "ISR", "SIR", "SAR"):
            ours, theirs = frames(record, target["name"], metric), frames(expected, target["name"], metric)
            np.testing.assert_allclose(ours, theirs, atol=1e-3)  # NaN where NaN is
            key = f"{metric.lower()}_median_of_medians"
            assert summary["scores"][key][target["name"]] == pytest.approx(medians[target["name"]][metric], abs=1e-3)
        times = [(frame["time"], frame["duration"]) for frame in target["frames"]]
        assert times == [(n, 1) for n in range(len(target["frames"]))]
    assert record["jaxsep"]["ill_conditioned"] == []
    return record


@needs_museval
def test_scores_of_real_audio_are_musevals(tmp_path):
    """Vocals against accompaniment, which is summed up from its stems; one estimate pauses for a second."""
    bass, drums, vocals = excerpt([2, 1, 4], seconds=3.5)
    stems = {"vocals": vocals, "drums": drums, "bass": bass, "other": np.zeros_like(bass)}
    made = {"vocals": vocals + 0.1 * drums, "accompaniment": drums + bass + 0.1 * vocals**2}
    made["vocals"][44100:88200] = 0
    record = equals_museval(tmp_path, stems, made)
    assert np.isnan(frames(record, "vocals")).tolist() == [False, True, False]


@needs_museval
@pytest.mark.full
@pytest.mark.parametrize("kind", ["irm1", "noisy", "silent"])
def test_scores_of_the_excerpt_are_musevals(tmp_path, kind):
    stems = dict(zip(("drums", "bass", "other", "vocals"), excerpt([1, 2, 3, 4], seconds=7), strict=True))
    true = np.stack(list(stems.values()))
    if kind == "irm1":
        made = baselines.irm1(true.sum(axis=0), true)
    else:
        made = true + 0.02 * noise(*true.shape) + 0.1 * true[::-1]
    if kind == "silent":
        made[2, 88200:132300] = 0
    equals_museval(tmp_path, stems, dict(zip(stems, made, strict=True)))


def test_numbers_by_hand(tmp_path):
    """An estimate a tenth too loud is at 20 dB everywhere; files are paired by name, whatever their order."""
    for name, wave in waves(("vocals", "bass")).items():
        write(tmp_path / "refs" / "A" / f"{name}.wav", wave, subtype="DOUBLE")
        write(tmp_path / "ests" / "test" / "A" / f"{name}.wav", 1.1 * wave, subtype="DOUBLE")
    summary, _ = score(tmp_path, backend="bsseval")
    record = read(tmp_path / "out" / "A.json")
    for name in ("vocals", "bass"):
        assert frames(record, name) == pytest.approx([20, 20], abs=1e-4)
        assert frames(record, name, "ISR") == pytest.approx([20, 20], abs=1e-4)
    assert summary["scores"]["sdr_whole_track"]["average"] == pytest.approx(20, abs=1e-4)
    assert summary["scores"]["lsd"]["vocals"] == pytest.approx(20 * np.log10(1.1), abs=1e-4)
    assert summary["scored_together"] == [["vocals", "bass"]]


def test_files_are_read_as_they_are(tmp_path):
    """Every 16-bit value, 24 bits, and doubles; sums of files with their signs; pieces; some of the sources."""
    every = np.arange(-32768, 32768, dtype=np.int16).reshape(-1, 2)
    write(tmp_path / "16.wav", every)
    write(tmp_path / "24.flac", (every.astype(np.int32) << 16) + (7 << 8), subtype="PCM_24")
    write(tmp_path / "double.wav", np.full(every.shape, 1 / 3), subtype="DOUBLE")
    one, two, three = ((tmp_path / name, sign) for name, sign in (("16.wav", 1), ("24.flac", 1), ("double.wav", -1)))
    with open_waves([(one,), (two, three), (three,)]) as found:
        assert found.shape == (3, 32768, 2) and found.rate == RATE
        np.testing.assert_array_equal(found[:, 5:9][0], every[5:9] / 32768)
        np.testing.assert_array_equal(found[:, 32760:99999][1], every[32760:] / 32768 + 7 / 2**23 - 1 / 3)
        some = found[[2, 0]]
        np.testing.assert_array_equal(some[:, 0:3], found[:, 0:3][[2, 0]])
        assert some.shape == (2, 32768, 2)


def test_accompaniment_is_the_sum_of_its_stems(song):
    stems = waves()
    backing = stems["drums"] + stems["bass"] + stems["other"]
    write(song / "ests" / "A song" / "accompaniment.wav", backing + 0.1 * stems["vocals"])
    summary, _ = score(song)
    record = read(song / "out" / "A song.json")
    assert summary["scored_together"] == [list(STEMS), ["vocals", "accompaniment"]]
    assert frames(record, "accompaniment") == pytest.approx([20 + 10 * np.log10(3)] * 2, abs=0.2)
    assert "sdr_median_of_medians_among_stems" in summary["scores"]
    for name in ("drums", "bass", "other"):
        (song / "ests" / "A song" / f"{name}.wav").unlink()
    summary, _ = score(song)
    assert summary["scored_together"] == [["vocals", "accompaniment"]]


def test_one_stem_is_scored_beside_the_rest(song):
    (song / "refs" / "A song" / "mixture.wav").write_bytes(b"nobody looks at this")
    summary, _ = score(song, stems=("bass",))
    stems = waves()
    error = (0.1 * stems["other"])[:4000].reshape(2, -1)
    expected = 10 * np.log10(np.square(stems["bass"][:4000].reshape(2, -1)).sum(1) / np.square(error).sum(1))
    assert frames(read(song / "out" / "A song.json"), "bass") == pytest.approx(expected, abs=0.01)
    assert summary["scored_together"] == [["bass", "rest"]] and list(summary["frames"]) == ["bass"]
    (pair,), _ = pairing.pair_tracks(*map(pairing.find_tracks, (song / "refs", song / "ests")), ("bass", "rest"), False)
    with open_waves(pair.references) as references, open_waves(pair.estimates) as estimates:
        np.testing.assert_allclose(estimates[:, :].sum(axis=0), references[:, :].sum(axis=0), atol=1e-12)
        np.testing.assert_allclose(references[:, :].sum(axis=0), sum(stems.values()), atol=4 / 32768)


def test_metrics_can_be_chosen(song):
    summary, _ = score(song, metrics=("si_sdr", "lsd"), backend="bsseval")
    whole = {"si_sdr", "lsd"}
    assert {key for key in summary["scores"] if not key.startswith("sdr_m") and "pooled" not in key} == whole
    record = read(song / "out" / "A song.json")
    assert set(record["targets"][0]["frames"][0]["metrics"]) == {"SDR"} and record["jaxsep"]["backend"] == "sdr"
    for options, message in (
        ({"metrics": ("sdr", "pesq")}, "metrics=pesq: unknown"),
        ({"metrics": ("sir",)}, "metrics=sir: not in the backend sdr"),
        ({"backend": "pesq"}, "backend='pesq' is unknown"),
        ({"stems": ("piano",)}, "stems=piano: no reference of that name"),
    ):
        with pytest.raises(JaxsepError, match=message):
            score(song, **options)


def test_goes_on_where_it_stopped(song):
    for name in STEMS:
        for side in ("refs", "ests"):
            data, rate = soundfile.read(song / side / "A song" / f"{name}.wav")
            write(song / side / "B" / f"{name}.wav", data, rate)
    first, lines = score(song)
    assert len(lines) == 2 and not any("scored before" in line for line in lines)
    (song / "out" / "summary.json").unlink()
    again, lines = score(song)
    assert again == first and all("scored before" in line for line in lines)
    path = song / "ests" / "B" / "bass.wav"
    stamp = path.stat().st_mtime_ns
    write(path, 0.5 * soundfile.read(path)[0])
    os.utime(path, ns=(stamp + 1_000_000, stamp + 1_000_000))
    changed, lines = score(song)
    assert ["scored before" in line for line in lines] == [True, False]
    assert changed["scores"]["sdr_whole_track"]["bass"] < first["scores"]["sdr_whole_track"]["bass"] - 3
    _, lines = score(song, metrics=("sdr",))
    assert not any("scored before" in line for line in lines)


def test_processes_score_as_one_process_does(song):
    alone, _ = score(song)
    record = read(song / "out" / "A song.json")
    (song / "out" / "A song.json").unlink()
    together, _ = score(song, jobs=2)
    assert together == alone and read(song / "out" / "A song.json") == record


def test_a_silent_reference_is_named_and_the_others_scored(song):
    write(song / "refs" / "A song" / "bass.wav", np.zeros((4500, 2)))
    summary, _ = score(song, backend="bsseval")
    assert summary["silent"] == {"A song": {"references": ["bass"]}}
    record = read(song / "out" / "A song.json")
    assert np.isnan(frames(record, "bass")).all() and np.isnan(frames(record, "drums", "SIR")).all()
    assert frames(record, "drums") == pytest.approx([20, 20], abs=0.5)
    assert "silent throughout in A song: references bass" in (song / "out" / "table.md").read_text()


# --- Bad input --------------------------------------------------------------------------------------------------------


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1000])


def spoil(path):
    data, rate = soundfile.read(path)
    data[3000, 1] = np.nan
    write(path, data, rate, subtype="FLOAT")


def again(change):
    def rewrite(path):
        data, rate = soundfile.read(path)
        data, rate = change(data, rate)
        write(path, data, rate)

    return rewrite


def torn_flac(path):
    data, rate = soundfile.read(path)
    path.unlink()
    write(path.with_suffix(".flac"), data, rate)
    shorten(path.with_suffix(".flac"))


DAMAGES = {
    "length": (again(lambda data, rate: (data[:-1], rate)), r"4499 samples, expected 4500 as in .*vocals\.wav"),
    "rate": (again(lambda data, rate: (data, 2 * rate)), r"4000 Hz, expected 2000"),
    "mono": (again(lambda data, rate: (data[:, :1], rate)), r"1 channels, expected 2"),
    "missing": (lambda path: path.unlink(), r"no estimate of 'bass', only of drums, other, vocals"),
    "nan": (spoil, r"NaN or infinite sample at second 1\.500"),
    "empty": (lambda path: path.write_bytes(b""), r"empty file \(0 bytes\)"),
    "text": (lambda path: path.write_bytes(b"no sound at all"), "not audio"),
    "truncated": (shorten, r"truncated or damaged: expected 4500 samples .*found 4250"),
    "torn flac": (torn_flac, "truncated or damaged"),
    "twice": (
        lambda path: write(path.with_suffix(".flac"), waves()["bass"]),
        r"two estimates of one stem: .*flac, .*wav",
    ),
    "unknown": (lambda path: write(path.with_name("piano.wav"), waves()["bass"]), r"piano\.wav: no reference of that"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_files_are_named_before_anything_is_scored(song, damage):
    for side in ("refs", "ests"):
        for name, wave in waves(seed=1).items():
            write(song / side / "B" / f"{name}.wav", wave)
    spoil_it, message = DAMAGES[damage]
    spoil_it(song / "ests" / "B" / "bass.wav")
    lines = []
    with pytest.raises(JaxsepError, match="1 of the tracks cannot be scored, see above; --partial") as error:
        score(song, notify=lines.append)
    assert "\n" not in str(error.value) and not (song / "out").exists()
    (line,) = lines
    assert line.startswith("track 'B': ") and "\n" not in line
    assert re.search(message, line), line
    summary, _ = score(song, partial=True)
    assert summary["tracks"] == ["A song"] and f"track 'B': {summary['failed']['B']}" == line
    assert summary["tracks_in_split"] == 2 and not (song / "out" / "B.json").exists()
    assert f"left out: B: {summary['failed']['B']}" in (song / "out" / "table.md").read_text()


def test_all_problems_are_listed_together(song):
    write(song / "refs" / "B" / "vocals.wav", waves()["vocals"])
    write(song / "ests" / "C" / "vocals.wav", waves()["vocals"])
    spoil(song / "ests" / "A song" / "bass.wav")
    shorten(song / "refs" / "A song" / "drums.wav")
    lines = []
    with pytest.raises(JaxsepError, match="3 of the tracks"):
        score(song, notify=lines.append)
    assert [line.split(":")[0] for line in lines] == ["track 'A song'", "track 'B'", "track 'C'"]
    assert "drums.wav" in lines[0] and lines[1:] == [
        "track 'B': references without estimates",
        "track 'C': estimates without references",
    ]
    with pytest.raises(JaxsepError, match="none of the 3 tracks could be scored"):
        score(song, partial=True)
    assert not (song / "out").exists()


@pytest.mark.parametrize(
    ("true", "made", "stems", "expected"),
    [
        ("other vocals bass drums", "drums bass vocals other", "", "vocals drums bass other"),
        ("vocals drums bass other", "vocals accompaniment", "", "vocals accompaniment"),
        ("vocals drums bass other mixture", "vocals bass accompaniment", "", "vocals drums bass other accompaniment"),
        ("vocals drums bass other accompaniment", "vocals drums bass", "", "vocals drums bass other"),
        ("vocals accompaniment", "vocals accompaniment mixture", "", "vocals accompaniment"),
        ("vocals piano guitar", "vocals", "", "vocals guitar piano"),
        ("vocals drums bass other", "vocals", "vocals,drums", "vocals drums"),
        ("vocals drums bass other", "vocals", "vocals", "vocals rest"),
        ("vocals drums bass other", "vocals", "accompaniment", "accompaniment rest"),
        ("vocals", "vocals", "", "vocals"),
    ],
)
def test_what_is_scored(true, made, stems, expected):
    tracks = ({"A": {name: [] for name in names.split()}} for names in (true, made))
    assert pairing.choose_sources(*tracks, tuple(filter(None, stems.split(",")))) == tuple(expected.split())


def test_what_is_done_is_kept_when_another_track_fails(tmp_path, monkeypatch):
    """In threads instead of processes: one track is still being scored when another fails."""
    monkeypatch.setattr(scorefiles, "_processes", ThreadPoolExecutor)
    failed = threading.Event()

    def fail():
        failed.set()
        raise JaxsepError("torn")

    def outlast():
        failed.wait()
        time.sleep(0.1)
        return {"jaxsep": {}, "targets": []}

    work = [scorefiles.Work("done", outlast, (), {}), scorefiles.Work("bad", fail, (), {})]
    with pytest.raises(JaxsepError, match="track 'bad': torn; --partial"):
        list(scorefiles.score_all(work, tmp_path, jobs=2))
    assert [path.name for path in tmp_path.iterdir()] == ["done.json"]
    results = list(scorefiles.score_all(work, tmp_path, jobs=2, partial=True))
    assert {result.name: result.error for result in results} == {"bad": "torn", "done": None}


def test_folders_that_are_none(song, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    refs, ests = song / "refs", song / "ests"
    for arguments, message in (
        ((tmp_path / "nowhere", ests, tmp_path / "out"), "nowhere: not a folder"),
        ((refs, tmp_path / "empty", tmp_path / "out"), "empty: no stems in it"),
        ((refs / "A song", ests, tmp_path / "out"), r"bass\.wav: not in the folder of a track"),
        ((refs, ests, tmp_path / "file"), "file: a file, expected a folder"),
        ((refs, ests, tmp_path / "file" / "out"), "file: a file, expected a folder"),
    ):
        with pytest.raises(JaxsepError, match=message):
            folders.score_folders(*arguments)
    two = {"A": {"vocals": [tmp_path / "1/A/vocals.wav"], "bass": [tmp_path / "2/A/bass.wav"]}}
    _, problems = pairing.pair_tracks(two, two, ("vocals", "bass"))
    assert "references in several folders of that name" in problems["A"][0]


def test_a_file_that_breaks_off_while_it_is_scored(song, monkeypatch):
    """Nothing half-written: the track has no score file."""
    monkeypatch.setattr(pairing, "damages", lambda pair: [])
    torn_flac(song / "ests" / "A song" / "bass.wav")
    with pytest.raises(JaxsepError, match=r"track 'A song': .*bass\.flac: truncated or damaged"):
        score(song)
    assert not (song / "out").exists() or not list((song / "out").iterdir())


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_scores_and_compares(song, capsys):
    line = ["score", str(song / "refs"), str(song / "ests"), "--out", str(song / "a"), "--backend", "sdr"]
    assert cli.main(line) == 0
    out, err = capsys.readouterr()
    assert out.startswith("| SDR (median), dB") and out.rstrip().endswith(f"Written to {song / 'a'}")
    assert "[1/1] A song: SDR vocals" in err
    for name, wave in waves().items():
        write(song / "better" / "A song" / f"{name}.wav", 1.05 * wave)
    assert (
        cli.main(["score", str(song / "refs"), str(song / "better"), "--out", str(song / "b"), "--backend", "sdr"]) == 0
    )
    capsys.readouterr()
    assert cli.main(["compare", str(song / "a"), str(song / "b")]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| SDR (MDX) vocals"))
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[2] == "1" and float(cells[3]) == pytest.approx(6, abs=0.3) and cells[5] == "1"
    assert cli.main(["score", str(song / "refs"), str(song / "nowhere"), "--out", str(song / "a")]) == 2
    assert capsys.readouterr().err.startswith("jaxsep: error: ")


def score_file(path, values, source="vocals"):
    path.parent.mkdir(exist_ok=True)
    found = [{"time": n, "duration": 1, "metrics": {"SDR": value}} for n, value in enumerate(values)]
    path.write_text(json.dumps({"targets": [{"name": source, "frames": found}]}))


def test_comparison_by_hand(tmp_path):
    """museval's own files, too: six songs, all better by 1 to 6 dB; a seventh has no counterpart."""
    for n in range(1, 7):
        score_file(tmp_path / "a" / f"{n}.json", [1.0, 2.0, 30.0])
        score_file(tmp_path / "b" / f"{n}.json", [1.0 + n, 2.0 + n, 30.0])
    score_file(tmp_path / "b" / "7.json", [1.0])
    text = significance.compare(tmp_path / "a", tmp_path / "b")
    (row,) = [line for line in text.splitlines() if line.startswith("| SDR vocals")]
    cells = [cell.strip() for cell in row.split("|")[2:-1]]
    assert cells[:4] == ["2.00", "5.50", "6", "+3.50"] and cells[5] == "0.031"  # 2 / 2^6
    low, high = map(float, cells[4].split(" to "))
    assert 1 <= low < 3.5 < high <= 6
    assert "only in" in text and text.rstrip().endswith("left out: 7")
    score_file(tmp_path / "c" / "1.json", [1.0], source="bass")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.json").write_text("[]")
    for other, message in (("c", "do not compare"), ("d", "not a score file"), ("e", "no score files")):
        with pytest.raises(JaxsepError, match=message):
            significance.compare(tmp_path / "a", tmp_path / other)


# --- Memory -----------------------------------------------------------------------------------------------------------


def long_song(folder, seconds, rate):
    """Four stems of 16-bit stereo noise, written piece by piece."""
    random = np.random.default_rng(0)
    for name in STEMS:
        for side in ("refs", "ests"):
            (folder / side / "long").mkdir(parents=True, exist_ok=True)
        with (
            soundfile.SoundFile(folder / "refs/long" / f"{name}.wav", "w", rate, 2, "PCM_16") as true,
            soundfile.SoundFile(folder / "ests/long" / f"{name}.wav", "w", rate, 2, "PCM_16") as made,
        ):
            for _ in range(seconds // 10):
                wave = 0.1 * random.standard_normal((10 * rate, 2))
                true.write(wave)
                made.write(wave + 0.02 * random.standard_normal(wave.shape))


def peak_bytes(folder, backend):
    """Resident memory of the command at its highest."""
    code = "import sys; from jaxsep import cli; status = cli.main(); import resource; "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
    command = [sys.executable, "-c", code, "score", "refs", "ests", "--out", "out", "--backend", backend]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return 1024 * int(done.stderr.split()[-1])


def test_memory_does_not_grow_with_the_song(tmp_path):
    long_song(tmp_path / "short", 10, 44100)
    long_song(tmp_path / "long", 70, 44100)
    short, long = (peak_bytes(tmp_path / name, "sdr") for name in ("short", "long"))
    assert long < short + 20e6  # the samples alone: 85 MB more in 16 bits, 339 MB in float64


@pytest.mark.full
def test_memory_of_ten_minutes(tmp_path):
    long_song(tmp_path, 600, 44100)
    assert peak_bytes(tmp_path, "bsseval") <= 2e9
