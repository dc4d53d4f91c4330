"""A `PageWalker` in Amaranth's simulator beside a memory: one walk at a time, every cycle watched."""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from lepton_npu.mmu.walker import PageWalker
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.page_table import entry
from lepton_npu.spec.translation import Access, Pte, TranslationFault
from lepton_verif.model.translation import BusError, Translation, translate

from tests.gateware.simulation import Pins, kept, simulate

__all__ = ["GOOD", "Tables", "Walk", "WalkerBench"]

GOOD = Pte.V | Pte.R | Pte.W | Pte.U | Pte.A | Pte.D
_LIMIT = 400


@dataclass
class Tables:
    """What a walk may read: entries by address, the responses of some, and random words everywhere else."""

    entries: dict[int, int] = field(default_factory=dict)
    responses: dict[int, int] = field(default_factory=dict)
    seed: int = 0

    def word(self, address: int) -> int:
        return self.entries.get(address, random.Random(f"{self.seed} {address}").getrandbits(64))

    def model(self, address: int) -> int:
        if self.responses.get(address, 0) & 2:
            raise BusError
        return self.word(address)

    @classmethod
    def path(cls, root: int, page: int, tables: list[int], leaf: int, *, flags=(Pte.V, Pte.V), seed=0) -> "Tables":
        """Pointers to ``tables``, one after the other from the root, and then ``leaf``, an entry."""
        entries, table = {}, root
        for level, target in zip((2, 1, 0), [*tables, None]):
            place = table * 4096 + (page >> 9 * level) % 512 * 8
            entries[place] = leaf if target is None else entry(target, flags[2 - level])
            table = target
        return cls(entries, {}, seed)


@dataclass
class Walk:
    """How a walk went: what came out, addresses read with the cycle in which each was first offered, and cycles.

    Cycle 0 is that in which the request was accepted; ``cycles`` is the first one with the result that was taken.
    """

    fault: TranslationFault
    frame: int
    leaf: dict[str, int]
    reads: list[int]
    offered: list[int]
    cycles: int


