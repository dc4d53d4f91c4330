// Requests, answers, invalidations and a memory around the Verilog of `Mmu`, with random stalls (lepton_sim.mmu).

#include <cstdint>
#include <deque>
#include <iterator>
#include <memory>

#include "Vtop.h"
#include "verilated.h"

namespace {

using u128 = unsigned __int128;

template <class T>
void put(T& port, u128 value) {
    if constexpr (std::is_integral_v<T>) {
        port = static_cast<T>(value);
    } else {
        for (std::size_t i = 0; i < sizeof(port) / 4; i++) port[i] = i < 4 ? uint32_t(value >> 32 * i) : 0;
    }
}

struct Options {
    uint32_t request, answer, ar, r;  // chance in 65536 that it moves in a cycle
    uint32_t invalidate;              // chance of an invalidation, of any kind
    uint32_t halt;                    // chance that `halt` is high
    uint32_t latency_low, latency_high;
    uint32_t swap_answers;            // some cycles after so many answers the second memory takes over, all is invalidated
    uint64_t limit;                   // cycles
};

struct Counts {
    uint64_t cycles, reads, hits, misses, invalidations, swapped;
};

struct Bench {
    VerilatedContext context;
    std::unique_ptr<Vtop> top;
    uint64_t state;

    explicit Bench(uint64_t seed) : state(seed * 2 + 1) {
        context.randReset(2);
        context.randSeed(int(seed & 0x7fffffff) + 1);
        top = std::make_unique<Vtop>(&context);
        top->rst = 1;
        top->halt = top->invalidate_valid = top->r_valid = top->ar_ready = 0;
        top->i_0_valid = top->i_1_valid = top->i_2_valid = 0;
        top->o_0_ready = top->o_1_ready = top->o_2_ready = 0;
        for (int i = 0; i < 4; i++) tick();
        top->rst = 0;
    }

    void tick() {
        top->clk = 0, top->eval();
        top->clk = 1, top->eval();
    }

    uint32_t draw() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return uint32_t(state >> 40);
    }

    bool chance(uint32_t of) { return (draw() & 0xffff) < of; }
};

struct Read {
    uint64_t address, due;
};

}  // namespace

extern "C" void* create(uint64_t seed) { return new Bench(seed); }
extern "C" void destroy(void* bench) { delete static_cast<Bench*>(bench); }

extern "C" void invalidate(void* handle, uint64_t payload) {
    auto& bench = *static_cast<Bench*>(handle);
    put(bench.top->invalidate_payload, payload);
    bench.top->invalidate_valid = 1;
    bench.tick();
    bench.top->invalidate_valid = 0;
}

