"""Readers of foreign files: what they read, and what they refuse to run."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from jaxsep.errors import JaxsepError
from jaxsep.weights import hdf5, pickles, torch_files

h5py = pytest.importorskip("h5py", reason="the extra weights brings h5py")


class Named:
    """Pickled as a bare name: what `module.name` would be to PyTorch."""

    def __init__(self, name):
        self.name = name


class Call:
    """Pickled as a call of a name, as PyTorch's tensors are."""

    def __init__(self, name, *args):
        self.name, self.args = name, args


class Storage:
    def __init__(self, kind, key, array):
        self.kind, self.key, self.array = kind, key, array


class Pickler(pickle._Pickler):
    """Writes names that need not exist here, and PyTorch's persistent ids."""

    legacy = False

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Named):
            module, _, name = obj.name.rpartition(".")
            self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")
        elif isinstance(obj, Call):
            self.save(Named(obj.name))
            self.save(obj.args)
            self.write(b"R")
        elif isinstance(obj, Storage):
            view = (None,) if self.legacy else ()
            self.save(("storage", Named(f"torch.{obj.kind}Storage"), obj.key, "cpu", obj.array.size, *view))
            self.write(b"Q")
        else:
            super().save(obj, save_persistent_id)


def dumped(obj, legacy=False):
    file = io.BytesIO()
    pickler = Pickler(file, 2)
    pickler.legacy = legacy
    pickler.dump(obj)
    return file.getvalue()


