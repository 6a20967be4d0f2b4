// Bursts over the controller's AXI port, against the chip model at its pins: every byte that is read is compared, every rule is checked.
//
// usage: sdram_bench BURSTS key=value...
// BURSTS holds records of four little-endian words: kind (0 read, 1 write), first beat, beats, id. Reads are issued in order and writes
// are; the two wait for one another where they overlap, and where one is `skew` records ahead. Prints a JSON object; the exit status is 1
// where something is wrong.
#include <algorithm>
#include <cinttypes>
#include <cstring>
#include <fstream>
#include <memory>

#include "Vsdram_system.h"
#include "sdram_options.h"
#include "verilated.h"

namespace {

using loralith::Options;
using loralith::SdramChip;
using loralith::SdramPins;

struct Burst {
    uint32_t kind, beat, beats, id;
};
struct Pending {
    Burst burst;
    uint32_t done;
    size_t place;
};

class Bench {
public:
    Bench(std::vector<Burst> bursts, const Options& options)
        : m_options(options), m_chip(loralith::sheet_of(options)), m_bytes(32u << 20), m_noise(options("seed") | 1), m_stall(options("stall")),
          m_skew(options("skew")), m_most_reads(options("reads")), m_most_writes(options("writes")), m_strobes(options("strobes")),
          m_base(options("base")) {
        for (size_t i = 0; i < bursts.size(); ++i) (bursts[i].kind ? m_writes : m_reads).push_back({bursts[i], 0, i});
        // Both start from the same content.
        for (size_t i = 0; i < m_bytes.size(); i += 8) {
            const uint64_t content = random();
            memcpy(&m_bytes[i], &content, 8);
            memcpy(m_chip.beat(i / 8), &content, 8);
        }
    }

    int run() {
        m_top.rst = 1;
        for (int i = 0; i < 4; ++i) step();
        m_top.rst = 0;
        while (!m_top.started && ok()) step();
        m_go = true;
        const uint64_t began = m_now, words = m_chip.transferred();
        const uint64_t limit = began + m_options("cycles");
        while (ok() && !finished()) {
            step();
            if (m_now > limit) wrong("no end after %" PRIu64 " cycles", m_options("cycles"));
        }
        const uint64_t cycles = m_now - began, moved = m_chip.transferred() - words;
        // A while without traffic: refreshes go on.
        for (uint64_t i = 0; i < m_options("idle") && ok(); ++i) step();
        const std::string said = m_wrong.empty() ? m_chip.violation() : m_wrong;
        printf("{\"wrong\": \"%s\", \"cycles\": %" PRIu64 ", \"words\": %" PRIu64 ", \"read_beats\": %" PRIu64 ", \"write_beats\": %" PRIu64
               ", \"activated\": %" PRIu64 ", \"refreshed\": %" PRIu64 ", \"errors\": %" PRIu64 "}\n",
               said.c_str(), cycles, moved, m_read_beats, m_write_beats, m_chip.activated(), m_chip.refreshed(), m_errors);
        return !said.empty();
    }

private:
    bool ok() const { return m_wrong.empty() && m_chip.violation().empty(); }
    bool finished() const {
        return m_next_read == m_reads.size() && m_next_write == m_writes.size() && m_open_reads.empty() && m_open_writes.empty() &&
               m_beats.empty() && !m_top.s_axi_arvalid && !m_top.s_axi_awvalid;
    }
    uint64_t random() {
        m_noise ^= m_noise << 13, m_noise ^= m_noise >> 7, m_noise ^= m_noise << 17;
        return m_noise;
    }
    bool stalls() { return m_stall && random() % 100 < m_stall; }
    template <typename... T>
    void wrong(const char* format, T... values) {
        char text[200];
        snprintf(text, sizeof text, format, values...);
        if (m_wrong.empty()) m_wrong = text;
    }
    // First and last beat as the memory sees them: a burst outside it meets none.
    static bool overlap(const Burst& a, const Burst& b) { return a.beat < b.beat + b.beats && b.beat < a.beat + a.beats; }
    template <typename List>
    static bool meets(const Burst& burst, const List& list) {
        return std::any_of(list.begin(), list.end(), [&](const Pending& one) { return overlap(one.burst, burst); });
    }
    bool outside(uint64_t beat) const { return 8 * beat >= m_bytes.size(); }

