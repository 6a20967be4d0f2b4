// The lanes of the vector unit in native code against a soft float: `soak OPERATION SEED FIRST COUNT` runs blocks of elements, each with
// an instruction of its own, from block FIRST on, and prints a line of JSON. The same block of a seed has the same elements always.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "Vlane_group.h"
#include "facts.h"
#include "ports.h"
#include "soft_float.h"

namespace {

constexpr int BLOCK = 4096, STAGES = 6, RING = 128;
constexpr const char* OPERATIONS[] = {"from_integer", "multiply", "add", "exp2", "reciprocal", "rsqrt", "phi", "scale", "brain", "int8",
                                      "int8_stochastic", "sum", "maximum", "chain"};

struct Random {
    uint64_t state;
    uint64_t next() {  // splitmix64
        uint64_t z = state += 0x9E3779B97F4A7C15;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
        z = (z ^ z >> 27) * 0x94D049BB133111EB;
        return z ^ z >> 31;
    }
    int below(int n) { return int((next() >> 32) * uint64_t(n) >> 32); }
    int between(int low, int high) { return low + below(high - low + 1); }
};

struct Settings {
    int x, y, operand[4], negate[3], function, packing, summing, comparing, scale;
};

struct Block {
    Settings settings;
    uint32_t constant[4], x_constant, key0, key1, index, index_inner, mask;
    int low, high;  // exponents
};

struct Element {
    uint32_t integer[facts::lanes], v0[facts::lanes], v1[facts::lanes];
    bool partial;
};

struct Expected {
    uint32_t word[facts::lanes];
    uint32_t magnitude[facts::lanes];
    int64_t term[facts::lanes];
    int fault_stage[facts::lanes];  // STAGES: none
    uint32_t saturated;
};

uint32_t draw_word(Random& random, int low, int high) {
    uint32_t fraction = uint32_t(random.next() & 0xFFFF);
    const int shape = random.below(8);
    const uint32_t run = (1u << random.below(17)) - 1;
    if (shape < 2) fraction |= run;
    else if (shape < 4) fraction &= ~run;
    const uint32_t exponent = random.below(64) ? uint32_t(random.between(low, high)) : 0;
    return uint32_t(random.below(2)) << 24 | exponent << 16 | fraction;
}

Block draw_block(Random& random, const std::string& operation) {
    Block block{};
    Settings& s = block.settings;
    s = {facts::xselect::V0, facts::yselect::V1, {}, {}, facts::function::PASS, facts::format::WORD, 0, 0, 254};
    const uint32_t neutral[] = {soft::one, 0, soft::one, 0};
    for (int i = 0; i < 4; i++) block.constant[i] = neutral[i], s.operand[i] = facts::operandselect::CONSTANT;
    for (int& negate : s.negate) negate = random.below(2);
    const int window = random.below(4);
    block.low = window ? random.between(90, 120) : 1;
    block.high = window ? random.between(block.low, 160) : 254;
    if (operation == "from_integer") s.x = facts::xselect::INTEGER;
    else if (operation == "multiply") s.operand[2 * random.below(2)] = facts::operandselect::Y;
    else if (operation == "add") s.operand[1 + 2 * random.below(2)] = facts::operandselect::Y;
    else if (operation == "exp2") s.function = facts::function::EXP2, block.low = window ? 100 : 1, block.high = window ? 134 : 254;
    else if (operation == "reciprocal") s.function = facts::function::RECIPROCAL;
    else if (operation == "rsqrt") s.function = facts::function::RSQRT;
    else if (operation == "phi") s.function = facts::function::PHI, block.low = window ? 105 : 1, block.high = window ? 131 : 254;
    else if (operation == "scale") s.function = facts::function::SCALE;
    else if (operation == "brain") s.packing = facts::format::BRAIN;
    else if (operation == "int8" || operation == "int8_stochastic") {
        s.packing = operation == "int8" ? facts::format::INT8 : facts::format::INT8_STOCHASTIC;
        s.scale = random.between(std::max(block.low - 7, 0), std::min(block.high + 7, 254)), s.summing = random.below(2);
    } else if (operation == "sum") s.summing = 1, s.scale = random.between(block.high, 254);
    else if (operation == "maximum") s.comparing = 1;
    else {  // chain
        block.low = 122, block.high = 131;
        s.x = random.below(4), s.y = random.below(3);
        for (int i = 0; i < 4; i++) s.operand[i] = random.below(3), block.constant[i] = draw_word(random, block.low, block.high);
        s.function = random.below(3) ? facts::function::PASS : random.below(6);
        s.packing = random.below(4), s.summing = random.below(2), s.comparing = random.below(2), s.scale = random.between(120, 140);
    }
    block.x_constant = draw_word(random, block.low, block.high);
    block.key0 = uint32_t(random.next()), block.key1 = uint32_t(random.next());
    block.index = uint32_t(random.next()), block.index_inner = uint32_t(random.next());
    block.mask = uint32_t(random.next()) & ((1u << facts::lanes) - 1);
    return block;
}

Element draw_element(Random& random, const Block& block) {
    Element element;
    element.partial = random.below(4) == 0;
    for (int lane = 0; lane < facts::lanes; lane++) {
        element.integer[lane] = uint32_t(int32_t(uint32_t(random.next())) >> random.below(32));
        element.v0[lane] = draw_word(random, block.low, block.high);
        int low = block.low, high = block.high;
        if (random.below(2)) {  // near the other one
            const int near = std::min(std::max(soft::exponent_of(element.v0[lane]) + random.between(-20, 20), 1), 254);
            low = high = near;
        }
        element.v1[lane] = random.below(32) ? draw_word(random, low, high) : element.v0[lane] ^ uint32_t(random.below(4));
    }
    return element;
}

Expected expect(const Block& block, const Element& element, int at) {
    const Settings& s = block.settings;
    Expected expected{};
    const uint32_t index = block.index + uint32_t(at) * block.index_inner;
    for (int lane = 0; lane < facts::lanes; lane++) {
        const bool live = !element.partial || block.mask >> lane & 1;
        const uint32_t v0 = element.v0[lane], v1 = element.v1[lane];
        const uint32_t xs[] = {v0, v1, soft::rounded(double(int32_t(element.integer[lane]))).word, block.x_constant}, ys[] = {0, v0, v1};
        uint32_t operand[4];
        for (int i = 0; i < 4; i++) {
            const uint32_t choices[] = {block.constant[i], xs[s.x], ys[s.y]};
            operand[i] = soft::clean(choices[s.operand[i]]);
        }
        int& fault = expected.fault_stage[lane] = STAGES;
        uint32_t word = soft::clean(xs[s.x]);
        auto take = [&](soft::Result result, int stage) {
            word = result.word;
            if (result.fault && fault == STAGES) fault = stage;
        };
        auto function = [&]() -> soft::Result {
            switch (s.function) {
                case facts::function::EXP2: return soft::exp2(word);
                case facts::function::RECIPROCAL: return soft::reciprocal(word);
                case facts::function::RSQRT: return soft::rsqrt(word);
                case facts::function::PHI: return soft::phi(word);
                case facts::function::SCALE: return soft::scale(word);
                default: return {word, false};
            }
        };
        take(soft::rounded(soft::value(word) * soft::value(operand[0])), 0);
        word = soft::negated(word, s.negate[0]);
        take(soft::rounded(soft::value(word) + soft::value(soft::negated(operand[1], s.negate[1]))), 1);
        take(function(), 2);
        take(soft::rounded(soft::value(word) * soft::value(operand[2])), 3);
        take(soft::rounded(soft::value(word) + soft::value(soft::negated(operand[3], s.negate[2]))), 4);
        const double y = soft::value(word);
        expected.magnitude[lane] = word & 0xFFFFFF;
        const int k = s.scale - 127;
        if (s.packing == facts::format::INT8 || s.packing == facts::format::INT8_STOCHASTIC) {
            const uint32_t hash = soft::mix(soft::mix(index + uint32_t(lane / 4), block.key0), block.key1);
            bool clipped;
            const int q = soft::quantized(y, k, s.packing == facts::format::INT8 ? -1 : int(hash >> 8 * (lane % 4) & 255), clipped);
            expected.word[lane] = uint32_t(q) & 255, expected.term[lane] = int64_t(q) << 24;
            expected.saturated |= uint32_t(clipped && live) << lane;
            continue;
        }
        if (s.summing) {
            if (std::fabs(y) >= std::ldexp(1.0, k + 1)) fault = std::min(fault, STAGES - 1);
            else expected.term[lane] = int64_t(std::floor(std::ldexp(y, 32 - k - 1)));
        }
        if (s.packing == facts::format::BRAIN) take(soft::rounded(y, 8), STAGES - 1);
        expected.word[lane] = word;
    }
    return expected;
}

struct Bench {
    Vlane_group top;

