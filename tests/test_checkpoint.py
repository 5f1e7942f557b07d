"""Checkpoints: what comes back, what is kept, and that no damage goes unnoticed."""

import os
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import integrity
from jaxsep.checkpoint import Checkpoints, load_state, load_variables
from jaxsep.errors import JaxsepError
from jaxsep.hosts import Host


def items(step, ema=True):
    params = {"net": {"kernel": jnp.arange(60.0).reshape(4, 15) + step, "bias": jnp.full((3,), 0.5 * step)}}
    return {
        "params": params,
        "ema": jax.tree.map(lambda x: -x, params) if ema else None,
        "batch_stats": {"norm": {"mean": jnp.full((2,), 7.0 + step)}},
        "training": {"step": jnp.int32(step), "opt_state": (jnp.ones((4, 15)) * step, ()), "key": jax.random.key(step)},
    }


@pytest.mark.parametrize(("weights", "sign"), [("ema", -1), ("ema2", 3), ("params", 1), (None, -1)])
def test_the_weights_that_were_best_are_loaded(tmp_path, weights, sign):
    """And the first averaged ones where none were compared, as in runs from before there could be several."""
    several = items(1) | {"ema2": jax.tree.map(lambda x: 3 * x, items(1)["params"])}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, several, {}, None if weights is None else 5.0, weights)
    variables, info = load_variables(tmp_path)
    np.testing.assert_array_equal(variables["params"]["net"]["kernel"], sign * items(1)["params"]["net"]["kernel"])
    assert info == {"step": 1, "sdr": None if weights is None else 5.0}


def template():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: items(0))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def save_all(workdir, steps, scores=None):
    with Checkpoints(workdir) as checkpoints:
        for step in steps:
            checkpoints.save(step, items(step), {"history": [[step, 0.1]]}, (scores or {}).get(step))


