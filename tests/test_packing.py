"""`jaxsep models pack` and `blend`: separators made of runs, against the runs themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsep
from jaxsep import cli, separator
from jaxsep import config as configs
from jaxsep.checkpoint import save_variables
from jaxsep.errors import JaxsepError
from jaxsep.workdir import open_workdir

RATE = 8000


def song(seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((3 * RATE, 2))).astype(np.float32)


def run(folder, sources, seed=0, **changes):
    """A run folder of a narrow U-Net per source whose weights are random."""
    config = configs.load_config("configs/spleeter.py:demo")
    config.sources, config.seed, config.sample_rate = sources, seed, RATE
    config.model.channels, config.block = (2, 4), 8
    config.front.frame, config.front.hop, config.front.bins = 64, 16, 16
    config.data.segment, config.inference.segment = 64, 0.5
    with config.unlocked():
        config.inference.post = {"name": ""}
    model = separator.build(config)
    mix = jnp.zeros((1, 64, 2))
    variables = jax.device_get(jax.jit(model.init, static_argnums=3)(jax.random.key(seed), mix, None, False))
    for key, value in changes.items():
        config[key] = value
    open_workdir(folder, config)
    save_variables(folder, variables)
    return folder


def test_packed_runs_give_what_each_gave_alone(tmp_path, capsys):
    one = run(tmp_path / "one", "vocals", 1)
    two = run(tmp_path / "two", "bass,rest=drums+other", 2)
    assert cli.main(["models", "pack", str(one), str(two), "--out", str(tmp_path / "both")]) == 0
    wave = song()
    packed = jaxsep.load(tmp_path / "both")
    assert packed.sources == ("vocals", "bass", "rest")
    stems = packed.separate(wave, RATE)
    for name, wave_ in (jaxsep.load(one).separate(wave, RATE) | jaxsep.load(two).separate(wave, RATE)).items():
        np.testing.assert_array_equal(stems[name], wave_)
    with pytest.raises(JaxsepError, match="not trained here"):
        open_workdir(tmp_path / "both", packed.config)
    card = (tmp_path / "both" / "MODEL_CARD.md").read_text()
    assert "vocals,bass,rest=drums+other" in card and "models pack" in card


def test_a_blend_is_the_mean_of_the_nets_outputs(tmp_path):
    runs = [run(tmp_path / str(seed), "vocals,bass", seed) for seed in range(2)]
    assert cli.main(["models", "blend", *map(str, runs), "--out", str(tmp_path / "mean")]) == 0
    blended = jaxsep.load(tmp_path / "mean")
    assert blended.config.blend == 2
    mix = jnp.asarray(song()[None, :64])

    def logits(folder):
        model = jaxsep.load(folder)
        made = separator.build(model.config)
        variables = jaxsep.checkpoint.load_variables(folder)[0]
        return made.apply(variables, mix, None, False).latents / made.apply({}, mix, method="encode")[:, None]

    means = [np.log(m / (1 - m)) for m in (np.real(np.asarray(logits(folder))) for folder in runs)]
    mask = np.real(np.asarray(logits(tmp_path / "mean")))
    np.testing.assert_allclose(mask, 1 / (1 + np.exp(-np.mean(means, axis=0))), atol=1e-4)


def refused(capsys, *arguments):
    assert cli.main(["models", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_cannot_be_one_model_is_named(tmp_path, capsys):
    one = run(tmp_path / "one", "vocals", 1)
    same = run(tmp_path / "same", "vocals", 2)
    other = run(tmp_path / "other", "bass", 2, channels=1)
    out = tmp_path / "out"
    assert "'vocals' is in" in refused(capsys, "pack", one, same, "--out", out)
    assert "channels is 1" in refused(capsys, "pack", one, other, "--out", out)
    assert "has bass" in refused(capsys, "blend", one, run(tmp_path / "bass", "bass"), "--out", out)
    assert "give two or more" in refused(capsys, "blend", one, "--out", out)
    assert "not a run folder" in refused(capsys, "pack", tmp_path / "nothing", "--out", out)
    assert not out.exists()
    assert "exists" in refused(capsys, "pack", one, "--out", same)
    together = run(tmp_path / "together", "vocals", per_source=False)
    assert "nothing to pack" in refused(capsys, "pack", together, "--out", out)
