// Fixed parts of generated emulators: what a network's source calls, layer by layer, on blocks of events.
//
// A buffer is [element][EVENTS]: one row per element of a tensor, with the events of a block side by side, so that one
// instruction works on many events. Rows hold integers in the fastest number type that is exact for all their sums:
// float counts exactly up to 2^24, double up to 2^53, int64_t beyond.
//
// Everything lies in an unnamed namespace and nothing of the standard library becomes code here: networks of different versions
// of this file, and the same network built for several instruction sets, can be linked into one program.
#ifndef CALOEDGE_EMULATOR_H
#define CALOEDGE_EMULATOR_H

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "caloedge_block.h"

#ifndef __GNUC__
#error "this source uses vector types of GCC and Clang; compile it with g++ or clang++"
#endif

#define CALOEDGE_INLINE [[gnu::always_inline]] inline

namespace {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
constexpr int TILE_FILTERS = 12;  // times TILE_VECTORS sums stay in the 32 registers, with room for inputs and weights
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
constexpr int TILE_FILTERS = 6;
#else
constexpr int VECTOR_BYTES = 16;
constexpr int TILE_FILTERS = 6;
#endif
constexpr int TILE_VECTORS = 2;

// Tell whether this machine has the instructions that this file is compiled for.
inline bool machine_has_instructions() {
    bool has = true;
#ifdef __AVX__
    has = has && __builtin_cpu_supports("avx");
#endif
#ifdef __AVX2__
    has = has && __builtin_cpu_supports("avx2");
#endif
#ifdef __FMA__
    has = has && __builtin_cpu_supports("fma");
#endif
#ifdef __BMI2__
    has = has && __builtin_cpu_supports("bmi2");
#endif
#ifdef __AVX512F__
    has = has && __builtin_cpu_supports("avx512f");
#endif
#ifdef __AVX512BW__
    has = has && __builtin_cpu_supports("avx512bw");
#endif
#ifdef __AVX512DQ__
    has = has && __builtin_cpu_supports("avx512dq");
#endif
#ifdef __AVX512VL__
    has = has && __builtin_cpu_supports("avx512vl");
#endif
#ifdef __AVX512VBMI__
    has = has && __builtin_cpu_supports("avx512vbmi");
#endif
#ifdef __AVX512VNNI__
    has = has && __builtin_cpu_supports("avx512vnni");
#endif
    return has;
}

template <class T> constexpr int LANES = VECTOR_BYTES / int(sizeof(T));

template <class T, int lanes> struct VectorType {
    typedef T type __attribute__((vector_size(lanes * sizeof(T))));
};
template <class T, int lanes> using Vector = typename VectorType<T, lanes>::type;

// Convert between vectors of equal length; small integers meet floating point in 32 bits, for which there are instructions.
template <class T, class S, int lanes> CALOEDGE_INLINE Vector<T, lanes> convert(Vector<S, lanes> values) {
    if constexpr (std::is_floating_point<T>::value != std::is_floating_point<S>::value && (sizeof(T) < 4 || sizeof(S) < 4)) {
        return __builtin_convertvector(__builtin_convertvector(values, Vector<std::int32_t, lanes>), Vector<T, lanes>);
    } else {
        return __builtin_convertvector(values, Vector<T, lanes>);
    }
}

// Read a vector of T from rows of type S.
template <class T, class S> CALOEDGE_INLINE Vector<T, LANES<T>> load(const S *from) {
    Vector<S, LANES<T>> values;
    __builtin_memcpy(&values, from, sizeof(values));
    return convert<T, S, LANES<T>>(values);
}

template <class T, class R> CALOEDGE_INLINE void store(R *to, Vector<T, LANES<T>> values) {
    const auto converted = convert<R, T, LANES<T>>(values);
    __builtin_memcpy(to, &converted, sizeof(converted));
}

template <class T> CALOEDGE_INLINE T *row(T *buffer, std::ptrdiff_t index) {
    return static_cast<T *>(__builtin_assume_aligned(buffer + index * EVENTS, EVENTS));
}

// What becomes of a sum before it is stored

struct Keep {
    template <class V> CALOEDGE_INLINE V operator()(V sum) const { return sum; }
};

template <class T> constexpr T HALFWAY = sizeof(T) == 4 ? T(1.5 * (1 << 23)) : T(1.5 * (std::int64_t(1) << 52));

// Scale by a power of two, clip to [low, high], round half even. Clipping first changes nothing, as both limits are integers;
// it makes the sum with HALFWAY land where neighbouring floats lie 1 apart, so that the addition itself rounds.
template <class T> struct Round {
    T scale, low, high;
    template <class V> CALOEDGE_INLINE V operator()(V sum) const {
        sum *= scale;
        sum = sum > low ? sum : low - V{};
        sum = sum < high ? sum : high - V{};
        return (sum + HALFWAY<T>) - HALFWAY<T>;
    }
};

// Sums of products

// Which row of the input each term of a sum takes.
struct Consecutive {
    CALOEDGE_INLINE int operator[](int k) const { return k; }
};
struct Listed {
    const std::int32_t *rows;
    CALOEDGE_INLINE int operator[](int k) const { return rows[k]; }
};

// Calculate `filters` results for all events of a block: bias + sum over k of weights[k][filter] * row places[k] of x.
template <int filters, class Places, class T, class S, class R, class After>
CALOEDGE_INLINE void tile(const S *x, Places places, int terms, const T *weights, int stride, const T *bias,
                          R *y, std::ptrdiff_t y_step, After after) {
    constexpr int vectors = LANES<T> * TILE_VECTORS <= EVENTS ? TILE_VECTORS : EVENTS / LANES<T>;
    for (int event = 0; event < EVENTS; event += vectors * LANES<T>) {
        Vector<T, LANES<T>> sums[filters][vectors];
#pragma GCC unroll 16
        for (int f = 0; f < filters; ++f)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) sums[f][v] = bias[f] - Vector<T, LANES<T>>{};
        for (int k = 0; k < terms; ++k) {
            const S *from = row(x, places[k]) + event;
            Vector<T, LANES<T>> inputs[vectors];
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) inputs[v] = load<T>(from + v * LANES<T>);
#pragma GCC unroll 16
            for (int f = 0; f < filters; ++f)
#pragma GCC unroll 16
                for (int v = 0; v < vectors; ++v) sums[f][v] += weights[std::ptrdiff_t(k) * stride + f] * inputs[v];
        }
#pragma GCC unroll 16
        for (int f = 0; f < filters; ++f)
#pragma GCC unroll 16
            for (int v = 0; v < vectors; ++v) store<T>(row(y, f * y_step) + event + v * LANES<T>, after(sums[f][v]));
    }
}