    void drive() {
        const size_t first_read = m_open_reads.empty() ? place(m_reads, m_next_read) : m_open_reads.front().place;
        const size_t first_write = m_open_writes.empty() ? place(m_writes, m_next_write) : m_open_writes.front().place;
        if (!m_top.s_axi_arvalid && m_next_read < m_reads.size() && m_open_reads.size() < m_most_reads && !stalls()) {
            const Pending& one = m_reads[m_next_read];
            if (!meets(one.burst, m_open_writes) && one.place < first_write + m_skew) {
                m_top.s_axi_arvalid = 1;
                m_top.s_axi_araddr = m_base + 8ull * one.burst.beat;
                m_top.s_axi_arlen = one.burst.beats - 1;
                m_top.s_axi_arid = one.burst.id;
                m_top.s_axi_arsize = 3;
                m_top.s_axi_arburst = 1;
                m_open_reads.push_back(one);
                ++m_next_read;
            }
        }
        if (!m_top.s_axi_awvalid && m_next_write < m_writes.size() && m_open_writes.size() < m_most_writes && !stalls()) {
            const Pending& one = m_writes[m_next_write];
            if (!meets(one.burst, m_open_reads) && one.place < first_read + m_skew) {
                m_top.s_axi_awvalid = 1;
                m_top.s_axi_awaddr = m_base + 8ull * one.burst.beat;
                m_top.s_axi_awlen = one.burst.beats - 1;
                m_top.s_axi_awid = one.burst.id;
                m_top.s_axi_awsize = 3;
                m_top.s_axi_awburst = 1;
                m_open_writes.push_back(one);
                for (uint32_t i = 0; i < one.burst.beats; ++i) m_beats.push_back({one.burst.beat + i, i + 1 == one.burst.beats});
                ++m_next_write;
            }
        }
        if (!m_top.s_axi_wvalid && !m_beats.empty() && !stalls()) {
            const auto [beat, last] = m_beats.front();
            m_top.s_axi_wvalid = 1;
            m_top.s_axi_wdata = random();
            m_top.s_axi_wstrb = m_strobes ? random() & 0xFF : 0xFF;
            m_top.s_axi_wlast = last;
            for (unsigned byte = 0; byte < 8 && !outside(beat); ++byte)
                if (m_top.s_axi_wstrb >> byte & 1) m_bytes[8ull * beat + byte] = m_top.s_axi_wdata >> 8 * byte;
        }
        m_top.s_axi_rready = !stalls();
        m_top.s_axi_bready = !stalls();
    }
    static size_t place(const std::vector<Pending>& list, size_t next) { return next < list.size() ? list[next].place : SIZE_MAX / 2; }

