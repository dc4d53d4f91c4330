// The rules of an AXI4 port, from what can be seen at it: nothing is shared with the memory behind it.
//
// Of the master (AMBA AXI and ACE, IHI 0022H): VALID and payload rest until READY (A3.2.1), nothing is offered in reset
// (A3.1.2), bursts are INCR, of whole beats, aligned, within 4 KiB (A3.4.1), AWLEN + 1 beats of W to every AW, WLAST with
// the last (A3.4.1). Of this core (docs/architecture.md, section 6): IDs, longest burst and most bursts in flight of
// each. Of the memory: VALID and payload rest as well, answers are to what was asked, RLAST is with the last beat, no B
// before the last W (A3.3.1). The first rule that is broken is kept, with the cycle.
#ifndef LEPTON_AXI_CHECKER_H
#define LEPTON_AXI_CHECKER_H

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>

// One cycle of the port: the signals as they are just before the clock edge.
struct AxiCycle {
    struct Address {
        bool valid, ready;
        uint64_t addr;
        uint32_t id, len, size, burst, cache, prot;
        bool same(const Address& o) const {
            return addr == o.addr && id == o.id && len == o.len && size == o.size && burst == o.burst &&
                   cache == o.cache && prot == o.prot;
        }
    } ar, aw;
    struct Write {
        bool valid, ready, last;
        uint64_t strobes;
        const uint8_t* data;
    } w;
    struct Read {
        bool valid, ready, last;
        uint32_t id, response;
        const uint8_t* data;
    } r;
    struct Answer {
        bool valid, ready;
        uint32_t id, response;
    } b;
};

class AxiChecker {
public:
    static constexpr unsigned kIds = 4, kMostBytes = 32;
    // What a transaction ID may do: 0 beats, not at all.
    struct Limits {
        uint32_t longest_read, most_reads, longest_write, most_writes;
    };

    AxiChecker(unsigned bytes, const Limits (&limits)[kIds]) : bytes_(bytes) {
        std::memcpy(limits_, limits, sizeof limits_);
    }

    const std::string& violation() const { return violation_; }
    // Bursts of so many beats (1 to 256) whose address has been taken.
    uint64_t bursts(bool write, unsigned beats) const { return lengths_[write][beats - 1]; }
    // The cycle behind the last one in which something was offered, or unfinished.
    uint64_t quiet_since() const { return quiet_since_; }
    // A cycle of reset, of those behind the first clock edge in it.
    void in_reset(const AxiCycle& now, uint64_t cycle) {
        cycle_ = cycle;
        expect(!now.ar.valid && !now.aw.valid && !now.w.valid, "port", "VALID is high in reset");
        forget();
    }

    void forget() {
        held_ = AxiCycle{};
        for (auto& queue : reads_) queue.clear();
        writes_.clear(), answers_.clear(), early_.clear();
        in_flight_[0] = in_flight_[1] = 0;
        for (auto& count : per_id_) count[0] = count[1] = 0;
    }

    void clock(const AxiCycle& now, uint64_t cycle) {
        cycle_ = cycle;
        address(now.ar, held_.ar, "AR", false);
        address(now.aw, held_.aw, "AW", true);
        write(now.w);
        read(now.r);
        answer(now.b);
        if (now.ar.valid || now.aw.valid || now.w.valid || in_flight_[0] || in_flight_[1]) quiet_since_ = cycle + 1;
    }

private:
    struct Burst {
        uint32_t id, beats;
    };

    void expect(bool good, const char* channel, const char* rule) {
        if (good || !violation_.empty()) return;
        char text[160];
        std::snprintf(text, sizeof text, "cycle %llu: %s: %s", static_cast<unsigned long long>(cycle_), channel, rule);
        violation_ = text;
    }

