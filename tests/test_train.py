"""`train.py` as a user runs it: end to end, killed at any moment, and stopped by what a user can get wrong."""

import contextlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from jaxsep import cli, integrity, log, optim, separator, training, validation
from jaxsep.checkpoint import Checkpoints, load_variables
from jaxsep.config import run_config
from jaxsep.data.built import build, writing

ROOT = Path(__file__).parent.parent
RATE = 8000

spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
assert spec is not None and spec.loader is not None
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)

SETTINGS = {
    "sources": "vocals,other",
    "sample_rate": RATE,
    "block": 8,
    "model.channels": "(2,4)",
    "model.batch_norm": "batch",
    "model.dropout": 0.5,
    "front.frame": 64,
    "front.hop": 16,
    "front.bins": 16,
    "data.source": "folder",
    "data.stems": "vocals,other",
    "data.segment": 8 * 16 - 64,
    "data.batch_size": 4,
    "inference.segment": 0.5,
    "optim.learning_rate": 1.0,
    "optim.ema": 0.9,
    "optim.accumulate": 2,
    "optim.schedule.name": "plateau",
    "optim.schedule.patience": 1,
    "steps": 60,
    "log_every": 4,
    "save_every": 5,
    "eval_every": 10,
}


def command(root, workdir, **changes):
    """The command line; changes with `__` for dots."""
    values = SETTINGS | {"data.root": root} | {key.replace("__", "."): value for key, value in changes.items()}
    words = [f"--config.{key}={value}" for key, value in values.items()]
    return ["train.py", "--config=configs/spleeter.py:demo", f"--workdir={workdir}", *words]


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Three songs for training and one for validation, of a few seconds each."""
    root = tmp_path_factory.mktemp("songs")
    for split, names in {"train": ("a", "b", "c é"), "valid": ("d",)}.items():
        for number, name in enumerate(names):
            folder = root / split / f"song {name}"
            folder.mkdir(parents=True)
            random_ = np.random.default_rng([number, split == "valid"])
            tone = np.sin(2 * np.pi * (300 + 90 * number) * np.arange(2 * RATE) / RATE)
            soundfile.write(folder / "vocals.wav", 0.3 * np.stack([tone, tone], axis=1), RATE, subtype="PCM_16")
            soundfile.write(folder / "other.wav", 0.1 * random_.standard_normal((2 * RATE, 2)), RATE, subtype="PCM_16")
    return root


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """For the child processes: one device, and one compilation of each program for all of them."""
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def start(words, environment, output):
    """train.py in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
    )


def finish(words, environment, workdir):
    with (workdir.parent / f"{workdir.name}.log").open("a") as output:
        code = start(words, environment, output).wait(timeout=300)
    text = (workdir.parent / f"{workdir.name}.log").read_text()
    assert code == 0, text
    return text


def timeless(workdir):
    """metrics.jsonl without its time fields; numbers as they were written."""
    records = log.read_metrics(workdir / "metrics.jsonl")
    assert all(record.pop("time") for record in records)
    return records


def arrays(workdir):
    """Everything in the newest checkpoint: (step, {path: bytes}, meta)."""
    config = run_config(workdir)
    mesh = training.make_mesh(jax.devices()[:1])
    state = training.init_state(separator.build(config), optim.build(config.optim, config.steps), config, mesh)
    with Checkpoints(workdir) as checkpoints:
        restored = checkpoints.restore(state.items())
    assert restored is not None
    step, items, meta = restored
    items["training"]["key"] = jax.random.key_data(items["training"]["key"])
    return step, {jax.tree_util.keystr(p): np.asarray(x).tobytes() for p, x in jax.tree.leaves_with_path(items)}, meta


def kill_when(process, condition, number=signal.SIGKILL):
    """A signal as soon as `condition()` holds; False when the run was over before."""
    while process.poll() is None:
        if condition():
            process.send_signal(number)
            process.wait(timeout=60)
            return True
        time.sleep(0.0005)
    return False


