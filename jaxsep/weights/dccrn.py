"""DCCRN's weights: the `state_dict` of the authors' code (github.com/huyanxin/DeepComplexCRN), and asteroid's DCCRNet.

The authors' file has no settings: sizes are those of the tensors. What no tensor tells is taken for the code's default:
a hop of a quarter of the window, mask E, 16 kHz. To say otherwise change `config.json` in the run folder.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.frontends.framing import WINDOWS, window_taps
from jaxsep.models.dccrn import DCCRN
from jaxsep.weights import Imported, Origin, tensors, torch_files
from jaxsep.weights.tensors import Rule, same, torch_linear

# The code's STFT and its inverse: window and sizes are read, the rest follows from them.
IGNORED = ("stft.weight", "istft.*", "*.num_batches_tracked")
ASTEROID_IGNORED = ("encoder.filterbank.*", "decoder.filterbank.*", "*.num_batches_tracked")
ARCHITECTURES = {"DCCRN-CL": (32, 64, 128, 256, 256, 256), "mini": (8, 16)}  # asteroid's, real and imaginary parts
BOUNDS = {"tanh": "E", "BDT": "E", None: "C", "UBD": "C"}  # asteroid's, and the mask that they are
MODULES = {"real": "re_module", "imag": "im_module"}  # ours and asteroid's
Net = Mapping[str, np.ndarray]


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
        config = _config(_model(net, file), _front(net, file), "E")
    except (KeyError, ValueError) as error:
        raise JaxsepError(f"{file}: not a net of DCCRN's repository: cannot tell its sizes from {error}") from None
    model: Any = separator.build(config).net
    variables = tensors.place(tensors.shapes(config), table(model), net, file, IGNORED)
    return Imported(config.lock(), variables, Origin("DCCRN"))


def _model(net: Net, file: Path) -> dict[str, Any]:
    """Fields of the authors' net, from its tensors."""
    kernel = net["encoder.0.0.real_conv.weight"].shape[2:]
    if kernel != (5, 2):
        raise JaxsepError(f"{file}: kernels of {kernel} bins x frames, expected (5, 2), for which the code pads")
    levels = _count(net, r"encoder\.\d+\.0\.real_conv\.weight")
    widths = tuple(2 * net[f"encoder.{level}.0.real_conv.weight"].shape[0] for level in range(levels))
    model = {"widths": widths, "norm": "complex" if "encoder.0.1.Wrr" in net else "parts"}
    if "enhance.weight_hh_l0" in net:
        layers, units = _count(net, r"enhance\.weight_hh_l\d+"), net["enhance.weight_hh_l0"].shape[1]
        return model | {"lstm": "real", "layers": layers, "units": units}
    layers = _count(net, r"enhance\.\d+\.real_lstm\.weight_hh_l0")
    return model | {"lstm": "complex", "layers": layers, "units": 2 * net["enhance.0.real_lstm.weight_hh_l0"].shape[1]}


