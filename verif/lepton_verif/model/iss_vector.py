"""VECTOR of the instruction-set simulator."""

from collections.abc import Callable

import numpy as np
from lepton_npu.spec.commands import FaultCause, Format, VectorOp
from lepton_npu.spec.config import NpuConfig
from numpy.typing import NDArray

from .arith import vector
from .iss_addresses import is_local, nest, strided_rows
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
        self.strides = tuple(stride for _, stride in loops)
        self.base = f[name]

    def view(self, local: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The rows as an array (outer, inner, T) that shares memory with ``local``."""
        return strided_rows(local, self.base, self.addresses.shape, self.strides)

    def first_bad(self, good: NDArray[np.bool_], f: dict[str, int]) -> tuple[int, int]:
        """Step at which the first bad row is used, and the row."""
        outer, inner = (int(i) for i in np.argwhere(~good)[0])
        return outer * f["count0"] + inner * self.packed, int(self.addresses[outer, inner])


def _immediate(word: int) -> NDArray[np.float32]:
    return np.array(word, np.uint32).view(np.float32)


_UNUSED = np.zeros(1, np.float32)


class _Vector:
    """A VECTOR command whose rows exist. Called with a state, it runs on it."""

    def __init__(self, config: NpuConfig, f: dict[str, int], sources: dict[str, _Rows], target: _Rows):
        op = VectorOp(f["op"])
        self.a_format, self.dst_format = Format(f["a_format"]), Format(f["dst_format"])
        self.shape = (f["count1"], f["count0"], config.side)
        self.sources, self.target = sources, target
        self.shuffle = vector.prepare_shuffle(config.side, f["lane_bcast"], f["lane_xor"])
        immediates = {name: _immediate(f[f"imm_{name}"]) for name in "bc" if f[f"{name}_imm"]}
        square = "b" in sources and self.a_format == Format.F32 and self.shuffle is None
        square = square and all(f[f"a{end}"] == f[f"b{end}"] for end in ("", "_stride0", "_stride1"))
        self.operation = vector.prepare_operation(
            op, immediates.get("b"), immediates.get("c"), square=square, relu=bool(f["relu"]),
            negate_b=bool(f["negate_b"]), negate_c=bool(f["negate_c"]),
        )  # fmt: skip
        # Every step writes, even if several write the same row: the last one stays.
        inner = vector.packed_rows(self.dst_format, f["count0"])
        self.where = np.broadcast_to(target.addresses, (f["count1"], inner)).reshape(-1)
        self.distinct = np.unique(self.where).size == self.where.size
        self.local: NDArray[np.uint32] | None = None

    def bind(self, local: NDArray[np.uint32]):
        """Make the views of operands and result in this memory."""
        self.local = local
        self.views = {name: rows.view(local) for name, rows in self.sources.items()}
        self.b, self.c = (self.views[name].view(np.float32) if name in self.views else _UNUSED for name in "bc")
        self.result = self.target.view(local)

    def __call__(self, state: CoreState):
        if state.local is not self.local:
            self.bind(state.local)
        a = vector.unpack(self.views["a"], self.a_format, self.shape[1])
        if self.shuffle is not None:
            a = self.shuffle(a)
        result = self.operation(a, self.b, self.c)
        if self.dst_format == Format.F32 and self.distinct:
            self.result[...] = result.view(np.uint32)
            return
        words = vector.pack(np.broadcast_to(result, self.shape), self.dst_format)
        if self.distinct:
            self.result[...] = words
        else:
            state.local[self.where] = words.reshape(self.where.size, -1)


def prepare_vector(config: NpuConfig, f: dict[str, int]) -> Callable[[CoreState], None]:
    """One operation over rows, for use within ``numpy.errstate(all="ignore")``.

    Nothing is written by a command with an address out of range.
    """
    names = [name for name in VectorOp(f["op"]).operands if name == "a" or not f[f"{name}_imm"]]
    sources = {name: _Rows(name, f, Format(f["a_format"]) if name == "a" else Format.F32) for name in names}
    target = _Rows("dst", f, Format(f["dst_format"]))
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
    return _Vector(config, f, sources, target)
