"""Runs a proof: Amaranth to an and-inverter graph by Yosys, which ABC proves or refutes (package pyosys has both).

Three methods. *Induction*: no cycle breaks a property after k that did not, whatever the registers hold, and none of
the first k does (M. Sheeran, S. Singh, G. Stålmarck, "Checking Safety Properties Using Induction and a SAT-Solver",
FMCAD 2000). *PDR*, property directed reachability: ABC finds the invariants by itself (A. Bradley, "SAT-Based Model
Checking without Unrolling", VMCAI 2011). Both hold for all cycles. *BMC*: no counterexample of so many cycles from
power-up.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyosys
from lepton_npu.verilog import run_yosys, to_rtlil

from .harness import Harness
from .planted import Bug, planted

__all__ = ["Design", "Outcome", "Proof", "harness", "prepare", "prove", "reach", "refute"]

_ABC = Path(str(pyosys.__file__)).with_name("yosys-abc")
_PASSES = [
    "hierarchy -top proof",
    "proc",
    "flatten",
    "memory_collect",
    "opt",
    "memory_map",
    "opt",
    "techmap",
    "simplemap",
    "opt",
    "setundef -zero",  # defaults of selections that are never taken: Amaranth has no x
    "dffunmap",
    "aigmap",
    "opt_clean",
]


@dataclass(frozen=True)
class Proof:
    """Properties of a unit that are proven together, and the bugs that must break one of them.

    Parameters
    ----------
    title, unit : str
        What is shown.
    build : callable
        Puts the unit, assumptions and properties into the `Harness` that it is given.
    bugs : dict of str to Bug
        By name.
    induction : int, optional
        Prove by induction over so many cycles.
    depth : int, optional
        Prove for so many cycles only. Without this and ``induction``: by PDR.
    search : int
        Cycles in which a bug must show, and a cover be reached.
    seconds : int
        Limit for each run of ABC.
    quick : bool
        Is a test of `make test` too, with its first bug: one of each kind of property, about 10 seconds at most.
    """

    title: str
    unit: str
    build: Callable[[Harness], None]
    bugs: dict[str, Bug]
    induction: int = 0
    depth: int = 0
    search: int = 30
    seconds: int = 300
    quick: bool = False

    @property
    def method(self) -> str:
        """In words."""
        return "induction" if self.induction else "BMC" if self.depth else "PDR"


@dataclass
class Design:
    """A proof as and-inverter graph; ``inputs`` are name and bit of each of its inputs, in order."""

    graph: Path
    inputs: dict[int, tuple[str, int]]
    outputs: list[str]
    properties: list[str]
    covers: list[str]


@dataclass
class Outcome:
    """``holds`` is None if the time was over. ``trace`` has the value of every input by name, in each cycle."""

    holds: bool | None
    depth: int
    seconds: float
    trace: list[dict[str, int]] = field(default_factory=list)


def harness(proof: Proof) -> Harness:
    """The harness, complete."""
    made = Harness()
    proof.build(made)
    made.finish()
    return made


def prepare(proof: Proof, folder: Path, bug: Bug | None = None) -> Design:
    """Convert ``proof``, with ``bug`` planted, into files of ``folder``."""
    with planted(bug):
        made = harness(proof)
        text, _ = to_rtlil(made, "proof", made.ports())
    source, graph, names = folder / "proof.il", folder / "proof.aig", folder / "proof.map"
    source.write_text(text)
    run_yosys([f"read_rtlil {source}", *_PASSES, f"write_aiger -zinit -map {names} {graph}"])
    inputs, outputs = {}, {}
    for line in names.read_text().splitlines():
        kind, number, *rest = line.split()  # and what registers without a first value begin with, which is not shown
        if kind == "input":
            inputs[int(number)] = (rest[1], int(rest[0]))
        elif kind == "output":
            outputs[int(number)] = rest[1]
    order = [outputs[number] for number in sorted(outputs)]
    return Design(graph, inputs, order, list(made.properties), list(made.covers))


def _abc(design: Design, script: str, seconds: float) -> Outcome:
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        trace = Path(scratch, "trace")
        command = [_ABC, "-c", f"read_aiger {design.graph}; {script}; print_status; write_cex -a {trace}"]
        try:
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, check=False, timeout=seconds + 30
            )
        except subprocess.TimeoutExpired:
            return Outcome(None, 0, time.monotonic() - begin)
        took = time.monotonic() - begin
        status = re.findall(r"Status = *(-?\d+) *Frames = *(-?\d+)", done.stdout)
        if not status:
            raise RuntimeError(f"ABC gave no result of {script!r}: {(done.stdout + done.stderr)[-500:]}")
        result, frames = map(int, status[-1])
        if result == 0 and trace.exists():
            return Outcome(False, *_read_trace(trace, design, took))
        return Outcome({1: True, 0: False}.get(result), frames, took)


def _read_trace(path: Path, design: Design, took: float) -> tuple[int, float, list[dict[str, int]]]:
    _, *cycles = [line for line in path.read_text().splitlines() if re.fullmatch("[01]+", line)]
    trace = []
    for line in cycles:
        values: dict[str, int] = {}
        for number, (name, bit) in design.inputs.items():
            values[name] = values.get(name, 0) | int(line[number]) << bit
        trace.append(values)
    return len(trace), took, trace


def prove(design: Design, proof: Proof, seconds: float | None = None) -> Outcome:
    """Prove all properties by the method of ``proof``; ``depth`` is then the k, the clauses' frames, or the bound."""
    limit = seconds or proof.seconds
    if proof.induction:
        return _induction(design, proof.induction, limit)
    simpler = f"{_one(design, 'bad')}; scorr; dc2; scorr"
    if proof.depth:
        outcome = _abc(design, f"{simpler}; bmc3 -F {proof.depth} -T {limit:.0f}", limit)
        if outcome.holds is None and outcome.depth >= proof.depth - 1:
            return Outcome(True, proof.depth, outcome.seconds)
    else:
        outcome = _abc(design, f"{simpler}; pdr -T {limit:.0f}", limit)
    if outcome.holds is None and outcome.depth <= 0:  # nothing may be left of it that has a register
        alone = _abc(design, f"{simpler}; iprove", limit)
        return Outcome(True, 1, outcome.seconds + alone.seconds) if alone.holds else outcome
    return outcome