def restore(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(template())


def assert_state(restored, step):
    assert restored is not None
    at, found, meta = restored
    assert at == step and meta == {"history": [[step, 0.1]]}
    expected = items(step)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_items_that_came_or_went_with_another_precision(tmp_path):
    scale = {"loss_scale": {"scale": jnp.float32(8), "good": jnp.int32(3)}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, items(1), {"history": []})
        checkpoints.wait()
        assert checkpoints.restore(template())[1].keys() == items(1).keys()
        assert checkpoints.restore(template() | scale)[1]["loss_scale"] is scale["loss_scale"]
        checkpoints.save(2, items(2) | scale, {"history": []})
        checkpoints.wait()
        fresh = {"loss_scale": jax.tree.map(jnp.zeros_like, scale["loss_scale"])}
        found = checkpoints.restore(template() | fresh)[1]["loss_scale"]
        assert (float(found["scale"]), int(found["good"])) == (8, 3)
        assert checkpoints.restore(template() | {"loss_scale": None})[1]["loss_scale"] is None
        checkpoints.save(3, items(3), {"history": []})
    before = sorted(path for path in tmp_path.rglob("*"))
    step, found, _ = load_state(tmp_path, template())
    assert step == 3 and int(found["training"]["step"]) == 3
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_checkpoint_saved_before_its_validation_is_replaced(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, items(4), {"history": []})
        checkpoints.save(4, items(4), {"history": [[4, 0.1]]}, 0.1)
    assert_state(restore(tmp_path), 4)
    assert load_variables(tmp_path)[1] == {"step": 4, "sdr": 0.1}
    assert os.listdir(tmp_path / "checkpoints") == ["4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    save_all(workdir, (1, 2))
    return workdir


def test_comes_back_as_it_was(run):
    assert_state(restore(run), 2)


def test_nothing_saved_is_none(tmp_path):
    assert restore(tmp_path) is None


def test_keeps_the_last_two_and_the_best(tmp_path):
    save_all(tmp_path, (1, 2, 3, 4, 5), {1: 1.0, 2: 3.0, 3: 2.0})
    assert integrity.steps(tmp_path / "checkpoints") == [2, 4, 5]
    save_all(tmp_path, (6,))  # the best is known to the next start too
    assert integrity.steps(tmp_path / "checkpoints") == [2, 5, 6]
    save_all(tmp_path, (7,), {7: 3.5})
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["6", "7"]


def test_a_step_is_saved_once(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(2, items(9), {})
    assert_state(restore(run), 2)


def test_variables_are_read_without_the_optimiser(tmp_path, monkeypatch):
    save_all(tmp_path, (1, 2, 3, 4), {1: 0.0, 2: -1.0})
    for folder in (tmp_path / "checkpoints").glob("*/training"):
        shutil.rmtree(folder)  # so reading it would fail; the sums are not asked here
    monkeypatch.setattr(integrity, "damage", lambda checkpoint: None)
    with pytest.raises(JaxsepError, match=r"no checkpoint 2; expected best, last or one of \[1, 3, 4\]"):
        load_variables(tmp_path, 2)
    for which, step, sdr in (("best", 1, 0.0), ("last", 4, None), (3, 3, None)):
        variables, info = load_variables(tmp_path, which)
        assert info == {"step": step, "sdr": sdr}
        assert set(variables) == {"params", "batch_stats"}
        kernel = variables["params"]["net"]["kernel"]
        assert isinstance(kernel, np.ndarray)
        np.testing.assert_array_equal(kernel, -items(step)["params"]["net"]["kernel"])  # the averaged ones
        mean = variables["batch_stats"]["norm"]["mean"]
        np.testing.assert_array_equal(mean, items(step)["batch_stats"]["norm"]["mean"])


def test_without_averages_the_parameters_are_read(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, items(1, ema=False) | {"batch_stats": {}}, {})
    variables, _ = load_variables(tmp_path)
    np.testing.assert_array_equal(variables["params"]["net"]["kernel"], items(1)["params"]["net"]["kernel"])
    assert set(variables) == {"params"}


def test_no_checkpoint_to_load(tmp_path):
    with pytest.raises(JaxsepError, match="no checkpoint that can be read"):
        load_variables(tmp_path)


def _remove(path):
    path.unlink()


def _empty(path):
    path.write_bytes(b"")


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("harm", [_remove, _empty, _truncate, _flip])
def test_every_damaged_file_is_noticed(run, tmp_path, harm):
    whole = run / "checkpoints" / "2"
    files = [path.relative_to(whole) for path in sorted(whole.rglob("*")) if path.is_file()]
    assert len(files) > 20
    for name in files:
        copy = tmp_path / "copy" / "2"
        shutil.copytree(whole, copy)
        harm(copy / name)
        # Two small files hold no state: the marker, which nobody reads, and Orbax' own metadata, checked as JSON.
        if integrity.damage(copy) is None:
            assert str(name) in ("commit_success.txt", "_CHECKPOINT_METADATA"), name
            assert name.name != "_CHECKPOINT_METADATA" or harm is _flip
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("harm", [_remove, _empty, _truncate, _flip])
@pytest.mark.parametrize(
    "name", ["largest", "_CHECKPOINT_METADATA", "meta/metadata", "commit_success.txt", "SHA256SUMS"]
)
def test_falls_back_and_says_so(run, tmp_path, capfd, harm, name):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "2"
    path = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    harm(path if name == "largest" else newest / name)
    noticed = integrity.damage(newest) is not None
    restored = restore(tmp_path)
    printed = capfd.readouterr().err.splitlines()
    if not noticed:  # no state was in the file
        assert_state(restored, 2)
        assert printed == []
        return
    assert_state(restored, 1)
    assert len(printed) == 1
    assert f"{newest}: damaged" in printed[0] and "the newest is now 1" in printed[0]
    assert (tmp_path / "checkpoints" / "2.damaged").is_dir()
    save_all(tmp_path, (2,))  # the run comes to the step again
    assert_state(restore(tmp_path), 2)
    assert capfd.readouterr().err == ""


def test_inference_passes_a_damaged_checkpoint_over(run, tmp_path, capfd):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    _flip(tmp_path / "checkpoints" / "2" / "SHA256SUMS")
    _, info = load_variables(tmp_path, "last")
    assert info["step"] == 1
    assert len(capfd.readouterr().err.splitlines()) == 1
    with pytest.raises(JaxsepError, match="no checkpoint that can be read"):
        load_variables(tmp_path, 2)


def test_never_starts_over_silently(run, tmp_path):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    for step in ("1", "2"):
        _truncate(tmp_path / "checkpoints" / step / "meta" / "metadata")
    with pytest.raises(JaxsepError, match=r"none of the checkpoints \[1, 2\] can be read"):
        restore(tmp_path)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


def test_leftovers_of_a_killed_save_are_cleaned(run, tmp_path):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    assert_state(restore(tmp_path), 2)
    save_all(tmp_path, (3,))
    assert sorted(os.listdir(folder)) == ["2", "3"]


def test_another_model_is_refused(run):
    other = template()
    other["params"] = {"net": {"kernel": other["params"]["net"]["kernel"]}}
    with Checkpoints(run) as checkpoints, pytest.raises(JaxsepError, match="does not fit this model"):
        checkpoints.restore(other)


def test_unwritable_folder(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(JaxsepError, match="checkpoints: cannot be used"):
        Checkpoints(tmp_path)


def test_a_save_that_would_fill_the_disk_is_refused(run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    usage = shutil.disk_usage(tmp_path)
    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(
            JaxsepError, match=r"checkpoints/3: could not be written \(it takes 1.0 MiB and 0.0 MiB are"
        ):
            checkpoints.save(3, items(3), {})
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


def test_goes_on_while_the_disk_is_full_and_says_so(run, tmp_path, monkeypatch, capfd):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    usage = shutil.disk_usage(tmp_path)
    with Checkpoints(tmp_path, on_full_disk="go_on") as checkpoints:
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
            for step in (3, 4):
                checkpoints.save(step, items(step), {})
            with pytest.raises(JaxsepError, match=r"checkpoints/4: could not be written"):
                checkpoints.wait()  # who asks whether it is saved is told the truth
        said = capfd.readouterr().err.splitlines()
        assert len(said) == 2 and "goes on without a checkpoint: " in said[0] and "checkpoint 2 is kept" in said[0]
        checkpoints.save(5, items(5), {"history": [[5, 0.1]]})
        checkpoints.wait()
    assert_state(restore(tmp_path), 5)
    assert integrity.steps(tmp_path / "checkpoints") == [2, 5]
    with pytest.raises(JaxsepError, match=r"checkpoints/6: could not"), Checkpoints(tmp_path, None, "go_on") as last:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        last.save(6, items(6), {})


FULL_DISK = """
    import resource, signal, sys
    import jax.numpy as jnp, numpy as np
    from jaxsep.checkpoint import Checkpoints
    from jaxsep.errors import JaxsepError

    go_on = sys.argv[2] == "go_on"
    small = {"params": {"w": jnp.zeros(10)}}
    large = {"params": {"w": jnp.asarray(np.random.default_rng(0).standard_normal(300_000, np.float32))}}
    try:
        with Checkpoints(sys.argv[1], None, sys.argv[2]) as checkpoints:
            checkpoints.save(1, small, {})
            checkpoints.wait()
            # the system's answer to a file that grows too large stands for that to a disk that is full
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
            checkpoints.save(2, large, {})
            if go_on:  # the failure is met by the next save
                checkpoints.save(3, small, {})
            checkpoints.wait()
    except JaxsepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
"""


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run([*command, "stop"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{tmp_path / 'checkpoints' / '2'}: could not be written" in done.stderr
    assert "checkpoint 1 is kept" in done.stderr
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore({"params": {"w": jnp.ones(10)}})
    assert restored is not None
    at, found, _ = restored
    assert at == 1
    np.testing.assert_array_equal(found["params"]["w"], np.zeros(10))
    assert os.listdir(tmp_path / "checkpoints") == ["1"]

    done = subprocess.run(
        [*command[:-1], str(tmp_path / "go_on"), "go_on"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert "the run goes on without a checkpoint: " in line and "checkpoints/2: could not be written" in line
    assert sorted(os.listdir(tmp_path / "go_on" / "checkpoints")) == ["1", "3"]


def test_a_save_that_others_have_left_is_no_matter_of_the_disk(tmp_path, monkeypatch):
    class Pair(Host):
        count = 2

        def gather(self, value):
            return [value, value]

    error = jax.errors.JaxRuntimeError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    with pytest.raises(jax.errors.JaxRuntimeError), Checkpoints(tmp_path, Pair()) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", lambda *_, **__: (_ for _ in ()).throw(error))
        checkpoints.save(1, {"params": {"w": jnp.ones(1)}}, {})
    with pytest.raises(JaxsepError, match="could not be written"), Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", lambda *_, **__: (_ for _ in ()).throw(error))
        checkpoints.save(1, {"params": {"w": jnp.ones(1)}}, {})


def test_a_save_does_not_see_what_comes_after_it(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    wave = jnp.zeros(4_000_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"w": wave}}, {})
        for _ in range(20):
            wave = step(wave)
        checkpoints.save(2, {"params": {"w": wave}}, {})
    for number, value in ((1, 0), (2, 20)):
        variables, _ = load_variables(tmp_path, number)
        assert set(np.unique(variables["params"]["w"]).tolist()) == {value}
