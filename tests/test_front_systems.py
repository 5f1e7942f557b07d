"""Every system on spectra trains on every STFT by one line of its config, and starts alike on the trained ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import config as configs
from jaxsep import losses, optim, separator, training
from jaxsep.errors import JaxsepError
from jaxsep.frontends import FRONTS
from jaxsep.models import MODELS

QUICK = {"xla_backend_optimization_level": 0}

# The smallest nets of each kind; every block type stays.
TINY = {
    "blstm": {"layers": 1, "units": 3},
    "conv_tasnet": {"bottleneck": 4, "hidden": 6, "blocks": 2, "repeats": 1},
    "cunet": {"channels": (2, 4)},
    "d3net": {
        "top": 24,
        "splits": (8,),
        "first": (2, 2, 2),
        "growth": ((2, 2, 2),) * 3,
        "layers": ((1, 1, 1),) * 3,
        "blocks": (1, 1, 1),
        "final_growth": 2,
        "final_layers": 1,
    },
    "dccrn": {"widths": (4, 4), "units": 4, "layers": 1},
    "lasaft": {"levels": 1, "channels": 2, "layers": 1, "latents": 2, "embedding": 3, "key_dim": 3},
    "mmdenselstm": {
        "splits": (12,),
        "first": (2, 2, 2),
        "growth": ((2, 2, 2),) * 3,
        "layers": ((1, 1, 1),) * 3,
        "units": ((0, 2, 0), (0, 0, 0), (0, 2, 0)),
        "final_growth": 2,
        "final_layers": 1,
    },
    "mmdensenet": {
        "splits": (12,),
        "first": (2, 2, 2),
        "growth": ((2, 2, 2),) * 3,
        "layers": ((1, 1, 1),) * 3,
    },
    "open_unmix": {"hidden": 4, "layers": 1, "max_bin": 20},
    "phasen": {"amplitude": 2, "phase": 2, "reduced": 1, "squeeze": 1, "units": 4},
    "spleeter": {"channels": (2, 4)},
}
LENGTH = 128
BINS = {"cunet": 32, "spleeter": 32}  # halved at each level; without the one at half the sample rate


def tiny(system, front):
    """The config of the narrow net; but for `front` it is the same for all front ends."""
    config = configs.load_config(f"{system}.py:demo")
    with config.unlocked():
        if config.per_source:
            config.sources = "vocals"
        config.model_by_source = {}
        config.model.update(TINY[system])
        if system == "conv_tasnet":
            config.front = configs.defaults().front
        config.front.update(frame=60 if system == "dccrn" else 64, hop=15 if system == "dccrn" else 16)
        config.front.bins = BINS.get(system, 33)
        if "fft" in config.front:
            config.front.fft = 64
        config.block, config.data.segment, config.data.batch_size = 8 if config.block else 0, LENGTH, 2
        config.inference.post = {"name": ""}
        config.inference.update(block_overlap=0.0, swap_channels=False)
        config.front.name = front  # the one line
    configs.check(config)
    return config


def waves(config, examples=2):
    """Sources [b s t c]."""
    sources = len(configs.parse_sources(config.sources))
    return np.random.default_rng(0).uniform(-1, 1, (examples, sources, LENGTH, config.channels)).astype(np.float32)


def asked(config, examples=2):
    """What a conditioned system is asked for."""
    sources = len(configs.parse_sources(config.sources))
    return np.eye(sources, dtype=np.float32)[None, :1].repeat(examples, axis=0) if config.data.conditions else None


class Compiled:
    """A system's net and head, compiled once for all front ends; random parameters."""

    def __init__(self, system):
        self.config = tiny(system, "stft")
        self.targets = None if asked(self.config) is None else jnp.asarray(asked(self.config))
        self.model = separator.build(self.config)
        self.mix = jnp.asarray(waves(self.config).sum(axis=1))
        rng = np.random.default_rng(0)

        def draw(path, leaf):
            values = rng.normal(0.0, 0.5, leaf.shape)
            return jnp.asarray(np.abs(values) + 0.5 if path[-1].key in ("var", "scale") else values, jnp.float32)

        shapes = jax.eval_shape(lambda: self.model.init(jax.random.key(0), self.mix, None, False))
        self.variables = jax.tree_util.tree_map_with_path(draw, shapes)

        @functools.partial(jax.jit, compiler_options=QUICK)
        def run(variables, z):
            """Source latents."""
            return self.model.apply(
                variables, z, method=lambda model, z: model.head(model._run(z, self.targets, False), z)
            )

        self.run = run


