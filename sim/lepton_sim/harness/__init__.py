"""The compiled harness: Verilator model, AXI4 memory and AXI4-Lite host in one shared library, no Python in the loop.

`Harness` runs a core hundreds of thousands of cycles a second (cocotb with a memory in Python reaches tens of
thousands); a call costs about a microsecond and releases the GIL.
"""

import ctypes
from dataclasses import dataclass, fields
from enum import IntEnum
from pathlib import Path

import numpy as np

__all__ = ["BusResponse", "ErrorRange", "Harness", "HarnessError", "Order", "Stalls"]


class HarnessError(RuntimeError):
    """The core broke an AXI rule, did not answer, or did not finish in time."""


class BusResponse(IntEnum):
    """AXI response codes (AMBA AXI and ACE, IHI 0022H, A3.4.4)."""

    OKAY = 0
    SLVERR = 2
    DECERR = 3


class Order(IntEnum):
    """When READY of AR, AW and W may rise; a memory may do any of this (IHI 0022H, A3.3.1)."""

    FREE = 0
    """In any cycle."""
    ADDRESS_FIRST = 1
    """A cycle after VALID at the earliest, and W's behind the handshake of AW."""
    DATA_FIRST = 2
    """A cycle after VALID at the earliest, and AW's behind VALID of W."""


@dataclass(frozen=True, kw_only=True)
class Stalls:
    """Chance, from 0 to below 1, that a channel of the memory holds back in a cycle; 0 is full rate."""

    ar: float = 0.0
    r: float = 0.0
    aw: float = 0.0
    w: float = 0.0
    b: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) < 1:
                raise ValueError(f"{field.name} must be from 0 to below 1, not {value}")

    @property
    def chances(self) -> list[int]:
        """In 1/65536, in the order ar, r, aw, w, b: what the memory compares 16 random bits with."""
        return [int(getattr(self, field.name) * 65536) for field in fields(self)]

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Stalls":
        """Stalls of every kind: some channels free, some busy, some nearly shut."""
        return cls(**{field.name: float(rng.choice([0.0, 0.1, 0.5, 0.9])) for field in fields(cls)})


@dataclass(frozen=True)
class ErrorRange:
    """Bytes ``first`` to ``last`` answer reads (or writes) with ``response``.

    The first ``after`` beats are answered as usual, then ``count`` with the error, or all of them (0), then as usual.
    """

    first: int
    last: int
    response: BusResponse
    on_write: bool
    after: int = 0
    count: int = 0


class _Settings(ctypes.Structure):
    _fields_ = [
        ("latency", ctypes.c_uint32),
        ("bandwidth", ctypes.c_uint32),
        ("stall", ctypes.c_uint32 * 5),
        ("interleave", ctypes.c_uint32),
        ("order", ctypes.c_uint32),
    ]


class _ErrorRange(ctypes.Structure):
    _fields_ = [
        ("first", ctypes.c_uint64),
        ("last", ctypes.c_uint64),
        ("response", ctypes.c_uint32),
        ("on_write", ctypes.c_uint32),
        ("after", ctypes.c_uint64),
        ("count", ctypes.c_uint64),
    ]


