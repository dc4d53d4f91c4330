"""Building the compiled harness."""

from pathlib import Path

from lepton_npu.spec.config import NpuConfig

from ..shared import build_shared

__all__ = ["build_harness"]

_SOURCE = Path(__file__).with_name("harness.cpp")


def build_harness(verilog: str, config: NpuConfig, *, trace: bool = False) -> Path:
    """Shared library of the harness around ``verilog``, whose only top module is the core.

    Parameters
    ----------
    verilog : str
        SystemVerilog of `lepton_npu.top.LeptonNpu` for ``config``.
    trace : bool
        With VCD tracing (a build of its own: it is slower).

    Raises
    ------
    ToolMissing, BuildError
        See `lepton_sim.shared.build_shared`.
    """
    return build_shared(
        "harness",
        verilog,
        _SOURCE.read_text(),
        defines={"LEPTON_BUS_BYTES": config.bus_bytes},
        extra=("--trace",) if trace else (),
    )
