// Adds one constant to negative words and another to all others. Before a truncation by caloedge_requantise it makes the
// roundings that look at the sign, e.g. towards zero. Combinational.
//
//   IN_WIDTH     bits of the word, two's complement
//   OUT_WIDTH    bits of the result, which must hold it; at least IN_WIDTH
//   OF_NEGATIVE  what is added to negative words, a 64-bit literal
//   OF_OTHERS    what is added to zero and positive words, a 64-bit literal
//
// Latency 0 cycles.
module caloedge_offset #(
    parameter IN_WIDTH = 16,
    parameter OUT_WIDTH = 17,
    parameter signed [63:0] OF_NEGATIVE = 64'sd0,
    parameter signed [63:0] OF_OTHERS = 64'sd0
) (
    input  wire [IN_WIDTH-1:0]  in_data,
    output wire [OUT_WIDTH-1:0] out_data
);
    localparam [OUT_WIDTH+63:0] NEGATIVE_WIDE = {{OUT_WIDTH{OF_NEGATIVE[63]}}, OF_NEGATIVE};
    localparam [OUT_WIDTH+63:0] OTHERS_WIDE = {{OUT_WIDTH{OF_OTHERS[63]}}, OF_OTHERS};

    wire [OUT_WIDTH+IN_WIDTH-1:0] unused_wide = {{OUT_WIDTH{in_data[IN_WIDTH-1]}}, in_data};
    assign out_data = unused_wide[OUT_WIDTH-1:0]
        + (in_data[IN_WIDTH-1] ? NEGATIVE_WIDE[OUT_WIDTH-1:0] : OTHERS_WIDE[OUT_WIDTH-1:0]);
endmodule
