"""Verilator's own library (``verilated*.o``), which every build links: compiled once for each set of flags."""

import shutil
import tempfile
from pathlib import Path

from .cache import cache_folder, digest, locked

__all__ = ["keep_runtime", "take_runtime"]


def take_runtime(folder: Path, *key: object) -> Path:
    """Put the kept objects of ``key`` (tools and flags), if there are any, where ``make`` will look for them.

    Returns
    -------
    Path
        Where they are kept, for `keep_runtime`.
    """
    runtime = cache_folder() / f"runtime-{digest(*key)}"
    if runtime.is_dir():
        folder.mkdir(exist_ok=True)
        for item in runtime.iterdir():
            shutil.copyfile(item, folder / item.name)
    return runtime


def keep_runtime(folder: Path, runtime: Path) -> None:
    """Keep the objects that a build has made in ``folder``."""
    if runtime.is_dir():
        return
    with locked(runtime.with_name(runtime.name + ".lock")):
        if not runtime.is_dir():
            fresh = Path(tempfile.mkdtemp(prefix=".runtime-", dir=cache_folder()))
            for item in folder.glob("verilated*.o"):
                shutil.copyfile(item, fresh / item.name)
            fresh.rename(runtime)
