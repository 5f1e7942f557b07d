"""The whole flow on one screen: mixture -> front end -> net -> head -> (post-filter) -> waves."""

import bisect
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxsep import config as configs
from jaxsep.errors import JaxsepError
from jaxsep.precision import Policy, parse_policy
from jaxsep.types import Separation

TINY = 1e-8  # energy beside which silence has no relative error


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

    @property
    def wants_statistics(self) -> bool:
        """Whether one of the nets does."""
        return any(wants_statistics(net) for net in self.nets.values())

    def with_statistics(self, params: Mapping[str, Any], mean: Array, std: Array) -> dict[str, Any]:
        """Fresh parameters, each net's with the statistics."""
        return {source: net.with_statistics(params[source], mean, std) for source, net in self.nets.items()}

    @nn.compact
    def __call__(self, latent: Array, targets: Array | None, train: bool) -> Array:
        """[b n f c] or [b t c] -> [b s ...].

        Raises:
            JaxsepError: targets are given: these nets cannot be asked for anything but their source.
        """
        if targets is not None:
            raise JaxsepError("targets: this system has one net per source and takes no conditions")
        return jnp.stack(
            [net.clone(parent=self, name=source)(latent, targets, train) for source, net in self.nets.items()],
            axis=1,
        )


class Blend(nn.Module):
    """The mean of the outputs of several nets of one kind, trained apart: UHL2 of SiSEC 2018 is 0.5 UHL1 + 0.5 UHL1.

    Attributes:
        nets: one or more; parameters are keyed by their number.
        weights: of each net, one for each source (Demucs' bags); () = all alike.
    """

    nets: Sequence[nn.Module]
    weights: Sequence[Sequence[float]] = ()

    def lengths(self, length: int) -> tuple[int, int]:
        """(fed, yielded) for at least `length` frames or samples, the same for all nets."""
        return self.nets[0].lengths(length)

    @property
    def wants_statistics(self) -> bool:
        """Whether the nets do."""
        return wants_statistics(self.nets[0])

    def with_statistics(self, params: Mapping[str, Any], mean: Array, std: Array) -> dict[str, Any]:
        """Fresh parameters, each net's with the statistics."""
        return {str(i): net.with_statistics(params[str(i)], mean, std) for i, net in enumerate(self.nets)}

    @nn.compact
    def __call__(self, latent: Array, targets: Array | None, train: bool) -> Array:
        """The output of one net, averaged over all."""
        outputs = [net.clone(parent=self, name=str(i))(latent, targets, train) for i, net in enumerate(self.nets)]
        if not self.weights:
            return jnp.stack(outputs).mean(axis=0)
        weights = jnp.asarray(self.weights)
        return jnp.einsum("mbs...,ms->bs...", jnp.stack(outputs), weights / weights.sum(axis=0))


def wants_statistics(net: nn.Module) -> bool:
    """Whether a net standardises its input by mean and deviation of each bin of the training data.

    Such a net has a method with_statistics(params, mean [f], std [f]) -> params; one that does so under some of its
    settings only has a property `wants_statistics` as well.
    """
    return getattr(net, "wants_statistics", hasattr(net, "with_statistics"))


