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

    A row waits while its pass is not loaded (first row), or while the accumulator row it names was issued less than
    ``turnaround`` cycles ago.

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
    fault, fault_load : Out(1), fault_index : Out(32), fault_address : Out(34)
        The next row, or (``fault_load``) the tile it needs, is out of range; stays until reset.
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

        # A row whose accumulator row is still in flight waits.
        entry = data.StructLayout({"valid": 1, "acc": config.acc_addr_bits})
        recent = Signal(data.ArrayLayout(entry, max(self._turnaround - 1, 1)))
        hazard = Signal()
        m.d.sync += Cat(recent).eq(Cat(self.issue, c[: config.acc_addr_bits], recent.as_value()))
        if self._turnaround > 1:
            m.d.comb += hazard.eq(Cat(old.valid & (old.acc == c[: config.acc_addr_bits]) for old in recent).any())

        a_good, c_good, may_go = Signal(), Signal(), Signal()
        last_row, last_pass = Signal(), Signal()
        m.d.comb += [
            a_good.eq(in_tiles(config, self.bounds, a[config.side_bits :])),
            c_good.eq(in_acc(config, self.bounds, c)),
            may_go.eq(active & (~first | self.loaded)),
            self.issue.eq(may_go & a_good & c_good & ~hazard),
            last_row.eq(left == 1),
            last_pass.eq(~(passes.next_la | passes.next_lb | passes.next_k | passes.next_n)),
            self.row.tile_row.eq(to_tile_row(config, self.bounds, a)),
            self.row.transpose.eq(command.a_transpose),
            self.row.acc.eq(to_acc(config, self.bounds, c)),
            self.row.replace.eq(passes.first_k & (passes.la == 0) & (passes.lb == 0) & ~command.accumulate),
            self.row.limbs.eq(passes.la + passes.lb),
            self.row.swap.eq(first),
            self.row.last.eq(last_row & last_pass),
            self.fault_load.eq(active & first & ~self.loaded & self.bad & (self.bad_index == command.index)),
            self.fault.eq(self.fault_load | (may_go & ~(a_good & c_good))),
            self.fault_index.eq(command.index),
            self.fault_address.eq(Mux(a_good, c, a)),
            passes.step.eq(self.issue & last_row),
            passes.k_tiles.eq(new.k_tiles),
            passes.n_tiles.eq(new.n_tiles),
            passes.a_precision.eq(new.a_precision),
            passes.b_precision.eq(new.b_precision),
        ]

        # The next command is taken with the last row of this one, so that rows follow without a gap.
        take = Signal()
        m.d.comb += [
            self.cmd.ready.eq(~active | (self.issue & last_row & last_pass)),
            take.eq(self.cmd.valid & self.cmd.ready),
            passes.start.eq(take),
        ]
        with m.If(take):
            begin = tile_row("begin")
            m.d.comb += begin.eq((new.a_tile << config.side_bits) + new.a_row)
            m.d.sync += [active.eq(1), command.eq(new)]
            m.d.sync += [base.eq(begin) for base in (a, a1, a2, a_pass, a_k, a_n)]
            m.d.sync += [base.eq(new.acc) for base in (c, c1, c2, c_n)]
            m.d.sync += [first.eq(1), left.eq(new.rows), i0.eq(1), i1.eq(1)]
        with m.Elif(self.issue & last_row):
            m.d.sync += [first.eq(1), left.eq(command.rows), i0.eq(1), i1.eq(1)]
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
        with m.Elif(self.issue):
            m.d.sync += [first.eq(0), left.eq(left - 1)]
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
