// Multiplies a signed word by a constant and adds another. Combinational.
//
//   IN_WIDTH   bits of the word, two's complement
//   OUT_WIDTH  bits of the result, which must hold it
//   WEIGHT     what the word is multiplied by, a 64-bit literal
//   BIAS       what is added to the product, a 64-bit literal
//
// Latency 0 cycles.
module caloedge_affine #(
    parameter IN_WIDTH = 8,
    parameter OUT_WIDTH = 16,
    parameter signed [63:0] WEIGHT = 64'sd1,
    parameter signed [63:0] BIAS = 64'sd0
) (
    input  wire [IN_WIDTH-1:0]  in_data,
    output wire [OUT_WIDTH-1:0] out_data
);
    // The result fits, so the bits above it never matter.
    localparam [OUT_WIDTH+63:0] WEIGHT_WIDE = {{OUT_WIDTH{WEIGHT[63]}}, WEIGHT};
    localparam [OUT_WIDTH+63:0] BIAS_WIDE = {{OUT_WIDTH{BIAS[63]}}, BIAS};

    wire [OUT_WIDTH+IN_WIDTH-1:0] unused_wide = {{OUT_WIDTH{in_data[IN_WIDTH-1]}}, in_data};
    assign out_data = unused_wide[OUT_WIDTH-1:0] * WEIGHT_WIDE[OUT_WIDTH-1:0] + BIAS_WIDE[OUT_WIDTH-1:0];
endmodule
