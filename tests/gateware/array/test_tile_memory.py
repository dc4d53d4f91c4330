"""Tile memory against a NumPy array: rows, columns, both read ports at once, visibility of writes."""

from collections import deque

import cocotb
import lepton_sim
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from lepton_npu.array.ports import TILE_READ_LATENCY
from lepton_npu.array.tile_memory import TileMemory
from lepton_npu.spec.config import NpuConfig

PORTS = ("stationary", "streamed")


def config_of(side: int) -> NpuConfig:
    return NpuConfig(side=side, lanes=4, vmem_rows=64, acc_rows=64, tiles=16)


def pack(row: np.ndarray) -> int:
    return int.from_bytes(row.astype(np.int8).tobytes(), "little")


async def start(dut):
    for port in (*PORTS, "write"):
        getattr(dut, f"{port}_en").value = 0
        getattr(dut, f"{port}_row").value = 0
    for port in PORTS:
        getattr(dut, f"{port}_transpose").value = 0
    dut.write_data.value = 0
    dut.write_exponent.value = 0
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def random_accesses(dut):
    """Everything at random: inputs change and outputs are looked at on falling edges."""
    side, cycles = lepton_sim.params()["side"], lepton_sim.params()["cycles"]
    rng = np.random.default_rng(lepton_sim.seed())
    tiles = config_of(side).tiles
    memory = np.zeros((tiles, side, side), np.int8)
    exponents = np.zeros(tiles, np.uint8)
    expected = {port: deque([None] * TILE_READ_LATENCY) for port in PORTS}
    compared = {(port, transpose): 0 for port in PORTS for transpose in (0, 1)}
    await start(dut)
    for port in PORTS:
        assert getattr(dut, f"{port}_data").value.is_resolvable
        assert getattr(dut, f"{port}_exponent").value.is_resolvable
    span = tiles
    for cycle in range(cycles):
        await FallingEdge(dut.clk)
        if cycle % 64 == 0:
            # Few tiles make a read of the row that was just written likely, many reach all the addresses.
            span = int(rng.choice([1, 2, tiles]))
            busy = rng.choice([0.3, 0.9, 1.0])
        write_tile, write_index = int(rng.integers(span)), int(rng.integers(side))
        writes = bool(rng.random() < busy)
        for port in PORTS:
            transpose, want = expected[port].popleft() or (0, None)
            if want is not None:
                data, exponent = int(getattr(dut, f"{port}_data").value), int(getattr(dut, f"{port}_exponent").value)
                got = (data, exponent if want[1] is not None else None)
                assert got == want, f"cycle {cycle}: {port} gives {got[0]:x}, {got[1]}, not {want[0]:x}, {want[1]}"
                compared[port, transpose] += 1
            tile, index, transpose = int(rng.integers(span)), int(rng.integers(side)), int(rng.integers(2))
            enable = int(rng.random() < busy)
            getattr(dut, f"{port}_en").value = enable
            getattr(dut, f"{port}_row").value = tile * side + index
            getattr(dut, f"{port}_transpose").value = transpose
            line = memory[tile, :, index] if transpose else memory[tile, index]
            # What is being written in this very cycle is not defined.
            same_tile = writes and tile == write_tile
            want = (pack(line), None if same_tile else int(exponents[tile]))
            if not enable or (same_tile and (transpose or index == write_index)):
                want = None
            expected[port].append((transpose, want))
        row = rng.integers(-128, 128, side).astype(np.int8)
        exponent = int(rng.integers(256))
        dut.write_en.value = int(writes)
        dut.write_row.value = write_tile * side + write_index
        dut.write_data.value = pack(row)
        dut.write_exponent.value = exponent
        if writes:
            memory[write_tile, write_index] = row
            exponents[write_tile] = exponent
    assert min(compared.values()) > cycles // 10, compared


@pytest.mark.parametrize("side", [4, 8, 16])
@pytest.mark.verilator
def test_random_accesses(side):
    lepton_sim.run_cocotb(
        TileMemory(config_of(side)), "tile_memory", __name__, sim="verilator", params={"side": side, "cycles": 1500}
    )


@pytest.mark.icarus
def test_random_accesses_icarus():
    lepton_sim.run_cocotb(
        TileMemory(config_of(4)), "tile_memory", __name__, sim="icarus", params={"side": 4, "cycles": 400}
    )


def test_config_is_checked():
    with pytest.raises(TypeError, match="config must be an NpuConfig, not 16"):
        TileMemory(16)
