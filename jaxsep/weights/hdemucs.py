"""Hybrid Demucs (v3) and Hybrid Transformer Demucs (v4) of the authors' package: config and tensors of one model.

`weights.demucs` reads the files and knows by its class which model one holds; here the arguments of that class become
a config, and its tensors variables.
"""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.weights import Imported, Origin, tensors
from jaxsep.weights.demucs_files import Package, source_names

# Argument of the class -> (field of the net, the class's default); where the field is "" only the default is known.
_BOTH: dict[str, tuple[str, Any]] = {
    "channels": ("channels", 48),
    "channels_time": ("", None),
    "growth": ("growth", 2),
    "nfft": ("frame", 4096),
    "cac": ("", True),
    "rewrite": ("", True),
    "multi_freqs": ("", None),
    "freq_emb": ("embedding", 0.2),
    "emb_scale": ("", 10),
    "stride": ("stride", 4),
    "context": ("", 1),
    "context_enc": ("", 0),
    "norm_starts": ("norm_starts", 4),
    "norm_groups": ("norm_groups", 4),
    "dconv_depth": ("dconv_depth", 2),
}
ARGUMENTS: dict[str, dict[str, tuple[str, Any]]] = {
    "hdemucs": _BOTH
    | {
        "depth": ("depth", 6),
        "hybrid": ("", True),
        "hybrid_old": ("old_padding", False),
        "time_stride": ("time_stride", 2),
        "dconv_mode": ("dconv_mode", 1),
        "dconv_comp": ("dconv_compress", 4),
        "dconv_lstm": ("dconv_lstm", 4),
        "dconv_attn": ("dconv_attention", 4),
    },
    "htdemucs": _BOTH
    | {
        "depth": ("depth", 4),
        "dconv_mode": ("dconv_mode", 1),
        "dconv_comp": ("dconv_compress", 8),
        "bottom_channels": ("bottom", 0),
        "t_layers": ("layers", 5),
        "t_heads": ("heads", 8),
        "t_hidden_scale": ("hidden", 4.0),
        "t_emb": ("", "sin"),
        "t_norm_in": ("", True),
        "t_norm_in_group": ("", False),
        "t_group_norm": ("", False),
        "t_norm_first": ("", True),
        "t_norm_out": ("", True),
        "t_max_period": ("", 10000.0),
        "t_layer_scale": ("", True),
        "t_gelu": ("", True),
        "t_weight_pos_embed": ("", 1.0),
        "t_sin_random_shift": ("", 0),
        "t_sparse_self_attn": ("", False),
        "t_sparse_cross_attn": ("", False),
        "t_cross_first": ("", False),
    },
}
# Arguments without effect on what a net of these fields computes in evaluation.
_HARMLESS = (
    *("sources", "audio_channels", "samplerate", "segment", "kernel_size", "wiener_iters", "end_iters"),
    *("wiener_residual", "multi_freqs_depth", "emb_smooth", "dconv_init", "rescale"),
)
HARMLESS: dict[str, tuple[str, ...]] = {
    "hdemucs": _HARMLESS,
    "htdemucs": (
        *_HARMLESS,
        *("use_train_segment", "t_dropout", "t_max_positions", "t_weight_decay", "t_lr", "t_cape_mean_normalize"),
        *("t_cape_augment", "t_cape_glob_loc_scale", "t_mask_type", "t_mask_random_seed", "t_sparse_attn_window"),
        *("t_global_window", "t_sparsity", "t_auto_sparsity"),
    ),
}
SEGMENT = {"hdemucs": 40, "htdemucs": 10}  # seconds, the classes' defaults
MAX_SEGMENT = 600  # seconds; more is no segment but a damaged number


def imported(package: Package) -> Imported:
    """The model of one file.

    Raises:
        JaxsepError: arguments or tensors that do not make up such a net.
    """
    system = package.klass.rpartition(".")[2].lower()
    config = config_of(system, package)
    rules = table(system, config.model.to_dict())
    variables = tensors.place(tensors.net_shapes(config), rules, package.state, package.file)
    names = {"hdemucs": "Hybrid Demucs (v3)", "htdemucs": "Hybrid Transformer Demucs (v4)"}
    return Imported(config, {key: {"net": tree} for key, tree in variables.items()}, Origin(names[system]))


