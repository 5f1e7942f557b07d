"""The recurrent layer against a float64 LSTM written from its equations, Keras, and the gradient of a plain scan.

What cuDNN is given is given to JAX's own reading of cuDNN's weights and to JAX's reference of its LSTM.
"""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import rnn
from jax.sharding import PartitionSpec

from jaxsep import training
from jaxsep.layers import cudnn
from jaxsep.layers import recurrent as recurrent_layers
from jaxsep.layers.recurrent import BLSTM, LSTM, lstm


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_direction(x, weights):
    """[b n d] -> [b n u] in float64, one example and one frame at a time."""
    w, r, b = (np.asarray(weights[name], np.float64) for name in ("input", "recurrent", "bias"))
    units = r.shape[0]
    out = np.zeros((*x.shape[:2], units))
    for example in range(len(x)):
        h, cell = np.zeros(units), np.zeros(units)
        for n, frame in enumerate(np.asarray(x[example], np.float64)):
            a = frame @ w + h @ r + b
            i, f, g, o = (a[k * units : (k + 1) * units] for k in range(4))
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            h = out[example, n] = sigmoid(o) * np.tanh(cell)
    return out


def numpy_blstm(x, params):
    for name in sorted(params):
        forward = numpy_direction(x, params[name]["forward"])
        backward = numpy_direction(x[:, ::-1], params[name]["backward"])[:, ::-1]
        x = np.concatenate([forward, backward], axis=-1)
    return x


def made(layers=2, units=5, shape=(3, 7, 4), seed=0, **fields):
    """A layer, its variables (large enough to leave the linear range) and an input."""
    x = jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)
    net = BLSTM(units, layers, **fields)
    variables = jax.jit(lambda x: net.init(jax.random.key(seed), x, False))(x)
    return net, jax.tree.map(lambda leaf: 3 * leaf, variables), x


def evaluated(net, variables, x):
    return jax.jit(lambda v: net.apply(v, x, False))(variables)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("layers", [1, 3])
def test_equal_to_the_equations(layers):
    net, variables, x = made(layers)
    assert relative(evaluated(net, variables, x), numpy_blstm(np.asarray(x), variables["params"])) < 1e-5


def test_one_direction_is_equal_to_the_equations():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 7, 4)), jnp.float32)
    net = LSTM(5, 2)
    params = jax.tree.map(lambda leaf: 3 * leaf, net.init(jax.random.key(0), x)["params"])
    expected = numpy_direction(numpy_direction(np.asarray(x), params["layer0"]), params["layer1"])
    assert relative(net.apply({"params": params}, x), expected) < 1e-5
    half = net.clone(dtype=jnp.bfloat16).apply({"params": params}, x)
    assert half.dtype == jnp.bfloat16 and 0 < relative(half.astype(jnp.float32), expected) < 0.03


def test_equal_to_keras():
    keras = pytest.importorskip("keras", reason="the parity extra brings Keras")
    net, variables, x = made(1)
    layer = keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True))
    layer.build(x.shape)
    directions = [variables["params"]["layer0"][name] for name in ("forward", "backward")]
    layer.set_weights([np.asarray(d[name]) for d in directions for name in ("input", "recurrent", "bias")])
    assert relative(evaluated(net, variables, x), layer(np.asarray(x))) < 1e-5


