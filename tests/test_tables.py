"""Published scores: what the data files hold, what is printed of them, and what a run may be compared with."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsep import cli, tables
from jaxsep.errors import JaxsepError
from jaxsep.metrics import aggregate
from jaxsep.models import MODELS
from jaxsep.tables import STEMS, comparison, printing
from jaxsep.weights import catalogue

ROOT = Path(__file__).parents[1]
MEDIANS = "sdr_median_of_medians"


def row(system, variant):
    (found,) = [row for row in tables.published() if (row.system, row.variant) == (system, variant)]
    return found


# --- Data files ------------------------------------------------------------------------------------------------------


def test_values_of_the_papers():
    """Rows as their papers print them, read by eye."""
    umx = row("Open-Unmix", "UMX")
    assert umx.scores == {"vocals": 6.32, "drums": 5.73, "bass": 5.23, "other": 4.02, "average": 5.33}
    assert (umx.extra_data, umx.evidence, umx.protocol, umx.params_millions) == ("no", "printed", "musdb18-stems", 8.89)
    spleeter = row("Spleeter", "4stems MWF (norbert)").scores
    assert [spleeter[stem] for stem in STEMS] == [6.86, 6.71, 5.51, 4.55]
    tak1 = row("MMDenseLSTM", "TAK1")
    assert tak1.scores["accompaniment"] == 12.834 and tak1.evidence == "recomputed" and tak1.extra_data == "no"
    fine_tuned = row("HT Demucs", "f.t. per source")
    assert fine_tuned.scores["bass"] == 10.39 and fine_tuned.evidence == "second hand"


def test_every_row_is_complete():
    rows = tables.published()
    assert len(rows) == 155 and {row.protocol for row in rows} == set(tables.PROTOCOLS)
    assert {row.evidence for row in rows} == set(tables.EVIDENCE)
    for found in rows:
        assert bool(found.source) == (found.evidence != "not found"), found
        assert bool(found.scores) or found.evidence == "not found" or found.protocol == "speech", found
        assert all(-25 < value < 20 for value in found.scores.values())
    scores = {protocol.score for protocol in tables.PROTOCOLS.values()}
    assert scores - {""} <= set(aggregate.PROTOCOLS)


def test_words_are_plain():
    """No tag of the notes that the tables were made of, no unfinished bracket."""
    for source in [found.source for found in tables.published()] + [found["source"] for found in tables.speech()]:
        assert not re.search(r"\b(RAW|SEC|MEM|REPO|FIG|PWC|NOT FOUND)\b|PAPER-MD|LATEX|stored", source), source
        assert source.count("(") == source.count(")") and not source.endswith((":", ";", " ")), source


def test_every_name_belongs_to_one_system():
    aliases = [alias for names in tables.SYSTEMS.values() for alias in names]
    published = {row.system for row in tables.published()} | {row["system"] for row in tables.speech()}
    assert len(aliases) == len(set(aliases)) and set(aliases) == published
    assert set(MODELS) <= set(tables.SYSTEMS)
    named = {name for row in tables.published() for name in row.weights}
    assert named <= {entry.name for entry in catalogue.PUBLISHED}


def test_weights_have_the_rows_that_their_authors_state():
    """The catalogue's words and the tables agree, number by number."""
    for found in tables.published():
        for name in found.weights:
            stated = catalogue.find(name).score
            if name != "d3net" or found.variant:
                assert all(f"{stem} {found.scores[stem]:.2f}" in stated for stem in STEMS), (name, stated)


def test_reaggregated_tracks_give_the_recomputed_columns():
    """Median and mean over the tracks of the median over the frames, to the three decimals of the table."""
    methods = tables.sisec18_methods()
    assert len(methods) == 31 and len(tables.songs()) == 50 and len(tables.sisec18()) == 6050
    compared = 0
    for method in methods:
        for target in (*STEMS, "accompaniment"):
            of_tracks = [[s.sdr] for s in tables.sisec18() if (s.method, s.target) == (method["method"], target)]
            expected = {"median": method[target], "mean": method.get(f"mean_of_medians_{target}")}
            assert (expected["median"] is None) == (not of_tracks)
            for how, value in expected.items():
                if value is not None:
                    assert len(of_tracks) == 50
                    assert aggregate.over_tracks(of_tracks, "median", how) == pytest.approx(value, abs=5.01e-4)
                    compared += 1
        stems = [method[stem] for stem in STEMS]
        if None not in stems:
            assert np.mean(stems) == pytest.approx(method["avg4"], abs=1.01e-3)
    assert compared > 200


