"""Register bank: access, reset, every bit, strobes, errors, pulses, interrupts, counters."""

import random

import cocotb
import lepton_sim
import pytest
from amaranth.sim import Simulator
from cocotb.triggers import FallingEdge
from lepton_npu.control.partition import partition_layout
from lepton_npu.control.register_bank import RegisterBank
from lepton_npu.mmu.ports import invalidate_layout, space_layout
from lepton_npu.spec.config import PRESETS, NpuConfig
from lepton_npu.spec.registers import COUNTERS, REGISTERS

from tests.gateware.control.register_bench import ALL, CORE_INPUTS, EVENT_BITS, OKAY, OUTPUTS, SLVERR, pulse, start

CONFIG = PRESETS["ecp5"]
WRITABLE = [name for name, register in REGISTERS.items() if register.access == "rw"]
LIMIT = {"timeout_time": 3, "timeout_unit": "ms"}


def mask_of(name: str) -> int:
    """The bits of an rw register that keep what is written."""
    return sum(field.mask for field in REGISTERS[name].fields if field.access == "rw")


def merge(old: int, new: int, strobes: int) -> int:
    bits = sum(0xFF << 8 * lane for lane in range(4) if strobes >> lane & 1)
    return old & ~bits | new & bits


def initial(name: str) -> int | None:
    """The value after a hardware reset, as far as the definition or the configuration tells; else None."""
    sizes = {"VMEM_PARTITION": CONFIG.vmem_rows, "ACC_PARTITION": CONFIG.acc_rows, "TILE_PARTITION": CONFIG.tiles}
    if name in sizes:
        return (sizes[name].bit_length() - 1) << REGISTERS[name].field("LOG2").lsb
    return REGISTERS[name].reset


def _partition(bits: int) -> dict[str, int]:
    """The partition registers, by name."""
    return {
        f"{name.upper()}_PARTITION": bits >> field.offset & (1 << field.width) - 1 for name, field in partition_layout()
    }


def outputs(dut) -> dict[str, int]:
    """What the core is given, as register values."""
    base = int(dut.ring_base.value)
    space, invalidate = _space(int(dut.space.value)), _invalidation(int(dut.invalidate.value))
    return {
        "CTRL": int(dut.enable.value),
        "RING_LOG2": int(dut.ring_log2.value),
        "RING_BASE_LO": base & ALL,
        "RING_BASE_HI": base >> 32,
        "TAIL": int(dut.tail.value),
        "WATCHDOG": int(dut.watchdog.value),
        "SATP_LO": space["root"] & ALL,
        "SATP_HI": space["translate"] << 31 | space["asid"] << 12 | space["root"] >> 32,
        "INVALIDATE_LO": invalidate["page"] << 12 & ALL,
        "INVALIDATE_HI": invalidate["page"] >> 20,
        "INVALIDATE": invalidate["asid"] << 8 | invalidate["kind"] << 4,
        "WEIGHT": int(dut.weight.value),
        **_partition(int(dut.partition.value)),
    }


def _space(bits: int) -> dict[str, int]:
    return {name: bits >> f.offset & (1 << f.width) - 1 for name, f in space_layout()}


def _invalidation(bits: int) -> dict[str, int]:
    return {name: bits >> f.offset & (1 << f.width) - 1 for name, f in invalidate_layout()}


@cocotb.test(**LIMIT)
async def after_reset(dut):
    """No X at any output; every register has its reset value, and the core's and the configuration's values."""
    host, _ = await start(dut)
    for name in OUTPUTS:
        assert getattr(dut, name).value.is_resolvable, f"{name} is {getattr(dut, name).value}"
    for name in REGISTERS:
        if (reset := initial(name)) is not None:
            assert await host.value(name) == reset, name
    for name, value in outputs(dut).items():
        assert value == initial(name), name
    assert await host.value("ID") == int.from_bytes(b"LNPU", "big")
    assert await host.value("WATCHDOG") == 1 << 20
    assert await host.value("STATUS") == 1
    capabilities = await host.value("CAPABILITIES0")
    sizes = ("side", "lanes", "vmem_rows", "vmem_banks", "acc_rows", "tiles", "bus_bytes", "max_burst")
    assert [1 << (capabilities >> 4 * place & 15) for place in range(8)] == [getattr(CONFIG, name) for name in sizes]
    capabilities = await host.value("CAPABILITIES1")
    sizes = ("addr_width", "outstanding", "queue_depth", "tlb_entries")
    assert [capabilities >> 8 * place & 255 for place in range(4)] == [getattr(CONFIG, name) for name in sizes]
    assert await host.value("CAPABILITIES2") == CONFIG.contexts


