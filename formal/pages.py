"""The pages that are named for a LOAD or STORE: every burst is in the frame of its own page."""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import Cat, Const, Module, Signal, Value
from lepton_npu.bus.dma_bursts import DmaBursts
from lepton_npu.mmu.frames_ahead import AHEAD, FramesAhead
from lepton_npu.mmu.ports import answer_layout
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import PAGE_BITS, PAGE_NUMBER_BITS

from .engine import Proof
from .fifo import VisibleFifo, visible_fifos
from .harness import Harness
from .planted import Bug

__all__ = ["FORGETS_AFTER", "PROOFS"]

_CONFIG = NpuConfig(side=4, lanes=4, vmem_rows=4096, acc_rows=4, addr_width=32, max_burst=256, contexts=1)
"""A page is two bursts of 256 beats, so few cycles lead through several pages; a row may have 64 KiB."""

_FREE = {"address": (3, 11, 12, 13), "stride": (3, 11, 12, 13), "words": (1, 9, 10), "rows": (0, 1)}
"""Bits of a command that are chosen; the others are 0, bits of the stride above these its sign. So rows begin and end
at borders of pages and beside them, go on in the page of the row before or in another one, also backwards."""

FORGETS_AFTER = 3
"""Cycles that lie between the last burst that was taken and `forget`, at least (proven in `formal.core`)."""


class _Frames(FramesAhead):
    """What is proven of `FramesAhead`: a frame is that of the oldest page, and may be forgotten for a while."""

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.queue = queue = VisibleFifo(width=PAGE_NUMBER_BITS, depth=AHEAD)
        m.d.comb += [
            queue.w_data.eq(self.page.payload),
            queue.w_en.eq(self.page.valid),
            self.page.ready.eq(queue.w_rdy),
            queue.r_en.eq(self.next),
            self.valid.eq(queue.r_rdy & self.known),
            self.frame.eq(self.any_frame),
        ]
        self.queue = queue
        return m


def _bursts(h: Harness) -> None:
    """`DmaBursts`, with commands one after another, and any MMU."""
    m = h.m
    known, any_frame = h.free("known"), h.free("frame", answer_layout(_CONFIG))
    made: list[Any] = []

    def make(*args: Any) -> FramesAhead:
        frames = _Frames(*args)
        frames.known, frames.any_frame = known, any_frame
        made.append(frames)
        return frames

    with patch.dict(DmaBursts.elaborate.__globals__, {"FramesAhead": make}), visible_fifos(DmaBursts):
        dut = h.unit(DmaBursts(_CONFIG, Opcode.LOAD))
    (frames,) = made
    walk, mmu = dut.walk, dut.mmu
    command, burst = dut.cmd.payload, dut.burst
    chosen: dict[str, Value] = {"local": Const(0), "local_stride": Const(0), "index": Const(0)}
    for name, bits in _FREE.items():
        few = h.free(name, len(bits))
        value: list[Value] = [Const(0)] * len(command[name])
        for bit, one in zip(bits, few):
            value[bit] = one
        if name == "stride":
            value[bits[-1] :] = [few[-1]] * (len(value) - bits[-1])
        chosen[name] = Cat(*value)
    for name, one in chosen.items():
        h.drive(command[name], one)
    h.assume("a command has words and rows (decoder)", ~dut.cmd.valid | ((command.words != 0) & (command.rows != 0)))
    h.assume("addresses are translated", mmu.space.translate)
    took, taken, was = Signal(FORGETS_AFTER), burst.valid & burst.ready, Signal()
    m.d.sync += [took.eq(Cat(taken, took)), was.eq(frames.valid & ~frames.next)]
    h.assume("a frame is kept for 3 cycles after a burst", ~(was & took.any()) | known)

    page = frames.queue.r_data
    at_burst = walk.fsm.ongoing("BURST")
    h.watch(oldest_page=page, at_burst=at_burst, held=frames.queue.level)
    h.prove(
        "a frame is used for the page that it was asked for",
        ~(at_burst & frames.valid) | (burst.payload.page == page),
    )
    low = walk.address[:PAGE_BITS]
    to = Cat(low, frames.frame.frame)
    h.prove("a burst is in the frame, where it was in the page", ~burst.valid | (burst.payload.addr == to))
    fine = frames.valid & (frames.frame.fault == 0)
    h.prove("which is no fault", ~burst.valid | fine)
    h.prove("a page is dropped only when it has its frame", ~frames.next | frames.valid)
    h.prove("and when the next one's burst comes, or the command ends", ~frames.next | ~at_burst | taken)
    unfinished = Signal(4)
    accepted = dut.cmd.valid & dut.cmd.ready
    m.d.sync += unfinished.eq(unfinished + accepted - (taken & burst.payload.ends_command))
    left = (frames.queue.level != 0) | frames.page.valid
    h.prove("behind the last burst none of its pages is left", (unfinished != 0) | ~left)
    last, behind = Signal.like(page), Signal()
    with m.If(taken):
        m.d.sync += [last.eq(burst.payload.page), behind.eq(1)]
    h.cover("the third page of a row", taken & ~burst.payload.starts_row & behind & _third(h, burst))
    h.cover("a row in the page of the row before", taken & burst.payload.starts_row & behind & (last == page))


def _third(h: Harness, burst) -> Value:
    """Whether this burst is in the third page of its row, or a later one."""
    pages, last = Signal(2), Signal(len(burst.payload.page))
    taken = burst.valid & burst.ready
    with h.m.If(taken):
        h.m.d.sync += last.eq(burst.payload.page)
        with h.m.If(burst.payload.starts_row):
            h.m.d.sync += pages.eq(0)
        with h.m.Elif((burst.payload.page != last) & ~pages[1]):
            h.m.d.sync += pages.eq(pages + 1)
    return (pages == 1) & (burst.payload.page != last)


_WALK, _PAGES = "bus.walk", "mmu.page_sequence"
PROOFS = [
    Proof(
        "Every burst is in the frame of its own page: pages are named as the walk takes frames",
        "DmaBursts",
        _bursts,
        {
            "every row names its page": Bug(_PAGES, "names.eq(first | (page != address[PAGE_BITS:]))", "names.eq(1)"),
            "a page too many behind a row that fills its last": Bug(
                _PAGES, "ends.eq(address[:PAGE_BITS] + (words << 2) - 1)", "ends.eq(address[:PAGE_BITS] + (words << 2))"
            ),
            "a frame is kept over a row's page border": Bug(
                _WALK, "fills_page.eq(to_page <= most)", "fills_page.eq(to_page < most)"
            ),
            "a frame is kept for a row in another page": Bug(
                _WALK, "self.next_frame.eq(self.translate & moves)", "self.next_frame.eq(0)"
            ),
            "a frame is kept for the next command": Bug(
                _WALK, "Mux(ends_row, left == 1, fills_page)", "Mux(ends_row, 0, fills_page)"
            ),
        },
        depth=18,
        search=18,
        seconds=900,
    )
]
