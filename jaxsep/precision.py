"""Precision policies: in which dtype a net keeps its parameters, computes, and hands on what it yields.

A policy is one line of the config, `precision`: a name or a triple, and then the layers that differ from it.

| `config.precision` | |
|---|---|
| `float32`, `bfloat16`, `float16` | the net's layers compute in it |
| `p=f32,c=bf16,o=f32` | `bfloat16`, written out: parameters, compute, output |
| `float16, net/conv1=f32` | this layer computes in float32, and so do those within it |
| `float16, net/*/deconv*=f32` | so do all layers whose path matches, as file names in a shell; `*` takes in `/`, too |

Paths are those of the parameters. Of several patterns that match a layer the last one decides. Parameters are float32
under every policy, in checkpoints and optimiser as well, and so are front ends, heads, losses and the statistics of
norms. Where they would be float16, whose largest value is 65,504, recurrent layers that no pattern matches are float32;
and training scales its loss (`jaxsep.loss_scale`).
"""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxsep.config import Config, choose
from jaxsep.errors import JaxsepError
from jaxsep.layers.complex import ComplexLSTM
from jaxsep.layers.recurrent import BLSTM, LSTM

NAMES = {name: jnp.dtype(name) for name in ("float32", "bfloat16", "float16")}
FLOAT32, BFLOAT16, FLOAT16 = NAMES.values()
DTYPES = {**NAMES, "f32": FLOAT32, "bf16": BFLOAT16, "f16": FLOAT16}
FIELDS = {"p": "params", "c": "compute", "o": "output"}
RECURRENT = (BLSTM, LSTM, ComplexLSTM)


@dataclasses.dataclass(frozen=True)
class Policy:
    """What a net computes in.

    Attributes:
        params: dtype of the parameters, float32.
        compute: dtype of the layers, the field `dtype` of nets.
        output: dtype of what the net hands to the head.
        layers: patterns of paths, and the dtypes of the layers that match.
    """

    params: jnp.dtype = FLOAT32
    compute: jnp.dtype = FLOAT32
    output: jnp.dtype = FLOAT32
    layers: tuple[tuple[str, jnp.dtype], ...] = ()

    @property
    def float16(self) -> bool:
        """Whether anything is float16, so that training scales its loss."""
        return FLOAT16 in (self.compute, self.output, *(dtype for _, dtype in self.layers))

    def run(self, net: nn.Module, *args: Any) -> Array:
        """What a net whose `dtype` is `compute` yields, in `output`.

        Raises:
            JaxsepError: a pattern matches no layer.
        """
        if self.layers or self.float16:
            seen: list[str] = []
            with nn.intercept_methods(self._interceptor(seen)):
                output = net(*args)
            check_patterns([pattern for pattern, _ in self.layers], seen, "precision")
        else:
            output = net(*args)
        return output.astype(self.output) if jnp.issubdtype(output.dtype, jnp.floating) else output

    def _interceptor(self, seen: list[str]) -> Callable:
        """Lets a layer see the dtype that it is to have; layers within it are made with that dtype and seen in turn."""

        def run(method: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            layer: Any = context.module
            if not is_layer(context):
                return method(*args, **kwargs)
            seen.append("/".join(layer.path))
            given = layer.dtype
            object.__setattr__(layer, "dtype", self._dtype(layer, seen[-1]))  # modules are frozen
            try:
                return method(*args, **kwargs)
            finally:
                object.__setattr__(layer, "dtype", given)

        return run

    def _dtype(self, layer: Any, path: str) -> Any:
        for pattern, dtype in reversed(self.layers):
            if fnmatchcase(path, pattern):
                return dtype
        return FLOAT32 if isinstance(layer, RECURRENT) and layer.dtype == FLOAT16 else layer.dtype


def check_patterns(patterns: Sequence[str], paths: Sequence[str], what: str) -> None:
    """That each pattern matches the path of a layer.

    Raises:
        JaxsepError: one does not; the paths near it are named.
    """
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.5) or paths[:3]
            raise JaxsepError(f"{what}: {pattern!r} matches no layer of this net; near it are {', '.join(near)}")


def is_layer(context: nn.module.InterceptorContext) -> bool:
    """Whether an intercepted call is that of a layer with a dtype of its own."""
    return context.method_name == "__call__" and hasattr(context.module, "dtype")


def parse_policy(text: str) -> Policy:
    """The policy of a config's `precision`.

    Raises:
        JaxsepError: not of that form; a dtype that there is not; parameters that are not float32.
    """
    given: dict[str, jnp.dtype] = {}
    layers: list[tuple[str, jnp.dtype]] = []
    for number, part in enumerate(text.split(",")):
        key, equals, name = (word.strip() for word in part.rpartition("="))
        if not equals and number == 0:
            given["c"] = choose(NAMES, name, "precision")
        elif not key or not name:
            raise JaxsepError(
                f"precision={text!r}: {part.strip()!r} is no part of a policy, which is float32, bfloat16, float16 or "
                "p=f32,c=bf16,o=f32, and then layers as in net/conv1=f32"
            )
        elif key not in FIELDS:
            layers.append((key, choose(DTYPES, name, f"precision: the dtype of {key!r}")))
        elif key in given:
            raise JaxsepError(f"precision={text!r}: {FIELDS[key]} are given twice; leave one out")
        else:
            given[key] = choose(DTYPES, name, f"precision: the dtype of {key!r} ({FIELDS[key]})")
    policy = Policy(**{FIELDS[key]: dtype for key, dtype in given.items()}, layers=tuple(layers))
    if policy.params != FLOAT32:
        raise JaxsepError(f"precision={text!r}: parameters are float32 under every policy; leave p out, or set p=f32")
    return policy


def layers(separator: Any, config: Config) -> list[str]:
    """Paths of the layers of a separator's net, in the order in which they yield.

    Args:
        separator: of the config; it is traced, not run.
        config: with its segments.

    Raises:
        JaxsepError: a pattern of its policy matches no layer.
    """
    found: dict[str, None] = {}

    def note(method: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        output = method(*args, **kwargs)
        if is_layer(context):
            found["/".join(context.module.path)] = None
        return output

    mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)
    with nn.intercept_methods(note):
        jax.eval_shape(lambda mix: separator.init(jax.random.key(0), mix, None, False), mix)
    return list(found)


def parse_patterns(text: str) -> tuple[str, ...]:
    """The patterns of a config's `remat`: `"net/*/encoder*, net/*/middle"`."""
    return tuple(pattern for part in text.split(",") if (pattern := part.strip()))


def check_layers(separator: Any, config: Config) -> None:
    """That all patterns of a policy and of `config.remat` match, before anything slow begins.

    Raises:
        JaxsepError: one matches no layer.
    """
    patterns = parse_patterns(config.remat)
    if separator.policy.layers or patterns:
        check_patterns(patterns, layers(separator, config), "remat")
