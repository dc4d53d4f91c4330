"""The wiring of `LeptonCore`: whose address space a request carries, whose address the bus gets, who must forget when.

The core is the real one, with commands of 2 bits, which are only passed on. But contexts, engines, memories and the MMU
are cut out of it: what they say to each other is free, but for what is proven of them elsewhere (docs/verification.md,
"The isolation theorem").
"""

from typing import Any
from unittest.mock import patch

from amaranth.hdl import Array, Cat, Elaboratable, Module, Signal, Value
from amaranth.hdl._ir import PortDirection
from lepton_npu.bus.axi import FETCH_ID, LOAD_ID, WALK_ID
from lepton_npu.core import LeptonCore
from lepton_npu.spec.translation import Invalidate
from lepton_npu.verilog import port_names

from .engine import Proof
from .engine_share import MOST, shared_config, small_commands
from .harness import Harness
from .pages import FORGETS_AFTER
from .planted import Bug
from .streams import stable

__all__ = ["PROOFS"]

_CONTEXTS = 2
_CONFIG = shared_config(_CONTEXTS)
_ENGINES = ("load", "store", "quant", "matmul", "vector")
_DMA = _ENGINES[:2]
_CUT = (
    *("Context", "Mmu", "LocalMemory", "TileMemory"),
    *("LoadEngine", "StoreEngine", "QuantEngine", "MatmulEngine", "VectorEngine"),
)


class _Core:
    """The core, and what stands in it: cut units, whose outputs are free, and the engines' shares, by name."""

    def __init__(self, h: Harness):
        scope = LeptonCore.elaborate.__globals__
        units: dict[str, list[Any]] = {}

        def kept(name: str) -> Any:
            unit = scope[name]
            cut = type(unit.__name__, (unit,), {"elaborate": lambda self, platform: Module()})

            def make(*args: Any, **kwargs: Any) -> Any:
                made = (cut if name in _CUT else unit)(*args, **kwargs)
                if name in _CUT:
                    for inner in vars(made).values():
                        if isinstance(inner, Elaboratable):
                            inner._MustUse__used = True  # as a cut unit does not
                units.setdefault(name, []).append(made)
                return made

            return make

        names = (*_CUT, "EngineShare", "FetchShare", "InvalidationControl")
        with small_commands(), patch.dict(scope, {name: kept(name) for name in names}):
            self.core = h.unit(LeptonCore(_CONFIG))
        for name in _CUT:
            for number, unit in enumerate(units[name]):
                for port, (value, direction) in port_names(unit).items():
                    label = f"{name}{number}_{port}"
                    if direction == PortDirection.Output:
                        h.inputs[label] = value
                    h.watched[label] = value
        self.contexts, self.mmu = units["Context"], units["Mmu"][0]
        self.fetches = units["FetchShare"][0]
        self.invalidation = units["InvalidationControl"][0]
        kinds = ("LoadEngine", "StoreEngine", "QuantEngine", "MatmulEngine", "VectorEngine")
        self.engines = {name: units[kind][0] for name, kind in zip(_ENGINES, kinds)}
        self.shares = dict(zip(_ENGINES, units["EngineShare"]))

    def of_owner(self, engine: str, values: list[Value]) -> Value:
        """That one of a value of each context that is the owner's of ``engine``."""
        return Array(values)[self.shares[engine].owner]


def _same(left: Any, right: Any) -> Value:
    return Value.cast(left) == Value.cast(right)


def _before(h: Harness, value: Value) -> Signal:
    signal = Signal(len(Value.cast(value)))
    h.m.d.sync += signal.eq(value)
    return signal


def _passes(source: Any, sink: Any) -> Value:
    """Whether two streams are one."""
    same = (source.valid == sink.valid) & (source.ready == sink.ready)
    return same & (~source.valid | _same(source.payload, sink.payload))


