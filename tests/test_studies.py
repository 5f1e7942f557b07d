"""Studies: what they consist of, that they are run to the end, and what their tables say."""

import csv
import dataclasses
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxsep import config as configs
from jaxsep import losses, separator
from jaxsep.cli import main
from jaxsep.errors import JaxsepError
from jaxsep.studies import definition, measures, plots, results, running, table
from jaxsep.studies.definition import Cell, Study, changed

ROOT = Path(__file__).parent.parent
REPORT = configs.load_module("configs/studies/report.py")
CLI = [sys.executable, "-c", "import sys; from jaxsep.cli import main; sys.exit(main())"]


def tiny(**changes):
    """A Spleeter of a few weights on two built-in songs."""
    config = configs.load_config("configs/spleeter.py:demo")
    songs = {"train": 1, "valid": 1, "test": 2, "seconds": 3.0, "seed": 0}
    config = changed(
        config, sources="vocals,drums", sample_rate=8000, channels=1, data__resample=True, data__songs=songs
    )
    config = changed(config, front={"name": "stft", "frame": 64, "hop": 16, "bins": 32}, model__channels=(2, 4))
    config = changed(config, block=8, data__segment=64, data__batch_size=1, inference__segment=1.0)
    config = changed(config, steps=2, log_every=1, save_every=1, eval_every=1, optim__schedule__warmup=0)
    return changed(config, **changes)


def study(**more):
    return Study("Losses", "loss", [Cell({"loss": "l1"}, tiny()), Cell({"loss": "l2"}, tiny(loss__name="l2"))], **more)


def test_a_study_is_every_cell_under_every_seed():
    made = study(seeds=(3, 5)).configs()
    assert {name: (config.seed, config.loss.name) for name, config in made.items()} == {
        "l1-seed3": (3, "l1"),
        "l2-seed3": (3, "l2"),
        "l1-seed5": (5, "l1"),
        "l2-seed5": (5, "l2"),
    }
    assert tiny().seed == 0  # and the cells are as they were


