// An SDR SDRAM chip of 16-bit words behind its pins, cycle by cycle, with the data sheet's rules checked.
//
// `edge` is one rising edge of the chip's clock with what the pins then say; afterwards `dq` is what the chip drives until the next one.
// Times are picoseconds, and are compared as such: nothing here knows the controller's counts of cycles. The first broken rule stays in
// `violation`. Not modelled, and a violation: CKE low, auto precharge, BURST TERMINATE, interleaved and full-page bursts.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <string>
#include <vector>

namespace loralith {

struct SdramSheet {
    uint64_t period;  // of the clock
    uint64_t rc, ras, rp, rcd, wr, rrd, rfc;
    uint64_t power_up;
    uint64_t refresh;          // the time for `refreshes` of them
    uint64_t cycle2, cycle3;   // shortest periods at CAS latency 2 and 3
    unsigned refreshes, mrd;   // mrd in cycles
    unsigned banks, row_bits, column_bits;
};

struct SdramPins {
    bool cke, cs_n, ras_n, cas_n, we_n;
    unsigned ba, a, dqm;
    bool driven;  // the FPGA drives the data pins
    uint16_t dq;
};

class SdramChip {
public:
    enum Operation { MODE, REFRESH, PRECHARGE, ACTIVE, WRITE, READ, TERMINATE, NOP };
    static constexpr unsigned POSTPONED = 8;  // refreshes that may be due at once

    explicit SdramChip(const SdramSheet& sheet)
        : m_sheet(sheet), m_banks(sheet.banks), m_words(static_cast<size_t>(sheet.banks) << (sheet.row_bits + sheet.column_bits)) {}

    uint16_t& word(unsigned bank, unsigned row, unsigned column) {
        return m_words[((static_cast<size_t>(bank) << m_sheet.row_bits | row) << m_sheet.column_bits) | column];
    }
    // The beat of eight bytes as the controller places it: rows go round the banks, turned by the row's low bits.
    uint16_t* beat(uint64_t number) {
        const unsigned row_beats = (1u << m_sheet.column_bits) / 4;
        const unsigned column = number % row_beats, row = number / row_beats / m_sheet.banks;
        const unsigned bank = (number / row_beats ^ row) % m_sheet.banks;
        return &word(bank, row, 4 * column);
    }
    const std::string& violation() const { return m_violation; }
    uint64_t refreshed() const { return m_refreshed; }
    uint64_t activated() const { return m_activated; }
    uint64_t transferred() const { return m_transferred; }

    // What is on the data pins where nobody drives them is noise.
    uint16_t dq() { return m_driving ? m_dq : noise(); }

    void edge(const SdramPins& pins) {
        const Operation operation = pins.cs_n ? NOP : static_cast<Operation>(pins.ras_n << 2 | pins.cas_n << 1 | pins.we_n);
        if (m_driving && pins.driven) violate("the FPGA drives the data pins while the chip does");
        if (m_drove && pins.driven) violate("the FPGA drives the data pins in the cycle after the chip's last word");
        if (!pins.cke) violate("CKE is low");
        if (operation != NOP) command(operation, pins);
        late_refresh();
        write(pins);
        read(pins);
        ++m_now;
    }

private:
    struct Bank {
        bool open = false;
        unsigned row = 0;
        int64_t activated = NEVER, precharged = NEVER, written = NEVER;  // cycles; `written`: of the last word
    };
    struct Word {
        int64_t when;
        uint16_t* at;
    };
    static constexpr int64_t NEVER = -(int64_t{1} << 40);

