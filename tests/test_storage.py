"""Run folders and data in a bucket, against a server that runs here."""

import hashlib
import json
import random
import shutil
import signal
import socket
import sys
import time

import pytest
from test_train import (
    assert_same_run,
    command,
    environment,
    finish,
    kill_when,
    last_step,
    songs,
    start,
)

import train
from jaxsep import cli, integrity, storage
from jaxsep.checkpoint import load_start
from jaxsep.config import run_config
from jaxsep.errors import JaxsepError
from jaxsep.storage import Folder, here, working_copy

assert songs and environment  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning")  # google-api-core's own

# train.py, which brings a run of a few seconds into its bucket as it goes
EAGER = "import sys, train; from jaxsep import storage; storage.INTERVAL = 0.1; sys.exit(train.main(sys.argv))"
RUN = '{"time": "2026-01-01", "resumed": []}'


@pytest.fixture(scope="module")
def server():
    """An empty bucket `b` of a server on this machine."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="the dev extra brings a server")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = emulator.create_server("localhost", port, in_memory=True, default_bucket="b")
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{port}")
        storage._client.cache_clear()
        yield running
    storage._client.cache_clear()
    running.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """The bucket, emptied; this test's machine has no copies yet."""
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "machine"))
    here.cache_clear()
    bucket = storage._client().bucket("b")
    for blob in bucket.list_blobs():
        blob.delete()
    return bucket


def put(bucket, **files):
    for name, text in files.items():
        bucket.blob(name).upload_from_string(text)


def names(bucket):
    return {blob.name for blob in bucket.list_blobs()}


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def checkpoint(step, text="weights"):
    listed = f"{hashlib.sha256(text.encode()).hexdigest()}  d/{text}\n"
    return {f"checkpoints/{step}/d/{text}": text, f"checkpoints/{step}/{integrity.SUMS}": listed}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def noted(monkeypatch, verb):
    """The names of the files that a method of `Folder` is through with."""
    done, method = [], getattr(Folder, verb)
    monkeypatch.setattr(Folder, verb, lambda self, name, *rest: method(self, name, *rest) or done.append(name))
    return done


def test_a_folder_on_disk_is_left_as_it_is(tmp_path):
    assert here(tmp_path) == tmp_path
    with working_copy(tmp_path) as folder:
        assert folder == tmp_path
    assert not storage.is_address(r"C:\songs") and not storage.is_address("/a:/b") and storage.is_address("gs://b/c")


def test_only_what_has_changed_is_fetched(bucket, monkeypatch):
    put(bucket, **{"set/train/a/vocals.wav": "1", "set/train/b c/é.wav": "2", "set/notes": "3", "other/x": "4"})
    folder = here("gs://b/set")
    assert contents(folder) == {"train/a/vocals.wav": "1", "train/b c/é.wav": "2", "notes": "3"}
    put(bucket, **{"set/train/a/vocals.wav": "5"})
    bucket.blob("set/notes").delete()
    (folder / "train" / "b c" / "é.wav").write_text("damaged")
    asked = noted(monkeypatch, "_download")
    here.cache_clear()
    assert contents(here("gs://b/set/")) == {"train/a/vocals.wav": "5", "train/b c/é.wav": "2"}
    assert sorted(asked) == ["train/a/vocals.wav", "train/b c/é.wav"]


def test_a_run_reaches_the_bucket_and_another_machine(bucket, monkeypatch, tmp_path):
    with working_copy("gs://b/runs/x") as folder:
        write(folder, {"config.json": "{}", "run.json": RUN, **checkpoint(5)})
        write(folder, {"checkpoints/9.orbax-checkpoint-tmp/half": "", "metrics.jsonl.tmp": ""})
        write(folder, {"checkpoints/7/half": "", "checkpoints/deleted/3/old": ""})
    there = {f"runs/x/{name}" for name in ("config.json", "run.json", *checkpoint(5))}
    assert names(bucket) == there
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "second"))
    with working_copy("gs://b/runs/x") as second:
        assert second != folder and contents(second)["run.json"] == RUN
        shutil.rmtree(second / "checkpoints" / "5")
        write(second, {"run.json": RUN.replace("[]", "[8]"), **checkpoint(8)})
    assert names(bucket) == {f"runs/x/{name}" for name in ("config.json", "run.json", *checkpoint(8))}
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "machine"))
    with working_copy("gs://b/runs/x"):  # the first machine is behind, and has changes that no one has seen
        assert contents(folder)["run.json"] == RUN.replace("[]", "[8]")
        assert integrity.steps(folder / "checkpoints") == [8]


