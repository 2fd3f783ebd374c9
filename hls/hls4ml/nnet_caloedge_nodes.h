// Nodes of a graph in hls4ml projects: columns of their features, distances, condensation points and rows of chosen nodes.
// Copied into firmware/nnet_utils of projects that need it, as is nnet_caloedge_gravnet.h.
//
// Arrays hold node after node: feature f of node n is element n * features + f. Loops over nodes are pipelined, one node per clock
// cycle; what is done for one node is unrolled. All results are exact: every type holds whatever can come, and types with a
// binary point hold multiples of their least significant bit only.
#ifndef NNET_CALOEDGE_NODES_H_
#define NNET_CALOEDGE_NODES_H_

#include "nnet_common.h"

namespace nnet {

// The chosen columns of each node; all of them are a copy.
template <class data_T, class res_T, typename CONFIG_T>
void node_columns(data_T data[CONFIG_T::n_nodes * CONFIG_T::n_in], res_T res[CONFIG_T::n_nodes * CONFIG_T::n_out]) {
Nodes:
    for (unsigned i = 0; i < CONFIG_T::n_nodes; i++) {
        #pragma HLS PIPELINE II=CONFIG_T::reuse_factor
    Columns:
        for (unsigned c = 0; c < CONFIG_T::n_out; c++) {
            #pragma HLS UNROLL
            res[i * CONFIG_T::n_out + c] = data[i * CONFIG_T::n_in + CONFIG_T::column(c)];
        }
    }
}

// Manhattan distance of two nodes at the coordinates' binary point.
template <class coord_T, typename CONFIG_T>
typename CONFIG_T::distance_t caloedge_distance(coord_T coordinates[CONFIG_T::n_nodes * CONFIG_T::n_axes], unsigned i,
                                                unsigned j) {
    #pragma HLS INLINE
    typename CONFIG_T::distance_t distance = 0;
Axes:
    for (unsigned a = 0; a < CONFIG_T::n_axes; a++) {
        #pragma HLS UNROLL
        const coord_T x = coordinates[i * CONFIG_T::n_axes + a], y = coordinates[j * CONFIG_T::n_axes + a];
        if (x > y) {
            distance += x - y;
        } else {
            distance += y - x;
        }
    }
    return distance;
}

// Condensation points, one in each turn: of the candidates that are left the one with the largest score (of equal scores the
// lowest index); it and all nodes nearer than apart() are no candidates any more. Indices are -1 where no candidate was left.
// The status is the number of points, and whether a candidate is left.
template <class score_T, class coord_T, class valid_T, class index_T, class status_T, typename CONFIG_T>
void condense(score_T score[CONFIG_T::n_nodes], coord_T coordinates[CONFIG_T::n_nodes * CONFIG_T::n_axes],
              valid_T valid[CONFIG_T::n_nodes], index_T indices[CONFIG_T::n_most], status_T status[2]) {
    bool candidate[CONFIG_T::n_nodes];
    #pragma HLS ARRAY_PARTITION variable=candidate complete

Candidates:
    for (unsigned i = 0; i < CONFIG_T::n_nodes; i++) {
        #pragma HLS UNROLL
        candidate[i] = valid[i] > 0 && score[i] >= CONFIG_T::threshold();
    }

    unsigned count = 0;
Points:
    for (unsigned m = 0; m < CONFIG_T::n_most; m++) {
        #pragma HLS PIPELINE
        bool found = false;
        unsigned best = 0;
        score_T highest = 0;
    Best:
        for (unsigned i = 0; i < CONFIG_T::n_nodes; i++) {
            #pragma HLS UNROLL
            if (candidate[i] && (!found || score[i] > highest)) {
                found = true;
                best = i;
                highest = score[i];
            }
        }
        if (found) {
            indices[m] = best;
            count++;
        } else {
            indices[m] = -1;
        }
    Surroundings:
        for (unsigned i = 0; i < CONFIG_T::n_nodes; i++) {
            #pragma HLS UNROLL
            const typename CONFIG_T::distance_t distance = caloedge_distance<coord_T, CONFIG_T>(coordinates, i, best);
            candidate[i] = candidate[i] && distance >= CONFIG_T::apart();
        }
    }

    bool left = false;
Left:
    for (unsigned i = 0; i < CONFIG_T::n_nodes; i++) {
        #pragma HLS UNROLL
        left = left || candidate[i];
    }
    status[0] = count;
    status[1] = left;
}

// Features of the nodes at the indices; zeros where an index is -1.
template <class data_T, class index_T, class res_T, typename CONFIG_T>
void take_rows(data_T data[CONFIG_T::n_nodes * CONFIG_T::n_features], index_T indices[CONFIG_T::n_rows],
               res_T res[CONFIG_T::n_rows * CONFIG_T::n_features]) {
Rows:
    for (unsigned m = 0; m < CONFIG_T::n_rows; m++) {
        #pragma HLS PIPELINE II=CONFIG_T::reuse_factor
        const int row = indices[m].to_int();
    Features:
        for (unsigned f = 0; f < CONFIG_T::n_features; f++) {
            #pragma HLS UNROLL
            if (row < 0) {
                res[m * CONFIG_T::n_features + f] = 0;
            } else {
                res[m * CONFIG_T::n_features + f] = data[row * CONFIG_T::n_features + f];
            }
        }
    }
}

} // namespace nnet

#endif
