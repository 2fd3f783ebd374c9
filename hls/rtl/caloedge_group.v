// Turns a group of windows into what a network sees that looks at one window at a time and knows of the others: cells in
// units of the centre, a map of its neighbours in the group, and its scale.
//
//   KEEP           entries of a group, at least 1
//   ROWS, COLUMNS  cells of the event
//   KERNEL         rows and columns of a window, odd, at least 3
//   BITS           bits of a cell's code, unsigned, 2 to 16
//   FEATURE_BITS   bits of a feature, unsigned, at least 3, at most 31
//   HEADROOM       the leading bit of the centre comes so many bits below the highest of a feature; 1 to FEATURE_BITS - 2,
//                  less than BITS
//   W1 to W8       features of a neighbour whose squared distance is 1, 2, 4, 5 or 8 cells
//
// In: one group per beat, KEEP entries {valid, row, column, window}, entry 0 lowest, as they come from caloedge_top with
// the windows of caloedge_extract. Out: one beat {last, row, column, exponent, sum9, features} for each valid entry,
// entry 0 first, then one beat with last = 1 and zeros everywhere else.
//
// exponent (4 bits) is floor(log2(centre)), 0 for a centre of 0; sum9 (BITS + 4 bits) is the sum of the nine central
// cells. The features, the first lowest, are
//   KERNEL * KERNEL cells of the window: floor(code * 2 ** (FEATURE_BITS - 1 - HEADROOM - exponent)), at most
//     2 ** FEATURE_BITS - 1
//   24 positions of the 5 by 5 around the centre, row by row without the centre itself: the feature of their distance
//     if another valid entry of the group lies there, else 0
//   8 exponents 4 to 11: 2 ** (FEATURE_BITS - HEADROOM) at the exponent clipped to that range, else 0
//
// in_ready depends on registers only. Registers: group; window, exponent and distances; coarse shift; output.
// Latency 4 cycles from a group to the edge at which its first beat can leave; throughput 1 beat per cycle and 1 cycle
// more per group (also 1 for each missing entry in front of a valid one).
module caloedge_group #(
    parameter KEEP = 4,
    parameter ROWS = 51,
    parameter COLUMNS = 51,
    parameter KERNEL = 7,
    parameter BITS = 12,
    parameter FEATURE_BITS = 12,
    parameter HEADROOM = 4,
    parameter W1 = 171,
    parameter W2 = 135,
    parameter W4 = 85,
    parameter W5 = 65,
    parameter W8 = 15
) (
    input  wire                                                                                        clk,
    input  wire                                                                                        rst,
    input  wire                                                                                        in_valid,
    output wire                                                                                        in_ready,
    input  wire [KEEP*(1+$clog2(ROWS)+$clog2(COLUMNS)+KERNEL*KERNEL*BITS)-1:0]                          in_data,
    output reg                                                                                         out_valid,
    input  wire                                                                                        out_ready,
    output reg  [1+$clog2(ROWS)+$clog2(COLUMNS)+4+BITS+4+(KERNEL*KERNEL+32)*FEATURE_BITS-1:0]           out_data
);
    localparam ROW_BITS = $clog2(ROWS);
    localparam COLUMN_BITS = $clog2(COLUMNS);
    localparam KEY_BITS = ROW_BITS + COLUMN_BITS;
    localparam CELLS = KERNEL * KERNEL;
    localparam WINDOW_BITS = CELLS * BITS;
    localparam ENTRY_BITS = 1 + KEY_BITS + WINDOW_BITS;
    localparam CENTRE = KERNEL / 2 * KERNEL + KERNEL / 2;
    localparam FEATURES = CELLS + 32;
    localparam OUT_BITS = 1 + KEY_BITS + 4 + BITS + 4 + FEATURES * FEATURE_BITS;
    // A cell after the coarse shift, by a multiple of 4: the fine one drops up to 3 bits more.
    localparam COARSE_BITS = FEATURE_BITS + 3;
    localparam POINT = FEATURE_BITS - 1 - HEADROOM; // where the leading bit of the centre comes
    localparam SCALED_BITS = 4 + BITS + POINT;
    localparam [31:0] ONE = 2 << POINT;

    wire advance = !out_valid || out_ready;

    // The group: its entries, the next one lowest, and all its positions, for the distances.
    reg busy;
    reg [KEEP*ENTRY_BITS-1:0] entries;
    wire [(KEEP+1)*ENTRY_BITS-1:0] unused_entries = {{ENTRY_BITS{1'b0}}, entries};
    wire [ENTRY_BITS-2:0] entry = entries[ENTRY_BITS-2:0];
    wire [KEEP-1:0] valids;
    wire ends = valids == {KEEP{1'b0}};
    assign in_ready = !busy;

    always @(posedge clk)
        if (rst) busy <= 1'b0;
        else if (!busy) busy <= in_valid;
        else if (advance) busy <= !ends;
    always @(posedge clk)
        if (!busy) entries <= in_data;
        else if (advance) entries <= unused_entries[(KEEP+1)*ENTRY_BITS-1:ENTRY_BITS];

    // Which rows and columns lie how far from the entry's, from -2 to 2, in two's complement with one bit more.
    // Of an entry that is missing no row is near.
    wire [KEEP*5-1:0] row_distance;
    wire [KEEP*5-1:0] column_distance;
    genvar k;
    genvar d;
    generate
        for (k = 0; k < KEEP; k = k + 1) begin : other
            reg [KEY_BITS:0] position;
            wire [ROW_BITS:0] row_difference = {1'b0, position[KEY_BITS-1:COLUMN_BITS]}
                - {1'b0, entry[WINDOW_BITS+COLUMN_BITS +: ROW_BITS]};
            wire [COLUMN_BITS:0] column_difference = {1'b0, position[COLUMN_BITS-1:0]}
                - {1'b0, entry[WINDOW_BITS +: COLUMN_BITS]};
            assign valids[k] = entries[k*ENTRY_BITS+ENTRY_BITS-1];
            always @(posedge clk)
                if (!busy) position <= in_data[k*ENTRY_BITS+WINDOW_BITS +: KEY_BITS+1];
            for (d = 0; d < 5; d = d + 1) begin : distance
                localparam [31:0] CELLS_AWAY = d - 2;
                assign row_distance[k*5+d] = position[KEY_BITS] && row_difference == CELLS_AWAY[ROW_BITS:0];
                assign column_distance[k*5+d] = column_difference == CELLS_AWAY[COLUMN_BITS:0];
            end
        end
    endgenerate

    // The scale of the entry and the three rows of its central cells.
    wire [BITS-1:0] centre = entry[CENTRE*BITS +: BITS];
    reg [3:0] exponent;
    wire [3*(BITS+2)-1:0] row_sums;
    integer i;
    always @* begin
        exponent = 4'd0;
        for (i = 1; i < BITS; i = i + 1)
            if (centre[i]) exponent = i[3:0];
    end
    genvar r;
    generate
        for (r = 0; r < 3; r = r + 1) begin : central_row
            localparam FIRST = (CENTRE + (r - 1) * KERNEL - 1) * BITS;
            assign row_sums[r*(BITS+2) +: BITS+2] = {2'b00, entry[FIRST +: BITS]} + {2'b00, entry[FIRST+BITS +: BITS]}
                + {2'b00, entry[FIRST+2*BITS +: BITS]};
        end
    endgenerate

    // What travels along: is there a beat, and is it the last of its group?
    reg first_valid;
    reg second_valid;
    reg first_last;
    reg second_last;
    always @(posedge clk)
        if (rst) begin
            first_valid <= 1'b0;
            second_valid <= 1'b0;
            out_valid <= 1'b0;
        end else if (advance) begin
            first_valid <= busy && (ends || valids[0]);
            second_valid <= first_valid;
            out_valid <= second_valid;
        end

    reg [KEY_BITS-1:0] first_key;
    reg [3:0] first_exponent;
    reg [3*(BITS+2)-1:0] first_sums;
    reg [WINDOW_BITS-1:0] first_window;
    reg [KEEP*5-1:0] first_row_distance;
    reg [KEEP*5-1:0] first_column_distance;
    always @(posedge clk)
        if (advance) begin
            first_last <= ends;
            first_key <= entry[WINDOW_BITS +: KEY_BITS];
            first_exponent <= exponent;
            first_sums <= row_sums;
            first_window <= entry[WINDOW_BITS-1:0];
            first_row_distance <= row_distance;
            first_column_distance <= column_distance;
        end

    // Second registers: the cells shifted by the upper bits of the exponent, the neighbours found, the sum.
    reg [KEY_BITS-1:0] second_key;
    reg [3:0] second_exponent;
    reg [BITS+3:0] second_sum;
    always @(posedge clk)
        if (advance) begin
            second_last <= first_last;
            second_key <= first_key;
            second_exponent <= first_exponent;
            second_sum <= {2'b00, first_sums[BITS+1:0]} + {2'b00, first_sums[BITS+2 +: BITS+2]}
                + {2'b00, first_sums[2*(BITS+2) +: BITS+2]};
        end

    wire [FEATURES*FEATURE_BITS-1:0] features;
    genvar w;
    generate
        for (w = 0; w < CELLS; w = w + 1) begin : cell_feature
            wire [SCALED_BITS-1:0] scaled = {4'b0000, first_window[w*BITS +: BITS], {POINT{1'b0}}};
            wire [SCALED_BITS-1:0] shifted = scaled >> {first_exponent[3:2], 2'b00};
            reg [COARSE_BITS-1:0] coarse;
            reg above; // it is too large whatever the fine shift
            wire [COARSE_BITS-1:0] shifted_on = coarse >> second_exponent[1:0];
            wire saturates = above || (|shifted_on[COARSE_BITS-1:FEATURE_BITS]);
            assign features[w*FEATURE_BITS +: FEATURE_BITS] = {FEATURE_BITS{saturates}} | shifted_on[FEATURE_BITS-1:0];
            always @(posedge clk)
                if (advance) begin
                    coarse <= shifted[COARSE_BITS-1:0];
                    above <= |shifted[SCALED_BITS-1:COARSE_BITS];
                end
        end

        for (w = 0; w < 25; w = w + 1) begin : neighbour
            if (w != 12) begin : not_itself
                localparam SQUARE = (w / 5 - 2) * (w / 5 - 2) + (w % 5 - 2) * (w % 5 - 2);
                localparam [31:0] WEIGHT = SQUARE == 1 ? W1 : SQUARE == 2 ? W2 : SQUARE == 4 ? W4 : SQUARE == 5 ? W5 : W8;
                reg found_next;
                reg found;
                integer n;
                always @* begin
                    found_next = 1'b0;
                    for (n = 0; n < KEEP; n = n + 1)
                        if (first_row_distance[n*5+w/5] && first_column_distance[n*5+w%5]) found_next = 1'b1;
                end
                always @(posedge clk)
                    if (advance) found <= found_next;
                assign features[(CELLS+(w<12 ? w : w-1))*FEATURE_BITS +: FEATURE_BITS]
                    = found ? WEIGHT[FEATURE_BITS-1:0] : {FEATURE_BITS{1'b0}};
            end
        end

        for (w = 0; w < 8; w = w + 1) begin : scale
            localparam [31:0] EXPONENT = w + 4;
            wire here = second_exponent == EXPONENT[3:0] || (w == 0 && second_exponent < EXPONENT[3:0])
                || (w == 7 && second_exponent > EXPONENT[3:0]);
            assign features[(CELLS+24+w)*FEATURE_BITS +: FEATURE_BITS] = here ? ONE[FEATURE_BITS-1:0] : {FEATURE_BITS{1'b0}};
        end
    endgenerate

    always @(posedge clk)
        if (advance) begin
            if (second_last) out_data <= {1'b1, {(OUT_BITS-1){1'b0}}};
            else out_data <= {1'b0, second_key, second_exponent, second_sum, features};
        end
endmodule