// Returns 0, or what is wrong: 1 read address changed while it waited, 2 read is not one aligned beat, 3 more than one
// read in flight, 4 more answers than requests, 5 no end within the limit, 6 not idle at the end,
// 7 a read began while halted.
extern "C" int run(void* handle, const Options* options, const uint64_t* counts, const uint64_t* const* pages,
                   const uint64_t* const* tags, uint64_t* const* answers, uint64_t* const* when,
                   const uint64_t* const* memories, const uint8_t* errors, uint64_t words, uint64_t address_mask,
                   Counts* result, uint64_t* log, uint64_t log_size) {
    auto& bench = *static_cast<Bench*>(handle);
    Vtop* top = bench.top.get();
    const Options& o = *options;
    uint64_t asked[3] = {}, answered[3] = {}, all = 0;
    bool offered[3] = {};
    std::deque<Read> reads;
    const uint64_t* memory = memories[0];
    bool swap = o.swap_answers != 0, beat = false;
    uint64_t held = ~0ull;
    *result = {};
    for (uint64_t cycle = 0;; cycle++) {
        if (cycle >= o.limit) return 5;
        result->cycles = cycle;
        if (answered[0] == counts[0] && answered[1] == counts[1] && answered[2] == counts[2]) break;
        uint8_t* const valid[3] = {&top->i_0_valid, &top->i_1_valid, &top->i_2_valid};
        for (int n = 0; n < 3; n++) {
            if (!offered[n]) offered[n] = asked[n] < counts[n] && bench.chance(o.request);
            *valid[n] = offered[n];
            if (!offered[n]) continue;
            const uint64_t tag = tags[n][asked[n]];  // access, ASID, root: 2, 8, 44 bits
            const u128 payload = u128(pages[n][asked[n]]) | u128(tag) << 52;
            put(n == 0 ? top->i_0_payload : n == 1 ? top->i_1_payload : top->i_2_payload, payload);
        }
        top->o_0_ready = bench.chance(o.answer);
        top->o_1_ready = bench.chance(o.answer);
        top->o_2_ready = bench.chance(o.answer);
        top->ar_ready = bench.chance(o.ar);
        top->halt = bench.chance(o.halt);
        top->invalidate_valid = 0;
        // Some cycles after the answer, so that walks are met at every step, and not just as they begin.
        const bool swaps = swap && all >= o.swap_answers && bench.chance(0x800);
        if (swaps) {
            top->invalidate_valid = 1;
            put(top->invalidate_payload, 0);
        } else if (bench.chance(o.invalidate)) {
            top->invalidate_valid = 1;
            put(top->invalidate_payload, u128(bench.draw()) | u128(bench.draw()) << 24);
        }
        if (!beat) beat = !reads.empty() && reads.front().due <= cycle && bench.chance(o.r);
        top->r_valid = beat;
        if (beat) {
            const uint64_t word = reads.front().address / 8 % words;
            const uint64_t response = errors[word / 512];
            u128 data = memory[word];
            if (BUS_WORDS == 2) data |= u128(memory[word + 1]) << 64;
            if (response) data = u128(bench.draw()) << 40 | bench.draw();
            if constexpr (BUS_WORDS == 1) {
                put(top->r_payload, data | u128(response) << 64 | u128(1) << 66);
            } else {
                for (int i = 0; i < 4; i++) top->r_payload[i] = uint32_t(data >> 32 * i);
                top->r_payload[4] = uint32_t(response | 4);
            }
        }
        top->clk = 0, top->eval();

        for (int n = 0; n < 3; n++) {
            const bool ready = n == 0 ? top->i_0_ready : n == 1 ? top->i_1_ready : top->i_2_ready;
            if (offered[n] && ready) asked[n]++, offered[n] = false;
            const bool taken = n == 0   ? top->o_0_valid && top->o_0_ready
                               : n == 1 ? top->o_1_valid && top->o_1_ready
                                        : top->o_2_valid && top->o_2_ready;
            if (!taken) continue;
            if (answered[n] >= counts[n]) return 4;
            when[n][answered[n]] = cycle;
            answers[n][answered[n]++] = n == 0 ? top->o_0_payload : n == 1 ? top->o_1_payload : top->o_2_payload;
            all++;
        }
        if (beat && top->r_ready) reads.pop_front(), beat = false;
        if (held != ~0ull && (!top->ar_valid || top->ar_payload != held)) return 1;
        if (held == ~0ull && top->halt && top->ar_valid) return 7;
        held = top->ar_valid && !top->ar_ready ? top->ar_payload : ~0ull;
        if (top->ar_valid && top->ar_ready) {
            const uint64_t address = top->ar_payload & address_mask;
            if (top->ar_payload & ~address_mask || address % (8 * BUS_WORDS)) return 2;
            const uint64_t spread = o.latency_high - o.latency_low + 1;
            reads.push_back({address, cycle + o.latency_low + bench.draw() % spread});
            if (reads.size() > 1) return 3;
            if (result->reads < log_size) log[result->reads] = address;
            result->reads++;
        }
        result->hits += top->hit, result->misses += top->miss;
        result->invalidations += top->invalidate_valid;
        if (swaps) {
            swap = false;
            memory = memories[1];
            result->swapped = cycle;
        }
        top->clk = 1, top->eval();
    }
    top->i_0_valid = top->i_1_valid = top->i_2_valid = top->invalidate_valid = top->halt = 0;
    bench.tick();
    return top->busy ? 6 : 0;
}
