"""An `Mmu` in Amaranth's simulator, with a memory that answers, requesters and an invalidation by the cycle."""

from collections import deque
from collections.abc import Callable

from lepton_npu.mmu.mmu import Mmu
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import Access, Invalidate, TranslationFault
from lepton_verif.model.translation import BusError

from tests.gateware.simulation import Pins, kept, simulate

__all__ = ["MmuDriver", "Request"]

Request = tuple[int, Access, int, int]
"""Page (bits 63:12 of an address), access, ASID, root."""


class MmuDriver:
    """Cycle by cycle; requests wait in lists, answers are collected. `busy` is checked, and that answers stay.

    Parameters
    ----------
    memory : callable
        As of `lepton_verif.model.translation.translate`; may be exchanged at any time.
    latency : int
        Cycles from an address to its data, 1 or more.
    unit : class
        `Mmu`, or one with a bug.

    Attributes
    ----------
    ask : list of deque
        By requester, what it still has to ask; it does so as soon as it may.
    accepted : list of list of int
        By requester, the cycles in which its requests were accepted.
    answers : list of list of (int, TranslationFault, int)
        By requester, in their order: the cycle in which one was taken, fault, frame.
    reads : list of (int, int)
        Cycle and address of every read.
    takes : list of bool
        Which requesters take answers.
    """

    def __init__(self, config: NpuConfig, memory: Callable[[int], int], *, latency: int = 1, unit=Mmu):
        self.config, self.memory, self.latency, self.dut = config, memory, latency, kept(unit, config)
        self.ask: list[deque[Request]] = [deque() for _ in Access]
        self.forget()
        self.takes = [True] * len(Access)
        self.halt, self.now = False, 0
        self._due: deque[tuple[int, int, int]] = deque()
        dut = self.dut
        payloads = [*dut.i, dut.invalidate, dut.r]
        ready = [*(port.ready for port in dut.o), dut.halt, dut.ar.ready]
        self._pins = Pins(*(p.payload for p in payloads), *(p.valid for p in payloads), *ready)
        self._payloads: list[dict[str, int]] = [{} for _ in payloads]  # they stay when they are not valid any more
        self._open = 0
        self._shown: list[tuple[TranslationFault, int] | None] = [None] * len(Access)

    def forget(self) -> None:
        """Empty lists of what has happened."""
        self.accepted: list[list[int]] = [[] for _ in Access]
        self.answers: list[list[tuple[int, TranslationFault, int]]] = [[] for _ in Access]
        self.reads: list[tuple[int, int]] = []
        self.hits = self.misses = 0

    async def cycle(self, ctx, *, invalidate: tuple[Invalidate, int, int] | None = None) -> None:
        """One cycle, with an invalidation (kind, ASID, page) or none. Data are those of the cycle of the read."""
        dut, values = self.dut, self._payloads
        for number, asks in enumerate(self.ask):
            if asks:
                values[number] = dict(zip(("page", "access", "asid", "root"), asks[0]))
        if invalidate is not None:
            values[-2] = dict(zip(("kind", "asid", "page"), invalidate))
        beat = self._due[0] if self._due and self._due[0][0] <= self.now else None
        if beat:
            values[-1] = {"data": beat[1], "resp": beat[2], "last": 1}
        valid = [*map(bool, self.ask), invalidate is not None, beat is not None]
        self._pins.set(ctx, *values, *valid, *self.takes, self.halt, 1)
        assert ctx.get(dut.busy) == (self._open > 0), f"{self._open} requests are open"
        for number, (port_i, port_o) in enumerate(zip(dut.i, dut.o)):
            if ctx.get(port_i.valid) and ctx.get(port_i.ready):
                self.accepted[number].append(self.now)
                self.ask[number].popleft()
                self._open += 1
            answer = None
            if ctx.get(port_o.valid):
                payload = ctx.get(port_o.payload)
                answer = TranslationFault(payload.fault), payload.frame
            assert self._shown[number] in (None, answer), "an answer stays until it is taken"
            self._shown[number] = None if self.takes[number] else answer
            if answer is not None and self.takes[number]:
                self._open -= 1
                self.answers[number].append((self.now, *answer))
        if beat and ctx.get(dut.r.ready):
            self._due.popleft()
        if ctx.get(dut.ar.valid):
            address = ctx.get(dut.ar.payload.addr)
            self.reads.append((self.now, address))
            self._due.append((self.now + self.latency, *self._beat(address)))
        self.hits += ctx.get(dut.hit)
        self.misses += ctx.get(dut.miss)
        await ctx.tick()
        self.now += 1

    def _beat(self, address: int) -> tuple[int, int]:
        """Data and response; those of an error are what `BusError` was made with: response, word."""
        data = response = 0
        for word in range(self.config.bus_bytes // 8):
            try:
                data |= self.memory(address + 8 * word) << 64 * word
            except BusError as error:
                response, garbage = error.args
                data |= garbage << 64 * word
        return data, response

    async def until_answered(self, ctx, limit: int = 1000) -> None:
        """Until nothing is asked, open, or on its way."""
        await self.cycle(ctx)
        while any(self.ask) or ctx.get(self.dut.busy):
            assert limit, "no end"
            limit -= 1
            await self.cycle(ctx)

    async def one(self, ctx, page: int, access: Access, asid: int, root: int, *, requester: int = 0):
        """Fault, frame, and the addresses that were read, of one request with nothing beside it."""
        before, reads = len(self.answers[requester]), len(self.reads)
        self.ask[requester].append((page, access, asid, root))
        await self.until_answered(ctx)
        assert len(self.answers[requester]) == before + 1
        _, fault, frame = self.answers[requester][-1]
        return fault, frame, [address for _, address in self.reads[reads:]]

    def simulate(self, process) -> None:
        simulate(self.dut, process)
