"""What every unit that tells contexts apart has to know, and what a context and its registers have between them."""

from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from lepton_npu.mmu.ports import invalidate_layout, space_layout
from lepton_npu.spec.commands import Engine, FaultCause
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.registers import COUNTERS
from lepton_npu.spec.translation import Access

from .engine import INDEX_BITS
from .partition import partition_layout

__all__ = ["EVENTS", "WEIGHT_BITS", "HostSignature", "context_bits"]

WEIGHT_BITS = 8

EVENTS = data.StructLayout({name.lower(): 1 for name in COUNTERS if name != "CYCLES"})
"""What a context counts: each bit that is high in a cycle adds 1 to the counter of its name."""


def context_bits(config: NpuConfig) -> int:
    """Bits of the number of a context: at least 1, so that a core with a single context needs no other code."""
    return max(ceil_log2(config.contexts), 1)


class HostSignature(wiring.Signature):
    """A context and its registers, seen from the context; the names are those of `RegisterBank`.

    Members
    -------
    enable, ring_base, ring_log2, tail, watchdog, weight, partition : In
        Registers of these names.
    space : In(space_layout())
        Register SATP. Changes only while the context is idle.
    reset_request, resume_request, invalidate_request : In(1), invalidate : In(invalidate_layout())
        For one cycle each. A reset is begun in the next cycle; see `SoftReset` and `InvalidationControl`.
    core_reset, resetting, invalidating : Out(1)
    head : Out(32), idle : Out(1)
        Records taken from the ring; none is left, and no command or body waits or runs.
    done_event : Out(1), tag : Out(32)
        An IRQ command has run.
    fault_event : Out(1), fault_valid, fault_cause, fault_engine, fault_index, fault_address, fault_access : Out
        The fault: the event for a cycle, the rest until a reset, or until the context goes on.
    resumable : Out(1)
        ``resume_request`` has an effect.
    events : Out(EVENTS)
    """

    def __init__(self):
        super().__init__(
            {
                "enable": In(1),
                "ring_base": In(64),
                "ring_log2": In(5),
                "tail": In(32),
                "watchdog": In(32),
                "weight": In(WEIGHT_BITS),
                "partition": In(partition_layout()),
                "space": In(space_layout()),
                "reset_request": In(1),
                "resume_request": In(1),
                "invalidate_request": In(1),
                "invalidate": In(invalidate_layout()),
                "core_reset": Out(1),
                "resetting": Out(1),
                "invalidating": Out(1),
                "head": Out(32),
                "idle": Out(1),
                "done_event": Out(1),
                "tag": Out(32),
                "fault_event": Out(1),
                "fault_valid": Out(1),
                "fault_cause": Out(max(FaultCause).bit_length()),
                "fault_engine": Out(max(Engine).bit_length()),
                "fault_index": Out(INDEX_BITS),
                "fault_address": Out(64),
                "fault_access": Out(max(Access).bit_length()),
                "resumable": Out(1),
                "events": Out(EVENTS),
            }
        )
