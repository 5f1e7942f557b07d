"""Words shared by every room: the axis glossary and what a separator returns.

Axes, by letter, in shapes and docstrings:

| letter | axis | | letter | axis |
|---|---|---|---|---|
| b | examples | | n | frames |
| s | sources, in the order of `sources` | | f | frequency bins |
| t | samples | | d | features |
| c | audio channels, always last | | k | requested targets |

Frames stand before bins, complex values are complex64, waves are float32 with a nominal range of [-1, 1].
"""

from flax import struct
from jax import Array
from jaxtyping import Complex, Float


@struct.dataclass
class Separation:
    """What a separator makes of a mixture.

    Attributes:
        stems: estimated waves, [b s t c].
        latents: the sources in the front end's domain as the head gives them, before any post-filter and
            cropped to the front end's `bins`: complex [b s n f c], real [b s n d] on a learned filterbank, or the
            stems themselves on a wave front end.
    """

    stems: Float[Array, "b s t c"]
    latents: Complex[Array, "b s n f c"] | Float[Array, "b s n d"] | Float[Array, "b s t c"]
