"""Verilator models as shared libraries with a C++ shim around them, built once per content, then from the cache."""

import os
import subprocess
import tempfile
from pathlib import Path

from . import tools
from .build import WAIVERS, BuildError
from .cache import cache_folder, digest, locked
from .compile import JOBS, MODEL_FLAGS, make_variables, merge_sources, recipe_version
from .runtime import kept_runtime

__all__ = ["build_shared"]

_FLAGS = (
    "--cc", "--exe", "--prefix", "Vtop", "-O3", "--x-assign", "fast", "--x-initial", "unique",
    "--no-timing", "-Wno-fatal", "-LDFLAGS", "-shared",
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
    # Not as options: Verilator's own library would be compiled again with each set of them.
    source = "".join(f"#define {key} {value}\n" for key, value in (defines or {}).items()) + source
    flags = [*_FLAGS, *MODEL_FLAGS, *extra]
    key = digest(
        verilog,
        source,
        *(headers or {}).items(),
        WAIVERS.read_text(),
        *flags,
        recipe_version(),
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


def _build(
    tool: tools.Verilator, flags: list[str], verilog: str, source: str, folder: Path, target: Path
):  # fmt: skip
    (folder / "top.sv").write_text(verilog)
    (folder / "shim.cpp").write_text(source)
    environment = {**os.environ, **tool.environment(), "MAKEFLAGS": "", "MAKELEVEL": ""}
    objects, said = folder / "obj_dir", ""

    def call(*command: str):
        nonlocal said
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        said += done.stdout + done.stderr
        if done.returncode:
            raise BuildError(f"building {target.name} failed:\n{said[-4000:]}")

    call(str(tool.executable), *flags, "-o", "model.so", str(WAIVERS), "top.sv", "shim.cpp")
    merge_sources(objects, folder / "shim.cpp")
    with kept_runtime(objects):
        call("make", f"-j{JOBS}", "-C", "obj_dir", "-f", "Vtop.mk", *make_variables())
    os.replace(objects / "model.so", target)
