"""Input statistics against numpy on whole songs, and in runs: measured once, kept, and put into the nets."""

import importlib.util
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep.checkpoint import load_variables
from jaxsep.config import defaults
from jaxsep.data import statistics
from jaxsep.data.tracks import open_tracks
from jaxsep.errors import JaxsepError
from jaxsep.frontends import Stft
from jaxsep.models.open_unmix import OpenUnmix
from jaxsep.separator import Blend, PerSource, wants_statistics

ROOT = Path(__file__).parent.parent
RATE = 8000
LENGTHS = {"a": 5000, "b": 3217}  # samples


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    root = tmp_path_factory.mktemp("songs")
    for split, names in {"train": ("a", "b"), "valid": ("a",)}.items():
        for name in names:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number, stem in enumerate(("vocals", "other")):
                rng = np.random.default_rng([number, ord(name)])
                wave = rng.standard_normal((LENGTHS[name], 2)) * (0.1, 0.02)
                soundfile.write(folder / f"{stem}.wav", wave, RATE, subtype="FLOAT")
    return root


def settings(root, **changes):
    config = defaults()
    config.sources = config.data.stems = "vocals,other"
    config.sample_rate = RATE
    config.data.root = str(root)
    config.update(changes)
    return config


def numpy_statistics(root, front, names=("a", "b"), mono=False):
    """Whole songs at once, scipy-free: every frame a window of the padded mixture."""
    rows = []
    half = front.frame // 2
    window = np.sin(np.pi * np.arange(front.frame) / front.frame) ** 2
    for name in names:
        stems = [soundfile.read(root / "train" / name / f"{stem}.wav")[0] for stem in ("vocals", "other")]
        wave = stems[0] + stems[1]
        wave = wave.mean(axis=1, keepdims=True) if mono else wave
        if front.padding == "reflect":
            padded = np.pad(wave, [(half, half), (0, 0)], mode="reflect")
        else:
            padded = np.pad(wave, [(front.frame, 2 * front.frame), (0, 0)])
        for frame in range(front.frames(len(wave))):
            piece = padded[frame * front.hop :][: front.frame] * window[:, None]
            rows.append(np.abs(np.fft.rfft(piece, axis=0)).mean(axis=1)[: front.bins])
    return np.mean(rows, axis=0), np.std(rows, axis=0)


@pytest.mark.parametrize("padding", ["left", "reflect"])
@pytest.mark.parametrize("piece", [512, 2048, 2**20])
def test_equal_to_whole_songs_in_numpy(songs, padding, piece, monkeypatch):
    """However long the pieces are, also where a song's last one is shorter than a frame."""
    monkeypatch.setattr(statistics, "PIECE", piece)
    front = Stft(frame=64, hop=16, padding=padding, bins=20)
    config = settings(songs)
    found = statistics.measure(front, open_tracks(config.data, "train"), config)
    mean, std = numpy_statistics(songs, front)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.std, std, rtol=1e-4)


def test_mono_systems_measure_the_downmix(songs):
    front = Stft(frame=64, hop=16, bins=33)
    config = settings(songs, channels=1)
    found = statistics.measure(front, open_tracks(config.data, "train"), config)
    mean, std = numpy_statistics(songs, front, mono=True)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    np.testing.assert_allclose(found.std, std, rtol=1e-4)


def test_deviations_have_a_floor_and_silence_is_refused(tmp_path):
    tone = (np.cos(2 * np.pi * np.arange(8000) * 4 / 256) * np.hanning(8000))[:, None]
    for name, wave in (("tone", tone), ("silent", 0 * tone)):
        folder = tmp_path / name / "train" / "song"
        folder.mkdir(parents=True)
        for stem in ("vocals", "other"):
            soundfile.write(folder / f"{stem}.wav", wave, RATE, subtype="FLOAT")
        (tmp_path / name / "valid").mkdir()
    front = Stft(frame=256, hop=64)
    config = settings(tmp_path / "tone", channels=1)
    std = statistics.measure(front, open_tracks(config.data, "train"), config).std
    assert np.argmax(std) == 4 and std.min() == pytest.approx(1e-4 * std.max())
    config = settings(tmp_path / "silent", channels=1)
    with pytest.raises(JaxsepError, match="the 1 training songs are silent"):
        statistics.measure(front, open_tracks(config.data, "train"), config)


def test_kept_in_the_run_and_checked(songs, tmp_path, monkeypatch):
    front, config = Stft(frame=64, hop=16), settings(songs)
    tracks = open_tracks(config.data, "train")
    first = statistics.of_run(tmp_path, front, tracks, config, "abc")
    monkeypatch.setattr(statistics, "measure", None)  # is not called again
    again = statistics.of_run(tmp_path, front, tracks, config, "abc")
    assert (again.mean == first.mean).all() and (again.std == first.std).all()
    with pytest.raises(JaxsepError, match=r"statistics\.npz: of other data"):
        statistics.of_run(tmp_path, front, tracks, config, "abd")
    (tmp_path / "statistics.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(JaxsepError, match=r"statistics\.npz: damaged .*; remove it"):
        statistics.of_run(tmp_path, front, tracks, config, "abc")


def test_every_net_of_a_separator_gets_them():
    net = OpenUnmix(4, 1, max_bin=5)
    params = {"input_mean": jnp.zeros(5), "input_scale": jnp.ones(5), "fc1": 7}
    mean, std = jnp.arange(9.0), 2 + jnp.arange(9.0)
    expected = {"input_mean": [0, -1, -2, -3, -4], "input_scale": [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]}
    both = PerSource({"a": Blend([net, net]), "b": Blend([net, net])})
    found = both.with_statistics({"a": {"0": params, "1": params}, "b": {"0": params, "1": params}}, mean, std)
    assert wants_statistics(both)
    for source in "ab":
        for number in "01":
            leaf = found[source][number]
            assert leaf["fc1"] == 7
            for name, values in expected.items():
                np.testing.assert_allclose(leaf[name], values, rtol=1e-6)


SETTINGS = {
    "sources": "vocals",
    "sample_rate": RATE,
    "model.hidden": 4,
    "model.layers": 1,
    "model.max_bin": 9,
    "front.frame": 64,
    "front.hop": 16,
    "front.bins": 33,
    "data.source": "folder",
    "data.stems": "vocals,other",
    "data.segment": 512,
    "data.batch_size": 4,
    "optim.learning_rate": 1e-9,  # the parameters stay where they begin
    "optim.ema": 0.5,
    "optim.schedule.name": "constant",
    "steps": 1,
}


def test_a_run_has_them_in_its_parameters(songs, tmp_path, monkeypatch):
    """Also one that was killed behind the measuring and in front of its first checkpoint."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    train = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(train)
    words = [f"--config.{key}={value}" for key, value in (SETTINGS | {"data.root": songs}).items()]
    argv = ["train.py", "--config=configs/open_unmix.py:demo", f"--workdir={tmp_path / 'run'}", *words]
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr("jaxsep.training.init_state", killed)
        assert train.main(argv) == 130
    kept = (tmp_path / "run" / "statistics.npz").read_bytes()
    assert train.main(argv) == 0
    assert (tmp_path / "run" / "statistics.npz").read_bytes() == kept
    mean, std = numpy_statistics(songs, Stft(frame=64, hop=16, padding="reflect", bins=33))
    variables, _ = load_variables(tmp_path / "run", "last")
    net = variables["params"]["net"]["vocals"]
    np.testing.assert_allclose(net["input_mean"], -mean[:9], rtol=1e-5)
    np.testing.assert_allclose(net["input_scale"], 1 / std[:9], rtol=1e-4)
