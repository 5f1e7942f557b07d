"""What there is: every variant of every system, with its parameters counted from the real module."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.models import MODELS


def describe() -> list[dict[str, Any]]:
    """One row per variant of every system, for `jaxsep models --json`.

    Each row: name, variant, paper, year, params (counted from the real module by shape evaluation, nothing is
    computed), params_reference (the published implementation's count, None where there is none), sources,
    sample_rate and config (what to give `train.py --config`).
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
            rows.append(
                {
                    "name": name,
                    "variant": variant,
                    "paper": config.paper.title,
                    "year": config.paper.year,
                    "params": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
                    "params_reference": reference,
                    "sources": list(configs.parse_sources(config.sources)),
                    "sample_rate": config.sample_rate,
                    "config": f"configs/{name}.py:{variant}",
                }
            )
    return rows
