// Manhattan distance of two points, saturated: the sum of |first - second| over all dimensions, at most REACH.
//
//   DIMENSIONS  numbers of a point, at least 1; number 0 lowest
//   BITS        bits of a number, two's complement
//   REACH       the largest result, at least 1
//   PIPELINED   1 with registers behind differences, sums of pairs, and the result; 0 combinational
//
// far says that the result is REACH; in_far = 1 makes it so. In one's complement a negative difference turns positive
// without a carry and is one too small; the missing ones come in as carries of the additions. A part of the sum that no
// longer fits the bits of REACH is remembered in one bit.
// Latency 3 cycles, or 0; throughput 1 pair of points per cycle.
module caloedge_distance #(
    parameter DIMENSIONS = 6,
    parameter BITS = 8,
    parameter REACH = 36,
    parameter PIPELINED = 1
) (
    input  wire                         clk,
    input  wire                         in_far,
    input  wire [DIMENSIONS*BITS-1:0]   in_first,
    input  wire [DIMENSIONS*BITS-1:0]   in_second,
    output wire                         out_far,
    output wire [$clog2(REACH+1)-1:0]   out_distance
);
    localparam SUM_BITS = $clog2(REACH + 1);
    localparam WIDE = BITS > SUM_BITS ? BITS : SUM_BITS;
    localparam PAIRS = (DIMENSIONS + 1) / 2;
    localparam [31:0] SATURATED = REACH;
    localparam [31:0] LAST_NEAR = REACH - 1;

    // Differences.
    wire [DIMENSIONS*SUM_BITS-1:0] size_next;
    wire [DIMENSIONS-1:0] negative_next;
    wire [DIMENSIONS-1:0] over;
    wire far_next = in_far || (|over);
    wire [DIMENSIONS*SUM_BITS-1:0] size;
    wire [DIMENSIONS-1:0] negative; // one is still missing in `size`
    wire far;

    // Sums of two. Each pair of numbers has two missing ones, of which one comes in here.
    wire [PAIRS*SUM_BITS-1:0] pair_next;
    wire [PAIRS-1:0] missing_next;
    wire [PAIRS-1:0] pair_over;
    wire pair_far_next = far || (|pair_over);
    wire [PAIRS*SUM_BITS-1:0] pair;
    wire [PAIRS-1:0] missing;
    wire pair_far;

    genvar d;
    generate
        for (d = 0; d < DIMENSIONS; d = d + 1) begin : dimension
            wire [BITS-1:0] first = in_first[d*BITS +: BITS];
            wire [BITS-1:0] second = in_second[d*BITS +: BITS];
            wire [BITS:0] difference = {first[BITS-1], first} - {second[BITS-1], second};
            wire [2*WIDE-1:0] absolute = {{(2*WIDE-BITS){1'b0}}, difference[BITS-1:0] ^ {BITS{difference[BITS]}}};
            assign size_next[d*SUM_BITS +: SUM_BITS] = absolute[SUM_BITS-1:0];
            assign over[d] = |absolute[2*WIDE-1:SUM_BITS];
            assign negative_next[d] = difference[BITS];
        end

        for (d = 0; d < PAIRS; d = d + 1) begin : sum_of_two
            if (2 * d + 1 < DIMENSIONS) begin : two
                assign {pair_over[d], pair_next[d*SUM_BITS +: SUM_BITS]} = {1'b0, size[2*d*SUM_BITS +: SUM_BITS]}
                    + {1'b0, size[(2*d+1)*SUM_BITS +: SUM_BITS]} + {{SUM_BITS{1'b0}}, negative[2*d]};
                assign missing_next[d] = negative[2*d+1];
            end else begin : one
                assign {pair_over[d], pair_next[d*SUM_BITS +: SUM_BITS]} = {1'b0, size[2*d*SUM_BITS +: SUM_BITS]};
                assign missing_next[d] = negative[2*d];
            end
        end

        if (PIPELINED != 0) begin : registers
            reg [DIMENSIONS*SUM_BITS-1:0] size_here;
            reg [DIMENSIONS-1:0] negative_here;
            reg far_here;
            reg [PAIRS*SUM_BITS-1:0] pair_here;
            reg [PAIRS-1:0] missing_here;
            reg pair_far_here;
            always @(posedge clk) begin
                size_here <= size_next;
                negative_here <= negative_next;
                far_here <= far_next;
                pair_here <= pair_next;
                missing_here <= missing_next;
                pair_far_here <= pair_far_next;
            end
            assign {size, negative, far} = {size_here, negative_here, far_here};
            assign {pair, missing, pair_far} = {pair_here, missing_here, pair_far_here};
        end else begin : through
            wire unused_clk = clk;
            assign {size, negative, far} = {size_next, negative_next, far_next};
            assign {pair, missing, pair_far} = {pair_next, missing_next, pair_far_next};
        end
    endgenerate

    // The sum, but for the missing one of the first pair, which decides only where the sum lies just below REACH.
    reg [SUM_BITS-1:0] sum;
    reg carry;
    reg sum_over;
    integer p;
    always @* begin
        sum = pair[SUM_BITS-1:0];
        carry = 1'b0;
        sum_over = pair_far;
        for (p = 1; p < PAIRS; p = p + 1) begin
            {carry, sum} = {1'b0, sum} + {1'b0, pair[p*SUM_BITS +: SUM_BITS]} + {{SUM_BITS{1'b0}}, missing[p]};
            sum_over = sum_over || carry;
        end
    end
    wire far_result = sum_over || {sum, missing[0]} > {LAST_NEAR[SUM_BITS-1:0], 1'b0};
    wire [SUM_BITS-1:0] distance = far_result ? SATURATED[SUM_BITS-1:0] : sum + {{(SUM_BITS-1){1'b0}}, missing[0]};

    generate
        if (PIPELINED != 0) begin : result
            reg far_here;
            reg [SUM_BITS-1:0] distance_here;
            always @(posedge clk) begin
                far_here <= far_result;
                distance_here <= distance;
            end
            assign {out_far, out_distance} = {far_here, distance_here};
        end else begin : result_at_once
            assign {out_far, out_distance} = {far_result, distance};
        end
    endgenerate
endmodule
