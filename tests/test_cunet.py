"""The Conditioned-U-Net against the same network in Keras, live and on file."""

import itertools
import math
import shutil
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make_cunet
from golden.make_cunet import NARROW, draw, fill, inputs, keras_cunet

from jaxsep import separator, weights
from jaxsep.errors import JaxsepError
from jaxsep.models.cunet import WIDTHS, Control, CUNet
from jaxsep.weights import cunet as weights_of_cunet

GOLDEN = Path(__file__).parent / "golden" / "cunet.npz"
VARIANTS = list(WIDTHS)
CONDITIONS = jnp.asarray(make_cunet.CONDITIONS)


def narrow(film, control, **fields):
    return CUNet(4, film, control, NARROW["widths"][film, control], NARROW["channels"], scale="none", **fields)


def spectrum(*shape, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((*shape, 2)) @ [1, 1j], jnp.complex64)


def drawn(net, z, seed=0):
    """The reference's weights in our places: kernels of the U-Net turned, since there bins lie before frames."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, None, False))

    def leaf(path, shape):
        name = "/".join(key.key for key in path[1:])
        if name.startswith("control/"):
            return jnp.asarray(draw(name.replace("control/", "control_"), shape.shape, seed))
        turned = len(shape.shape) == 4
        value = draw(name, tuple(np.array(shape.shape)[[1, 0, 2, 3]]) if turned else shape.shape, seed)
        return jnp.asarray(value.transpose(1, 0, 2, 3) if turned else value)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def turned(x):
    """[b bins frames 1] <-> [b frames bins 1]."""
    return jnp.swapaxes(jnp.asarray(x), 1, 2)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


@pytest.mark.parametrize("film, control", VARIANTS)
def test_equal_to_the_reference_on_file(film, control):
    """All conditions at once, for one spectrum: 1e-5 of the largest logit."""
    net = narrow(film, control)
    z = turned(inputs(control)[0][:1]).astype(jnp.complex64)
    logits = jax.jit(lambda v: net.apply(v, z, CONDITIONS[None], False))(drawn(net, z))
    expected = np.load(GOLDEN)[f"{film}-{control}"].swapaxes(1, 2)
    assert logits.shape == (1, 5, *z.shape[1:])
    assert relative(logits[0, ..., 0], expected) < 1e-5
    assert relative(expected[:1], expected[1:2]) > 1e-2  # the conditions tell the outputs apart


CASES = [pytest.param(film, control, False, id=f"{film}-{control}") for film, control in VARIANTS]
CASES += [
    pytest.param(film, control, True, id=f"{film}-{control}-full", marks=pytest.mark.full) for film, control in VARIANTS
]


@pytest.mark.parametrize("film, control, full", CASES)
def test_equal_to_keras(film, control, full):
    """Mask times input to 1e-5 of the largest, its gradient for the input to 1e-4; all weights random."""
    pytest.importorskip("keras", reason="the parity extra brings Keras")
    net = CUNet(4, film, control, scale="none") if full else narrow(film, control)
    widths = WIDTHS[film, control] if full else NARROW["widths"][film, control]
    model = fill(keras_cunet(film, control, net.channels, widths), seed=3)
    magnitude, asked = inputs(control) if not full else (np.abs(spectrum(5, 128, 64, 1)), inputs(control)[1])
    variables = drawn(net, turned(magnitude).astype(jnp.complex64), seed=3)
    weight = jnp.asarray(np.random.default_rng(2).standard_normal(magnitude.shape), jnp.float32)
    state = [[v.value for v in values] for values in (model.trainable_variables, model.non_trainable_variables)]

    def ours(x):
        z = turned(x)
        logits = net.apply(variables, z.astype(jnp.complex64), CONDITIONS[:, None], False)
        return turned(jax.nn.sigmoid(logits[:, 0]) * z)

    def theirs(x):
        return model.stateless_call(*state, [x, jnp.asarray(asked)], training=False)[0][1]

    def both(function):
        return function(magnitude), jax.grad(lambda x: (function(x) * weight).sum())(jnp.asarray(magnitude))

    value, gradient = jax.jit(both, static_argnums=0)(ours)
    expected, expected_gradient = jax.jit(both, static_argnums=0)(theirs)
    assert relative(value, expected) < 1e-5
    assert relative(gradient, expected_gradient) < 1e-4


def test_batch_statistics_follow_keras():
    """Momentum 0.9 on the biased variance, everywhere; dropout off, for its random numbers differ."""
    keras = pytest.importorskip("keras", reason="the parity extra brings Keras")
    net = narrow("simple", "cnn", dropout=0.0)
    model = fill(keras_cunet("simple", "cnn", net.channels, NARROW["widths"]["simple", "cnn"]))
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    magnitude, asked = inputs("cnn")
    z = turned(magnitude).astype(jnp.complex64)
    variables = drawn(net, z)
    _, updated = jax.jit(lambda: net.apply(variables, z, CONDITIONS[:, None], True, mutable=["batch_stats"]))()
    model([magnitude, asked], training=True)
    norms = {**updated["batch_stats"], **{f"control_{k}": v for k, v in updated["batch_stats"]["control"].items()}}
    del norms["control"]
    assert len(norms) == 12
    for name, statistics in norms.items():
        mean, var = (np.asarray(v.value) for v in model.get_layer(name).weights[2:])
        np.testing.assert_allclose(statistics["mean"], mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(statistics["var"], var, rtol=1e-4)


COUNTS = [
    ("simple", "dense", (), 9_844_847, 21_532),
    ("complex", "dense", (), 12_159_875, 2_336_560),
    ("simple", "cnn", (), 9_834_703, 11_388),
    ("complex", "cnn", (), 10_416_275, 592_960),
    ("complex", "dense", (16, 128, 1024), 9_823_315 + 2_203_056, 2_203_056),
    ("complex", "cnn", (16, 32, 64), 9_823_315 + 141_648, 141_648),
]


@pytest.mark.parametrize("film, control, widths, total, controlled", COUNTS)
def test_parameter_counts(film, control, widths, total, controlled):
    """The counts of the authors' code: 9,823,315 in the U-Net, the rest in the control network; 3,010 statistics."""
    z = jax.ShapeDtypeStruct((1, 128, 512, 1), jnp.complex64)
    net = CUNet(4, film, control, widths)
    shapes = jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), z)
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
    assert count(shapes["params"]) == total
    assert count(shapes["params"]["control"]) == controlled
    assert count(shapes["batch_stats"]) - count(shapes["batch_stats"]["control"]) == 3_010
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    out = jax.eval_shape(lambda v, z: net.apply(v, z, None, False), shapes, z)
    assert out.shape == (1, 4, 128, 512, 1)


