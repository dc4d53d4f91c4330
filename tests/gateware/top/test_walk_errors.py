"""SLVERR and DECERR at every read of the walks of LOAD, STORE, ring and body: the first page that needs it faults."""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause, Opcode
from lepton_npu.spec.config import PRESETS
from lepton_npu.spec.page_table import PageTable
from lepton_npu.spec.translation import LEVELS, PAGE_BYTES, Access
from lepton_sim.harness import Order, Stalls

from tests.gateware.top.bus_bench import ERRORS, TAG, BusBench, pack, ring_log2, transfer

pytestmark = pytest.mark.verilator

CONFIG = PRESETS["tiny"]
BASE, FRAMES = 0x40_0000, 24
RING = BASE  # identity
PAGES = 4
SPAN = (7 << 30) - 2 * PAGE_BYTES
"""The first of four pages over a border of 1 GiB: two entries of level 2, two of level 1, four of level 0."""

RECORDS = PAGES * PAGE_BYTES // 64
NOP, IRQ, FENCE = pack(Opcode.NOP), pack(Opcode.IRQ, tag=TAG), pack(Opcode.FENCE)
MEMORIES = (
    {"latency": 1},
    {"latency": 12, "interleave": True, "stalls": Stalls(ar=0.3, r=0.3, aw=0.3, w=0.3, b=0.3)},
    {"latency": 4, "order": Order.ADDRESS_FIRST},
)


@pytest.fixture
def bench(seed):
    rng = np.random.default_rng(seed)
    bench = BusBench(CONFIG, FRAMES * PAGE_BYTES, BASE, rng)
    frames = iter([BASE // PAGE_BYTES + 1 + int(number) for number in rng.permutation(FRAMES - 1)])
    places = [next(frames) * PAGE_BYTES for _ in range(PAGES)]
    tables = list(frames)
    for frame in tables:
        bench.image[bench.at(frame * PAGE_BYTES, PAGE_BYTES)] = 0
    bench.table, bench.places = PageTable(iter(tables)), places
    bench.table.map_page(RING, RING)
    for number, place in enumerate(places):
        bench.table.map_page(SPAN + number * PAGE_BYTES, place)
    bench.table.write(bench.image.data, BASE)
    yield bench
    bench.close()


def entries(bench) -> dict[int, int]:
    """Where the entries of the span are, and the first page that each is for."""
    found: dict[int, int] = {}
    for level in range(LEVELS):
        for page in range(PAGES):
            found.setdefault(bench.table.place(SPAN + page * PAGE_BYTES, level), page)
    return found


@pytest.mark.parametrize("who", ["load", "store", "ring", "body"])
def test_every_read_of_the_walks(bench, who, seed, capsys, record_property):
    """The access fault names engine, command and page; bursts of the pages before it are all that happened."""
    ring, records = RING, [FENCE, IRQ]
    access, engine = Access.FETCH, Engine.CONTROL
    rows = {"rows": 2 * PAGES, "local_stride": 0}  # of half a page each
    if who in ("load", "store"):
        access, engine = (Access.READ, Engine.LOAD) if who == "load" else (Access.WRITE, Engine.STORE)
        records = [FENCE, transfer(Opcode[engine.name], SPAN, 512, **rows), IRQ]
    elif who == "body":
        records = [FENCE, pack(Opcode.REPEAT, address=SPAN, records=RECORDS, count=1), IRQ]
    if who in ("ring", "body"):
        for place in bench.places:
            bench.put(place, *[NOP] * (PAGE_BYTES // 64))
        ring = SPAN if who == "ring" else RING
    if who != "ring":
        bench.put(RING, *records)
    announced = RECORDS if who == "ring" else len(records)
    places = entries(bench)
    assert len(places) == PAGES + 4
    driver = bench.driver
    driver.translate(bench.table.root, asid=1)
    for place, page in places.items():
        for response in ERRORS:
            for number, memory in enumerate(MEMORIES):
                what = f"{who}, entry 0x{place:x} of page {page}, {response.name}, memory {number}"
                bench.harness.configure(**memory, seed=seed + number)
                bench.read_error(place, response)
                bench.begin(ring, ring_log2(announced), announced)
                index = {"load": 1, "store": 1, "ring": 64 * page, "body": 2 + 64 * page}[who]
                bench.expect_fault(FaultCause[f"ACCESS_{access.name}"], engine, index, SPAN + page * PAGE_BYTES, what)
                expected = bench.image.copy()
                for before in bench.places[:page] if who == "store" else []:
                    at = bench.at(before, PAGE_BYTES)
                    expected[at] = bench.harness.memory[at]
                bench.same(expected, what)
                bench.reset(what)
                recover(bench, what)
                bench.sweep.cases += 1
    record_property("cases", bench.sweep.cases)
    with capsys.disabled():
        print(f"\nwalks of {who}, every read: {bench.sweep}")


def recover(bench, what: str):
    """The next job, over the same pages: a LOAD of the second, and its STORE to the third."""
    first, second = bench.places[1], bench.places[2]
    bench.harness.inject_errors([])
    image, bench.image = bench.image, bench.image.copy()
    bench.put(RING, transfer(Opcode.LOAD, SPAN + PAGE_BYTES, 64), FENCE,
              transfer(Opcode.STORE, SPAN + 2 * PAGE_BYTES, 64), IRQ)  # fmt: skip
    expected = bench.image.copy()
    expected[bench.at(second, 256)] = expected[bench.at(first, 256)]
    bench.begin(RING, 2, 4)
    bench.expect_tag(expected, what)
    bench.image = image
    bench.reset(what)
