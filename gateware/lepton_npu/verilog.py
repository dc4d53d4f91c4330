"""Amaranth to SystemVerilog: readable, the same bytes every time, safe in event-driven simulators.

``python -m lepton_npu.verilog --output rtl`` writes every preset; `generate` converts any component.

Two things differ from `amaranth.back.verilog`, both through Yosys passes (its native Python package is used):

- No combinational process is left (``proc`` makes them multiplexers). Amaranth's ``always @*`` blocks run for the first
  time when one of their inputs changes, so a state machine whose inputs rest can stay X in Icarus, even after reset
  (amaranth issues 594 and 1629). Continuous assignments have no such state.
- Registers are written ``if (rst) ...; else if (enable) ...`` (``opt_dff``), so that a simulator skips what an
  idle unit would compute: on a 16x16 array Verilator runs 4 times as fast busy, and 15 times as fast idle.
"""

import argparse
import contextlib
import functools
import gc
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Fragment, Signal, Value, ValueCastable
from amaranth.hdl._ast import SignalDict
from amaranth.hdl._ir import PortDirection
from amaranth.hdl._mem import MemoryData, MemoryInstance
from amaranth.lib import wiring

__all__ = ["VerilogError", "generate", "generate_preset", "port_names", "run_yosys", "to_rtlil", "yosys_version"]

_PASSES = [
    "proc -norom",
    "memory_collect",
    "opt_expr",
    "opt_merge",
    "opt_clean",
    "pmuxtree",  # selections by state as `? :` instead of functions, which Verilator runs at a third of the speed
    "opt_expr",
    "opt_clean",
    "opt_dff -simple-dffe",
    "wreduce",
    "opt_clean",
]

Ports = Mapping[str, tuple[Value, PortDirection]]

_YOSYS = """
import sys
from pyosys import libyosys
design = libyosys.Design()
for line in open(sys.argv[1]):
    libyosys.run_pass(line.strip(), design)
"""


class VerilogError(Exception):
    """A design that cannot be converted, with Yosys' message or the name that is in the way."""


def run_yosys(commands: list[str]) -> str:
    """Run Yosys ``commands`` in a process of its own (an error in Yosys ends the process) and return the log."""
    with tempfile.NamedTemporaryFile("w", suffix=".ys") as script:
        script.write("\n".join(commands) + "\n")
        script.flush()
        done = subprocess.run([sys.executable, "-c", _YOSYS, script.name], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line or "Error" in line]
        raise VerilogError("Yosys: " + ("; ".join(lines[-3:]) or (done.stdout + done.stderr)[-2000:]))
    return done.stdout


@functools.cache
def yosys_version() -> str:
    """Version of the Yosys package, as far as its output depends on it."""
    from importlib.metadata import version

    return version("pyosys")


def port_names(component: wiring.Component, separator: str = "_") -> dict[str, tuple[Value, PortDirection]]:
    """Ports of ``component`` by name: the members of its signature, joined by ``separator``.

    A stream ``i`` gives ``i_payload``, ``i_valid``, ``i_ready``; an interface ``m_axi`` with a member ``awaddr``
    gives the AMBA name ``m_axi_awaddr``.

    Raises
    ------
    VerilogError
        If two members get the same name.
    """
    ports: dict[str, tuple[Value, PortDirection]] = {}
    for path, member, value in component.signature.flatten(component):
        name = separator.join(str(part) for part in path)
        if isinstance(value, ValueCastable):
            value = value.as_value()
        if not isinstance(value, Value):
            continue
        if name in ports:
            raise VerilogError(f"two ports of {type(component).__name__} would both be called {name}")
        ports[name] = (value, PortDirection.Input if member.flow == wiring.In else PortDirection.Output)
    return ports


_NUMBERED_PORT = re.compile(r"port\$\d+\$\d+")
"""What Amaranth calls a port that no signal names: by the cell of the whole design that drives it."""

_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|\\\S+')
_MODULE = re.compile(r"^module \\(\S+)", re.MULTILINE)


def _plain(name: str) -> str:
    """``name`` as an identifier that needs no escape: dots, brackets, dollars and double underscores go."""
    plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return plain if plain[:1].isalpha() else f"n{plain}"


class _Names:
    """Plain names, unique in one scope, given in the order of asking."""

    def __init__(self, taken: tuple[str, ...] = ()):
        self._given: dict[str, str] = {name: name for name in taken}
        self._taken = set(taken)

    def __getitem__(self, name: str) -> str:
        if name not in self._given:
            # Counted in each module instead, else modules that are equal would differ in these names.
            stem = "port" if _NUMBERED_PORT.fullmatch(name) else _plain(name)
            plain, count = stem, 1
            while plain in self._taken:
                count += 1
                plain = f"{stem}_{count}"
            self._given[name] = plain
            self._taken.add(plain)
        return self._given[name]


