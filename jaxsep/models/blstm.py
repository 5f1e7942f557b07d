"""Spleeter's BLSTM: magnitudes to magnitudes through bidirectional LSTMs, one net per source.

github.com/deezer/spleeter, spleeter/model/functions/blstm.py, which cites S. Uhlich, M. Porcu, F. Giron, M. Enenkl, T.
Kemp, N. Takahashi, Y. Mitsufuji, "Improving music source separation based on deep neural networks through data
augmentation and network blending", ICASSP 2017 (UHL1 and UHL2 of SiSEC 2018).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.recurrent import BLSTM

_HE = nn.initializers.he_uniform()


def _forget(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Keras' initial bias of an LSTM: 1 at the forget gate, 0 elsewhere."""
    units = shape[0] // 4
    return jnp.zeros(shape, dtype).at[units : 2 * units].set(1)


class MagnitudeBLSTM(nn.Module):
    """Mixture spectrum of any length to the magnitudes of one source, for the head `magnitude`.

    The magnitudes of a frame, F bins by C channels flattened with the channels inner, go through `layers`
    bidirectional LSTMs of `units` per direction and a dense layer with ReLU back to F C values: no mask, no norm,
    nothing between the layers.

    At F = 1,024, C = 2 the net has 8,628,048 parameters; cuDNN's LSTM, which Spleeter needs, has a second bias, which
    makes 8,634,048. Spleeter ships no config and no weights for it.

    There is no code of UHL1. Its authors describe three BLSTM layers of "500 cells" on magnitudes of 2,049 bins in
    stereo; this is a Spleeter-style re-reading of that, not claimed exact: 13,755,098 parameters with 250 units per
    direction, as Spleeter reads it, or 34,506,098 with 500. Open-Unmix is the BLSTM that can be verified.

    Spleeter feeds raw magnitudes, which reach hundreds: the gates saturate, and the dense layer has to grow as far.
    With `standardise`, an option of ours, each bin's mean and deviation over the training songs scale input and
    output, and are trained on:

        x = (|z| + input_mean) input_scale, y = relu(output_scale dense(...))

    Attributes:
        layers: 3 as published; 4 is a variant.
        units: LSTM outputs per direction.
        standardise: see above; False as published.
        dtype: compute precision; parameters stay float32.
    """

    layers: int = 3
    units: int = 250
    standardise: bool = False
    dtype: DTypeLike = jnp.float32

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: any number will do."""
        return length, length

    @property
    def wants_statistics(self) -> bool:
        """Whether `with_statistics` is to be called."""
        return self.standardise

    def with_statistics(self, params: Mapping[str, Any], mean: Array, std: Array) -> dict[str, Any]:
        """Fresh parameters scaled by the mean and the deviation of each bin [f]."""
        return {**params, "input_mean": -mean, "input_scale": 1 / std, "output_scale": std}

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b n f c"]:
        """Magnitudes of the source in the mixture spectrum `z`; `targets` is not used: one net, one source.

        Raises:
            JaxsepError: other bins than the weights are for.
        """
        bins, channels = z.shape[2:]
        self._check(bins, channels)
        x = jnp.abs(z)
        if self.standardise:
            x = (x + self._per_bin("input_mean", bins, nn.initializers.zeros)) * self._per_bin(
                "input_scale", bins, nn.initializers.ones
            )
        x = x.reshape(*z.shape[:2], bins * channels)
        # Spleeter sets the kernels; recurrent weights and biases are what Keras starts from.
        inits = (_HE, nn.initializers.orthogonal(), _forget)
        x = BLSTM(self.units, self.layers, 0.0, *inits, dtype=self.dtype, name="lstm")(x, train)
        y = nn.Dense(bins * channels, kernel_init=_HE, dtype=self.dtype, name="dense")(x)
        y = y.astype(jnp.float32).reshape(z.shape)
        if self.standardise:
            y = y * self._per_bin("output_scale", bins, nn.initializers.ones)
        return jax.nn.relu(y)

    def _per_bin(self, name: str, bins: int, init: Any) -> Array:
        return self.param(name, init, (bins,), jnp.float32)[:, None]

    def _check(self, bins: int, channels: int) -> None:
        if not self.has_variable("params", "dense"):
            return
        trained = len(self.get_variable("params", "dense")["bias"])
        if bins * channels != trained:
            raise JaxsepError(
                f"blstm: {bins} bins in {channels} channels, the weights are for {trained} values; set front.bins"
            )
