// Keeps the best results of an event, whatever the order in which they arrive.
//
//   KEEP        results that are kept, at least 1
//   SCORE_BITS  bits of a score, two's complement, at most 63
//   KEY_BITS    bits of a key, unsigned; no two results of an event have the same
//   WIDTH       bits of what else belongs to a result
//   THRESHOLD   least score that counts, a 64-bit literal
//
// In: one result {score, key, payload} per beat. A beat of the end stream, which has no data, closes the event; a result
// that is taken at the same edge still belongs to it. Out: one group per event, KEEP entries {valid, key, payload}, entry
// 0 lowest: the results that come first in the order of falling score, then rising key. Missing entries are zeros.
//
// No result and no end is taken while a group waits at the output. in_ready, end_ready and out_valid depend on registers
// only. Registers: candidate, entries.
// Latency 2 cycles from the end to the edge at which the group can leave; throughput 1 result per cycle, and 3 cycles
// from an end to the first result of the next event.
module caloedge_top_k #(
    parameter KEEP = 4,
    parameter SCORE_BITS = 16,
    parameter KEY_BITS = 12,
    parameter WIDTH = 588,
    parameter signed [63:0] THRESHOLD = 64'sd0
) (
    input  wire                                 clk,
    input  wire                                 rst,
    input  wire                                 in_valid,
    output wire                                 in_ready,
    input  wire [SCORE_BITS+KEY_BITS+WIDTH-1:0] in_data,
    input  wire                                 end_valid,
    output wire                                 end_ready,
    output reg                                  out_valid,
    input  wire                                 out_ready,
    output wire [KEEP*(1+KEY_BITS+WIDTH)-1:0]   out_data
);
    localparam ENTRY_BITS = 1 + KEY_BITS + WIDTH; // as it leaves
    localparam PLACE_BITS = SCORE_BITS + ENTRY_BITS;
    localparam RANK_BITS = 1 + SCORE_BITS + KEY_BITS;
    localparam [SCORE_BITS-1:0] ONES = {SCORE_BITS{1'b1}};
    localparam [SCORE_BITS-1:0] SIGN = ONES ^ (ONES >> 1);

    reg ending; // the end has been taken, the last candidate may still be on its way
    assign in_ready = !ending && !out_valid;
    assign end_ready = !ending && !out_valid;
    wire leave = out_valid && out_ready;

    // The candidate. With the sign bit inverted, two's complement sorts like unsigned.
    wire [SCORE_BITS-1:0] score = in_data[KEY_BITS+WIDTH +: SCORE_BITS];
    wire signed [63:0] score_wide = {{(64-SCORE_BITS){score[SCORE_BITS-1]}}, score};
    reg candidate_valid;
    reg [SCORE_BITS-1:0] candidate_score;
    reg [KEY_BITS+WIDTH-1:0] candidate;
    wire [RANK_BITS-1:0] candidate_rank = {1'b1, candidate_score, ~candidate[KEY_BITS+WIDTH-1:WIDTH]};

    always @(posedge clk)
        if (rst) begin
            candidate_valid <= 1'b0;
            ending <= 1'b0;
            out_valid <= 1'b0;
        end else begin
            candidate_valid <= in_valid && in_ready && score_wide >= THRESHOLD;
            ending <= end_valid && end_ready;
            if (ending) out_valid <= 1'b1;
            else if (out_ready) out_valid <= 1'b0;
        end
    always @(posedge clk) begin
        candidate_score <= score ^ SIGN;
        candidate <= in_data[KEY_BITS+WIDTH-1:0];
    end

    // The entries, best first. A candidate takes the first place whose entry it surpasses; the others move down.
    reg [KEEP*PLACE_BITS-1:0] entries;
    wire [KEEP-1:0] surpassed;
    genvar e;
    generate
        for (e = 0; e < KEEP; e = e + 1) begin : place
            wire [PLACE_BITS-1:0] entry = entries[e*PLACE_BITS +: PLACE_BITS];
            wire [RANK_BITS-1:0] rank = {entry[ENTRY_BITS-1], entry[ENTRY_BITS +: SCORE_BITS], ~entry[WIDTH +: KEY_BITS]};
            wire [PLACE_BITS-1:0] replacement;
            assign surpassed[e] = candidate_rank > rank;
            if (e == 0) begin : best
                assign replacement = {candidate_score, 1'b1, candidate};
            end else begin : behind
                assign replacement = surpassed[e-1] ? entries[(e-1)*PLACE_BITS +: PLACE_BITS]
                    : {candidate_score, 1'b1, candidate};
            end
            assign out_data[e*ENTRY_BITS +: ENTRY_BITS] = entry[ENTRY_BITS-1:0];
            always @(posedge clk)
                if (rst || leave) entries[e*PLACE_BITS +: PLACE_BITS] <= {PLACE_BITS{1'b0}};
                else if (candidate_valid && surpassed[e]) entries[e*PLACE_BITS +: PLACE_BITS] <= replacement;
        end
    endgenerate
endmodule
