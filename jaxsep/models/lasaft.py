"""LaSAFT-Net with GPoCM, LightSAFT and the ablations.

W. Choi, M. Kim, J. Chung, S. Jung, "LaSAFT: latent source attentive frequency transformation for conditioned source
separation", ICASSP 2021, as github.com/ws-choi/Conditioned-Source-Separation-LaSAFT builds it (commit 4e1c060;
conditioned/LaSAFT.py, conditioned/cunet/, sub_modules/). LightSAFT is the light block of the same authors' entry to
the Music Demixing Challenge 2021. The U-Net of TFC and TDF blocks is theirs, too (Choi et al., ISMIR 2020).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Complex, Float

from jaxsep.errors import JaxsepError
from jaxsep.layers.conditioning import film, gpocm, pocm

BLOCKS = ("lasaft", "lightsaft", "tdf", "none")
CONDITIONINGS = {"gpocm": gpocm, "pocm": pocm, "film": film}
POCM_FORMS = ("matmul", "naive")
# Normal of variance 2 / (fan in + fan out), not truncated as Flax's: torch's, the authors' for all but the biases.
XAVIER = nn.initializers.variance_scaling(1.0, "fan_avg", "normal")


class LaSAFTNet(nn.Module):
    """Mixture spectrum and condition to the spectrum of the source that is asked for, real and imaginary parts.

    With n levels, C channels and F = bins - 1:

    | part | | bins |
    |---|---|---|
    | first | conv 1x2 without padding to C, norm, ReLU | F |
    | n encoders | TFC, frequency transformation added; then conv 2x2/2, norm | F / 2^i |
    | middle | TFC, frequency transformation added | F / 2^n |
    | n decoders | deconv 2x2/2, norm; [it, skip]; TFC, conditioning, frequency transformation added | F / 2^i |
    | last | conv 1x2, padded by a bin at both ends, to the audio channels' real and imaginary parts | F + 1 |

    TFC: densely connected 3x3 convs, each with norm and ReLU, the last one's output. Frequency transformations act on
    the bins of each frame, alike for all channels: TDF is F -> bottleneck -> F; LaSAFT's second layer yields one
    spectrum for each of K latent sources, LightSAFT's first layer one bottleneck, and attention weighs them:
    softmax(q(e) k / sqrt(d)), where e is the embedding of the source asked for. GPoCM, FiLM: `layers/conditioning.py`;
    their gamma and beta come from three dense layers on the embedding that double its width each.

    The defaults are the paper's small net for an STFT of 2048 (8,424,028 parameters; 1,025 bins); the large one
    for an STFT of 4096 has levels=4, embedding=64 (31,541,908).

    Where the authors' readme and code differ, the code is followed: it holds two forms of PoCM, "naive" and "matmul",
    to be one, but they read gamma transposed; "matmul" is the default of both, see `pocm_form`. The norms of gamma and
    beta are over the batch of conditions, so a training batch must hold different ones, and one row is refused as
    torch does. Running variances are biased, torch's are not. Parameters without effect in training, because a norm
    that subtracts the mean follows: biases of all convs but the last, and under (G)PoCM those of gamma, of beta and of
    the norm before them.

    Attributes:
        levels: n; the published `n_blocks` is 2 n + 1.
        channels: C, also the growth of the TFC blocks.
        layers: convs per TFC.
        block: "lasaft", "lightsaft", "tdf" or "none" (TFC only).
        conditioning: of the decoder, "gpocm", "pocm" (without gate, the paper's step towards it) or "film".
        pocm_form: "matmul" (gamma is [in, out]) or "naive" ([out, in]).
        latents: K, latent sources of LaSAFT and LightSAFT.
        key_dim: d, of their attention.
        embedding: E, width of the source embedding.
        bottleneck: bins / bottleneck is the width between the two layers of a frequency transformation (LaSAFT: of
            K times as many bins)...
        bottleneck_min: ... and this at least.
        dropout: rate in the dense layers of the condition.
        sources: number of sources; the published order is vocals, drums, bass, other.
        dtype: compute precision; parameters and statistics stay float32.
    """

    levels: int = 3
    channels: int = 24
    layers: int = 5
    block: str = "lasaft"
    conditioning: str = "gpocm"
    pocm_form: str = "matmul"
    latents: int = 6
    key_dim: int = 32
    embedding: int = 32
    bottleneck: int = 16
    bottleneck_min: int = 16
    dropout: float = 0.5
    sources: int = 4
    dtype: DTypeLike = jnp.float32

    one_hot: ClassVar[bool] = True  # a condition is one source, never a mixture of sources

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) frames for at least `length`: the next multiple of 2^levels."""
        unit = 2**self.levels
        fed = -(-length // unit) * unit
        return fed, fed

    @nn.compact
    def __call__(
        self, z: Complex[Array, "b n f c"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Complex[Array, "b k n f c"]:
        """Spectra of the sources that `targets` asks for, one-hot rows; None = each source once.

        What does not depend on the condition is computed once per example, not once per target.

        Raises:
            JaxsepError: frames, bins or conditions that do not fit, or a field has an unknown value.
        """
        batch, channels = z.shape[0], z.shape[-1]
        if targets is None:
            targets = jnp.broadcast_to(jnp.eye(self.sources), (batch, self.sources, self.sources))
        self._check(z, targets, train)
        table = self.param("embedding", XAVIER, (self.sources, self.embedding), jnp.float32)
        condition = targets.reshape(-1, self.sources) @ table  # [r e], r = b k
        modulate = self._modulation(condition, train)
        tfc = partial(TFC, self.channels, self.layers, self.dtype)
        transform = partial(
            Transform, self.block, self.latents, self.key_dim, self.bottleneck, self.bottleneck_min, self.dtype
        )
        conv = partial(nn.Conv, kernel_size=(1, 2), kernel_init=XAVIER, dtype=self.dtype)

        x = conv(self.channels, padding="VALID", name="first")(pack(z).astype(self.dtype))
        x = nn.relu(norm(train, self.dtype, "first_norm")(x))
        skips = []
        for level in range(self.levels):
            x = tfc(name=f"encoder{level}_tfc")(x, train)
            x = transform(name=f"encoder{level}_transform")(x, condition, train)
            skips.append(x)
            x = norm(train, self.dtype, f"down{level}_norm")(Down(self.dtype, name=f"down{level}")(x))
        x = tfc(name="middle_tfc")(x, train)
        x = transform(name="middle_transform")(x, condition, train)
        for level in range(self.levels):
            x = norm(train, self.dtype, f"up{level}_norm")(Up(self.dtype, name=f"up{level}")(x))
            x = jnp.concatenate([x, repeat(skips.pop(), len(x))], axis=-1)
            x = modulate(tfc(name=f"decoder{level}_tfc")(x, train), level)
            x = transform(name=f"decoder{level}_transform")(x, condition, train)
        bias = uniform(2 * self.channels)
        y = conv(2 * channels, padding=((0, 0), (1, 1)), bias_init=bias, name="last")(x)
        return unpack(y).reshape(batch, -1, *z.shape[1:])

    def _modulation(self, condition: Float[Array, "r e"], train: bool) -> Callable[[Array, int], Array]:
        """(features [b n f d], decoder level) -> conditioned features [r n f d]."""
        width, normed = self.channels, self.conditioning != "film"
        shape = (width, width) if normed else (width,)
        generator = Generator(self.levels, shape, (width,), normed, self.dropout, name="condition")
        gamma, beta = generator(condition, train)
        if normed and self.pocm_form == "naive":
            gamma = gamma.swapaxes(-1, -2)

        def modulate(x: Array, level: int) -> Array:
            return CONDITIONINGS[self.conditioning](repeat(x, len(gamma)), gamma[:, level], beta[:, level])

        return modulate

    def _check(self, z: Array, targets: Array, train: bool) -> None:
        for key, known in (("block", BLOCKS), ("conditioning", CONDITIONINGS), ("pocm_form", POCM_FORMS)):
            if getattr(self, key) not in known:
                raise JaxsepError(f"model.{key}={getattr(self, key)!r}, expected one of {', '.join(known)}")
        unit = 2**self.levels
        if z.shape[1] % unit:
            raise JaxsepError(f"lasaft: {z.shape[1]} frames, expected a multiple of {unit} (2^levels); set block")
        if z.shape[2] % unit != 1:
            raise JaxsepError(
                f"lasaft: {z.shape[2]} bins, expected a multiple of {unit} (2^levels) and one; set front.bins"
            )
        if targets.shape[-1] != self.sources:
            raise JaxsepError(f"lasaft: targets over {targets.shape[-1]} sources, expected {self.sources}")
        if train and targets.shape[0] * targets.shape[1] == 1:
            raise JaxsepError(
                "lasaft: one condition in the batch, but its batch norms need two to train; "
                "raise data.batch_size or lower optim.accumulate"
            )


class TFC(nn.Module):
    """Time-frequency convolutions: dense connections; [b n f d] -> [b n f width], the last conv's output.

    Each 3x3 conv, followed by norm and ReLU, sees the outputs before it, the latest first, and the block's input.

    Attributes:
        width: output channels of each conv.
        layers: number of convs.
        dtype: compute precision.
    """

    width: int
    layers: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"], train: bool) -> Float[Array, "b n f e"]:
        """Features of the last conv."""
        inputs, y = [], x
        for i in range(self.layers):
            inputs.insert(0, y)
            conv = nn.Conv(self.width, (3, 3), kernel_init=XAVIER, dtype=self.dtype, name=f"conv{i}")
            y = nn.relu(norm(train, self.dtype, f"norm{i}")(conv(jnp.concatenate(inputs, axis=-1))))
        return y


class Transform(nn.Module):
    """Frequency transformation, added to its input: x + TDF(x), x + LaSAFT(x, e) or x + LightSAFT(x, e).

    Attributes:
        block, latents, key_dim, bottleneck, bottleneck_min, dtype: those of the net.
    """

    block: str
    latents: int
    key_dim: int
    bottleneck: int
    bottleneck_min: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b n f d"], condition: Float[Array, "r e"], train: bool
    ) -> Float[Array, "q n f d"]:
        """With attention, q = r (several conditions per example: r is a multiple of b); without, q = b."""
        bins, spread = x.shape[2], (self.latents,)
        if self.block == "none":
            return x
        first, second = partial(FrequencyLayer, name="first"), partial(FrequencyLayer, name="second")
        y = x.swapaxes(2, 3)
        if self.block == "tdf":
            y = first((self._hidden(bins),), self.dtype)(y, train)
            y = second((bins,), self.dtype)(y, train)
        elif self.block == "lightsaft":
            y = first((*spread, self._hidden(bins)), self.dtype)(y, train)
            y = second((bins,), self.dtype)(self._attend(y, condition), train)
        else:
            y = first((self._hidden(bins * self.latents),), self.dtype)(y, train)
            y = self._attend(second((*spread, bins), self.dtype)(y, train), condition)
        return repeat(x, len(y)) + y.swapaxes(2, 3)

    def _hidden(self, bins: int) -> int:
        return max(bins // self.bottleneck, self.bottleneck_min)

    def _attend(self, values: Float[Array, "b n d l m"], condition: Float[Array, "r e"]) -> Float[Array, "r n d m"]:
        """The latent sources' features, weighted by softmax(q k / sqrt(d)), q = W e + w of the source asked for."""
        keys = self.param("keys", XAVIER, (self.key_dim, self.latents), jnp.float32)
        query = dense(self.key_dim, condition.shape[-1], "query")(condition)
        weights = nn.softmax(query @ keys / jnp.sqrt(self.key_dim)).astype(values.dtype)
        weights = weights.reshape(len(values), -1, 1, 1, self.latents, 1)
        y = (values[:, None] * weights).sum(axis=-2)
        return y.reshape(-1, *y.shape[2:])


class FrequencyLayer(nn.Module):
    """Linear map of the bins, alike for all channels, then batch norm of each channel and ReLU.

    Attributes:
        features: shape of what the bins are mapped to.
        dtype: compute precision.
    """

    features: tuple[int, ...]
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n d f"], train: bool) -> Float[Array, "b n d *m"]:
        """[b n d f] -> [b n d features]."""
        shape = (x.shape[-1], *self.features)
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "normal", 0, tuple(range(1, len(shape))))
        kernel = self.param("kernel", init, shape, jnp.float32)
        y = jnp.tensordot(x, kernel.astype(self.dtype), 1)
        return nn.relu(norm(train, self.dtype, "norm", axis=2)(y))


class Down(nn.Module):
    """Conv 2x2 of stride 2 that keeps the channels, as a product with blocks of 2x2.

    Attributes:
        dtype: compute precision.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"]) -> Float[Array, "b m g d"]:
        """[b n f d] -> [b n/2 f/2 d]."""
        batch, frames, bins, width = x.shape
        kernel = self.param("kernel", XAVIER, (2, 2, width, width), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(self.dtype)
        blocks = x.astype(self.dtype).reshape(batch, frames // 2, 2, bins // 2, 2, width)
        return jnp.einsum("bnifjd,ijde->bnfe", blocks, kernel) + bias


class Up(nn.Module):
    """Transposed conv 2x2 of stride 2 that keeps the channels, as a product that yields blocks of 2x2.

    Attributes:
        dtype: compute precision.
    """

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b n f d"]) -> Float[Array, "b m g d"]:
        """[b n f d] -> [b 2n 2f d]."""
        batch, frames, bins, width = x.shape
        kernel = self.param("kernel", XAVIER, (2, 2, width, width), jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(self.dtype)
        blocks = jnp.einsum("bnfd,ijde->bnifje", x.astype(self.dtype), kernel)
        return blocks.reshape(batch, 2 * frames, 2 * bins, width) + bias


class Generator(nn.Module):
    """Gamma and beta of all levels from the embedding: dense layers of 2, 4 and 8 times its width, then two heads.

    Each dense layer is followed by ReLU, the second and third also by dropout and batch norm, in this order.

    Attributes:
        levels: number of blocks to condition.
        gamma, beta: shape of the values of one block.
        normed: whether batch norms without scale and bias follow the heads, as under PoCM.
        dropout: rate.
    """

    levels: int
    gamma: tuple[int, ...]
    beta: tuple[int, ...]
    normed: bool
    dropout: float

    @nn.compact
    def __call__(self, condition: Float[Array, "r e"], train: bool) -> tuple[Array, Array]:
        """(gamma [r levels *gamma], beta [r levels *beta])."""
        x = condition
        for i in range(3):
            x = nn.relu(dense(2 * x.shape[-1], x.shape[-1], f"dense{i}")(x))
            if i > 0:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
                x = norm(train, None, f"norm{i}")(x)

        def head(name: str, shape: tuple[int, ...]) -> Array:
            y = dense(self.levels * math.prod(shape), x.shape[-1], name)(x)
            y = norm(train, None, f"{name}_norm", affine=False)(y) if self.normed else y
            return y.reshape(-1, self.levels, *shape)

        return head("gamma", self.gamma), head("beta", self.beta)


def pack(z: Complex[Array, "b n f c"]) -> Float[Array, "b n f d"]:
    """Real parts of all channels, then imaginary parts: re L, re R, im L, im R."""
    return jnp.concatenate([z.real, z.imag], axis=-1)


def unpack(x: Float[Array, "b n f d"]) -> Complex[Array, "b n f c"]:
    """The inverse of `pack`, complex64."""
    real, imaginary = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jax.lax.complex(real, imaginary)


def repeat(x: Float[Array, "b ..."], rows: int) -> Float[Array, "r ..."]:
    """Each example once per condition; as it is where the rows are conditions already."""
    return jnp.repeat(x, rows // len(x), axis=0)


def norm(train: bool, dtype: DTypeLike | None, name: str, axis: int = -1, affine: bool = True) -> nn.BatchNorm:
    """torch's batch norm; dtype None = that of its input."""
    return nn.BatchNorm(not train, axis, 0.9, 1e-5, dtype=dtype, use_bias=affine, use_scale=affine, name=name)


def dense(features: int, fan_in: int, name: str) -> nn.Dense:
    """A linear layer in float32, initialised as the authors': weights Xavier-normal, biases as torch's."""
    return nn.Dense(features, kernel_init=XAVIER, bias_init=uniform(fan_in), name=name)


def uniform(fan_in: int) -> nn.initializers.Initializer:
    """torch's initial biases: uniform within 1 / sqrt(fan in)."""

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
