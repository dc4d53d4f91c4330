"""The MMU: requesters, TLB and walker together."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from lepton_npu.bus.axi import burst_layout, read_beat_layout
from lepton_npu.round_robin import round_robin
from lepton_npu.spec.config import NpuConfig
from lepton_npu.spec.translation import Access

from .ports import VPN, answer_layout, invalidate_layout, is_canonical, request_layout
from .tlb import Tlb
from .walker import PageWalker

__all__ = ["Mmu"]

_ANSWERS = 4  # of a requester, that it has not taken: covers the way from its request to its answer


class Mmu(wiring.Component):
    """Translates pages for several requesters (docs/mmu.md, section 3).

    A hit is answered 3 cycles after its request, a translation a cycle for all requesters together, by round robin;
    one requester alone can ask every other cycle. A miss walks; until it is answered its requester's later requests
    wait, and those of others go on.

    Parameters
    ----------
    config : NpuConfig
    requesters : int
        2 or more.

    Members
    -------
    i : In(stream of request_layout()), for each requester
    o : Out(stream of answer_layout(config)), for each requester
        In the order of its requests. Up to 4 wait to be taken.
    invalidate : In(stream of invalidate_layout())
        Accepted in any cycle.
    halt : In(1)
        Begin no read while high.
    ar : Out(stream of burst_layout), r : In(stream of read_beat_layout)
        Of the walker, to the bus. One read is in flight at most.
    busy : Out(1)
        A request is not answered, or an answer not taken.
    hit, miss : Out(1), asker : Out(range(requesters))
        For counters: a request has met an entry of the TLB, or has not; whose it was.
    """

    def __init__(self, config: NpuConfig, requesters: int = len(Access)):
        if requesters < 2:
            raise ValueError(f"requesters must be 2 or more, not {requesters}")
        self._config, self._requesters = config, requesters
        # Attributes, for proofs to look at.
        self.tlb, self.walker = Tlb(config), PageWalker(config)
        self.request = Signal(request_layout(), reset_less=True)
        self.held = [Signal(request_layout(), name=f"held{n}", reset_less=True) for n in range(requesters)]
        self.waits = Signal(requesters)  # walks of ``held`` that have not begun
        super().__init__(
            {
                "i": In(stream.Signature(request_layout())).array(requesters),
                "o": Out(stream.Signature(answer_layout(config))).array(requesters),
                "invalidate": In(stream.Signature(invalidate_layout())),
                "halt": In(1),
                "ar": Out(stream.Signature(burst_layout(config))),
                "r": In(stream.Signature(read_beat_layout(config))),
                "busy": Out(1),
                "hit": Out(1),
                "miss": Out(1),
                "asker": Out(range(requesters)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, count = self._config, self._requesters
        m.submodules.tlb, m.submodules.walker = tlb, walker = self.tlb, self.walker
        connect(m, flipped(self.ar), walker.ar)
        connect(m, flipped(self.r), walker.r)
        connect(m, flipped(self.invalidate), tlb.invalidate)
        m.d.comb += [walker.halt.eq(self.halt), walker.restart.eq(self.invalidate.valid)]

        # ---- A request is looked up in the cycle after it was accepted.
        request, canonical = self.request, Signal(reset_less=True)
        asks, owner = Signal(), Signal(range(count))
        found, missed = Signal(), Signal()
        m.d.comb += [
            tlb.page.eq(request.page),
            tlb.asid.eq(request.asid),
            tlb.write.eq(request.access == Access.WRITE),
            found.eq(asks & canonical & tlb.hit),
            missed.eq(asks & ~(canonical & tlb.hit)),
            self.hit.eq(found),
            self.miss.eq(missed),
            self.asker.eq(owner),
        ]

        # ---- Which requester is next. One whose request is looked up waits for the end of that, as it may miss: so
        # whether a request is accepted does not depend on the comparison.
        may_ask, walks, looks = Signal(count), Signal(count), Signal(count)
        chosen, chosen_number = Signal(count), Signal(range(count))
        round_robin(m, may_ask, owner, chosen, chosen_number)
        m.d.comb += [looks[number].eq(asks & (owner == number)) for number in range(count)]
        m.d.sync += asks.eq(chosen.any())
        with m.If(chosen.any()):
            m.d.sync += owner.eq(chosen_number)
        with m.Switch(chosen_number):
            for number, port in enumerate(self.i):
                with m.Case(number):
                    m.d.sync += [request.eq(port.payload), canonical.eq(is_canonical(port.payload.page))]

        # ---- Walks: those that wait, and the one that runs.
        waits, next_walk = self.waits, Signal(count)
        next_number, walking = Signal(range(count)), Signal(range(count))
        round_robin(m, waits, walking, next_walk, next_number)
        held = self.held
        m.d.comb += walker.i.valid.eq(waits.any())
        with m.Switch(next_number):
            for number in range(count):
                with m.Case(number):
                    m.d.comb += walker.i.payload.eq(held[number])
        with m.If(walker.i.valid & walker.i.ready):
            m.d.sync += [walking.eq(next_number), waits.eq(waits & ~next_walk)]
        for number in range(count):
            # Nothing is asked while a walk is due, so what is kept needs not wait for the end of the comparison.
            with m.If(looks[number]):
                m.d.sync += held[number].eq(request)
            with m.If(missed & looks[number]):
                m.d.sync += [walks[number].eq(1), waits[number].eq(1)]

        # ---- The end of a walk: the TLB takes the leaf, if there is one, and the requester the answer.
        end, ended = walker.o.payload, Signal()
        m.d.comb += [
            tlb.fill.valid.eq(walker.o.valid & (end.answer.fault == 0)),
            tlb.fill.payload.page.eq(walker.request.page[:VPN]),
            tlb.fill.payload.asid.eq(walker.request.asid),
            tlb.fill.payload.leaf.eq(end.leaf),
            ended.eq(walker.o.valid & ((end.answer.fault != 0) | tlb.fill.ready) & ~self.invalidate.valid),
            walker.o.ready.eq(ended),
        ]
        with m.If(ended):
            m.d.sync += walks.bit_select(walking, 1).eq(0)

        # ---- Answers: of a hit a cycle after its look-up, of a walk at once. A requester has one of the two at most.
        given, given_to = Signal(), Signal(range(count))
        frame = Signal(len(tlb.frame), reset_less=True)
        m.d.sync += [given.eq(found), given_to.eq(owner), frame.eq(tlb.frame)]
        layout = answer_layout(config)
        # Attributes, for proofs to look at.
        self.owner, self.walks, self.walking = owner, walks, walking
        self.given, self.given_to, self.frame = given, given_to, frame
        self.answers, self.open = [], []
        for number, (port_i, port_o) in enumerate(zip(self.i, self.o)):
            queue = SyncFIFO(width=layout.size, depth=_ANSWERS)
            m.submodules[f"answers{number}"] = queue
            answer, open_ = Signal(layout, name=f"answer{number}"), Signal(range(_ANSWERS + 1), name=f"open{number}")
            from_walk = Signal(name=f"from_walk{number}")
            self.answers.append(queue)
            self.open.append(open_)
            m.d.comb += [
                may_ask[number].eq(port_i.valid & ~looks[number] & ~walks[number] & (open_ != _ANSWERS)),
                port_i.ready.eq(chosen[number]),
                from_walk.eq(ended & (walking == number)),
                queue.w_en.eq(from_walk | (given & (given_to == number))),
                queue.w_data.eq(answer),
                port_o.valid.eq(queue.r_rdy),
                port_o.payload.eq(layout(queue.r_data)),
                queue.r_en.eq(port_o.ready),
            ]
            with m.If(from_walk):
                m.d.comb += answer.eq(end.answer)
            with m.Else():
                m.d.comb += answer.frame.eq(frame)
            m.d.sync += open_.eq(open_ + (port_i.valid & port_i.ready) - (port_o.valid & port_o.ready))
            with m.If(open_ != 0):
                m.d.comb += self.busy.eq(1)
        return m
