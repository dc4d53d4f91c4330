"""The matrix engine: MATMUL commands on the systolic array."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.control.engine import EngineSignature, command_layout
from lepton_npu.memory.bounds import bounds_layout
from lepton_npu.memory.ports import AccPort
from lepton_npu.spec.commands import FaultCause, Opcode
from lepton_npu.spec.config import NpuConfig

from .accumulate import SCALE_BITS, Accumulate
from .load_weights import WeightLoader
from .ports import TILE_READ_LATENCY, TileReadPort
from .stream_rows import RowStreamer, row_layout
from .systolic import SystolicArray

__all__ = ["MatmulEngine"]

_BIAS = 2 * 127 + 2 * 6  # of two E8M0 exponents, and of two mantissas with 6 bits behind the point
_NAN_EXPONENT = 0xFF


class MatmulEngine(wiring.Component):
    """Runs MATMUL commands (docs/architecture.md, section 2), a row of T products of T each cycle.

    A pass of R rows takes max(R, T) cycles (and at least `Accumulate.turnaround` if the next one adds to the same
    accumulators), and passes follow without a gap, across commands too, if the next command waits at ``engine.cmd``
    before the last tile of the present one has been loaded. From the first weight row to the first accumulator write
    it takes ``T + TILE_READ_LATENCY + SystolicArray.latency + Accumulate.write_delay`` cycles.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    engine : Out(EngineSignature(Opcode.MATMUL))
    bounds : In(bounds_layout(config))
        Tiles and accumulators that commands may use; changes only while the engine holds none.
    stationary, streamed : Out(TileReadPort)
        Two read ports of the tile memory.
    acc : Out(AccPort)
        The accumulators.
    active : Out(1)
        For the counter MATMUL_BUSY: from the first weight load to the last accumulator write.
    row : Out(1)
        For the counter MATMUL_ROWS: a row is streamed in this cycle.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.MATMUL)),
                "bounds": In(bounds_layout(config)),
                "stationary": Out(TileReadPort(config)),
                "streamed": Out(TileReadPort(config)),
                "acc": Out(AccPort(config)),
                "active": Out(1),
                "row": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, engine = self._config, self.engine
        m.submodules.array = array = SystolicArray(config)
        m.submodules.accumulate = accumulate = Accumulate(config)
        m.submodules.loader = loader = WeightLoader(config)
        m.submodules.streamer = streamer = RowStreamer(config, accumulate.turnaround)
        self.streamer = streamer  # for proofs to look at
        connect(m, flipped(self.stationary), loader.port)
        connect(m, flipped(self.acc), accumulate.port)

        # A command goes to the loader at once, and to the streamer through a buffer of one.
        waiting, waiting_valid = Signal(command_layout(Opcode.MATMUL), reset_less=True), Signal()
        accept = Signal()
        m.d.comb += [
            loader.cmd.payload.eq(engine.cmd.payload),
            loader.cmd.valid.eq(engine.cmd.valid & ~waiting_valid),
            engine.cmd.ready.eq(loader.cmd.ready & ~waiting_valid),
            accept.eq(engine.cmd.valid & engine.cmd.ready),
            loader.bounds.eq(self.bounds),
            streamer.bounds.eq(self.bounds),
            streamer.cmd.payload.eq(waiting),
            streamer.cmd.valid.eq(waiting_valid),
        ]
        with m.If(streamer.cmd.ready):
            m.d.sync += waiting_valid.eq(0)
        with m.If(accept):
            m.d.sync += [waiting.eq(engine.cmd.payload), waiting_valid.eq(1)]

        held = Signal(4)  # commands accepted and not done: loader's, buffer's, streamer's, and those that drain
        in_flight = Signal(range(TILE_READ_LATENCY + array.latency + accumulate.write_delay + 4))  # rows
        m.d.sync += [
            held.eq(held + accept - accumulate.done),
            in_flight.eq(in_flight + streamer.issue - accumulate.written),
        ]
        m.d.comb += [
            engine.done.eq(accumulate.done),
            engine.busy.eq(held != 0),
            engine.quiet.eq((in_flight == 0) | ~streamer.fault),
            self.active.eq(held != 0),
            self.row.eq(streamer.issue),
            engine.progress.eq(streamer.issue | loader.port.en | accumulate.written),
            loader.swap.eq(streamer.issue & streamer.row.swap),
            streamer.loaded.eq(loader.loaded),
            streamer.pause.eq(self.acc.pause),
            streamer.bad.eq(loader.bad),
            streamer.bad_index.eq(loader.bad_index),
            engine.fault.valid.eq(streamer.fault),
            engine.fault.cause.eq(FaultCause.LOCAL_RANGE),
            engine.fault.index.eq(streamer.fault_index),
            engine.fault.address.eq(
                Mux(streamer.fault_load, loader.bad_tile << config.side_bits, streamer.fault_address)
            ),
            self.streamed.en.eq(streamer.issue),
            self.streamed.row.eq(streamer.row.tile_row),
            self.streamed.transpose.eq(streamer.row.transpose),
        ]

        # Weights, as they come out of the tile memory.
        load = Signal(TILE_READ_LATENCY)
        load_first = Signal(TILE_READ_LATENCY)
        m.d.sync += [load.eq(Cat(loader.port.en, load)), load_first.eq(Cat(loader.first, load_first))]
        shadow_exponent, used_exponent = Signal(8, reset_less=True), Signal(8, reset_less=True)
        m.d.comb += [
            array.w_valid.eq(load[-1]),
            array.w_first.eq(load_first[-1]),
            array.w.eq(self.stationary.data),
        ]
        with m.If(load[-1]):
            m.d.sync += shadow_exponent.eq(self.stationary.exponent)

        # Rows, and what they carry along.
        layout = row_layout(config)
        valid = Signal(TILE_READ_LATENCY)
        m.d.sync += valid.eq(Cat(streamer.issue, valid))
        row, rows = streamer.row, []
        for stage in range(TILE_READ_LATENCY):
            register = Signal(layout, name=f"row{stage + 1}", reset_less=True)
            with m.If(streamer.issue if stage == 0 else valid[stage - 1]):
                m.d.sync += register.eq(row)
            row = register
            rows.append(register)
        row, row_valid = rows[-1], valid[-1]
        stationary_exponent = Signal(8)
        m.d.comb += [
            array.x_valid.eq(row_valid),
            array.x_swap.eq(row.swap),
            array.x.eq(self.streamed.data),
            stationary_exponent.eq(Mux(row.swap, shadow_exponent, used_exponent)),
        ]
        with m.If(row_valid):
            m.d.sync += used_exponent.eq(stationary_exponent)

        # Rows in the array: a ring buffer holds what the accumulators will want to know.
        flight = data.StructLayout(
            {"acc": config.acc_addr_bits, "replace": 1, "last": 1, "scale": signed(SCALE_BITS), "nan": 1}
        )
        entry, entry_valid = Signal(flight, reset_less=True), Signal()
        m.d.sync += entry_valid.eq(row_valid)
        with m.If(row_valid):
            m.d.sync += [
                entry.acc.eq(row.acc),
                entry.replace.eq(row.replace),
                entry.last.eq(row.last),
                entry.scale.eq(self.streamed.exponent + stationary_exponent - (row.limbs << 3) - _BIAS),
                entry.nan.eq((self.streamed.exponent == _NAN_EXPONENT) | (stationary_exponent == _NAN_EXPONENT)),
            ]
        depth = 1 << array.latency.bit_length()
        m.submodules.flight = memory = Memory(shape=flight, depth=depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        head, tail = Signal(range(depth)), Signal(range(depth))
        m.d.comb += [
            write.en.eq(entry_valid),
            write.addr.eq(head),
            write.data.eq(entry),
            read.en.eq(array.o_early),
            read.addr.eq(tail),
            accumulate.valid.eq(array.o_valid),
            accumulate.sums.eq(array.o),
            accumulate.scale.eq(read.data.scale),
            accumulate.nan.eq(read.data.nan),
            accumulate.replace.eq(read.data.replace),
            accumulate.acc.eq(read.data.acc),
            accumulate.last.eq(read.data.last),
        ]
        m.d.sync += [head.eq(head + entry_valid), tail.eq(tail + array.o_early)]
        return m
