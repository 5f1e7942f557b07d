"""The systems' networks in PyTorch, in a config's sizes: those of their packages, and Spleeter's of `spleeter_step.py`.

    pip install -e '.[parity-torch]'

| config | network |
|---|---|
| open_unmix | openunmix 1.3.0, OpenUnmix |
| demucs | demucs 4.1.0, Demucs, without what came after version 2; its convolutions pad where version 2's cut |
| hdemucs, htdemucs | demucs 4.1.0, HDemucs and HTDemucs |
| conv_tasnet:speech, dccrn:asteroid | asteroid 0.7.0, ConvTasNet and DCCRNet |
| spleeter | the same net, channels last |

Each function returns the network, and what makes its input of waves [... c t].
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import numpy as np

from jaxsep import config as configs
from jaxsep import frontends
from jaxsep.errors import JaxsepError
from jaxsep.weights import demucs as demucs_weights
from jaxsep.weights import hdemucs as hybrid_weights

Net = tuple[Any, Callable[[Any], Any]]  # a torch.nn.Module; tensors to tensors


def magnitudes(config: configs.Config, wave):
    """Those that the config's front end gives to the net: [... c t] to [... c f n]."""
    import torch

    front = frontends.build(config)
    frame, hop, length = front.frame, front.hop, wave.shape[-1]
    before = frame if front.padding == "left" else frame // 2
    behind = (front.frames(length) - 1) * hop + frame - before - length
    mode = "reflect" if front.padding == "reflect" else "constant"
    padded = torch.nn.functional.pad(wave.reshape(-1, 1, length), (before, behind), mode)[:, 0]
    window = torch.hann_window(frame, device=wave.device)
    spectrum = torch.stft(padded, frame, hop, window=window, center=False, return_complex=True)[:, : front.bins].abs()
    return spectrum.reshape(*wave.shape[:-1], *spectrum.shape[1:])


def waves(wave):
    """As they are."""
    return wave


def fields(config: configs.Config, names: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of a class by its names for the fields of `config.model`; what has no field is left out."""
    return {theirs: config.model[ours] for theirs, ours in names.items() if ours}


def open_unmix(config: configs.Config) -> Net:
    from openunmix.model import OpenUnmix

    model = config.model
    bins = frontends.build(config).bins
    net = OpenUnmix(bins, config.channels, model.hidden, model.layers, max_bin=model.max_bin or bins)
    return net, functools.partial(magnitudes, config)


def spleeter(config: configs.Config) -> Net:
    """Frozen norms are those of evaluation."""
    import torch
    from spleeter_step import torch_net

    if config.model.activation != "elu" or config.model.dropout:
        raise JaxsepError("spleeter_step.py has the net with ELU and without dropout only")
    net = torch_net(config.model.channels, config.channels).to(memory_format=torch.channels_last)
    net.train(config.model.batch_norm != "frozen")
    return net, lambda wave: magnitudes(config, wave).mT


def demucs(config: configs.Config) -> Net:
    from demucs.demucs import Demucs

    given = fields(config, demucs_weights.VERSION2)
    given |= {"context": given["context"] // 2, "gelu": False, "norm_starts": given["depth"], "dconv_mode": 0}
    return Demucs(list(configs.parse_sources(config.sources)), config.channels, **given), waves


def hybrid(config: configs.Config) -> Net:
    from demucs.hdemucs import HDemucs
    from demucs.htdemucs import HTDemucs

    names = {theirs: ours for theirs, (ours, _) in hybrid_weights.ARGUMENTS[config.name].items()}
    given = fields(config, names) | {"samplerate": config.sample_rate}
    if config.name == "htdemucs":
        given["t_dropout"] = config.model.dropout
    net = {"hdemucs": HDemucs, "htdemucs": HTDemucs}[config.name]
    return net(list(configs.parse_sources(config.sources)), config.channels, **given), waves


def conv_tasnet(config: configs.Config) -> Net:
    from asteroid.models import ConvTasNet

    return ConvTasNet(2, mask_act="relu"), waves


def dccrn(config: configs.Config) -> Net:
    """Some of asteroid's sizes are integers of NumPy, which PyTorch refuses."""
    from asteroid.models import DCCRNet

    product = np.prod
    with mock.patch.object(np, "prod", lambda *args, **options: product(*args, **options).tolist()):
        return DCCRNet("DCCRN-CL"), waves


# Of a system whatever its sizes, or of a variant only.
NETS: dict[str, Callable[[configs.Config], Net]] = {
    "open_unmix": open_unmix,
    "spleeter": spleeter,
    "demucs": demucs,
    "hdemucs": hybrid,
    "htdemucs": hybrid,
    "conv_tasnet:speech": conv_tasnet,
    "dccrn:asteroid": dccrn,
}


def maker(config: configs.Config) -> Callable[[configs.Config], Net] | None:
    """Of the network of a config, None where there is no such."""
    return NETS.get(config.name) or NETS.get(f"{config.name}:{config.variant}")
