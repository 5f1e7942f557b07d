"""Run folders and data in buckets of Google Cloud Storage, worked on as copies on disk.

    gs://BUCKET/runs/spleeter  <->  $JAXSEP_CACHE/buckets/BUCKET/runs/spleeter

A run folder is appended to and has folders that are renamed as a whole, which buckets have not: an object is there as a
whole or not at all, and that is all. So a run is written on disk and followed into the bucket, each checkpoint's list
of sums (`integrity.py`) after its other files, and everything else before it: what is in the bucket can be gone on
with at any moment. `$STORAGE_EMULATOR_HOST` names another server than Google's.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jaxsep.cache import cache_folder
from jaxsep.errors import JaxsepError
from jaxsep.hosts import Lost
from jaxsep.integrity import DELETED, FOLDER, SUMS, TEMPORARY, sums, warn

PARTIAL = re.compile(rf"\.tmp$|{re.escape(TEMPORARY)}|^{FOLDER}/{DELETED}/")  # what is about to be there, or to go
INTERVAL = 5.0  # seconds between two looks at what has changed in a run folder
TRANSFERS = 8  # files at a time
PATIENCE = 60.0  # seconds for an answer of the server, and in which a call is made again


def is_address(path: str | Path) -> bool:
    """Whether this is no path on a disk, but an address like gs://bucket/folder."""
    return re.match(r"\w{2,}:/", str(path)) is not None


def check(path: str | Path, what: str) -> None:
    """Refuses addresses that nothing here reads, which would otherwise be taken for folders.

    Raises:
        JaxsepError: it is not a path on a disk and not gs://bucket/folder.
    """
    if is_address(path):
        _parse(path, what)


@functools.cache
def here(path: str | Path) -> Path:
    """A folder on disk with what is at a path or an address; files that have not changed are not fetched again.

    Raises:
        JaxsepError: there is nothing at the address, it cannot be read, or the disk has no room for it.
    """
    if not is_address(path):
        return Path(path)
    folder = Folder(path)
    if not folder.fetch():
        raise JaxsepError(f"{folder}: there is nothing; expected a folder of the bucket")
    return folder.copy


@contextlib.contextmanager
def working_copy(path: str | Path, first: bool = True) -> Iterator[Path]:
    """A run folder to write in: the path, or of an address a copy on disk, followed into the bucket.

    A start goes on with what is in the bucket, or with the copy where that one is further. An upload that fails is a
    line on stderr and tried again; the last one, behind all that is written, is an error.

    Args:
        path: a path on a disk, or gs://bucket/folder.
        first: whether this process of several is the one that fetches and uploads.

    Raises:
        JaxsepError: the address cannot be read or written, or is none.
    """
    if not is_address(path):
        yield Path(path)
        return
    folder = Folder(path)
    if not first:
        yield folder.copy
        return
    folder.fetch()
    with _Follower(folder):
        yield folder.copy