    Bench() {
        top.clk = 0;
        top.eval();  // so that the first edge is one
    }

    void tick() {
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
    }

    void set_up(const Block& block) {
        const Settings& s = block.settings;
        uint64_t bits = 0;
        auto put = [&](int value, int at) { bits |= uint64_t(value) << at; };
        put(s.x, facts::x_bit), put(s.y, facts::y_bit);
        put(s.operand[0], facts::a_bit), put(s.operand[1], facts::b_bit), put(s.operand[2], facts::c_bit), put(s.operand[3], facts::d_bit);
        put(s.negate[0], facts::a_negate_bit), put(s.negate[1], facts::b_negate_bit), put(s.negate[2], facts::d_negate_bit);
        put(s.function, facts::function_bit), put(s.packing, facts::packing_bit), put(s.summing, facts::summing_bit);
        put(s.comparing, facts::comparing_bit), put(s.scale, facts::scale_bit);
        top.settings = bits;
        top.enable = 1, top.rst = 0, top.valid = 0;
        top.key0 = block.key0, top.key1 = block.key1, top.index_inner = block.index_inner, top.mask = block.mask;
        for (int i = 0; i < 4; i++) {
            top.register_write = (1 << facts::lanes) - 1, top.register_number = i, top.register_word = block.constant[i];
            tick();
        }
        top.register_write = 0;
        for (int i = 0; i < 4; i++) {
            top.constant_load = 1 << i, top.constant_lane = i % 2, top.constant_register = i, top.constant = block.constant[i];
            tick();
        }
        top.constant_load = 0, top.constant = block.x_constant;
        top.x_constant_load = top.clear = top.index_load = 1, top.index = block.index;
        tick();
        top.x_constant_load = top.clear = top.index_load = 0;
    }

