"""Reference outputs of the Conditioned-U-Net, computed by Keras: `python tests/golden/make_cunet.py`.

Origin: Keras 3.15.1 (Apache-2.0) on TensorFlow 2.21's CPU kernels. The network is put together here from Keras' own
layers after the published description (ISMIR 2019 and the layer table of the authors' repository); none of their code
is used. Weights and inputs are drawn by `draw` from a numpy seed and the tensor's name, so `cunet.npz` holds outputs
only: logits [conditions bins frames]. `cunet.h5` is one of these networks as Keras saves it, with its default names.
"""

import math
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("cunet.npz")
NARROW = {
    "channels": (4, 6, 8, 10, 12),
    "widths": {
        ("simple", "dense"): (5, 7, 9),
        ("complex", "dense"): (5, 8, 11),
        ("simple", "cnn"): (6, 8, 10),
        ("complex", "cnn"): (4, 6, 8),
    },
}
BINS, FRAMES = 64, 32
CONDITIONS = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [0.3, 0, 0.8, 0.1]], np.float32)


def draw(name, shape, seed=0):
    """A random float32 tensor that hangs on its name alone; scales and variances lie around one."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    if name.endswith("kernel"):
        fan = math.prod(shape[:-2]) * max(shape[-2:])
        return (rng.standard_normal(shape) * math.sqrt(2 / fan)).astype(np.float32)
    if name == "magnitude":
        return np.abs(rng.standard_normal(shape)).astype(np.float32)
    centre = 1.0 if name.endswith(("scale", "var")) else 0.0
    return (centre + 0.3 * rng.uniform(-1, 1, shape)).astype(np.float32)


def keras_cunet(film, control, channels, widths, named=True):
    """(magnitudes [b bins frames 1], conditions) -> logits, mask times input; layers have our names, or Keras' own."""
    import keras

    layers = keras.layers
    init = keras.initializers.RandomNormal(stddev=0.02)
    called = lambda name: name if named else None
    norm = lambda name: layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=called(name))

    entry = keras.Input((None, None, 1))
    asked = keras.Input((4,) if control == "dense" else (4, 1))
    x = asked
    for i, width in enumerate(widths):
        if control == "dense":
            x = layers.Dense(width, activation="relu", kernel_initializer=init, name=called(f"control_layer{i}"))(x)
        else:
            padding = "valid" if i == len(widths) - 1 else "same"
            x = layers.Conv1D(
                width, 4, padding=padding, activation="relu", kernel_initializer=init, name=called(f"control_layer{i}")
            )(x)
        if i > 0:
            x = norm(f"control_norm{i}")(layers.Dropout(0.5)(x))
    if control == "cnn":
        x = layers.Flatten()(x)
    total = sum(channels) if film == "complex" else len(channels)
    gamma, beta = (
        layers.Dense(total, kernel_initializer=init, name=called(f"control_{name}"))(x) for name in ("gamma", "beta")
    )

    x, skips, start = entry, [], 0
    for level, width in enumerate(channels, 1):
        x = layers.Conv2D(width, 5, strides=2, padding="same", kernel_initializer=init, name=called(f"conv{level}"))(x)
        x = norm(f"norm{level}")(x)
        stop = start + (width if film == "complex" else 1)
        cut = layers.Lambda(
            lambda g, a=start, b=stop: g[:, None, None, a:b],
            output_shape=(1, 1, stop - start),
            name=called(f"slice{level}"),
        )
        start = stop
        x = layers.Add()([layers.Multiply()([x, cut(gamma)]), cut(beta)])
        x = layers.LeakyReLU(0.2)(x)
        skips.append(x)
    x = skips.pop()
    outs = [1, *channels[:-1]]
    for step, level in enumerate(range(len(channels), 0, -1)):
        if step > 0:
            x = layers.Concatenate()([x, skips.pop()])
        x = layers.Conv2DTranspose(
            outs[level - 1], 5, strides=2, padding="same", kernel_initializer=init, name=called(f"deconv{level}")
        )(x)
        x = norm(f"denorm{level}")(x)
        if step in (1, 2, 3):
            x = layers.Dropout(0.5)(x)
        if level > 1:
            x = layers.ReLU()(x)
    masked = layers.Multiply()([layers.Activation("sigmoid")(x), entry])
    return keras.Model([entry, asked], [x, masked])


WEIGHTS = {"gamma": "scale", "beta": "bias", "moving_mean": "mean", "moving_variance": "var"}


def tensors(layer, seed=0):
    """Draws the weights of a layer by our names: norms have scale, bias, mean and var, all others kernel and bias."""
    names = [weight.path.rsplit("/", 1)[-1] for weight in layer.weights]
    names = [f"{layer.name}/{WEIGHTS.get(name, name)}" for name in names]
    return [draw(name, w.shape, seed) for name, w in zip(names, layer.weights, strict=True)]


def fill(model, seed=0):
    """Draws all weights of a `keras_cunet`."""
    for layer in model.layers:
        layer.set_weights(tensors(layer, seed))
    return model


def inputs(control):
    """A magnitude spectrum, the same for each of the conditions, and these in the shape of the control network."""
    magnitude = np.repeat(draw("magnitude", (1, BINS, FRAMES, 1)), len(CONDITIONS), axis=0)
    asked = CONDITIONS if control == "dense" else CONDITIONS[..., None]
    return magnitude, asked


def unnamed(film, control):
    """The narrow network with Keras' default names, counted from the first layer."""
    import keras

    keras.backend.clear_session()
    channels, widths = NARROW["channels"], NARROW["widths"][film, control]
    model = keras_cunet(film, control, channels, widths, named=False)
    named = keras_cunet(film, control, channels, widths)
    for layer, other in zip(model.layers, named.layers, strict=True):
        layer.set_weights(tensors(other))
    return model


def save_weights(model, path):
    """Only the weights out of Keras' `.h5`, as its second version saved them; compact."""
    import h5py

    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/model.h5")
        with h5py.File(f"{folder}/model.h5") as whole, h5py.File(path, "w", libver="latest") as file:
            names = []
            whole["model_weights"].visit(names.append)
            for name in names:
                if isinstance(item := whole["model_weights"][name], h5py.Dataset):
                    file[name] = item[()]


def main():
    outputs = {}
    for (film, control), widths in NARROW["widths"].items():
        model = fill(keras_cunet(film, control, NARROW["channels"], widths))
        outputs[f"{film}-{control}"] = np.asarray(model(inputs(control), training=False)[0])[..., 0]
    np.savez_compressed(PATH, **outputs)
    save_weights(unnamed("simple", "cnn"), PATH.with_suffix(".h5"))
    for path in (PATH, PATH.with_suffix(".h5")):
        print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    main()
