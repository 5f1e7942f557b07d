"""What the tests of the hybrid Demucs nets share: nets with drawn weights, against `golden/make_hdemucs.py`."""

import functools
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxsep.models import MODELS
from jaxsep.weights import hdemucs as weights
from jaxsep.weights import tensors

TORCHAUDIO_ONLY = "tencoder.4.norm1.*"  # a norm that its nets have but do not apply
GOLDEN = Path(__file__).parent / "golden"
SPEC = importlib.util.spec_from_file_location("make_hdemucs", GOLDEN / "make_hdemucs.py")
make = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make)


@functools.cache
def golden(system):
    with np.load(GOLDEN / f"{system}.npz") as file:
        return dict(file)


def waves(length):
    """The input of the golden outputs, [2 t 2]."""
    return jnp.asarray(make.draw("wave", (2, 2, length)).swapaxes(1, 2))


@functools.cache
def loaded(system, case):
    """(net, variables, table) of a case: drawn tensors, by the rules of the weight import."""
    arguments = {**make.ALWAYS[system], **make.CASES[system][case]}
    net = MODELS[system](**weights.fields(system, arguments, Path("drawn")))
    if arguments.get("use_train_segment"):
        net = net.clone(segment=int(arguments["segment"] * 44_100))
    wave = jax.ShapeDtypeStruct((1, 4_096, 2), jnp.float32)
    shapes = jax.eval_shape(lambda wave: net.init(jax.random.key(0), wave, None, False), wave)
    names = json.loads(str(golden(system)[f"{case}/tensors"]))
    drawn = {name: make.draw(name, tuple(shape)) for name, shape in names.items()}
    table = weights.table(system, {name: getattr(net, name) for name in net.__dataclass_fields__})
    return net, tensors.place(shapes, table, drawn, "drawn", (TORCHAUDIO_ONLY,)), table


def apply(net, params, wave):
    """Stems of the net, fed as the separator does: zeros behind up to its length."""
    fed, _ = net.lengths(wave.shape[1])
    padded = jnp.pad(wave, [(0, 0), (0, fed - wave.shape[1]), (0, 0)])
    return net.apply({"params": params}, padded, None, False)[:, :, : wave.shape[1]]


def output_error(system, case, length=make.LENGTH):
    """Largest difference to the golden output, relative to its largest value."""
    net, variables, _ = loaded(system, case)
    output = jax.jit(apply, static_argnums=0)(net, variables["params"], waves(length))
    return relative(make.sampled(channels_first(output)), golden(system)[f"{case}/output"])


def errors(system, case, length=make.LENGTH):
    """The same for output, and for the gradients of a product with random numbers: of input and worst parameter.

    A parameter's gradient is compared by its product with a random vector, in units of its length; that of a key's
    bias is rounding alone, for the softmax does not see it.
    """
    net, variables, table = loaded(system, case)
    weight = make.draw("weight", (2, 4, 2, length))

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradient(params, wave):
        output = channels_first(apply(net, params, wave))
        return (output * weight).sum(), output

    (params, wave), output = jax.jit(gradient)(variables["params"], waves(length))
    theirs = json.loads(str(golden(system)[f"{case}/parameters"]))
    worst = 0.0
    for path, (names, convert) in table.items():
        leaf = functools.reduce(lambda tree, key: tree[key], path.split("/")[1:], params)
        names = (names,) if isinstance(names, str) else names
        for name in names:  # of two biases that are added, either has the gradient of the sum
            shape = tuple(json.loads(str(golden(system)[f"{case}/tensors"]))[name])
            ours = back(np.asarray(leaf), convert, shape, len(names)).reshape(-1)
            product = ours @ make.draw("weight", (1, ours.size))[0]
            worst = max(worst, abs(product - theirs[name]) / max(np.linalg.norm(ours), 1e-2))
    expected = golden(system)
    return (
        relative(make.sampled(output), expected[f"{case}/output"]),
        relative(make.sampled(np.swapaxes(wave, 1, 2)), expected[f"{case}/gradient"]),
        worst,
    )


def back(array, convert, shape, count):
    """The tensor of the file that `convert` makes into this array: a permutation, found by sending numbers through."""
    if count > 1:
        return array
    size = int(np.prod(shape))
    order = convert(np.arange(size).reshape(shape)).reshape(-1)
    made = np.empty(size, array.dtype)
    made[order] = array.reshape(-1)
    return made


def channels_first(stems):
    return jnp.moveaxis(stems, 3, 2)


def relative(ours, theirs):
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max()
