"""PHASEN's forward pass in evaluation mode, transcribed into float64 numpy: an oracle for the model's tests.

D. Yin, C. Luo, Z. Xiong, W. Zeng, "PHASEN: a phase-and-harmonics-aware speech enhancement network", AAAI 2020, in the
reading that reproduces the paper's scores: attention map with one value per bin and frame, FreqFC with a bias, norms of
the phase stream per frame and before its convolutions, a sigmoid behind the 8-channel convolution and on the mask,
magnitude and phase streams fed with the spectrum and with its phasors.

Written from the layer table alone, for plainness: tensors are [channel, bin, frame], one example, no batch. Parameters
are a flat dict in PyTorch's layouts, named by `shapes`:

- convolutions `weight` [out, in, kernel over bins, kernel over frames] (the attention's 1-D one [out, in, frames]) and
  `bias`; linear layers `weight` [out, in] and `bias`;
- batch norms `gamma`, `beta`, `mean`, `var` [channel]; layer norms `gamma`, `beta` [channel, bin];
- LSTMs per direction `weight_ih` [4h, in], `weight_hh` [4h, h], `bias_ih`, `bias_hh` [4h], gates i, f, g, o.

Channel orders: an input of c audio channels is [re of each, im of each], and so is what `phase.out` gives; maps that
are flattened have channels outside and bins inside; the mask's last layer gives audio channels outside, bins inside;
`ftb.join` sees [filtered, input].

The variant for music whose attention map holds one value per channel and frame is chosen by the shape of
`attend.conv.weight`; without a bias, FreqFC has none.
"""

from collections.abc import Mapping

import numpy as np
from numpy import ndarray as Array

BATCH_EPS = LAYER_EPS = 1e-5
PHASOR_EPS = 1e-7

Parameters = Mapping[str, Array]


def phasen(parameters: Parameters, spectrum: Array) -> tuple[Array, Array, Array]:
    """Mask, phasor and estimate of a noisy spectrum.

    Args:
        parameters: see above.
        spectrum: [n f c] complex.

    Returns:
        mask [n f c] in (0, 1), phasor [n f c] of modulus 1, and |spectrum| mask phasor [n f c].
    """
    z = spectrum.transpose(2, 1, 0)  # [c f n]
    p = _Scope(parameters)
    a, b = _amplitude_entry(p["amplitude"], _real(z)), _phase_entry(p["phase"], _real(z / (np.abs(z) + PHASOR_EPS)))
    number = 0
    while f"block{number}.amplitude.ftb0.freq.weight" in parameters:
        a, b = _two_stream_block(p[f"block{number}"], a, b)
        number += 1
    mask = _mask(p["amplitude"], a, z.shape)
    phasor = _phasor(p["phase"], b)
    mask, phasor = mask.transpose(2, 1, 0), phasor.transpose(2, 1, 0)
    return mask, phasor, np.abs(spectrum) * mask * phasor


