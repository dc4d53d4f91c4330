"""Bugs of the bus's errors and of resets that other DMA engines have shipped with: the sweeps must find them."""

from collections.abc import Callable

import numpy as np
import pytest
from lepton_sim.harness import BusResponse, HarnessError

from tests.gateware.top import test_bus_errors as errors
from tests.gateware.top.bus_bench import BusBench
from tests.gateware.top.planted import CONFIG, active, core_with_bugs
from tests.gateware.top.test_resets import resets_in_a_command

pytestmark = [pytest.mark.verilator, pytest.mark.slow]

LONGEST = 6
"""Beats of the bursts in these sweeps."""

SWEEPS: dict[str, Callable[[BusBench, int], None]] = {
    "loads, SLVERR": lambda bench, seed: errors.sweep_loads(bench, seed, BusResponse.SLVERR, LONGEST),
    "loads, DECERR": lambda bench, seed: errors.sweep_loads(bench, seed, BusResponse.DECERR, LONGEST),
    "stores, SLVERR": lambda bench, seed: errors.sweep_stores(bench, seed, BusResponse.SLVERR, LONGEST),
    "stores, DECERR": lambda bench, seed: errors.sweep_stores(bench, seed, BusResponse.DECERR, LONGEST),
    "bursts of a STORE": lambda bench, seed: errors.sweep_bursts(bench, seed, store=True, longest=LONGEST),
    "ring": lambda bench, seed: errors.sweep_fetch(bench, seed, "ring"),
}
LOST = {
    "DECERR of a LOAD is no error": "loads, DECERR",
    "an error in a LOAD's last beat is lost": "loads, SLVERR",
    "DECERR of a STORE is no error": "stores, DECERR",
    "a burst goes out behind the error of a STORE": "bursts of a STORE",
    "an error in a record's last beat is lost": "ring",
}
"""Which sweep must find it."""

RESETS = {
    "a reset waits for the command": "matmul",
    "a reset does not wait for the bus": "load",
}
"""The engine whose resets must find it."""


def sweep(name: str, seed: int):
    library = core_with_bugs()
    bench = BusBench(CONFIG, errors.SIZE, errors.BASE, np.random.default_rng(seed), library)
    SWEEPS[name](bench, seed)
    bench.close()


@pytest.mark.parametrize("bug", LOST)
def test_an_error_that_is_lost_is_found(bug, seed):
    with active(bug), pytest.raises(AssertionError, match="beat"):
        sweep(LOST[bug], seed)


@pytest.mark.parametrize("name", SWEEPS)
def test_without_a_bug_nothing_is_found(name, seed):
    with active(None):
        sweep(name, seed)


@pytest.mark.parametrize("bug", RESETS)
def test_a_reset_that_waits_wrongly_is_found(bug, seed):
    library = core_with_bugs()
    with active(None):
        resets_in_a_command(RESETS[bug], seed, library, CONFIG)
    with active(bug), pytest.raises((AssertionError, HarnessError)):
        resets_in_a_command(RESETS[bug], seed, library, CONFIG)
