// Deterministic random stalls, and a rate limit, for one channel.
#pragma once
#include <cstdint>

namespace loralith {

// SplitMix64: every seed gives a good stream, 0 included.
class Random {
public:
    explicit Random(uint64_t seed = 0) : m_state(seed) {}
    uint64_t next() {
        uint64_t z = (m_state += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

private:
    uint64_t m_state;
};

class Stall {
public:
    void configure(uint64_t seed, uint32_t probability, uint32_t length) {
        m_random = Random(seed);
        m_probability = probability;
        m_length = length ? length : 1;
        m_left = 0;
    }
    // Called once per cycle: whether the channel stands still in it.
    bool step() {
        if (!m_probability) return false;
        if (m_left) return m_left--, true;
        const uint64_t draw = m_random.next();
        if ((draw & 0xFFFF) >= m_probability) return false;
        m_left = (draw >> 32) % m_length;
        return true;
    }

private:
    Random m_random;
    uint32_t m_probability = 0, m_length = 1, m_left = 0;
};

// Lets through `rate` beats per 65536 cycles, evenly spread.
class Rate {
public:
    void configure(uint32_t rate) {
        m_rate = rate < FULL ? rate : FULL;
        m_credit = FULL;
    }
    void step() {
        if (m_credit < FULL) m_credit += m_rate;
    }
    bool ready() const { return m_credit >= FULL; }
    void take() { m_credit -= FULL; }

private:
    static constexpr uint32_t FULL = 65536;
    uint32_t m_rate = FULL, m_credit = FULL;
};

}  // namespace loralith