def test_initial_kernels_are_normal_with_a_deviation_of_2_percent():
    net = CUNet(4, "simple", "dense", channels=(16, 32))
    variables = jax.jit(lambda: net.init(jax.random.key(0), spectrum(1, 4, 4, 1), None, False))()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if path[-1].key == "kernel" and leaf.size > 1000:
            assert 0.018 < np.std(leaf) < 0.022 and np.abs(leaf).max() > 0.05
        if path[-1].key == "bias":
            assert (np.asarray(leaf) == 0).all()


def test_targets_are_answered_apart_and_none_means_each_source():
    net, z = narrow("complex", "dense"), spectrum(2, 32, 32, 1)
    variables = drawn(net, z)
    run = jax.jit(lambda z, targets: net.apply(variables, z, targets, False))
    targets = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 3, 4)), jnp.float32)
    together = run(z, targets)
    assert together.shape == (2, 3, 32, 32, 1)
    for example in range(2):
        for target in range(3):
            alone = run(z[example : example + 1], targets[example : example + 1, target : target + 1])
            assert relative(together[example, target], alone[0, 0]) < 1e-5
    assert relative(together[:, 0], together[:, 1]) > 1e-3
    eye = jnp.broadcast_to(jnp.eye(4), (2, 4, 4))
    np.testing.assert_array_equal(run(z, None), run(z, eye))


def test_the_scale_of_a_block_is_its_largest_magnitude():
    z = spectrum(2, 32, 32, 1) * jnp.array([1.0, 100.0])[:, None, None, None]
    plain = narrow("simple", "dense")
    variables = drawn(plain, z)
    scaled = jax.jit(lambda z: plain.clone(scale="block").apply(variables, z, None, False))
    unscaled = jax.jit(lambda z: plain.apply(variables, z, None, False))
    largest = np.abs(z).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(scaled(z), unscaled(z / largest), rtol=1e-4, atol=1e-4)
    assert relative(scaled(z), unscaled(z)) > 1e-2
    np.testing.assert_array_equal(scaled(0 * z), unscaled(0 * z))


