"""The program of `Context.scrub`, on the simulator: nothing is left, whatever was there."""

import dataclasses

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_verif.model.iss import Iss
from leptonaicsdk.scrub import scrub_program

LARGE_TILES = dataclasses.replace(PRESETS["tiny"], tiles=0x8000)


@pytest.mark.parametrize(
    "config", [*PRESETS.values(), LARGE_TILES, PRESETS["tiny"].partition(vmem_rows=64, acc_rows=8, tiles=4)]
)
def test_everything_is_zero(config: NpuConfig, seed):
    rng = np.random.default_rng(seed)
    program = scrub_program(config)
    memory = np.zeros(1 << 12, np.uint8)
    iss = Iss(config, memory)
    state = iss.state
    state.vmem[:] = rng.choice(
        np.array([0, 1, 0x7FC00000, 0xFF800000, 0x3F800000, 0xFFFFFFFF], np.uint32), state.vmem.shape
    )
    state.acc[:] = rng.integers(0, 1 << 32, state.acc.shape, np.uint32)
    state.tiles[:] = rng.integers(-128, 128, state.tiles.shape, np.int8)
    state.exponents[:] = rng.choice(np.array([0, 1, 255], np.uint8), state.exponents.shape)
    records = program.records()
    memory[: len(records)] = np.frombuffer(records, np.uint8)
    assert iss.run(0, 6, len(program)) is None
    assert not state.vmem.any()
    assert not state.acc.any()
    assert not state.tiles.any()
    assert not state.exponents.any()