// Calculate all filters at one place, in tiles of nearly equal size.
template <int filters, class Places, class T, class S, class R, class After>
CALOEDGE_INLINE void product(const S *x, Places places, int terms, const T *weights, const T *bias, R *y, std::ptrdiff_t y_step,
                             After after) {
    constexpr int tiles = (filters + TILE_FILTERS - 1) / TILE_FILTERS;
    constexpr int size = (filters + tiles - 1) / tiles;
    constexpr int whole = filters / size, rest = filters % size;
    for (int t = 0; t < whole; ++t)
        tile<size>(x, places, terms, weights + t * size, filters, bias + t * size, row(y, t * size * y_step), y_step, after);
    if constexpr (rest > 0)
        tile<rest>(x, places, terms, weights + whole * size, filters, bias + whole * size, row(y, whole * size * y_step), y_step,
                   after);
}

// One row at a time

template <class S, class R> inline void row_copy(const S *x, R *y) {
    for (int e = 0; e < EVENTS; ++e) y[e] = static_cast<R>(x[e]);
}

template <class R> inline void row_fill(R value, R *y) {
    for (int e = 0; e < EVENTS; ++e) y[e] = value;
}

// Take the largest of some rows of x.
template <class S> inline void row_largest(const S *x, const std::int32_t *rows, int count, S *y) {
    for (int e = 0; e < EVENTS; e += LANES<S>) {
        auto largest = load<S>(row(x, rows[0]) + e);
        for (int k = 1; k < count; ++k) {
            const auto other = load<S>(row(x, rows[k]) + e);
            largest = other > largest ? other : largest;
        }
        store<S>(y + e, largest);
    }
}

