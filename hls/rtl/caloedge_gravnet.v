// One lane of a GravNet layer: of the K nodes that are nearest to one, weights the features by distance, and gives their
// mean and their largest.
//
//   NODES             nodes of an event
//   PAR               nodes of a beat of features, a power of two; divides NODES
//   DIMENSIONS, BITS, REACH, K, LEVELS_PER_STAGE  as in caloedge_nearest
//   FEATURES          features of a node
//   FEATURE_BITS      bits of a feature, two's complement
//   WEIGHT_BITS       bits of a weight, unsigned
//   WEIGHTS           the weights of the distances 0 to REACH, that of 0 lowest: a literal of (REACH + 1) * WEIGHT_BITS bits
//   MESSAGE_SHIFT     bits to drop of a weight times a feature
//   MESSAGE_BITS      bits of the result, a message, two's complement
//   MEAN_SHIFT        bits to drop of the sum of K messages
//   MEAN_BITS         bits of the result, two's complement
//
// Both round half to even and clip. Padding and the node itself lie at REACH, as in caloedge_nearest: where fewer than K
// nodes are near, messages of weight WEIGHTS[REACH] join in.
//
// Beats of features come in the cycles in which beats of coordinates enter a caloedge_barrier; what that shows in the
// NODES / PAR cycles from the next one on, event, own node and its index, comes here. PAR lanes share a barrier.
//
// Features lie in a memory of PAR small ones, read at K places at once and twice as deep as an event: they are written so
// late that the event before the last has just been read when its place is needed.
// Latency that of caloedge_nearest and 5 cycles: look-up of weights and features, products, messages, sums and largest
// of up to four, results. Throughput 1 node per cycle; no ready.
module caloedge_gravnet #(
    parameter NODES = 32,
    parameter PAR = 2,
    parameter DIMENSIONS = 6,
    parameter BITS = 8,
    parameter REACH = 36,
    parameter K = 7,
    parameter LEVELS_PER_STAGE = 2,
    parameter FEATURES = 8,
    parameter FEATURE_BITS = 8,
    parameter WEIGHT_BITS = 8,
    parameter [(REACH+1)*WEIGHT_BITS-1:0] WEIGHTS = {(REACH+1)*WEIGHT_BITS{1'b1}},
    parameter MESSAGE_SHIFT = 7,
    parameter MESSAGE_BITS = 8,
    parameter MEAN_SHIFT = 3,
    parameter MEAN_BITS = 8
) (
    input  wire                                 clk,
    input  wire                                 rst,
    input  wire                                 feature_valid,
    input  wire [PAR*FEATURES*FEATURE_BITS-1:0] feature_data,
    input  wire                                 in_valid,
    input  wire [NODES*(1+DIMENSIONS*BITS)-1:0] in_event,
    input  wire [DIMENSIONS*BITS-1:0]           in_query,
    input  wire [$clog2(NODES)-1:0]             in_index,
    output wire                                 out_valid,
    output wire [FEATURES*MEAN_BITS-1:0]        out_mean,
    output wire [FEATURES*MESSAGE_BITS-1:0]     out_max
);
    localparam INDEX_BITS = $clog2(NODES);
    localparam DISTANCE_BITS = $clog2(REACH + 1);
    localparam KEY_BITS = DISTANCE_BITS + INDEX_BITS;
    localparam ROW_BITS = FEATURES * FEATURE_BITS; // of one node
    localparam BEATS = NODES / PAR;
    localparam BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam PLACE_BITS = $clog2(PAR);
    localparam PRODUCT_BITS = WEIGHT_BITS + FEATURE_BITS;
    localparam MESSAGES = FEATURES * MESSAGE_BITS; // bits of the messages of one node
    localparam SUM_BITS = MESSAGE_BITS + $clog2(K);
    localparam GROUPS = (K + 3) / 4; // messages are summed by four, then these sums
    localparam TABLE_BITS = ((1 << DISTANCE_BITS) + 1) * WEIGHT_BITS; // distances beyond REACH never come
    localparam [TABLE_BITS-1:0] TABLE = {{(TABLE_BITS-(REACH+1)*WEIGHT_BITS){1'b0}}, WEIGHTS};
    localparam signed [63:0] MESSAGE_HIGH = (64'sd1 <<< (MESSAGE_BITS - 1)) - 64'sd1;
    localparam signed [63:0] MEAN_HIGH = (64'sd1 <<< (MEAN_BITS - 1)) - 64'sd1;
    localparam [31:0] LAST = BEATS - 1;

    // The levels of caloedge_nearest once more, for its latency.
    localparam P_BITS = $clog2(K);
    localparam MERGES = INDEX_BITS - P_BITS;
    localparam LEVELS = P_BITS * (P_BITS + 1) / 2 + (MERGES > 0 ? (MERGES - 1) * (P_BITS + 1) + 1 : 0);
    localparam SEARCH = 3 + (LEVELS + LEVELS_PER_STAGE - 1) / LEVELS_PER_STAGE;

    wire found;
    wire [K*KEY_BITS-1:0] keys;
    caloedge_nearest #(
        .NODES(NODES), .DIMENSIONS(DIMENSIONS), .BITS(BITS), .REACH(REACH), .K(K), .LEVELS_PER_STAGE(LEVELS_PER_STAGE)
    ) nearest (
        .clk(clk),
        .rst(rst),
        .in_valid(in_valid),
        .in_event(in_event),
        .in_query(in_query),
        .in_index(in_index),
        .out_valid(found),
        .out_keys(keys)
    );

    // Features, as late as the first node is found that may want them. Each bank holds an event.
    reg [SEARCH-1:0] late_valid;
    wire [SEARCH:0] unused_late_valid = {late_valid, feature_valid};
    reg [PAR*ROW_BITS-1:0] late [0:SEARCH-1];
    integer i;
    always @(posedge clk) begin
        late[0] <= feature_data;
        for (i = 1; i < SEARCH; i = i + 1) late[i] <= late[i-1];
    end
    wire write = late_valid[SEARCH-1];
    wire [PAR*ROW_BITS-1:0] written = late[SEARCH-1];
    reg [BEAT_BITS-1:0] write_beat;
    reg write_bank;
    reg [BEAT_BITS-1:0] read_beat; // how many nodes of the event have been found
    reg read_bank;
    always @(posedge clk)
        if (rst) begin
            late_valid <= {SEARCH{1'b0}};
            write_beat <= {BEAT_BITS{1'b0}};
            write_bank <= 1'b0;
            read_beat <= {BEAT_BITS{1'b0}};
            read_bank <= 1'b0;
        end else begin
            late_valid <= unused_late_valid[SEARCH-1:0];
            if (write) begin
                write_beat <= write_beat == LAST[BEAT_BITS-1:0] ? {BEAT_BITS{1'b0}} : write_beat + 1'b1;
                write_bank <= write_bank ^ (write_beat == LAST[BEAT_BITS-1:0]);
            end
            if (found) begin
                read_beat <= read_beat == LAST[BEAT_BITS-1:0] ? {BEAT_BITS{1'b0}} : read_beat + 1'b1;
                read_bank <= read_bank ^ (read_beat == LAST[BEAT_BITS-1:0]);
            end
        end

    wire [K*PAR*ROW_BITS-1:0] rows; // of each key, from each of the small memories
    genvar m;
    genvar p;
    genvar f;
    generate
        for (p = 0; p < PAR; p = p + 1) begin : bank_of_place
            reg [ROW_BITS-1:0] memory [0:(4 << (BEAT_BITS - 1))-1];
            always @(posedge clk)
                if (write) memory[{write_bank, write_beat}] <= written[p*ROW_BITS +: ROW_BITS];
            for (m = 0; m < K; m = m + 1) begin : reading
                wire [BEAT_BITS-1:0] beat;
                if (BEATS > 1) begin : several
                    assign beat = keys[m*KEY_BITS+PLACE_BITS +: BEAT_BITS];
                end else begin : only
                    assign beat = 1'b0;
                end
                assign rows[(m*PAR+p)*ROW_BITS +: ROW_BITS] = memory[{read_bank, beat}];
            end
        end
    endgenerate

    // Weights and features, products, messages.
    wire [K*MESSAGES-1:0] messages;
    generate
        for (m = 0; m < K; m = m + 1) begin : neighbour
            wire [DISTANCE_BITS-1:0] distance = keys[m*KEY_BITS+INDEX_BITS +: DISTANCE_BITS];
            reg [WEIGHT_BITS-1:0] weight;
            reg [ROW_BITS-1:0] row;
            wire signed [WEIGHT_BITS:0] factor = {1'b0, weight};
            always @(posedge clk) weight <= TABLE[distance*WEIGHT_BITS +: WEIGHT_BITS];
            if (PAR > 1) begin : several
                wire [PLACE_BITS-1:0] from = keys[m*KEY_BITS +: PLACE_BITS];
                wire [PAR*ROW_BITS-1:0] read = rows[m*PAR*ROW_BITS +: PAR*ROW_BITS];
                always @(posedge clk) row <= read[from*ROW_BITS +: ROW_BITS];
            end else begin : only
                always @(posedge clk) row <= rows[m*ROW_BITS +: ROW_BITS];
            end
            for (f = 0; f < FEATURES; f = f + 1) begin : feature
                wire signed [FEATURE_BITS-1:0] value = row[f*FEATURE_BITS +: FEATURE_BITS];
                wire signed [PRODUCT_BITS:0] product = value * factor;
                reg [PRODUCT_BITS-1:0] weighted;
                wire unused_sign = product[PRODUCT_BITS];
                wire [MESSAGE_BITS-1:0] rounded;
                reg [MESSAGE_BITS-1:0] message;
                caloedge_requantise #(
                    .IN_WIDTH(PRODUCT_BITS), .SHIFT(MESSAGE_SHIFT), .ROUNDING(2), .OUT_WIDTH(MESSAGE_BITS),
                    .LOW(-MESSAGE_HIGH - 64'sd1), .HIGH(MESSAGE_HIGH)
                ) round (
                    .in_data(weighted),
                    .out_data(rounded)
                );
                always @(posedge clk) begin
                    weighted <= product[PRODUCT_BITS-1:0];
                    message <= rounded;
                end
                assign messages[m*MESSAGES+f*MESSAGE_BITS +: MESSAGE_BITS] = message;
            end
        end
    endgenerate

    // Sums and largest: of up to four messages, then of all.
    wire [GROUPS*FEATURES*SUM_BITS-1:0] sums;
    wire [GROUPS*MESSAGES-1:0] tops;
    wire [MESSAGES-1:0] top_next;
    reg [MESSAGES-1:0] top;
    assign out_max = top;
    caloedge_max #(.COUNT(GROUPS), .CHANNELS(FEATURES), .BITS(MESSAGE_BITS), .SIGNED(1)) of_all (
        .in_data(tops),
        .out_data(top_next)
    );
    always @(posedge clk) top <= top_next;
    generate
        for (m = 0; m < GROUPS; m = m + 1) begin : group
            localparam COUNT = K - 4 * m < 4 ? K - 4 * m : 4;
            wire [COUNT*MESSAGES-1:0] here = messages[4*m*MESSAGES +: COUNT*MESSAGES];
            wire [MESSAGES-1:0] largest_next;
            reg [MESSAGES-1:0] largest;
            caloedge_max #(.COUNT(COUNT), .CHANNELS(FEATURES), .BITS(MESSAGE_BITS), .SIGNED(1)) of_four (
                .in_data(here),
                .out_data(largest_next)
            );
            always @(posedge clk) largest <= largest_next;
            assign tops[m*MESSAGES +: MESSAGES] = largest;
            for (f = 0; f < FEATURES; f = f + 1) begin : feature
                reg [SUM_BITS-1:0] sum_next;
                reg [SUM_BITS-1:0] sum;
                integer t;
                always @* begin
                    sum_next = {SUM_BITS{1'b0}};
                    for (t = 0; t < COUNT; t = t + 1)
                        sum_next = sum_next + {{(SUM_BITS-MESSAGE_BITS+1){here[t*MESSAGES+(f+1)*MESSAGE_BITS-1]}},
                            here[t*MESSAGES+f*MESSAGE_BITS +: MESSAGE_BITS-1]};
                end
                always @(posedge clk) sum <= sum_next;
                assign sums[(m*FEATURES+f)*SUM_BITS +: SUM_BITS] = sum;
            end
        end

        for (f = 0; f < FEATURES; f = f + 1) begin : mean
            reg [SUM_BITS-1:0] sum;
            integer t;
            always @* begin
                sum = {SUM_BITS{1'b0}};
                for (t = 0; t < GROUPS; t = t + 1) sum = sum + sums[(t*FEATURES+f)*SUM_BITS +: SUM_BITS];
            end
            wire [MEAN_BITS-1:0] rounded;
            reg [MEAN_BITS-1:0] result;
            caloedge_requantise #(
                .IN_WIDTH(SUM_BITS), .SHIFT(MEAN_SHIFT), .ROUNDING(2), .OUT_WIDTH(MEAN_BITS),
                .LOW(-MEAN_HIGH - 64'sd1), .HIGH(MEAN_HIGH)
            ) round (
                .in_data(sum),
                .out_data(rounded)
            );
            always @(posedge clk) result <= rounded;
            assign out_mean[f*MEAN_BITS +: MEAN_BITS] = result;
        end
    endgenerate

    reg [4:0] under_way;
    assign out_valid = under_way[4];
    always @(posedge clk)
        if (rst) under_way <= 5'b00000;
        else under_way <= {under_way[3:0], found};
endmodule