def test_the_fingerprint_is_of_what_results_depend_on():
    moved = Study(
        "Losses", "loss", [dataclasses.replace(c, config=changed(c.config, data__root="/x")) for c in study().cells]
    )
    assert moved.fingerprint == study().fingerprint
    longer = Study("Losses", "loss", [dataclasses.replace(c, config=changed(c.config, steps=3)) for c in study().cells])
    ideal = Study("Losses", "loss", [dataclasses.replace(cell, phase="ideal") for cell in study().cells])
    assert len({made.fingerprint for made in (study(), longer, ideal, study(seeds=(1,)))}) == 4


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ([], "no cells"),
        ([Cell({"loss": "a"}, None), Cell({"loss": "a"}, None)], "two cells 'a'"),
        (
            [Cell({"loss": "a"}, None), Cell({"mask": "b"}, None)],
            "'b' has the factors mask; expected those of the first",
        ),
        ([Cell({"mask": "a"}, None)], "with 'loss' among them"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(cells, said):
    with pytest.raises(JaxsepError, match=said):
        Study("t", "loss", cells)


@pytest.mark.parametrize("variant", ["demos", "small", "smoke"])
def test_the_studies_of_the_suite_differ_in_what_they_name(variant):
    made = definition.load_study(f"configs/studies/frontends.py:{variant}")
    for name in dict.fromkeys(cell.factors["system"] for cell in made.cells):
        same = [cell.config.to_dict() for cell in made.cells if cell.factors["system"] == name]
        fronts = [config.pop("front") for config in same]
        assert all(config == same[0] for config in same)
        assert len({json.dumps(front, sort_keys=True) for front in fronts}) == len(fronts)


@pytest.mark.parametrize("variant", [*REPORT.QUESTIONS])
def test_the_report_asks_one_question_at_a_time_and_every_cell_can_be_built(variant):
    made = definition.load_study(f"configs/studies/report.py:{variant}")
    values = [[cell.config.to_dict(), cell.phase] for cell in made.cells]
    assert len({json.dumps(value, sort_keys=True) for value in values}) == len(values) >= 2
    for cell in made.cells:
        separator.build(cell.config)
        losses.from_config(cell.config)


def test_the_study_of_precisions_differs_in_nothing_else():
    made = definition.load_study("configs/studies/precision.py")
    for name in ("spleeter", "open_unmix", "conv_tasnet", "demucs"):
        same = [cell.config.to_dict() for cell in made.cells if cell.factors["system"] == name]
        assert [config.pop("precision") for config in same] == ["float32", "bfloat16", "float16"]
        assert same[0] == same[1] == same[2] and same[0]["model"]["name"] == name
    for cell in made.cells:
        separator.build(cell.config)
        losses.from_config(cell.config)


def test_a_file_that_defines_no_study_is_refused():
    with pytest.raises(JaxsepError, match=r"spleeter\.py: no study"):
        definition.load_study("configs/spleeter.py")


def test_holm_is_holm():
    """Worked out by hand: 0.01 x 4; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.9; NaN counts for none."""
    np.testing.assert_allclose(table.holm([0.03, 0.9, 0.01, float("nan"), 0.02]), [0.06, 0.9, 0.04, np.nan, 0.06])
    assert table.holm([0.6, 0.7]) == [1.0, 1.0]


def test_the_interval_is_students():
    """t(0.975, 2) = 4.3027 of the printed tables; the deviation of 1, 2, 3 is 1."""
    mean, half = table.interval([1.0, 2.0, 3.0])
    assert (mean, round(half, 4)) == (2.0, round(4.30265 / math.sqrt(3), 4))
    assert math.isnan(table.interval([1.0])[1])


@pytest.fixture
def scored(tmp_path):
    """The folder of a study whose second run of "l2" has stopped halfway; scores are level + song + seed / 10."""
    folder, made = tmp_path / "study", study(seeds=(0, 1))
    running._claim(made, folder)
    songs = [f"song {n}" for n in range(6)]
    for name, config in made.configs().items():
        run, level, seed = folder / name, float(name.startswith("l2")), config.seed / 10
        (run / results.SCORES).mkdir(parents=True)
        (run / "config.json").write_text(configs.to_json(config))
        stopped = name == "l2-seed1"
        lines = [
            {"step": step, "kind": kind, "sdr": step + level, "time": {"examples_per_second": 1 + seed}}
            for step in ((1,) if stopped else (1, 2))
            for kind in ("train", "valid")
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if stopped:
            continue
        for n, song in enumerate(songs):
            value = {"vocals": level + n + seed, "drums": level + n + seed + 1}
            targets = [
                {"name": source, "frames": [{"time": 0.0, "duration": 1.0, "metrics": {"SDR": sdr}}]}
                for source, sdr in value.items()
            ]
            (run / results.SCORES / f"{song}.json").write_text(json.dumps({"targets": targets}))
        median = {"vocals": level + 2.5 + seed, "drums": level + 3.5 + seed, "average": level + 3 + seed}
        summary = {"scores": {"sdr_median_of_medians": median}}
        summary["baselines"] = {
            "scaled mixture": {"sdr_median_of_medians": {"vocals": 0.0, "drums": 1.0, "average": 0.5}}
        }
        (run / results.SCORES / "summary.json").write_text(json.dumps(summary))
        speed = {"times_real_time": 10.0 + seed * 10, "parameters": 1234, "device": "cpu"}
        (run / results.SPEED).write_text(json.dumps(speed))
    return folder


def test_the_table_says_what_came_out_and_what_is_missing(scored):
    header, rows = table.rows(results.read(scored))
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    half = 12.7062 * 0.1 / math.sqrt(2) / math.sqrt(2)  # t(0.975, 1) of the printed tables
    assert first == {
        "loss": "l1",
        "seeds": "2 of 2",
        "SDR vocals": "2.55",
        "SDR drums": "3.55",
        "SDR": "3.05",
        "95 % interval": f"{3.05 - half:.2f} to {3.05 + half:.2f}",
        "difference": "-",
        "p (Holm)": "-",
        "valid": "2.00",
        "last fifth": "+1.00",
        "parameters": "1,234",
        "steps": "2",
        "ms / step": f"{1000 * (1 + 1 / 1.1) / 2:.0f}",
        "x real time": "10.5",
    }
    # l2 has seed 0 alone: its songs stand at +1 over the mean of two seeds, which is 0.05 above seed 0; all six do.
    assert (second["seeds"], second["SDR"], second["difference"]) == ("1 of 2", "4.00", "+0.95")
    assert second["p (Holm)"] == "0.031" and second["95 % interval"] == "-"  # 2 / 2^6
    text = table.render(results.read(scored))
    assert "missing: l2-seed1, at step 1 of 2" in text and text.count("missing:") == 1
    assert "the mixture times the best gain for each source: 0.50 dB" in text


def test_table_and_csv_are_written_alike(scored, capsys):
    assert main(["study", "table", str(scored)]) == 0
    printed = capsys.readouterr().out
    assert printed == (scored / "table.md").read_text()
    header, rows = table.rows(results.read(scored))
    assert [*csv.reader(io.StringIO((scored / "table.csv").read_text()))] == [header, *rows]


@pytest.fixture
def shown(monkeypatch):
    """The figures by name, as they are saved."""
    figures = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.update({path.name: figure}))
    monkeypatch.setattr(plots.plt, "close", lambda figure: None)
    yield figures
    monkeypatch.undo()
    for figure in figures.values():
        plots.plt.close(figure)


def test_pictures_show_every_cell(scored, shown):
    assert main(["study", "plot", str(scored)]) == 0
    assert [*shown] == ["curves.png", "boxes.png"]  # front ends are alike
    (axis,) = shown["curves.png"].axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in axis.lines}
    assert curves == {"l1": [[1, 1], [2, 2]], "l2": [[1, 2]]}  # up to where all seeds are
    vocals, drums = shown["boxes.png"].axes
    assert [label.get_text() for label in vocals.get_yticklabels()] == ["l2", "l1"]
    middles = [
        line.get_xdata()[0] for line in drums.lines if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ]
    assert {3.55 + 0.0, 4.5} <= {round(float(x), 2) for x in middles}


