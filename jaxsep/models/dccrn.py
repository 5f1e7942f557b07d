"""DCCRN, the deep complex convolution recurrent network, in the authors' and in asteroid's layout.

Y. Hu, Y. Liu, S. Lv, M. Xing, S. Zhang, Y. Fu, J. Wu, B. Zhang, L. Xie, "DCCRN: Deep complex convolution recurrent
network for phase-aware speech enhancement", Interspeech 2020 (arXiv 2008.00264), as
github.com/huyanxin/DeepComplexCRN builds it (commit 2e20e12), or `DCCRNet` of asteroid 0.7.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.complex import (
    ComplexBatchNorm,
    ComplexConv,
    ComplexConvTranspose,
    ComplexDense,
    ComplexLSTM,
    PReLU,
    from_parts,
    join,
    to_parts,
)
from jaxsep.layers.conv1d import torch_uniform
from jaxsep.layers.recurrent import LSTM

CHOICES = {"lstm": ("complex", "real"), "norm": ("parts", "complex"), "layout": ("official", "asteroid")}


class DCCRN(nn.Module):
    """Mixture spectrum to a complex mask per source and audio channel, one net for all sources.

    | part | layers (kernels 2 frames x 5 bins) | bins x complex channels, of 16 kHz speech |
    |---|---|---|
    | in | the spectrum without its first or last bin | 256 x 1 |
    | encoder, 6 levels | complex conv of every 2nd bin, norm, PReLU | 128 x 16, ..., 4 x 128 |
    | recurrent | complex LSTM of 2 layers, 512 -> 128 -> 128, dense -> 512 | 4 x 128 |
    | decoder, 6 levels | encoder's output beside; transposed complex conv, norm, PReLU | 8 x 128, ..., 256 x 1 |
    | out | the last level has neither norm nor PReLU; the mask is 0 in the bin that was left out | 257 x 1 |

    With one channel and one source: 3,669,005 parameters, 3,671,053 with cuDNN's two biases per LSTM gate. c audio
    channels are c complex channels in, s sources s c out (source by source), our form for music: the paper has one of
    each.

    | layout | "official" | "asteroid" |
    |---|---|---|
    | bin left out | DC | Nyquist |
    | frames | zeros before the encoder's; the decoder looks one ahead | the encoder loses one, the decoder adds one |
    | biases of convolutions | all | those of the last |
    | PReLU | one slope | one for real, one for imaginary parts |
    | dense layer | a real one for each part | complex |
    | initial kernels | N(0, 0.05^2), biases 0 | PyTorch's |

    In training, the biases of convolutions in front of a norm have no effect and no gradient.

    Attributes:
        sources: s.
        widths: channels of the levels, real and imaginary parts counted together (the paper's C, `kernel_num`). The
            default is DCCRN-CL's. For R, C and E the paper prints 32, 64, 128, 128, 256, 256; the code has 16, 32, 64,
            128, 256, 256, with which it has the 3.7 M parameters that the paper states.
        kernel: bins of a kernel, odd.
        units: of the LSTM, counted like `widths`. The class in the code has 128, its DCCRN-CL 256, as the paper.
        layers: of the LSTM.
        lstm: "complex" (CL), or "real": one on the parts side by side, with a real dense layer (R, C, E).
        norm: "parts", batch norm of real and imaginary parts, or "complex", which whitens them (`use_cbn`).
        layout: see above.
        dtype: compute precision; parameters, statistics and mask are float32.
    """

    sources: int = 1
    widths: tuple[int, ...] = (32, 64, 128, 256, 256, 256)
    kernel: int = 5
    units: int = 256
    layers: int = 2
    lstm: str = "complex"
    norm: str = "parts"
    layout: str = "official"
    dtype: DTypeLike = jnp.float32

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded): any number of frames; asteroid's convolutions, without padding, need one more than levels."""
        fed = length if self.layout == "official" else max(length, len(self.widths) + 1)
        return fed, fed

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Complex[Array, "b s n f c"]:
        """Masks for the mixture spectrum `z`; `targets` is not used: all sources at once.

        Raises:
            JaxsepError: a field has an unknown value, or the bins do not fit the levels or the weights.
        """
        self._check(z)
        official = self.layout == "official"
        x = to_parts(z[:, :, 1:] if official else z[:, :, :-1]).astype(self.dtype)
        skips = []
        for i, width in enumerate(self.widths):
            x = self._conv(ComplexConv, f"encoder{i}", width // 2, padding=(1, 0) if official else (0, 0))(x)
            x = self._activated(x, train, f"encoder{i}")
            skips.append(x)
        x = self._recurrent(x)
        outputs = (self.sources * z.shape[-1], *(width // 2 for width in self.widths[:-1]))
        for i, skip in reversed(list(enumerate(skips))):
            x = self._conv(ComplexConvTranspose, f"decoder{i}", outputs[i])(join(x, skip))
            if i:
                x = self._activated(x, train, f"decoder{i}")
            x = x[:, 1:] if official else x  # behind the norm, whose statistics have that frame, too
        mask = from_parts(x.astype(jnp.float32))
        mask = jnp.pad(mask, [(0, 0), (0, 0), (1, 0) if official else (0, 1), (0, 0)])
        return jnp.moveaxis(mask.reshape(*mask.shape[:3], self.sources, -1), 3, 1)

    def _conv(self, layer: Any, name: str, features: int, **fields: Any) -> Callable[[Array], Array]:
        """A convolution of the layout."""
        official = self.layout == "official"
        return layer(
            features,
            self.kernel,
            bias=official or name == "decoder0",
            kernel_init=nn.initializers.normal(0.05) if official else None,
            bias_init=nn.initializers.zeros if official else None,
            dtype=self.dtype,
            name=name,
            **fields,
        )

    def _activated(self, x: Array, train: bool, name: str) -> Array:
        """Norm and PReLU."""
        if self.norm == "complex":
            x = ComplexBatchNorm(dtype=self.dtype, name=f"{name}_norm")(x, train)
        else:
            norm = nn.BatchNorm(momentum=0.9, epsilon=1e-5, dtype=self.dtype, name=f"{name}_norm")
            x = norm(x, use_running_average=not train)
        return PReLU(shared=self.layout == "official", name=f"{name}_prelu")(x)

    def _recurrent(self, x: Array) -> Array:
        """LSTM over the frames and dense layer, back to the shape of `x`."""
        batch, frames, bins, width = x.shape
        if self.lstm == "real":
            y = LSTM(self.units, self.layers, dtype=self.dtype, name="lstm")(x.reshape(batch, frames, -1))
            return self._dense(bins * width, "dense")(y).reshape(x.shape)
        real, imag = (part.reshape(batch, frames, -1) for part in jnp.split(x, 2, axis=-1))
        y = ComplexLSTM(self.units // 2, self.layers, dtype=self.dtype, name="lstm")(
            jnp.concatenate([real, imag], axis=-1)
        )
        if self.layout == "official":
            parts = [
                self._dense(bins * width // 2, f"dense_{name}")(part)
                for name, part in zip(("real", "imag"), jnp.split(y, 2, axis=-1), strict=True)
            ]
        else:
            parts = jnp.split(ComplexDense(bins * width // 2, dtype=self.dtype, name="dense")(y), 2, axis=-1)
        return jnp.concatenate([part.reshape(batch, frames, bins, -1) for part in parts], axis=-1)

    def _dense(self, features: int, name: str) -> Callable[[Array], Array]:
        """A real dense layer with PyTorch's initial values."""
        init = torch_uniform(self.units if self.lstm == "real" else self.units // 2)
        return nn.Dense(features, kernel_init=init, bias_init=init, dtype=self.dtype, name=name)

    def _check(self, z: Array) -> None:
        for key, known in CHOICES.items():
            if getattr(self, key) not in known:
                raise JaxsepError(f"model.{key}={getattr(self, key)!r}, expected {known[0]} or {known[1]}")
        if odd := [width for width in (*self.widths, self.units) if width % 2]:
            raise JaxsepError(
                f"model.widths, model.units: {odd[0]} is odd; real and imaginary parts are counted together"
            )
        if self.kernel % 2 == 0:
            raise JaxsepError(f"model.kernel={self.kernel}: expected an odd number of bins")
        bins, unit = z.shape[2], 2 ** len(self.widths)
        if bins < 2 or (bins - 1) % unit:
            raise JaxsepError(f"dccrn: {bins} bins, expected a multiple of {unit} (2^levels) and one; set front.bins")
        if not self.is_initializing():
            real = self.lstm == "real"
            weights = self.variables["params"]["lstm"]["layer0" if real else "layer0_real"]["input"]
            expected = weights.shape[0] * unit // (self.widths[-1] if real else self.widths[-1] // 2) + 1
            if bins != expected:
                raise JaxsepError(f"dccrn: {bins} bins, the weights are for {expected}; set front.bins")
