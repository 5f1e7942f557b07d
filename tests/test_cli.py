"""The `jaxsep` command: fast help, lazy doors, flags, exit statuses, and what the doctor finds."""

import json
import os
import resource
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import jaxsep
from jaxsep import cli, devices, doctor, songs
from jaxsep.errors import JaxsepError
from jaxsep.outputs import Encoding

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
HEAVY = ("jax", "tensorflow", "numpy", "soundfile", "av", "flax", "orbax", "musdb", "museval", "stempeg", "soxr")


def python(code, *arguments, **options):
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, **options)


def imported_by(code, *arguments):
    """Which of the heavy packages a program imports, whatever its exit status."""
    done = python(
        f"import sys\ntry:\n    {code}\nfinally:\n    print('\\n', [m for m in {HEAVY!r} if m in sys.modules])",
        *arguments,
    )
    return done.stdout.splitlines()[-1].strip()


@pytest.mark.parametrize(
    "command", ["", "separate", "models", "data", "score", "compare", "tables", "reproduce", "report", "weights"]
)
def test_help_imports_nothing_heavy(command):
    arguments = [*command.split(), "--help"]
    assert imported_by(f"from jaxsep import cli; cli.main({arguments!r})") == "[]"


def test_the_package_imports_nothing_heavy():
    assert imported_by("import jaxsep; jaxsep.load; jaxsep.separate; jaxsep.__version__") == "[]"


def test_separating_imports_no_tensorflow(tmp_path):
    found = imported_by("from jaxsep import songs, inference, checkpoint, separator, doctor; doctor.examine()")
    assert "'jax'" in found and "'soundfile'" in found
    assert not any(name in found for name in ("tensorflow", "musdb", "museval", "stempeg"))


