// The compiled harness: the Verilator model of the core with an AXI4 memory and an AXI4-Lite host beside it.
//
// Everything that toggles every cycle is here; Python only rings doorbells. The memory accepts any legal traffic,
// stalls every channel at random on request, answers after a settable latency at a settable bandwidth, may interleave
// reads of different IDs, and injects error responses by address range and number of beats. `AxiChecker` watches both sides
// of the port. The memory's timing rules are in docs/verification.md;
// verif/lepton_verif/tb/axi_memory.py has the same ones for cocotb, and a test holds the two together.
//
// One instance has no shared state: several may run in threads of one process. LEPTON_PLUSARG in the environment is an
// argument of the simulation, for cores that ask for one ($value$plusargs): tests/gateware/top/planted.py.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "axi_checker.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr unsigned kBusBytes = LEPTON_BUS_BYTES;
enum Channel { kAr, kR, kAw, kW, kB, kChannels };
enum Response { kOkay = 0, kSlverr = 2, kDecerr = 3 };
// When READY of AR, AW and W may rise (all of it legal, IHI 0022H, A3.3.1): at any time; only behind VALID, W behind AW;
// only behind VALID, AW behind W.
enum Order { kFree, kAddressFirst, kDataFirst };

#include "limits.h"  // kLimits, of the core's configuration

struct Settings {
    uint32_t latency;            // cycles from an accepted address (or last W beat) to the first response
    uint32_t bandwidth;          // cycles a data beat takes, on R and on W
    uint32_t stall[kChannels];   // chance of a stall in each cycle, in 1/65536
    uint32_t interleave;         // R beats of different IDs may alternate
    uint32_t order;              // an Order
};

struct ErrorRange {
    uint64_t first, last;  // byte addresses, both included
    uint32_t response;
    uint32_t on_write;
    uint64_t after, count;  // beats to these bytes before the first error; beats with it, 0: all
};

struct Injected {
    ErrorRange range;
    uint64_t seen;  // beats to these bytes so far
    bool matches(uint64_t addr, bool write) const {
        return (range.on_write != 0) == write && addr + kBusBytes > range.first && addr <= range.last;
    }
    bool active() const { return seen >= range.after && (range.count == 0 || seen - range.after < range.count); }
};

struct Burst {
    uint64_t addr;
    uint32_t id, beats, done;
    uint64_t ready_at;
    uint32_t response;
};

struct WriteBeat {
    uint8_t data[kBusBytes];
    uint64_t strobes;
};

// xoshiro-like quality is not needed: a 64-bit multiplicative generator decides stalls.
struct Random {
    uint64_t state;
    uint32_t next16() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state >> 48);
    }
    bool chance(uint32_t of65536) { return of65536 != 0 && next16() < of65536; }
};

struct Harness {
    std::unique_ptr<VerilatedContext> context{new VerilatedContext};
    std::unique_ptr<Vtop> top;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> trace;
#endif
    std::vector<uint8_t> memory;
    uint64_t base = 0;
    uint64_t cycle = 0;
    uint64_t accepted = 0;  // cycle in which the core had taken the last register access
    Settings settings{};
    Random random{1};
    std::vector<Injected> errors;
    AxiChecker checker{kBusBytes, kLimits};

    std::map<uint32_t, std::deque<Burst>> reads;
    std::deque<uint32_t> read_order;
    std::deque<Burst> writes, responses;
    std::deque<WriteBeat> write_beats;
    bool r_valid = false, b_valid = false;
    uint32_t r_id = 0;
    uint64_t r_free = 0, w_free = 0;  // first cycle of another beat
    uint64_t beats_read = 0, beats_written = 0;

    bool offered[kChannels] = {};  // by the core in the last cycle, without being accepted
    uint8_t r_data[kBusBytes] = {};
    uint32_t r_response = kOkay;

