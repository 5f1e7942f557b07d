"""What there is: every variant of every system, with its parameters counted from the real module."""

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
    """Trainable parameters of each net, by source, or under "" those of the only net and of the front end."""
    model = separator.build(config)
    mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)
    latent, front = jax.eval_shape(
        lambda mix: model.front.init_with_output(jax.random.key(0), mix, method=_encoded_and_decoded), mix
    )
    fed, _ = model.net.lengths(latent.shape[1])
    nets = model.net.nets if isinstance(model.net, separator.PerSource) else {"": model.net}
    counts = {source: _count(net, (1, fed, *latent.shape[2:]), latent.dtype) for source, net in nets.items()}
    if "" in counts:
        counts[""] += _size(front)
    return counts


def _encoded_and_decoded(front: Any, mix: jax.Array) -> jax.Array:
    """The latent, with the front end's parameters made on both ways."""
    full = front.encode(mix)
    front.decode(full, mix.shape[1])
    return front.crop(full)


def _count(net: Any, shape: tuple[int, ...], dtype: Any) -> int:
    """Nets that are equal, as those of most systems' sources are, are counted once: all fields are in their text."""
    latent, key = jax.ShapeDtypeStruct(shape, dtype), f"{net} {shape} {dtype}"
    if key not in _counted:
        _counted[key] = _size(jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), latent))
    return _counted[key]


_counted: dict[str, int] = {}


def _size(variables: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