@pytest.mark.parametrize("large, rows, units", [(2**20, 3, 5), (0, 3, 5), (0, 1, 5), (0, 1, 64)])
def test_gradient_is_that_of_the_plain_scan(large, rows, units, monkeypatch):
    """The saved gates give what differentiating the recurrence step by step gives; one row has a product of its own."""
    monkeypatch.setattr(recurrent_layers, "LARGE", large)
    rng = np.random.default_rng(0)
    gates = jnp.asarray(rng.standard_normal((9, 2, rows, 4 * units)), jnp.float32)
    recurrent = tuple(jnp.asarray(rng.standard_normal((2, units, 4 * units)) / units**0.5, jnp.float32))
    weight = jnp.asarray(rng.standard_normal((9, 2, rows, units)), jnp.float32)

    def plain(gates, recurrent):
        def step(state, gates):
            h, cell = state
            i, f, g, o = jnp.split(gates + jnp.einsum("rbu,rug->rbg", h, jnp.stack(recurrent)), 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (h, cell), h

        return lax.scan(step, (jnp.zeros((2, rows, units)),) * 2, gates)[1]

    def both(function):
        return function(gates, recurrent), jax.grad(lambda *args: (function(*args) * weight).sum(), (0, 1))(
            gates, recurrent
        )

    results = [jax.tree.leaves(jax.jit(both, static_argnums=0)(function)) for function in (lstm, plain)]
    for ours, theirs in zip(*results, strict=True):
        assert relative(ours, theirs) < 1e-5


def test_gradient_follows_finite_differences():
    """Of every parameter of two layers, along a random direction, in float64 numpy."""
    net, variables, x = made(2, 3, (2, 5, 4))
    weight = np.random.default_rng(1).standard_normal((2, 5, 6))
    gradient = jax.jit(jax.grad(lambda v: (net.apply(v, x, False) * weight.astype(np.float32)).sum()))(variables)
    rng = np.random.default_rng(2)
    direction = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape), variables["params"])

    def value(step):
        moved = jax.tree.map(lambda p, d: np.asarray(p, np.float64) + step * d, variables["params"], direction)
        return (numpy_blstm(np.asarray(x), moved) * weight).sum()

    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    products = jax.tree.map(lambda g, d: (g * d).sum(), gradient["params"], direction)
    assert sum(jax.tree.leaves(products)) == pytest.approx(expected, rel=1e-4)


def test_parameters_and_initial_values():
    net = BLSTM(16, 2)
    x = jnp.zeros((1, 3, 10))
    params = jax.jit(lambda x: net.init(jax.random.key(0), x, False))(x)["params"]
    shapes = jax.tree.map(jnp.shape, params["layer1"]["backward"])
    assert shapes == {"input": (32, 64), "recurrent": (16, 64), "bias": (64,)}
    assert params["layer0"]["forward"]["input"].shape == (10, 64)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert 0.99 * 0.25 < np.abs(values).max() <= 0.25 and abs(values.mean()) < 0.01
    directions = params["layer0"]["forward"]["input"], params["layer0"]["backward"]["input"]
    assert relative(*directions) > 0.1


def test_dropout_is_between_layers_only():
    def outputs(layers):
        net, variables, x = made(layers, dropout=0.5)
        run = jax.jit(lambda key: net.apply(variables, x, True, rngs={"dropout": key}))
        return run(jax.random.key(0)), run(jax.random.key(1))

    assert relative(*outputs(1)) == 0
    assert relative(*outputs(2)) > 1e-2
    assert all((out != 0).all() for out in outputs(2))
    net, variables, x = made(2, dropout=0.5)
    assert relative(evaluated(net, variables, x), evaluated(net.clone(dropout=0.0), variables, x)) == 0


def test_bfloat16_computes_near_float32():
    net, variables, x = made(2)
    half = net.clone(dtype=jnp.bfloat16)
    out = evaluated(half, variables, x)
    assert out.dtype == jnp.bfloat16
    assert 0 < relative(out.astype(jnp.float32), evaluated(net, variables, x)) < 0.03
    gradient = jax.jit(jax.grad(lambda v: half.apply(v, x, False).astype(jnp.float32).sum()))(variables)
    expected = jax.jit(jax.grad(lambda v: net.apply(v, x, False).sum()))(variables)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32 and relative(ours, theirs) < 0.1


