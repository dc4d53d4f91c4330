"""The folder in which builds are kept by content, shared by processes that run at the same time."""

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

__all__ = ["ROOT", "build_folder", "cache_folder", "digest", "kept_text", "locked"]

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder."""


def build_folder() -> Path:
    """Where everything generated goes: ``build`` in the project."""
    return ROOT / "build"


def cache_folder() -> Path:
    """Folder of the kept builds."""
    return Path(os.environ.get("LEPTON_CACHE") or build_folder() / "cache")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``: one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def digest(*parts: object) -> str:
    """Short hash of the texts of ``parts``."""
    return hashlib.sha256("\0".join(str(part) for part in parts).encode()).hexdigest()[:20]


@functools.cache
def gateware_digest() -> str:
    """Hash of everything that generated Verilog depends on: the gateware's sources, Amaranth's and Yosys' versions."""
    sources = sorted((ROOT / "gateware").rglob("*.py")) + sorted((ROOT / "gateware").rglob("*.rdl"))
    texts = [f"{path.relative_to(ROOT)}\0{path.read_text()}" for path in sources]
    return digest(metadata.version("amaranth"), metadata.version("pyosys"), *texts)


def kept_text(name: str, key: tuple, make: Callable[[], str]) -> str:
    """``make()``, or the text it gave before for the same ``key`` and the same gateware.

    For the whole core, whose Verilog takes longer to generate than many a test to run. ``key`` holds whatever decides
    the text besides the sources in ``gateware``.
    """
    path = cache_folder() / f"{name}-{digest(gateware_digest(), *key)}.sv"
    if not path.exists():
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                fresh = path.with_suffix(f".{os.getpid()}")
                fresh.write_text(make())
                fresh.replace(path)
    return path.read_text()
