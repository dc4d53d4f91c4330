"""LOAD or STORE commands to bursts at physical addresses."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.control.engine import FaultReport, command_layout
from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.mmu.frames_ahead import FramesAhead
from lepton_npu.mmu.page_sequence import PageSequence
from lepton_npu.mmu.ports import TranslationSignature
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import Access

from .walk import DmaWalk, dma_burst_layout

__all__ = ["DmaBursts"]

WAITING = 2
"""Translated commands whose pages are named while bursts of the one before still go out."""


class DmaBursts(wiring.Component):
    """`DmaWalk`, with the frames of a command's pages asked for ahead of it.

    Without translation commands go to the walk directly. With it they are named to the MMU in the order of their
    pages, up to four pages and two commands before the burst that goes out: walks are hidden behind data.

    Parameters
    ----------
    config : NpuConfig
    opcode : Opcode
        LOAD or STORE.

    Members
    -------
    cmd, bounds, burst, fault : as of `DmaWalk`
    mmu : Out(TranslationSignature(config))
    halt : In(1), quiet : Out(1)
        Of `FramesAhead`. Bursts are the engine's to hold back.
    """

    def __init__(self, config: NpuConfig, opcode: Opcode):
        self._config, self._opcode = config, opcode
        self._walk = DmaWalk(config, opcode)
        super().__init__(
            {
                "cmd": In(stream.Signature(command_layout(opcode))),
                "bounds": In(bounds_layout(config)),
                "burst": Out(stream.Signature(dma_burst_layout(config))),
                "fault": Out(FaultReport),
                "mmu": Out(TranslationSignature(config)),
                "halt": In(1),
                "quiet": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = self._walk
        access = Access.READ if self._opcode == Opcode.LOAD else Access.WRITE
        m.submodules.pages = pages = PageSequence()
        m.submodules.ahead = frames = FramesAhead(self._config, access)
        layout = command_layout(self._opcode)
        m.submodules.waiting = waiting = SyncFIFO(width=layout.size, depth=WAITING)
        self.frames, self.walk, self.waiting = frames, walk, waiting  # for proofs to look at
        connect(m, walk.burst, flipped(self.burst))
        connect(m, pages.page, frames.page)
        connect(m, frames.mmu, flipped(self.mmu))
        translate = self.mmu.space.translate
        command = self.cmd.payload
        m.d.comb += [
            self.fault.eq(walk.fault),
            walk.bounds.eq(self.bounds),
            walk.translate.eq(translate),
            walk.frame_valid.eq(frames.valid),
            walk.frame.eq(frames.frame),
            frames.next.eq(walk.next_frame),
            frames.halt.eq(self.halt),
            self.quiet.eq(frames.quiet),
            *(getattr(pages.cmd.payload, name).eq(getattr(command, name)) for name in ("address", "rows", "words")),
            pages.cmd.payload.stride.eq(command.stride),
            waiting.w_data.eq(command),
        ]
        with m.If(translate):
            m.d.comb += [
                self.cmd.ready.eq(pages.cmd.ready & waiting.w_rdy),
                pages.cmd.valid.eq(self.cmd.valid & waiting.w_rdy),
                waiting.w_en.eq(self.cmd.valid & pages.cmd.ready),
                walk.cmd.valid.eq(waiting.r_rdy),
                walk.cmd.payload.eq(layout(waiting.r_data)),
                waiting.r_en.eq(walk.cmd.ready),
            ]
        with m.Else():
            m.d.comb += [
                self.cmd.ready.eq(walk.cmd.ready),
                walk.cmd.valid.eq(self.cmd.valid),
                walk.cmd.payload.eq(command),
            ]
        return m
