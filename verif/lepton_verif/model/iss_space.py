"""The address space that the simulated core's commands and ring are in."""

from collections.abc import Iterator

from lepton_npu.spec.commands import FaultCause
from lepton_npu.spec.translation import PAGE_BYTES, Access, TranslationFault

from .iss_state import CoreState, EngineFaultError
from .translation import BusError, translate

__all__ = ["CAUSES", "AddressSpace"]

CAUSES: dict[TranslationFault, FaultCause] = {
    fault: FaultCause[fault.name] for fault in TranslationFault if fault != TranslationFault.NONE
}
"""How the core reports what a translation ends in (docs/mmu.md, section 4)."""

_STRAIGHT = 1 << 24  # bytes; a command with huge strides has few pages and great gaps


class AddressSpace:
    """Pages by the table with root page ``root``, as docs/mmu.md says; those found once are kept, faults never are.

    Parameters
    ----------
    state : CoreState
        In whose host memory the table is.
    root : int
        Physical page number of the root table.
    """

    def __init__(self, state: CoreState, root: int):
        self._state, self._root = state, root
        self._frames: dict[tuple[int, bool], int] = {}

    def forget(self):
        """What an invalidation does: pages are looked for in the table again."""
        self._frames.clear()

    def _word(self, address: int) -> int:
        state = self._state
        if not state.holds(address, 8):
            raise BusError
        start = address - state.base
        return int.from_bytes(state.memory[start : start + 8].tobytes(), "little")

    def physical(self, address: int, access: Access) -> int:
        """Where byte ``address`` is in memory.

        Raises
        ------
        EngineFaultError
            With the cause, and ``address``.
        """
        key = (address // PAGE_BYTES, access == Access.WRITE)
        frame = self._frames.get(key)
        if frame is None:
            found = translate(self._word, self._root, address, access, addr_width=self._state.config.addr_width)
            if found.physical is None:
                raise EngineFaultError(CAUSES[found.fault], address)
            frame = self._frames[key] = found.physical // PAGE_BYTES
        return frame * PAGE_BYTES + address % PAGE_BYTES

    def pieces(self, address: int, length: int, access: Access) -> Iterator[tuple[int, int, int]]:
        """Bytes from ``address`` on, page by page: offset, place in memory, bytes.

        Raises
        ------
        EngineFaultError
            With the cause, and the first byte that has no place.
        """
        offset = 0
        while offset < length:
            here = min(length - offset, PAGE_BYTES - (address + offset) % PAGE_BYTES)
            yield offset, self.physical(address + offset, access), here
            offset += here

    def straight(self, low: int, high: int, access: Access) -> int | None:
        """Place in memory of byte ``low``, if all bytes to ``high`` follow it there; None if not, or for very many."""
        if high - low > _STRAIGHT:
            return None
        try:
            pieces = list(self.pieces(low, high - low, access))
        except EngineFaultError:
            return None
        first = pieces[0][1]
        return first if all(place == first + offset for offset, place, _ in pieces) else None
