"""All proofs, and the check of one: its properties hold, its assumptions leave room, its planted bugs are caught."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from . import (
    axi_lite,
    axi_port,
    command_queue,
    core,
    dma,
    dma_commands,
    engine_share,
    fetch_share,
    fifo,
    frames,
    isolation,
    mmu_answers,
    pages,
    partitions,
    readers,
    semaphores,
    tlb,
)
from .engine import Outcome, Proof, prepare, prove, reach, refute
from .replay import replay

__all__ = ["PROOFS", "Result", "check"]

PROOFS: dict[str, Proof] = {
    proof.title: proof
    for concept in (
        axi_port,
        axi_lite,
        dma,
        dma_commands,
        readers,
        fifo,
        command_queue,
        engine_share,
        fetch_share,
        partitions,
        semaphores,
        tlb,
        isolation,
        mmu_answers,
        frames,
        pages,
        core,
    )
    for proof in concept.PROOFS
}
"""By title, in the order in which they are shown."""


@dataclass
class Result:
    """``caught`` is the number of cycles to the failure of each planted bug, 0 for one that was not found."""

    title: str
    outcome: Outcome
    properties: list[str]
    unreached: list[str] = field(default_factory=list)
    caught: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    counterexample: Table | None = None
    waves: Path | None = None

    @property
    def passed(self) -> bool:
        return self.outcome.holds is True and not self.unreached and all(self.caught.values())

    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        lines = []
        if self.outcome.holds is None:
            lines.append(f"{self.title}: not proven ({self.outcome.depth} cycles)")
        elif not self.outcome.holds:
            lines.append(f"{self.title}: a counterexample of {self.outcome.depth} cycles, waves in {self.waves}")
        lines += [f"{self.title}: assumptions leave no room for: {name}" for name in self.unreached]
        lines += [f"{self.title}: planted bug not caught: {name}" for name, cycles in self.caught.items() if not cycles]
        return lines


def check(title: str, folder: Path, *, bugs: int | None = None, seconds: float | None = None) -> Result:
    """Prove ``PROOFS[title]`` with a limit of ``seconds``, and refute its first ``bugs`` planted bugs (default: all).

    The waves of a counterexample go to ``folder``.
    """
    proof = PROOFS[title]
    with tempfile.TemporaryDirectory() as scratch:
        design = prepare(proof, Path(scratch))
        outcome = prove(design, proof, seconds)
        result = Result(title, outcome, design.properties, seconds=outcome.seconds)
        if outcome.holds is None:  # a shortest counterexample, if there is a short one
            shortest = refute(design, proof)
            if shortest.holds is False:
                outcome = result.outcome = shortest
        if outcome.holds is False:
            result.waves = folder / f"{proof.unit}.vcd"
            result.counterexample = replay(proof, outcome, vcd=result.waves).table()
            return result
        result.unreached = reach(design, proof)
        for name, bug in list(proof.bugs.items())[:bugs]:
            found = refute(prepare(proof, Path(scratch), bug), proof, "found")
            result.caught[name] = found.depth if found.holds is False else 0
            # The simulator agrees that a property is broken: Yosys, ABC and Amaranth mean the same by the design.
            if found.holds is False and not replay(proof, found, bug).broken:
                raise RuntimeError(f"{title}, bug {name!r}: the counterexample breaks nothing in the simulator")
        return result
