"""From column sums to accumulator rows: scale, convert, add, write back."""

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.fp.add import Fp32Add
from lepton_npu.fp.convert import ScaledIntToFp32
from lepton_npu.memory.ports import ACC_READ_LATENCY, AccPort
from lepton_npu.spec.config import NpuConfig

__all__ = ["SCALE_BITS", "Accumulate"]

SCALE_BITS = 12
"""Bits of the signed power of two that scales a row of sums."""


class Accumulate(wiring.Component):
    """Adds scaled rows of column sums to accumulator rows in binary32, a row every cycle.

    ``accumulators[acc][n] = add(accumulators[acc][n], o[n] * 2**scale)``, or just the scaled sum where ``replace``.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    valid : In(1), sums : In(T x signed(sum_bits)), scale : In(signed(12)), nan : In(1), replace : In(1),
    acc : In(acc_addr_bits), last : In(1)
        A row; ``nan`` makes it NaN; ``last`` comes out again at ``done``.
    port : Out(AccPort)
    written : Out(1), done : Out(1)
        A row has been written in the cycle before; the one marked ``last`` was.

    Attributes
    ----------
    read_delay, write_delay : int
        Cycles from ``valid`` to the read, and to the write, of the accumulator row.
    turnaround : int
        Cycles that must lie from a row to the next one with the same address: it must read what this one writes.
    """

    read_delay = ScaledIntToFp32.latency - ACC_READ_LATENCY
    write_delay = ScaledIntToFp32.latency + Fp32Add.latency
    turnaround = write_delay - read_delay + 1

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "valid": In(1),
                "sums": In(data.ArrayLayout(signed(config.sum_bits), config.side)),
                "scale": In(signed(SCALE_BITS)),
                "nan": In(1),
                "replace": In(1),
                "acc": In(config.acc_addr_bits),
                "last": In(1),
                "port": Out(AccPort(config)),
                "written": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        row = data.StructLayout({"acc": config.acc_addr_bits, "replace": 1, "last": 1})
        valid = Signal(self.write_delay + 1)
        m.d.comb += valid[0].eq(self.valid)
        m.d.sync += valid[1:].eq(valid[:-1])
        rows = [Signal(row, name=f"row{i}", reset_less=i > 0) for i in range(self.write_delay + 1)]
        m.d.comb += [rows[0].acc.eq(self.acc), rows[0].replace.eq(self.replace), rows[0].last.eq(self.last)]
        for i in range(self.write_delay):
            with m.If(valid[i]):
                m.d.sync += rows[i + 1].eq(rows[i])

        converted = ScaledIntToFp32.latency
        m.d.comb += [
            self.port.read_en.eq(valid[self.read_delay] & ~rows[self.read_delay].replace),
            self.port.read_addr.eq(rows[self.read_delay].acc),
            self.port.write_en.eq(valid[-1]),
            self.port.write_addr.eq(rows[-1].acc),
        ]
        written = []
        for n in range(config.side):
            m.submodules[f"convert{n}"] = convert = ScaledIntToFp32(config.sum_bits, SCALE_BITS)
            m.submodules[f"add{n}"] = add = Fp32Add()
            # No read, so zero: only its sign is missing. x + (-0) is x for every x, +0 too.
            old = self.port.read_data.word_select(n, 32)
            m.d.comb += [
                convert.i_valid.eq(self.valid),
                convert.value.eq(self.sums[n]),
                convert.scale.eq(self.scale),
                convert.nan.eq(self.nan),
                add.i_valid.eq(convert.o_valid),
                add.a.eq(convert.o),
                add.b.eq(Cat(old[:31], old[31] | rows[converted].replace)),
            ]
            written.append(add.o)
        m.d.comb += self.port.write_data.eq(Cat(*written))
        m.d.sync += [self.written.eq(valid[-1]), self.done.eq(valid[-1] & rows[-1].last)]
        return m
