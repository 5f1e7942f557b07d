"""What MMDenseNet, MMDenseLSTM and D3Net share: dense blocks, U-nets of them, and one U-net per frequency band.

N. Takahashi, Y. Mitsufuji, "Multi-scale multi-band DenseNets for audio source separation", WASPAA 2017;
N. Takahashi, N. Goswami, Y. Mitsufuji, "MMDenseLSTM", IWAENC 2018; N. Takahashi, Y. Mitsufuji, "D3Net: Densely
connected multidilated DenseNet for music source separation", 2020, built as in github.com/sony/ai-research-code.

All tensors are [b n f d], kernels (frames, bins). Convolution biases whose output goes to a norm get no gradient from
batch statistics, which subtract them again.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv import Conv2D, ConvTranspose2D, Pair
from jaxsep.layers.recurrent import BLSTM

_INIT = nn.initializers.glorot_normal()
PLACEMENTS = ("after", "before", "parallel")


def batch_norm(name: str, train: bool, eps: float, dtype: DTypeLike) -> nn.BatchNorm:
    """The norm of all three nets; the decay is that of PyTorch (momentum 0.1) and NNabla (0.9)."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=eps, dtype=dtype, name=name)


class Unit(nn.Module):
    """Norm, ReLU, convolution: what all dense blocks are made of.

    Attributes:
        features: output channels.
        kernel, dilation: of the convolution.
        eps: of the norm.
        dtype: compute precision.
    """

    features: int
    kernel: Pair = (3, 3)
    dilation: int = 1
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f e"]:
        """[b n f d] -> [b n f features]."""
        x = nn.relu(batch_norm("norm", train, self.eps, self.dtype)(x))
        dilation = (self.dilation, self.dilation)
        return Conv2D(self.features, self.kernel, dilation=dilation, kernel_init=_INIT, dtype=self.dtype, name="conv")(
            x
        )


class DenseBlock(nn.Module):
    """A densely connected block; with `dilated` the D2 block of D3Net.

    The convolution that a layer applies to all earlier ones together is split by what it reads: the block's input is
    convolved once for all L layers, layer l once for all later ones, at dilation 2^l in a D2 block:

        s_1 .. s_L = U_0(x);   s_{l+1} .. s_L += U_l(s_l), l = 1 .. L - 1;   output s_L

    This is how the public implementations have it. A textbook DenseNet has a norm per layer and input and a single
    bias per layer; here each source of a skip has one norm for all later layers. For d input channels
    2 d + (9 d + 1) L g + sum_l [2 g + (9 g + 1) (L - l) g] parameters with 3 x 3 kernels.

    Attributes:
        growth: g, channels of each layer and of the output.
        layers: L.
        kernel, dilated: see `BandNet`.
        eps: of the norms.
        dtype: compute precision.
    """

    growth: int
    layers: int
    kernel: Pair = (3, 3)
    dilated: bool = False
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f g"]:
        """[b n f d] -> [b n f growth]."""
        rest = x  # becomes the layers that are still to come
        for layer in range(self.layers):
            dilation = 2**layer if self.dilated else 1
            features = (self.layers - layer) * self.growth
            unit = Unit(features, self.kernel, dilation, self.eps, self.dtype, name=f"layer{layer}")
            rest = unit(x, train) if layer == 0 else rest[..., self.growth :] + unit(x, train)
            x = rest[..., : self.growth]
        return x


class D3Block(nn.Module):
    """D3 block: M dense blocks, densely connected in turn; with M = 1 a dense block.

    Block b (1 .. M) gives (M - b + 1) k channels, k for itself and k for each later one.

    Attributes:
        growth: k, channels of the output.
        layers: L of each dense block.
        blocks: M.
        kernel, dilated: see `BandNet`.
        eps: of the norms.
        dtype: compute precision.
    """

    growth: int
    layers: int
    blocks: int = 1
    kernel: Pair = (3, 3)
    dilated: bool = False
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f k"]:
        """[b n f d] -> [b n f growth]."""
        rest = x
        for b in range(self.blocks):
            growth = (self.blocks - b) * self.growth
            block = DenseBlock(growth, self.layers, self.kernel, self.dilated, self.eps, self.dtype, name=f"block{b}")
            rest = block(x, train) if b == 0 else rest[..., self.growth :] + block(x, train)
            x = rest[..., : self.growth]
        return x


class FrameLSTM(nn.Module):
    """MMDenseLSTM's recurrent block: one channel of all bins, frame by frame, through a BLSTM and back to bins.

    The number of bins is part of the parameters.

    Attributes:
        units: per direction.
        dtype: compute precision.
    """

    units: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f 1"]:
        """[b n f d] -> [b n f 1]."""
        line = Conv2D(1, (1, 1), kernel_init=_INIT, dtype=self.dtype, name="squeeze")(x)[..., 0]
        states = BLSTM(self.units, dtype=self.dtype, name="lstm")(line, train)
        return nn.Dense(line.shape[-1], dtype=self.dtype, name="bins")(states)[..., None]


