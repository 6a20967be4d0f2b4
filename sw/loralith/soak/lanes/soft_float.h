// The vector unit's numbers in double precision, written from docs/vector_unit.md: each operation is exact or rounded once to 17 bits.
// Only the lines of the functions' tables come from elsewhere.
#pragma once
#include <cmath>
#include <cstdint>

#include "facts.h"

namespace soft {

constexpr uint32_t one = 127u << 16;

struct Result {
    uint32_t word;
    bool fault;
};

inline int exponent_of(uint32_t word) { return int(word >> 16 & 0xFF); }
inline uint32_t clean(uint32_t word) { return exponent_of(word) ? word & 0x1FFFFFF : 0; }
inline uint32_t negated(uint32_t word, bool negate) { return negate && exponent_of(word) ? word ^ 1u << 24 : word; }

inline double value(uint32_t word) {
    if (!exponent_of(word)) return 0;
    const double magnitude = std::ldexp(65536.0 + (word & 0xFFFF), exponent_of(word) - 127 - 16);
    return word >> 24 & 1 ? -magnitude : magnitude;
}

// The nearest number of `bits` significant bits, half to even: the processor's own rounding.
inline Result rounded(double x, int bits = 17) {
    if (x == 0) return {0, false};
    int power;
    double significand = std::nearbyint(std::ldexp(std::frexp(std::fabs(x), &power), bits));
    if (significand == std::ldexp(1.0, bits)) significand /= 2, power++;
    const int exponent = power - 1 + 127;
    if (exponent < 1) return {0, false};
    if (exponent > 254) return {0, true};
    const uint32_t fraction = uint32_t(std::ldexp(significand, 17 - bits)) - 65536;
    return {uint32_t(x < 0) << 24 | uint32_t(exponent) << 16 | fraction, false};
}

inline Result exp2(uint32_t word) {
    const double x = value(word);
    if (x >= 126) return {(127u + 126) << 16, false};
    if (x < -200) return {0, false};
    const double cut = std::floor(std::ldexp(x, 21)), integer = std::floor(std::ldexp(cut, -21));
    const int64_t u = int64_t(cut - std::ldexp(integer, 21));
    const facts::Segment line = facts::exp2_table[u >> 13];
    const double y = 1 + line.value / 1048576.0 + double(line.slope) * double(u & 8191) / 8589934592.0;
    return rounded(std::ldexp(y, int(integer)));
}

inline Result reciprocal(uint32_t word) {
    const double x = value(word);
    if (x == 0) return {0, true};
    const uint32_t fraction = word & 0xFFFF;
    if (!fraction) return rounded(1 / x);
    const facts::Segment line = facts::recip_table[fraction >> 8];
    const double y = 1 + (line.value - line.slope * double(fraction & 255) / 256) / 1048576;
    return rounded(std::copysign(std::ldexp(y, 127 - exponent_of(word) - 1), x));
}

inline Result rsqrt(uint32_t word) {
    const double x = value(word);
    if (x <= 0) return {0, true};
    const uint32_t fraction = word & 0xFFFF;
    const int power = exponent_of(word) - 127, odd = power & 1;
    if (!fraction && !odd) return rounded(std::ldexp(1.0, -power / 2));
    const facts::Segment line = facts::rsqrt_table[128 * odd + (fraction >> 9)];
    const double y = 1 + (line.value - line.slope * double(fraction & 511) / 512) / 1048576;
    return rounded(std::ldexp(y, -(power - odd) / 2 - 1));
}

inline Result phi(uint32_t word) {
    const double x = value(word);
    if (std::fabs(x) >= 8) return {x < 0 ? 0 : one, false};
    const int64_t place = int64_t(std::floor(std::ldexp(std::fabs(x), 18)));
    const facts::Segment line = facts::phi_table[place >> 13];
    int64_t y = (int64_t(line.value) << 13) + int64_t(line.slope) * (place & 8191);
    if (x < 0) y = (int64_t(1) << 33) - 1 - y;
    return rounded(std::ldexp(std::floor(std::ldexp(double(y), -12)), -21));
}

inline Result scale(uint32_t word) {
    const double x = std::fabs(value(word));
    int k = -126;
    if (x > 0) k = std::fmax(-126, std::ilogb(x) - 6);
    if (x > std::ldexp(127.0, k)) k++;
    return {uint32_t(k + 127) << 16, false};
}

// q and whether it was clipped; `random` below zero: half to even.
inline int quantized(double x, int k, int random, bool& clipped) {
    const double scaled = std::ldexp(x, -k);
    const double q = random < 0 ? std::nearbyint(scaled) : std::floor((std::floor(scaled * 512) + 2 * random + 1) / 512);
    clipped = std::fabs(q) > 127;
    return int(std::fmin(std::fmax(q, -127), 127));
}

inline uint32_t mix(uint32_t x, uint32_t k) {
    x += k;
    x += x << 10;
    x ^= x >> 6;
    x += x << 3;
    x ^= x >> 11;
    x += x << 15;
    return x ^ x >> 16;
}

}  // namespace soft