def _bind(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    u32, u64, handle = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p
    for name, result, arguments in (
        ("create", handle, [u64, u64]),
        ("destroy", None, [handle]),
        ("memory", ctypes.POINTER(ctypes.c_uint8), [handle]),
        ("cycle", u64, [handle]),
        ("accepted", u64, [handle]),
        ("beats", u64, [handle, ctypes.c_int]),
        ("reset", None, [handle, ctypes.c_int]),
        ("settings", None, [handle, ctypes.POINTER(_Settings), u64]),
        ("errors", None, [handle, ctypes.POINTER(_ErrorRange), u32]),
        ("error_beats", u64, [handle, u32]),
        ("register", ctypes.c_int, [handle, ctypes.c_int, u32, ctypes.POINTER(u32)]),
        ("run", ctypes.c_int, [handle, u64]),
        ("outstanding", ctypes.c_int, [handle]),
        ("violation", ctypes.c_char_p, [handle]),
        ("bursts", u64, [handle, ctypes.c_int, u32]),
        ("quiet_since", u64, [handle]),
        ("trace", ctypes.c_int, [handle, ctypes.c_char_p]),
    ):
        function = getattr(library, f"lepton_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class Harness:
    """One simulated core with its memory.

    Parameters
    ----------
    library : Path
        Made by `lepton_sim.harness.build.build_harness`.
    memory_size : int
        Bytes of memory behind the AXI4 port.
    base : int
        Byte address of the memory's first byte; accesses outside answer DECERR.

    Attributes
    ----------
    memory : numpy.ndarray
        The memory itself (uint8, no copy).
    """

    def __init__(self, library: Path, memory_size: int, *, base: int = 0):
        self._library = _bind(library)
        self._handle = self._library.lepton_create(memory_size, base)
        self._errors = 0
        self.base = base
        self.memory = np.ctypeslib.as_array(self._library.lepton_memory(self._handle), (memory_size,))
        self.reset()

    def __enter__(self) -> "Harness":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Free the model. The memory array must not be used afterwards."""
        if self._handle:
            self.memory = np.zeros(0, np.uint8)
            self._library.lepton_destroy(self._handle)
            self._handle = None

    @property
    def cycle(self) -> int:
        """Clock cycles since creation, resets included."""
        return self._library.lepton_cycle(self._handle)

    @property
    def accepted(self) -> int:
        """The cycle in which the core took the last register access: its address, and the data of a write."""
        return self._library.lepton_accepted(self._handle)

    @property
    def beats(self) -> tuple[int, int]:
        """Data beats (read, written) on the AXI4 port."""
        return self._library.lepton_beats(self._handle, 0), self._library.lepton_beats(self._handle, 1)

    @property
    def outstanding(self) -> int:
        """AXI transactions that are not finished."""
        return self._library.lepton_outstanding(self._handle)

    @property
    def quiet_since(self) -> int:
        """The first cycle since which nothing has been offered by the core, or unfinished, on the AXI4 port."""
        return self._library.lepton_quiet_since(self._handle)

    def bursts(self, beats: int, *, write: bool) -> int:
        """Bursts of 1 to 256 ``beats`` whose address the memory has taken since creation."""
        return self._library.lepton_bursts(self._handle, write, beats)

    def reset(self, cycles: int = 4):
        """Hard reset for some cycles; what the memory had in flight is forgotten."""
        self._library.lepton_reset(self._handle, cycles)

    def configure(
        self,
        *,
        latency: int = 0,
        bandwidth: int = 1,
        stalls: Stalls | None = None,
        interleave: bool = False,
        order: Order = Order.FREE,
        seed: int = 0,
    ):
        """Set how the memory answers, from now on; the rules, cycle by cycle, are in docs/verification.md.

        Parameters
        ----------
        latency : int
            Cycles from an address (or the last beat of a write) to the first beat of its answer, beyond the least of 1.
        bandwidth : int
            Cycles a data beat takes: at most one on R and one on W in any ``bandwidth`` cycles. 1 is full rate.
        stalls : Stalls
            Random ones, besides; they come from ``seed``.
        interleave : bool
            Whether R beats of different IDs alternate at random; else bursts are answered in the order they came in.
        order : Order
            What READY waits for.

        Raises
        ------
        ValueError
            For a latency below 0, or a bandwidth below 1.
        """
        stalls = stalls or Stalls()
        for name, value, least in (("latency", latency, 0), ("bandwidth", bandwidth, 1)):
            if not least <= value < 1 << 32:
                raise ValueError(f"{name} must be from {least} to 2^32 - 1 cycles, not {value}")
        settings = _Settings(latency, bandwidth, (ctypes.c_uint32 * 5)(*stalls.chances), int(interleave), int(order))
        self._library.lepton_settings(self._handle, ctypes.byref(settings), seed)

    def inject_errors(self, ranges: list[ErrorRange]):
        """Answer accesses to these bytes with errors, from now on: beats are counted from here."""
        array = (_ErrorRange * max(len(ranges), 1))(
            *(_ErrorRange(r.first, r.last, int(r.response), int(r.on_write), r.after, r.count) for r in ranges)
        )
        self._library.lepton_errors(self._handle, array, len(ranges))
        self._errors = len(ranges)

    @property
    def error_beats(self) -> list[int]:
        """Of each range given to `inject_errors`: beats to its bytes since then."""
        return [self._library.lepton_error_beats(self._handle, number) for number in range(self._errors)]

    def trace(self, path: Path):
        """Write a VCD from here on.

        Raises
        ------
        HarnessError
            If the library was built without tracing.
        """
        if not self._library.lepton_trace(self._handle, str(path).encode()):
            raise HarnessError("this harness was built without tracing; build it with trace=True")

    def write(self, address: int, value: int):
        """Write a 32-bit register.

        Raises
        ------
        HarnessError
            If the answer is not OKAY, or a rule of the bus was broken meanwhile.
        """
        self._access(True, address, value)

    def read(self, address: int) -> int:
        """Read a 32-bit register."""
        return self._access(False, address, 0)

    def _access(self, write: bool, address: int, value: int) -> int:
        cell = ctypes.c_uint32(value)
        response = self._library.lepton_register(self._handle, write, address, ctypes.byref(cell))
        if response != BusResponse.OKAY:
            answer = "no answer" if response < 0 else f"response {response}"
            raise HarnessError(f"register 0x{address:03x}: {answer} to a {'write' if write else 'read'}")
        self._check()
        return cell.value

    def _check(self):
        if violation := self._library.lepton_violation(self._handle).decode():
            raise HarnessError(f"AXI rule broken, {violation}")

    def run(self, max_cycles: int) -> bool:
        """Clock until the interrupt is up or ``max_cycles`` have passed; returns whether it is up.

        Raises
        ------
        HarnessError
            When a rule of the bus was broken (``axi_checker.h``).
        """
        up = bool(self._library.lepton_run(self._handle, max_cycles))
        self._check()
        return up
