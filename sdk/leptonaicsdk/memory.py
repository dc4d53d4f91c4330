"""The device's memory as a simulation of the RTL has it: how soon, how fast, and where it answers with errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .errors import InputError, InputTypeError
from .inputs import whole

__all__ = ["BusError", "Memory"]

_RESPONSES = ("slverr", "decerr")
_ACCESSES = ("read", "write")
_LIMIT = (1 << 32) - 1
LAST_BYTE = (1 << 64) - 1
"""Of all addresses."""


@dataclass(frozen=True, kw_only=True)
class BusError:
    """An error response of the memory, for trying out what a program makes of it.

    Parameters
    ----------
    response : str
        "slverr" or "decerr": AXI's RRESP or BRESP (AMBA AXI and ACE, IHI 0022H, A3.4.4).
    access : str
        "read" or "write".
    first, last : int
        Byte addresses concerned, both included; without ``last`` to the end of all addresses.
    after : int
        Beats to these bytes that are answered as usual before the first error.
    count : int or None
        Beats that are answered with the error, then all is as usual; None is all of them. A write burst has one answer:
        the error of any of its beats, whose data are not written.

    Raises
    ------
    InputError, InputTypeError
        For values that are not allowed.
    """

    response: str = "slverr"
    access: str = "read"
    first: int = 0
    last: int | None = None
    after: int = 0
    count: int | None = 1

    def __post_init__(self):
        for name, allowed in (("response", _RESPONSES), ("access", _ACCESSES)):
            if (value := getattr(self, name)) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
        if whole("first", self.first, 0) > LAST_BYTE:
            raise InputError(f"first must be at most {LAST_BYTE:#x}, not {self.first:#x}")
        whole("after", self.after, 0)
        if self.last is not None:
            whole("last", self.last, self.first)
        if self.count is not None:
            whole("count", self.count)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """How the memory behind the core's AXI port answers; the rules, cycle by cycle, are in docs/verification.md.

    Parameters
    ----------
    latency : int
        Cycles from an address (or the last beat of a write) to the first beat of its answer, beyond the least of 1.
    bandwidth : int
        Cycles a beat takes, on R and on W: 1 is a beat in every cycle.
    errors : tuple of BusError
        Where errors are injected; their beats are counted from when the device is given this memory.

    Raises
    ------
    InputError, InputTypeError
        For values that are not allowed.
    """

    latency: int = 30
    bandwidth: int = 1
    errors: tuple[BusError, ...] = ()

    def __post_init__(self):
        for name, least in (("latency", 0), ("bandwidth", 1)):
            if whole(name, getattr(self, name), least) > _LIMIT:
                raise InputError(f"{name} must be at most {_LIMIT} cycles, not {getattr(self, name)}")
        object.__setattr__(self, "errors", tuple(self.errors))
        for error in self.errors:
            if not isinstance(error, BusError):
                raise InputTypeError(f"errors must be BusErrors, not {type(error).__name__}")

    def after(self, beats: Sequence[int]) -> "Memory":
        """The same memory when each error's bytes have had so many beats: without the errors that are over."""
        left = []
        for error, seen in zip(self.errors, beats, strict=True):
            given = max(seen - error.after, 0)
            if error.count is None or given < error.count:
                count = None if error.count is None else error.count - given
                left.append(replace(error, after=max(error.after - seen, 0), count=count))
        return replace(self, errors=tuple(left))
