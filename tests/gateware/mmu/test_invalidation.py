"""Invalidation against its description: when the bus is held, when the TLB is told, and of what."""

import random
from collections import Counter

import pytest
from lepton_npu.mmu.invalidation import InvalidationControl
from lepton_npu.spec.translation import Invalidate

from tests.gateware.simulation import kept, simulate

QUIET = 4


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return InvalidationControl


def run(unit, cycles) -> list[dict[str, int] | None]:
    """What the TLB was told in each of ``cycles`` of (what is requested or None, quiet), with every output checked.

    ``busy`` from the cycle after a request to the one in which the bus has been quiet for four.
    """
    dut, told = kept(unit), []

    async def process(ctx):
        pending, quiet_for = None, 0
        for request, quiet in cycles:
            ctx.set(dut.request, request is not None)
            ctx.set(dut.what, request or {"kind": random.randrange(4), "asid": 3, "page": 9})
            ctx.set(dut.quiet, quiet)
            ctx.set(dut.invalidate.ready, 1)
            quiet_for = quiet_for + 1 if quiet and pending else 0
            ends = quiet_for == QUIET
            assert (ctx.get(dut.busy), ctx.get(dut.hold)) == (pending is not None,) * 2
            assert (ctx.get(dut.forget), ctx.get(dut.invalidate.valid)) == (ends,) * 2
            if ends:
                what = ctx.get(dut.invalidate.payload)
                assert what.kind == pending["kind"]
                if what.kind != Invalidate.ALL:
                    assert (what.asid, what.page) == (pending["asid"], pending["page"])
            told.append(pending if ends else None)
            if request:
                pending, quiet_for = request | ({"kind": Invalidate.ALL} if pending else {}), 0
            elif ends:
                pending, quiet_for = None, 0
            await ctx.tick()

    simulate(dut, process)
    return told


def draw(rng: random.Random) -> dict[str, int]:
    return {"kind": rng.choice(list(Invalidate)), "asid": rng.getrandbits(8), "page": rng.getrandbits(27)}


def check_random(seed: int, unit=InvalidationControl) -> None:
    rng, cycles = random.Random(seed), []
    for _ in range(40):
        requests, quiet = rng.choice((0.02, 0.1, 0.4)), rng.choice((0.3, 0.8, 1.0))
        cycles += [(draw(rng) if rng.random() < requests else None, rng.random() < quiet) for _ in range(100)]
    kinds = Counter(what["kind"] for what in run(unit, cycles) if what)
    assert min(kinds[kind] for kind in Invalidate) > 3, kinds


def test_random(seed):
    check_random(seed)


@pytest.mark.parametrize("kind", Invalidate)
def test_a_bus_that_is_quiet(kind, unit):
    """Told in the fourth cycle of busy, once."""
    what = {"kind": kind, "asid": 7, "page": 0x1234567}
    told = run(unit, [(what, 1)] + [(None, 1)] * 12)
    assert told == [None] * 4 + [what] + [None] * 8


def test_a_bus_that_is_not_quiet(unit):
    """The four cycles begin again with each one that is not quiet."""
    what = {"kind": Invalidate.ASID, "asid": 7, "page": 0}
    quiet = [1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1]
    told = run(unit, [(what if n == 0 else None, q) for n, q in enumerate(quiet)])
    assert [n for n, w in enumerate(told) if w] == [13]


@pytest.mark.parametrize("second", range(1, 5))
def test_a_second_request_makes_one_of_everything(second, unit):
    """In each cycle of the first one's, the last one too (in which that is told what was asked for)."""
    first = {"kind": Invalidate.ADDRESS, "asid": 0, "page": 5}
    other = {"kind": Invalidate.ASID, "asid": 9, "page": 0}
    cycles = [(first if n == 0 else other if n == second else None, 1) for n in range(14)]
    told = [(n, what["kind"]) for n, what in enumerate(run(unit, cycles)) if what]
    everything = (second + QUIET, Invalidate.ALL)
    assert told == ([everything] if second < QUIET else [(QUIET, Invalidate.ADDRESS), everything])
