"""Bugs of the bus's errors and of resets that other DMA engines have shipped with: the sweeps must find them."""

from contextlib import ExitStack

import numpy as np
import pytest
from lepton_npu.spec.config import PRESETS
from lepton_npu.top import LeptonNpu
from lepton_npu.verilog import generate
from lepton_sim.harness import BusResponse, HarnessError
from lepton_sim.harness.build import build_harness

from formal.planted import Bug, planted
from tests.gateware.top import test_bus_errors as errors
from tests.gateware.top.bus_bench import BusBench
from tests.gateware.top.test_resets import resets_in_a_command

pytestmark = [pytest.mark.verilator, pytest.mark.slow]

LONGEST = 6
"""Beats of the bursts in these sweeps."""

FINDS = {
    "loads, SLVERR": lambda bench, seed: errors.sweep_loads(bench, seed, BusResponse.SLVERR, LONGEST),
    "loads, DECERR": lambda bench, seed: errors.sweep_loads(bench, seed, BusResponse.DECERR, LONGEST),
    "stores, SLVERR": lambda bench, seed: errors.sweep_stores(bench, seed, BusResponse.SLVERR, LONGEST),
    "stores, DECERR": lambda bench, seed: errors.sweep_stores(bench, seed, BusResponse.DECERR, LONGEST),
    "bursts of a STORE": lambda bench, seed: errors.sweep_bursts(bench, seed, store=True, longest=LONGEST),
    "ring": lambda bench, seed: errors.sweep_fetch(bench, seed, "ring"),
}
CORES = {
    "one": {
        "DECERR of a LOAD is no error": (
            Bug("bus.load", "with m.If(take & beat.resp[1] & ~error):", "with m.If(take & (beat.resp == 2) & ~error):"),
            "loads, DECERR",
        ),
        "a burst goes out behind the error of a STORE": (
            Bug("bus.store", "                & ~error\n", ""),
            "bursts of a STORE",
        ),
        "an error in a record's last beat is lost": (
            Bug("control.fetch", "failed | self.r.payload.resp[1] | refused", "failed | refused"),
            "ring",
        ),
    },
    "two": {
        "an error in a LOAD's last beat is lost": (
            Bug(
                "bus.load",
                "with m.If(take & beat.resp[1] & ~error):",
                "with m.If(take & beat.resp[1] & ~error & ~beat.last):",
            ),
            "loads, SLVERR",
        ),
        "DECERR of a STORE is no error": (
            Bug(
                "bus.store",
                "with m.If(answered & self.b.payload[1] & ~error):",
                "with m.If(answered & (self.b.payload == 2) & ~error):",
            ),
            "stores, DECERR",
        ),
    },
}
"""Cores with a bug in each of several units, which do not meet in one sweep."""


def library(config, *bugs: Bug):
    with ExitStack() as stack:
        for bug in bugs:
            stack.enter_context(planted(bug))
        verilog = generate(LeptonNpu(config), "lepton_npu")[0]
    return build_harness(verilog, config, quick=True)


@pytest.mark.parametrize("core", CORES)
def test_an_error_that_is_lost_is_found(core, seed):
    """The sweep named beside each bug fails on it, and the sweeps of units without one pass."""
    bugs = CORES[core]
    path = library(errors.CONFIG, *(bug for bug, _ in bugs.values()))

    def bench() -> BusBench:
        return BusBench(errors.CONFIG, errors.SIZE, errors.BASE, np.random.default_rng(seed), path)

    for name, (_, sweep) in bugs.items():
        print(f"{sweep} must find: {name}")
        with pytest.raises(AssertionError, match="beat"):
            FINDS[sweep](bench(), seed)
    clean = {"one": "loads, SLVERR", "two": "ring"}[core]
    FINDS[clean](bench(), seed)


RESETS = {
    "a reset waits for the command": Bug("array.matmul", " | ~streamer.fault", ""),
    "a reset does not wait for the bus": Bug("control.context", "soft_reset.quiet.eq(quiet)", "soft_reset.quiet.eq(1)"),
}


@pytest.mark.parametrize(("bug", "engine"), [*zip(RESETS, ["matmul", "load"], strict=True)])
def test_a_reset_that_waits_wrongly_is_found(bug, engine, seed):
    with pytest.raises((AssertionError, HarnessError)):
        resets_in_a_command(engine, seed, library(PRESETS["tiny"], RESETS[bug]))
