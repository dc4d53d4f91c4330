"""Whether an exact address of a command names a row, or a tile, of the memories that the command may use."""

from amaranth.hdl import Const, Mux, Value

from lepton_npu.spec.config import ACC_SPACE, NpuConfig

from .bounds import Bounds

__all__ = ["in_acc", "in_local", "in_tiles", "in_vmem", "local_end"]

_ACC_BIT = ACC_SPACE.bit_length() - 1


def _beyond(config: NpuConfig, mask: Value, address: Value) -> Value:
    """1 where one of the low bits of ``address`` that number rows is not one of a row of the partition."""
    return Const(0, 1) if config.contexts == 1 else (address[: len(mask)] & ~mask).any()


def in_vmem(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """1 where ``address`` (any width, sign bit on top) is a row of the vector memory."""
    return ~(address[config.vmem_addr_bits :].any() | _beyond(config, bounds.vmem_mask, address))


def in_acc(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """1 where ``address`` is a row of the accumulators."""
    others = address[config.acc_addr_bits : _ACC_BIT].any() | address[_ACC_BIT + 1 :].any()
    return address[_ACC_BIT] & ~(others | _beyond(config, bounds.acc_mask, address))


def in_local(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """1 where ``address`` is a row of either."""
    return in_vmem(config, bounds, address) | in_acc(config, bounds, address)


def in_tiles(config: NpuConfig, bounds: Bounds, tile: Value) -> Value:
    """1 where ``tile`` (any width, sign bit on top) is a tile of the tile memory."""
    return ~(tile[config.tile_bits :].any() | _beyond(config, bounds.tile_mask, tile))


def local_end(config: NpuConfig, bounds: Bounds, is_acc: Value) -> Value:
    """The local row address behind the last row of the accumulators, where ``is_acc``, or of the vector memory."""
    if config.contexts == 1:
        return Mux(is_acc, ACC_SPACE + config.acc_rows, config.vmem_rows)
    return Mux(is_acc, ACC_SPACE + bounds.acc_mask, bounds.vmem_mask) + 1
