"""What front ends with kernels of their own share: products in full precision, and a constraint on their size."""

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxsep.errors import JaxsepError

CONSTRAINTS = ("none", "unit", "energy")


def product(x: Float[Array, "*b i"], matrix: Float[Array, "i o"]) -> Float[Array, "*b o"]:
    """As one product of two matrices, in float32 on every device: front ends are not of a net's precision."""
    return jnp.matmul(x.reshape(-1, x.shape[-1]), matrix, precision=lax.Precision.HIGHEST).reshape(*x.shape[:-1], -1)


def check_constraint(constraint: str) -> None:
    """Raises a JaxsepError where there is no such constraint."""
    if constraint not in CONSTRAINTS:
        raise JaxsepError(f"front.constraint={constraint!r} is unknown, expected one of {', '.join(CONSTRAINTS)}")


def constrained(kernels: Float[Array, "*k d"], constraint: str, energy: float = 1.0) -> Float[Array, "*k d"]:
    """Kernels d, whose size is given: what is trained is their direction, whatever its own size.

    Args:
        kernels: the last axis counts them.
        constraint: "none"; "unit", the squares of each add up to `energy`; "energy", they do so on average.
        energy: 1 for kernels of unit norm.
    """
    if constraint == "none":
        return kernels
    squares = (kernels**2).sum(axis=tuple(range(kernels.ndim - 1)))
    return kernels * jnp.sqrt(energy / (squares if constraint == "unit" else squares.mean()))
