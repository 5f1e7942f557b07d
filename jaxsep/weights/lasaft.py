"""LaSAFT's checkpoints: Lightning `.ckpt` files of github.com/ws-choi/Conditioned-Source-Separation-LaSAFT.

All nets of that repository are known: their fields are read off the tensors' names and shapes, and what these do not
tell (the hop, the form of PoCM) off the hyper-parameters that Lightning stored beside them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.weights import Imported, Origin, tensors, torch_files
from jaxsep.weights.tensors import Rule, batch_norm, conv, linear, same, torch_linear

PREFIX = "spec2spec."  # the net inside the Lightning module
# Counters of the batch norms, and the window of the STFT, which is always Hann's.
IGNORED = ("*.num_batches_tracked", "stft.*.window")
SOURCES = ("vocals", "drums", "bass", "other")  # in the order of the embeddings
Model = Mapping[str, Any]


def read(files: Sequence[Path]) -> Imported:
    """The variables of one `.ckpt` file and the config that fits them.

    Raises:
        JaxsepError: not one such file, a net for other sources, or tensors that do not make up a net.
    """
    if len(files) != 1:
        raise JaxsepError(f"lasaft: {len(files)} files, expected one .ckpt file (one net serves all sources)")
    (file,) = files
    found = torch_files.read_tensors(file, "state_dict", foreign=True)
    tensors.check_kind("lasaft", found, file)
    stored = torch_files.read(file, foreign=True).get("hyper_parameters", {})
    hyper = stored if isinstance(stored, dict) else {}
    net = {name.removeprefix(PREFIX): array for name, array in found.items()}
    config = config_of(net, hyper, file)
    variables = tensors.place(tensors.net_shapes(config), table(config.model.to_dict()), net, file, IGNORED)
    return Imported(config, {key: {"net": tree} for key, tree in variables.items()}, Origin("LaSAFT-Net"))


def config_of(net: Mapping[str, np.ndarray], hyper: Mapping[str, Any], file: str | Path) -> configs.Config:
    """The config of a net: that of the published variant with such tensors, or `small` with what differs.

    Raises:
        JaxsepError: the tensors that tell are missing or of other axes, or there are not four sources.
    """
    try:
        model, bins, channels, sources = _recognised(net, hyper)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise JaxsepError(f"{file}: not a net of LaSAFT's repository: cannot tell its sizes from {error}") from None
    if sources != len(SOURCES):
        raise JaxsepError(f"{file}: embeds {sources} sources, expected {len(SOURCES)}: {', '.join(SOURCES)}")
    frame, hop, frames = 2 * bins, hyper.get("hop_length", 1024), hyper.get("num_frame", 128)
    for variant in configs.load_module("lasaft.py").VARIANTS:
        config = configs.load_config(f"lasaft.py:{variant}")
        same_model = all(config.model[key] == model[key] for key in config.model if key in model)
        if same_model and (config.front.frame, config.front.hop, config.channels) == (frame, hop, channels):
            break
    else:
        config = configs.load_config("lasaft.py:small")
        config.variant = "imported"
    with config.unlocked():
        config.model.update(model)
    config.channels = channels
    config.sources = ",".join(SOURCES)
    config.front.update(frame=frame, hop=hop, bins=bins + 1)
    if 4 * hop <= frame:
        config.front.padding = "reflect"
    if config.variant == "imported":
        config.data.segment = (frames - 1) * hop
        config.inference.segment = config.data.segment / config.sample_rate
    return config


def _recognised(net: Mapping[str, np.ndarray], hyper: Mapping[str, Any]) -> tuple[dict[str, Any], int, int, int]:
    """(fields of the net, bins - 1, audio channels, sources)."""
    block, first = next(
        (block, f"encoders.0.{name}.0.weight")
        for block, name in (("lightsaft", "LaSAFT_bn_layer"), ("lasaft", "tdfs.tdf"), ("tdf", "tdf.tdf"), ("none", ""))
        if block == "none" or f"encoders.0.{name}.0.weight" in net
    )
    (width, inputs, _, _), (sources, embedding) = net["first_conv.0.weight"].shape, net["embedding.weight"].shape
    model = {
        "block": block,
        "conditioning": "gpocm" if "condition_generator.linear_gamma.2.running_mean" in net else "film",
        "pocm_form": hyper.get("pocm_type", "matmul"),
        "levels": sum(tensors.matches(name, ["downsamplings.*.0.weight"]) for name in net),
        "channels": width,
        "layers": sum(tensors.matches(name, ["encoders.0.*H.*.0.weight"]) for name in net),
        "embedding": embedding,
        "bottleneck_min": hyper.get("min_bn_units", 16),
    }
    if block == "none":
        return model, hyper.get("n_fft", 2048) // 2, inputs // 2, sources
    hidden, bins = net[first].shape
    latents = 1
    if block != "tdf":
        model["key_dim"], latents = net["encoders.0.keys"].shape
        model["latents"] = latents
    model["bottleneck"] = bins * latents // hidden
    return model, bins, inputs // 2, sources


def table(model: Model) -> dict[str, Rule]:
    """Rules for all variables of a net with such fields, from the names of the authors' tensors without prefix."""
    rules = _conv_norm("first", "first_norm", "first_conv") | conv("last", "last_conv.0")
    rules["params/embedding"] = ("embedding.weight", same)
    for level in range(model["levels"]):
        rules |= _conv_norm(f"down{level}", f"down{level}_norm", f"downsamplings.{level}")
        rules |= _conv_norm(f"up{level}", f"up{level}_norm", f"upsamplings.{level}")
        rules[f"params/up{level}/kernel"] = (f"upsamplings.{level}.0.weight", _up)
        rules |= _block(model, f"encoder{level}", f"encoders.{level}")
        rules |= _block(model, f"decoder{level}", f"decoders.{level}")
    return rules | _block(model, "middle", "mid_block") | _condition(model)


