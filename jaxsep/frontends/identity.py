"""No front end: the latent is the wave."""

from typing import ClassVar

import flax.linen as nn
from jax import Array
from jaxtyping import Float

from jaxsep.errors import JaxsepError


class Identity(nn.Module):
    """The wave itself, for nets that work on samples."""

    fixed: ClassVar[bool] = True
    domain: ClassVar[str] = "wave"

    @property
    def span(self) -> int:
        """Samples that a "frame" sees."""
        return 1

    def check(self) -> None:
        """There is nothing to check."""

    def frames(self, length: int) -> int:
        """One "frame" per sample."""
        return length

    def encode(self, wave: Float[Array, "*b t c"]) -> Float[Array, "*b t c"]:
        """The wave."""
        return wave

    def crop(self, latent: Float[Array, "*b t c"]) -> Float[Array, "*b t c"]:
        """The wave."""
        return latent

    def decode(self, latent: Float[Array, "*b t c"], length: int) -> Float[Array, "*b t c"]:
        """The wave.

        Raises:
            JaxsepError: it has not `length` samples.
        """
        if latent.shape[-2] != length:
            raise JaxsepError(f"front: the net gave {latent.shape[-2]} samples where {length} are expected")
        return latent
