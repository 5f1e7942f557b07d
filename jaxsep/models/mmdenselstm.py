"""MMDenseLSTM.

N. Takahashi, N. Goswami, Y. Mitsufuji, "MMDenseLSTM: an efficient combination of convolutional and recurrent neural
networks for audio source separation", IWAENC 2018 (arXiv:1805.02410). The authors published no code; widths and details
are those of the recipe "lstm-after-dense" in github.com/tky823/DNN-based_source_separation.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.layers import dense


class MMDenseLSTM(nn.Module):
    """Mixture spectrum to the magnitude of one source: MMDenseNet with BLSTMs between frames at coarse scales.

    | part | bins | k, L | LSTM units per direction (bins it sees) |
    |---|---|---|---|
    | input | all | (magnitude - offset) / scale per bin, learned | |
    | low | 0..380 | 14, 5 | bottleneck 64 (48), second decoder block 64 (190) |
    | middle | 380..1024 | 4, 4; then 1 x 1 to 14 | bottleneck 16 (81) |
    | high | 1024..2049 | 2, 1; then 1 x 1 to 14 | bottleneck 4 (257) and nothing else there |
    | full | all | 7, 3 3 4 5 5 5 4 3 3 | bottleneck 64 (129), third decoder block 64 (1025) |
    | merge | all | bands and full, dense block of k 12, L 3, gate to the audio channels | |
    | output | all | relu(scale y + bias) per bin | |

    1,368,576 parameters in stereo of 2,049 bins, of which the LSTMs' 2,208 second biases are missing to the public
    implementation's 1,370,784: low 450,350, middle 32,873, high 12,243, full 856,192, final block 10,854, its norm 24,
    gate 52, input and output 8,196 there. `placement` "before" and "parallel" are the other two of the paper's three
    arrangements of dense block and LSTM.

    The number of bins is part of the parameters; any number of frames will do. The paper states 1.22 M parameters;
    where the 12 % come from is not known. The last dense block is dilated as in the public recipe, which the paper of
    2018 cannot have meant: `final_dilated=False` is a plain one. The public norms' eps is 1e-12, see `eps`.

    Attributes:
        splits: bins where one band ends and the next begins.
        first, growth, layers, units: of each band and, last, of the full band, see `dense.BandNet`.
        placement: of an LSTM, "after", "before" or "parallel" to its dense block.
        final_growth, final_layers, final_dilated: of the last dense block.
        eps: of the batch norms.
        dtype: compute precision; parameters and statistics stay float32.
    """

    splits: tuple[int, ...] = (380, 1024)
    first: tuple[int, ...] = (32, 32, 32, 8)
    growth: tuple[tuple[int, ...], ...] = ((14,) * 7, (4,) * 7, (2, 2, 0, 2, 2), (7,) * 9)
    layers: tuple[tuple[int, ...], ...] = ((5,) * 7, (4,) * 7, (1, 1, 0, 1, 1), (3, 3, 4, 5, 5, 5, 4, 3, 3))
    units: tuple[tuple[int, ...], ...] = (
        (0, 0, 0, 64, 0, 64, 0),
        (0, 0, 0, 16, 0, 0, 0),
        (0, 0, 4, 0, 0),
        (0, 0, 0, 0, 64, 0, 0, 64, 0),
    )
    placement: str = "after"
    final_growth: int = 12
    final_layers: int = 3
    final_dilated: bool = True
    eps: float = 1e-5
    dtype: DTypeLike = jnp.float32

    with_statistics = staticmethod(dense.with_statistics)

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: any length will do."""
        return length, length

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b n f c"]:
        """Magnitude of the source in the mixture spectrum `z`; `targets` is not used: one net, one source.

        Raises:
            JaxsepError: the splits do not lie within the bins, or the fields describe different numbers of bands.
        """
        dense.check_bands("mmdenselstm", self.splits, z.shape[2], self.first, self.growth, self.layers, self.units)
        x = dense.Standardise(name="input")(jnp.abs(z)).astype(self.dtype)
        shared: dict[str, Any] = {"eps": self.eps, "dtype": self.dtype}
        *bands, full = (
            dense.BandNet(first, growth, layers, units=units, placement=self.placement, **shared, name=name)
            for name, first, growth, layers, units in zip(
                dense.names(self.splits), self.first, self.growth, self.layers, self.units, strict=True
            )
        )
        final = (self.final_growth, self.final_layers)
        merge = dense.Merge(z.shape[-1], *final, dilated=self.final_dilated, **shared, name="merge")
        parts = jnp.split(x, self.splits, axis=2)
        y = merge([band(part, train) for band, part in zip(bands, parts, strict=True)], full(x, train), train)
        return nn.relu(dense.Rescale(name="output")(y))
