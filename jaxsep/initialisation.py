"""Initial weights: those of a system's paper, or He's or Glorot's for every kernel; and Demucs' rescaling of either.

| `config.initial.kernels` | of every kernel of the net |
|---|---|
| `paper` | what the layers start with in the system's public code |
| `kaiming` | N(0, 2 / fan_in) (K. He et al., "Delving deep into rectifiers", ICCV 2015, eq. 10) |
| `xavier` | U(+-sqrt(6 / (fan_in + fan_out))) (X. Glorot, Y. Bengio, AISTATS 2010, eq. 16) |

Then, with `config.initial.rescale` = a above 0, each kernel and its bias are divided by sqrt(std(kernel) / a):
A. Défossez et al., "Music source separation in the waveform domain", 2019 (`rescale_module` in their code). The
kernel's deviation is then the geometric mean of its own and a. Kernels of LSTMs stay, as there, and so does a kernel of
one value, which has no deviation; dense layers, which stay there, are rescaled: some here are convolutions of width 1.

Biases, gains of norms and tables of vectors stay what the system starts them as, and so does the front end. Values are
drawn by the seed and the path of the kernel, so that a net for one source starts the same alone and beside others.
"""

import math
import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array
from jaxtyping import PyTree

from jaxsep.config import Config, choose
from jaxsep.errors import JaxsepError
from jaxsep.layers.complex import ComplexConv, ComplexConvTranspose, ComplexDense
from jaxsep.layers.conv import ConvTranspose2D
from jaxsep.layers.conv1d import ConvTranspose1D
from jaxsep.layers.hybrid import Up
from jaxsep.layers.recurrent import Weights
from jaxsep.layers.transformer import Attention
from jaxsep.models import lasaft

# Kernels by the names that layers give them, with their biases; besides these LSTMs have "input" and "recurrent", and
# depthwise convolutions of Conv-TasNet "..._kernel".
BIASES = {"kernel": "bias", "real": "real_bias", "imag": "imag_bias", "inputs": "input_bias"}
DEPTHWISE = "_kernel"

TRANSPOSED = (ConvTranspose1D, ConvTranspose2D, ComplexConvTranspose, Up, lasaft.Up)
SIDE_BY_SIDE = {Weights: 4, Attention: 3}  # matrices of one input in one kernel: gates; queries, keys and values


def fans(layer: Any, name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """How many products are summed in an output of a layer, and how many outputs an input reaches.

    Far from the ends of an axis, and on average where strides make outputs or inputs differ. The real and the imaginary
    part of a complex kernel count as the real one of twice as many inputs and outputs, in which both stand twice.

    Args:
        layer: the module that the kernel belongs to.
        name: of the kernel.
        shape: of the kernel.
    """
    if name.endswith(DEPTHWISE):
        return float(shape[0]), float(shape[0])
    if isinstance(layer, lasaft.FrequencyLayer):
        return float(shape[0]), float(math.prod(shape[1:]))
    window, inputs, outputs = shape[:-2], float(shape[-2]), float(shape[-1])
    taps, steps = math.prod(window), _steps(layer, window)
    if isinstance(layer, ConvTranspose2D):
        inputs, outputs = outputs, inputs
    if isinstance(layer, ComplexConv | ComplexConvTranspose | ComplexDense):
        inputs, outputs = 2 * inputs, 2 * outputs
    outputs /= SIDE_BY_SIDE.get(type(layer), 1) * getattr(layer, "groups", 1)
    if isinstance(layer, TRANSPOSED) or getattr(layer, "transposed", False):
        return taps * inputs / steps, taps * outputs
    return taps * inputs, taps * outputs / steps


def _steps(layer: Any, window: tuple[int, ...]) -> int:
    """Positions from one output of a convolution to the next, or of a transposed one from one input's to the next's."""
    if isinstance(layer, ComplexConv | ComplexConvTranspose):
        return 2
    if isinstance(layer, lasaft.Down | lasaft.Up):
        return math.prod(window)
    stride = getattr(layer, "strides", getattr(layer, "stride", 1))
    return math.prod(stride) if isinstance(stride, tuple) else stride or math.prod(window)


def kaiming(key: Array, shape: tuple[int, ...], fan_in: float, fan_out: float) -> Array:
    """N(0, 2 / fan_in)."""
    return math.sqrt(2 / fan_in) * jax.random.normal(key, shape)


def xavier(key: Array, shape: tuple[int, ...], fan_in: float, fan_out: float) -> Array:
    """U(+-sqrt(6 / (fan_in + fan_out)))."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)


KERNELS = {"paper": None, "kaiming": kaiming, "xavier": xavier}


def initialise(separator: Any, config: Config, key: Array) -> dict[str, PyTree]:
    """The variables of a separator before the first step.

    Args:
        separator: of the config.
        config: its `initial` says how kernels start.
        key: of the random numbers.

    Raises:
        JaxsepError: a value of `initial.kernels` that there is not.
    """
    draw = choose(KERNELS, config.initial.kernels, "initial.kernels")
    reference = config.initial.rescale
    layers: dict[tuple[str, ...], nn.Module] = {}

    def note(method: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if context.module.scope is not None:
            layers[context.module.path] = context.module
        return method(*args, **kwargs)

    with nn.intercept_methods(note):
        mix = jnp.zeros((1, config.data.segment, config.channels))
        variables = separator.init(key, mix, None, False)
    params: dict[tuple[str, ...], Any] = dict(flatten_dict(variables["params"]))
    for path, kernel in list(params.items()):
        layer = layers.get(path[:-1])
        if path[0] != "net" or not is_kernel(layer, path[-1]):
            continue
        if draw:
            path_key = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
            params[path] = kernel = draw(path_key, kernel.shape, *fans(layer, path[-1], kernel.shape))
        if reference and not isinstance(layer, Weights):
            scale = rescaling(kernel, reference)
            for name in (path[-1], bias_of(path[-1])):
                if (*path[:-1], name) in params:
                    params[*path[:-1], name] *= scale
    return {**variables, "params": unflatten_dict(params)}


def check(config: Config) -> None:
    """That the config says what the weights start as, once.

    Raises:
        JaxsepError: a value that there is not, or initial weights beside a run to start from.
    """
    initial = config.initial
    choose(KERNELS, initial.kernels, "initial.kernels")
    if not initial.rescale >= 0:
        raise JaxsepError(f"initial.rescale={initial.rescale}: expected 0 (off) or more")
    if config.init and (initial.kernels != "paper" or initial.rescale):
        raise JaxsepError(f"init={config.init}: the weights are that run's; leave out config.initial")


def is_kernel(layer: Any, name: str) -> bool:
    """Whether a parameter multiplies the input of its layer."""
    return name in BIASES or name.endswith(DEPTHWISE) or (isinstance(layer, Weights) and name != "bias")


def bias_of(kernel: str) -> str:
    """The name of the bias that is added to what a kernel yields."""
    return BIASES.get(kernel, kernel.removesuffix(DEPTHWISE) + "_bias")


def rescaling(kernel: Array, reference: float) -> Array:
    """What a kernel and its bias are multiplied by, sqrt(reference / std(kernel)); 1 where there is no deviation."""
    if kernel.size == 1:
        return jnp.float32(1)
    std = jnp.std(kernel, ddof=1)
    return jnp.where(std > 0, jnp.sqrt(reference / jnp.where(std > 0, std, 1)), 1)