    void address(const AxiCycle::Address& now, AxiCycle::Address& held, const char* name, bool write) {
        if (held.valid) {
            expect(now.valid, name, "VALID fell before READY");
            expect(!now.valid || now.same(held), name, "payload changed while VALID waited");
        }
        held = now;
        held.valid = now.valid && !now.ready;
        if (!now.valid) return;
        const uint64_t bytes = (uint64_t(now.len) + 1) * bytes_;
        expect((1u << now.size) == bytes_ && now.burst == 1, name, "not an INCR burst of whole beats");
        expect(now.addr % bytes_ == 0, name, "address not aligned to a beat");
        expect((now.addr & 4095) + bytes <= 4096, name, "burst crosses 4 KiB");
        const Limits& limit = limits_[now.id % kIds];
        const uint32_t longest = write ? limit.longest_write : limit.longest_read;
        expect(now.id < kIds && longest != 0, name, "ID has no such transactions");
        expect(now.len < longest, name, "burst longer than its ID's");
        if (!now.ready) return;
        lengths_[write][now.len]++;
        in_flight_[write]++;
        uint32_t& count = per_id_[now.id % kIds][write];
        count++;
        expect(count <= (write ? limit.most_writes : limit.most_reads), name, "too many bursts in flight of its ID");
        const Burst burst{now.id, now.len + 1};
        if (!write) {
            reads_[now.id % kIds].push_back(burst);
        } else {
            writes_.push_back(burst);
            while (!early_.empty() && !writes_.empty()) take_beat(early_.front()), early_.pop_front();
        }
    }

    // A beat of the oldest burst that misses some.
    void take_beat(bool last) {
        Burst& burst = writes_.front();
        burst.beats--;
        expect(last == (burst.beats == 0), "W", "WLAST does not mark the last beat");
        if (burst.beats == 0) {
            answers_.push_back(burst);
            writes_.pop_front();
        }
    }

    void write(const AxiCycle::Write& now) {
        if (held_.w.valid) {
            expect(now.valid, "W", "VALID fell before READY");
            expect(!now.valid || (now.last == held_.w.last && now.strobes == held_.w.strobes &&
                                  std::memcmp(now.data, w_data_, bytes_) == 0),
                   "W", "payload changed while VALID waited");
        }
        held_.w = now;
        held_.w.valid = now.valid && !now.ready;
        if (now.valid) std::memcpy(w_data_, now.data, bytes_);
        if (!now.valid || !now.ready) return;
        if (writes_.empty())
            early_.push_back(now.last);
        else
            take_beat(now.last);
    }

    void read(const AxiCycle::Read& now) {
        if (held_.r.valid) {
            expect(now.valid, "R", "VALID fell before READY");
            expect(!now.valid || (now.id == held_.r.id && now.last == held_.r.last &&
                                  now.response == held_.r.response && std::memcmp(now.data, r_data_, bytes_) == 0),
                   "R", "payload changed while VALID waited");
        }
        held_.r = now;
        held_.r.valid = now.valid && !now.ready;
        if (now.valid) std::memcpy(r_data_, now.data, bytes_);
        if (!now.valid || !now.ready) return;
        auto& queue = reads_[now.id % kIds];
        expect(now.id < kIds && !queue.empty(), "R", "a beat of no burst");
        if (queue.empty()) return;
        queue.front().beats--;
        expect(now.last == (queue.front().beats == 0), "R", "RLAST does not mark the last beat");
        if (queue.front().beats) return;
        queue.pop_front();
        in_flight_[0]--;
        per_id_[now.id % kIds][0]--;
    }

    void answer(const AxiCycle::Answer& now) {
        if (held_.b.valid) {
            expect(now.valid, "B", "VALID fell before READY");
            expect(!now.valid || (now.id == held_.b.id && now.response == held_.b.response), "B",
                   "payload changed while VALID waited");
        }
        held_.b = now;
        held_.b.valid = now.valid && !now.ready;
        if (!now.valid || !now.ready) return;
        // Of one ID answers come in the order of the bursts.
        for (auto burst = answers_.begin(); burst != answers_.end(); ++burst)
            if (burst->id == now.id) {
                answers_.erase(burst);
                in_flight_[1]--;
                per_id_[now.id % kIds][1]--;
                return;
            }
        expect(false, "B", "an answer to no burst");
    }

    unsigned bytes_;
    Limits limits_[kIds];
    uint64_t cycle_ = 0, quiet_since_ = 0;
    uint64_t lengths_[2][256] = {};
    uint32_t in_flight_[2] = {}, per_id_[kIds][2] = {};
    AxiCycle held_{};
    uint8_t w_data_[kMostBytes] = {}, r_data_[kMostBytes] = {};
    std::deque<Burst> reads_[kIds], writes_, answers_;
    std::deque<bool> early_;  // WLAST of data whose address has not come
    std::string violation_;
};

#endif