def test_what_was_not_uploaded_yet_is_kept(bucket):
    with working_copy("gs://b/x") as folder:
        write(folder, {"run.json": RUN, "metrics.jsonl": "1", **checkpoint(5)})
    shutil.rmtree(folder / "checkpoints" / "5")  # what follows happens behind a kill
    write(folder, {"metrics.jsonl": "1 2", "scores": "new", **checkpoint(8)})
    put(bucket, **{"x/notes": "from elsewhere"})
    expected = {"run.json": RUN, "metrics.jsonl": "1 2", "scores": "new", "notes": "from elsewhere", **checkpoint(8)}
    with working_copy("gs://b/x"):
        assert contents(folder) == expected
    assert names(bucket) == {f"x/{name}" for name in expected}


@pytest.mark.parametrize("files", [{}, {"run.json": RUN.replace("01-01", "02-02"), "metrics.jsonl": "other"}])
def test_another_run_at_the_address_is_the_one_that_counts(bucket, files, capsys):
    with working_copy("gs://b/x") as folder:
        write(folder, {"run.json": RUN, "metrics.jsonl": "1", **checkpoint(5)})
    for name in names(bucket):
        bucket.blob(name).delete()
    write(folder, {"metrics.jsonl": "1 2"})
    put(bucket, **{f"x/{name}": text for name, text in files.items()})
    with working_copy("gs://b/x"):
        assert contents(folder) == files
    assert "is not the run that was copied to" in capsys.readouterr().err


def test_a_copy_that_never_reached_the_bucket_is_gone_on_with(bucket):
    folder = Folder("gs://b/x").copy
    write(folder, {"run.json": RUN, **checkpoint(5)})
    with working_copy("gs://b/x"):
        assert contents(folder) == {"run.json": RUN, **checkpoint(5)}
    assert len(names(bucket)) == 3


def test_a_copy_whose_upload_had_only_begun_is_gone_on_with(bucket):
    with working_copy("gs://b/x") as folder:
        write(folder, {"config.json": "{}"})
    write(folder, {"run.json": RUN, **checkpoint(5)})
    with working_copy("gs://b/x"):
        assert contents(folder) == {"config.json": "{}", "run.json": RUN, **checkpoint(5)}
    assert len(names(bucket)) == 4


def test_half_a_checkpoint_in_the_bucket_is_passed_over_and_removed(bucket):
    put(bucket, **{f"x/{name}": text for name, text in {"run.json": RUN, **checkpoint(5)}.items()})
    put(bucket, **{"x/checkpoints/9/d/half": "half"})
    with working_copy("gs://b/x") as folder:
        assert integrity.steps(folder / "checkpoints") == [5]
    assert names(bucket) == {f"x/{name}" for name in ("run.json", *checkpoint(5))}


def test_sums_come_last_both_ways(bucket, monkeypatch, tmp_path):
    up, down = noted(monkeypatch, "_upload"), noted(monkeypatch, "_download")
    files = {**checkpoint(5), "metrics.jsonl": "1", "config.json": "2"}
    with working_copy("gs://b/x") as folder:
        write(folder, files)
    monkeypatch.setenv("JAXSEP_CACHE", str(tmp_path / "second"))
    here("gs://b/x")
    for order in (up, down):
        assert set(order[:2]) == {"metrics.jsonl", "config.json"} and order[2:] == list(checkpoint(5))


