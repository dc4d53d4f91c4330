"""The units that are linted, and placed and routed, on their own: one line each.

Each entry makes the component in the size that the 8x8 FPGA preset has, or a typical one, or, where several contexts
share, that of the preset with four; the second value is the clock in MHz that it must reach on ECP5, speed grade 6.
"""

from collections.abc import Callable
from importlib import import_module

from amaranth.lib import wiring
from lepton_npu.spec.commands import Engine, Opcode
from lepton_npu.spec.config import PRESETS

Factory = Callable[[], wiring.Component]


def _make(path: str, *args, **kwargs) -> Factory:
    """Factory of ``lepton_npu.<path>`` that imports only when it is called."""

    def factory() -> wiring.Component:
        module, name = path.rsplit(".", 1)
        return getattr(import_module(f"lepton_npu.{module}"), name)(*args, **kwargs)

    return factory


_ECP5 = PRESETS["ecp5"]
_SHARED = PRESETS["default"]  # `ecp5` has one context, which shares with nobody: these units would be wires


def _row_streamer() -> wiring.Component:
    from lepton_npu.array.accumulate import Accumulate
    from lepton_npu.array.stream_rows import RowStreamer

    return RowStreamer(_ECP5, Accumulate.turnaround)


UNITS: dict[str, tuple[Factory, float]] = {
    "fp32_add": (_make("fp.add.Fp32Add"), 80.0),
    "fp32_mul": (_make("fp.mul.Fp32Mul"), 80.0),
    "fp32_mul_add": (_make("fp.mul.Fp32MulAdd"), 80.0),
    "fp32_compare": (_make("fp.compare.Fp32Compare"), 80.0),
    "fp32_function": (_make("fp.function.Fp32Function"), 80.0),
    "element_to_fp32": (_make("fp.convert.ElementToFp32"), 80.0),
    "fp32_to_element": (_make("fp.convert.Fp32ToElement"), 80.0),
    "scaled_int_to_fp32": (_make("fp.convert.ScaledIntToFp32", _ECP5.sum_bits), 80.0),
    "systolic_array": (_make("array.systolic.SystolicArray", _ECP5), 120.0),
    "accumulate": (_make("array.accumulate.Accumulate", _ECP5), 80.0),
    "weight_loader": (_make("array.load_weights.WeightLoader", _ECP5), 80.0),
    "row_streamer": (_row_streamer, 80.0),
    "matmul": (_make("array.matmul.MatmulEngine", _ECP5), 80.0),
    "tile_memory": (_make("array.tile_memory.TileMemory", _ECP5), 80.0),
    "quantiser": (_make("array.quantiser.QuantEngine", _ECP5), 80.0),
    "local_memory": (_make("memory.local_memory.LocalMemory", _ECP5), 80.0),
    "vector_lane": (_make("vector.lane.VectorLane"), 80.0),
    "vector_engine": (_make("vector.engine.VectorEngine", _ECP5), 80.0),
    "load": (_make("bus.load.LoadEngine", _ECP5), 80.0),
    "store": (_make("bus.store.StoreEngine", _ECP5), 80.0),
    "axi_master": (_make("bus.master.AxiMaster", _ECP5), 80.0),
    "tlb": (_make("mmu.tlb.Tlb", _ECP5), 80.0),
    "page_walker": (_make("mmu.walker.PageWalker", _ECP5), 80.0),
    "mmu": (_make("mmu.mmu.Mmu", _ECP5), 80.0),
    "record_fetch": (_make("control.fetch.RecordFetch", _ECP5), 80.0),
    "record_decoder": (_make("control.decode.RecordDecoder", _ECP5), 80.0),
    "address_registers": (_make("control.addresses.AddressRegisters"), 80.0),
    "command_queue": (_make("control.queue.CommandQueue", _ECP5, Opcode.MATMUL), 80.0),
    "semaphores": (_make("control.semaphores.SemaphoreFile"), 80.0),
    "watchdog": (_make("control.watchdog.Watchdog", waiting=len(Engine), running=len(Engine) - 1), 80.0),
    "engine_share": (_make("control.engine_share.EngineShare", _SHARED, Opcode.MATMUL), 80.0),
    "fetch_share": (_make("control.fetch_share.FetchShare", _SHARED), 80.0),
    "partition": (_make("control.partition.Partition", _SHARED), 80.0),
    "sequencer": (_make("control.sequencer.Sequencer", _ECP5), 80.0),
    "register_bank": (_make("control.register_bank.RegisterBank", _ECP5), 80.0),
}
