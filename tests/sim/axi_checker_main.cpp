// Runs `AxiChecker` over a trace: a line a cycle, 64-bit data, numbers in the order of `NAMES` in test_axi_rules.py.

#include "axi_checker.h"

#include <cstdio>

int main() {
    const AxiChecker::Limits limits[AxiChecker::kIds] = {{8, 4, 0, 0}, {16, 2, 0, 0}, {0, 0, 16, 2}, {1, 1, 0, 0}};
    AxiChecker checker(8, limits);
    unsigned long long v[40];
    for (uint64_t cycle = 0;; cycle++) {
        unsigned count = 0;
        while (count < 34 && std::scanf("%llu", &v[count]) == 1) count++;
        if (count < 34) break;
        uint8_t wdata[8], rdata[8];
        std::memcpy(wdata, &v[23], 8);
        std::memcpy(rdata, &v[29], 8);
        AxiCycle now{};
        auto address = [&](AxiCycle::Address& a, unsigned at) {
            a = {v[at] != 0, v[at + 1] != 0, v[at + 2], uint32_t(v[at + 3]), uint32_t(v[at + 4]),
                 uint32_t(v[at + 5]), uint32_t(v[at + 6]), uint32_t(v[at + 7]), uint32_t(v[at + 8])};
        };
        address(now.ar, 1);
        address(now.aw, 10);
        now.w = {v[19] != 0, v[20] != 0, v[21] != 0, v[22], wdata};
        now.r = {v[24] != 0, v[25] != 0, v[26] != 0, uint32_t(v[27]), uint32_t(v[28]), rdata};
        now.b = {v[30] != 0, v[31] != 0, uint32_t(v[32]), uint32_t(v[33])};
        if (v[0])
            checker.in_reset(now, cycle);
        else
            checker.clock(now, cycle);
    }
    std::printf("%s\n", checker.violation().c_str());
}
