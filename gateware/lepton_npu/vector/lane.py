"""One lane of the vector unit: convert, operate, rectify, convert back."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lepton_npu.fp.compare import CompareOp, Fp32Compare
from lepton_npu.fp.convert import ElementToFp32, Fp32ToElement
from lepton_npu.fp.function import Fp32Function, FunctionOp
from lepton_npu.fp.mul import Fp32MulAdd
from lepton_npu.spec.commands import Format, VectorOp

__all__ = ["VectorLane"]

_COMPARE = {
    VectorOp.MIN: CompareOp.MIN,
    VectorOp.MAX: CompareOp.MAX,
    VectorOp.LT: CompareOp.LT,
    VectorOp.LE: CompareOp.LE,
    VectorOp.EQ: CompareOp.EQ,
    VectorOp.SELECT: CompareOp.SELECT,
}
_FUNCTION = {
    VectorOp.EXP: FunctionOp.EXP,
    VectorOp.RECIP: FunctionOp.RECIP,
    VectorOp.SQRT: FunctionOp.SQRT,
    VectorOp.RSQRT: FunctionOp.RSQRT,
    VectorOp.SIGMOID: FunctionOp.SIGMOID,
    VectorOp.TANH: FunctionOp.TANH,
}


class VectorLane(wiring.Component):
    """One result a cycle, in order as long as ``op`` stays the same: operations differ in latency.

    From operands to result: `ElementToFp32`, the operation's unit, 1 cycle for relu, `Fp32ToElement`; F32 goes around
    the conversions in no time. ``op``, the formats and ``relu`` are decoded into registers, read all along the way, so
    they may only change when nothing is inside, and must be there a cycle before the first operand.

    Attributes
    ----------
    latency : int
        Cycles of the slowest operation, with both conversions.

    Members
    -------
    op : In(8), a_format, dst_format : In(3), relu : In(1)
        Of the command.
    i_valid : In(1), a, b, c : In(32)
        Operands: a as an element in ``a_format``, b and c in binary32.
    o_valid : Out(1), o : Out(32)
        An element in ``dst_format``, in the low bits.
    """

    latency = (
        ElementToFp32.latency
        + max(Fp32MulAdd.latency, Fp32Compare.latency, *Fp32Function.latency.values())
        + 1
        + Fp32ToElement.latency
    )

    op: In(8)
    a_format: In(3)
    dst_format: In(3)
    relu: In(1)
    i_valid: In(1)
    a: In(32)
    b: In(32)
    c: In(32)
    o_valid: Out(1)
    o: Out(32)

    def elaborate(self, platform):
        m = Module()
        m.submodules.convert = convert = ElementToFp32()
        m.submodules.mul_add = mul_add = Fp32MulAdd()
        m.submodules.compare = compare = Fp32Compare()
        m.submodules.function = function = Fp32Function()
        m.submodules.to_element = result = Fp32ToElement()

        # Each lane has these for itself, near what they choose, where synthesis would see that they are the same.
        def decoded(name: str, value: Value) -> Signal:
            flag = Signal(len(value), name=name, attrs={"keep": 1})
            m.d.sync += flag.eq(value)
            return flag

        plain_in = decoded("plain_in", self.a_format == Format.F32)
        plain_out = decoded("plain_out", self.dst_format == Format.F32)
        is_mul_add = decoded("is_mul_add", self.op == VectorOp.MULADD)
        is_function = decoded("is_function", Cat(self.op == op for op in _FUNCTION).any())
        is_compare = decoded("is_compare", ~Cat(self.op == op for op in (VectorOp.MULADD, *_FUNCTION)).any())
        rectify = decoded("rectify", self.relu)
        compare_op, function_op = Signal(CompareOp), Signal(FunctionOp)
        converting = Signal()
        m.d.comb += [
            converting.eq(self.i_valid & ~plain_in),
            convert.i_valid.eq(converting),
            convert.format.eq(decoded("a_is", self.a_format)),
            convert.i.eq(self.a),
        ]
        valid, b, c = converting, self.b, self.c
        for stage in range(convert.latency):
            next_valid = Signal(name=f"valid{stage + 1}")
            m.d.sync += next_valid.eq(valid)
            with m.If(valid):
                next_b, next_c = (Signal(32, name=f"{n}{stage + 1}", reset_less=True) for n in "bc")
                m.d.sync += [next_b.eq(b), next_c.eq(c)]
            valid, b, c = next_valid, next_b, next_c
        operands, operands_valid = {}, Signal()
        m.d.comb += operands_valid.eq(Mux(plain_in, self.i_valid, convert.o_valid))
        for name, own, converted in (("a", self.a, convert.o), ("b", self.b, b), ("c", self.c, c)):
            operand = operands[name] = Signal(32, name=f"operand_{name}")
            m.d.comb += operand.eq(Mux(plain_in, own, converted))

        # Units that the command does not use get no operands, so that they do not toggle.
        m.d.comb += [
            mul_add.i_valid.eq(operands_valid & is_mul_add),
            compare.i_valid.eq(operands_valid & is_compare),
            function.i_valid.eq(operands_valid & is_function),
        ]
        for unit in (mul_add, compare):
            m.d.comb += [getattr(unit, name).eq(operand) for name, operand in operands.items()]
        m.d.comb += function.i.eq(operands["a"])
        with m.Switch(self.op):
            for op, choice in _COMPARE.items():
                with m.Case(op):
                    m.d.sync += compare_op.eq(choice)
            for op, choice in _FUNCTION.items():
                with m.Case(op):
                    m.d.sync += function_op.eq(choice)
        m.d.comb += [compare.op.eq(compare_op), function.op.eq(function_op)]

        o_valid, o = Signal(), Signal(32)
        m.d.comb += o_valid.eq(mul_add.o_valid | compare.o_valid | function.o_valid)
        with m.If(is_mul_add):
            m.d.comb += o.eq(mul_add.o)
        with m.Elif(is_function):
            m.d.comb += o.eq(function.o)
        with m.Else():
            m.d.comb += o.eq(compare.o)
        nan = Signal()
        m.d.comb += nan.eq(o[23:31].all() & o[:23].any())
        rectified, rectified_valid = Signal(32, reset_less=True), Signal()
        m.d.sync += rectified_valid.eq(o_valid)
        with m.If(o_valid):
            m.d.sync += rectified.eq(Mux(rectify & o[31] & ~nan, 0, o))
        m.d.comb += [
            result.i_valid.eq(rectified_valid & ~plain_out),
            result.format.eq(decoded("dst_is", self.dst_format)),
            result.i.eq(rectified),
            self.o_valid.eq(Mux(plain_out, rectified_valid, result.o_valid)),
            self.o.eq(Mux(plain_out, rectified, result.o)),
        ]
        return m