def test_help_is_fast():
    def seconds():
        """Processor time, which other programs on a busy machine do not lengthen."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python("from jaxsep import cli; cli.main()", "--help")
        assert "usage: jaxsep" in done.stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.5


def test_installed_command_and_version():
    command = Path(sys.executable).parent / "jaxsep"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"jaxsep {PROJECT['version']}" == f"jaxsep {jaxsep.__version__}"
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("separate", "models", "data", "doctor"))


def test_flags_of_separate_reach_the_songs(monkeypatch):
    calls = []
    monkeypatch.setattr(songs, "separate_files", lambda *args, **options: calls.append((args, options)) or 0)
    assert cli.main(["separate", "a.mp3", "B", "-o", "out", "-m", "runs/x"]) == 0
    args, options = calls.pop()
    assert args == (["a.mp3", "B"], Path("out"), Path("runs/x"))
    assert options.pop("progress") is not None
    assert options == {
        "checkpoint": "best",
        "device": "auto",
        "recipe": {"seed": 0},
        "stems": (),
        "two_stems": "",
        "residual": False,
        "encoding": Encoding("wav", "24", "rescale"),
        "filename": "{track}/{stem}.{ext}",
        "force": False,
        "conditions": {},
    }
    line = (
        "separate a.mp3 -o out -m runs/x --checkpoint 300 --device gpu:1 --stems vocals,drums --residual --segment 7.5 "
        "--overlap 0.5 --batch-size 4 --shifts 3 --seed 9 --format flac --bits 16 --clip clamp --filename {stem}.{ext} "
        "--force --progress json --condition duo=bass+0.5*vocals"
    )
    cli.main(line.split())
    _, options = calls.pop()
    del options["progress"]
    assert options == {
        "checkpoint": 300,
        "device": "gpu:1",
        "recipe": {"segment": 7.5, "overlap": 0.5, "batch_size": 4, "shifts": 3, "seed": 9},
        "stems": ("vocals", "drums"),
        "two_stems": "",
        "residual": True,
        "encoding": Encoding("flac", "16", "clamp"),
        "filename": "{stem}.{ext}",
        "force": True,
        "conditions": {"duo": {"bass": 1.0, "vocals": 0.5}},
    }
    line = "separate a.mp3 -o out -m run --two-stems vocals --batch-size auto --format mp3"
    assert cli.main(line.split()) == 0
    _, options = calls.pop()
    assert options["two_stems"] == "vocals" and "batch_size" not in options["recipe"]
    assert options["encoding"] == Encoding("mp3", None, "rescale")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "separate",
        "separate a.mp3",
        "separate a.mp3 -o out",
        "separate a.mp3 -o out -m run --batch-size many",
        "separate a.mp3 -o out -m run --format wma",
        "separate a.mp3 -o out -m run --stems a --two-stems b",
        "sepparate a.mp3",
        "data",
        "data check",
    ],
)
def test_usage_errors_exit_with_2(line, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(line.split())
    assert error.value.code == 2 and "usage: jaxsep" in capsys.readouterr().err


def test_failed_songs_make_the_status_1(monkeypatch):
    monkeypatch.setattr(songs, "separate_files", lambda *args, **options: 2)
    assert cli.main(["separate", "a.mp3", "-o", "out", "-m", "run"]) == 1


def test_errors_are_one_line_without_a_traceback(tmp_path, capsys):
    assert cli.main(["separate", "a.mp3", "-o", "out", "-m", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"jaxsep: error: {tmp_path}: not a run folder")
    assert captured.err.count("\n") == 1
    done = python("from jaxsep import cli; raise SystemExit(cli.main())", "separate", "x", "-o", "o", "-m", tmp_path)
    assert done.returncode == 2 and done.stderr == captured.err


@pytest.mark.parametrize(("error", "status"), [(JaxsepError("bad"), 2), (KeyboardInterrupt(), 130)])
def test_statuses(monkeypatch, capsys, error, status):
    def fail():
        raise error

    monkeypatch.setattr(doctor, "examine", fail)
    assert cli.main(["doctor"]) == status
    assert capsys.readouterr().err in ("jaxsep: error: bad\n", "jaxsep: interrupted\n")


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [][0])
    with pytest.raises(IndexError):
        cli.main(["doctor"])


def test_a_reader_that_leaves_ends_the_command_quietly():
    code = "from jaxsep import cli; raise SystemExit(cli.main(['doctor']))"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    code = "from jaxsep import cli; raise SystemExit(cli.main())"
    done = python(code, "data", "check", tmp_path / "音楽", env=environment)
    assert done.returncode == 2 and "\\u97f3" in done.stderr
    folder = tmp_path / "音楽"
    (folder / "train/ö").mkdir(parents=True)
    done = python(code, "data", "check", folder, env=environment)
    assert done.returncode == 1 and "train/\\xf6" in done.stdout


def test_models_as_table_and_json(monkeypatch, capsys):
    row = {
        "name": "spleeter",
        "variant": "4stems",
        "paper": "Spleeter",
        "year": 2020,
        "params": 39294996,
        "params_reference": 39294996,
        "sources": ["vocals", "drums"],
        "sample_rate": 44100,
        "config": "configs/spleeter.py:4stems",
    }
    monkeypatch.setitem(sys.modules, "jaxsep.catalogue", types.SimpleNamespace(describe=lambda: [row]))
    monkeypatch.setattr(jaxsep, "catalogue", sys.modules["jaxsep.catalogue"], raising=False)
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [row]
    assert cli.main(["models"]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert line.split() == [
        "spleeter", "4stems", "2020", "39,294,996", "vocals,drums", "44100", "configs/spleeter.py:4stems",
    ]  # fmt: skip
    assert head.index("params") == line.index("39,294,996")


# --- data


def test_data_synth_writes_what_is_asked_for(tmp_path, capsys):
    folder = tmp_path / "songs"
    line = f"data synth {folder} --train 1 --valid 0 --test 1 --seconds 8 --seed 5".split()
    assert cli.main(line) == 0 and capsys.readouterr().out.strip() == str(folder)
    assert [len(list((folder / split).glob("*/vocals.wav"))) for split in ("train", "test")] == [1, 1]
    assert json.loads((folder / "songs.json").read_text())["seed"] == 5
    assert cli.main([*line[:-1], "6"]) == 2 and "made with" in capsys.readouterr().err


def test_data_check_lists_problems_and_its_status_tells(tmp_path, capsys):
    (tmp_path / "train/song").mkdir(parents=True)
    (tmp_path / "train/song/vocals.wav").touch()
    assert cli.main(["data", "check", str(tmp_path)]) == 1
    assert "train/song/vocals.wav" in capsys.readouterr().out
    assert cli.main(["data", "check", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert any(row["path"] == "train/song/vocals.wav" and row["severity"] == "error" for row in found)
    assert cli.main(["data", "check", str(tmp_path / "missing")]) == 2


# --- doctor


def test_doctor_finds_what_is_here(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["jaxsep"] == jaxsep.__version__ and found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(found["packages"]) >= {"jax", "flax", "soundfile", "av"} and all(found["packages"].values())
    assert len(found["devices"]) == 4 and found["devices"][0].startswith("cpu:0")
    assert any("FLAC" in formats for formats in found["audio"].values())
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert f"jax {found['packages']['jax']}" in text and "cpu:0" in text and "ffmpeg" in text


def test_doctor_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(doctor.EXTRAS, "train", {"no-such-package": "no_such_module"})
    monkeypatch.setitem(doctor.EXTRAS, "eval", {"jax": "jax", "no-such-package": "no_such_module"})
    text = doctor.render(doctor.examine())
    assert "ffmpeg: not found" in text and "ffprobe: not found" in text
    assert "train: not installed" in text and "eval: without no-such-package" in text


def test_doctor_knows_the_extras_of_the_package():
    assert set(doctor.EXTRAS) == set(PROJECT["optional-dependencies"])
    for extra, packages in doctor.EXTRAS.items():
        declared = " ".join(PROJECT["optional-dependencies"][extra])
        for package in packages:
            assert package in declared or extra in ("cuda", "tpu"), package
    assert set(doctor.CORE) - {"jaxlib"} < set(" ".join(PROJECT["dependencies"]).replace(">=", " ").split())


def test_no_silent_cpu(monkeypatch):
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/proc/driver/nvidia/version")
    monkeypatch.setattr(devices, "_platforms", lambda: "")
    assert "jaxsep[cuda]" in devices.describe(devices.pick("auto"))
    with pytest.raises(JaxsepError, match=r"device='gpu': .*jaxsep\[cuda\]"):
        devices.pick("gpu")
    monkeypatch.setattr(devices, "_platforms", lambda: "cpu")
    with pytest.raises(JaxsepError, match="JAX_PLATFORMS=cpu"):
        devices.pick("gpu")
