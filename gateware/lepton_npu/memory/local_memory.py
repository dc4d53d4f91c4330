"""Local memory: the banked vector memory and the two halves of the accumulators, behind one crossbar."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In

from lepton_npu.spec.config import NpuConfig

from .block_ram import block_ram, read_block_ram
from .ports import (
    ACC_READ_LATENCY,
    LOCAL_ADDR_BITS,
    LOCAL_READ_LATENCY,
    AccPort,
    LocalPriorityWritePort,
    LocalReadPort,
    LocalWritePort,
)

__all__ = ["PATIENCE", "READERS", "LocalMemory"]

READERS = ("store", "vector_c", "vector_b", "vector_a", "quant")
"""The read ports, the first one with the highest priority. Each of them sooner or later stops asking: a reader that
waits has data of its own in flight, or a slower consumer behind it. The quantiser comes last, as it may ask for one
bank all the time (a matrix whose rows are a multiple of the banks apart), and the vector unit's operands move on."""


PATIENCE = 64
"""Cycles for which LOAD or STORE wait for a bank or half before the engine that has it is asked to leave out a cycle.
They have begun a burst, and the bus, which everybody shares, waits with them."""


class LocalMemory(wiring.Component):
    """Vector memory (row r in bank ``r mod vmem_banks``) and accumulators (row r in half ``r div (acc_rows / 2)``).

    Each bank and each half takes one read and one write a cycle. A read request is accepted when no port before it in
    `READERS` asks for the same bank or half in that cycle, and, for a half, the matrix engine does not read it either.
    Of the two writers the vector unit goes first. A STORE that waits for the matrix engine, or a LOAD for the vector
    unit, gets a cycle after `PATIENCE` and the way through that engine, whatever it runs.

    Reads have exactly `LOCAL_READ_LATENCY` cycles (the bank's request, memory, its output register, the choice of the
    bank), the matrix engine's `ACC_READ_LATENCY` (request, memory, the choice of the half). Writes reach the memory a
    cycle after their handshake as well, so both keep their order. What a read gives for a row that is written in its
    own cycle is not defined. Contents are zero at power-on and kept through a reset.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    store, quant, vector_a, vector_b, vector_c : In(LocalReadPort(config))
    acc : In(AccPort(config))
        The matrix engine's; never held back.
    vector_write : In(LocalPriorityWritePort(config))
    load : In(LocalWritePort(config))
        Held back while the vector unit writes to the same bank.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                **{name: In(LocalReadPort(config)) for name in READERS},
                "acc": In(AccPort(config)),
                "vector_write": In(LocalPriorityWritePort(config)),
                "load": In(LocalWritePort(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        banks = config.vmem_banks
        bank_bits = (banks - 1).bit_length()
        half_bits = config.acc_addr_bits - 1
        readers = {name: getattr(self, name) for name in READERS}

        # Which bank (0 .. banks-1) or half (banks, banks+1) each reader asks for, one bit each.
        wanted, granted = {}, {}
        for name, port in readers.items():
            address = port.req.payload
            in_acc = address[LOCAL_ADDR_BITS - 1]
            want = wanted[name] = Signal(banks + 2, name=f"{name}_want")
            granted[name] = Signal(banks + 2, name=f"{name}_grant")
            m.d.comb += want.eq(
                Cat(
                    *(port.req.valid & ~in_acc & (address[:bank_bits] == bank) for bank in range(banks)),
                    *(port.req.valid & in_acc & (address[half_bits] == half) for half in range(2)),
                )
            )
        taken = Signal(banks + 2, name="taken0")
        for half in range(2):
            m.d.comb += taken[banks + half].eq(self.acc.read_en & (self.acc.read_addr[-1] == half))
        for number, (name, port) in enumerate(readers.items()):
            after = Signal(banks + 2, name=f"taken{number + 1}")
            m.d.comb += [
                granted[name].eq(wanted[name] & ~taken),
                after.eq(taken | wanted[name]),
                port.req.ready.eq(granted[name].any()),
            ]
            taken = after

        # Who waits is counted a cycle late, off the way of the grants.
        for name, port, waits in (
            ("store", self.acc, self.store.req.valid & ~self.store.req.ready),
            ("load", self.vector_write, self.load.req.valid & ~self.load.req.ready),
        ):
            late, count = Signal(name=f"{name}_waits"), Signal(range(PATIENCE), name=f"{name}_patience")
            m.d.comb += port.pause.eq(count == PATIENCE - 1)
            m.d.sync += [late.eq(waits), count.eq(Mux(late, count + 1, 0))]

        # First cycle: each bank and half registers what it is asked for. It is many block RAMs, far from each other and
        # from those that ask, so nothing else fits into the way of an address.
        def read(memory: Memory, number: int, address: Signal, by_matrix: Value | int = 0) -> Signal:
            name = memory_names[number]
            enable, at = Signal(name=f"{name}_enable"), Signal(len(address), name=f"{name}_at", reset_less=True)
            any_granted = Cat(grant[number] for grant in granted.values()).any() | by_matrix
            m.d.sync += [enable.eq(any_granted), at.eq(address)]
            return read_block_ram(m, memory, enable=enable, address=at, name=f"{name}_row")

        memory_names = [*(f"bank{bank}" for bank in range(banks)), "half0", "half1"]
        outputs = []
        load, vector = self.load.req, self.vector_write
        load_row, vector_row = (Signal(config.row_bits, name=f"{n}_row", reset_less=True) for n in ("load", "vector"))
        load_blocked = Signal()
        m.d.comb += load.ready.eq(~load_blocked)
        m.d.sync += [load_row.eq(load.payload.data), vector_row.eq(vector.data)]
        for bank in range(banks):
            memory = m.submodules[f"bank{bank}"] = block_ram(config.row_bits, config.vmem_rows // banks)
            address = Signal(config.vmem_addr_bits - bank_bits, name=f"bank{bank}_address")
            for name in reversed(READERS):
                with m.If(wanted[name][bank]):
                    m.d.comb += address.eq(readers[name].req.payload[bank_bits : config.vmem_addr_bits])
            outputs.append(read(memory, bank, address))
            write = memory.write_port()
            by_vector = Signal(name=f"bank{bank}_by_vector")
            by_load = Signal(name=f"bank{bank}_by_load")
            enable, at = Signal(name=f"bank{bank}_write"), Signal(len(address), name=f"bank{bank}_write_at")
            of_vector = Signal(name=f"bank{bank}_of_vector")
            m.d.comb += [
                by_vector.eq(vector.en & (vector.addr[:bank_bits] == bank)),
                by_load.eq(load.valid & (load.payload.addr[:bank_bits] == bank)),
                write.en.eq(enable),
                write.addr.eq(at),
                write.data.eq(Mux(of_vector, vector_row, load_row)),
            ]
            m.d.sync += [
                enable.eq(by_vector | by_load),
                at.eq(Mux(by_vector, vector.addr[bank_bits:], load.payload.addr[bank_bits:])),
                of_vector.eq(by_vector),
            ]
            with m.If(by_vector & by_load):
                m.d.comb += load_blocked.eq(1)

        halves = []
        acc_row = Signal(config.row_bits, name="acc_write_row", reset_less=True)
        acc_at = Signal(half_bits, name="acc_write_at", reset_less=True)
        m.d.sync += [acc_row.eq(self.acc.write_data), acc_at.eq(self.acc.write_addr[:half_bits])]
        for half in range(2):
            memory = m.submodules[f"half{half}"] = block_ram(config.row_bits, config.acc_rows // 2)
            address = Signal(half_bits, name=f"half{half}_address")
            for name in reversed(READERS):
                with m.If(wanted[name][banks + half]):
                    m.d.comb += address.eq(readers[name].req.payload[:half_bits])
            by_matrix = self.acc.read_en & (self.acc.read_addr[-1] == half)
            with m.If(by_matrix):
                m.d.comb += address.eq(self.acc.read_addr[:half_bits])
            halves.append(read(memory, banks + half, address, by_matrix))
            write = memory.write_port()
            enable = Signal(name=f"half{half}_write")
            m.d.sync += enable.eq(self.acc.write_en & (self.acc.write_addr[-1] == half))
            m.d.comb += [write.en.eq(enable), write.addr.eq(acc_at), write.data.eq(acc_row)]
        outputs += halves

        # Third cycle: block RAM is slow, and its readers are far apart, so its output goes straight to a register. The
        # memory keeps its output, so this needs no enable, nor does the choice below: its wires have no room for them.
        registered = []
        for number, output in enumerate(outputs):
            row = Signal(config.row_bits, name=f"output{number}", reset_less=True)
            m.d.sync += row.eq(output)
            registered.append(row)

        # Fourth cycle: the reader's row, from the bank it was granted. Each of its words has a choice of its own: a row
        # is spread over many block RAMs, and one register cannot be near all of them.
        for name, port in readers.items():
            chosen = granted[name]
            for cycle in range(LOCAL_READ_LATENCY - 2):
                later = Signal(banks + 2, name=f"{name}_chosen{cycle + 1}")
                m.d.sync += later.eq(chosen)
                chosen = later
            valid = Signal(LOCAL_READ_LATENCY, name=f"{name}_valid")
            m.d.sync += valid.eq(Cat(granted[name].any(), valid))
            words = []
            for number in range(config.side):
                kept = {"keep": 1}  # else synthesis finds that they are the same
                choice = Signal(banks + 2, name=f"{name}_chosen_word{number}", attrs=kept)
                word = Signal(32, name=f"{name}_word{number}", reset_less=True)
                parts = [output.word_select(number, 32) for output in registered]
                m.d.sync += [
                    choice.eq(chosen),
                    word.eq(reduce(or_, (part & bit.replicate(32) for part, bit in zip(parts, choice)))),
                ]
                words.append(word)
            m.d.comb += [port.resp_valid.eq(valid[-1]), port.resp_data.eq(Cat(words))]

        # The matrix engine's row comes from its half without a register between.
        reads = Signal(ACC_READ_LATENCY - 1, name="acc_reads")
        from_half = Signal(ACC_READ_LATENCY - 1, name="acc_from_half")
        row = Signal(config.row_bits, name="acc_row", reset_less=True)
        m.d.sync += [reads.eq(Cat(self.acc.read_en, reads)), from_half.eq(Cat(self.acc.read_addr[-1], from_half))]
        with m.If(reads[-1]):
            m.d.sync += row.eq(halves[0])
            with m.If(from_half[-1]):
                m.d.sync += row.eq(halves[1])
        with m.Else():
            m.d.sync += row.eq(0)
        m.d.comb += self.acc.read_data.eq(row)
        return m
