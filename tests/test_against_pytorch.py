"""The benchmark against PyTorch: what a row is made of, and what ends one."""

import json
import os
import time
from pathlib import Path

import jax
import pytest

from jaxsep.utilisation import Work

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import against_pytorch

    return against_pytorch


class OutOfMemoryError(RuntimeError):
    """As PyTorch's is called."""


def maker(benchmark, error, last):
    """Of steps that take a hundredth of a second; none for a batch larger than `last`."""

    def make(batch):
        if batch > last:
            raise error
        return benchmark.Step(lambda: time.sleep(0.01), lambda: Work(batch, seconds=3.0, memory=7 * batch), 5)

    return make


def test_batches_are_doubled_up_to_the_largest(benchmark):
    figures = list(benchmark.grown(maker(benchmark, None, 99), 3, 13, 2))
    assert [figure["batch"] for figure in figures] == [3, 6, 12]
    for figure in figures:
        assert 0.01 <= figure["seconds"] < 0.1
        assert figure["examples_per_second"] == pytest.approx(figure["batch"] / figure["seconds"], rel=1e-3)
        assert figure["audio_seconds_per_second"] == pytest.approx(3 * figure["examples_per_second"], rel=1e-3)
        assert (figure["parameters"], figure["device_memory"]) == (5, 7 * figure["batch"])


@pytest.mark.parametrize(
    "error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: of 3 GiB"), OutOfMemoryError("CUDA"), MemoryError()]
)
def test_without_memory_the_figures_so_far_are_kept(benchmark, error):
    figures = benchmark.grown(maker(benchmark, error, 2), 1, 64, 1)
    assert [next(figures)["batch"], next(figures)["batch"]] == [1, 2]
    with pytest.raises(benchmark.Ended, match="out of memory at batch 4"):
        next(figures)


def test_any_other_error_is_itself(benchmark):
    with pytest.raises(ValueError, match="no such axis"):
        list(benchmark.grown(maker(benchmark, ValueError("no such axis"), 0), 1, 64, 1))


def test_a_ratio_is_of_the_best_batches_and_of_the_largest_that_both_have(benchmark):
    ours = [{"batch": 1, "seconds": 1.0}, {"batch": 2, "seconds": 1.2}, {"batch": 4, "seconds": 4.0}]
    theirs = [{"batch": 1, "seconds": 0.9}, {"batch": 2, "seconds": 2.4}]
    assert benchmark.best(ours)["batch"] == 2 and benchmark.best(theirs)["batch"] == 1
    assert benchmark.ratio(theirs, ours) == "1.50; 2.00 at 2"  # 0.9 over 0.6 s of an example
    assert benchmark.ratio([], ours) == benchmark.ratio(theirs, []) == ""


def test_a_row_that_hangs_or_dies_says_so(benchmark):
    assert benchmark.apart(0.0, time.sleep, 60) == ([], "stopped after 0 s")
    assert benchmark.apart(60.0, os._exit, 9) == ([], "its process ended with 9")


def test_one_system_without_pytorch(benchmark, tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in benchmark.ENVIRONMENT.items():  # which it sets, for its processes
        monkeypatch.setenv(name, value)
    file = tmp_path / "figures.json"
    words = ["--systems", "open_unmix:demo", "--precisions", "float32", "--candidates", "jaxsep", "PyTorch"]
    benchmark.main([*words, "--batch", "2", "--rounds", "1", "--json", str(file)])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    told = json.loads(file.read_text())
    assert told["about"]["platform"] == "cpu" and told["about"]["jax"] == jax.__version__
    ours, theirs = told["rows"]
    assert ours["note"] == ""
    (figures,) = ours["figures"]  # not grown: it is a CPU
    assert lines[0] == list(benchmark.HEAD)
    assert lines[2][:5] == ["open_unmix:demo", "float32", "jaxsep", "1,250,212", "2"]  # one net of the four
    seconds, examples, audio = map(float, lines[2][5:8])
    assert seconds == pytest.approx(figures["seconds"], rel=1e-3)
    assert seconds * examples == pytest.approx(2, rel=2e-3)
    assert audio == pytest.approx(examples * 63 * 1024 / 44_100, rel=2e-3)
    assert lines[3] == ["open_unmix:demo", "float32", "PyTorch", *[""] * 7, "PyTorch is not installed"]
    assert theirs["figures"] == [] and theirs["note"] == lines[3][-1]