@cocotb.test(**LIMIT)
async def every_bit(dut):
    """Each bit of each rw register alone and at random, with every strobe: nothing else changes, outputs follow."""
    host, watcher = await start(dut)
    model = {name: initial(name) for name in WRITABLE}
    writes = [(name, bits, 15) for name in WRITABLE for bit in range(32) for bits in (1 << bit, ALL ^ 1 << bit)]
    writes += [(name, random.getrandbits(32), strobes) for name in WRITABLE for strobes in range(16)]
    random.shuffle(writes)
    rung, asked = [], []
    for count, (name, data, strobes) in enumerate(writes):
        assert await host.write(name, data, strobes) == OKAY
        model[name] = merge(model[name], data, strobes) & mask_of(name)
        if name == "TAIL" and strobes:
            rung.append(model[name])
        if name == "INVALIDATE" and data & strobes & 1:
            asked.append(outputs(dut))
        for seen, value in outputs(dut).items():
            assert value == model[seen], f"{seen} after writing {name}"
        assert await host.value(name) == model[name], name
        other = WRITABLE[count % len(WRITABLE)]
        assert await host.value(other) == model[other], f"{other} after writing {name}"
    await FallingEdge(dut.clk)
    assert watcher.doorbells == rung
    names = ("INVALIDATE", "INVALIDATE_LO", "INVALIDATE_HI")
    for bits, then in zip(watcher.invalidations, asked, strict=True):
        found = _invalidation(bits)
        assert [found["asid"] << 8 | found["kind"] << 4, found["page"] << 12 & ALL, found["page"] >> 20] == [
            then[name] for name in names
        ]
    # Without strobes 0 nothing of CTRL's low byte is written.
    assert watcher.resets == sum(name == "CTRL" and data >> 1 & strobes & 1 for name, data, strobes in writes)
    assert watcher.resumes == sum(name == "CTRL" and data >> 3 & strobes & 1 for name, data, strobes in writes)


@cocotb.test(**LIMIT)
async def core_values(dut):
    """What the core shows is read; FAULT registers are zero without a fault; read-only registers refuse writes."""
    host, _ = await start(dut)
    names = [name for name, register in REGISTERS.items() if register.access == "ro"]
    for turn in range(8):
        state = {name: random.getrandbits(len(getattr(dut, name))) for name in CORE_INPUTS}
        state |= {"core_reset": 0, "done_event": 0, "fault_event": 0, "events": 0, "fault_valid": turn & 1}
        await FallingEdge(dut.clk)
        for name, value in state.items():
            getattr(dut, name).value = value
        valid = state["fault_valid"]
        enabled = turn >> 1 & 1
        await host.write("CTRL", enabled)
        expected = {
            "STATUS": state["idle"] | enabled << 1 | valid << 2 | state["resetting"] << 3 | state["invalidating"] << 4,
            "HEAD": state["head"],
            "FAULT_CAUSE": state["fault_cause"] * valid,
            "FAULT_ENGINE": state["fault_engine"] * valid,
            "FAULT_INDEX": state["fault_index"] * valid,
            "FAULT_ACCESS": (state["fault_access"] | state["resumable"] << 31) * valid,
            "IRQ_CONTEXTS": state["pending"],
            "FAULT_ADDRESS_LO": (state["fault_address"] & ALL) * valid,
            "FAULT_ADDRESS_HI": (state["fault_address"] >> 32) * valid,
        }
        assert set(expected) >= {n for n in names if REGISTERS[n].reset is None and "CAPABILITIES" not in n}
        for name, value in expected.items():
            assert await host.value(name) == value, name
    await host.write("CTRL", 0)
    for name in names:
        before = await host.value(name)
        assert await host.write(name, ALL ^ before) == SLVERR, name
        assert await host.value(name) == before, name


@cocotb.test(**LIMIT)
async def address_space_of_a_fault(dut):
    """FAULT_ACCESS.ASID is that of SATP at the fault, whatever SATP is later; 0 without translation."""
    host, _ = await start(dut)
    asid = REGISTERS["FAULT_ACCESS"].field("ASID").lsb
    for translate in (1, 0):
        await host.write("SATP_HI", translate << 31 | 0xA5 << 12)
        await pulse(dut, "fault_event")
        dut.fault_valid.value = 1
        await host.write("SATP_HI", 1 << 31 | 0x3C << 12)
        assert await host.value("FAULT_ACCESS") == (0xA5 << asid) * translate
        dut.fault_valid.value = 0
        assert await host.value("FAULT_ACCESS") == 0


