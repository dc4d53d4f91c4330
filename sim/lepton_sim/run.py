"""Runs cocotb testbenches on a component or on Verilog, and says which tests failed."""

import json
import os
import re
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.hdl import Elaboratable
from cocotb_tools.runner import Icarus, Verilator
from lepton_npu.verilog import generate

from . import tools
from .build import Built, build
from .cache import build_folder

__all__ = ["CocotbResult", "params", "run_cocotb", "seed"]

TIMEOUT = int(os.environ.get("LEPTON_TIMEOUT") or "1200")
"""Seconds after which a simulation is killed: a hang in the host program must not hang the regression."""


@dataclass(frozen=True)
class CocotbResult:
    """What a run left behind.

    Attributes
    ----------
    folder : Path
        Folder with ``results.xml`` (JUnit), ``sim.log`` and, if asked for, ``waves.fst`` or ``waves.vcd``.
    tests : dict of str to str
        ``"passed"``, ``"failed"`` or ``"skipped"`` for each cocotb test.
    messages : dict of str to str
        What each failed test said.
    build_seconds, run_seconds : float
        Time to generate and build (almost nothing if it was kept), and to simulate.
    """

    folder: Path
    tests: dict[str, str]
    messages: dict[str, str] = field(default_factory=dict)
    build_seconds: float = 0.0
    run_seconds: float = 0.0


class _BuiltVerilator(Verilator):
    """cocotb's runner of a program that `lepton_sim.build` has built."""

    program: Path

    def _test_command(self) -> list[list[str]]:
        return [[*_limit(), *self._get_sim_cmd_prefix(), str(self.program), *self.test_args, *self.plusargs]]


class _BuiltIcarus(Icarus):
    program: Path

    @property
    def sim_file(self) -> Path:
        return self.program

    def _test_command(self) -> list[list[str]]:
        return [[*_limit(), *command] for command in super()._test_command()]


def _limit() -> list[str]:
    return ["timeout", str(TIMEOUT)] if shutil.which("timeout") else []


def seed(default: int = 1) -> int:
    """The seed of this run: environment variable SEED, else ``default``. For tests and for testbenches."""
    return int(os.environ.get("SEED") or str(default), 0)


def params() -> dict[str, Any]:
    """In a testbench: the ``params`` that `run_cocotb` was called with."""
    return json.loads(os.environ.get("LEPTON_PARAMS") or "{}")


def _flag(name: str) -> bool | None:
    value = os.environ.get(name, "").strip().lower()
    return None if value == "" else value not in ("0", "no", "false", "off")


def _default_folder(toplevel: str, simulator: str, test_module: str) -> Path:
    current = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
    label = current.replace(".py", "").replace("tests/", "", 1) or f"{test_module}-{toplevel}-{simulator}"
    return build_folder() / "results" / re.sub(r"[^A-Za-z0-9_.=+-]+", "-", label).strip("-")[:150]