class Separator(nn.Module):
    """Mixture in, stems out. Training, inference and scoring see only this.

    Attributes:
        front: encodes waves [b t c] to latents [b n f c] (or [b t c]) and decodes them.
        net: (latent, targets, train) -> [b s n f c].
        head: (net output, mixture latent) -> source latents.
        post: (source latents, full-band mixture latent) -> full-band source latents; in evaluation only, or None.
        block: the net sees blocks of this many frames, the last one padded with zeros (Spleeter's T = 512);
            0 = all frames at once, padded to the nearest length that the net takes.
        block_overlap: in evaluation, blocks share this fraction with the next one and every frame is the mean of the
            blocks that hold it (D3Net: 0.5).
        swap_channels: in evaluation, the net's output is averaged with that for exchanged channels (D3Net).
        context: a net on waves is fed the mixture as it is, and the stems are what it yields of the middle (Demucs,
            Wave-U-Net): who calls gives the `surroundings` along. Otherwise, and where the mixture is shorter than
            what the net needs for one sample, zeros surround it and the stems have its length.
        policy: what the net computes in; everything else is float32.
    """

    front: nn.Module
    net: nn.Module
    head: Any
    post: Any = None
    block: int = 0
    block_overlap: float = 0.0
    swap_channels: bool = False
    context: bool = False
    policy: Policy = Policy()

    def surroundings(self, length: int) -> tuple[int, int]:
        """Samples of the mixture that are to be fed before and behind a segment of `length` samples."""
        if not self.context:
            return 0, 0
        fed, _ = self.net.lengths(length)
        before = (fed - length) // 2
        return before, fed - length - before

    def encode(self, wave: Float[Array, "*b t c"]) -> Array:
        """Latents of references as the losses compare them: [*b n f c], cropped to the front end's bins."""
        return self.front.crop(self.front.encode(wave))

    def front_error(self, wave: Float[Array, "b t c"]) -> Float[Array, " b"]:
        """Energy of decode(encode(wave)) - wave, relative to that of the wave."""
        error = self.front.decode(self.front.encode(wave), wave.shape[1]) - wave
        return (error**2).sum(axis=(1, 2)) / ((wave**2).sum(axis=(1, 2)) + TINY)

    def __call__(self, mix: Float[Array, "b t c"], targets: Float[Array, "b k s"] | None, train: bool) -> Separation:
        """Separates a mixture.

        Args:
            mix: [b t c].
            targets: weights over the sources for conditioned nets, [b k s]; None = every source.
            train: batch statistics and dropout on, post-filter and averages of evaluation off.
        """
        sources, final = self.estimate(mix, targets, train)
        return Separation(self.front.decode(final, final.shape[2] if self.context else mix.shape[1]), sources)

    def estimate(self, mix: Array, targets: Array | None, train: bool) -> tuple[Array, Array]:
        """Source latents as the head gives them, and as they are decoded: the same, or those of the post-filter."""
        full = self.front.encode(mix)
        latent = self.front.crop(full)
        output = self._run(latent, targets, train)
        if self.swap_channels and not train:
            output = (output + self._run(latent[..., ::-1], targets, train)[..., ::-1]) / 2
        sources = self.head(output, latent)
        return sources, sources if train or self.post is None else self.post(sources, full)

    def _run(self, latent: Array, targets: Array | None, train: bool) -> Array:
        """The net on a latent of any length: zeros around waves, zeros behind frames, cropped again."""
        batch, length, *rest = latent.shape
        if self.context and length >= self.net.lengths(1)[0]:
            return self._inside(latent, targets, train)
        size = self.block or length
        fed, yielded = self.net.lengths(size)
        if self.block and (fed, yielded) != (size, size):
            raise JaxsepError(f"block={size}: the net takes {fed} frames at a time; set block to a length it takes")
        if not self.block:
            # Demucs' padding and `center_trim`: the grid of the strides lies as in the published code.
            before, skip = ((fed - size) // 2, (yielded - size) // 2) if latent.ndim == 3 else (0, 0)
            padded = _pad(latent, before, fed - size - before)
            return self._net(padded, targets, train)[:, :, skip : skip + length]
        stride = self._stride(train)
        lead = size - stride  # so that the first frame, too, is held by as many blocks as all others
        count = -(-(length + lead) // stride)
        padded = _pad(latent, lead, (count - 1) * stride + size - lead - length)
        blocks = jnp.stack([padded[:, i * stride : i * stride + size] for i in range(count)], axis=1)
        targets = None if targets is None else jnp.repeat(targets, count, axis=0)
        out = self._net(blocks.reshape(batch * count, size, *rest), targets, train)
        out = jnp.moveaxis(out.reshape(batch, count, *out.shape[1:]), 1, 2)  # [b s blocks n f c]
        out = out.reshape(*out.shape[:3], size // stride, stride, *out.shape[4:])
        # Of the stride-long parts of a block, part p of block i lies where part 0 of block i + p does.
        parts = [_pad(out[:, :, :, p], p, size // stride - 1 - p, axis=2) for p in range(size // stride)]
        mean = sum(parts[1:], parts[0]) / len(parts)
        return mean.reshape(*mean.shape[:2], -1, *mean.shape[4:])[:, :, lead : lead + length]

    def _net(self, latent: Array, targets: Array | None, train: bool) -> Array:
        return self.policy.run(self.net, latent, targets, train)

    def _inside(self, wave: Array, targets: Array | None, train: bool) -> Array:
        """What the net yields of the middle of a wave whose ends are its context."""
        out = self._net(wave, targets, train)
        lengths = range(1, wave.shape[1] + 1)
        # The longest stretch for which the net asks for no more: exactly for this, where every stride is filled.
        longest = bisect.bisect_right(lengths, wave.shape[1], key=lambda length: self.net.lengths(length)[0])
        fed, yielded = self.net.lengths(longest)
        if (fed, yielded) != (wave.shape[1], out.shape[2]):
            raise JaxsepError(
                f"context: of {wave.shape[1]} samples the net yields {out.shape[2]}, not from their middle; "
                f"give it {fed} (data.segment)"
            )
        return out

    def _stride(self, train: bool) -> int:
        """Frames from one block to the next."""
        if train or not self.block_overlap:
            return self.block
        exact = self.block * (1 - self.block_overlap)
        stride = round(exact)
        if not 0 < stride <= self.block or self.block % stride or abs(stride - exact) > 0.01:
            raise JaxsepError(
                f"inference.block_overlap={self.block_overlap}: expected 0, 1/2, 2/3, ... so that block={self.block} "
                "is a multiple of what two blocks do not share"
            )
        return stride


def _pad(x: Array, before: int, after: int, axis: int = 1) -> Array:
    """Zeros in front and behind along one axis."""
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def _fields(cls: type, **values: Any) -> dict[str, Any]:
    """Those of the values that a module has fields for."""
    names = {field.name for field in dataclasses.fields(cls)}
    return {name: value for name, value in values.items() if name in names}


DOMAINS = {"spectrum": "complex spectra", "coefficients": "real coefficients", "wave": "waves"}


def _check_fit(front: Any, config: configs.Config) -> None:
    """Refuses a front end that fits neither itself nor the net nor the examples; says what would."""
    from jaxsep.frontends import FRONTS
    from jaxsep.models import MODELS

    front.check()
    # A net that takes anything but spectra says so.
    taken = getattr(configs.choose(MODELS, config.model.name, "model.name"), "takes", ("spectrum",))
    if front.domain not in taken:
        wanted = " or ".join(DOMAINS[domain] for domain in taken)
        fitting = ", ".join(name for name, other in FRONTS.items() if other.domain in taken)
        raise JaxsepError(
            f"front.name={config.front.name!r} gives {DOMAINS[front.domain]}, but model.name={config.model.name!r} "
            f"takes {wanted}; use one of {fitting}"
        )
    if config.bands.splits and front.domain != "spectrum":
        raise JaxsepError(f"bands.splits: front.name={config.front.name!r} gives {DOMAINS[front.domain]}, without bins")
    if config.data.segment < front.span:
        raise JaxsepError(
            f"data.segment={config.data.segment} leaves no whole frame of {front.span} samples; use at least as many, "
            "or a shorter front.frame or front.kernel"
        )


def build(config: configs.Config) -> Separator:
    """The separator that a config describes.

    Raises:
        JaxsepError: a name or a field that does not exist, or a precision that is none.
    """
    from jaxsep import frontends
    from jaxsep.heads import HEADS, POSTS
    from jaxsep.models import MODELS
    from jaxsep.models.band_split import BandSplit, names

    sources: Sequence[str] = tuple(configs.parse_sources(config.sources))
    policy = parse_policy(config.precision)

    def construct(changes: configs.Config, count: int) -> nn.Module:
        """A net of `model` for `count` sources."""
        spec = {**config.model, **changes}
        model = configs.choose(MODELS, spec["name"], "model.name")
        return configs.construct(MODELS, spec, "model", dtype=policy.compute, **_fields(model, sources=count))

    def net(changes: configs.Config, count: int) -> nn.Module:
        """The net for `count` sources, made of one for each band where there are bands."""
        bands = config.bands
        if bands.splits:
            own = {name: {**changes, **bands.by_band.get(name, {})} for name in names(bands.splits, bands.full)}
            nets = {name: construct(fields, count) for name, fields in own.items()}
            made = BandSplit(nets, tuple(bands.splits), bands.merge, bands.multiple, policy.compute)
        else:
            made = construct(changes, count)
        return Blend([made] * config.blend, tuple(map(tuple, config.blend_weights))) if config.blend > 1 else made

    front = frontends.build(config)
    _check_fit(front, config)
    if config.per_source:
        nets = PerSource({source: net(config.model_by_source.get(source, {}), 1) for source in sources})
    else:
        nets = net({}, len(sources))
    inference = config.inference
    if config.context and config.front.name != "identity":
        raise JaxsepError(f"context=True needs front.name='identity', not {config.front.name!r}")
    if inference.swap_channels and front.domain == "coefficients":
        raise JaxsepError(f"inference.swap_channels: front.name={config.front.name!r} has no channels to exchange")
    return Separator(
        front=front,
        net=nets,
        head=configs.construct(HEADS, config.head, "head"),
        post=configs.construct(POSTS, inference.post, "inference.post") if inference.post.name else None,
        block=config.block,
        block_overlap=inference.block_overlap,
        swap_channels=inference.swap_channels,
        context=config.context,
        policy=policy,
    )
