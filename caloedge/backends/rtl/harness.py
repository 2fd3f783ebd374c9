"""The C++ that drives a design's Verilator model: events in, events out, cycle by cycle, with stalls on request."""

from typing import Protocol

from caloedge.backends.rtl.design import Stream

FUNCTION = "simulate"
"""End of the name of the exported function, behind the name of the top module."""


class Ports(Protocol):
    """Properties of a design that the harness needs."""

    @property
    def source(self) -> Stream:
        """The input port's stream."""

    @property
    def result(self) -> Stream:
        """The output port's stream."""

    @property
    def streaming(self) -> bool:
        """Whether the ports have valid and ready."""


def harness(design: Ports, top: str, *, trace: bool) -> str:
    """Return the source of one C function that simulates events and notes the cycles of each; with `trace` it writes a VCD.

    Waves end with the cycle in which the file reaches its limit; the simulation goes on.
    """
    source, result = design.source, design.result
    handshake = int(design.streaming)
    return f"""\
// Drives {top}: {source.beats} beats of {source.words} words of {source.format.width} bit in, {result.beats} beats of \
{result.words} words of {result.format.width} bit out.
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include "V{top}.h"
#include "verilated.h"
#if {int(trace)}
#include "verilated_vcd_c.h"
#endif

namespace {{
constexpr int in_beats = {source.beats}, in_words = {source.words}, in_width = {source.format.width};
constexpr int out_beats = {result.beats}, out_words = {result.words}, out_width = {result.format.width};
constexpr bool out_signed = {str(result.format.signed).lower()};
constexpr int in_chunks = (in_words * in_width + 31) / 32, out_chunks = (out_words * out_width + 31) / 32;

// Verilator holds up to 64 bits in an integer and more in an array of 32-bit words.
template <class Port> void set(Port &port, const uint32_t *chunks) {{
    if constexpr (std::is_integral_v<Port>) {{
        uint64_t value = chunks[0];
        if constexpr (in_chunks > 1) value |= uint64_t(chunks[1]) << 32;
        port = Port(value);
    }} else {{
        std::memcpy(&port[0], chunks, sizeof(uint32_t) * in_chunks);
    }}
}}
template <class Port> void get(const Port &port, uint32_t *chunks) {{
    if constexpr (std::is_integral_v<Port>) {{
        chunks[0] = uint32_t(port);
        if constexpr (out_chunks > 1) chunks[1] = uint32_t(uint64_t(port) >> 32);
    }} else {{
        std::memcpy(chunks, &port[0], sizeof(uint32_t) * out_chunks);
    }}
}}

void pack(const int64_t *codes, uint32_t *chunks) {{
    std::memset(chunks, 0, sizeof(uint32_t) * in_chunks);
    for (int word = 0; word < in_words; ++word) {{
        for (int bit = 0; bit < in_width; ++bit) {{
            const int at = word * in_width + bit;
            chunks[at / 32] |= uint32_t((codes[word] >> bit) & 1) << (at % 32);
        }}
    }}
}}
void unpack(const uint32_t *chunks, int64_t *codes) {{
    for (int word = 0; word < out_words; ++word) {{
        uint64_t code = 0;
        for (int bit = 0; bit < out_width; ++bit) {{
            const int at = word * out_width + bit;
            code |= uint64_t((chunks[at / 32] >> (at % 32)) & 1) << bit;
        }}
        if (out_signed && (code >> (out_width - 1)) & 1) code |= ~uint64_t(0) << (out_width - 1) << 1;
        codes[word] = int64_t(code);
    }}
}}

struct Chance {{  // xorshift64*: the same stalls for the same seed on every machine
    uint64_t state;
    uint64_t next() {{
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return state * 2685821657736338717ULL;
    }}
    bool operator()(uint32_t per_65536) {{ return per_65536 && (next() >> 48) < per_65536; }}
}};
#if {int(trace)}
struct Counted : VerilatedVcdFile {{  // knows how long it is
    int64_t bytes = 0;
    ssize_t write(const char *text, ssize_t length) override {{
        bytes += length;
        return VerilatedVcdFile::write(text, length);
    }}
}};
#endif
}}  // namespace

// Return how many events came out, -1 for more than went in, -2 if the VCD cannot be written. `first_in` and `last_out` (events)
// are the cycles in which the first beat of an event first stood at the input and in which its last beat left. A stall keeps
// valid or ready low for one cycle with the given chance. Registers start with random values, and data are random while
// they are not valid: what a missing reset or a late look would give must not be right by chance. A design that moves no beat for
// `timeout_cycles` has stopped; it is given `drain_cycles` before its first event and after its last. The VCD ends with the
// cycle in which it reaches `vcd_bytes`; `waved` are the cycles, as counted above, and the whole events that it covers.
extern "C" __attribute__((visibility("default"))) int64_t {top}_{FUNCTION}(
    const int64_t *inputs, int64_t *outputs, int64_t events, int64_t *first_in, int64_t *last_out,
    uint32_t stall_in, uint32_t stall_out, uint64_t seed, int64_t timeout_cycles, const char *vcd, int64_t drain_cycles,
    int64_t vcd_bytes, int64_t *waved) {{
    auto context = std::make_unique<VerilatedContext>();
    context->randReset(2);
    context->randSeed(int(seed % 1000003 + 1));
    auto model = std::make_unique<V{top}>(context.get());
    Chance chance{{seed * 2 + 1}};
#if {int(trace)}
    context->traceEverOn(true);
    Counted file;  // outlives the writer, which closes it
    VerilatedVcdC waves{{&file}};
    model->trace(&waves, 99);
    waves.open(vcd);
    if (!waves.isOpen()) return -2;
#else
    (void)vcd, (void)vcd_bytes, (void)waved;
#endif
    uint64_t time = 0;
    const auto evaluate = [&](int clk) {{
        model->clk = clk;
        model->eval();
#if {int(trace)}
        if (waves.isOpen()) {{
            waves.dump(time);
            if (file.bytes >= vcd_bytes) waves.close();
        }}
#endif
        ++time;
    }};
    uint32_t in_chunk[in_chunks] = {{}}, out_chunk[out_chunks] = {{}};
    model->rst = 1;
    model->in_valid = 0;
    set(model->in_data, in_chunk);
#if {handshake}
    model->out_ready = 0;
#endif
    for (int cycle = 0; cycle < 4; ++cycle) evaluate(0), evaluate(1);
    model->rst = 0;
    // What a design does before its first event, such as walking through padding, is no event's latency.
    for (int64_t idle = 0; idle < drain_cycles; ++idle) evaluate(0), evaluate(1);
    const int64_t in_total = events * in_beats, out_total = events * out_beats;
    int64_t sent = 0, received = 0, cycle = 0, last_change = 0;
    bool offered = false;
    while (received < out_total && cycle - last_change < timeout_cycles) {{
        if (!offered && sent < in_total && !chance(stall_in)) {{
            pack(inputs + sent * in_words, in_chunk);
            set(model->in_data, in_chunk);
            offered = true;
            if (sent % in_beats == 0) first_in[sent / in_beats] = cycle;
        }}
        if (!offered) {{
            for (auto &chunk : in_chunk) chunk = uint32_t(chance.next() >> 32);
            if constexpr (in_words * in_width % 32) in_chunk[in_chunks - 1] &= (uint32_t(1) << in_words * in_width % 32) - 1;
            set(model->in_data, in_chunk);
        }}
        model->in_valid = offered;
#if {handshake}
        model->out_ready = !chance(stall_out);
#endif
        evaluate(0);
#if {handshake}
        const bool taken = offered && model->in_ready, left = model->out_valid && model->out_ready;
#else
        const bool taken = offered, left = model->out_valid;
#endif
        if (taken) {{
            ++sent;
            offered = false;
            last_change = cycle;
        }}
        if (left) {{
            get(model->out_data, out_chunk);
            unpack(out_chunk, outputs + received * out_words);
            if (received % out_beats == out_beats - 1) last_out[received / out_beats] = cycle;
            ++received;
            last_change = cycle;
        }}
        evaluate(1);
        ++cycle;
#if {int(trace)}
        if (waves.isOpen()) waved[0] = cycle, waved[1] = received / out_beats;
#endif
    }}
    // More results than events would be a fault as well: wait for them.
    for (int64_t extra = 0; extra < drain_cycles && received == out_total && events; ++extra) {{
        model->in_valid = 0;
#if {handshake}
        model->out_ready = 1;
#endif
        evaluate(0);
        if (model->out_valid) ++received;
        evaluate(1);
    }}
#if {int(trace)}
    waves.close();
#endif
    return received == out_total ? events : received > out_total ? -1 : received / out_beats;
}}
"""