def config_of(system: str, package: Package) -> configs.Config:
    """The config of the model that a file's class made of its arguments.

    Args:
        system: "hdemucs" or "htdemucs".
        package: of the file.

    Raises:
        JaxsepError: an argument that this suite has no field for, or that is no number where one is expected.
    """
    if len(package.args) > 1:
        raise JaxsepError(f"{package.file}: expected named arguments of its class; this file has {package.args}")
    said = package.arguments(["sources", *ARGUMENTS[system], *HARMLESS[system][1:]])
    sources = source_names(package, said.get("sources"))
    config = configs.load_config(f"configs/{system}.py")
    with config.unlocked():
        config.sources = config.data.stems = ",".join(sources)
        try:
            config.model.update(fields(system, said, package.file))
            rate = int(said.get("samplerate", 44100))
            seconds = Fraction(said.get("segment", SEGMENT[system]))
            config.channels = int(said.get("audio_channels", 2))
        except JaxsepError:
            raise
        except (TypeError, ValueError, OverflowError):
            raise JaxsepError(f"{package.file}: made with arguments that are no numbers: {said}") from None
        if not 0 < seconds <= MAX_SEGMENT or rate < 1 or config.channels < 1:
            raise JaxsepError(f"{package.file}: segment={seconds}, samplerate={rate}: expected seconds and Hz above 0")
        segment = int(seconds * rate)
        config.sample_rate, config.inference.segment = rate, segment / rate
        config.data.shift = min(config.data.shift, rate)
        if system == "htdemucs":
            config.model.segment = segment if said.get("use_train_segment", True) else 0
            config.data.segment = segment
    return config.lock()


