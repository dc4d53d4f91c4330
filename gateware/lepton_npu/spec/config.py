"""`NpuConfig`: the one source of every width and size of the core."""

from dataclasses import asdict, dataclass, fields, replace

__all__ = ["ACC_SPACE", "PRESETS", "RECORD_BYTES", "NpuConfig"]

RECORD_BYTES = 64
"""Size of a command record, in bytes."""

ACC_SPACE = 0x8000
"""Local row addresses with this bit set name accumulator rows, the others rows of the vector memory."""

_MAX_ROWS = 0x8000
_MAX_TILES = 0x8000


def _log2(value: int) -> int:
    return value.bit_length() - 1


def _is_power(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class NpuConfig:
    """Parameters of one core.

    Parameters
    ----------
    side : int
        Side T of the systolic array and of a tile; a local row holds T binary32 words. 4, 8, 16 or 32.
    lanes : int
        Binary32 lanes of the vector unit: a power of two, at most ``side``. A row takes ``side / lanes`` cycles.
    vmem_rows : int
        Rows of the vector memory, over ``vmem_banks`` banks. Power of two.
    vmem_banks : int
        Banks of the vector memory, interleaved by the low row address bits: 2, 4 or 8.
    acc_rows : int
        Rows of the accumulator memory, in two halves that can be used at the same time. Power of two.
    tiles : int
        Tiles of T x T bytes in the tile memory. Power of two.
    bus_width : int
        Data width of the AXI4 master in bits: 64, 128 or 256.
    addr_width : int
        Address bits of the AXI4 master, 32 to 64. A command address beyond them is a fault.
    max_burst : int
        Longest burst in beats, a power of two, 1 to 256.
    outstanding : int
        Bursts that each DMA engine may have in flight, 1 to 16.
    queue_depth : int
        Commands that wait in front of each engine, 1 to 16.
    tlb_entries : int
        Page translations that the MMU remembers (docs/mmu.md). Power of two, 2 to 64.
    contexts : int
        Command streams, each with a partition of the on-chip memories: 1, 2, 4 or 8. Each memory has at least that
        many times what a core needs of it.

    Raises
    ------
    ValueError
        For impossible parameters; the message says which one, its value, and what is allowed.
    """

    side: int = 16
    lanes: int = 16
    vmem_rows: int = 8192
    vmem_banks: int = 4
    acc_rows: int = 4096
    tiles: int = 512
    bus_width: int = 64
    addr_width: int = 40
    max_burst: int = 64
    outstanding: int = 4
    queue_depth: int = 4
    tlb_entries: int = 16
    contexts: int = 4

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{field.name} must be an integer, not {value!r}")
        self._choice("side", (4, 8, 16, 32))
        if not _is_power(self.lanes) or self.lanes > self.side:
            raise ValueError(f"lanes must be a power of two from 1 to side ({self.side}), not {self.lanes}")
        self._choice("vmem_banks", (2, 4, 8))
        for name, low, high in self._memories():
            self._power(name, low, high)
        self._choice("bus_width", (64, 128, 256))
        if self.bus_width > self.row_bits:
            raise ValueError(
                f"bus_width must be at most the width of a local row, side * 32 ({self.row_bits}), not {self.bus_width}"
            )
        self._range("addr_width", 32, 64)
        self._power("max_burst", 1, 256)
        if self.max_burst * self.bus_bytes > 4096:
            raise ValueError(
                f"max_burst must keep a burst within 4096 bytes ({4096 // self.bus_bytes} beats at bus_width "
                f"{self.bus_width}), not {self.max_burst}"
            )
        self._range("outstanding", 1, 16)
        self._range("queue_depth", 1, 16)
        self._power("tlb_entries", 2, 64)
        self._choice("contexts", (1, 2, 4, 8))
        for name, low, _ in self._memories():
            if (size := getattr(self, name)) < low * self.contexts:
                least = low * self.contexts
                raise ValueError(
                    f"{name} must be at least {least} ({low} for each of {self.contexts} contexts), not {size}"
                )

    def _memories(self) -> tuple[tuple[str, int, int], ...]:
        """The parameters that are sizes of on-chip memories, each with its least and its greatest value."""
        return ("vmem_rows", 4 * self.vmem_banks, _MAX_ROWS), ("acc_rows", 4, _MAX_ROWS), ("tiles", 4, _MAX_TILES)

    def _choice(self, name: str, allowed: tuple[int, ...]):
        if (value := getattr(self, name)) not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, not {value}")

    def _range(self, name: str, low: int, high: int):
        if not low <= (value := getattr(self, name)) <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value}")

    def _power(self, name: str, low: int, high: int):
        self._check_power(name, getattr(self, name), low, high)

    @staticmethod
    def _check_power(name: str, value: int, low: int, high: int):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, not {value!r}")
        if not _is_power(value) or not low <= value <= high:
            raise ValueError(f"{name} must be a power of two from {low} to {high}, not {value}")

    @property
    def side_bits(self) -> int:
        """Bits that number a row or column of a tile."""
        return _log2(self.side)

    @property
    def row_bits(self) -> int:
        """Bits of a local row: T binary32 words."""
        return self.side * 32

    @property
    def row_bytes(self) -> int:
        """Bytes of a local row."""
        return self.side * 4

    @property
    def bus_bytes(self) -> int:
        """Bytes of a bus beat; DMA addresses and strides are multiples of this."""
        return self.bus_width // 8

    @property
    def beats_per_row(self) -> int:
        """Bus beats that make a local row."""
        return self.row_bits // self.bus_width

    @property
    def vmem_addr_bits(self) -> int:
        """Bits that number a row of the vector memory."""
        return _log2(self.vmem_rows)

    @property
    def acc_addr_bits(self) -> int:
        """Bits that number a row of the accumulator memory."""
        return _log2(self.acc_rows)

    @property
    def tile_bits(self) -> int:
        """Bits that number a tile."""
        return _log2(self.tiles)

    @property
    def tile_row_bits(self) -> int:
        """Bits of a tile-row address, ``tile * T + row``."""
        return self.tile_bits + self.side_bits

    @property
    def sum_bits(self) -> int:
        """Bits of a column sum: T products of two int8 mantissas, signed."""
        return 16 + self.side_bits

    def partition(self, *, vmem_rows: int, acc_rows: int, tiles: int) -> "NpuConfig":
        """The core that the program of a context sees: this one with one context and smaller memories.

        Parameters
        ----------
        vmem_rows, acc_rows, tiles : int
            Sizes of the partition: powers of two, at least what a core needs, at most what this one has.

        Raises
        ------
        ValueError
            For a size that is not allowed; the message names it and what is.
        """
        sizes = {"vmem_rows": vmem_rows, "acc_rows": acc_rows, "tiles": tiles}
        for name, low, _ in self._memories():
            self._check_power(f"{name} of a partition", sizes[name], low, getattr(self, name))
        return replace(self, contexts=1, **sizes)

    def as_dict(self) -> dict[str, int]:
        """The parameters by name, in the order of their declaration."""
        return asdict(self)


PRESETS: dict[str, NpuConfig] = {
    "tiny": NpuConfig(side=4, lanes=4, vmem_rows=1024, acc_rows=256, tiles=512, max_burst=16, tlb_entries=4),
    "ecp5": NpuConfig(
        side=8, lanes=4, vmem_rows=2048, acc_rows=1024, tiles=512, max_burst=32, tlb_entries=8, contexts=1
    ),
    "default": NpuConfig(),
    "train": NpuConfig(vmem_rows=16384, tiles=1024, queue_depth=16),
    "large": NpuConfig(side=32, lanes=32, vmem_rows=8192, acc_rows=4096, tiles=512, bus_width=128),
}
"""Named configurations: ``tiny`` for Icarus and proofs, ``ecp5`` fits an LFE5U-85F, ``default`` is the 16x16 core,
``train`` the same with room for the parameters and the optimizer state of a network such as 784-64-10."""
