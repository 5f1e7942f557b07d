"""What every system promises, one body for all: on the small nets of the `demo` configs, vocals only if nets differ."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import config as configs
from jaxsep import initialisation, losses, separator
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Identity, Stft
from jaxsep.models import MODELS

FRAMES = 37  # no system's unit divides it
SAMPLES = 4_001  # of systems on waves

# The nets are small and each program runs a few times: compiling them carefully would take nearly all of the time.
QUICK = {"xla_backend_optimization_level": 0}

# Parameters that no output depends on; the net's docstring says why.
DEAD = {"spleeter": {"norm4"}}

# Systems on waves that clip what they estimate, in evaluation alone.
CLIPPED = {"wave_unet"}


class System:
    """A system from its `demo` config, with weights of which none is at its initial value."""

    def __init__(self, name):
        self.config = configs.load_config(f"{name}.py:demo")
        if self.config.per_source:
            self.config.sources = "vocals"
        configs.check(self.config)
        whole = {"block": 0, "block_overlap": 0.0, "swap_channels": False, "context": False, "post": None}
        self.separator = separator.build(self.config).clone(**whole)
        front, length = self.separator.front, SAMPLES
        self.spectral = isinstance(front, Stft)
        self.latents = jnp.complex64 if self.config.front.name in ("stft", "conv_stft") else jnp.float32
        if self.spectral:
            length = next(t for t in range(front.hop, 10**7, front.hop) if front.frames(t) >= FRAMES)
        rng = np.random.default_rng(0)
        self.mix = jnp.asarray(0.1 * rng.standard_normal((2, length, self.config.channels)), jnp.float32)
        self.variables = _moved(self.init(self.mix), rng)

    def init(self, mix):
        return jax.jit(lambda mix: self.separator.init(jax.random.key(0), mix, None, False), compiler_options=QUICK)(
            mix
        )

    def apply(self, mix, train=False, key=0, dtype=None, **changes):
        made = self.separator.clone(**changes)
        if dtype:
            config = self.config.copy_and_resolve_references()
            config.precision = dtype
            made = made.clone(net=separator.build(config).net)
        return _apply(_Static(made), self.variables, mix, train, jax.random.key(key))


class _Static:
    """A module as a static argument, equal to what prints the same."""

    def __init__(self, module):
        self.module, self.text = module, repr(module)

    def __eq__(self, other):
        return self.text == other.text

    def __hash__(self):
        return hash(self.text)


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=QUICK)
def _apply(static, variables, mix, train, key):
    return static.module.apply(variables, mix, None, train, rngs={"dropout": key}, mutable=["batch_stats"])[0]


def _moved(variables, rng):
    def move(path, leaf):
        noise = rng.uniform(-1, 1, leaf.shape).astype(np.float32)
        if path[-1].key == "var":
            return leaf * (1 + 0.2 * noise)
        if leaf.ndim > 1:  # however small it starts, a kernel is to pass on what it gets
            return leaf + 1.7 * (leaf.shape[-1] / leaf.size) ** 0.5 * noise
        return leaf + 0.3 * (float(np.std(leaf)) or 0.2) * noise

    return jax.tree_util.tree_map_with_path(move, variables)


def relative(estimate, reference):
    """Root mean square of the difference: its largest value says little of PHASEN's phasors, x / |x| near x = 0."""
    return float(jnp.linalg.norm(estimate - reference) / jnp.linalg.norm(reference))


@functools.cache
def made(name):
    return System(name)


# Compiling it takes minutes; its blocks are those of htdemucs, and its own are held against the authors' code.
THOROUGH = {"hdemucs"}


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.full] * (name in THOROUGH)) for name in sorted(MODELS)])
def system(request):
    return made(request.param)


@pytest.fixture
def spectral(system):
    """The systems that take any spectrum."""
    if not system.spectral:
        pytest.skip("works on waves, or on a front end of its own")
    return system