def last_step(workdir):
    with contextlib.suppress(OSError):
        return max((record["step"] for record in log.read_metrics(workdir / "metrics.jsonl")), default=0)
    return 0


def saving(workdir):
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def assert_same_run(killed, whole):
    """Equal to the last bit: the metrics except their time, and all that the newest checkpoint holds."""
    assert timeless(killed) == timeless(whole)
    (step, expected, meta), found = arrays(whole), arrays(killed)
    assert found == (step, expected, meta)
    assert step == 60 and len(expected) > 100
    assert not list((killed / "checkpoints").glob("*tmp*"))


def test_killed_runs_end_like_one_that_was_not(songs, environment, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    text = finish(command(songs, whole), environment, whole)
    assert "finished at step 60" in text

    dice = random.Random(0)
    words = command(songs, killed)
    with (tmp_path / "killed.log").open("a") as output:
        for moment in ("start", "save", "step", "terminated", "save", "step"):
            goal = last_step(killed) + dice.randint(4, 9)
            moments = {
                "start": (killed / "config.json").exists,
                "step": lambda goal=goal: last_step(killed) >= goal,
                "terminated": lambda goal=goal: last_step(killed) >= goal,
                "save": lambda goal=goal: last_step(killed) >= goal and saving(killed),
            }
            process = start(words, environment, output)
            if moment == "terminated":
                assert kill_when(process, moments[moment], signal.SIGTERM) and process.returncode == 143
                saved = integrity.steps(killed / "checkpoints")[-1]
                assert saved >= last_step(killed) >= goal and not saving(killed)
            else:
                assert kill_when(process, moments[moment]), moment
                assert process.returncode == -signal.SIGKILL
    text = finish(words, environment, killed)
    assert "finished at step 60" in text and "terminated; the state is saved" in text
    assert f"step {saved} of 60" in text, "it goes on from the very step that SIGTERM came in"

    assert_same_run(killed, whole)
    steps = [(record["kind"], record["step"]) for record in timeless(whole)]
    assert [step for kind, step in steps if kind == "train"] == list(range(4, 61, 4))
    assert [step for kind, step in steps if kind == "valid"] == list(range(10, 61, 10))
    rates = {record["learning_rate"] for record in timeless(whole) if record["kind"] == "train"}
    assert len(rates) > 1, "the plateau rule should have had its turn"
    assert len(json.loads((killed / "run.json").read_text())["resumed"]) >= 3


def test_a_built_set_trains_like_the_folder_that_it_is_made_of(songs, environment, tmp_path):
    built = build.build("stem_folder", songs, tmp_path / "built", run=lambda jobs: map(writing.attempt, jobs))
    runs = {"folder": songs, "built": built.folder}
    for source, root in runs.items():
        changes = {"data__source": source, "steps": 8, "log_every": 2, "eval_every": 4, "save_every": 4}
        finish(command(root, tmp_path / source, **changes), environment, tmp_path / source)
    assert timeless(tmp_path / "built") == timeless(tmp_path / "folder")
    (step, expected, meta), found = arrays(tmp_path / "folder"), arrays(tmp_path / "built")
    assert found == (step, expected, meta) and step == 8


@pytest.mark.full
def test_soak(songs, environment, tmp_path, capsys):
    """Twenty kills at any time from the first import to the last save."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(command(songs, whole), environment, whole)
    begun = time.monotonic()
    finish(command(songs, tmp_path / "again"), environment, tmp_path / "again")  # with all programs compiled
    usual = time.monotonic() - begun
    dice, kills, ended = random.Random(1), [], 0
    with (tmp_path / "killed.log").open("a") as output:
        while len(kills) < 20:
            process = start(command(songs, killed), environment, output)
            try:
                process.wait(timeout=dice.uniform(0, usual))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills.append(str(last_step(killed)))
            if process.returncode == 0:  # over: once more from the start
                assert_same_run(killed, whole)
                shutil.rmtree(killed)
                ended += 1
            assert process.returncode in (0, -signal.SIGKILL), (tmp_path / "killed.log").read_text()
    finish(command(songs, killed), environment, killed)
    assert_same_run(killed, whole)
    with capsys.disabled():
        print(f"\n20 kills of one process, at steps {', '.join(kills)} of 60; {ended + 1} runs ended alike")


def run_here(words, capsys):
    """train.py in this process, on the four devices of the test suite: (status, stdout, lines of stderr)."""
    capsys.readouterr()
    status = train.main(words)
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


@pytest.fixture(scope="module")
def short(songs, tmp_path_factory):
    """A finished run of six steps."""
    workdir = tmp_path_factory.mktemp("runs") / "short run"
    changes = {
        "steps": 6,
        "eval_every": 4,
        "log_every": 4,
        "save_every": 3,
        "optim__accumulate": 1,
        "tensorboard": True,
    }
    assert train.main([*command(songs, workdir, **changes), "--profile=2,3"]) == 0
    return workdir, changes


def test_a_run_leaves_its_folder(short, songs):
    workdir, _ = short
    config, run = run_config(workdir), json.loads((workdir / "run.json").read_text())
    assert config.model.channels == (2, 4) or list(config.model.channels) == [2, 4]
    assert run["data"]["songs"] == {"train": 3, "valid": 1} and run["versions"]["jax"] == jax.__version__
    assert "--config.data.stems=vocals,other" in run["command"]
    records = timeless(workdir)
    assert [(r["kind"], r["step"]) for r in records] == [("train", 4), ("valid", 4), ("train", 6), ("valid", 6)]
    assert set(records[0]) == {"step", "kind", "loss", "loss/vocals", "loss/other", "grad_norm", "learning_rate"}
    assert set(records[1]) == {"step", "kind", "sdr", "sdr/vocals", "sdr/other", "loss"}
    for record in records:
        mean = (record["loss/vocals"] + record["loss/other"]) / 2 if record["kind"] == "train" else record["loss"]
        assert record["loss"] == pytest.approx(mean, rel=1e-5) and record["loss"] > 0
    assert integrity.steps(workdir / "checkpoints") == [4, 6]
    assert (workdir / "tensorboard").is_dir()


def test_a_run_tells_where_its_time_goes_and_traces_the_steps_that_it_is_asked_for(short):
    workdir, _ = short
    clock = log.read_metrics(workdir / "metrics.jsonl")[0]["time"]
    shares = {name: clock[name] for name in ("input_wait", "device_wait", "host")}
    assert sum(shares.values()) == pytest.approx(1, abs=2e-4) and min(shares.values()) >= 0 < shares["device_wait"]
    seconds_each = SETTINGS["data.segment"] / RATE
    assert clock["audio_seconds_per_second"] == pytest.approx(seconds_each * clock["examples_per_second"], rel=0.01)
    assert clock["flops_per_second"] > 0 and clock["device_memory"] > 0
    assert "utilisation" not in clock, "the peak of a CPU is not known"
    (path,) = (workdir / "profile").rglob("*.xplane.pb")
    lines = [line for plane in jax.profiler.ProfileData.from_file(str(path)).planes for line in plane.lines]
    steps = [dict(event.stats)["step_num"] for line in lines for event in line.events if event.name == "train"]
    assert {2, 3, 4} <= set(steps) and 1 not in steps


def test_a_run_that_compiles_again_and_again_is_stopped(short, songs, tmp_path, capsys, monkeypatch):
    workdir, changes = short
    shutil.copytree(workdir, tmp_path / "run")
    put, calls = training.put, []

    def growing(batch, mesh):
        calls.append(jax.jit(lambda x: x + 1)(np.zeros(len(calls))))  # a function of its own each time
        return put(batch, mesh)

    monkeypatch.setattr(training, "put", growing)
    status, _, (line,) = run_here(command(songs, tmp_path / "run", **changes | {"steps": 9}), capsys)
    assert status == 2 and len(calls) == 2
    assert re.match(r"error: the step compiles jit\(<lambda>\) although it was done before: a shape, a dtype", line)


def test_the_card_is_read_by_people_and_programs(short):
    workdir, _ = short
    _, head, body = (workdir / "MODEL_CARD.md").read_text().split("---\n", 2)
    facts = json.loads(head)
    assert facts["license"] == facts["commercial_use"] == "not stated" and facts["training_data"].startswith("folder /")
    best = max(record["sdr"] for record in timeless(workdir) if record["kind"] == "valid")
    assert facts["validation_sdr"] == best and f"{best:.2f} at step" in body
    assert "adam at 1 (plateau)" in body and "3 songs for train" in body


def test_validation_is_that_of_the_saved_model(short, songs):
    from jaxsep.data.tracks import open_tracks
    from jaxsep.inference import Model
    from jaxsep.metrics.sdr import framewise_sdr

    workdir, _ = short
    config = run_config(workdir)
    variables, info = load_variables(workdir, "last")
    (track,) = open_tracks(config.data, "valid")
    references = track.audio(("vocals", "other"))
    stems = Model.from_parts(separator.build(config), variables, config).separate(references.sum(axis=0), RATE)
    sdr = np.median(framewise_sdr(references, np.stack(list(stems.values())), RATE), axis=1)
    assert info["sdr"] == timeless(workdir)[-1]["sdr"]
    np.testing.assert_allclose(sdr.mean(), info["sdr"], rtol=1e-4)


def test_the_same_command_after_the_end(short, songs, capsys):
    workdir, changes = short
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file() and path.suffix != ".jsonl"}
    status, out, err = run_here(command(songs, workdir, **changes), capsys)
    assert status == 0 and err == [] and "finished at step 6; to go on, raise" in out
    assert {path: path.read_bytes() for path in before} == before


def test_a_longer_run_goes_on_and_passes_damage_over(short, songs, tmp_path, capsys):
    source, changes = short
    workdir = tmp_path / "run"
    shutil.copytree(source, workdir)
    meta = workdir / "checkpoints" / "6" / "meta" / "metadata"
    meta.write_bytes(meta.read_bytes()[:-1])
    moved = tmp_path / "moved songs"
    shutil.copytree(songs, moved)
    words = command(
        moved, workdir, **changes | {"steps": 8, "log_every": 2, "tensorboard": False, "parallel": "device"}
    )
    status, out, err = run_here(words, capsys)
    assert status == 0 and "step 4 of 8" in out
    assert len(err) == 1 and "checkpoints/6: damaged (meta/metadata has changed)" in err[0]
    assert [r["step"] for r in timeless(workdir) if r["kind"] == "train"] == [4, 6, 8]
    assert json.loads((workdir / "run.json").read_text())["resumed"][0]["step"] == 4
    assert run_config(workdir).steps == 8


def test_another_config_or_other_data_are_refused(short, songs, tmp_path, capsys):
    workdir, changes = short
    words = command(songs, workdir, **changes | {"optim__clip": 1.0, "seed": 5, "steps": 9})
    status, _, err = run_here(words, capsys)
    assert status == 2 and len(err) == 1
    assert "is a run of another config: optim.clip (0.0, now 1.0), seed (0, now 5); choose another" in err[0]
    shutil.copytree(songs, tmp_path / "songs")
    shutil.rmtree(tmp_path / "songs" / "train" / "song b")
    words = command(tmp_path / "songs", workdir, **changes | {"steps": 7})
    status, _, err = run_here(words, capsys)
    assert status == 2 and len(err) == 1
    assert "this run began with 3 train and 1 valid songs, now there are 2 train and 1 valid songs" in err[0]
    (workdir / "config.json").rename(tmp_path / "config.json")
    status, _, err = run_here(command(songs, workdir, **changes), capsys)
    (tmp_path / "config.json").rename(workdir / "config.json")
    assert status == 2 and "has checkpoints but no config.json" in err[0]


def test_single_stems_beside_songs_and_files_that_cannot_be_read(songs, tmp_path, capsys, monkeypatch):
    """On slow storage, too, whose wait the log shows."""
    from jaxsep.data.pipeline import Crops

    root, singles, workdir = tmp_path / "songs", tmp_path / "singles", tmp_path / "run"
    shutil.copytree(songs, root)
    (root / "train" / "song b" / "other.wav").write_bytes(b"RIFF")
    for folder, length in {"vocals": 900, "keys": 5000}.items():
        (singles / folder).mkdir(parents=True)
        wave = np.random.default_rng(length).uniform(-0.01, 0.01, (length, 2))
        soundfile.write(singles / folder / "1.wav", wave, RATE)
    also = {"source": "singles", "root": singles, "odds": 0.5, "instruments": "('keys=other',)"}
    also = {f"data__also__loops__{key}": value for key, value in also.items()}
    settings = {**also, "data__remix": "stem", "optim__accumulate": 1, "steps": 3, "log_every": 3, "eval_every": 3}
    words = command(root, workdir, **settings)
    status, _, err = run_here(words, capsys)
    assert status == 2 and "song b" in err[0] and "other.wav" in err[0]
    read = Crops.read
    monkeypatch.setattr(Crops, "read", lambda *given: (time.sleep(0.3), read(*given))[1])
    status, out, err = run_here([*words, "--on-bad-file=skip"], capsys)
    assert status == 0 and len(err) == 2 and "train: song b is left out" in err[0] and err[1] == "train: 1 left out"
    assert "levels of 2 songs and 2 single stems" in out
    assert list(json.loads((workdir / "songs.json").read_text())["train"]) == ["song a", "song c é"]
    assert json.loads((workdir / "run.json").read_text())["data"]["songs"] == {"train": 2, "valid": 1, "also.loops": 2}
    (line,) = (record for record in log.read_metrics(workdir / "metrics.jsonl") if record["kind"] == "train")
    assert line["time"]["input_wait"] > 0.01 and "drawn_anew" not in line["time"]
    monkeypatch.undo()
    shutil.rmtree(root / "train" / "song a")
    words = command(root, workdir, **settings | {"steps": 9, "eval_every": 9, "log_every": 9})
    status, out, err = run_here([*words, "--on-bad-file=skip"], capsys)
    assert status == 0 and "unreadable files 1  drawn anew " in out
    assert any("train: song a is left out: song a: gone" in line for line in err) and "train: 2 left out" in err
    assert "unreadable, examples are drawn anew: song a: gone" in err[-1]
    assert log.read_metrics(workdir / "metrics.jsonl")[-2]["time"]["drawn_anew"] > 1


HALF = {"precision": "float16", "sources": "vocals", "optim__learning_rate": 1e-3, "optim__accumulate": 1}
HALF |= {"model__dropout": 0.0, "save_every": 3}
WHOLE_NET = "float16, net/vocals=f32"


def test_terminated_in_validation_and_in_float16(songs, tmp_path, capsys, monkeypatch):
    """The validation is made up for, and all ends as if nothing had happened, the loss scale included."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    sizes = HALF | {"steps": 6, "eval_every": 4, "log_every": 2}
    assert run_here(command(songs, whole, **sizes), capsys)[0] == 0
    words = command(songs, killed, **sizes)
    with monkeypatch.context() as patch:
        patch.setattr(validation, "read_song", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        before = signal.getsignal(signal.SIGTERM)
        status, _, err = run_here(words, capsys)
        assert status == 143 and err == ["terminated; the state is saved and the same command goes on from it"]
        assert signal.getsignal(signal.SIGTERM) == before
    assert integrity.steps(killed / "checkpoints")[-1] == 4
    assert not [record for record in timeless(killed) if record["kind"] == "valid"]
    status, out, _ = run_here(words, capsys)
    assert status == 0 and "step 4 of 6" in out
    assert timeless(killed) == timeless(whole) and arrays(killed) == arrays(whole)
    assert load_variables(killed)[1] == load_variables(whole)[1]  # the best, by an SDR that came later
    scale = [value for name, value in arrays(killed)[1].items() if "loss_scale" in name]
    assert [np.frombuffer(value, kind)[0] for value, kind in zip(scale, "fiii", strict=True)] == [65536, 6, 0, 0]
    line = timeless(killed)[0]
    assert line["loss_scale"] == 65536 and line["skipped"] == 0 and line["grad_norm"] > 0

    status, out, _ = run_here(command(songs, killed, **sizes | {"precision": WHOLE_NET, "steps": 7}), capsys)
    assert status == 0 and "step 6 of 7" in out and run_config(killed).precision == WHOLE_NET
    (good,) = (value for name, value in arrays(killed)[1].items() if "loss_scale" in name and "good" in name)
    assert np.frombuffer(good, np.int32)[0] == 1  # another policy, another scale


def test_what_overflows_is_named_and_the_precision_that_is_named_goes_on(songs, tmp_path, capsys):
    root = tmp_path / "songs"
    shutil.copytree(songs, root)
    for path in root.glob("*/*/*.wav"):
        soundfile.write(path, 12_000 * soundfile.read(path, dtype="float32")[0], RATE, subtype="FLOAT")
    sizes = HALF | {"steps": 2, "eval_every": 2, "log_every": 1}
    status, _, err = run_here(command(root, tmp_path / "run", **sizes), capsys)
    said = (
        r"error: step 1: loss/vocals is .*; examples: .*\. The (first that is not finite is what comes out of "
        r"net/vocals between its layers \(forward, float16\), up to (.*) in float32; --config.precision='(.*)' puts it "
        r"to float32)\. The state before it is saved: .*"
    )
    match = re.fullmatch(said, err[0])
    assert status == 2 and len(err) == 1 and match, err
    assert 65504 < float(match[2]) < 100_000 and match[3] == WHOLE_NET
    assert cli.main(["debug", "nonfinite", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"step 1: the {match[1]}\n"
    status, out, err = run_here(command(root, tmp_path / "run", **sizes | {"precision": match[3]}), capsys)
    assert status == 0 and "finished at step 2" in out and err == []


def test_stops_when_nothing_gets_better(songs, tmp_path, capsys):
    still = {"optim__learning_rate": 1e-30, "model__batch_norm": "frozen", "optim__accumulate": 1, "patience": 2}
    words = command(songs, tmp_path / "run", **still, eval_every=1, optim__schedule__name="constant")
    status, out, err = run_here(words, capsys)
    assert status == 0 and err == []
    assert "finished at step 3, 2 evaluations without a better one; best validation SDR" in out
    status, out, _ = run_here(words, capsys)
    assert status == 0 and "finished at step 3; to go on" in out


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(songs, tmp_path, capsys):
    root = tmp_path / "songs"
    shutil.copytree(songs, root)
    path = root / "train" / "song b" / "other.wav"
    wave = soundfile.read(path, dtype="float32")[0]
    wave[-1000:] = 3e38  # finite, as the reader demands, but not its spectrum
    soundfile.write(path, wave, RATE, subtype="FLOAT")
    words = command(root, tmp_path / "run", optim__accumulate=1, save_every=1, log_every=1)
    status, _, err = run_here(words, capsys)
    assert status == 2 and len(err) == 1, err
    failing = int(err[0].split("step ")[1].split(":")[0])
    assert (
        failing > 1
        and err[0].startswith(f"error: step {failing}: loss/vocals, loss/other is ")
        and "; examples: " in err[0]
    )
    assert "song b" in err[0] and "lower optim.learning_rate" in err[0]
    assert "what comes out of the front end (forward, complex64), not finite in float32 either. The state" in err[0]
    assert integrity.steps(tmp_path / "run" / "checkpoints")[-1] == failing - 1
    again = run_here(words, capsys)
    assert (again[0], again[2]) == (2, err) and f"step {failing - 1} of 60" in again[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config.stepz=3"], 'the config has no key \'stepz\'. Did you mean "steps" instead of "stepz"?'),
        (["--config.optim.lr=3"], "the config has no key 'lr'"),
        (["--config.data.foo.bar=3"], "the config has no key 'foo'"),
        (["--config.steps=many"], "flag --config.steps=many: invalid literal for int()"),
        (["--config.songs=3"], "the config has no key 'songs'"),
        (["--config.data.songs=3"], "flag --config.data.songs=3: Failed to parse"),
        (["--config.data.also.x.rot=y"], "the config has no key 'rot'"),
        (["--config.data.also.x.root=/y"], "data.also.x.odds=0.0: expected odds above 0 to 1"),
        (["--on-bad-file=zeros"], "--on-bad-file=zeros: value should be one of <stop|skip>"),
        (["--confg=x"], "Unknown command line flag 'confg'. Did you mean: config"),
        (["stray"], "'stray' is no flag; expected train.py --config="),
        (["--config=configs/spleeter.py:dmo"], "did you mean 'demo'?"),
        (["--config=configs/spleter.py"], "configs/spleter.py: no such config file"),
        (["--config.steps=0"], "steps=0: expected 1 or more"),
        (["--config.sources=vocals,drums"], "'drums', which is not in data.stems"),
        (["--config.data.batch_size=6"], "data.batch_size=6 is not a multiple of 8 = 4 device(s) x optim.accumulate=2"),
        (["--config.optim.name=adm"], "optim.name='adm' is unknown"),
        (["--config.loss.name=l3"], "loss.name='l3' is unknown"),
        (
            ["--config.parallel=devise"],
            "parallel='devise' is unknown, expected one of global, fsdp, device; did you mean 'dev",
        ),
        (["--config.precision=float61"], "precision='float61' is unknown, expected one of float32, bfloat16"),
        (["--config.precision=float16, net/voc*/cnv1=f32"], "matches no layer of this net; near it are net/vocals"),
        (["--config.data.root=/nowhere"], "data.root='/nowhere' is not a folder"),
        (["--config.data.segment=32000"], "shorter than"),
        (["--config.data.root=s3://b/songs"], "data.root=s3://b/songs: expected a folder, or gs://BUCKET/"),
        (
            ["--config.data.unlabeled.root=gs://b/mined"],
            "data.unlabeled.root=gs://b/mined: expected a folder",
        ),
        (["--workdir=s3://b/run"], "s3://b/run: expected a folder, or gs://BUCKET/FOLDER"),
        (
            ["--config.on_full_disk=goon"],
            "on_full_disk='goon' is unknown, expected one of stop, go_on; did you mean 'go_on'",
        ),
        (["--workdir={file}"], "is a file; give a folder"),
        (["--workdir={file}/run"], "cannot be written"),
        (["--workdir="], "--workdir is missing"),
    ],
)
def test_one_line_for_what_a_user_can_mend(songs, tmp_path, capsys, words, message):
    (tmp_path / "file").touch()
    words = [word.format(file=tmp_path / "file") for word in words]
    base = command(songs, tmp_path / "run", data__batch_size=8)
    status, _, err = run_here([*base, *words], capsys)
    assert status == 2 and len(err) == 1, err
    assert err[0].startswith("error: ") and message in err[0], err[0]


def test_help(capsys):
    status, out, _ = run_here(["train.py", "--help"], capsys)
    assert status == 0 and "python train.py --config=configs/spleeter.py:demo" in out
