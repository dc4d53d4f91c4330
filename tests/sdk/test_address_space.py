"""A device in an address space: the same bits by pages of any size, and tables that are what they must be."""

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.page_table import PAGE_SIZES
from lepton_npu.spec.translation import Access
from lepton_verif.model.translation import translate
from leptonaicsdk import Adam, Dense, Device, InputError, Network
from leptonaicsdk.address_space import VIRTUAL_BASE, AddressSpace, table_bytes

NETWORK = Network(24, (Dense(7, "relu"), Dense(3, "softmax")))
X = np.random.default_rng(2).integers(0, 256, (96, 24), np.uint8)
Y = X[:, :3].argmax(axis=1)


def _train(backend: str, page_bytes: int | None):
    with Device(backend, "tiny", memory_bytes=1 << 22, page_bytes=page_bytes, patch_keras=False) as device:
        device.load_model(NETWORK, input_scale=1 / 255, seed=1)
        device.compile(optimizer=Adam(0.01), batch_size=8)
        device.fit(X, Y, shuffle=False)
        return device.state, device.predict(X), device.counters


@pytest.fixture(scope="module")
def physical():
    return _train("model", None)


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
@pytest.mark.parametrize("backend", ["model", pytest.param("rtl", marks=pytest.mark.verilator)])
def test_same_bits(backend, page_bytes, physical):
    state, probabilities, counters = _train(backend, page_bytes)
    assert state.same(physical[0])
    assert np.array_equal(probabilities, physical[1])
    if backend == "rtl":
        assert counters["TLB_MISSES"] > 0
        assert counters["TLB_HITS"] > counters["TLB_MISSES"]


@pytest.mark.verilator
def test_nothing_is_translated_without_pages():
    _, _, counters = _train("rtl", None)
    assert counters["TLB_HITS"] == counters["TLB_MISSES"] == 0


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
@pytest.mark.parametrize("size", [4096, 100_000, 1 << 21, (1 << 21) + 8, 3 << 20])
def test_every_byte_has_its_place(page_bytes, size):
    base = 1 << 30
    memory = np.zeros(size + table_bytes(size, page_bytes), np.uint8)
    space = AddressSpace(memory, base, size, page_bytes)
    assert space.base == VIRTUAL_BASE + base

    def word(address: int) -> int:
        assert base + size <= address < base + memory.size, "tables are behind the memory"
        return int.from_bytes(memory[address - base : address - base + 8].tobytes(), "little")

    addr_width = PRESETS["tiny"].addr_width
    for offset in {0, size - 1, size // 2, *range(0, size, 4096)}:
        for access in Access:
            found = translate(word, space.root, space.base + offset, access, addr_width=addr_width)
            assert (found.physical, found.page_bytes) == (base + offset, page_bytes)
    end = -(-size // page_bytes) * page_bytes
    assert translate(word, space.root, space.base + end, Access.READ, addr_width=addr_width).physical is None
    assert not memory[:size].any()


def test_messages():
    for bad in (0, 4095, 8192, "4096"):
        with pytest.raises(InputError, match=r"page_bytes must be None or one of 4096, 2097152, 1073741824, not"):
            Device("model", "tiny", page_bytes=bad)
    with pytest.raises(InputError, match=r"base must be a multiple of the page size 0x200000, not 0x1000"):
        AddressSpace(np.zeros(1 << 16, np.uint8), 0x1000, 1 << 12, 1 << 21)
