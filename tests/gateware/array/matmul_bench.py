"""The matrix engine with its memories, and nothing else, for tests in Amaranth's simulator."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from lepton_npu.array.matmul import MatmulEngine
from lepton_npu.array.ports import TileWritePort
from lepton_npu.array.tile_memory import TileMemory
from lepton_npu.control.engine import EngineSignature
from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.spec.commands import Opcode


class MatmulBench(wiring.Component):
    """`MatmulEngine`, `TileMemory`, and accumulators as one memory; ``writes`` fills tiles.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    bounds : In(bounds_layout(config))
        Of the engine.
    """

    def __init__(self, config):
        self.config = config
        self.matmul = MatmulEngine(config)
        self.accumulators = Memory(shape=config.row_bits, depth=config.acc_rows, init=())
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.MATMUL)),
                "bounds": In(bounds_layout(config)),
                "write": In(TileWritePort(config)),
                "active": Out(1),
                "row": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self.matmul
        m.submodules.tiles = tiles = TileMemory(self.config)
        m.submodules.accumulators = self.accumulators
        connect(m, flipped(self.engine), engine.engine)
        connect(m, tiles.stationary, engine.stationary)
        connect(m, tiles.streamed, engine.streamed)
        connect(m, flipped(self.write), tiles.write)
        read, write = self.accumulators.read_port(), self.accumulators.write_port()
        # As in the local memory, requests are registered, then come memory and output register.
        asked, data, valid = Signal(), Signal(self.config.row_bits), Signal()
        m.d.sync += [
            asked.eq(engine.acc.read_en),
            read.addr.eq(engine.acc.read_addr),
            valid.eq(asked),
            data.eq(Mux(valid, read.data, 0)),
            write.en.eq(engine.acc.write_en),
            write.addr.eq(engine.acc.write_addr),
            write.data.eq(engine.acc.write_data),
        ]
        m.d.comb += [
            engine.bounds.eq(self.bounds),
            read.en.eq(asked),
            engine.acc.read_data.eq(data),
            self.active.eq(engine.active),
            self.row.eq(engine.row),
        ]
        return m
