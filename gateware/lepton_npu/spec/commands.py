"""The command set: every field of every command, defined once.

The decoder, the instruction-set simulator, the SDK's assembler, the C header and ``docs/commands.md`` are all made
from `COMMANDS`. What the commands mean is in ``docs/architecture.md``.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property

from .config import RECORD_BYTES
from .translation import Access, TranslationFault

__all__ = [
    "ADDRESS_REGISTERS",
    "COMMANDS",
    "RESUMABLE",
    "SEED_AT_RESET",
    "TRANSLATION_CAUSES",
    "Command",
    "Engine",
    "FaultCause",
    "Field",
    "Format",
    "Opcode",
    "Precision",
    "Rounding",
    "VectorOp",
    "decode",
]

SEMAPHORES = 16
SEMAPHORE_MAX = 255
RECORD_WORDS = RECORD_BYTES // 4
ADDRESS_REGISTERS = 7
"""Address registers, of 64 bits, numbered from 1; number 0 stands for none, and reads 0."""
SEED_AT_RESET = 0x9E3779B9
"""State of the generator of stochastic rounding at reset and soft reset: 2^32 over the golden ratio."""


class Engine(IntEnum):
    """The in-order engines. Each has its own queue; they run concurrently."""

    CONTROL = 0
    LOAD = 1
    STORE = 2
    QUANT = 3
    MATMUL = 4
    VECTOR = 5

    @property
    def access(self) -> Access:
        """What its commands do with memory; those that do nothing have been fetched."""
        return {Engine.LOAD: Access.READ, Engine.STORE: Access.WRITE}.get(self, Access.FETCH)


class Opcode(IntEnum):
    """Opcodes. Zero is illegal on purpose: cleared memory is not a program."""

    NOP = 0x01
    FENCE = 0x02
    IRQ = 0x03
    ADDRESS = 0x04
    REPEAT = 0x05
    LOAD = 0x10
    STORE = 0x11
    QUANT = 0x20
    SEED = 0x21
    MATMUL = 0x30
    VECTOR = 0x40


class Precision(IntEnum):
    """Mantissa of a quantised tensor; `limbs` bytes each."""

    P8 = 0
    P16 = 1
    P32 = 2

    @property
    def limbs(self) -> int:
        """Signed bytes (tile planes) per mantissa."""
        return self.value + 1


class Rounding(IntEnum):
    """How QUANT rounds."""

    NEAREST = 0
    STOCHASTIC = 1


class VectorOp(IntEnum):
    """What a lane computes from operands a, b and c."""

    MULADD = 0
    MIN = 1
    MAX = 2
    LT = 3
    LE = 4
    EQ = 5
    SELECT = 6
    EXP = 7
    RECIP = 8
    SQRT = 9
    RSQRT = 10
    SIGMOID = 11
    TANH = 12

    @property
    def is_function(self) -> bool:
        """Whether it is a function of a alone."""
        return self >= VectorOp.EXP

    @property
    def operands(self) -> str:
        """The operands the operation reads: some of "abc"."""
        return "a" if self.is_function else {"MULADD": "abc", "SELECT": "abc"}.get(self.name, "ab")


class Format(IntEnum):
    """Element format of vector operand a and of the vector result, in the vector memory."""

    F32 = 0
    BF16 = 1
    U8 = 2
    I8 = 3
    I32 = 4

    @property
    def pack(self) -> int:
        """Elements in a 32-bit word."""
        return {"BF16": 2, "U8": 4, "I8": 4}.get(self.name, 1)


TRANSLATION_CAUSES = 16
"""This and a `TranslationFault` are the `FaultCause` of its name."""


class FaultCause(IntEnum):
    """Why the core stopped."""

    NONE = 0
    ILLEGAL_OPCODE = 1
    ILLEGAL_FIELD = 2
    LOCAL_RANGE = 3
    MISALIGNED = 4
    ADDRESS_RANGE = 5
    BUS_READ = 6
    BUS_WRITE = 7
    BUS_FETCH = 8
    WATCHDOG = 9
    RING_OVERRUN = 10
    SEMAPHORE_OVERFLOW = 11
    NESTED_REPEAT = 12
    PAGE_READ = TRANSLATION_CAUSES | TranslationFault.PAGE_READ
    PAGE_WRITE = TRANSLATION_CAUSES | TranslationFault.PAGE_WRITE
    PAGE_FETCH = TRANSLATION_CAUSES | TranslationFault.PAGE_FETCH
    ACCESS_READ = TRANSLATION_CAUSES | TranslationFault.ACCESS_READ
    ACCESS_WRITE = TRANSLATION_CAUSES | TranslationFault.ACCESS_WRITE
    ACCESS_FETCH = TRANSLATION_CAUSES | TranslationFault.ACCESS_FETCH


RESUMABLE = frozenset(
    cause for cause in FaultCause if cause.name.startswith("BUS_") or cause >= TRANSLATION_CAUSES
)  # fmt: skip
"""Causes that the host can mend; the core then goes on at the command at fault (docs/contexts.md)."""


@dataclass(frozen=True)
class Field:
    """One field of a record: ``width`` bits from bit ``lsb`` of 32-bit word ``word`` (64-bit fields span two words)."""

    name: str
    word: int
    lsb: int
    width: int
    doc: str
    signed: bool = False
    minimum: int | None = None
    maximum: int | None = None
    enum: type[IntEnum] | None = None

    @cached_property
    def offset(self) -> int:
        """First bit in the record."""
        return self.word * 32 + self.lsb

    @cached_property
    def mask(self) -> int:
        """The record with all bits of this field set, and no others."""
        return ((1 << self.width) - 1) << self.offset

    @cached_property
    def low(self) -> int:
        """Least value allowed."""
        if self.minimum is not None:
            return self.minimum
        return -(1 << (self.width - 1)) if self.signed else 0

    @cached_property
    def high(self) -> int:
        """Greatest value allowed."""
        if self.enum is not None:
            return max(self.enum)
        if self.maximum is not None:
            return self.maximum
        return (1 << (self.width - self.signed)) - 1


@dataclass(frozen=True)
class Command:
    """One command: its opcode, the engine that runs it, and its fields behind the common header."""

    name: str
    opcode: Opcode
    engine: Engine
    doc: str
    body: tuple[Field, ...] = ()

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Header and body."""
        return HEADER + self.body

    @cached_property
    def reserved_mask(self) -> int:
        """The bits of a record that must be zero."""
        used = 0
        for field in self.fields:
            used |= field.mask
        return ((1 << (RECORD_BYTES * 8)) - 1) & ~used

    @cached_property
    def _by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}

    @cached_property
    def _least(self) -> int:
        """The record without any value given."""
        record = int(self.opcode) << self._by_name["opcode"].offset
        for field in self.body:
            record |= max(field.low, 0) << field.offset
        return record

    def pack(self, **values: int) -> bytes:
        """Encode a record; fields not given are zero, or their least value where zero is not allowed.

        Raises
        ------
        ValueError
            For an unknown field or a value out of range; the message names the command, the field and the range.
        """
        record = self._least
        for name, given in values.items():
            field = self._by_name.get(name)
            if field is None:
                raise ValueError(f"{self.name} has no field {name!r}; its fields are {', '.join(self._by_name)}")
            value = int(given)
            if not field.low <= value <= field.high:
                raise ValueError(f"{self.name}.{name} must be from {field.low} to {field.high}, not {value}")
            record = record & ~field.mask | value << field.offset & field.mask
        return record.to_bytes(RECORD_BYTES, "little")

    def unpack(self, record: bytes) -> dict[str, int]:
        """Decode the fields of a record, unchecked."""
        bits = int.from_bytes(record, "little")
        values = {}
        for field in self.fields:
            value = (bits & field.mask) >> field.offset
            if field.signed and value >> (field.width - 1):
                value -= 1 << field.width
            values[field.name] = value
        return values


