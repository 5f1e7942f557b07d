"""MMDenseNet, MMDenseLSTM and D3Net in evaluation mode as plain float64 numpy: the oracle of their tests.

Written from the papers and a prose description of the public implementations, apart from the models: N. Takahashi, Y.
Mitsufuji, WASPAA 2017 (arXiv 1706.09588); N. Takahashi, N. Goswami, Y. Mitsufuji, IWAENC 2018 (arXiv 1805.02410);
N. Takahashi, Y. Mitsufuji, arXiv 2010.01733. Spectra are [c n f] (channels, frames, bins) without a batch.

Parameters are a flat dict, path -> array; a path is the name of the part and one of these:

| part | leaves |
|---|---|
| conv | kernel [O, I, k_n, k_f], bias [O] |
| transposed conv 2x2/2 | kernel [O, I, 2, 2], bias [O]; tap [a, b] makes out[2n + a, 2f + b] |
| norm | scale, bias, mean, var [c] |
| unit (norm, ReLU, conv) | norm/..., conv/... |
| D2 block (also plain dense, final) | layer{l}/<unit>, l = 0..L-1; layer 0 reads the block's input, layer l group l |
| D3 block | block{b}/<D2>, b = 0..M-1 |
| recurrent | squeeze/<conv>, {forward,backward}/{input [d, 4h], recurrent [h, 4h], bias [4h]}, |
| | linear/{kernel, bias} |
| U-net | init/<conv>, block{i}/<D3>, block{i}/rnn/<recurrent>, up{i}/{norm,conv} |
| frame | in_offset, in_scale [f], <band>/<U-net>, <band>/match/{norm,conv}, full/<U-net>, |
| | final/<D2>, out/norm, out/{filter,gate}/<1x1 conv>, out_scale, out_bias [bins in use] |

Blocks are counted through encoder, bottleneck and decoder, from 0. Gates are in the order i, f, g, o; linear kernels
are [in, out].
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit as sigmoid


class Parameters(dict):
    """path -> array; with a seed, what is asked for and is not there is drawn, so that a run lists all parts."""

    def __init__(self, values=(), seed=None):
        super().__init__(values)
        self.rng = None if seed is None else np.random.default_rng(seed)

    def take(self, path, *shape):
        """The float64 array at `path`, of exactly this shape."""
        if path not in self and self.rng is not None:
            self[path] = _draw(self.rng, path.rsplit("/")[-1], shape)
        value = np.asarray(self[path], np.float64)
        assert value.shape == shape, f"{path}: {value.shape}, expected {shape}"
        return value

    def count(self):
        """Trainable parameters: all but the batch statistics. One bias per recurrent gate."""
        return sum(np.size(value) for path, value in self.items() if path.rsplit("/")[-1] not in ("mean", "var"))


def _draw(rng, leaf, shape):
    """Sizes that keep the signals of deep nets within bounds."""
    if leaf in ("scale", "var", "in_scale", "out_scale"):
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "kernel" and len(shape) == 4:
        return rng.standard_normal(shape) / np.sqrt(3 * np.prod(shape[1:]))
    if leaf in ("kernel", "input", "recurrent"):
        return rng.standard_normal(shape) / np.sqrt(shape[0])
    return 0.3 * rng.standard_normal(shape)


@dataclass(frozen=True)
class Net:
    """The U-net of one band: 2P + 1 blocks for P poolings.

    Attributes:
        init: channels of the first convolution.
        growths: k per block; 0 = no dense block, the recurrent part alone.
        layers: L per block.
        blocks: M, the D2 blocks per D3 block; 1 = a single D2 or plain dense block.
        kernel: (frames, bins).
        dilated: dilation 2^l behind group l (D2) or 1 (plain dense).
        units: block number -> units per direction of its LSTM.
    """

    init: int
    growths: tuple
    layers: tuple
    blocks: int = 1
    kernel: tuple = (3, 3)
    dilated: bool = False
    units: tuple = ()


def conv(p, path, x, out, kernel, dilation=1):
    """Convolution of [i n f] to [out n f]; of the padding, floor(half) stands in front."""
    weight, bias = p.take(f"{path}/kernel", out, x.shape[0], *kernel), p.take(f"{path}/bias", out)
    spread = [dilation * (k - 1) for k in kernel]
    padded = np.pad(x, [(0, 0), *((s // 2, s - s // 2) for s in spread)])
    _, n, f = x.shape
    y = np.zeros((out, n, f)) + bias[:, None, None]
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            tap = padded[:, a * dilation : a * dilation + n, b * dilation : b * dilation + f]
            y += np.tensordot(weight[:, :, a, b], tap, 1)
    return y


def upsample(p, path, x):
    """Transposed convolution of kernel and stride 2x2, without activation."""
    c, n, f = x.shape
    weight, bias = p.take(f"{path}/kernel", c, c, 2, 2), p.take(f"{path}/bias", c)
    y = np.zeros((c, 2 * n, 2 * f)) + bias[:, None, None]
    for a in range(2):
        for b in range(2):
            y[:, a::2, b::2] += np.tensordot(weight[:, :, a, b], x, 1)
    return y


def norm(p, path, x, eps):
    """Batch norm with stored statistics."""
    scale, bias, mean, var = (
        p.take(f"{path}/{leaf}", x.shape[0])[:, None, None] for leaf in ("scale", "bias", "mean", "var")
    )
    return (x - mean) / np.sqrt(var + eps) * scale + bias


def unit(p, path, x, out, kernel, dilation, eps):
    """Norm, ReLU, convolution."""
    return conv(p, f"{path}/conv", np.maximum(norm(p, f"{path}/norm", x, eps), 0), out, kernel, dilation)


def d2_block(p, path, x, growth, layers, kernel=(3, 3), dilated=True, eps=1e-5):
    """Multi-dilated dense block, [i n f] -> [growth n f]: only the last group leaves it."""
    h = unit(p, f"{path}/layer0", x, layers * growth, kernel, 1, eps)
    groups = list(h.reshape(layers, growth, *h.shape[1:]))
    for layer in range(1, layers):
        later = layers - layer
        dilation = 2**layer if dilated else 1
        o = unit(p, f"{path}/layer{layer}", groups[layer - 1], later * growth, kernel, dilation, eps)
        for j, part in enumerate(o.reshape(later, growth, *o.shape[1:])):
            groups[layer + j] = groups[layer + j] + part
    return groups[-1]


def d3_block(p, path, x, growth, layers, blocks, kernel=(3, 3), dilated=True, eps=1e-5):
    """Dense block of D2 blocks, [i n f] -> [growth n f]."""
    h = d2_block(p, f"{path}/block0", x, growth * blocks, layers, kernel, dilated, eps)
    groups = list(h.reshape(blocks, growth, *h.shape[1:]))
    for block in range(1, blocks):
        later = blocks - block
        o = d2_block(p, f"{path}/block{block}", groups[block - 1], later * growth, layers, kernel, dilated, eps)
        for j, part in enumerate(o.reshape(later, growth, *o.shape[1:])):
            groups[block + j] = groups[block + j] + part
    return groups[-1]


def lstm(p, path, x, units):
    """One direction of an LSTM from zero state, [n d] -> [n units]."""
    w_in = p.take(f"{path}/input", x.shape[1], 4 * units)
    w_rec, bias = p.take(f"{path}/recurrent", units, 4 * units), p.take(f"{path}/bias", 4 * units)
    h, c, outputs = np.zeros(units), np.zeros(units), []
    for frame in x:
        i, f, g, o = np.split(frame @ w_in + h @ w_rec + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


def recurrent(p, path, x, units):
    """[k n f] -> [1 n f]: 1x1 conv, BLSTM over the frames with the bins as features, linear back to the bins."""
    bins = x.shape[2]
    sequence = conv(p, f"{path}/squeeze", x, 1, (1, 1))[0]
    forward = lstm(p, f"{path}/forward", sequence, units)
    backward = lstm(p, f"{path}/backward", sequence[::-1], units)[::-1]
    both = np.concatenate([forward, backward], axis=1)
    return (both @ p.take(f"{path}/linear/kernel", 2 * units, bins) + p.take(f"{path}/linear/bias", bins))[None]


def block(p, path, x, net, i, eps):
    """Block i: dense, and behind it (serial, "Sa") the recurrent part as one more channel."""
    if net.growths[i]:
        x = d3_block(p, path, x, net.growths[i], net.layers[i], net.blocks, net.kernel, net.dilated, eps)
    units = dict(net.units).get(i)
    if units is None:
        return x
    r = recurrent(p, f"{path}/rnn", x, units)
    return np.concatenate([x, r]) if net.growths[i] else r


def pool(x):
    """Mean of 2x2; odd sizes get a zero behind the last frame or bin first."""
    x = np.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)])
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def unet(p, path, x, net, eps=1e-5):
    """[c n f] -> [last growth, n, f]."""
    poolings = len(net.growths) // 2
    x = conv(p, f"{path}/init", x, net.init, net.kernel)
    skips = []
    for i in range(poolings):
        x = block(p, f"{path}/block{i}", x, net, i, eps)
        skips.append(x)
        x = pool(x)
    x = block(p, f"{path}/block{poolings}", x, net, poolings, eps)
    for i in range(poolings + 1, len(net.growths)):
        skip = skips.pop()
        x = upsample(p, f"{path}/up{i}/conv", norm(p, f"{path}/up{i}/norm", x, eps))
        x = np.concatenate([x[:, : skip.shape[1], : skip.shape[2]], skip])
        x = block(p, f"{path}/block{i}", x, net, i, eps)
    return x


def multi_band(p, x, bands, full, final, eps=1e-5):
    """The frame around the band nets: magnitudes of the mixture [c n f] to magnitudes of a source, [c n bins in use].

    Args:
        p: parameters.
        x: magnitudes, at least as many bins as the bands cover.
        bands: name -> (number of bins, Net), from 0 Hz upwards without a gap.
        full: Net of all these bins together.
        final: fields of the last dense block: growth, layers, kernel, dilated.
        eps: of every norm.
    """
    channels, _, bins = x.shape
    used = sum(width for width, _ in bands.values())
    x = (x - p.take("in_offset", bins)) / p.take("in_scale", bins)
    widest = max(net.growths[-1] for _, net in bands.values())
    outputs, start = [], 0
    for name, (width, net) in bands.items():
        y = unet(p, name, x[:, :, start : start + width], net, eps)
        if y.shape[0] < widest:
            y = conv(p, f"{name}/match/conv", norm(p, f"{name}/match/norm", y, eps), widest, (1, 1))
        outputs.append(y)
        start += width
    y = np.concatenate([np.concatenate(outputs, axis=2), unet(p, "full", x[:, :, :used], full, eps)])
    y = norm(p, "out/norm", d2_block(p, "final", y, **final, eps=eps), eps)
    gate = sigmoid(conv(p, "out/gate", y, channels, (1, 1)))
    y = conv(p, "out/filter", y, channels, (1, 1)) * gate
    return np.maximum(y * p.take("out_scale", used) + p.take("out_bias", used), 0)


def mmdensenet(p, x, bands, full, final, eps=1e-5):
    """All bins belong to a band. The published sizes are MMDENSENET."""
    return multi_band(p, x, bands, full, final, eps)


def mmdenselstm(p, x, bands, full, final, eps=1e-5):
    """As MMDenseNet, with `units` in some of the blocks. The published sizes are MMDENSELSTM."""
    return multi_band(p, x, bands, full, final, eps)


def d3net(p, x, bands, full, final, eps=1e-5):
    """Bins above the bands are the mixture's own. The published sizes are D3NET."""
    used = sum(width for width, _ in bands.values())
    return np.concatenate([multi_band(p, x, bands, full, final, eps), x[:, :, used:]], axis=2)


