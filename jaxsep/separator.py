"""The whole flow on one screen: mixture -> front end -> net -> head -> (post-filter) -> waves."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.types import Separation


class PerSource(nn.Module):
    """One net per source, all fed the same mixture: Spleeter, Open-Unmix, D3Net.

    Parameters are keyed by source name, so one source can be trained alone and packing is a merge. The nets
    run one after the other: as one vmapped net they become grouped convolutions, ten times slower on a CPU.

    Attributes:
        nets: source name -> net, in the order of the output; a net maps [b n f c] to [b n f c].
    """

    nets: Mapping[str, nn.Module]

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) for at least `length` frames or samples, the same for all nets."""
        return next(iter(self.nets.values())).lengths(length)

    @nn.compact
    def __call__(self, latent: Array, targets: Array | None, train: bool) -> Array:
        """[b n f c] or [b t c] -> [b s ...]."""
        return jnp.stack(
            [net.clone(parent=self, name=source)(latent, targets, train) for source, net in self.nets.items()],
            axis=1,
        )


class Separator(nn.Module):
    """Mixture in, stems out. Training, inference and scoring see only this.

    Attributes:
        front: encodes waves [b t c] to latents [b n f c] (or [b t c]) and decodes them.
        net: (latent, targets, train) -> [b s n f c].
        head: (net output, mixture latent) -> source latents.
        post: (source latents, full-band mixture latent) -> full-band source latents; in evaluation only, or None.
        block: the net sees blocks of this many frames, the last one padded with zeros (Spleeter's T = 512);
            0 = all frames at once, padded to the nearest length that the net takes.
    """

    front: nn.Module
    net: nn.Module
    head: Any
    post: Any = None
    block: int = 0

    def encode(self, wave: Float[Array, "*b t c"]) -> Array:
        """Latents of references as the losses compare them: [*b n f c], cropped to the front end's bins."""
        return self.front.crop(self.front.encode(wave))

    def __call__(self, mix: Float[Array, "b t c"], targets: Float[Array, "b k s"] | None, train: bool) -> Separation:
        """Separates a mixture.

        Args:
            mix: [b t c].
            targets: weights over the sources for conditioned nets, [b k s]; None = every source.
            train: batch statistics and dropout on, post-filter off.
        """
        full = self.front.encode(mix)
        latent = self.front.crop(full)
        sources = self.head(self._run(latent, targets, train), latent)
        final = sources if train or self.post is None else self.post(sources, full)
        return Separation(self.front.decode(final, mix.shape[1]), sources)

    def _run(self, latent: Array, targets: Array | None, train: bool) -> Array:
        """The net on a latent of any length: context in front, zeros behind, cropped again."""
        batch, length, *rest = latent.shape
        size = self.block or length
        blocks = -(-length // size)
        fed, yielded = self.net.lengths(size)
        if self.block and (fed, yielded) != (size, size):
            raise JaxsepError(f"block={size}: the net takes {fed} frames at a time; set block to a length it takes")
        before = (fed - yielded) // 2
        after = blocks * size - length + (fed - size - before)
        padded = jnp.pad(latent, [(0, 0), (before, after)] + [(0, 0)] * len(rest))
        if blocks > 1:
            padded = padded.reshape(batch * blocks, size, *rest)
            targets = None if targets is None else jnp.repeat(targets, blocks, axis=0)
        out = self.net(padded, targets, train)
        if blocks > 1:  # [b*blocks s n f c] -> [b s blocks*n f c]
            out = out.reshape(batch, blocks, *out.shape[1:])
            out = jnp.moveaxis(out, 1, 2)
            out = out.reshape(batch, out.shape[1], blocks * size, *out.shape[4:])
        return out[:, :, :length]


def build(config: configs.Config) -> Separator:
    """The separator that a config describes.

    Raises:
        JaxsepError: a name or a field that does not exist.
    """
    from jaxsep.frontends import FRONTS
    from jaxsep.heads import HEADS, POSTS
    from jaxsep.models import MODELS

    sources: Sequence[str] = tuple(configs.parse_sources(config.sources))
    dtype = jnp.dtype(configs.choose({"float32": "float32", "bfloat16": "bfloat16"}, config.precision, "precision"))
    net = configs.construct(MODELS, config.model, "model", dtype=dtype)
    if config.per_source:
        net = PerSource({source: net for source in sources})
    post = config.inference.post
    return Separator(
        front=configs.construct(FRONTS, config.front, "front"),
        net=net,
        head=configs.construct(HEADS, config.head, "head"),
        post=configs.construct(POSTS, post, "inference.post") if post.name else None,
        block=config.block,
    )