def _block(model: Model, ours: str, theirs: str) -> dict[str, Rule]:
    """TFC and frequency transformation; a block that is a TFC alone has no folder for it."""
    rules: dict[str, Rule] = {}
    tfc = f"{theirs}.H" if model["block"] == "none" else f"{theirs}.tfc.H"
    for i in range(model["layers"]):
        rules |= _conv_norm(f"{ours}_tfc/conv{i}", f"{ours}_tfc/norm{i}", f"{tfc}.{i}")
    if model["block"] == "none":
        return rules
    latents = model["latents"]
    layers = {
        "tdf": (("tdf.tdf", 0, torch_linear), ("tdf.tdf", 3, torch_linear)),
        "lasaft": (("tdfs.tdf", 0, torch_linear), ("tdfs.tdf", 3, lambda w: _latents_last(w, latents))),
        "lightsaft": (("LaSAFT_bn_layer", 0, lambda w: _latents_first(w, latents)), ("LaSIFT", 0, torch_linear)),
    }[model["block"]]
    for part, (name, number, convert) in zip(("first", "second"), layers, strict=True):
        rules |= batch_norm(f"{ours}_transform/{part}/norm", f"{theirs}.{name}.{number + 1}")
        rules[f"params/{ours}_transform/{part}/kernel"] = (f"{theirs}.{name}.{number}.weight", convert)
    if model["block"] != "tdf":
        rules |= linear(f"{ours}_transform/query", f"{theirs}.linear_query")
        rules[f"params/{ours}_transform/keys"] = (f"{theirs}.keys", same)
    return rules


def _condition(model: Model) -> dict[str, Rule]:
    """The generator of gamma and beta."""
    dense = "condition_generator.dense_control_block.linear"
    rules = linear("condition/dense0", f"{dense}.0")
    for i, number in ((1, 2), (2, 6)):
        rules |= linear(f"condition/dense{i}", f"{dense}.{number}")
        rules |= batch_norm(f"condition/norm{i}", f"{dense}.{number + 3}")
    for head in ("gamma", "beta"):
        rules |= linear(f"condition/{head}", f"condition_generator.linear_{head}.0")
        if model["conditioning"] != "film":
            statistics, norm = f"batch_stats/condition/{head}_norm", f"condition_generator.linear_{head}.2"
            rules[f"{statistics}/mean"] = (f"{norm}.running_mean", same)
            rules[f"{statistics}/var"] = (f"{norm}.running_var", same)
    return rules


def _conv_norm(ours: str, norm: str, theirs: str) -> dict[str, Rule]:
    return conv(ours, f"{theirs}.0") | batch_norm(norm, f"{theirs}.1")


def _up(weight: np.ndarray) -> np.ndarray:
    """Transposed convolution [in out kh kw] -> [kh kw in out]."""
    return weight.transpose(2, 3, 0, 1)


def _latents_last(weight: np.ndarray, latents: int) -> np.ndarray:
    """[f * K + k, m] -> [m K f]."""
    return weight.reshape(-1, latents, weight.shape[1]).transpose(2, 1, 0)


def _latents_first(weight: np.ndarray, latents: int) -> np.ndarray:
    """[k * m + i, f] -> [f K m]."""
    return weight.reshape(latents, -1, weight.shape[1]).transpose(2, 0, 1)
