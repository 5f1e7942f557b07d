"""Numbers below 1.2e-38, which silence fades into, cost a processor up to a hundred times as much unless they are 0.

XLA sets its threads to take them for 0 and to yield 0 for them; here is seen whether it does.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsep import config as configs
from jaxsep import losses, optim, separator, training
from jaxsep.inference import Model

TINY = 1e-40


@pytest.fixture(scope="module")
def parts():
    """A small system with convolutions on one device: (separator, config, state, step)."""
    config = configs.load_config("configs/spleeter.py:demo")
    config.unlock()
    config.sources, config.block, config.data.batch_size, config.data.segment = "vocals,other", 64, 2, 64 * 256
    config.front.update(frame=1024, hop=256, bins=512)
    config.inference.update(segment=2.0, overlap=0.0)
    config.model.channels = (4, 8)
    model, optimiser = separator.build(config), optim.build(config.optim, 100)
    mesh = training.make_mesh(jax.devices()[:1])
    step = training.make_train_step(model, losses.from_config(config), optimiser, config, mesh)
    return model, config, mesh, training.init_state(model, optimiser, config, mesh), step


def ratio(run, normal, denormal):
    """CPU time with one input over that with the other: the best of several rounds, taking turns."""
    clock = {name: [] for name in ("normal", "denormal")}
    for _ in range(7):
        for name, given in (("normal", normal), ("denormal", denormal)):
            started = time.process_time()
            run(given)
            clock[name].append(time.process_time() - started)
    best = {name: min(seconds[1:]) for name, seconds in clock.items()}
    assert best["normal"] > 5e-3, "too short to be measured"
    return best["denormal"] / best["normal"]


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def test_a_training_step(parts):
    _, config, mesh, state, step = parts
    states = [state]

    def run(sources):
        batch = training.put({"mix": sources.sum(axis=1), "sources": sources}, mesh)
        states[0], metrics = step(states[0], batch, np.float32(0))
        assert jax.device_get(metrics).ok

    sources = noise(config.data.batch_size, 2, config.data.segment, 2)
    assert ratio(run, sources, sources * np.float32(TINY)) < 1.2


def test_separation(parts):
    model, config, _, _, _ = parts
    variables = model.init(jax.random.key(0), jnp.zeros((1, config.data.segment, 2)), None, False)
    loaded = Model.from_parts(model, variables, config)
    song = noise(4 * config.sample_rate, 2)
    assert ratio(lambda wave: loaded.separate(wave, config.sample_rate), song, song * np.float32(TINY)) < 1.2


FUNCTIONS = {
    "elementwise": lambda x: x * 0.5,
    "product": lambda x: x @ jnp.eye(x.shape[1]),
    "sum": lambda x: x.sum(axis=1),
    "loop": lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x * 0.5, x),
    "convolution": lambda x: jax.lax.conv_general_dilated(x[:, None], jnp.ones((1, 1, 3)), (1,), "SAME"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_they_are_zero_in_every_thread(name):
    """In: a denormal; and out: a number that becomes one."""
    size = (2048, 512)  # enough for XLA to divide it among threads
    function = jax.jit(FUNCTIONS[name])
    assert np.all(np.asarray(function(np.full(size, TINY, np.float32))) == 0)
    out = np.abs(np.asarray(function(np.full(size, 1.5e-38, np.float32))))
    assert np.all((out == 0) | (out >= np.finfo(np.float32).tiny))