class BandNet(nn.Module):
    """The U-net of one band: dense blocks, 2 x 2 average pooling and transposed convolution, concatenated skips.

    Blocks count from the encoder's first over the bottleneck to the decoder's last. Odd sizes are padded with a zero at
    the end before pooling and cropped after up-sampling.

    Attributes:
        first: channels of the first convolution.
        growth: k of each block, an odd number of them; what a block gives has k channels.
        layers: L of each block; 0 = no dense block there, only the LSTM.
        blocks: M, dense blocks within each D3 block; 1 = a plain dense block.
        kernel: of all convolutions.
        dilated: whether dense blocks are D2 blocks.
        units: LSTM units per direction beside each block, 0 = none; () = none anywhere. The LSTM's channel is
            concatenated behind those of the block, or of its input where it stands before.
        placement: of the LSTM, "after", "before" or "parallel" to the dense block.
        eps: of the norms.
        dtype: compute precision.
    """

    first: int
    growth: tuple[int, ...]
    layers: tuple[int, ...]
    blocks: int = 1
    kernel: Pair = (3, 3)
    dilated: bool = False
    units: tuple[int, ...] = ()
    placement: str = "after"
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @property
    def poolings(self) -> int:
        """How many times frames and bins are halved."""
        return len(self.growth) // 2

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f k"]:
        """[b n f d] -> [b n f k], k the last growth, and 1 more where an LSTM follows the last block.

        Raises:
            JaxsepError: growth, layers and units do not belong together, or the placement is unknown.
        """
        self._check()
        depth = self.poolings
        x = Conv2D(self.first, self.kernel, kernel_init=_INIT, dtype=self.dtype, name="entry")(x)
        skips = []
        for i in range(depth):
            x = self._block(i, f"encoder{i}", x, train)
            skips.append(x)
            x = pool(x)
        x = self._block(depth, "bottleneck", x, train)
        for i in range(depth):
            skip = skips.pop()
            x = batch_norm(f"up_norm{i}", train, self.eps, self.dtype)(x)
            x = ConvTranspose2D(x.shape[-1], (2, 2), (2, 2), kernel_init=_INIT, dtype=self.dtype, name=f"up{i}")(x)
            x = jnp.concatenate([x[:, : skip.shape[1], : skip.shape[2]], skip], axis=-1)
            x = self._block(depth + 1 + i, f"decoder{i}", x, train)
        return x

    def _block(self, number: int, name: str, x: Array, train: bool) -> Array:
        """Block `number`: dense, LSTM, or both in the order of `placement`."""
        units, layers = self.units[number] if self.units else 0, self.layers[number]
        shape = (self.growth[number], layers, self.blocks, self.kernel, self.dilated, self.eps, self.dtype)
        if not units:
            return D3Block(*shape, name=name)(x, train)
        lstm = FrameLSTM(units, self.dtype, name=f"{name}_lstm")
        if not layers:
            return lstm(x, train)
        if self.placement == "before":
            return D3Block(*shape, name=name)(jnp.concatenate([x, lstm(x, train)], axis=-1), train)
        y = D3Block(*shape, name=name)(x, train)
        return jnp.concatenate([y, lstm(y if self.placement == "after" else x, train)], axis=-1)

    def _check(self) -> None:
        growth, layers, units = self.growth, self.layers, self.units or (0,) * len(self.layers)
        if len(growth) % 2 == 0 or not len(growth) == len(layers) == len(units):
            raise JaxsepError(
                f"model.growth={growth}, model.layers={layers}, model.units={self.units}: expected for each band the "
                "same odd number of blocks (encoder, bottleneck, decoder)"
            )
        if any(not block and not lstm for block, lstm in zip(layers, units, strict=True)):
            raise JaxsepError(f"model.layers={layers}: a block without layers needs an LSTM, model.units={self.units}")
        if self.placement not in PLACEMENTS:
            raise JaxsepError(f"model.placement={self.placement!r}, expected one of {', '.join(PLACEMENTS)}")


