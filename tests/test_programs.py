"""What a compiled step is said to do is what it does, and the step that is loaded is the one that was kept."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsep import programs, training, utilisation
from jaxsep.config import defaults
from jaxsep.layers.recurrent import BLSTM

ROWS, WIDTH, ROUNDS = 64, 128, 10
PRODUCT = 2 * ROWS * WIDTH * WIDTH


def once(x, w):
    return x @ w


def in_rounds(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, length=ROUNDS)[0]


def in_rounds_of_rounds(x, w):
    return jax.lax.scan(lambda x, _: (jax.jit(in_rounds)(x, w), None), x, length=3)[0]


CASES = {"once": (once, 1), "loop": (in_rounds, ROUNDS), "nested": (in_rounds_of_rounds, 3 * ROUNDS)}


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("case", CASES)
def test_products_are_counted_as_often_as_they_run(case, devices):
    function, times = CASES[case]
    mesh = training.make_mesh(jax.devices()[:devices])
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    shapes = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.float32), jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)
    by_xla = jax.jit(function, in_shardings=(split, whole), out_shardings=split)
    specs = {"in_specs": (PartitionSpec("data"), PartitionSpec()), "out_specs": PartitionSpec("data")}
    by_hand = jax.jit(jax.shard_map(function, mesh=mesh, check_vma=False, **specs))
    for jitted in (by_xla, by_hand):
        program = programs.build(jitted, devices, *shapes)
        assert program.flops == pytest.approx(times * PRODUCT / devices, rel=0.01)


def test_an_lstm_is_counted_at_every_step():
    """By hand: the inputs' share of the gates and the products with the state, in both directions."""
    frames, batch, features, units = 50, 4, 32, 64
    net = BLSTM(units)
    x = jnp.zeros((batch, frames, features))
    params = net.init(jax.random.key(0), x, False)
    program = programs.build(jax.jit(lambda params, x: net.apply(params, x, False)), 1, params, x)
    products = 2 * 2 * frames * batch * 4 * units * (features + units)
    assert products <= program.flops < 1.1 * products, "the rest are the gates' own operations"


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("both", [False, True])
def test_cudnns_lstm_is_counted_though_xla_knows_nothing_of_it(layers, both, monkeypatch):
    """As the products of JAX's reference of it; traced as on a GPU."""
    sizes = SimpleNamespace(compute_rnn_workspace_reserve_space_sizes=lambda *sizes: (1, 1))
    monkeypatch.setattr(rnn, "gpu_rnn", sizes)
    batch, frames, options = 8, 10, (6, 16, layers, 0.0, both)
    x, weights = jnp.zeros((batch, frames, 6)), jnp.zeros(rnn.get_num_params_in_lstm(6, 16, layers, both))

    def states(x):
        return (jnp.zeros(((1 + both) * layers, len(x), 16)),) * 2

    def by_cudnn(x, weights):
        return rnn.lstm(x, *states(x), weights, jnp.full(len(x), frames, jnp.int32), *options)[0]

    def reference(x, weights):
        unpacked = rnn.unpack_lstm_weights(weights, 6, 16, layers, both)
        return rnn.lstm_ref(x, *states(x), *unpacked, jnp.full(len(x), frames, jnp.int32), *options)[0]

    def gradient(function):
        return jax.grad(lambda x, weights: function(x, weights).sum(), (0, 1))

    def counted(function, devices=1):
        return programs._uncounted(jax.make_jaxpr(function)(x, weights).jaxpr, rounds=1, share=1 / devices)

    forward, step = (counted(function) * frames / (frames - 1) for function in (reference, gradient(reference)))
    if layers == 1:
        assert forward == pytest.approx((1 + both) * 2 * batch * frames * 4 * 16 * (6 + 16))
    assert counted(by_cudnn) == pytest.approx(forward)
    assert counted(gradient(by_cudnn)) == pytest.approx(step) == pytest.approx(3 * forward)

    thrice = lambda x, weights: jax.lax.scan(lambda _, x: (None, by_cudnn(x, weights)), None, jnp.stack([x] * 3))[1]
    assert counted(thrice, devices=4) == pytest.approx(3 * forward / 4)
    split, whole = PartitionSpec("data"), PartitionSpec()
    shared = {"mesh": training.make_mesh(), "in_specs": (split, whole), "out_specs": split, "check_vma": False}
    assert counted(jax.shard_map(by_cudnn, **shared), devices=4) == pytest.approx(forward / 4)


def test_memory_is_that_of_what_goes_in_comes_out_and_lies_between():
    program = programs.build(jax.jit(lambda x: jnp.outer(x, x) @ x), 1, jax.ShapeDtypeStruct((512,), jnp.float32))
    assert 4 * 2 * 512 <= program.memory <= 2 * 4 * 512 * 512
    np.testing.assert_allclose(program(np.ones(512, np.float32)), np.full(512, 512.0))
    with pytest.raises(TypeError):
        program(np.ones(511, np.float32))