def test_the_bucket_follows_while_the_run_goes_on(bucket, monkeypatch, capsys):
    monkeypatch.setattr(storage, "INTERVAL", 0.05)
    with working_copy("gs://b/x") as folder:
        write(folder, {"metrics.jsonl": "1"})
        deadline = time.monotonic() + 20
        while names(bucket) != {"x/metrics.jsonl"} and time.monotonic() < deadline:
            time.sleep(0.02)
        assert names(bucket) == {"x/metrics.jsonl"}
        upload, failures = Folder._upload, iter(range(3))

        def failing(self, *rest):
            if next(failures, None) is not None:
                raise PermissionError(13, "no")
            upload(self, *rest)

        monkeypatch.setattr(Folder, "_upload", failing)
        write(folder, {"metrics.jsonl": "1 2"})
        while bucket.blob("x/metrics.jsonl").download_as_text() != "1 2" and time.monotonic() < deadline:
            time.sleep(0.02)
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1 and "cannot be used (no)" in err[0] and err[0].endswith("tried again")
    assert bucket.blob("x/metrics.jsonl").download_as_text() == "1 2"


def test_a_checkpoint_that_is_removed_while_it_is_uploaded_arrives(bucket, monkeypatch):
    """A run that saves quicker than its bucket takes it leaves there a checkpoint that is whole at any moment."""
    with working_copy("gs://b/x") as folder:
        write(folder, {"run.json": RUN, **checkpoint(5)})
    upload, seen = Folder._upload, []

    def overtaken(self, name, *rest):
        if name.startswith("checkpoints/8/d"):
            shutil.rmtree(folder / "checkpoints" / "8")
            write(folder, checkpoint(9))
        upload(self, name, *rest)
        seen.append({int(name.split("/")[2]) for name in names(bucket) if name.endswith(integrity.SUMS)})

    monkeypatch.setattr(Folder, "_upload", overtaken)
    shutil.rmtree(folder / "checkpoints" / "5")
    write(folder, checkpoint(8))
    Folder("gs://b/x").upload()
    assert names(bucket) == {f"x/{name}" for name in ("run.json", *checkpoint(8))}
    Folder("gs://b/x").upload()
    assert names(bucket) == {f"x/{name}" for name in ("run.json", *checkpoint(9))}
    assert seen == [{5}, {5, 8}, {8}, {8, 9}]


def test_a_checkpoint_that_takes_the_place_of_another_one_of_its_step(bucket):
    folder = Folder("gs://b/x")
    write(folder.copy, checkpoint(5))
    folder.upload()
    shutil.rmtree(folder.copy / "checkpoints" / "5")
    new, sums = checkpoint(5, "new").items()
    write(folder.copy, dict([sums]))  # as a listing finds it that began before and ended behind the change
    folder.upload()
    assert names(bucket) == {f"x/{name}" for name in checkpoint(5)}
    assert bucket.blob(f"x/{sums[0]}").download_as_text() == checkpoint(5)[sums[0]]
    write(folder.copy, dict([new]))
    folder.upload()
    assert names(bucket) == {f"x/{name}" for name in checkpoint(5, "new")}
    assert bucket.blob(f"x/{sums[0]}").download_as_text() == sums[1]


def test_one_line_for_what_a_user_can_mend(bucket, monkeypatch, tmp_path, capsys):
    with pytest.raises(JaxsepError, match=r"gs://b/nothing: there is nothing"):
        here("gs://b/nothing")
    with pytest.raises(JaxsepError, match=r"gs://absent/x: cannot be read \(404.*see that the bucket exists"):
        here("gs://absent/x")
    for address in ("s3://b/x", "gs://b", "gs://b/", "http://b/x"):
        with pytest.raises(JaxsepError, match=r"data.root=.*: expected a folder, or gs://BUCKET/FOLDER"):
            storage.check(address, "data.root")
    put(bucket, **{"x/big": "12345"})
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 6, 4))
    with pytest.raises(JaxsepError, match=r"gs://b/x: 0.0 GiB do not fit into .*machine.*JAXSEP_CACHE"):
        here("gs://b/x")
    for words in (["data", "example", "gs://b/out"], ["models", "pack", "runs/a", "-o", "gs://b/out"]):
        assert cli.main(words) == 2
        assert "expected a path on a disk" in capsys.readouterr().err
    storage._client.cache_clear()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "google.cloud.storage", None)
        patch.delattr("google.cloud.storage")
        with pytest.raises(JaxsepError, match=r"pip install 'jaxsep\[gcs\]'"):
            here("gs://b/y")