def _spaces(h: Harness) -> None:
    """Requests carry the space of the context whose commands they are for, answers come back, bounds are its own."""
    m, c = h.m, _Core(h)
    spaces = [host.space.as_value() for host in c.core.contexts]
    hosts = [context.host for context in c.contexts]

    # ---- Every requester has its place, and its space.
    for n, context in enumerate(c.contexts):
        place = len(_DMA) + n
        h.prove(f"requests of fetch {n} are at its place", _passes(context.mmu.request, c.mmu.i[place]))
        h.prove(f"and so are its answers, {n}", _passes(c.mmu.o[place], context.mmu.answer))
        h.prove(f"fetch {n} has the space of its context", _same(context.mmu.space, spaces[n]))
        h.prove(f"the host's commands to context {n} are its own", _same(hosts[n].space, spaces[n]))
    for name in _ENGINES:
        engine, share = c.engines[name], c.shares[name]
        own = c.of_owner(name, [context.bounds.as_value() for context in c.contexts])
        h.prove(f"{name} has the bounds of its owner", _same(engine.bounds, own))
        for n, context in enumerate(c.contexts):
            port = getattr(context, name)
            took = port.cmd.valid & port.cmd.ready
            gets = (
                engine.engine.cmd.valid & engine.engine.cmd.ready & _same(engine.engine.cmd.payload, port.cmd.payload)
            )
            h.prove(f"{name} takes from context {n} only as its owner", ~took | gets & (share.owner == n))
            h.prove(f"{name} is done for its owner, {n}", port.done == engine.engine.done & (share.owner == n))

    # ---- LOAD and STORE ask in the space of the context whose command they hold.
    for place, name in enumerate(_DMA):
        engine, share = c.engines[name], c.shares[name]
        face, mmu = engine.engine, engine.mmu
        h.prove(f"requests of {name} are at its place", _passes(mmu.request, c.mmu.i[place]))
        h.prove(f"and so are its answers, {name}", _passes(c.mmu.o[place], mmu.answer))
        holds, taken, fault = Signal(range(MOST + 2)), face.cmd.valid & face.cmd.ready, face.fault
        m.d.sync += holds.eq(holds + taken - face.done)
        with m.If(share.engine_reset):
            m.d.sync += holds.eq(0)
        h.assume(f"{name} is done only with what it holds", ~face.done | (holds != 0))
        h.assume(f"{name} has room for so many commands", ~face.cmd.ready | (holds < MOST))
        h.assume(f"{name} has a fault only while it holds a command", ~fault.valid | (holds != 0))
        asks = mmu.request
        h.assume(f"{name} asks only while it holds a command", ~asks.valid | (holds != 0))
        of_space = (asks.payload.asid == mmu.space.asid) & (asks.payload.root == mmu.space.root)
        h.assume(f"{name} asks in the space that it is given", ~asks.valid | of_space)
        giver, space = Signal.like(share.owner), Signal(len(spaces[0]))
        for n, context in enumerate(c.contexts):
            port = getattr(context, name)
            h.assume(f"context {n} offers {name} nothing while it is reset", ~port.cmd.valid | ~port.halt)
            idle = _before(h, port.quiet & ~port.cmd.valid)
            rests = spaces[n] == _before(h, spaces[n])
            h.assume(f"the space of context {n} rests while {name} has commands of it", idle | rests)
            with m.If(port.cmd.valid & port.cmd.ready):
                m.d.sync += [giver.eq(n), space.eq(spaces[n])]
        at = c.mmu.i[place]
        where = mmu.space.shape()(space)
        right = (at.payload.asid == where.asid) & (at.payload.root == where.root)
        h.prove(f"{name} asks the MMU in the space that its command was given in", ~at.valid | right)
        h.prove(f"which is that of the context that gave it, {name}", ~at.valid | (Array(spaces)[giver] == space))
        h.prove(f"inside: {name}'s commands are counted", share.held == holds)
        h.prove(f"inside: {name} serves", share.serving == share.fsm.ongoing("SERVE"))
        h.prove(f"inside: {name}'s giver is its owner", (holds == 0) | (share.owner == giver))
        h.prove(f"inside: {name}'s owner is a context", share.owner < _CONTEXTS)
        h.prove(f"inside: {name}'s space rests", (holds == 0) | (Array(spaces)[giver] == space))
        h.cover(f"{name} asks for the last context", at.valid & (giver == _CONTEXTS - 1))


