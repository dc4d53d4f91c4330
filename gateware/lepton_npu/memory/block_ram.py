"""Block RAM without the logic that defines what a read gives while its own row is being written."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib.memory import Memory

__all__ = ["block_ram", "read_block_ram"]


def block_ram(shape, depth: int) -> Memory:
    """A memory of zeros whose users never read a row in the cycle in which it is written, or ignore what they get.

    Block RAM of ECP5 does not define such a read. For a plain synchronous port Yosys adds a comparator, a register and
    a multiplexer to make it the old content: about 40 LUTs a port, in the slowest path there is.
    """
    return Memory(shape=shape, depth=depth, init=[], attrs={"no_rw_check": 1})


def read_block_ram(m: Module, memory: Memory, *, enable: Value, address: Value, name: str) -> Signal:
    """A new read port of ``memory``: its data a cycle after ``enable``, kept until the next.

    An asynchronous port and a register, which Yosys (``memory_dff``) merges into a synchronous one; only for those it
    heeds ``no_rw_check``.
    """
    port = memory.read_port(domain="comb")
    data = Signal(memory.shape, name=name, reset_less=True)
    m.d.comb += port.addr.eq(address)
    with m.If(enable):
        m.d.sync += data.eq(port.data)
    return data
