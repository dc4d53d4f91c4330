"""Record fetch after errors: the failed record is read again, of the ring or of a body, and all goes on behind it."""

import random
from collections import deque

import pytest
from lepton_npu.spec.commands import TRANSLATION_CAUSES, FaultCause
from lepton_npu.spec.config import RECORD_BYTES
from lepton_npu.spec.translation import PAGE_BYTES, Access, TranslationFault

from tests.gateware.control.test_fetch import BODIES, FetchDriver, config_of, random_bodies
from tests.gateware.simulation import Pins

SPACE = {"translate": 1, "asid": 0x5A, "root": 0xABCDE}
MOVED = 0x2A5  # frame numbers are page numbers with these bits flipped
FAULTS = (TranslationFault.PAGE_FETCH, TranslationFault.ACCESS_FETCH)


class RetryDriver(FetchDriver):
    """A memory and an MMU that fail now and then, and a host that has the failed record read again.

    ``chance`` is that of a read to have an error response; a page is refused three times as often. Nothing is
    remembered: the next try may succeed. ``script`` has the next tries of some records and pages. ``pages`` says
    whether addresses are translated. A record must come out as an error if, and only if, what was asked for it last has
    failed.
    """

    def __init__(self, *args, pages: bool):
        super().__init__(*args)
        self.pages, self.chance = pages, 0.0
        self.script: dict[int, list[bool]] = {}  # by address or page: whether it fails
        self.expected: deque[tuple[int, bool]] = deque()  # of reads that were not dropped: where, and whether they fail
        self.requests: deque[tuple[int, int, bool]] = deque()  # page, cycle of the answer, dropped by a jump
        self.refused: dict[int, TranslationFault] = {}  # by page, since the last jump or retry
        self.retries: list[tuple[FaultCause, bool]] = []  # cause, and whether of a body
        self.patience = 1.0  # chance of a retry in a cycle that allows one
        self.failed = False
        self.enabled = True  # in the cycle before
        self.asking = False  # the MMU, in the cycle before
        mmu = self.dut.mmu
        self.space = SPACE if pages else {}
        self.mmu_pins = Pins(mmu.space, mmu.request.ready, mmu.answer.valid, mmu.answer.payload)
        self.answer: dict[str, int] = {}

    def fails(self, what: int, chance: float) -> bool:
        """Whether a try of this record (a byte address) or page (its number) fails."""
        script = self.script.get(what)
        return script.pop(0) if script else self.rng.random() < chance

    def physical(self, address: int) -> int:
        return address ^ MOVED * PAGE_BYTES if self.pages else address

    def bad_beats(self, address: int) -> set[int]:
        fails = self.fails(address, self.chance)
        self.expected.append((address, fails))
        return {self.rng.randrange(self.beats)} if fails else set()

    def _mmu(self, ctx) -> bool:
        """Answer what was asked for; whether the MMU has, or is offered, a request."""
        mmu, payload = self.dut.mmu, self.dut.mmu.request.payload
        busy, offered, ready = bool(self.requests), ctx.get(mmu.request.valid), self.moves("ar")
        due = busy and self.requests[0][1] <= self.cycles
        if due:
            page, _, dropped = self.requests.popleft()
            fault = self.rng.choice(FAULTS) if self.fails(page, 3 * self.chance) else TranslationFault.NONE
            self.answer = {"frame": page ^ MOVED, "fault": fault}
            if fault and not dropped:
                self.refused[page] = fault
        self.mmu_pins.set(ctx, self.space, ready, due, self.answer)
        if offered and ready:
            assert (ctx.get(payload.access), ctx.get(payload.asid)) == (Access.FETCH, SPACE["asid"])
            self.requests.append((ctx.get(payload.page), self.cycles + self.rng.randint(1, self.latency), False))
        return busy or offered

    async def cycle(self, ctx):
        dut, was_quiet = self.dut, ctx.get(self.dut.quiet)
        asks = ctx.get(dut.mmu.request.valid) and not self.requests
        busy = self._mmu(ctx)
        assert was_quiet == (self.waiting is None and not self.pending and not busy)
        if asks and not self.asking:
            assert self.enabled, "asks the MMU while it is not enabled"
        self.asking = bool(asks)
        if self.failed:
            self.enable = False
        retry = self.failed and was_quiet and not self.enabled and self.rng.random() < self.patience
        ctx.set(dut.retry, retry)
        self.enabled, jumping = self.enable, self.jumping
        if retry:
            self.failed = False
            self.plan, self.ring_asked, self.ahead = self.body.copy(), self.head, 0
        await super().cycle(ctx)
        if retry or (jumping and self.jumping is None):
            self.expected.clear()
            self.refused.clear()
            self.requests = deque((page, due, True) for page, due, _ in self.requests)
        if retry:
            self.enable = True

    def _take(self, ctx):
        super()._take(ctx)
        taken, cause = self.taken[-1], ctx.get(self.dut.error_cause)
        if self.expected:
            where, fails = self.expected.popleft()
            assert where == taken.where
            assert taken.error == fails
            if not fails:
                return
            assert cause == FaultCause.BUS_FETCH
        else:
            assert taken.error, "a record that was not read"
            page = taken.where // PAGE_BYTES
            assert cause == (TRANSLATION_CAUSES | self.refused[page] if self.pages else FaultCause.BUS_FETCH)
            assert self.pages or taken.where >> self.config.addr_width
        assert taken.error_address == taken.where
        self.failed = True
        self.retries.append((FaultCause(cause), bool(self.body)))

    async def until(self, ctx, total: int, limit: int = 20000):
        """Run on until so many records of the ring were taken, and the bodies behind them; then all is idle."""
        while self.head < total or self.body or self.jumping:
            assert self.cycles < limit
            self.post(total)
            await self.cycle(ctx)
        for _ in range(40):
            await self.cycle(ctx)
        assert ctx.get(self.dut.idle)
        assert ctx.get(self.dut.quiet)
        assert not self.pending
        assert [taken.bits for taken in self.taken if taken.where < BODIES and not taken.error] == self.records

    def good(self) -> list[int]:
        """Where records were that could be read."""
        return [taken.where for taken in self.taken if not taken.error]