def test_pictures_show_what_front_ends_have_become(scored, shown):
    for name, response in {
        "l1-seed0": [[1, 0.1], [0.5, 5]],
        "l1-seed1": [[9, 9]],
        "l2-seed0": [[0, 2], [4, 0.4]],
    }.items():
        values = {"response": np.array(response), "frequencies": np.array([0.0, 4000.0])}
        np.savez(scored / name / results.FRONT, **values, concentration=np.array([0.001, 0.003]) * len(name[:2]))
    lines = [
        {"step": s, "kind": "valid", "sdr": float(s), "front/window": [0.0, float(s), 0.0], "time": {}} for s in (1, 2)
    ]
    path = scored / "l2-seed0" / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["study", "plot", str(scored)]) == 0
    assert [*shown] == ["curves.png", "boxes.png", "responses.png", "sparsity.png", "windows.png"]
    first, second, _ = shown["responses.png"].axes  # the last is the scale
    np.testing.assert_allclose(first.images[0].get_array(), [[0, -20], [-20, 0]])  # of seed 0, as they were
    np.testing.assert_allclose(second.images[0].get_array(), [[0, -20], [-60, 0]])  # sorted; no deeper than the floor
    bars = [bar.get_width() for bar in shown["sparsity.png"].axes[0].patches]
    assert bars == pytest.approx([4, 4])
    (axis,) = shown["windows.png"].axes
    assert [line.get_ydata().tolist() for line in axis.lines] == [[0, 1, 0], [0, 2, 0]]