    void command(Operation operation, const SdramPins& pins) {
        if (m_now * m_sheet.period < m_sheet.power_up) violate("a command %llu ns after power-up", ns(m_now));
        need(m_mode, m_sheet.mrd * m_sheet.period, "a command", "MODE");
        need(m_refresh, m_sheet.rfc, "a command", "REFRESH");
        if (!m_started && operation != PRECHARGE && operation != REFRESH && operation != MODE) violate("a command before MODE");
        switch (operation) {
            case MODE: return mode(pins);
            case REFRESH: return refresh();
            case PRECHARGE:
                for (unsigned i = 0; i < m_sheet.banks; ++i)
                    if (i == pins.ba || pins.a >> 10 & 1) precharge(m_banks[i]);
                m_precharged_all |= pins.a >> 10 & 1;
                return;
            case ACTIVE: return activate(pins);
            case READ:
            case WRITE: return column(operation, pins);
            default: violate("BURST TERMINATE is not modelled");
        }
    }
    void mode(const SdramPins& pins) {
        all_closed("MODE");
        if (!m_started && (!m_precharged_all || m_refreshed < 8)) violate("MODE before PRECHARGE of all banks and 8 refreshes");
        const unsigned length = pins.a & 7, cas = pins.a >> 4 & 7;
        if (length > 3 || pins.a & 8 || pins.a >> 7 || pins.ba) violate("mode 0x%x is not modelled", pins.a);
        if (cas != 2 && cas != 3) violate("CAS latency %u", cas);
        if (m_sheet.period < (cas == 2 ? m_sheet.cycle2 : m_sheet.cycle3)) violate("the clock is too fast for CAS latency %u", cas);
        m_length = 1u << (length & 3);
        m_cas = cas;
        m_mode = m_now;
        if (!m_started) m_start = m_now, m_refreshed = 0;
        m_started = true;
    }
    void refresh() {
        all_closed("REFRESH");
        m_refresh = m_now;
        ++m_refreshed;
    }
    void late_refresh() {
        if (!m_started) return;
        const uint64_t elapsed = (m_now - m_start) * m_sheet.period, due = elapsed * m_sheet.refreshes / m_sheet.refresh;
        if (due > m_refreshed + POSTPONED) violate("%llu refreshes are due", static_cast<unsigned long long>(due - m_refreshed));
    }
    void precharge(Bank& bank) {
        if (bank.open) {
            need(bank.activated, m_sheet.ras, "PRECHARGE", "ACTIVE");
            need(bank.written, m_sheet.wr, "PRECHARGE", "the last word written");
            if (!m_writing.empty() && bank_of(m_writing.back().at) == &bank) violate("PRECHARGE ends a write");
            // It cuts a read burst: its words from the CAS latency on do not come.
            while (!m_reading.empty() && m_reading.back().when >= m_now + static_cast<int64_t>(m_cas) && bank_of(m_reading.back().at) == &bank)
                m_reading.pop_back();
        }
        bank.open = false;
        bank.precharged = m_now;
    }
    void activate(const SdramPins& pins) {
        Bank& bank = m_banks[pins.ba];
        if (bank.open) violate("ACTIVE of bank %u, which is open", pins.ba);
        need(bank.precharged, m_sheet.rp, "ACTIVE", "PRECHARGE");
        need(bank.activated, m_sheet.rc, "ACTIVE", "ACTIVE of the same bank");
        need(m_active, m_sheet.rrd, "ACTIVE", "ACTIVE of another bank");
        bank.open = true;
        bank.row = pins.a;
        bank.activated = m_active = m_now;
        ++m_activated;
    }
    void column(Operation operation, const SdramPins& pins) {
        Bank& bank = m_banks[pins.ba];
        if (!bank.open) return violate("%s of bank %u, which is closed", operation == READ ? "READ" : "WRITE", pins.ba);
        if (pins.a >> 10 & 1) violate("auto precharge is not modelled");
        need(bank.activated, m_sheet.rcd, operation == READ ? "READ" : "WRITE", "ACTIVE");
        const unsigned column = pins.a & ((1u << m_sheet.column_bits) - 1);
        m_writing.clear();  // a column command ends the burst before it
        const int64_t first = m_now + (operation == READ ? m_cas : 0);
        while (!m_reading.empty() && m_reading.back().when >= first) m_reading.pop_back();
        for (unsigned i = 0; i < m_length; ++i) {
            uint16_t* at = &word(pins.ba, bank.row, (column & ~(m_length - 1)) | ((column + i) & (m_length - 1)));
            (operation == READ ? m_reading : m_writing).push_back({first + i, at});
        }
    }
    void write(const SdramPins& pins) {
        if (m_writing.empty() || m_writing.front().when != m_now) return;
        uint16_t& at = *m_writing.front().at;
        if (!pins.driven && pins.dqm != 3) violate("nobody drives a word that is written");
        for (unsigned byte = 0; byte < 2; ++byte)
            if (!(pins.dqm >> byte & 1)) at = (at & ~(0xFFu << 8 * byte)) | (pins.dq & (0xFFu << 8 * byte));
        bank_of(&at)->written = m_now;
        m_writing.pop_front();
        ++m_transferred;
    }
    // What the chip drives from this edge to the next: for the FPGA to sample at the end of the next cycle.
    void read(const SdramPins& pins) {
        m_drove = m_driving;
        m_driving = !m_reading.empty() && m_reading.front().when == m_now + 1;
        if (m_driving) {
            m_dq = *m_reading.front().at;
            for (unsigned byte = 0; byte < 2; ++byte)  // DQM of two cycles before the word
                if (m_dqm >> byte & 1) m_dq ^= noise() & (0xFFu << 8 * byte);
            m_reading.pop_front();
            ++m_transferred;
        }
        m_dqm = pins.dqm;
    }

    Bank* bank_of(const uint16_t* at) { return &m_banks[static_cast<size_t>(at - m_words.data()) >> (m_sheet.row_bits + m_sheet.column_bits)]; }
    void all_closed(const char* what) {
        for (const Bank& bank : m_banks) {
            if (bank.open) violate("%s with an open bank", what);
            need(bank.precharged, m_sheet.rp, what, "PRECHARGE");
        }
    }
    void need(int64_t since, uint64_t least, const char* what, const char* after) {
        if (since >= 0 && static_cast<uint64_t>(m_now - since) * m_sheet.period < least)
            violate("%s %llu ns after %s, at least %llu are needed", what, ns(m_now - since), after, static_cast<unsigned long long>(least / 1000));
    }
    unsigned long long ns(int64_t cycles) const { return cycles * m_sheet.period / 1000; }
    void violate(const char* format, ...) {
        if (!m_violation.empty()) return;
        char text[200];
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(text, sizeof text, format, arguments);
        va_end(arguments);
        m_violation = "cycle " + std::to_string(m_now) + ": " + text;
    }
    uint16_t noise() {
        m_noise = m_noise * 6364136223846793005u + 1442695040888963407u;
        return m_noise >> 40;
    }

    const SdramSheet m_sheet;
    std::vector<Bank> m_banks;
    std::vector<uint16_t> m_words;
    std::deque<Word> m_reading, m_writing;
    std::string m_violation;
    int64_t m_now = 0, m_mode = NEVER, m_refresh = NEVER, m_active = NEVER, m_start = 0;
    uint64_t m_refreshed = 0, m_activated = 0, m_transferred = 0, m_noise = 1;
    unsigned m_length = 1, m_cas = 3, m_dqm = 0;
    uint16_t m_dq = 0;
    bool m_started = false, m_precharged_all = false, m_driving = false, m_drove = false;
};

}  // namespace loralith
