"""Building the compiled harness."""

from pathlib import Path

from lepton_npu.spec.config import NpuConfig

from ..axi_limits import axi_limits
from ..shared import build_shared

__all__ = ["build_harness"]

_SOURCE, _CHECKER = (Path(__file__).with_name(name) for name in ("harness.cpp", "axi_checker.h"))


def _limits(config: NpuConfig) -> str:
    """A header: of each transaction ID the longest read and most in flight, then the same of writes."""
    rows = []
    for limit in axi_limits(config):
        pair = f"{limit.longest}, {limit.most}"
        rows.append(f"{{0, 0, {pair}}}" if limit.write else f"{{{pair}, 0, 0}}")
    return f"constexpr AxiChecker::Limits kLimits[AxiChecker::kIds] = {{{', '.join(rows)}}};\n"


def build_harness(verilog: str, config: NpuConfig, *, trace: bool = False) -> Path:
    """Shared library of the harness around ``verilog``, whose module ``lepton_npu`` is the core.

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
        headers={_CHECKER.name: _CHECKER.read_text(), "limits.h": _limits(config)},
        defines={"LEPTON_BUS_BYTES": config.bus_bytes},
        extra=("--top-module", "lepton_npu", *(("--trace",) if trace else ())),
    )
