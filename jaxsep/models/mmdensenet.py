"""MMDenseNet.

N. Takahashi, Y. Mitsufuji, "Multi-scale multi-band DenseNets for audio source separation", WASPAA 2017
(arXiv:1706.09588). The authors published no code; widths and details are those of the recipe "paper" in
github.com/tky823/DNN-based_source_separation.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.layers import dense
from jaxsep.layers.conv import Pair


class MMDenseNet(nn.Module):
    """Mixture spectrum to the magnitude of one source.

    | part | bins | k, L, kernel (frames x bins) |
    |---|---|---|
    | input | all | (magnitude - offset) / scale per bin, learned |
    | low | 0..512 | 14 and six times 16, 4, 3 x 4 |
    | high | 512..1025 | 10, 3, 3 x 3; then 1 x 1 to 16 |
    | full | all | 6, 2 (bottleneck 4), 3 x 4 |
    | merge | all | [low; high] and full, dense block of k 4, L 2, 1 x 2, gate to the audio channels |
    | output | all | relu(scale y + bias) per bin |

    339,468 parameters in stereo of 1,025 bins: low 259,848, high 54,878, full 20,166, final block 448, its norm 8,
    gate 20, input and output 4,100. Any number of frames and bins will do: see `dense.BandNet`.

    The paper's table could not be read; its 0.33 M parameters are those here without input and output. The public
    code's norms have an eps of 1e-12, which this one takes as `eps`; the default is that of all frameworks.

    Attributes:
        splits: bins where one band ends and the next begins.
        first, growth, layers, kernel: of each band and, last, of the full band, see `dense.BandNet`.
        final_growth, final_layers, final_kernel: of the last dense block.
        eps: of the batch norms.
        dtype: compute precision; parameters and statistics stay float32.
    """

    splits: tuple[int, ...] = (512,)
    first: tuple[int, ...] = (32, 32, 32)
    growth: tuple[tuple[int, ...], ...] = ((14, 16, 16, 16, 16, 16, 16), (10,) * 7, (6,) * 7)
    layers: tuple[tuple[int, ...], ...] = ((4,) * 7, (3,) * 7, (2, 2, 2, 4, 2, 2, 2))
    kernel: tuple[Pair, ...] = ((3, 4), (3, 3), (3, 4))
    final_growth: int = 4
    final_layers: int = 2
    final_kernel: Pair = (1, 2)
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
        dense.check_bands("mmdensenet", self.splits, z.shape[2], self.first, self.growth, self.layers, self.kernel)
        x = dense.Standardise(name="input")(jnp.abs(z)).astype(self.dtype)
        *bands, full = (
            dense.BandNet(first, growth, layers, kernel=kernel, eps=self.eps, dtype=self.dtype, name=name)
            for name, first, growth, layers, kernel in zip(
                dense.names(self.splits), self.first, self.growth, self.layers, self.kernel, strict=True
            )
        )
        final = (self.final_growth, self.final_layers, self.final_kernel)
        merge = dense.Merge(z.shape[-1], *final, eps=self.eps, dtype=self.dtype, name="merge")
        parts = jnp.split(x, self.splits, axis=2)
        y = merge([band(part, train) for band, part in zip(bands, parts, strict=True)], full(x, train), train)
        return nn.relu(dense.Rescale(name="output")(y))
