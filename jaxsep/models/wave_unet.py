"""Wave-U-Net: a U-net of 1-D convolutions, from samples to samples.

D. Stoller, S. Ewert, S. Dixon, "Wave-U-Net: a multi-scale neural network for end-to-end audio source separation", ISMIR
2018, arXiv 1806.03185, as github.com/f90/Wave-U-Net builds it (commit 75eeae6, TensorFlow 1.8). The same author's
Wave-U-Net-Pytorch is another model.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv1d import Conv1D, middle

INIT = {"kernel_init": nn.initializers.glorot_uniform(), "bias_init": nn.initializers.zeros}  # TensorFlow's


class WaveUNet(nn.Module):
    """Mixture to sources, samples to samples, by L levels of F, 2F, ... LF filters.

    | step | filters |
    |---|---|
    | down i = 1..L: conv `kernel`, LeakyReLU 0.2: d_i; every second sample of it | iF |
    | bottleneck: conv `kernel`, LeakyReLU | (L + 1) F |
    | up i = L..1: interpolated to twice as many samples; behind d_i, its middle; conv `merge_kernel`, LeakyReLU | iF |
    | per source: behind the mixture, its middle; conv 1, tanh | audio channels |

    Nothing is filtered before every second sample is left out, and there are no norms. With `context` no convolution is
    padded, n samples are interpolated to 2n - 1, and what comes out is shorter than what goes in and belongs to its
    middle (`lengths`); otherwise zeros pad the convolutions and n samples become 2n.

    Published with 24 filters for two sources: 10,263,028 parameters (M1), 10,263,002 (M2, M3), 10,263,390 (M4, stereo),
    10,265,550 (M5); for four sources 10,263,498 (M6); with 34 filters 20,594,652 (M7).

    Attributes:
        sources: number of sources.
        levels: L.
        filters: F; 34 in M7.
        kernel: f_d, of the convolutions on the way down.
        merge_kernel: f_u, of those on the way up.
        upsampling: "linear", or "learned" (M5): the sample between two neighbours is s(w) left + (1 - s(w)) right, with
            the sigmoid s and a w of each channel.
        difference: the last source is the mixture without the others (M2 to M7); otherwise it has a head, too (M1). In
            evaluation it is clipped to [-1, 1], as the authors do.
        context: convolutions without padding (M3 to M7).
        dtype: compute precision; parameters stay float32, and so does the difference.
    """

    sources: int = 2
    levels: int = 12
    filters: int = 24
    kernel: int = 15
    merge_kernel: int = 5
    upsampling: str = "linear"
    difference: bool = True
    context: bool = True
    dtype: DTypeLike = jnp.float32

    takes: ClassVar[tuple[str, ...]] = ("wave",)

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) samples; with `context` 16,384 gives (147,443, 16,389) and 98,560 gives (233,459, 102,405).

        Without it both are the next multiple of 2^levels.
        """
        if not self.context:
            unit = 2**self.levels
            return (-(-length // unit) * unit,) * 2
        # Halving a whole number upwards at each level is what rounding up the fraction at the end is.
        bottom = length
        for _ in range(self.levels):
            bottom = (bottom + self.merge_kernel + 1) // 2
        bottom = max(bottom, 2)
        fed, yielded = bottom + self.kernel - 1, bottom
        for _ in range(self.levels):
            fed = 2 * fed - 1 + self.kernel - 1
            yielded = 2 * yielded - 1 - (self.merge_kernel - 1)
        return fed, yielded

    @nn.compact
    def __call__(
        self, mix: Float[Array, "b t c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b s u c"]:
        """Sources of the mixture, with `context` of its middle; `targets` is not used: all sources come at once.

        Raises:
            JaxsepError: an unknown `upsampling`, or a difference without another source.
        """
        if self.upsampling not in ("linear", "learned"):
            raise JaxsepError(f"model.upsampling={self.upsampling!r} is unknown, expected 'linear' or 'learned'")
        if self.difference and self.sources < 2:
            raise JaxsepError("wave_unet: model.difference=True needs 2 or more sources; set it to False for one")
        x, skips = mix, []
        for i in range(1, self.levels + 1):
            skips.append(self._conv(f"down{i}", i * self.filters, self.kernel, x))
            x = skips[-1][:, ::2]
        x = self._conv("bottleneck", (self.levels + 1) * self.filters, self.kernel, x)
        for i in range(self.levels, 0, -1):
            x = self._conv(f"up{i}", i * self.filters, self.merge_kernel, _behind(skips[i - 1], self._upsampled(i, x)))
        x = _behind(mix, x)
        estimates = [
            self._estimate(f"source{s}", mix.shape[-1], x) for s in range(1, self.sources + 1 - self.difference)
        ]
        if self.difference:
            last = middle(mix, x.shape[1]) - sum(estimates[1:], start=estimates[0])
            estimates.append(last if train else jnp.clip(last, -1, 1))
        return jnp.stack(estimates, axis=1)

    def _conv(self, name: str, features: int, kernel: int, x: Array) -> Array:
        """Convolution and LeakyReLU."""
        around = (0, 0) if self.context else ((kernel - 1) // 2, kernel // 2)
        return nn.leaky_relu(Conv1D(features, kernel, padding=around, dtype=self.dtype, name=name, **INIT)(x), 0.2)

    def _upsampled(self, i: int, x: Float[Array, "b n c"]) -> Float[Array, "b m c"]:
        """m = 2n - 1 samples with context, otherwise 2n.

        What follows the last sample then is itself, under learned upsampling zero: TensorFlow 1's `resize_bilinear` and
        a padded convolution.
        """
        if self.upsampling == "linear":
            return interpolated(x, 0.5, None if self.context else x[:, -1:])
        limit = (3 / x.shape[-1]) ** 0.5  # TensorFlow's Glorot initialiser for a vector
        uniform = nn.initializers.uniform(2 * limit)
        weight = nn.sigmoid(self.param(f"between{i}", lambda *given: uniform(*given) - limit, x.shape[-1:]))
        return interpolated(x, weight.astype(x.dtype), None if self.context else jnp.zeros_like(x[:, -1:]))

    def _estimate(self, name: str, features: int, x: Array) -> Float[Array, "b u c"]:
        """Convolution 1 and tanh, in float32."""
        return jnp.tanh(Conv1D(features, 1, dtype=self.dtype, name=name, **INIT)(x).astype(jnp.float32))


def interpolated(
    x: Float[Array, "b n c"], weight: float | Float[Array, " c"], following: Float[Array, "b 1 c"] | None
) -> Float[Array, "b m c"]:
    """weight * left + (1 - weight) * right between every two neighbours, and between the last one and what follows."""
    right = x[:, 1:] if following is None else jnp.concatenate([x[:, 1:], following], axis=1)
    left = x[:, : right.shape[1]]
    pairs = jnp.stack([left, weight * left + (1 - weight) * right], axis=2)
    return jnp.concatenate([pairs.reshape(len(x), -1, x.shape[-1]), x[:, right.shape[1] :]], axis=1)


def _behind(first: Float[Array, "b t d"], x: Float[Array, "b n c"]) -> Float[Array, "b n e"]:
    """The channels of x behind those of the middle of a longer map."""
    return jnp.concatenate([middle(first, x.shape[1]).astype(x.dtype), x], axis=-1)
