"""Ideal phase: how much of a magnitude system's error is the mixture's phase that it has to use?

An oracle made of any system that estimates magnitudes: they stay, and are given the phases of the true sources.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft
from jaxsep.heads import Magnitude, Mask
from jaxsep.separator import Separator
from jaxsep.types import Separation


@dataclasses.dataclass(frozen=True)
class IdealPhase:
    """A separator whose source latents keep their magnitudes and get the phases of the true sources' latents.

    Everything else is the separator's own: a post-filter does its work first, on latents with the phase that they have,
    and it is what comes out of it that gets the true phases. Where a true source is zero it has no phase, and the
    estimate keeps its own.

    Attributes:
        separator: with a head that gives magnitudes the mixture's phase.
        sources: how many there are.

    Raises:
        JaxsepError: the separator has no such head.
    """

    separator: Separator
    sources: int

    def __post_init__(self):
        front, head = self.separator.front, self.separator.head
        if not isinstance(front, Stft) or not isinstance(head, Mask | Magnitude):
            raise JaxsepError(
                "--phase=ideal is for systems that estimate magnitudes (head mask or magnitude, on spectra); what head "
                f"{type(head).__name__} gives on front end {type(front).__name__} has phases of its own"
            )

    def apply(
        self, variables: Any, waves: Float[Array, "b t _"], targets: Float[Array, "b k s"] | None, train: bool
    ) -> Separation:
        """Separates as `Separator.apply` does.

        Args:
            variables: of the separator.
            waves: [b t (1 + s) c], the channels of the mixture and then those of each source.
            targets: see `Separator`.
            train: see `Separator`.
        """
        separator = self.separator.bind(variables)
        examples, length, _ = waves.shape
        waves = jnp.moveaxis(waves.reshape(examples, length, 1 + self.sources, -1), 2, 1)  # [b 1+s t c]
        sources, final = separator.estimate(waves[:, 0], targets, train)
        true = separator.front.encode(waves[:, 1:])[..., : final.shape[-2], :]
        final = jnp.where(true == 0, final, jnp.abs(final) * jnp.sign(true))
        return Separation(separator.front.decode(final, length), sources)