    // Runs a block; a description of the first difference, or an empty one.
    std::string run(const Block& block, Random& random) {
        set_up(block);
        std::array<Element, RING> elements;
        std::array<Expected, RING> expecteds;
        std::array<uint8_t, RING> fault{};
        int64_t sums[facts::lanes] = {};
        uint32_t maxima[facts::lanes] = {};
        bool broken = false;  // a fault leaves sums open
        for (int cycle = 0; cycle < BLOCK + facts::result + 2; cycle++) {
            const int out = cycle - facts::result;
            if (std::string found = check(block, elements, expecteds, sums, maxima, broken, cycle); !found.empty()) return found;
            if (out >= 0 && out < BLOCK)
                for (int lane = 0; lane < facts::lanes; lane++)
                    if (!elements[out % RING].partial || block.mask >> lane & 1) sums[lane] += expecteds[out % RING].term[lane];
            const int late = cycle - facts::pack;
            if (late >= 0 && late < BLOCK)
                for (int lane = 0; lane < facts::lanes; lane++)
                    if (!elements[late % RING].partial || block.mask >> lane & 1)
                        maxima[lane] = std::max(maxima[lane], expecteds[late % RING].magnitude[lane]);
            if (top.fault != fault[cycle % RING]) return "fault at cycle " + std::to_string(cycle);
            fault[cycle % RING] = 0;
            top.valid = cycle < BLOCK, top.first = cycle == 0;
            if (cycle < BLOCK) {
                Element& element = elements[cycle % RING] = draw_element(random, block);
                const Expected& expected = expecteds[cycle % RING] = expect(block, element, cycle);
                top.partial = element.partial;
                for (int lane = 0; lane < facts::lanes; lane++) {
                    *integers(top, lane) = element.integer[lane];
                    if (expected.fault_stage[lane] == STAGES || (element.partial && !(block.mask >> lane & 1))) continue;
                    broken = true;
                    fault[(cycle + facts::result + 1) % RING] = 1;
                }
            }
            const int vectors = cycle - facts::vectors;
            if (vectors >= 0 && vectors < BLOCK)
                for (int lane = 0; lane < facts::lanes; lane++) {
                    *v0(top, lane) = elements[vectors % RING].v0[lane];
                    *v1(top, lane) = elements[vectors % RING].v1[lane];
                }
            tick();
        }
        return {};
    }