def test_silence_has_a_finite_gradient():
    net = narrow("simple", "dense").clone(scale="block")
    z = spectrum(2, 32, 32, 1).at[1].set(0)
    variables = drawn(net, z)
    gradient = jax.jit(jax.grad(lambda z: net.apply(variables, z, None, False).sum()))(z)
    assert np.isfinite(np.asarray(gradient)).all() and np.abs(np.asarray(gradient[0])).max() > 0


def test_dropout_is_in_decoder_levels_two_to_four_and_in_the_control_network():
    net, z = narrow("complex", "dense"), spectrum(2, 32, 32, 1)
    variables = drawn(net, z)

    def run(train, seed):
        rngs, kept = {"dropout": jax.random.key(seed)}, ["batch_stats", "intermediates"]
        return jax.jit(
            lambda: net.apply(variables, z, None, train, rngs=rngs, mutable=kept, capture_intermediates=True)
        )()

    assert relative(run(True, 0)[0], run(True, 1)[0]) > 1e-3
    assert relative(run(False, 0)[0], run(False, 1)[0]) == 0
    seen = run(True, 0)[1]["intermediates"]
    inside = {"unet": seen, "control": seen["control"]}
    dropped = {
        where: [value["__call__"][0] for name, value in tree.items() if "Dropout" in name]
        for where, tree in inside.items()
    }
    assert sorted(x.shape for x in dropped["unet"]) == [(8, 4, 4, 8), (8, 8, 8, 6), (8, 16, 16, 4)]
    assert sorted(x.shape for x in dropped["control"]) == [(8, 8), (8, 11)]
    assert all((np.asarray(x) == 0).mean() > 0.3 for xs in dropped.values() for x in xs)


def test_the_conditions_of_a_training_step_are_normalised_together():
    """In training the control network's norms see the batch: an example's output hangs on the others' conditions."""
    control = Control("dense", (5, 7), 3, 0.0)
    targets = CONDITIONS
    variables = control.init(jax.random.key(0), targets, False)
    run = lambda targets, train: control.apply(variables, targets, train, mutable=["batch_stats"])[0][0]
    assert relative(run(targets, True)[:2], run(targets[:2], True)) > 1e-3
    assert relative(run(targets, False)[:2], run(targets[:2], False)) < 1e-5


def test_lengths_and_what_it_refuses():
    net = CUNet(4)
    assert net.lengths(1) == (64, 64) and net.lengths(128) == (128, 128) and net.lengths(129) == (192, 192)

    def refused(match, net, z, targets=None):
        with pytest.raises(JaxsepError, match=match):
            jax.eval_shape(lambda: net.init(jax.random.key(0), z, targets, False))

    refused(r"100 bins, expected a multiple of 64.*front\.bins", net, spectrum(1, 64, 100, 1))
    refused("100 frames, expected a multiple of 64.*block", net, spectrum(1, 100, 64, 1))
    refused("weights over 3 sources, the model has 4", net, spectrum(1, 64, 64, 1), jnp.ones((1, 1, 3)))
    for field in ("film", "control", "scale"):
        refused(f"model.{field}='loud'", CUNet(4, **{field: "loud"}), spectrum(1, 64, 64, 1))


@pytest.mark.parametrize("film, control", [("simple", "cnn"), ("complex", "dense")])
def test_bfloat16_computes_near_float32(film, control):
    net, z = narrow(film, control), spectrum(2, 32, 32, 1)
    variables = drawn(net, z)
    half, single = jax.jit(lambda: [n.apply(variables, z, None, False) for n in (net.clone(dtype=jnp.bfloat16), net)])()
    assert half.dtype == jnp.bfloat16 and single.dtype == jnp.float32
    assert relative(half.astype(jnp.float32), single) < 0.05


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("control", ["dense", "cnn"])
def test_other_numbers_of_sources(sources, control):
    net = CUNet(sources, "simple", control, (4, 5, 6), (4, 6))
    out = jax.eval_shape(lambda z: net.init_with_output(jax.random.key(0), z, None, False)[0], spectrum(1, 8, 8, 2))
    assert out.shape == (1, sources, 8, 8, 2)


# Published weights


