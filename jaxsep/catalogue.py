"""What there is: every variant of every system, with its parameters counted from the real module."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.models import MODELS


def describe() -> list[dict[str, Any]]:
    """One row per variant of every system, for `jaxsep models --json`.

    Each row: name, variant, paper, year, params (counted from the real module by shape evaluation, nothing is
    computed), params_reference (the published implementation's count, None where there is none), params_by_source and
    params_reference_by_source (the same for each net of a system with one per source, else None), sources,
    sample_rate and config (what to give `train.py --config`). Where the reference has an LSTM with the two biases of
    cuDNN, `params` is smaller: ours has one.
    """
    rows = []
    for name in MODELS:
        path = configs.configs_folder() / f"{name}.py"
        module = configs.load_module(path)
        for variant, reference in module.VARIANTS.items():
            config = module.get_config(variant)
            counts = _counts(config)
            by_source = reference if isinstance(reference, Mapping) else None
            rows.append(
                {
                    "name": name,
                    "variant": variant,
                    "paper": config.paper.title,
                    "year": config.paper.year,
                    "params": sum(counts.values()),
                    "params_reference": sum(by_source.values()) if by_source else reference,
                    "params_by_source": counts if config.per_source else None,
                    "params_reference_by_source": by_source,
                    "sources": list(configs.parse_sources(config.sources)),
                    "sample_rate": config.sample_rate,
                    "config": f"configs/{name}.py:{variant}",
                }
            )
    return rows


def _counts(config: configs.Config) -> dict[str, int]:
    """Trainable parameters of each net, by source, or of the only net under ""."""
    model = separator.build(config)
    mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)
    latent = jax.eval_shape(lambda mix: model.front.crop(model.front.encode(mix)), mix)
    fed, _ = model.net.lengths(latent.shape[1])
    nets = model.net.nets if isinstance(model.net, separator.PerSource) else {"": model.net}
    return {source: _count(net, (1, fed, *latent.shape[2:])) for source, net in nets.items()}


@functools.cache
def _count(net: Any, shape: tuple[int, ...]) -> int:
    """Nets that are equal, as those of most systems' sources are, are counted once."""
    latent = jax.ShapeDtypeStruct(shape, jnp.complex64)
    variables = jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), latent)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
