// Runs a simulated board behind a pseudo terminal until it is told to stop.
//
// A board is a class with
//     bool cycle(bool rx);            one clock cycle: takes the level of the rx pin, returns that of tx
//     uint64_t activity() const;      changes whenever something moves other than the serial line
//     std::string stats() const;      members of a JSON object, without braces
//     bool preload(path, address);    where it can: puts a file's content into memory without a cycle
// Its `line_cycles` are those in which a byte was on the line, in one direction or both.
// On stdout: "pty <path>" once it is ready; a JSON object for each line "stats" on stdin, and for each line "load <address> <path>", which
// has `loaded`. It ends with the end of stdin.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <string>

#include "pty.h"
#include "uart.h"

namespace loralith {

template <class Board>
auto load(Board& board, const char* path, uint64_t address, int) -> decltype(board.preload(path, address)) {
    return board.preload(path, address);
}
template <class Board>
bool load(Board&, const char*, uint64_t, long) {
    return false;
}

template <class Board>
class Server {
public:
    Server(Board& board, unsigned divider) : m_board(board), m_uart(divider) {}

    int run() {
        printf("pty %s\n", m_pty.path().c_str());
        fflush(stdout);
        uint64_t quiet = 0, activity = m_board.activity();
        for (;;) {
            // A board that does nothing waits for the host instead of for its own clock.
            const bool idle = quiet > IDLE_CYCLES;
            if (!exchange(idle ? IDLE_MILLISECONDS : 0)) return 0;
            for (unsigned i = 0; i < SLICE; ++i) {
                m_uart.sample(m_board.cycle(m_uart.drive()));
                m_line_cycles += m_uart.moving();
            }
            m_cycles += SLICE;
            quiet = m_uart.busy() || m_board.activity() != activity ? 0 : quiet + SLICE;
            activity = m_board.activity();
        }
    }

private:
    static constexpr unsigned SLICE = 256, IDLE_MILLISECONDS = 2;
    static constexpr uint64_t IDLE_CYCLES = 200000;

    // Move bytes, and do what stdin says; false at its end.
    bool exchange(int milliseconds) {
        m_pty.send(m_uart.from_board);
        pollfd files[] = {{m_pty.fd(), POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        if (poll(files, 2, milliseconds) <= 0) return true;
        // No more than the line carries in a slice or so: what is queued here, a cable that is pulled would not have.
        if (files[0].revents & POLLIN && m_uart.to_board.size() < 64) m_pty.receive(m_uart.to_board);
        if (files[1].revents & (POLLIN | POLLHUP)) {
            char buffer[256];
            const ssize_t n = read(STDIN_FILENO, buffer, sizeof buffer);
            if (n <= 0) return false;
            m_command.append(buffer, n);
            for (size_t end; (end = m_command.find('\n')) != std::string::npos; m_command.erase(0, end + 1)) {
                const std::string line = m_command.substr(0, end);
                if (line == "stats") tell();
                if (line.rfind("load ", 0) == 0) preload(line.substr(5));
            }
        }
        return true;
    }

    void preload(const std::string& words) {
        char* path = nullptr;
        const uint64_t address = strtoull(words.c_str(), &path, 0);
        const bool loaded = *path == ' ' && load(m_board, path + 1, address, 0);
        printf("{\"loaded\": %s}\n", loaded ? "true" : "false");
        fflush(stdout);
    }

    void tell() {
        printf("{\"cycles\": %llu, \"bytes_to_board\": %llu, \"bytes_from_board\": %llu, \"broken_bytes\": %llu, \"line_cycles\": %llu, %s}\n",
               number(m_cycles), number(m_uart.sent()), number(m_uart.received()), number(m_uart.broken()), number(m_line_cycles), m_board.stats().c_str());
        fflush(stdout);
    }
    static unsigned long long number(uint64_t value) { return value; }

    Board& m_board;
    Pty m_pty;
    Uart m_uart;
    uint64_t m_cycles = 0, m_line_cycles = 0;
    std::string m_command;
};

}  // namespace loralith