def test_what_a_front_end_does_is_measured(tmp_path):
    """The STFT's response to a sine: half the window's sum in its bin, for Hann half of that in the next ones, nothing
    beyond; one tone in a mixture is as concentrated as a Hann window's bins are, over the frames."""
    config = changed(tiny(), front={"name": "stft", "frame": 64, "hop": 16, "bins": 32, "padding": "reflect"})
    front = separator.build(config).front
    response = measures.response(
        lambda wave: front.apply({}, wave, method="encode"), front.span, np.array([0, 125, 1000, 1250]), config
    )
    assert response.shape == (33, 4)
    np.testing.assert_allclose(response[8:13, 2:], [[16, 0], [8, 8], [0, 16], [0, 8], [0, 0]], atol=1e-4)
    assert response[:, 1].argmax() == 1 and response[:, 0].argmax() == 0


def test_what_is_no_study_is_refused(tmp_path, scored):
    with pytest.raises(JaxsepError, match="not the folder of a study"):
        results.read(tmp_path)
    with pytest.raises(JaxsepError, match="of another study, 'Losses'"):
        running.run(study(seeds=(7,)), scored)
    (scored / "study.json").write_text("{")
    with pytest.raises(JaxsepError, match="damaged"):
        results.read(scored)


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_shard_that_there_is_not_is_refused(shard, capsys):
    with pytest.raises(SystemExit):
        main(["study", "run", "x.py", "--workdir", "y", "--shard", shard])
    assert "expected I/N" in capsys.readouterr().err


def test_shards_share_the_runs_and_none_is_left(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(running, "_run", lambda place, config, phase: done.append(place.name) or "")
    for index in (1, 2, 3):
        assert running.run(study(seeds=(0, 1)), tmp_path / "study", (index, 3), say=lambda line: None) == {}
    assert sorted(done) == ["l1-seed0", "l1-seed1", "l2-seed0", "l2-seed1"]


def test_a_study_is_run_and_what_fails_is_named(tmp_path, capsys):
    """One cell is a real training, scored with ideal phases; the other has an optimiser that there is not."""
    cells = [Cell({"loss": "l1"}, tiny(), "ideal"), Cell({"loss": "none"}, tiny(optim__name="adm"))]
    made = Study("Losses", "loss", cells, seeds=(0,))
    failed = running.run(made, tmp_path / "study", say=lambda line: None)
    assert [*failed] == ["none-seed0"] and "'adm' is unknown" in failed["none-seed0"]
    good, bad = results.read(tmp_path / "study").cells
    assert (good.runs[0].state, bad.runs[0].state) == ("done", "at step 0 of 2")
    assert [step for step, _ in good.runs[0].curve] == [1, 2] and set(good.runs[0].scores) == {
        "vocals",
        "drums",
        "average",
    }
    scored = json.loads((tmp_path / "study" / "l1-seed0" / results.SCORES / "summary.json").read_text())
    assert "ideal phase" in json.dumps(scored)
    assert good.runs[0].speed["times_real_time"] > 1 and good.runs[0].step_seconds > 0
    assert (tmp_path / "study" / "songs").is_dir() and not (tmp_path / "study" / "l1-seed0" / "songs").exists()
    again = []
    running.run(Study("Losses", "loss", cells, seeds=(0,)), tmp_path / "study", (1, 2), say=again.append)
    assert again == ["[1/1] l1-seed0: done before"]


@pytest.mark.full
def test_the_smoke_study_survives_being_killed(tmp_path):
    """Killed twice and started again, it ends with the table of one that was not, but for the columns of time."""

    def start(folder):
        command = [*CLI, "study", "run", "configs/studies/frontends.py:smoke", "--workdir", str(folder)]
        return subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    began = time.monotonic()
    assert start(whole).wait() == 0
    assert time.monotonic() - began < 300
    for seconds in (25, 60):
        process = start(killed)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(killed).wait() == 0
    sheets = (io.StringIO((folder / "table.csv").read_text()) for folder in (whole, killed))
    one, other = ([*csv.DictReader(sheet)] for sheet in sheets)
    for row in (*one, *other):
        assert row["seeds"] == "2 of 2"
        for column in table.OF_TIME:
            assert float(row.pop(column)) > 0
    assert one == other