class WalkerBench:
    """Drives ``unit`` (`PageWalker`, or one with a bug), and checks in each cycle what it promises at its ports."""

    def __init__(self, config: NpuConfig, unit=PageWalker, seed: int = 1):
        self.config, self.dut, self.rng = config, kept(unit, config), random.Random(seed)
        dut = self.dut
        self._pins = Pins(dut.halt, dut.restart, dut.ar.ready, dut.r.valid, dut.r.payload, dut.o.ready)

    def simulate(self, process) -> None:
        simulate(self.dut, process)

    def expected(self, tables: Tables, root: int, page: int, access: Access) -> Translation:
        return translate(tables.model, root, page << 12, access, addr_width=self.config.addr_width)

    async def walk(
        self,
        ctx,
        tables: Tables,
        root: int,
        page: int,
        access: Access = Access.READ,
        *,
        asid: int = 7,
        latency: int = 1,
        ar_delay: int = 0,
        take_delay: int = 0,
        halt: Callable[[int], bool] = lambda cycle: False,
        restarts: Collection[int] = (),
        later: Collection[Tables] = (),
        pointers: bool = False,
    ) -> Walk:
        """One walk.

        A read is accepted ``ar_delay`` cycles after it was offered and answered ``latency`` after that; the result is
        taken ``take_delay`` cycles after it came. In the cycle after each of ``restarts`` memory is the next of
        ``later``. With ``pointers`` those that the walker keeps may be used, and else they are dropped before.
        """
        dut = self.dut
        if not pointers:
            ctx.set(dut.restart, 1)
            ctx.set(dut.i.valid, 0)
            await ctx.tick()
            ctx.set(dut.restart, 0)
        request = {"page": page, "access": access, "asid": asid, "root": root}
        memories, restarts = iter(later), set(restarts)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.i.payload, request)
        assert ctx.get(dut.i.ready), "a walker that is idle takes a request"
        assert not ctx.get(dut.busy)
        reads: list[int] = []
        offered: list[int] = []
        held, due, seen_for, must_stay = None, None, 0, False
        for cycle in range(_LIMIT):
            halted, restart = halt(cycle), cycle in restarts
            accepts = held is not None and cycle - offered[-1] >= ar_delay if ar_delay else 1
            beat = due is not None and cycle >= due
            data = self._beat(tables, reads[-1]) if beat else self._noise()
            self._pins.set(ctx, halted, restart, accepts, beat, data, seen_for >= take_delay)
            if cycle:
                assert ctx.get(dut.busy), "the walk has not ended"
                assert not ctx.get(dut.i.ready), "one walk at a time"
                assert {name: getattr(ctx.get(dut.request), name) for name in request} == request
            if cycle == 1:  # another request waits, and differs from the one that runs
                ctx.set(dut.i.payload, {"page": page ^ 1, "access": access ^ 1, "asid": asid ^ 1, "root": root ^ 1})

            if ctx.get(dut.ar.valid):
                address = ctx.get(dut.ar.payload.addr)
                assert ctx.get(dut.ar.payload.len) == 0
                assert due is None, "one read in flight"
                if held is None:
                    assert not halted, f"cycle {cycle}: a read begins while halt is high"
                    offered.append(cycle)
                else:
                    assert address == held, "the address stays until it is accepted"
                assert address % self.config.bus_bytes == 0
                held = address
                if ctx.get(dut.ar.ready):
                    reads.append(held)
                    held, due = None, cycle + latency
            else:
                assert held is None, "valid stays until ready"
            if beat:
                assert ctx.get(dut.r.ready), "a beat is taken at once"
                due = None

            valid = bool(ctx.get(dut.o.valid))
            assert valid or not must_stay, "the result stays until it is taken"
            result = ctx.get(dut.o.payload) if valid else None
            taken = valid and seen_for >= take_delay and not restart
            if valid and seen_for == 0:
                came = cycle
            seen_for = seen_for + 1 if valid and not restart else 0
            must_stay = valid and not restart and not taken
            await ctx.tick()
            if restart:
                tables = next(memories, tables)
            if taken:
                ctx.set(dut.o.ready, 0)
                ctx.set(dut.r.valid, 0)
                ctx.set(dut.restart, 0)
                assert not ctx.get(dut.o.valid)
                assert not ctx.get(dut.busy)
                assert due is None
                fault = TranslationFault(result.answer.fault)
                leaf = {n: getattr(result.leaf, n) for n in ("frame", "mega", "giga", "is_global", "writable")}
                return Walk(fault, result.answer.frame, leaf, reads, offered, came)
        raise AssertionError(f"no result within {_LIMIT} cycles")

    def check(self, walk: Walk, expected: Translation, page: int, reads: int = 0) -> None:
        """Result, leaf and addresses against the model; the first ``reads`` are not compared."""
        assert walk.fault == expected.fault, f"{walk.fault.name}, not {expected.fault.name}"
        beats = [a // self.config.bus_bytes * self.config.bus_bytes for a in expected.reads]
        assert walk.reads[reads:] == beats, f"{walk.reads} not {beats}"
        if expected.fault == TranslationFault.NONE:
            assert walk.frame == expected.physical >> 12
            pages = expected.page_bytes >> 12
            assert walk.leaf == {
                "frame": walk.frame // pages * pages,
                "mega": pages > 1,
                "giga": pages > 512,
                "is_global": expected.is_global,
                "writable": expected.writable,
            }

    def _beat(self, tables: Tables, address: int) -> dict:
        """The words of a beat and its response; data of an error are random."""
        words = range(address, address + self.config.bus_bytes, 8)
        response = max(tables.responses.get(a, 0) for a in words)
        data = 0
        for lane, place in enumerate(words):
            data |= tables.word(place) << 64 * lane
        return {"data": data, "resp": response, "last": 1}

    def _noise(self) -> dict:
        return {"data": self.rng.getrandbits(8 * self.config.bus_bytes), "resp": self.rng.randrange(4), "last": 1}