def test_a_server_that_does_not_answer_is_not_asked_for_every_file(bucket, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE", 1.0)
    folder = Folder("gs://b/x")
    write(folder.copy, {f"file {number}": "" for number in range(100)})
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        silent.listen()
        monkeypatch.setattr(folder._client._connection, "API_BASE_URL", f"http://localhost:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(JaxsepError, match="gs://b/x: cannot be written"):
            folder.upload()
    assert time.monotonic() - begun < 10


def test_a_last_upload_that_fails_says_where_all_is(bucket, monkeypatch, capsys):
    monkeypatch.setattr(Folder, "_upload", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(JaxsepError, match=r"all is in .*machine.*goes on from it"), working_copy("gs://b/x") as folder:
        write(folder, {"run.json": RUN})
    with pytest.raises(KeyError), working_copy("gs://b/x"):  # the error on its way out is the first one
        raise KeyError
    assert "all is in" in capsys.readouterr().err


def test_training_in_a_bucket_survives_the_loss_of_its_machine(bucket, songs, environment, tmp_path):
    """Killed, and gone on with elsewhere, it ends bit for bit as on one disk without a kill."""
    for path in songs.rglob("*.wav"):
        bucket.blob(f"songs/{path.relative_to(songs)}").upload_from_filename(path)
    whole, address = tmp_path / "whole", "gs://b/runs/killed"
    finish(command(songs, whole), environment, whole)
    words = ["-c", EAGER, *command("gs://b/songs", address)[1:]]
    first, second = tmp_path / "first", tmp_path / "second"
    with (tmp_path / "killed.log").open("a") as output:
        process = start(words, environment | {"JAXSEP_CACHE": str(first)}, output)
        goal = random.Random(0).randint(25, 35)
        moment = lambda: last_step(first / "buckets/b/runs/killed") >= goal and newest(bucket) > 0
        assert kill_when(process, moment) and process.returncode == -signal.SIGKILL, output.name
        assert last_step(first / "buckets/b/runs/killed") < 60
    shutil.rmtree(first)
    text = finish(words, environment | {"JAXSEP_CACHE": str(second)}, tmp_path / "killed")
    assert "finished at step 60" in text
    copy = second / "buckets/b/runs/killed"
    assert_same_run(copy, whole)
    assert len(json.loads((copy / "run.json").read_text())["resumed"]) >= 1
    stay = {f"runs/killed/{path.relative_to(copy).as_posix()}" for path in copy.rglob("*") if path.is_file()}
    assert {name for name in names(bucket) if name.startswith("runs")} == stay


def newest(bucket):
    """Step of the last checkpoint that is whole in the bucket, 0 without any."""
    sums = [name for name in names(bucket) if name.endswith(f"/{integrity.SUMS}")]
    return max((int(name.split("/")[3]) for name in sums), default=0)


def test_runs_in_buckets_are_scored_and_read(bucket, songs, script, capsys):
    changes = {"steps": 4, "eval_every": 4, "log_every": 4, "save_every": 4, "optim__accumulate": 1}
    address = "gs://b/runs/short"
    assert train.main(command(songs, address, **changes)) == 0
    assert script.main([f"--workdir={address}", "--split=valid", "--backend=sdr"]) == 0
    assert "runs/short/scores/valid/summary.json" in names(bucket)
    capsys.readouterr()
    assert cli.main(["debug", "nonfinite", address]) == 0
    config = run_config(here(address)).unlock()
    config.init = address
    assert load_start(config)[1]["run"] == address
