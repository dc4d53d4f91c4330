"""The program that leaves nothing of a context in its partition."""

import math

from lepton_npu.spec.commands import COMMANDS, Opcode, Precision, VectorOp
from lepton_npu.spec.config import ACC_SPACE, NpuConfig

from .program import Program

__all__ = ["scrub_program"]

_MOST = next(field.high for field in COMMANDS[Opcode.QUANT].fields if field.name == "rows")


def scrub_program(config: NpuConfig) -> Program:
    """Zeros in every row of the vector memory and the accumulators, and in all tiles and exponents; ends with an IRQ.

    Whatever is there before, NaNs included: nothing is less than minus infinity, zeros are quantised to zeros with
    exponent 0, and products of those are zeros.
    """
    program, side = Program(config), config.side
    program.vector(VectorOp.LT, imm_b=-math.inf, count0=config.vmem_rows, dst_stride0=1)
    program.fence()
    each = _MOST // side
    for tile in range(0, config.tiles, each):
        program.quant(precision=Precision.P8, tile=tile, rows=min(each, config.tiles - tile) * side, cols=side)
    program.fence()
    program.matmul(
        a_precision=Precision.P8, b_precision=Precision.P8, acc=ACC_SPACE, rows=config.acc_rows,
        count0=config.acc_rows, acc_stride0=1,
    )  # fmt: skip
    program.irq()
    return program
