"""Soft reset against what it promises, cycle by cycle, with a bus that is quiet at random."""

import random

from lepton_npu.control.soft_reset import SoftReset

from tests.gateware.simulation import simulate

QUIET = 4


def test_random(seed):
    """``resetting`` from the cycle after the request; ``reset`` for one cycle, in the 4th quiet one in a row; again."""
    rng = random.Random(seed)
    unit = SoftReset()
    resets = waits = 0

    async def process(ctx):
        nonlocal resets, waits
        resetting, quiet_for = False, 0
        density = 0.5
        for cycle in range(3000):
            if cycle % 100 == 0:
                density = rng.choice((0.3, 0.6, 0.9, 1))
            request, quiet = rng.random() < 0.1, rng.random() < density
            ctx.set(unit.request, request)
            ctx.set(unit.quiet, quiet)
            assert ctx.get(unit.resetting) == resetting
            quiet_for = quiet_for + 1 if resetting and quiet else 0
            assert ctx.get(unit.reset) == (quiet_for == QUIET)
            if quiet_for == QUIET:
                resetting, quiet_for = False, 0
                resets += 1
            elif resetting:
                waits += not quiet
            else:
                resetting = request
            await ctx.tick()

    simulate(unit, process)
    assert resets > 20
    assert waits > 100
