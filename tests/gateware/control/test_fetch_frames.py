"""Frames of the command fetch against what the MMU has said: hits, faults, jumps, and invalidations at any time."""

import random
from collections import Counter, deque

import pytest
from lepton_npu.control.fetch_frames import FetchFrames
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.translation import Access

from tests.gateware.simulation import kept, simulate

CONFIG = PRESETS["tiny"]
FRAMES = 1 << CONFIG.addr_width - 12
SPACE = {"translate": 1, "asid": 0x5A, "root": 0xABCDE}
Item = tuple[int, int]
"""Page of a record, and whether that is one of a body."""


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return FetchFrames


def answer_of(page: int, epoch: int) -> dict[str, int]:
    """What a page is translated to, after so many times of forgetting: a quarter are faults."""
    rng = random.Random(f"{page} {epoch}")
    return {"frame": rng.randrange(FRAMES), "fault": rng.choice((0, 0, 0, 3, 7)[: 3 + page % 3])}


class Bench:
    """A unit between a fetch, which goes through ``items``, and an MMU that answers in order.

    ``done`` says of each item how it ended and when: with a frame, a fault, or dropped by a jump.
    """

    def __init__(self, unit, items: list[Item], latency: int = 3):
        self.dut, self.items, self.latency = kept(unit, CONFIG), deque(items), latency
        self.flight: deque[tuple[int, int, int]] = deque()  # due, page, epoch: the MMU's
        self.held: dict[int, int] = {}  # what the unit must know: by ring or body
        self.asking: tuple[int, int, bool] | None = None  # page, body, met by an invalidation
        self.asked: list[int] = []
        self.done: list[tuple[str, int]] = []
        self.epoch, self.now, self.age = 0, 0, 0  # the age is that of the item
        self._known: dict[int, int] = {}  # what was held when it came
        self.seen: Counter = Counter()

    async def cycle(self, ctx, *, wants=True, asks=True, answers=True, forgets=False, jumps=False) -> None:
        dut, mmu = self.dut, self.dut.mmu
        page, body = self.items[0]
        wants = wants and self.age > 0
        if self.age == 0:
            self._known = dict(self.held)
        ctx.set(dut.page, page)
        ctx.set(dut.body, body)
        ctx.set(dut.wanted, wants)
        ctx.set(dut.jump, jumps)
        ctx.set(mmu.space, SPACE)
        ctx.set(mmu.forget, forgets)
        ctx.set(mmu.request.ready, asks)
        arrives = answers and bool(self.flight) and self.flight[0][0] <= self.now
        ctx.set(mmu.answer.valid, arrives)
        answer = answer_of(*self.flight[0][1:]) if arrives else None
        if answer:
            ctx.set(mmu.answer.payload, answer)
        expected = answer_of(page, self.epoch)
        ends = None
        denied = ctx.get(dut.denied)
        if denied:
            assert ctx.get(dut.fault) == expected["fault"] != 0
        if self.age > 0 and ctx.get(dut.ready):
            assert ctx.get(dut.frame) == expected["frame"]
            assert not expected["fault"]
            assert self.held[body] == page
            # While an invalidation is on its way nothing is offered to the bus.
            ends = "frame" if wants and not forgets else None
        else:
            assert self.age != 1 or self._known.get(body) != page, "a page that is held is ready in the second cycle"

        if ctx.get(mmu.request.valid):
            request = ctx.get(mmu.request.payload)
            if self.asking is None:
                self.asking = (page, body, False)
                assert self.held.get(body) != page, "asked for what it has"
            assert (request.page, request.access) == (self.asking[0], Access.FETCH)
            assert (request.asid, request.root) == (SPACE["asid"], SPACE["root"])
            if asks:
                self.asked.append(self.now)
                self.flight.append((self.now + self.latency, request.page, self.epoch))
                assert len(self.flight) == 1
        if forgets and self.asking:
            self.asking = (*self.asking[:2], True)
        if answer:
            assert ctx.get(mmu.answer.ready)
            _, of, _ = self.flight.popleft()
            if not self.asking[2] and not answer["fault"]:
                self.held[self.asking[1]] = of
            self.seen["thrown away" if self.asking[2] else "fault" if answer["fault"] else "kept"] += 1
            self.asking = None
        if forgets:
            self.held.clear()
            self._known.clear()
            self.epoch += 1
        if denied and wants and not forgets and ends is None:
            ends = "fault"
        if jumps:
            ends = ends or "dropped"
        if ends:
            self.seen[ends] += 1
        await ctx.tick()
        self.now += 1
        self.age += 1
        # What is denied stays so until a jump leads elsewhere.
        if ends and (ends != "fault" or jumps):
            self.done.append((ends, self.now - 1))
            self.items.popleft()
            self.age = 0

    def simulate(self, process) -> None:
        simulate(self.dut, process)


