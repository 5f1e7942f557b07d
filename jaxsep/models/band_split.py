"""One net for each band of frequencies, of any net on spectra.

The bands beside each other, a net for all of them that helps, and one that merges both are the composition of N.
Takahashi, Y. Mitsufuji, "Multi-scale multi-band DenseNets for audio source separation", WASPAA 2017, section 3, with
nets of any kind in place of their DenseNets and without their shared last block. A comparative study trained Spleeter's
U-Net so, what lies below 2,756 Hz apart (bin 256 of a frame of 4,096 at 44.1 kHz).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv import Conv2D

FULL = "full"


def names(splits: Sequence[int], full: bool) -> list[str]:
    """Of the nets: one for each band, from low to high, and of the one that helps."""
    return [f"band{i}" for i in range(len(splits) + 1)] + [FULL] * full


class BandSplit(nn.Module):
    """Mixture spectrum to what its nets yield, each of its own band of bins.

    Without `full` and `merge`, no band sees another one. With `full`, what it yields of all bins is added to what the
    bands yield; with `merge`, a net of two 3 x 3 convolutions with a ReLU between them is fed both and gives the
    output. Parameters are keyed by band0, band1, ..., full, merge.

    Attributes:
        nets: of `names`, (latent, targets, train) -> [b ... n f d] of any head, all alike in frames.
        splits: bins where one band ends and the next begins.
        merge: channels between the two convolutions; 0 = outputs are added.
        multiple: bands are fed with zeros above them, up to a multiple of so many bins, and cropped again.
        dtype: compute precision of the merge net; parameters stay float32.
    """

    nets: Mapping[str, nn.Module]
    splits: tuple[int, ...]
    merge: int = 0
    multiple: int = 1
    dtype: DTypeLike = jnp.float32

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`, which all nets take."""
        fed = length
        while (longest := max(net.lengths(fed)[0] for net in self.nets.values())) > fed:
            fed = longest
        return fed, fed

    @property
    def wants_statistics(self) -> bool:
        """Whether a net does."""
        return any(getattr(net, "wants_statistics", hasattr(net, "with_statistics")) for net in self.nets.values())

    def with_statistics(self, params: Mapping[str, Any], mean: Array, std: Array) -> dict[str, Any]:
        """Fresh parameters, each net's with the statistics of its bins; of bins of zeros they are 0 and 1."""
        found = dict(params)
        for (name, net), (low, high) in zip(self.nets.items(), self._edges(len(mean)), strict=True):
            more = -(high - low) % self.multiple
            own = [jnp.pad(values[low:high], (0, more), constant_values=fill) for values, fill in ((mean, 0), (std, 1))]
            found[name] = net.with_statistics(params[name], *own)
        return found

    @nn.compact
    def __call__(self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool) -> Array:
        """What one net for all bins would yield, [b ... n f d].

        Raises:
            JaxsepError: the splits do not lie within the bins, or a merge net is to merge complex outputs.
        """
        edges, outputs = self._edges(z.shape[2]), {}
        for (name, net), (low, high) in zip(self.nets.items(), edges, strict=True):
            more = -(high - low) % self.multiple
            band = jnp.pad(z[:, :, low:high], ((0, 0), (0, 0), (0, more), (0, 0)))
            outputs[name] = net.clone(parent=self, name=name)(band, targets, train)[..., : high - low, :]
        full = outputs.pop(FULL, None)
        bands = jnp.concatenate(list(outputs.values()), axis=-2)
        if not self.merge:
            return bands if full is None else bands + full
        if jnp.iscomplexobj(bands):
            raise JaxsepError("bands.merge: the nets' outputs are complex; set bands.merge=0, which adds them")
        return self._merged(bands if full is None else jnp.concatenate([bands, full], axis=-1), bands.shape[-1])

    def _merged(self, outputs: Array, width: int) -> Array:
        """[b ... n f e] -> [b ... n f width]."""
        x = outputs.reshape(-1, *outputs.shape[-3:])
        x = nn.relu(Conv2D(self.merge, (3, 3), dtype=self.dtype, name="merge_hidden")(x))
        x = Conv2D(width, (3, 3), dtype=self.dtype, name="merge")(x)
        return x.reshape(*outputs.shape[:-1], width)

    def _edges(self, bins: int) -> list[tuple[int, int]]:
        """First and last bin but one of each net's band."""
        edges = list(itertools.pairwise((0, *self.splits, bins)))
        if any(high <= low for low, high in edges):
            raise JaxsepError(f"bands.splits={self.splits} must rise and lie within the {bins} bins in use")
        return edges + [(0, bins)] * (FULL in self.nets)
