"""What a file looks like, from its first bytes and its name; archives, unpacked with care."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from jaxsep.errors import JaxsepError

LARGEST_EXPANSION = 20  # bytes out of an archive per byte of it

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
        return "a zip archive" if is_zip_archive(path) else "a PyTorch file"
    if path.suffix == ".index" or ".data-0" in path.name:
        return "a part of a TensorFlow checkpoint"
    return next((words for bytes_, words in _STARTS if start.startswith(bytes_)), "something else")


def refuse(path: Path, expected: str) -> NoReturn:
    """Says what was expected and what this is.

    Raises:
        JaxsepError: always.
    """
    raise JaxsepError(f"{path}: expected {expected}, this looks like {describe(path)}")


def is_zip_archive(path: Path) -> bool:
    """Whether it is a zip archive, but not one that PyTorch wrote."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return not any(name.endswith("/data.pkl") for name in archive.namelist())


def unpack(path: Path, folder: Path) -> list[Path]:
    """Unpacks the regular files of a zip or tar archive into one new folder, and returns them sorted.

    The folders in the archive are not made, so that no name leads out of `folder`; hidden files are left out.

    Raises:
        JaxsepError: a damaged archive, two files of one name, or far more data than weights can be packed into it.
    """
    folder.mkdir(parents=True)
    room = LARGEST_EXPANSION * path.stat().st_size
    try:
        for name, read in _members(path):
            file = folder / Path(name.replace("\\", "/")).name
            if file.name.startswith("."):
                continue
            with file.open("xb") as out:
                while block := read(1 << 20):
                    room -= len(block)
                    if room < 0:
                        raise JaxsepError(f"{path}: expands to over {LARGEST_EXPANSION} times its size; refused")
                    out.write(block)
    except FileExistsError as error:
        raise JaxsepError(f"{path}: has two files {Path(error.filename).name}; give those of one model") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise JaxsepError(f"{path}: damaged, or no archive ({error}); download it again") from None
    return sorted(folder.iterdir())


def gunzip(path: Path, folder: Path) -> Path:
    """Unpacks a gzipped file into a folder, under its name without `.gz`.

    Raises:
        JaxsepError: a damaged file, or far more data than weights can be packed into it.
    """
    target, room = folder / path.name.removesuffix(".gz"), LARGEST_EXPANSION * path.stat().st_size
    try:
        with gzip.open(path) as packed, target.open("xb") as out:
            while block := packed.read(1 << 20):
                room -= len(block)
                if room < 0:
                    raise JaxsepError(f"{path}: expands to over {LARGEST_EXPANSION} times its size; refused")
                out.write(block)
    except (EOFError, OSError, zlib.error) as error:
        raise JaxsepError(f"{path}: damaged ({error}); download it again") from None
    return target


def _members(path: Path) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Name and `read` of every regular file."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, archive.open(info).read
        return
    with tarfile.open(path) as archive:
        for member in archive:
            data = archive.extractfile(member) if member.isfile() else None
            if data is not None:
                yield member.name, data.read
