"""The U-Net against the same network in Keras."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.models.spleeter import UNet

FULL = (16, 32, 64, 128, 256, 512)


def keras_unet(channels, activation, audio_channels):
    """Spleeter's network as its layers stand there: magnitudes to mask logits."""
    keras = pytest.importorskip("keras", reason="the parity extra brings Keras")
    layers = keras.layers
    encode = (lambda: layers.LeakyReLU(0.2)) if activation == "leaky_relu" else layers.ELU
    decode = layers.ReLU if activation == "leaky_relu" else layers.ELU
    x = entry = keras.Input((None, None, audio_channels))
    convs = []
    for level, width in enumerate(channels, 1):
        conv = layers.Conv2D(width, 5, strides=2, padding="same", name=f"conv{level}")(x)
        norm = layers.BatchNormalization(name=f"norm{level}")(conv)
        x = encode()(norm)
        convs.append(conv)
    dead_end, x = x, convs[-1]
    widths = [1, *channels]
    for level in range(len(channels), 0, -1):
        if level < len(channels):
            x = layers.Concatenate()([convs[level - 1], x])
        x = layers.Conv2DTranspose(widths[level - 1], 5, strides=2, padding="same", name=f"deconv{level}")(x)
        x = layers.BatchNormalization(name=f"denorm{level}")(decode()(x))
    logits = layers.Conv2D(audio_channels, 4, dilation_rate=2, padding="same", name="logits")(x)
    return keras.Model(entry, [logits, dead_end])


def randomised(net, z, seed=0):
    """Variables with every leaf random, the batch statistics among them; activations stay of order one."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), z, None, False))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan = math.prod(leaf.shape) / max(leaf.shape[-1], 1)
            return jnp.asarray(rng.standard_normal(leaf.shape) * math.sqrt(2 / fan), jnp.float32)
        centre = 1.0 if name in ("scale", "var") else 0.0
        return jnp.asarray(centre + 0.3 * rng.uniform(-1, 1, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def copy_to(model, variables):
    """Our arrays into Keras layers of the same name, kernels without transposition."""
    for name, values in variables["params"].items():
        layer = model.get_layer(name)
        if "kernel" in values:
            layer.set_weights([values["kernel"], values["bias"]])
        else:
            statistics = variables["batch_stats"][name]
            layer.set_weights([values["scale"], values["bias"], statistics["mean"], statistics["var"]])


def spectrum(*shape, seed=1):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((*shape, 2)) @ [1, 1j], jnp.complex64)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()


CASES = [
    pytest.param((4, 6, 8), (2, 24, 32), id="narrow"),
    pytest.param(FULL, (1, 128, 128), id="full", marks=pytest.mark.full),
    pytest.param((*FULL, 1024), (1, 128, 128), id="seven levels", marks=pytest.mark.full),
]


@pytest.mark.parametrize("channels, shape", CASES)
@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
@pytest.mark.parametrize("train", [False, True])
def test_equal_to_keras(channels, shape, activation, batch_norm, train):
    """Values to 1e-5 of the largest, gradients for the input to 1e-4, all weights and statistics random."""
    model = keras_unet(channels, activation, 2)
    z = spectrum(*shape, 2)
    net = UNet(channels, activation, batch_norm)
    variables = randomised(net, z)
    copy_to(model, variables)
    weight = jnp.asarray(np.random.default_rng(2).standard_normal(z.shape), jnp.float32)

    def ours(magnitude):
        return net.apply(variables, magnitude.astype(jnp.complex64), None, train, mutable=["batch_stats"])[0]

    def theirs(magnitude):
        # Keras' own training flag; Spleeter's training does not set it, which is "frozen"
        trainable = [v.value for v in model.trainable_variables]
        stats = [v.value for v in model.non_trainable_variables]
        training = train and batch_norm == "batch"
        return model.stateless_call(trainable, stats, magnitude, training=training)[0][0]

    def both(function):
        value = function(jnp.abs(z))
        return value, jax.grad(lambda m: (function(m) * weight).sum())(jnp.abs(z))

    value, gradient = jax.jit(both, static_argnums=0)(ours)
    expected, expected_gradient = jax.jit(both, static_argnums=0)(theirs)
    assert relative(value, expected) < 1e-5
    assert relative(gradient, expected_gradient) < 1e-4


def test_batch_statistics_follow_keras():
    """Momentum 0.99 on the biased variance, the norm without successor included; frozen statistics stay."""
    model = keras_unet((4, 6), "elu", 1)
    z = spectrum(2, 8, 16, 1)
    for mode in ("batch", "frozen"):
        net = UNet((4, 6), "elu", mode)
        variables = randomised(net, z)
        copy_to(model, variables)
        _, updated = net.apply(variables, z, None, True, mutable=["batch_stats"])
        model(np.abs(z), training=mode == "batch")
        for name, statistics in updated["batch_stats"].items():
            mean, var = (np.asarray(v.value) for v in model.get_layer(name).weights[2:])
            np.testing.assert_allclose(statistics["mean"], mean, atol=1e-6)
            np.testing.assert_allclose(statistics["var"], var, rtol=1e-5)


def test_parameter_counts():
    """Deezer's graph: 9,823,749 per instrument, the norm behind the sixth convolution included."""
    z = jax.ShapeDtypeStruct((1, 64, 64, 2), jnp.complex64)
    shapes = jax.eval_shape(lambda z: UNet().init(jax.random.key(0), z, None, False), z)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"])) == 9_823_749
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["batch_stats"])) == 3_010
    assert shapes["params"]["conv2"]["kernel"].shape == (5, 5, 16, 32)
    assert shapes["params"]["deconv1"]["kernel"].shape == (5, 5, 1, 32)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_initial_kernels_are_he_uniform():
    z = spectrum(1, 8, 8, 2)
    variables = jax.jit(lambda z: UNet((8, 16)).init(jax.random.key(0), z, None, False))(z)
    kernel = np.asarray(variables["params"]["conv2"]["kernel"])
    limit = math.sqrt(6 / (5 * 5 * 8))
    assert 0.95 * limit < np.abs(kernel).max() <= limit and abs(kernel.mean()) < 0.05 * limit
    assert (np.asarray(variables["params"]["conv2"]["bias"]) == 0).all()


