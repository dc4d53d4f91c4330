"""Builds of Verilog for cocotb under Verilator and Icarus, kept by content.

A build is named by a hash of everything it depends on (Verilog, flags, tool versions), so the second run of a test
builds nothing. Entries are made in a folder of their own and renamed when complete, under a file lock, so parallel
test processes neither build twice nor see half an entry. They live in ``build/cache``; the environment variable
``LEPTON_CACHE`` names another folder. Deleting the folder is always safe.
"""

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cocotb
import cocotb_tools.config

from . import tools
from .cache import cache_folder, digest, locked
from .compile import JOBS, MODEL_FLAGS, make_variables, merge_sources, recipe_version
from .runtime import kept_runtime

__all__ = ["WAIVERS", "BuildError", "Built", "build", "top_ports"]

WAIVERS = Path(__file__).with_name("waivers.vlt")
"""The one list of Verilator warnings that are waived, each with its reason."""


class BuildError(Exception):
    """A simulator refused the design; the message holds what it said."""


@dataclass(frozen=True)
class Built:
    """A design that is ready to be simulated.

    Attributes
    ----------
    simulator : str
        ``"verilator"`` or ``"icarus"``.
    toplevel : str
        Name of the top module.
    folder : Path
        The entry in the cache; read only.
    waves : bool
        Whether it can record waveforms.
    """

    simulator: str
    toplevel: str
    folder: Path
    waves: bool


def top_ports(verilog: str, toplevel: str) -> list[str]:
    """Names of the ports of module ``toplevel``."""
    match = re.search(rf"^module {re.escape(toplevel)}\s*\((.*?)\);", verilog, re.MULTILINE | re.DOTALL)
    if match is None:
        raise BuildError(f"the Verilog holds no module {toplevel}")
    return [re.split(r"[\s\]]", port.strip())[-1] for port in match[1].split(",") if port.strip()]


