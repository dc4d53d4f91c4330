"""Many small random page tables in one memory, and what the model says of requests to them."""

from collections import Counter

import numpy as np
from lepton_npu.spec.translation import ASID_BITS, ENTRIES, PPN_BITS, PPN_LSB, RESERVED_LSB, VPN_BITS, Access, Pte

from .model.mmu import MmuModel
from .model.translation import BusError, Translation, translate

__all__ = ["TABLES", "RandomTables"]

TABLES = 1 << ASID_BITS
"""Tables of a memory, each of an ASID of its own."""

_PAGES = 8  # of a table: its root, three that mostly point to the next four, which are mostly leaves
_ROOT_INDICES = 2  # entries of a page that are not 0, at indices of the table's own: they serve at level 2,
_INDICES = 4  # and these at the levels below
_POINTERS = (0.8, 0.55, 0.55, 0.55, 0.15, 0.15, 0.15, 0.15)


class RandomTables:
    """`TABLES` tables, each with its own pages; entries of every kind, mostly good ones.

    A table maps 2 GiB of the address space that the others do not, so that its mappings may be global. Any of its
    pages may be met at any level, and entries may point to a page of another table. Memory repeats over the address
    space. Some pages answer with an error, some roots are beyond memory.

    Parameters
    ----------
    rng : numpy Generator
    addr_width : int
        Bits of a physical address, 33 or more.

    Attributes
    ----------
    words : array of uint64
        The memory.
    errors : array of uint8
        Response of the reads of each of its pages.
    roots : array of uint64
        Physical page number of each table's root.
    """

    def __init__(self, rng: np.random.Generator, addr_width: int):
        self._rng, self._addr_width = rng, addr_width
        self._frame_bits = addr_width - 12
        pages = TABLES * _PAGES
        own = np.arange(TABLES)[:, None] * _ROOT_INDICES + np.arange(_ROOT_INDICES)
        self._levels = rng.integers(0, ENTRIES, (TABLES, _INDICES))
        self._levels[:, 0] = rng.choice([0, ENTRIES - 1], TABLES)
        self._own = own
        entries = self._entries()
        self.words = np.zeros(pages * ENTRIES, np.uint64)
        index = np.concatenate([own, self._levels], axis=1)[:, None, :]
        place = np.arange(pages).reshape(TABLES, _PAGES, 1) * ENTRIES + index
        self.words[place.ravel()] = entries.ravel()
        self._known = dict(zip(place.ravel().tolist(), self.words[place.ravel()].tolist(), strict=True))
        self.errors = rng.choice(np.array([0, 2, 3], np.uint8), pages, p=[0.97, 0.015, 0.015])
        repeats = rng.integers(0, (1 << self._frame_bits) // pages, TABLES) * pages
        self.roots = (np.arange(TABLES) * _PAGES + repeats).astype(np.uint64)
        self.roots[self._chance(0.01, TABLES)] |= np.uint64(1) << np.uint64(rng.integers(self._frame_bits, PPN_BITS))

    def _chance(self, p, shape) -> np.ndarray:
        return self._rng.random(shape) < p

    def _entries(self) -> np.ndarray:
        """Entries of each table, page, index."""
        rng, shape = self._rng, (TABLES, _PAGES, _ROOT_INDICES + _INDICES)
        kind = rng.random(shape)
        pointers = np.array(_POINTERS)[:, None]
        leaf = np.full(shape, int(Pte.V | Pte.R | Pte.U | Pte.A))
        for bit, p in ((Pte.W, 0.8), (Pte.D, 0.9), (Pte.X, 0.3)):
            leaf |= self._chance(p, shape) * int(bit)
        leaf ^= self._chance(0.06, shape) << rng.integers(0, 8, shape)
        pointer = int(Pte.V) ^ self._chance(0.04, shape) << rng.integers(0, 8, shape)
        flags = np.where(kind < pointers, pointer, leaf)
        flags = np.where(kind > 0.95, rng.integers(0, 256, shape), flags)
        flags |= self._chance(0.1, shape) * int(Pte.G) | rng.integers(0, 4, shape) << 8  # bits 9:8 are software's
        # Pointers: the root's and the next pages' to what is below them, or to any page at all.
        page = np.arange(_PAGES)[:, None]
        below = rng.integers(np.where(page == 0, 1, 4) + 0 * kind.astype(int), _PAGES)
        to = np.arange(TABLES)[:, None, None] * _PAGES + below
        pages = TABLES * _PAGES
        to = np.where(self._chance(0.1, shape), rng.integers(0, pages, shape), to)
        to += pages * rng.integers(0, (1 << self._frame_bits) // pages, shape)
        # Leaves: aligned for a level, mostly the one that they are met at.
        level = np.where(page == 0, 2, np.where(page < 4, 1, 0)) + 0 * to
        level = np.where(self._chance(0.15, shape), rng.integers(0, 3, shape), level)
        frame = rng.integers(0, 1 << self._frame_bits, shape) >> VPN_BITS * level << VPN_BITS * level
        number = np.where(flags & int(Pte.R | Pte.X), frame, to)
        number |= self._chance(0.02, shape).astype(np.int64) << rng.integers(self._frame_bits, PPN_BITS, shape)
        reserved = self._chance(0.015, shape).astype(np.uint64)
        reserved <<= rng.integers(RESERVED_LSB, 64, shape).astype(np.uint64)
        return flags.astype(np.uint64) | number.astype(np.uint64) << np.uint64(PPN_LSB) | reserved

    def requests(self, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pages (bits 63:12), accesses, ASIDs, roots of ``each`` requests to a table; those to one table are near."""
        rng, shape = self._rng, (TABLES, each)
        table = np.arange(TABLES)[:, None]
        page = self._own[table, rng.integers(0, _ROOT_INDICES, shape)] << 2 * VPN_BITS
        for level in range(2):
            page |= self._levels[table, rng.integers(0, _INDICES, shape)] << VPN_BITS * level
        again = self._chance(0.3, shape)
        page = np.where(again, page[:, :1], page)
        page |= (page >> 3 * VPN_BITS - 1) * ((1 << 52) - (1 << 3 * VPN_BITS))  # bit 38 of the address repeats above
        page ^= self._chance(0.02, shape).astype(np.int64) << rng.integers(3 * VPN_BITS - 1, 52, shape)
        access, asid = rng.integers(0, len(Access), shape), table + 0 * page
        near = np.argsort((table + rng.random(shape) * 3).ravel())
        columns = (page, access, asid, self.roots[asid])
        pages, accesses, asids, roots = (a.ravel()[near].astype(np.uint64) for a in columns)
        return pages, accesses, asids, roots

    def _read(self, address: int) -> int:
        word = address // 8 % len(self.words)
        if self.errors[word // ENTRIES]:
            raise BusError(hex(address))
        return self._known.get(word, 0)

    def expected(self, requests: tuple[np.ndarray, ...], seen: Counter | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Frames (0 where there is a fault) and faults; ``seen`` counts (fault, reads, bytes of the page, global)."""
        page, access, _, root = (a.tolist() for a in requests)
        results: list[Translation] = [
            translate(self._read, r, p << 12, Access(a), addr_width=self._addr_width)
            for r, p, a in zip(root, page, access, strict=True)
        ]
        if seen is not None:
            seen.update((r.fault, len(r.reads), r.page_bytes, r.is_global) for r in results)
        frames = np.array([(r.physical or 0) >> 12 for r in results], np.uint64)
        return frames, np.array([r.fault for r in results], np.uint64)

    def expected_in_order(
        self, requests: tuple[np.ndarray, ...], tlb_entries: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Frames, faults, and the addresses of all reads, for one requester and a TLB that is empty at first."""
        model = MmuModel(tlb_entries, self._addr_width)
        reads: list[int] = []
        answers: list[tuple[int, int]] = []
        for page, access, asid, root in zip(*(a.tolist() for a in requests), strict=True):
            frame, walk = model.request(self._read, root, page, Access(access), asid)
            if walk is not None:
                frame = (walk.physical or 0) >> 12
                reads.extend(walk.reads)
            answers.append((frame or 0, walk.fault if walk else 0))
        frames, faults = np.array(answers, np.uint64).T
        return frames, faults, np.array(reads, np.uint64)