template <class S, class R> inline void row_affine(const S *x, R weight, R bias, R *y) {
    for (int e = 0; e < EVENTS; ++e) y[e] = weight * static_cast<R>(x[e]) + bias;
}

template <class A, class B, class R> inline void row_add(const A *a, R factor_a, const B *b, R factor_b, R *y) {
    for (int e = 0; e < EVENTS; ++e) y[e] = factor_a * static_cast<R>(a[e]) + factor_b * static_cast<R>(b[e]);
}

template <class A, class B, class R> inline void row_multiply(const A *a, const B *b, R *y) {
    for (int e = 0; e < EVENTS; ++e) y[e] = static_cast<R>(a[e]) * static_cast<R>(b[e]);
}

// Add up the products of `terms` rows of a, one after the other, with rows of b that lie `step` apart.
template <class A, class B, class R> inline void row_dot(const A *a, const B *b, std::ptrdiff_t step, int terms, R *y) {
    R sums[EVENTS] = {};
    for (int k = 0; k < terms; ++k)
        for (int e = 0; e < EVENTS; ++e) sums[e] += static_cast<R>(row(a, k)[e]) * static_cast<R>(row(b, k * step)[e]);
    row_copy(sums, y);
}

// Clip to integer limits and round half even in floating point.
template <class T, class S, class R> inline void row_round(const S *x, Round<T> round, R *y) {
    for (int e = 0; e < EVENTS; e += LANES<T>) store<T>(y + e, round(load<T>(x + e)));
}

enum class Rounding { half_even, half_up, truncate, ceiling, to_zero, from_zero, half_to_zero, half_from_zero };

// Divide by 2^shift with any rounding; a negative shift multiplies.
template <Rounding rounding, int shift> CALOEDGE_INLINE std::int64_t shift_right(std::int64_t code) {
    constexpr bool to_nearest = rounding == Rounding::half_even || rounding == Rounding::half_up ||
                                rounding == Rounding::half_to_zero || rounding == Rounding::half_from_zero;
    if constexpr (shift <= 0) {
        return code * (std::int64_t(1) << -shift);
    } else if constexpr (shift > 63) {  // every code is at most a quarter of 2^shift: only the directed modes still see it
        return to_nearest ? 0 : shift_right<rounding, 63>(code);
    } else {
        const std::int64_t quotient = code >> shift;
        const std::int64_t rest = code & std::int64_t((std::uint64_t(1) << shift) - 1);
        const std::int64_t above = rest - (std::int64_t(1) << (shift - 1));  // half
        switch (rounding) {
            case Rounding::half_even: return quotient + (above > 0 || (above == 0 && (quotient & 1) == 1));
            case Rounding::half_up: return quotient + (above >= 0);
            case Rounding::truncate: return quotient;
            case Rounding::ceiling: return quotient + (rest > 0);
            case Rounding::to_zero: return quotient + (rest > 0 && code < 0);
            case Rounding::from_zero: return quotient + (rest > 0 && code > 0);
            case Rounding::half_to_zero: return quotient + (above > 0 || (above == 0 && code < 0));
            case Rounding::half_from_zero: return quotient + (above > 0 || (above == 0 && code > 0));
        }
    }
}

template <Rounding rounding, int shift, class S, class R>
inline void row_requantise(const S *x, std::int64_t low, std::int64_t high, R *y) {
    for (int e = 0; e < EVENTS; ++e) {
        const std::int64_t code = shift_right<rounding, shift>(static_cast<std::int64_t>(x[e]));
        y[e] = static_cast<R>(code < low ? low : code > high ? high : code);
    }
}

