"""Bugs planted in the MMU's units, one at a time: the directed tests of each must fail on it."""

from collections.abc import Callable

import pytest
from lepton_npu.spec.translation import Invalidate

from tests.gateware.control import test_fetch_frames as fetch
from tests.gateware.mmu import test_frames_ahead as frames
from tests.gateware.mmu import test_invalidation as invalidation
from tests.gateware.mmu import test_known_walker_bugs as known
from tests.gateware.mmu import test_mmu as mmu
from tests.gateware.mmu import test_page_sequence as pages
from tests.gateware.mmu import test_tlb as tlb
from tests.gateware.mmu import test_walker as walker
from tests.gateware.mmu.planted import BUGS, Units, planted

TESTS: dict[str, Callable[[Units, int], object]] = {
    "tlb_random": lambda units, seed: tlb.random_cycles(seed, 4, 3000, units.Tlb),
    "tlb_overlap": lambda units, seed: tlb.test_overlap(units.Tlb),
    "tlb_upgrade": lambda units, seed: tlb.test_an_entry_that_allows_more_replaces(units.Tlb),
    "tlb_round_robin": lambda units, seed: tlb.test_round_robin(units.Tlb),
    "tlb_beside_first": lambda units, seed: tlb.test_invalidation_beside_a_refill(Invalidate.ALL, 1, units.Tlb),
    "tlb_beside_second": lambda units, seed: tlb.test_invalidation_beside_a_refill(Invalidate.ALL, 2, units.Tlb),
    "pointers": lambda units, seed: known.test_reserved_or_a_d_u_bits_in_an_entry_that_is_no_leaf(units.Mmu),
    "refill_asid": lambda units, seed: known.test_refill_belongs_to_the_space_of_its_request(1, units.Mmu),
    "flush": lambda units, seed: known.test_no_refill_of_a_walk_that_a_flush_has_met(Invalidate.ALL, 4, units.Mmu),
    "flush_other": lambda units, seed: known.test_no_refill_of_a_walk_that_a_flush_has_met(
        Invalidate.ASID, 4, units.Mmu
    ),
    "too_high": lambda units, seed: known.test_page_number_that_is_too_high(units.Mmu),
    "after_fault": lambda units, seed: known.test_walk_after_a_walk_with_a_fault(1, units.Mmu),
    "error": lambda units, seed: known.test_error_response_is_an_access_fault(units.Mmu),
    "latency": lambda units, seed: mmu.test_latency(1, 3, units.Mmu),
    "hit_under_miss": lambda units, seed: mmu.test_hits_go_on_while_a_walk_runs(units.Mmu),
    "later_wait": lambda units, seed: mmu.test_later_requests_wait_for_a_walk(units.Mmu),
    "in_turn": lambda units, seed: mmu.test_walks_that_wait_are_served_in_turn(units.Mmu),
    "not_taken": lambda units, seed: mmu.test_answers_that_are_not_taken(units.Mmu),
    "walk_ends": lambda units, seed: mmu.test_a_walk_that_ends_while_answers_wait(units.Mmu),
    "halt": lambda units, seed: mmu.test_halt_rests_a_walk_and_not_the_hits(seed, units.Mmu),
    "stream_of_hits": lambda units, seed: mmu.test_invalidation_in_a_stream_of_hits(Invalidate.ASID_ADDRESS, units.Mmu),
    "walker_latency": lambda units, seed: walker.test_latency(1, 0, units.PageWalker),
    "walker_halt": lambda units, seed: walker.test_halt_at_every_cycle(2, units.PageWalker),
    "walker_restart": lambda units, seed: walker.test_restart_at_every_cycle(1, 0, units.PageWalker),
    "walker_restart_halted": lambda units, seed: walker.test_restart_while_halted(units.PageWalker),
    "walker_error": lambda units, seed: walker.test_error_response_at_each_level(2, units.PageWalker),
    "walker_beyond": lambda units, seed: walker.test_page_numbers_beyond_the_bus(40, units.PageWalker),
    "walker_lanes": lambda units, seed: walker.test_lanes_of_the_bus(128, units.PageWalker),
    "walker_pointers": lambda units, seed: walker.test_kept_pointers(units.PageWalker),
    "walker_twice": lambda units, seed: walker.test_every_outcome_twice(units.PageWalker),
    "walker_pointers_random": lambda units, seed: walker.random_pointers(seed, 20, units.PageWalker),
    "walker_forgets": lambda units, seed: walker.test_no_pointer_is_kept_over_an_invalidation(units.PageWalker),
    "walker_random": lambda units, seed: walker.random_walks(seed, 500, units.PageWalker),
    "pages_random": lambda units, seed: pages.check_random(seed, 40, units.PageSequence),
    "pages_once": lambda units, seed: pages.test_a_page_is_named_once_for_rows_that_follow_in_it(units.PageSequence),
    "pages_back": lambda units, seed: pages.test_rows_that_go_back_and_forth(units.PageSequence),
    "pages_longest": lambda units, seed: pages.test_the_longest_row(units.PageSequence),
    "frames_random": lambda units, seed: frames.check_random(seed, units.FramesAhead),
    "frames_cycles": lambda units, seed: frames.test_cycles(units.FramesAhead),
    "frames_forget": lambda units, seed: frames.test_forget_at_every_cycle(2, units.FramesAhead),
    "frames_forget_late": lambda units, seed: frames.test_forget_at_every_cycle(9, units.FramesAhead),
    "invalidation_random": lambda units, seed: invalidation.check_random(seed, units.InvalidationControl),
    "invalidation_quiet": lambda units, seed: invalidation.test_a_bus_that_is_quiet(
        Invalidate.ASID, units.InvalidationControl
    ),
    "invalidation_busy": lambda units, seed: invalidation.test_a_bus_that_is_not_quiet(units.InvalidationControl),
    "invalidation_second": lambda units, seed: invalidation.test_a_second_request_makes_one_of_everything(
        2, units.InvalidationControl
    ),
    "fetch_random": lambda units, seed: fetch.check_random(seed, units.FetchFrames),
    "fetch_cycles": lambda units, seed: fetch.test_cycles(units.FetchFrames),
    "fetch_forget": lambda units, seed: fetch.test_forget_at_every_cycle(8, units.FetchFrames),
    "fetch_forget_early": lambda units, seed: fetch.test_forget_at_every_cycle(4, units.FetchFrames),
    "fetch_jump": lambda units, seed: fetch.test_jump_at_every_cycle_of_a_page_that_is_denied(9, units.FetchFrames),
    "fetch_jump_early": lambda units, seed: fetch.test_jump_at_every_cycle_of_a_page_that_is_denied(
        4, units.FetchFrames
    ),
}


@pytest.mark.parametrize(("bug", "test"), [(name, test) for name, bug in BUGS.items() for test in bug.tests])
def test_planted_bug_is_found(bug, test, seed):
    units = planted(bug)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        TESTS[test](units, seed)
