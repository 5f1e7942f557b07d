"""Weights of the dense nets under the names of their transcription, and the comparison that all three tests make."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import transcription_dense

# Ours -> the transcription's, for what is not called the same; {bands} are filled in by name and number of poolings.
_RULES = [
    (r"^(input)/(.*)$", r"in_\2"),
    (r"^(output)/(.*)$", r"out_\2"),
    (r"^merge/block/", "final/"),
    (r"^merge/(norm|filter|gate)/", r"out/\1/"),
    (r"^merge/match_norm(\d+)/", r"band\1/match/norm/"),
    (r"^merge/match(\d+)/", r"band\1/match/conv/"),
    (r"/entry/", "/init/"),
    (r"_lstm/squeeze/", "/rnn/squeeze/"),
    (r"_lstm/lstm/layer0/", "/rnn/"),
    (r"_lstm/bins/", "/rnn/linear/"),
]


def shapes(net, z):
    """The net's variables as shapes."""
    return jax.eval_shape(lambda z: net.init(jax.random.key(0), z, None, False), z)


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def randomised(net, z, seed=0):
    """Variables with every leaf random, batch statistics too; signals stay of order one through many blocks."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in ("kernel", "input", "recurrent"):
            fan = math.prod(leaf.shape[:-1])
            if len(leaf.shape) == 4:
                fan = 4 * leaf.shape[3] if "up" in path[-2].key else 3 * fan
            return jnp.asarray(rng.standard_normal(leaf.shape) / math.sqrt(fan), jnp.float32)
        centre = 1.0 if name in ("scale", "var") else 0.0
        return jnp.asarray(centre + 0.3 * rng.uniform(-1, 1, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes(net, z))


def renamed(variables, bands=(), poolings=()):
    """The variables as the transcription wants them.

    Args:
        variables: of one of our nets or blocks.
        bands: names of the bands there, from low to high.
        poolings: of each band and, last, of the full one.
    """
    flat = {}
    for tree in variables.values():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            keys = [key.key for key in path]
            flat[_name("/".join(keys), bands, poolings)] = _layout(keys, np.asarray(leaf, np.float64))
    assert len(flat) == len(jax.tree.leaves(variables))
    return transcription_dense.Parameters(flat)


def _name(path, bands, poolings):
    for pattern, new in _RULES:
        path = re.sub(pattern, new, path)
    for number, band in enumerate([*bands, "full"]):
        path = re.sub(rf"^band{number}/", f"{band}/", path)
        if path.startswith(f"{band}/"):
            depth = poolings[number]
            path = re.sub(r"/encoder(\d+)/", lambda m: f"/block{m[1]}/", path)
            path = re.sub(r"/bottleneck/", f"/block{depth}/", path)
            path = re.sub(r"/decoder(\d+)/", lambda m, depth=depth: f"/block{depth + 1 + int(m[1])}/", path)
            path = re.sub(r"/up_norm(\d+)/", lambda m, depth=depth: f"/up{depth + 1 + int(m[1])}/norm/", path)
            path = re.sub(r"/up(\d+)/([kb])", lambda m, depth=depth: f"/up{depth + 1 + int(m[1])}/conv/{m[2]}", path)
            break
    return path


def _layout(keys, leaf):
    if leaf.ndim != 4:
        return leaf
    return leaf.transpose(2, 3, 0, 1) if re.match(r"up\d", keys[-2]) else leaf.transpose(3, 2, 0, 1)


def spectrum(*shape, seed=1):
    """Random complex [b n f c]."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal((*shape, 2)) @ [1, 1j], jnp.complex64)


def relative(ours, theirs):
    """Largest difference over the largest value."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def assert_equal(net, z, reference, bands, poolings, gradient=True):
    """Outputs to 1e-5 of the largest and, in some directions, gradients for the input to 1e-4.

    Args:
        net: ours; its weights are drawn here.
        z: [b n f c].
        reference: (parameters, magnitude [c n f]) -> magnitude [c n f].
        bands, poolings: see `renamed`.
        gradient: whether to compare gradients.
    """
    variables = randomised(net, z)
    parameters = renamed(variables, bands, poolings)
    magnitude = np.abs(np.asarray(z, np.complex128))
    phasor = z / jnp.abs(z)

    def theirs(magnitude):
        return np.stack([reference(parameters, x).transpose(1, 2, 0) for x in magnitude.transpose(0, 3, 1, 2)])

    expected = theirs(magnitude)
    assert (expected > 0).mean() > 0.2, "the last ReLU hides the net"
    weight = np.random.default_rng(2).standard_normal(expected.shape)

    @jax.jit
    def ours(magnitude):
        y = net.apply(variables, magnitude * phasor, None, False)
        return (y * weight).sum(), y

    if not gradient:
        assert relative(ours(jnp.asarray(magnitude, jnp.float32))[1], expected) <= 1e-5
        return
    (_, y), slope = jax.jit(jax.value_and_grad(ours, has_aux=True))(jnp.asarray(magnitude, jnp.float32))
    assert relative(y, expected) <= 1e-5
    for seed in range(3):
        direction = np.random.default_rng(seed).standard_normal(magnitude.shape)
        step = 1e-6
        rise = (weight * (theirs(magnitude + step * direction) - theirs(magnitude - step * direction))).sum()
        along = (np.asarray(slope, np.float64) * direction).sum()
        assert abs(along - rise / (2 * step)) <= 1e-4 * np.linalg.norm(slope)