def _bus(h: Harness) -> None:
    """Every address at the port is one of the unit whose ID it has, as that gave it."""
    m, c = h.m, _Core(h)
    port, load, store = c.core.m_axi, c.engines["load"], c.engines["store"]
    takes = {LOAD_ID: load.ar, WALK_ID: c.mmu.ar}
    named = Signal(_CONFIG.addr_width + 8)
    last = Signal(len(port.arid))
    goes = {number: ar.valid & ar.ready for number, ar in takes.items()}
    for number, ar in takes.items():
        with m.If(goes[number]):
            m.d.sync += [named.eq(Cat(ar.payload.addr, ar.payload.len)), last.eq(number)]
    fetches = [context.ar.valid & context.ar.ready for context in c.contexts]
    for context, took in zip(c.contexts, fetches):
        with m.If(took):
            m.d.sync += [named.eq(Cat(context.ar.payload.addr, context.ar.payload.len)), last.eq(FETCH_ID)]
    for n, context in enumerate(c.contexts):
        h.assume(f"the fetch of context {n} offers until taken", stable(h, context.ar.valid, context.ar.ready))
    went = _before(h, Cat(*goes.values(), *fetches))
    asks, share = [context.ar.valid & ~context.ar.ready for context in c.contexts], c.fetches
    waiting = _before(h, Cat(asks))
    h.prove("inside: a fetch that was offered waits", ~share.offered | waiting.bit_select(share.kept, 1))
    h.prove("inside: one was offered", share.offered == _before(h, share.ar.valid & ~share.ar.ready))
    h.prove("one address at a time is taken", sum([*goes.values(), *fetches]) <= 1)
    waits = _before(h, port.arvalid & ~port.arready)
    h.prove("AR is offered in the cycle after one was taken, until it is", port.arvalid == (went.any() | waits))
    h.prove("as it was taken", ~port.arvalid | (Cat(port.araddr, port.arlen) == named))
    h.prove("with the ID of who gave it", ~port.arvalid | (port.arid == last))
    h.prove("AW is STORE's", port.awvalid == store.aw.valid)
    h.prove("with its address", ~port.awvalid | _same(Cat(port.awaddr, port.awlen), store.aw.payload))
    beat = Cat(port.wdata, port.wstrb, port.wlast)
    h.prove("W is STORE's", (port.wvalid == store.w.valid) & (~port.wvalid | _same(beat, store.w.payload)))
    data = port.rvalid & port.rready & (port.rid == LOAD_ID)
    h.prove("beats with LOAD's ID go to LOAD, no others", (load.r.valid & load.r.ready) == data)
    h.cover("an address of LOAD waits", waits & (port.arid == LOAD_ID))
    h.cover("an address of a fetch", port.arvalid & (port.arid == FETCH_ID))


def _invalidations(h: Harness) -> None:
    """What a host has invalidated is forgotten by everybody at once, while no burst that used it is left."""
    m, c = h.m, _Core(h)
    hosts = [context.host for context in c.contexts]
    load, store = c.engines["load"], c.engines["store"]
    told = c.mmu.invalidate.valid
    everything = c.mmu.invalidate.payload.kind == Invalidate.ALL
    forget = c.invalidation.forget
    for name, asker in [*c.engines.items(), *((f"fetch {n}", context) for n, context in enumerate(c.contexts))]:
        if name in _ENGINES and name not in _DMA:
            continue
        h.prove(f"{name} forgets when the MMU does", asker.mmu.forget == told)
        h.prove(f"{name} is held until then", asker.mmu.hold | ~told)
        h.prove(f"{name} and the walker are held together", asker.mmu.hold == c.mmu.halt)

    # ---- What was asked for, and is not done.
    for n, host in enumerate(hosts):
        pending, what, reset = Signal(), Signal.like(Value.cast(host.invalidate)), Signal()
        with m.If(told):
            m.d.sync += [pending.eq(0), reset.eq(0)]
        with m.If(host.invalidate_request):
            m.d.sync += [pending.eq(1), what.eq(host.invalidate)]
        with m.If(host.core_reset):
            m.d.sync += reset.eq(1)
        done = _same(c.mmu.invalidate.payload, what)
        h.prove(f"what context {n} asked for is invalidated, or everything", ~pending | done | everything)
        h.prove(f"a reset of context {n} invalidates everything", ~reset | everything)
        h.prove(f"context {n} is told that it is under way", ~pending | c.contexts[n].invalidating)
        h.prove(f"nothing new is asked of the bus until then, {n}", ~(pending | reset) | load.mmu.hold)

    # ---- The bus, at that moment. What is assumed of LOAD and STORE is proven of them.
    held = _before(h, store.mmu.hold)
    for name, offer, begins in (("LOAD", load.ar, load.mmu.hold), ("STORE", store.aw, held)):
        waits = _before(h, offer.valid & ~offer.ready)
        h.assume(f"{name} begins no offer while held", ~begins | ~offer.valid | waits)
        h.assume(f"{name} offers until taken", ~waits | offer.valid)
        h.prove(f"{name} offers nothing when translations are forgotten", ~forget | ~offer.valid)
    taken, offered = Signal(FORGETS_AFTER), Signal(FORGETS_AFTER)
    m.d.sync += [taken.eq(Cat(load.ar.valid & load.ar.ready, taken)), offered.eq(Cat(store.aw.valid, offered))]
    h.prove("no burst of LOAD was taken for 3 cycles", ~forget | ~taken.any())
    h.prove("none of STORE was", ~forget | ~offered[: FORGETS_AFTER - 1].any() & ~store.aw.valid)
    port = c.core.m_axi
    h.prove("no address waits", ~forget | ~port.arvalid & ~port.awvalid & ~port.wvalid)
    h.cover("forgotten, after both had a burst", forget & _since(h, taken[0]) & _since(h, offered[0]))


