"""From the named tensors of a checkpoint to Flax variables, with every difference told by name.

A *table* maps each path of the variables, `"params/conv1/kernel"`, to a *rule*: the tensor's name in the file (or
several names) and the function that makes our array of it (of them). The functions below make the rules of whole
layers; tables are dicts and are joined with `|`:

    table = linear("embed", "fc1", bias=False) | batch_norm("norm1", "bn1") | blstm("lstm", "lstm", layers=3)
    variables = place(shapes, table, tensors, file, ignore=("*.num_batches_tracked",))
"""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep import config as configs
from jaxsep import separator
from jaxsep.errors import JaxsepError
from jaxsep.weights import KINDS

Rule = tuple[str | tuple[str, ...], Callable[..., np.ndarray]]
Table = Mapping[str, Rule]
LISTED = 10  # names of one sort that an error lists


def shapes(config: configs.Config) -> dict[str, Any]:
    """Shapes of the separator's variables: {"params": {"net": ...}, "batch_stats": ...}; nothing is computed."""
    model = separator.build(config)
    mix = jax.ShapeDtypeStruct((1, config.data.segment, config.channels), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, None, False), mix)


def net_shapes(config: configs.Config, source: str = "") -> dict[str, Any]:
    """Shapes of the variables of one net: that of `source`, or of the only one."""
    trees = {collection: tree["net"] for collection, tree in shapes(config).items()}
    return {collection: tree[source] for collection, tree in trees.items()} if source else trees


