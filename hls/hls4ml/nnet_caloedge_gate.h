// Channel gates for hls4ml projects: the sum of all pixels of each channel, and the product of each pixel with one factor per
// channel. Copied into firmware/nnet_utils of projects that need it; what lies between the two are hls4ml's own layers.
//
// With streams a gate is two paths that part in a clone and meet again in channel_scale. No factor exists before the last pixel
// of an event is summed, so the path of the pixels must hold a whole event: the depth of that stream is CONFIG_T::n_pixels words
// or more (set in the project's top function and noted in caloedge.json). With less, hardware stands still for ever.
#ifndef NNET_CALOEDGE_GATE_H_
#define NNET_CALOEDGE_GATE_H_

#include "hls_stream.h"
#include "nnet_common.h"

namespace nnet {

// Codes are added at the binary point of the pixels. The result's may lie elsewhere: its bits are those of the sum.
template <class sum_T, class res_T> void caloedge_same_bits(const sum_T &sum, res_T &res) {
    #pragma HLS INLINE
    static_assert(sum_T::width == res_T::width, "a sum and its result have the same bits");
    res.range(res_T::width - 1, 0) = sum.range(sum_T::width - 1, 0);
}

// One word (all channels of a pixel) in each cycle; one word of sums after the last.
template <class data_T, class res_T, typename CONFIG_T>
void channel_sum(hls::stream<data_T> &data, hls::stream<res_T> &res) {
    typename CONFIG_T::accum_t sums[CONFIG_T::n_chan];
    #pragma HLS ARRAY_PARTITION variable=sums complete

Clear:
    for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        sums[c] = 0;
    }

Pixels:
    for (unsigned p = 0; p < CONFIG_T::n_pixels; p++) {
        #pragma HLS PIPELINE II=1
        data_T pixel = data.read();
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            sums[c] += pixel[c];
        }
    }

    res_T word;
    PRAGMA_DATA_PACK(word)
Results:
    for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        caloedge_same_bits(sums[c], word[c]);
    }
    res.write(word);
}

// All pixels at once.
template <class data_T, class res_T, typename CONFIG_T>
void channel_sum(data_T data[CONFIG_T::n_pixels * CONFIG_T::n_chan], res_T res[CONFIG_T::n_chan]) {
    #pragma HLS PIPELINE II=CONFIG_T::reuse_factor

Channels:
    for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        typename CONFIG_T::accum_t sum = 0;
    Pixels:
        for (unsigned p = 0; p < CONFIG_T::n_pixels; p++) {
            #pragma HLS UNROLL
            sum += data[p * CONFIG_T::n_chan + c];
        }
        caloedge_same_bits(sum, res[c]);
    }
}

// One word of factors per event, then one word (all channels of a pixel) in each cycle. Products are exact in the result's type.
template <class data_T, class factor_T, class res_T, typename CONFIG_T>
void channel_scale(hls::stream<data_T> &data, hls::stream<factor_T> &factors, hls::stream<res_T> &res) {
    typename factor_T::value_type factor[CONFIG_T::n_chan];
    #pragma HLS ARRAY_PARTITION variable=factor complete

    factor_T given = factors.read();
Factors:
    for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
        #pragma HLS UNROLL
        factor[c] = given[c];
    }

Pixels:
    for (unsigned p = 0; p < CONFIG_T::n_pixels; p++) {
        #pragma HLS PIPELINE II=1
        data_T pixel = data.read();
        res_T word;
        PRAGMA_DATA_PACK(word)
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            word[c] = pixel[c] * factor[c];
        }
        res.write(word);
    }
}

// All pixels at once.
template <class data_T, class factor_T, class res_T, typename CONFIG_T>
void channel_scale(data_T data[CONFIG_T::n_pixels * CONFIG_T::n_chan], factor_T factors[CONFIG_T::n_chan],
                   res_T res[CONFIG_T::n_pixels * CONFIG_T::n_chan]) {
    #pragma HLS PIPELINE II=CONFIG_T::reuse_factor

Pixels:
    for (unsigned p = 0; p < CONFIG_T::n_pixels; p++) {
        #pragma HLS UNROLL
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_chan; c++) {
            #pragma HLS UNROLL
            res[p * CONFIG_T::n_chan + c] = data[p * CONFIG_T::n_chan + c] * factors[c];
        }
    }
}

} // namespace nnet

#endif
