"""The models of the demucs package: Demucs of versions 1 and 2 here, what else it saves in a module of its own.

Of Demucs, the class's arguments are those of the file; where it holds the tensors alone, as the published ones of
version 2 do, they are read off the tensors' names and shapes.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.weights import Imported, Origin, demucs_bags, tensors
from jaxsep.weights.demucs_files import SOURCES, Package, read_package, source_names
from jaxsep.weights.tensors import Rule, blstm, conv1d, conv_transpose1d, linear

# Class -> the module of this package whose `imported(package)` knows it.
CLASSES = {
    "demucs.model.Demucs": "demucs",
    "demucs.tasnet.ConvTasNet": "conv_tasnet",
    "demucs.hdemucs.HDemucs": "hdemucs",
    "demucs.htdemucs.HTDemucs": "hdemucs",
}
# Arguments of the class in their order, and the field of `models.demucs.Demucs` or "" where it is not one.
VERSION2 = {
    "sources": "",
    "audio_channels": "",
    "channels": "channels",
    "depth": "depth",
    "rewrite": "rewrite",
    "glu": "glu",
    "rescale": "rescale",
    "resample": "resample",
    "kernel_size": "kernel",
    "stride": "stride",
    "growth": "growth",
    "lstm_layers": "lstm_layers",
    "context": "context",
    "normalize": "normalize",
    "samplerate": "",
    "segment_length": "",
}
VERSION1 = {
    **{name: VERSION2[name] for name in ("sources", "audio_channels", "channels", "depth", "rewrite", "glu")},
    "upsample": "upsample",
    **{name: VERSION2[name] for name in ("rescale", "kernel_size", "stride", "growth", "lstm_layers", "context")},
    "samplerate": "",
}
LARGEST = 2**16  # channels of a layer, and any other size

# A tensor -> the class that has it: of files without one.
MARKS = {
    "encoder.0.0.weight": "demucs.model.Demucs",
    "encoder.conv1d_U.weight": "demucs.tasnet.ConvTasNet",
}


def read(files: Sequence[Path]) -> Imported:
    """The model of one file, or the bag of several.

    Raises:
        JaxsepError: a file that demucs did not save, a model that is not known here, or models that make no bag.
    """
    if len(files) > 1 or files[0].suffix in demucs_bags.SUFFIXES:
        return demucs_bags.read(files, _model)
    return _model(files[0])


def _model(file: Path) -> Imported:
    package = read_package(file)
    klass = package.klass or next((MARKS[name] for name in MARKS if name in package.state), "")
    if not klass:
        tensors.check_kind("demucs", package.state, package.file)
    if klass not in CLASSES:
        raise JaxsepError(f"{package.file}: a {klass}; expected one of {', '.join(CLASSES)}")
    return importlib.import_module(f"jaxsep.weights.{CLASSES[klass]}").imported(package)


def imported(package: Package) -> Imported:
    """Demucs of version 1 or 2.

    Raises:
        JaxsepError: arguments or tensors that do not make up such a net.
    """
    order = VERSION1 if package.version == 1 else VERSION2
    given = package.arguments(list(order)) if package.klass else _recognised(package)
    config = configs.load_config("demucs.py:" + ("v1" if package.version == 1 else "v2"))
    config.sources = config.data.stems = ",".join(source_names(package, given.get("sources", len(SOURCES))))
    config.model.channels = 64  # unless the file says otherwise: the default of the class in both versions
    try:
        for name, field in order.items():
            if field and name in given:
                config.model[field] = type(config.model[field])(given[name])
        config.channels, config.sample_rate = int(given.get("audio_channels", 2)), int(given.get("samplerate", 44100))
        seconds = float(given.get("segment_length", 40 * config.sample_rate) / config.sample_rate)
        _check_sizes(config, len(package.state))
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise JaxsepError(f"{package.file}: made with arguments that make up no net: {given}") from None
    config.inference.update(shifts=0, segment=seconds)
    if package.version == 1:  # its command line: 10 s side by side, zeros around them
        config.context = False
        config.inference.update(segment=10.0, overlap=0.0)
    variables = tensors.place(tensors.net_shapes(config), table(config.model), package.state, package.file)
    origin = Origin(f"Demucs, version {package.version}")
    return Imported(config, {key: {"net": tree} for key, tree in variables.items()}, origin)


def _check_sizes(config: configs.Config, count: int) -> None:
    """Before anything is made of them; `count` is the number of tensors."""
    model = config.model
    sizes = (model.channels, model.depth, model.kernel, model.stride, model.context, config.channels, model.growth)
    widest = model.channels * model.growth ** min(model.depth, count)
    if not all(1 <= size <= LARGEST for size in (*sizes, widest)) or max(model.depth, model.lstm_layers) > count:
        raise ValueError("sizes")


def table(model: Any) -> dict[str, Rule]:
    """Rules for all variables of a net with such fields."""
    rules: dict[str, Rule] = {}
    for i in range(model.depth):
        encoder, decoder = f"encoder.{i}", f"decoder.{model.depth - 1 - i}"
        last = f"{decoder}.{2 if model.rewrite else 0}"
        rules |= conv1d(f"encoder{i}", f"{encoder}.0")
        rules |= conv1d(f"decoder{i}", last) if model.upsample else conv_transpose1d(f"decoder{i}", last)
        if model.rewrite:
            rules |= conv1d(f"encoder{i}_rewrite", f"{encoder}.2") | conv1d(f"decoder{i}_rewrite", f"{decoder}.0")
    if model.lstm_layers:
        rules |= blstm("lstm", "lstm.lstm", model.lstm_layers) | linear("dense", "lstm.linear")
    return rules | conv1d("final", "final") if model.upsample else rules


def _recognised(package: Package) -> dict[str, Any]:
    """Arguments of a net of version 2 from its tensors; what these do not tell is as published."""
    state = package.state
    try:
        channels, audio, kernel = state["encoder.0.0.weight"].shape
        depth = sum(tensors.matches(name, ["encoder.*.0.weight"]) for name in state)
        rewrite = "encoder.0.2.weight" in state
        return {
            "sources": len(state[f"decoder.{depth - 1}.{2 if rewrite else 0}.bias"]) // audio,
            "audio_channels": audio,
            "channels": channels,
            "depth": depth,
            "rewrite": rewrite,
            "glu": not rewrite or len(state["encoder.0.2.weight"]) == 2 * channels,
            "kernel_size": kernel,
            "lstm_layers": sum(tensors.matches(name, ["lstm.lstm.weight_ih_l?"]) for name in state),
            "context": state["decoder.0.0.weight"].shape[2] if rewrite else 3,
        }
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise JaxsepError(f"{package.file}: not a net of Demucs: cannot tell its sizes from {error}") from None
