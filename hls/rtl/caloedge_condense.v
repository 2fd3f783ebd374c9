// Picks the condensation points of an event: again and again the node with the largest score of those that are left, which
// takes with it all nodes that are near to it.
//
//   NODES             nodes of an event, at least 2
//   PAR               nodes of a beat; divides NODES
//   DIMENSIONS, BITS  numbers of a node's coordinates, at least 1, and bits of each, two's complement
//   SCORE_BITS        bits of a score, two's complement, at most 63
//   THRESHOLD         least score that counts, a 64-bit literal
//   APART             a node stays if its Manhattan distance from each that was picked is at least that, at least 1
//   MOST              nodes that are picked at most, at least 1
//   MATRIX            1: who comes before whom is found out while nodes come in, NODES * (NODES - 1) / 2 bits: for small
//                     events; 0: a tree of NODES - 1 comparisons for each pick
//   LEVELS_PER_STAGE  comparisons of the tree in a row between two registers, at least 1
//
// In: beats of PAR words {hit, score, coordinates}; node n comes in beat n / PAR, at place n % PAR. Gaps between beats are
// allowed; there is no ready. A node without a hit is padding: it is not picked, and so takes nothing with it. Of nodes with
// the same score the lower index comes first.
// Out: per event the indices in the order in which they were picked, slot 0 lowest, zeros behind them; which slots are
// there; how many; and overflow, if a node is left that would have been picked next.
//
// CYCLES per pick: with the matrix 2, to find the node and to compare all others with it; with the tree also its stages.
// An event stays in one of UNITS for MOST picks, whatever is found; as many events come meanwhile.
// Latency MOST * CYCLES + 3 cycles from the last beat of an event, always; throughput 1 beat per cycle.
module caloedge_condense #(
    parameter NODES = 32,
    parameter PAR = 2,
    parameter DIMENSIONS = 3,
    parameter BITS = 16,
    parameter SCORE_BITS = 16,
    parameter signed [63:0] THRESHOLD = 64'sd0,
    parameter APART = 1024,
    parameter MOST = 16,
    parameter MATRIX = 1,
    parameter LEVELS_PER_STAGE = 3
) (
    input  wire                                            clk,
    input  wire                                            rst,
    input  wire                                            in_valid,
    input  wire [PAR*(1+SCORE_BITS+DIMENSIONS*BITS)-1:0]   in_data,
    output reg                                             out_valid,
    output reg  [MOST*$clog2(NODES)-1:0]                   out_indices,
    output reg  [MOST-1:0]                                 out_present,
    output reg  [$clog2(MOST+1)-1:0]                       out_count,
    output reg                                             out_overflow
);
    localparam INDEX_BITS = $clog2(NODES);
    localparam SLOTS = 1 << INDEX_BITS;
    localparam POINT_BITS = DIMENSIONS * BITS;
    localparam NODE_BITS = 1 + SCORE_BITS + POINT_BITS;
    localparam COUNT_BITS = $clog2(MOST + 1);
    localparam BEATS = NODES / PAR;
    localparam BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam SELECT = MATRIX != 0 ? 1 : (INDEX_BITS + LEVELS_PER_STAGE - 1) / LEVELS_PER_STAGE + 1;
    localparam CYCLES = SELECT + 1;
    localparam BUSY = MOST * CYCLES;
    localparam UNITS = (BUSY + BEATS - 1) / BEATS;
    localparam UNIT_BITS = UNITS > 1 ? $clog2(UNITS) : 1;
    localparam PHASE_BITS = $clog2(CYCLES);
    localparam [31:0] LAST_BEAT = BEATS - 1;
    localparam [31:0] LAST_PHASE = CYCLES - 1;
    localparam [31:0] LAST_PICK = MOST - 1;
    localparam [31:0] LAST_UNIT = UNITS - 1;
    localparam [SCORE_BITS-1:0] ONES = {SCORE_BITS{1'b1}};
    localparam [SCORE_BITS-1:0] SIGN = ONES ^ (ONES >> 1); // with it inverted, two's complement sorts like unsigned

    // The event that comes in. In the cycle after its last beat it goes on to a unit.
    reg [BEAT_BITS-1:0] beat;
    reg complete;
    always @(posedge clk)
        if (rst) begin
            beat <= {BEAT_BITS{1'b0}};
            complete <= 1'b0;
        end else begin
            complete <= in_valid && beat == LAST_BEAT[BEAT_BITS-1:0];
            if (in_valid) beat <= beat == LAST_BEAT[BEAT_BITS-1:0] ? {BEAT_BITS{1'b0}} : beat + 1'b1;
        end
    reg [NODES*POINT_BITS-1:0] points;
    reg [NODES*SCORE_BITS-1:0] scores;
    reg [NODES-1:0] candidates;
    wire unused_last_scores = |scores[NODES*SCORE_BITS-1 -: PAR*SCORE_BITS]; // by the matrix

    wire [PAR*SCORE_BITS-1:0] scores_in;
    wire [PAR-1:0] candidates_in;
    genvar n;
    genvar p;
    generate
        for (p = 0; p < PAR; p = p + 1) begin : place
            wire [NODE_BITS-1:0] word = in_data[p*NODE_BITS +: NODE_BITS];
            wire [SCORE_BITS-1:0] score = word[POINT_BITS +: SCORE_BITS];
            wire signed [63:0] score_wide = {{(64-SCORE_BITS){score[SCORE_BITS-1]}}, score};
            assign scores_in[p*SCORE_BITS +: SCORE_BITS] = score ^ SIGN;
            assign candidates_in[p] = word[NODE_BITS-1] && score_wide >= THRESHOLD;
        end

        for (n = 0; n < NODES; n = n + 1) begin : node
            localparam [31:0] BEAT = n / PAR;
            localparam PLACE = n % PAR;
            wire here = in_valid && beat == BEAT[BEAT_BITS-1:0];
            always @(posedge clk)
                if (here) begin
                    points[n*POINT_BITS +: POINT_BITS] <= in_data[PLACE*NODE_BITS +: POINT_BITS];
                    scores[n*SCORE_BITS +: SCORE_BITS] <= scores_in[PLACE*SCORE_BITS +: SCORE_BITS];
                    candidates[n] <= candidates_in[PLACE];
                end
        end

        if (MATRIX != 0) begin : matrix
            // A node is compared with those of earlier beats, and with those in front of it in its own.
            reg [NODES*NODES-1:0] order_next;
            reg [NODES*NODES-1:0] unused_order; // bit n * NODES + p, for p < n: node p comes before node n
            integer latter;
            integer former;
            always @* begin
                order_next = {NODES*NODES{1'b0}};
                for (latter = 0; latter < NODES; latter = latter + 1)
                    for (former = 0; former < latter; former = former + 1)
                        if (former / PAR == latter / PAR)
                            order_next[latter*NODES+former] = scores_in[former%PAR*SCORE_BITS +: SCORE_BITS]
                                >= scores_in[latter%PAR*SCORE_BITS +: SCORE_BITS];
                        else
                            order_next[latter*NODES+former] = scores[former*SCORE_BITS +: SCORE_BITS]
                                >= scores_in[latter%PAR*SCORE_BITS +: SCORE_BITS];
            end
            for (n = 0; n < NODES; n = n + 1) begin : latter_node
                always @(posedge clk)
                    if (node[n].here) unused_order[n*NODES +: NODES] <= order_next[n*NODES +: NODES];
            end
        end
    endgenerate

    // Units in turn.
    reg [UNIT_BITS-1:0] turn;
    always @(posedge clk)
        if (rst) turn <= {UNIT_BITS{1'b0}};
        else if (complete) turn <= turn == LAST_UNIT[UNIT_BITS-1:0] ? {UNIT_BITS{1'b0}} : turn + 1'b1;
    wire [UNITS*MOST*INDEX_BITS-1:0] unit_indices;
    wire [UNITS*MOST-1:0] unit_present;
    wire [UNITS-1:0] unit_left;
    wire [UNITS-1:0] unit_done;
    genvar u;
    generate
        for (u = 0; u < UNITS; u = u + 1) begin : unit
            localparam [31:0] UNIT = u;
            wire load = complete && turn == UNIT[UNIT_BITS-1:0];
            reg [NODES*POINT_BITS-1:0] own_points;
            reg [NODES-1:0] alive;
            wire [NODES-1:0] stays; // is not near to the node that was picked
            reg busy;
            reg done;
            reg [PHASE_BITS-1:0] phase;
            reg [COUNT_BITS-1:0] pick;
            wire pick_now = phase == LAST_PHASE[PHASE_BITS-1:0];
            wire last = pick_now && pick == LAST_PICK[COUNT_BITS-1:0];
            always @(posedge clk)
                if (rst) begin
                    busy <= 1'b0;
                    done <= 1'b0;
                end else begin
                    busy <= load || (busy && !last);
                    done <= busy && last;
                end
            always @(posedge clk)
                if (load) begin
                    own_points <= points;
                    alive <= candidates;
                    phase <= {PHASE_BITS{1'b0}};
                    pick <= {COUNT_BITS{1'b0}};
                end else if (pick_now) begin
                    alive <= alive & stays;
                    phase <= {PHASE_BITS{1'b0}};
                    pick <= pick + 1'b1;
                end else phase <= phase + 1'b1;

            // The first of those that are alive, and its point.
            reg found;
            reg [INDEX_BITS-1:0] index;
            reg [POINT_BITS-1:0] point;
            if (MATRIX != 0) begin : by_order
                reg [NODES*NODES-1:0] unused_own_order;
                always @(posedge clk)
                    if (load) unused_own_order <= matrix.unused_order;
                reg [NODES-1:0] first;
                reg [NODES-1:0] column; // what decides on one bit of a result
                reg [INDEX_BITS-1:0] index_next;
                reg [POINT_BITS-1:0] point_next;
                integer i;
                integer j;
                always @* begin
                    for (i = 0; i < NODES; i = i + 1) begin
                        for (j = 0; j < NODES; j = j + 1) // which others come before it
                            column[j] = j < i ? unused_own_order[i*NODES+j] : j > i && !unused_own_order[j*NODES+i];
                        first[i] = alive[i] && (alive & column) == {NODES{1'b0}};
                    end
                    for (i = 0; i < INDEX_BITS; i = i + 1) begin
                        for (j = 0; j < NODES; j = j + 1) column[j] = first[j] && j[i];
                        index_next[i] = |column;
                    end
                    for (i = 0; i < POINT_BITS; i = i + 1) begin
                        for (j = 0; j < NODES; j = j + 1) column[j] = first[j] && own_points[j*POINT_BITS+i];
                        point_next[i] = |column;
                    end
                end
                always @(posedge clk) begin
                    found <= |alive;
                    index <= index_next;
                    point <= point_next;
                end
            end else begin : by_tree
                localparam ENTRY_BITS = 1 + SCORE_BITS + INDEX_BITS; // {alive, score, index}
                reg [NODES*SCORE_BITS-1:0] own_scores;
                always @(posedge clk)
                    if (load) own_scores <= scores;
                wire [SLOTS*ENTRY_BITS-1:0] leaves;
                for (n = 0; n < SLOTS; n = n + 1) begin : leaf
                    localparam [31:0] INDEX = n;
                    if (n < NODES) begin : exists
                        assign leaves[n*ENTRY_BITS +: ENTRY_BITS]
                            = {alive[n], own_scores[n*SCORE_BITS +: SCORE_BITS], INDEX[INDEX_BITS-1:0]};
                    end else begin : fills_up
                        assign leaves[n*ENTRY_BITS +: ENTRY_BITS] = {ENTRY_BITS{1'b0}};
                    end
                end
                for (p = 0; p < INDEX_BITS; p = p + 1) begin : level
                    localparam LEFT = SLOTS >> (p + 1); // entries that are left
                    wire [2*LEFT*ENTRY_BITS-1:0] from;
                    wire [LEFT*ENTRY_BITS-1:0] larger;
                    wire [LEFT*ENTRY_BITS-1:0] to;
                    if (p == 0) begin : at_leaves
                        assign from = leaves;
                    end else begin : next
                        assign from = level[p-1].to;
                    end
                    for (n = 0; n < LEFT; n = n + 1) begin : pair
                        wire [ENTRY_BITS-1:0] one = from[2*n*ENTRY_BITS +: ENTRY_BITS];
                        wire [ENTRY_BITS-1:0] other = from[(2*n+1)*ENTRY_BITS +: ENTRY_BITS];
                        wire other_first = other[ENTRY_BITS-1:INDEX_BITS] > one[ENTRY_BITS-1:INDEX_BITS];
                        assign larger[n*ENTRY_BITS +: ENTRY_BITS] = other_first ? other : one;
                    end
                    if ((p + 1) % LEVELS_PER_STAGE == 0 || p == INDEX_BITS - 1) begin : stage
                        reg [LEFT*ENTRY_BITS-1:0] here;
                        always @(posedge clk) here <= larger;
                        assign to = here;
                    end else begin : on
                        assign to = larger;
                    end
                end
                wire [ENTRY_BITS-1:0] best = level[INDEX_BITS-1].to;
                wire unused_score = |best[ENTRY_BITS-2:INDEX_BITS];
                always @(posedge clk) begin
                    found <= best[ENTRY_BITS-1];
                    index <= best[ENTRY_BITS-1] ? best[INDEX_BITS-1:0] : {INDEX_BITS{1'b0}};
                    point <= own_points[best[INDEX_BITS-1:0]*POINT_BITS +: POINT_BITS];
                end
            end

            for (n = 0; n < NODES; n = n + 1) begin : other
                wire [$clog2(APART+1)-1:0] unused_distance;
                caloedge_distance #(.DIMENSIONS(DIMENSIONS), .BITS(BITS), .REACH(APART), .PIPELINED(0)) from_picked (
                    .clk(clk),
                    .in_far(1'b0),
                    .in_first(own_points[n*POINT_BITS +: POINT_BITS]),
                    .in_second(point),
                    .out_far(stays[n]),
                    .out_distance(unused_distance)
                );
            end

            // What was picked, and what is left after the last pick, while the unit may already have the next event.
            reg [MOST*INDEX_BITS-1:0] indices;
            reg [MOST-1:0] present;
            reg [NODES-1:0] left;
            wire [(MOST+1)*INDEX_BITS-1:0] unused_indices = {index, indices};
            wire [MOST:0] unused_present = {found, present};
            always @(posedge clk)
                if (pick_now) begin
                    indices <= unused_indices[(MOST+1)*INDEX_BITS-1:INDEX_BITS];
                    present <= unused_present[MOST:1];
                    left <= alive & stays;
                end
            assign unit_indices[u*MOST*INDEX_BITS +: MOST*INDEX_BITS] = indices;
            assign unit_present[u*MOST +: MOST] = present;
            assign unit_left[u] = |left;
            assign unit_done[u] = done;
        end
    endgenerate

    // Results of the unit that is done: at most one in a cycle.
    reg [MOST*INDEX_BITS-1:0] indices_of_done;
    reg [MOST-1:0] present_of_done;
    reg [COUNT_BITS-1:0] count_of_done;
    integer i;
    always @* begin
        indices_of_done = {MOST*INDEX_BITS{1'b0}};
        present_of_done = {MOST{1'b0}};
        for (i = 0; i < UNITS; i = i + 1)
            if (unit_done[i]) begin
                indices_of_done = unit_indices[i*MOST*INDEX_BITS +: MOST*INDEX_BITS];
                present_of_done = unit_present[i*MOST +: MOST];
            end
        count_of_done = {COUNT_BITS{1'b0}};
        for (i = 0; i < MOST; i = i + 1) count_of_done = count_of_done + {{COUNT_BITS-1{1'b0}}, present_of_done[i]};
    end
    always @(posedge clk) begin
        out_valid <= !rst && (|unit_done);
        out_indices <= indices_of_done;
        out_present <= present_of_done;
        out_count <= count_of_done;
        out_overflow <= |(unit_done & unit_left);
    end
endmodule