template <class S, class V, class R> inline void row_table(const S *x, const V *values, std::int64_t first, R *y) {
    typedef std::conditional_t<sizeof(S) == 4, std::int32_t, std::int64_t> Index;  // codes in float fit 32 bits
    for (int e = 0; e < EVENTS; ++e) y[e] = static_cast<R>(values[static_cast<Index>(x[e]) - static_cast<Index>(first)]);
}

// Count the ascending thresholds that each code reaches: base + step * #(code >= threshold). There are 2^bits - 1 of them; a
// binary search without branches.
template <int bits, class S, class R>
inline void row_threshold(const S *x, const S *thresholds, std::int64_t base, std::int64_t step, R *y) {
    std::int32_t counts[EVENTS] = {};
    for (std::int32_t half = std::int32_t(1) << (bits - 1); half > 0; half /= 2)
        for (int e = 0; e < EVENTS; ++e) counts[e] += half & -std::int32_t(x[e] >= thresholds[counts[e] + half - 1]);
    for (int e = 0; e < EVENTS; ++e) y[e] = static_cast<R>(base + step * counts[e]);
}

// Along the last axis

// Divide `size` exponentials by their sum: round half even of numerator * e / (denominator * sum), at most `high`.
template <class S, class V, class R>
inline void softmax(const S *x, int size, const V *exponentials, std::int64_t entries, std::int64_t numerator,
                    std::int64_t denominator, std::int64_t high, R *y) {
    for (int e = 0; e < EVENTS; ++e) {
        std::int64_t largest = static_cast<std::int64_t>(x[e]), sum = 0;
        const auto exponential = [&](int i) {
            const std::int64_t below = largest - static_cast<std::int64_t>(row(x, i)[e]);
            return below < entries ? static_cast<std::int64_t>(exponentials[below]) : 0;
        };
        for (int i = 1; i < size; ++i) {
            const std::int64_t code = static_cast<std::int64_t>(row(x, i)[e]);
            largest = code > largest ? code : largest;
        }
        for (int i = 0; i < size; ++i) sum += exponential(i);
        const std::int64_t divisor = sum * denominator;
        for (int i = 0; i < size; ++i) {
            const std::int64_t dividend = exponential(i) * numerator, twice_rest = 2 * (dividend % divisor);
            std::int64_t quotient = dividend / divisor;
            quotient += twice_rest > divisor || (twice_rest == divisor && (quotient & 1) == 1);
            row(y, i)[e] = static_cast<R>(quotient > high ? high : quotient);
        }
    }
}

// Find the `best` largest (or smallest) of `size` codes, best first; of equal ones the earlier comes first.
template <bool largest, bool indices, int best, class S, class R> inline void top(const S *x, int size, R *y) {
    for (int e = 0; e < EVENTS; ++e) {
        int places[best] = {};
        int found = 0;
        for (int i = 0; i < size; ++i) {
            const S code = row(x, i)[e];
            int place = found;
            for (; place > 0; --place) {
                const S other = row(x, places[place - 1])[e];
                if (largest ? code <= other : code >= other) break;
                if (place < best) places[place] = places[place - 1];
            }
            if (place < best) places[place] = i;
            found += found < best;
        }
        for (int i = 0; i < best; ++i) row(y, i)[e] = indices ? static_cast<R>(places[i]) : static_cast<R>(row(x, places[i])[e]);
    }
}

// Into and out of blocks

template <class T, int step, int... lane> CALOEDGE_INLINE void exchange(
    Vector<T, LANES<T>> &a, Vector<T, LANES<T>> &b, std::integer_sequence<int, lane...>) {
    typedef Vector<std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>, LANES<T>> Mask;
    const auto low = __builtin_shuffle(a, b, Mask{((lane & step) ? LANES<T> + lane - step : lane)...});
    b = __builtin_shuffle(a, b, Mask{((lane & step) ? LANES<T> + lane : lane + step)...});
    a = low;
}