def _call(command: Sequence[str | Path], folder: Path, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    with (folder / "build.log").open("a") as log:
        log.write(done.stdout)
    if done.returncode:
        raise BuildError(f"{Path(command[0]).name} failed:\n{done.stdout[-6000:]}")


def build(
    verilog: str,
    toplevel: str,
    *,
    simulator: str = "verilator",
    waves: bool = False,
    public: Sequence[tuple[str, str]] = (),
    flags: Sequence[str] = (),
) -> Built:
    """Build ``verilog`` for cocotb, or find the build of the same content.

    Parameters
    ----------
    verilog : str
        SystemVerilog of the whole design, as from `lepton_npu.verilog.generate`.
    toplevel : str
        Its top module.
    simulator : str
        ``"verilator"`` or ``"icarus"``.
    waves : bool
        Able to record waveforms (a build of its own, and slower).
    public : sequence of (module, signal)
        Internal signals, with wildcards, that Python may read under Verilator. The top's ports always are; every
        further public signal costs speed. Under Icarus all signals are visible.
    flags : sequence of str
        More flags for the simulator's compiler.

    Raises
    ------
    ToolMissing
        If the simulator is not installed.
    BuildError
        If it refuses the design.
    """
    tools.check(simulator)
    recipe = _verilator if simulator == "verilator" else _icarus
    versions = (
        (tools.verilator().version, tools.compiler_version(), recipe_version(), WAIVERS.read_text())
        if simulator == "verilator"
        else (tools.icarus_version(),)
    )
    key = digest(
        simulator,
        toplevel,
        waves,
        tuple(public),
        tuple(flags),
        cocotb.__version__,
        _recipe_version(),
        *versions,
        verilog,
    )
    entry = cache_folder() / f"{toplevel}-{simulator}{'-waves' if waves else ''}-{key}"
    built = Built(simulator, toplevel, entry, waves)
    if entry.is_dir():
        return built
    with locked(entry.with_name(entry.name + ".lock")):
        if not entry.is_dir():
            work = Path(tempfile.mkdtemp(prefix=f".{toplevel}-", dir=cache_folder()))
            try:
                (work / "design.sv").write_text(verilog)
                recipe(work, verilog, toplevel, waves, public, flags)
                work.rename(entry)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise
    return built


@functools.cache
def _recipe_version() -> str:
    return digest(Path(__file__).read_text())


def _verilator(
    work: Path,
    verilog: str,
    toplevel: str,
    waves: bool,
    public: Sequence[tuple[str, str]],
    flags: Sequence[str],
) -> None:
    tool = tools.verilator()
    # cocotb's own runner makes every signal public (--public-flat-rw), which forbids most optimisation: simulation
    # then runs at 0.4 of the speed. Only the ports, and what the testbench asks for, need to be.
    lines = [f'public_flat_rw -module "{toplevel}" -var "{port}"' for port in top_ports(verilog, toplevel)]
    lines += [f'public_flat_rw -module "{module}" -var "{signal}"' for module, signal in public]
    (work / "public.vlt").write_text("\n".join(["`verilator_config", *lines, ""]))
    libraries = cocotb_tools.config.libs_dir
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    command: list[str | Path] = [
        tool.executable, "--cc", "--exe", "--vpi", "--no-timing", "--timescale", "1ns/1ps", "-O3",
        # Two-state: a register or memory word without a value starts as zero, as on an FPGA; Icarus finds X.
        "--x-assign", "fast", "--x-initial", "fast",
        "-Wno-fatal", "--top-module", toplevel, "--prefix", "Vtop", "-Mdir", ".", "-o", "simulator",
        "-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator",
        *(_trace_flags() if waves else ()),
        *MODEL_FLAGS, *flags,
        WAIVERS, "public.vlt", "design.sv",
        main,
    ]  # fmt: skip
    (work / "flags").write_text(" ".join(str(part) for part in command[1:]))
    _call(command, work, tool.environment())
    merge_sources(work, main)
    make = ["make", f"-j{JOBS}", "-f", "Vtop.mk", *make_variables()]
    with kept_runtime(work, *flags):
        _call(make, work, {**tool.environment(), "MAKEFLAGS": "", "MAKELEVEL": ""})
    for pattern in ("*.o", "*.a", "*.cpp", "*.gch", "*.d", "*.h", "*.dat", "*.mk"):
        for item in work.glob(pattern):
            item.unlink()


@functools.cache
def _trace_flags() -> tuple[str, ...]:
    """FST where its compression library can be compiled against, otherwise VCD."""
    probe = subprocess.run(
        ["g++", "-xc++", "-fsyntax-only", "-include", "lz4.h", "-include", "zlib.h", "-"],
        input="", text=True, capture_output=True, check=False,
    )  # fmt: skip
    if probe.returncode:
        return ("--trace-vcd",)
    return ("--trace-fst", "-LDFLAGS", "-llz4 -lz")


def _icarus(
    work: Path,
    verilog: str,
    toplevel: str,
    waves: bool,
    public: Sequence[tuple[str, str]],
    flags: Sequence[str],
) -> None:
    sources = ["design.sv"]
    tops = [toplevel]
    (work / "timescale.f").write_text("+timescale+1ns/1ps\n")
    if waves:
        (work / "waves.sv").write_text(
            "module lepton_waves();\n"
            "  string path;\n"
            "  initial begin\n"
            '    if ($value$plusargs("waves=%s", path)) begin\n'
            "      $dumpfile(path);\n"
            f"      $dumpvars(0, {toplevel});\n"
            "    end\n"
            "  end\n"
            "endmodule\n"
        )
        sources.append("waves.sv")
        tops.append("lepton_waves")
    command = ["iverilog", "-g2012", "-o", "simulator.vvp", "-f", "timescale.f", *flags]
    _call([*command, *(part for top in tops for part in ("-s", top)), *sources], work)
