// A pseudo terminal, which any program opens like a serial port.
#pragma once
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>

namespace loralith {

class Pty {
public:
    Pty() : m_master(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK)) {
        if (m_master < 0 || grantpt(m_master) || unlockpt(m_master)) throw std::runtime_error("no pseudo terminal can be had");
        m_path = ptsname(m_master);
        // Held open, so that a host may close and open it; raw, so that nothing is echoed before one has set it up.
        m_slave = open(m_path.c_str(), O_RDWR | O_NOCTTY);
        termios settings;
        if (m_slave < 0 || tcgetattr(m_slave, &settings)) throw std::runtime_error("the pseudo terminal cannot be opened");
        cfmakeraw(&settings);
        tcsetattr(m_slave, TCSANOW, &settings);
    }
    ~Pty() {
        close(m_slave);
        close(m_master);
    }
    Pty(const Pty&) = delete;
    Pty& operator=(const Pty&) = delete;

    const std::string& path() const { return m_path; }
    int fd() const { return m_master; }

    void receive(std::deque<uint8_t>& bytes) {
        uint8_t buffer[4096];
        const ssize_t n = read(m_master, buffer, sizeof buffer);
        if (n > 0) bytes.insert(bytes.end(), buffer, buffer + n);
    }
    // What the terminal does not take stays; a host that does not read loses bytes beyond a limit, as on a cable.
    void send(std::deque<uint8_t>& bytes) {
        while (!bytes.empty()) {
            uint8_t buffer[4096];
            size_t n = 0;
            for (; n < bytes.size() && n < sizeof buffer; ++n) buffer[n] = bytes[n];
            const ssize_t written = write(m_master, buffer, n);
            if (written <= 0) break;
            bytes.erase(bytes.begin(), bytes.begin() + written);
        }
        while (bytes.size() > LIMIT) bytes.pop_front();
    }

private:
    static constexpr size_t LIMIT = 1 << 16;
    int m_master, m_slave = -1;
    std::string m_path;
};

}  // namespace loralith