def test_the_peak_is_that_of_the_device_and_of_what_the_net_computes_in(monkeypatch):
    config, mesh = defaults(), training.make_mesh()
    config.data.batch_size, config.data.segment, config.sample_rate = 6, 22050, 44100
    program = programs.Program(lambda: None, flops=2e12, memory=10)
    unknown = program.work(config, mesh)
    assert unknown.peak is None and "utilisation" not in unknown.rates(1.0), "nothing is made up for a CPU"
    monkeypatch.setitem(utilisation.PEAKS, "cpu", utilisation.PEAKS["NVIDIA A100-SXM4-80GB"])
    peaks = {}
    for precision in ("float32", "p=f32,c=bf16,o=f32", "float16, net/a=f32"):
        config.precision = precision
        work = program.work(config, mesh)
        assert (work.examples, work.seconds, work.flops, work.memory) == (6, 0.5, 2e12, 10)
        peaks[precision] = work.peak
    assert list(peaks.values()) == [156e12, 312e12, 312e12]


def test_no_device_multiplies_float32_faster_than_what_is_shorter():
    for kind, peaks in utilisation.PEAKS.items():
        assert peaks["float32"] <= max(peaks.values()) < 1e15 and min(peaks.values()) > 5e12, kind


@pytest.fixture
def folder(tmp_path):
    """The compilation cache, empty."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


class Start:
    """Starts of one training, of which each counts what it compiles."""

    def __init__(self):
        self.config, self.mesh, self.made = defaults(), training.make_mesh(), 0
        split = NamedSharding(self.mesh, PartitionSpec("data"))
        self.shape = jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=split)

    def make(self):
        self.made += 1
        jitted = jax.jit(lambda x, gain: {"y": gain * x}, out_shardings=self.shape.sharding, donate_argnums=0)
        return programs.build(jitted, 4, self.shape, jnp.float32(0))

    def __call__(self):
        given = self.shape, jnp.float32(0)
        return programs.reuse(self.config, self.mesh, given, {"y": 0}, self.make)


def test_a_program_is_found_again_and_does_what_it_did(folder):
    start = Start()
    first, second = start(), start()
    assert start.made == 1 and len(list(folder.glob("step-*"))) == 1
    assert (second.flops, second.memory) == (first.flops, first.memory)
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    for program in (first, second):
        given = jax.device_put(x, start.shape.sharding)
        y = program(given, np.float32(2.5))["y"]
        assert np.asarray(y).tobytes() == (2.5 * x).tobytes() and y.sharding == start.shape.sharding
        assert given.is_deleted(), "donated as before"
        with pytest.raises(TypeError):
            program(x[:4], np.float32(1))


def test_what_comes_out_of_jaxs_cache_is_not_kept_a_second_time(folder):
    """Written again it would lack functions, of which nothing is heard before it runs."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    compilation_cache.reset_cache()  # which has its folder from its first use on
    try:
        start = Start()
        start()
        assert list(folder.glob("*-cache")), "JAX keeps it, too"
        start.config.log_every += 1  # another key, the same program
        jax.clear_caches()
        for made in (2, 3):
            start()
            assert start.made == made and len(list(folder.glob("step-*"))) == 1
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
        compilation_cache.reset_cache()


def other_config(start, monkeypatch):
    start.config.optim.clip = 1.0


def other_code(start, monkeypatch):
    monkeypatch.setattr(programs, "_code", lambda: "edited")


def other_version(start, monkeypatch):
    monkeypatch.setattr(programs.workdir, "versions", lambda: {"jax": "0.99"})


def other_processor(start, monkeypatch):
    monkeypatch.setattr(programs.cache, "processor", lambda: "of another kind")


def other_flags(start, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")


def other_shape(start, monkeypatch):
    start.shape = start.shape.update(shape=(16, 3))


def other_devices(start, monkeypatch):
    start.mesh = Mesh(np.array(jax.devices()[::-1]), ("data",))


def other_option(start, monkeypatch):
    jax.config.update("jax_default_matmul_precision", "highest")


OTHER = [
    *(other_config, other_code, other_version, other_processor, other_flags),
    *(other_shape, other_devices, other_option),
]


@pytest.mark.parametrize("change", OTHER, ids=lambda change: change.__name__)
def test_nothing_is_loaded_where_anything_is_another(folder, monkeypatch, change):
    start = Start()
    start()
    with monkeypatch.context() as patch:
        change(start, patch)
        start()
        start()
        jax.config.update("jax_default_matmul_precision", None)
    assert start.made == 2, "the other one, once"


DAMAGE = [lambda whole: whole[:-5], lambda whole: whole[:20], lambda whole: whole[:-1] + b"\0"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_counts_for_nothing_and_is_replaced(folder, damage):
    start = Start()
    start()
    (path,) = folder.glob("step-*")
    path.write_bytes(damage(path.read_bytes()))
    start()
    start()
    assert start.made == 2 and [path] == list(folder.glob("step-*"))


def test_nothing_is_kept_without_a_folder_or_in_one_that_cannot_be_written(folder):
    start = Start()
    jax.config.update("jax_compilation_cache_dir", str(folder / "missing"))
    assert start()(jnp.ones((8, 3)), np.float32(1)) and not list(folder.iterdir())
    jax.config.update("jax_compilation_cache_dir", None)
    start()
    assert start.made == 2 and not list(folder.iterdir())


def test_the_code_is_all_of_it(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "deep").mkdir()
    (package / "programs.py").write_text("")
    (package / "deep" / "net.py").write_text("a = 1\n")
    monkeypatch.setattr(programs, "__file__", str(package / "programs.py"))
    before = programs._code()
    assert programs._code() == before
    (package / "deep" / "net.py").write_text("a = 2\n")
    assert programs._code() != before
