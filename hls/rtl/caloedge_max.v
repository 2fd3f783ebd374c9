// Largest of COUNT elements, for each of CHANNELS channels: max pooling behind caloedge_window. Combinational.
//
//   COUNT     elements, at least 1
//   CHANNELS  channels of an element; the word of element e and channel c is word e * CHANNELS + c
//   BITS      bits of a word
//   SIGNED    1 if words are two's complement, 0 if they are unsigned
//
// Latency 0 cycles; a balanced tree of ceil(log2(COUNT)) comparisons.
module caloedge_max #(
    parameter COUNT = 4,
    parameter CHANNELS = 1,
    parameter BITS = 8,
    parameter SIGNED = 0
) (
    input  wire [COUNT*CHANNELS*BITS-1:0] in_data,
    output wire [CHANNELS*BITS-1:0]       out_data
);
    // With the sign bit inverted, two's complement sorts like unsigned.
    localparam [BITS-1:0] ONES = {BITS{1'b1}};
    localparam [BITS-1:0] OFFSET = SIGNED != 0 ? ONES ^ (ONES >> 1) : {BITS{1'b0}};

    genvar c;
    generate
        for (c = 0; c < CHANNELS; c = c + 1) begin : channel
            // A binary heap: node k is the larger of nodes 2k and 2k + 1, the elements are nodes COUNT to 2 * COUNT - 1.
            reg [2*COUNT*BITS-1:0] nodes;
            reg [BITS-1:0] left;
            reg [BITS-1:0] right;
            integer k;
            always @* begin
                nodes = {2*COUNT*BITS{1'b0}};
                left = {BITS{1'b0}};
                right = {BITS{1'b0}};
                for (k = 0; k < COUNT; k = k + 1)
                    nodes[(COUNT+k)*BITS +: BITS] = in_data[(k*CHANNELS+c)*BITS +: BITS] ^ OFFSET;
                for (k = COUNT - 1; k > 0; k = k - 1) begin
                    left = nodes[2*k*BITS +: BITS];
                    right = nodes[(2*k+1)*BITS +: BITS];
                    nodes[k*BITS +: BITS] = left > right ? left : right;
                end
            end
            assign out_data[c*BITS +: BITS] = nodes[BITS +: BITS] ^ OFFSET;
        end
    endgenerate
endmodule
