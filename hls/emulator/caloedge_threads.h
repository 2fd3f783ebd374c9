// Fixed parts of generated emulators: how the blocks of a batch are shared out among threads.
#ifndef CALOEDGE_THREADS_H
#define CALOEDGE_THREADS_H

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "caloedge_block.h"

namespace {

// Memory of one thread: all buffers of one block.
struct Memory {
    unsigned char *bytes;
    explicit Memory(std::size_t size) : bytes(static_cast<unsigned char *>(std::aligned_alloc(ALIGNMENT, size))) {
        if (bytes == nullptr) throw std::bad_alloc();
    }
    Memory(Memory &&other) noexcept : bytes(other.bytes) { other.bytes = nullptr; }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    ~Memory() { std::free(bytes); }
};

enum Status { OK = 0, BAD_ARGUMENT = 1, OUT_OF_RANGE = 2, NO_RESOURCES = 3 };

// Work through all events in blocks, shared out evenly among threads: `block(memory, first event, count)` tells success.
template <class Block>
int run_blocks(std::vector<Memory> &memories, std::size_t bytes, std::int64_t events, int threads, const Block &block) {
    if (events < 0 || threads < 1) return BAD_ARGUMENT;
    const std::int64_t blocks = (events + EVENTS - 1) / EVENTS;
    const int workers = int(blocks < threads ? (blocks > 0 ? blocks : 1) : threads);
    std::vector<char> good;
    const auto work = [&](int worker) {
        const std::int64_t end = blocks * (worker + 1) / workers;
        for (std::int64_t b = blocks * worker / workers; b < end; ++b) {
            const std::int64_t left = events - b * EVENTS;
            if (!block(memories[worker].bytes, b * EVENTS, int(left < EVENTS ? left : EVENTS))) {
                good[worker] = 0;
                return;
            }
        }
    };
    std::vector<std::thread> others;
    bool started = true;
    try {
        good.assign(workers, 1);
        others.reserve(workers);
        memories.reserve(workers);
        while (int(memories.size()) < workers) memories.emplace_back(bytes);
        for (int worker = 1; worker < workers; ++worker) others.emplace_back(work, worker);
    } catch (const std::bad_alloc &) {
        started = false;
    } catch (const std::system_error &) {
        started = false;
    }
    if (started) work(0);
    for (std::thread &other : others) other.join();
    if (!started) return NO_RESOURCES;
    for (const char one : good)
        if (!one) return OUT_OF_RANGE;
    return OK;
}

}  // namespace
#endif
