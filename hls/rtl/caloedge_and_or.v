// All words that are selected, one over the other: with one of them selected, a multiplexer; with none, zero. Combinational.
//
//   COUNT  words, at least 1; number 0 lowest
//   BITS   bits of a word
//
// Latency 0 cycles; a balanced tree of ceil(log2(COUNT)) levels of OR. Written as a loop over bits, the same takes synthesis
// minutes to read.
module caloedge_and_or #(
    parameter COUNT = 32,
    parameter BITS = 16
) (
    input  wire [COUNT-1:0]      in_select,
    input  wire [COUNT*BITS-1:0] in_words,
    output wire [BITS-1:0]       out_word
);
    localparam LEVELS = $clog2(COUNT);
    localparam LEAVES = 1 << LEVELS;

    wire [LEAVES*BITS-1:0] leaves;
    genvar n;
    genvar p;
    generate
        for (n = 0; n < LEAVES; n = n + 1) begin : leaf
            if (n < COUNT) begin : exists
                assign leaves[n*BITS +: BITS] = in_words[n*BITS +: BITS] & {BITS{in_select[n]}};
            end else begin : fills_up
                assign leaves[n*BITS +: BITS] = {BITS{1'b0}};
            end
        end
        for (p = 0; p < LEVELS; p = p + 1) begin : level
            localparam LEFT = LEAVES >> (p + 1); // words that are left
            wire [2*LEFT*BITS-1:0] from;
            wire [LEFT*BITS-1:0] to;
            if (p == 0) begin : at_leaves
                assign from = leaves;
            end else begin : next
                assign from = level[p-1].to;
            end
            assign to = from[2*LEFT*BITS-1:LEFT*BITS] | from[LEFT*BITS-1:0];
        end
        if (LEVELS > 0) begin : many
            assign out_word = level[LEVELS-1].to;
        end else begin : one
            assign out_word = leaves;
        end
    endgenerate
endmodule
