"""Trainings that begin with another run's weights, on standardised songs."""

import dataclasses
import functools
import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep import losses, optim, separator, training, validation
from jaxsep.checkpoint import load_start, load_variables
from jaxsep.config import check, defaults
from jaxsep.data import levels
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Identity
from jaxsep.hosts import Host
from jaxsep.inference import Model
from jaxsep.types import Separation

ROOT = Path(__file__).parent.parent
RATE = 8000

spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
train = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Loud and quiet songs with an offset, two for training and one for validation."""
    root = tmp_path_factory.mktemp("songs")
    for number, (split, scale) in enumerate((("train", 0.2), ("train", 0.01), ("valid", 0.05))):
        folder = root / split / f"song {number}"
        folder.mkdir(parents=True)
        for index, stem in enumerate(("vocals", "other")):
            wave = np.random.default_rng([number, index]).standard_normal((2 * RATE, 2))
            soundfile.write(folder / f"{stem}.wav", scale * (wave + 0.3), RATE, subtype="FLOAT")
    return root


def settings(songs, **changes):
    """A narrow U-net with batch norm, whose weights an initialisation has to bring along."""
    config = defaults()
    config.sources = config.data.stems = "vocals,other"
    config.sample_rate = RATE
    config.model.update(name="spleeter", channels=(2, 4), batch_norm="batch")
    config.per_source, config.block = True, 8
    config.front.update(frame=64, hop=16, bins=16)
    config.data.update(root=str(songs), segment=8 * 16 - 64, batch_size=4, standardise=True)
    config.inference.update(segment=0.5, standardise=True)
    config.optim.learning_rate = 0.1
    config.steps = config.eval_every = config.save_every = config.log_every = 2
    config.update(changes)
    return config.lock()


@pytest.fixture(scope="module")
def first(songs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "first"
    train.train(settings(songs), folder, ["train.py"], Host())
    return folder


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_starts_with_the_best_weights_of_another_one_and_does_not_need_it_again(songs, first, tmp_path, capsys):
    origin = tmp_path / "origin"
    shutil.copytree(first, origin)
    changes = {"init": str(origin), "optim": {"learning_rate": 1e-30}}
    train.train(settings(songs, **changes), tmp_path / "second", ["train.py"], Host())
    expected, _ = load_variables(first)
    found, _ = load_variables(tmp_path / "second")
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-25), found["params"], expected["params"])
    assert jax.tree.leaves(found["batch_stats"])  # these moved on
    run = json.loads((tmp_path / "second" / "run.json").read_text())
    assert run["init"]["run"] == str(origin) and run["init"]["step"] == 2
    assert run["init"]["sdr"] == pytest.approx(load_variables(first)[1]["sdr"])
    shutil.rmtree(origin)
    train.train(settings(songs, steps=3, **changes), tmp_path / "second", ["train.py"], Host())
    assert "finished at step 3" in capsys.readouterr().out
    assert json.loads((tmp_path / "second" / "run.json").read_text())["init"] == run["init"]
    with pytest.raises(JaxsepError, match="not a run folder"):
        load_start(settings(songs, **changes))


def test_the_state_takes_weights_and_statistics_and_can_be_donated(songs, first):
    config = settings(songs, optim={"ema": (0.9, 0.5)})
    model, mesh = separator.build(config), training.make_mesh(jax.devices()[:1])
    optimiser = optim.build(config.optim, config.steps)
    variables, _ = load_start(settings(songs, init=str(first)))
    fresh = training.init_state(model, optimiser, config, mesh)
    state = training.start_from(fresh, variables, optimiser)
    equal(state.params, variables["params"])
    equal(state.batch_stats, variables["batch_stats"])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(state.batch_stats))
    equal(state.opt_state, fresh.opt_state)
    for average in state.ema:
        equal(average, variables["params"])
    assert int(state.step) == 0
    leaves = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state.params, state.ema, state.batch_stats))]
    assert len(set(leaves)) == len(leaves)


def test_what_does_not_fit_is_one_line(songs, first):
    with pytest.raises(JaxsepError, match=r"init=.*sources=vocals,other, this config has vocals$"):
        load_start(settings(songs, init=str(first), sources="vocals"))
    variables, _ = load_start(settings(songs, init=str(first)))
    mesh = training.make_mesh(jax.devices()[:1])
    for changes, message in (
        ({"channels": (2, 6)}, r"\(.*4.*\) there, \(.*6.*\) in this config; give a run of the same model"),
        ({"channels": (2, 4, 4)}, "no such parameter there"),
        ({"channels": (2,)}, "no such parameter in this config"),
    ):
        config = settings(songs, model=changes)
        model, optimiser = separator.build(config), optim.build(config.optim, config.steps)
        state = jax.eval_shape(lambda made=(model, optimiser, config): training.init_state(*made, mesh))
        with pytest.raises(JaxsepError, match=message) as caught:
            training.start_from(state, variables, optimiser)
        assert "\n" not in str(caught.value)


def test_levels_are_measured_once_per_run(songs, first, monkeypatch):
    with np.load(first / "levels.npz") as file:
        kept = levels.Levels(file["mean"], file["std"])
    tracks = open_tracks(settings(songs).data, "train")
    for index, track in enumerate(tracks):
        mono = track.audio(("vocals", "other")).sum(0).mean(-1, dtype=np.float64)
        assert kept.mean[index] == pytest.approx(mono.mean(), rel=1e-5)
        assert kept.std[index] == pytest.approx(mono.std(ddof=1), rel=1e-5)
    monkeypatch.setattr(levels, "measure", None)  # is not called again
    fingerprint = json.loads((first / "run.json").read_text())["data"]["fingerprint"]
    equal(levels.of_run(first, tracks, settings(songs), fingerprint), kept)
    with pytest.raises(JaxsepError, match=r"levels\.npz: of other data"):
        levels.of_run(first, tracks, settings(songs), "abc")


class Mixture:
    """A separator that returns the mixture for each of two sources."""

    front = Identity()

    def apply(self, variables, mix, targets, train, rngs=None, mutable=None):
        waves = jnp.stack([mix, mix], axis=1)
        return (Separation(waves, waves), {}) if mutable else Separation(waves, waves)


def test_validation_compares_standardised_songs(songs):
    """The loss of a separator that returns the mixture for each source, by hand."""
    config = settings(songs, loss={"name": "wave_l1"})
    (track,) = open_tracks(config.data, "valid")
    stems = track.audio(("vocals", "other")).astype(np.float64)
    mono = stems.sum(0).mean(-1)
    stems = (stems - mono.mean()) / mono.std(ddof=1)

    mesh = training.make_mesh(jax.devices()[:1])
    validate = validation.make_validate(Mixture(), losses.from_config(config), config, mesh, [track])
    size = config.data.segment
    starts = [*range(0, 2 * RATE - size, size), 2 * RATE - size]
    error = np.abs(stems.sum(0) - stems)
    expected = np.mean([error[:, start : start + size].mean((1, 2)) for start in starts])
    assert validate({}).scores["loss"] == pytest.approx(expected, rel=1e-5)


def test_validation_leaves_out_the_shifts(songs, monkeypatch):
    config = settings(songs, loss={"name": "wave_l1"}, inference={"shifts": 3})
    seen = []

    def separate(self, mix, rate, **changes):
        seen.append(dataclasses.replace(self.recipe, **changes).shifts)
        return {"vocals": mix, "other": mix}

    monkeypatch.setattr(Model, "separate", separate)
    mesh = training.make_mesh(jax.devices()[:1])
    loss, tracks = losses.from_config(config), open_tracks(config.data, "valid")
    validation.make_validate(Mixture(), loss, config, mesh, tracks)({})
    assert config.inference.shifts == 3 and set(seen) == {0}


def test_songs_are_separated_as_they_were_trained_on(songs):
    with pytest.raises(JaxsepError, match=r"data\.standardise=True needs inference\.standardise=True"):
        check(settings(songs, inference={"standardise": False}))