def same_variables(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for ours, theirs in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_of_keras_weights_is_imported():
    """Simple-cnn with other widths; some norms of the two networks are as wide. The net says what Keras says."""
    imported = weights.read("cunet", [GOLDEN.with_suffix(".h5")])
    model = imported.config.model
    assert (imported.config.variant, tuple(model.channels)) == ("simple-cnn", NARROW["channels"])
    assert tuple(model.control_widths) == NARROW["widths"]["simple", "cnn"]
    assert imported.config.sources == "bass,drums,other,vocals"
    net = separator.build(imported.config).net.clone(scale="none")
    z = turned(inputs("cnn")[0][:1]).astype(jnp.complex64)
    variables = {key: tree["net"] for key, tree in imported.variables.items()}
    logits = jax.jit(lambda v: net.apply(v, z, CONDITIONS[None], False))(variables)
    assert relative(logits[0, ..., 0], np.load(GOLDEN)["simple-cnn"].swapaxes(1, 2)) < 1e-5


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, while it saves
@pytest.mark.parametrize("film, control", VARIANTS)
def test_a_whole_model_that_keras_saved_is_imported(film, control, tmp_path):
    """With the optimiser's state beside the weights; norms of control network and U-Net are told apart by order."""
    pytest.importorskip("keras", reason="the parity extra brings Keras")
    make_cunet.unnamed(film, control).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "a") as file:
        file["optimizer_weights/adam/conv2d/kernel/m:0"] = np.zeros(3)
    imported = weights.read("cunet", [tmp_path / "model.h5"])
    assert imported.config.variant == f"{film}-{control}"
    net = narrow(film, control)
    variables = {key: tree["net"] for key, tree in imported.variables.items()}
    same_variables(variables, drawn(net, spectrum(1, 32, 32, 1)))


def test_the_published_widths_need_no_field():
    named = {
        "simple-dense": [(4, 16), (16, 64), (64, 256), (256, 6), (256, 6)],
        "complex-dense": [(4, 16), (16, 256), (256, 1024), (1024, 1008), (1024, 1008)],
    }
    convs = [(5, 5, a, b) for a, b in itertools.pairwise([1, 16, 32, 64, 128, 256, 512])]
    for variant, dense in named.items():
        shapes = {f"conv2d_{i + 7}/kernel": shape for i, shape in enumerate(convs)}
        shapes |= {f"dense_{i}/kernel".replace("_0", ""): shape for i, shape in enumerate(dense)}
        config = weights_of_cunet.config_of(shapes, "file")
        assert (config.variant, tuple(config.model.control_widths)) == (variant, ())
        assert tuple(config.model.channels) == CUNet(4).channels


def test_files_that_do_not_fit_are_refused_by_name(tmp_path):
    def refused(match, change=lambda file: None):
        path = tmp_path / "weights.h5"
        shutil.copy(GOLDEN.with_suffix(".h5"), path)
        with h5py.File(path, "a") as file:
            change(file)
        with pytest.raises(JaxsepError, match=match) as caught:
            weights.read("cunet", [path])
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)

    def replace(name, shape):
        def change(file):
            del file[name]
            file[name] = np.zeros(shape, np.float32)

        return change

    def remove(name):
        def change(file):
            del file[name]

        return change

    def add(name):
        def change(file):
            file[name] = np.zeros(3, np.float32)

        return change

    norm = "batch_normalization_3/batch_normalization_3/moving_mean"
    refused("missing.*conv2d_2/kernel", remove("conv2d_2"))
    refused("missing.*conv2d_4/bias", remove("conv2d_4/conv2d_4/bias"))
    refused("missing.*batch_normalization_3/moving_mean", remove(norm))
    refused("missing.*batch_normalization of 12 channels/beta", remove("batch_normalization_6"))
    refused("missing.*control network", remove("dense"))
    refused("not expected.*group_normalization/gamma", add("group_normalization/group_normalization/gamma"))
    refused("of another shape.*conv2d_3/bias", replace("conv2d_3/conv2d_3/bias", (9,)))
    refused("weigh 3 sources, expected 4", replace("conv1d/conv1d/kernel", (3, 1, 6)))
    refused("same name", add("other/conv2d/bias"))
    refused("expected weights of C-U-Net", lambda file: [file.pop(name) for name in list(file) if "conv2d" in name])
    with pytest.raises(JaxsepError, match="2 files, expected one"):
        weights.read("cunet", [GOLDEN, GOLDEN])
