"""Where arrays lie on a mesh: copies on all devices, a batch in parts, and under `fsdp` large arrays of the state."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

LARGE = 2**14  # elements; to collect parts of less takes longer than it saves


def whole(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis, that of the batch, in parts."""
    return NamedSharding(mesh, PartitionSpec("data"))


def in_parts(tree: PyTree, mesh: Mesh) -> PyTree:
    """Where the leaves of a state lie under fully sharded data parallelism.

    S. Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter models", SC 2020, stage 3: of
    parameters, averages and optimiser every device has its share, of which XLA collects what a layer needs, when it
    needs it. A leaf is divided along the longest axis that comes out even; small ones, and those without such an axis,
    are copied.
    """

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis, length in enumerate(leaf.shape) if length % mesh.size == 0]
        if leaf.size < LARGE or not axes:
            return whole(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))

    return jax.tree.map(place, tree)


def collected(tree: PyTree, mesh: Mesh) -> PyTree:
    """The same arrays, each of them whole on every device; nothing is copied where all of them are."""
    if all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.block_until_ready(_collect(mesh)(tree))  # before anything else exchanges data: see `validation.py`


@functools.cache
def _collect(mesh: Mesh) -> Any:
    """One program for a whole tree, compiled once."""
    return jax.jit(lambda tree: tree, out_shardings=whole(mesh))


def per_device(tree: PyTree) -> int:
    """Bytes of a tree that the fullest device holds."""
    held: dict[Any, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values())