def _since(h: Harness, event: Value) -> Signal:
    """Whether ``event`` was ever."""
    seen = Signal()
    with h.m.If(event):
        h.m.d.sync += seen.eq(1)
    return seen


_CORE, _MASTER, _SHARE = "core", "bus.master", "control.engine_share"
PROOFS = [
    Proof(
        "Requests carry the space in which their command was given; answers, bounds and commands are of their owner",
        "LeptonCore, engines cut out",
        _spaces,
        {
            "the space of context 0 for everybody": Bug(_CORE, "spaces[owners[name]]", "spaces[0]"),
            "the bounds of context 0 for everybody": Bug(
                _CORE, "for context in contexts)[share.owner]", "for context in contexts)[0]"
            ),
            "a fetch in the space of another context": Bug(
                _CORE, "context.mmu.space.eq(context.host.space)", "context.mmu.space.eq(contexts[0].host.space)"
            ),
            "answers to another requester": Bug(
                _CORE,
                "connect(m, requester.mmu.answer, mmu.o[number])",
                "connect(m, requester.mmu.answer, mmu.o[number ^ 1])",
            ),
            "an engine changes hands while it holds commands": Bug(_SHARE, "idle.eq((held == 0) & ", "idle.eq("),
        },
        induction=1,
    ),
    Proof(
        "Addresses and data at the port are those of the unit whose ID they have, as it gave them",
        "LeptonCore, engines cut out",
        _bus,
        {
            "an address of LOAD with the fetch's ID": Bug(
                _MASTER, "(self.load_ar, LOAD_ID)", "(self.load_ar, FETCH_ID)"
            ),
            "LOAD's address for everybody": Bug(
                _MASTER, "port.araddr.eq(client.payload.addr)", "port.araddr.eq(self.load_ar.payload.addr)"
            ),
            "beats of a fetch for LOAD": Bug(
                _MASTER, "port.rvalid & (port.rid == LOAD_ID)", "port.rvalid & (port.rid != WALK_ID)"
            ),
        },
        induction=1,
    ),
    Proof(
        "Invalidated means forgotten by all, in one cycle, with no burst of LOAD or STORE on its way",
        "LeptonCore, engines cut out",
        _invalidations,
        {
            "nobody forgets": Bug(_CORE, "requester.mmu.forget.eq(invalidation.forget)", "requester.mmu.forget.eq(0)"),
            "of two at once one is lost": Bug(_CORE, "with m.If(several | resets.any()):", "with m.If(resets.any()):"),
            "a second one replaces the first": Bug(
                "mmu.invalidation", "m.d.sync += what.kind.eq(Invalidate.ALL)", "pass"
            ),
            "the bus is quiet for a cycle only": Bug("mmu.invalidation", "_QUIET = 4", "_QUIET = 1"),
            "quiet while an address waits": Bug(
                _MASTER, "~(port.arvalid | port.awvalid | port.wvalid)", "~(port.awvalid | port.wvalid)"
            ),
        },
        induction=5,
        quick=True,
    ),
]
