"""The register map as data: what the SDK, the bank and programs take for granted."""

import tomllib
from pathlib import Path

import pytest
from lepton_npu.spec.commands import Engine, FaultCause
from lepton_npu.spec.registers import COUNTERS, REGISTERS
from leptonaicsdk import driver
from leptonaicsdk import registers as sdk_registers

ROOT = Path(__file__).parents[2]


def test_addresses():
    addresses = [register.address for register in REGISTERS.values()]
    assert len(set(addresses)) == len(addresses)
    assert addresses == sorted(addresses)
    assert all(address % 4 == 0 and 0 <= address < 1 << 12 for address in addresses)


def test_fields_do_not_overlap():
    for register in REGISTERS.values():
        used = 0
        for field in register.fields:
            assert field.mask >> 32 == 0, f"{register.name}.{field.name}"
            assert not used & field.mask, f"{register.name}.{field.name}"
            used |= field.mask


def test_everything_is_documented():
    for register in REGISTERS.values():
        assert register.doc.endswith("."), register.name
        for field in register.fields:
            assert field.doc.endswith("."), f"{register.name}.{field.name}"


def test_version_is_that_of_the_project():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    major, minor, patch = map(int, version.split("."))
    assert REGISTERS["VERSION"].reset == major << 16 | minor << 8 | patch


def test_counters_are_pairs_and_the_driver_knows_them():
    assert driver.COUNTERS == COUNTERS
    for name in COUNTERS:
        low, high = REGISTERS[f"{name}_LO"], REGISTERS[f"{name}_HI"]
        assert high.address == low.address + 4
        assert (low.access, high.access) == ("ro", "ro")


def test_the_driver_uses_the_bits_of_the_map():
    assert sdk_registers.REGISTERS is REGISTERS
    for register, field, mask in (
        ("CTRL", "ENABLE", driver.ENABLE),
        ("CTRL", "RESET", driver.RESET),
        ("CTRL", "CLEAR_COUNTERS", driver.CLEAR_COUNTERS),
        ("IRQ_STATUS", "DONE", driver.IRQ_DONE),
        ("IRQ_STATUS", "FAULT", driver.IRQ_FAULT),
        ("IRQ_ENABLE", "DONE", driver.IRQ_DONE),
        ("IRQ_ENABLE", "FAULT", driver.IRQ_FAULT),
        ("STATUS", "IDLE", driver.STATUS_IDLE),
        ("STATUS", "RESETTING", driver.STATUS_RESETTING),
    ):
        assert REGISTERS[register].field(field).mask == mask, f"{register}.{field}"


def test_fault_fields_hold_every_value():
    assert max(FaultCause) >> REGISTERS["FAULT_CAUSE"].field("CAUSE").width == 0
    assert max(Engine) >> REGISTERS["FAULT_ENGINE"].field("ENGINE").width == 0


def test_access_and_reset():
    assert {r.name for r in REGISTERS.values() if r.access == "w1c"} == {"IRQ_STATUS"}
    rw = "CTRL IRQ_ENABLE RING_LOG2 RING_BASE_LO RING_BASE_HI TAIL WATCHDOG "
    rw += "WEIGHT VMEM_PARTITION ACC_PARTITION TILE_PARTITION "
    rw += "SATP_LO SATP_HI INVALIDATE_LO INVALIDATE_HI INVALIDATE"
    assert {r.name for r in REGISTERS.values() if r.access == "rw"} == set(rw.split())
    assert [f.access for f in REGISTERS["CTRL"].fields] == ["rw", "pulse", "pulse", "pulse"]
    cleared = {f"{r.name}.{f.name}" for r in REGISTERS.values() for f in r.fields if f.soft_reset}
    assert cleared == {"CTRL.ENABLE", "IRQ_STATUS.DONE", "IRQ_STATUS.FAULT", "TAIL.COUNT"}
    assert REGISTERS["WATCHDOG"].reset == 1048576
    assert REGISTERS["STATUS"].reset is None


def test_a_field_that_is_not_there():
    with pytest.raises(
        KeyError, match=r"CTRL has no field 'HALT'; its fields are ENABLE, RESET, CLEAR_COUNTERS, RESUME"
    ):
        REGISTERS["CTRL"].field("HALT")
