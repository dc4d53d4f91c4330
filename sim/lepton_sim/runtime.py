"""Verilator's own library (``verilated*.o``), which every build links: each of its files is compiled once."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from . import tools
from .cache import cache_folder, digest, locked
from .compile import recipe_version

__all__ = ["kept_runtime"]


@contextlib.contextmanager
def kept_runtime(folder: Path, *flags: str) -> Iterator[None]:
    """Around ``make`` in ``folder``: it finds the objects that there are, and those that it has made are kept.

    They depend on the tools, on how all models are compiled, and on the ``flags`` of this one, but not on the model:
    what only models with waveforms need are files of their own.
    """
    key = digest(tools.verilator().version, tools.compiler_version(), recipe_version(), *flags)
    kept = cache_folder() / f"runtime-{key}"
    kept.mkdir(parents=True, exist_ok=True)
    for item in kept.glob("*.o"):
        shutil.copyfile(item, folder / item.name)
    yield
    with locked(kept.with_name(kept.name + ".lock")):
        for item in folder.glob("verilated*.o"):
            if not (kept / item.name).exists():
                fresh = kept / f".{item.name}.{os.getpid()}"
                shutil.copyfile(item, fresh)
                fresh.replace(kept / item.name)
