// The host's end of a serial line at the pins, one step per clock cycle: 8 data bits, no parity, one stop bit.
#pragma once
#include <cstdint>
#include <deque>

namespace loralith {

class Uart {
public:
    // Cycles per bit.
    explicit Uart(unsigned divider) : m_divider(divider) {}

    std::deque<uint8_t> to_board, from_board;

    // What the board's rx pin sees in this cycle.
    bool drive() {
        if (!m_sending && !to_board.empty()) {
            m_bits = 0x200u | static_cast<unsigned>(to_board.front()) << 1;
            to_board.pop_front();
            ++m_sent;
            m_sending = 10;
            m_send_timer = m_divider;
        }
        if (!m_sending) return true;
        const bool level = m_bits & 1;
        if (!--m_send_timer) {
            m_send_timer = m_divider;
            m_bits >>= 1;
            --m_sending;
        }
        return level;
    }

    // The level of the board's tx pin in this cycle.
    void sample(bool level) {
        if (!m_receiving) {
            if (level) return;
            m_receiving = 10;
            m_sample_timer = m_divider / 2;
        }
        if (--m_sample_timer) return;
        m_sample_timer = m_divider;
        m_shift = m_shift >> 1 | static_cast<unsigned>(level) << 9;
        if (--m_receiving) return;
        if (m_shift & 1 || !level) {
            ++m_broken;
        } else {
            from_board.push_back(m_shift >> 1 & 0xFF);
            ++m_received;
        }
    }

    bool moving() const { return m_sending || m_receiving; }
    bool busy() const { return m_sending || m_receiving || !to_board.empty(); }
    uint64_t sent() const { return m_sent; }
    uint64_t received() const { return m_received; }
    // Bytes from the board without a start or a stop bit: a defect of its transmitter.
    uint64_t broken() const { return m_broken; }

private:
    const unsigned m_divider;
    unsigned m_bits = 0, m_sending = 0, m_send_timer = 0;
    unsigned m_shift = 0, m_receiving = 0, m_sample_timer = 0;
    uint64_t m_sent = 0, m_received = 0, m_broken = 0;
};

}  // namespace loralith
