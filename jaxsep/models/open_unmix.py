"""Open-Unmix: a bidirectional LSTM between dense layers, one net per source.

F.-R. Stoeter, S. Uhlich, A. Liutkus, Y. Mitsufuji, "Open-Unmix - a reference implementation for music source
separation", JOSS 4(41), 1667, 2019, as github.com/sigsep/open-unmix-pytorch builds it (openunmix/model.py).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.recurrent import BLSTM

# PyTorch's Linear: U(-1/sqrt(inputs), 1/sqrt(inputs)).
_UNIFORM = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class OpenUnmix(nn.Module):
    """Mixture spectrum of any length to the mask of one source before its ReLU, which the head `mask` applies.

    With H hidden units, C channels, F bins of which the lowest `max_bin` are looked at, on magnitudes:

    | step | shape |
    |---|---|
    | (x + input_mean) input_scale, per bin | b n max_bin C |
    | dense without bias, batch norm, tanh: u; channels outer, bins inner | b n H |
    | 3 bidirectional LSTMs of H / 2 units per direction, dropout between them: v | b n H |
    | [u, v], dense without bias, batch norm, ReLU | b n H |
    | dense without bias, batch norm | b n F C |
    | times output_scale plus output_mean, per bin; both start at 1 | b n F C |

    The mask covers the full band: what lies above `max_bin` is estimated from what lies below. `input_mean` is
    minus the mean of the training mixtures and `input_scale` one over their standard deviation
    (`with_statistics`); both are trained like all else, though the mean has no gradient under the batch norm
    behind it. Batch statistics run over frames and examples.

    At the published sizes (F = 2,049, C = 2) the net has 8,887,204 parameters, with 1,024 units 28,244,900;
    PyTorch's LSTM has a second bias, which makes 8,893,348 and 28,257,188. Two details differ in training only: the
    running variance here is the biased one of the batch, PyTorch's the unbiased; and PyTorch's two LSTM biases
    start as the sum of two uniform values. Not ported: the unidirectional (causal) variant, for which there are no
    published weights.

    Attributes:
        hidden: H; 512 (umx, umxhq) or 1,024 (umxl).
        layers: LSTM layers.
        max_bin: bins that are looked at; 1,487 is 16 kHz at 44.1 kHz and a frame of 4,096. 0 = all.
        dropout: rate between LSTM layers.
        dtype: compute precision; parameters and statistics stay float32.
    """

    hidden: int = 512
    layers: int = 3
    max_bin: int = 1487
    dropout: float = 0.4
    dtype: DTypeLike = jnp.float32

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: any number will do."""
        return length, length

    def with_statistics(self, params: Mapping[str, Any], mean: Array, std: Array) -> dict[str, Any]:
        """Fresh parameters whose input is standardised, by the mean and the deviation of each bin [f]."""
        bins = len(params["input_mean"])
        return {**params, "input_mean": -mean[:bins], "input_scale": 1 / std[:bins]}

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b n f c"]:
        """Mask of the mixture spectrum `z` before its ReLU; `targets` is not used: one net, one source.

        Raises:
            JaxsepError: fewer bins than `max_bin`, or others than the weights are for.
        """
        self._check(z)
        frames, (bins, channels) = z.shape[:2], z.shape[2:]
        seen = self.max_bin or bins
        x = jnp.abs(z[:, :, :seen]) + self._per_bin("input_mean", seen, nn.initializers.zeros)
        x = x * self._per_bin("input_scale", seen, nn.initializers.ones)
        x = jnp.swapaxes(x, 2, 3).reshape(*frames, channels * seen)
        x = jnp.tanh(self._dense(1, x, self.hidden, train))
        h = BLSTM(self.hidden // 2, self.layers, self.dropout, dtype=self.dtype, name="lstm")(x, train)
        x = nn.relu(self._dense(2, jnp.concatenate([x, h], axis=-1), self.hidden, train))
        y = self._dense(3, x, channels * bins, train)
        y = jnp.swapaxes(y.reshape(*frames, channels, bins), 2, 3).astype(jnp.float32)
        y = y * self._per_bin("output_scale", bins, nn.initializers.ones)
        return y + self._per_bin("output_mean", bins, nn.initializers.ones)

    def _dense(self, number: int, x: Array, features: int, train: bool) -> Array:
        """Dense layer and batch norm."""
        x = nn.Dense(features, use_bias=False, kernel_init=_UNIFORM, dtype=self.dtype, name=f"fc{number}")(x)
        norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"bn{number}")
        return norm(x)

    def _per_bin(self, name: str, bins: int, init: Any) -> Array:
        return self.param(name, init, (bins,), jnp.float32)[:, None]

    def _check(self, z: Array) -> None:
        bins = z.shape[2]
        if bins < self.max_bin:
            raise JaxsepError(f"open_unmix: {bins} bins, model.max_bin={self.max_bin}; set front.bins or model.max_bin")
        if self.has_variable("params", "output_mean"):
            trained = len(self.get_variable("params", "output_mean"))
            if bins != trained:
                raise JaxsepError(f"open_unmix: {bins} bins, the weights are for {trained}; set front.bins={trained}")
