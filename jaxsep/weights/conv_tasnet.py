"""Conv-TasNet of the demucs package, for `weights.demucs`, and the names of its tensors there and elsewhere."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.models.conv_tasnet import ConvTasNet
from jaxsep.weights import Imported, Origin, tensors
from jaxsep.weights.demucs_files import Package, source_names
from jaxsep.weights.tensors import Rule, same

# Arguments of demucs' class in their order, and the field of `ConvTasNet` or "" where it is not one.
VERSION1 = {
    "N": "",
    "L": "",
    "B": "bottleneck",
    "H": "hidden",
    "P": "kernel",
    "X": "blocks",
    "R": "repeats",
    "C": "",
    "audio_channels": "",
    "samplerate": "",
    "norm_type": "",
    "causal": "",
    "mask_nonlinear": "",
}
VERSION2 = {
    "sources": "",
    **{name: VERSION1[name] for name in ("N", "L", "B", "H", "P", "X", "R")},
    **{name: VERSION1[name] for name in ("audio_channels", "norm_type", "causal", "mask_nonlinear", "samplerate")},
    "segment_length": "",
}
# The class's own, where an argument is not given.
DEFAULTS: Mapping[str, Any] = {
    **{"N": 256, "L": 20, "B": 256, "H": 512, "P": 3, "X": 8, "R": 4, "C": 4, "samplerate": 44100},
    **{"norm_type": "gLN", "causal": False, "mask_nonlinear": "relu"},
}
NORMS = {"gLN": "gln", "cLN": "cln"}
MASKS = ("relu", "softmax")


@dataclasses.dataclass(frozen=True)
class Names:
    """What a family of checkpoints calls its tensors.

    Attributes:
        layers: our layer outside of the blocks -> theirs; of the front end, "analysis" and "synthesis".
        block: number -> the same for the layers of a block.
        synthesis: makes [d k c] of their decoder.
        affine: gain and bias of a norm.
    """

    layers: Mapping[str, str]
    block: Callable[[int], Mapping[str, str]]
    synthesis: Callable[[np.ndarray], np.ndarray]
    affine: tuple[str, str] = ("gamma", "beta")


def demucs(net: ConvTasNet, channels: int) -> Names:
    """Of the demucs package."""
    last = 1 if net.causal else 0  # behind a causal convolution, a layer that cuts off its end is counted, too

    def block(i: int) -> dict[str, str]:
        outer = f"separator.network.2.{i // net.blocks}.{i % net.blocks}.net"
        inner = f"{outer}.3.net"
        return {
            "expand": f"{outer}.0",
            "prelu1": f"{outer}.1",
            "norm1": f"{outer}.2",
            "depthwise": f"{inner}.0",
            "prelu2": f"{inner}.{1 + last}",
            "norm2": f"{inner}.{2 + last}",
            "residual": f"{inner}.{3 + last}",
        }

    layers = {"analysis": "encoder.conv1d_U.weight", "synthesis": "decoder.basis_signals.weight"}
    layers |= {name: f"separator.network.{i}" for name, i in (("input_norm", 0), ("bottleneck", 1), ("masks", 3))}
    return Names(layers, block, lambda weight: weight.reshape(channels, -1, weight.shape[1]).transpose(2, 1, 0))


def table(net: ConvTasNet, names: Names) -> dict[str, Rule]:
    """Rules for all variables of a separator whose net has these fields."""
    layers = names.layers
    rules: dict[str, Rule] = {
        "params/front/analysis": (layers["analysis"], lambda weight: weight.transpose(2, 1, 0)),
        "params/front/synthesis": (layers["synthesis"], names.synthesis),
        **_norm("input_norm", layers["input_norm"], names),
        **_pointwise("bottleneck", layers["bottleneck"], net.bias),
        **_pointwise("masks", layers["masks"], net.bias),
    }
    if net.mask_prelu:
        rules["params/net/mask_prelu"] = (f"{layers['mask_prelu']}.weight", same)
    count = net.blocks * net.repeats
    for i in range(count):
        theirs = names.block(i)
        rules |= _block(net, f"block{i}", theirs, names)
        if net.skip:
            rules |= _pointwise(f"block{i}_skip", theirs["skip"], net.bias)
        if not net.skip or i < count - 1 or net.last_residual:
            rules |= _pointwise(f"block{i}_residual", theirs["residual"], net.bias)
    return rules


def _block(net: ConvTasNet, ours: str, theirs: Mapping[str, str], names: Names) -> dict[str, Rule]:
    """What residual and skip share."""
    rules = _pointwise(f"{ours}_expand", theirs["expand"], net.bias)
    rules[f"params/net/{ours}_depthwise_kernel"] = (f"{theirs['depthwise']}.weight", _without_axis)
    if net.bias:
        rules[f"params/net/{ours}_depthwise_bias"] = (f"{theirs['depthwise']}.bias", same)
    for part in ("1", "2"):
        rules[f"params/net/{ours}_prelu{part}"] = (f"{theirs[f'prelu{part}']}.weight", same)
        rules |= _norm(f"{ours}_norm{part}", theirs[f"norm{part}"], names)
    return rules


def _norm(ours: str, theirs: str, names: Names) -> dict[str, Rule]:
    parts = zip(("scale", "bias"), names.affine, strict=True)
    return {f"params/net/{ours}/{part}": (f"{theirs}.{name}", _line) for part, name in parts}


def _pointwise(ours: str, theirs: str, bias: bool) -> dict[str, Rule]:
    """A convolution with kernel 1 as a dense layer."""
    rules: dict[str, Rule] = {f"params/net/{ours}/kernel": (f"{theirs}.weight", lambda w: w.transpose(2, 1, 0)[0])}
    return rules | ({f"params/net/{ours}/bias": (f"{theirs}.bias", same)} if bias else {})


def transposed(weight: np.ndarray) -> np.ndarray:
    """Kernels of a transposed convolution, [d c k] -> [d k c]."""
    return weight.transpose(0, 2, 1)


def _without_axis(weight: np.ndarray) -> np.ndarray:
    """Depthwise [h 1 k] -> [k h]."""
    return weight.transpose(2, 1, 0)[:, 0]


def _line(array: np.ndarray) -> np.ndarray:
    """[d] or [1 d 1] -> [d]; another shape is left for `place` to refuse."""
    return array.ravel() if array.size == max(array.shape) else array


def imported(package: Package) -> Imported:
    """Conv-TasNet of version 1 or 2 of the demucs package.

    Raises:
        JaxsepError: arguments or tensors that do not make up such a net.
    """
    config = config_of(package)
    net: Any = separator.build(config).net
    rules = table(net, demucs(net, config.channels))
    variables = tensors.place(tensors.shapes(config), rules, package.state, package.file)
    return Imported(config.lock(), variables, Origin(f"Conv-TasNet of demucs, version {package.version}"))


def config_of(package: Package) -> configs.Config:
    """The config of a model's arguments, not locked.

    Raises:
        JaxsepError: arguments that are not known here or no numbers, or tensors without that do not tell them.
    """
    order = VERSION1 if package.version == 1 else VERSION2
    given = {**DEFAULTS, **(package.arguments(list(order)) if package.klass else _recognised(package))}
    config = configs.load_config("conv_tasnet.py:" + ("music-v1" if package.version == 1 else "music"))
    config = config.copy_and_resolve_references().unlock()
    config.sources = config.data.stems = ",".join(source_names(package, given.get("sources", given["C"])))
    norm, mask = given["norm_type"], given["mask_nonlinear"]
    if norm not in NORMS or mask not in MASKS:
        raise JaxsepError(
            f"{package.file}: norm_type={norm!r}, mask_nonlinear={mask!r}; expected {' or '.join(NORMS)}, and "
            f"{' or '.join(MASKS)}"
        )
    config.model.norm, config.head.activation = NORMS[norm], mask
    try:
        config.model.update({field: int(given[name]) for name, field in order.items() if field})
        config.model.causal = bool(given["causal"])
        config.front.update(filters=int(given["N"]), kernel=int(given["L"]), stride=int(given["L"]) // 2)
        config.channels = int(given.get("audio_channels", 1 if package.version == 1 else 2))
        config.sample_rate = int(given["samplerate"])
        seconds = given.get("segment_length", 8 * config.sample_rate) / config.sample_rate
    except (TypeError, ValueError, ZeroDivisionError):
        raise JaxsepError(f"{package.file}: made with arguments that are no numbers: {given}") from None
    config.inference.shifts = 0
    if package.version == 2:
        config.inference.segment = seconds
    return config


def _recognised(package: Package) -> dict[str, Any]:
    """Arguments from the tensors; what these do not tell is as published."""
    state = package.state
    try:
        filters, channels, kernel = state["encoder.conv1d_U.weight"].shape
        bottleneck = state["separator.network.1.weight"].shape[0]
        hidden, _, taps = state["separator.network.2.0.0.net.3.net.0.weight"].shape
        numbers = [re.fullmatch(r"separator\.network\.2\.(\d+)\.(\d+)\.net\.0\.weight", name) for name in state]
        repeats, blocks = ({int(match[i]) for match in numbers if match} for i in (1, 2))
        return {
            "N": filters,
            "L": kernel,
            "B": bottleneck,
            "H": hidden,
            "P": taps,
            "X": len(blocks),
            "R": len(repeats),
            "sources": len(state["separator.network.3.weight"]) // filters,
            "audio_channels": channels,
            "causal": "separator.network.2.0.0.net.3.net.4.weight" in state,
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise JaxsepError(f"{package.file}: not Conv-TasNet of demucs: cannot tell its sizes from {error}") from None
