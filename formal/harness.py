"""A unit with what is assumed of its neighbours and what is to be proven of it, as one Amaranth design."""

from typing import Any

from amaranth.hdl import Cat, ClockDomain, Elaboratable, Fragment, Module, Mux, Signal, Value, ValueCastable, ValueLike
from amaranth.hdl._ir import PortDirection
from amaranth.lib import wiring
from lepton_npu.verilog import port_names

__all__ = ["INSIDE", "Harness"]

INSIDE = "inside: "
"""How the name of a property begins that is no promise of the unit, but part of an invariant that proves the others."""


class Harness(Elaboratable):
    """Collects inputs, assumptions, properties and covers around units, and makes outputs of them.

    Every input of a unit that nothing drives is free: the engine chooses it anew in every cycle. So is ``rst``, from
    the first cycle on: what is proven holds over a reset at any time, as long as the ghost state in ``m.d.sync`` is
    reset with the unit. Registers without reset then begin with anything they can have held before.

    A property is claimed for cycles up to which every assumption has held. Conditions are of the values in one cycle.

    Attributes
    ----------
    m : Module
        For ghost state.
    first : Signal
        High in the first cycle of all (not after a reset).
    rst : Signal
        The reset.
    """

    def __init__(self) -> None:
        self.m = Module()
        self.domain = ClockDomain("sync")
        self.m.domains += self.domain
        self.rst = self.domain.rst
        self.first = Signal(init=1, reset_less=True)
        self.m.d.sync += self.first.eq(0)
        self.inputs: dict[str, Signal] = {}
        self.watched: dict[str, Value] = {}
        self.assumptions: dict[str, Value] = {}
        self.properties: dict[str, Value] = {}
        self.covers: dict[str, Value] = {}
        self.narrowed: list[Value] = []
        self._driven: list[Value] = []
        self._units: list[tuple[str, wiring.Component]] = []
        self._held: Value | None = None

    def unit(self, component: Any, name: str = "dut") -> Any:
        """Add ``component``, and return it, elaborated. Its ports are shown in a counterexample."""
        self.m.submodules[name] = _Made(Fragment.get(component, None))
        self._units.append((name, component))
        return component

    def drive(self, port: ValueLike, value: ValueLike) -> None:
        """Connect an input of a unit, which is then not free."""
        port = Value.cast(port)
        self._driven.append(port)
        self.m.d.comb += port.eq(value)

    def link(self, source: Any, sink: Any) -> None:
        """Connect a stream of one unit to that of another."""
        self.drive(sink.payload, source.payload)
        self.drive(sink.valid, source.valid)
        self.drive(source.ready, sink.ready)

    def free(self, name: str, width: Any = 1) -> Any:
        """A value that is chosen anew in every cycle."""
        signal = Signal(width, name=name)
        self.inputs[name] = _plain(signal)
        return signal

    def constant(self, name: str, width: Any = 1) -> Any:
        """A value that is chosen once, and stays: a property of it is one of all its values."""
        chosen, kept, value = (
            Signal(width, name=name),
            Signal(width, name=f"{name}_kept", reset_less=True),
            Signal(width),
        )
        self.inputs[name] = _plain(chosen)
        self.m.d.comb += _plain(value).eq(Mux(self.first, _plain(chosen), _plain(kept)))
        self.m.d.sync += _plain(kept).eq(_plain(value))
        self.watched[name] = _plain(value)
        return value

    def watch(self, **values: ValueLike) -> None:
        """Show ``values`` in a counterexample, beside ports."""
        self.watched.update({name: Value.cast(value) for name, value in values.items()})

    def assume(self, name: str, condition: ValueLike) -> None:
        """Take ``condition`` as true in every cycle."""
        self._add(self.assumptions, name, condition)

    def prove(self, name: str, condition: ValueLike) -> None:
        """Claim that ``condition`` is true in every cycle. See `INSIDE` for ``name``."""
        self._add(self.properties, name, condition)

    def cover(self, name: str, condition: ValueLike) -> None:
        """Claim that ``condition`` can be true in some cycle: that the assumptions leave room for it."""
        self._add(self.covers, name, condition)

    def narrow(self, *conditions: ValueLike) -> None:
        """Look for planted bugs only where all ``conditions`` have always been true, to find them sooner."""
        self.narrowed += [Value.cast(condition).bool() for condition in conditions]

    @staticmethod
    def _add(conditions: dict[str, Value], name: str, condition: ValueLike) -> None:
        if name in conditions:
            raise ValueError(f"there is a condition {name!r} already")
        conditions[name] = Value.cast(condition).bool()

    def finish(self) -> None:
        """No more is added. Makes the outputs, and lists every port of every unit."""
        driven = {id(signal) for port in self._driven for signal in port._rhs_signals()}
        for unit, component in self._units:
            for name, (value, direction) in port_names(component).items():
                self.watched[f"{unit}.{name}"] = value
                if direction == PortDirection.Input and not any(id(s) in driven for s in value._rhs_signals()):
                    self.inputs[f"{unit}_{name}"] = value
        self.watched["rst"] = self.rst
        over, now = Signal(reset_less=True, name="assumption_broken"), Signal(name="assumptions_hold")
        self.m.d.comb += now.eq(~over)
        for condition in self.assumptions.values():
            with self.m.If(~condition):
                self.m.d.comb += now.eq(0)
        self.m.d.sync += over.eq(~now)
        self.held = now
        self.bad, self.good, promise = Signal(), Signal(), Signal()
        self.m.d.comb += self.good.eq(~self.bad)
        narrow, wide = Signal(), Signal(reset_less=True)
        self.m.d.comb += narrow.eq(~wide & Cat(self.narrowed, 1).all())
        self.m.d.sync += wide.eq(~narrow)
        self.found = Signal()
        self.m.d.comb += self.found.eq(promise & narrow)
        self.reached = [Signal(name=f"cover{number}") for number in range(len(self.covers))]
        for number, (name, condition) in enumerate(self.properties.items()):
            broken = Signal(name=f"property{number}_broken")
            self.m.d.comb += broken.eq(now & ~condition)
            with self.m.If(broken):
                if not name.startswith(INSIDE):
                    self.m.d.comb += promise.eq(1)
                self.m.d.comb += self.bad.eq(1)
        for signal, condition in zip(self.reached, self.covers.values()):
            self.m.d.comb += signal.eq(now & condition)

    def ports(self) -> dict[str, tuple[Value, PortDirection]]:
        """Ports of the design: free inputs, ``bad``, and ``cover0``, ``cover1``, ...."""
        ports = {name: (value, PortDirection.Input) for name, value in self.inputs.items()}
        ports |= {"clk": (self.domain.clk, PortDirection.Input), "rst": (self.rst, PortDirection.Input)}
        ports |= {name: (value, PortDirection.Output) for name, value in self.outputs().items()}
        return ports

    def outputs(self) -> dict[str, Value]:
        """The outputs by name."""
        return {"bad": self.bad, "good": self.good, "found": self.found} | {
            f"cover{number}": signal for number, signal in enumerate(self.reached)
        }

    def elaborate(self, platform: Any) -> Module:
        return self.m


class _Made(Elaboratable):
    """What is elaborated already: what a unit has told of its inside can be used."""

    def __init__(self, fragment: Fragment):
        self._fragment = fragment

    def elaborate(self, platform: Any) -> Fragment:
        return self._fragment


def _plain(value: Any) -> Any:
    return value.as_value() if isinstance(value, ValueCastable) else value
