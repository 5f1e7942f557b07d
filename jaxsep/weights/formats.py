"""What a file looks like, from its first bytes and its name."""

import zipfile
from pathlib import Path
from typing import NoReturn

from jaxsep.errors import JaxsepError

_STARTS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", "a PyTorch file"),
    (b"\x80", "a pickle"),
    (b"<", "a web page or XML (was the download an error page?)"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file itself"),
    (b"{", "JSON"),
)


def describe(path: Path) -> str:
    """In words, with an article."""
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        return "an empty file"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            torch = any(name.endswith("/data.pkl") for name in archive.namelist())
        return "a PyTorch file" if torch else "a zip archive"
    if path.suffix == ".index" or ".data-0" in path.name:
        return "a part of a TensorFlow checkpoint"
    return next((words for bytes_, words in _STARTS if start.startswith(bytes_)), "something else")


def refuse(path: Path, expected: str) -> NoReturn:
    """Says what was expected and what this is.

    Raises:
        JaxsepError: always.
    """
    raise JaxsepError(f"{path}: expected {expected}, this looks like {describe(path)}")