class Folder:
    """A folder of a bucket and its copy on disk, with what both were at the last transfer of each file.

    Args:
        address: gs://bucket/folder.

    Raises:
        JaxsepError: it is no such address, or the package for it is not installed.
    """

    def __init__(self, address: str | Path):
        self._bucket_name, self._prefix = _parse(address, "")
        self.copy = cache_folder() / "buckets" / self._bucket_name / self._prefix
        self._beside = self.copy.parent / f".{self.copy.name}"
        self._client = _client()
        self._bucket = self._client.bucket(self._bucket_name)

    def __str__(self) -> str:
        return f"gs://{self._bucket_name}/{self._prefix}"

    def fetch(self) -> bool:
        """Brings the copy up to date, and says whether there is anything.

        What was changed in the copy and not uploaded yet is kept where it is the same run and the bucket is no further;
        else the copy becomes what the bucket has.

        Raises:
            JaxsepError: the bucket cannot be read, or the disk has no room.
        """
        with self._locked() as known, self._explained("read"):
            found = self._list()
            listed = {_step(name) for name in found if name.endswith(f"/{SUMS}")}  # its other files came before
            there, now = _of_steps(found, listed), self._here()
            mine = self._ahead(there, now, known)
            wanted = {}
            for name, blob in there.items():
                deleted = name in known and name not in now
                changed = name in now and known.get(name, [])[:2] != now[name]
                same = name in now and not changed and known[name][2] == blob.crc32c
                if not same and not (mine and (deleted or changed)):
                    wanted[name] = blob
            if not mine and _newest(now) > _newest(there):
                warn(f"{self}: is not the run that was copied to {self.copy} before; the copy is replaced")
            for name in self._files() - there.keys():
                if not mine or (name in now and known.get(name, [])[:2] == now[name]):
                    (self.copy / name).unlink()
                    known.pop(name, None)
            known |= {name: [0, 0, ""] for name in found.keys() - there.keys()}  # halves of checkpoints: to be removed
            self._check_room(wanted)
            if wanted:
                size = sum(blob.size for blob in wanted.values()) / 2**20
                print(f"{self}: {len(wanted)} files, {size:.1f} MiB, are copied to {self.copy}", file=sys.stderr)
            _in_order(wanted, lambda name: self._download(name, wanted[name], known))
            _remove_empty(self.copy)
        return bool(there)

    def upload(self) -> None:
        """Brings the bucket up to date.

        Raises:
            JaxsepError: it cannot be written.
        """
        with self._locked() as known, self._explained("written"), self._pinned(known) as (now, pins):
            _in_order(pins, lambda name: self._upload(name, pins[name], now[name], known))
            whole = {_step(name) for name in now}
            for name in sorted(known.keys() - now.keys(), key=lambda name: not name.endswith(SUMS)):
                step = _step(name)
                if step in whole or not (self.copy / FOLDER / str(step)).exists():  # else it is being replaced
                    self._delete(name)
                    del known[name]

    def _download(self, name: str, blob: Any, known: dict[str, list]) -> None:
        path = self.copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.tmp")
        blob.download_to_filename(str(fresh), **_limits())  # compares the sum
        os.replace(fresh, path)
        known[name] = [*_state(path), blob.crc32c]

    def _upload(self, name: str, path: Path, state: list[int], known: dict[str, list]) -> None:
        blob = self._bucket.blob(f"{self._prefix}/{name}")
        with path.open("rb") as file:  # as long as it is now: it may be appended to meanwhile
            size = os.fstat(file.fileno()).st_size
            blob.upload_from_file(file, size=size, checksum="crc32c", **_limits())
        known[name] = [*state, blob.crc32c]

    def _delete(self, name: str) -> None:
        from google.api_core.exceptions import NotFound

        with contextlib.suppress(NotFound):
            self._bucket.delete_blob(f"{self._prefix}/{name}", **_limits())

    def _list(self) -> dict[str, Any]:
        """What the bucket has, by name below the folder."""
        prefix = f"{self._prefix}/"
        blobs = self._client.list_blobs(self._bucket, prefix=prefix, **_limits())
        return {blob.name.removeprefix(prefix): blob for blob in blobs if not blob.name.endswith("/")}

    def _files(self) -> set[str]:
        """Names of the files of the copy."""
        return {path.relative_to(self.copy).as_posix() for path in self.copy.rglob("*") if not path.is_dir()}

    def _here(self) -> dict[str, list[int]]:
        """State of each file of the copy that is meant to stay, by name; of checkpoints those that are whole."""
        found = {}
        for name in self._files():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                if not PARTIAL.search(name):
                    found[name] = _state(self.copy / name)
        steps = set()
        for name in found:
            if _step(name) is not None and name.endswith(f"/{SUMS}"):
                with contextlib.suppress(FileNotFoundError):
                    files = {f"{FOLDER}/{_step(name)}/{file}" for _, file in sums(self.copy / name)}
                    steps |= {_step(name)} if files <= found.keys() else set()
        return _of_steps(found, steps)

    @contextlib.contextmanager
    def _pinned(self, known: Mapping[str, Any]) -> Iterator[tuple[dict[str, list[int]], dict[str, Path]]]:
        """What there is, and links to what of it is not in the bucket yet.

        The run removes checkpoints and makes others, perhaps quicker than they are uploaded; through a link a file
        can be read to its end. Where something was removed while it was being linked, all is looked for once more.
        """
        folder = Path(f"{self._beside}.pinned")
        try:
            while True:
                shutil.rmtree(folder, ignore_errors=True)
                now = self._here()
                changed = [name for name, state in now.items() if known.get(name, [])[:2] != state]
                pins = {name: folder / name for name in changed}
                with contextlib.suppress(FileNotFoundError):
                    for name, pin in pins.items():
                        pin.parent.mkdir(parents=True, exist_ok=True)
                        os.link(self.copy / name, pin)
                    break
            yield now, pins
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ahead(self, there: Mapping[str, Any], now: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
        """Whether what was changed in the copy counts: it is the same run, at the same checkpoint or a later one."""
        if _newest(there) > _newest(now):
            return False
        if "run.json" not in there or "run.json" not in now:  # hardly anything has been uploaded, and that from here
            mine = [known.get(name, [0, 0, ""])[2] == blob.crc32c for name, blob in there.items()]
            return all(mine) and bool(mine or not known)
        return _beginning((self.copy / "run.json").read_bytes()) == _beginning(
            there["run.json"].download_as_bytes(**_limits())
        )

    def _check_room(self, wanted: Mapping[str, Any]) -> None:
        self.copy.mkdir(parents=True, exist_ok=True)
        needed, free = sum(blob.size for blob in wanted.values()), shutil.disk_usage(self.copy).free
        if needed > free:
            raise JaxsepError(
                f"{self}: {needed / 2**30:.1f} GiB do not fit into {self.copy}, where {free / 2**30:.1f} GiB are free; "
                "make room, or set JAXSEP_CACHE to a folder of a larger disk"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, list]]:
        """What is known of the last transfers, by name: size and time in the copy, sum in the bucket."""
        import fcntl  # which Windows has not

        self._beside.parent.mkdir(parents=True, exist_ok=True)
        index = Path(f"{self._beside}.index")
        with Path(f"{self._beside}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                known = json.loads(index.read_text())
            except (OSError, ValueError):
                known = {}
            try:
                yield known
            finally:
                fresh = index.with_name(f"{index.name}.tmp")
                fresh.write_text(json.dumps(known))
                os.replace(fresh, index)

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Makes one line of what the server or the network says."""
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption
        from requests import RequestException

        try:
            yield
        except (GoogleAPIError, GoogleAuthError, DataCorruption, RequestException) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise JaxsepError(
                f"{self}: cannot be {what} ({reason}); see that the bucket exists and that "
                "`gcloud auth application-default login` has been run"
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise JaxsepError(f"{self.copy}: cannot be used ({reason}); make room, or set JAXSEP_CACHE") from None


class _Follower:
    """While it is entered, a thread uploads what changes; when it is left, what is still missing is uploaded."""

    def __init__(self, folder: Folder):
        self._folder, self._ended = folder, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._ended.set()
        if kind is not None and issubclass(kind, Lost):
            return  # this process has to be gone in time; what is missing in the bucket is in the copy
        self._thread.join()
        try:
            self._folder.upload()
        except JaxsepError as error:
            line = f"{error}; all is in {self._folder.copy}, and the same command on this machine goes on from it"
            if kind is None:
                raise JaxsepError(line) from None
            warn(line)

    def _follow(self) -> None:
        said = ""
        while not self._ended.wait(INTERVAL):
            try:
                self._folder.upload()
                said = ""
            except JaxsepError as error:
                if str(error) != said:
                    warn(f"{error}; tried again")
                said = str(error)


def _parse(address: str | Path, what: str) -> tuple[str, str]:
    """Bucket and folder."""
    match = re.fullmatch(r"gs:/+([^/]+)/+(.*[^/])/*", str(address))
    if not match:
        raise JaxsepError(
            f"{what}{'=' if what else ''}{address}: expected a folder, or gs://BUCKET/FOLDER; what lies elsewhere has "
            "to be mounted or copied to a disk: docs/scale.md"
        )
    return match[1], re.sub("/+", "/", match[2])


@functools.cache
def _client() -> Any:
    """The connection that all folders share."""
    try:
        from google.auth.exceptions import DefaultCredentialsError
        from google.cloud import storage
    except ImportError:
        raise JaxsepError("gs:// needs the package google-cloud-storage; pip install 'jaxsep[gcs]'") from None
    try:
        return storage.Client()
    except (DefaultCredentialsError, OSError):
        raise JaxsepError("gs:// needs credentials; run `gcloud auth application-default login`") from None


def _limits() -> dict[str, Any]:
    """How long a call of the server is tried."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return {"timeout": PATIENCE, "retry": DEFAULT_RETRY.with_timeout(PATIENCE)}


def _in_order(names: Iterable[str], transfer: Callable[[str], None]) -> None:
    """Lists of sums after all else, and checkpoints after what is not one."""
    groups: tuple[list[str], ...] = [], [], []
    for name in names:
        groups[(_step(name) is not None) + name.endswith(f"/{SUMS}")].append(name)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        for group in groups:
            running = [pool.submit(transfer, name) for name in group]
            try:
                for each in running:
                    each.result()
            finally:  # the others need not fail one by one
                for each in running:
                    each.cancel()


def _step(name: str) -> int | None:
    """Whose checkpoint a file is part of."""
    match = re.match(rf"{FOLDER}/(\d+)/", name)
    return int(match[1]) if match else None


def _of_steps(found: Mapping[str, Any], steps: Set[int | None]) -> dict[str, Any]:
    """What is found by name, of checkpoints those of these steps."""
    return {name: value for name, value in found.items() if _step(name) in {*steps, None}}


def _newest(names: Iterable[str]) -> int:
    """Step of the last checkpoint, -1 without any."""
    return max((step for name in names if (step := _step(name)) is not None), default=-1)


def _beginning(run: bytes) -> dict[str, Any]:
    """What `run.json` says of a run's first start."""
    return {key: value for key, value in json.loads(run).items() if key != "resumed"}


def _state(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _remove_empty(folder: Path) -> None:
    """Removes the folders in which nothing is left."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
