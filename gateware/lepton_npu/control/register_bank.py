"""The registers behind AXI4-Lite, made from the definitions in `lepton_npu.spec.registers`."""

import functools
import operator

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from lepton_npu.bus.axi_lite import AxiLiteSignature, Response
from lepton_npu.mmu.ports import invalidate_layout, space_layout
from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.registers import COUNTERS, REGISTERS, RegisterField
from lepton_npu.spec.translation import ASID_BITS, Access

from .contexts import EVENTS, WEIGHT_BITS
from .partition import MEMORIES, partition_layout
from .register_pages import PAGE_ADDRESS_BITS

__all__ = ["RegisterBank"]


class _Counter(wiring.Component):
    """A 64-bit event counter of which both halves can be read as one, a cycle apart.

    The carry into the high half goes through a register, and so does its clearing: the high half of a cycle is the
    one that belongs to the low half of the cycle before.

    Members
    -------
    step : In(1)
        Adds 1; counted a cycle later.
    clear : In(1)
        Zero from the next cycle on.
    low : Out(32)
    latch : In(1)
        One cycle after ``low`` was sampled: keep the high half that belongs to it.
    high : Out(32)
        The high half that was kept.
    """

    step: In(1)
    clear: In(1)
    low: Out(32)
    latch: In(1)
    high: Out(32)

    def elaborate(self, platform):
        m = Module()
        step = Signal(name="step_late")
        carry = Signal()
        clear_high = Signal()
        count_high = Signal(32)
        m.d.sync += [
            step.eq(self.step),
            Cat(self.low, carry).eq(self.low + step),
            count_high.eq(count_high + carry),
            clear_high.eq(self.clear),
        ]
        with m.If(self.clear):
            m.d.sync += Cat(self.low, carry).eq(0)
        with m.If(clear_high):
            m.d.sync += count_high.eq(0)
        with m.If(self.latch):
            m.d.sync += self.high.eq(count_high)
        return m


