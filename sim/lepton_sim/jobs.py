"""Runs jobs on the whole core under cocotb, on either simulator."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from amaranth.hdl._ir import PortDirection
from lepton_npu.spec.config import NpuConfig
from lepton_npu.top import LeptonNpu
from lepton_npu.verilog import port_names
from lepton_verif.job import Job

from .axi_limits import axi_limits
from .core import core_verilog
from .run import CocotbResult, run_cocotb

__all__ = ["run_jobs"]


def run_jobs(
    config: NpuConfig, jobs: Iterable[Job], folder: Path, *, sim: str, stall: float = 0.0, **options
) -> CocotbResult:
    """Run ``jobs`` one after another in the testbench `lepton_verif.tb.job_tb`.

    Parameters
    ----------
    config : NpuConfig
    jobs : iterable of Job
    folder : Path
        Where the jobs are handed over as files.
    sim : str
        "verilator" or "icarus".
    stall : float
        Chance of a stall in a cycle, on every AXI channel.
    options
        Further ones of `run_cocotb`.

    Raises
    ------
    AssertionError
        If a port has an X after reset, a rule of AXI is broken, or a job does not end with its tag and memory.
    """
    ports = port_names(LeptonNpu(config))
    outputs = [name for name, (_, direction) in ports.items() if direction == PortDirection.Output]
    paths = []
    for number, job in enumerate(jobs):
        path = folder / f"{number}.npz"
        job.save(path)
        paths.append(str(path))
    limits = [asdict(limit) for limit in axi_limits(config)]
    params = {"jobs": paths, "stall": stall, "outputs": outputs, "limits": limits}
    return run_cocotb(core_verilog(config), "lepton_npu", "lepton_verif.tb.job_tb", sim=sim, params=params, **options)
