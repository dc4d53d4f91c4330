"""An AXI4 memory for cocotb with the timing of the compiled harness's, cycle by cycle and stall by stall."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["AxiMemory", "Timing"]

OKAY, DECERR = 0, 3
AR, R, AW, W, B = range(5)
_INCR = 1


@dataclass
class _Burst:
    number: int
    address: int
    beats: int
    ready_at: int = 0
    done: int = 0
    response: int = OKAY


class _Random:
    """The harness's generator: 16 bits at a time of D. E. Knuth's 64-bit linear congruential one (MMIX)."""

    def __init__(self, seed: int):
        self._state = (seed * 0x9E3779B97F4A7C15 + 1) % (1 << 64)

    def next16(self) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return self._state >> 48

    def chance(self, of65536: int) -> bool:
        return of65536 != 0 and self.next16() < of65536


@dataclass(frozen=True)
class Timing:
    """Settings as in `lepton_sim.harness.Harness.configure`; ``stalls`` in 1/65536, for ar, r, aw, w, b."""

    latency: int = 0
    bandwidth: int = 1
    stalls: Sequence[int] = (0, 0, 0, 0, 0)
    interleave: bool = False
    seed: int = 0


class AxiMemory:
    """The memory behind the core's port ``m_axi_*``; the rules are in docs/verification.md.

    Its owner calls `drive` in the first half of a cycle, waits for the rising edge, and then calls `sample`, which must
    see what the signals were before the edge.

    Parameters
    ----------
    dut
        The core's top.
    memory : numpy.ndarray
        uint8, from byte address ``base`` on; accesses outside answer DECERR, and read 0xDB.
    base : int

    Attributes
    ----------
    cycle : int
        Calls of `sample`, and what the owner adds.
    beats : list of int
        Data beats read and written.
    """

    def __init__(self, dut, memory: np.ndarray, base: int):
        self.memory, self.base = memory, base
        self.cycle = 0
        self.beats = [0, 0]
        names = (
            "arid araddr arlen arsize arburst arvalid arready rid rdata rresp rlast rvalid rready "
            "awid awaddr awlen awsize awburst awvalid awready wdata wstrb wlast wvalid wready bid bresp bvalid bready"
        )
        self._port = {name: getattr(dut, f"m_axi_{name}") for name in names.split()}
        self._width = len(self._port["rdata"]) // 8
        self.configure(Timing())
        self.reset()

    def configure(self, timing: Timing):
        """Answer like this from now on."""
        self._timing, self._random = timing, _Random(timing.seed)

    def reset(self):
        """Forget what is in flight, and offer nothing."""
        self._reads: dict[int, deque[_Burst]] = {}
        self._order: list[int] = []
        self._writes: deque[_Burst] = deque()
        self._answers: deque[_Burst] = deque()
        self._data: deque[tuple[int, int, int]] = deque()
        self._r: int | None = None
        self._b = False
        self._free = {R: 0, W: 0}
        self._ready = {AR: False, AW: False, W: False}
        self._show()

    def _get(self, name: str) -> int:
        return int(self._port[name].value)

    def _set(self, name: str, value: int):
        self._port[name].value = value

    def _choose_read(self):
        if self._r is not None or self.cycle < self._free[R]:
            return
        ready = [number for number, queue in sorted(self._reads.items()) if queue and queue[0].ready_at <= self.cycle]
        if not ready or self._random.chance(self._timing.stalls[R]):
            return
        if self._timing.interleave:
            self._r = ready[self._random.next16() % len(ready)]
        elif self._order[0] in ready:
            self._r = self._order[0]

    def drive(self):
        """What the memory offers in this cycle. The order of the draws is the harness's."""
        self._choose_read()
        chance, stalls = self._random.chance, self._timing.stalls
        self._ready[AR] = not chance(stalls[AR])
        self._ready[AW] = not chance(stalls[AW])
        self._ready[W] = not chance(stalls[W]) and self.cycle >= self._free[W]
        if not self._b and self._answers and self._answers[0].ready_at <= self.cycle and not chance(stalls[B]):
            self._b = True
        self._show()

    def _show(self):
        for channel, name in ((AR, "arready"), (AW, "awready"), (W, "wready")):
            self._set(name, self._ready[channel])
        self._set("rvalid", self._r is not None)
        if self._r is not None:
            burst = self._reads[self._r][0]
            place = self._place(burst.address + burst.done * self._width)
            self._set("rid", self._r)
            self._set("rlast", burst.done + 1 == burst.beats)
            self._set("rresp", DECERR if place is None else OKAY)
            beat = b"\xdb" * self._width if place is None else self.memory[place : place + self._width].tobytes()
            self._set("rdata", int.from_bytes(beat, "little"))
        self._set("bvalid", self._b)
        if self._b:
            self._set("bid", self._answers[0].number)
            self._set("bresp", self._answers[0].response)

    def _place(self, address: int) -> int | None:
        """Index of a beat's first byte, or None outside the memory."""
        place = address - self.base
        return place if place >= 0 and place + self._width <= self.memory.size else None

    def sample(self):
        """The handshakes of this cycle, whose end it is."""
        if self._ready[AR] and self._get("arvalid"):
            burst = self._burst("ar")
            burst.ready_at = self.cycle + 1 + self._timing.latency
            self._reads.setdefault(burst.number, deque()).append(burst)
            self._order.append(burst.number)
        if self._r is not None and self._get("rready"):
            burst = self._reads[self._r][0]
            self.beats[0] += 1
            self._free[R] = self.cycle + self._timing.bandwidth
            burst.done += 1
            if burst.done == burst.beats:
                self._reads[self._r].popleft()
                self._order.remove(self._r)
            self._r = None
        if self._ready[AW] and self._get("awvalid"):
            self._writes.append(self._burst("aw"))
        if self._ready[W] and self._get("wvalid"):
            self._data.append((self._get("wdata"), self._get("wstrb"), self._get("wlast")))
            self.beats[1] += 1
            self._free[W] = self.cycle + self._timing.bandwidth
        if self._b and self._get("bready"):
            self._answers.popleft()
            self._b = False
        while self._writes and self._data:
            self._write(*self._data.popleft())
        self.cycle += 1

    def _burst(self, channel: str) -> _Burst:
        number, address, beats = (self._get(channel + name) for name in ("id", "addr", "len"))
        size, kind = self._get(f"{channel}size"), self._get(f"{channel}burst")
        assert (1 << size, kind, address % self._width) == (self._width, _INCR, 0), f"{channel}: burst 0x{address:x}"
        return _Burst(number, address, beats + 1)

    def _write(self, data: int, strobes: int, last: int):
        burst = self._writes[0]
        place = self._place(burst.address + burst.done * self._width)
        if place is None:
            burst.response = DECERR
        else:
            for byte in range(self._width):
                if strobes >> byte & 1:
                    self.memory[place + byte] = data >> 8 * byte & 0xFF
        burst.done += 1
        assert last == (burst.done == burst.beats), "W: WLAST does not mark the last beat"
        if last:
            burst.ready_at = self.cycle + 1 + self._timing.latency
            self._answers.append(self._writes.popleft())
