// The memory behind the machine's AXI4 port: latency, bandwidth, stalls, faults, and the protocol's rules.
//
// Per cycle: `drive` sets the machine's inputs, the model settles, `sample` takes what was transferred at the coming edge.
// Bursts are answered in order. A read sees memory as of its address handshake; a write is in memory when its response is offered:
// so a machine that relies on any other order reads or leaves wrong bytes. A write that is answered with an error changes nothing.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "settings.h"
#include "stall.h"

namespace loralith {

template <class Top, unsigned BUS>
class Dram {
public:
    Dram(Top& top, const Settings& settings, uint8_t* memory)
        : m_top(top), m_memory(memory), m_base(settings.dram_base), m_bytes(settings.dram_bytes) {
        configure(settings);
        m_stats.lowest = ~0ull;
    }

    // All but the place and size of DRAM; restarts stalls and the counting of injected faults.
    void configure(const Settings& settings) {
        m_set = settings;
        for (unsigned c = 0; c < CHANNELS; ++c) {
            m_stall[c].configure(settings.seed * CHANNELS + c, settings.stall[c], settings.stall_length);
        }
        m_read_rate.configure(settings.read_rate);
        m_write_rate.configure(settings.write_rate);
        m_beats_to_error = settings.read_error_beat;
        m_bursts_to_error = settings.write_error_burst;
    }

    // Forget all bursts in flight, as a reset of the whole bus does.
    void reset() {
        m_reads.clear();
        m_writes.clear();
        m_early.clear();
        m_answers.clear();
        m_read_offered = m_answer_offered = false;
        m_held_ar = m_held_aw = m_held_w = false;
    }

    void drive(uint64_t now) {
        bool stalled[CHANNELS];
        for (unsigned c = 0; c < CHANNELS; ++c) stalled[c] = m_stall[c].step();
        m_read_rate.step();
        m_write_rate.step();
        m_top.m_axi_gmem_arready = !stalled[AR] && m_reads.size() < DEPTH;
        m_top.m_axi_gmem_awready = !stalled[AW] && m_writes.size() < DEPTH;
        m_top.m_axi_gmem_wready = !stalled[W] && m_write_rate.ready() && m_early.size() < EARLY;
        if (!m_read_offered && !stalled[R] && m_read_rate.ready() && !m_reads.empty() && m_reads.front().due <= now) offer_beat();
        if (!m_answer_offered && !stalled[B] && !m_answers.empty() && m_answers.front().due <= now) offer_answer();
        m_top.m_axi_gmem_rvalid = m_read_offered;
        m_top.m_axi_gmem_bvalid = m_answer_offered;
    }

    void sample(uint64_t now) {
        if (m_read_offered && m_top.m_axi_gmem_rready) end_beat();
        if (m_answer_offered && m_top.m_axi_gmem_bready) {
            m_answer_offered = false;
            m_answers.pop_front();
        }
        sample_ar(now);
        sample_aw();
        sample_w();
        while (!m_early.empty() && !m_writes.empty()) place_beat(now);
    }

    // Ready and valid as driven in this cycle, one bit per channel.
    uint8_t handshakes() const {
        return m_top.m_axi_gmem_arready << AR | m_top.m_axi_gmem_rvalid << R | m_top.m_axi_gmem_awready << AW |
               m_top.m_axi_gmem_wready << W | m_top.m_axi_gmem_bvalid << B;
    }

    Stats stats() const {
        Stats stats = m_stats;
        stats.reads_pending = m_reads.size();
        stats.writes_pending = m_writes.size() + m_answers.size();
        return stats;
    }
    const std::string& violation() const { return m_violation; }

    __attribute__((format(printf, 2, 3))) void violate(const char* format, ...) {
        if (m_stats.violations++) return;
        char text[256];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        m_violation = text;
    }

private:
    static constexpr unsigned DEPTH = 256;  // bursts that the memory queues in each direction
    static constexpr unsigned EARLY = 64;   // write beats that it takes before their address
    static constexpr unsigned LOG_BUS = __builtin_ctz(BUS);

