"""Asking a conditioned model for what one wants: in Python and on the command line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxsep
from jaxsep import cli, separator, targets
from jaxsep import config as configs
from jaxsep.checkpoint import save_variables
from jaxsep.errors import JaxsepError
from jaxsep.inference import Model
from jaxsep.workdir import open_workdir

RATE = 8192
SOURCES = ("bass", "drums", "other", "vocals")
DUO = {"duo": {"vocals": 1.0, "bass": 1.0}, "soft": {"vocals": 0.5}, "nothing": {}}
WEIGHTS = np.array([[1, 0, 0, 1], [0, 0, 0, 0.5], [0, 0, 0, 0]], np.float32)


def song(seed=0, channels=1):
    return (0.1 * np.random.default_rng(seed).standard_normal((5 * RATE, channels))).astype(np.float32)


def config(name="cunet"):
    made = configs.load_config(f"configs/{name}.py:demo")
    made.inference.segment = 2.0
    made.inference.overlap = 0.25
    return made


@pytest.fixture(scope="module")
def parts():
    """A narrow C-U-Net with random weights that tell conditions apart."""
    made = config()
    made.model.channels, made.block, made.model.control_widths = (2, 4), 8, (4, 8)
    net = separator.build(made)
    variables = jax.jit(net.init, static_argnums=3)(jax.random.key(0), jnp.zeros((1, 2048, 1)), None, False)
    rng = np.random.default_rng(0)

    def move(path, leaf):
        noise = rng.uniform(-1, 1, leaf.shape).astype(np.float32)
        return leaf + np.abs(noise) if path[-1].key == "var" else leaf + noise

    moved = jax.tree_util.tree_map_with_path(move, variables)
    return net, moved, made


@pytest.fixture(scope="module")
def model(parts):
    return Model.from_parts(*parts)


@pytest.fixture(scope="module")
def run(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cunet"
    open_workdir(folder, parts[2])
    save_variables(folder, jax.device_get(parts[1]))
    return folder


def test_a_conditioned_model_is_the_net_asked_for_each_condition(parts, model):
    """One segment, by hand: the separator applied once per condition, in their order."""
    net, variables, _ = parts
    wave = song()[: 2 * RATE]
    stems = model.conditioned(DUO).separate(wave, RATE, segment=0.0)
    assert list(stems) == ["duo", "soft", "nothing"]
    for stem, asked in zip(stems.values(), WEIGHTS, strict=True):
        alone = jax.jit(net.apply, static_argnums=3)(variables, wave[None], jnp.asarray(asked)[None, None], False)
        np.testing.assert_allclose(stem, alone.stems[0, 0], atol=1e-6)
    waves = list(stems.values())
    assert all(np.abs(waves[i] - waves[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_asking_for_each_source_is_asking_for_nothing_special(model):
    plain = model.separate(song(), RATE)
    assert tuple(plain) == SOURCES
    for order in (SOURCES, SOURCES[::-1]):
        asked = model.conditioned({f"my {source}": {source: 1.0} for source in order}).separate(song(), RATE)
        assert list(asked) == [f"my {source}" for source in order]
        for source in order:
            np.testing.assert_allclose(asked[f"my {source}"], plain[source], atol=1e-6)


def test_conditions_go_with_batches_channels_and_rates(model):
    """Of a stereo song, each channel is asked alike; several segments at a time change nothing."""
    duo = model.conditioned(DUO)
    wave = song(channels=2)
    stems = duo.separate(wave, RATE)
    for channel in range(2):
        alone = duo.separate(wave[:, channel], RATE, batch_size=4)
        for name in DUO:
            np.testing.assert_allclose(stems[name][:, channel : channel + 1], alone[name], atol=1e-5)
    assert {stem.shape for stem in duo.separate(wave, 11025).values()} == {(5 * RATE, 2)}


def test_a_conditioned_model_leaves_the_model_as_it_was(model):
    before = model.separate(song(), RATE)
    again = model.conditioned(DUO).conditioned({"low": {"bass": 1.0}})
    assert again.sources == ("low",) and model.sources == SOURCES
    np.testing.assert_allclose(again.separate(song(), RATE)["low"], before["bass"], atol=1e-6)
    np.testing.assert_array_equal(model.separate(song(), RATE)["drums"], before["drums"])


def test_what_a_model_cannot_be_asked_for_is_refused(model):
    def refused(match, conditions, asked=model.config):
        with pytest.raises(JaxsepError, match=match) as caught:
            targets.weights(asked, conditions)
        assert "\n" not in str(caught.value)

    with pytest.raises(JaxsepError, match="'piano' is not a source of the model, which has bass, drums, other, vocals"):
        model.conditioned({"duo": {"vocals": 1.0, "piano": 1.0}})
    refused("weight 1.5, expected 0 to 1", {"loud": {"vocals": 1.5}})
    refused("weight -0.5, expected 0 to 1", {"anti": {"vocals": -0.5}})
    refused("weight nan, expected 0 to 1", {"nan": {"vocals": float("nan")}})
    refused("no conditions", {})
    refused("spleeter: takes no conditions.*cunet", {"duo": {"vocals": 1.0}}, config("spleeter"))
    filtered = config()
    with filtered.unlocked():
        filtered.inference.post = {"name": "wiener"}
    refused("inference.post='wiener'", {"duo": {"vocals": 1.0}}, filtered)


def test_a_system_of_one_hots_refuses_others():
    lasaft = config("lasaft")
    asked = {"low": {"bass": 1.0}, "voice": {"vocals": 1.0, "drums": 0.0}}
    row = list(configs.parse_sources(lasaft.sources)).index
    expected = np.zeros((2, 4), np.float32)
    expected[0, row("bass")] = expected[1, row("vocals")] = 1
    np.testing.assert_array_equal(targets.weights(lasaft, asked), expected)
    for weights in ({"vocals": 1.0, "bass": 1.0}, {"vocals": 0.5}, {}):
        with pytest.raises(JaxsepError, match="condition 'duo': lasaft returns one source at a time, with weight 1"):
            targets.weights(lasaft, {"duo": weights})


def test_conditions_on_the_command_line():
    texts = ["duo=vocals+bass", "soft = 0.5 * vocals", "none=0*drums"]
    expected = {"duo": {"vocals": 1.0, "bass": 1.0}, "soft": {"vocals": 0.5}, "none": {"drums": 0.0}}
    assert targets.parse(texts) == expected and list(targets.parse(texts)) == list(expected)
    for text, match in (
        ("vocals", "expected NAME=SOURCE"),
        ("=vocals", "expected NAME=SOURCE"),
        ("a/b=vocals", "expected NAME=SOURCE"),
        ("duo=", "expected each source once"),
        ("duo=vocals+", "expected each source once"),
        ("duo=vocals+0.5*vocals", "expected each source once"),
        ("duo=half*vocals", "'half' is not a number"),
        ("duo=vocals+inf*bass", "'inf' is not a number"),
        ("duo=*bass", "'' is not a number"),
    ):
        with pytest.raises(JaxsepError, match=match) as caught:
            targets.parse([text])
        assert text in str(caught.value)
    with pytest.raises(JaxsepError, match="there is a condition 'duo' already"):
        targets.parse(["duo=vocals", "duo=bass"])


def test_separate_writes_what_it_is_asked_for(run, tmp_path):
    soundfile.write(tmp_path / "song.wav", song(), RATE, subtype="FLOAT")
    command = ["separate", str(tmp_path / "song.wav"), "-m", str(run), "--bits", "32f", "--device", "cpu"]
    asked = ["--condition", "duo=vocals+bass", "--condition", "soft=0.5*vocals"]
    assert cli.main([*command, *asked, "-o", str(tmp_path / "out"), "--residual"]) == 0
    written = {path.stem: soundfile.read(path, always_2d=True)[0] for path in (tmp_path / "out" / "song").iterdir()}
    assert set(written) == {"duo", "soft", "residual"}
    stems = jaxsep.load(run).conditioned({"duo": DUO["duo"], "soft": DUO["soft"]}).separate(song(), RATE)
    for name, stem in stems.items():
        np.testing.assert_allclose(written[name], stem, atol=1e-6)
    np.testing.assert_allclose(sum(written.values()), song(), atol=1e-5)
    assert cli.main([*command, *asked, "-o", str(tmp_path / "one"), "--stems", "soft"]) == 0
    assert [path.name for path in (tmp_path / "one" / "song").iterdir()] == ["soft.wav"]


def test_a_condition_that_is_no_source_stops_before_the_model_is_loaded(tmp_path, capsys):
    open_workdir(tmp_path / "run", config())  # without a checkpoint
    soundfile.write(tmp_path / "song.wav", song(), RATE)
    command = ["separate", str(tmp_path / "song.wav"), "-m", str(tmp_path / "run"), "-o", str(tmp_path / "out")]
    assert cli.main([*command, "--condition", "duo=vocals+piano"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "'piano' is not a source of the model, which has bass" in error
    assert not (tmp_path / "out").exists()
