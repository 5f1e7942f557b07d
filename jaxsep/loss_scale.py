"""Dynamic loss scaling, without which gradients in float16 vanish.

P. Micikevicius et al., "Mixed precision training", ICLR 2018, section 3.2. The smallest number above 0 of float16 is
6e-8, and many gradients of activations are smaller. The loss is multiplied by a scale before it is differentiated, and
the gradient divided by it again. A scale is too large when the gradient overflows: then the step is left out and the
scale halved; it is doubled after `PATIENCE` steps without an overflow (the values of PyTorch's `GradScaler`).
"""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool

Leaf = Any  # an array, or what JAX puts in its place

FIRST = 2.0**16
LARGEST = 2.0**24  # gradients of 0 would double it for ever
PATIENCE = 2_000
TOLERATED = 20  # overflows in a row that stop a run: no scale would help


@struct.dataclass
class LossScale:
    """A scale and how it fares.

    Attributes:
        scale: by which the loss is multiplied, a power of two, float32.
        good: steps since it was last changed, int32.
        row: overflows in a row up to now, int32.
        skipped: overflows since the start, int32.
    """

    scale: Leaf
    good: Leaf
    row: Leaf
    skipped: Leaf

    @classmethod
    def fresh(cls) -> "LossScale":
        """Before the first step."""
        return cls(jnp.float32(FIRST), jnp.int32(0), jnp.int32(0), jnp.int32(0))

    def after(self, finite: Bool[Array, ""]) -> "LossScale":
        """After a step whose gradient was finite or was not."""
        good = jnp.where(finite, self.good + 1, 0)
        doubled = jnp.where(good == PATIENCE, jnp.minimum(2 * self.scale, LARGEST), self.scale)
        return LossScale(
            scale=jnp.where(finite, doubled, self.scale / 2),
            good=jnp.where(good == PATIENCE, 0, good),
            row=jnp.where(finite, 0, self.row + 1),
            skipped=self.skipped + ~finite,
        )

    @property
    def exhausted(self) -> Bool[Array, ""]:
        """Whether the last `TOLERATED` steps have all overflowed."""
        return self.row >= TOLERATED