    struct Address {
        uint64_t addr;
        uint8_t id, len, size, burst, lock;
        bool operator==(const Address& other) const {
            return addr == other.addr && id == other.id && len == other.len && size == other.size && burst == other.burst &&
                   lock == other.lock;
        }
    };
    struct Beat {
        uint8_t data[BUS];
        uint64_t strobe;
        bool last;
        bool operator==(const Beat& other) const {
            return !memcmp(data, other.data, BUS) && strobe == other.strobe && last == other.last;
        }
    };
    struct Read {
        Address at;
        uint64_t due;
        unsigned beat = 0;
        std::vector<uint8_t> data;  // empty: outside DRAM
    };
    struct Write {
        Address at;
        uint64_t due = 0;
        uint8_t response = OKAY;
        std::vector<Beat> beats;
    };

    void offer_beat() {
        Read& read = m_reads.front();
        if (read.data.empty()) {
            memset(&m_top.m_axi_gmem_rdata, 0xA5, BUS);
        } else {
            memcpy(&m_top.m_axi_gmem_rdata, read.data.data() + read.beat * BUS, BUS);
        }
        uint8_t response = read.data.empty() ? DECERR : faulty(read.at.addr + read.beat * BUS, BUS) ? error() : OKAY;
        if (m_beats_to_error && !--m_beats_to_error) response = error();
        m_top.m_axi_gmem_rresp = response;
        m_top.m_axi_gmem_rid = read.at.id;
        m_top.m_axi_gmem_rlast = read.beat == read.at.len;
        m_read_offered = true;
        m_read_rate.take();
    }

    void end_beat() {
        Read& read = m_reads.front();
        m_read_offered = false;
        ++m_stats.read_beats;
        if (read.beat++ == read.at.len) m_reads.pop_front();
    }

    void offer_answer() {
        Write& write = m_answers.front();
        if (write.response == OKAY) commit(write);
        m_top.m_axi_gmem_bresp = write.response;
        m_top.m_axi_gmem_bid = write.at.id;
        m_answer_offered = true;
    }

    void commit(const Write& write) {
        uint8_t* to = m_memory + (write.at.addr - m_base);
        for (const Beat& beat : write.beats) {
            if (beat.strobe == ALL) {
                memcpy(to, beat.data, BUS);
            } else {
                for (unsigned i = 0; i < BUS; ++i) {
                    if (beat.strobe >> i & 1) to[i] = beat.data[i];
                }
            }
            to += BUS;
        }
    }

    void sample_ar(uint64_t now) {
        const bool valid = m_top.m_axi_gmem_arvalid;
        const Address at{m_top.m_axi_gmem_araddr, m_top.m_axi_gmem_arid, m_top.m_axi_gmem_arlen, m_top.m_axi_gmem_arsize,
                         m_top.m_axi_gmem_arburst, m_top.m_axi_gmem_arlock};
        check_held("AR", valid, m_held_ar, at == m_last_ar);
        m_held_ar = valid && !m_top.m_axi_gmem_arready;
        m_last_ar = at;
        if (!valid || m_held_ar) return;
        ++m_stats.read_bursts;
        check_address("read", at);
        Read read{at, now + m_set.read_latency, 0, {}};
        if (in_dram(at)) {
            const uint8_t* from = m_memory + (at.addr - m_base);
            read.data.assign(from, from + bytes_of(at));
        }
        m_reads.push_back(std::move(read));
        if (m_reads.size() > m_set.outstanding_reads) violate("%zu reads in flight, %u allowed", m_reads.size(), m_set.outstanding_reads);
    }

    void sample_aw() {
        const bool valid = m_top.m_axi_gmem_awvalid;
        const Address at{m_top.m_axi_gmem_awaddr, m_top.m_axi_gmem_awid, m_top.m_axi_gmem_awlen, m_top.m_axi_gmem_awsize,
                         m_top.m_axi_gmem_awburst, m_top.m_axi_gmem_awlock};
        check_held("AW", valid, m_held_aw, at == m_last_aw);
        m_held_aw = valid && !m_top.m_axi_gmem_awready;
        m_last_aw = at;
        if (!valid || m_held_aw) return;
        ++m_stats.write_bursts;
        check_address("write", at);
        Write write;
        write.at = at;
        write.response = in_dram(at) ? faulty(at.addr, bytes_of(at)) ? error() : OKAY : DECERR;
        if (m_bursts_to_error && !--m_bursts_to_error) write.response = error();
        write.beats.reserve(at.len + 1u);
        m_writes.push_back(std::move(write));
        const size_t pending = m_writes.size() + m_answers.size();
        if (pending > m_set.outstanding_writes) violate("%zu writes in flight, %u allowed", pending, m_set.outstanding_writes);
    }