HEADER = (
    Field("opcode", 0, 0, 8, "What to do.", enum=Opcode),
    Field("wait", 1, 0, 16, "Semaphores to wait for: the command starts when each is at least 1, and takes 1 of each."),
    Field("post", 1, 16, 16, "Semaphores that get 1 more when the command has finished and its writes are visible."),
)


def _register(name: str, doc: str, minimum: int = 0) -> Field:
    """The number of an address register, at one place in all commands that name one."""
    return Field(name, 0, 8, 3, doc, minimum=minimum, maximum=ADDRESS_REGISTERS)


_BASE = _register("base", "Address register that is added to `address`, modulo 2^64; 0: none.")


def _dma(verb: str, local: str) -> tuple[Field, ...]:
    return (
        _BASE,
        Field("address", 2, 0, 64, "Byte address of row 0 in memory; with the base a multiple of the bus width."),
        Field("local", 4, 0, 16, local),
        Field("rows", 4, 16, 16, f"Rows to {verb}.", minimum=1),
        Field("words", 5, 0, 16, "32-bit words in a row.", minimum=1),
        Field("local_stride", 5, 16, 16, "Local rows from one row's start to the next.", signed=True),
        Field(
            "stride", 6, 0, 32, "Bytes from one row to the next in memory; a multiple of the bus width.", signed=True
        ),
    )


def _operand(name: str, doc: str, base: tuple[int, int], strides: int) -> tuple[Field, ...]:
    return (
        Field(name, *base, 16, doc),
        Field(f"{name}_stride0", strides, 0, 16, f"Rows from one inner step of {name} to the next.", signed=True),
        Field(f"{name}_stride1", strides, 16, 16, f"Rows from one outer step of {name} to the next.", signed=True),
    )


COMMANDS: dict[Opcode, Command] = {
    command.opcode: command
    for command in (
        Command("NOP", Opcode.NOP, Engine.CONTROL, "Waits and posts, and does nothing else."),
        Command("FENCE", Opcode.FENCE, Engine.CONTROL, "Holds back later commands until all earlier ones are done."),
        Command(
            "IRQ",
            Opcode.IRQ,
            Engine.CONTROL,
            "A FENCE that then stores its tag and raises the interrupt.",
            (Field("tag", 2, 0, 32, "Value for the TAG register."),),
        ),
        Command(
            "ADDRESS",
            Opcode.ADDRESS,
            Engine.CONTROL,
            "Sets an address register, or adds to it.",
            (
                _register("number", "The address register.", minimum=1),
                Field("add", 0, 11, 1, "Add `value` to the register, modulo 2^64; else replace it."),
                Field("value", 2, 0, 64, "The value; to subtract, its two's complement."),
            ),
        ),
        Command(
            "REPEAT",
            Opcode.REPEAT,
            Engine.CONTROL,
            "Runs the records of a body outside the ring, all of them `count` times, then goes on behind itself.",
            (
                _BASE,
                Field("address", 2, 0, 64, "Byte address of the body; with the base a multiple of 64."),
                Field("records", 4, 0, 16, "Records of the body; none of them a REPEAT.", minimum=1),
                Field("count", 5, 0, 32, "How many times the body runs.", minimum=1),
            ),
        ),
        Command(
            "LOAD",
            Opcode.LOAD,
            Engine.LOAD,
            "Copies rows from memory to the vector memory; a row's last local row is filled up with zeros.",
            _dma("load", "First local row (vector memory)."),
        ),
        Command(
            "STORE",
            Opcode.STORE,
            Engine.STORE,
            "Copies rows from the vector memory or the accumulators to memory.",
            _dma("store", "First local row."),
        ),
        Command(
            "QUANT",
            Opcode.QUANT,
            Engine.QUANT,
            "Quantises a binary32 matrix to tiles.",
            (
                Field("precision", 0, 8, 2, "Mantissa: 8, 16 or 32.", enum=Precision),
                Field("rounding", 0, 10, 1, "To nearest, or at random with the generator's numbers.", enum=Rounding),
                Field("source", 2, 0, 16, "Local row of element (0, 0)."),
                Field("tile", 2, 16, 16, "Tile (0, 0), limb 0."),
                Field("rows", 3, 0, 16, "Rows of the matrix; beyond them tiles hold zeros.", minimum=1),
                Field("cols", 3, 16, 16, "Columns of the matrix; beyond them tiles hold zeros.", minimum=1),
                Field("source_stride", 4, 0, 16, "Local rows from one matrix row to the next.", signed=True),
                Field("tile_stride", 4, 16, 16, "Tiles from one column of tiles to the next."),
                Field("limb_stride", 5, 0, 16, "Tiles from one limb plane to the next."),
            ),
        ),
        Command(
            "SEED",
            Opcode.SEED,
            Engine.QUANT,
            "Sets the generator of stochastic rounding.",
            (Field("seed", 2, 0, 32, "The state of the generator.", minimum=1),),
        ),
        Command(
            "MATMUL",
            Opcode.MATMUL,
            Engine.MATMUL,
            "Streams rows of A through stationary tiles of B and adds the products to accumulator rows.",
            (
                Field("a_transpose", 0, 8, 1, "Stream the columns of A's tiles."),
                Field("b_transpose", 0, 9, 1, "Load B's tiles transposed."),
                Field("accumulate", 0, 10, 1, "Add to what the accumulators hold; else the first pass overwrites it."),
                Field("a_precision", 0, 12, 2, "Mantissa of A.", enum=Precision),
                Field("b_precision", 0, 14, 2, "Mantissa of B.", enum=Precision),
                Field("a_tile", 2, 0, 16, "Tile of A's row 0, K tile 0, limb 0."),
                Field("b_tile", 2, 16, 16, "Tile of B for K tile 0, N tile 0, limb 0."),
                Field("acc", 3, 0, 16, "Accumulator row of row 0, N tile 0 (a local row address)."),
                Field("rows", 3, 16, 16, "Rows streamed for each stationary tile (M).", minimum=1),
                Field("k_tiles", 4, 0, 16, "Tiles along the contraction.", minimum=1),
                Field("n_tiles", 4, 16, 16, "Tiles along the columns of the result.", minimum=1),
                Field("a_k_stride", 5, 0, 16, "Tiles of A from one K tile to the next."),
                Field("a_limb_stride", 5, 16, 16, "Tiles of A from one limb plane to the next."),
                Field("b_k_stride", 6, 0, 16, "Tiles of B from one K tile to the next."),
                Field("b_n_stride", 6, 16, 16, "Tiles of B from one N tile to the next."),
                Field("b_limb_stride", 7, 0, 16, "Tiles of B from one limb plane to the next."),
                Field("acc_n_stride", 7, 16, 16, "Accumulator rows from one N tile to the next.", signed=True),
                Field("count0", 8, 0, 16, "Inner steps of a row before the middle step.", minimum=1),
                Field("count1", 8, 16, 16, "Middle steps before the outer step.", minimum=1),
                Field("a_stride0", 9, 0, 32, "Tile rows of A (tile * T + row) per inner step.", signed=True),
                Field("a_stride1", 10, 0, 32, "Tile rows of A per middle step.", signed=True),
                Field("a_stride2", 11, 0, 32, "Tile rows of A per outer step.", signed=True),
                Field("acc_stride0", 12, 0, 16, "Accumulator rows per inner step.", signed=True),
                Field("acc_stride1", 12, 16, 16, "Accumulator rows per middle step.", signed=True),
                Field("acc_stride2", 13, 0, 16, "Accumulator rows per outer step.", signed=True),
                Field("a_row", 13, 16, 16, "Offset of row 0 from tile a_tile's first row, in tile rows."),
            ),
        ),
        Command(
            "VECTOR",
            Opcode.VECTOR,
            Engine.VECTOR,
            "Runs one operation over rows of binary32 words.",
            (
                Field("op", 0, 8, 8, "The operation.", enum=VectorOp),
                Field("a_format", 0, 16, 3, "Element format of operand a.", enum=Format),
                Field("dst_format", 0, 19, 3, "Element format of the result.", enum=Format),
                Field("relu", 0, 22, 1, "Replace a negative result by +0."),
                Field("b_imm", 0, 23, 1, "Operand b is imm_b in every lane."),
                Field("c_imm", 0, 24, 1, "Operand c is imm_c in every lane."),
                Field("negate_b", 0, 25, 1, "Flip the sign of operand b."),
                Field("negate_c", 0, 26, 1, "Flip the sign of operand c."),
                *_operand("dst", "First local row of the result (vector memory).", (2, 0), 5),
                *_operand("a", "First local row of operand a.", (2, 16), 6),
                *_operand("b", "First local row of operand b.", (3, 0), 7),
                *_operand("c", "First local row of operand c.", (3, 16), 8),
                Field("count0", 4, 0, 16, "Inner steps.", minimum=1),
                Field("count1", 4, 16, 16, "Outer steps.", minimum=1),
                Field("imm_b", 9, 0, 32, "Immediate b, binary32."),
                Field("imm_c", 10, 0, 32, "Immediate c, binary32."),
                Field(
                    "lane_bcast", 11, 0, 8, "Lane l of operand a reads lane (l & ~lane_bcast) ^ lane_xor.", maximum=31
                ),
                Field("lane_xor", 11, 8, 8, "See lane_bcast; both below T.", maximum=31),
            ),
        ),
    )
}


def decode(record: bytes) -> tuple[Command, dict[str, int]]:
    """Decode a record into its command and fields, applying the decoder's static checks.

    Raises
    ------
    ValueError
        ``args`` are the `FaultCause` and a message: an unknown opcode, a reserved bit that is set, or a field out of
        its range. (What depends on the configuration or on addresses is checked by the engines.)
    """
    opcode = record[0]
    command = COMMANDS.get(opcode)  # type: ignore[call-overload]
    if command is None:
        raise ValueError(FaultCause.ILLEGAL_OPCODE, f"opcode 0x{opcode:02x} is not one of the command set")
    if reserved := int.from_bytes(record, "little") & command.reserved_mask:
        raise ValueError(FaultCause.ILLEGAL_FIELD, f"{command.name}: reserved bits 0x{reserved:x} must be zero")
    values = command.unpack(record)
    for field in command.fields:
        if not field.low <= values[field.name] <= field.high:
            raise ValueError(
                FaultCause.ILLEGAL_FIELD,
                f"{command.name}.{field.name} must be from {field.low} to {field.high}, not {values[field.name]}",
            )
    return command, values
