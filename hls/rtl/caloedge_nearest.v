// Finds the nearest nodes of one node among all nodes of an event: the K smallest keys {distance, index}, so that of
// nodes at the same distance those with the lower index count as nearer.
//
//   NODES             nodes of an event, at least 2
//   DIMENSIONS, BITS  numbers of a node's coordinates, at least 1, and bits of each, two's complement
//   REACH             the largest distance, at least 1: the Manhattan distance saturates there
//   K                 keys that are kept, at most NODES
//   LEVELS_PER_STAGE  comparisons in a row between two registers, at least 1
//
// In: the event, a word {hit, coordinates} per node, with the coordinates and the index of the node that asks. That node
// and those without a hit, which are padding, lie at distance REACH. Out: the K keys, in no order that is promised.
//
// The keys are sorted in groups of P, the power of two next to K, by Batcher's odd-even merge sort. Then pairs of groups
// are merged again and again: the smaller of an element of the one and of the other from its end are the K smallest of both,
// and a bitonic merge sorts them, but for the last time. It would need P elements, so zeros fill up, of which the places
// are known: comparisons with them vanish in synthesis, as do those with the ones that fill up NODES, and index bits that
// all nodes of a group share.
// Latency 3 cycles for the distances and one for each LEVELS_PER_STAGE of the LEVELS comparisons (rounded up): 9 for 7 of
// 32 nodes with 2 per stage, 13 of 128. Throughput 1 node per cycle; no ready.
module caloedge_nearest #(
    parameter NODES = 32,
    parameter DIMENSIONS = 6,
    parameter BITS = 8,
    parameter REACH = 36,
    parameter K = 7,
    parameter LEVELS_PER_STAGE = 2
) (
    input  wire                                         clk,
    input  wire                                         rst,
    input  wire                                         in_valid,
    input  wire [NODES*(1+DIMENSIONS*BITS)-1:0]         in_event,
    input  wire [DIMENSIONS*BITS-1:0]                   in_query,
    input  wire [$clog2(NODES)-1:0]                     in_index,
    output wire                                         out_valid,
    output wire [K*($clog2(REACH+1)+$clog2(NODES))-1:0] out_keys
);
    localparam INDEX_BITS = $clog2(NODES);
    localparam DISTANCE_BITS = $clog2(REACH + 1);
    localparam KEY_BITS = DISTANCE_BITS + INDEX_BITS;
    localparam NODE_BITS = 1 + DIMENSIONS * BITS;
    localparam SLOTS = 1 << INDEX_BITS;
    localparam P_BITS = $clog2(K);
    localparam P = 1 << P_BITS;
    localparam MERGES = INDEX_BITS - P_BITS;
    localparam SORT_LEVELS = P_BITS * (P_BITS + 1) / 2;
    localparam LEVELS = SORT_LEVELS + (MERGES > 0 ? (MERGES - 1) * (P_BITS + 1) + 1 : 0);
    localparam STAGES = (LEVELS + LEVELS_PER_STAGE - 1) / LEVELS_PER_STAGE;
    localparam LATENCY = 3 + STAGES;

    // What a slot holds after a level: the smaller or the larger of two slots, the same as before, or nothing.
    localparam SMALLER = 0;
    localparam LARGER = 1;
    localparam SAME = 2;
    localparam NOTHING = 3;

    // Whether a place of a group is compared with the one `stride` behind it, at a level of Batcher's sort that merges
    // sorted blocks of `block`.
    function integer compares;
        input integer place;
        input integer block;
        input integer stride;
        integer from;
        begin
            from = place - (stride == block ? 0 : stride);
            compares = from >= 0 && from % (2 * stride) < stride && place + stride < P
                && place / (2 * block) == (place + stride) / (2 * block) ? 1 : 0;
        end
    endfunction

    // One of the SLOTS * SLOTS * 4 things that slot `where` can hold after a level: {first slot, second slot, which}.
    function integer plan;
        input integer after;
        input integer where;
        integer rest;
        integer block;
        integer stride;
        integer size;
        integer place;
        integer begins;
        integer sorted;
        begin
            plan = NOTHING;
            if (after < SORT_LEVELS) begin
                rest = after;
                block = 1;
                for (size = 1; rest >= size; size = size + 1) begin
                    rest = rest - size;
                    block = 2 * block;
                end
                stride = block >> rest;
                place = where % P;
                plan = (where * SLOTS + where) * 4 + SAME;
                if (compares(place, block, stride) == 1) plan = (where * SLOTS + where + stride) * 4 + SMALLER;
                if (place >= stride)
                    if (compares(place - stride, block, stride) == 1)
                        plan = ((where - stride) * SLOTS + where) * 4 + LARGER;
            end else begin
                rest = (after - SORT_LEVELS) % (P_BITS + 1);
                size = (2 * P) << ((after - SORT_LEVELS) / (P_BITS + 1));
                place = where % size;
                begins = where - place;
                sorted = size == 2 * P ? 0 : P - K; // where the K begin: behind what filled up
                stride = P >> rest;
                if (rest == 0) begin
                    if (place < K)
                        plan = ((begins + sorted + place) * SLOTS + begins + size / 2 + sorted + K - 1 - place) * 4 + SMALLER;
                end else if (place < P) begin
                    if (place / stride % 2 == 0) plan = (where * SLOTS + where + stride) * 4 + SMALLER;
                    else plan = ((where - stride) * SLOTS + where) * 4 + LARGER;
                end
            end
        end
    endfunction

    reg [LATENCY-1:0] under_way;
    wire [LATENCY:0] unused_under_way = {under_way, in_valid};
    assign out_valid = under_way[LATENCY-1];
    always @(posedge clk)
        if (rst) under_way <= {LATENCY{1'b0}};
        else under_way <= unused_under_way[LATENCY-1:0];

    wire [SLOTS*KEY_BITS-1:0] keys;
    genvar n;
    genvar l;
    generate
        for (n = 0; n < SLOTS; n = n + 1) begin : node
            localparam [31:0] INDEX = n;
            if (n < NODES) begin : exists
                wire [NODE_BITS-1:0] word = in_event[n*NODE_BITS +: NODE_BITS];
                wire masked = !word[NODE_BITS-1] || in_index == INDEX[INDEX_BITS-1:0];
                wire unused_far;
                caloedge_distance #(.DIMENSIONS(DIMENSIONS), .BITS(BITS), .REACH(REACH)) to_query (
                    .clk(clk),
                    .in_far(masked),
                    .in_first(word[NODE_BITS-2:0]),
                    .in_second(in_query),
                    .out_far(unused_far),
                    .out_distance(keys[n*KEY_BITS+INDEX_BITS +: DISTANCE_BITS])
                );
                assign keys[n*KEY_BITS +: INDEX_BITS] = INDEX[INDEX_BITS-1:0];
            end else begin : fills_up
                assign keys[n*KEY_BITS +: KEY_BITS] = {KEY_BITS{1'b1}};
            end
        end

        for (l = 0; l < LEVELS; l = l + 1) begin : level
            wire [SLOTS*KEY_BITS-1:0] unused_from; // not all of it is read
            wire [SLOTS*KEY_BITS-1:0] compared;
            wire [SLOTS*KEY_BITS-1:0] unused_to;
            if (l == 0) begin : first
                assign unused_from = keys;
            end else begin : next
                assign unused_from = level[l-1].unused_to;
            end
            for (n = 0; n < SLOTS; n = n + 1) begin : slot
                localparam PLAN = plan(l, n);
                localparam FIRST = PLAN / 4 / SLOTS;
                localparam SECOND = PLAN / 4 % SLOTS;
                localparam WHICH = PLAN % 4;
                if (WHICH == NOTHING) begin : nothing
                    assign compared[n*KEY_BITS +: KEY_BITS] = {KEY_BITS{1'b0}};
                end else if (WHICH == SAME) begin : same
                    assign compared[n*KEY_BITS +: KEY_BITS] = unused_from[n*KEY_BITS +: KEY_BITS];
                end else begin : of_two
                    wire [KEY_BITS-1:0] one = unused_from[FIRST*KEY_BITS +: KEY_BITS];
                    wire [KEY_BITS-1:0] other = unused_from[SECOND*KEY_BITS +: KEY_BITS];
                    wire other_first = other < one;
                    assign compared[n*KEY_BITS +: KEY_BITS] = other_first == (WHICH == SMALLER) ? other : one;
                end
            end
            if ((l + 1) % LEVELS_PER_STAGE == 0 || l == LEVELS - 1) begin : stage
                reg [SLOTS*KEY_BITS-1:0] here;
                always @(posedge clk) here <= compared;
                assign unused_to = here;
            end else begin : on
                assign unused_to = compared;
            end
        end
    endgenerate

    assign out_keys = level[LEVELS-1].unused_to[K*KEY_BITS-1:0];
endmodule
