"""Rows of a LOAD or STORE, checked and cut into bursts."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.control.engine import INDEX_BITS, FaultReport, command_layout
from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.memory.ports import LOCAL_ADDR_BITS
from lepton_npu.memory.range_check import in_local, in_vmem, local_end
from lepton_npu.mmu.ports import answer_layout
from lepton_npu.spec.commands import TRANSLATION_CAUSES, FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import PAGE_BITS, PAGE_BYTES, PAGE_NUMBER_BITS

__all__ = ["DmaWalk", "dma_burst_layout"]

_PAGE = 4096  # bytes; a burst must not cross such a boundary (IHI 0022H, A3.4.1)
assert _PAGE == PAGE_BYTES, "a burst is in one page"
_ADDRESS_BITS = 67  # exact: an in-range 64-bit address plus a 32-bit signed stride, or plus a row's bytes


def dma_burst_layout(config: NpuConfig) -> data.StructLayout:
    """A burst and its place in the command.

    ``addr`` is where it is in memory, ``page`` bits 63:12 of the address that the command gives; ``local`` and
    ``local_rows`` are the row's first local row, as the command counts them, and how many it has; ``last_words`` the
    words used in the row's last beat, less one.
    """
    return data.StructLayout(
        {
            "addr": unsigned(config.addr_width),
            "page": unsigned(PAGE_NUMBER_BITS),
            "len": unsigned(8),
            "local": unsigned(LOCAL_ADDR_BITS),
            "local_rows": unsigned(17 - config.side_bits),
            "last_words": unsigned((config.bus_bytes // 4 - 1).bit_length()),
            "starts_row": 1,
            "ends_row": 1,
            "ends_command": 1,
            "index": INDEX_BITS,
        }
    )


class DmaWalk(wiring.Component):
    """Walks the rows of LOAD or STORE commands; one burst every two cycles, two more for each row.

    The address and stride of a command are checked first (MISALIGNED); then each row before its first burst: bytes
    outside ``2**addr_width``, or with ``translate`` outside 2^64 (ADDRESS_RANGE, with the row's byte address), local
    rows that do not exist (LOCAL_RANGE, with the first of them). With ``translate`` each burst waits for the frame of
    its page; if that is a fault, the command's is of that cause, with the address of the burst. A command that fails
    gives no more bursts.

    Parameters
    ----------
    config : NpuConfig
    opcode : Opcode
        LOAD may only name rows of the vector memory.

    Members
    -------
    cmd : In(stream of command_layout(opcode))
    bounds : In(bounds_layout(config))
        Changes only between commands.
    translate : In(1)
        Addresses are virtual. Changes only between commands.
    frame_valid : In(1), frame : In(answer_layout(config))
        The translation of the page of the next burst.
    next_frame : Out(1)
        The next burst is in another page, or of another command.
    burst : Out(stream of dma_burst_layout(config))
    fault : Out(FaultReport)
        Stays until reset.
    """

    def __init__(self, config: NpuConfig, opcode: Opcode):
        if opcode not in (Opcode.LOAD, Opcode.STORE):
            raise ValueError(f"opcode must be LOAD or STORE, not {opcode!r}")
        self._config, self._opcode = config, opcode
        super().__init__(
            {
                "cmd": In(stream.Signature(command_layout(opcode))),
                "bounds": In(bounds_layout(config)),
                "translate": In(1),
                "frame_valid": In(1),
                "frame": In(answer_layout(config)),
                "next_frame": Out(1),
                "burst": Out(stream.Signature(dma_burst_layout(config))),
                "fault": Out(FaultReport),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        bus_bits = (config.bus_bytes - 1).bit_length()  # log2 of the bytes of a beat
        word_bits = bus_bits - 2
        command = Signal(command_layout(self._opcode), reset_less=True)

        address = Signal(signed(_ADDRESS_BITS), reset_less=True)
        row_address = Signal(signed(_ADDRESS_BITS), reset_less=True)
        row_end = Signal(signed(_ADDRESS_BITS), reset_less=True)
        local = Signal(signed(LOCAL_ADDR_BITS + 2), reset_less=True)
        local_last = Signal(signed(LOCAL_ADDR_BITS + 3), reset_less=True)
        row_beats, beats = (Signal(17 - word_bits, name=n, reset_less=True) for n in ("row_beats", "beats"))
        local_rows = Signal(17 - config.side_bits, reset_less=True)
        left = Signal(16, reset_less=True)
        first = Signal()
        count = Signal(range(config.max_burst + 1), reset_less=True)

        to_page = Signal(range(_PAGE // config.bus_bytes + 1))
        most = Signal(range(config.max_burst + 1))
        m.d.comb += [
            to_page.eq(_PAGE // config.bus_bytes - address[bus_bits:12]),
            most.eq(Mux(beats > config.max_burst, config.max_burst, beats)),
        ]

        bad_address, bad_local, first_bad = Signal(), Signal(), Signal(signed(LOCAL_ADDR_BITS + 3))
        limit = Mux(
            self.translate, Const(1 << 64, signed(_ADDRESS_BITS)), Const(1 << config.addr_width, signed(_ADDRESS_BITS))
        )
        m.d.comb += bad_address.eq((row_address < 0) | (row_end > limit))
        check = in_vmem if self._opcode == Opcode.LOAD else in_local
        start_bad = ~check(config, self.bounds, local)
        m.d.comb += bad_local.eq(start_bad | ~check(config, self.bounds, local_last))
        # A row begins in one memory: the first row that does not exist is the one behind that memory.
        end_of_memory = local_end(config, self.bounds, local[LOCAL_ADDR_BITS - 1])
        m.d.comb += first_bad.eq(Mux(start_bad, local, end_of_memory))

        # The page of the last burst, and whether that burst was of this command; a row may go on in it.
        page, in_page, moves = Signal(PAGE_NUMBER_BITS, reset_less=True), Signal(), Signal()
        fills_page = Signal()

        def fail(cause: FaultCause | Value, value):
            m.d.sync += [
                self.fault.valid.eq(1),
                self.fault.cause.eq(cause),
                self.fault.index.eq(command.index),
                self.fault.address.eq(value),
            ]

        with m.FSM() as fsm:
            with m.State("IDLE"):
                m.d.comb += self.cmd.ready.eq(1)
                m.d.sync += in_page.eq(0)
                m.d.sync += [command.eq(self.cmd.payload), local.eq(self.cmd.payload.local)]
                m.d.sync += [row_address.eq(self.cmd.payload.address), left.eq(self.cmd.payload.rows)]
                with m.If(self.cmd.valid):
                    m.next = "COMMAND"
            with m.State("COMMAND"):
                m.d.sync += [
                    row_beats.eq((command.words + ((1 << word_bits) - 1)) >> word_bits),
                    local_rows.eq((command.words + (config.side - 1)) >> config.side_bits),
                ]
                with m.If(Cat(command.address[:bus_bits], command.stride[:bus_bits]).any()):
                    fail(FaultCause.MISALIGNED, command.address)
                    m.next = "FAILED"
                with m.Else():
                    m.next = "ROW"
            with m.State("ROW"):
                m.d.sync += [
                    row_end.eq(row_address + (command.words << 2)),
                    local_last.eq(local + local_rows - 1),
                    address.eq(row_address),
                    beats.eq(row_beats),
                    first.eq(1),
                    moves.eq(in_page & (page != row_address[PAGE_BITS:64])),
                ]
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += self.next_frame.eq(self.translate & moves)
                m.d.sync += in_page.eq(1)
                with m.If(bad_address):
                    fail(FaultCause.ADDRESS_RANGE, row_address)
                    m.next = "FAILED"
                with m.Elif(bad_local):
                    fail(FaultCause.LOCAL_RANGE, first_bad)
                    m.next = "FAILED"
                with m.Else():
                    m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += [
                    count.eq(Mux(to_page < most, to_page, most)),
                    fills_page.eq(to_page <= most),
                    page.eq(address[PAGE_BITS:64]),
                ]
                m.next = "BURST"
            with m.State("BURST"):
                burst = self.burst.payload
                ends_row = beats == count
                frame = self.frame.frame
                m.d.comb += [
                    self.burst.valid.eq(~self.translate | (self.frame_valid & (self.frame.fault == 0))),
                    burst.addr.eq(
                        Mux(self.translate, Cat(address[:PAGE_BITS], frame), address[: config.addr_width].as_unsigned())
                    ),
                    burst.page.eq(page),
                    burst.len.eq(count - 1),
                    burst.local.eq(local),
                    burst.local_rows.eq(local_rows),
                    burst.last_words.eq(command.words - 1),
                    burst.starts_row.eq(first),
                    burst.ends_row.eq(ends_row),
                    burst.ends_command.eq(ends_row & (left == 1)),
                    burst.index.eq(command.index),
                ]
                with m.If(self.translate & self.frame_valid & (self.frame.fault != 0)):
                    fail(TRANSLATION_CAUSES | self.frame.fault, address)
                    m.next = "FAILED"
                with m.Elif(self.burst.valid & self.burst.ready):
                    m.d.comb += self.next_frame.eq(self.translate & Mux(ends_row, left == 1, fills_page))
                    m.d.sync += [
                        address.eq(address + (count << bus_bits)),
                        beats.eq(beats - count),
                        first.eq(0),
                    ]
                    m.next = "CUT"
                    with m.If(ends_row):
                        m.d.sync += [
                            left.eq(left - 1),
                            row_address.eq(row_address + command.stride),
                            local.eq(local + command.local_stride),
                        ]
                        m.next = "ROW"
                        with m.If(left == 1):
                            m.next = "IDLE"
            with m.State("FAILED"):
                pass
        # For proofs to look at.
        self.fsm, self.command, self.first, self.count = fsm, command, first, count
        self.row_address, self.address, self.row_beats, self.beats = row_address, address, row_beats, beats
        self.to_page, self.most = to_page, most
        return m
