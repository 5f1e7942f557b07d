"""What a conditioned model is asked for: stems by name, each a weighted sum of the model's sources."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from jaxsep.config import Config, choose, parse_sources
from jaxsep.errors import JaxsepError

Conditions = Mapping[str, Mapping[str, float]]  # {"duo": {"vocals": 1.0, "bass": 0.5}}


def parse(texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Conditions as the command line has them.

    `["duo=vocals+bass", "soft=0.5*vocals"]` gives `{"duo": {"vocals": 1.0, "bass": 1.0}, "soft": {"vocals": 0.5}}`.

    Raises:
        JaxsepError: a text of another form, or a name that comes twice.
    """
    conditions: dict[str, dict[str, float]] = {}
    for text in texts:
        name, equals, terms = (part.strip() for part in text.partition("="))
        if not equals or not name or set(name) & set("/\\"):
            raise JaxsepError(f"--condition {text!r}: expected NAME=SOURCE+..., as in duo=vocals+0.5*bass")
        if name in conditions:
            raise JaxsepError(f"--condition {text!r}: there is a condition {name!r} already; choose another name")
        weights = conditions[name] = {}
        for term in terms.split("+"):
            factor, star, source = (part.strip() for part in term.rpartition("*"))
            if not source or source in weights:
                raise JaxsepError(f"--condition {text!r}: expected each source once, as in duo=vocals+0.5*bass")
            weights[source] = _number(factor, text) if star else 1.0
    return conditions


def weights(config: Config, conditions: Conditions) -> Float32[np.ndarray, "k s"]:
    """The targets that ask a model for these stems, in their order.

    Args:
        config: of the model.
        conditions: for each stem the weights of the sources that it is the sum of; the others have weight 0.

    Raises:
        JaxsepError: the model takes no conditions, or none of this sort; not a source of it; or a weight beyond 0 to 1.
    """
    from jaxsep.models import MODELS

    net = choose(MODELS, config.model.name, "model.name")
    if config.per_source or not hasattr(net, "one_hot"):
        able = ", ".join(name for name, other in MODELS.items() if hasattr(other, "one_hot"))
        raise JaxsepError(f"{config.name}: takes no conditions, it returns its own sources; {able} take some")
    if config.inference.post.name:
        raise JaxsepError(f"inference.post={config.inference.post.name!r}: needs each source, not sums; turn it off")
    sources = tuple(parse_sources(config.sources))
    table = np.zeros((len(conditions), len(sources)), np.float32)
    for row, (name, asked) in zip(table, conditions.items(), strict=True):
        for source, weight in asked.items():
            if source not in sources:
                known = ", ".join(sources)
                raise JaxsepError(f"condition {name!r}: {source!r} is not a source of the model, which has {known}")
            if not 0 <= weight <= 1:
                raise JaxsepError(f"condition {name!r}: {source!r} has weight {weight}, expected 0 to 1")
            row[sources.index(source)] = weight
        if net.one_hot and sorted(row) != [0] * (len(sources) - 1) + [1]:
            raise JaxsepError(f"condition {name!r}: {config.name} returns one source at a time, with weight 1")
    if not len(table):
        raise JaxsepError("no conditions; name at least one stem")
    return table


def _number(text: str, condition: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise JaxsepError(f"--condition {condition!r}: {text!r} is not a number")
    return value
