"""The results table of README.md is what its command makes of the score files."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from jaxsep.errors import JaxsepError
from jaxsep.models import MODELS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
STEMS = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("results_script", ROOT / "scripts" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def summary(system="spleeter:demo", rate=44100, level=1.0, baseline=0.0, **changes):
    """A score file; every number in it is another."""
    column = lambda base: {
        "sdr_median_of_medians": {**{s: base + i / 8 for i, s in enumerate(STEMS)}, "average": base + 3 / 16}
    }
    names = ("untouched mixture", "scaled mixture", "fixed equaliser", "IRM1 (oracle)")
    return {
        **{"system": system, "checkpoint": {"step": 1200}, "config": "", "git": "", "versions": {}, "rate": rate},
        **{"data": {"source": "builtin"}, "tracks": ["a", "b"], "mixture": "sum", "scored_together": [list(STEMS)]},
        **{"backend": "sdr", "tracks_in_split": 2, "failed": {}, "missing": {}, "silent": {}, "frames": {}},
        "scores": column(level),
        "baselines": {name: column(baseline - 5 + 2 * i) for i, name in enumerate(names)},
        "command": "python eval.py --workdir=/home/me/run",
        **changes,
    }


def scored(folder, **changes):
    """A run folder with scores."""
    path = folder / "scores" / "test" / "summary.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(summary(**changes)))
    return folder


def cells(table):
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if line]


def test_readme_is_not_stale(script):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert script.rewrite(text, script.table(RESULTS)) == text, "run `python scripts/results.py`"


def test_every_system_has_its_row(script):
    table = script.table(RESULTS)
    assert all(f"| {system}:" in table for system in MODELS)


def test_numbers_are_those_of_the_score_files(script):
    """Found again without the script: every system's five figures, in the order of the heads."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in RESULTS.glob("*.json"):
        found = json.loads(path.read_text())
        scores = found["scores"]["sdr_median_of_medians"]
        row = re.search(rf"^\| {re.escape(found['system'])}, step [\d,]+ +\|(.*)\|$", text, re.M)
        assert row is not None, path.name
        expected = [round(scores[name], 2) for name in (*STEMS, "average")]
        assert [float(cell) for cell in row[1].split("|")] == pytest.approx(expected, abs=0.0051)
        assert scores["average"] == pytest.approx(sum(scores[stem] for stem in STEMS) / 4)


def test_table(script, tmp_path):
    """Best first, groups of equal songs and rates apart, each with its own floors and ceiling."""
    runs = {"low": {"level": 1.0}, "high": {"level": 3.0}, "apart": {"level": 9.0, "rate": 8192, "baseline": 0.5}}
    for name, changes in runs.items():
        script.add(scored(tmp_path / "runs" / name, system=f"{name}:demo", **changes), tmp_path)
    first, second = script.table(tmp_path).split("\n\n")
    heads = ["vocals", "drums", "bass", "other", "average"]
    rows = cells(first)
    assert rows[0] == ["SDR (median), dB, at 44,100 Hz", *heads]
    assert rows[2] == ["high:demo, step 1,200", "3.00", "3.12", "3.25", "3.38", "3.19"]
    assert rows[3][:2] == ["low:demo, step 1,200", "1.00"]
    assert [row[:2] for row in rows[4:]] == [
        ["*scaled mixture*", "-3.00"],
        ["*fixed equaliser*", "-1.00"],
        ["*IRM1 (oracle)*", "1.00"],
    ]
    rows = cells(second)
    assert rows[0][0].endswith("8,192 Hz") and rows[2][:2] == ["apart:demo, step 1,200", "9.00"]
    assert rows[3][1] == "-2.50"


def test_what_is_taken_in_names_no_folder_of_the_machine(script, tmp_path):
    script.add(scored(tmp_path / "run"), tmp_path)
    text = (tmp_path / "spleeter-demo.json").read_text()
    assert "/home" not in text and json.loads(text)["scores"] == summary()["scores"]


def test_a_changed_score_makes_it_stale(script, tmp_path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in RESULTS.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    assert script.rewrite(text, script.table(tmp_path)) == text
    path = tmp_path / "spleeter-demo.json"
    changed = json.loads(path.read_text())
    changed["scores"]["sdr_median_of_medians"]["bass"] += 0.01
    path.write_text(json.dumps(changed))
    assert script.rewrite(text, script.table(tmp_path)) != text


def test_baselines_that_differ_are_refused(script, tmp_path):
    script.add(scored(tmp_path / "a", system="a:demo"), tmp_path)
    script.add(scored(tmp_path / "b", system="b:demo", baseline=0.01), tmp_path)
    with pytest.raises(JaxsepError, match="scaled mixture differs between runs"):
        script.table(tmp_path)


@pytest.mark.parametrize("text", ["", "{b}", "{e}{b}", "{b}{e}{e}", "{b}{b}{e}", "{e}{b}{e}"])
def test_missing_markers(script, text):
    with pytest.raises(JaxsepError, match="once and in this order"):
        script.rewrite(text.format(b=script.BEGIN, e=script.END), "table")
    assert script.rewrite(f"a\n{script.BEGIN}old{script.END}\nb", "new").startswith(f"a\n{script.BEGIN}\n\nnew\n")


def test_refusals(script, tmp_path, capsys, monkeypatch):
    assert script.main(["--add", str(tmp_path)]) == 2
    assert "no such file; score the run with `python eval.py" in capsys.readouterr().err
    run = scored(tmp_path / "old")
    path = run / "scores" / "test" / "summary.json"
    path.write_text(json.dumps({key: value for key, value in summary().items() if key != "rate"}))
    with pytest.raises(JaxsepError, match="has no rate; score the run again"):
        script.add(run, tmp_path)
    with pytest.raises(JaxsepError, match="no score files"):
        script.table(tmp_path / "scores")


def test_command(script, tmp_path, monkeypatch):
    """`--add` takes scores in and rewrites the table, and nothing else, of README.md."""
    monkeypatch.setattr(script, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text(f"# Words\n\n{script.BEGIN}\n{script.END}\n\nMore words.\n")
    assert script.main(["--add", str(scored(tmp_path / "run", level=4.0))]) == 0
    text = (tmp_path / "README.md").read_text()
    assert (
        text.startswith("# Words\n") and text.endswith("\n\nMore words.\n") and "| spleeter:demo, step 1,200 " in text
    )
    assert script.main([]) == 0 and (tmp_path / "README.md").read_text() == text
