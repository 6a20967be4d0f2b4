// The board's whole system to its pins, as a program: `board DIVIDER BASE key=value... [@FILE ADDRESS]...`
//
// UART pins on a pseudo terminal, SDRAM pins on the chip model, the keys being its data sheet's. Each FILE's content is in memory at ADDRESS
// from the start. A broken rule of the chip ends the run, with a message on stderr. A key lines_low: address pins, by a mask, that have no
// connection and are low at the chip.
#include <memory>
#include <vector>

#include "Vloralith_board.h"
#include "sdram_options.h"
#include "serve.h"
#include "verilated.h"

namespace loralith {

class PinBoard {
public:
    PinBoard(const SdramSheet& sheet, uint64_t base, unsigned lines_low)
        : m_chip(sheet), m_lines(~lines_low), m_base(base), m_bytes(2ull * sheet.banks << (sheet.row_bits + sheet.column_bits)) {
        m_top.rst = 1;
        for (unsigned i = 0; i < 8; ++i) cycle(true);
        m_top.rst = 0;
    }

    // A file's content into memory, from an address that is a multiple of 8; false where it cannot be read or does not fit.
    bool preload(const char* path, uint64_t address) {
        uint64_t at = address - m_base;
        FILE* file = at % 8 ? nullptr : fopen(path, "rb");
        if (!file) return false;
        uint8_t beat[8] = {};
        bool fits = true;
        for (size_t n; fits && (n = fread(beat, 1, 8, file)); at += 8) {
            fits = at + n <= m_bytes;
            if (fits) memcpy(m_chip.beat(at / 8), beat, n);
        }
        fclose(file);
        return fits;
    }

    bool cycle(bool rx) {
        m_top.rx = rx;
        m_top.sdram_dq_i = m_chip.dq();
        m_top.clk = 0;
        m_top.eval();
        const bool tx = m_top.tx;
        if (!m_top.rst && m_top.sdram_cke) {
            m_chip.edge({static_cast<bool>(m_top.sdram_cke), static_cast<bool>(m_top.sdram_cs_n), static_cast<bool>(m_top.sdram_ras_n),
                         static_cast<bool>(m_top.sdram_cas_n), static_cast<bool>(m_top.sdram_we_n), m_top.sdram_ba, m_top.sdram_a & m_lines,
                         m_top.sdram_dqm, static_cast<bool>(m_top.sdram_dq_oe), m_top.sdram_dq_o});
            if (!m_chip.violation().empty()) {
                fprintf(stderr, "the memory chip's rules are broken: %s\n", m_chip.violation().c_str());
                exit(1);
            }
        }
        m_top.clk = 1;
        m_top.eval();
        return tx;
    }

    // Without refreshes, which go on for ever.
    uint64_t activity() const { return m_chip.transferred() + (m_top.led >> 7 & 1); }
    std::string stats() const {
        return "\"violation\": \"" + m_chip.violation() + "\", \"words\": " + std::to_string(m_chip.transferred()) +
               ", \"activates\": " + std::to_string(m_chip.activated()) + ", \"refreshes\": " + std::to_string(m_chip.refreshed());
    }

private:
    VerilatedContext m_context;
    Vloralith_board m_top{&m_context};
    SdramChip m_chip;
    const unsigned m_lines;
    const uint64_t m_base, m_bytes;
};

}  // namespace loralith

int main(int argc, char** argv) {
    if (argc < 3) return fprintf(stderr, "usage: board DIVIDER BASE key=value... [@FILE ADDRESS]...\n"), 2;
    const uint64_t divider = strtoull(argv[1], nullptr, 0), base = strtoull(argv[2], nullptr, 0);
    const loralith::Options options(argc, argv, 3);
    const auto lines_low = static_cast<unsigned>(options.get("lines_low", 0));
    const auto board = std::make_unique<loralith::PinBoard>(loralith::sheet_of(options), base, lines_low);
    for (int i = 3; i + 1 < argc; ++i) {
        if (argv[i][0] == '@' && !board->preload(argv[i] + 1, strtoull(argv[i + 1], nullptr, 0))) {
            fprintf(stderr, "%s cannot be read, or does not fit in memory at %s\n", argv[i] + 1, argv[i + 1]);
            return 1;
        }
    }
    return loralith::Server<loralith::PinBoard>(*board, divider).run();
}