@cocotb.test(**LIMIT)
async def errors(dut):
    """Addresses that are unknown or unaligned: SLVERR, zero, and no effect."""
    host, watcher = await start(dut, 0.3)
    for name in WRITABLE:
        await host.write(name, 0x5A5A5A58)
    del watcher.doorbells[:]
    before = {name: await host.value(name) for name in WRITABLE}
    known = {register.address for register in REGISTERS.values()}
    unknown = {address ^ 1 << bit for address in known for bit in range(12)} | set(range(0, 0x100, 4))
    unknown |= {address + offset for address in known for offset in (1, 2, 3)}
    tried = sorted(unknown - known)
    if lepton_sim.params()["short"]:
        tried = random.sample(tried, 120)
    for address in tried:
        assert await host.read(address) == (SLVERR, 0), hex(address)
        assert await host.write(address, ALL) == SLVERR, hex(address)
    for name, value in before.items():
        assert await host.value(name) == value, name
    assert not watcher.doorbells
    assert not watcher.resets


@cocotb.test(**LIMIT)
async def interrupts(dut):
    """IRQ_STATUS is set by events, cleared by ones in the written lanes only; irq is its level; TAG is latched."""
    host, _ = await start(dut)
    names = {"done_event": 1, "fault_event": 2}
    pending = enabled = tag = 0
    for turn in range(120):
        match turn % 4:
            case 0:
                events = [name for name in names if random.random() < 0.6]
                dut.tag.value = new_tag = random.getrandbits(32)
                await pulse(dut, *events)
                dut.tag.value = random.getrandbits(32)
                tag = new_tag if "done_event" in events else tag
                pending |= sum(names[name] for name in events)
            case 1:
                enabled = random.getrandbits(2)
                await host.write("IRQ_ENABLE", enabled)
            case _:
                data, strobes = random.getrandbits(32), random.choice([15, 1, 14])
                await host.write("IRQ_STATUS", data, strobes)
                pending &= ~merge(0, data, strobes)
        assert await host.value("IRQ_STATUS") == pending
        assert await host.value("TAG") == tag
        assert int(dut.irq.value) == bool(pending & enabled)


@cocotb.test(**LIMIT)
async def event_against_clear(dut):
    """An event in the very cycle in which it is cleared stays pending; irq is low when a clear has been answered."""
    host, _ = await start(dut, 0.0)
    await host.write("IRQ_ENABLE", 3)
    collisions = []
    survived = []
    for delay in range(8):
        await pulse(dut, "done_event", "fault_event")
        clearing = cocotb.start_soon(host.write("IRQ_STATUS", 3))
        for _ in range(delay + 1):
            await FallingEdge(dut.clk)
        before = int(dut.s_axil_bvalid.value)
        dut.done_event.value = 1
        await FallingEdge(dut.clk)
        dut.done_event.value = 0
        # The write takes effect at the clock edge that raises BVALID.
        if before < int(dut.s_axil_bvalid.value):
            collisions.append(delay)
        await clearing
        survived.append(await host.value("IRQ_STATUS"))
        assert int(dut.irq.value) == survived[-1]
        await host.write("IRQ_STATUS", 3)
        await FallingEdge(dut.clk)
        assert int(dut.irq.value) == 0
    assert len(collisions) == 1
    assert survived == [int(delay >= collisions[0]) for delay in range(8)]
    assert set(survived) == {0, 1}


@cocotb.test(**LIMIT)
async def soft_reset(dut):
    """CTRL.RESET asks once; core_reset clears TAIL, IRQ_STATUS and ENABLE, rings no bell, and keeps all else."""
    host, watcher = await start(dut)
    await pulse(dut, "done_event", "fault_event")
    dut.events.value = 1
    for name in WRITABLE:
        await host.write(name, ALL & ~2 if name == "CTRL" else 0xC0FFEE40)
    dut.events.value = 0
    assert watcher.resets == 0
    cleared = {"TAIL", "CTRL", "IRQ_STATUS"}
    same = [name for name in REGISTERS if name not in cleared and not name.startswith(("CYCLES", "STATUS"))]
    before = {name: await host.value(name) for name in same}
    assert before["MATMUL_BUSY_LO"] > 0
    assert await host.value("IRQ_STATUS") == 3
    await host.write("CTRL", 3)
    assert await host.value("CTRL") == 1
    assert watcher.resets == 1
    await pulse(dut, "core_reset")
    for name in cleared:
        assert await host.value(name) == 0, name
    for name, value in before.items():
        assert await host.value(name) == value, name
    assert await host.value("STATUS") == 1
    assert watcher.doorbells == [0xC0FFEE40]
    # A write of TAIL around the cycle of core_reset: before or with it nothing stays, and no bell without its tail.
    host.pause(0.0)
    tails = []
    for delay in range(8):
        del watcher.doorbells[:]
        writing = cocotb.start_soon(host.write("TAIL", 77))
        for _ in range(delay):
            await FallingEdge(dut.clk)
        await pulse(dut, "core_reset", "done_event")
        await writing
        tails.append(await host.value("TAIL"))
        assert watcher.doorbells in ([77], []), delay
        assert watcher.doorbells or tails[-1] == 0, delay
        assert await host.value("IRQ_STATUS") == 0
        await host.write("TAIL", 0)
    assert set(tails) == {0, 77}