MMDENSENET = {
    "bands": {
        "low": (512, Net(32, (14, *(16,) * 6), (4,) * 7, kernel=(3, 4))),
        "high": (513, Net(32, (10,) * 7, (3,) * 7)),
    },
    "full": Net(32, (6,) * 7, (2, 2, 2, 4, 2, 2, 2), kernel=(3, 4)),
    "final": {"growth": 4, "layers": 2, "kernel": (1, 2), "dilated": False},
}

MMDENSELSTM = {
    "bands": {
        "low": (380, Net(32, (14,) * 7, (5,) * 7, units=((3, 64), (5, 64)))),
        "middle": (644, Net(32, (4,) * 7, (4,) * 7, units=((3, 16),))),
        "high": (1025, Net(32, (2, 2, 0, 2, 2), (1,) * 5, units=((2, 4),))),
    },
    "full": Net(8, (7,) * 9, (3, 3, 4, 5, 5, 5, 4, 3, 3), units=((4, 64), (7, 64))),
    "final": {"growth": 12, "layers": 3, "dilated": True},
}


def _d3(split, low, middle, full):
    return {
        "bands": {
            "low": (split, Net(32, *low, blocks=2, dilated=True)),
            "middle": (1600 - split, Net(8, (2,) * middle, (1,) * middle, dilated=True)),
        },
        "full": Net(32, *full, blocks=2, dilated=True),
        "final": {"growth": 12, "layers": 3, "dilated": True},
    }


_VOCALS = _d3(
    256,
    ((16, 18, 20, 22, 20, 18, 16), (5, 5, 5, 5, 4, 4, 4)),
    5,
    ((13, 14, 15, 16, 17, 16, 14, 12, 11), (4, 5, 6, 7, 8, 6, 5, 4, 4)),
)
D3NET = {
    "vocals": _VOCALS,
    "drums": _d3(
        128,
        ((16, 18, 20, 22, 20, 18, 16), (5, 5, 5, 4, 4, 4, 4)),
        5,
        ((13, 14, 15, 16, 16, 16, 14, 12, 11), (4, 5, 6, 7, 8, 6, 6, 4, 4)),
    ),
    "bass": _d3(
        192,
        ((16, 18, 18, 20, 18, 16, 16), (5, 5, 5, 5, 4, 4, 4)),
        7,
        ((10, 10, 12, 14, 16, 14, 12, 8, 8), (4, 5, 6, 7, 8, 6, 6, 4, 4)),
    ),
    "other": _VOCALS,
}
