"""PyTorch files (`.pth`, `.pt`, Lightning's `.ckpt`) without PyTorch, and without running what is in them.

Both formats of `torch.save`: the zip archive since 1.6 (`data.pkl` and one member per storage) and the sequence of
pickles before.
"""

import io
import math
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxsep.errors import JaxsepError
from jaxsep.weights import pickles
from jaxsep.weights.formats import refuse

EXPECTED = "a PyTorch file"

_MAGIC = 0x1950A86A20F9469CFC6C  # the first number of the format before 1.6
_PROTOCOL = 1001
_STORAGES: Mapping[str, Any] = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def read(path: Path, foreign: bool = False) -> Any:
    """What a file of `torch.save` holds, tensors as numpy arrays.

    Args:
        path: the file.
        foreign: take objects of unknown classes as `pickles.Inert` (Lightning's callbacks and hyper-parameters);
            otherwise such a file is refused.

    Raises:
        JaxsepError: not a PyTorch file, a damaged one, or one that names anything but tensors and plain data.
    """
    if zipfile.is_zipfile(path):
        return _read_zip(path, foreign)
    data = path.read_bytes()
    if data[:1] != b"\x80":
        refuse(path, EXPECTED)
    return _read_legacy(path, data, foreign)


def read_tensors(path: Path, key: str = "", foreign: bool = False) -> dict[str, np.ndarray]:
    """The named tensors of a file: what it holds, or `key` of it (Lightning: "state_dict").

    Raises:
        JaxsepError: as `read`, or there is no such dict of tensors in it.
    """
    found = read(path, foreign)
    if key:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not all(isinstance(value, np.ndarray) for value in found.values()):
        where = f"under {key!r}" if key else "at its top"
        raise JaxsepError(f"{path}: expected a dict of tensors (a state_dict) {where}; this file has something else")
    return {str(name): tensor for name, tensor in found.items()}


def _read_zip(path: Path, foreign: bool) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            root = _check_archive(path, archive)
            order = "<"
            if f"{root}byteorder" in archive.namelist():
                order = {b"little": "<", b"big": ">"}[archive.read(f"{root}byteorder")]
            storages: dict[str, np.ndarray] = {}

            def persistent(identity: Any) -> np.ndarray:
                _, dtype, key, _, length = identity
                if key not in storages:
                    storages[key] = _storage(archive.read(f"{root}data/{key}"), dtype, order, length)
                return storages[key]

            pickle = io.BytesIO(archive.read(f"{root}data.pkl"))
            return pickles.load(pickle, str(path), _names(_tensor), persistent, foreign)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise JaxsepError(f"{path}: damaged ({error}); download it again") from None


def _check_archive(path: Path, archive: zipfile.ZipFile) -> str:
    """The folder in the archive that has everything; sizes may not be more than the file has."""
    members = archive.infolist()
    roots = [info.filename.removesuffix("data.pkl") for info in members if info.filename.endswith("/data.pkl")]
    if len(roots) != 1:
        refuse(path, EXPECTED)
    if any(info.filename == f"{roots[0]}constants.pkl" for info in members):
        raise JaxsepError(f"{path}: a TorchScript program; expected the weights alone (a state_dict)")
    if any(info.compress_type != zipfile.ZIP_STORED for info in members):
        raise JaxsepError(f"{path}: a compressed archive, which torch.save does not write; refused")
    if sum(info.file_size for info in members) > path.stat().st_size:
        raise JaxsepError(f"{path}: states more data than it has; refused")
    return roots[0]


def _read_legacy(path: Path, data: bytes, foreign: bool) -> Any:
    """Magic number, protocol, system, the object, keys of the storages, and per storage its length and numbers."""
    stream = io.BytesIO(data)

    def load(tensor: Callable[..., Any], persistent: Callable[[Any], Any]) -> Any:
        return pickles.load(stream, str(path), _names(tensor), persistent, foreign)

    def plain() -> Any:
        return load(_nothing, _nothing)

    if plain() != _MAGIC:
        refuse(path, EXPECTED)
    if plain() != _PROTOCOL:
        raise JaxsepError(f"{path}: of a format before PyTorch 0.2; load and save it with a newer PyTorch")
    system = plain()
    # The numbers come behind the object that refers to them: it is read for its storages, then again for itself.
    start = stream.tell()
    stated: dict[str, tuple[np.dtype, int]] = {}

    def collect(identity: Any) -> Any:
        if identity[0] == "module":  # a class; its file and its source code go with it
            return identity[1]
        _, dtype, key, _, length, view = identity
        if view is not None:
            raise ValueError("a storage that is a view of another one")
        stated[key] = (dtype, length)
        return None

    def fetch(identity: Any) -> Any:
        return identity[1] if identity[0] == "module" else storages[identity[2]]

    try:
        load(_nothing, collect)
        order = "<" if system["little_endian"] else ">"
        storages = {}
        for key in plain():
            dtype, length = stated[key]
            head = stream.read(8)
            if int.from_bytes(head, "little" if order == "<" else "big") != length:
                raise ValueError(f"storage {key} is not as long as stated")
            storages[key] = _storage(stream.read(max(length, 0) * dtype.itemsize), dtype, order, length)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, JaxsepError):
            raise
        raise JaxsepError(f"{path}: damaged ({error}); download it again") from None
    stream.seek(start)
    return load(_tensor, fetch)


def _nothing(*_: Any) -> None:
    return None


def _names(tensor: Callable[..., Any]) -> dict[str, Any]:
    """The only names that a file of weights may have, and what stands for them."""
    return {
        "collections.OrderedDict": lambda pairs=(): dict(pairs),
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch.device": lambda *_: None,
        "fractions.Fraction": _fraction,
        **{f"torch.{name}Storage": np.dtype(dtype) for name, dtype in _STORAGES.items()},
        **{f"torch.{name}": pickles.Inert(f"torch.{name}") for name in _DTYPES},
    }


def _fraction(*parts: Any) -> Fraction:
    """As pickled: "39/5", or numerator and denominator."""
    numbers = parts[0].split("/") if len(parts) == 1 else parts
    return Fraction(*(int(number) for number in numbers))


def _storage(raw: bytes, dtype: np.dtype, order: str, length: int) -> np.ndarray:
    if len(raw) != length * dtype.itemsize:
        raise ValueError(f"a storage has {len(raw)} bytes instead of {length * dtype.itemsize}")
    swapped = order != {"little": "<", "big": ">"}[sys.byteorder] and dtype.itemsize > 1
    array = np.frombuffer(raw, dtype)
    return array.byteswap() if swapped else array


def _tensor(storage: np.ndarray, offset: int, size: Sequence[int], strides: Sequence[int], *_: Any) -> np.ndarray:
    """A view of a storage that does not leave it; offset and strides count elements."""
    numbers = (offset, *size, *strides)
    if not all(type(number) is int and number >= 0 for number in numbers) or len(size) != len(strides):
        raise ValueError(f"a tensor of size {size} and strides {strides} at {offset}")
    count = math.prod(size)
    last = offset + sum((n - 1) * stride for n, stride in zip(size, strides, strict=True))
    if count and (last >= len(storage) or count > len(storage)):
        raise ValueError(f"a tensor of size {size} and strides {strides} at {offset} of {len(storage)} numbers")
    if not count:
        return np.empty(size, storage.dtype)
    step = storage.itemsize
    return np.lib.stride_tricks.as_strided(
        storage[offset:], size, tuple(stride * step for stride in strides), writeable=False
    )
