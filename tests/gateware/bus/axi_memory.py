"""An AXI4 memory for Amaranth's simulator: random stalls, latency, interleaving, errors, the protocol's rules."""

import random
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from lepton_npu.bus.axi import LOAD_ID, STORE_ID
from lepton_npu.spec.config import NpuConfig

from tests.gateware.simulation import Pins

PAGE = 4096
OKAY, SLVERR, DECERR = 0, 2, 3
CHANNELS = {
    "ar": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "aw": ("id", "addr", "len", "size", "burst", "cache", "prot"),
    "w": ("data", "strb", "last"),
}
_DRIVEN = ("arready", "awready", "wready", "rvalid", "rid", "rdata", "rlast", "rresp", "bvalid", "bid", "bresp")


@dataclass
class Burst:
    """A burst that was taken, and how many of its beats are done; ``due`` is the first cycle of an answer."""

    id: int
    addr: int
    beats: int
    due: int
    sent: int = 0
    error: int = OKAY


@dataclass
class Stalls:
    """Probability with which each channel moves in a cycle, and bounds of the latency in cycles."""

    ar: float = 1.0
    r: float = 1.0
    aw: float = 1.0
    w: float = 1.0
    b: float = 1.0
    latency: tuple[int, int] = (1, 1)
    fetch: float = 0.0
    local: float = 1.0
    gap: int = 0

    @classmethod
    def draw(cls, rng: random.Random) -> "Stalls":
        channels = {name: rng.choice((1, 1, 0.6, 0.2)) for name in ("ar", "r", "aw", "w", "b", "local")}
        low = rng.choice((1, 1, 5))
        return cls(
            **channels,
            latency=(low, low + rng.choice((0, 4, 25))),
            fetch=rng.choice((0, 0.2, 0.8)),
            gap=rng.choice((0, 0, 6)),
        )


