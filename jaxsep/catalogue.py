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
            model = separator.build(config)
            mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)
            variables = jax.eval_shape(lambda x, model=model: model.init(jax.random.key(0), x, None, False), mix)
            nets = variables["params"]["net"] if config.per_source else {}
            by_source = reference if isinstance(reference, Mapping) else None
            rows.append(
                {
                    "name": name,
                    "variant": variant,
                    "paper": config.paper.title,
                    "year": config.paper.year,
                    "params": _count(variables["params"]),
                    "params_reference": sum(by_source.values()) if by_source else reference,
                    "params_by_source": {source: _count(net) for source, net in nets.items()} or None,
                    "params_reference_by_source": by_source,
                    "sources": list(configs.parse_sources(config.sources)),
                    "sample_rate": config.sample_rate,
                    "config": f"configs/{name}.py:{variant}",
                }
            )
    return rows


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