class Net:
    """Layers of one or both directions behind one interface: values and gradients of input and parameters."""

    def __init__(self, both, layers, dropout=0.0, dtype=jnp.float32, units=5, shape=(3, 7, 4)):
        rng = np.random.default_rng(0)
        self.net = BLSTM(units, layers, dropout, dtype=dtype) if both else LSTM(units, layers, dtype=dtype)
        self.more = (True,) if both else ()
        self.x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        params = jax.jit(lambda x: self.net.init(keys, x, *self.more))(self.x)["params"]
        self.params = jax.tree.map(lambda leaf: 3 * leaf, params)
        self.weight = jnp.asarray(rng.standard_normal((*shape[:2], units * (1 + both))), jnp.float32)

    def __call__(self, params, x):
        return self.net.apply({"params": params}, x, *self.more, rngs={"dropout": jax.random.key(1)})

    def results(self):
        """By path: the outputs, and the gradients of their weighted sum."""

        def run(params, x):
            def scalar(params, x):
                y = self(params, x)
                return (y * self.weight).sum(), y

            return jax.grad(scalar, (0, 1), has_aux=True)(params, x)

        leaves = jax.tree_util.tree_leaves_with_path(jax.jit(run)(self.params, self.x))
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def jaxs_reference(
    x, h_0, c_0, weights, seq_lengths, input_size, hidden_size, num_layers, dropout, bidirectional, precision=None
):
    """In the place of `rnn.lstm`, of whose arguments it has JAX's own reading."""
    sizes = input_size, hidden_size, num_layers
    assert weights.shape == (rnn.get_num_params_in_lstm(*sizes, bidirectional),)
    unpacked = rnn.unpack_lstm_weights(weights, *sizes, bidirectional)
    return rnn.lstm_ref(x, h_0, c_0, *unpacked, seq_lengths, *sizes, dropout, bidirectional)