def _rename(text: str, top: str, ports: tuple[str, ...]) -> tuple[str, dict[str, _Names]]:
    """RTLIL ``text`` with plain names (``ports`` are those of the module ``top``), and the names by (old) module."""
    modules = _Names((top,))
    scopes = {name: _Names(ports if name == top else ()) for name in _MODULE.findall(text)}

    def names(line: str, scope: _Names) -> str:
        return _TOKEN.sub(lambda token: token[0] if token[0][0] == '"' else "\\" + scope[token[0][1:]], line)

    scope = modules
    child: _Names | None = None  # names of the ports of the cell that is being described, if it is a module of ours
    result = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        first, _, others = rest.partition(" ")
        if word == "module":
            scope = scopes[first[1:]]
            line = f"module \\{modules[first[1:]]}"
        elif word == "cell":
            child = scopes.get(first[1:])
            line = f"  cell {names(first, modules) if child else first} {names(others, scope)}"
        elif word == "connect" and line.startswith("    "):
            line = f"    connect {names(first, child) if child else first} {names(others, scope)}"
        elif first == "\\MEMID":
            line = f'    parameter \\MEMID "\\\\{scope[others[3:-1]]}"'
        elif word not in ("parameter", "attribute"):
            line = names(line, scope)
        result.append(line)
    return "\n".join(result) + "\n", scopes


_BLOCK = re.compile(r"(?:^attribute [^\n]*\n)*^module \\(\S+)\n.*?^end\n", re.MULTILINE | re.DOTALL)
_CELL = re.compile(r"^  cell \\(\S+)", re.MULTILINE)


def _merge_equal_modules(text: str) -> str:
    """RTLIL ``text`` with one module in place of those that are equal but for their names: the lanes, the banks, ....

    What is instantiated many times is then converted, compiled and read once.
    """
    modules = {match[1]: match[0] for match in _BLOCK.finditer(text)}
    while True:
        first: dict[str, str] = {}
        same: dict[str, str] = {}
        for name, body in modules.items():
            kept = first.setdefault(body.replace(f"module \\{name}\n", "module\n", 1), name)
            if kept != name:
                same[name] = kept
        if not same:
            return "".join(modules.values())

        def kept_cell(cell: re.Match[str], same: dict[str, str] = same) -> str:
            return f"  cell \\{same.get(cell[1], cell[1])}"

        modules = {name: _CELL.sub(kept_cell, body) for name, body in modules.items() if name not in same}


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's collector, which would look through millions of objects that all live: a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _memories(fragment: Fragment) -> Iterator[MemoryData]:
    """The memories of ``fragment`` and of all below it."""
    if isinstance(fragment, MemoryInstance):
        yield fragment._data
    for below, *_ in fragment.subfragments:
        yield from _memories(below)


@contextlib.contextmanager
def _short_zeros(fragment: Fragment) -> Iterator[None]:
    """Memories that begin as zeros without their words, which Amaranth would write bit by bit: half of its time.

    `_zeros` writes the constants that are then missing.
    """
    words = [(data._init, data._init._raw) for data in _memories(fragment) if not any(data._init._raw)]
    try:
        for init, _ in words:
            init._raw = []
        yield
    finally:
        for init, raw in words:
            init._raw = raw


_NO_WORDS = re.compile(
    r"(  cell \$meminit_v2 [^\n]*\n(?:    parameter [^\n]*\n)*?"
    r"    parameter \\WIDTH (\d+)\n    parameter \\WORDS (\d+)\n"
    r"(?:    (?!connect \\DATA)[^\n]*\n)*    connect \\DATA )\{ *\}\n"
)


def _zeros(text: str) -> str:
    """RTLIL ``text`` with a zero of the whole memory's width where `_short_zeros` has left its words out."""
    return _NO_WORDS.sub(lambda cell: f"{cell[1]}{int(cell[2]) * int(cell[3])}'0\n", text)


def to_rtlil(component: Elaboratable, name: str, ports: Ports | None = None) -> tuple[str, SignalDict]:
    """RTLIL of ``component`` with plain names; see `generate` for the arguments and the name map."""
    if ports is None:
        if not isinstance(component, wiring.Component):
            raise VerilogError(f"{type(component).__name__} has no signature: pass `ports`")
        ports = port_names(component)
    with _no_collection():
        fragment = Fragment.get(component, None)
        with _short_zeros(fragment):
            text, name_map = rtlil.convert_fragment(fragment, dict(ports), name, emit_src=False)
    text, scopes = _rename(_zeros(text), name, tuple(ports))
    text = _merge_equal_modules(text)
    plain_map = SignalDict()
    for signal, path in name_map.items():
        *parents, leaf = path
        plain = [parents[0]]
        for depth in range(1, len(parents)):
            plain.append(scopes[".".join(parents[:depth])][parents[depth]])
        scope = scopes.get(".".join(parents))
        if scope is not None:
            plain_map[signal] = (*plain, scope[leaf])
    return text, plain_map