def test_published_rows_of_sisec_are_the_recomputed_ones():
    methods = {method["method"]: method for method in tables.sisec18_methods()}
    for name, (system, variant) in {
        "IRM2": ("Oracle IRM", 'IRM2 alpha=2 (the "IRM oracle" of the Demucs paper)'),
        "TAU1": ("BLEND MMDenseNet+BLSTM", "TAU1 = 0.5 TAK3 + 0.5 UHL3"),
    }.items():
        found = row(system, variant)
        for stem in (*STEMS, "accompaniment"):
            assert found.scores[stem] == methods[name][stem]


def test_ablations_are_means_over_seeds():
    found = {(run.commit, run.settings): run for run in tables.demucs()}
    assert sum(run.runs for run in found.values()) == 81
    v2 = found["d6abb13", "default"]
    assert v2.runs == 3 and v2.medians["vocals"] == pytest.approx((7.064 + 6.638 + 6.803) / 3)
    assert v2.means["average"] != pytest.approx(v2.medians["average"], abs=0.01)
    v1 = found["7cf5c60", "default"]
    published = row("Demucs v1", "default 100ch, 5 seeds").scores
    assert v1.runs == 5 and {stem: round(v1.medians[stem], 2) for stem in published} == published
    assert found["7cf5c60", "baselines/OpenUnmix"].medians["other"] == 4.02


