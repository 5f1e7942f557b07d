"""C-U-Net's checkpoints: Keras `.h5` files, of a model or of its weights, as the code of gabolsgabs/cunet writes them.

Layers have the names that Keras gave them in the order of their making. FiLM needs the control network's output, so
this network's norms are made before the U-Net's of the same width, and those of the encoder before the decoder's. Of
the two last dense layers, the first is taken to be gamma's. Kernels of the U-Net lie (bins, frames) and are turned.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.models.cunet import WIDTHS
from jaxsep.weights import Imported, Origin, hdf5, tensors

SOURCES = 4  # bass, drums, rest, vocals
OPTIMISER = "optimizer_weights/"
WITH_KERNELS = ("conv2d", "conv2d_transpose", "conv1d", "dense")
NORM = "batch_normalization"
Shapes = Mapping[str, tuple[int, ...]]  # "conv2d_1/kernel" -> its shape


def read(files: Sequence[Path]) -> Imported:
    """The variables of one `.h5` file and the config that fits them.

    Raises:
        JaxsepError: not one such file, or tensors that do not make up a net.
    """
    if len(files) != 1:
        raise JaxsepError(f"cunet: {len(files)} files, expected one .h5 file (one net serves all sources)")
    (file,) = files
    stored = {name: array for name, array in hdf5.read(file).items() if not name.startswith(OPTIMISER)}
    tensors.check_kind("cunet", stored, file)
    found = {"/".join(name.split("/")[-2:]): array for name, array in stored.items()}
    if len(found) < len(stored):
        raise JaxsepError(f"{file}: has layers of the same name, expected one C-U-Net")
    shapes = {name: array.shape for name, array in found.items()}
    config = config_of(shapes, file)
    variables = tensors.place(tensors.net_shapes(config), table(config, shapes), found, file)
    return Imported(config, {key: {"net": tree} for key, tree in variables.items()}, Origin("C-U-Net"))


def config_of(shapes: Shapes, file: str | Path) -> configs.Config:
    """The config of the variant with such tensors, with other widths where they are others.

    Raises:
        JaxsepError: kernels are missing, or conditions weigh other than four sources.
    """
    layers = {kind: _layers(shapes, kind) for kind in WITH_KERNELS}
    missing = [
        f"{name}/kernel" for names in layers.values() for name in names if len(shapes.get(f"{name}/kernel", ())) < 2
    ]
    control = "cnn" if layers["conv1d"] else "dense"
    asked = layers["conv1d"] or layers["dense"][:-2]
    if missing or not asked or len(layers["dense"]) < 2:
        raise JaxsepError(f"{file}: not a whole C-U-Net; missing: {', '.join(missing) or 'the control network'}")
    widths = {name: shapes[f"{name}/kernel"][-1] for names in layers.values() for name in names}
    if (sources := shapes[f"{asked[0]}/kernel"][0]) != SOURCES:
        raise JaxsepError(f"{file}: its conditions weigh {sources} sources, expected 4: bass, drums, rest, vocals")
    film = "simple" if widths[layers["dense"][-1]] == len(layers["conv2d"]) else "complex"
    config = configs.load_config(f"configs/cunet.py:{film}-{control}")
    config.model.channels = tuple(widths[name] for name in layers["conv2d"])
    controlling = tuple(widths[name] for name in asked)
    config.model.control_widths = () if controlling == WIDTHS[film, control] else controlling
    return config


def table(config: configs.Config, shapes: Shapes) -> dict[str, tensors.Rule]:
    """Rules for all variables of the net, from the names of the layers in the file."""
    model = config.model
    norms = {name: _width(shapes, name) for name in _layers(shapes, NORM)}

    def norm(path: str, width: int) -> dict[str, tensors.Rule]:
        """The first that is left of this width."""
        name = next((name for name in norms if norms[name] == width), f"{NORM} of {width} channels")
        norms.pop(name, None)
        return tensors.keras_batch_norm(path, name)

    dense = _layers(shapes, "dense")
    rules = tensors.keras_layer("control/gamma", dense[-2]) | tensors.keras_layer("control/beta", dense[-1])
    for i, name in enumerate(_layers(shapes, "conv1d") or dense[:-2]):
        rules |= tensors.keras_layer(f"control/layer{i}", name)
        rules |= norm(f"control/norm{i}", shapes[f"{name}/kernel"][-1]) if i else {}
    for level, (name, width) in enumerate(zip(_layers(shapes, "conv2d"), model.channels, strict=True), start=1):
        rules |= _turned(f"conv{level}", name) | norm(f"norm{level}", width)
    deconvs = iter(_layers(shapes, "conv2d_transpose"))
    levels = range(len(model.channels), 0, -1)
    for level, width in zip(levels, (*model.channels[-2::-1], config.channels), strict=True):
        rules |= _turned(f"deconv{level}", next(deconvs, f"conv2d_transpose to {width} channels"))
        rules |= norm(f"denorm{level}", width)
    return rules


def _layers(shapes: Shapes, kind: str) -> list[str]:
    """Names of a kind's layers in the order of their making, those within that lack all tensors included."""
    found = [re.fullmatch(rf"{kind}(?:_(\d+))?/\w+", name) for name in shapes]
    numbers = [int(match[1] or 0) for match in found if match]
    span = range(min(numbers), max(numbers) + 1) if numbers else ()
    return [f"{kind}_{number}" if number else kind for number in span]


def _width(shapes: Shapes, layer: str) -> int:
    """Of a norm, from any of its tensors; 0 if it has none."""
    return next((shape[0] for name, shape in shapes.items() if name.startswith(f"{layer}/") and shape), 0)


def _turned(path: str, name: str) -> dict[str, tensors.Rule]:
    rules = tensors.keras_layer(path, name)
    return rules | {f"params/{path}/kernel": (f"{name}/kernel", lambda kernel: kernel.transpose(1, 0, 2, 3))}
