"""The pages of commands against plain Python: order, cycles, stalls, rows of every size and stride."""

import random

import pytest
from lepton_npu.mmu.page_sequence import PageSequence

from tests.gateware.simulation import kept, simulate

MODULUS = 1 << 64
Command = dict[str, int]


@pytest.fixture
def unit():
    """The unit under test; test_planted_bugs.py calls the tests with others."""
    return PageSequence


def pages_of(command: Command) -> list[list[int]]:
    """By row the pages that are named: those of its bytes, without the one that the byte before was in."""
    rows, before = [], None
    for row in range(command["rows"]):
        start = command["address"] + row * command["stride"]
        named = []
        for place in range(start >> 12, (start + 4 * command["words"] - 1 >> 12) + 1):
            if place % (MODULUS >> 12) != before:
                before = place % (MODULUS >> 12)
                named.append(before)
        rows.append(named)
    return rows


def cycles_of(command: Command) -> int:
    """2 for each row, 1 for each border in it, and 1."""
    total = 1
    for row in range(command["rows"]):
        start = command["address"] + row * command["stride"]
        total += 2 + (start + 4 * command["words"] - 1 >> 12) - (start >> 12)
    return total


def draw(rng: random.Random) -> Command:
    """Rows of a word to 64 pages, that touch, overlap, skip pages, or go backwards; some go around 2^64."""
    words = rng.choice((1, 2, 16, rng.randrange(1, 1025), 1024, rng.randrange(1, 6000), 65535))
    stride = rng.choice((0, 4 * words, -4 * words, 4096, -4096, 64, rng.randrange(-(1 << 31), 1 << 31)))
    address = rng.choice((0, 4092, 4096 - 4 * words, MODULUS - 4096 + 8, rng.getrandbits(64))) % MODULUS
    rows = rng.choice((1, 2, rng.randrange(1, 9 if words > 2000 else 60)))
    return {"address": address, "stride": stride, "rows": rows, "words": words}


def run(commands: list[Command], unit, rng: random.Random | None = None) -> tuple[list[int], list[int], list[int]]:
    """Pages, the cycles in which they were taken, and those in which commands were; ``rng`` stalls both sides."""
    dut, pages, when, accepted, waits = kept(unit), [], [], [], list(commands)
    wanted = sum(len(row) for command in commands for row in pages_of(command))
    limit = 100 + (8 if rng else 1) * sum(map(cycles_of, commands))

    async def process(ctx):
        offered, held, cycle, idle = False, None, 0, 0
        while len(pages) < wanted or idle < 20:
            assert cycle < limit, "no end"
            offered = offered or (bool(waits) and (rng is None or rng.random() < 0.5))
            ctx.set(dut.cmd.valid, offered)
            if offered:
                ctx.set(dut.cmd.payload, waits[0] | {"stride": waits[0]["stride"] % (1 << 32)})
            ready = rng is None or rng.random() < 0.5
            ctx.set(dut.page.ready, ready)
            if offered and ctx.get(dut.cmd.ready):
                accepted.append(cycle)
                waits.pop(0)
                offered = False
            valid, page = ctx.get(dut.page.valid), ctx.get(dut.page.payload)
            assert held is None or (valid and page == held)
            held = page if valid and not ready else None
            if valid and ready:
                pages.append(page)
                when.append(cycle)
            idle = idle + 1 if len(pages) >= wanted else 0
            await ctx.tick()
            cycle += 1

    simulate(dut, process)
    return pages, when, accepted


def check_random(seed: int, count: int, unit=PageSequence) -> None:
    """Random commands with and without stalls; without, to the cycle."""
    rng = random.Random(seed)
    for stalls in (None, rng):
        commands = [draw(rng) for _ in range(count)]
        pages, when, accepted = run(commands, unit, stalls)
        assert pages == [page for command in commands for row in pages_of(command) for page in row]
        if stalls is None:
            assert accepted == [sum(map(cycles_of, commands[:n])) for n in range(count)]
            firsts = [sum(len(row) for c in commands[:n] for row in pages_of(c)) for n in range(count)]
            assert [when[first] for first in firsts] == [cycle + 2 for cycle in accepted]


def test_random_commands(seed):
    check_random(seed, 40)


def test_a_page_is_named_once_for_rows_that_follow_in_it(unit):
    """64 rows of 64 bytes are a page; each of two commands names its own."""
    command = {"address": 0x5000, "stride": 64, "rows": 64, "words": 16}
    assert run([command, command, command | {"address": 0x5040}], unit)[0] == [5, 5, 5, 6]


def test_rows_that_go_back_and_forth(unit):
    """A row over a border and the next one from the start again: both pages, each time."""
    command = {"address": 0x5FF0, "stride": 0, "rows": 3, "words": 8}
    assert run([command], unit)[0] == [5, 6] * 3
    assert run([command | {"stride": -4096}], unit)[0] == [5, 6, 4, 5, 3, 4]


def test_the_longest_row(unit):
    """65,535 words that begin with the last word of a page: 65 pages; and the last page of all is before page 0."""
    last = (MODULUS >> 12) - 1
    found = run([{"address": MODULUS - 4, "stride": 4, "rows": 1, "words": 65535}], unit)[0]
    assert found == [last, *range(64)]
