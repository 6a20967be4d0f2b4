// The Verilated machine with its clock, memory and register port, behind a C interface for ctypes.
//
// One step is one clock cycle: inputs change while aclk is low, the edge follows. Nothing here knows the register map: the driver
// reads and writes registers by offset.
#include <sys/mman.h>

#include <memory>

#include "Vloralith.h"
#include "dram.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace loralith {

constexpr unsigned BUS = sizeof(Vloralith::m_axi_gmem_rdata);
constexpr unsigned LITE_CYCLES = 1000;  // a register access that takes longer is a violation

class Model {
public:
    Model(const Settings& settings, uint8_t* memory) : m_memory(memory), m_bytes(settings.dram_bytes), m_dram(m_top, settings, memory) {
        reset(4);
    }
    ~Model() {
        trace_close();
        m_top.final();
        munmap(m_memory, m_bytes);
    }

    // Memory goes through it with the machine: what that drives until it is reset itself is no transfer, and breaks no rule.
    void reset(unsigned cycles) {
        m_dram.reset();
        m_top.aresetn = 0;
        for (unsigned i = 0; i < cycles; ++i) step();
        m_top.aresetn = 1;
        step();
    }

    // Returns BRESP, or -1 when the machine does not answer.
    int write(unsigned address, uint32_t data) {
        m_top.s_axi_control_awaddr = address;
        m_top.s_axi_control_awvalid = 1;
        m_top.s_axi_control_wdata = data;
        m_top.s_axi_control_wstrb = 0xF;
        m_top.s_axi_control_wvalid = 1;
        m_top.s_axi_control_bready = 1;
        int response = -1;
        for (unsigned i = 0; i < LITE_CYCLES && response < 0; ++i) {
            settle();
            const bool address_taken = m_top.s_axi_control_awvalid && m_top.s_axi_control_awready;
            const bool data_taken = m_top.s_axi_control_wvalid && m_top.s_axi_control_wready;
            if (m_top.s_axi_control_bvalid) response = m_top.s_axi_control_bresp;
            edge();
            if (address_taken) m_top.s_axi_control_awvalid = 0;
            if (data_taken) m_top.s_axi_control_wvalid = 0;
            if (address_taken || data_taken) m_last_write = m_now - 1;
        }
        m_top.s_axi_control_awvalid = m_top.s_axi_control_wvalid = m_top.s_axi_control_bready = 0;
        if (response < 0) m_dram.violate("register write at 0x%x is not answered", address);
        return response;
    }

    // Returns RRESP, or -1 when the machine does not answer.
    int read(unsigned address, uint32_t* data) {
        m_top.s_axi_control_araddr = address;
        m_top.s_axi_control_arvalid = 1;
        m_top.s_axi_control_rready = 1;
        int response = -1;
        for (unsigned i = 0; i < LITE_CYCLES && response < 0; ++i) {
            settle();
            const bool address_taken = m_top.s_axi_control_arvalid && m_top.s_axi_control_arready;
            if (m_top.s_axi_control_rvalid) {
                response = m_top.s_axi_control_rresp;
                *data = m_top.s_axi_control_rdata;
            }
            edge();
            if (address_taken) m_top.s_axi_control_arvalid = 0;
        }
        m_top.s_axi_control_arvalid = m_top.s_axi_control_rready = 0;
        if (response < 0) m_dram.violate("register read at 0x%x is not answered", address);
        return response;
    }

    // Step until irq is high or `most` cycles are over; whether irq is high.
    bool wait(uint64_t most) {
        while (!m_top.irq && most--) step();
        return m_top.irq;
    }

    void step() {
        settle();
        edge();
    }

    Stats stats() const {
        Stats stats = m_dram.stats();
        stats.cycles = m_now;
        stats.last_write = m_last_write;
        return stats;
    }

    void record(bool on) {
        m_record = on;
        if (on) m_recording.clear();
    }

    bool trace_open(const char* path) {
#if VM_TRACE
        trace_close();
        m_context.traceEverOn(true);
        m_trace = std::make_unique<VerilatedVcdC>();
        m_top.trace(m_trace.get(), 99);
        m_trace->open(path);
        return m_trace->isOpen();
#else
        (void)path;
        return false;
#endif
    }
    void trace_close() {
#if VM_TRACE
        if (m_trace) m_trace->close();
        m_trace.reset();
#endif
    }

    Dram<Vloralith, BUS>& dram() { return m_dram; }
    uint8_t* memory() { return m_memory; }
    const std::vector<uint8_t>& recording() const { return m_recording; }

private:
    void settle() {
        m_dram.drive(m_now);
        m_top.aclk = 0;
        m_top.eval();
        dump(0);
    }
    void edge() {
        if (m_top.aresetn) m_dram.sample(m_now);
        if (m_record) m_recording.push_back(m_dram.handshakes());
        m_top.aclk = 1;
        m_top.eval();
        dump(1);
        ++m_now;
    }
    void dump(unsigned half) {
#if VM_TRACE
        if (m_trace) m_trace->dump(10 * m_now + 5 * half);
#else
        (void)half;
#endif
    }

    VerilatedContext m_context;
    Vloralith m_top{&m_context};
    uint8_t* const m_memory;
    const uint64_t m_bytes;
    Dram<Vloralith, BUS> m_dram;
    uint64_t m_now = 0, m_last_write = 0;
    bool m_record = false;
    std::vector<uint8_t> m_recording;
#if VM_TRACE
    std::unique_ptr<VerilatedVcdC> m_trace;
#endif
};

}  // namespace loralith

using loralith::Model;
using loralith::Settings;
using loralith::Stats;

extern "C" {

// Sizes of the structs, so that a mirror which has gone stale is found at once.
unsigned loralith_settings_size() { return sizeof(Settings); }
unsigned loralith_stats_size() { return sizeof(Stats); }
unsigned loralith_bus_bytes() { return loralith::BUS; }

// A machine out of reset, its DRAM all zero; null when the memory cannot be had.
Model* loralith_create(const Settings* settings) {
    void* memory = mmap(nullptr, settings->dram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : new Model(*settings, static_cast<uint8_t*>(memory));
}
void loralith_destroy(Model* model) { delete model; }
void loralith_configure(Model* model, const Settings* settings) { model->dram().configure(*settings); }
void loralith_reset(Model* model, unsigned cycles) { model->reset(cycles); }
uint8_t* loralith_memory(Model* model) { return model->memory(); }
int loralith_write(Model* model, unsigned address, uint32_t data) { return model->write(address, data); }
int loralith_read(Model* model, unsigned address, uint32_t* data) { return model->read(address, data); }
int loralith_wait(Model* model, uint64_t most) { return model->wait(most); }
void loralith_tick(Model* model, uint64_t cycles) {
    while (cycles--) model->step();
}
void loralith_stats(Model* model, Stats* stats) { *stats = model->stats(); }
const char* loralith_violation(Model* model) { return model->dram().violation().c_str(); }
void loralith_record(Model* model, int on) { model->record(on); }
uint64_t loralith_recording(Model* model, const uint8_t** data) {
    *data = model->recording().data();
    return model->recording().size();
}
int loralith_trace_open(Model* model, const char* path) { return model->trace_open(path); }
void loralith_trace_close(Model* model) { model->trace_close(); }

}  // extern "C"