def test_shapes_precision_and_meaning(system):
    """One float32 stem per source, as long as the mixture; not constant, not the mixture, another for another."""
    out = system.apply(system.mix)
    sources = len(configs.parse_sources(system.config.sources))
    assert out.stems.shape == (2, sources, *system.mix.shape[1:]) and out.stems.dtype == jnp.float32
    assert out.latents.shape[:2] == (2, sources) and out.latents.dtype == system.latents
    stems = np.asarray(out.stems)
    assert np.isfinite(stems).all() and stems.std() > 1e-4
    assert np.abs(stems - np.asarray(system.mix)[:, None]).max() > 1e-3
    assert np.abs(stems[0] - stems[1]).max() > 1e-3
    if sources > 1:
        assert all(np.abs(stems[:, 0] - stems[:, i]).max() > 1e-4 for i in range(1, sources))


def test_examples_do_not_touch_each_other(system):
    alone = system.apply(system.mix[:1])
    np.testing.assert_allclose(alone.stems, system.apply(system.mix).stems[:1], atol=2e-5)


def test_training_differs_from_evaluation_iff_there_is_dropout_or_batch_norm(system):
    first, second = (np.asarray(system.apply(system.mix, train=True, key=key).latents) for key in (0, 1))
    varies = np.abs(first - second).max() > 0
    assert varies == any(value for key, value in system.config.model.items() if key.startswith("dropout"))
    if system.config.name in CLIPPED:
        first = np.clip(first, -1, 1)
    differs = np.abs(np.asarray(system.apply(system.mix).latents) - first).max() > (0 if varies else 1e-6)
    assert differs == (varies or bool(system.variables.get("batch_stats")))


def test_bfloat16_computes_near_float32_and_returns_it(system):
    full, half = system.apply(system.mix), system.apply(system.mix, dtype="bfloat16")
    assert half.stems.dtype == jnp.float32 and half.latents.dtype == system.latents
    assert 0 < relative(half.latents, full.latents) < 0.2
    assert {leaf.dtype for leaf in jax.tree.leaves(system.variables)} == {jnp.dtype("float32")}


def test_silence_stays_finite_in_value_and_gradient(system):
    silence = jnp.zeros_like(system.mix)
    assert np.isfinite(np.asarray(system.apply(silence).stems)).all()
    loss = losses.from_config(system.config)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(params, stats, mix):
        def objective(params, mix):
            variables = {"params": params, **stats}
            out = system.separator.apply(variables, mix, None, False)
            reference = jnp.zeros_like(out.stems if loss.domain == "wave" else out.latents)
            return loss(out.stems if loss.domain == "wave" else out.latents, reference).sum()

        return jax.grad(objective, argnums=(0, 1))(params, mix)

    stats = {key: value for key, value in system.variables.items() if key != "params"}
    for wave in (silence, system.mix.at[0].set(0)):
        for leaf in jax.tree.leaves(gradient(system.variables["params"], stats, wave)):
            assert np.isfinite(np.asarray(leaf)).all()


