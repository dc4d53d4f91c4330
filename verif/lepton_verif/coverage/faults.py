"""Coverage of faults: every cause crossed with every engine, and with every way to it that bus and tables have.

What can be is derived from the definitions of commands, causes and translations, so a cause, engine or level that is
added to them is a cell that has to be reached.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from lepton_npu.spec.commands import COMMANDS, HEADER, TRANSLATION_CAUSES, Engine, FaultCause
from lepton_npu.spec.translation import LEVELS, Access, TranslationFault

__all__ = ["REQUESTER", "Cell", "FaultCoverage", "access_of", "possible_cells", "unreachable", "ways"]

REQUESTER = {Access.READ: Engine.LOAD, Access.WRITE: Engine.STORE, Access.FETCH: Engine.CONTROL}
"""Who makes which access."""

BUS_WAYS = ("SLVERR", "DECERR")
_ANY = ""  # of a cause that comes about in one way

_LOCAL_FIELDS = {"local", "source", "tile", "acc", "dst"}
"""Fields that name local rows or tiles."""

_OF_THE_DECODER = {
    FaultCause.ILLEGAL_OPCODE: "records are checked before an engine has them",
    FaultCause.ILLEGAL_FIELD: "records are checked before an engine has them",
    FaultCause.NESTED_REPEAT: "only CONTROL has REPEAT",
    FaultCause.RING_OVERRUN: "only CONTROL has a ring",
}


@dataclass(frozen=True, order=True)
class Cell:
    """A fault as the FAULT registers name it, and the way to it (one of `ways`)."""

    cause: FaultCause
    engine: Engine
    way: str = _ANY

    def __str__(self) -> str:
        return f"{self.cause.name} in {self.engine.name}" + (f", {self.way}" if self.way else "")


def access_of(cause: FaultCause) -> Access | None:
    """The access that a bus error or a fault of a translation is of."""
    if cause > TRANSLATION_CAUSES:
        return Access((cause - TRANSLATION_CAUSES & 3) - 1)
    kind, _, name = cause.name.partition("_")
    return Access[name] if kind == "BUS" else None


def _has_field(engine: Engine, names: set[str]) -> bool:
    return any(f.name in names for c in COMMANDS.values() if c.engine == engine for f in c.fields)


def unreachable(cause: FaultCause, engine: Engine) -> str | None:
    """Why the engine cannot have a fault of that cause; None if it can."""
    access = access_of(cause)
    if access is not None:
        return None if REQUESTER[access] == engine else f"{access.name} is an access of {REQUESTER[access].name}"
    if cause in _OF_THE_DECODER:
        return None if engine == Engine.CONTROL else _OF_THE_DECODER[cause]
    if cause == FaultCause.LOCAL_RANGE:
        return None if _has_field(engine, _LOCAL_FIELDS) else "its commands name no local rows"
    if cause in (FaultCause.MISALIGNED, FaultCause.ADDRESS_RANGE) and not _has_field(engine, {"address"}):
        return "its commands have no address"
    if cause == FaultCause.ADDRESS_RANGE and engine == Engine.CONTROL:
        return "beyond the bus a record is BUS_FETCH"
    # What is left, WATCHDOG and SEMAPHORE_OVERFLOW, are of the header that every command has.
    assert {"wait", "post"} <= {field.name for field in HEADER}
    return None


def ways(cause: FaultCause) -> list[str]:
    """The ways to a cause: error responses; of translations the rules of docs/mmu.md, section 1, by level."""
    if cause in (FaultCause.BUS_READ, FaultCause.BUS_WRITE, FaultCause.BUS_FETCH):
        # Of LOAD and STORE an address beyond the bus is ADDRESS_RANGE.
        return [*BUS_WAYS, *(["beyond the bus"] if cause == FaultCause.BUS_FETCH else [])]
    if cause < TRANSLATION_CAUSES:
        return [_ANY]
    access = access_of(cause)
    found = []
    if TranslationFault(cause - TRANSLATION_CAUSES).name.startswith("ACCESS"):
        for level in range(LEVELS):
            found += [f"{response} at level {level}" for response in BUS_WAYS]
            # All accesses have one root, and the fetch meets it first.
            if level < LEVELS - 1 or access == Access.FETCH:
                found.append(f"table beyond the bus at level {level}")
            found.append(f"page beyond the bus at level {level}")
        return found
    found.append("not canonical")
    for level in range(LEVELS):
        found += [f"{rule} at level {level}" for rule in ("not valid", "W without R", "reserved bit", "not permitted")]
        found.append(f"pointer at level {level}" if level == 0 else f"pointer marked A at level {level}")
        if level:
            found.append(f"misaligned at level {level}")
    return found


def possible_cells() -> list[Cell]:
    """Everything that there is to reach."""
    return [
        Cell(cause, engine, way)
        for cause in FaultCause
        if cause != FaultCause.NONE
        for engine in Engine
        if unreachable(cause, engine) is None
        for way in ways(cause)
    ]


class FaultCoverage:
    """Counts of the faults that tests have read from the FAULT registers."""

    def __init__(self, cells: Iterable[Cell] = ()):
        self.counts: Counter[Cell] = Counter(cells)

    def note(self, cause: FaultCause, engine: Engine, way: str = _ANY):
        """A fault; refused if the definitions say that there is none such.

        Raises
        ------
        ValueError
            For a fault or a way that cannot be.
        """
        if (reason := unreachable(cause, engine)) is not None or way not in ways(cause):
            raise ValueError(f"{Cell(cause, engine, way)}: {reason or 'there is no such way'}")
        self.counts[Cell(cause, engine, way)] += 1

    def merge(self, other: "FaultCoverage") -> "FaultCoverage":
        """The counts of both."""
        result = FaultCoverage()
        result.counts = self.counts + other.counts
        return result

    def missing(self) -> list[Cell]:
        """Cells that could be reached and were not."""
        return [cell for cell in possible_cells() if not self.counts[cell]]

    def table(self) -> str:
        """Causes by engines, a letter for each reason why there is none; then ways by accesses."""
        reasons: dict[str, str] = {}
        lines = [f"{'':20}" + "".join(f"{engine.name:>9}" for engine in Engine)]
        for cause in FaultCause:
            if cause == FaultCause.NONE:
                continue
            row = []
            for engine in Engine:
                reason = unreachable(cause, engine)
                if reason is None:
                    count = sum(n for cell, n in self.counts.items() if (cell.cause, cell.engine) == (cause, engine))
                    row.append(str(count) if count else "EMPTY")
                else:
                    row.append(reasons.setdefault(reason, chr(ord("a") + len(reasons))))
            lines.append(f"{cause.name:20}" + "".join(f"{text:>9}" for text in row))
        lines += [f"  {letter}: {reason}" for reason, letter in reasons.items()]
        for kind in ("BUS", "PAGE", "ACCESS"):
            causes = {access: FaultCause[f"{kind}_{access.name}"] for access in Access}
            lines.append(f"{kind:34}" + "".join(f"{access.name:>7}" for access in Access))
            for way in ways(causes[Access.FETCH]):
                counts = [
                    str(self.counts[Cell(cause, REQUESTER[access], way)] or "EMPTY") if way in ways(cause) else "-"
                    for access, cause in causes.items()
                ]
                lines.append(f"  {way:32}" + "".join(f"{text:>7}" for text in counts))
        lines.append(
            "  -: all accesses have one root, and the fetch meets it first; beyond the bus LOAD and STORE have"
        )
        lines.append("     ADDRESS_RANGE")
        cells = possible_cells()
        lines.append(f"{len(cells) - len(self.missing())} of {len(cells)} cells, {self.counts.total()} faults")
        return "\n".join(lines)
