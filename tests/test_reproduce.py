"""`jaxsep reproduce`: from a checkpoint in its authors' layout to a comparison, killed halfway, and refused."""

import functools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jaxsep import cli, tables
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model
from jaxsep.scoring import reproduce
from jaxsep.tables import STEMS, comparison
from jaxsep.weights import catalogue, fetch, importing

RATE = 8000  # of the narrow Open-Unmix in golden/
NAMES = sorted(tables.songs())[:3]
reproduced = functools.partial(reproduce.reproduce, backend="sdr")
FROM = {"vocals": "vocals", "drums": "drums", "bass": "vocals", "other": "drums"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three songs in MUSDB18-HQ's folders, a few seconds of tones and noise each, with their mixtures."""
    root = tmp_path_factory.mktemp("data") / "musdb18hq"
    random = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        folder = root / "test" / name
        folder.mkdir(parents=True)
        time = np.arange(RATE * (2 + number % 2)) / RATE
        tones = [np.sin(2 * np.pi * 110 * (i + 1 + number / 4) * time) for i in range(4)]
        noise = random.standard_normal((4, len(time), 2))
        stems = [0.1 * tone[:, None] + 0.02 * rest for tone, rest in zip(tones, noise, strict=True)]
        for stem, wave in zip((*STEMS, "mixture"), [*stems, sum(stems)], strict=True):
            soundfile.write(folder / f"{stem}.wav", wave, RATE)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Four files as Open-Unmix' authors write them (PyTorch's own, narrow), with their JSON."""
    golden, folder = Path(__file__).parent / "golden" / "openunmix", tmp_path_factory.mktemp("weights")
    shutil.copy(golden / "separator.json", folder)
    for target, origin in FROM.items():
        shutil.copy(golden / f"{origin}.pth", folder / f"{target}.pth")
        shutil.copy(golden / f"{origin}.json", folder / f"{target}.json")
    return [folder / f"{target}.pth" for target in STEMS]


@pytest.fixture(autouse=True)
def one_revision(monkeypatch):
    """Scores are of one version of the code, also where somebody commits while the tests run."""
    monkeypatch.setattr("jaxsep.workdir.git_revision", lambda: "abc")


@pytest.fixture(scope="module")
def done(data, weights, tmp_path_factory):
    """The folder and the words of a reproduction that nothing disturbed."""
    out, said = tmp_path_factory.mktemp("out") / "done", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxsep.workdir.git_revision", lambda: "abc")
        text = reproduced("open_unmix", data, out, files=weights, argv=["jaxsep"], say=said.append)
    return out, text, said


def cells(text):
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_says_beforehand_what_it_takes(done):
    _, _, said = done
    assert said[0].startswith("data: 3 test songs in ") and said[0].endswith("musdb18hq, 7 s; MUSDB18 has 50")
    assert said[1].startswith("weights: ") and "GB free" in said[1]
    assert "not known as published" in said[2]
    assert re.match(r"3 of 3 songs to do: about \S+ (s|min) to separate and at most \S+ (s|min) to score", said[3])
    assert [line[:5] for line in said[4:]] == ["[1/3]", "[2/3]", "[3/3]"]


def test_differences_are_ours_minus_theirs(done):
    """Medians of medians, taken from the score files by hand; vocals among all stems, as UMX scored them."""
    out, text, _ = done
    records = [json.loads((out / "scores" / f"{name}.json").read_text()) for name in NAMES]

    def median(source):
        targets = [next(t for t in record["targets"] if t["name"] == source) for record in records]
        return np.median([np.median([f["metrics"]["SDR"] for f in target["frames"]]) for target in targets])

    ours = [median(stem) for stem in STEMS]
    ours.append(np.mean(ours))
    lines = cells(text)
    assert lines[0] == ["SDR, dB", *STEMS, "average"] and lines[3][0] == "Open-Unmix, UMX"
    np.testing.assert_allclose([float(cell) for cell in lines[2][1:]], ours, atol=0.0051)
    differences = [float(cell) for cell in lines[4][1:]]
    np.testing.assert_allclose(differences, np.array(ours) - [6.32, 5.73, 5.23, 4.02, 5.33], atol=0.0051)
    assert lines[4][0] == "difference, NOT COMPARABLE"
    assert text.startswith("NOT COMPARABLE with the published scores: 3 of MUSDB18's 50 test songs were scored.")
    assert (out / "reproduction.md").read_text() == text + "\n"
    summary = json.loads((out / "scores" / "summary.json").read_text())
    assert "3 of MUSDB18's 50 test songs" in comparison.beside(summary)
    assert summary["mixture"] == "original" and ["vocals", "accompaniment"] in summary["scored_together"]


def test_goes_on_where_it_was_killed(done, data, weights, tmp_path, monkeypatch):
    """The import and the songs that have scores are not done again, and nothing differs in the end."""

    def killed(line):
        if line.startswith("[2/3]"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduced("open_unmix", data, tmp_path, files=weights, argv=["jaxsep"], say=killed)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [f"{name}.json" for name in NAMES[:2]]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    lengths, separate = [], Model.separate
    monkeypatch.setattr(
        Model, "separate", lambda self, mix, rate: lengths.append(len(mix)) or separate(self, mix, rate)
    )
    monkeypatch.setattr(importing, "import_weights", None)
    said = []
    text = reproduced("open_unmix", data, tmp_path, files=weights, argv=["jaxsep"], say=said.append)
    assert "imported before" in said[1] and said[3].startswith("1 of 3 songs to do: ")
    assert ["(scored before)" in line for line in said[4:]] == [True, True, False]
    assert lengths == [2 * RATE] * 3  # the third song: twice to see how long it takes
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert text == done[1]
    reproduced("open_unmix", data, tmp_path, files=weights, argv=["jaxsep"], say=said.append)
    assert len(lengths) == 3 and any(line.startswith("all 3 songs have score files") for line in said)


def test_other_weights_in_the_same_folder_are_refused(done, data, weights):
    out, _, _ = done
    with pytest.raises(JaxsepError, match="run: holds weights of other files; choose another --out"):
        reproduced("open_unmix", data, out, files=weights[::-1])
    with pytest.raises(JaxsepError, match="run: holds other weights than umxhq; choose another --out"):
        reproduced("umxhq", data, out)


def test_published_files_are_known_by_their_sums(done, data, weights, tmp_path, monkeypatch):
    """They are held against their own row alone; files that go by their name are refused."""
    with pytest.raises(
        JaxsepError, match=r"vocals\.pth: by its SHA-256 not a file of umxhq, which are vocals-b62c91ce"
    ):
        reproduced("umxhq", data, tmp_path, files=weights)
    assert not list(tmp_path.iterdir())
    entry = catalogue.find("umxhq")
    files = tuple(catalogue.File(path.name, importing.sha256(path)) for path in weights)
    known = catalogue.Published(entry.name, entry.kind, entry.sources, entry.origin, "", files)
    others = [other for other in catalogue.PUBLISHED if other != entry]
    monkeypatch.setattr(catalogue, "PUBLISHED", (*others, known))
    for name in ("umxhq", "open_unmix"):
        said = []
        text = reproduced(name, data, tmp_path, files=weights, say=said.append)
        assert [line[0] for line in cells(text)[3::5]] == [
            "Open-Unmix, UMX-HQ (trained on MUSDB18-HQ; what was scored together is not stated)"
        ]
        assert not any("not known" in line for line in said)
    assert cells(text)[2][1:] == cells(done[1])[2][1:]


def test_a_run_folder_instead_of_weights(done, data, tmp_path):
    out, text, _ = done
    again = reproduced("open_unmix", data, tmp_path, run=out / "run")
    assert again == text and not (tmp_path / "run").exists()
    with pytest.raises(JaxsepError, match="is a run of open_unmix, not of spleeter"):
        reproduced("spleeter", data, tmp_path, run=out / "run")


def test_songs_without_mixtures_and_of_other_names(done, data, tmp_path):
    """They are scored, and the comparison says why it is none."""
    song = tmp_path / "music" / "test" / "a song"
    shutil.copytree(data / "test" / NAMES[0], song)
    (song / "mixture.wav").unlink()
    text = reproduced("open_unmix", tmp_path / "music", tmp_path / "out", run=done[0] / "run")
    assert text.startswith("NOT COMPARABLE with the published scores: the songs of music are not MUSDB18's.")
    summary = json.loads((tmp_path / "out" / "scores" / "summary.json").read_text())
    assert summary["mixture"] == "sum"


def test_a_song_that_fails(done, data, tmp_path):
    """An error that names it; with --partial the others are scored, and nothing compares."""
    root, run = tmp_path / "musdb18hq", done[0] / "run"
    shutil.copytree(data, root)
    shutil.rmtree(root / "test" / NAMES[2])
    damaged = np.full((2 * RATE, 2), np.nan, np.float32)
    soundfile.write(root / "test" / NAMES[0] / "bass.wav", damaged, RATE, subtype="FLOAT")
    with pytest.raises(JaxsepError, match=rf"^track {NAMES[0]!r}: .*bass\.wav: NaN.*; --partial scores the others$"):
        reproduced("open_unmix", root, tmp_path / "out", run=run)
    (root / "test" / "no stems").mkdir()
    with pytest.raises(JaxsepError, match="no file for the stem 'vocals'"):
        reproduced("open_unmix", root, tmp_path / "out", run=run)
    said = []
    text = reproduced("open_unmix", root, tmp_path / "out", run=run, partial=True, say=said.append)
    assert said[0].startswith("left out: no stems: ") and "how long cannot be said" in said[4]
    summary = json.loads((tmp_path / "out" / "scores" / "summary.json").read_text())
    assert summary["tracks"] == [NAMES[1]] and summary["tracks_in_split"] == 3
    assert sorted(summary["failed"]) == [NAMES[0], "no stems"]
    assert text.startswith("NOT COMPARABLE") and "1 of MUSDB18's 50 test songs were scored" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sleeter", "--data", "{data}"], "SYSTEM='sleeter' is unknown, expected one of blstm, "),
        (["umx", "--data", "{data}/nowhere"], "no such folder; --data takes MUSDB18 (test/<song>.stem.mp4)"),
        (["umx", "--data", "{data}/test"], "no such folder"),
        (
            ["umx", "--data", "{data}", "--weights", "no.pth"],
            "no.pth: no such file; `jaxsep weights list` names vocals-",
        ),
        (["mmdenselstm", "--data", "{data}"], "no weights are published for download; give --run RUN"),
        (["cunet", "--data", "{data}"], "give --weights FILE... (the Keras .h5 file) or --run RUN"),
        (["blstm", "--data", "{data}", "--run", "{data}"], "not a run folder"),
    ],
)
def test_refusals_are_one_line(data, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", *(argument.format(data=data) for argument in arguments)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("jaxsep: error: ") and message in error
    assert not (tmp_path / "runs").exists()


def test_no_network(data, tmp_path, monkeypatch):
    """The error names the files to get by hand."""

    def unreachable(name, out, argv):
        raise JaxsepError(f"{name}: cannot be reached")

    monkeypatch.setattr(fetch, "fetch_weights", unreachable)
    said = []
    with pytest.raises(
        JaxsepError, match=r"lasaft-large-2020: cannot be reached; .* --weights lasaft_large_2020\.ckpt$"
    ):
        reproduced("lasaft", data, tmp_path, say=said.append)
    assert said[-1].startswith("weights: lasaft-large-2020, to be downloaded: lasaft_large_2020.ckpt; ")


def test_sources_that_musdb18_lacks(data, weights, tmp_path):
    piano = tmp_path / "weights"
    shutil.copytree(weights[0].parent, piano)
    shutil.copy(piano / "other.pth", piano / "piano.pth")
    with pytest.raises(JaxsepError, match="MUSDB18 has no piano; nothing to compare"):
        reproduced("open_unmix", data, tmp_path, files=[piano / "vocals.pth", piano / "piano.pth"])


def test_door(monkeypatch, tmp_path, capsys):
    asked = {}
    monkeypatch.setattr(reproduce, "reproduce", lambda *words, **more: asked.update(more, words=words) or "table")
    arguments = ["--weights", "a", "b", "--jobs", "3", "--partial", "--backend", "sdr"]
    assert cli.main(["reproduce", "umx", "--data", "musdb", *arguments]) == 0
    assert asked["words"] == ("umx", Path("musdb"), Path("runs/reproduce/umx"))
    assert asked["backend"] == "sdr" and asked["argv"][:3] == ["jaxsep", "reproduce", "umx"]
    assert (asked["files"], asked["run"], asked["jobs"], asked["partial"]) == ([Path("a"), Path("b")], None, 3, True)
    assert capsys.readouterr().out == "table\n\nWritten to runs/reproduce/umx\n"
    for wrong in (["--jobs", "0"], ["--run", "r", "--weights", "a"]):
        with pytest.raises(SystemExit):
            cli.main(["reproduce", "umx", "--data", "musdb", *wrong])
