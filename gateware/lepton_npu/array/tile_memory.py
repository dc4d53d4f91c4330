"""Tile memory: T byte-wide banks in a skewed layout, so that rows and columns both read in one cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from lepton_npu.memory.block_ram import block_ram, read_block_ram
from lepton_npu.spec.config import NpuConfig

from .ports import TILE_READ_LATENCY, TileReadPort, TileWritePort

__all__ = ["TileMemory", "rotate_right"]


def rotate_right(m: Module, value: Value, amount: Value, *, name: str, unit: int = 8) -> Value:
    """``value`` rotated towards its low end by ``amount`` units of ``unit`` bits."""
    result = Signal(len(value), name=name)
    with m.Switch(amount):
        for count in range(1 << len(amount)):
            cut = count * unit % len(value)
            with m.Case(count):
                m.d.comb += result.eq(Cat(value[cut:], value[:cut]))
    return result


class TileMemory(wiring.Component):
    """Memory of ``config.tiles`` tiles of T x T bytes, each with one exponent byte.

    Element (r, c) of a tile lies in bank (r + c) mod T at address ``tile * T + r``, so the elements of a row, and of a
    column, are all in different banks. Every bank has two read ports, which block RAM with one of them realises as
    two copies. The content is zero at power-on and is kept through a reset.

    Latency of a read is `TILE_READ_LATENCY` cycles (memory, its output register, rotation), and both read ports and the
    write port take an access every cycle. A read sees the writes of earlier cycles. What it gives for bytes that are
    written in its own cycle is not defined.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    stationary, streamed : In(TileReadPort(config))
        Two independent read ports.
    write : In(TileWritePort(config))
        Writes one row of a tile and the tile's exponent.
    """

    def __init__(self, config: NpuConfig):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        self._config = config
        super().__init__(
            {
                "stationary": In(TileReadPort(config)),
                "streamed": In(TileReadPort(config)),
                "write": In(TileWritePort(config)),
            }
        )

    @property
    def config(self) -> NpuConfig:
        """The configuration the memory was made for."""
        return self._config

    def elaborate(self, platform):
        m = Module()
        side, side_bits = self._config.side, self._config.side_bits
        rows = self._config.tiles * side

        # Lane c of row r goes to bank (c + r) mod T: bank b takes lane (b - r) mod T.
        skew = Signal(side_bits)
        m.d.comb += skew.eq(-self.write.row[:side_bits])
        written = rotate_right(m, Value.cast(self.write.data), skew, name="write_banks")

        ports = {"stationary": self.stationary, "streamed": self.streamed}
        banks_read = {name: [] for name in ports}
        for bank in range(side):
            memory = m.submodules[f"bank{bank}"] = block_ram(8, rows)
            write = memory.write_port()
            m.d.comb += [
                write.en.eq(self.write.en),
                write.addr.eq(self.write.row),
                write.data.eq(written.word_select(bank, 8)),
            ]
            for name, port in ports.items():
                # In a row read every bank has the row's address; column c has its element of bank b in row b - c.
                index = port.row[:side_bits]
                element = Signal(side_bits, name=f"{name}_element{bank}")
                m.d.comb += element.eq(Mux(port.transpose, bank - index, index))
                address = Cat(element, port.row[side_bits:])
                banks_read[name].append(
                    read_block_ram(m, memory, enable=port.en, address=address, name=f"{name}_bank{bank}")
                )

        exponents = m.submodules.exponents = block_ram(8, self._config.tiles)
        write = exponents.write_port()
        m.d.comb += [
            write.en.eq(self.write.en),
            write.addr.eq(self.write.row[side_bits:]),
            write.data.eq(self.write.exponent),
        ]

        for name, port in ports.items():
            exponent1 = read_block_ram(
                m, exponents, enable=port.en, address=port.row[side_bits:], name=f"{name}_exponent1"
            )
            # Lane i of row (or column) r is in bank (i + r) mod T. Block RAM is slow: its output goes straight to a
            # register, and the rotation has a cycle of its own.
            amount1 = Signal(side_bits, name=f"{name}_amount1", reset_less=True)
            amount2 = Signal(side_bits, name=f"{name}_amount2", reset_less=True)
            exponent2 = Signal(8, name=f"{name}_exponent2", reset_less=True)
            banks2 = Signal(side * 8, name=f"{name}_banks2", reset_less=True)
            valid = Signal(TILE_READ_LATENCY - 1, name=f"{name}_valid")
            m.d.sync += valid.eq(Cat(port.en, valid))
            with m.If(port.en):
                m.d.sync += amount1.eq(port.row[:side_bits])
            with m.If(valid[0]):
                m.d.sync += [banks2.eq(Cat(*banks_read[name])), amount2.eq(amount1), exponent2.eq(exponent1)]
            rotated = rotate_right(m, banks2, amount2, name=f"{name}_rotated")
            line = Signal(data.ArrayLayout(signed(8), side), name=f"{name}_line", reset_less=True)
            exponent3 = Signal(8, name=f"{name}_exponent3", reset_less=True)
            with m.If(valid[1]):
                m.d.sync += [Value.cast(line).eq(rotated), exponent3.eq(exponent2)]
            m.d.comb += [port.data.eq(line), port.exponent.eq(exponent3)]
        return m