def run_cocotb(
    component: Elaboratable | str,
    toplevel: str,
    test_module: str,
    *,
    sim: str = "verilator",
    params: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    plusargs: Sequence[str] = (),
    testcase: str | Sequence[str] | None = None,
    seed: int | None = None,
    waves: bool = False,
    results_dir: Path | None = None,
    ports: Any = None,
    public: Sequence[tuple[str, str]] = (),
    flags: Sequence[str] = (),
) -> CocotbResult:
    """Generate, build (or find the kept build) and simulate; an AssertionError lists the tests that failed.

    Parameters
    ----------
    component : Elaboratable or str
        A fresh component, or Verilog text.
    toplevel : str
        Name for the top module (a Verilog identifier).
    test_module : str
        Importable name of the module with the ``@cocotb.test()`` functions; ``__name__`` if it is the same file.
    sim : str
        ``"verilator"`` or ``"icarus"``.
    params : mapping, optional
        Anything JSON can hold, which `lepton_sim.params()` returns in the testbench.
    env : mapping, optional
        More environment variables for the simulation. The caller's environment wins.
    plusargs : sequence of str
        For the simulator, such as ``"+trace"``.
    testcase : str or sequence of str, optional
        Names of the cocotb tests to run (default: all). The environment's COCOTB_TEST_FILTER (a regex) wins.
    seed : int, optional
        Seed of cocotb's ``random`` and of `lepton_sim.seed()`; the environment's SEED wins. Default 1.
    waves : bool
        Record waveforms. The environment's WAVES=0 or 1 wins.
    results_dir : Path, optional
        Where results go; default ``build/results/<pytest test or testbench>``.
    ports, public, flags
        As for `lepton_npu.verilog.generate` and `lepton_sim.build`.

    Raises
    ------
    AssertionError
        With the names and messages of the failed tests, the seed and the log's place; or if no test ran.
    ToolMissing, BuildError, VerilogError
        If there was nothing to simulate with, or nothing that could be simulated.
    """
    __tracebackhide__ = True
    tools.check(sim)
    started = time.perf_counter()
    record = _flag("WAVES")
    waves = waves if record is None else record
    verilog = component if isinstance(component, str) else generate(component, toplevel, ports)[0]
    built = build(verilog, toplevel, simulator=sim, waves=waves, public=public, flags=flags)
    ready = time.perf_counter()
    folder = (results_dir or _default_folder(toplevel, sim, test_module)).resolve()
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    number = int(os.environ.get("SEED") or str(1 if seed is None else seed), 0)
    environment = {
        "SEED": str(number),
        "COCOTB_RANDOM_SEED": str(number),
        "LEPTON_PARAMS": json.dumps(dict(params or {})),
        **(env or {}),
    }
    _simulate(built, test_module, testcase, environment, list(plusargs), folder)
    tests, messages = _read_results(folder / "results.xml")
    result = CocotbResult(folder, tests, messages, ready - started, time.perf_counter() - ready)
    _judge(result, toplevel, sim, number)
    return result


def _simulate(
    built: Built,
    test_module: str,
    testcase: str | Sequence[str] | None,
    environment: dict[str, str],
    plusargs: list[str],
    folder: Path,
) -> None:
    runner: _BuiltVerilator | _BuiltIcarus
    arguments: list[str] = []
    if built.simulator == "verilator":
        runner = _BuiltVerilator()
        runner.program = built.folder / "simulator"
        if built.waves:
            fst = "--trace-fst" in (built.folder / "flags").read_text()
            arguments = ["--trace", "--trace-file", str(folder / ("waves.fst" if fst else "waves.vcd"))]
    else:
        runner = _BuiltIcarus()
        runner.program = built.folder / "simulator.vvp"
        if built.waves:
            plusargs = [f"+waves={folder / 'waves.fst'}", *plusargs]
    # cocotb's runner ends the process if a test fails or the simulator does; the results file says more.
    try:
        runner.test(
            test_module=test_module,
            hdl_toplevel=built.toplevel,
            hdl_toplevel_lang="verilog",
            testcase=testcase,
            extra_env=environment,
            test_args=arguments,
            plusargs=plusargs,
            waves=built.waves,
            build_dir=built.folder,
            test_dir=folder,
            results_xml=str(folder / "results.xml"),
            log_file=folder / "sim.log",
        )
    except (SystemExit, RuntimeError) as error:
        with (folder / "sim.log").open("a") as log:
            log.write(f"lepton_sim: {type(error).__name__}: {error}\n")


def _read_results(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    tests: dict[str, str] = {}
    messages: dict[str, str] = {}
    if not path.exists():
        return tests, messages
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        name = case.get("name", "?")
        fault = case.find("failure")
        if fault is None:
            fault = case.find("error")
        if fault is not None:
            tests[name] = "failed"
            messages[name] = (fault.get("error_msg") or fault.get("message") or fault.text or "").strip()
        else:
            tests[name] = "skipped" if case.find("skipped") is not None else "passed"
    return tests, messages


def _judge(result: CocotbResult, toplevel: str, sim: str, number: int) -> None:
    __tracebackhide__ = True
    log = result.folder / "sim.log"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:]) if log.exists() else ""
    place = f"{toplevel} on {sim}, SEED={number}, log {os.path.relpath(log)}"
    failed = [name for name, state in result.tests.items() if state == "failed"]
    if failed:
        lines = [f"  {name}: {result.messages[name][:600]}" for name in failed]
        raise AssertionError(f"{len(failed)} of {len(result.tests)} cocotb tests failed ({place})\n" + "\n".join(lines))
    if "passed" not in result.tests.values():
        if result.tests or (os.environ.get("COCOTB_TEST_FILTER") and "no tests" in tail.lower()):
            return
        raise AssertionError(f"the simulation ended without results ({place}); its log ends with\n{tail}")