    std::string check(const Block& block, const std::array<Element, RING>& elements, const std::array<Expected, RING>& expecteds,
                      const int64_t* sums, const uint32_t* maxima, bool broken, int cycle) {
        const int at = cycle - facts::result;
        char text[400] = "";
        if (top.valid_o != (at >= 0 && at < BLOCK)) return "valid_o at cycle " + std::to_string(cycle);
        for (int lane = 0; lane < facts::lanes && at >= 0 && at < BLOCK; lane++) {
            const Expected& expected = expecteds[at % RING];
            const Element& element = elements[at % RING];
            const bool live = !element.partial || block.mask >> lane & 1;
            if (expected.fault_stage[lane] != STAGES) continue;
            const uint32_t found = *words(top, lane);
            if (found != expected.word[lane] || (top.saturated >> lane & 1) != (expected.saturated >> lane & 1))
                std::snprintf(text, sizeof text, "element %d lane %d live %d: %#x instead of %#x; integer %#x, v0 %#x, v1 %#x", at, lane, live,
                              found, expected.word[lane], element.integer[lane], element.v0[lane], element.v1[lane]);
        }
        for (int lane = 0; lane < facts::lanes && !broken; lane++) {
            const uint64_t sum = uint64_t(sums[lane]) & ((uint64_t(1) << 56) - 1);
            if (block.settings.summing && at > 0 && ::sums(top, lane) != sum)
                std::snprintf(text, sizeof text, "sum of lane %d before element %d", lane, at);
            const uint32_t found = ::maxima(top, lane), cleaned = found >> 16 ? found : 0;
            if (block.settings.comparing && cycle > facts::pack + 1 && cleaned != maxima[lane])
                std::snprintf(text, sizeof text, "maximum of lane %d at cycle %d: %#x instead of %#x", lane, cycle, found, maxima[lane]);
        }
        return text;
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) return std::fprintf(stderr, "usage: soak OPERATION SEED FIRST COUNT\n"), 2;
    int number = -1;
    for (int i = 0; i < int(std::size(OPERATIONS)); i++)
        if (!std::strcmp(argv[1], OPERATIONS[i])) number = i;
    if (number < 0) return std::fprintf(stderr, "no operation %s\n", argv[1]), 2;
    const uint64_t seed = std::strtoull(argv[2], nullptr, 0), first = std::strtoull(argv[3], nullptr, 0), count = std::strtoull(argv[4], nullptr, 0);
    auto bench = std::make_unique<Bench>();
    for (uint64_t block = first; block < first + count; block++) {
        Random random{seed * 0xD1342543DE82EF95 + (block << 8 | uint64_t(number))};
        const Block drawn = draw_block(random, argv[1]);
        const std::string found = bench->run(drawn, random);
        if (found.empty()) continue;
        std::printf("{\"block\": %llu, \"difference\": \"%s\"}\n", (unsigned long long)block, found.c_str());
        return 1;
    }
    std::printf("{\"block\": null, \"difference\": null}\n");
    return 0;
}