    void sample_w() {
        const bool valid = m_top.m_axi_gmem_wvalid;
        Beat beat;
        if (valid) {
            memcpy(beat.data, &m_top.m_axi_gmem_wdata, BUS);
            beat.strobe = m_top.m_axi_gmem_wstrb;
            beat.last = m_top.m_axi_gmem_wlast;
        }
        check_held("W", valid, m_held_w, !valid || beat == m_last_w);
        m_held_w = valid && !m_top.m_axi_gmem_wready;
        if (!valid) return;
        m_last_w = beat;
        if (m_held_w) return;
        ++m_stats.write_beats;
        m_write_rate.take();
        m_early.push_back(beat);
    }

    // Give the oldest write beat to the oldest address.
    void place_beat(uint64_t now) {
        Write& write = m_writes.front();
        write.beats.push_back(m_early.front());
        m_early.pop_front();
        const bool full = write.beats.size() == write.at.len + 1u;
        if (write.beats.back().last != full) {
            violate("WLAST is %d in beat %zu of %u at 0x%llx", write.beats.back().last, write.beats.size(), write.at.len + 1u, address(write.at));
        }
        if (!full) return;
        write.due = now + m_set.write_latency;
        m_answers.push_back(std::move(write));
        m_writes.pop_front();
    }

    void check_held(const char* channel, bool valid, bool held, bool same) {
        if (held && !valid) violate("%sVALID fell before its handshake", channel);
        if (held && valid && !same) violate("%s changed while it waited for its handshake", channel);
    }

    void check_address(const char* what, const Address& at) {
        const uint64_t last = at.addr + bytes_of(at) - 1;
        if (at.burst != 1) violate("%s at 0x%llx: burst type %u, not INCR", what, address(at), at.burst);
        if (at.size != LOG_BUS) violate("%s at 0x%llx: size %u, not %u", what, address(at), at.size, LOG_BUS);
        if (at.lock) violate("%s at 0x%llx: exclusive", what, address(at));
        if (at.addr % BUS) violate("%s at 0x%llx: not a multiple of the bus width", what, address(at));
        if (at.len + 1u > m_set.max_burst) violate("%s at 0x%llx: %u beats, %u allowed", what, address(at), at.len + 1u, m_set.max_burst);
        if (at.addr >> 12 != last >> 12) violate("%s at 0x%llx: %u beats cross a 4 KB line", what, address(at), at.len + 1u);
        if (at.addr < m_set.window_base || last < at.addr || last >= m_set.window_limit) ++m_stats.outside_window;
        if (!in_dram(at)) ++m_stats.outside_dram;
        if (at.addr < m_stats.lowest) m_stats.lowest = at.addr;
        if (last > m_stats.highest) m_stats.highest = last;
    }

    static unsigned long long address(const Address& at) { return at.addr; }
    static uint64_t bytes_of(const Address& at) { return (at.len + 1ull) * BUS; }
    bool in_dram(const Address& at) const {
        return at.addr >= m_base && at.addr - m_base < m_bytes && m_bytes - (at.addr - m_base) >= bytes_of(at);
    }
    bool faulty(uint64_t addr, uint64_t bytes) const { return addr < m_set.error_limit && addr + bytes > m_set.error_base; }
    uint8_t error() const { return m_set.error_response; }

    static constexpr uint64_t ALL = BUS == 64 ? ~0ull : (1ull << BUS % 64) - 1;

    Top& m_top;
    uint8_t* const m_memory;
    const uint64_t m_base, m_bytes;
    Settings m_set;
    Stall m_stall[CHANNELS];
    Rate m_read_rate, m_write_rate;
    uint64_t m_beats_to_error = 0, m_bursts_to_error = 0;
    std::deque<Read> m_reads;
    std::deque<Write> m_writes, m_answers;
    std::deque<Beat> m_early;
    bool m_read_offered = false, m_answer_offered = false;
    bool m_held_ar = false, m_held_aw = false, m_held_w = false;
    Address m_last_ar{}, m_last_aw{};
    Beat m_last_w{};
    Stats m_stats{};
    std::string m_violation;
};

}  // namespace loralith
