"""Precision policies: their grammar, what computes in which dtype, and finding the layer that overflows."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxsep import config as configs
from jaxsep import losses, nonfinite, separator, training
from jaxsep.errors import JaxsepError
from jaxsep.loss_scale import LossScale
from jaxsep.models import MODELS
from jaxsep.precision import BFLOAT16, FLOAT16, FLOAT32, Policy, check_layers, layers, parse_policy

QUICK = {"xla_backend_optimization_level": 0}

# The four systems of the study, as small as they go: of a U-net, of recurrent layers, on a filterbank and on waves.
SMALL = {
    "spleeter": {"data.segment": 64, "block": 8, "front.bins": 32, "model.channels": (2, 4)},
    "open_unmix": {"data.segment": 80, "front.bins": 33, "model.hidden": 8, "model.layers": 1, "model.max_bin": 30},
    "conv_tasnet": {"data.segment": 480, "model.blocks": 1, "model.repeats": 2, "model.hidden": 8},
    "demucs": {"data.segment": 1994, "model.channels": 4, "model.depth": 2, "model.lstm_layers": 1},
}
FRAMES = {"front.frame": 64, "front.hop": 16}


def demo(name, precision="float32", **changes):
    """A system's demo config, of vocals only if its nets differ."""
    config = configs.load_config(f"{name}.py:demo")
    if config.per_source:
        config.sources = "vocals"
    config.precision = precision
    for key, value in changes.items():
        block, _, key = key.rpartition(".")
        with config.unlocked():
            (config[block] if block else config)[key] = value
    return config


def small(name, precision):
    frames = FRAMES if name in ("spleeter", "open_unmix") else {}
    return demo(name, precision, **SMALL[name], **frames, **{"data.batch_size": 2, "optim.accumulate": 1})


# --- The config line


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("float32", Policy()),
        ("bfloat16", Policy(compute=BFLOAT16)),
        ("float16", Policy(compute=FLOAT16)),
        ("p=f32,c=bf16,o=f32", Policy(compute=BFLOAT16)),
        ("p=float32, c=float16, o=bfloat16", Policy(compute=FLOAT16, output=BFLOAT16)),
        ("c=f16", Policy(compute=FLOAT16)),
        ("float16, net/b*=f16, net/a=f32", Policy(compute=FLOAT16, layers=(("net/b*", FLOAT16), ("net/a", FLOAT32)))),
        ("net/a=bf16", Policy(layers=(("net/a", BFLOAT16),))),
    ],
)  # fmt: skip
def test_a_line_of_the_config_is_a_policy(text, policy):
    assert parse_policy(text) == policy
    assert hash(policy) == hash(parse_policy(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bfloat61", "precision='bfloat61' is unknown, expected one of float32, bfloat16, .*; did you mean 'bfloat16'"),
        ("c=bf61", r"precision: the dtype of 'c' \(compute\)='bf61' is unknown, expected one of .*'bf16'"),
        ("float16, net/a=f23", "precision: the dtype of 'net/a'='f23' is unknown, expected one of .*'f32'"),
        ("float16, float32", "'float32' is no part of a policy, which is .* and then layers as in net/conv1=f32"),
        ("float16, net/a=", "'net/a=' is no part of a policy"),
        ("float16,", "'' is no part of a policy"),
        ("float16, c=f32", "compute are given twice; leave one out"),
        ("p=bf16,c=bf16", "parameters are float32 under every policy; leave p out"),
    ],
)  # fmt: skip
def test_what_is_no_policy_is_named_in_one_line(text, message):
    with pytest.raises(JaxsepError, match=message) as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "scaled"),
    [("float32", 0), ("bfloat16", 0), ("float16", 1), ("net/a=f16", 1), ("o=f16", 1), ("float16, net/a=f32", 1)],
)
def test_float16_anywhere_wants_a_loss_scale(text, scaled):
    assert parse_policy(text).float16 == bool(scaled)


# --- What computes in which dtype


def traced(config):
    """dtypes of all that modules within the net yield, by path; nothing is run."""
    found = {}

    def note(method, args, kwargs, context):
        output = method(*args, **kwargs)
        if context.method_name == "__call__" and hasattr(context.module, "dtype"):
            found["/".join(context.module.path)] = {str(x.dtype) for x in jax.tree.leaves(output)}
        return output

    model = separator.build(config)
    mix = jnp.zeros((1, config.data.segment, config.channels))

    def run():
        out, variables = model.init_with_output(jax.random.key(0), mix, None, True)
        return out.stems, out.latents, variables

    with nn.intercept_methods(note):
        stems, latents, variables = jax.eval_shape(run)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {FLOAT32}
    assert stems.dtype == FLOAT32 and latents.dtype in (FLOAT32, jnp.complex64)
    return found


