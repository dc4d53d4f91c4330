"""Memories full of page tables: made by hand to hold every case of an entry, and random ones."""

import random
from dataclasses import dataclass

import numpy as np
from lepton_npu.spec.translation import ASID_BITS, ENTRIES, PPN_LSB, RESERVED_LSB, Access, Pte
from lepton_verif.model.translation import BusError, Translation, translate

GOOD = Pte.V | Pte.R | Pte.W | Pte.U | Pte.A | Pte.D
BEYOND = 1 << 43
"""Bit of a page number that no bus reaches."""


@dataclass
class Memory:
    """Physical memory: whole pages that repeat over the address space; some answer with an error."""

    words: np.ndarray
    errors: np.ndarray

    @classmethod
    def empty(cls, pages: int) -> "Memory":
        return cls(np.zeros(pages * ENTRIES, np.uint64), np.zeros(pages, np.uint8))

    def __call__(self, address: int) -> int:
        word = address // 8 % len(self.words)
        if self.errors[word // ENTRIES]:
            raise BusError(hex(address))
        return int(self.words[word])

    def translate(self, root: int, page: int, access: int, addr_width: int) -> Translation:
        return translate(self, root, page << 12, Access(access), addr_width=addr_width)


def entries_of_every_kind() -> list[list[int]]:
    """Entries, as many as fit into a table each: every low byte, alone and with each bit of 63:54; each bit of 53:8.

    Those of 53:8 in leaves, read-only ones, global ones, and pointers. Pages 0 and 1 are what they point to.
    """
    low = list(range(256))
    cases = []
    for kind in (int(GOOD), int(Pte.V), int(GOOD & ~Pte.W & ~Pte.D), int(GOOD | Pte.X | Pte.G)):
        cases += [kind | 1 << PPN_LSB + n for n in range(44)]
        cases += [kind | 1 << n for n in range(8, 10)]
    reserved = [[byte | 1 << n + more for more in range(2) for byte in low] for n in range(RESERVED_LSB, 64, 2)]
    return [low + cases, *reserved]


def exhaustive(cases: list[int]) -> tuple[Memory, list[tuple[int, int]]]:
    """A memory with each of ``cases`` at each level, and the (root, page) whose walk meets it there.

    Page 0 is a table of good leaves that are aligned at any level; the tables under test are elsewhere. No two roots
    map the same page by a global entry.
    """
    memory = Memory.empty(16)
    table = memory.words.reshape(-1, ENTRIES)
    table[0] = int(GOOD)
    table[1] = int(GOOD) | 5 << PPN_LSB
    assert len(cases) <= ENTRIES
    under_test, one_above, two_above = 2, 3, 4
    table[under_test, : len(cases)] = cases
    table[one_above, 7] = int(Pte.V) | under_test << PPN_LSB
    table[two_above, 3] = int(Pte.V) | one_above << PPN_LSB
    places = []
    for index in range(len(cases)):
        # Level 2, 1, 0. Indices below, where the entry turns out to be a pointer, are 1 and 2.
        sign = -(index >= ENTRIES // 2)  # the highest bit of the highest index repeats above
        places.append((under_test, ((sign << 27 | index << 18) & (1 << 52) - 1) | 1 << 9 | 2))
        places.append((one_above, 7 << 18 | index << 9 | 2))
        places.append((two_above, 3 << 18 | 7 << 9 | index))
    return memory, places


def misaligned(numbers: np.random.Generator, addr_width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A memory of good leaves in which the low bits of the page number have every value: 18 at level 2, 9 at level 1.

    Returns the memory; and by request the root, the page, and the value of these bits.
    """
    count = ENTRIES * ENTRIES
    value = np.arange(count)
    high = numbers.integers(0, 1 << addr_width - 12 - 18, count) << 18
    words = np.zeros(2 * count, np.uint64)  # the number of pages is a power of two
    words[:count] = (value | high) << PPN_LSB | int(GOOD)
    words[count : count + ENTRIES] = (np.arange(ENTRIES) | high[:ENTRIES]) << PPN_LSB | int(GOOD)  # of level 1
    words[count + ENTRIES] = int(Pte.V) | ENTRIES << PPN_LSB
    index = value % ENTRIES
    sign = (index >> 8) * ((1 << 52) - (1 << 27))
    giga = sign | index << 18 | numbers.integers(0, 1 << 18, count)
    mega = np.arange(ENTRIES) << 9 | numbers.integers(0, ENTRIES, ENTRIES)
    root = np.concatenate([value // ENTRIES, np.full(ENTRIES, ENTRIES + 1)])
    values = np.concatenate([value, np.arange(ENTRIES)])
    return words, root.astype(np.uint64), np.concatenate([giga, mega]).astype(np.uint64), values


class RandomTables:
    """A memory of random tables, for ``roots`` address spaces of the ASIDs 0, 1, ....

    Addresses with a low half are of the space; those of the upper half are the same in all spaces, and may be global.

    Page ``roots`` on are tables that have no global entries, up to half of the memory; the other half are those of the
    upper half of addresses. Any table may be met at any level.
    """

    PAGES = 256

    def __init__(self, rng: random.Random, addr_width: int, roots: int = 32, *, shared: "RandomTables | None" = None):
        self.rng, self.roots, self.addr_width = rng, roots, addr_width
        numbers = np.random.default_rng(rng.getrandbits(32))
        half = self.PAGES // 2
        self.memory = Memory.empty(self.PAGES)
        table = self.memory.words.reshape(-1, ENTRIES)
        private = self._entries(numbers, (half, ENTRIES), roots, half, is_shared=False)
        table[:half], table[half:] = private, self._entries(numbers, (half, ENTRIES), half, self.PAGES, is_shared=True)
        table[:roots, ENTRIES // 2 :] = self._entries(numbers, (1, ENTRIES // 2), half, self.PAGES, is_shared=True)
        self.memory.errors[roots:] = numbers.choice([0, 2, 3], self.PAGES - roots, p=[0.97, 0.015, 0.015])

    def _entries(self, numbers, shape, low, high, *, is_shared) -> np.ndarray:
        def chance(p):
            return numbers.random(shape) < p

        frames = 1 << self.addr_width - 12
        kind = numbers.choice(4, shape, p=[0.5, 0.38, 0.08, 0.04])
        flags = np.full(shape, int(Pte.V), np.uint64)
        for bit in (Pte.A, Pte.D, Pte.U):
            flags |= np.where(chance(0.01), int(bit), 0).astype(np.uint64)
        leaf = np.full(shape, int(Pte.V | Pte.R | Pte.U | Pte.A), np.uint64)
        for bit, p in ((Pte.W, 0.7), (Pte.D, 0.8), (Pte.X, 0.3)):
            leaf |= np.where(chance(p), int(bit), 0).astype(np.uint64)
        for bit in (Pte.R, Pte.U, Pte.A):
            leaf &= ~np.where(chance(0.03), int(bit), 0).astype(np.uint64)
        flags = np.where(kind == 1, leaf, flags)
        flags = np.where(kind == 2, numbers.integers(0, 256, shape).astype(np.uint64), flags)
        flags = np.where(kind == 3, flags & ~np.uint64(Pte.V), flags)
        flags = flags & ~np.uint64(Pte.G) | np.where(is_shared & chance(0.2), int(Pte.G), 0).astype(np.uint64)
        # Pointers go to the pool, anywhere that it repeats; leaves anywhere, aligned for a level.
        pointer = numbers.integers(low, high, shape) + self.PAGES * numbers.integers(0, frames // self.PAGES, shape)
        aligned = numbers.integers(0, frames, shape) >> (s := numbers.choice([0, 9, 18], shape, p=[0.3, 0.3, 0.4])) << s
        is_leaf = (flags & np.uint64(Pte.R | Pte.X)) != 0
        page = np.where(is_leaf, aligned, pointer).astype(np.uint64)
        high_bits = np.uint64(1) << numbers.integers(self.addr_width - 12, 44, shape).astype(np.uint64)
        page |= np.where(chance(0.02), high_bits, np.uint64(0))
        reserved = np.where(
            chance(0.01), np.uint64(1) << numbers.integers(54, 64, shape).astype(np.uint64), np.uint64(0)
        )
        return flags | page << np.uint64(PPN_LSB) | reserved

    def requests(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pages, accesses, ASIDs and roots; the same pages come again, and their neighbours."""
        rng = self.rng
        pages = np.zeros(count, np.uint64)
        access, asid = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        recent: list[tuple[int, int]] = []
        for k in range(count):
            draw = rng.random()
            if recent and draw < 0.6:
                page, space = rng.choice(recent[-6:])
                if draw < 0.2:
                    page ^= rng.choice((1, 1 << 9, rng.getrandbits(18)))
                elif draw < 0.25:
                    space = rng.randrange(self.roots)
            else:
                page, space = rng.getrandbits(26), rng.randrange(self.roots)
                if rng.random() < 0.4:
                    page |= (1 << 52) - (1 << 26)
                if rng.random() < 0.03:
                    page ^= 1 << rng.randrange(26, 52)
            recent.append((page, space))
            pages[k], access[k], asid[k] = page, rng.randrange(3), space
        return pages, access, asid, asid.copy()

    def expected(self, requests) -> tuple[np.ndarray, np.ndarray, list[Translation]]:
        """Frames (0 where there is a fault), faults, and all that the model says."""
        pages, access, _, root = (a.tolist() for a in requests)
        results = [
            self.memory.translate(*request, self.addr_width) for request in zip(root, pages, access, strict=True)
        ]
        frames = np.array([(r.physical or 0) >> 12 for r in results], np.uint64)
        return frames, np.array([r.fault for r in results], np.uint64), results


assert 1 << ASID_BITS >= 64
