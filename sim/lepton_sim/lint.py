"""``make lint``: Verilator on the generated Verilog, ruff, mypy. Exit status 1 if anything is found."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lepton_npu.verilog import generate, generate_preset

from .build import JOBS, WAIVERS
from .cache import ROOT, build_folder
from .tools import ToolMissing, verilator

__all__ = ["designs", "lint_verilog"]


def lint_verilog(verilog: str, toplevel: str) -> str:
    """What ``verilator --lint-only -Wall`` says of ``verilog`` beyond the waivers; empty if nothing."""
    tool = verilator()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{toplevel}.sv").write_text(verilog)
        done = subprocess.run(
            [str(tool.executable), "--lint-only", "-Wall", "--no-timing", "--top-module", toplevel]
            + [str(WAIVERS), f"{toplevel}.sv"],
            cwd=folder,
            env={**os.environ, **tool.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
    text = done.stdout + done.stderr
    return text if done.returncode or "%Warning" in text or "%Error" in text else ""


def designs(only: str | None = None) -> Iterator[tuple[str, Callable[[], str]]]:
    """Name and Verilog of every preset of the core and every unit of ``bench/units.py``."""
    sys.path.insert(0, str(ROOT))
    from lepton_npu.spec.config import PRESETS

    from bench.units import UNITS

    for preset in PRESETS:
        name = f"lepton_npu_{preset}"
        if only in (None, name):
            yield name, lambda preset=preset: generate_preset(preset)[0]  # type: ignore[misc]
    for unit, (factory, _) in UNITS.items():
        name = f"unit_{unit}"  # a module may not be called as one of its ports is
        if only in (None, unit):
            yield name, lambda name=name, factory=factory: generate(factory(), name)[0]  # type: ignore[misc]


def _python() -> list[tuple[str, list[str]]]:
    return [
        ("ruff check", [sys.executable, "-m", "ruff", "check", "--quiet", "."]),
        ("ruff format", [sys.executable, "-m", "ruff", "format", "--check", "--quiet", "."]),
        ("mypy", [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context"]),
    ]


def _report(name: str, findings: str, seconds: float) -> bool:
    print(f"{name:<28} {'FAILED' if findings else 'ok':<8} {seconds:5.1f} s", flush=True)
    if findings:
        print(findings.rstrip(), flush=True)
    return bool(findings)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lepton_sim.lint", description=__doc__)
    parser.add_argument("--design", help="only this preset (lepton_npu_<preset>) or unit, and nothing of Python")
    options = parser.parse_args(arguments)
    try:
        verilator()
    except ToolMissing as error:
        print(f"lepton: {error}", file=sys.stderr)
        return 1

    def verilog_job(name: str, source: Callable[[], str]) -> tuple[str, str, float]:
        started = time.perf_counter()
        try:
            text = source()
            kept = build_folder() / "lint" / f"{name}.sv"
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(text)
            findings = lint_verilog(text, name)
        except Exception as error:  # a design that cannot be generated is a finding, the others are still checked
            findings = f"{type(error).__name__}: {error}"
        return name, findings, time.perf_counter() - started

    def python_job(name: str, command: list[str]) -> tuple[str, str, float]:
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        findings = (done.stdout + done.stderr).strip() if done.returncode else ""
        return name, findings or ("failed" if done.returncode else ""), time.perf_counter() - started

    failed = 0
    with ThreadPoolExecutor(JOBS) as pool:
        jobs = [pool.submit(verilog_job, *design) for design in designs(options.design)]
        if options.design is None:
            jobs += [pool.submit(python_job, *command) for command in _python()]
        for job in jobs:
            failed += _report(*job.result())
    print(f"lint: {failed} of {len(jobs)} failed" if failed else f"lint: {len(jobs)} checks, all clean")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