    explicit Harness(size_t size, uint64_t base_) : memory(size), base(base_) {
        const char* plusarg = std::getenv("LEPTON_PLUSARG");
        const char* arguments[] = {"lepton", "+verilator+rand+reset+2", plusarg};
        context->commandArgs(plusarg ? 3 : 2, arguments);
        top.reset(new Vtop{context.get(), "top"});
    }

    bool inside(uint64_t addr) const { return addr >= base && addr - base + kBusBytes <= memory.size(); }

    uint32_t response_at(uint64_t addr, bool write) const {
        for (const Injected& error : errors)
            if (error.matches(addr, write) && error.active()) return error.range.response;
        return inside(addr) ? kOkay : kDecerr;
    }

    void count_beat(uint64_t addr, bool write) {
        for (Injected& error : errors)
            if (error.matches(addr, write)) error.seen++;
    }

    void choose_read() {
        if (r_valid || cycle < r_free) return;
        std::vector<uint32_t> candidates;
        for (auto& [id, queue] : reads)
            if (!queue.empty() && queue.front().ready_at <= cycle) candidates.push_back(id);
        if (candidates.empty() || random.chance(settings.stall[kR])) return;
        if (settings.interleave) {
            r_id = candidates[random.next16() % candidates.size()];
        } else {
            r_id = read_order.front();
            auto& queue = reads[r_id];
            if (queue.empty() || queue.front().ready_at > cycle) return;
        }
        r_valid = true;
        // What is offered rests until it is taken, whatever happens to memory or errors meanwhile.
        const Burst& burst = reads[r_id].front();
        const uint64_t addr = burst.addr + uint64_t(burst.done) * kBusBytes;
        r_response = response_at(addr, false);
        if (inside(addr))
            std::memcpy(r_data, &memory[addr - base], kBusBytes);
        else
            std::memset(r_data, 0xDB, kBusBytes);
    }

    bool may_take(Channel channel) const {
        if (settings.order == kFree) return true;
        if (!offered[channel]) return false;
        if (settings.order == kAddressFirst) return channel != kW || !writes.empty();
        return channel != kAw || !write_beats.empty() || offered[kW];
    }

    void drive() {
        choose_read();
        top->m_axi_arready = !random.chance(settings.stall[kAr]) && may_take(kAr);
        top->m_axi_awready = !random.chance(settings.stall[kAw]) && may_take(kAw);
        top->m_axi_wready = !random.chance(settings.stall[kW]) && cycle >= w_free && may_take(kW);
        top->m_axi_rvalid = r_valid;
        if (r_valid) {
            const Burst& burst = reads[r_id].front();
            top->m_axi_rid = r_id;
            top->m_axi_rresp = r_response;
            top->m_axi_rlast = burst.done + 1 == burst.beats;
            std::memcpy(&top->m_axi_rdata, r_data, kBusBytes);
        }
        if (!b_valid && !responses.empty() && responses.front().ready_at <= cycle &&
            !random.chance(settings.stall[kB]))
            b_valid = true;
        top->m_axi_bvalid = b_valid;
        if (b_valid) {
            top->m_axi_bid = responses.front().id;
            top->m_axi_bresp = responses.front().response;
        }
    }

    AxiCycle port() const {
        AxiCycle now{};
        now.ar = {bool(top->m_axi_arvalid), bool(top->m_axi_arready), top->m_axi_araddr, top->m_axi_arid,
                  top->m_axi_arlen, top->m_axi_arsize, top->m_axi_arburst, top->m_axi_arcache, top->m_axi_arprot};
        now.aw = {bool(top->m_axi_awvalid), bool(top->m_axi_awready), top->m_axi_awaddr, top->m_axi_awid,
                  top->m_axi_awlen, top->m_axi_awsize, top->m_axi_awburst, top->m_axi_awcache, top->m_axi_awprot};
        now.w = {bool(top->m_axi_wvalid), bool(top->m_axi_wready), bool(top->m_axi_wlast), top->m_axi_wstrb,
                 reinterpret_cast<const uint8_t*>(&top->m_axi_wdata)};
        now.r = {bool(top->m_axi_rvalid), bool(top->m_axi_rready), bool(top->m_axi_rlast), top->m_axi_rid,
                 top->m_axi_rresp, reinterpret_cast<const uint8_t*>(&top->m_axi_rdata)};
        now.b = {bool(top->m_axi_bvalid), bool(top->m_axi_bready), top->m_axi_bid, top->m_axi_bresp};
        return now;
    }