def join(nets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Variables of one net per source as those of their separator: {source: variables} -> {"params": {"net": ...}}."""
    collections = next(iter(nets.values()))
    return {key: {"net": {source: variables[key] for source, variables in nets.items()}} for key in collections}


def place(
    shapes: Mapping[str, Any],
    table: Table,
    tensors: Mapping[str, np.ndarray],
    file: str | Path,
    ignore: Sequence[str] = (),
) -> dict[str, Any]:
    """The variables that a checkpoint's tensors are, as float32.

    Args:
        shapes: tree of shapes to be filled, collections at its root.
        table: a rule for every path of `shapes`, and no others.
        tensors: of the file.
        file: for messages.
        ignore: patterns of tensor names that have no place here (`*.num_batches_tracked`, optimiser slots).

    Raises:
        JaxsepError: tensors that are missing, not expected, mis-shaped or not finite: all of them in one line.
    """
    wanted = _flat(shapes)
    if differing := sorted(set(wanted) ^ set(table)):
        raise AssertionError(f"the table and the net differ in {differing[:LISTED]}")
    used = {name for names, _ in table.values() for name in _names(names)}
    missing = sorted(used - set(tensors))
    extra = sorted(name for name in set(tensors) - used if not matches(name, ignore))
    placed: dict[str, np.ndarray] = {}
    misshaped, spoilt = [], []
    for path, (names, convert) in table.items():
        names = _names(names)
        if any(name not in tensors for name in names):
            continue
        with np.errstate(over="ignore"):  # becomes infinity, which is told below
            arrays = [np.asarray(tensors[name], np.float32) for name in names]
        array = _converted(convert, arrays)
        if array is None or array.shape != wanted[path].shape:
            found = " + ".join(f"{name} {a.shape}" for name, a in zip(names, arrays, strict=True))
            misshaped.append(f"{found} for {path} {wanted[path].shape}")
        elif not np.isfinite(array).all():
            spoilt += names
        placed[path] = array if array is not None else np.empty(0)
    problems = [
        _list("missing", missing),
        _list("not expected", extra),
        _list("of another shape", misshaped),
        _list("with NaN or infinity", spoilt),
    ]
    if any(problems):
        raise JaxsepError(f"{file}: does not fit the net; tensors " + "; ".join(filter(None, problems)))
    return _tree(placed)


def check_kind(kind: str, tensors: Collection[str], file: str | Path) -> None:
    """Refuses the tensors of another system.

    Args:
        kind: the kind that was asked for.
        tensors: names of the tensors in the file.
        file: for messages.

    Raises:
        JaxsepError: they are not of this kind; says of which, or shows some of the names.
    """
    if _marked(kind, tensors):
        return
    others = [KINDS[other].system for other in KINDS if other != kind and _marked(other, tensors)]
    found = f"looks like {' or '.join(others)}" if others else f"has {_shortened(sorted(tensors)) or 'no tensors'}"
    raise JaxsepError(f"{file}: expected weights of {KINDS[kind].system} ({KINDS[kind].files}); this file {found}")


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a tensor's name fits one of the patterns (`*`, `?`)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def same(array: np.ndarray) -> np.ndarray:
    """As it is: biases, norms, and the kernels of Keras and TensorFlow."""
    return array


def torch_conv(weight: np.ndarray) -> np.ndarray:
    """PyTorch and NNabla [out in kh kw] -> [kh kw in out]; transposed [in out kh kw] -> [kh kw out in], see layers."""
    return weight.transpose(2, 3, 1, 0)


def torch_linear(weight: np.ndarray) -> np.ndarray:
    """PyTorch [out in] -> [in out]."""
    return weight.transpose(1, 0)


def conv(path: str, name: str, bias: bool = True) -> dict[str, Rule]:
    """PyTorch's Conv2d or ConvTranspose2d."""
    return _layer(path, name, torch_conv, bias)


def conv1d(path: str, name: str, bias: bool = True) -> dict[str, Rule]:
    """PyTorch's Conv1d, [out in k] -> [k in out]."""
    return _layer(path, name, lambda weight: weight.transpose(2, 1, 0), bias)


def conv_transpose1d(path: str, name: str, bias: bool = True) -> dict[str, Rule]:
    """PyTorch's ConvTranspose1d, [in out k] -> [k in out]."""
    return _layer(path, name, lambda weight: weight.transpose(2, 0, 1), bias)


def linear(path: str, name: str, bias: bool = True) -> dict[str, Rule]:
    """PyTorch's Linear."""
    return _layer(path, name, torch_linear, bias)


def batch_norm(path: str, name: str) -> dict[str, Rule]:
    """PyTorch's BatchNorm with affine map and running statistics."""
    return {
        f"params/{path}/scale": (f"{name}.weight", same),
        f"params/{path}/bias": (f"{name}.bias", same),
        f"batch_stats/{path}/mean": (f"{name}.running_mean", same),
        f"batch_stats/{path}/var": (f"{name}.running_var", same),
    }


def blstm(path: str, name: str, layers: int) -> dict[str, Rule]:
    """PyTorch's bidirectional LSTM as a `layers.recurrent.BLSTM`: gates i, f, g, o; the two biases added."""
    table: dict[str, Rule] = {}
    for layer in range(layers):
        for direction, suffix in (("forward", ""), ("backward", "_reverse")):
            ours, theirs = f"params/{path}/layer{layer}/{direction}", f"l{layer}{suffix}"
            table |= {
                f"{ours}/input": (f"{name}.weight_ih_{theirs}", torch_linear),
                f"{ours}/recurrent": (f"{name}.weight_hh_{theirs}", torch_linear),
                f"{ours}/bias": ((f"{name}.bias_ih_{theirs}", f"{name}.bias_hh_{theirs}"), np.add),
            }
    return table


def keras_layer(path: str, name: str, bias: bool = True) -> dict[str, Rule]:
    """A Keras or TensorFlow layer with a kernel: Conv1D, Conv2D, Conv2DTranspose, Dense; the layout is ours."""
    biases: dict[str, Rule] = {f"params/{path}/bias": (f"{name}/bias", same)} if bias else {}
    return {f"params/{path}/kernel": (f"{name}/kernel", same), **biases}


def keras_batch_norm(path: str, name: str) -> dict[str, Rule]:
    """A Keras or TensorFlow batch norm with affine map."""
    return {
        f"params/{path}/scale": (f"{name}/gamma", same),
        f"params/{path}/bias": (f"{name}/beta", same),
        f"batch_stats/{path}/mean": (f"{name}/moving_mean", same),
        f"batch_stats/{path}/var": (f"{name}/moving_variance", same),
    }


def _layer(path: str, name: str, kernel: Callable[..., np.ndarray], bias: bool) -> dict[str, Rule]:
    biases: dict[str, Rule] = {f"params/{path}/bias": (f"{name}.bias", same)} if bias else {}
    return {f"params/{path}/kernel": (f"{name}.weight", kernel), **biases}


def _converted(convert: Callable[..., np.ndarray], arrays: Sequence[np.ndarray]) -> np.ndarray | None:
    try:
        return convert(*arrays)
    except ValueError:  # of other axes than the function moves, or two that cannot be added
        return None


def _marked(kind: str, tensors: Collection[str]) -> bool:
    return all(any(fnmatch.fnmatchcase(name, mark) for name in tensors) for mark in KINDS[kind].marks)


def _names(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _list(what: str, names: Sequence[str]) -> str:
    return f"{what}: {_shortened(names)}" if names else ""


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _tree(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in flat.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree
