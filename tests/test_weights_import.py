"""From published checkpoints to run folders: Spleeter's own graph, placing by name, the command."""

import importlib
import io
import json
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from jaxsep import cli, inference, separator, weights
from jaxsep.config import run_config
from jaxsep.errors import JaxsepError
from jaxsep.weights import KINDS, catalogue, formats, hdf5, importing, spleeter, tensors, tf1

GOLDEN = Path(__file__).parent / "golden"
SOURCES = {"2stems": ("vocals", "accompaniment"), "5stems": ("vocals", "piano", "drums", "bass", "other")}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The run folder that the command makes of a two-stem checkpoint, in a process that has TensorFlow."""
    pytest.importorskip("tensorflow", reason="the extra train brings TensorFlow")
    run = tmp_path_factory.mktemp("runs") / "imported"
    assert cli.main(["weights", "import", "spleeter", str(GOLDEN / "spleeter_2stems.tar.gz"), str(run)]) == 0
    return run


@pytest.mark.parametrize("stems", SOURCES)
def test_spleeter_equals_its_own_graph(stems):
    """Names, their order over the instruments, activations and masks: outputs as TensorFlow computed them."""
    pytest.importorskip("tensorflow", reason="the extra train brings TensorFlow")
    golden = np.load(GOLDEN / "spleeter_checkpoints.npz")
    found = spleeter.read([GOLDEN / f"spleeter_{stems}.tar.gz"])
    assert found.config.variant == stems and found.config.model.channels == (2, 3, 3, 4, 4, 5)
    model = separator.build(found.config)
    z = jnp.asarray(golden[f"{stems}/mix"] * np.complex64(1j))  # masks see magnitudes only and keep the phase
    with jax.default_matmul_precision("float32"):
        estimates = model.apply(found.variables, z, method=lambda m, z: m.head(m.net(z, None, False), z))
    for source, estimate in zip(SOURCES[stems], np.moveaxis(np.asarray(estimates), 1, 0), strict=True):
        expected = golden[f"{stems}/{source}"]
        assert np.abs(estimate[:, :, ::3] - 1j * expected).max() < 1e-5 * np.abs(expected).max(), source


@pytest.mark.parametrize("form", ["folder", "prefix", "index"])
def test_checkpoints_come_in_several_forms(tmp_path, form):
    pytest.importorskip("tensorflow", reason="the extra train brings TensorFlow")
    archive = GOLDEN / "spleeter_2stems.tar.gz"
    formats.unpack(archive, tmp_path / "2stems")
    given = {"folder": tmp_path / "2stems", "prefix": tmp_path / "2stems/model"}
    given["index"] = tmp_path / "2stems/model.index"
    expected = tf1.read(archive, ("*/Adam*",))
    found = tf1.read(given[form], ("*/Adam*",))
    assert found.keys() == expected.keys() and not any("Adam" in name for name in found)
    assert all(np.array_equal(found[name], expected[name]) for name in found)


def test_spleeter_refuses_other_files(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="the extra train brings TensorFlow")

    def save(**variables):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            for name, shape in variables.items():
                tf.compat.v1.get_variable(name, shape)
            session.run(tf.compat.v1.global_variables_initializer())
            return tf.compat.v1.train.Saver().save(session, str(tmp_path / "model"), write_meta_graph=False)

    other = Path(save(**{"encoder/kernel": (3,)}))
    with pytest.raises(JaxsepError, match=r"expected weights of Spleeter .*; this file has encoder/kernel"):
        spleeter.read([other])
    names = {"conv2d/kernel": (5, 5, 2, 16), "batch_normalization/moving_mean": (16,)}
    three = {f"conv2d_transpose{f'_{i}' if i else ''}/kernel": (1,) for i in range(18)}
    with pytest.raises(JaxsepError, match="has 18 transposed convolutions, expected 6 per instrument of 2, 4 or 5"):
        spleeter.read([Path(save(**names, **three))])
    (tmp_path / "song.wav").write_bytes(b"RIFF")
    with pytest.raises(JaxsepError, match=r"expected a TensorFlow checkpoint .*, this looks like something else"):
        spleeter.read([tmp_path / "song.wav"])
    with pytest.raises(JaxsepError, match=r"expected one file \*.index in it, there are 0"):
        (tmp_path / "empty").mkdir()
        spleeter.read([tmp_path / "empty"])
    with pytest.raises(JaxsepError, match=r"expected one checkpoint, .*; 2 were given"):
        spleeter.read([other, other])


def test_run_folder(imported):
    run = json.loads((imported / "run.json").read_text())
    assert run["kind"] == "spleeter" and run["command"].startswith("jaxsep weights import spleeter ")
    assert [len(file["sha256"]) for file in run["files"]] == [64]
    config = run_config(imported)
    assert config.sources == "vocals,accompaniment=drums+bass+other"
    head = json.loads((imported / "MODEL_CARD.md").read_text().split("---\n")[1])
    assert head["license"] == head["training_data"] == head["commercial_use"] == "not stated"
    assert "Imported weights, not trained here" in (imported / "MODEL_CARD.md").read_text()


def test_terms_stay_with_the_weights(imported, tmp_path):
    """A blend of imported and of other weights carries the terms of all."""
    other = tmp_path / "other"
    shutil.copytree(imported, other)
    run = json.loads((other / "run.json").read_text())
    run["origin"] |= {"name": "Others", "licence": "CC BY-NC-SA 4.0", "commercial_use": "no"}
    (other / "run.json").write_text(json.dumps(run))
    trained = tmp_path / "trained"
    shutil.copytree(imported, trained)
    (trained / "run.json").unlink()
    runs = [str(imported), str(other), str(trained)]
    assert cli.main(["models", "blend", *runs, "-o", str(tmp_path / "blend")]) == 0
    head = json.loads((tmp_path / "blend" / "MODEL_CARD.md").read_text().split("---\n")[1])
    assert head["license"] == "not stated; CC BY-NC-SA 4.0" and head["commercial_use"] == "not stated; no"
    assert head["training_data"] == "not stated; folder" and head["origin"]["name"] == "Spleeter, 2stems; Others"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_reader(kind):
    assert callable(importlib.import_module(f"jaxsep.weights.{kind}").read)


def test_separating_with_imported_weights(imported, tmp_path):
    """`jaxsep separate` gives what the imported net gives: not the mixture, not silence."""
    rng = np.random.default_rng(0)
    wave = (0.1 * rng.standard_normal((44100, 2))).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", wave, 44100, subtype="FLOAT")
    out = tmp_path / "out"
    assert cli.main(["separate", str(tmp_path / "song.wav"), "-o", str(out), "-m", str(imported), "--bits", "32f"]) == 0
    stems = inference.load(imported).separate(wave, 44100)
    for source in SOURCES["2stems"]:
        written, _ = soundfile.read(out / "song" / f"{source}.wav", dtype="float32")
        np.testing.assert_allclose(written, stems[source], atol=1e-5)
        assert 0.01 < written.std() < 0.99 * wave.std()


def test_asking_for_a_source_that_the_checkpoint_lacks(imported, tmp_path, capsys):
    soundfile.write(tmp_path / "song.wav", np.zeros((4410, 2)), 44100)
    command = ["separate", str(tmp_path / "song.wav"), "-o", str(tmp_path), "-m", str(imported), "--stems", "piano"]
    assert cli.main(command) == 2
    assert "piano" in capsys.readouterr().err


def test_spectra_that_do_not_fit(imported, tmp_path):
    """The net names the key that makes its input."""
    run = tmp_path / "run"
    shutil.copytree(imported, run)
    config = json.loads((run / "config.json").read_text())
    config["front"]["bins"] = 1000
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(JaxsepError, match=r"1000 bins, expected a multiple of 64 .*; set front.bins"):
        inference.load(run).separate(np.zeros((44100, 2), np.float32), 44100)


def test_nothing_is_left_of_a_failed_import(imported, tmp_path, capsys):
    archive = str(GOLDEN / "spleeter_2stems.tar.gz")
    cases = {
        f"{imported}: exists": ["spleeter", archive, str(imported)],
        "no such file": ["spleeter", str(tmp_path / "missing.tar.gz"), str(tmp_path / "new")],
        "KIND='spleter' is unknown, expected one of": ["spleter", archive, str(tmp_path / "new")],
        "is of kind openunmix, not spleeter": ["spleeter", archive, str(tmp_path / "new"), "--name", "umx"],
    }
    for message, arguments in cases.items():
        assert cli.main(["weights", "import", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package, read, extra", [("tensorflow", tf1.read, "train"), ("h5py", hdf5.read, "weights")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, read, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(JaxsepError, match=rf'pip install "jaxsep\[{extra}\]"$'):
        read(tmp_path / "vocals.h5")


def test_name_states_the_origin_and_its_sum_is_checked(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow", reason="the extra train brings TensorFlow")
    archive = tmp_path / "2stems.tar.gz"
    shutil.copy(GOLDEN / "spleeter_2stems.tar.gz", archive)
    command = ["weights", "import", "spleeter", str(archive), str(tmp_path / "run"), "--name", "spleeter-2stems"]
    assert cli.main(command) == 2
    assert "but that of spleeter-2stems begins f3a90b39" in capsys.readouterr().err
    entry = catalogue.find("spleeter-2stems")
    known = catalogue.Published(
        entry.name,
        entry.kind,
        entry.sources,
        entry.origin,
        "",
        (catalogue.File("x/2stems.tar.gz", importing.sha256(archive)),),
    )
    monkeypatch.setattr(catalogue, "PUBLISHED", (known,))
    assert cli.main(command[:-2]) == 0  # the sum alone says what it is
    head = json.loads((tmp_path / "run" / "MODEL_CARD.md").read_text().split("---\n")[1])
    assert "The SHA-256 sums of the files are the published ones." in (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert head["license"].startswith("MIT") and head["origin"]["address"] == "https://github.com/deezer/spleeter"


def test_zip_archives_give_their_weights(tmp_path, monkeypatch):
    """The four files of D3Net's archive reach the reader, what lies beside them does not."""
    seen = []

    def read(kind, files):
        seen.extend((file.name, file.read_bytes()) for file in files)
        raise JaxsepError("enough")

    monkeypatch.setattr(weights, "read", read)
    with zipfile.ZipFile(tmp_path / "d3net-mss.zip", "w") as archive:
        for name in ("d3net-mss/vocals.h5", "d3net-mss/bass.h5", "README.md"):
            archive.writestr(name, name)
    with pytest.raises(JaxsepError, match="enough"):
        importing.import_weights("d3net", [tmp_path / "d3net-mss.zip"], tmp_path / "run", [])
    assert seen == [("bass.h5", b"d3net-mss/bass.h5"), ("vocals.h5", b"d3net-mss/vocals.h5")]


SHAPES = {"params": {"a": {"kernel": np.empty((2, 3)), "bias": np.empty(3)}, "norm": {"scale": np.empty(3)}}}
TABLE = tensors.linear("a", "fc") | {"params/norm/scale": ("bn.weight", tensors.same)}


def fitting():
    rng = np.random.default_rng(0)
    return {"fc.weight": rng.random((3, 2)), "fc.bias": rng.random(3), "bn.weight": np.ones(3, np.float16)}


def test_place():
    given = fitting() | {"bn.num_batches_tracked": np.array(3)}
    placed = tensors.place(SHAPES, TABLE, given, "x.pth", ("*.num_batches_tracked",))
    np.testing.assert_allclose(placed["params"]["a"]["kernel"], given["fc.weight"].T, rtol=1e-6)
    np.testing.assert_allclose(placed["params"]["a"]["bias"], given["fc.bias"], rtol=1e-6)
    assert {array.dtype for array in jax.tree.leaves(placed)} == {np.dtype("float32")}


def test_place_tells_every_difference_in_one_line():
    given = fitting() | {"fc.weight": np.ones((3, 4)), "bn.weight": np.array([1, 1e300, 1]), "extra": np.ones(1)}
    del given["fc.bias"]
    with pytest.raises(JaxsepError) as caught:
        tensors.place(SHAPES, TABLE, given, "x.pth")
    assert str(caught.value) == (
        "x.pth: does not fit the net; tensors missing: fc.bias; not expected: extra; "
        "of another shape: fc.weight (3, 4) for params/a/kernel (2, 3); with NaN or infinity: bn.weight"
    )
    many = fitting() | {f"extra{i:02d}": np.ones(1) for i in range(12)}
    with pytest.raises(JaxsepError, match=r"not expected: extra00, .*, extra09 and 2 more$"):
        tensors.place(SHAPES, TABLE, many, "x.pth")
    with pytest.raises(JaxsepError, match=r"of another shape: fc.weight \(3, 2, 1\)"):
        tensors.place(SHAPES, TABLE, fitting() | {"fc.weight": np.ones((3, 2, 1))}, "x.pth")


def test_other_systems_are_recognised():
    names = ["fc1.weight", "lstm.weight_ih_l0", "bn1.weight"]
    with pytest.raises(JaxsepError, match=r"x: expected weights of Spleeter .*; this file looks like Open-Unmix"):
        tensors.check_kind("spleeter", names, "x")
    tensors.check_kind("openunmix", names, "x")


def test_archives_are_unpacked_with_care(tmp_path):
    """No name leads out of the folder, links are left out, bombs and doubled names refused."""
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name in ("../../evil", "/etc/evil2", "sub/model.index", ".hidden"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = formats.unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert [path.relative_to(tmp_path / "out").as_posix() for path in found] == ["evil", "evil2", "model.index"]
    assert not (tmp_path / "evil").exists() and not (tmp_path.parent / "evil").exists()
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.h5", bytes(1 << 20))
    with pytest.raises(JaxsepError, match="expands to over 20 times its size"):
        formats.unpack(tmp_path / "b.zip", tmp_path / "bomb")
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("a/x.h5", b"1")
        archive.writestr("b/x.h5", b"2")
    with pytest.raises(JaxsepError, match=r"has two files x\.h5"):
        formats.unpack(tmp_path / "c.zip", tmp_path / "double")
    (tmp_path / "d.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:60])
    with pytest.raises(JaxsepError, match="damaged"):
        formats.unpack(tmp_path / "d.tar.gz", tmp_path / "cut")


def test_the_help_names_every_kind(capsys):
    with pytest.raises(SystemExit):
        cli.main(["weights", "import", "--help"])
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in KINDS)
