"""Spleeter's U-Net.

R. Hennequin, A. Khlif, F. Voituret, M. Moussallam, "Spleeter: a fast and efficient music source separation
tool with pre-trained models", JOSS 2020; the net is that of A. Jansson et al., "Singing voice separation with
deep U-Net convolutional networks", ISMIR 2017, as github.com/deezer/spleeter builds it
(spleeter/model/functions/unet.py).
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conv import Conv2D, ConvTranspose2D

# (encoder, decoder)
ACTIVATIONS = {"leaky_relu": (lambda x: nn.leaky_relu(x, 0.2), nn.relu), "elu": (nn.elu, nn.elu)}


class UNet(nn.Module):
    """Mixture spectrum of any length to the mask logits of one instrument, on magnitudes.

    | level | encoder: conv 5x5/2, norm, activation | decoder: deconv 5x5/2, activation, norm, dropout |
    |---|---|---|
    | 1..L-1 | c[i-1] -> c[i] | [raw conv output c[i], decoder c[i]] -> c[i-1] |
    | L | conv only | c[L] -> c[L-1], first |

    A last 4x4 convolution of dilation 2 maps the decoder's single channel to the audio channels. With six
    levels the net has 9,823,749 parameters and 3,010 batch statistics, among them those of a norm behind the
    last encoder level whose output nobody uses: it is in Spleeter's checkpoints and so it is here.

    In training, Spleeter calls its Keras layers without a training flag, so by reading its code the norms
    stay affine maps over their initial statistics (mean 0, variance 1) and dropout stays off:
    `batch_norm="frozen"`, `dropout=0`, the defaults. `batch_norm="batch"`, `dropout=0.5` is the network as
    its layers suggest it. Not ported: the seed of the initial weights.

    Attributes:
        channels: width per level; a seventh level of 1,024 is (16, 32, 64, 128, 256, 512, 1024).
        activation: "leaky_relu" (slope 0.2 in the encoder, ReLU in the decoder: Spleeter's 2 stems) or "elu"
            (in both: its 4 and 5 stems and its MUSDB18 recipe).
        batch_norm: "frozen" normalises with the stored statistics also in training, "batch" with the batch's.
        dropout: rate behind the first three decoder levels.
        dtype: compute precision; parameters and statistics stay float32.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    activation: str = "leaky_relu"
    batch_norm: str = "frozen"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: the next multiple of 2^levels."""
        unit = 2 ** len(self.channels)
        fed = -(-length // unit) * unit
        return fed, fed

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b n f c"]:
        """Mask logits of the mixture spectrum `z`; `targets` is not used: one net, one instrument.

        Raises:
            JaxsepError: frames or bins are no multiple of 2^levels, or a field has an unknown value.
        """
        self._check(z)
        encode, decode = ACTIVATIONS[self.activation]
        last = len(self.channels)
        x = jnp.abs(z).astype(self.dtype)
        skips = []
        for level, width in enumerate(self.channels, start=1):
            conv = Conv2D(width, (5, 5), (2, 2), dtype=self.dtype, name=f"conv{level}")(x)
            skips.append(conv)
            x = encode(self._norm(f"norm{level}", train)(conv))
        x = skips.pop()
        for level in range(last, 0, -1):
            if level < last:
                x = jnp.concatenate([skips.pop(), x], axis=-1)
            width = self.channels[level - 2] if level > 1 else 1
            x = ConvTranspose2D(width, (5, 5), (2, 2), dtype=self.dtype, name=f"deconv{level}")(x)
            x = self._norm(f"denorm{level}", train)(decode(x))
            if level > last - 3:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return Conv2D(z.shape[-1], (4, 4), dilation=(2, 2), dtype=self.dtype, name="logits")(x)

    def _norm(self, name: str, train: bool) -> nn.BatchNorm:
        frozen = self.batch_norm == "frozen" or not train
        return nn.BatchNorm(use_running_average=frozen, momentum=0.99, epsilon=1e-3, dtype=self.dtype, name=name)

    def _check(self, z: Array) -> None:
        unit = 2 ** len(self.channels)
        for axis, size, key in (("frames", z.shape[1], "block"), ("bins", z.shape[2], "front.bins")):
            if size % unit:
                raise JaxsepError(f"spleeter: {size} {axis}, expected a multiple of {unit} (2^levels); set {key}")
        if self.activation not in ACTIVATIONS:
            raise JaxsepError(f"model.activation={self.activation!r}, expected one of {', '.join(ACTIVATIONS)}")
        if self.batch_norm not in ("frozen", "batch"):
            raise JaxsepError(f"model.batch_norm={self.batch_norm!r}, expected frozen or batch")