def test_padding_to_the_nets_lengths_is_undone(system):
    """What the separator gives is what the net gives on the latent with zeros behind it (around it: waves), cropped."""
    net, front = system.separator.net, system.separator.front
    length = front.frames(system.mix.shape[1])
    fed, yielded = net.lengths(length)
    assert fed >= yielded >= length and net.lengths(yielded) == (fed, yielded)
    bound = {key: value["front"] for key, value in system.variables.items() if "front" in value}
    latent = front.crop(jax.jit(lambda mix: front.apply(bound, mix, method="encode"))(system.mix))
    before, skip = ((fed - length) // 2, (yielded - length) // 2) if isinstance(front, Identity) else (0, 0)
    padded = jnp.pad(latent, [(0, 0), (before, fed - length - before)] + [(0, 0)] * (latent.ndim - 2))
    inner = {key: value["net"] for key, value in system.variables.items() if "net" in value}
    output = jax.jit(lambda z: net.apply(inner, z, None, False), compiler_options=QUICK)(padded)
    assert output.shape[2] == yielded
    expected = system.separator.head(output[:, :, skip : skip + length], latent)
    assert relative(system.apply(system.mix).latents, expected) <= 1e-5


def test_gradients_reach_every_parameter(system):
    """In evaluation mode: under batch statistics a bias before a norm has none, by design."""
    weight = jnp.asarray(np.random.default_rng(1).standard_normal(system.mix.shape), jnp.float32)
    stats = {key: value for key, value in system.variables.items() if key != "params"}

    @functools.partial(jax.jit, compiler_options=QUICK)
    def gradient(params):
        def scalar(params):
            return (
                system.separator.apply({"params": params, **stats}, system.mix, None, False).stems * weight[:, None]
            ).sum()

        return jax.grad(scalar)(params)

    flat, _ = jax.tree_util.tree_flatten_with_path(gradient(system.variables["params"]))
    dead = {"/".join(key.key for key in path) for path, leaf in flat if not np.abs(np.asarray(leaf)).max() > 0}
    allowed = DEAD.get(system.config.name, set())
    unexpected = {path for path in dead if not allowed & set(path.split("/"))}
    assert not unexpected
    for name in allowed:
        assert any(name in path.split("/") for path in dead), f"{name} is not dead: take it off the list"


def test_every_matrix_is_a_kernel_or_a_table(system):
    """So that `config.initial` draws all that multiplies: what is neither is a gain, or drawn as the system does."""
    leaves = jax.tree_util.tree_leaves_with_path(system.variables["params"]["net"])
    names = {path[-1].key for path, leaf in leaves if leaf.ndim > 1}
    kernels = {name for name in names if initialisation.is_kernel(None, name)} | {"input", "recurrent"}  # of LSTMs
    assert kernels & names and names - kernels <= {"table", "embedding", "keys", "scale", "bias"}


def test_exchanged_channels_come_out_exchanged(system):
    """Mono systems see one channel at a time; all others promise it under `swap_channels`, which averages both."""
    if system.config.channels == 1:
        assert system.mix.shape[2] == 1
        return
    if system.config.front.name not in ("stft", "identity"):
        pytest.skip("its front end has no channels to exchange")
    stems = system.apply(system.mix, swap_channels=True).stems
    exchanged = system.apply(system.mix[..., ::-1], swap_channels=True).stems[..., ::-1]
    np.testing.assert_allclose(stems, exchanged, atol=1e-5)
    assert float(jnp.abs(stems[..., 0] - stems[..., 1]).max()) > 1e-4


def test_any_spectral_front_end_will_do(spectral):
    """Window and padding change the spectrum, not its shape: the same weights, other frames."""
    front = spectral.separator.front
    other = front.clone(window="hamming", padding="left" if front.padding == "reflect" else "reflect")
    out = spectral.apply(spectral.mix, front=other)
    assert out.stems.shape[2:] == spectral.mix.shape[1:]
    assert float(jnp.abs(out.stems - spectral.apply(spectral.mix).stems).max()) > 1e-5


def test_bins_that_do_not_fit_are_refused_in_one_line(spectral):
    front = spectral.separator.front
    bins = front.bins or front.frame // 2 + 1
    narrow = spectral.separator.clone(front=front.clone(bins=bins - 1))
    try:
        jax.eval_shape(lambda mix: narrow.apply(spectral.variables, mix, None, False), spectral.mix)
    except JaxsepError as error:
        assert "\n" not in str(error) and str(bins - 1) in str(error)
    else:
        pytest.fail(f"weights for {bins} bins took {bins - 1}")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_variant_is_whole(name):
    """It builds, checks, survives JSON, and says what it is."""
    module = configs.load_module(configs.configs_folder() / f"{name}.py")
    assert {"demo", "report"} <= set(module.VARIANTS)
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        configs.check(config)
        assert (config.name, config.variant) == (name, variant) and config.model.name == name
        assert config.paper.title and config.paper.year > 2000 and config.paper.url.startswith("https://")
        again = configs.from_json(configs.to_json(config))
        assert separator.build(again) == separator.build(config)
        assert json.loads(configs.to_json(config))["sources"] == config.sources
    with pytest.raises(JaxsepError, match="unknown"):
        module.get_config("demmo")
