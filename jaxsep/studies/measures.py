"""What a run has become, beside its scores: `python -m jaxsep.studies.measures RUN`.

Writes `front.npz`, what its front end does, and then `speed.json`, which says that the run is done.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxsep import separator, validation
from jaxsep.cache import keep_compiled
from jaxsep.checkpoint import load_variables
from jaxsep.config import parse_sources, run_config
from jaxsep.data.tracks import open_tracks
from jaxsep.frontends.adaptivestft import concentration
from jaxsep.inference import load
from jaxsep.studies.results import FRONT, SPEED
from jaxsep.workdir import write_text

SECONDS = 10.0  # of noise, to time; what it sounds like takes no more or less time
ROUNDS = 3
SINES = 257
SHORTEST = 4096  # samples of a sine


def speed(run: Path) -> dict[str, float | int | str]:
    """Seconds of music that are separated in one, at the model's rate and by its recipe; the best of three rounds.

    Returns:
        "times_real_time" and "parameters", and the "device" that was used.
    """
    model = load(run, "last")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (int(SECONDS * model.sample_rate), model.channels))
    clock = []
    for _ in range(1 + ROUNDS):  # the first compiles
        started = time.perf_counter()
        model.separate(noise.astype(np.float32), model.sample_rate)
        clock.append(time.perf_counter() - started)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(load_variables(run, "last")[0]["params"]))
    return {
        "times_real_time": round(SECONDS / min(clock[1:]), 3),
        "parameters": int(parameters),
        "device": model.device.device_kind,
    }


def front_end(run: Path) -> dict[str, Any]:
    """What the run's front end does at the end of training.

    Returns:
        "response" [filters frequencies], the size of each coefficient under sines of amplitude 1, root mean square over
        frames; their "frequencies" in Hz; "concentration" of the first ten seconds of the mixture of each test song
        (`adaptivestft.concentration`), all shorter ones as a whole.
    """
    config: Any = run_config(run)
    front = separator.build(config).front
    params = load_variables(run, "last")[0]["params"].get("front", {})

    @jax.jit
    def encode(wave):
        return front.apply({"params": params}, wave, method="encode")

    frequencies = np.linspace(0, config.sample_rate / 2, SINES)
    sources, mixtures = parse_sources(config.sources), []
    for track in open_tracks(config.data, "test", run):
        mix, _ = validation.read_song(track, sources, config)
        mixtures.append(mix[: int(SECONDS * config.sample_rate)])
    return {
        "response": response(encode, front.span, frequencies, config),
        "frequencies": frequencies,
        "concentration": np.array([_concentration(encode(jnp.asarray(mix[None], jnp.float32))) for mix in mixtures]),
    }


def response(encode: Any, span: int, frequencies: np.ndarray, config: Any) -> Float[np.ndarray, "n f"]:
    """The size of each coefficient under sines of amplitude 1, root mean square over frames and away from the ends.

    Args:
        encode: a front end's, [b t c] to [b n f c] or [b n d].
        span: samples that a frame sees.
        frequencies: of the sines, in Hz.
        config: sample rate and channels.
    """
    phase = 2 * np.pi * frequencies[:, None] * np.arange(max(8 * span, SHORTEST)) / config.sample_rate
    waves = np.repeat(np.sin(phase + np.pi / 4)[..., None], config.channels, axis=-1)  # of any phase, also at the ends
    size = np.abs(np.asarray(encode(jnp.asarray(waves, jnp.float32))))  # [b n f c] or [b n d]
    size = size[..., 0] if size.ndim == 4 else size
    quarter = size.shape[1] // 4  # away from the ends, which windows do not fill
    return np.sqrt((size[:, quarter:-quarter] ** 2).mean(axis=1)).T


def _concentration(latent: jax.Array) -> float:
    return float(concentration(latent if latent.ndim == 4 else latent[..., None])[0])


def measure(run: Path) -> Mapping[str, Any]:
    """Both, written into the run folder; returns the speed."""
    front: dict[str, Any] = front_end(run)
    np.savez_compressed(run / FRONT, **front)
    found = speed(run)
    write_text(run / SPEED, json.dumps(found) + "\n")
    return found


if __name__ == "__main__":
    keep_compiled()
    measure(Path(sys.argv[1]))
