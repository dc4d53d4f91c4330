"""Shows a counterexample: the inputs that ABC has found, run in Amaranth's simulator."""

from pathlib import Path

from amaranth.hdl import Fragment, Value
from amaranth.sim import Simulator
from rich.table import Table

from .engine import Outcome, Proof, harness
from .planted import Bug, planted

__all__ = ["Replay", "replay"]

_COLUMNS = 12  # cycles that a table shows: the last ones


class Replay:
    """Values of a run by cycle, and the properties that its last cycle breaks."""

    def __init__(self) -> None:
        self.values: dict[str, list[int]] = {}
        self.broken: list[str] = []

    def table(self) -> Table:
        """The last cycles: signals that ever are other than 0, hexadecimal; '.' is a value that has not changed."""
        cycles = len(next(iter(self.values.values())))
        begin = max(0, cycles - _COLUMNS)
        table = Table(title=f"breaks: {'; '.join(self.broken) or 'nothing?'}")
        table.add_column("signal")
        for cycle in range(begin, cycles):
            table.add_column(str(cycle), justify="right", overflow="fold")
        for name, values in self.values.items():
            if any(values):
                shown = [f"{v:x}" for v in values]
                row = [
                    "." if cycle > begin and shown[cycle] == shown[cycle - 1] else shown[cycle]
                    for cycle in range(begin, cycles)
                ]
                table.add_row(name, *row)
        return table


def replay(proof: Proof, outcome: Outcome, bug: Bug | None = None, vcd: Path | None = None) -> Replay:
    """Run the counterexample ``outcome`` on the unit (with ``bug``), and write it to ``vcd``."""
    result = Replay()
    with planted(bug):
        made = harness(proof)
        simulator = Simulator(Fragment.get(made, None))
        simulator.add_clock(1e-6)

        async def run(context):
            for values in outcome.trace:
                for name, value in made.inputs.items():
                    context.set(value, values.get(name, 0))
                context.set(made.rst, values.get("rst", 0))
                for name, value in made.watched.items():
                    result.values.setdefault(name, []).append(context.get(Value.cast(value)) & (1 << len(value)) - 1)
                last = context.get(made.held)
                result.broken = [
                    name for name, condition in made.properties.items() if last and not context.get(condition)
                ]
                await context.tick()

        simulator.add_testbench(run)
        if vcd is None:
            simulator.run()
        else:
            vcd.parent.mkdir(parents=True, exist_ok=True)
            with simulator.write_vcd(str(vcd)):
                simulator.run()
    return result
