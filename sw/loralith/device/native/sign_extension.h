// Verilator's helpers for signed numbers of fewer bits than a word, again, as shifts: compilers know those as sign extensions, and then
// multiply many elements of the array at once. Verilator's own take the sign bit and subtract it, which no compiler sees through.
#pragma once

static inline IData loralith_extended(int bits, IData value) {
    return static_cast<IData>(static_cast<int32_t>(value << (VL_IDATASIZE - bits)) >> (VL_IDATASIZE - bits));
}
static inline QData loralith_extended_long(int bits, QData value) {
    return static_cast<QData>(static_cast<int64_t>(value << (VL_QUADSIZE - bits)) >> (VL_QUADSIZE - bits));
}
// By way of a signed 32-bit word: of a sum that is cut to 32 bits again, a compiler then never makes 64.
static inline QData loralith_extended_from_word(int bits, IData value) {
    return static_cast<QData>(static_cast<int64_t>(static_cast<int32_t>(loralith_extended(bits, value))));
}

#define VL_EXTENDS_II(to, bits, value) loralith_extended(bits, value)
#define VL_EXTENDS_QI(to, bits, value) loralith_extended_from_word(bits, value)
#define VL_EXTENDS_QQ(to, bits, value) loralith_extended_long(bits, value)
// Unsigned, as a product of two signed words may overflow.
#define VL_MULS_III(bits, a, b) (loralith_extended(bits, a) * loralith_extended(bits, b))
