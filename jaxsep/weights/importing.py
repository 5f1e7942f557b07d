"""Files of published weights -> a run folder."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from jaxsep import weights
from jaxsep.errors import JaxsepError
from jaxsep.packing import refuse_existing, write_run
from jaxsep.weights import Origin, catalogue, formats

SUFFIXES = (".h5", ".hdf5", ".pth", ".ckpt")  # of weights in an archive; what else is in it is not for us


def import_weights(kind: str, files: Sequence[Path], out: Path, argv: Sequence[str], name: str = "") -> Origin:
    """Writes a run folder that separates and is scored like a trained one.

    Args:
        kind: key of `weights.KINDS`.
        files: of published weights.
        out: the new run folder; nothing is left of it when this fails.
        argv: the command, for the record.
        name: of the catalogue, where the user says that these files are those weights.

    Returns:
        Where the weights come from, as far as that is known: by their sums, by `name`, or by the files themselves.

    Raises:
        JaxsepError: files that are missing or of another kind or not those of `name`, or a folder that exists.
    """
    refuse_existing(out)
    for file in files:
        if not file.exists() and not file.with_name(file.name + ".index").exists():
            raise JaxsepError(f"{file}: no such file")
    sums = file_sums(files)
    recognised = catalogue.recognise([digest for _, digest in sums])
    entry = _stated(name, kind, sums) if name else recognised
    with _unpacked(files) as found:
        imported = weights.read(kind, found)
    origin = entry.origin if entry else imported.origin
    facts = {
        "kind": kind,
        "origin": dataclasses.asdict(origin),
        "verified": entry is not None and entry == recognised,
        "files": [{"name": path, "sha256": digest} for path, digest in sums],
    }
    write_run(out, imported.config, imported.variables, argv, facts)
    return origin


def sha256(path: Path) -> str:
    """The sum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sums(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and sum of every file that makes up what was given, as `run.json` has them; [] = nothing is there."""
    return [(path.name, sha256(path)) for file in files for path in _parts(file)]


def _stated(name: str, kind: str, sums: Sequence[tuple[str, str]]) -> catalogue.Published:
    """The entry that the user names, whose published sums the files must have."""
    entry = catalogue.find(name)
    if entry.kind != kind:
        raise JaxsepError(f"--name {name}: is of kind {entry.kind}, not {kind}")
    known = {file.name: file.sha256 for file in entry.files}
    for file, digest in sums:
        if not digest.startswith(known.get(file, "")):
            raise JaxsepError(f"{file}: SHA-256 {digest}, but that of {name} begins {known[file]}; download it again")
    return entry


def _parts(file: Path) -> list[Path]:
    """The files that make up what was given: a folder's, or those of a TensorFlow checkpoint."""
    if file.is_dir():
        return sorted(path for path in file.rglob("*") if path.is_file())
    if file.suffix == ".index" or not file.exists():
        return sorted(file.parent.glob(f"{file.name.removesuffix('.index')}.*"))
    return [file]


@contextmanager
def _unpacked(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The files, those of weights in a zip archive in its place (D3Net's four `.h5`)."""
    with TemporaryDirectory(prefix="jaxsep-") as folder:
        found: list[Path] = []
        for number, file in enumerate(files):
            if formats.is_zip_archive(file):
                inside = formats.unpack(file, Path(folder) / str(number))
                found += [path for path in inside if path.suffix in SUFFIXES]
            else:
                found.append(file)
        yield found
