"""What each transaction ID of the core may do on its AXI4 port, for the checkers of the harness and of cocotb."""

from dataclasses import dataclass

from lepton_npu.bus.axi import FETCH_ID, LOAD_ID, STORE_ID, WALK_ID
from lepton_npu.control.fetch import READS
from lepton_npu.spec.config import RECORD_BYTES, NpuConfig
from lepton_npu.spec.translation import PTE_BYTES

__all__ = ["AxiLimit", "axi_limits"]


@dataclass(frozen=True)
class AxiLimit:
    """Transaction ID, whether it writes, its longest burst in beats, and its bursts in flight."""

    id: int
    write: bool
    longest: int
    most: int


def axi_limits(config: NpuConfig) -> list[AxiLimit]:
    """By ID, from 0 on (docs/architecture.md, section 6)."""
    limits = [
        AxiLimit(FETCH_ID, False, max(RECORD_BYTES // config.bus_bytes, 1), READS * config.contexts),
        AxiLimit(LOAD_ID, False, config.max_burst, config.outstanding),
        AxiLimit(STORE_ID, True, config.max_burst, config.outstanding),
        AxiLimit(WALK_ID, False, max(PTE_BYTES // config.bus_bytes, 1), 1),
    ]
    return sorted(limits, key=lambda limit: limit.id)