def _front(net: Net, file: Path) -> dict[str, Any]:
    """Fields of the authors' STFT, from its kernels."""
    rows, _, frame = net["stft.weight"].shape
    window = net["istft.window"].reshape(-1)
    names = [n for n in WINDOWS if np.allclose(window_taps(n, frame), window, atol=1e-5)]
    if not names:
        raise JaxsepError(f"{file}: the window of its STFT (istft.window) is none of {', '.join(WINDOWS)}")
    cosines = np.fft.rfft(np.eye(frame), n=rows - 2).real.T * window
    if not np.allclose(cosines, net["stft.weight"][: rows // 2, 0], atol=1e-3):
        raise JaxsepError(f"{file}: stft.weight is not a DFT of {rows - 2} points; trained kernels are not supported")
    sizes = {"frame": frame, "hop": frame // 4, "fft": rows - 2, "bins": rows // 2}
    return {"name": "conv_stft", "form": "dccrn", "window": names[0], "clamp": False, **sizes}


def asteroid_config(file: str | Path, arguments: Mapping[str, Any]) -> configs.Config:
    """The config of asteroid.models.DCCRNet, not locked.

    Args:
        file: for messages.
        arguments: its `model_args`.

    Raises:
        JaxsepError: arguments without a counterpart here, or that are no numbers.
    """
    architecture, bound = arguments.get("architecture", "DCCRN-CL"), arguments.get("mask_bound", "tanh")
    for key, value, known in (("architecture", architecture, ARCHITECTURES), ("mask_bound", bound, BOUNDS)):
        if value not in known:
            names = ", ".join(map(str, known))
            raise JaxsepError(f"{file}: {key}={value!r} is not known here, expected one of {names}")
    numbers = {"stft_n_filters": 512, "stft_kernel_size": 400, "stft_stride": 100, "sample_rate": 16_000, "n_src": 1}
    try:
        fft, frame, hop, rate, sources = (int(arguments.get(key, default)) for key, default in numbers.items())
        bins = int(arguments.get("n_freqs", fft // 2))
    except (TypeError, ValueError) as error:
        raise JaxsepError(f"{file}: model_args: {error}") from None
    if bins != fft // 2 or sources < 1:
        raise JaxsepError(f"{file}: n_freqs={bins}, n_src={sources}, expected {fft // 2}, 1 or more")
    front = {"name": "conv_stft", "form": "asteroid", "window": "sqrt_hann", "clamp": False}
    front |= {"frame": frame, "hop": hop, "fft": fft, "bins": bins + 1}
    config = _config({"widths": ARCHITECTURES[architecture], "layout": "asteroid"}, front, BOUNDS[bound])
    config.sample_rate, config.data.segment = rate, 4 * rate
    if sources > 1:
        config.sources = config.data.stems = ",".join(f"source{i + 1}" for i in range(sources))
        config.loss.pit = True
    return config


def _config(model: Mapping[str, Any], front: Mapping[str, Any], mode: str) -> configs.Config:
    """The speech variant with such fields, or one named "imported"; not locked."""
    for variant in ("cl", "cl-whitened", "e", "e-paper", "asteroid"):
        config = configs.load_config(f"dccrn.py:{variant}").copy_and_resolve_references().unlock()
        same_model = all(config.model[key] == value for key, value in model.items())
        if same_model and config.front.to_dict() == front and config.head.mode == mode:
            return config
    base = "asteroid" if front["form"] == "asteroid" else "cl"
    config = configs.load_config(f"dccrn.py:{base}").copy_and_resolve_references().unlock()
    config.variant = "imported"
    config.model.update(model)
    config.front.update(front)
    config.head.mode = mode
    return config


def _count(net: Net, pattern: str) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in net)


def table(net: DCCRN) -> dict[str, Rule]:
    """Rules for all variables of a separator with such a net, from the authors' names."""
    levels = len(net.widths)
    rules: dict[str, Rule] = {}
    for level in range(levels):
        for ours, theirs, kernel in (
            (f"encoder{level}", f"encoder.{level}", _conv),
            (f"decoder{level}", f"decoder.{levels - 1 - level}", _conv_transpose),
        ):
            for part in MODULES:
                rules[f"params/net/{ours}/{part}"] = (f"{theirs}.0.{part}_conv.weight", kernel)
                rules[f"params/net/{ours}/{part}_bias"] = (f"{theirs}.0.{part}_conv.bias", same)
            if ours != "decoder0":
                norm = _whitening if net.norm == "complex" else tensors.batch_norm
                rules |= norm(f"net/{ours}_norm", f"{theirs}.1")
                rules[f"params/net/{ours}_prelu/slope"] = (f"{theirs}.2.weight", same)
    if net.lstm == "real":
        for layer in range(net.layers):
            rules |= _lstm(f"layer{layer}", "enhance", f"l{layer}", net.widths[-1] if layer == 0 else 0)
        return rules | _dense("dense/{}", "tranform", net.widths[-1])
    half = net.widths[-1] // 2
    for part in MODULES:
        for layer in range(net.layers):
            rules |= _lstm(f"layer{layer}_{part}", f"enhance.{layer}.{part}_lstm", "l0", half if layer == 0 else 0)
        rules |= _dense(f"dense_{part}/{{}}", f"enhance.{net.layers - 1}.{part[0]}_trans", half)
    return rules


def asteroid_table(net: DCCRN) -> dict[str, Rule]:
    """Rules for all variables of a separator with such a net, from asteroid's names."""
    levels = len(net.widths)
    rules: dict[str, Rule] = {}
    recurrent, half = f"masker.encoders.{levels}", net.widths[-1] // 2
    for level in range(levels):
        encoder, decoder = f"masker.encoders.{level}", f"masker.decoders.{levels - level}"
        transposed = f"{decoder}.deconv" if level else "masker.output_layer.0"
        for part, module in MODULES.items():
            rules[f"params/net/encoder{level}/{part}"] = (f"{encoder}.conv.{module}.weight", _conv)
            rules[f"params/net/decoder{level}/{part}"] = (f"{transposed}.{module}.weight", _conv_transpose)
        for ours, theirs in ((f"encoder{level}", encoder), (f"decoder{level}", decoder)):
            if ours != "decoder0":
                rules[f"params/net/{ours}_prelu/slope"] = _parts(f"{theirs}.activation.{{}}.weight")
                for name, path in (("weight", "scale"), ("bias", "bias")):
                    rules[f"params/net/{ours}_norm/{path}"] = _parts(f"{theirs}.norm.{{}}.{name}")
                for name in ("mean", "var"):
                    rules[f"batch_stats/net/{ours}_norm/{name}"] = _parts(f"{theirs}.norm.{{}}.running_{name}")
    for part, module in MODULES.items():
        rules[f"params/net/decoder0/{part}_bias"] = (f"masker.output_layer.0.{module}.bias", same)
        for layer in range(net.layers):
            theirs = f"{recurrent}.rnn.rnns.{layer}.{module}.rnn"
            rules |= _lstm(f"layer{layer}_{part}", theirs, "l0", half if layer == 0 else 0)
        rules |= _dense("dense/{}", f"{recurrent}.linear.{module}", half, (part, f"{part}_bias"))
    return rules


def _parts(name: str) -> Rule:
    """Real and imaginary parts, one behind the other; `name` has a place for asteroid's module."""
    return tuple(name.format(module) for module in MODULES.values()), lambda *arrays: np.concatenate(arrays)


def _whitening(ours: str, theirs: str) -> dict[str, Rule]:
    """The complex batch norm."""

    def rule(join: Callable[..., np.ndarray], *names: str) -> Rule:
        return tuple(f"{theirs}.{name}" for name in names), lambda *arrays: join(arrays)

    return {
        f"params/{ours}/scale": rule(np.stack, "Wrr", "Wri", "Wii"),
        f"params/{ours}/bias": rule(np.concatenate, "Br", "Bi"),
        f"batch_stats/{ours}/mean": rule(np.concatenate, "RMr", "RMi"),
        f"batch_stats/{ours}/cov": rule(np.stack, "RVrr", "RVri", "RVii"),
    }


def _lstm(ours: str, theirs: str, suffix: str, channels: int) -> dict[str, Rule]:
    """One layer of PyTorch's LSTM; `channels` of the features that it sees, 0 where these have no bins."""
    ours = f"params/net/lstm/{ours}"
    return {
        f"{ours}/input": (
            f"{theirs}.weight_ih_{suffix}",
            (lambda weight: _bins_first(weight.T, channels)) if channels else torch_linear,
        ),
        f"{ours}/recurrent": (f"{theirs}.weight_hh_{suffix}", torch_linear),
        f"{ours}/bias": ((f"{theirs}.bias_ih_{suffix}", f"{theirs}.bias_hh_{suffix}"), np.add),
    }


def _dense(ours: str, theirs: str, channels: int, names: Sequence[str] = ("kernel", "bias")) -> dict[str, Rule]:
    """PyTorch's Linear to features of so many channels; `ours` has a place for the parameter's name."""
    kernel, bias = (f"params/net/{ours.format(name)}" for name in names)
    return {
        kernel: (f"{theirs}.weight", lambda weight: _bins_first(weight, channels).T),
        bias: (f"{theirs}.bias", lambda bias: _bins_first(bias, channels)),
    }


def _bins_first(features: np.ndarray, channels: int) -> np.ndarray:
    """Features along the first axis in the order (channel, bin) in the order (bin, channel)."""
    return features.reshape(channels, -1, *features.shape[1:]).swapaxes(0, 1).reshape(features.shape)


def _conv(weight: np.ndarray) -> np.ndarray:
    """PyTorch [out in bins frames] -> [frames bins in out]."""
    return weight.transpose(3, 2, 1, 0)


def _conv_transpose(weight: np.ndarray) -> np.ndarray:
    """PyTorch [in out bins frames] -> [frames bins in out]."""
    return weight.transpose(3, 2, 0, 1)
