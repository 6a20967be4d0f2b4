// What the host may set and read: plain structs, mirrored by ctypes in sw/loralith/device/native/__init__.py.
#pragma once
#include <cstdint>

namespace loralith {

// Channels in the order of Settings::stall and of the bits of a recorded cycle.
enum Channel { AR, R, AW, W, B, CHANNELS };

enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };

struct Settings {
    // Fixed at creation.
    uint64_t dram_base;   // first byte of DRAM; anything outside DRAM is answered with DECERR
    uint64_t dram_bytes;
    // The machine's window: accesses outside are counted.
    uint64_t window_base, window_limit;
    // Bursts the machine may have in flight and beats per burst; more is a violation.
    uint32_t outstanding_reads, outstanding_writes, max_burst;
    // Cycles from the address handshake to the first read beat, and from the last write beat to the response.
    uint32_t read_latency, write_latency;
    // Beats per 65536 cycles of the R and the W channel.
    uint32_t read_rate, write_rate;
    // Per channel and cycle: probability of 65536 that a stall starts; it lasts 1..stall_length cycles.
    uint32_t stall[CHANNELS];
    uint32_t stall_length;
    uint64_t seed;
    // Faults: the n-th read beat and the n-th write burst from now on, 1 based (0: never), and an address range.
    uint64_t read_error_beat, write_error_burst;
    uint64_t error_base, error_limit;
    uint32_t error_response;
};

struct Stats {
    uint64_t cycles;  // since creation, reset included
    uint64_t last_write;  // cycle in which the last register write was taken
    uint64_t read_beats, write_beats, read_bursts, write_bursts;
    uint64_t outside_window, outside_dram;  // bursts
    uint64_t violations;
    uint64_t reads_pending, writes_pending;  // bursts in flight now
    uint64_t lowest, highest;                // first and last byte of all bursts
};

}  // namespace loralith
