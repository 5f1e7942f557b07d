"""Learning rates of the parts of a separator, and which parts are frozen: `config.optim.parts`, patterns of paths.

| `config.optim.parts` | |
|---|---|
| `net/*/conv*=0` | all parameters in layers whose path matches stay as they are |
| `net=0.1, net/vocals/logits=1` | a tenth of the learning rate, but for one layer: the last that matches decides |
| `front=0` | of a front end that is trained; a rate multiplies that of `optim.front` |

Paths are those of the parameters, patterns are those of file names in a shell, where `*` takes in `/`, too; what
matches a layer holds for all within it. Frozen parameters are bit for bit the same after training, under weight decay,
momentum and averaging of weights; their gradients are not computed, and count neither for clipping nor in the logged
norm. A frozen batch norm also keeps its running statistics and normalises with them in training. Dropout stays on.
"""

import contextlib
import dataclasses
import difflib
import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
from jax import Array, lax
from jaxtyping import PyTree

from jaxsep.errors import JaxsepError
from jaxsep.layers.complex import ComplexBatchNorm


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the learning rate of each parameter is multiplied by.

    Attributes:
        rates: patterns of paths, and the factors of what matches.
    """

    rates: tuple[tuple[str, float], ...] = ()

    def rate(self, path: str) -> float:
        """Of the parameter or layer with this path; 0 = frozen."""
        return next((rate for pattern, rate in reversed(self.rates) if _matches(path, pattern)), 1.0)

    def check(self, params: PyTree) -> None:
        """That every pattern matches something, and something is left to train.

        Raises:
            JaxsepError: it is not so.
        """
        paths = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for pattern, _ in self.rates:
            if not any(_matches(path, pattern) for path in paths):
                layers = list(dict.fromkeys(path.rpartition("/")[0] for path in paths))
                near = difflib.get_close_matches(pattern, layers, n=3, cutoff=0.5) or layers[:3]
                raise JaxsepError(
                    f"optim.parts: {pattern!r} matches no parameter of this system; near it are {', '.join(near)}"
                )
        if not any(self.rate(path) for path in paths):
            raise JaxsepError("optim.parts: all parameters are frozen; leave a rate above 0 for some")

    def map(self, function: Callable[..., Array], params: PyTree, *trees: PyTree) -> PyTree:
        """`function(path, rate, leaf, leaves of the other trees ...)` for each parameter that is not frozen."""

        def each(path: tuple, leaf: Any, *leaves: Any) -> Any:
            name = path_of(path)
            rate = self.rate(name)
            return function(name, rate, leaf, *leaves) if rate else leaf

        return jax.tree_util.tree_map_with_path(each, params, *trees)

    def stopped(self, params: PyTree) -> PyTree:
        """The same parameters, of which the frozen ones have no gradient."""
        if not self.rates:
            return params
        stop = lambda path, leaf: leaf if self.rate(path_of(path)) else lax.stop_gradient(leaf)
        return jax.tree_util.tree_map_with_path(stop, params)

    @contextlib.contextmanager
    def norms(self) -> Iterator[None]:
        """Within it frozen batch norms normalise with their running statistics, and these stay."""

        def run(method: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            layer: Any = context.module
            if context.method_name != "__call__" or not isinstance(layer, nn.BatchNorm | ComplexBatchNorm):
                return method(*args, **kwargs)
            if self.rate("/".join(layer.path)):
                return method(*args, **kwargs)
            if isinstance(layer, ComplexBatchNorm):
                return method(args[0], False)
            given = layer.use_running_average
            object.__setattr__(layer, "use_running_average", None)  # modules are frozen, and it may be given only once
            try:
                return method(*args, **{**kwargs, "use_running_average": True})
            finally:
                object.__setattr__(layer, "use_running_average", given)

        if not self.rates:
            yield
            return
        with nn.intercept_methods(run):
            yield


def parse_parts(text: str) -> Parts:
    """The parts of a config's `optim.parts`.

    Raises:
        JaxsepError: not of that form, or a rate that is none.
    """
    rates = []
    for part in text.split(",") if text.strip() else ():
        pattern, _, number = (word.strip() for word in part.rpartition("="))
        try:
            rate = float(number)
        except ValueError:
            rate = math.nan
        if not pattern or not 0 <= rate < math.inf:
            raise JaxsepError(
                f"optim.parts={text!r}: {part.strip()!r}: expected a pattern and a rate of 0 (frozen) or more, as in "
                "net/*/conv1=0.1"
            )
        rates.append((pattern, rate))
    return Parts(tuple(rates))


def path_of(path: tuple) -> str:
    """Of a leaf, as patterns see it: net/vocals/conv1/kernel."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern matches a path, or one of the layers that it lies in."""
    words = path.split("/")
    return any(fnmatchcase("/".join(words[:end]), pattern) for end in range(1, len(words) + 1))
