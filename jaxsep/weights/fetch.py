"""Downloads published weights and imports them."""

import contextlib
import http.client
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from jaxsep.cache import cache_folder
from jaxsep.errors import JaxsepError
from jaxsep.packing import refuse_existing
from jaxsep.weights import KINDS, catalogue
from jaxsep.weights.importing import import_weights, sha256

BLOCK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
ATTEMPTS = 5  # without progress in between


def fetch_weights(name: str, out: Path, argv: Sequence[str]) -> None:
    """Downloads weights of the catalogue from their official addresses, checks and imports them.

    What was downloaded stays in the cache folder; a download that was cut goes on where it stopped. The licence is
    printed before.

    Args:
        name: of the catalogue.
        out: the new run folder.
        argv: the command, for the record.

    Raises:
        JaxsepError: an unknown name, weights that cannot be had by address, no connection, or a wrong sum.
    """
    entry = catalogue.find(name)
    refuse_existing(out)
    print(f"{entry.origin.name}\n{catalogue.terms(entry.origin)}", file=sys.stderr)
    if not entry.files:
        raise JaxsepError(
            f"{name}: {entry.score}; see {entry.origin.address} and import {KINDS[entry.kind].files} with "
            f"`jaxsep weights import {entry.kind} FILE... {out}`"
        )
    folder = cache_folder() / "weights" / name
    advice = f"see {entry.origin.address} and run `jaxsep weights import {entry.kind} FILE... {out} --name {name}`"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [_fetch(file, folder / file.name, advice) for file in entry.files]
    except OSError as error:
        raise JaxsepError(f"{folder}: cannot be written ({error}); make room, or set JAXSEP_CACHE") from None
    import_weights(entry.kind, files, out, argv, name)


def _fetch(file: catalogue.File, path: Path, advice: str) -> Path:
    """The file in the cache, whole and checked."""
    if not path.exists():
        part = path.with_name(path.name + ".part")
        _download(file.address, part, advice)
        part.rename(path)
    digest = sha256(path)
    if not digest.startswith(file.sha256):
        path.unlink()
        raise JaxsepError(
            f"{file.address}: SHA-256 {digest[:16]}..., expected {file.sha256}; deleted; try again, or {advice}"
        )
    if not file.sha256:
        print(f"{path.name}: SHA-256 {digest}; its authors state none to compare with", file=sys.stderr)
    return path


def _download(address: str, part: Path, advice: str) -> None:
    """Fills `part` until the server has no more, over as many connections as that takes."""
    idle, reason = 0, "the connection was cut"
    while idle < ATTEMPTS:
        before = part.stat().st_size if part.exists() else 0
        try:
            total = _receive(address, part, before)
        except urllib.error.HTTPError as error:
            raise JaxsepError(f"{address}: HTTP {error.code} {error.reason}; {advice}") from None
        except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            if not part.exists() or not part.stat().st_size:
                raise JaxsepError(f"{address}: cannot be reached ({reason}); to download it by hand {advice}") from None
            total = -1
        size = part.stat().st_size
        if size == total:
            return
        idle = 0 if size > before else idle + 1
    raise JaxsepError(f"{address}: {reason} at {before:,} bytes; the same command goes on from there, or {advice}")


def _receive(address: str, part: Path, have: int) -> int:
    """One connection; returns the size of the whole file, or of what came where the server does not say."""
    request = urllib.request.Request(address, headers={"User-Agent": "jaxsep"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # of a range: there is nothing behind what we have
            raise
        total = _total(error.headers.get("Content-Range"))
        if total != have:
            part.unlink()
            return _receive(address, part, 0)
        return total
    with response:
        resumed = response.status == 206 and str(response.headers.get("Content-Range")).startswith(f"bytes {have}-")
        if not resumed:
            if response.status == 206:
                raise http.client.HTTPException("it sends another part than was asked for")
            have = 0  # the server knows no ranges and starts over
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if resumed else "wb") as out:
            while block := response.read(BLOCK):
                out.write(block)
                _show(part.name.removesuffix(".part"), out.tell(), total)
    _show_end()
    return part.stat().st_size if total is None else total


def _total(content_range: str | None) -> int:
    """The size in `bytes */1234`, -1 where there is none."""
    with contextlib.suppress(AttributeError, ValueError):
        return int(str(content_range).rpartition("/")[2])
    return -1


def _show(name: str, done: int, total: int | None) -> None:
    if sys.stderr.isatty():
        share = f"{100 * done / total:3.0f} % of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        print(f"\r{name}: {share}\x1b[K", end="", file=sys.stderr, flush=True)


def _show_end() -> None:
    if sys.stderr.isatty():
        print(file=sys.stderr)
