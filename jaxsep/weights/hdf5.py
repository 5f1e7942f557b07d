"""HDF5 files of weights: Keras (`.h5`, `.hdf5`) and NNabla (`.h5`)."""

from pathlib import Path

import numpy as np

from jaxsep.errors import JaxsepError
from jaxsep.weights.formats import refuse


def read(path: Path) -> dict[str, np.ndarray]:
    """Path in the file -> numbers, of all data sets; `:0` behind the names of Keras is left out.

    Raises:
        JaxsepError: not an HDF5 file, a damaged one, one whose data lie elsewhere, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise JaxsepError(f'{path}: reading it needs h5py: pip install "jaxsep[weights]"') from None
    if not h5py.is_hdf5(path):
        refuse(path, "an HDF5 file")
    tensors: dict[str, np.ndarray] = {}
    room = path.stat().st_size

    def visit(name: str, item: object) -> None:
        nonlocal room
        if not isinstance(item, h5py.Dataset):
            return
        if item.external or item.is_virtual or item.dtype.kind not in "fiub":
            raise JaxsepError(f"{path}: {name} is not an array of numbers of this file; refused")
        room -= item.nbytes
        if room < 0:
            raise JaxsepError(f"{path}: states more data than it has, or is compressed, at {name}; refused")
        tensors[name.removesuffix(":0")] = np.asarray(item[()])

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        raise JaxsepError(f"{path}: damaged ({str(error).splitlines()[0]}); download it again") from None
    return tensors
