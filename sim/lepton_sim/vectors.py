"""Millions of vectors through a fixed-latency unit, under Verilator, with bubbles between them."""

import ctypes

import numpy as np
from amaranth.hdl import Value
from amaranth.hdl._ir import PortDirection
from lepton_npu.verilog import generate, port_names

from .shared import build_shared

__all__ = ["run_vectors"]

_SHIM = """
#include <cstdint>
#include <memory>
#include "Vtop.h"
#include "verilated.h"

// Feeds `count` vectors, a bubble before each with chance `bubble` in 65536, and collects what comes out.
extern "C" uint64_t run(uint64_t count, const uint64_t* const* inputs, uint64_t* const* outputs, uint32_t bubble,
                        uint64_t seed, uint64_t limit, uint64_t* first_latency) {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vtop> top{new Vtop{context.get()}};
    auto tick = [&] { top->clk = 0; top->eval(); top->clk = 1; top->eval(); };
    uint64_t state = seed * 2 + 1, fed = 0, seen = 0, first = 0;
    top->i_valid = 0, top->rst = 1;
    for (int i = 0; i < 4; i++) tick();
    top->rst = 0;
    for (uint64_t cycle = 0; cycle < limit && seen < count; cycle++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        const bool feed = fed < count && (state >> 48) >= bubble;
        top->i_valid = feed;
        if (feed) {
            @IN@
            if (fed++ == 0) first = cycle;
        }
        top->clk = 0, top->eval();
        if (top->o_valid) {
            if (seen == 0) *first_latency = cycle - first;
            @OUT@
            seen++;
        }
        top->clk = 1, top->eval();
    }
    for (int i = 0; i < 64; i++) {
        top->i_valid = 0, top->clk = 0, top->eval();
        seen += top->o_valid;
        top->clk = 1, top->eval();
    }
    return seen;
}
"""


def run_vectors(
    component, inputs: dict[str, np.ndarray], *, bubble: float = 0.0, seed: int = 1, latency: int | None = None
) -> dict[str, np.ndarray]:
    """Feed arrays to the ports of a pipelined unit with ``i_valid`` and ``o_valid``, and collect its outputs.

    Parameters
    ----------
    component : wiring.Component
        Its ports are at most 64 bits wide; it takes a vector in every cycle.
    inputs : dict of str to array
        Integer arrays of equal length, by port.
    bubble : float
        Chance that a cycle carries no vector.
    latency : int
        Cycles that a vector takes; by default those of the unit's attribute ``latency``.

    Returns
    -------
    dict of str to numpy.ndarray
        Output ports as uint64, in the order of the inputs.

    Raises
    ------
    AssertionError
        If the unit gives more or fewer results than vectors, or takes another time than ``latency``.
    """
    ports = port_names(component)
    names = list(inputs)
    outputs = [n for n, (_, way) in ports.items() if way is PortDirection.Output and n != "o_valid"]
    feed = "".join(
        f"top->{name} = inputs[{i}][fed] & {hex((1 << len(Value.cast(ports[name][0]))) - 1)}ull; "
        for i, name in enumerate(names)
    )
    take = "".join(f"outputs[{i}][seen] = top->{name}; " for i, name in enumerate(outputs))
    verilog, _ = generate(component, "unit")
    library = ctypes.CDLL(str(build_shared("vectors", verilog, _SHIM.replace("@IN@", feed).replace("@OUT@", take))))
    library.run.restype = ctypes.c_uint64
    pointer = ctypes.POINTER(ctypes.c_uint64)
    arrays = [np.ascontiguousarray(np.asarray(inputs[name]).astype(np.int64)).view(np.uint64) for name in names]
    count = len(arrays[0])
    results = {name: np.zeros(count, np.uint64) for name in outputs}
    took = ctypes.c_uint64()
    limit = int(count / (1 - bubble) * 1.5) + 1000
    seen = library.run(
        ctypes.c_uint64(count),
        (pointer * len(arrays))(*(a.ctypes.data_as(pointer) for a in arrays)),
        (pointer * len(results))(*(a.ctypes.data_as(pointer) for a in results.values())),
        ctypes.c_uint32(int(bubble * 65536)),
        ctypes.c_uint64(seed),
        ctypes.c_uint64(limit),
        ctypes.byref(took),
    )
    assert seen == count, f"{count} vectors in, {seen} results out"
    latency = component.latency if latency is None else latency
    assert took.value == latency, f"latency is {took.value}, not {latency}"
    return results
