"""D3Net's checkpoints: NNabla `.h5` files of github.com/sony/ai-research-code, d3net/music-source-separation.

A file holds one source or several, the first part of each name being the source. Where the bands are split is not in
the file, so only the authors' four nets are known.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.models.d3net import D3Net
from jaxsep.weights import Imported, Origin, hdf5, tensors
from jaxsep.weights.tensors import Rule, same, torch_conv


def published() -> configs.Config:
    """The config of the authors' four nets."""
    return configs.load_config("configs/d3net.py:paper")


def read(files: Sequence[Path]) -> Imported:
    """The separator of the sources in these files.

    Raises:
        JaxsepError: not such files, a source that is not one of the authors' or there twice, or tensors that do not
            make up its net.
    """
    config = published()
    found: dict[str, tuple[Path, dict[str, np.ndarray]]] = {}
    for file in files:
        for source, net in _sources(file).items():
            if source not in configs.parse_sources(config.sources):
                raise JaxsepError(f"{file}: has a net for {source!r}, expected {config.sources}")
            if source in found:
                raise JaxsepError(f"{file}: has a net for {source!r}, as {found[source][0]} has; give one of the two")
            found[source] = file, net
    config.sources = ",".join(source for source in configs.parse_sources(config.sources) if source in found)
    variables = {}
    shapes = tensors.shapes(config)
    for source, net in separator.build(config).net.nets.items():
        file, own = found[source]
        wanted = {collection: tree["net"][source] for collection, tree in shapes.items()}
        variables[source] = tensors.place(wanted, table(net, f"{source}/"), own, file)
    return Imported(config, tensors.join(variables), Origin("D3Net"))


def _sources(file: Path) -> dict[str, dict[str, np.ndarray]]:
    """Source -> its tensors."""
    found = hdf5.read(file)
    tensors.check_kind("d3net", found, file)
    nets: dict[str, dict[str, np.ndarray]] = {}
    for name, array in found.items():
        nets.setdefault(name.partition("/")[0], {})[name] = array
    return nets


def table(net: D3Net, prefix: str = "") -> dict[str, Rule]:
    """Rules for all variables of a net, from the names of the authors' tensors, which begin with `prefix`."""
    rules: dict[str, Rule] = {
        "params/input/offset": (f"{prefix}in_offset", _line),
        "params/input/scale": (f"{prefix}in_scale", _line),
        "params/output/scale": (f"{prefix}decode_scale", _line),
        "params/output/bias": (f"{prefix}decode_bias", _line),
    }
    *bands, full = zip(net.growth, net.layers, net.blocks, strict=True)
    widest = max(growth[-1] for growth, _, _ in bands)
    for i, (growth, layers, blocks) in enumerate(bands):
        rules |= _conv(f"band{i}/entry", f"{prefix}features_init/{i}/conv")
        rules |= _u_net(f"band{i}", f"{prefix}dense_band/{i}", layers, blocks)
        if growth[-1] < widest:
            rules |= _norm(f"merge/match_norm{i}", f"{prefix}match_fm_conv/{i}/norm/bn")
            rules |= _conv(f"merge/match{i}", f"{prefix}match_fm_conv/{i}/conv/conv")
    rules |= _conv("full/entry", f"{prefix}features_init_full/conv")
    rules |= _u_net("full", f"{prefix}dense_full", *full[1:])
    rules |= _dense("merge/block", f"{prefix}final_dense", net.final_layers)
    rules |= _norm("merge/norm", f"{prefix}out_gate/bn/bn")
    rules |= _conv("merge/filter", f"{prefix}out_gate/conv_filt/conv/conv")
    return rules | _conv("merge/gate", f"{prefix}out_gate/conv_gate/conv/conv")


def _u_net(ours: str, theirs: str, layers: Sequence[int], blocks: int) -> dict[str, Rule]:
    """The authors number dense blocks through encoder, bottleneck and decoder, and call the bottleneck's otherwise."""
    depth = len(layers) // 2
    rules = _d3(f"{ours}/bottleneck", f"{theirs}/bottleneck_block", layers[depth], blocks)
    for i in range(depth):
        j = depth + 1 + i
        rules |= _d3(f"{ours}/encoder{i}", f"{theirs}/ds_layers/dense_block{i}", layers[i], blocks)
        rules |= _d3(f"{ours}/decoder{i}", f"{theirs}/us_layers/dense_block{j}", layers[j], blocks)
        rules |= _norm(f"{ours}/up_norm{i}", f"{theirs}/us_layers/upsample{i}/upsample/norm/bn")
        rules |= _conv(f"{ours}/up{i}", f"{theirs}/us_layers/upsample{i}/upsample/transconv/deconv")
    return rules


def _d3(ours: str, theirs: str, layers: int, blocks: int) -> dict[str, Rule]:
    rules = _dense(f"{ours}/block0", f"{theirs}/initial_block", layers)
    for b in range(1, blocks):
        rules |= _dense(f"{ours}/block{b}", f"{theirs}/layers/layer{b}", layers)
    return rules


def _dense(ours: str, theirs: str, layers: int) -> dict[str, Rule]:
    rules: dict[str, Rule] = {}
    for i in range(layers):
        unit = f"{theirs}/{f'layers/layer{i}' if i else 'initial_layer'}/bottleneck"
        rules |= _norm(f"{ours}/layer{i}/norm", f"{unit}/norm1/bn")
        rules |= _conv(f"{ours}/layer{i}/conv", f"{unit}/conv1/conv")
    return rules


def _conv(ours: str, theirs: str) -> dict[str, Rule]:
    """Convolution or transposed convolution, kernels over (frames, bins) as ours."""
    return {f"params/{ours}/kernel": (f"{theirs}/W", torch_conv), f"params/{ours}/bias": (f"{theirs}/b", same)}


def _norm(ours: str, theirs: str) -> dict[str, Rule]:
    return {
        f"params/{ours}/scale": (f"{theirs}/gamma", _line),
        f"params/{ours}/bias": (f"{theirs}/beta", _line),
        f"batch_stats/{ours}/mean": (f"{theirs}/mean", _line),
        f"batch_stats/{ours}/var": (f"{theirs}/var", _line),
    }


def _line(array: np.ndarray) -> np.ndarray:
    """[1 1 1 f] or [1 c 1 1] -> [f] or [c]; another shape is left for `place` to refuse."""
    return array.ravel() if array.ndim == 4 and array.size == max(array.shape) else array