class RegisterBank(wiring.Component):
    """All registers of a context.

    A write takes effect in the cycle after both its address and its data have arrived, in any order; its response
    comes in the cycle after. A read is answered three cycles after its address. One write and one read are in flight at
    a time, independently. Every output is a register.

    Parameters
    ----------
    config : NpuConfig
        What the CAPABILITIES registers tell.
    context : int
        Its number.

    Members
    -------
    s_axil : In(AxiLiteSignature())
        The host. Addresses that are unknown or not a multiple of 4 and writes to read-only registers are answered
        with SLVERR and have no effect.
    irq : Out(1)
        Level, one cycle after IRQ_STATUS and IRQ_ENABLE; low again by the time that the response to the write which
        cleared it has been taken.
    enable : Out(1), ring_base : Out(64), ring_log2 : Out(5), tail : Out(32), watchdog : Out(32)
        CTRL.ENABLE and the registers of these names.
    space : Out(space_layout())
        SATP.
    invalidate_request : Out(1), invalidate : Out(invalidate_layout())
        High for one cycle when the host asks for an invalidation, and what of.
    invalidating : In(1)
        For STATUS; must answer ``invalidate_request`` in the next cycle.
    doorbell : Out(1)
        High for the cycle in which ``tail`` first has a value that was written.
    reset_request, resume_request : Out(1)
        High for one cycle when the host asks for a reset, or to go on after a fault.
    weight : Out(8), partition : Out(partition_layout())
        The registers of these names.
    core_reset : In(1)
        High for the cycle in which a soft reset takes effect: clears the fields with ``soft_reset``, and a write of
        them in the same cycle is lost.
    idle, resetting : In(1), head : In(32)
        For STATUS and HEAD. ``idle`` must answer ``doorbell``, and ``resetting`` ``reset_request``, in the next cycle.
    done_event : In(1), tag : In(32)
        An IRQ command has run: sets IRQ_STATUS.DONE and keeps the tag.
    fault_event : In(1)
        The core has just stopped: sets IRQ_STATUS.FAULT.
    fault_valid : In(1), fault_cause : In(5), fault_engine : In(3), fault_index : In(32), fault_address : In(64)
        The fault, held by the core; read as 0 while ``fault_valid`` is low.
    fault_access : In(Access), resumable : In(1)
        More of the fault, likewise.
    pending : In(8)
        For IRQ_CONTEXTS: the ``irq`` of every context.
    events : In(EVENTS)
        See `EVENTS`.

    Raises
    ------
    TypeError
        If ``config`` is not an `NpuConfig`.
    ValueError
        If the core has no such context.
    """

    def __init__(self, config: NpuConfig, context: int = 0):
        if not isinstance(config, NpuConfig):
            raise TypeError(f"config must be an NpuConfig, not {config!r}")
        if not 0 <= context < config.contexts:
            raise ValueError(f"context must be from 0 to {config.contexts - 1}, not {context}")
        self.config, self.context = config, context
        super().__init__(
            {
                "s_axil": In(AxiLiteSignature(PAGE_ADDRESS_BITS)),
                "irq": Out(1),
                "enable": Out(1),
                "reset_request": Out(1),
                "resume_request": Out(1),
                "weight": Out(WEIGHT_BITS),
                "partition": Out(partition_layout()),
                "ring_base": Out(64),
                "ring_log2": Out(5),
                "tail": Out(32),
                "doorbell": Out(1),
                "watchdog": Out(32),
                "space": Out(space_layout()),
                "invalidate_request": Out(1),
                "invalidate": Out(invalidate_layout()),
                "invalidating": In(1),
                "core_reset": In(1),
                "idle": In(1),
                "resetting": In(1),
                "head": In(32),
                "done_event": In(1),
                "tag": In(32),
                "fault_event": In(1),
                "fault_valid": In(1),
                "fault_cause": In(max(FaultCause).bit_length()),
                "fault_engine": In(3),
                "fault_index": In(32),
                "fault_address": In(64),
                "fault_access": In(max(Access).bit_length()),
                "resumable": In(1),
                "pending": In(8),
                "events": In(EVENTS),
            }
        )

    def _capabilities(self) -> dict[str, Value]:
        config = self.config
        logarithms = ("side", "lanes", "vmem_rows", "vmem_banks", "acc_rows", "tiles", "bus_bytes", "max_burst")
        numbers = {f"CAPABILITIES0.{name.upper()}_LOG2": exact_log2(getattr(config, name)) for name in logarithms}
        for name in ("addr_width", "outstanding", "queue_depth", "tlb_entries"):
            numbers[f"CAPABILITIES1.{name.upper()}"] = getattr(config, name)
        numbers |= {"CAPABILITIES2.CONTEXTS": config.contexts, "CAPABILITIES2.CONTEXT": self.context}
        return {name: Const(number) for name, number in numbers.items()}

    def _status(self) -> dict[str, Value]:
        def fault(value: Value) -> Value:
            return Mux(self.fault_valid, value, 0)

        return {
            "STATUS.IDLE": self.idle,
            "STATUS.ENABLED": self.enable,
            "STATUS.FAULT": self.fault_valid,
            "STATUS.RESETTING": self.resetting,
            "STATUS.INVALIDATING": self.invalidating,
            "HEAD.COUNT": self.head,
            "FAULT_CAUSE.CAUSE": fault(self.fault_cause),
            "FAULT_ENGINE.ENGINE": fault(self.fault_engine),
            "FAULT_INDEX.INDEX": fault(self.fault_index),
            "FAULT_ACCESS.ACCESS": fault(self.fault_access),
            "FAULT_ACCESS.RESUMABLE": fault(self.resumable),
            "IRQ_CONTEXTS.PENDING": self.pending,
            "FAULT_ADDRESS_LO.ADDRESS": fault(self.fault_address[:32]),
            "FAULT_ADDRESS_HI.ADDRESS": fault(self.fault_address[32:]),
        }

    def elaborate(self, platform):
        m = Module()
        address = self.write_address = Signal(12, name="write_address")  # an attribute for proofs to look at
        word = Signal(32, name="write_data")
        strobes = Signal(4, name="write_strobes")
        write = Signal()
        stored = self._storage(m, address, word, strobes, write)
        values = self._capabilities() | self._status() | stored

        tag = Signal(32, name="last_tag")
        values["TAG.TAG"] = tag
        with m.If(self.done_event):
            m.d.sync += tag.eq(self.tag)

        # Of the space in which the command was: the host may change SATP before it goes on.
        asid = Signal(ASID_BITS, name="fault_asid", reset_less=True)
        values["FAULT_ACCESS.ASID"] = Mux(self.fault_valid, asid, 0)
        with m.If(self.fault_event):
            m.d.sync += asid.eq(Mux(self.space.translate, self.space.asid, 0))

        counters = {}
        for name in COUNTERS:
            m.submodules[name.lower()] = counter = _Counter()
            counters[f"{name}_LO"] = counter
            values[f"{name}_LO.COUNT"], values[f"{name}_HI.COUNT"] = counter.low, counter.high
            m.d.comb += [
                counter.step.eq(self.enable if name == "CYCLES" else self.events[name.lower()]),
                counter.clear.eq(stored["CTRL.CLEAR_COUNTERS"]),
            ]

        self._connect(m, stored)
        with m.If(write & (address == REGISTERS["TAIL"].address)):
            m.d.sync += self.doorbell.eq(strobes.any() & ~self.core_reset)
        with m.Else():
            m.d.sync += self.doorbell.eq(0)
        self._write_channels(m, address, word, strobes, write)
        self._read_channels(m, values, counters)
        return m

    def _storage(self, m, address: Signal, word: Signal, strobes: Signal, write: Signal) -> dict[str, Value]:
        """The fields that the host writes, by name."""
        mask = Cat(strobe.replicate(8) for strobe in strobes)
        events = {"IRQ_STATUS.DONE": self.done_event, "IRQ_STATUS.FAULT": self.fault_event}
        stored = {}
        for register in REGISTERS.values():
            if register.access == "ro":
                continue
            selected = Signal(name=f"write_{register.name.lower()}")
            m.d.comb += selected.eq(write & (address == register.address))
            for field in register.fields:
                name = f"{register.name}.{field.name}"
                value = Signal(
                    field.width, init=self._initial(register.name, field), name=name.replace(".", "_").lower()
                )
                bits = slice(field.lsb, field.lsb + field.width)
                written, kept = word[bits] & mask[bits], ~mask[bits]
                match field.access:
                    case "rw":
                        with m.If(selected):
                            m.d.sync += value.eq(value & kept | written)
                    case "w1c":
                        m.d.sync += value.eq(value & ~(written & selected.replicate(field.width)) | events[name])
                    case "pulse":
                        m.d.sync += value.eq(written & selected.replicate(field.width))
                if field.soft_reset:
                    with m.If(self.core_reset):
                        m.d.sync += value.eq(field.reset)
                stored[name] = value
        return stored

    def _initial(self, register: str, field: RegisterField) -> int:
        """The value after a hardware reset: context 0 has all of each memory, another one its equal share."""
        if not register.endswith("_PARTITION"):
            assert field.reset is not None, f"{register}.{field.name} has no reset value"
            return field.reset
        sizes = {"VMEM": self.config.vmem_rows, "ACC": self.config.acc_rows, "TILE": self.config.tiles}
        size = sizes[register.removesuffix("_PARTITION")]
        share = size // self.config.contexts if self.context else size
        return exact_log2(share) if field.name == "LOG2" else share * self.context

    def _connect(self, m, stored: dict[str, Value]):
        base_low = REGISTERS["RING_BASE_LO"].fields[0]
        m.d.comb += [
            self.enable.eq(stored["CTRL.ENABLE"]),
            self.reset_request.eq(stored["CTRL.RESET"]),
            self.resume_request.eq(stored["CTRL.RESUME"]),
            self.weight.eq(stored["WEIGHT.COMMANDS"]),
            *(
                getattr(self.partition, memory)[part].eq(stored[f"{memory.upper()}_PARTITION.{part.upper()}"])
                for memory in MEMORIES
                for part in ("base", "log2")
            ),
            self.ring_base.eq(Cat(Const(0, base_low.lsb), stored["RING_BASE_LO.BASE"], stored["RING_BASE_HI.BASE"])),
            self.ring_log2.eq(stored["RING_LOG2.RECORDS"]),
            self.tail.eq(stored["TAIL.COUNT"]),
            self.watchdog.eq(stored["WATCHDOG.CYCLES"]),
            self.space.translate.eq(stored["SATP_HI.MODE"]),
            self.space.asid.eq(stored["SATP_HI.ASID"]),
            self.space.root.eq(Cat(stored["SATP_LO.PPN"], stored["SATP_HI.PPN"])),
            self.invalidate_request.eq(stored["INVALIDATE.START"]),
            self.invalidate.kind.eq(stored["INVALIDATE.KIND"]),
            self.invalidate.asid.eq(stored["INVALIDATE.ASID"]),
            self.invalidate.page.eq(Cat(stored["INVALIDATE_LO.PAGE"], stored["INVALIDATE_HI.PAGE"])),
        ]
        pending = [
            stored[f"IRQ_STATUS.{field.name}"] & stored[f"IRQ_ENABLE.{field.name}"]
            for field in REGISTERS["IRQ_STATUS"].fields
        ]
        m.d.sync += self.irq.eq(Cat(pending).any())

    def _write_channels(self, m, address: Signal, word: Signal, strobes: Signal, write: Signal):
        """AW, W and B: ``write`` is high for the one cycle in which the other three are a write to be made."""
        bus = self.s_axil
        # A channel is ready exactly while it holds nothing, from the end of one write to the beginning of the next.
        address_free = Signal(init=1)
        data_free = Signal(init=1)
        m.d.comb += [
            bus.awready.eq(address_free),
            bus.wready.eq(data_free),
            write.eq(~address_free & ~data_free & ~bus.bvalid),
        ]
        with m.If(bus.awvalid & address_free):
            m.d.sync += [address_free.eq(0), address.eq(bus.awaddr)]
        with m.If(bus.wvalid & data_free):
            m.d.sync += [data_free.eq(0), word.eq(bus.wdata), strobes.eq(bus.wstrb)]
        with m.If(write):
            m.d.sync += [bus.bvalid.eq(1), bus.bresp.eq(Response.SLVERR)]
            writable = (register.address for register in REGISTERS.values() if register.access != "ro")
            with m.Switch(address), m.Case(*writable):
                m.d.sync += bus.bresp.eq(Response.OKAY)
        with m.If(bus.bvalid & bus.bready):
            m.d.sync += [bus.bvalid.eq(0), address_free.eq(1), data_free.eq(1)]

    def _read_channels(self, m, values: dict[str, Value], counters: dict[str, _Counter]):
        """AR and R; reading the low half of a counter keeps its high half."""
        bus = self.s_axil
        free = Signal(init=1, name="read_free")
        address = Signal(12, name="read_address")
        decode = Signal()
        look = Signal()
        m.d.comb += bus.arready.eq(free)
        m.d.sync += [decode.eq(0), look.eq(decode)]
        with m.If(bus.arvalid & free):
            m.d.sync += [free.eq(0), address.eq(bus.araddr), decode.eq(1)]
        # One bit for each register, and words that are zero unless chosen: a third of the size of a multiplexer.
        chosen = Signal(len(REGISTERS))
        words = []
        for index, register in enumerate(REGISTERS.values()):
            m.d.sync += chosen[index].eq(decode & (address == register.address))
            word = Signal(32, name=f"{register.name.lower()}_word")
            for field in register.fields:
                m.d.comb += word[field.lsb : field.lsb + field.width].eq(self._value(register.name, field, values))
            words.append(Mux(chosen[index], word, 0))
            if (counter := counters.get(register.name)) is not None:
                m.d.sync += counter.latch.eq(chosen[index])
        with m.If(look):
            m.d.sync += [
                bus.rvalid.eq(1),
                bus.rdata.eq(functools.reduce(operator.or_, words)),
                bus.rresp.eq(Mux(chosen.any(), Response.OKAY, Response.SLVERR)),
            ]
        with m.If(bus.rvalid & bus.rready):
            m.d.sync += [bus.rvalid.eq(0), free.eq(1)]

    @staticmethod
    def _value(register: str, field, values: dict[str, Value]) -> Value:
        if field.access == "pulse":
            return Const(0, field.width)
        if field.constant:
            return Const(field.reset, field.width)
        value = values[f"{register}.{field.name}"]
        if len(value) > field.width:
            raise ValueError(f"{register}.{field.name} has {field.width} bits, but its value has {len(value)}")
        return value
