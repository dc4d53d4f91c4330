// The compiled harness: the Verilator model of the core with an AXI4 memory and an AXI4-Lite host beside it.
//
// Everything that toggles every cycle is here; Python only rings doorbells. The memory accepts any legal traffic,
// stalls every channel at random on request, answers after a settable latency at a settable bandwidth, may interleave
// reads of different IDs, injects error responses by address range and number of beats, and checks the core's side of the handshake and
// burst rules (AMBA AXI and ACE, IHI 0022H, A3.2 and A3.4). Its timing rules are in docs/verification.md;
// verif/lepton_verif/tb/axi_memory.py has the same ones for cocotb, and a test holds the two together.
//
// One instance has no shared state: several may run in threads of one process.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

constexpr unsigned kBusBytes = LEPTON_BUS_BYTES;
enum Channel { kAr, kR, kAw, kW, kB, kChannels };
enum Response { kOkay = 0, kSlverr = 2, kDecerr = 3 };

struct Settings {
    uint32_t latency;            // cycles from an accepted address (or last W beat) to the first response
    uint32_t bandwidth;          // cycles a data beat takes, on R and on W
    uint32_t stall[kChannels];   // chance of a stall in each cycle, in 1/65536
    uint32_t interleave;         // R beats of different IDs may alternate
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
    bool last;
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
    std::string violation;

    std::map<uint32_t, std::deque<Burst>> reads;
    std::deque<uint32_t> read_order;
    std::deque<Burst> writes, responses;
    std::deque<WriteBeat> write_beats;
    bool r_valid = false, b_valid = false;
    uint32_t r_id = 0;
    uint64_t r_free = 0, w_free = 0;  // first cycle of another beat
    uint64_t beats_read = 0, beats_written = 0;

    // What the core drove in the last cycle without being accepted: it must not change.
    struct Held {
        bool valid = false;
        uint64_t addr = 0, strobes = 0;
        uint32_t len = 0, last = 0;
        uint8_t data[kBusBytes] = {};
    } held_ar, held_aw, held_w;

    explicit Harness(size_t size, uint64_t base_) : memory(size), base(base_) {
        const char* arguments[] = {"lepton", "+verilator+rand+reset+2"};
        context->commandArgs(2, arguments);
        top.reset(new Vtop{context.get(), "top"});
    }

    void complain(const char* what) {
        if (violation.empty()) {
            char text[200];
            std::snprintf(text, sizeof text, "cycle %llu: %s", static_cast<unsigned long long>(cycle), what);
            violation = text;
        }
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

    void check_burst(uint64_t addr, uint32_t len, uint32_t size, uint32_t burst, const char* name) {
        const uint64_t bytes = (uint64_t(len) + 1) * kBusBytes;
        char text[120];
        if ((1u << size) != kBusBytes || burst != 1 || addr % kBusBytes || (addr & 4095) + bytes > 4096) {
            std::snprintf(text, sizeof text, "%s: illegal burst addr=0x%llx len=%u size=%u burst=%u", name,
                          static_cast<unsigned long long>(addr), len, size, burst);
            complain(text);
        }
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
    }

    void drive() {
        choose_read();
        top->m_axi_arready = !random.chance(settings.stall[kAr]);
        top->m_axi_awready = !random.chance(settings.stall[kAw]);
        top->m_axi_wready = !random.chance(settings.stall[kW]) && cycle >= w_free;
        top->m_axi_rvalid = r_valid;
        if (r_valid) {
            const Burst& burst = reads[r_id].front();
            const uint64_t addr = burst.addr + uint64_t(burst.done) * kBusBytes;
            const uint32_t response = response_at(addr, false);
            top->m_axi_rid = r_id;
            top->m_axi_rresp = response;
            top->m_axi_rlast = burst.done + 1 == burst.beats;
            if (inside(addr))
                std::memcpy(&top->m_axi_rdata, &memory[addr - base], kBusBytes);
            else
                std::memset(&top->m_axi_rdata, 0xDB, kBusBytes);
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

    void hold(Held& held, bool valid, bool ready, const Held& now, const char* name) {
        if (held.valid) {
            if (!valid)
                complain((std::string(name) + ": VALID fell before READY").c_str());
            else if (held.addr != now.addr || held.len != now.len || held.last != now.last ||
                     held.strobes != now.strobes || std::memcmp(held.data, now.data, kBusBytes))
                complain((std::string(name) + ": payload changed while VALID waited").c_str());
        }
        held = now;
        held.valid = valid && !ready;
    }

    void sample() {
        Held ar, aw, w;
        ar.addr = top->m_axi_araddr, ar.len = top->m_axi_arlen;
        aw.addr = top->m_axi_awaddr, aw.len = top->m_axi_awlen;
        if (top->m_axi_wvalid) {
            w.strobes = top->m_axi_wstrb, w.last = top->m_axi_wlast;
            std::memcpy(w.data, &top->m_axi_wdata, kBusBytes);
        }
        hold(held_ar, top->m_axi_arvalid, top->m_axi_arready, ar, "AR");
        hold(held_aw, top->m_axi_awvalid, top->m_axi_awready, aw, "AW");
        hold(held_w, top->m_axi_wvalid, top->m_axi_wready, w, "W");

        if (top->m_axi_arvalid && top->m_axi_arready) {
            check_burst(ar.addr, ar.len, top->m_axi_arsize, top->m_axi_arburst, "AR");
            const uint32_t id = top->m_axi_arid;
            reads[id].push_back({ar.addr, id, ar.len + 1, 0, cycle + 1 + settings.latency, 0});
            read_order.push_back(id);
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
        if (top->m_axi_awvalid && top->m_axi_awready) {
            check_burst(aw.addr, aw.len, top->m_axi_awsize, top->m_axi_awburst, "AW");
            writes.push_back({aw.addr, top->m_axi_awid, aw.len + 1, 0, 0, kOkay});
        }
        if (top->m_axi_wvalid && top->m_axi_wready) {
            WriteBeat beat;
            std::memcpy(beat.data, w.data, kBusBytes);
            beat.strobes = w.strobes;
            beat.last = w.last;
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
            if (beat.last != last) complain("W: WLAST does not mark the last beat");
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
        held_ar = held_aw = held_w = Held{};
        top->rst = 1;
        top->s_axil_awvalid = top->s_axil_wvalid = top->s_axil_bready = 0;
        top->s_axil_arvalid = top->s_axil_rready = 0;
        for (int i = 0; i < cycles; i++) {
            top->m_axi_arready = top->m_axi_awready = top->m_axi_wready = 0;
            top->m_axi_rvalid = top->m_axi_bvalid = 0;
            top->clk = 0, top->eval(), top->clk = 1, top->eval();
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
const char* lepton_violation(Harness* h) { return h->violation.c_str(); }
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
