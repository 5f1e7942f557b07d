"""cuDNN's LSTM: a layer of `layers.recurrent` in one call, where a GPU would otherwise be told about every step.

JAX calls it `jax.experimental.rnn.lstm`, and can neither trace nor compile it for anything else than CUDA. Each layer
is a call of its own, so that parameters, initial values, checkpoints and the dropout between layers are those of
`layers.recurrent`, whose equations are cuDNN's.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import rnn
from jax.typing import DTypeLike
from jaxtyping import Float, Float32

from jaxsep import determinism

# Values of `jax_default_matmul_precision` that the call follows; None is TF32 on GPUs that have it, as in all of JAX.
PRECISIONS = (None, "tensorfloat32", "high", "float32", "highest")


def usable(dtype: DTypeLike) -> bool:
    """Whether cuDNN computes layers of this dtype in the program that is being traced: where all of this holds.

    - JAX's default device, by which alone the tracing can tell where the program will run, is a GPU of CUDA: ROCm's
      library has the gates in another order. Who compiles for another device sets `jax.default_device`.
    - JAX's support for CUDA brings the call.
    - The program is that of one device: JAX sees only one of its kind, or all axes of the mesh are `shard_map`'s. XLA
      cannot split the call over a batch; it would have each device compute all of it.
    - The same numbers each time were not required (`determinism`): the call is out of reach of XLA's flag, and cuDNN's
      gradients may differ from run to run.
    - The call follows the precision that JAX is to give matrix products: it refuses bfloat16, and takes TF32 for what
      it does not know.
    - Not float64: the call takes float32 alone, which is more than enough for the shorter dtypes.

    Args:
        dtype: of the layer.
    """
    chosen = getattr(jax.config, "jax_default_device", None)
    device = jax.local_devices(backend=chosen)[0] if chosen is None or isinstance(chosen, str) else chosen
    return (
        device.platform == "gpu"
        and "rocm" not in device.client.platform_version
        and hasattr(getattr(rnn, "gpu_rnn", None), "compute_rnn_workspace_reserve_space_sizes")
        and (jax.device_count(device.platform) == 1 or jax.sharding.get_abstract_mesh().are_all_axes_manual)
        and not determinism.required()
        and getattr(jax.config, "jax_default_matmul_precision", None) in PRECISIONS
        and jnp.dtype(dtype) != jnp.float64
    )


def lstm(x: Float[Array, "n b d"], weights: Sequence[tuple[Array, Array, Array]]) -> Float32[Array, "n b e"]:
    """Outputs of one layer from a state of zeros, the forward direction first.

    Args:
        x: inputs, frames first.
        weights: `input` [d 4u], `recurrent` [u 4u] and `bias` [4u], forward or forward and backward.
    """
    frames, batch, features = x.shape
    units = len(weights[0][1])
    state = jnp.zeros((len(weights), batch, units), jnp.float32)
    outputs_and_states: Any = rnn.lstm(
        jnp.swapaxes(x, 0, 1).astype(jnp.float32),
        state,
        state,
        pack(weights),
        jnp.full(batch, frames, jnp.int32),
        input_size=features,
        hidden_size=units,
        num_layers=1,
        dropout=0.0,
        bidirectional=len(weights) == 2,
    )
    return jnp.swapaxes(outputs_and_states[0], 0, 1)


def pack(weights: Sequence[tuple[Array, Array, Array]]) -> Float32[Array, " w"]:
    """The weights of a layer as cuDNN has them: first the matrices of all directions, transposed, then their biases.

    Each direction has two biases, which are added: ours, and zeros.
    """
    matrices = [matrix.T for direction in weights for matrix in direction[:2]]
    biases = [bias for *_, ours in weights for bias in (ours, jnp.zeros_like(ours))]
    return jnp.concatenate([jnp.ravel(x) for x in (*matrices, *biases)])