@dataclass
class AxiMemory:
    """``size`` bytes around address 0, modulo ``2**addr_width``: the last half of the address space's end comes first.

    Bursts of one ID are answered in order, those of different IDs interleaved beat by beat. ``bad`` are ranges of
    addresses with an error response; so is all that is not memory. `drive`, then sample, then the clock edge: `observe`
    reads the handshakes of the cycle that `drive` has begun.
    """

    config: NpuConfig
    rng: random.Random
    size: int = 1 << 15
    stalls: Stalls = field(default_factory=Stalls)
    bad: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self):
        self.data = np.frombuffer(self.rng.randbytes(self.size), np.uint8).copy()
        self.cycle = 0
        self.reads: dict[int, deque[Burst]] = {}
        self.writes: deque[Burst] = deque()  # taken, beats missing
        self.answers: deque[Burst] = deque()
        self.early: deque[tuple[int, int, int]] = deque()  # write data whose address has not come
        self.read_log: list[Burst] = []
        self.write_log: list[Burst] = []
        self.write_beats: list[tuple[int, int, int]] = []
        self.acknowledged = 0
        self.most = {"reads": 0, "writes": 0}
        self._held: dict[str, tuple] = {}
        self._r: Burst | None = None
        self._b = False
        self._pins: Pins | None = None

    # ---- Contents.

    def place(self, address: int) -> int:
        """Index of a byte; ``size`` or more if there is none."""
        return (address + self.size // 2) % (1 << self.config.addr_width)

    def response(self, address: int) -> int:
        """Of a beat."""
        for low, high, response in self.bad:
            if low <= address < high:
                return response
        return OKAY if self.place(address) < self.size else DECERR

    def beat(self, address: int) -> int:
        start = self.place(address)
        return int.from_bytes(self.data[start : start + self.config.bus_bytes].tobytes(), "little")

    @property
    def unfinished(self) -> bool:
        """Whether a transaction has begun and not ended."""
        return any(self.reads.values()) or bool(self.writes or self.answers or self.early)

    # ---- Cycles.

    def _moves(self, channel: str) -> bool:
        return self.rng.random() < getattr(self.stalls, channel)

    def drive(self, ctx, port):
        """What the memory offers in this cycle. RVALID and BVALID stay until they are taken."""
        if self._pins is None:
            self._pins = Pins(*(getattr(port, name) for name in _DRIVEN))
        values = [self._moves(channel) for channel in ("ar", "aw", "w")]
        if self._r is None and self._moves("r"):
            ready = [queue[0] for queue in self.reads.values() if queue and queue[0].due <= self.cycle]
            self._r = self.rng.choice(ready) if ready else None
        values.append(self._r is not None)
        if self._r is None:
            # Not defined while RVALID is low: nothing may depend on it.
            values += [self.rng.getrandbits(len(getattr(port, name))) for name in ("rid", "rdata", "rlast", "rresp")]
        else:
            burst, address = self._r, self._r.addr + self._r.sent * self.config.bus_bytes
            response = self.response(address)
            data = self.beat(address) if response == OKAY else self.rng.getrandbits(len(port.rdata))
            values += [burst.id, data, burst.sent == burst.beats - 1, response]
        if not self._b:
            self._b = bool(self.answers) and self.answers[0].due <= self.cycle and self._moves("b")
        values.append(self._b)
        values.append(self.answers[0].id if self._b else self.rng.getrandbits(len(port.bid)))
        values.append(self.answers[0].error if self._b else self.rng.getrandbits(2))
        self._pins.set(ctx, *values)

    def observe(self, ctx, port):
        """The handshakes of this cycle, and what the master may not do."""
        if self._r is not None and ctx.get(port.rready):
            self._r.sent += 1
            if self._r.sent == self._r.beats:
                self.reads[self._r.id].popleft()
            self._r = None
        if self._b and ctx.get(port.bready):
            self.acknowledged += self.answers.popleft().beats
            self._b = False
        for channel, names in CHANNELS.items():
            valid, ready = ctx.get(getattr(port, f"{channel}valid")), ctx.get(getattr(port, f"{channel}ready"))
            now = tuple(ctx.get(getattr(port, channel + name)) for name in names) if valid else None
            if channel in self._held:
                assert now == self._held.pop(channel), f"{channel} changed while it waited (IHI 0022H, A3.2.1)"
            if valid and not ready:
                self._held[channel] = now
            if valid and ready:
                getattr(self, f"_{channel}")(*now)
        pending = sum(len(queue) for number, queue in self.reads.items() if number == LOAD_ID)
        self.most["reads"] = max(self.most["reads"], pending)
        self.most["writes"] = max(self.most["writes"], len(self.writes) + len(self.answers))
        self.cycle += 1

    def _burst(self, number, addr, length, size, burst, cache, prot) -> Burst:
        config = self.config
        width, beats = config.bus_bytes, length + 1
        assert (1 << size, burst) == (width, 1), "not an INCR burst of whole beats"
        assert addr % width == 0, f"address 0x{addr:x} is not aligned"
        assert beats <= config.max_burst or number not in (LOAD_ID, STORE_ID), f"{beats} beats"
        assert addr // PAGE == (addr + beats * width - 1) // PAGE, f"0x{addr:x} and {beats} beats cross 4 KiB (A3.4.1)"
        return Burst(number, addr, beats, self.cycle + self.rng.randint(*self.stalls.latency))

    def _ar(self, *values):
        burst = self._burst(*values)
        self.reads.setdefault(burst.id, deque()).append(burst)
        self.read_log.append(burst)

    def _aw(self, *values):
        burst = self._burst(*values)
        assert burst.id == STORE_ID
        self.writes.append(burst)
        self.write_log.append(burst)
        while self.early and self.writes:
            self._write(*self.early.popleft())

    def _w(self, *beat):
        if self.writes:
            self._write(*beat)
        else:
            self.early.append(beat)

    def _write(self, data: int, strobes: int, last: int):
        burst, width = self.writes[0], self.config.bus_bytes
        address = burst.addr + burst.sent * width
        self.write_beats.append((address, data, strobes))
        response = self.response(address)
        burst.error = burst.error or response
        if response == OKAY:
            for byte in range(width):
                if strobes >> byte & 1:
                    self.data[self.place(address) + byte] = data >> 8 * byte & 0xFF
        burst.sent += 1
        assert last == (burst.sent == burst.beats), "WLAST is not at the last beat"
        if last:
            self.writes.popleft()
            burst.due = self.cycle + self.rng.randint(*self.stalls.latency)
            self.answers.append(burst)
