"""Rules of AXI4 (AMBA AXI and ACE, IHI 0022H, part A), as conditions with the ghost state that they need.

Units behind the port speak in streams of bursts and beats; the port itself has AMBA's signals. Both have the same
rules, so what is proven of a unit is what is assumed of it in the proof of the port.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Mux, Signal, Value
from lepton_npu.spec.config import NpuConfig

from .harness import Harness
from .streams import stable

__all__ = ["Lengths", "WriteBursts", "address_rules", "read_data", "write_answers", "write_data_rules"]

_PAGE = 4096

Claim = Callable[[str, Any], None]
"""`Harness.prove` or `Harness.assume`."""


class Lengths:
    """A queue of AxLEN, ``depth`` bursts: those begun that are not ended. Number 0 is the oldest."""

    def __init__(self, h: Harness, name: str, depth: int, enters: Value, length: Value, leaves: Value):
        m = h.m
        self.level = Signal(range(depth + 2), name=f"{name}_level")
        self.places = places = [Signal(8, name=f"{name}{i}", reset_less=True) for i in range(depth)]
        self.oldest = places[0]
        after = Signal(range(depth + 2), name=f"{name}_after")
        m.d.comb += after.eq(self.level - leaves)
        m.d.sync += self.level.eq(after + enters)
        for i, place in enumerate(places):
            with m.If(enters & (after == i)):
                m.d.sync += place.eq(length)
            if i + 1 < depth:
                with m.Elif(leaves):
                    m.d.sync += place.eq(places[i + 1])
        h.watch(**{f"{name}_level": self.level, f"{name}_oldest": self.oldest})


@dataclass
class WriteBursts:
    """Write bursts whose data are not complete, the one that is offered first in this cycle among them.

    ``ends``: the oldest one's last beat is taken; ``beat``: how many of its beats have been.
    """

    ends: Value
    level: Value
    lengths: list[Value]
    beat: Value


def address_rules(
    h: Harness,
    claim: Claim,
    config: NpuConfig,
    name: str,
    valid,
    ready,
    addr,
    length,
    *rest,
    most=None,
    unless=None,
    rests=True,
) -> None:
    """Of an address channel: offers stay as they are; a burst has a legal length, is aligned, and is within 4 KiB.

    ``most`` is the number of beats of a burst (default: ``max_burst``), ``unless`` as of `stable`. If not ``rests``,
    nothing is said of offers.
    """
    most = config.max_burst if most is None else most
    if rests:
        unchanged = stable(h, valid, ready, addr, length, *rest, unless=unless)
        claim(f"{name}: offered until taken, unchanged (A3.2.1)", unchanged)
    claim(f"{name}: at most {most} beats (A3.4.1)", ~valid | (length < most))
    claim(f"{name}: whole beats", ~valid | ~addr[: (config.bus_bytes - 1).bit_length()].any())
    beats = addr[(config.bus_bytes - 1).bit_length() : 12] + length
    claim(f"{name}: within 4 KiB (A3.4.1)", ~valid | (beats < _PAGE // config.bus_bytes))


def read_data(h: Harness, name: str, asks, length, most: int, valid, ready, last) -> Lengths:
    """The bursts asked for by ``asks`` and not ended, of which ``valid & ready & last`` ends one.

    Assumes beats of the memory only for what was asked, RLAST with the last beat of a burst, and no offer taken back.
    """
    bursts = Lengths(h, name, most, asks, length, valid & ready & last)
    beat = bursts.beat = Signal(8, name=f"{name}_beat")
    h.m.d.sync += beat.eq(Mux(valid & ready, Mux(last, 0, beat + 1), beat))
    h.assume(f"{name}: beats only of what was asked for", ~valid | (bursts.level != 0))
    h.assume(f"{name}: RLAST is where it belongs", ~valid | (last == (beat == bursts.oldest)))
    return bursts


def write_data_rules(
    h: Harness, claim: Claim, config: NpuConfig, name: str, aw: tuple, w: tuple, most: int
) -> WriteBursts:
    """Of W: offers stay; beats belong to the bursts in order, AxLEN + 1 each, WLAST with the last, full but there.

    Data come no earlier than their address is offered. ``aw`` and ``w`` are valid, ready and the other values: length
    of the burst; data, strobes and last of the beat.
    """
    m = h.m
    (aw_valid, aw_ready, length), (valid, ready, data, strobes, last) = aw, w
    waits = Signal(name=f"{name}_address_waits")
    m.d.sync += waits.eq(aw_valid & ~aw_ready)
    offered, ends = aw_valid & ~waits, valid & ready & last
    bursts = Lengths(h, f"{name}_open", most + 1, offered, length, ends)
    beat = Signal(8, name=f"{name}_beat")
    m.d.sync += beat.eq(Mux(valid & ready, Mux(last, 0, beat + 1), beat))
    some = (bursts.level != 0) | offered
    lengths = [Mux(bursts.level > i, place, length) for i, place in enumerate(bursts.places)]
    expected = lengths[0]
    claim(f"{name}: offered until taken, unchanged (A3.2.1)", stable(h, valid, ready, data, strobes, last))
    claim(f"{name}: a beat belongs to a burst", ~valid | some)
    claim(f"{name}: WLAST at beat AWLEN, so AWLEN + 1 beats (A3.4.1)", ~valid | ~some | (last == (beat == expected)))
    claim(f"{name}: strobes are all ones but in the last beat", ~valid | last | strobes.all())
    claim(f"{name}: strobes are not empty", ~valid | strobes[:4].all())
    words = [strobes.word_select(i, 4) for i in range(config.bus_bytes // 4)]
    for i, word in enumerate(words[1:]):
        claim(
            f"{name}: word {i + 1} is written whole, behind the one before",
            ~valid | ~word.any() | word.all() & words[i].all(),
        )
    return WriteBursts(ends, bursts.level + offered, lengths, beat)


def write_answers(h: Harness, name: str, addressed, ended, most: int, valid, ready) -> tuple[Value, Value]:
    """Bursts whose address, and whose data, are taken, and that are not answered.

    Assumes answers only of bursts of which both are.
    """
    m = h.m
    addresses, data = (
        Signal(range(most + 3), name=f"{name}_addresses"),
        Signal(range(-most - 2, most + 3), name=f"{name}_data"),
    )
    answered = valid & ready
    m.d.sync += [addresses.eq(addresses + addressed - answered), data.eq(data + ended - answered)]
    h.assume(f"{name}: answers only what has come (A3.3.1)", ~valid | ((addresses != 0) & (data > 0)))
    h.watch(**{f"{name}_unanswered": addresses, f"{name}_data_unanswered": data})
    return addresses, data