def test_rebuilt_from_the_research_tables():
    folder = os.environ.get("JAXSEP_TABLES")
    if not folder:
        pytest.skip("JAXSEP_TABLES names no folder with the research tables")
    spec = importlib.util.spec_from_file_location("tables_script", ROOT / "scripts" / "tables.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, contents in script.build(Path(folder)).items():
        assert (tables.FOLDER / name).read_bytes() == contents, name


def test_data_files_come_with_the_package(tmp_path):
    """Installed elsewhere, without the repository around it, nor jax."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jaxsep" / "tables", tmp_path / "jaxsep" / "tables", ignore=ignore)
    for path in (ROOT / "jaxsep").glob("*.py"):
        shutil.copy(path, tmp_path / "jaxsep")
    code = (
        "import sys; from jaxsep import cli, tables; assert str(tables.FOLDER).startswith(sys.argv[1]); "
        "assert cli.main(['tables', 'sisec18']) == 0 and cli.main(['tables', 'demucs']) == 0; "
        "assert len(tables.sisec18()) == 6050; assert not {'jax', 'tensorflow'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert sum(path.stat().st_size for path in tables.FOLDER.glob("*.*")) < 150_000


# --- jaxsep tables ---------------------------------------------------------------------------------------------------


def printed(capsys, *arguments):
    assert cli.main(["tables", *arguments]) == 0
    return capsys.readouterr().out


def test_everything_is_printed(capsys):
    out = printed(capsys)
    for found in tables.published():
        assert f"  {', '.join(filter(None, (found.system, found.variant)))} " in out
    assert "WSJ0 simulated" in out and all(words in out for words in tables.EVIDENCE.values())
    assert all(protocol.words in out for protocol in tables.PROTOCOLS.values())


def test_columns_stand_below_their_heads(capsys):
    """Each number of a row begins where its column does; groups are headed by our names."""
    lines = printed(capsys, "d3net").splitlines()
    heads, own_weights = lines[0], next(line for line in lines if "official NNabla weights" in line)
    assert lines[1] == "d3net"
    for stem, value in row("D3Net", "official NNabla weights").scores.items():
        start = heads.index(stem)
        assert own_weights[start:].split()[0] == f"{value:.2f}"
    assert own_weights[heads.index("evidence") :].startswith("printed ")
    assert own_weights[heads.index("protocol") :].startswith("musdb18 ")
    second_hand = next(line for line in lines if "1.5k songs" in line)
    assert second_hand[heads.index("evidence") :].startswith("second hand ")
    assert "average second hand" in second_hand


def test_demucs_shows_published_and_recomputed_rows(capsys):
    out = printed(capsys, "Demucs")
    assert "Demucs v2, ablation: no repitch (repitch=0)" in out and "demucs@7cf5c60" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["7cf5c60", "default", "5", "6.287", "6.084", "5.833", "4.123", "5.582"] in [line[:8] for line in lines]
    assert ["d6abb13", "repitch=0.0", "1", "6.400", "6.322", "6.422", "4.043", "5.797"] in [line[:8] for line in lines]
    assert len([line for line in lines if line and line[0] in ("7cf5c60", "d6abb13")]) == len(tables.demucs())


def test_sisec18(capsys):
    lines = printed(capsys, "sisec18").splitlines()
    assert sum(line.split()[0] in {s.method for s in tables.sisec18()} for line in lines) == 31
    tak1 = next(line for line in lines if line.startswith("TAK1 "))
    assert tak1.split()[1:7] == ["6.60", "6.431", "5.156", "4.152", "12.834", "5.585"]


def test_json(capsys):
    found = json.loads(printed(capsys, "conv-tasnet", "--json", "--protocol", "musdb18-stems"))
    assert len(found["published"]) == 4 and {row["protocol"] for row in found["published"]} == {"musdb18-stems"}
    assert found["published"][0]["scores"]["drums"] == 6.08 and found["runs"] == []
    assert len(json.loads(printed(capsys, "demucs", "--json"))["runs"]) == len(tables.demucs())
    assert json.loads(printed(capsys, "sisec18", "--json"))[0]["vocals"] == 0.561


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spletter"], "SYSTEM='spletter': no published scores; did you mean spleeter?"),
        (["qqq"], "expected one of spleeter, open_unmix"),
        (["demucs", "--protocol", "hp"], "--protocol='hp' is unknown, expected one of"),
        (["sisec18", "--protocol", "hq"], "the methods of SiSEC 2018 have one; leave it out"),
    ],
)
def test_refusals_are_one_line(capsys, arguments, message):
    assert cli.main(["tables", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_names_of_systems():
    for name in ("htdemucs", "HT Demucs", "ht-demucs", "HT_DEMUCS"):
        assert tables.find(name) == "htdemucs"
    assert tables.find("TFC-TDF U-Net v3") == "tfc_tdf"
    with pytest.raises(JaxsepError, match="did you mean"):
        tables.find("d3nett")
    assert printing.render("d3net", "hq").startswith("no rows of the protocol hq")


# --- A run beside the papers -----------------------------------------------------------------------------------------


def summary(system="open_unmix:umx", **changes):
    """What eval.py writes of 50 songs of MUSDB18."""
    scores = {"vocals": 6.0, "drums": 5.5, "bass": 5.0, "other": 4.5, "average": 5.25}
    return {
        **{"system": system, "checkpoint": {"step": 7}, "tracks": sorted(tables.songs()), "tracks_in_split": 50},
        **{"data": {"source": "musdb18", "root": "musdb18", "split": "test"}, "mixture": "original", "rate": 44100},
        **{"scored_together": [list(STEMS)], "channels": 2},
        "scores": {MEDIANS: scores, "sdr_whole_track": scores, "si_sdr": scores},
        **changes,
    }


def cells(text):
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]


HQ = {"source": "folder", "root": "MUSDB18-HQ", "split": "test"}
TWO = {"scored_together": [["drums", "bass", "other"], ["vocals", "accompaniment"]]}


def labels(text):
    return [line[0].split(" (")[0] for line in cells(text) if not set(line[0]) <= set(":-") and "**" not in line[0]]


def test_beside_rows_of_the_same_protocol_only():
    """UMX of the four-source run is there; the leaderboard of other songs is not."""
    text = comparison.beside(summary())
    assert cells(text)[2] == ["**open_unmix:umx, step 7**", "6.00", "5.50", "5.00", "4.50", "5.25"]
    assert ["Open-Unmix, UMX", "6.32", "5.73", "5.23", "4.02", "5.33"] in cells(text)
    assert "UMX baseline" not in text
    assert "UMX-HQ (trained on MUSDB18-HQ; what was scored together is not stated)" in text


def test_what_vocals_were_scored_with_matters():
    """SiSEC scored vocals with their accompaniment: its vocals and averages stand beside such scores only."""
    apart = cells(comparison.beside(summary("mmdenselstm:paper", **TWO)))
    assert ["MMDenseLSTM, TAK1 (recomputed)", "6.60", "6.43", "5.16", "4.15", "5.58"] in apart
    together = cells(comparison.beside(summary("mmdenselstm:paper")))
    assert ["MMDenseLSTM, TAK1 (recomputed)", "-", "6.43", "5.16", "4.15", "-"] in together
    both = summary("open_unmix:umx", **TWO)
    umx = ["Open-Unmix, UMX", "-", "5.73", "5.23", "4.02", "-"]
    assert umx in cells(comparison.beside(both))
    both["scores"][MEDIANS + "_among_stems"] = {**both["scores"][MEDIANS], "vocals": 5.9, "accompaniment": float("nan")}
    first, second = comparison.beside(both).split("\n\n| SDR")
    assert umx in cells(first)
    assert ["Open-Unmix, UMX", "6.32", "5.73", "5.23", "4.02", "5.33"] in cells("| SDR" + second)
    assert ["**open_unmix:umx, step 7**", "5.90", "5.50", "5.00", "4.50", "5.22"] in cells("| SDR" + second)


def test_baselines_stand_beside_those_of_sisec():
    """A baseline has no checkpoint; its row is the one of the same oracle."""
    oracle = summary("baseline irm2", **TWO)
    del oracle["checkpoint"]
    lines = cells(comparison.beside(oracle))
    assert lines[2][0] == "**baseline irm2**" and len(lines) == 4
    assert lines[3][0].startswith("Oracle IRM, IRM2 ") and lines[3][1:] == ["9.43", "8.45", "7.12", "7.85", "8.21"]
    for name in comparison.BASELINES:
        assert len(comparison.rows_of(name)) == 1
    assert comparison.beside(summary("baseline hpss")) == ""


def test_flavours_do_not_mix():
    text = comparison.beside(summary("htdemucs:paper", data=HQ))
    assert text.count("| SDR, dB ") == 2  # the median of frames, and whole tracks
    first, second = text.split("\n\n| SDR")
    assert "Sparse f.t." in first and "third-party re-measurement" not in first
    assert labels("| SDR" + second)[1:] == ["HT Demucs, htdemucs, third-party re-measurement, + 800 songs"]
    text = comparison.beside(summary("htdemucs:paper"))
    assert text.endswith("those of htdemucs are of other protocols, on MUSDB18-HQ; this is MUSDB18.")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data": {"source": "builtin", "root": "the built-in songs", "split": "test"}}, "built-in songs are not"),
        ({"data": {"source": "musdb18", "root": "musdb18", "split": "valid"}}, "this is valid"),
        ({"tracks": ["my song"], "tracks_in_split": 1}, "the songs of musdb18 are not MUSDB18's"),
        ({"tracks": sorted(tables.songs())[:49]}, "49 of MUSDB18's 50 test songs were scored"),
        ({"tracks_in_split": 51}, "50 of MUSDB18's 50"),
        ({"data": {**HQ, "root": "music"}}, "whether music is MUSDB18-HQ or MUSDB18 decoded"),
        ({"rate": 22050}, "scored at 22050 Hz"),
        ({"channels": 1}, "in mono"),
        ({"mixture": "sum"}, "--mixture=original"),
        ({"scored_together": [["vocals", "drums"]]}, "not scored together"),
    ],
)
def test_other_data_say_why(changes, reason):
    text = comparison.beside(summary(**changes))
    assert text.startswith("No published scores beside these: ") and reason in text
    assert "\n" not in text and "|" not in text


def test_beside_is_silent_about_systems_that_nobody_published():
    assert comparison.beside(summary("mine:demo")) == ""


def test_differences():
    umx, hq = row("Open-Unmix", "UMX"), row("Open-Unmix", "UMX-HQ")
    text = comparison.differences(summary(), [umx, hq])
    lines = cells(text)
    assert lines[4] == ["difference", "-0.32", "-0.23", "-0.23", "+0.48", "-0.08"]
    assert lines[8][-1] == f"{(6.25 + 6.04 + 5.07 + 4.28) / 4:.2f}" and "this is the mean of the four" in text
    assert "NOT COMPARABLE" not in text
    other = comparison.differences(summary(data=HQ), [umx])
    assert "difference, NOT COMPARABLE" in other and "published for MUSDB18, this is MUSDB18-HQ" in other
    few = comparison.differences(summary(tracks=["a"]), [umx])
    assert few.startswith("NOT COMPARABLE with the published scores: ") and "| difference, NOT COMPARABLE |" in few
    sisec = comparison.differences(summary("mmdenselstm:paper"), [row("MMDenseLSTM", "TAK1")])
    assert "vocals: published beside accompaniment, here beside stems" in sisec
    assert cells(sisec)[4] == ["difference", "-", "-0.93", "-0.16", "+0.35", "-"]
    assert "scored as nothing here is" in comparison.differences(
        summary(), [row("UMX baseline", "MDX21 leaderboard A")]
    )