// Transpose a square: exchange its off-diagonal quarters, then theirs, down to single numbers.
template <class T, int step = LANES<T> / 2> CALOEDGE_INLINE void transpose(Vector<T, LANES<T>> (&square)[LANES<T>]) {
#pragma GCC unroll 16
    for (int i = 0; i < LANES<T>; ++i)
        if ((i & step) == 0) exchange<T, step>(square[i], square[i + step], std::make_integer_sequence<int, LANES<T>>());
    if constexpr (step > 1) transpose<T, step / 2>(square);
}

// Turn codes [event][element] into rows; tell whether all lie in [low, high]. Missing events of a last block become `low`.
template <class C, class R> inline bool take(const C *codes, int size, int count, C low, C high, R *y) {
    C outside = 0;
    int first = 0;
    if (count == EVENTS) {
        constexpr int lanes = sizeof(C) > sizeof(R) ? LANES<R> / 2 : LANES<R>;  // wider vectors than registers are slow
        Vector<C, lanes> above{}, below{};
        for (; first + LANES<R> <= size; first += LANES<R>)
            for (int e = 0; e < EVENTS; e += LANES<R>) {
                alignas(ALIGNMENT) R columns[LANES<R>][LANES<R>];
                for (int i = 0; i < LANES<R>; ++i) {
                    const C *from = codes + std::ptrdiff_t(e + i) * size + first;
#pragma GCC unroll 2
                    for (int part = 0; part < LANES<R>; part += lanes) {
                        Vector<C, lanes> some;
                        __builtin_memcpy(&some, from + part, sizeof(some));
                        above |= (Vector<C, lanes>)(some > high);
                        below |= (Vector<C, lanes>)(some < low);
                        const auto converted = convert<R, C, lanes>(some);
                        __builtin_memcpy(&columns[i][part], &converted, sizeof(converted));
                    }
                }
                Vector<R, LANES<R>> square[LANES<R>];
#pragma GCC unroll 16
                for (int i = 0; i < LANES<R>; ++i) square[i] = load<R>(columns[i]);
                transpose<R>(square);
#pragma GCC unroll 16
                for (int i = 0; i < LANES<R>; ++i) store<R>(row(y, first + i) + e, square[i]);
            }
        for (int i = 0; i < lanes; ++i) outside |= above[i] | below[i];
    }
    for (; first < size; ++first) {
        R *to = row(y, first);
        for (int e = 0; e < count; ++e) {
            const C code = codes[std::ptrdiff_t(e) * size + first];
            outside |= C(code < low) | C(code > high);
            to[e] = static_cast<R>(code);
        }
        for (int e = count; e < EVENTS; ++e) to[e] = static_cast<R>(low);
    }
    return outside == 0;
}

template <class S, class C> inline void give(const S *x, int size, int count, C *codes) {
    int first = 0;
    if (count == EVENTS)
        for (; first + LANES<S> <= size; first += LANES<S>)
            for (int e = 0; e < EVENTS; e += LANES<S>) {
                Vector<S, LANES<S>> square[LANES<S>];
#pragma GCC unroll 16
                for (int i = 0; i < LANES<S>; ++i) square[i] = load<S>(row(x, first + i) + e);
                transpose<S>(square);
#pragma GCC unroll 16
                for (int i = 0; i < LANES<S>; ++i) {
                    S column[LANES<S>];
                    store<S>(column, square[i]);
                    for (int j = 0; j < LANES<S>; ++j) codes[std::ptrdiff_t(e + i) * size + first + j] = static_cast<C>(column[j]);
                }
            }
    for (; first < size; ++first)
        for (int e = 0; e < count; ++e) codes[std::ptrdiff_t(e) * size + first] = static_cast<C>(row(x, first)[e]);
}

}  // namespace
#endif
