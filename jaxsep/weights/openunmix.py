"""Open-Unmix' weights (github.com/sigsep/open-unmix-pytorch): one `.pth` per target, named after it.

`vocals.pth`, or as published with the start of its sum, `vocals-b62c91ce.pth`. Sizes are those of the tensors. The
authors' training writes `vocals.json` (its arguments) and `separator.json` (the STFT) beside it: where they are found
they must agree, where there is no `separator.json` the STFT is the published one, 4096/1024 at 44.1 kHz.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.weights import Imported, Origin, tensors, torch_files

STFT = {"sample_rate": 44100, "nfft": 4096, "nhop": 1024}
# Buffers of older versions, and counters of the norms.
IGNORED = ("sample_rate", "stft.window", "transform.*.window", "*.num_batches_tracked")


def read(files: Sequence[Path]) -> Imported:
    """The separator of one or more targets, in their order.

    Raises:
        JaxsepError: files that are not weights of Open-Unmix or do not go together, or JSON that says other than they.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for file in files:
        target = _target(file)
        if target in found:
            raise JaxsepError(f"{file}: a second file for {target!r}; give each target once")
        found[target] = torch_files.read_tensors(file)
        tensors.check_kind("openunmix", found[target], file)
    sizes = {target: _sizes(file, found[target]) for file, target in zip(files, found, strict=True)}
    first = next(iter(sizes))
    stft = _stft(files[0], sizes[first])
    for file, target in zip(files, sizes, strict=True):
        for key in ("bins", "channels"):
            if sizes[target][key] != sizes[first][key]:
                raise JaxsepError(f"{file}: {sizes[target][key]} {key}, but {files[0]} has {sizes[first][key]}")
        if _stft(file, sizes[target]) != stft:
            raise JaxsepError(f"{file}: its separator.json differs from that of {files[0]}")
        _check_arguments(file.with_name(f"{target}.json"), sizes[target], stft)
    config = _config(sizes, stft)
    variables = {
        target: tensors.place(
            tensors.net_shapes(config, target), _table(sizes[target]["layers"]), found[target], file, IGNORED
        )
        for file, target in zip(files, found, strict=True)
    }
    return Imported(config, tensors.join(variables), Origin(f"Open-Unmix ({', '.join(found)})"))


def _target(file: Path) -> str:
    match = re.fullmatch(r"([A-Za-z0-9_]+?)(-[0-9a-f]{8,64})?\.pth", file.name)
    if not match:
        raise JaxsepError(f"{file}: expected a file named after its target, e.g. vocals.pth or vocals-b62c91ce.pth")
    return match[1]


def _sizes(file: Path, net: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Sizes of a net, from its tensors."""
    if "lstm.weight_ih_l0_reverse" not in net:
        raise JaxsepError(f"{file}: its LSTM has one direction (unidirectional=True); expected a bidirectional one")
    try:
        hidden, inputs = net["fc1.weight"].shape
        (bins,), (seen,) = net["output_mean"].shape, net["input_mean"].shape
    except (KeyError, ValueError):
        raise JaxsepError(
            f"{file}: expected fc1.weight [h x], output_mean [f] and input_mean [f] of Open-Unmix"
        ) from None
    layers = sum(re.fullmatch(r"lstm\.weight_ih_l\d+", name) is not None for name in net)
    return {"hidden": hidden, "layers": layers, "max_bin": seen, "bins": bins, "channels": inputs // max(seen, 1)}


def _stft(file: Path, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sample rate, frame and hop: `separator.json`, or the published ones."""
    path = file.with_name("separator.json")
    said = STFT | {"nb_channels": sizes["channels"]} | _json(path)
    if said["nfft"] // 2 + 1 != sizes["bins"]:
        source = path if path.exists() else f"{path} is missing, and the published STFT"
        raise JaxsepError(
            f"{source}: a frame of {said['nfft']} has {said['nfft'] // 2 + 1} bins, {file} has {sizes['bins']}"
        )
    if said["nb_channels"] != sizes["channels"]:
        raise JaxsepError(f"{path}: nb_channels={said['nb_channels']}, but {file} has {sizes['channels']}")
    return {key: int(said[key]) for key in STFT}


def _check_arguments(path: Path, sizes: Mapping[str, int], stft: Mapping[str, int]) -> None:
    """What a target's JSON says of its sizes must be so."""
    said = _json(path).get("args", {})
    expected = {
        "nfft": stft["nfft"],
        "nhop": stft["nhop"],
        "nb_channels": sizes["channels"],
        "hidden_size": sizes["hidden"],
    }
    for key, value in expected.items():
        if said.get(key, value) != value:
            raise JaxsepError(f"{path}: {key}={said[key]}, but the weights beside it have {value}")
    if "bandwidth" in said:
        seen = int(said["bandwidth"] * stft["nfft"] // stft["sample_rate"]) + 1
        if min(seen, sizes["bins"]) != sizes["max_bin"]:
            raise JaxsepError(
                f"{path}: bandwidth={said['bandwidth']} are {seen} bins, but the weights beside it have "
                f"{sizes['max_bin']}"
            )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, {} where there is none."""
    if not path.exists():
        return {}
    try:
        said = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise JaxsepError(f"{path}: cannot be read ({error}); restore or remove it") from None
    if not isinstance(said, dict):
        raise JaxsepError(f"{path}: expected a JSON object; restore or remove it")
    return said


def _config(sizes: Mapping[str, Mapping[str, int]], stft: Mapping[str, int]) -> configs.Config:
    first = next(iter(sizes.values()))
    config = configs.load_config(f"configs/open_unmix.py:{'umxl' if first['hidden'] == 1024 else 'umxhq'}")
    with config.unlocked():
        config.sources = config.data.stems = ",".join(sizes)
        config.sample_rate, config.channels = stft["sample_rate"], first["channels"]
        config.data.segment = 6 * config.sample_rate
        config.front.frame, config.front.hop, config.front.bins = stft["nfft"], stft["nhop"], first["bins"]
        for key in ("hidden", "layers", "max_bin"):
            config.model[key] = first[key]
        for target, size in sizes.items():
            own = {key: size[key] for key in ("hidden", "layers", "max_bin") if size[key] != first[key]}
            if own:
                config.model_by_source[target] = own
    return config.lock()


def _table(layers: int) -> dict[str, tensors.Rule]:
    """The rules of one net."""
    table: dict[str, tensors.Rule] = {
        f"params/{name}": (name, tensors.same) for name in ("input_mean", "input_scale", "output_scale", "output_mean")
    }
    for number in (1, 2, 3):
        table |= tensors.linear(f"fc{number}", f"fc{number}", bias=False)
        table |= tensors.batch_norm(f"bn{number}", f"bn{number}")
    return table | tensors.blstm("lstm", "lstm", layers)