def pool(x: Float[Array, "b n f d"]) -> Float[Array, "b m g d"]:
    """Means of 2 x 2, sizes rounded up: what is missing at the end counts as zero."""
    batch, frames, bins, width = x.shape
    x = jnp.pad(x, [(0, 0), (0, frames % 2), (0, bins % 2), (0, 0)])
    return x.reshape(batch, -(-frames // 2), 2, -(-bins // 2), 2, width).mean(axis=(2, 4))


class Merge(nn.Module):
    """The end of the net: bands next to each other, the full band on top of them, a dense block, a gate.

    Bands with fewer channels than the widest get a norm and a 1 x 1 convolution to its width. The gate is
    filter(x) sigmoid(gate(x)), two 1 x 1 convolutions behind one norm.

    Attributes:
        channels: audio channels.
        growth, layers, kernel, dilated: of the dense block.
        eps: of the norms.
        dtype: compute precision.
    """

    channels: int
    growth: int
    layers: int
    kernel: Pair = (3, 3)
    dilated: bool = False
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, bands: Sequence[Float[Array, "b n _ _"]], full: Float[Array, "b n f d"], train: bool
    ) -> Float[Array, "b n f c"]:
        """The outputs of the bands, from low to high, and of the full band -> [b n f channels]."""

        def pointwise(features: int, name: str) -> Conv2D:
            return Conv2D(features, (1, 1), kernel_init=_INIT, dtype=self.dtype, name=name)

        width = max(band.shape[-1] for band in bands)
        matched = []
        for i, band in enumerate(bands):
            if band.shape[-1] < width:
                band = batch_norm(f"match_norm{i}", train, self.eps, self.dtype)(band)
                band = pointwise(width, f"match{i}")(band)
            matched.append(band)
        x = jnp.concatenate([jnp.concatenate(matched, axis=2), full], axis=-1)
        block = (self.growth, self.layers, self.kernel, self.dilated, self.eps, self.dtype)
        x = DenseBlock(*block, name="block")(x, train)
        x = batch_norm("norm", train, self.eps, self.dtype)(x)
        return pointwise(self.channels, "filter")(x) * nn.sigmoid(pointwise(self.channels, "gate")(x))


def names(splits: Sequence[int]) -> list[str]:
    """Of the U-nets: one per band, from low to high, and "full"."""
    return [f"band{i}" for i in range(len(splits) + 1)] + ["full"]


def check_bands(system: str, splits: Sequence[int], bins: int, *fields: Sequence[Any]) -> None:
    """That the splits lie within the bins and that each field has one entry per band and one for the full band.

    Raises:
        JaxsepError: they do not.
    """
    edges = (0, *splits, bins)
    if any(stop <= start for start, stop in itertools.pairwise(edges)):
        raise JaxsepError(f"{system}: model.splits={splits} must rise and lie within the {bins} bins in use")
    if {len(field) for field in fields} != {len(splits) + 2}:
        raise JaxsepError(
            f"{system}: model.splits={splits} makes {len(splits) + 1} bands, so first, growth, layers, ... of "
            f"the model need {len(splits) + 2} entries each, the last for the full band"
        )


class Standardise(nn.Module):
    """(x - offset) / scale with one learned pair per bin, in float32; see `with_statistics`."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n f c"]) -> Float[Array, "b n f c"]:
        """[b n f c] -> [b n f c].

        Raises:
            JaxsepError: the parameters are for another number of bins.
        """
        if self.has_variable("params", "offset"):
            bins = self.get_variable("params", "offset").shape[0]
            if bins != x.shape[2]:
                raise JaxsepError(f"a spectrum of {x.shape[2]} bins for a net made for {bins}; see front.bins")
        offset = self.param("offset", nn.initializers.zeros, (x.shape[2],), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (x.shape[2],), jnp.float32)
        return (x - offset[:, None]) / scale[:, None]


class Rescale(nn.Module):
    """x scale + bias with one learned pair per bin, both 1 at first, in float32."""

    @nn.compact
    def __call__(self, x: Float[Array, "b n f c"]) -> Float[Array, "b n f c"]:
        """[b n f c] -> [b n f c]."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[2],), jnp.float32)
        bias = self.param("bias", nn.initializers.ones, (x.shape[2],), jnp.float32)
        return x * scale[:, None] + bias[:, None]


def with_statistics(params: Mapping[str, Any], mean: Float[Array, " f"], std: Float[Array, " f"]) -> dict[str, Any]:
    """The parameters of a net whose module "input" standardises with the training set's statistics.

    Args:
        params: of the net.
        mean, std: of the mixture's magnitude per bin, as the net gets it; the official code takes them from the mono
            mixture and holds std above 1e-4 of its largest value.

    Raises:
        JaxsepError: the statistics have another number of bins than the net.
    """
    bins = params["input"]["offset"].shape
    if mean.shape != bins or std.shape != bins:
        raise JaxsepError(f"statistics of {mean.shape[0]} bins for a net of {bins[0]}; see front.bins")
    return {**params, "input": {"offset": mean, "scale": std}}
