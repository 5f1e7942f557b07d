"""Answers without a model: the mixture as it is, turned down, or split into its centre and its sides."""

import numpy as np
from jaxtyping import Float

from jaxsep.errors import JaxsepError


def untouched_mixture(
    mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]
) -> Float[np.ndarray, "s t c"]:
    """The mixture itself as the estimate of every stem."""
    return np.repeat(mixture[None].astype(np.float64), len(stems), axis=0)


def shared_mixture(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """SiSEC 2018's MIX: of s stems each is a part 1/s of the mixture, the accompaniment of vocals 3/4 of it."""
    return untouched_mixture(mixture, stems) / len(stems)


def scaled_mixture(mixture: Float[np.ndarray, "t c"], stems: Float[np.ndarray, "s t c"]) -> Float[np.ndarray, "s t c"]:
    """The mixture times the least-squares gain <x, s> / <x, x> of each stem: the best that a volume knob can do.

    One gain per stem, over the whole song and all channels; it sees the true stems, and so is an oracle.
    """
    mixture = mixture.astype(np.float64)
    energy = np.vdot(mixture, mixture)
    products = np.array([np.vdot(mixture, stem.astype(np.float64)) for stem in stems])
    gains = products / energy if energy else np.zeros(len(stems))
    return gains[:, None, None] * mixture


def mid_side(mixture: Float[np.ndarray, "t c"], rate: int) -> dict[str, Float[np.ndarray, "t c"]]:
    """Channel subtraction, what karaoke machines do: vocals = (L + R) / 2, accompaniment = (L - R) / 2.

    Both are mono, in both channels, as in P. Xiang and S. Dubnov, "Karaoke system with spatial acoustics estimation",
    ICMC 2005. L - R removes what is in the centre, L + R keeps it. With the sign that the right channel of the side
    has in a stereo signal, (L - R, R - L) / 2, museval would take the accompaniment for silence: it tests the sum of
    the channels.

    Raises:
        JaxsepError: not two channels.
    """
    if mixture.shape[1] != 2:
        raise JaxsepError(
            f"baseline mid-side subtracts one channel of two from the other; this song has {mixture.shape[1]}"
        )
    left, right = mixture.T.astype(np.float64)
    return {
        name: np.repeat(wave[:, None], 2, axis=1)
        for name, wave in (("vocals", (left + right) / 2), ("accompaniment", (left - right) / 2))
    }
