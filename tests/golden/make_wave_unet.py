"""Reference outputs of Wave-U-Net, computed by the authors' code: `python tests/golden/make_wave_unet.py CHECKOUT`.

Origin: github.com/f90/Wave-U-Net, commit 75eeae6 (MIT), of which CHECKOUT is a working tree; on TensorFlow 2.21's CPU
kernels under `tensorflow.compat.v1`, whose `resize_bilinear` is that of TensorFlow 1.8. Its `tf.layers.conv1d`, which
TensorFlow no longer has, is given to it by `conv1d` below; librosa, which it imports and does not need here, is an
empty module. Weights and inputs are drawn by `draw` from a numpy seed and the variable's name, so `wave_unet.npz` holds
outputs and gradients only.
"""

import math
import sys
import types
import zlib
from pathlib import Path

import numpy as np

PATH = Path(__file__).with_name("wave_unet.npz")
SHAPE = {"levels": 3, "filters": 2, "kernel": 15, "merge_kernel": 5}
# variant -> (sources, audio channels, samples that come out at least, fields of the net)
CASES = {
    "m1": (2, 1, 40, {"difference": False, "context": False}),
    "m2": (2, 1, 40, {"context": False}),
    "m2-learned": (2, 1, 40, {"context": False, "upsampling": "learned"}),
    "m4": (2, 2, 37, {}),
    "m5": (2, 2, 37, {"upsampling": "learned"}),
    "m6": (4, 2, 37, {}),
}


def draw(name, shape):
    """A random float32 tensor that hangs on its name alone; layers keep the size of what they are fed."""
    rng = np.random.default_rng([0, zlib.crc32(name.encode())])
    scale = math.sqrt(2 / math.prod(shape[:-1])) if len(shape) == 3 and name.endswith("kernel") else 0.5
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def run(case):
    """Estimates [b s t c] of training and of evaluation, and gradients of sum(weight * estimates of training).

    Returns:
        "train", "eval", "d mix" and "d <variable>" -> array.
    """
    import Models.UnetAudioSeparator

    sources, channels, samples, fields = CASES[case]
    tf.reset_default_graph()
    names = [f"source{s}" for s in range(sources)]
    net = Models.UnetAudioSeparator.UnetAudioSeparator(
        {
            "num_layers": SHAPE["levels"],
            "num_initial_filters": SHAPE["filters"],
            "filter_size": SHAPE["kernel"],
            "merge_filter_size": SHAPE["merge_kernel"],
            "input_filter_size": SHAPE["kernel"],
            "output_filter_size": 1,
            "upsampling": fields.get("upsampling", "linear"),
            "output_type": "difference" if fields.get("difference", True) else "direct",
            "context": fields.get("context", True),
            "source_names": names,
            "mono_downmix": channels == 1,
            "output_activation": "tanh",
        }
    )
    fed, _ = net.get_padding(np.array([2, samples, 0]))
    mix = tf.constant(draw("mix", (2, int(fed[1]), channels)))
    estimates = {}
    for mode, reuse in (("train", False), ("eval", True)):
        counter[0] = 0
        outputs = net.get_output(mix, mode == "train", reuse=reuse)
        estimates[mode] = tf.stack([outputs[name] for name in names], axis=1)
    variables = tf.trainable_variables()
    weight = draw("weight", tuple(estimates["train"].shape))
    gradients = tf.gradients(tf.reduce_sum(weight * estimates["train"]), [mix, *variables])
    keys = ["d mix", *(f"d {variable.op.name}" for variable in variables)]
    with tf.Session() as session:
        for variable in variables:
            variable.load(draw(variable.op.name, tuple(variable.shape)), session)
        return session.run({**estimates, **dict(zip(keys, gradients, strict=True))})


def conv1d(x, filters, kernel_size, strides=1, activation=None, padding="valid"):
    """`tf.layers.conv1d` as the authors call it; layers are numbered in their order."""
    name = f"conv{counter[0]}"
    counter[0] += 1
    kernel = tf.get_variable(f"{name}/kernel", [kernel_size, x.shape[-1], filters])
    bias = tf.get_variable(f"{name}/bias", [filters])
    return activation(tf.nn.conv1d(x, kernel, strides, padding.upper()) + bias)


def main(checkout):
    """Writes `wave_unet.npz`."""
    global tf, counter
    import tensorflow

    tf, counter = types.ModuleType("tensorflow"), [0]
    tf.__dict__.update({name: getattr(tensorflow.compat.v1, name) for name in dir(tensorflow.compat.v1)})
    tf.layers = types.SimpleNamespace(conv1d=conv1d)
    tf.disable_eager_execution()
    sys.modules["tensorflow"], sys.modules["librosa"] = tf, types.ModuleType("librosa")
    sys.path.insert(0, checkout)
    np.savez_compressed(PATH, **{f"{case}/{key}": value for case in CASES for key, value in run(case).items()})


if __name__ == "__main__":
    main(sys.argv[1])