@cocotb.test(**LIMIT)
async def counters(dut):
    """Each counter counts its own event in every cycle, CYCLES the enabled ones; CLEAR_COUNTERS clears all."""
    host, watcher = await start(dut)
    running = True

    async def events():
        while running:
            await FallingEdge(dut.clk)
            dut.events.value = random.getrandbits(len(EVENT_BITS)) & random.getrandbits(len(EVENT_BITS))
        await FallingEdge(dut.clk)
        dut.events.value = 0

    for _ in range(3):
        running = True
        await host.write("CTRL", 1)
        source = cocotb.start_soon(events())
        for _ in range(40):
            name = random.choice(COUNTERS)
            low = watcher.counts[name]
            value = await host.counter(name)
            assert low - 2 <= value <= watcher.counts[name], name
        running = False
        await source
        await host.write("CTRL", 0)
        assert {name: await host.counter(name) for name in COUNTERS} == watcher.counts
        assert min(watcher.counts.values()) > 50
        await host.write("CTRL", 4)
        watcher.counts = dict.fromkeys(COUNTERS, 0)
        assert {name: await host.counter(name) for name in COUNTERS} == watcher.counts


@cocotb.test(**LIMIT)
async def carry_into_the_high_half(dut):
    """A low half that overflows in any cycle around its reading: both halves are of the same moment."""
    host, watcher = await start(dut, 0.0)
    dut.events.value = (1 << len(EVENT_BITS)) - 1
    await host.write("CTRL", 1)
    for turn, name in enumerate(COUNTERS):
        unit = getattr(dut, name.lower())
        halves = set()
        for before in range(12):
            await FallingEdge(dut.clk)
            high = (turn + 1) * 0x01010101
            unit.count_high.value = high
            unit.low.value = ALL - before
            start_count = watcher.counts[name]
            value = await host.counter(name)
            passed = value - (high << 32 | ALL - before)
            assert 0 <= passed <= watcher.counts[name] - start_count + 1, f"{name}: {value:x}"
            halves.add((value >> 32) - high)
            # The high half stays what it was; another counter does not disturb it.
            await host.value(f"{COUNTERS[turn - 1]}_LO")
            assert await host.value(f"{name}_HI") == value >> 32
        assert halves == {0, 1}, name
    dut.events.value = 0
    await host.write("CTRL", 4)
    assert {name: await host.counter(name) for name in COUNTERS} == dict.fromkeys(COUNTERS, 0)


@cocotb.test(**LIMIT)
async def both_directions(dut):
    """Writes and reads at the same time, paused at random: none disturbs the other, none is lost."""
    host, watcher = await start(dut)
    model = {name: initial(name) for name in WRITABLE}
    mine = ["WATCHDOG", "RING_BASE_LO", "RING_LOG2"]

    async def writer():
        for _ in range(150):
            name, data, strobes = random.choice(mine), random.getrandbits(32), random.getrandbits(4)
            assert await host.write(name, data, strobes) == OKAY
            model[name] = merge(model[name], data, strobes) & mask_of(name)

    writing = cocotb.start_soon(writer())
    constant = [name for name, register in REGISTERS.items() if register.reset is not None and name not in mine]
    while not writing.done():
        name = random.choice(constant)
        assert await host.value(name) == REGISTERS[name].reset, name
    await writing
    for name in mine:
        assert await host.value(name) == model[name], name
    assert watcher.address_first > 20
    assert watcher.data_first > 20
    assert watcher.overlapped > 20


@pytest.mark.parametrize("sim", lepton_sim.SIMULATORS)
def test_register_bank(sim):
    lepton_sim.run_cocotb(
        RegisterBank(CONFIG),
        "register_bank",
        __name__,
        sim=sim,
        params={"short": sim == "icarus"},
        public=[("register_bank_*", "count_high"), ("register_bank_*", "low")],
    )


def test_config_is_checked():
    with pytest.raises(TypeError, match="config must be an NpuConfig, not 16"):
        RegisterBank(16)


@pytest.mark.parametrize("context", range(4))
def test_initial_partition(context):
    """Context 0 has everything, the others the share of their number; all sizes are those of the configuration."""
    config = NpuConfig(contexts=4)
    dut = RegisterBank(config, context)
    sizes = {"vmem": config.vmem_rows, "acc": config.acc_rows, "tile": config.tiles}

    async def bench(ctx):
        for name, size in sizes.items():
            found = ctx.get(dut.partition[name])
            share = size // 4 if context else size
            assert (1 << found["log2"], found["base"]) == (share, context * share), name

    simulator = Simulator(dut)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("context", [-1, 2])
def test_no_such_context(context):
    with pytest.raises(ValueError, match=rf"context must be from 0 to 1, not {context}"):
        RegisterBank(NpuConfig(contexts=2), context)
