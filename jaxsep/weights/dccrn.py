"""DCCRN's weights: the `state_dict` of the authors' code (github.com/huyanxin/DeepComplexCRN), and asteroid's DCCRNet.

The authors' file has no settings: sizes are those of the tensors. What no tensor tells is taken for the code's default,
a hop of a quarter of the window, mask E, 16 kHz; to say otherwise change `config.json` in the run folder.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.framing import WINDOWS
from jaxsep.weights import Imported, Origin, tensors, torch_files
from jaxsep.weights.tensors import Rule, same, torch_linear

# The code's STFT and its inverse; the window and the sizes are read, the rest follows from them.
IGNORED = ("stft.weight", "istft.*", "*.num_batches_tracked")
ASTEROID_IGNORED = ("encoder.filterbank.*", "decoder.filterbank.*", "*.num_batches_tracked")
PARTS = ("real", "imag")
Net = Mapping[str, np.ndarray]
Convert = Callable[..., np.ndarray]


def read(files: Sequence[Path]) -> Imported:
    """The variables of one file of `torch.save(net.state_dict(), ...)` and the config that fits them.

    Raises:
        JaxsepError: not one such file, or tensors that do not make up a net.
    """
    if len(files) != 1:
        raise JaxsepError(f"dccrn: {len(files)} files, expected one state_dict of PyTorch")
    (file,) = files
    net = torch_files.read_tensors(file)
    tensors.check_kind("dccrn", net, file)
    try:
        config = _config(*_recognised(net, file))
    except (KeyError, ValueError, IndexError) as error:
        raise JaxsepError(f"{file}: not a net of DCCRN's repository: cannot tell its sizes from {error}") from None
    return _imported(config, table(config.model.to_dict(), config.front.fft // 2), net, file, IGNORED, "DCCRN")


def read_asteroid(net: Net, arguments: Mapping[str, Any], file: Path) -> Imported:
    """asteroid's DCCRNet.

    Args:
        net: the tensors of its `state_dict`.
        arguments: its `model_args`.
        file: for messages.

    Raises:
        JaxsepError: arguments without a counterpart here, or tensors that do not make up a net.
    """
    said = {"architecture": "DCCRN-CL", "stft_n_filters": 512, "stft_kernel_size": 400, "stft_stride": 100}
    said |= {"sample_rate": 16_000, "n_src": 1, "mask_bound": "tanh", **arguments}
    fft, hop, sources = (int(said[key]) for key in ("stft_n_filters", "stft_stride", "n_src"))
    if said.pop("n_freqs", fft // 2) != fft // 2:
        raise JaxsepError(f"{file}: n_freqs={arguments['n_freqs']} of an FFT of {fft}, expected {fft // 2}")
    masks = {"tanh": "E", "BDT": "E", None: "C", "UBD": "C"}
    if said["mask_bound"] not in masks:
        raise JaxsepError(f"{file}: mask_bound={said['mask_bound']!r}, expected tanh or None; others are not supported")
    front = {"name": "conv_stft", "form": "asteroid", "window": "sqrt_hann", "clamp": False, "bins": fft // 2 + 1}
    front |= {"frame": int(said["stft_kernel_size"]), "hop": hop, "fft": fft}
    try:
        widths = _widths(net, "masker.encoders.{}.conv.re_module.weight")
        units = 2 * net[f"masker.encoders.{len(widths)}.linear.re_module.weight"].shape[1]
    except (KeyError, IndexError):
        raise JaxsepError(f"{file}: not asteroid's DCCRNet: masker.encoders.* or its linear layer is missing") from None
    layers = _count(net, r"masker\.encoders\.\d+\.rnn\.rnns\.\d+\.re_module\.rnn\.weight_ih_l0")
    model = {"widths": widths, "units": units, "layers": layers, "layout": "asteroid"}
    config = _config(model, front, masks[said["mask_bound"]])
    with config.unlocked():
        config.sample_rate = int(said["sample_rate"])
        config.data.segment = 4 * config.sample_rate
        if sources > 1:
            config.sources = config.data.stems = ",".join(f"speaker{i + 1}" for i in range(sources))
    rules = asteroid_table(config.model.to_dict(), fft // 2)
    return _imported(config, rules, net, file, ASTEROID_IGNORED, "DCCRNet (asteroid)")


def _imported(
    config: configs.Config, rules: Mapping[str, Rule], net: Net, file: Path, ignore: Sequence[str], name: str
) -> Imported:
    variables = tensors.place(tensors.net_shapes(config), rules, net, file, ignore)
    return Imported(config, {key: {"net": tree} for key, tree in variables.items()}, Origin(name))


def _recognised(net: Net, file: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Fields of the net and of the front end, and the mask."""
    rows, _, frame = net["stft.weight"].shape
    bins, frames = net["encoder.0.0.real_conv.weight"].shape[2:]
    if (bins, frames) != (5, 2):
        raise JaxsepError(f"{file}: kernels of {bins} bins x {frames} frames, expected 5 x 2: the code pads for these")
    window = net["istft.window"].reshape(-1)
    names = [n for n in WINDOWS if np.allclose(WINDOWS[n](np.arange(frame) / frame), window, atol=1e-5)]
    if not names:
        raise JaxsepError(f"{file}: the window of its STFT (istft.window) is none of {', '.join(WINDOWS)}")
    front = {"name": "conv_stft", "form": "dccrn", "window": names[0], "clamp": False, "bins": rows // 2}
    front |= {"frame": frame, "hop": frame // 4, "fft": rows - 2}
    cosines = np.fft.rfft(np.eye(frame), n=rows - 2).real.T * window
    if not np.allclose(cosines, net["stft.weight"][: rows // 2, 0], atol=1e-3):
        raise JaxsepError(f"{file}: stft.weight is not a DFT of {rows - 2} points; trained kernels are not supported")
    norm = "complex" if "encoder.0.1.Wrr" in net else "parts"
    if "enhance.0.real_lstm.weight_hh_l0" in net:
        layers, units = _count(net, r"enhance\.\d+\.real_lstm\.weight_ih_l0"), "enhance.0.real_lstm.weight_hh_l0"
        lstm = {"lstm": "complex", "layers": layers, "units": 2 * net[units].shape[1]}
    else:
        units = net["enhance.weight_hh_l0"].shape[1]
        lstm = {"lstm": "real", "layers": _count(net, r"enhance\.weight_ih_l\d+"), "units": units}
    return {"widths": _widths(net, "encoder.{}.0.real_conv.weight"), "norm": norm, **lstm}, front, "E"


def _widths(net: Net, name: str) -> tuple[int, ...]:
    levels = 0
    while name.format(levels) in net:
        levels += 1
    return tuple(2 * net[name.format(level)].shape[0] for level in range(levels))


def _count(net: Net, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in net)


def _config(model: Mapping[str, Any], front: Mapping[str, Any], mode: str) -> configs.Config:
    """The variant with such fields, or one named "imported"."""
    for variant in configs.load_module("dccrn.py").VARIANTS:
        config = configs.load_config(f"dccrn.py:{variant}")
        same_model = config.model.to_dict() == {**config.model.to_dict(), **model}
        if config.channels == 1 and same_model and config.front.to_dict() == front and config.head.mode == mode:
            return config
    config = configs.load_config(f"dccrn.py:{'asteroid' if front['form'] == 'asteroid' else 'cl'}")
    with config.unlocked():
        config.variant = "imported"
        config.model.update(model)
        config.front.update(front)
        config.head.mode = mode
    return config.lock()


def table(model: Mapping[str, Any], bins: int) -> dict[str, Rule]:
    """Rules for all variables of the authors' net with such fields.

    Args:
        model: `config.model`.
        bins: that the first level sees.
    """
    levels = len(model["widths"])
    below = bins >> levels, model["widths"][-1]  # shape at the LSTM: bins, channels
    rules: dict[str, Rule] = {}
    for level in range(levels):
        for ours, theirs, kernel in (
            (f"encoder{level}", f"encoder.{level}", _conv),
            (f"decoder{level}", f"decoder.{levels - 1 - level}", _conv_transpose),
        ):
            for part in PARTS:
                rules[f"params/{ours}/{part}"] = (f"{theirs}.0.{part}_conv.weight", kernel)
                rules[f"params/{ours}/{part}_bias"] = (f"{theirs}.0.{part}_conv.bias", same)
            if ours != "decoder0":
                rules[f"params/{ours}_prelu/slope"] = (f"{theirs}.2.weight", same)
                rules |= _whitening(f"{ours}_norm", f"{theirs}.1") if model["norm"] == "complex" else {}
                rules |= tensors.batch_norm(f"{ours}_norm", f"{theirs}.1") if model["norm"] == "parts" else {}
    if model["lstm"] == "real":
        for layer in range(model["layers"]):
            rules |= _lstm(f"lstm/layer{layer}", "enhance", f"l{layer}", below if layer == 0 else None)
        return rules | _dense("dense", "tranform", below)
    half = below[0], below[1] // 2
    for layer in range(model["layers"]):
        for part in PARTS:
            ours, theirs = f"lstm/layer{layer}_{part}", f"enhance.{layer}.{part}_lstm"
            rules |= _lstm(ours, theirs, "l0", half if layer == 0 else None)
    for part in PARTS:
        rules |= _dense(f"dense_{part}", f"enhance.{model['layers'] - 1}.{part[0]}_trans", half)
    return rules


def asteroid_table(model: Mapping[str, Any], bins: int) -> dict[str, Rule]:
    """Rules for all variables of asteroid's net with such fields; arguments as those of `table`."""
    levels = len(model["widths"])
    half = bins >> levels, model["widths"][-1] // 2
    modules = dict(zip(PARTS, ("re_module", "im_module"), strict=True))
    rules: dict[str, Rule] = {}
    for level in range(levels):
        encoder, decoder = f"masker.encoders.{level}", f"masker.decoders.{levels - level}"
        conv = f"{decoder}.deconv" if level else "masker.output_layer.0"
        for part, module in modules.items():
            rules[f"params/encoder{level}/{part}"] = (f"{encoder}.conv.{module}.weight", _conv)
            rules[f"params/decoder{level}/{part}"] = (f"{conv}.{module}.weight", _conv_transpose)
        for ours, theirs in ((f"encoder{level}", encoder), (f"decoder{level}", decoder)):
            if ours != "decoder0":
                rules[f"params/{ours}_prelu/slope"] = _both(f"{theirs}.activation", "weight")
                for path, name in (("params/{}_norm/scale", "weight"), ("params/{}_norm/bias", "bias")):
                    rules[path.format(ours)] = _both(f"{theirs}.norm", name)
                for path in ("mean", "var"):
                    rules[f"batch_stats/{ours}_norm/{path}"] = _both(f"{theirs}.norm", f"running_{path}")
    recurrent = f"masker.encoders.{levels}"
    for part, module in modules.items():
        rules[f"params/decoder0/{part}_bias"] = (f"masker.output_layer.0.{module}.bias", same)
        for layer in range(model["layers"]):
            theirs = f"{recurrent}.rnn.rnns.{layer}.{module}.rnn"
            rules |= _lstm(f"lstm/layer{layer}_{part}", theirs, "l0", half if layer == 0 else None)
        kernel, bias = _dense("dense", f"{recurrent}.linear.{module}", half).values()
        rules |= {f"params/dense/{part}": kernel, f"params/dense/{part}_bias": bias}
    return rules


def _both(module: str, name: str) -> Rule:
    return (f"{module}.re_module.{name}", f"{module}.im_module.{name}"), lambda *arrays: np.concatenate(arrays)


def _whitening(ours: str, theirs: str) -> dict[str, Rule]:
    """The complex batch norm."""

    def rule(names: Sequence[str], join: Convert) -> Rule:
        return tuple(f"{theirs}.{name}" for name in names), lambda *arrays: join(arrays)

    return {
        f"params/{ours}/scale": rule(("Wrr", "Wri", "Wii"), np.stack),
        f"params/{ours}/bias": rule(("Br", "Bi"), np.concatenate),
        f"batch_stats/{ours}/mean": rule(("RMr", "RMi"), np.concatenate),
        f"batch_stats/{ours}/cov": rule(("RVrr", "RVri", "RVii"), np.stack),
    }


def _lstm(ours: str, theirs: str, suffix: str, inputs: tuple[int, int] | None) -> dict[str, Rule]:
    """One layer of PyTorch's LSTM; `inputs` = (bins, channels) that it sees, channels first in the file."""
    kernel = functools.partial(_bins_first, shape=inputs) if inputs else torch_linear
    return {
        f"params/{ours}/input": (f"{theirs}.weight_ih_{suffix}", kernel),
        f"params/{ours}/recurrent": (f"{theirs}.weight_hh_{suffix}", torch_linear),
        f"params/{ours}/bias": ((f"{theirs}.bias_ih_{suffix}", f"{theirs}.bias_hh_{suffix}"), np.add),
    }


def _dense(ours: str, theirs: str, outputs: tuple[int, int]) -> dict[str, Rule]:
    """PyTorch's Linear to (bins, channels), channels first in the file."""
    return {
        f"params/{ours}/kernel": (f"{theirs}.weight", lambda w: _bins_first(w.T, shape=outputs).T),
        f"params/{ours}/bias": (f"{theirs}.bias", lambda b: _bins_first(b[None], shape=outputs)[:, 0]),
    }


def _bins_first(weight: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[u, c * bins + f] -> [f * channels + c, u]."""
    bins, channels = shape
    return weight.reshape(-1, channels, bins).transpose(2, 1, 0).reshape(bins * channels, -1)


def _conv(weight: np.ndarray) -> np.ndarray:
    """PyTorch [out in bins frames] -> [frames bins in out]."""
    return weight.transpose(3, 2, 1, 0)


def _conv_transpose(weight: np.ndarray) -> np.ndarray:
    """PyTorch [in out bins frames] -> [frames bins in out]."""
    return weight.transpose(3, 2, 0, 1)
