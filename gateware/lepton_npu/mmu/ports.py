"""What goes into and comes out of the units of address translation."""

from amaranth.hdl import unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import (
    ASID_BITS,
    LEVELS,
    PAGE_BITS,
    PAGE_NUMBER_BITS,
    PPN_BITS,
    VPN_BITS,
    Access,
    Invalidate,
    TranslationFault,
)

__all__ = [
    "VPN",
    "TranslationSignature",
    "answer_layout",
    "frame_bits",
    "invalidate_layout",
    "is_canonical",
    "leaf_layout",
    "request_layout",
    "space_layout",
]

VPN = LEVELS * VPN_BITS
"""Bits of the page number of a canonical address: 27."""


def frame_bits(config: NpuConfig) -> int:
    """Bits of a physical page number that the bus can reach."""
    return config.addr_width - PAGE_BITS


def is_canonical(page):
    """Whether bits 63:39 of the address of a page number all equal bit 38 (docs/mmu.md, section 1, rule 1)."""
    high = page[VPN - 1 :]
    return high.all() | ~high.any()


def request_layout() -> data.StructLayout:
    """A page to translate: bits 63:12 of its address, what for (`Access`), and the address space with its root."""
    return data.StructLayout(
        {
            "page": unsigned(PAGE_NUMBER_BITS),
            "access": unsigned(max(Access).bit_length()),
            "asid": unsigned(ASID_BITS),
            "root": unsigned(PPN_BITS),
        }
    )


def answer_layout(config: NpuConfig) -> data.StructLayout:
    """``fault`` is a `TranslationFault`; ``frame`` is the physical page number, and not defined if there is a fault."""
    return data.StructLayout(
        {"frame": unsigned(frame_bits(config)), "fault": unsigned(max(TranslationFault).bit_length())}
    )


def leaf_layout(config: NpuConfig) -> data.StructLayout:
    """What a walk has ended at, readable in any case.

    ``mega`` says that the page has at least 2 MiB, ``giga`` that it has 1 GiB; ``frame`` is that of its first 4 KiB.
    """
    return data.StructLayout(
        {"frame": unsigned(frame_bits(config)), "mega": 1, "giga": 1, "is_global": 1, "writable": 1}
    )


def invalidate_layout() -> data.StructLayout:
    """An invalidation (`Invalidate`); of ``page`` (bits 38:12 of an address) and ``asid`` just what its kind uses."""
    return data.StructLayout(
        {"kind": unsigned(max(Invalidate).bit_length()), "asid": unsigned(ASID_BITS), "page": unsigned(VPN)}
    )


def space_layout() -> data.StructLayout:
    """The address space of commands: whether addresses are translated at all, its number, and its root table."""
    return data.StructLayout({"translate": 1, "asid": unsigned(ASID_BITS), "root": unsigned(PPN_BITS)})


class TranslationSignature(wiring.Signature):
    """What a requester and the MMU have between them, seen from the requester.

    Members
    -------
    space : In(space_layout())
        Changes only while the requester is idle.
    request : Out(stream of request_layout()), answer : In(stream of answer_layout(config))
        Answers come in the order of the requests.
    hold : In(1)
        Offer the bus nothing new: an invalidation waits until the bus is quiet.
    forget : In(1)
        For one cycle, within ``hold``: frames that were given before are not to be used any more, and those of requests
        that are not answered yet neither; ask again. A request that was offered may change with it.
    """

    def __init__(self, config: NpuConfig):
        super().__init__(
            {
                "space": In(space_layout()),
                "request": Out(stream.Signature(request_layout())),
                "answer": In(stream.Signature(answer_layout(config))),
                "hold": In(1),
                "forget": In(1),
            }
        )
