"""Both checkers of the AXI port, the compiled harness's and cocotb's, find each planted violation, and nothing else."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import lepton_sim.harness
import pytest
from lepton_verif.tb.axi_monitor import AxiLimits, AxiMonitor, AxiRuleError

ADDRESS = ("valid", "ready", "addr", "id", "len", "size", "burst", "cache", "prot")
NAMES = [
    "reset",
    *(f"ar{name}" for name in ADDRESS),
    *(f"aw{name}" for name in ADDRESS),
    *("wvalid", "wready", "wlast", "wstrb", "wdata"),
    *("rvalid", "rready", "rlast", "rid", "rresp", "rdata"),
    *("bvalid", "bready", "bid", "bresp"),
]
"""The order of a line of axi_checker_main.cpp."""

Cycle = dict[str, int]
FETCH, LOAD, STORE, WALK = range(4)
LIMITS = {FETCH: AxiLimits(8, 4), LOAD: AxiLimits(16, 2), WALK: AxiLimits(1, 1)}
WRITES = {STORE: AxiLimits(16, 2)}


def address(channel: str, number: int, where: int, beats: int, *, ready: int = 1, **other: int) -> Cycle:
    """A cycle with a burst on AR or AW."""
    values = {"valid": 1, "ready": ready, "addr": where, "id": number, "len": beats - 1, "size": 3, "burst": 1}
    return {channel + name: value for name, value in (values | {"cache": 2, "prot": 2} | other).items()}


def ar(number: int, where: int, beats: int, **other: int) -> Cycle:
    return address("ar", number, where, beats, **other)


def aw(where: int, beats: int, **other: int) -> Cycle:
    return address("aw", other.pop("number", STORE), where, beats, **other)


def w(data: int, last: int, *, ready: int = 1, strb: int = 0xFF) -> Cycle:
    return {"wvalid": 1, "wready": ready, "wlast": last, "wstrb": strb, "wdata": data}


def r(number: int, last: int, *, ready: int = 1, data: int = 5, resp: int = 0) -> Cycle:
    return {"rvalid": 1, "rready": ready, "rlast": last, "rid": number, "rresp": resp, "rdata": data}


def b(*, number: int = STORE, ready: int = 1, resp: int = 0) -> Cycle:
    return {"bvalid": 1, "bready": ready, "bid": number, "bresp": resp}


IDLE: Cycle = {}
GOOD: dict[str, list[Cycle]] = {
    "nothing": [IDLE] * 3,
    "reset, then a read": [{"reset": 1}, {"reset": 1}, ar(LOAD, 0x1000, 2), r(LOAD, 0), r(LOAD, 1)],
    "waits": [ar(LOAD, 0, 1, ready=0), ar(LOAD, 0, 1, ready=0), ar(LOAD, 0, 1), r(LOAD, 1, ready=0), r(LOAD, 1)],
    "the last beats of a page": [ar(LOAD, 0x1F80, 16), *[r(LOAD, 0)] * 15, r(LOAD, 1)],
    "interleaved": [ar(LOAD, 0, 2), ar(FETCH, 64, 1), r(LOAD, 0), r(FETCH, 1), r(LOAD, 1)],
    "data before their address": [w(1, 0), w(2, 1), aw(64, 2), b()],
    "data in the cycle of their address": [aw(64, 1) | w(1, 1), b(ready=0), b()],
    "two writes in flight": [aw(64, 1), aw(72, 1), w(1, 1), w(2, 1), b(), b()],
    "as many reads as may be": [ar(LOAD, 0, 1), ar(LOAD, 8, 1), r(LOAD, 1), ar(LOAD, 16, 1), r(LOAD, 1), r(LOAD, 1)],
    "errors": [ar(WALK, 0, 1), r(WALK, 1, resp=2), aw(0, 1), w(1, 1), b(resp=3)],
    "reset drops what was in flight": [ar(LOAD, 0, 8), aw(0, 1), {"reset": 1}, ar(WALK, 0, 1), r(WALK, 1)],
}
BAD: dict[str, tuple[str, list[Cycle]]] = {
    "AR falls": ("AR: VALID fell before READY", [ar(LOAD, 0, 1, ready=0), IDLE]),
    "AW falls": ("AW: VALID fell before READY", [aw(0, 1, ready=0), IDLE]),
    "W falls": ("W: VALID fell before READY", [w(1, 1, ready=0), IDLE]),
    "R falls": ("R: VALID fell before READY", [ar(LOAD, 0, 1), r(LOAD, 1, ready=0), IDLE]),
    "B falls": ("B: VALID fell before READY", [aw(0, 1), w(0, 1), b(ready=0), IDLE]),
    **{
        f"AR {name} changes": (
            "AR: payload changed while VALID waited",
            [ar(LOAD, 0, 2, ready=0), ar(LOAD, 0, 2) | {f"ar{name}": value}],
        )
        for name, value in {"addr": 8, "id": FETCH, "len": 2, "cache": 3, "prot": 0, "size": 2, "burst": 2}.items()
    },
    "AW address changes": ("AW: payload changed while VALID waited", [aw(0, 2, ready=0), aw(8, 2)]),
    "W data change": ("W: payload changed while VALID waited", [w(1 << 63, 1, ready=0), w(0, 1)]),
    "W strobes change": ("W: payload changed while VALID waited", [w(1, 1, ready=0), w(1, 1, strb=0x7F)]),
    "WLAST changes": ("W: payload changed while VALID waited", [w(1, 1, ready=0), w(1, 0)]),
    "R data change": (
        "R: payload changed while VALID waited",
        [ar(LOAD, 0, 1), r(LOAD, 1, ready=0), r(LOAD, 1, data=6)],
    ),
    "RRESP changes": (
        "R: payload changed while VALID waited",
        [ar(LOAD, 0, 1), r(LOAD, 1, ready=0), r(LOAD, 1, resp=2)],
    ),
    "BRESP changes": ("B: payload changed while VALID waited", [aw(0, 1), w(0, 1), b(ready=0), b(resp=2)]),
    "VALID in reset": ("PORT: VALID is high in reset", [{"reset": 1}, ar(LOAD, 0, 1) | {"reset": 1}]),
    "W VALID in reset": ("PORT: VALID is high in reset", [w(0, 1) | {"reset": 1}]),
    "narrow": ("AR: not an INCR burst of whole beats", [ar(LOAD, 0, 1, size=2)]),
    "wrapping": ("AW: not an INCR burst of whole beats", [aw(0, 2, burst=2)]),
    "not aligned": ("AR: address not aligned to a beat", [ar(LOAD, 4, 1)]),
    "over a page": ("AR: burst crosses 4 KiB", [ar(LOAD, 0x1F88, 16)]),
    "write over a page": ("AW: burst crosses 4 KiB", [aw(0xFF8, 2)]),
    "a write of LOAD": ("AW: ID has no such transactions", [aw(0, 1, number=LOAD)]),
    "a read of STORE": ("AR: ID has no such transactions", [ar(STORE, 0, 1)]),
    "too long": ("AR: burst longer than its ID's", [ar(WALK, 0, 2)]),
    "too long, not taken": ("AW: burst longer than its ID's", [aw(0, 17, ready=0)]),
    "too many reads": ("AR: too many bursts in flight of its ID", [ar(LOAD, 8 * n, 1) for n in range(3)]),
    "too many writes": ("AW: too many bursts in flight of its ID", [aw(8 * n, 1) for n in range(3)]),
    "WLAST early": ("W: WLAST does not mark the last beat", [aw(0, 2), w(0, 1)]),
    "WLAST missing": ("W: WLAST does not mark the last beat", [aw(0, 1), w(0, 0)]),
    "WLAST of early data": ("W: WLAST does not mark the last beat", [w(0, 0), w(0, 1), aw(0, 1)]),
    "RLAST early": ("R: RLAST does not mark the last beat", [ar(LOAD, 0, 2), r(LOAD, 1)]),
    "RLAST missing": ("R: RLAST does not mark the last beat", [ar(LOAD, 0, 1), r(LOAD, 0)]),
    "R of nothing": ("R: a beat of no burst", [r(LOAD, 1)]),
    "R of another": ("R: a beat of no burst", [ar(LOAD, 0, 1), r(FETCH, 1)]),
    "R after reset": ("R: a beat of no burst", [ar(LOAD, 0, 1), {"reset": 1}, r(LOAD, 1)]),
    "B of nothing": ("B: an answer to no burst", [b()]),
    "B before the data": ("B: an answer to no burst", [aw(0, 2), w(0, 0), b()]),
    "B twice": ("B: an answer to no burst", [aw(0, 1), w(0, 1), b(), b()]),
    "B of another": ("B: an answer to no burst", [aw(0, 1), w(0, 1), b(number=LOAD)]),
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> Callable[[list[Cycle]], str]:
    """The harness's checker, over a trace."""
    program = tmp_path_factory.mktemp("axi") / "checker"
    folder = Path(lepton_sim.harness.__file__).parent
    source = Path(__file__).with_name("axi_checker_main.cpp")
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{folder}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)

    def run(trace: list[Cycle]) -> str:
        lines = [" ".join(str(cycle.get(name, 0)) for name in NAMES) for cycle in trace]
        text = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
        return text.splitlines()[0]

    return run


def monitored(trace: list[Cycle]) -> str:
    """cocotb's, over a trace."""
    monitor = AxiMonitor(8, LIMITS, WRITES)
    try:
        for cycle in trace:
            monitor.clock({name: cycle.get(name, 0) for name in NAMES}, reset=bool(cycle.get("reset")))
    except AxiRuleError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", GOOD)
def test_legal_traffic(compiled, name):
    assert compiled(GOOD[name]) == ""
    assert monitored(GOOD[name]) == ""


@pytest.mark.parametrize("name", BAD)
def test_violation(compiled, name):
    """Rule, channel and cycle: that of the last line."""
    rule, trace = BAD[name]
    message = f"cycle {len(trace) - 1}: {rule}"
    assert monitored(trace) == message
    assert compiled(trace).replace("port:", "PORT:") == message
    assert monitored(trace[:-1]) == ""
    assert compiled(trace[:-1]) == ""
