"""Building the compiled harness."""

from pathlib import Path

from lepton_npu.bus.axi import FETCH_ID, LOAD_ID, STORE_ID, WALK_ID
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_npu.spec.translation import PTE_BYTES

from ..shared import build_shared

__all__ = ["build_harness"]

_SOURCE, _CHECKER = (Path(__file__).with_name(name) for name in ("harness.cpp", "axi_checker.h"))


_RECORDS_IN_FLIGHT = 4  # two ahead, and two that a jump has made useless (docs/architecture.md, section 6)


def _limits(config: NpuConfig) -> str:
    """A header: what each transaction ID may do, as longest read and most in flight, then the same of writes."""
    limits = {
        FETCH_ID: (max(RECORD_BYTES // config.bus_bytes, 1), _RECORDS_IN_FLIGHT, 0, 0),
        LOAD_ID: (config.max_burst, config.outstanding, 0, 0),
        STORE_ID: (0, 0, config.max_burst, config.outstanding),
        WALK_ID: (max(PTE_BYTES // config.bus_bytes, 1), 1, 0, 0),
    }
    rows = ", ".join("{" + ", ".join(map(str, limits[number])) + "}" for number in sorted(limits))
    return f"constexpr AxiChecker::Limits kLimits[AxiChecker::kIds] = {{{rows}}};\n"


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