def _one(design: Design, *outputs: str) -> str:
    """Keep ``outputs`` of the graph, and all inputs."""
    return "cone -a -N " + ",".join(str(design.outputs.index(name)) for name in outputs)


def _induction(design: Design, k: int, limit: float) -> Outcome:
    base = _abc(design, f"{_one(design, 'bad')}; bmc3 -F {k} -T {limit:.0f}", limit)
    if base.holds is False or base.depth < k - 1:
        return base
    # k cycles from any state, good, and then a bad one: outputs of a cycle are (bad, good), in the order of cycles.
    chosen = ",".join(str(2 * cycle + 1) for cycle in range(k)) + f",{2 * k}"
    # What `scorr` merges is equal in every state that can be reached; it takes far longer than the step alone.
    seconds = base.seconds
    for before in ("", "scorr; "):
        step = _abc(
            design,
            f"{_one(design, 'bad', 'good')}; {before}frames -F {k + 1}; comb; cone -N {chosen}; andpos; iprove",
            limit,
        )
        seconds += step.seconds
        if step.holds:
            break
    # A step that fails is no counterexample: its first state may be one that is never reached.
    return Outcome(True if step.holds else None, k, seconds)


def refute(design: Design, proof: Proof, output: str = "bad") -> Outcome:
    """Search a shortest run of at most ``proof.search`` cycles in which ``output`` is 1 ("found": a narrow one)."""
    return _abc(design, f"{_one(design, output)}; bmc3 -F {proof.search} -T {proof.seconds}", proof.seconds)


def reach(design: Design, proof: Proof) -> list[str]:
    """The covers that are not reached within ``proof.search`` cycles: assumptions that leave no room for them."""
    return [
        name for number, name in enumerate(design.covers) if refute(design, proof, f"cover{number}").holds is not False
    ]
