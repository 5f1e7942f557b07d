"""Conditioning of feature maps by values that come from a control network: FiLM, PoCM and GPoCM."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def film(x: Float[Array, "b n f d"], gamma: Float[Array, "b g"], beta: Float[Array, "b g"]) -> Float[Array, "b n f d"]:
    """Feature-wise linear modulation, gamma x + beta (Perez et al., AAAI 2018, eq. 2).

    Args:
        x: feature maps.
        gamma, beta: one value per feature ([b d]; "complex" in Meseguer-Brocal & Peeters, ISMIR 2019), or one for
            all features ([b 1]; "simple" there).
    """
    return x * gamma[:, None, None].astype(x.dtype) + beta[:, None, None].astype(x.dtype)


def pocm(
    x: Float[Array, "b n f d"], gamma: Float[Array, "b d e"], beta: Float[Array, "b e"]
) -> Float[Array, "b n f e"]:
    """Point-wise convolutional modulation (Choi et al., ICASSP 2021, eq. 1): y_e = sum_d x_d gamma[d, e] + beta_e.

    Args:
        x: feature maps.
        gamma: weights of a 1x1 convolution, input features first: the paper's indices and the public code's default
            ("matmul"). The code's "naive" form reads the same numbers as [b e d].
        beta: its bias.
    """
    y = jnp.einsum("bnfd,bde->bnfe", x, gamma.astype(x.dtype))
    return y + beta[:, None, None].astype(x.dtype)


def gpocm(
    x: Float[Array, "b n f d"], gamma: Float[Array, "b d d"], beta: Float[Array, "b d"]
) -> Float[Array, "b n f d"]:
    """Gated PoCM (Choi et al., ICASSP 2021, eq. 2): sigmoid(pocm(x)) x."""
    return jax.nn.sigmoid(pocm(x, gamma, beta)) * x
