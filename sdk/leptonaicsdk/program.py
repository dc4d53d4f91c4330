"""A program: commands of the core, packed into the records of a ring."""

import functools
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from lepton_npu.spec.commands import COMMANDS, SEMAPHORES, Engine, Format, Opcode, Precision, VectorOp
from lepton_npu.spec.config import ACC_SPACE, RECORD_BYTES, NpuConfig

__all__ = ["Program", "Semaphores", "precision_of"]

Semaphores = int | Iterable[int]
"""One semaphore's number, or several."""


def precision_of(bits: int) -> Precision:
    """The `Precision` of 8, 16 or 32 bits."""
    if bits not in (8, 16, 32):
        raise ValueError(f"precision must be 8, 16 or 32, not {bits}")
    return {8: Precision.P8, 16: Precision.P16, 32: Precision.P32}[bits]


@dataclass
class _Command:
    opcode: Opcode
    fields: dict[str, int]


def _mask(name: str, semaphores: Semaphores) -> int:
    mask = 0
    for number in (semaphores,) if isinstance(semaphores, int) else semaphores:
        if not 0 <= number < SEMAPHORES:
            raise ValueError(f"{name} must name semaphores from 0 to {SEMAPHORES - 1}, not {number}")
        mask |= 1 << number
    return mask


def _extremes(base: int, *loops: tuple[int, int]) -> tuple[int, int]:
    """Least and greatest of ``base + sum of i * stride`` for loops ``(count, stride)``."""
    ends = [(count - 1) * stride for count, stride in loops]
    return base + sum(min(end, 0) for end in ends), base + sum(max(end, 0) for end in ends)


@functools.lru_cache(maxsize=1024)
def _row_extremes(rows: int, count0: int, count1: int, *strides: int) -> tuple[int, int]:
    """Least and greatest place of ``rows`` rows, in a nest of loops of which the last round may be short."""
    row = np.arange(rows)
    steps = (row % count0, row // count0 % count1, row // (count0 * count1))
    place = sum((step * stride for step, stride in zip(steps, strides)), np.zeros_like(row))
    return int(place.min()), int(place.max())


class Program:
    """Builds a command program for one configuration.

    Every method adds one command and returns its number in the program. Keywords are the fields of the command set
    (`lepton_npu.spec.commands.COMMANDS`, docs/commands.md); one that is not given is 0, or 1 where 0 is not allowed.
    ``wait`` and ``post`` are semaphore numbers. What the core would answer with a fault is refused here.

    With ``base``, an address register, LOAD, STORE and REPEAT add its content to ``address``, which may be negative
    then. Where that leads is known to the core only; here just the alignment of ``address`` is checked.

    The commands of a loop are a program of their own: put its ``records()`` somewhere in memory, and give it and its
    address to `repeat`.

    Parameters
    ----------
    config : NpuConfig

    Raises
    ------
    ValueError
        In every method: for an unknown field, or a value out of its range or beyond the configuration's memories. The
        message names the command, the field, the value and what is allowed.
    """

    def __init__(self, config: NpuConfig):
        self.config = config
        self._commands: list[_Command] = []

    def __len__(self) -> int:
        return len(self._commands)

    def engine(self, number: int) -> Engine:
        """The engine that runs command ``number``."""
        return COMMANDS[self._commands[number].opcode].engine

    def records(self) -> bytes:
        """The commands as they stand in a ring, 64 bytes each."""
        return b"".join(COMMANDS[command.opcode].pack(**command.fields) for command in self._commands)

    def commands(self) -> Iterator[tuple[Opcode, Mapping[str, int]]]:
        """Opcode and fields of every command."""
        return ((command.opcode, MappingProxyType(command.fields)) for command in self._commands)

    def part(self, commands: range) -> "Program":
        """A program of some of these commands."""
        part = Program(self.config)
        part._commands = [_Command(c.opcode, dict(c.fields)) for c in (self._commands[i] for i in commands)]
        return part

    def extend(self, other: "Program"):
        """Add the commands of another program."""
        self._commands += other.part(range(len(other)))._commands

    def semaphores(self, number: int) -> tuple[int, int]:
        """Masks of the semaphores that command ``number`` waits for, and posts to."""
        fields = self._commands[number].fields
        return fields["wait"], fields["post"]

    def add_post(self, number: int, semaphores: Semaphores):
        """Let command ``number`` post to ``semaphores`` as well."""
        self._commands[number].fields["post"] |= _mask("post", semaphores)

    def add_wait(self, number: int, semaphores: Semaphores):
        """Let command ``number`` wait for ``semaphores`` as well."""
        self._commands[number].fields["wait"] |= _mask("wait", semaphores)

    def load(self, *, wait: Semaphores = (), post: Semaphores = (), **fields: int) -> int:
        """LOAD: ``rows`` rows of ``words`` words from byte ``address`` to local row ``local`` of the vector memory."""
        return self._dma(Opcode.LOAD, fields, wait, post)

    def store(self, *, wait: Semaphores = (), post: Semaphores = (), **fields: int) -> int:
        """STORE: ``rows`` rows of ``words`` words from local row ``local`` to byte ``address``."""
        return self._dma(Opcode.STORE, fields, wait, post)

    def quant(self, *, precision: Precision, wait: Semaphores = (), post: Semaphores = (), **fields: int) -> int:
        """QUANT: a ``rows`` x ``cols`` matrix of local rows to tiles from ``tile`` on."""
        f = self._complete(Opcode.QUANT, {**fields, "precision": precision})
        side = self.config.side
        high, wide = -(-f["rows"] // side), -(-f["cols"] // side)
        self._local("QUANT.source", *_extremes(f["source"], (f["rows"], f["source_stride"]), (wide, 1)))
        planes = (Precision(precision).limbs, f["limb_stride"])
        self._tile("QUANT.tile", *_extremes(f["tile"], (high, 1), (wide, f["tile_stride"]), planes))
        return self._append(Opcode.QUANT, f, wait, post)

    def seed(self, seed: int, *, wait: Semaphores = (), post: Semaphores = ()) -> int:
        """SEED: set the generator of stochastic rounding, for the QUANT commands behind it; 0 < seed < 2^32."""
        return self._append(Opcode.SEED, self._complete(Opcode.SEED, {"seed": seed}), wait, post)

    def matmul(
        self,
        *,
        a_precision: Precision,
        b_precision: Precision,
        wait: Semaphores = (),
        post: Semaphores = (),
        **fields: int,
    ) -> int:
        """MATMUL: ``rows`` rows of A through ``k_tiles`` x ``n_tiles`` stationary tiles of B."""
        f = self._complete(Opcode.MATMUL, {**fields, "a_precision": a_precision, "b_precision": b_precision})
        a_planes = (Precision(a_precision).limbs, f["a_limb_stride"])
        b_planes = (Precision(b_precision).limbs, f["b_limb_stride"])
        k, n = f["k_tiles"], f["n_tiles"]
        self._tile("MATMUL.b_tile", *_extremes(f["b_tile"], (k, f["b_k_stride"]), (n, f["b_n_stride"]), b_planes))
        nest = (f["rows"], f["count0"], f["count1"])
        first, last = _row_extremes(*nest, *(f[f"a_stride{axis}"] for axis in range(3)))
        low, high = _extremes(f["a_tile"], (k, f["a_k_stride"]), a_planes)
        row, side = f["a_row"], self.config.side
        self._tile("MATMUL.a_tile", (low * side + row + first) // side, (high * side + row + last) // side)
        first, last = _row_extremes(*nest, *(f[f"acc_stride{axis}"] for axis in range(3)))
        low, high = _extremes(f["acc"], (n, f["acc_n_stride"]))
        low, high, limit = low + first, high + last, ACC_SPACE + self.config.acc_rows
        if low < ACC_SPACE or high >= limit:
            raise ValueError(
                f"MATMUL.acc must reach rows 0x{ACC_SPACE:x} to 0x{limit - 1:x} only, not {low:#x}..{high:#x}"
            )
        return self._append(Opcode.MATMUL, f, wait, post)

    def vector(
        self,
        op: VectorOp,
        *,
        imm_b: float | None = None,
        imm_c: float | None = None,
        wait: Semaphores = (),
        post: Semaphores = (),
        **fields: int,
    ) -> int:
        """VECTOR: ``op`` over ``count1`` x ``count0`` rows; the numbers ``imm_b``, ``imm_c`` replace b, c."""
        given = dict(fields, op=op)
        for name, value in (("b", imm_b), ("c", imm_c)):
            if value is not None:
                given[f"imm_{name}"] = struct.unpack("<I", struct.pack("<f", value))[0]
                given[f"{name}_imm"] = 1
        f = self._complete(Opcode.VECTOR, given)
        for name in ("lane_bcast", "lane_xor"):
            if f[name] >= self.config.side:
                raise ValueError(f"VECTOR.{name} must be below side ({self.config.side}), not {f[name]}")
        for name in (*VectorOp(op).operands, "dst"):
            if name in "bc" and f[f"{name}_imm"]:
                continue
            pack = Format(f[f"{name}_format"]).pack if name in ("a", "dst") else 1
            inner = (-(-f["count0"] // pack), f[f"{name}_stride0"])
            low, high = _extremes(f[name], inner, (f["count1"], f[f"{name}_stride1"]))
            self._local(f"VECTOR.{name}", low, high, vmem_only=name == "dst")
        return self._append(Opcode.VECTOR, f, wait, post)

    def nop(self, *, wait: Semaphores = (), post: Semaphores = ()) -> int:
        """NOP: waits in the decoder, and posts."""
        return self._append(Opcode.NOP, self._complete(Opcode.NOP, {}), wait, post)

    def fence(self, *, wait: Semaphores = (), post: Semaphores = ()) -> int:
        """FENCE: holds back later commands until all earlier ones are done."""
        return self._append(Opcode.FENCE, self._complete(Opcode.FENCE, {}), wait, post)

    def irq(self, tag: int = 0, *, wait: Semaphores = (), post: Semaphores = ()) -> int:
        """IRQ: a fence that then stores ``tag`` and raises the interrupt."""
        return self._append(Opcode.IRQ, self._complete(Opcode.IRQ, {"tag": tag}), wait, post)

    def address(
        self, register: int, value: int, *, add: bool = False, wait: Semaphores = (), post: Semaphores = ()
    ) -> int:
        """ADDRESS: set address ``register``, 1 to 7, to ``value``, or ``add`` it; -2^63 <= value < 2^64."""
        if not -(1 << 63) <= value < 1 << 64:
            raise ValueError(f"ADDRESS.value must be from -2^63 to 2^64 - 1, not {value}")
        fields = {"number": register, "value": value % (1 << 64), "add": int(add)}
        return self._append(Opcode.ADDRESS, self._complete(Opcode.ADDRESS, fields), wait, post)

    def repeat(
        self,
        body: "Program",
        *,
        address: int,
        count: int,
        base: int = 0,
        wait: Semaphores = (),
        post: Semaphores = (),
    ) -> int:
        """REPEAT: run the commands that ``body`` has now, ``count`` times; their records are at byte ``address``.

        It waits before the first command of the body, and posts when the last one has been given to its engine.
        """
        if body.config != self.config:
            raise ValueError(f"REPEAT's body must have this program's configuration, not {body.config}")
        if not len(body):
            raise ValueError("REPEAT's body must have at least 1 command, not 0")
        for number, command in enumerate(body._commands):
            if command.opcode == Opcode.REPEAT:
                raise ValueError(f"REPEAT's body must have no REPEAT, as its command {number} is")
        fields = {"base": base, "records": len(body), "count": count, "address": address}
        f = self._complete(Opcode.REPEAT, self._offset(Opcode.REPEAT, fields, RECORD_BYTES, "a record's"))
        if not base and address + len(body) * RECORD_BYTES > 1 << self.config.addr_width:
            raise ValueError(
                f"REPEAT.address must leave room for {len(body)} records below 2^{self.config.addr_width}, "
                f"not be {address:#x}"
            )
        return self._append(Opcode.REPEAT, f, wait, post)

    def _offset(self, opcode: Opcode, fields: dict[str, int], unit: int, whose: str) -> dict[str, int]:
        """The fields with an address that is a multiple of ``unit``, and modulo 2^64 if there is a base."""
        address = fields.get("address", 0)
        if address % unit:
            raise ValueError(f"{opcode.name}.address must be a multiple of {whose} {unit} bytes, not {address:#x}")
        if fields.get("base", 0) and -(1 << 63) <= address < 0:
            fields = {**fields, "address": address % (1 << 64)}
        return fields

    def _dma(self, opcode: Opcode, fields: dict[str, int], wait: Semaphores, post: Semaphores) -> int:
        bus = self.config.bus_bytes
        f = self._complete(opcode, self._offset(opcode, fields, bus, "the bus's"))
        if f["stride"] % bus:
            raise ValueError(f"{opcode.name}.stride must be a multiple of the bus's {bus} bytes, not {f['stride']:#x}")
        low, high = _extremes(f["address"], (f["rows"], f["stride"]))
        if not f["base"] and (low < 0 or high + 4 * f["words"] > 1 << self.config.addr_width):
            raise ValueError(
                f"{opcode.name}.address must stay below 2^{self.config.addr_width}, not reach {low:#x}..{high:#x}"
            )
        local_rows = (-(-f["words"] // self.config.side), 1)
        low, high = _extremes(f["local"], (f["rows"], f["local_stride"]), local_rows)
        self._local(f"{opcode.name}.local", low, high, vmem_only=opcode == Opcode.LOAD)
        return self._append(opcode, f, wait, post)

    def _complete(self, opcode: Opcode, fields: dict[str, int]) -> dict[str, int]:
        """All fields with their defaults, each within its range."""
        command = COMMANDS[opcode]
        return command.unpack(command.pack(**fields))

    def _append(self, opcode: Opcode, fields: dict[str, int], wait: Semaphores, post: Semaphores) -> int:
        fields.update(wait=_mask("wait", wait), post=_mask("post", post))
        self._commands.append(_Command(opcode, fields))
        return len(self._commands) - 1

    def _local(self, name: str, low: int, high: int, *, vmem_only: bool = False):
        in_vmem = low >= 0 and high < self.config.vmem_rows
        in_acc = low >= ACC_SPACE and high < ACC_SPACE + self.config.acc_rows
        if not in_vmem and (vmem_only or not in_acc):
            allowed = f"rows 0 to {self.config.vmem_rows - 1} of the vector memory"
            if not vmem_only:
                allowed += f" or 0x{ACC_SPACE:x} to 0x{ACC_SPACE + self.config.acc_rows - 1:x} of the accumulators"
            raise ValueError(f"{name} must reach {allowed} only, not {low:#x}..{high:#x}")

    def _tile(self, name: str, low: int, high: int):
        if low < 0 or high >= self.config.tiles:
            raise ValueError(f"{name} must reach tiles 0 to {self.config.tiles - 1} only, not {low}..{high}")
