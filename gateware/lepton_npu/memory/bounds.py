"""The part of the on-chip memories that commands may use, and where in the memories it is (docs/contexts.md)."""

from typing import Any

from amaranth.hdl import Cat, Const, Mux, Value
from amaranth.lib import data

from lepton_npu.spec.config import ACC_SPACE, NpuConfig

__all__ = ["Bounds", "bounds_layout", "to_acc", "to_local", "to_tile", "to_tile_row", "to_vmem", "whole"]

Bounds = Any
"""A value of `bounds_layout`."""

_ACC_BIT = ACC_SPACE.bit_length() - 1


def bounds_layout(config: NpuConfig) -> data.StructLayout:
    """A partition of each memory: its first row (or tile), and its size less one.

    Sizes are powers of two, and a base is a multiple of its size. A command's addresses count from the base; what is
    said of one that is out of range (`range_check`) is what a core of the partition's size would say. A memory gets
    ``base | (address & mask)``, which is in the partition whatever the address; `to_acc` has one thing more. With one
    context there is nothing to share: commands have all of the memories, and nobody looks at the bounds.
    """
    sizes = {"vmem": config.vmem_addr_bits, "acc": config.acc_addr_bits, "tile": config.tile_bits}
    return data.StructLayout({f"{name}_{part}": bits for name, bits in sizes.items() for part in ("base", "mask")})


def whole(config: NpuConfig) -> data.Const:
    """The bounds that are all of the memories."""
    return bounds_layout(config).const(
        {"vmem_mask": config.vmem_rows - 1, "acc_mask": config.acc_rows - 1, "tile_mask": config.tiles - 1}
    )


def _placed(config: NpuConfig, base: Value, mask: Value, address: Value) -> Value:
    address = address[: len(mask)]
    return address if config.contexts == 1 else base | (address & mask)


def to_vmem(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """Row of the vector memory (``vmem_addr_bits``) that a command's ``address`` (any width) is."""
    return _placed(config, bounds.vmem_base, bounds.vmem_mask, address)


def to_acc(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """Row of the accumulators (``acc_addr_bits``) that a command's local row address is; bit 15 is not looked at.

    The memory has two halves that work at the same time, and a program expects that of what it has. So a partition is
    the same ``size / 2`` rows of both: its upper half is in the upper half of the memory. Partitions that do not
    overlap have no row in common.
    """
    row, base, mask = address[: config.acc_addr_bits], bounds.acc_base, bounds.acc_mask
    if config.contexts == 1:
        return row
    upper = (row & mask & ~Cat(mask[1:], Const(0, 1))).any()  # the bit on top of the mask
    # A base that is odd is that of a single row.
    return Cat(base[1:] | (row[:-1] & mask[1:]), upper | base[0])


def to_local(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """Local row address (16 bits) of the row that a command's local row address is."""
    if config.contexts == 1:
        return address[: _ACC_BIT + 1]
    is_acc = address[_ACC_BIT]
    row = Mux(is_acc, to_acc(config, bounds, address), to_vmem(config, bounds, address))
    return Cat(row, Const(0, _ACC_BIT - len(row)), is_acc)


def to_tile(config: NpuConfig, bounds: Bounds, tile: Value) -> Value:
    """Tile of the tile memory (``tile_bits``) that a command's ``tile`` (any width) is."""
    return _placed(config, bounds.tile_base, bounds.tile_mask, tile)


def to_tile_row(config: NpuConfig, bounds: Bounds, address: Value) -> Value:
    """The same for the address of a tile's row, ``tile * T + row``."""
    return Cat(address[: config.side_bits], to_tile(config, bounds, address[config.side_bits :]))