    void sample() {
        const AxiCycle now = port();
        checker.clock(now, cycle);
        offered[kAr] = now.ar.valid && !now.ar.ready;
        offered[kAw] = now.aw.valid && !now.aw.ready;
        offered[kW] = now.w.valid && !now.w.ready;

        if (now.ar.valid && now.ar.ready) {
            reads[now.ar.id].push_back({now.ar.addr, now.ar.id, now.ar.len + 1, 0, cycle + 1 + settings.latency, 0});
            read_order.push_back(now.ar.id);
        }
        if (r_valid && top->m_axi_rready) {
            Burst& burst = reads[r_id].front();
            beats_read++;
            count_beat(burst.addr + uint64_t(burst.done) * kBusBytes, false);
            r_free = cycle + settings.bandwidth;
            if (++burst.done == burst.beats) {
                reads[r_id].pop_front();
                for (auto it = read_order.begin(); it != read_order.end(); ++it)
                    if (*it == r_id) {
                        read_order.erase(it);
                        break;
                    }
            }
            r_valid = false;
        }
        if (now.aw.valid && now.aw.ready)
            writes.push_back({now.aw.addr, now.aw.id, now.aw.len + 1, 0, 0, kOkay});
        if (now.w.valid && now.w.ready) {
            WriteBeat beat;
            std::memcpy(beat.data, now.w.data, kBusBytes);
            beat.strobes = now.w.strobes;
            write_beats.push_back(beat);
            beats_written++;
            w_free = cycle + settings.bandwidth;
        }
        if (b_valid && top->m_axi_bready) {
            responses.pop_front();
            b_valid = false;
        }
        while (!writes.empty() && !write_beats.empty()) {
            Burst& burst = writes.front();
            const WriteBeat& beat = write_beats.front();
            const uint64_t addr = burst.addr + uint64_t(burst.done) * kBusBytes;
            const uint32_t response = response_at(addr, true);
            count_beat(addr, true);
            if (response != kOkay) burst.response = response;
            else
                for (unsigned byte = 0; byte < kBusBytes; byte++)
                    if (beat.strobes >> byte & 1) memory[addr - base + byte] = beat.data[byte];
            const bool last = ++burst.done == burst.beats;
            write_beats.pop_front();
            if (last) {
                burst.ready_at = cycle + 1 + settings.latency;
                responses.push_back(burst);
                writes.pop_front();
            }
        }
    }

    void step() {
        drive();
        top->clk = 0;
        top->eval();
#if VM_TRACE
        if (trace) trace->dump(cycle * 10);
#endif
        sample();
        top->clk = 1;
        top->eval();
#if VM_TRACE
        if (trace) trace->dump(cycle * 10 + 5);
#endif
        cycle++;
    }

    void reset(int cycles) {
        reads.clear(), read_order.clear(), writes.clear(), responses.clear(), write_beats.clear();
        r_valid = b_valid = false;
        r_free = w_free = 0;
        std::memset(offered, 0, sizeof offered);
        checker.forget();
        top->rst = 1;
        top->s_axil_awvalid = top->s_axil_wvalid = top->s_axil_bready = 0;
        top->s_axil_arvalid = top->s_axil_rready = 0;
        for (int i = 0; i < cycles; i++) {
            top->m_axi_arready = top->m_axi_awready = top->m_axi_wready = 0;
            top->m_axi_rvalid = top->m_axi_bvalid = 0;
            top->clk = 0, top->eval();
            if (i) checker.in_reset(port(), cycle);
            top->clk = 1, top->eval();
            cycle++;
        }
        top->rst = 0;
    }

