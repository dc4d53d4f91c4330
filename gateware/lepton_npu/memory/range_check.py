"""Whether an exact local row address names a row."""

from amaranth.hdl import Value

from lepton_npu.spec.config import ACC_SPACE, NpuConfig

__all__ = ["in_acc", "in_local", "in_vmem"]

_ACC_BIT = ACC_SPACE.bit_length() - 1


def in_vmem(config: NpuConfig, address: Value) -> Value:
    """1 where ``address`` (any width, sign bit on top) is a row of the vector memory."""
    return ~address[config.vmem_addr_bits :].any()


def in_acc(config: NpuConfig, address: Value) -> Value:
    """1 where ``address`` is a row of the accumulators."""
    return address[_ACC_BIT] & ~(address[config.acc_addr_bits : _ACC_BIT].any() | address[_ACC_BIT + 1 :].any())


def in_local(config: NpuConfig, address: Value) -> Value:
    """1 where ``address`` is a row of either."""
    return in_vmem(config, address) | in_acc(config, address)
