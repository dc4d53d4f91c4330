"""The rules of an AXI4 port for cocotb: written from the specification, apart from the compiled harness's checker.

AMBA AXI and ACE, IHI 0022H. Both say the same of the same traces (tests/sim/test_axi_rules.py).
"""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["CHANNELS", "AxiLimits", "AxiMonitor", "AxiRuleError", "watch"]

_INCR = 1
_PAGE = 4096

_MASTERS = {
    "ar": ("addr", "id", "len", "size", "burst", "cache", "prot"),
    "aw": ("addr", "id", "len", "size", "burst", "cache", "prot"),
    "w": ("last", "strb", "data"),
}
_SLAVES = {"r": ("last", "id", "resp", "data"), "b": ("id", "resp")}
CHANNELS = _MASTERS | _SLAVES
"""The payloads of the channels, by their names in the port."""


class AxiRuleError(AssertionError):
    """A rule was broken; the message names cycle, channel and rule."""


@dataclass(frozen=True)
class AxiLimits:
    """What an ID may do: the longest burst in beats, and bursts in flight."""

    longest: int
    most: int


class AxiMonitor:
    """Follows the port cycle by cycle.

    Parameters
    ----------
    width : int
        Bytes of a beat.
    reads, writes : dict of int to AxiLimits, optional
        By ID; None: any ID, and any legal burst.
    """

    def __init__(
        self, width: int, reads: dict[int, AxiLimits] | None = None, writes: dict[int, AxiLimits] | None = None
    ):
        self._width = width
        self._limits = {"ar": reads, "aw": writes}
        self.cycle = 0
        self._forget()

    def _forget(self):
        self._held: dict[str, tuple[int, ...]] = {}
        self._reads: dict[int, deque[int]] = defaultdict(deque)
        self._writes: deque[tuple[int, int]] = deque()  # ID, beats that miss
        self._answers: list[int] = []
        self._early: deque[int] = deque()
        self._flying = {"ar": defaultdict(int), "aw": defaultdict(int)}

    def _broken(self, channel: str, rule: str) -> AxiRuleError:
        return AxiRuleError(f"cycle {self.cycle}: {channel.upper()}: {rule}")

    def _expect(self, good: bool, channel: str, rule: str):
        if not good:
            raise self._broken(channel, rule)

    def clock(self, now: Mapping[str, int], *, reset: bool = False):
        """One cycle: the signals just before its edge, by their names (``arvalid``, ...).

        Raises
        ------
        AxiRuleError
            At the first rule that is broken.
        """
        if reset:
            for channel in _MASTERS:
                self._expect(not now[f"{channel}valid"], "port", "VALID is high in reset")
            self._forget()
        else:
            for channel, names in CHANNELS.items():
                self._channel(channel, names, now)
        self.cycle += 1

    def _channel(self, channel: str, names: tuple[str, ...], now: Mapping[str, int]):
        valid, ready = now[f"{channel}valid"], now[f"{channel}ready"]
        payload = tuple(now[channel + name] for name in names) if valid else ()
        held = self._held.pop(channel, None)
        if held is not None:
            self._expect(bool(valid), channel, "VALID fell before READY")
            self._expect(payload == held, channel, "payload changed while VALID waited")
        if valid and not ready:
            self._held[channel] = payload
        if valid and channel in self._limits:
            self._burst(channel, dict(zip(names, payload, strict=True)), bool(ready))
        elif valid and ready:
            getattr(self, f"_{channel}")(*payload)

    def _burst(self, channel: str, burst: dict[str, int], taken: bool):
        beats, number = burst["len"] + 1, burst["id"]
        self._expect(
            (1 << burst["size"], burst["burst"]) == (self._width, _INCR), channel, "not an INCR burst of whole beats"
        )
        self._expect(burst["addr"] % self._width == 0, channel, "address not aligned to a beat")
        self._expect(burst["addr"] % _PAGE + beats * self._width <= _PAGE, channel, "burst crosses 4 KiB")
        limits = self._limits[channel]
        limit = AxiLimits(256, 1 << 30) if limits is None else limits.get(number)
        if limit is None:
            raise self._broken(channel, "ID has no such transactions")
        self._expect(beats <= limit.longest, channel, "burst longer than its ID's")
        if not taken:
            return
        self._flying[channel][number] += 1
        self._expect(self._flying[channel][number] <= limit.most, channel, "too many bursts in flight of its ID")
        if channel == "ar":
            self._reads[number].append(beats)
            return
        self._writes.append((number, beats))
        while self._early and self._writes:
            self._beat(self._early.popleft())

    def _beat(self, last: int):
        number, beats = self._writes.popleft()
        self._expect(bool(last) == (beats == 1), "w", "WLAST does not mark the last beat")
        if beats > 1:
            self._writes.appendleft((number, beats - 1))
        else:
            self._answers.append(number)

    def _w(self, last: int, _strobes: int, _data: int):
        if self._writes:
            self._beat(last)
        else:
            self._early.append(last)

    def _r(self, last: int, number: int, _response: int, _data: int):
        queue = self._reads[number]
        self._expect(bool(queue), "r", "a beat of no burst")
        queue[0] -= 1
        self._expect(bool(last) == (queue[0] == 0), "r", "RLAST does not mark the last beat")
        if queue[0] == 0:
            queue.popleft()
            self._flying["ar"][number] -= 1

    def _b(self, number: int, _response: int):
        self._expect(number in self._answers, "b", "an answer to no burst")
        self._answers.remove(number)
        self._flying["aw"][number] -= 1

    @property
    def unfinished(self) -> int:
        """Bursts whose address was taken, and that are not answered."""
        return sum(sum(flying.values()) for flying in self._flying.values())


async def watch(dut, monitor: AxiMonitor):
    """Task of a cocotb testbench: every cycle of the port ``m_axi_*``, from the first edge in reset on.

    Raises
    ------
    AxiRuleError
        At a rule that is broken; also for an X on VALID or READY, or on a payload while its VALID is high.
    """
    from cocotb.triggers import RisingEdge

    names = [f"{channel}{name}" for channel, names in CHANNELS.items() for name in (*names, "valid", "ready")]
    port = {name: getattr(dut, f"m_axi_{name}") for name in names}
    controls = [f"{channel}{name}" for channel in CHANNELS for name in ("valid", "ready")]
    await RisingEdge(dut.clk)
    while True:
        await RisingEdge(dut.clk)
        reset = bool(dut.rst.value)
        now: dict[str, int] = {}
        for name in controls:
            value = port[name].value
            if not value.is_resolvable:
                raise AxiRuleError(f"cycle {monitor.cycle}: {name} is {value}")
            now[name] = int(value)
        for channel, payload in CHANNELS.items():
            for name in payload if now[f"{channel}valid"] else ():
                value = port[channel + name].value
                if not value.is_resolvable:
                    raise AxiRuleError(f"cycle {monitor.cycle}: {channel}{name} is {value} while VALID is high")
                now[channel + name] = int(value)
        monitor.clock(now, reset=reset)