# What is float32 under any policy, by its docstring: statistics, small nets of conditions, norms of a transformer.
EXACT = {"cunet": "net/control/", "lasaft": "net/condition/|/query$", "htdemucs": "norm"}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_layers_compute_in_float16_and_recurrent_ones_in_float32(name):
    found = traced(demo(name, "float16"))
    whole = {path for path in found if path in ("net", "net/vocals")}  # nets hand on what suits their heads
    recurrent = {path for path in found if {"lstm", "blstm"} & set(path.split("/"))}
    exact = {path for path in found if re.search(EXACT.get(name, "^$"), path)}
    assert len(found.keys() - whole - recurrent - exact) > 0
    for path in found.keys() - whole:
        assert found[path] == {"float32" if path in recurrent | exact else "float16"}, path
    assert bool(recurrent) == (name in ("blstm", "dccrn", "demucs", "hdemucs", "mmdenselstm", "open_unmix", "phasen"))


def test_recurrent_layers_compute_in_bfloat16():
    assert {kind for kinds in traced(small("demucs", "bfloat16")).values() for kind in kinds} == {"bfloat16", "float32"}
    assert traced(small("demucs", "bfloat16"))["net/lstm"] == {"bfloat16"}


def test_patterns_change_layers_and_what_is_within_them():
    base = traced(demo("demucs", "float16"))
    found = traced(demo("demucs", "float16, net/encoder*=f32, net/encoder1=bf16, net/lstm=f16, net/d?nse=f32"))
    changed = {path: kinds for path, kinds in found.items() if kinds != base[path]}
    expected = {path: {"float32"} for path in base if path.startswith("net/encoder")} | {"net/encoder1": {"bfloat16"}}
    expected |= {path: {"float16"} for path in ("net/lstm", "net/lstm/layer0", "net/lstm/layer1")}
    assert changed == expected | {"net/dense": {"float32"}}
    inner = traced(demo("hdemucs", "float16, net/encoder3=f32, net/encoder3/dconv/blstm0/lstm=bf16"))
    for path, kinds in inner.items():
        if path.startswith("net/encoder3"):
            assert kinds == {"bfloat16" if "/lstm" in path else "float32"}, path


def test_any_layer_can_differ_from_its_neighbours():
    """Also where a net does by hand what other nets have a layer for."""
    base = traced(demo("lasaft", "float16"))
    chosen = {path for path in base if path.rsplit("/", 1)[-1] in ("first", "down0", "up1")}
    found = traced(demo("lasaft", "float16, " + ", ".join(f"{path}=f32" for path in sorted(chosen))))
    around = {"net/first_norm", "net/down1", "net/up0", "net/last"}
    assert {path: found[path] for path in chosen | around} == {
        path: {"float32" if path in chosen else "float16"} for path in chosen | around
    }


def test_the_output_is_handed_on_in_its_dtype():
    config = demo("spleeter", "p=f32,c=f32,o=bf16")
    seen = []

    def head(y, z):
        seen.append(y.dtype)
        return y.astype(jnp.float32) * z[:, None]

    model = separator.build(config).clone(head=head)
    mix = jnp.zeros((1, config.data.segment, config.channels))
    jax.eval_shape(lambda mix: model.init(jax.random.key(0), mix, None, False), mix)
    assert seen == [BFLOAT16]


def test_patterns_that_match_nothing_are_refused_with_what_is_near():
    config = demo("demucs", "float16, net/encodr1=f32")
    with pytest.raises(JaxsepError, match="'net/encodr1' matches no layer of this net; near it are net/encoder1, "):
        check_layers(separator.build(config), config)
    config.precision = "float16, lstm=f32"
    with pytest.raises(JaxsepError, match="'lstm' matches no layer of this net; near it are net/lstm"):
        check_layers(separator.build(config), config)
    config.precision = "float16, net/encoder1=f32"
    check_layers(separator.build(config), config)


def test_layers_are_listed_in_the_order_in_which_they_yield():
    config = small("demucs", "bfloat16")
    names = ("encoder0", "encoder0_rewrite", "encoder1", "encoder1_rewrite", "lstm/layer0", "lstm", "dense")
    names += ("decoder1_rewrite", "decoder1", "decoder0_rewrite", "decoder0")
    assert layers(separator.build(config), config) == [*(f"net/{name}" for name in names), "net"]


# --- The four systems in half precision


@functools.cache
def prepared(name):
    """A small system in float16: (config, state, batch)."""
    config = small(name, "float16")
    model = separator.build(config)
    mix = jnp.zeros((1, config.data.segment, config.channels))
    init = jax.jit(lambda key: model.init(key, mix, None, False), compiler_options=QUICK)
    variables = init(jax.random.key(0))
    shape = (2, len(configs.parse_sources(config.sources)), config.data.segment, config.channels)
    sources = 0.1 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    state = training.TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=(),
        ema=(),
        key=jax.random.key(1),
        ok=jnp.bool(True),
        loss_scale=LossScale.fresh(),
    )
    return config, state, {"mix": jnp.asarray(sources.sum(axis=1)), "sources": jnp.asarray(sources)}


@functools.cache
def search(name):
    return nonfinite.make_search(prepared(name)[0], training.make_mesh(jax.devices()[:1]))


def scaled(state, factors):
    """The state with some parameters multiplied, by their paths."""
    left = set(factors)

    def move(path, leaf):
        name = "/".join(key.key for key in path)
        left.discard(name)
        return leaf * factors.get(name, 1.0)

    moved = state.replace(params=jax.tree_util.tree_map_with_path(move, state.params))
    assert not left
    return moved


