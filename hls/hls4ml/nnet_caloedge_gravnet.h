// GravNet layer (arXiv 1902.07987) for hls4ml projects: each node gets the sum and the largest of the messages of its k nearest.
// Copied into firmware/nnet_utils of projects that need it, with nnet_caloedge_nodes.h.
#ifndef NNET_CALOEDGE_GRAVNET_H_
#define NNET_CALOEDGE_GRAVNET_H_

#include "nnet_caloedge_nodes.h"

namespace nnet {

// Keys of the k nodes nearest to node i: distance, then index, so that all keys differ and of equal distances the lower index is
// the smaller key. The node itself and padding are at reach(), and nothing is farther.
template <class coord_T, class valid_T, typename CONFIG_T>
void gravnet_nearest(coord_T coordinates[CONFIG_T::n_nodes * CONFIG_T::n_axes], valid_T valid[CONFIG_T::n_nodes], unsigned i,
                     typename CONFIG_T::key_t nearest[CONFIG_T::n_neighbours]) {
    #pragma HLS INLINE
    const typename CONFIG_T::distance_t reach = CONFIG_T::reach();

Empty:
    for (unsigned p = 0; p < CONFIG_T::n_neighbours; p++) {
        #pragma HLS UNROLL
        nearest[p] = ~typename CONFIG_T::key_t(0);
    }

Others:
    for (unsigned j = 0; j < CONFIG_T::n_nodes; j++) {
        #pragma HLS UNROLL
        typename CONFIG_T::distance_t distance = caloedge_distance<coord_T, CONFIG_T>(coordinates, i, j);
        const bool padding = !(valid[j] > 0);
        if (j == i || padding || distance > reach) {
            distance = reach;
        }
        typename CONFIG_T::key_t key = distance.range(CONFIG_T::n_distance_bits - 1, 0);
        key = (key << CONFIG_T::n_index_bits) | j;
    Places: // the largest of k + 1 keys falls out at the end
        for (unsigned p = 0; p < CONFIG_T::n_neighbours; p++) {
            #pragma HLS UNROLL
            if (key < nearest[p]) {
                const typename CONFIG_T::key_t larger = nearest[p];
                nearest[p] = key;
                key = larger;
            }
        }
    }
}

// A message is the weight of the distance times a feature, rounded as message_t says. Sums are made at the binary point of the
// messages; the result's may lie elsewhere: its bits are those of the sum.
template <class coord_T, class valid_T, class feature_T, class largest_T, class sum_T, class weight_T, typename CONFIG_T>
void gravnet(coord_T coordinates[CONFIG_T::n_nodes * CONFIG_T::n_axes], valid_T valid[CONFIG_T::n_nodes],
             feature_T features[CONFIG_T::n_nodes * CONFIG_T::n_features],
             largest_T largest[CONFIG_T::n_nodes * CONFIG_T::n_features], sum_T sums[CONFIG_T::n_nodes * CONFIG_T::n_features],
             weight_T weights[CONFIG_T::n_weights]) {
    static_assert(CONFIG_T::accum_t::width == sum_T::width, "a sum and its result have the same bits");
    #pragma HLS ARRAY_PARTITION variable=weights complete

Nodes:
    for (unsigned i = 0; i < CONFIG_T::n_nodes; i++) {
        #pragma HLS PIPELINE II=CONFIG_T::reuse_factor
        typename CONFIG_T::key_t nearest[CONFIG_T::n_neighbours];
        #pragma HLS ARRAY_PARTITION variable=nearest complete
        gravnet_nearest<coord_T, valid_T, CONFIG_T>(coordinates, valid, i, nearest);

    Features:
        for (unsigned f = 0; f < CONFIG_T::n_features; f++) {
            #pragma HLS UNROLL
            typename CONFIG_T::accum_t sum = 0;
            typename CONFIG_T::message_t most = 0;
        Messages:
            for (unsigned p = 0; p < CONFIG_T::n_neighbours; p++) {
                #pragma HLS UNROLL
                const unsigned j = nearest[p].range(CONFIG_T::n_index_bits - 1, 0);
                const unsigned distance = nearest[p] >> CONFIG_T::n_index_bits;
                const typename CONFIG_T::message_t message = weights[distance] * features[j * CONFIG_T::n_features + f];
                sum += message;
                if (p == 0 || message > most) {
                    most = message;
                }
            }
            sums[i * CONFIG_T::n_features + f].range(sum_T::width - 1, 0) = sum.range(sum_T::width - 1, 0);
            largest[i * CONFIG_T::n_features + f] = most;
        }
    }
}

} // namespace nnet

#endif
