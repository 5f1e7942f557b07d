"""The Conditioned-U-Net: one U-Net for all sources, told by a control network what to take out of the mixture.

G. Meseguer-Brocal, G. Peeters, "Conditioned-U-Net: introducing a control mechanism in the U-Net for multiple source
separations", ISMIR 2019 (arXiv 1907.01277), as the authors' code (github.com/gabolsgabs/cunet) builds it; the U-Net is
that of A. Jansson et al., "Singing voice separation with deep U-Net convolutional networks", ISMIR 2017.
"""

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conditioning import film
from jaxsep.layers.conv import Conv2D, ConvTranspose2D

# (FiLM, control network) -> widths of the control network in the code; its doc-strings have others, see `CUNet`
WIDTHS = {
    ("simple", "dense"): (16, 64, 256),
    ("complex", "dense"): (16, 256, 1024),
    ("simple", "cnn"): (16, 32, 64),
    ("complex", "cnn"): (32, 64, 256),
}
INIT = nn.initializers.normal(0.02)


class Control(nn.Module):
    """What is asked for, weights over the sources, to the scales and shifts of FiLM.

    A layer is dense or a convolution over the sources, as long as there are sources ("same" padding, the last one
    "valid": one position is left), then ReLU, and from the second layer on dropout and norm. Two linear layers follow.

    Attributes:
        network: "dense" or "cnn".
        widths: units or filters per layer.
        outputs: number of scales, and of shifts.
        dropout: rate.
    """

    network: str
    widths: tuple[int, ...]
    outputs: int
    dropout: float

    @nn.compact
    def __call__(self, targets: Float[Array, "b s"], train: bool) -> tuple[Float[Array, "b g"], Float[Array, "b g"]]:
        """Scales gamma and shifts beta. The norms of a training step are taken over its batch of conditions."""
        x = targets if self.network == "dense" else targets[..., None]
        for i, width in enumerate(self.widths):
            if self.network == "dense":
                x = nn.Dense(width, kernel_init=INIT, name=f"layer{i}")(x)
            else:
                padding = "SAME" if i < len(self.widths) - 1 else "VALID"
                size = (targets.shape[-1],)
                x = nn.Conv(width, size, padding=padding, kernel_init=INIT, name=f"layer{i}")(x)
            x = nn.relu(x)
            if i:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
                x = _norm(f"norm{i}", train, jnp.float32)(x)
        x = x.reshape(len(x), -1)
        gamma, beta = (nn.Dense(self.outputs, kernel_init=INIT, name=name)(x) for name in ("gamma", "beta"))
        return gamma, beta


