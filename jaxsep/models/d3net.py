"""D3Net for music.

N. Takahashi, Y. Mitsufuji, "D3Net: Densely connected multidilated DenseNet for music source separation",
arXiv:2010.01733, 2020; the blocks also in "Densely connected multi-dilated convolutional networks for dense
prediction tasks", CVPR 2021. The net is that of the authors' code, github.com/sony/ai-research-code,
d3net/music-source-separation/model.py.
"""

import itertools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers import dense


class D3Net(nn.Module):
    """Mixture spectrum to the magnitude of one source.

    | part | bins | what |
    |---|---|---|
    | input | all | (magnitude - offset) / scale per bin, learned |
    | low, middle | 0..256, 256..1600 | one `dense.BandNet` each |
    | full | 0..1600 | a third one |
    | merge | 0..1600 | [low; middle] and full, D2 block, gate to the audio channels |
    | output | 0..1600 | relu(scale y + bias) per bin |
    | above | 1600.. | the mixture's magnitude, for a Wiener filter to clean |

    The defaults are those for vocals and other, 2,967,407 parameters in stereo of 2,049 bins: low 1,331,572, middle
    658, full 1,614,993, final block 12,810, gate 76, input and output 7,298. Of the input's, those above bin 1,600 get
    no gradient: they are in the authors' checkpoints and so they are here.

    Paper and code: bins above 1,600 are the authors' code's, as are the widths of this table. Its training compares
    all bins, the copied ones too. Initial weights are Glorot's normal ones for all convolutions; the code draws its
    transposed ones otherwise.

    Attributes:
        splits: bins where one band ends and the next begins.
        top: bins in use; those above are the mixture's.
        first, growth, layers, blocks: of each band and, last, of the full band, see `dense.BandNet`.
        final_growth, final_layers: of the last D2 block.
        eps: of the batch norms.
        dtype: compute precision; parameters and statistics stay float32.
    """

    splits: tuple[int, ...] = (256,)
    top: int = 1600
    first: tuple[int, ...] = (32, 8, 32)
    growth: tuple[tuple[int, ...], ...] = (
        (16, 18, 20, 22, 20, 18, 16),
        (2, 2, 2, 2, 2),
        (13, 14, 15, 16, 17, 16, 14, 12, 11),
    )
    layers: tuple[tuple[int, ...], ...] = ((5, 5, 5, 5, 4, 4, 4), (1, 1, 1, 1, 1), (4, 5, 6, 7, 8, 6, 5, 4, 4))
    blocks: tuple[int, ...] = (2, 1, 2)
    final_growth: int = 12
    final_layers: int = 3
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    with_statistics = staticmethod(dense.with_statistics)

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: the next multiple of 2^poolings, 16 as published."""
        unit = 2 ** max(len(growth) // 2 for growth in self.growth)
        fed = -(-length // unit) * unit
        return fed, fed

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b n f c"]:
        """Magnitude of the source in the mixture spectrum `z`; `targets` is not used: one net, one source.

        Raises:
            JaxsepError: frames or bands do not divide by 2^poolings, there are fewer bins than `top`, or the fields
                describe different numbers of bands.
        """
        self._check(z)
        mixture = jnp.abs(z)
        x = dense.Standardise(name="input")(mixture)[:, :, : self.top].astype(self.dtype)
        shared: dict[str, Any] = {"dilated": True, "eps": self.eps, "dtype": self.dtype}
        fields = zip(dense.names(self.splits), self.first, self.growth, self.layers, self.blocks, strict=True)
        *bands, full = (
            dense.BandNet(first, growth, layers, blocks, **shared, name=name)
            for name, first, growth, layers, blocks in fields
        )
        merge = dense.Merge(z.shape[-1], self.final_growth, self.final_layers, **shared, name="merge")
        parts = jnp.split(x, self.splits, axis=2)
        y = merge([band(part, train) for band, part in zip(bands, parts, strict=True)], full(x, train), train)
        y = nn.relu(dense.Rescale(name="output")(y))
        return jnp.concatenate([y, mixture[:, :, self.top :]], axis=2)

    def _check(self, z: Array) -> None:
        dense.check_bands("d3net", self.splits, self.top, self.first, self.growth, self.layers, self.blocks)
        if z.shape[1] != self.lengths(z.shape[1])[0]:
            raise JaxsepError(f"d3net: {z.shape[1]} frames, expected a multiple of {self.lengths(1)[0]}; set block")
        if z.shape[2] < self.top:
            raise JaxsepError(f"d3net: {z.shape[2]} bins, fewer than model.top={self.top}; set front.bins")
        edges = (0, *self.splits, self.top)
        widths = [stop - start for start, stop in itertools.pairwise(edges)]
        for width, growth in zip([*widths, self.top], self.growth, strict=True):
            unit = 2 ** (len(growth) // 2)
            if width % unit:
                raise JaxsepError(
                    f"d3net: model.splits={self.splits}, model.top={self.top}: a band of {width} bins, expected a "
                    f"multiple of {unit} (2^poolings)"
                )
