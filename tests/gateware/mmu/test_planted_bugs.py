"""Bugs planted in the MMU's units, one at a time: the directed tests of each must fail on it."""

from collections.abc import Callable

import pytest
from lepton_npu.spec.translation import Invalidate

from tests.gateware.mmu import test_tlb as tlb
from tests.gateware.mmu.planted import BUGS, Units, planted

TESTS: dict[str, Callable[[Units, int], object]] = {
    "tlb_random": lambda units, seed: tlb.random_cycles(seed, 4, 3000, units.Tlb),
    "tlb_overlap": lambda units, seed: tlb.test_overlap(units.Tlb),
    "tlb_upgrade": lambda units, seed: tlb.test_an_entry_that_allows_more_replaces(units.Tlb),
    "tlb_round_robin": lambda units, seed: tlb.test_round_robin(units.Tlb),
    "tlb_beside_first": lambda units, seed: tlb.test_invalidation_beside_a_refill(Invalidate.ALL, 1, units.Tlb),
    "tlb_beside_second": lambda units, seed: tlb.test_invalidation_beside_a_refill(Invalidate.ALL, 2, units.Tlb),
}


@pytest.mark.parametrize(("bug", "test"), [(name, test) for name, bug in BUGS.items() for test in bug.tests])
def test_planted_bug_is_found(bug, test, seed):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        TESTS[test](planted(bug), seed)
