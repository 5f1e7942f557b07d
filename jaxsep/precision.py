"""Compute precision of the nets.

The policy is the dtype in which a net computes. Parameters, optimiser, norm statistics, front ends, heads and
losses are float32 under every policy; a net gets the policy as its field `dtype`.
"""

import jax.numpy as jnp

from jaxsep.config import choose

POLICIES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compute_dtype(precision: str) -> jnp.dtype:
    """The dtype that a policy computes in.

    Raises:
        JaxsepError: an unknown policy.
    """
    return jnp.dtype(choose(POLICIES, precision, "precision"))