@functools.cache
def compiled(system):
    return Compiled(system)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def encoded(front, params, mix):
    """What the net sees."""
    return front.apply({"params": params}, mix, method=lambda front, mix: front.crop(front.encode(mix)))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def decoded(front, params, latents):
    return front.apply({"params": params}, latents, LENGTH, method="decode")


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def started(front, mix):
    """The front end's first parameters."""
    return front.init(jax.random.key(0), mix, method="encode")["params"]


def relative(ours, theirs):
    return float(jnp.linalg.norm(ours - theirs) / jnp.linalg.norm(theirs))


@pytest.mark.parametrize("system", sorted(TINY))
@pytest.mark.parametrize("front", ["learnable_stft", "adaptive_stft"])
def test_trained_front_ends_start_as_the_fixed_one(system, front):
    """The separator's output is that on `stft`, to 1e-5."""
    made, fixed = compiled(system), compiled(system).model.front
    learned = separator.build(tiny(system, front)).front
    assert not learned.fixed and learned.untrained() == fixed
    params = started(learned, made.mix)
    ours, theirs = (
        made.run(made.variables, encoded(front, values, made.mix)) for front, values in ((learned, params), (fixed, {}))
    )
    stems = decoded(fixed, {}, theirs)
    assert float(jnp.abs(stems).max()) > 1e-3 and relative(decoded(learned, params, ours), stems) <= 1e-5


CASES = [(system, front) for system in sorted(TINY) for front in ("stft", "learnable_stft", "adaptive_stft")]
FAST = {("spleeter", "learnable_stft"), ("conv_tasnet", "adaptive_stft")}


@pytest.mark.parametrize(
    "system, front", [pytest.param(*case, marks=[pytest.mark.full] * (case not in FAST)) for case in CASES]
)
def test_every_system_trains_on_every_stft(system, front):
    """The training step itself; changed is `front.name` alone."""
    config = tiny(system, front)
    before, after = (config_.to_dict() for config_ in (tiny(system, "stft"), config))
    before["front"]["name"] = front
    assert before == after
    model, mesh = separator.build(config), training.make_mesh(jax.devices()[:1])
    optimiser = optim.build(config.optim, config.steps)
    state = training.init_state(model, optimiser, config, mesh)
    first = jax.device_get(state.params)
    sources = waves(config)
    batch = {"mix": sources.sum(axis=1), "sources": sources}
    if config.data.conditions:
        batch["targets"] = asked(config)
    batch = training.put(batch, mesh)
    step = training.make_train_step(model, losses.from_config(config), optimiser, config, mesh)
    step = step.lower(state, batch, np.float32(1)).compile(compiler_options=QUICK)
    for _ in range(2):
        state, metrics = step(state, batch, np.float32(1))
        assert metrics.ok
    assert ("front" in first) == (front != "stft")
    changes = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first, jax.device_get(state.params))
    assert all(jax.tree.leaves(changes.get("front", {}))) and sum(map(bool, jax.tree.leaves(changes["net"]))) > 3


def test_all_systems_on_spectra_are_here():
    """Those of the suite whose published front end gives spectra, and one that takes them beside others."""
    fronts = {name: configs.load_config(f"{name}.py:demo").front.name for name in MODELS}
    assert set(TINY) == {name for name, front in fronts.items() if FRONTS[front].domain == "spectrum"} | {"conv_tasnet"}


@pytest.mark.parametrize(
    "system, changes, words",
    [
        ("dccrn", {"name": "learned"}, r"front\.name='learned' gives real coefficients, but model\.name='dccrn' takes"),
        ("spleeter", {"name": "identity"}, r"takes complex spectra; use one of stft, conv_stft, learnable_stft"),
        ("demucs", {"name": "stft"}, r"takes waves; use one of identity"),
        ("spleeter", {"hop": 24}, r"hop=24 does not divide front\.frame=64; use 16 or 32"),
    ],
)
def test_front_ends_that_do_not_fit_are_refused_before_anything_is_read(system, changes, words):
    config = configs.load_config(f"{system}.py:demo") if system == "demucs" else tiny(system, "stft")
    with config.unlocked():
        if "name" in changes:
            config.front = changes
        config.front.update(changes)
    with pytest.raises(JaxsepError, match=words) as error:
        separator.build(config)
    assert "\n" not in str(error.value)


def test_segments_shorter_than_a_frame_are_refused():
    config = tiny("spleeter", "stft")
    config.data.segment = 63
    with pytest.raises(JaxsepError, match=r"data\.segment=63 leaves no whole frame of 64 samples"):
        separator.build(config)
