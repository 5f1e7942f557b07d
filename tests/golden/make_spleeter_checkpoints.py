"""Makes `spleeter_checkpoints.npz` and `spleeter_{2,5}stems.tar.gz`: checkpoints that Spleeter's own graph writes.

Reference: github.com/deezer/spleeter, commit 64daa5a9172aa33ba155f051184528c4e969ad8e (MIT), its package
`spleeter/model/functions`, in a TensorFlow 1 graph with its Adam optimiser; narrow (`conv_n_filters`), every variable
drawn from a numpy seed. Layer names and their order, the optimiser's variables and the outputs are TensorFlow's.

    pip install tensorflow-cpu==2.20.0 tf_keras==2.20.1
    python tests/golden/make_spleeter_checkpoints.py SPLEETER_CHECKOUT
"""

import os
import sys
import tarfile
import types
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).parent
CHANNELS = [2, 3, 3, 4, 4, 5]
SYSTEMS = {
    "2stems": (["vocals", "accompaniment"], "unet", {}),
    "5stems": (
        ["vocals", "piano", "drums", "bass", "other"],
        "softmax_unet",
        {"conv_activation": "ELU", "deconv_activation": "ELU"},
    ),
}


def main(checkout: Path) -> None:
    for name in ("spleeter", "spleeter.model"):  # packages whose __init__ wants more than the functions need
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(checkout / name.replace(".", "/"))]
    from spleeter.model.functions import unet

    arrays = {}
    for name, (instruments, function, params) in SYSTEMS.items():
        rng = np.random.default_rng(len(instruments))
        x = np.abs(rng.standard_normal((1, 64, 64, 2))).astype(np.float32)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            entry = tf.compat.v1.placeholder(tf.float32, x.shape)
            outputs = getattr(unet, function)(entry, instruments, {"conv_n_filters": CHANNELS, **params})
            loss = tf.add_n([tf.reduce_mean(output) for output in outputs.values()])
            step = tf.compat.v1.train.get_or_create_global_step()
            tf.compat.v1.train.AdamOptimizer(1e-4).minimize(loss, step)
            variables = [v for v in tf.compat.v1.global_variables() if v is not step]
            values = {v.initializer.inputs[1]: draw(rng, v.name, v.shape.as_list()) for v in variables}
            session.run([v.initializer for v in [*variables, step]], values)
            estimates = session.run(outputs, {entry: x})
            write(session, name, variables if name == "2stems" else [v for v in variables if "Adam" not in v.name])
        arrays[f"{name}/mix"] = x
        for instrument in instruments:
            arrays[f"{name}/{instrument}"] = estimates[f"{instrument}_spectrogram"][:, :, ::3]  # for size
    np.savez_compressed(FOLDER / "spleeter_checkpoints.npz", **arrays)


def draw(rng: np.random.Generator, name: str, shape: list[int]) -> np.ndarray:
    """Kernels that keep activations of order one, statistics that matter, variances above zero."""
    if "/kernel" in name:
        return rng.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]) / 4)
    return (1.0 if "gamma" in name or "variance" in name else 0.0) + 0.3 * rng.uniform(-1, 1, shape)


def write(session: tf.compat.v1.Session, name: str, variables: list[tf.Variable]) -> None:
    """A checkpoint as the released archives hold it, without the graph."""
    folder = FOLDER / name
    folder.mkdir()
    tf.compat.v1.train.Saver(variables).save(session, str(folder / "model"), write_meta_graph=False)
    with tarfile.open(FOLDER / f"spleeter_{name}.tar.gz", "w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name, filter=anonymous)
            path.unlink()
    folder.rmdir()


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]))