def check_random(seed: int, unit=FetchFrames) -> Counter:
    """Records of a ring and of bodies, mostly in the page of the one before; everything else at random."""
    rng, items = random.Random(seed), []
    pages = [rng.getrandbits(52) for _ in range(2)]
    for _ in range(1200):
        body = rng.randrange(2)
        if rng.random() < 0.3:
            pages[body] = rng.choice((pages[1 - body], pages[body] + 1, rng.getrandbits(52))) % (1 << 52)
        items.append((pages[body], body))
    bench = Bench(unit, items)

    async def process(ctx):
        while len(bench.items) > 1:
            assert bench.now < 30_000, "no end"
            await bench.cycle(
                ctx, wants=rng.random() < 0.8, asks=rng.random() < 0.6, answers=rng.random() < 0.6,
                forgets=rng.random() < 0.03, jumps=rng.random() < (0.2 if ctx.get(bench.dut.denied) else 0.02),
            )  # fmt: skip

    bench.simulate(process)
    assert len(bench.done) == len(items) - 1
    return bench.seen


def test_random(seed):
    seen = check_random(seed)
    assert min(seen[kind] for kind in ("frame", "fault", "dropped", "kept", "thrown away")) > 20, seen


def good_page(rng: random.Random, epochs: int = 1) -> int:
    while True:
        page = rng.getrandbits(52)
        if not any(answer_of(page, epoch)["fault"] for epoch in range(epochs)):
            return page


def test_cycles(unit):
    """One page of the ring and one of a body are held: ready in the second cycle; others 4 after the MMU's answer."""
    rng = random.Random(1)
    ring, body, other = (good_page(rng) for _ in range(3))
    items = [(ring, 0), (ring, 0), (body, 1), (ring, 0), (body, 1), (other, 0), (body, 1), (ring, 0), (ring, 0)]
    bench = Bench(unit, items)

    async def process(ctx):
        while len(bench.items) > 1:
            await bench.cycle(ctx)
        ends = [cycle for _, cycle in bench.done]
        lengths = [after - before for before, after in zip([-1, *ends], ends)]
        far, near = 4 + bench.latency + 1, 2
        assert lengths == [far, near, far, near, near, far, near, far]
        assert len(bench.asked) == 4

    bench.simulate(process)


@pytest.mark.parametrize("when", range(12))
def test_forget_at_every_cycle(when, unit):
    """The frame that is taken afterwards is the new one, whatever had been asked for or answered."""
    rng = random.Random(when)
    bench = Bench(unit, [(good_page(rng, 2), 0)] * 4)

    async def process(ctx):
        for cycle in range(60):
            await bench.cycle(ctx, forgets=cycle == when)
            if len(bench.items) == 1:
                break
        assert [how for how, _ in bench.done] == ["frame"] * 3

    bench.simulate(process)


@pytest.mark.parametrize("when", range(1, 12))
def test_jump_at_every_cycle_of_a_page_that_is_denied(when, unit):
    """The next record is in a good page: it is not denied, and what was denied is so again when it is wanted again."""
    rng = random.Random(when)
    while not answer_of(bad := rng.getrandbits(52), 0)["fault"]:
        pass
    bench = Bench(unit, [(bad, 0), (good_page(rng), 1), (bad, 0), (good_page(rng), 0)])

    async def process(ctx):
        for cycle in range(when + 1):
            await bench.cycle(ctx, jumps=cycle == when)
        while len(bench.items) == 3:
            await bench.cycle(ctx)
            assert bench.now < 60
            assert not ctx.get(bench.dut.denied)
        while not ctx.get(bench.dut.denied):
            await bench.cycle(ctx)
            assert bench.now < 80
        assert [how for how, _ in bench.done][1:] == ["frame"]

    bench.simulate(process)
