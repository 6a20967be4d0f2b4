// The accelerator behind the serial link, as a program: `linked DIVIDER MEMORY_BASE MEMORY_BYTES READS WRITES BURST [FILE ADDRESS]...`
//
// READS, WRITES, BURST: the accelerator's bursts in flight and beats per burst. Each FILE's content is in memory at ADDRESS from the start.
#include <sys/mman.h>

#include "../dram.h"
#include "Vloralith_linked.h"
#include "serve.h"
#include "verilated.h"

namespace loralith {

using Top = Vloralith_linked;
constexpr unsigned BUS = sizeof(Top::m_axi_gmem_rdata);

// The link's memory port under the names that `Dram` knows.
struct LinkPort {
    explicit LinkPort(Top& top) : m_top(top) {}
    Top& m_top;
#define PIN(name) decltype(Top::m_axi_gmem_##name)& m_axi_gmem_##name = m_top.m_axi_link_##name;
    PIN(awid) PIN(awaddr) PIN(awlen) PIN(awsize) PIN(awburst) PIN(awlock) PIN(awvalid) PIN(awready)
    PIN(wdata) PIN(wstrb) PIN(wlast) PIN(wvalid) PIN(wready)
    PIN(bid) PIN(bresp) PIN(bvalid) PIN(bready)
    PIN(arid) PIN(araddr) PIN(arlen) PIN(arsize) PIN(arburst) PIN(arlock) PIN(arvalid) PIN(arready)
    PIN(rid) PIN(rdata) PIN(rresp) PIN(rlast) PIN(rvalid) PIN(rready)
#undef PIN
};

Settings settings_of(uint64_t base, uint64_t bytes, uint32_t reads, uint32_t writes, uint32_t burst) {
    Settings settings{};
    settings.dram_base = settings.window_base = base;
    settings.dram_bytes = bytes;
    settings.window_limit = base + bytes;
    settings.outstanding_reads = reads;
    settings.outstanding_writes = writes;
    settings.max_burst = burst;
    settings.read_latency = 20;
    settings.write_latency = 10;
    settings.read_rate = settings.write_rate = 65536;
    settings.error_response = SLVERR;
    return settings;
}

class LinkedBoard {
public:
    LinkedBoard(uint64_t base, uint64_t bytes, uint32_t reads, uint32_t writes, uint32_t burst, uint8_t* memory)
        : m_port(m_top),
          m_accelerator(m_top, settings_of(base, bytes, reads, writes, burst), memory),
          m_link(m_port, settings_of(base, bytes, 1, 1, 16), memory) {
        m_top.aresetn = 0;
        for (unsigned i = 0; i < 8; ++i) cycle(true);
        m_top.aresetn = 1;
    }

    bool cycle(bool rx) {
        m_top.rx = rx;
        m_accelerator.drive(m_now);
        m_link.drive(m_now);
        m_top.aclk = 0;
        m_top.eval();
        const bool tx = m_top.tx;
        if (m_top.aresetn) {
            m_accelerator.sample(m_now);
            m_link.sample(m_now);
        }
        m_top.aclk = 1;
        m_top.eval();
        ++m_now;
        return tx;
    }

    uint64_t activity() const {
        const Stats stats = m_accelerator.stats();
        return stats.read_beats + stats.write_beats + m_top.irq;
    }
    std::string stats() const {
        const std::string& ours = m_accelerator.violation();
        return "\"violation\": \"" + (ours.empty() ? m_link.violation() : ours) + "\", \"memory_beats\": " + std::to_string(activity());
    }

private:
    VerilatedContext m_context;
    Top m_top{&m_context};
    LinkPort m_port;
    Dram<Top, BUS> m_accelerator;
    Dram<LinkPort, BUS> m_link;
    uint64_t m_now = 0;
};

}  // namespace loralith

int main(int argc, char** argv) {
    if (argc < 7 || argc % 2 == 0) {
        fprintf(stderr, "usage: linked DIVIDER MEMORY_BASE MEMORY_BYTES READS WRITES BURST [FILE ADDRESS]...\n");
        return 2;
    }
    uint64_t numbers[6];
    for (int i = 0; i < 6; ++i) numbers[i] = strtoull(argv[1 + i], nullptr, 0);
    const uint64_t base = numbers[1], bytes = numbers[2];
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fprintf(stderr, "no %llu bytes for the simulated memory\n", static_cast<unsigned long long>(bytes));
        return 1;
    }
    for (int i = 7; i < argc; i += 2) {
        const uint64_t at = strtoull(argv[i + 1], nullptr, 0) - base;
        FILE* file = at < bytes ? fopen(argv[i], "rb") : nullptr;
        if (!file || (fread(static_cast<uint8_t*>(memory) + at, 1, bytes - at, file), fgetc(file) != EOF)) {
            fprintf(stderr, "%s cannot be read, or does not fit in memory at %s\n", argv[i], argv[i + 1]);
            return 1;
        }
        fclose(file);
    }
    loralith::LinkedBoard board(base, bytes, numbers[3], numbers[4], numbers[5], static_cast<uint8_t*>(memory));
    return loralith::Server<loralith::LinkedBoard>(board, numbers[0]).run();
}