def tensor(array, kind="Float", key="0", offset=0, size=None, strides=None):
    size = array.shape if size is None else size
    strides = tuple(s // array.itemsize for s in array.strides) if strides is None else strides
    flat = np.ascontiguousarray(array).ravel()
    return Call(
        "torch._utils._rebuild_tensor_v2", Storage(kind, key, flat), offset, size, strides, False, OrderedDict()
    )


def storages(obj):
    if isinstance(obj, Storage):
        return {obj.key: obj.array}
    if isinstance(obj, Call):
        obj = obj.args
    found = {}
    for item in obj.values() if isinstance(obj, dict) else obj if isinstance(obj, tuple | list) else ():
        found |= storages(item)
    return found


def write_zip(path, obj, **members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", obj if isinstance(obj, bytes) else dumped(obj))
        if not isinstance(obj, bytes):
            for key, array in storages(obj).items():
                archive.writestr(f"archive/data/{key}", array.tobytes())
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
    return path


def write_legacy(path, obj):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    found = storages(obj)
    with path.open("wb") as file:
        for item in (0x1950A86A20F9469CFC6C, 1001, system, obj, list(found)):
            file.write(dumped(item, legacy=True))
        for array in found.values():
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return path


WRITERS = [write_zip, write_legacy]


def an_array(shape=(3, 4), dtype=np.float32):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@pytest.mark.parametrize("write", WRITERS)
def test_torch_tensors(tmp_path, write):
    """All dtypes, a transposed and a sliced view, a scalar, an empty tensor, a parameter, OrderedDict."""
    import ml_dtypes

    a = an_array()
    kinds = {"Double": np.float64, "Half": np.float16, "BFloat16": ml_dtypes.bfloat16, "Long": np.int64}
    kinds |= {"Int": np.int32, "Short": np.int16, "Char": np.int8, "Byte": np.uint8}
    state = OrderedDict({kind: tensor(an_array(dtype=dtype), kind, kind) for kind, dtype in kinds.items()})
    state["transposed"] = tensor(a, key="a", size=(4, 3), strides=(1, 4))
    state["every second"] = tensor(a, key="a", offset=1, size=(5,), strides=(2,))
    state["scalar"] = tensor(a, key="a", offset=7, size=(), strides=())
    state["empty"] = tensor(a, key="a", size=(0, 3), strides=(3, 1))
    state["parameter"] = Call("torch._utils._rebuild_parameter", tensor(a, key="a"), True, OrderedDict())
    found = torch_files.read_tensors(write(tmp_path / "a.pth", state))
    assert list(found) == list(state)
    for kind, dtype in kinds.items():
        assert found[kind].dtype == dtype and np.array_equal(found[kind], an_array(dtype=dtype))
    assert np.array_equal(found["transposed"], a.T)
    assert np.array_equal(found["every second"], a.ravel()[1:11:2])
    assert found["scalar"] == 7 and found["scalar"].shape == () and found["empty"].shape == (0, 3)
    assert np.array_equal(found["parameter"], a)


def test_torch_big_endian(tmp_path):
    swapped = an_array().astype(">f4")
    path = write_zip(tmp_path / "a.pth", {"a": tensor(swapped)}, byteorder=b"big")
    assert np.array_equal(torch_files.read_tensors(path)["a"], an_array())


@pytest.mark.parametrize("write", WRITERS)
def test_lightning(tmp_path, write):
    """Foreign classes beside the state_dict become records of their names; by default they are refused."""
    checkpoint = {
        "epoch": 3,
        "state_dict": OrderedDict(a=tensor(an_array())),
        "hyper_parameters": Call("argparse.Namespace"),
        "callbacks": {Named("pytorch_lightning.callbacks.ModelCheckpoint"): {"best": Call("numpy.foreign", 1)}},
    }
    path = write(tmp_path / "a.ckpt", checkpoint)
    assert np.array_equal(torch_files.read_tensors(path, "state_dict", foreign=True)["a"], an_array())
    found = torch_files.read(path, foreign=True)
    (callback,) = found["callbacks"]
    assert isinstance(callback, pickles.Inert) and callback.name == "pytorch_lightning.callbacks.ModelCheckpoint"
    with pytest.raises(JaxsepError, match=r"names 'argparse.Namespace', which has no place .* nothing was run"):
        torch_files.read(path)
    with pytest.raises(JaxsepError, match=r"expected a dict of tensors .* under 'weights'"):
        torch_files.read_tensors(path, "weights", foreign=True)


class Malice:
    """Python's own way to run a function on loading."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


def malices(target):
    import builtins
    import os
    import subprocess

    touch = f"touch {target}"
    yield "system", Malice(os.system, touch)
    yield "eval", Malice(builtins.eval, f"open({str(target)!r}, 'w')")
    yield "exec", {"state_dict": OrderedDict(a=Malice(builtins.exec, f"open({str(target)!r}, 'w')"))}
    yield "nested", [{"a": (1, [Malice(subprocess.check_call, ["touch", str(target)])])}]
    yield "getattr", Malice(builtins.getattr, "a", "upper")


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize("foreign", [False, True])
def test_malice_is_refused_and_not_run(tmp_path, protocol, foreign):
    target = tmp_path / "run"
    for name, malice in malices(target):
        data = pickle.dumps(malice, protocol)
        if protocol > 1:
            (tmp_path / "legacy.pth").write_bytes(data)
            with pytest.raises(JaxsepError, match="refused, nothing was run"):
                torch_files.read(tmp_path / "legacy.pth", foreign)
        with pytest.raises(JaxsepError, match="refused, nothing was run"):
            torch_files.read(write_zip(tmp_path / f"{name}.pth", data), foreign)
    assert not target.exists()


def test_malice_by_opcodes(tmp_path):
    """INST, OBJ, extensions, attributes on functions, a call of a called thing."""
    attacks = {
        b"(S'touch'\nios\nsystem\n.": "opcode INST",
        b"(cos\nsystem\nS'touch'\no.": "'os.system'",
        b"\x80\x02\x82\x01.": "opcode EXT1",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.": "'os.system'",
        b"ccollections\nOrderedDict\n}S'__code__'\nI1\nsb.": "sets attributes",
        b"ccollections\nOrderedDict\n)R)R.": "calls something that is no function",
        b"\x80\x02}U\x01aK\x01K\x02e.": "damaged",
        b"\x80\x02r\xff\xff\xff\xff.": "damaged",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fabc.": "damaged",
        b"\x80\x02K\x01": "damaged",
    }
    for data, reason in attacks.items():
        with pytest.raises(JaxsepError, match=reason):
            torch_files.read(write_zip(tmp_path / "a.pth", data))


@pytest.mark.parametrize("write", WRITERS)
def test_forged_sizes_are_refused(tmp_path, write):
    a = an_array()
    forged = [
        tensor(a, size=(1 << 40,), strides=(0,)),
        tensor(a, size=(3, 5), strides=(5, 1)),
        tensor(a, offset=1),
        tensor(a, size=(3, 4), strides=(-4, 1)),
        tensor(a, offset=-1),
        tensor(a, size=(-3, 4)),
        tensor(a, size=(3, 4), strides=(4,)),
    ]
    for bad in forged:
        with pytest.raises(JaxsepError, match=r"damaged \(a tensor of size"):
            torch_files.read(write(tmp_path / "a.pth", {"a": bad}))
    with pytest.raises(JaxsepError, match=r"damaged \(a storage has 48 bytes instead of 96"):
        torch_files.read(write(tmp_path / "a.pth", {"a": tensor(a, "Double")}))


def test_archives_that_torch_does_not_write(tmp_path):
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", dumped({}))
        archive.writestr("archive/data/0", bytes(1 << 20))
    with pytest.raises(JaxsepError, match="compressed archive"):
        torch_files.read(bomb)
    script = write_zip(tmp_path / "script.pt", {}, **{"constants.pkl": b""})
    with pytest.raises(JaxsepError, match="TorchScript program"):
        torch_files.read(script)
    whole = write_zip(tmp_path / "a.pth", {"a": tensor(an_array((100, 100)))}).read_bytes()
    for cut in (10, 100, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(JaxsepError, match=r"expected a PyTorch file, this looks like|damaged"):
            torch_files.read(tmp_path / "cut.pth")
    legacy = write_legacy(tmp_path / "b.pth", {"a": tensor(an_array((100, 100)))}).read_bytes()
    for cut in (20, 200, len(legacy) - 1):
        (tmp_path / "cut.pth").write_bytes(legacy[:cut])
        with pytest.raises(JaxsepError, match="damaged"):
            torch_files.read(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (b"RIFF....", "something else"),
    ],
)
def test_other_formats_are_named(tmp_path, content, words):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(JaxsepError, match=f"expected a PyTorch file, this looks like {words}"):
        torch_files.read(tmp_path / "a")


def test_hdf5(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["model/dense/kernel:0"] = an_array()
        file["vocals/conv/W"] = an_array((2, 2), np.float64)
    found = hdf5.read(path)
    assert set(found) == {"model/dense/kernel", "vocals/conv/W"}
    assert np.array_equal(found["model/dense/kernel"], an_array())
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("a", (1 << 40,), "f4")
    with pytest.raises(JaxsepError, match="states more data than it has"):
        hdf5.read(tmp_path / "b.h5")
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("a", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    with pytest.raises(JaxsepError, match="a is not an array of numbers of this file"):
        hdf5.read(tmp_path / "c.h5")
    (tmp_path / "d.h5").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(JaxsepError, match="damaged"):
        hdf5.read(tmp_path / "d.h5")
    with pytest.raises(JaxsepError, match="expected an HDF5 file, this looks like a PyTorch file"):
        hdf5.read(write_zip(tmp_path / "e.h5", {}))
