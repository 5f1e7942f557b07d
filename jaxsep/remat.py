"""Rematerialisation: the backward pass computes activations anew instead of finding them in memory.

T. Chen et al., "Training deep nets with sublinear memory cost", 2016. `config.remat` names the layers whose outputs are
kept, by patterns of their paths as in `precision`; "" keeps everything. What lies between two of them is computed a
second time, from the one in front: about a third more arithmetic for a step that remembers what is kept, and holds one
stretch between at a time. Gradients are the same.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from jaxsep import precision

KEPT = "kept"  # the name by which jax knows such outputs


def rematerialised(objective: Callable[..., Any], text: str) -> Callable[..., Any]:
    """A function whose gradient keeps its arguments and the outputs of the layers that match, nothing else."""
    patterns = precision.parse_patterns(text)
    if not patterns:
        return objective

    def tag(method: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        output, path = method(*args, **kwargs), "/".join(context.module.path)
        if precision.is_layer(context) and any(fnmatchcase(path, pattern) for pattern in patterns):
            return jax.tree.map(lambda x: checkpoint_name(x, KEPT), output)
        return output

    def tagged(*args: Any) -> Any:
        with nn.intercept_methods(tag):
            return objective(*args)

    return jax.checkpoint(tagged, policy=jax.checkpoint_policies.save_only_these_names(KEPT))