@pytest.mark.parametrize("name", sorted(SMALL))
def test_half_precision_is_near_float32(name):
    config, state, batch = prepared(name)

    def loss_in(precision):
        changed = config.copy_and_resolve_references()
        changed.precision = precision
        forward = training.make_losses(separator.build(changed), losses.from_config(changed))
        return jax.jit(lambda v: forward(v, batch, False)[0].mean(), compiler_options=QUICK)(state.variables)

    exact, bfloat16, float16 = (float(loss_in(name)) for name in ("float32", "bfloat16", "float16"))
    assert 0 < abs(float16 - exact) < 2e-3 * exact
    assert 0 < abs(bfloat16 - exact) < 2e-2 * exact


FORWARD = {
    "spleeter": "net/vocals/deconv2",
    "open_unmix": "net/vocals/fc1",
    "conv_tasnet": "net/block1_expand",
    "demucs": "net/decoder1",
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_an_overflow_is_laid_to_its_layer(name):
    _, state, batch = prepared(name)
    assert search(name)(state, batch) is None
    layer = FORWARD[name]
    found = search(name)(scaled(state, {f"{layer}/kernel": 1e7}), batch)
    assert (found.direction, found.place, found.dtype) == ("forward", layer, "float16")
    assert 65504 < found.largest < 1e12
    assert found.precision == f"float16, {layer}=f32"
    assert f"out of {layer} (forward, float16), up to {found.largest:.6g} in float32; --config.precision=" in str(found)
    assert "\n" not in str(found)


# What is made small, and the layer whose weights undo it: its output stays as it is, the gradient of its input grows.
BACKWARD = {
    "spleeter": (("net/vocals/norm1/scale", "net/vocals/norm1/bias"), "net/vocals/conv2"),
    "open_unmix": (("net/vocals/bn2/scale", "net/vocals/bn2/bias"), "net/vocals/fc3"),
    "conv_tasnet": (("net/block0_norm2/scale", "net/block0_norm2/bias"), "net/block0_residual"),
    "demucs": (("net/decoder0_rewrite/kernel", "net/decoder0_rewrite/bias"), "net/decoder0"),
}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_gradient_that_overflows_is_laid_to_the_layer_that_it_comes_out_of(name):
    _, state, batch = prepared(name)
    shrunk, layer = BACKWARD[name]
    found = search(name)(scaled(state, dict.fromkeys(shrunk, 1e-6) | {f"{layer}/kernel": 1e5}), batch)
    assert (found.direction, found.place, found.dtype) == ("backward", layer, "float16")
    assert found.largest > 65504 and found.precision == f"float16, {layer}=f32"
    assert "a gradient out of" in str(found)


def test_what_lies_outside_of_layers_is_named():
    _, state, batch = prepared("spleeter")
    loud = {**batch, "mix": batch["mix"].at[1, 20:40].set(3e38)}
    found = search("spleeter")(state, loud)
    assert (found.direction, found.place, found.largest, found.precision) == ("forward", "the front end", None, "")
    assert str(found).endswith("out of the front end (forward, complex64), not finite in float32 either")
    loud = {**batch, "mix": batch["mix"].at[1, 30].set(3e6)}  # float32 holds its spectrum
    found = search("spleeter")(state, loud)
    assert found.place == "net/vocals between its layers" and found.precision == "float16, net/vocals=f32"
    assert 2e6 < found.largest < 1e7
    loud = {**batch, "sources": batch["sources"].at[1, 0, 30].set(3e38)}
    found = search("spleeter")(state, loud)
    assert (found.direction, found.place, found.precision) == ("forward", "the head or the loss", "")
    state = state.replace(loss_scale=state.loss_scale.replace(scale=jnp.float32(2.0**40)))
    found = search("spleeter")(state, batch)
    assert (found.direction, found.place, found.dtype) == ("backward", "the head or the loss", "float16")


def test_the_policy_that_is_named_mends_the_layer():
    """The norm behind the layer brings what float16 does not hold back to where it does."""
    config, state, batch = prepared("open_unmix")
    state = scaled(state, {f"{FORWARD['open_unmix']}/kernel": 1e7})
    mended = config.copy_and_resolve_references()
    mended.precision = search("open_unmix")(state, batch).precision
    assert nonfinite.make_search(mended, training.make_mesh(jax.devices()[:1]))(state, batch) is None


def test_each_device_is_searched_with_the_batch_of_its_own():
    config, state, batch = prepared("spleeter")
    config = config.copy_and_resolve_references()
    config.parallel = "device"
    mesh = training.make_mesh(jax.devices()[:2])
    look = nonfinite.make_search(config, mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    put = lambda batch: training.put(jax.device_get(batch), mesh)
    assert look(jax.device_put(state, whole), put(batch)) is None
    found = look(jax.device_put(state, whole), put({**batch, "mix": batch["mix"].at[1, 30].set(3e6)}))
    assert found.place == "net/vocals between its layers" and 2e6 < found.largest < 1e7
