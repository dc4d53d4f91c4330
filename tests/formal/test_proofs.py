"""A proof of each kind, with a planted bug, and what the engine does with a claim that is wrong."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from formal.check import PROOFS, check
from formal.engine import Proof, prepare, prove, refute
from formal.planted import Bug, planted
from formal.replay import replay


class Saturating(wiring.Component):
    """Counts to 5 and stays there; from 6 or 7, which it never has, it would go on to 0."""

    step: In(1)
    count: Out(3)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.step & (self.count != 5)):
            m.d.sync += self.count.eq(self.count + 1)
        return m


def claim(limit: int, *, pdr: bool = False) -> Proof:
    def build(h):
        dut = h.unit(Saturating())
        h.prove("below the limit", dut.count < limit)
        h.cover("four", dut.count == 4)

    return Proof("count", "Saturating", build, {}, induction=0 if pdr else 1)


@pytest.mark.parametrize("pdr", [False, True])
def test_a_claim_that_is_true(pdr, tmp_path):
    proof = claim(6, pdr=pdr)
    assert prove(prepare(proof, tmp_path), proof).holds is True


def test_a_claim_that_is_true_but_not_inductive(tmp_path):
    """Below 7: from 6 the count would be 7, but it never is 6. Induction says nothing, PDR proves it."""
    proof = claim(7)
    assert prove(prepare(proof, tmp_path), proof).holds is None
    assert prove(prepare(proof, tmp_path), claim(7, pdr=True)).holds is True


def test_a_claim_that_is_wrong(tmp_path):
    proof = claim(5)
    design = prepare(proof, tmp_path)
    assert prove(design, proof).holds is None  # not in the first cycle; so induction does not know
    assert prove(design, claim(5, pdr=True)).holds is False
    shortest = refute(design, proof)
    assert (shortest.holds, shortest.depth) == (False, 6)
    shown = replay(proof, shortest, vcd=tmp_path / "waves.vcd")
    assert shown.values["dut.count"] == [0, 1, 2, 3, 4, 5]
    assert shown.broken == ["below the limit"]
    assert (tmp_path / "waves.vcd").stat().st_size > 0


def test_a_bug_must_quote_what_is_there_once():
    with (
        pytest.raises(ValueError, match=r"which must be in tlb\.py once, not 0 times"),
        planted(Bug("mmu.tlb", "no such line", "")),
    ):
        pass


@pytest.mark.parametrize("title", [pytest.param(t, id=p.unit) for t, p in PROOFS.items() if p.quick])
def test_proof(title, tmp_path):
    result = check(title, tmp_path, bugs=1)  # `make formal` has all of them
    assert result.passed, result.problems()
