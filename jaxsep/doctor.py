"""`jaxsep doctor`: what is installed, which devices there are, what can be read and written."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from typing import Any

from jaxsep import __version__

# extra -> (package, module) that it brings
EXTRAS = {
    "train": {
        "tensorflow": "tensorflow",
        "tensorflow-datasets": "tensorflow_datasets",
        "array-record": "array_record",
        "musdb": "musdb",
    },
    "beam": {"apache-beam": "apache_beam"},
    "eval": {"museval": "museval", "stempeg": "stempeg", "matplotlib": "matplotlib"},
    "dev": {"pytest": "pytest", "ruff": "ruff", "beartype": "beartype"},
    "midi": {"mido": "mido"},
    "gcs": {"google-cloud-storage": "google.cloud.storage"},
    "weights": {"h5py": "h5py"},
    "parity": {"keras": "keras", "norbert": "norbert"},
    "parity-torch": {name: name for name in ("openunmix", "asteroid", "demucs", "julius", "omegaconf")},
    "parity-demucs2": {"openunmix": "openunmix", "demucs": "demucs", "julius": "julius"},
    "cuda": {"jax-cuda13-plugin": "jax_cuda13_plugin"},
    "tpu": {"libtpu": "libtpu"},
}
CORE = ("jax", "jaxlib", "flax", "orbax-checkpoint", "ml-collections", "numpy", "soundfile", "av", "soxr")
BINARIES = {"ffmpeg": "-version", "ffprobe": "-version", "fluidsynth": "--version"}  # and what prints the version
WHAT_FOR = (
    "musdb and museval (training on MUSDB18's .stem.mp4, scores by museval), fluidsynth for `jaxsep data render`; "
    "separating needs none of them"
)


def examine() -> dict[str, Any]:
    """Everything that a report of a problem should state, as JSON values."""
    return {
        "jaxsep": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs",
        "packages": {name: _version(name) for name in CORE},
        "devices": _devices(),
        "audio": _audio(),
        "binaries": {name: _binary(name, option) for name, option in BINARIES.items()},
        "extras": {
            extra: {package: _installed(package, module) for package, module in parts.items()}
            for extra, parts in EXTRAS.items()
        },
    }


def render(found: dict[str, Any]) -> str:
    """The findings of `examine` as lines for people."""
    lines = [f"jaxsep {found['jaxsep']}, Python {found['python']} ({sys.executable})", found["system"], ""]
    lines += ["packages:", *(f"  {name} {version or 'MISSING'}" for name, version in found["packages"].items())]
    lines += ["devices:", *(f"  {device}" for device in found["devices"])]
    lines += ["audio:", *(f"  {what}: {', '.join(formats)}" for what, formats in found["audio"].items())]
    lines += [f"binaries, for {WHAT_FOR}:"]
    lines += [f"  {name}: {version or 'not found'}" for name, version in found["binaries"].items()]
    lines += ["extras (pip install 'jaxsep[NAME]'):"]
    for extra, packages in found["extras"].items():
        missing = [name for name, version in packages.items() if not version]
        state = f"without {', '.join(missing)}" if missing else "complete"
        lines.append(f"  {extra}: {state if len(missing) < len(packages) else 'not installed'}")
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _installed(package: str, module: str) -> str | None:
    """The version; a module of another package's name (tensorflow-cpu's) is enough."""
    version = _version(package)
    return version or ("yes" if importlib.util.find_spec(module) else None)


def _devices() -> list[str]:
    from jaxsep import devices

    return devices.listing()


def _audio() -> dict[str, list[str]]:
    """What the audio libraries that are here read and write."""
    import soundfile

    known = [name for name in ("WAV", "FLAC", "OGG", "MP3") if name in soundfile.available_formats()]
    return {f"libsndfile {soundfile.__libsndfile_version__}": known, "PyAV": ["m4a", "mp4", "aac", ".stem.mp4"]}


def _binary(name: str, option: str) -> str | None:
    """Path and version of a program, None if it is not on the PATH."""
    path = shutil.which(name)
    if path is None:
        return None
    try:
        done = subprocess.run([path, option], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} (does not run: {error})"
    _, found, rest = done.stdout.partition("version ")
    return f"{path} ({rest.split()[0] if found and rest.strip() else 'version unknown'})"