def test_zero_input_has_a_finite_gradient():
    net = UNet((4, 4))
    z = spectrum(1, 8, 8, 1).at[:, 2:6].set(0)
    variables = randomised(net, z)
    gradient = jax.jit(jax.grad(lambda z: net.apply(variables, z, None, False).sum()))(z)
    assert np.isfinite(np.asarray(gradient)).all() and np.abs(np.asarray(gradient)).max() > 0


def test_dropout_is_in_the_first_three_decoder_levels():
    z = spectrum(1, 32, 32, 1)
    net = UNet((4, 4, 4, 4), "elu", dropout=0.5)  # elu leaves no zeros of its own
    variables = randomised(net, z)

    def run(train, seed):
        captured = net.apply(
            variables, z, None, train, rngs={"dropout": jax.random.key(seed)}, capture_intermediates=True
        )
        return captured[0], captured[1]["intermediates"]

    assert relative(run(True, 0)[0], run(True, 1)[0]) > 1e-3
    assert relative(run(False, 0)[0], run(False, 1)[0]) == 0
    kept = [np.asarray(x["__call__"][0]) for name, x in run(True, 0)[1].items() if name.startswith("Dropout")]
    assert len(kept) == 3
    assert all(0.3 < (x == 0).mean() < 0.7 for x in kept)


def test_lengths_and_sizes_it_refuses():
    net = UNet()
    assert net.lengths(1) == (64, 64) and net.lengths(512) == (512, 512) and net.lengths(513) == (576, 576)
    with pytest.raises(JaxsepError, match="100 bins, expected a multiple of 64"):
        net.init(jax.random.key(0), spectrum(1, 64, 100, 2), None, False)
    with pytest.raises(JaxsepError, match="100 frames, expected a multiple of 64"):
        net.init(jax.random.key(0), spectrum(1, 100, 64, 2), None, False)
    with pytest.raises(JaxsepError, match="activation='gelu'"):
        UNet(activation="gelu").init(jax.random.key(0), spectrum(1, 64, 64, 2), None, False)
    with pytest.raises(JaxsepError, match="batch_norm='on'"):
        UNet(batch_norm="on").init(jax.random.key(0), spectrum(1, 64, 64, 2), None, False)


def test_bfloat16_computes_near_float32():
    z = spectrum(1, 16, 16, 2)
    net = UNet((8, 16))
    variables = randomised(net, z)
    half = net.clone(dtype=jnp.bfloat16).apply(variables, z, None, False)
    assert half.dtype == jnp.bfloat16
    assert relative(half.astype(jnp.float32), net.apply(variables, z, None, False)) < 0.05
