"""The vector engine: VECTOR commands on rows of the local memory."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.control.engine import EngineSignature, command_layout
from lepton_npu.memory.bounds import bounds_layout, to_vmem
from lepton_npu.memory.ports import LocalPriorityWritePort, LocalReadPort
from lepton_npu.memory.range_check import in_vmem
from lepton_npu.spec.commands import FaultCause, Format, Opcode, VectorOp
from lepton_npu.spec.config import NpuConfig

from .gather import ResultGather
from .lane import VectorLane
from .loop import RowLoop
from .operand import OperandFetch
from .shuffle import select_elements, shuffle_lanes

__all__ = ["VectorEngine"]

# Groups between the operands and the result: two registers, the slowest lane, one of the queue itself; a power of two.
_IN_FLIGHT = 1 << (2 + VectorLane.latency + 1).bit_length()


class VectorEngine(wiring.Component):
    """Runs VECTOR commands (docs/architecture.md, section 2), a group of ``lanes`` results each cycle.

    A row takes ``side / lanes`` cycles if its operands arrive, which are at most one row of each operand a cycle; b or
    c that is the same rows as a (not packed) arrives with it. A command starts in the cycle in which the one before it
    writes its last row, and reads its first one in the next: with the 4 cycles of the memory that is 11 (comparisons),
    18 (multiply-add) to 28 (sigmoid, tanh) cycles without a new group between two commands, and 3 more for each
    conversion between F32 and another format.

    Errors: LOCAL_RANGE at the first step at which an operand or the result (in the order a, b, c, dst) names no row,
    with the exact row as a 64-bit two's complement number. The results of earlier steps are written, nothing else is.

    Parameters
    ----------
    config : NpuConfig

    Members
    -------
    engine : Out(EngineSignature(Opcode.VECTOR))
    bounds : In(bounds_layout(config))
        Rows that commands may use; changes only while the engine holds none.
    a, b, c : Out(LocalReadPort(config))
    write : Out(LocalPriorityWritePort(config))
    row : Out(1)
        For the counter VECTOR_ROWS: a row of results is being written.
    """

    def __init__(self, config: NpuConfig):
        self._config = config
        super().__init__(
            {
                "engine": Out(EngineSignature(Opcode.VECTOR)),
                "bounds": In(bounds_layout(config)),
                "a": Out(LocalReadPort(config)),
                "b": Out(LocalReadPort(config)),
                "c": Out(LocalReadPort(config)),
                "write": Out(LocalPriorityWritePort(config)),
                "row": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, engine = self._config, self.engine
        side, lanes = config.side, config.lanes
        groups = side // lanes

        new, command = engine.cmd.payload, Signal(command_layout(Opcode.VECTOR), reset_less=True)
        start, active, busy, stopped = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            engine.cmd.ready.eq(~busy),
            start.eq(engine.cmd.valid & engine.cmd.ready),
            engine.busy.eq(busy | engine.done),
        ]
        with m.If(start):
            m.d.sync += [command.eq(new), active.eq(1), busy.eq(1)]

        # ---- Operands and the row of the result. Where b or c is a, as in a square, a row is fetched once for both.
        operands, needed = {}, {}
        same, shared = {}, {}
        unpacked = (new.a_format == Format.F32) | (new.a_format == Format.I32)
        for name in "bc":
            same[name], shared[name] = Signal(name=f"same_{name}"), Signal(name=f"shared_{name}")
            equal = Cat(new[f"a{field}"] == new[f"{name}{field}"] for field in ("", "_stride0", "_stride1")).all()
            m.d.comb += same[name].eq(equal & unpacked)
            with m.If(start):
                m.d.sync += shared[name].eq(same[name])
        for name in "abc":
            fetch = m.submodules[f"fetch_{name}"] = operands[name] = OperandFetch(config)
            connect(m, flipped(getattr(self, name)), fetch.port)
            ops = [op for op in VectorOp if name in op.operands]
            immediate = new[f"{name}_imm"] if name != "a" else 0
            need = needed[name] = Signal(name=f"need_{name}")
            uses = Signal(name=f"uses_{name}")
            m.d.comb += uses.eq(Cat(new.op == op for op in ops).any() & ~immediate & ~same.get(name, Const(0, 1)))
            with m.If(start):
                m.d.sync += need.eq(uses)
            m.d.comb += [
                fetch.bounds.eq(self.bounds),
                fetch.start.eq(start),
                fetch.loop.once.eq(1),
                fetch.loop.used.eq(uses),
            ]
            _connect_loop(m, fetch.loop, new, name, new.a_format if name == "a" else None)
        m.submodules.target = target = RowLoop()
        m.d.comb += [target.start.eq(start), target.loop.used.eq(1)]
        _connect_loop(m, target.loop, new, "dst", new.dst_format)

        # ---- Steps: group by group, inner loop, outer loop.
        group = Signal(max((groups - 1).bit_length(), 1))
        left0, left1 = Signal(16, reset_less=True), Signal(16, reset_less=True)
        a_step, dst_step = Signal(2), Signal(2)  # within a packed row
        a_last, dst_last = Signal(2, reset_less=True), Signal(2, reset_less=True)  # of these the last
        # Registers for ``left0 == 1``, ``left1 == 1``, ``count0 == 1``: what waits for ``go`` has no time for these.
        last0, last1, only0 = (Signal(name=name, reset_less=True) for name in ("last0", "last1", "only0"))
        go, last_group = Signal(), Signal()
        a_row_end, dst_row_end, step = Signal(), Signal(), Signal()
        target_good = Signal()
        m.d.comb += [
            target_good.eq(in_vmem(config, self.bounds, target.address)),
            go.eq(
                active
                & ~stopped
                & ~self.write.pause
                & target_good
                & Cat(operands[n].valid | ~needed[n] for n in operands).all()
            ),
            last_group.eq(group == groups - 1),
            step.eq(go & last_group),
            a_row_end.eq(last0 | (a_step == a_last)),
            dst_row_end.eq(last0 | (dst_step == dst_last)),
            target.step.eq(step & dst_row_end),
        ]
        for name, fetch in operands.items():
            # A row that stays for the inner loop, or for all of the command, was fetched once.
            stays, stays_all = (Signal(name=f"{name}_{n}", reset_less=True) for n in ("stays", "stays_all"))
            inner = (new[f"{name}_stride0"] == 0) & (fetch.loop.pack == 0)
            with m.If(start):
                m.d.sync += [stays.eq(inner), stays_all.eq(inner & (new[f"{name}_stride1"] == 0))]
            end = Mux(stays_all, last0 & last1, Mux(stays, last0, a_row_end if name == "a" else 1))
            m.d.comb += fetch.pop.eq(step & needed[name] & end)
        with m.If(start):
            m.d.sync += [left0.eq(new.count0), left1.eq(new.count1), group.eq(0), a_step.eq(0), dst_step.eq(0)]
            m.d.sync += [last0.eq(new.count0 == 1), only0.eq(new.count0 == 1), last1.eq(new.count1 == 1)]
            for last, loop in ((a_last, operands["a"].loop), (dst_last, target.loop)):
                m.d.sync += last.eq((1 << loop.pack) - 1)
        with m.Elif(go):
            m.d.sync += group.eq(Mux(last_group, 0, group + 1))
            with m.If(step):
                m.d.sync += [
                    left0.eq(Mux(last0, command.count0, left0 - 1)),
                    left1.eq(left1 - last0),
                    last0.eq(Mux(last0, only0, left0 == 2)),
                    last1.eq(Mux(last0, left1 == 2, last1)),
                    a_step.eq(Mux(a_row_end, 0, a_step + 1)),
                    dst_step.eq(Mux(dst_row_end, 0, dst_step + 1)),
                ]
                with m.If(last0 & last1):
                    m.d.sync += active.eq(0)

        # ---- Faults: the first step at which a row is missing, operands before the result.
        bad = Cat(*(fetch.bad & need for fetch, need in zip(operands.values(), needed.values())), ~target_good)
        with m.If(active & ~stopped & bad.any()):
            m.d.sync += [stopped.eq(1), engine.fault.valid.eq(1)]
            for number, address in reversed(list(enumerate((*(f.address for f in operands.values()), target.address)))):
                with m.If(bad[number]):
                    m.d.sync += engine.fault.address.eq(address)
        m.d.comb += [engine.fault.cause.eq(FaultCause.LOCAL_RANGE), engine.fault.index.eq(command.index)]

        # ---- What belongs to a group and waits for its results.
        tag = data.StructLayout(
            {
                "group": len(group),
                "step": 2,
                "first": 1,
                "last": 1,
                "end": 1,
                "address": config.vmem_addr_bits,
            }
        )
        m.submodules.tags = tags = SyncFIFOBuffered(width=tag.size, depth=_IN_FLIGHT)
        pushed = Signal(tag)
        m.d.comb += [
            pushed.group.eq(group),
            pushed.step.eq(dst_step),
            pushed.first.eq((group == 0) & (dst_step == 0)),
            pushed.last.eq(last_group & dst_row_end),
            pushed.end.eq(last_group & last0 & last1),
            pushed.address.eq(target.address),
            tags.w_en.eq(go),
            tags.w_data.eq(pushed),
        ]

        # ---- First register: elements of a, the group of b and c. Second: lanes of a exchanged, b and c as used.
        first_valid, second_valid = Signal(), Signal()
        first_group = Signal(len(group), reset_less=True)
        a_row = Signal(config.row_bits, reset_less=True)
        a_group = Signal(lanes * 32, reset_less=True)
        elements = select_elements(m, operands["a"].row, command.a_format, a_step, side)
        shuffled = shuffle_lanes(
            m, [a_row.word_select(lane, 32) for lane in range(side)], command.lane_bcast, command.lane_xor
        )
        # The first registers load in every cycle: ``go`` comes late, and what is read changes after it only.
        m.d.sync += [
            first_valid.eq(go),
            second_valid.eq(first_valid),
            a_row.eq(Cat(*elements)),
            first_group.eq(group),
        ]
        with m.If(first_valid):
            m.d.sync += a_group.eq(Cat(*shuffled).word_select(first_group if groups > 1 else 0, lanes * 32))
        others = {}
        for name in "bc":
            first, second = (Signal(lanes * 32, name=f"{name}_group{n}", reset_less=True) for n in (1, 2))
            row = Mux(shared[name], operands["a"].row, operands[name].row)
            m.d.sync += first.eq(row.word_select(group if groups > 1 else 0, lanes * 32))
            with m.If(first_valid):
                for lane in range(lanes):
                    word = Mux(command[f"{name}_imm"], command[f"imm_{name}"], first.word_select(lane, 32))
                    sign = word[31] ^ command[f"negate_{name}"]
                    m.d.sync += second.word_select(lane, 32).eq(Cat(word[:31], sign))
            others[name] = second

        m.submodules.gather = gather = ResultGather(config)
        results = []
        for number in range(lanes):
            lane = m.submodules[f"lane{number}"] = VectorLane()
            m.d.comb += [
                lane.op.eq(command.op),
                lane.a_format.eq(command.a_format),
                lane.dst_format.eq(command.dst_format),
                lane.relu.eq(command.relu),
                lane.i_valid.eq(second_valid),
                lane.a.eq(a_group.word_select(number, 32)),
                lane.b.eq(others["b"].word_select(number, 32)),
                lane.c.eq(others["c"].word_select(number, 32)),
            ]
            results.append(lane)

        # ---- Rows of results.
        popped = tag(tags.r_data)
        end = Signal()  # The last row is written in the next cycle, in which the next command may start.
        m.d.comb += [
            tags.r_en.eq(results[0].o_valid),
            gather.format.eq(command.dst_format),
            gather.i_valid.eq(results[0].o_valid),
            gather.i.eq(Cat(lane.o for lane in results)),
            gather.group.eq(popped.group),
            gather.step.eq(popped.step),
            gather.first.eq(popped.first),
            gather.last.eq(popped.last),
            self.write.en.eq(gather.o_valid),
            engine.quiet.eq(~stopped | ~(tags.level.any() | gather.o_valid)),
            self.write.data.eq(gather.o),
            self.row.eq(gather.o_valid),
            engine.progress.eq(go | gather.o_valid),
            end.eq(results[0].o_valid & popped.end),
        ]
        m.d.sync += [self.write.addr.eq(to_vmem(config, self.bounds, popped.address)), engine.done.eq(end)]
        with m.If(end):
            m.d.sync += busy.eq(0)
        return m


def _pack_bits(m: Module, fmt, name: str) -> Signal:
    """log2 of the elements a word of a format."""
    bits = Signal(2, name=name)
    with m.Switch(fmt):
        for member in Format:
            with m.Case(member):
                m.d.comb += bits.eq(member.pack.bit_length() - 1)
    return bits


def _connect_loop(m: Module, loop, command, name: str, fmt):
    """The loop nest of an operand or of the result; ``fmt`` is its element format if it has one."""
    m.d.comb += [
        loop.base.eq(command[name]),
        loop.stride0.eq(command[f"{name}_stride0"]),
        loop.stride1.eq(command[f"{name}_stride1"]),
        loop.count0.eq(command.count0),
        loop.count1.eq(command.count1),
    ]
    if fmt is not None:
        m.d.comb += loop.pack.eq(_pack_bits(m, fmt, f"new_{name}_pack"))