CASES = {
    "forward": (False, 1, 0.0),
    "forward, two layers": (False, 2, 0.0),
    "both": (True, 1, 0.0),
    "both, two layers": (True, 2, 0.0),
    "both, two layers, dropout": (True, 2, 0.5),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cudnn_is_given_is_the_layer(case, monkeypatch):
    """Values and all gradients by the code that runs on a GPU, up to JAX's call of cuDNN."""
    net = Net(*CASES[case])
    monkeypatch.setattr(rnn, "lstm", jaxs_reference)
    results = []
    for usable in (False, True):
        monkeypatch.setattr(cudnn, "usable", lambda dtype, usable=usable: usable)
        with jax.default_matmul_precision("highest"):
            results.append(net.results())
    ours, theirs = results
    assert ours.keys() == theirs.keys() and len(ours) == 2 + len(jax.tree.leaves(net.params))
    for name, value in ours.items():
        assert relative(value, theirs[name]) < 1e-5, name
    assert any((ours[name] != theirs[name]).any() for name in ours), "another computation"


def test_the_second_of_cudnns_biases_is_zero():
    params = Net(True, 1).params["layer0"]
    weights = [tuple(params[way][name] for name in ("input", "recurrent", "bias")) for way in ("forward", "backward")]
    unpacked = rnn.unpack_lstm_weights(cudnn.pack(weights), 4, 5, 1, True)
    for way, (kernel, recurrent, bias) in enumerate(weights):
        for theirs, ours in zip(unpacked, (kernel.T, recurrent.T, bias, jnp.zeros(20)), strict=True):
            np.testing.assert_array_equal(theirs[way], ours)


@pytest.fixture
def gpu(monkeypatch):
    """As JAX looks on one GPU of CUDA: it can trace cuDNN's LSTM, and not compile it."""
    device = SimpleNamespace(platform="gpu", client=SimpleNamespace(platform_version="PJRT C API\ncuda 13000"))
    real = jax.local_devices
    monkeypatch.setattr(jax, "local_devices", lambda backend=None: real(backend=backend) if backend else [device])
    monkeypatch.setattr(jax, "device_count", lambda backend=None: 1)
    sizes = SimpleNamespace(compute_rnn_workspace_reserve_space_sizes=lambda *sizes: (1, 1))
    monkeypatch.setattr(rnn, "gpu_rnn", sizes)
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true --xla_gpu_deterministic_ops=false")
    return device


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("both", [False, True])
def test_jaxs_call_of_cudnn_is_traced_for_a_gpu(gpu, both, dtype):
    """Its own checks of shapes and dtypes, both ways; between the layers there is the layers' dtype."""
    net = Net(both, 2, dtype=dtype)
    traced = jax.make_jaxpr(jax.grad(lambda params, x: (net(params, x) * net.weight).sum(), (0, 1)))(net.params, net.x)
    calls = [equation for equation in traced.eqns if equation.primitive.name.startswith("rnn_")]
    assert [call.primitive.name for call in calls] == ["rnn_fwd"] * 2 + ["rnn_bwd"] * 2
    ways = 1 + both
    for features, call in zip((4, 5 * ways), calls[:2], strict=True):
        size = ways * 4 * 5 * (features + 5 + 2)
        shapes = [(3, 7, features), (ways, 3, 5), (ways, 3, 5), (size,), (3,)]
        assert [given.aval.shape for given in call.invars] == shapes
        assert [given.aval.dtype for given in call.invars] == [jnp.float32] * 4 + [jnp.int32]
        assert call.params["bidirectional"] is both and call.params["cudnn_allow_tf32"]
    assert jax.eval_shape(net, net.params, net.x).dtype == dtype
    assert all(gradient.dtype == jnp.float32 for gradient in traced.out_avals)


def of_rocm(gpu, patch):
    gpu.client.platform_version = "PJRT C API\nrocm 60300"


def of_the_cpu(gpu, patch):
    gpu.platform = "cpu"


def without_the_call(gpu, patch):
    patch.setattr(rnn, "gpu_rnn", SimpleNamespace())


def without_cuda(gpu, patch):
    patch.setattr(rnn, "gpu_rnn", None)


def with_other_gpus(gpu, patch):
    patch.setattr(jax, "device_count", lambda backend=None: 2)


def to_be_the_same_each_time(gpu, patch):
    patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false --xla_gpu_deterministic_ops=true")


def to_be_the_same_by_hand(gpu, patch):
    patch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops")


RULES = [
    *(of_rocm, of_the_cpu, without_the_call, without_cuda),
    *(with_other_gpus, to_be_the_same_each_time, to_be_the_same_by_hand),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_cudnn_is_not_usable(gpu, monkeypatch, rule):
    assert cudnn.usable(jnp.float32)
    rule(gpu, monkeypatch)
    assert not cudnn.usable(jnp.float32)


def test_cudnn_is_not_usable_on_another_device_of_the_machine(gpu):
    for device in ("cpu", jax.devices("cpu")[0]):
        with jax.default_device(device):
            assert not cudnn.usable(jnp.float32)
    assert cudnn.usable(jnp.float32)


def test_cudnn_has_the_dtypes_and_precisions_that_its_call_knows(gpu):
    usable = {dtype: cudnn.usable(dtype) for dtype in ("float32", "bfloat16", "float16", "float64")}
    assert usable == {"float32": True, "bfloat16": True, "float16": True, "float64": False}
    allowed = {"tensorfloat32": True, "high": True, "float32": False, "highest": False}
    for precision in (*allowed, "default", "bfloat16", "F32_F32_F32", "BF16_BF16_F32"):
        with jax.default_matmul_precision(precision):
            assert cudnn.usable(jnp.float32) == (precision in allowed), precision
            if precision in allowed:
                call = jax.make_jaxpr(LSTM(2).init_with_output)(jax.random.key(0), jnp.zeros((1, 2, 3)))
                assert f"cudnn_allow_tf32={allowed[precision]}" in str(call)


def test_of_several_devices_each_has_cudnn_under_shard_map_alone(gpu, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda backend=None: 4)
    mesh, seen = training.make_mesh(), []

    def layer(x):
        seen.append(cudnn.usable(jnp.float32))
        return x

    split = PartitionSpec("data")
    shared = jax.shard_map(layer, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    for function in (layer, shared):
        jax.jit(function).trace(jax.ShapeDtypeStruct((8, 3), jnp.float32))
    assert seen == [False, True]


def test_cudnn_is_not_usable_without_a_gpu():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU here")
    assert not cudnn.usable(jnp.float32)


@pytest.mark.parametrize("case", ["forward, two layers", "both, two layers, dropout"])
def test_cudnn_is_the_layer(case, monkeypatch):
    """In float32, and near it in TF32, whose rounding, done on a CPU, changes these numbers by up to 1.6e-3."""
    if jax.default_backend() != "gpu":
        pytest.skip("JAX sees no GPU here; docs/training.md says how to show it one")
    net = Net(*CASES[case], units=32, shape=(4, 50, 24))
    assert cudnn.usable(jnp.float32)
    rounded = net.results()
    with jax.default_matmul_precision("highest"):
        exact = net.results()
        monkeypatch.setattr(cudnn, "usable", lambda dtype: False)
        ours = net.results()
    for name, value in ours.items():
        assert 0 < relative(exact[name], value) < 1e-5, name
        assert relative(rounded[name], value) < 5e-3, name
