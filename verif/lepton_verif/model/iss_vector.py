"""VECTOR of the instruction-set simulator."""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import FaultCause, Format, VectorOp
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .arith import vector
from .iss_addresses import as_slice, is_local, nest
from .iss_state import CoreState, EngineFaultError

__all__ = ["prepare_vector"]


class _Rows:
    """Local rows of one operand, (outer steps, inner rows); an axis of stride 0 has length 1."""

    def __init__(self, name: str, f: dict[str, int], fmt: Format):
        inner = vector.packed_rows(fmt, f["count0"])
        loops = ((f["count1"], f[f"{name}_stride1"]), (inner, f[f"{name}_stride0"]))
        self.addresses = nest(f[name], *loops)
        self.packed = Format(fmt).pack
        # A packed operand's steps are spread over its rows: no row of the inner loop may be left out.
        if self.packed > 1:
            self.addresses = np.broadcast_to(self.addresses, (self.addresses.shape[0], inner))
        self.index = as_slice(self.addresses)

    def read(self, state: CoreState) -> NDArray[np.uint32]:
        return state.local[self.index].reshape(*self.addresses.shape, -1)

    def first_bad(self, good: NDArray[np.bool_], f: dict[str, int]) -> tuple[int, int]:
        """Step at which the first bad row is used, and the row."""
        outer, inner = (int(i) for i in np.argwhere(~good)[0])
        return outer * f["count0"] + inner * self.packed, int(self.addresses[outer, inner])


def _immediate(word: int) -> NDArray[np.float32]:
    return np.array([word], np.uint32).view(np.float32)


def prepare_vector(config: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """One operation over rows. Nothing is written by a command with an address out of range."""
    op = VectorOp(f["op"])
    a_format, dst_format = Format(f["a_format"]), Format(f["dst_format"])
    sources = {"a": _Rows("a", f, a_format)}
    immediates = {}
    for name in "bc":
        if name in op.operands:
            if f[f"{name}_imm"]:
                immediates[name] = _immediate(f[f"imm_{name}"])
            else:
                sources[name] = _Rows(name, f, Format.F32)
    target = _Rows("dst", f, dst_format)

    bad = []
    for order, rows in enumerate((*sources.values(), target)):
        addresses = rows.addresses
        good = is_local(config, addresses)
        if rows is target:
            good = (addresses >= 0) & (addresses < config.vmem_rows)
        if not good.all():
            step, address = rows.first_bad(good, f)
            bad.append((step, order, address))
    if bad:
        raise EngineFaultError(FaultCause.LOCAL_RANGE, min(bad)[2])

    shape = (f["count1"], f["count0"], config.side)
    # Every step writes, even if all steps write the same row: the last one stays.
    inner = vector.packed_rows(dst_format, f["count0"])
    where = np.broadcast_to(target.addresses, (f["count1"], inner)) if target.addresses.size else target.addresses
    target_index = as_slice(where)
    flags = {name: bool(f[name]) for name in ("relu", "negate_b", "negate_c")}
    masks = (f["lane_bcast"], f["lane_xor"])

    def execute(state: CoreState):
        values = {name: rows.read(state) for name, rows in sources.items()}
        a = vector.shuffle(vector.unpack(values["a"], a_format, f["count0"]), *masks)
        operands = {name: values[name].view(np.float32) if name in values else immediates.get(name) for name in "bc"}
        result = np.broadcast_to(vector.compute(op, a, operands["b"], operands["c"], **flags), shape)
        words = vector.pack(result, dst_format)
        state.local[target_index] = words.reshape(-1, config.side)

    return execute