class CUNet(nn.Module):
    """Mixture spectrum of any length and conditions to the mask logits of what each condition asks for.

    | level | encoder: conv 5x5/2, norm, FiLM, LeakyReLU 0.2 | decoder: deconv 5x5/2, norm, (dropout,) ReLU |
    |---|---|---|
    | 1..L-1 | c[i-1] -> c[i] | [decoder c[i], encoder output c[i]] -> c[i-1] |
    | L | c[L-1] -> c[L] | c[L] -> c[L-1], first, no dropout |

    Dropout is in the second to the fourth decoder level. The last one gives the audio channels (the paper: one) and
    ends with its norm: the mask is the sigmoid of that. FiLM is in the encoder only: x -> gamma x + beta with one
    scale and shift per level ("simple") or per channel ("complex"), which `Control` makes of the condition; so the
    outputs of the encoder, and with them the skips, are conditioned.

    In the code, kernels and spectra lie (bins, frames); here [b n f c] has frames first. So a kernel of its
    checkpoints is turned, `kernel.transpose(1, 0, 2, 3)`, and no other tensor is.

    The input is |z| relative to its largest value. The code scales each track once, by its complex extremes; a net
    that sees a block at a time scales by the block ("block"), or not at all ("none"). The mask does not depend on it
    otherwise, and multiplies the spectrum as it came.

    In training, the biases of all convolutions are dead: the norms behind them subtract them again.

    Attributes:
        sources: how many sources a condition weighs.
        film: "simple" or "complex".
        control: "dense" or "cnn".
        control_widths: of the control network; () = the code's, `WIDTHS`. Its doc-strings say (16, 128, 1024) for
            complex-dense, (16, 32, 128) for simple-cnn and (16, 32, 64) for complex-cnn.
        channels: width per level.
        dropout: rate, in the decoder and the control network.
        scale: "block" or "none".
        dtype: compute precision of the U-Net; parameters, statistics and the control network stay float32.
    """

    sources: int
    film: str = "simple"
    control: str = "dense"
    control_widths: tuple[int, ...] = ()
    channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    dropout: float = 0.5
    scale: str = "block"
    dtype: DTypeLike = jnp.float32

    one_hot: ClassVar[bool] = False  # conditions may be any weights

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: the next multiple of 2^levels."""
        unit = 2 ** len(self.channels)
        fed = -(-length // unit) * unit
        return fed, fed

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Float[Array, "b k n f c"]:
        """Mask logits of the mixture spectrum `z` for each condition; None = each source once.

        Raises:
            JaxsepError: frames or bins are no multiple of 2^levels, conditions over another number of sources, or a
                field has an unknown value.
        """
        if targets is None:
            targets = jnp.broadcast_to(jnp.eye(self.sources), (len(z), self.sources, self.sources))
        self._check(z, targets)
        batch, count, _ = targets.shape
        gammas, betas = self._modulation(targets.reshape(batch * count, self.sources), train)
        x = jnp.repeat(self._input(z), count, axis=0)
        skips = []
        for level, width in enumerate(self.channels, start=1):
            x = Conv2D(width, (5, 5), (2, 2), kernel_init=INIT, dtype=self.dtype, name=f"conv{level}")(x)
            x = _norm(f"norm{level}", train, self.dtype)(x)
            x = nn.leaky_relu(film(x, gammas[level - 1], betas[level - 1]), 0.2)
            skips.append(x)
        x = skips.pop()
        for step, level in enumerate(range(len(self.channels), 0, -1)):
            x = jnp.concatenate([x, skips.pop()], axis=-1) if step else x
            width = self.channels[level - 2] if level > 1 else z.shape[-1]
            x = ConvTranspose2D(width, (5, 5), (2, 2), kernel_init=INIT, dtype=self.dtype, name=f"deconv{level}")(x)
            x = _norm(f"denorm{level}", train, self.dtype)(x)
            if level > 1:
                x = nn.Dropout(self.dropout)(x, deterministic=not train) if 1 <= step <= 3 else x
                x = nn.relu(x)
        return x.reshape(batch, count, *z.shape[1:])

    def _input(self, z: Complex[Array, "b n f c"]) -> Float[Array, "b n f c"]:
        magnitude = jnp.abs(z)
        if self.scale == "block":
            largest = magnitude.max(axis=(1, 2, 3), keepdims=True)
            magnitude = magnitude / jnp.where(largest > 0, largest, 1)
        return magnitude.astype(self.dtype)

    def _modulation(
        self, targets: Float[Array, "b s"], train: bool
    ) -> tuple[list[Float[Array, "b g"]], list[Float[Array, "b g"]]]:
        """Scales and shifts for each level, g = 1 or its width."""
        sizes = self.channels if self.film == "complex" else (1,) * len(self.channels)
        widths = self.control_widths or WIDTHS[self.film, self.control]
        control = Control(self.control, widths, sum(sizes), self.dropout, name="control")
        ends = np.cumsum(sizes)[:-1]
        gamma, beta = control(targets, train)
        return jnp.split(gamma, ends, axis=-1), jnp.split(beta, ends, axis=-1)

    def _check(self, z: Array, targets: Array) -> None:
        unit = 2 ** len(self.channels)
        for axis, size, key in (("frames", z.shape[1], "block"), ("bins", z.shape[2], "front.bins")):
            if size % unit:
                raise JaxsepError(f"cunet: {size} {axis}, expected a multiple of {unit} (2^levels); set {key}")
        for key, allowed in (
            ("film", ("simple", "complex")),
            ("control", ("dense", "cnn")),
            ("scale", ("block", "none")),
        ):
            if getattr(self, key) not in allowed:
                raise JaxsepError(f"model.{key}={getattr(self, key)!r}, expected {' or '.join(allowed)}")
        if targets.shape[2] != self.sources:
            raise JaxsepError(f"targets: weights over {targets.shape[2]} sources, the model has {self.sources}")


def _norm(name: str, train: bool, dtype: DTypeLike) -> nn.BatchNorm:
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-3, dtype=dtype, name=name)
