"""LSTMs with one interface for all backends."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxsep.layers import cudnn

LARGE = 2**20  # elements of a matrix that is read as it lies: transposing it takes as long as dozens of steps
BLOCKS = 32  # of rows of such a matrix: XLA's product with one row takes an eighth longer on a CPU than with these


def uniform_by_units(units: int) -> Callable:
    """PyTorch's initial values of all weights and biases of an LSTM: U(-1/sqrt(units), 1/sqrt(units))."""
    limit = units**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -limit, limit)


class BLSTM(nn.Module):
    """Layers of bidirectional LSTMs (Hochreiter & Schmidhuber 1997; Graves & Schmidhuber 2005).

    Per direction, with gates in the order i, f, g, o and one bias each,

        i, f, g, o = x[n] input + h[n-1] recurrent + bias
        s[n] = sigmoid(f) s[n-1] + sigmoid(i) tanh(g)
        h[n] = sigmoid(o) tanh(s[n])

    as in PyTorch and Keras; PyTorch's and cuDNN's LSTMs carry two biases whose sum is ours, 4 * units more
    parameters per direction and layer. Parameters: `layer{i}/{forward,backward}/{input [d 4u], recurrent [u 4u],
    bias [4u]}`. The state of the recurrence stays float32 at any `dtype`. Where `layers.cudnn` is usable it computes
    the layers, in float32 or TF32.

    Attributes:
        units: u, outputs per direction.
        layers: the second and later ones see both directions of the one before.
        dropout: rate between layers, not behind the last one.
        input_init, recurrent_init, bias_init: initialisers; None = PyTorch's `uniform_by_units`.
        dtype: precision of the matrix products; parameters stay float32.
    """

    units: int
    layers: int = 1
    dropout: float = 0.0
    input_init: Callable | None = None
    recurrent_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], train: bool) -> Float[Array, "b n e"]:
        """[b n d] -> [b n 2*units], the forward direction first."""
        default = uniform_by_units(self.units)
        inits = [init or default for init in (self.input_init, self.recurrent_init, self.bias_init)]
        x = jnp.swapaxes(x, 0, 1)  # frames first: a step of the recurrence reads one contiguous piece
        for i in range(self.layers):
            if i:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
            x = _Layer(self.units, *inits, dtype=self.dtype, name=f"layer{i}")(x)
        return jnp.swapaxes(x, 0, 1)


class LSTM(nn.Module):
    """Layers of LSTMs that read forward only; equations as `BLSTM`.

    Parameters: `layer{i}/{input [d 4u], recurrent [u 4u], bias [4u]}`.

    Attributes:
        units: u.
        layers: one on top of the other.
        input_init, recurrent_init, bias_init: initialisers; None = PyTorch's `uniform_by_units`.
        dtype: precision of the matrix products; parameters stay float32.
    """

    units: int
    layers: int = 1
    input_init: Callable | None = None
    recurrent_init: Callable | None = None
    bias_init: Callable | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n u"]:
        """[b n d] -> [b n units]."""
        default = uniform_by_units(self.units)
        inits = [init or default for init in (self.input_init, self.recurrent_init, self.bias_init)]
        x = jnp.swapaxes(x, 0, 1)
        for i in range(self.layers):
            weights = Weights(self.units, *inits, name=f"layer{i}")(x.shape[-1])
            if cudnn.usable(self.dtype):
                x = cudnn.lstm(x, [weights]).astype(self.dtype)
                continue
            x, kernel, recurrent = promote_dtype(x, *weights[:2], dtype=self.dtype)
            gates = jnp.dot(x, kernel, preferred_element_type=jnp.float32) + weights[2]
            x = lstm(gates[:, None], (recurrent,))[:, 0].astype(x.dtype)
        return jnp.swapaxes(x, 0, 1)


class _Layer(nn.Module):
    """One bidirectional layer: [n b d] -> [n b 2*units]."""

    units: int
    input_init: Callable
    recurrent_init: Callable
    bias_init: Callable
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inits = (self.input_init, self.recurrent_init, self.bias_init)
        weights = [Weights(self.units, *inits, name=name)(x.shape[-1]) for name in ("forward", "backward")]
        if cudnn.usable(self.dtype):
            return cudnn.lstm(x, weights).astype(self.dtype)
        inputs, recurrent, bias = zip(*weights, strict=True)
        x, *matrices = promote_dtype(x, *inputs, *recurrent, dtype=self.dtype)
        # All steps at once: only the product with the state is left to the recurrence.
        forward, backward = (
            jnp.dot(x, kernel, preferred_element_type=jnp.float32) + b
            for kernel, b in zip(matrices[:2], bias, strict=True)
        )
        h = lstm(jnp.stack([forward, backward[::-1]], axis=1), tuple(matrices[2:]))
        return jnp.concatenate([h[:, 0], h[::-1, 1]], axis=-1).astype(x.dtype)