@pytest.mark.parametrize("pages", [False, True])
@pytest.mark.parametrize(("bus_width", "ring_log2"), [(64, 1), (256, 4)])
def test_random(seed, bus_width, ring_log2, pages):
    """Every record once, in order, whatever fails: records of the ring and of bodies, reads and translations."""
    rng = random.Random(f"{seed} {bus_width} {ring_log2} {pages}")
    base = PAGE_BYTES * rng.randrange(1, 1 << 12) - RECORD_BYTES * rng.randrange(1 << ring_log2)
    driver = RetryDriver(config_of(bus_width), rng, base, ring_log2, pages=pages)
    driver.jumps, total = random_bodies(rng, 300), 50

    async def process(ctx):
        while driver.head < total:
            assert driver.cycles < 12000
            if driver.cycles % 60 == 0:
                driver.move = {name: rng.choice((0.2, 0.7, 1)) for name in driver.move}
                driver.latency, driver.patience = rng.choice((1, 4, 20)), rng.choice((0.1, 1))
                driver.chance = rng.choice((0, 0.05, 0.2))
            driver.bad = {(1, 0)}  # idle is of no use while there are errors
            if driver.moves("host"):
                driver.post(total)
            if rng.random() < 0.05:
                driver.enable = not driver.enable
            await driver.cycle(ctx)
        driver.chance, driver.patience, driver.enable = 0, 1, True
        driver.move = dict.fromkeys(driver.move, 1.0)
        await driver.until(ctx, total)

    driver.run(process)
    causes = {cause for cause, _ in driver.retries}
    assert FaultCause.BUS_FETCH in causes
    assert {in_body for _, in_body in driver.retries} == {False, True}
    assert pages == bool(causes & {FaultCause.PAGE_FETCH, FaultCause.ACCESS_FETCH})


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("slow", [False, True])
def test_error_response(number, slow, times):
    """One or more errors of one record, the first of the ring to the one behind a body; with reads behind it or not."""
    driver = RetryDriver(config_of(64), random.Random(number), 0x8000, 3, pages=False)
    body = [BODIES + RECORD_BYTES * n for n in range(3)]
    driver.jumps = {1: (BODIES, 3, 2)}
    order = [driver.address(0), driver.address(1), *body, *body, driver.address(2), driver.address(3)]
    tries = [False] * order[:number].count(order[number]) + [True] * times
    driver.bad = {(1, 0)}  # idle is of no use
    if slow:
        driver.latency, driver.move["o"] = 12, 0.3

    async def process(ctx):
        while number > 7 and len(driver.good()) < 3:  # what is read of the ring before the jump is dropped
            driver.post(6)
            await driver.cycle(ctx)
        driver.script = {order[number]: tries}
        await driver.until(ctx, 6)

    driver.run(process)
    assert driver.good()[: len(order)] == order
    assert driver.retries == [(FaultCause.BUS_FETCH, 2 <= number < 8)] * times


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_refused_page(first, times):
    """A page of a body, and then one of the ring, that is refused: asked for again by a retry, and not without one."""
    start = BODIES + PAGE_BYTES - RECORD_BYTES * first
    base = 0x8000 - RECORD_BYTES * 3
    driver = RetryDriver(config_of(64), random.Random(first), base, 3, pages=True)
    driver.jumps = {0: (start, 4, 3)}
    driver.bad = {(1, 0)}
    page = (start + RECORD_BYTES * 3) // PAGE_BYTES
    driver.script = {page: [True] * times, 0x8000 // PAGE_BYTES: [True] * times}

    async def process(ctx):
        await driver.until(ctx, 6)

    driver.run(process)
    body = [start + RECORD_BYTES * n for n in range(4)]
    assert driver.good() == [base, *body * 3, *(driver.address(n) for n in range(1, 6))]
    assert [in_body for _, in_body in driver.retries] == [True] * times + [False] * times


@pytest.mark.parametrize("body", [False, True])
def test_no_such_address(body):
    """Without translation a record beyond the bus fails as often as it is tried, at the same place."""
    start = (1 << 32) - RECORD_BYTES
    driver = RetryDriver(config_of(64), random.Random(0), 0x8000 if body else start, 3, pages=False)
    driver.jumps = {0: (start, 2, 2)} if body else {}
    driver.bad = {(1, 0)}

    async def process(ctx):
        while len(driver.retries) < 3:
            driver.post(4)
            await driver.cycle(ctx)

    driver.run(process)
    assert driver.good() == ([0x8000] if body else []) + [start]
    assert [taken.where for taken in driver.taken if taken.error] == [1 << 32] * 3
