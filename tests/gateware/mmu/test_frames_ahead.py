"""Frames ahead against a list: order, what is asked for and when, and that nothing is used that it was to forget."""

import random
from collections import Counter, deque

import pytest
from lepton_npu.mmu.frames_ahead import AHEAD, FramesAhead
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.translation import Access

from tests.gateware.simulation import kept, simulate

CONFIG = PRESETS["tiny"]
FRAMES = 1 << CONFIG.addr_width - 12
SPACE = {"asid": 0x5A, "root": 0xABCDE}


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return FramesAhead


def answer_of(page: int, epoch: int) -> dict[str, int]:
    """What a page is translated to, after so many times of forgetting."""
    rng = random.Random(f"{page} {epoch}")
    return {"frame": rng.randrange(FRAMES), "fault": rng.choice((0, 0, 0, rng.randrange(1, 4)))}


class Bench:
    """A unit between a source of pages, an MMU that answers in order, and a user; ``seen`` counts what happened."""

    def __init__(self, unit, pages: list[int], access: Access = Access.READ):
        self.dut, self.access = kept(unit, CONFIG, access), access
        self.waits, self.held = deque(pages), deque()  # still to come, and inside
        self.flight: deque[tuple[int, int, int]] = deque()  # due, page, epoch: the MMU's
        self.used: list[int] = []
        self.asked: list[tuple[int, int]] = []
        self.entered: list[int] = []
        self.usable: list[int] = []
        self.epoch, self.now = 0, 0
        self.seen: Counter = Counter()

    async def cycle(self, ctx, *, offers=True, asks=True, latency=3, answers=True, takes=True, forgets=False) -> None:
        dut, mmu = self.dut, self.dut.mmu
        ctx.set(dut.page.valid, offers and bool(self.waits))
        if self.waits:
            ctx.set(dut.page.payload, self.waits[0])
        ctx.set(mmu.space, SPACE)
        ctx.set(mmu.forget, forgets)
        ctx.set(mmu.request.ready, asks)
        arrives = answers and bool(self.flight) and self.flight[0][0] <= self.now
        ctx.set(mmu.answer.valid, arrives)
        if arrives:
            _, page, epoch = self.flight[0]
            ctx.set(mmu.answer.payload, answer_of(page, epoch))
        valid = ctx.get(dut.valid)
        ctx.set(dut.next, valid and takes)
        if valid:
            frame = ctx.get(dut.frame)
            found = {"frame": frame.frame, "fault": frame.fault}
            assert found == answer_of(self.held[0], self.epoch), "not the oldest page's, or forgotten"
            self.usable.append(self.now)
        if ctx.get(mmu.request.valid) and asks:
            request = ctx.get(mmu.request.payload)
            assert (request.asid, request.root, request.access) == (*SPACE.values(), self.access)
            self.asked.append((self.now, request.page))
            # Looked up before the TLB forgets, at worst.
            self.flight.append((self.now + latency, request.page, self.epoch))
            assert len(self.flight) - arrives <= AHEAD, "more than the MMU holds"
        if arrives:
            assert ctx.get(mmu.answer.ready)
            self.flight.popleft()
        if valid and takes:
            self.used.append(self.held.popleft())
        if ctx.get(dut.page.ready) and offers and self.waits:
            self.held.append(self.waits.popleft())
            self.entered.append(self.now)
        assert len(self.held) <= AHEAD
        self.seen.update(
            forgets=forgets, forgets_with_open=forgets and bool(self.flight), used_in_it=forgets and valid and takes
        )
        self.epoch += forgets
        await ctx.tick()
        self.now += 1

    def simulate(self, process) -> None:
        simulate(self.dut, process)


def check_random(seed: int, unit=FramesAhead) -> Counter:
    """Everything stalls at random, and it is told to forget at any time, twice in a row too."""
    rng = random.Random(seed)
    pages = [rng.getrandbits(52) for _ in range(1200)]
    bench = Bench(unit, pages, rng.choice(list(Access)))

    async def process(ctx):
        while len(bench.used) < len(pages):
            assert bench.now < 40_000, "no end"
            if bench.now % 100 == 0:
                chances = [rng.choice((1.0, 0.5, 0.2)) for _ in range(4)]
                forget, latency = rng.choice((0.0, 0.02, 0.1)), rng.choice((3, 3, 9))
            offers, asks, answers, takes = (rng.random() < chance for chance in chances)
            await bench.cycle(
                ctx, offers=offers, asks=asks, answers=answers, takes=takes, latency=latency,
                forgets=rng.random() < forget,
            )  # fmt: skip
        assert not bench.flight or bench.epoch

    bench.simulate(process)
    assert bench.used == pages
    return bench.seen


def test_random(seed):
    seen = check_random(seed)
    assert min(seen.values()) > 10, seen


def test_cycles(unit):
    """Asked for in the cycle after it came, one each cycle, four ahead; an answer is there a cycle after it came."""
    bench = Bench(unit, [10, 11, 12, 13, 14])

    async def process(ctx):
        for _ in range(10):
            await bench.cycle(ctx, takes=False)
        assert bench.entered == [0, 1, 2, 3]
        assert bench.asked == [(1, 10), (2, 11), (3, 12), (4, 13)]
        assert bench.usable == list(range(5, 10))
        for _ in range(10):
            await bench.cycle(ctx)
        # One each cycle; with the first one's place the fifth comes in.
        assert bench.usable[5:9] == [10, 11, 12, 13]
        assert (bench.entered[4], bench.asked[4]) == (11, (12, 14))
        assert bench.used == [10, 11, 12, 13, 14]

    bench.simulate(process)


@pytest.mark.parametrize("when", range(14))
def test_forget_at_every_cycle(when, unit):
    """All that it holds is asked for again, each once, the one in use too, from the cycle after on."""
    bench = Bench(unit, [20, 21, 22])

    async def process(ctx):
        for cycle in range(40):
            await bench.cycle(ctx, forgets=cycle == when, takes=cycle >= 20)
        again = [page for page, entered in zip((20, 21, 22), bench.entered) if entered <= when]
        assert [page for cycle, page in bench.asked if cycle > when][: len(again)] == again
        assert [page for _, page in bench.asked][-3:] == [20, 21, 22]
        assert bench.used == [20, 21, 22]

    bench.simulate(process)


def test_message():
    with pytest.raises(TypeError, match=r"^access must be an Access, not 1$"):
        FramesAhead(CONFIG, 1)
