"""The Verilog of `Mmu` under Verilator: hundreds of thousands of translations, with random stalls."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from lepton_npu.mmu.mmu import Mmu
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import ASID_BITS, PAGE_BYTES, Access, Invalidate
from lepton_npu.verilog import generate

from .shared import build_shared

__all__ = ["MmuBench", "Requests", "Stalls", "Traffic"]

_WRONG = {
    1: "a read's address changed while it waited",
    2: "a read is not one aligned beat",
    3: "more than one read in flight",
    4: "more answers than requests",
    5: "no end within the limit of cycles",
    6: "busy after the last answer",
    7: "a read began while halt was high",
}


@dataclass
class Requests:
    """Requests of one requester, in their order, as arrays of equal length: pages (bits 63:12), access, ASID, root."""

    page: np.ndarray
    access: np.ndarray
    asid: np.ndarray
    root: np.ndarray

    def __len__(self) -> int:
        return len(self.page)

    def tags(self) -> np.ndarray:
        access, asid, root = (np.asarray(a, np.uint64) for a in (self.access, self.asid, self.root))
        return access | asid << np.uint64(2) | root << np.uint64(2 + ASID_BITS)


_CHANCES = ("request", "answer", "ar", "r", "invalidate", "halt")


class _Options(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint32) for name in _CHANCES),
        *((name, ctypes.c_uint32) for name in ("latency_low", "latency_high", "swap_answers")),
        ("limit", ctypes.c_uint64),
    ]


_COUNTS = ("cycles", "reads", "hits", "misses", "invalidations", "swapped")


class _Counts(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in _COUNTS]


@dataclass(frozen=True)
class Stalls:
    """Chance that a requester asks or takes an answer, and that AR and R move in a cycle; bounds of the latency.

    ``invalidate`` is the chance of an invalidation, of any kind, in a cycle; ``halt`` that of `halt` being high.
    """

    request: float = 1.0
    answer: float = 1.0
    ar: float = 1.0
    r: float = 1.0
    latency: tuple[int, int] = (1, 1)
    invalidate: float = 0.0
    halt: float = 0.0

    @classmethod
    def random(cls, rng: Random) -> "Stalls":
        """Any of them, or none."""
        low = rng.choice((0, 1, 7))
        return cls(
            request=rng.choice((1, 1, 0.3)),
            answer=rng.choice((1, 1, 0.3)),
            ar=rng.choice((1, 0.3)),
            r=rng.choice((1, 0.5)),
            latency=(low, low + rng.choice((0, 12))),
            invalidate=rng.choice((0, 0, 0.01, 0.04)),
            halt=rng.choice((0, 0, 0.3)),
        )


@dataclass
class Traffic:
    """What a run gave, by requester: frames, faults, and the cycles in which answers were taken; and its counts.

    ``reads`` are the addresses of the bus's reads, in their order, up to 4 for each request.
    """

    frame: list[np.ndarray]
    fault: list[np.ndarray]
    when: list[np.ndarray]
    counts: dict[str, int] = field(default_factory=dict)
    reads: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))


@cache
def _library(config: NpuConfig) -> ctypes.CDLL:
    verilog, _ = generate(Mmu(config), "mmu")
    source = Path(__file__).with_name("mmu.cpp").read_text()
    library = ctypes.CDLL(str(build_shared("mmu", verilog, source, defines={"BUS_WORDS": config.bus_width // 64})))
    library.create.restype = ctypes.c_void_p
    return library


class MmuBench:
    """A simulated `Mmu` with three requesters; it keeps its TLB from one run to the next.

    Parameters
    ----------
    config : NpuConfig
        With a bus of 64 or 128 bits, and addresses of at most 56.
    seed : int
        Of stalls and of the registers' contents before reset.
    """

    def __init__(self, config: NpuConfig, seed: int = 1):
        if config.bus_width > 128 or config.addr_width > 56:
            raise ValueError(
                f"config must have bus_width at most 128 and addr_width at most 56, "
                f"not {config.bus_width} and {config.addr_width}"
            )
        self._config = config
        self._library = _library(config)
        self._bench = ctypes.c_void_p(self._library.create(ctypes.c_uint64(seed)))

    def close(self) -> None:
        """Free the simulation."""
        self._library.destroy(self._bench)
        self._bench = ctypes.c_void_p()

    def invalidate(self, kind: Invalidate, *, asid: int = 0, page: int = 0) -> None:
        """One invalidation; ``page`` is bits 38:12 of an address."""
        self._library.invalidate(self._bench, ctypes.c_uint64(kind | asid << 2 | page << 2 + ASID_BITS))

    def run(
        self,
        requests: Sequence[Requests],
        memory: np.ndarray,
        errors: np.ndarray | None = None,
        *,
        stalls: Stalls = Stalls(),
        second: np.ndarray | None = None,
        swap_answers: int = 0,
    ) -> Traffic:
        """Ask for everything in ``requests`` (one or more of three requesters) and collect the answers.

        Parameters
        ----------
        memory : array of uint64
            Whole pages; an address is taken modulo their size.
        errors : array of uint8, optional
            Response of the reads of each page, 0 for OKAY.
        second : array of uint64, optional
            The memory that takes over some cycles after ``swap_answers`` answers, while everything is invalidated.

        Raises
        ------
        AssertionError
            If a rule of the bus is broken, answers are missing or there are too many.
        """
        requests = [*requests, *[Requests(*[np.zeros(0, np.uint64)] * 4)] * (len(Access) - len(requests))]
        memories = [np.ascontiguousarray(m, np.uint64) for m in (memory, memory if second is None else second)]
        words = len(memories[0])
        errors = np.zeros(words * 8 // PAGE_BYTES, np.uint8) if errors is None else np.asarray(errors, np.uint8)
        if words * 8 % PAGE_BYTES or len(memories[1]) != words or len(errors) * PAGE_BYTES != words * 8:
            raise ValueError("memories and errors must be of the same number of whole pages")
        pages = [np.ascontiguousarray(r.page, np.uint64) for r in requests]
        tags = [r.tags() for r in requests]
        answers = [np.zeros(len(r), np.uint64) for r in requests]
        when = [np.zeros(len(r), np.uint64) for r in requests]
        options = _Options(
            *(int(getattr(stalls, name) * 65536) for name in _CHANCES),
            *stalls.latency,
            swap_answers,
            limit=10_000 + 1_000 * sum(map(len, requests)),
        )
        counts = _Counts()
        pointer = ctypes.POINTER(ctypes.c_uint64)
        log = np.zeros(4 * sum(map(len, requests)), np.uint64)

        def pointers(arrays):
            return (pointer * len(arrays))(*(a.ctypes.data_as(pointer) for a in arrays))

        wrong = self._library.run(
            self._bench,
            ctypes.byref(options),
            (ctypes.c_uint64 * len(requests))(*map(len, requests)),
            *(pointers(arrays) for arrays in (pages, tags, answers, when, memories)),
            errors.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_uint64(words),
            ctypes.c_uint64((1 << self._config.addr_width) - 1),
            ctypes.byref(counts),
            log.ctypes.data_as(pointer),
            ctypes.c_uint64(len(log)),
        )
        assert wrong == 0, _WRONG[wrong]
        bits = np.uint64(self._config.addr_width - 12)
        return Traffic(
            [a & ((np.uint64(1) << bits) - np.uint64(1)) for a in answers],
            [a >> bits for a in answers],
            when,
            {name: getattr(counts, name) for name in _COUNTS},
            log[: counts.reads],
        )