_INITIAL = re.compile(r"^  initial begin\n((?:    \S+\[\d+\] = [^;]+;\n)+)  end\n", re.MULTILINE)
_ELEMENT = re.compile(r"    (\S+)\[(\d+)\] = ([^;]+);\n")


def _fold_initial(match: re.Match[str]) -> str:
    """A memory whose words all start equal as one loop, instead of thousands of lines."""
    elements = _ELEMENT.findall(match[1])
    memory, _, value = elements[0]
    if len(elements) < 4 or any(e != (memory, str(i), value) for i, e in enumerate(elements)):
        return match[0]
    return (
        f"  initial begin\n    for (int i = 0; i < {len(elements)}; i = i + 1)\n      {memory}[i] = {value};\n  end\n"
    )


def generate(
    component: Elaboratable, name: str, ports: Ports | None = None, *, header: str = ""
) -> tuple[str, SignalDict]:
    """SystemVerilog of ``component``.

    Parameters
    ----------
    component : Elaboratable
        Usually a `wiring.Component`, whose signature then gives the ports (`port_names`).
    name : str
        Name of the top module. Modules below are ``<name>_<submodule>_<...>``.
    ports : mapping of str to (Value, PortDirection), optional
        Other port names than those of the signature. ``clk`` and ``rst`` come by themselves.
    header : str
        Lines of comment for the head of the file, without ``//``.

    Returns
    -------
    (str, SignalDict)
        The text, which depends on nothing but the design and the versions of Amaranth and Yosys, and the name map:
        for each Amaranth signal ``(top, instance, ..., name)`` in the Verilog.

    Raises
    ------
    VerilogError
        If the design cannot be converted.
    """
    text, name_map = to_rtlil(component, name, ports)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.sv")
        source.write_text(text)
        run_yosys([f"read_rtlil {source}", *_PASSES, f"write_verilog -sv -noattr {target}"])
        verilog = target.read_text()
    verilog = re.sub(r"\A/\* Generated by [^\n]*\*/\n", "", verilog)
    verilog = _INITIAL.sub(_fold_initial, verilog)
    head = [f"// {line}".rstrip() for line in header.splitlines()]
    head += ["// Generated from Amaranth; do not edit.", "`timescale 1ns/1ps", ""]
    return "\n".join(head) + verilog, name_map


def signal_paths(name_map: SignalDict, pattern: str = "") -> dict[str, str]:
    """``{"top.unit.signal": "..."}`` of a name map, as text for a JSON file beside the Verilog."""
    return {
        ".".join(path): signal.name
        for signal, path in name_map.items()
        if isinstance(signal, Signal) and re.search(pattern, ".".join(path))
    }


def generate_preset(preset: str) -> tuple[str, SignalDict]:
    """Verilog of the whole core in a named preset: top module ``lepton_npu_<preset>``."""
    from .spec.config import PRESETS

    if preset not in PRESETS:
        raise VerilogError(f"preset must be one of {', '.join(PRESETS)}, not {preset}")
    from .top import LeptonNpu

    config = PRESETS[preset]
    return generate(
        LeptonNpu(config),
        f"lepton_npu_{preset}",
        header=f"Lepton NPU, preset {preset}: {config}\nSPDX-License-Identifier: Apache-2.0",
    )


def main(arguments: list[str] | None = None) -> None:
    from .spec.config import PRESETS

    parser = argparse.ArgumentParser(prog="python -m lepton_npu.verilog", description="Write the core as Verilog.")
    parser.add_argument("--preset", choices=sorted(PRESETS), action="append", help="default: every preset")
    parser.add_argument("--output", type=Path, default=Path("rtl"), help="folder for the files (default: rtl)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for preset in options.preset or PRESETS:
        text, name_map = generate_preset(preset)
        path = options.output / f"lepton_npu_{preset}.sv"
        path.write_text(text)
        paths = dict(sorted(signal_paths(name_map).items()))
        path.with_suffix(".names.json").write_text(json.dumps(list(paths), indent=0) + "\n")
        print(f"{path}: {len(text.splitlines())} lines")


if __name__ == "__main__":
    main()
