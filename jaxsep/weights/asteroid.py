"""Models of asteroid (github.com/asteroid-team/asteroid): the dict that its `serialize` makes, saved by PyTorch.

It holds the name of the class, its arguments and its tensors. Sources have no names there, and are called
`source1,source2,...` here.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.models.conv_tasnet import ConvTasNet
from jaxsep.weights import Imported, Origin, conv_tasnet, dccrn, tensors, torch_files
from jaxsep.weights.tensors import Rule

Arguments = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Model:
    """A class of asteroid.

    Attributes:
        name: for people.
        config: (file, for messages; arguments of the class) -> the config that fits them, not locked.
        table: the net -> rules for all variables of the separator.
        ignored: patterns of tensors that have no place here.
    """

    name: str
    config: Callable[[str | Path, Arguments], configs.Config]
    table: Callable[[Any], dict[str, Rule]]
    ignored: tuple[str, ...] = ()


def read(files: Sequence[Path]) -> Imported:
    """The model of one file.

    Raises:
        JaxsepError: not one file, a file that asteroid did not save, or a model that is not known here.
    """
    if len(files) != 1:
        raise JaxsepError(f"asteroid: {len(files)} files, expected one .pth or .bin file")
    (file,) = files
    found = torch_files.read(file, foreign=True)
    keys = ("model_name", "model_args", "state_dict")
    if not isinstance(found, dict) or not set(keys) <= set(found):
        raise JaxsepError(f"{file}: expected a dict with {', '.join(keys)}, as asteroid's `serialize` makes it")
    name, arguments, state = (found[key] for key in keys)
    model = configs.choose(MODELS, str(name), f"{file}: model_name")
    plain = isinstance(arguments, dict) and isinstance(state, dict)
    if not plain or not all(isinstance(tensor, np.ndarray) for tensor in state.values()):
        raise JaxsepError(f"{file}: expected model_args, a dict, and state_dict, a dict of tensors")
    config = model.config(file, arguments)
    table = model.table(separator.build(config).net)
    variables = tensors.place(tensors.shapes(config), table, state, file, model.ignored)
    return Imported(config.lock(), variables, Origin(f"{model.name} of asteroid"))


def conv_tasnet_config(file: str | Path, arguments: Arguments) -> configs.Config:
    """Of asteroid.models.ConvTasNet.

    Raises:
        JaxsepError: a filterbank, norm or activation that is not known here, or an argument that is no number.
    """
    norms = {"gLN": "gln", "cLN": "cln", "cgLN": "cumulative"}
    norm = arguments.get("norm_type", "gLN")
    _check(file, "norm_type", norm, norms)
    numbers = {
        "blocks": ("n_blocks", 8),
        "repeats": ("n_repeats", 3),
        "bottleneck": ("bn_chan", 128),
        "hidden": ("hid_chan", 512),
        "skip": ("skip_chan", 128),
        "kernel": ("conv_kernel_size", 3),
        "causal": ("causal", False),
    }
    model = _numbers(file, arguments, numbers) | {"norm": norms[norm], "input_norm": norms[norm]}
    activation = arguments.get("encoder_activation") or "linear"
    _check(file, "encoder_activation", activation, ("linear", "relu"))
    return _config(file, arguments, model, 512, activation, "speech")


def lstm_config(file: str | Path, arguments: Arguments) -> configs.Config:
    """Of asteroid.models.LSTMTasNet.

    Raises:
        JaxsepError: as `conv_tasnet_config`.
    """
    numbers = {"units": ("hid_size", 512), "layers": ("n_layers", 4), "dropout": ("dropout", 0.3)}
    both = _numbers(file, arguments, {"both": ("bidirectional", True)})["both"]
    model = _numbers(file, arguments, numbers) | {"causal": not both, "shortcuts": False}
    model["input_norm"] = "gln" if both else "cumulative"
    _check(file, "rnn_type", str(arguments.get("rnn_type", "lstm")).lower(), ("lstm",))
    _check(file, "encoder_activation", arguments.get("encoder_activation") or "linear", ("linear",))
    # There, its softmax runs over the frames instead of the sources.
    _check(file, "mask_act", arguments.get("mask_act", "sigmoid"), ("sigmoid", "relu", "linear"))
    return _config(file, arguments, model, 64, "gated", "lstm")


def _config(
    file: str | Path, arguments: Arguments, model: Arguments, filters: int, activation: str, variant: str
) -> configs.Config:
    """What the two have in common; `filters` is the class's default."""
    numbers = {"filters": ("n_filters", filters), "kernel": ("kernel_size", 16), "stride": ("stride", 8)}
    bank = _numbers(file, arguments, numbers)
    mask = arguments.get("mask_act", "sigmoid")
    _check(file, "fb_name", arguments.get("fb_name", "free"), ("free", "FreeFB"))
    _check(file, "mask_act", mask, ("sigmoid", "relu", "softmax", "linear"))
    count = _numbers(file, arguments, {"count": ("n_src", 0)})["count"]
    if count < 1:
        raise JaxsepError(f"{file}: n_src={count}, expected the number of sources")
    config = configs.load_config(f"conv_tasnet.py:{variant}").copy_and_resolve_references().unlock()
    config.model.update(model)
    config.front.update(bank | {"stride": bank["stride"] or bank["kernel"] // 2, "activation": activation})
    config.head.activation = mask
    config.sample_rate = _numbers(file, arguments, {"rate": ("sample_rate", 8000)})["rate"] or 8000
    config.sources = config.data.stems = ",".join(f"source{i + 1}" for i in range(count))
    config.loss.pit = count > 1
    config.data.segment = 4 * config.sample_rate
    return config


def _numbers(file: str | Path, arguments: Arguments, wanted: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Our name -> the argument, or its default, as a number of the default's type; None is 0."""
    try:
        return {ours: type(default)(arguments.get(key, default) or 0) for ours, (key, default) in wanted.items()}
    except (TypeError, ValueError) as error:
        raise JaxsepError(f"{file}: model_args: {error}") from None


def _check(file: str | Path, key: str, value: Any, names: Sequence[str] | Mapping[str, str]) -> None:
    if value not in names:
        raise JaxsepError(f"{file}: {key}={value!r} is not known here, expected one of {', '.join(names)}")


def conv_tasnet_table(net: ConvTasNet) -> dict[str, Rule]:
    """Rules for a ConvTasNet."""

    def block(i: int) -> dict[str, str]:
        shared = f"masker.TCN.{i}.shared_block"
        order = ("expand", "prelu1", "norm1", "depthwise", "prelu2", "norm2")
        layers = {name: f"{shared}.{number}" for number, name in enumerate(order)}
        if net.causal:
            layers["depthwise"] += ".0"
        return layers | {"residual": f"masker.TCN.{i}.res_conv", "skip": f"masker.TCN.{i}.skip_conv"}

    layers = {
        "analysis": "encoder.filterbank._filters",
        "synthesis": "decoder.filterbank._filters",
        "input_norm": "masker.bottleneck.0",
        "bottleneck": "masker.bottleneck.1",
        "mask_prelu": "masker.mask_net.0",
        "masks": "masker.mask_net.1",
    }
    return conv_tasnet.table(net, conv_tasnet.Names(layers, block, conv_tasnet.transposed))


def lstm_table(net: ConvTasNet) -> dict[str, Rule]:
    """Rules for an LSTMTasNet."""
    rules: dict[str, Rule] = {
        "params/front/analysis": ("encoder.filterbank._filters", lambda filters: filters.transpose(2, 1, 0)),
        "params/front/gate": ("encoder.encoder_sig.filterbank._filters", lambda filters: filters.transpose(2, 1, 0)),
        "params/front/synthesis": ("decoder.filterbank._filters", conv_tasnet.transposed),
        "params/net/input_norm/scale": ("masker.bn_layer.gamma", tensors.same),
        "params/net/input_norm/bias": ("masker.bn_layer.beta", tensors.same),
        **tensors.linear("net/masks", "masker.masker.1"),
    }
    directions = {"": ""} if net.causal else {"/forward": "", "/backward": "_reverse"}
    for i in range(net.layers):
        for direction, suffix in directions.items():
            ours, theirs = f"params/net/lstm{i}/layer0{direction}", f"l{i}{suffix}"
            lstm = "masker.masker.0.rnn"
            rules |= {
                f"{ours}/input": (f"{lstm}.weight_ih_{theirs}", tensors.torch_linear),
                f"{ours}/recurrent": (f"{lstm}.weight_hh_{theirs}", tensors.torch_linear),
                f"{ours}/bias": ((f"{lstm}.bias_ih_{theirs}", f"{lstm}.bias_hh_{theirs}"), np.add),
            }
    return rules


MODELS = {
    "ConvTasNet": Model("Conv-TasNet", conv_tasnet_config, conv_tasnet_table),
    "DCCRNet": Model("DCCRNet", dccrn.asteroid_config, dccrn.asteroid_table, dccrn.ASTEROID_IGNORED),
    "LSTMTasNet": Model("TasNet", lstm_config, lstm_table, ("encoder.encoder_relu.filterbank._filters",)),
}