    void sample() {
        if (m_top.s_axi_rvalid && m_top.s_axi_rready) take_read();
        if (m_top.s_axi_bvalid && m_top.s_axi_bready) take_response();
        m_taken[0] = m_top.s_axi_arvalid && m_top.s_axi_arready;
        m_taken[1] = m_top.s_axi_awvalid && m_top.s_axi_awready;
        m_taken[2] = m_top.s_axi_wvalid && m_top.s_axi_wready;
    }
    void take_read() {
        if (m_open_reads.empty()) return wrong("a beat that nobody asked for");
        Pending& one = m_open_reads.front();
        const uint64_t beat = one.burst.beat + one.done;
        if (m_top.s_axi_rid != one.burst.id) return wrong("beat %" PRIu64 " has id %u, not %u", beat, m_top.s_axi_rid, one.burst.id);
        if (m_top.s_axi_rlast != (++one.done == one.burst.beats)) return wrong("beat %" PRIu64 ": RLAST is %u", beat, m_top.s_axi_rlast);
        if (m_top.s_axi_rresp != (outside(one.burst.beat) ? 3 : 0)) return wrong("beat %" PRIu64 ": RRESP is %u", beat, m_top.s_axi_rresp);
        uint64_t content = m_top.s_axi_rdata;
        if (!outside(one.burst.beat)) memcpy(&content, &m_bytes[8 * beat], 8);
        if (m_top.s_axi_rdata != content) {
            return wrong("beat %" PRIu64 ": 0x%" PRIx64 " is read, 0x%" PRIx64 " was written", beat, uint64_t{m_top.s_axi_rdata}, content);
        }
        m_errors += m_top.s_axi_rresp != 0;
        ++m_read_beats;
        if (m_top.s_axi_rlast) m_open_reads.pop_front();
    }
    void take_response() {
        if (m_open_writes.empty()) return wrong("a response that nobody waits for");
        const Pending& one = m_open_writes.front();
        if (m_top.s_axi_bid != one.burst.id) return wrong("a response has id %u, not %u", m_top.s_axi_bid, one.burst.id);
        if (m_top.s_axi_bresp != (outside(one.burst.beat) ? 3 : 0)) return wrong("BRESP is %u", m_top.s_axi_bresp);
        m_errors += m_top.s_axi_bresp != 0;
        m_write_beats += one.burst.beats;
        m_open_writes.pop_front();
    }

    void step() {
        if (m_taken[0]) m_top.s_axi_arvalid = 0;
        if (m_taken[1]) m_top.s_axi_awvalid = 0;
        if (m_taken[2]) m_top.s_axi_wvalid = 0, m_beats.pop_front();
        if (m_go) drive();
        m_top.sdram_dq_i = m_chip.dq();
        m_top.clk = 0;
        m_top.eval();
        sample();
        const SdramPins pins{static_cast<bool>(m_top.sdram_cke), static_cast<bool>(m_top.sdram_cs_n), static_cast<bool>(m_top.sdram_ras_n),
                             static_cast<bool>(m_top.sdram_cas_n), static_cast<bool>(m_top.sdram_we_n), m_top.sdram_ba, m_top.sdram_a,
                             m_top.sdram_dqm, static_cast<bool>(m_top.sdram_dq_oe), m_top.sdram_dq_o};
        if (!m_top.rst && m_top.sdram_cke) m_chip.edge(pins);
        m_top.clk = 1;
        m_top.eval();
        ++m_now;
    }

    const Options& m_options;
    SdramChip m_chip;
    Vsdram_system m_top;
    std::vector<uint8_t> m_bytes;  // what must be in memory
    std::vector<Pending> m_reads, m_writes;
    std::deque<Pending> m_open_reads, m_open_writes;
    std::deque<std::pair<uint64_t, bool>> m_beats;
    std::string m_wrong;
    size_t m_next_read = 0, m_next_write = 0;
    uint64_t m_noise;
    const uint64_t m_stall, m_skew, m_most_reads, m_most_writes, m_strobes, m_base;
    uint64_t m_now = 0, m_read_beats = 0, m_write_beats = 0, m_errors = 0;
    bool m_go = false, m_taken[3] = {};  // AR, AW, W
};

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) return fprintf(stderr, "usage: sdram_bench BURSTS key=value...\n"), 2;
    std::ifstream file(argv[1], std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
    std::vector<Burst> bursts(bytes.size() / sizeof(Burst));
    memcpy(bursts.data(), bytes.data(), bursts.size() * sizeof(Burst));
    const Options options(argc, argv, 2);
    return std::make_unique<Bench>(std::move(bursts), options)->run();
}
