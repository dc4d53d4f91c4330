"""Commands with the buffers that they read and write."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lepton_npu.spec.commands import Format, Precision, VectorOp
from lepton_npu.spec.config import NpuConfig

from leptonaicsdk.schedule import Region, Schedule

__all__ = ["IMAGE", "INPUT", "RATE", "RESULT", "TARGET", "Emitter", "View"]

INPUT, TARGET, RATE, RESULT, IMAGE = 1, 2, 3, 4, 5
"""Address registers of a program: samples, labels or targets, learning rates, what is stored, and the image of the
parameters."""


@dataclass(frozen=True)
class View:
    """Local rows as an operand: row ``start + i0 * stride0 + i1 * stride1``, in ``regions``."""

    regions: tuple[Region, ...]
    start: int
    stride0: int = 1
    stride1: int = 0

    @classmethod
    def of(cls, region: Region, offset: int = 0, stride0: int = 1, stride1: int = 0) -> "View":
        """Rows of one region from ``offset`` on."""
        return cls((region,), region.start + offset, stride0, stride1)


class Emitter:
    """Adds commands to a `Schedule`, each with what it reads and writes.

    Parameters
    ----------
    config : NpuConfig
    schedule : Schedule
    """

    def __init__(self, config: NpuConfig, schedule: Schedule):
        self.config, self.schedule = config, schedule
        self.program = schedule.program

    def load(self, target: Region, *, register: int = 0, reads: Iterable[Region] = (), **fields: int):
        """LOAD to rows of ``target``, at ``address`` behind a register, from memory that is known as ``reads``."""
        number = self.program.load(base=register, **fields)
        self.schedule.add(number, reads=list(reads), writes=[target])

    def store(self, sources: Iterable[Region], *, register: int = 0, writes: Iterable[Region] = (), **fields: int):
        """STORE of rows of ``sources``, to memory that is known as ``writes``."""
        number = self.program.store(base=register, **fields)
        self.schedule.add(number, reads=list(sources), writes=list(writes))

    def advance(self, register: int, value: int):
        """Add to an address register."""
        self.program.address(register=register, add=True, value=value)
        self.schedule.pass_over()

    def quant(self, sources: Iterable[Region], targets: Iterable[Region], precision: Precision, **fields: int):
        """QUANT."""
        number = self.program.quant(precision=precision, **fields)
        self.schedule.add(number, reads=list(sources), writes=list(targets))

    def matmul(
        self, operands: Iterable[Region], sums: Iterable[Region], a_precision: Precision, b_precision: Precision,
        **fields: int,
    ):  # fmt: skip
        """MATMUL."""
        number = self.program.matmul(a_precision=a_precision, b_precision=b_precision, **fields)
        self.schedule.add(number, reads=list(operands), writes=list(sums))

    def vector(
        self,
        op: VectorOp,
        dst: View,
        a: View,
        b: View | float | None = None,
        c: View | float | None = None,
        *,
        count: tuple[int, int],
        a_format: Format = Format.F32,
        dst_format: Format = Format.F32,
        **flags: int,
    ):
        """VECTOR over ``count`` (inner, outer) steps; numbers are immediates."""
        fields: dict[str, Any] = {
            "count0": count[0],
            "count1": count[1],
            "a_format": a_format,
            "dst_format": dst_format,
        }
        reads: list[Region] = []
        for name, view in (("dst", dst), ("a", a), ("b", b), ("c", c)):
            if isinstance(view, View):
                fields |= {name: view.start, f"{name}_stride0": view.stride0, f"{name}_stride1": view.stride1}
                if name != "dst":
                    reads += view.regions
            elif view is not None:
                fields[f"imm_{name}"] = float(view)
        number = self.program.vector(op, **fields, **flags)
        self.schedule.add(number, reads=reads, writes=dst.regions)

    def muladd(self, dst: View, a: View, b: View | float, c: View | float, *, count: tuple[int, int], **flags: Any):
        """dst = a * b + c."""
        self.vector(VectorOp.MULADD, dst, a, b, c, count=count, **flags)
