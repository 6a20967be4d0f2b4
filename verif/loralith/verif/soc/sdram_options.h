// Arguments of the form key=value, and a chip's data sheet in them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "sdram_chip.h"

namespace loralith {

class Options {
public:
    Options(int argc, char** argv, int first) {
        for (int i = first; i < argc; ++i)
            if (const char* equals = strchr(argv[i], '=')) m_values[std::string(argv[i], equals - argv[i])] = strtoull(equals + 1, nullptr, 0);
    }
    // Ends the program where there is no such key.
    uint64_t operator()(const char* key) const {
        const auto found = m_values.find(key);
        if (found != m_values.end()) return found->second;
        fprintf(stderr, "no %s=\n", key);
        exit(2);
    }

    uint64_t get(const char* key, uint64_t otherwise) const {
        const auto found = m_values.find(key);
        return found == m_values.end() ? otherwise : found->second;
    }

private:
    std::map<std::string, uint64_t> m_values;
};

inline SdramSheet sheet_of(const Options& o) {
    const auto number = [&](const char* key) { return static_cast<unsigned>(o(key)); };
    return {o("period"),         o("rc"),         o("ras"),     o("rp"),      o("rcd"),     o("wr"),
            o("rrd"),            o("rfc"),        o("power_up"), o("refresh"), o("cycle2"), o("cycle3"),
            number("refreshes"), number("mrd"),   number("banks"), number("row_bits"), number("column_bits")};
}

}  // namespace loralith
