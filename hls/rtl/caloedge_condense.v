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
//
// In: beats of PAR words {hit, score, coordinates}; node n comes in beat n / PAR, at place n % PAR. Gaps between beats are
// allowed; there is no ready. A node without a hit is padding: it is not picked, and so takes nothing with it. Of nodes with
// the same score the lower index comes first.
// Out: per event the indices in the order in which they were picked, slot 0 lowest, zeros behind them; which slots are
// there; how many; and overflow, if a node is left that would have been picked next.
//
// Who comes before whom is found out while nodes come in: NODES * (NODES - 1) / 2 bits. A pick then takes 2 cycles, to find
// the node and to compare all others with it. An event stays in one of UNITS for MOST picks, whatever is found; as many events
// come meanwhile.
// Latency MOST * 2 + 3 cycles from the last beat of an event, always; throughput 1 beat per cycle.
module caloedge_condense #(
    parameter NODES = 32,
    parameter PAR = 2,
    parameter DIMENSIONS = 3,
    parameter BITS = 16,
    parameter SCORE_BITS = 16,
    parameter signed [63:0] THRESHOLD = 64'sd0,
    parameter APART = 1024,
    parameter MOST = 16
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
    localparam POINT_BITS = DIMENSIONS * BITS;
    localparam NODE_BITS = 1 + SCORE_BITS + POINT_BITS;
    localparam COUNT_BITS = $clog2(MOST + 1);
    localparam BEATS = NODES / PAR;
    localparam BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam BUSY = 2 * MOST;
    localparam UNITS = (BUSY + BEATS - 1) / BEATS;
    localparam UNIT_BITS = UNITS > 1 ? $clog2(UNITS) : 1;
    localparam [NODES-1:0] ONE_NODE = {{(NODES-1){1'b0}}, 1'b1};
    localparam [31:0] LAST_BEAT = BEATS - 1;
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
    reg [NODES*NODES-1:0] order; // bit n * NODES + p, for p < n: node p comes before node n
    wire [NODES*NODES-1:0] former; // bit n * NODES + p: p < n
    wire [NODES*INDEX_BITS-1:0] numbers; // of all nodes

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

        // A node is compared with those of earlier beats, and with those in front of it in its own.
        for (p = 0; p < PAR; p = p + 1) begin : lane
            wire [NODES-1:0] unused_earlier; // comes before the node that comes in here
            wire [PAR-1:0] unused_beside;
            for (n = 0; n < NODES; n = n + 1) begin : former
                assign unused_earlier[n] = scores[n*SCORE_BITS +: SCORE_BITS] >= scores_in[p*SCORE_BITS +: SCORE_BITS];
            end
            for (n = 0; n < PAR; n = n + 1) begin : neighbour
                assign unused_beside[n] = scores_in[n*SCORE_BITS +: SCORE_BITS] >= scores_in[p*SCORE_BITS +: SCORE_BITS];
            end
        end
        for (n = 0; n < NODES; n = n + 1) begin : latter
            localparam PLACE = n % PAR;
            localparam [NODES-1:0] EARLIER = (ONE_NODE << (n - PLACE)) - ONE_NODE; // the nodes of earlier beats
            localparam [NODES-1:0] FORMER = (ONE_NODE << n) - ONE_NODE; // and those in front of it
            wire [NODES+PAR-1:0] unused_beside = {{NODES{1'b0}}, lane[PLACE].unused_beside} << (n - PLACE);
            wire [NODES-1:0] order_next = (lane[PLACE].unused_earlier & EARLIER) | (unused_beside[NODES-1:0] & FORMER);
            always @(posedge clk)
                if (node[n].here) order[n*NODES +: NODES] <= order_next;
            assign former[n*NODES +: NODES] = FORMER;
            assign numbers[n*INDEX_BITS +: INDEX_BITS] = n[INDEX_BITS-1:0];
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
            reg [NODES*NODES-1:0] own_order;
            reg [NODES-1:0] alive;
            wire [NODES-1:0] stays; // is not near to the node that was picked
            reg busy;
            reg done;
            reg [COUNT_BITS-1:0] pick;
            reg pick_now; // in every second cycle
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
                    own_order <= order;
                    alive <= candidates;
                    pick_now <= 1'b0;
                    pick <= {COUNT_BITS{1'b0}};
                end else begin
                    pick_now <= !pick_now;
                    if (pick_now) begin
                        alive <= alive & stays;
                        pick <= pick + 1'b1;
                    end
                end

            // The first of those that are alive, and its point.
            reg found;
            reg [INDEX_BITS-1:0] index;
            reg [POINT_BITS-1:0] point;
            wire [NODES-1:0] after_former; // one that is alive comes before it
            wire [NODES-1:0] after_latter;
            wire [NODES-1:0] first = alive & ~after_former & ~after_latter;
            wire [INDEX_BITS-1:0] index_next;
            wire [POINT_BITS-1:0] point_next;
            for (n = 0; n < NODES; n = n + 1) begin : candidate
                assign after_former[n] = |(alive & own_order[n*NODES +: NODES]);
            end
            caloedge_and_or #(.COUNT(NODES), .BITS(NODES)) latter_nodes (
                .in_select(alive),
                .in_words(former & ~own_order),
                .out_word(after_latter)
            );
            caloedge_and_or #(.COUNT(NODES), .BITS(INDEX_BITS)) index_of_first (
                .in_select(first),
                .in_words(numbers),
                .out_word(index_next)
            );
            caloedge_and_or #(.COUNT(NODES), .BITS(POINT_BITS)) point_of_first (
                .in_select(first),
                .in_words(own_points),
                .out_word(point_next)
            );
            always @(posedge clk) begin
                found <= |alive;
                index <= index_next;
                point <= point_next;
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