class Weights(nn.Module):
    """The parameters of one direction of one layer.

    Attributes:
        units: u.
        input_init, recurrent_init, bias_init: initialisers.
    """

    units: int
    input_init: Callable
    recurrent_init: Callable
    bias_init: Callable

    @nn.compact
    def __call__(self, features: int) -> tuple[Array, Array, Array]:
        """`input` [features 4u], `recurrent` [u 4u] and `bias` [4u]."""
        return (
            self.param("input", self.input_init, (features, 4 * self.units), jnp.float32),
            self.param("recurrent", self.recurrent_init, (self.units, 4 * self.units), jnp.float32),
            self.param("bias", self.bias_init, (4 * self.units,), jnp.float32),
        )


@jax.custom_vjp
def lstm(gates: Float[Array, "n r b g"], recurrent: Sequence[Float[Array, "u g"]]) -> Float[Array, "n r b u"]:
    """Outputs of r LSTMs side by side from a state of zeros.

    The gradient of the recurrent weights is one matrix product over all steps instead of one per step, which
    is what differentiating the scan would give (on two CPU cores, 3 layers of 2 x 256 units on 4 x 256 frames:
    value and gradient 0.17 s instead of 0.34 s). Large weights are neither stacked nor transposed.

    Args:
        gates: the inputs' share of i, f, g, o at every step, float32; g = 4 u.
        recurrent: weights of the state, one matrix per LSTM, in the precision of its products.
    """
    return _forward(gates, recurrent)[0]


def _forward(gates: Array, recurrent: Sequence[Array]) -> tuple[Array, tuple]:
    """Outputs, and what the gradient needs."""
    zeros = jnp.zeros((*gates.shape[1:3], gates.shape[3] // 4), jnp.float32)
    one_row = gates.shape[2] == 1 and recurrent[0].size > LARGE and len(recurrent[0]) % BLOCKS == 0
    times = _row_product if one_row else _product

    def step(state: tuple[Array, Array], gates: Array) -> tuple[tuple[Array, Array], tuple]:
        h, s = state
        products = jnp.stack([times(h[i], weights) for i, weights in enumerate(recurrent)])
        i, f, g, o = jnp.split(gates + products, 4, axis=-1)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        s = f * s + i * g
        h = o * jnp.tanh(s)
        return (h, s), (h, s, jnp.concatenate([i, f, g, o], axis=-1))

    h, s, active = lax.scan(step, (zeros, zeros), gates)[1]
    return h, (h, s, active, recurrent)


def _backward(saved: tuple, dh: Array) -> tuple[Array, tuple[Array, ...]]:
    """Gradients of gates and recurrent weights from that of the outputs, [n r b u]."""
    h, s, active, recurrent = saved
    before = jnp.concatenate([jnp.zeros_like(s[:1]), s[:-1]])
    large = recurrent[0].size > LARGE
    transposed = [] if large else [weights.T for weights in recurrent]

    def times_transposed(i: int, dgates: Array) -> Array:
        return _product(recurrent[i], dgates.T).T if large else _product(dgates, transposed[i])

    def step(later: tuple[Array, Array], now: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        dh, s, before, active = now
        dh, ds = dh + later[0], later[1]
        i, f, g, o = jnp.split(active, 4, axis=-1)
        tanh = jnp.tanh(s)
        ds = ds + dh * o * (1 - tanh**2)
        di, df, dg, do = ds * g * i * (1 - i), ds * before * f * (1 - f), ds * i * (1 - g**2), dh * tanh * o * (1 - o)
        dgates = jnp.concatenate([di, df, dg, do], axis=-1)
        products = jnp.stack([times_transposed(i, dgates[i]) for i in range(len(recurrent))])
        return (products, ds * f), dgates

    zeros = jnp.zeros_like(s[0])
    dgates = lax.scan(step, (zeros, zeros), (dh, s, before, active), reverse=True)[1]
    kind = recurrent[0].dtype
    h, later = h[:-1].astype(kind), dgates[1:].astype(kind)
    drecurrent = tuple(
        jnp.einsum("nbu,nbg->ug", h[:, i], later[:, i], preferred_element_type=jnp.float32).astype(kind)
        for i in range(len(recurrent))
    )
    return dgates, drecurrent


lstm.defvjp(_forward, _backward)


def _product(a: Array, b: Array) -> Array:
    """Matrix product in the precision of the weights, the lower of both, accumulated in float32."""
    kind = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    return jnp.matmul(a.astype(kind), b.astype(kind), preferred_element_type=jnp.float32)


def _row_product(a: Float[Array, "1 u"], b: Float[Array, "u g"]) -> Float[Array, "1 g"]:
    """`_product`; on a CPU the sum of those of `BLOCKS` blocks, which is limited by the speed of memory alone."""

    def by_blocks(a: Array, b: Array) -> Array:
        a, b = a.reshape(BLOCKS, 1, -1), b.reshape(BLOCKS, -1, b.shape[1])
        return _product(a, b).sum(axis=0)

    return lax.platform_dependent(a, b, cpu=by_blocks, default=_product)