    // Returns the response, or -1 when the core did not answer.
    int register_access(bool write, uint32_t addr, uint32_t* value) {
        bool address_done = false, data_done = !write;
        if (write) {
            top->s_axil_awaddr = addr, top->s_axil_awvalid = 1;
            top->s_axil_wdata = *value, top->s_axil_wstrb = 15, top->s_axil_wvalid = 1;
            top->s_axil_bready = 1;
        } else {
            top->s_axil_araddr = addr, top->s_axil_arvalid = 1;
            top->s_axil_rready = 1;
        }
        for (int i = 0; i < 1000; i++) {
            // Handshakes are decided by the values before the edge: settle, look, then step.
            top->clk = 0;
            top->eval();
            const bool address_now = write ? top->s_axil_awready && top->s_axil_awvalid
                                           : top->s_axil_arready && top->s_axil_arvalid;
            const bool data_now = write && top->s_axil_wready && top->s_axil_wvalid;
            const bool answer = write ? top->s_axil_bvalid : top->s_axil_rvalid;
            const uint32_t data = top->s_axil_rdata;
            const int response = write ? top->s_axil_bresp : top->s_axil_rresp;
            if (address_now || data_now) accepted = cycle;
            step();
            if (address_now) address_done = true, (write ? top->s_axil_awvalid : top->s_axil_arvalid) = 0;
            if (data_now) data_done = true, top->s_axil_wvalid = 0;
            if (address_done && data_done && answer) {
                top->s_axil_bready = top->s_axil_rready = 0;
                if (!write) *value = data;
                return response;
            }
        }
        return -1;
    }
};

}  // namespace

extern "C" {

Harness* lepton_create(uint64_t size, uint64_t base) { return new Harness(size, base); }
void lepton_destroy(Harness* h) {
    h->top->final();
    delete h;
}
uint8_t* lepton_memory(Harness* h) { return h->memory.data(); }
uint64_t lepton_cycle(Harness* h) { return h->cycle; }
uint64_t lepton_accepted(Harness* h) { return h->accepted; }
uint64_t lepton_beats(Harness* h, int written) { return written ? h->beats_written : h->beats_read; }
void lepton_reset(Harness* h, int cycles) { h->reset(cycles); }
void lepton_settings(Harness* h, const Settings* settings, uint64_t seed) {
    h->settings = *settings;
    h->random.state = seed * 0x9E3779B97F4A7C15ull + 1;
}
void lepton_errors(Harness* h, const ErrorRange* ranges, uint32_t count) {
    h->errors.clear();
    for (uint32_t i = 0; i < count; i++) h->errors.push_back({ranges[i], 0});
}
uint64_t lepton_error_beats(Harness* h, uint32_t number) { return h->errors[number].seen; }
int lepton_register(Harness* h, int write, uint32_t addr, uint32_t* value) {
    return h->register_access(write != 0, addr, value);
}
// Runs until the interrupt or for max_cycles; returns 1 when the interrupt is up.
int lepton_run(Harness* h, uint64_t max_cycles) {
    for (uint64_t i = 0; i < max_cycles; i++) {
        if (h->top->irq) return 1;
        h->step();
    }
    return h->top->irq;
}
int lepton_outstanding(Harness* h) {
    size_t count = h->writes.size() + h->responses.size() + h->write_beats.size();
    for (auto& entry : h->reads) count += entry.second.size();
    return static_cast<int>(count);
}
const char* lepton_violation(Harness* h) { return h->checker.violation().c_str(); }
uint64_t lepton_bursts(Harness* h, int write, uint32_t beats) { return h->checker.bursts(write != 0, beats); }
uint64_t lepton_quiet_since(Harness* h) { return h->checker.quiet_since(); }
int lepton_trace(Harness* h, const char* path) {
#if VM_TRACE
    h->context->traceEverOn(true);
    h->trace.reset(new VerilatedVcdC);
    h->top->trace(h->trace.get(), 99);
    h->trace->open(path);
    return 1;
#else
    (void)h, (void)path;
    return 0;
#endif
}
}
