"""Building the compiled harness: once per Verilog text, configuration and tool version, then from the cache."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from lepton_npu.spec.config import NpuConfig

from ..tools import ToolMissing, ccache, compiler_version, verilator

__all__ = ["build_harness", "cache_folder"]

_SOURCE = Path(__file__).with_name("harness.cpp")
_WAIVERS = Path(__file__).parents[1] / "waivers.vlt"


def cache_folder() -> Path:
    """Where builds are kept: ``LEPTON_CACHE``, else ``build/cache`` of the project."""
    return Path(os.environ.get("LEPTON_CACHE") or Path(__file__).parents[3] / "build" / "cache")


def build_harness(verilog: str, config: NpuConfig, *, trace: bool = False, coverage: bool = False) -> Path:
    """Shared library of the harness around ``verilog``, whose only top module is the core.

    Parameters
    ----------
    verilog : str
        SystemVerilog of `lepton_npu.top.LeptonNpu` for ``config``.
    trace : bool
        With VCD tracing (a build of its own: it is slower).
    coverage : bool
        With line and toggle coverage.

    Raises
    ------
    ToolMissing
        If Verilator or a compiler is not there.
    RuntimeError
        If the build fails; the message ends with what the tools said.
    """
    tool = verilator()
    arguments = [
        "--cc", "--exe", "--build", "--prefix", "Vtop", "-O3", "--x-assign", "fast", "--x-initial", "unique",
        "--no-timing", "-Wno-fatal", "-j", "2", "-LDFLAGS", "-shared",
        "-CFLAGS", f"-fPIC -O2 -std=c++17 -DLEPTON_BUS_BYTES={config.bus_bytes}",
    ]  # fmt: skip
    if trace:
        arguments.append("--trace")
    if coverage:
        arguments += ["--coverage-line", "--coverage-toggle"]
    key = hashlib.sha256()
    for part in (verilog, _SOURCE.read_text(), _WAIVERS.read_text(), " ".join(arguments), tool.version,
                 compiler_version()):  # fmt: skip
        key.update(part.encode() + b"\0")
    target = cache_folder() / f"harness-{key.hexdigest()[:24]}.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():  # another process built it meanwhile
            return target
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _build(tool, arguments, verilog, Path(folder), target)
    return target


def _build(tool, arguments: list[str], verilog: str, folder: Path, target: Path):
    (folder / "top.sv").write_text(verilog)
    shutil.copy(_SOURCE, folder / "harness.cpp")
    environment = {
        **os.environ,
        **tool.environment(),
        # The wheel's makefile breaks its precompiled header without this.
        "MAKEFLAGS": "-j2 CFG_CXXFLAGS_PCH_I=-include",
    }
    if (cached := ccache()) is not None:
        environment["OBJCACHE"] = cached
    command = [str(tool.executable), *arguments, "-o", "harness.so", str(_WAIVERS), "top.sv", "harness.cpp"]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ToolMissing(f"{error.filename} is not installed") from error
    library = folder / "obj_dir" / "harness.so"
    if done.returncode or not library.exists():
        raise RuntimeError(f"building the harness failed:\n{(done.stdout + done.stderr)[-4000:]}")
    os.replace(library, target)
