// Fixed parts of generated emulators: operations on the nodes of a graph, on blocks of events.
//
// Coordinates are N × D rows, one node after the other; distances are Manhattan distances of their codes.
#ifndef CALOEDGE_NODES_H
#define CALOEDGE_NODES_H

#include "caloedge_emulator.h"

namespace {

template <class V> CALOEDGE_INLINE V smaller(V a, V b) { return a < b ? a : b; }
template <class V> CALOEDGE_INLINE V larger(V a, V b) { return a > b ? a : b; }

// Add up |x - center| over the coordinates of the node whose first row is x, for one vector of events.
template <int axes, class T, class V> CALOEDGE_INLINE V distance(const T *x, const V (&center)[axes], int event) {
    V sum{};
#pragma GCC unroll 16
    for (int a = 0; a < axes; ++a) {
        const V difference = load<T>(row(x, a) + event) - center[a];
        sum += larger(difference, -difference);
    }
    return sum;
}

// Find the k nearest nodes of each node: the smallest keys distance << bits | index, in order. T holds every key.
// A node takes axes + 1 rows of `scratch`: its coordinates, then the least distance that it has to others: `reach` if it is padding.
// `distances` and `indices` are rows (N, k), or null where nobody reads them.
template <int k, int axes, int bits, class T, class S, class V, class D, class I>
inline void nearest(const S *x, const V *valid, int nodes, T reach, T *scratch, D distances, I indices) {
    typedef Vector<T, LANES<T>> Keys;
    constexpr T last = T((std::uint64_t(1) << (8 * sizeof(T) - 1)) - 1);
    for (int j = 0; j < nodes; ++j) {
        T *node = row(scratch, j * (axes + 1));
        for (int a = 0; a < axes; ++a) row_copy(row(x, j * axes + a), row(node, a));
        for (int e = 0; e < EVENTS; ++e) row(node, axes)[e] = row(valid, j)[e] > 0 ? T(0) : reach;
    }
    for (int i = 0; i < nodes; ++i) {
        T *own = row(scratch, i * (axes + 1)), least[EVENTS];
        row_copy(row(own, axes), least);
        row_fill(reach, row(own, axes));  // no node is near to itself
        for (int event = 0; event < EVENTS; event += LANES<T>) {
            Keys center[axes], best[k];
#pragma GCC unroll 16
            for (int a = 0; a < axes; ++a) center[a] = load<T>(row(own, a) + event);
#pragma GCC unroll 16
            for (int place = 0; place < k; ++place) best[place] = last - Keys{};
            for (int j = 0; j < nodes; ++j) {
                const T *node = row(scratch, j * (axes + 1));
                const Keys apart = larger(distance<axes>(node, center, event), load<T>(row(node, axes) + event));
                Keys key = (smaller(apart, reach - Keys{}) << bits) + T(j);
#pragma GCC unroll 16
                for (int place = 0; place < k; ++place) {
                    const Keys before = best[place];
                    best[place] = smaller(before, key);
                    key = larger(before, key);
                }
            }
            for (int place = 0; place < k; ++place) {
                if constexpr (!std::is_same<D, std::nullptr_t>::value)
                    store<T>(row(distances, i * k + place) + event, best[place] >> bits);
                if constexpr (!std::is_same<I, std::nullptr_t>::value)
                    store<T>(row(indices, i * k + place) + event, best[place] & T((std::int64_t(1) << bits) - 1));
            }
        }
        row_copy(least, row(own, axes));
    }
}

// Take rows of values (N, features) at `count` indices; with `holes`, index -1 gives zeros.
// `scratch` holds the values event by event, each node's features side by side: what belongs to one index is then read at once, and
// squares of events and features are turned back into rows.
template <int features, bool holes, class S, class I>
inline void take_rows(const S *x, const I *indices, int nodes, int count, S *scratch, S *y) {
    constexpr int lanes = LANES<S>, width = (features + lanes - 1) / lanes * lanes;
    const std::ptrdiff_t event_size = std::ptrdiff_t(nodes + holes) * width;
    Vector<S, lanes> square[lanes];
    for (int j = 0; j < nodes + holes; ++j)
        for (int first = 0; first < width; first += lanes)
            for (int event = 0; event < EVENTS; event += lanes) {
                for (int f = 0; f < lanes; ++f)
                    square[f] = j < nodes && first + f < features ? load<S>(row(x, j * features + first + f) + event) : Vector<S, lanes>{};
                transpose<S>(square);
                for (int e = 0; e < lanes; ++e) store<S>(scratch + (event + e) * event_size + j * width + first, square[e]);
            }
    for (int i = 0; i < count; ++i)
        for (int event = 0; event < EVENTS; event += lanes) {
            const S *from[lanes];
            for (int e = 0; e < lanes; ++e) {
                const int index = static_cast<int>(row(indices, i)[event + e]);
                from[e] = scratch + (event + e) * event_size + (holes && index < 0 ? nodes : index) * width;
            }
            for (int first = 0; first < width; first += lanes) {
#pragma GCC unroll 16
                for (int e = 0; e < lanes; ++e) square[e] = load<S>(from[e] + first);
                transpose<S>(square);
#pragma GCC unroll 16
                for (int f = 0; f < lanes; ++f)
                    if (first + f < features) store<S>(row(y, i * features + first + f) + event, square[f]);
            }
        }
}

// Accept condensation points: the largest score among candidates (of equal ones the first), which ends all candidates less than
// `apart` from it; up to `most` times. `none` lies below every score: that of nodes which are no candidates.
// `scratch` holds a score for each node. `indices` are rows (most), `status` two rows: number accepted, candidates left.
template <int axes, class T, class P, class S, class V, class I, class Q>
inline void condense(const P *score, const S *x, const V *valid, int nodes, int most, T threshold, T none, T apart, T *scratch, I indices,
                     Q status) {
    for (int j = 0; j < nodes; ++j)
        for (int e = 0; e < EVENTS; ++e) {
            const T code = static_cast<T>(row(score, j)[e]);
            row(scratch, j)[e] = row(valid, j)[e] > 0 && code >= threshold ? code : none;
        }
    std::int32_t accepted[EVENTS] = {};
    for (int place = 0; place < most; ++place) {
        T best[EVENTS], center[axes][EVENTS];
        std::int32_t chosen[EVENTS] = {};
        row_fill(none, best);
        for (int j = 0; j < nodes; ++j)
            for (int e = 0; e < EVENTS; ++e) {
                const bool better = row(scratch, j)[e] > best[e];
                chosen[e] = better ? j : chosen[e];
                best[e] = better ? row(scratch, j)[e] : best[e];
            }
        for (int e = 0; e < EVENTS; ++e) {
            accepted[e] += best[e] > none;
            for (int a = 0; a < axes; ++a) center[a][e] = static_cast<T>(row(x, std::ptrdiff_t(chosen[e]) * axes + a)[e]);
            if constexpr (!std::is_same<I, std::nullptr_t>::value) row(indices, place)[e] = best[e] > none ? chosen[e] : -1;
        }
        for (int j = 0; j < nodes; ++j) {
            T sums[EVENTS] = {};
            for (int a = 0; a < axes; ++a)
                for (int e = 0; e < EVENTS; ++e) {
                    const T difference = static_cast<T>(row(x, j * axes + a)[e]) - center[a][e];
                    sums[e] += difference < 0 ? -difference : difference;
                }
            for (int e = 0; e < EVENTS; ++e) row(scratch, j)[e] = sums[e] < apart ? none : row(scratch, j)[e];
        }
    }
    if constexpr (!std::is_same<Q, std::nullptr_t>::value) {
        bool left[EVENTS] = {};
        for (int j = 0; j < nodes; ++j)
            for (int e = 0; e < EVENTS; ++e) left[e] |= row(scratch, j)[e] > none;
        for (int e = 0; e < EVENTS; ++e) {
            row(status, 0)[e] = accepted[e];
            row(status, 1)[e] = left[e];
        }
    }
}

}  // namespace
#endif