def fields(system: str, said: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Fields of the net.

    Args:
        system: "hdemucs" or "htdemucs".
        said: arguments of the class.
        file: for messages.

    Raises:
        JaxsepError: an argument that changes the net in a way for which there is no field.
    """
    kernel, stride = said.get("kernel_size", 8), said.get("stride", 4)
    if kernel != 2 * stride:
        raise JaxsepError(f"{file}: kernel_size={kernel} and stride={stride}; expected kernels of twice the stride")
    made = {}
    for name, (field, default) in ARGUMENTS[system].items():
        value = said.get(name, default)
        if field:
            made[field] = type(default)(value)
        elif value != default and (value or default):  # multi_freqs: None and [] are one
            raise JaxsepError(f"{file}: {name}={value!r}, but only {name}={default!r} is known here")
    return made


def table(system: str, fields: Mapping[str, Any]) -> dict[str, tensors.Rule]:
    """The rules of one net.

    Args:
        system: "hdemucs" or "htdemucs".
        fields: of the net, as its config has them.
    """
    return _hdemucs(fields) if system == "hdemucs" else _htdemucs(fields)


def _hdemucs(fields: Mapping[str, Any]) -> dict[str, tensors.Rule]:
    depth, bins, stride = fields["depth"], fields["frame"] // 2, fields["stride"]
    merge = 0
    while bins > 2 * stride:
        merge, bins = merge + 1, bins // stride
    rules = _embedding(fields)
    for i in range(depth):
        norm = i >= fields["norm_starts"]
        lstm, attention = i >= fields["dconv_lstm"], i >= fields["dconv_attention"]
        branches = (fields["dconv_depth"], lstm, attention)
        encoder, decoder = (branches if fields["dconv_mode"] & side else None for side in (1, 2))
        rules |= _encoder(f"encoder{i}", f"encoder.{i}", norm, encoder)
        rules |= _decoder(f"decoder{i}", f"decoder.{depth - 1 - i}", norm, decoder, i <= merge)
        if i < merge:
            rules |= _encoder(f"time_encoder{i}", f"tencoder.{i}", norm, encoder)
            rules |= _decoder(f"time_decoder{i}", f"tdecoder.{merge - i}", norm, decoder, False)
    rules |= _conv(f"time_encoder{merge}", f"tencoder.{merge}.conv")
    rules |= _conv(f"time_decoder{merge}/up", "tdecoder.0.conv_tr", _transposed)
    return rules | (_norm(f"time_decoder{merge}/norm2", "tdecoder.0.norm2") if merge >= fields["norm_starts"] else {})


def _htdemucs(fields: Mapping[str, Any]) -> dict[str, tensors.Rule]:
    depth = fields["depth"]
    rules = _embedding(fields)
    for i in range(depth):
        norm, branches = i >= fields["norm_starts"], (fields["dconv_depth"], False, False)
        encoder, decoder = (branches if fields["dconv_mode"] & side else None for side in (1, 2))
        for ours, theirs in (("", ""), ("time_", "t")):
            rules |= _encoder(f"{ours}encoder{i}", f"{theirs}encoder.{i}", norm, encoder)
            last = f"{theirs}decoder.{depth - 1 - i}"
            rules |= _decoder(f"{ours}decoder{i}", last, norm, decoder, not ours)
    if fields["layers"] and fields["bottom"]:
        for ours, theirs in (("widen", "channel_upsampler"), ("narrow", "channel_downsampler")):
            rules |= _conv(ours, theirs) | _conv(f"{ours}_time", f"{theirs}_t")
    if fields["layers"]:
        rules |= _norm("transformer/norm_in", "crosstransformer.norm_in")
        rules |= _norm("transformer/norm_in_time", "crosstransformer.norm_in_t")
    for i in range(fields["layers"]):
        rules |= _layer(f"transformer/layer{i}", f"crosstransformer.layers.{i}", i % 2 == 1)
        rules |= _layer(f"transformer/time{i}", f"crosstransformer.layers_t.{i}", i % 2 == 1)
    return rules


def _embedding(fields: Mapping[str, Any]) -> dict[str, tensors.Rule]:
    rule = ("freq_emb.embedding.weight", tensors.same)
    return {"params/embedding/table": rule} if fields["embedding"] else {}


def _encoder(path: str, name: str, norm: bool, branches: tuple[int, bool, bool] | None) -> dict[str, tensors.Rule]:
    rules = _conv(f"{path}/conv", f"{name}.conv") | _conv(f"{path}/rewrite", f"{name}.rewrite")
    if norm:
        rules |= _norm(f"{path}/norm1", f"{name}.norm1") | _norm(f"{path}/norm2", f"{name}.norm2")
    return rules | _branches(f"{path}/dconv", f"{name}.dconv", branches)


def _decoder(
    path: str, name: str, norm: bool, branches: tuple[int, bool, bool] | None, frequency: bool
) -> dict[str, tensors.Rule]:
    rewrite = tensors.torch_conv if frequency else _plain
    rules = _conv(f"{path}/rewrite", f"{name}.rewrite", rewrite) | _conv(f"{path}/up", f"{name}.conv_tr", _transposed)
    if norm:
        rules |= _norm(f"{path}/norm1", f"{name}.norm1") | _norm(f"{path}/norm2", f"{name}.norm2")
    return rules | _branches(f"{path}/dconv", f"{name}.dconv", branches)


def _branches(path: str, name: str, branches: tuple[int, bool, bool] | None) -> dict[str, tensors.Rule]:
    """The residual branches: positions in torch's Sequential depend on what is in between."""
    rules: dict[str, tensors.Rule] = {}
    depth, lstm, attention = branches or (0, False, False)
    for i in range(depth):
        layer = f"{name}.layers.{i}"
        rules |= _conv(f"{path}/conv{i}", f"{layer}.0") | _norm(f"{path}/norm{i}", f"{layer}.1")
        position = 3
        if lstm:
            rules |= tensors.blstm(f"{path}/blstm{i}/lstm", f"{layer}.{position}.lstm", 2)
            rules |= tensors.linear(f"{path}/blstm{i}/linear", f"{layer}.{position}.linear")
            position += 1
        if attention:
            parts = {"query": "query", "key": "key", "content": "content", "decay": "query_decay", "out": "proj"}
            for ours, theirs in parts.items():
                rules |= _conv(f"{path}/attention{i}/{ours}", f"{layer}.{position}.{theirs}")
            position += 1
        rules |= _conv(f"{path}/expand{i}", f"{layer}.{position}")
        rules |= _norm(f"{path}/expand_norm{i}", f"{layer}.{position + 1}")
        rules[f"params/{path}/scale{i}"] = (f"{layer}.{position + 3}.scale", tensors.same)
    return rules


def _layer(path: str, name: str, crossed: bool) -> dict[str, tensors.Rule]:
    """A layer of the transformer."""
    attention = f"{name}.{'cross_attn' if crossed else 'self_attn'}"
    norms = {"norm1": "norm1", "norm2": "norm3" if crossed else "norm2", "norm_out": "norm_out"}
    norms |= {"norm_other": "norm2"} if crossed else {}
    rules: dict[str, tensors.Rule] = {
        f"params/{path}/attention/inputs": (f"{attention}.in_proj_weight", tensors.torch_linear),
        f"params/{path}/attention/input_bias": (f"{attention}.in_proj_bias", tensors.same),
        f"params/{path}/scale1": (f"{name}.gamma_1.scale", tensors.same),
        f"params/{path}/scale2": (f"{name}.gamma_2.scale", tensors.same),
    }
    rules |= tensors.linear(f"{path}/attention/out", f"{attention}.out_proj")
    rules |= tensors.linear(f"{path}/dense1", f"{name}.linear1") | tensors.linear(f"{path}/dense2", f"{name}.linear2")
    for ours, theirs in norms.items():
        rules |= _norm(f"{path}/{ours}", f"{name}.{theirs}")
    return rules


def _conv(path: str, name: str, kernel: Any = None) -> dict[str, tensors.Rule]:
    return {
        f"params/{path}/kernel": (f"{name}.weight", kernel or _plain),
        f"params/{path}/bias": (f"{name}.bias", tensors.same),
    }


def _norm(path: str, name: str) -> dict[str, tensors.Rule]:
    return {
        f"params/{path}/scale": (f"{name}.weight", tensors.same),
        f"params/{path}/bias": (f"{name}.bias", tensors.same),
    }


def _plain(weight: np.ndarray) -> np.ndarray:
    """[out in k] or [out in k 1] -> [k in out]."""
    return weight.reshape(weight.shape[:3]).transpose(2, 1, 0)


def _transposed(weight: np.ndarray) -> np.ndarray:
    """[in out k] or [in out k 1] -> [k in out]."""
    return weight.reshape(weight.shape[:3]).transpose(2, 0, 1)
