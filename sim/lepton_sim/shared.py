"""Verilator models as shared libraries with a C++ shim around them, built once per content, then from the cache."""

import os
import subprocess
import tempfile
from pathlib import Path

from . import tools
from .build import WAIVERS, BuildError, cache_folder, digest, locked, make_variables

__all__ = ["build_shared"]

_FLAGS = (
    "--cc", "--exe", "--build", "--prefix", "Vtop", "-O3", "--x-assign", "fast", "--x-initial", "unique",
    "--no-timing", "-Wno-fatal", "-j", "2", "-LDFLAGS", "-shared",
)  # fmt: skip


def build_shared(
    name: str, verilog: str, source: str, *, headers: dict[str, str] | None = None,
    defines: dict[str, int] | None = None, extra=(),
) -> Path:  # fmt: skip
    """Shared library of C++ ``source`` linked with the Verilator model (class ``Vtop``) of ``verilog``.

    Parameters
    ----------
    name : str
        Start of the file's name in the cache.
    headers : dict of str to str
        Texts of the files that ``source`` includes, by their names.
    defines : dict of str to int
        Macros for the shim.
    extra : sequence of str
        More options of Verilator.

    Raises
    ------
    ToolMissing
        If Verilator or a compiler is not there.
    BuildError
        If the build fails; the message ends with what the tools said.
    """
    tool = tools.verilator()
    macros = "".join(f" -D{key}={value}" for key, value in (defines or {}).items())
    flags = [*_FLAGS, "-CFLAGS", f"-fPIC -std=c++17{macros}", *extra]
    key = digest(
        verilog,
        source,
        *(headers or {}).items(),
        WAIVERS.read_text(),
        *flags,
        *make_variables(),
        tool.version,
        tools.compiler_version(),
    )
    target = cache_folder() / f"{name}-{key}.so"
    if target.exists():
        return target
    with locked(target.with_suffix(".lock")):
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                for header, text in (headers or {}).items():
                    (Path(folder) / header).write_text(text)
                _build(tool, flags, verilog, source, Path(folder), target)
    return target


def _build(tool: tools.Verilator, flags: list[str], verilog: str, source: str, folder: Path, target: Path):
    (folder / "top.sv").write_text(verilog)
    (folder / "shim.cpp").write_text(source)
    environment = {**os.environ, **tool.environment(), "MAKEFLAGS": " ".join(["-j2", *make_variables()])}
    command = [str(tool.executable), *flags, "-o", "model.so", str(WAIVERS), "top.sv", "shim.cpp"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    library = folder / "obj_dir" / "model.so"
    if done.returncode or not library.exists():
        raise BuildError(f"building {target.name} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    os.replace(library, target)
