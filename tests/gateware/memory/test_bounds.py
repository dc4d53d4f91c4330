"""Partitions: which addresses of a command are in range, and where they are in the memories; against plain Python."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data
from amaranth.sim import Simulator
from lepton_npu.memory import bounds as place
from lepton_npu.memory import range_check as check
from lepton_npu.spec.config import ACC_SPACE, PRESETS, NpuConfig

from tests.gateware.partition import KINDS, Partition

SMALL = NpuConfig(side=4, lanes=4, vmem_rows=32, vmem_banks=2, acc_rows=8, tiles=16, contexts=1)
BITS = 20


def evaluate(core: NpuConfig, said: data.Const, addresses: Iterable[int]) -> list[dict[str, int]]:
    """Every function of both modules, for each address."""
    bounds, address = Signal(place.bounds_layout(core)), Signal(signed(BITS))
    values = {
        "in_vmem": check.in_vmem(core, bounds, address),
        "in_acc": check.in_acc(core, bounds, address),
        "in_local": check.in_local(core, bounds, address),
        "in_tiles": check.in_tiles(core, bounds, address),
        "end": check.local_end(core, bounds, address[15]),
        "to_vmem": place.to_vmem(core, bounds, address),
        "to_acc": place.to_acc(core, bounds, address),
        "to_local": place.to_local(core, bounds, address),
        "to_tile": place.to_tile(core, bounds, address),
        "to_tile_row": place.to_tile_row(core, bounds, address),
    }
    m = Module()
    outputs = {name: Signal(len(value), name=name) for name, value in values.items()}
    m.d.comb += [outputs[name].eq(value) for name, value in values.items()]
    found = []

    async def process(ctx):
        ctx.set(bounds, said)
        for number in addresses:
            ctx.set(address, number)
            await ctx.delay(1e-9)
            found.append({name: ctx.get(output) for name, output in outputs.items()})

    simulator = Simulator(m)
    simulator.add_testbench(process)
    simulator.run()
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [SMALL, PRESETS["ecp5"]])
def test_addresses(seed, config, kind):
    """All addresses near an end of something, and random ones."""
    rng = random.Random(f"{seed} {config}")
    part = Partition.draw(kind, config, rng)
    core = part.core
    ends = {0, ACC_SPACE, 2 * ACC_SPACE, config.tiles, core.tiles, config.vmem_rows, core.vmem_rows}
    ends |= {ACC_SPACE + config.acc_rows, ACC_SPACE + core.acc_rows}
    addresses = [end + near for end in ends for near in range(-3, 4)]
    addresses += [rng.randrange(-1 << BITS - 1, 1 << BITS - 1) for _ in range(300)]
    for address, found in zip(addresses, evaluate(core, part.bounds, addresses), strict=True):
        vmem, tile = 0 <= address < config.vmem_rows, 0 <= address < config.tiles
        acc = 0 <= address - ACC_SPACE < config.acc_rows
        assert (found["in_vmem"], found["in_acc"], found["in_local"]) == (vmem, acc, vmem or acc), address
        assert found["in_tiles"] == tile, address
        assert found["end"] == (ACC_SPACE + config.acc_rows if address & ACC_SPACE else config.vmem_rows)
        # What is placed is of the partition, in range or not (these raise if it is not), and right if it is.
        if kind == "shared":
            rows = part.vmem(found["to_vmem"]), part.acc(found["to_acc"]), part.tile(found["to_tile"])
            local, tile_row = part.local(found["to_local"]), part.tile_row(found["to_tile_row"])
            assert rows == (address % config.vmem_rows, address % config.acc_rows, address % config.tiles)
            assert tile_row == address % (config.tiles * config.side)
            assert local & ACC_SPACE == address & ACC_SPACE
        else:
            local = found["to_local"]
        if vmem or acc:
            assert local == address
        if vmem:
            assert part.vmem(found["to_vmem"]) == address
        if acc:
            assert part.acc(found["to_acc"]) == address - ACC_SPACE


def test_partitions_of_accumulators_have_no_row_in_common():
    """Of all sizes, one row too: as many rows as the size, the same ones of both halves, and none of another's."""
    core = replace(SMALL, acc_rows=16, contexts=2)
    taken = {}
    for size in (1, 2, 4, 8, 16):
        for base in range(0, core.acc_rows, size):
            bounds = place.bounds_layout(core).const({"acc_base": base, "acc_mask": size - 1})
            found = [values["to_acc"] for values in evaluate(core, bounds, range(ACC_SPACE, ACC_SPACE + 16))]
            taken[base, size] = set(found)
            assert len(taken[base, size]) == size
            assert found == found[:size] * (16 // size)
            upper = [row - 8 for row in found[:size] if row >= 8]
            assert size == 1 or found[:size] == upper + [row + 8 for row in upper]
    for (base, size), rows in taken.items():
        for (other, length), others in taken.items():
            if base + size <= other or other + length <= base:
                assert not rows & others, (base, size, other, length)


@pytest.mark.parametrize("config", [SMALL, PRESETS["ecp5"], PRESETS["tiny"], PRESETS["large"]])
def test_whole(config):
    """All of the memories: base 0, and masks that keep every address."""
    layout = place.bounds_layout(config)
    values = {name: place.whole(config)[name] for name in layout.members}
    assert values == {
        "vmem_base": 0,
        "vmem_mask": config.vmem_rows - 1,
        "acc_base": 0,
        "acc_mask": config.acc_rows - 1,
        "tile_base": 0,
        "tile_mask": config.tiles - 1,
    }


def test_one_context_does_not_look_at_bounds(seed):
    """With one context there is no logic for partitions: whatever the bounds are, commands have everything."""
    rng, layout = random.Random(seed), place.bounds_layout(SMALL)
    bounds = layout.const({name: rng.randrange(1 << field.width) for name, field in layout})
    addresses = [rng.randrange(-1 << BITS - 1, 1 << BITS - 1) for _ in range(100)]
    assert evaluate(SMALL, bounds, addresses) == evaluate(SMALL, place.whole(SMALL), addresses)
