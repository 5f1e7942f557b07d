"""What outlives a process: `$JAXSEP_CACHE`, or `~/.cache/jaxsep`."""

import hashlib
import os
import platform
from pathlib import Path

LIMIT = 4 * 2**30  # bytes of compiled programs
WORTH = 0.3  # seconds of compiling; less is not worth a file


def cache_folder() -> Path:
    """`$JAXSEP_CACHE`, or `~/.cache/jaxsep`."""
    return Path(os.environ.get("JAXSEP_CACHE") or Path.home() / ".cache" / "jaxsep")


def keep_compiled() -> None:
    """Lets the next process load what XLA compiles in this one; call it before anything is compiled.

    JAX's compilation cache, in `compiled` of the cache folder, without what was used longest ago beyond `LIMIT`; on
    GPUs the kernels that XLA chose by trying are kept as well. Processors of different kinds that share the folder do
    not share code, which could be illegal instructions to some. Nothing happens where the folder cannot be written,
    and whoever has set `JAX_COMPILATION_CACHE_DIR` keeps that one, whatever its size.
    """
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH)
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder() / "compiled" / processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder.parent, LIMIT)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _prune(folder: Path, limit: int) -> None:
    """Removes the files that were read longest ago until the folder holds no more than `limit` bytes."""
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    excess = sum(stat.st_size for _, stat in files) - limit
    for path, stat in sorted(files, key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime)):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= stat.st_size


def processor() -> str:
    """A name for all processors with the instructions of this one."""
    told, described = platform.machine() + platform.processor(), Path("/proc/cpuinfo")
    if described.is_file():
        lines = described.read_text().splitlines()
        told += "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    return hashlib.sha256(told.encode()).hexdigest()[:16]
