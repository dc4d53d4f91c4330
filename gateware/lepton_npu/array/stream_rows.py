"""The sequencer that streams rows of A through the array and names their accumulator rows."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.control.engine import INDEX_BITS, command_layout
from lepton_npu.memory.bounds import bounds_layout, to_acc, to_tile_row
from lepton_npu.memory.range_check import in_acc, in_tiles
from lepton_npu.spec.commands import Opcode
from lepton_npu.spec.config import NpuConfig

from .passes import PassCounter

__all__ = ["RowStreamer", "row_layout"]

# Every base was itself a visited, so in-range, address when a stride is added to it: these widths are exact.
_TILE_ROW_BITS = 34
_ACC_BITS = 18


def row_layout(config: NpuConfig) -> data.StructLayout:
    """What a streamed row carries with it: tile row and accumulator row in their memories, its place in the command."""
    return data.StructLayout(
        {
            "tile_row": config.tile_row_bits,
            "transpose": 1,
            "acc": config.acc_addr_bits,
            "replace": 1,
            "limbs": 2,
            "swap": 1,
            "last": 1,
        }
    )


class RowStreamer(wiring.Component):
    """Issues one row a cycle: the passes of a command one after another, the rows of a pass by its loop nest.

    Rows are named and checked up to two ahead of the one that is issued. A row waits while its pass is not loaded
    (first row), or while the accumulator row it names was issued less than ``turnaround`` cycles ago. The first row of
    a command can be issued 2 cycles after the command was taken.

    Parameters
    ----------
    config : NpuConfig
    turnaround : int
        See `Accumulate.turnaround`; at least 1.

    Members
    -------
    cmd : In(stream)
        MATMUL commands, the same that the `WeightLoader` gets.
    bounds : In(bounds_layout(config))
    issue : Out(1), row : Out(row_layout)
        A row goes in this cycle; ``row.swap`` marks the first of a pass, ``row.last`` the last of a command.
    loaded, bad : In(1), bad_index : In(32)
        Of the loader.
    pause : In(1)
        No row goes in this cycle.
    fault, fault_load : Out(1), fault_index : Out(32), fault_address : Out(34)
        The next row to be issued, or (``fault_load``) the tile it needs, is out of range; stays until reset.
    """

    def __init__(self, config: NpuConfig, turnaround: int):
        if turnaround < 1:
            raise ValueError(f"turnaround must be at least 1, not {turnaround}")
        self._config, self._turnaround = config, turnaround
        super().__init__(
            {
                "cmd": In(stream.Signature(command_layout(Opcode.MATMUL))),
                "bounds": In(bounds_layout(config)),
                "issue": Out(1),
                "row": Out(row_layout(config)),
                "loaded": In(1),
                "pause": In(1),
                "bad": In(1),
                "bad_index": In(INDEX_BITS),
                "fault": Out(1),
                "fault_load": Out(1),
                "fault_index": Out(INDEX_BITS),
                "fault_address": Out(signed(_TILE_ROW_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.passes = passes = PassCounter()
        layout = command_layout(Opcode.MATMUL)
        new, command = self.cmd.payload, Signal(layout, reset_less=True)
        active, first = Signal(), Signal()
        left, i0, i1 = Signal(16), Signal(16), Signal(16)

        def tile_row(name):
            return Signal(signed(_TILE_ROW_BITS), name=name, reset_less=True)

        def acc_row(name):
            return Signal(signed(_ACC_BITS), name=name, reset_less=True)

        a, a1, a2 = tile_row("a"), tile_row("a_middle"), tile_row("a_outer")
        a_pass, a_k, a_n = tile_row("a_pass"), tile_row("a_k"), tile_row("a_n")
        c, c1, c2, c_n = acc_row("c"), acc_row("c_middle"), acc_row("c_outer"), acc_row("c_n")

        # ---- The row that the counters are at: named, checked and handed on when the buffer has room.
        named = data.StructLayout({"row": row_layout(config), "good": 1})
        step, room, a_good, c_good = Signal(), Signal(), Signal(), Signal()
        last_row, one_row, last_pass = Signal(), Signal(), Signal()
        settled = Signal()  # the pass is not in its first cycle, so the counter knows the next one
        coming = Signal(named)
        m.d.comb += [
            step.eq(active & room & (settled | ~last_row)),
            a_good.eq(in_tiles(config, self.bounds, a[config.side_bits :])),
            c_good.eq(in_acc(config, self.bounds, c)),
            last_pass.eq(~(passes.next_la | passes.next_lb | passes.next_k | passes.next_n)),
            coming.row.tile_row.eq(to_tile_row(config, self.bounds, a)),
            coming.row.transpose.eq(command.a_transpose),
            coming.row.acc.eq(to_acc(config, self.bounds, c)),
            coming.row.replace.eq(passes.first_k & (passes.la == 0) & (passes.lb == 0) & ~command.accumulate),
            coming.row.limbs.eq(passes.la + passes.lb),
            coming.row.swap.eq(first),
            coming.row.last.eq(last_row & last_pass),
            coming.good.eq(a_good & c_good),
            passes.step.eq(step & last_row),
            one_row.eq(command.rows == 1),
            passes.k_tiles.eq(new.k_tiles),
            passes.n_tiles.eq(new.n_tiles),
            passes.a_precision.eq(new.a_precision),
            passes.b_precision.eq(new.b_precision),
        ]
        # The counters run on behind a bad row, to rows that nobody will use, so its address is kept here.
        bad_named, bad_address, bad_index = (
            Signal(name="bad_named"),
            Signal(signed(_TILE_ROW_BITS), name="bad_address", reset_less=True),
            Signal(INDEX_BITS, name="bad_row_index", reset_less=True),
        )
        with m.If(~bad_named):
            m.d.sync += [
                bad_named.eq(step & ~coming.good),
                bad_address.eq(Mux(a_good, c, a)),
                bad_index.eq(command.index),
            ]

        # ---- A buffer of two, so that the counters do not wait for the issue of a row in the same cycle.
        head, head_valid = Signal(named, reset_less=True), Signal()
        spare, spare_valid = Signal(named, reset_less=True), Signal()
        self.head, self.head_valid, self.spare, self.spare_valid = head, head_valid, spare, spare_valid  # for proofs
        entering, moves = Signal(named), Signal()
        m.d.comb += [
            room.eq(~spare_valid),
            entering.eq(Mux(spare_valid, spare, coming)),
            moves.eq(~head_valid | self.issue),
        ]
        with m.If(moves):
            m.d.sync += [head.eq(entering), head_valid.eq(spare_valid | step), spare_valid.eq(0)]
        with m.Elif(step):
            m.d.sync += spare_valid.eq(1)
        with m.If(room):
            m.d.sync += spare.eq(coming)

        # ---- Rows in flight. A bit for each says whether the head has its accumulator row, and so must wait.
        flight = max(self._turnaround - 1, 1)
        entry = data.StructLayout({"valid": 1, "acc": config.acc_addr_bits})
        recent, meets = Signal(data.ArrayLayout(entry, flight - 1)), Signal(flight)
        m.d.sync += Cat(recent).eq(Cat(self.issue, head.row.acc, recent.as_value()))
        with m.If(moves):
            acc = entering.row.acc
            behind = [old.valid & (old.acc == acc) for old in recent]
            m.d.sync += meets.eq(Cat(self.issue & (head.row.acc == acc), *behind))
        with m.Else():
            m.d.sync += meets.eq(meets << 1)
        hazard = meets.any() if self._turnaround > 1 else 0

        # ---- The head of the buffer.
        may_go, waits = Signal(), Signal()
        m.d.comb += [
            may_go.eq(head_valid & (~head.row.swap | self.loaded)),
            waits.eq(head_valid & head.row.swap & ~self.loaded),
            self.row.eq(head.row),
            self.issue.eq(may_go & head.good & ~hazard & ~self.pause),
            # Loader and streamer go through the same passes, so the tile that is missing is the one the loader is at.
            self.fault_load.eq(waits & self.bad),
            self.fault.eq(self.fault_load | (may_go & ~head.good)),
            self.fault_index.eq(Mux(self.fault_load, self.bad_index, bad_index)),
            self.fault_address.eq(bad_address),
        ]

        # The next command is taken with the last row of this one, so that rows follow without a gap.
        take = Signal()
        m.d.comb += [
            self.cmd.ready.eq(~active | (step & last_row & last_pass)),
            take.eq(self.cmd.valid & self.cmd.ready),
            passes.start.eq(take),
        ]
        m.d.sync += settled.eq(~(passes.start | passes.step))
        with m.If(take):
            begin = tile_row("begin")
            m.d.comb += begin.eq((new.a_tile << config.side_bits) + new.a_row)
            m.d.sync += [active.eq(1), command.eq(new)]
            m.d.sync += [base.eq(begin) for base in (a, a1, a2, a_pass, a_k, a_n)]
            m.d.sync += [base.eq(new.acc) for base in (c, c1, c2, c_n)]
            m.d.sync += [first.eq(1), left.eq(new.rows), last_row.eq(new.rows == 1), i0.eq(1), i1.eq(1)]
        with m.Elif(step & last_row):
            m.d.sync += [first.eq(1), left.eq(command.rows), last_row.eq(one_row), i0.eq(1), i1.eq(1)]
            next_a, next_c = tile_row("next_a"), acc_row("next_c")
            m.d.comb += next_c.eq(c_n)
            with m.If(passes.next_la):
                m.d.comb += next_a.eq(a_pass + (command.a_limb_stride << config.side_bits))
            with m.Elif(passes.next_lb):
                m.d.comb += next_a.eq(a_k)
            with m.Elif(passes.next_k):
                m.d.comb += next_a.eq(a_k + (command.a_k_stride << config.side_bits))
                m.d.sync += a_k.eq(next_a)
            with m.Elif(passes.next_n):
                m.d.comb += [next_a.eq(a_n), next_c.eq(c_n + command.acc_n_stride)]
                m.d.sync += [a_k.eq(next_a), c_n.eq(next_c)]
            with m.Else():
                m.d.sync += active.eq(0)
            m.d.sync += [base.eq(next_a) for base in (a, a1, a2, a_pass)]
            m.d.sync += [base.eq(next_c) for base in (c, c1, c2)]
        with m.Elif(step):
            m.d.sync += [first.eq(0), left.eq(left - 1), last_row.eq(left == 2)]
            with m.If(i0 != command.count0):
                m.d.sync += [i0.eq(i0 + 1), a.eq(a + command.a_stride0), c.eq(c + command.acc_stride0)]
            with m.Elif(i1 != command.count1):
                m.d.sync += [i0.eq(1), i1.eq(i1 + 1)]
                m.d.sync += [base.eq(a1 + command.a_stride1) for base in (a, a1)]
                m.d.sync += [base.eq(c1 + command.acc_stride1) for base in (c, c1)]
            with m.Else():
                m.d.sync += [i0.eq(1), i1.eq(1)]
                m.d.sync += [base.eq(a2 + command.a_stride2) for base in (a, a1, a2)]
                m.d.sync += [base.eq(c2 + command.acc_stride2) for base in (c, c1, c2)]
        return m