def shapes(
    bins: int = 257,
    amplitude: int = 96,
    phase: int = 48,
    reduced: int = 5,
    units: int = 600,
    blocks: int = 3,
    audio: int = 1,
    channel_map: bool = False,
) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter; without `mean` and `var`, 35,000,553 numbers for the published sizes."""
    table: dict[str, tuple[int, ...]] = {}

    def norm(name: str, width: int) -> None:
        table.update({f"{name}.{part}": (width,) for part in ("gamma", "beta", "mean", "var")})

    def conv(name: str, width: int, features: int, *kernel: int) -> None:
        table[f"{name}.weight"], table[f"{name}.bias"] = (features, width, *kernel), (features,)

    def conv_norm(name: str, width: int, features: int, *kernel: int) -> None:
        conv(f"{name}.conv", width, features, *kernel)
        norm(f"{name}.norm", features)

    conv_norm("amplitude.in0", 2 * audio, amplitude, 7, 1)
    conv_norm("amplitude.in1", amplitude, amplitude, 1, 7)
    conv("phase.in0", 2 * audio, phase, 3, 5)
    conv("phase.in1", phase, phase, 1, 25)
    for block in range(blocks):
        top = f"block{block}"
        for ftb in (f"{top}.amplitude.ftb0", f"{top}.amplitude.ftb1"):
            conv_norm(f"{ftb}.reduce", amplitude, reduced, 1, 1)
            conv_norm(f"{ftb}.attend", reduced * bins, amplitude if channel_map else bins, 9)
            conv(f"{ftb}.freq", bins, bins)
            conv_norm(f"{ftb}.join", 2 * amplitude, amplitude, 1, 1)
        for i, kernel in enumerate([(5, 5), (1, 25), (5, 5)]):
            conv_norm(f"{top}.amplitude.conv{i}", amplitude, amplitude, *kernel)
        for i, kernel in enumerate([(3, 5), (1, 25)]):
            table.update({f"{top}.phase.norm{i}.{part}": (phase, bins) for part in ("gamma", "beta")})
            conv(f"{top}.phase.conv{i}", phase, phase, *kernel)
        conv(f"{top}.to_amplitude", phase, amplitude, 1, 1)
        conv(f"{top}.to_phase", amplitude, phase, 1, 1)
    conv("amplitude.squeeze", amplitude, 8, 1, 1)
    for direction in ("forward", "backward"):
        name = f"amplitude.lstm.{direction}"
        table[f"{name}.weight_ih"], table[f"{name}.weight_hh"] = (4 * units, 8 * bins), (4 * units, units)
        table[f"{name}.bias_ih"] = table[f"{name}.bias_hh"] = (4 * units,)
    conv("amplitude.fc0", 2 * units, units)
    conv("amplitude.fc1", units, units)
    conv("amplitude.fc2", units, audio * bins)
    conv("phase.out", phase, 2 * audio, 1, 1)
    return table


class _Scope:
    """The parameters under a prefix: `scope["ftb0"]` goes down, `scope.get("weight")` reads."""

    def __init__(self, parameters: Parameters, prefix: str = ""):
        self._parameters, self._prefix = parameters, prefix

    def __getitem__(self, name: str) -> "_Scope":
        return _Scope(self._parameters, f"{self._prefix}{name}.")

    def get(self, name: str) -> Array:
        return np.asarray(self._parameters[self._prefix + name], np.float64)

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._parameters


# --- the parts of the table ---------------------------------------------------------------------------------------


def _amplitude_entry(p: _Scope, x: Array) -> Array:
    """Convolution 7 x 1, then 1 x 7 (bins x frames)."""
    return _conv_norm_relu(p["in1"], _conv_norm_relu(p["in0"], x))


def _phase_entry(p: _Scope, x: Array) -> Array:
    """Convolution 3 x 5, then 1 x 25; no norm, no activation."""
    return _conv(p["in1"], _conv(p["in0"], x))


def _two_stream_block(p: _Scope, a: Array, b: Array) -> tuple[Array, Array]:
    """TSB: the two streams for themselves, then each gated by the other as it was before."""
    q = p["amplitude"]
    a = _frequency_transformation(q["ftb0"], a)
    for name in ("conv0", "conv1", "conv2"):
        a = _conv_norm_relu(q[name], a)
    a = _frequency_transformation(q["ftb1"], a)
    q = p["phase"]
    for i in ("0", "1"):
        b = _conv(q[f"conv{i}"], _layer_norm(q[f"norm{i}"], b))
    return a * np.tanh(_conv(p["to_amplitude"], b)), b * np.tanh(_conv(p["to_phase"], a))


def _frequency_transformation(p: _Scope, x: Array) -> Array:
    """FTB: attention over time and frequency, a matrix over frequency, a 1 x 1 convolution of both and the input."""
    channels, bins, frames = x.shape
    reduced = _conv_norm_relu(p["reduce"], x)
    line = reduced.reshape(-1, 1, frames)  # channel outside, bin inside: the channels of a 1-D convolution
    values = _conv_norm_relu(p["attend"], line)[:, 0]
    attention = values[None] if len(values) == bins else values[:, None]
    assert len(values) in (bins, channels)
    filtered = np.einsum("gf,cfn->cgn", p["freq"].get("weight"), x * attention)
    if "freq.bias" in p:
        filtered = filtered + p["freq"].get("bias")[:, None]
    return _conv_norm_relu(p["join"], np.concatenate([filtered, x]))


def _mask(p: _Scope, a: Array, shape: tuple[int, ...]) -> Array:
    """Eight channels, flattened per frame, BLSTM, three fully connected layers."""
    audio, bins, frames = shape
    x = _sigmoid(_conv(p["squeeze"], a)).reshape(8 * bins, frames).T
    forward, backward = _lstm(p["lstm"]["forward"], x), _lstm(p["lstm"]["backward"], x[::-1])[::-1]
    x = np.concatenate([forward, backward], axis=1)
    x = _relu(_linear(p["fc0"], x))
    x = _relu(_linear(p["fc1"], x))
    return _sigmoid(_linear(p["fc2"], x)).T.reshape(audio, bins, frames)


def _phasor(p: _Scope, b: Array) -> Array:
    real, imaginary = np.split(_conv(p["out"], b), 2)
    z = real + 1j * imaginary
    return z / np.abs(z)


# --- layers -------------------------------------------------------------------------------------------------------


def _real(z: Array) -> Array:
    return np.concatenate([z.real, z.imag])


def _conv_norm_relu(p: _Scope, x: Array) -> Array:
    return _relu(_batch_norm(p["norm"], _conv(p["conv"], x)))


def _conv(p: _Scope, x: Array) -> Array:
    """Convolution of [in, f, n] with zeros around it ("same", odd kernels), summed tap by tap."""
    weight = p.get("weight")
    if weight.ndim == 3:
        weight = weight[:, :, None]
    high, wide = weight.shape[2:]
    padded = np.pad(x, [(0, 0), (high // 2, high // 2), (wide // 2, wide // 2)])
    y = np.zeros((weight.shape[0], *x.shape[1:])) + p.get("bias")[:, None, None]
    for i in range(high):
        for j in range(wide):
            tap = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            y += np.tensordot(weight[:, :, i, j], tap, axes=1)
    return y


def _batch_norm(p: _Scope, x: Array) -> Array:
    gamma, beta, mean, var = (p.get(name)[:, None, None] for name in ("gamma", "beta", "mean", "var"))
    return (x - mean) / np.sqrt(var + BATCH_EPS) * gamma + beta


def _layer_norm(p: _Scope, x: Array) -> Array:
    """Over channels and bins of each frame."""
    mean, var = x.mean(axis=(0, 1)), x.var(axis=(0, 1))
    return (x - mean) / np.sqrt(var + LAYER_EPS) * p.get("gamma")[:, :, None] + p.get("beta")[:, :, None]


def _lstm(p: _Scope, x: Array) -> Array:
    """[n in] -> [n h], from zero states."""
    bias = p.get("bias_ih") + p.get("bias_hh")
    recurrent = p.get("weight_hh")
    h = c = np.zeros(recurrent.shape[1])
    states = []
    for gates in x @ p.get("weight_ih").T + bias:
        i, f, g, o = np.split(gates + recurrent @ h, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.stack(states)


def _linear(p: _Scope, x: Array) -> Array:
    return x @ p.get("weight").T + p.get("bias")


def _relu(x: Array) -> Array:
    return np.maximum(x, 0)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))
