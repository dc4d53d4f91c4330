"""Every cause of a fault from every engine that can have it, in every way: measured from the FAULT registers, and full.

What there is to reach is derived from the definitions (`lepton_verif.coverage.faults`). Each cell is reached by a
program of its own, and by programs in which commands of all engines are around it and the memory stalls at random; both
times the fault is exactly the expected one, and the core recovers. `pytest -s` prints the table.
"""

import numpy as np
import pytest
from lepton_npu.spec.commands import Engine, FaultCause
from lepton_verif.coverage.faults import Cell, FaultCoverage, possible_cells, unreachable

from tests.gateware.top.fault_cases import FaultBench, run_case

HOSTILE = 3  # programs for each cell


class NotingBench(FaultBench):
    """Notes every fault that is read from the registers."""

    def __init__(self, rng: np.random.Generator):
        super().__init__(rng)
        self.coverage = FaultCoverage()

    def run(self, cell: Cell, rng: np.random.Generator | None = None):
        fault = None
        expect = self.expect_fault

        def noted(*arguments):
            nonlocal fault
            expect(*arguments)
            fault = self.driver.fault

        self.expect_fault = noted
        try:
            run_case(self, cell, rng)
        finally:
            self.expect_fault = expect
        self.coverage.note(fault.cause, fault.engine, cell.way)


@pytest.mark.verilator
def test_faults_are_covered(seed, capsys, record_property):
    """Directed and hostile programs each reach every cell; the counts are merged and printed."""
    bench = NotingBench(np.random.default_rng(seed))
    for cell in possible_cells():
        bench.run(cell)
    directed, bench.coverage = bench.coverage, FaultCoverage()
    for number, cell in enumerate(possible_cells() * HOSTILE):
        try:
            bench.run(cell, np.random.default_rng([seed, number]))
        except AssertionError as error:
            raise AssertionError(f"program {number}, SEED={seed}: {error}") from error
    merged = directed.merge(bench.coverage)
    record_property("faults", merged.counts.total())
    with capsys.disabled():
        print(f"\n{merged.table()}\n{bench.sweep}")
    bench.close()
    for what, coverage in (("directed", directed), ("hostile", bench.coverage)):
        missing = "; ".join(str(cell) for cell in coverage.missing())
        assert not missing, f"{what} programs do not reach: {missing}"


def test_an_empty_cell_is_missing():
    """The table says EMPTY where nothing was counted, and only there."""
    cells = possible_cells()
    coverage = FaultCoverage(cells)
    assert coverage.missing() == []
    assert "EMPTY" not in coverage.table()
    for cell in cells:
        lacking = FaultCoverage(other for other in cells if other != cell)
        assert lacking.missing() == [cell]
        assert "EMPTY" in lacking.table()


def test_every_cause_is_in_the_table_and_every_engine_has_one():
    cells = possible_cells()
    assert {cell.cause for cell in cells} == set(FaultCause) - {FaultCause.NONE}
    assert {cell.engine for cell in cells} == set(Engine)
    assert len(cells) == len(set(cells))


def test_faults_that_cannot_be_are_refused():
    """A core that reports one is wrong."""
    coverage = FaultCoverage()
    with pytest.raises(ValueError, match="BUS_READ in STORE, SLVERR: READ is an access of LOAD"):
        coverage.note(FaultCause.BUS_READ, Engine.STORE, "SLVERR")
    with pytest.raises(ValueError, match="PAGE_READ in LOAD, SLVERR: there is no such way"):
        coverage.note(FaultCause.PAGE_READ, Engine.LOAD, "SLVERR")
    assert unreachable(FaultCause.WATCHDOG, Engine.VECTOR) is None
