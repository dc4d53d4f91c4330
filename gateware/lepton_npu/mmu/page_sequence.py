"""The pages that the rows of a LOAD or STORE are in, as fast as they can be named."""

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.spec.translation import PAGE_BITS, PAGE_NUMBER_BITS

__all__ = ["PageSequence"]

_ROW_PAGES = 7  # bits of a number of pages: a row has at most 256 KiB, so it is in 65 pages at most


class PageSequence(wiring.Component):
    """Names the pages of a command, in order, each as often as the rows enter it from another one.

    A page is named when a row begins or goes on in it and the bytes before were in another page, or of another command.
    `DmaWalk` takes a new frame by the same rule, at the bursts themselves. Addresses count modulo 2^64 here: a command
    that leaves them is stopped there before it is at the pages behind.

    Two cycles for a row, one more for each page border in it, one more for each command; the first page is named 2
    cycles after its command was accepted.

    Members
    -------
    cmd : In(stream)
        ``address`` of row 0, ``stride`` in bytes, ``rows`` and ``words`` of 4 bytes, each at least 1.
    page : Out(stream of 52 bits)
        Page number of a 64-bit address.
    """

    cmd: In(
        stream.Signature(
            data.StructLayout(
                {"address": unsigned(64), "stride": unsigned(32), "rows": unsigned(16), "words": unsigned(16)}
            )
        )
    )
    page: Out(stream.Signature(PAGE_NUMBER_BITS))

    def elaborate(self, platform):
        m = Module()
        command = self.cmd.payload
        address, left = Signal(64, reset_less=True), Signal(16, reset_less=True)
        stride, words = Signal(64, reset_less=True), Signal(16, reset_less=True)
        page, names, pages_left = self.page.payload, Signal(), Signal(_ROW_PAGES, reset_less=True)
        first, ends = Signal(), Signal(PAGE_BITS + _ROW_PAGES)
        m.d.comb += ends.eq(address[:PAGE_BITS] + (words << 2) - 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.cmd.ready.eq(1)
                m.d.sync += [
                    address.eq(command.address),
                    stride.eq(command.stride.as_signed()),
                    left.eq(command.rows),
                    words.eq(command.words),
                    first.eq(1),
                ]
                with m.If(self.cmd.valid):
                    m.next = "ROW"
            with m.State("ROW"):
                # ``page`` is that of the row before's last byte.
                m.d.sync += [
                    names.eq(first | (page != address[PAGE_BITS:])),
                    page.eq(address[PAGE_BITS:]),
                    pages_left.eq(ends[PAGE_BITS:]),
                    first.eq(0),
                    address.eq(address + stride),
                    left.eq(left - 1),
                ]
                m.next = "NAME"
            with m.State("NAME"):
                m.d.comb += self.page.valid.eq(names)
                with m.If(~names | self.page.ready):
                    m.d.sync += [names.eq(1), page.eq(page + (pages_left != 0)), pages_left.eq(pages_left - 1)]
                    with m.If(pages_left == 0):
                        m.next = "ROW"
                        with m.If(left == 0):
                            m.next = "IDLE"
        return m
