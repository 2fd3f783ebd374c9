// Makes of a group of windows what a network sees that looks at one window at a time and knows of the others: cells in
// units of the centre, a map of its neighbours in the group, and its scale. Each window is turned and mirrored so that
// its central cells lie in one of the eight ways that a square has: the network need not know the other seven.
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
// In: one group per beat, KEEP entries {valid, row, column, window}, entry 0 lowest, as they come from caloedge_top_k with
// the windows of caloedge_extract. Out: one beat {last, row, column, turn, exponent, sum9, features} for each valid
// entry, entry 0 first, then one beat with last = 1 and zeros everywhere else.
//
// turn is {swap, flip_columns, flip_rows}, from the nine central cells:
//   step_row    = sum of their last row - sum of their first row
//   step_column = sum of their last column - sum of their first column
//   flip_rows = step_row < 0, flip_columns = step_column < 0, swap = |step_column| > |step_row|
// To turn a square is to reverse the order of its rows if flip_rows, then that of its columns if flip_columns, then to
// make rows of its columns if swap. row and column stay those of the event.
//
// exponent (4 bits) is floor(log2(centre)), 0 for a centre of 0; sum9 (BITS + 4 bits) is the sum of the nine central
// cells. The features, the first lowest, are
//   KERNEL * KERNEL cells of the turned window: floor(code * 2 ** (FEATURE_BITS - 1 - HEADROOM - exponent)), at most
//     2 ** FEATURE_BITS - 1
//   24 positions of the turned 5 by 5 around the centre, row by row without the centre itself: the feature of their
//     distance if another valid entry of the group lies there, else 0
//   8 exponents 4 to 11: 2 ** (FEATURE_BITS - HEADROOM) at the exponent clipped to that range, else 0
//
// in_ready depends on registers only. Registers: group; window, sums and distances; steps and neighbours; flips and
// exponent; swap and coarse shift; output.
// Latency 6 cycles from a group to the edge at which its first beat can leave; throughput 1 beat per cycle and 1 cycle
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
    input  wire                                                                                 clk,
    input  wire                                                                                 rst,
    input  wire                                                                                 in_valid,
    output wire                                                                                 in_ready,
    input  wire [KEEP*(1+$clog2(ROWS)+$clog2(COLUMNS)+KERNEL*KERNEL*BITS)-1:0]                  in_data,
    output reg                                                                                  out_valid,
    input  wire                                                                                 out_ready,
    output reg  [1+$clog2(ROWS)+$clog2(COLUMNS)+3+4+BITS+4+(KERNEL*KERNEL+32)*FEATURE_BITS-1:0] out_data
);
    localparam ROW_BITS = $clog2(ROWS);
    localparam COLUMN_BITS = $clog2(COLUMNS);
    localparam KEY_BITS = ROW_BITS + COLUMN_BITS;
    localparam CELLS = KERNEL * KERNEL;
    localparam WINDOW_BITS = CELLS * BITS;
    localparam ENTRY_BITS = 1 + KEY_BITS + WINDOW_BITS;
    localparam CENTRE = KERNEL / 2 * KERNEL + KERNEL / 2;
    localparam FEATURES = CELLS + 32;
    localparam SUM_BITS = BITS + 2; // of three cells
    localparam OUT_BITS = 1 + KEY_BITS + 3 + 4 + BITS + 4 + FEATURES * FEATURE_BITS;
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

    // The sums of the rows and columns of the entry's central cells.
    wire [3*SUM_BITS-1:0] row_sums;
    wire [2*SUM_BITS-1:0] column_sums; // of the first and the last
    genvar r;
    generate
        for (r = 0; r < 3; r = r + 1) begin : central_row
            localparam FIRST = (CENTRE + (r - 1) * KERNEL - 1) * BITS;
            assign row_sums[r*SUM_BITS +: SUM_BITS] = {2'b00, entry[FIRST +: BITS]} + {2'b00, entry[FIRST+BITS +: BITS]}
                + {2'b00, entry[FIRST+2*BITS +: BITS]};
        end
        for (r = 0; r < 2; r = r + 1) begin : central_column
            localparam UPPER = (CENTRE - KERNEL + 2 * r - 1) * BITS;
            localparam DOWN = KERNEL * BITS;
            assign column_sums[r*SUM_BITS +: SUM_BITS] = {2'b00, entry[UPPER +: BITS]} + {2'b00, entry[UPPER+DOWN +: BITS]}
                + {2'b00, entry[UPPER+2*DOWN +: BITS]};
        end
    endgenerate

    // What travels along: is there a beat, and is it the last of its group?
    reg first_valid;
    reg second_valid;
    reg third_valid;
    reg fourth_valid;
    reg first_last;
    reg second_last;
    reg third_last;
    reg fourth_last;
    always @(posedge clk)
        if (rst) begin
            first_valid <= 1'b0;
            second_valid <= 1'b0;
            third_valid <= 1'b0;
            fourth_valid <= 1'b0;
            out_valid <= 1'b0;
        end else if (advance) begin
            first_valid <= busy && (ends || valids[0]);
            second_valid <= first_valid;
            third_valid <= second_valid;
            fourth_valid <= third_valid;
            out_valid <= fourth_valid;
        end

    reg [KEY_BITS-1:0] first_key;
    reg [3*SUM_BITS-1:0] first_row_sums;
    reg [2*SUM_BITS-1:0] first_column_sums;
    reg [WINDOW_BITS-1:0] first_window;
    reg [KEEP*5-1:0] first_row_distance;
    reg [KEEP*5-1:0] first_column_distance;
    always @(posedge clk)
        if (advance) begin
            first_last <= ends;
            first_key <= entry[WINDOW_BITS +: KEY_BITS];
            first_row_sums <= row_sums;
            first_column_sums <= column_sums;
            first_window <= entry[WINDOW_BITS-1:0];
            first_row_distance <= row_distance;
            first_column_distance <= column_distance;
        end

    // Second registers: the steps, in two's complement, the neighbours found (without the centre), the sum.
    reg [KEY_BITS-1:0] second_key;
    reg [BITS+3:0] second_sum;
    reg [SUM_BITS:0] step_row;
    reg [SUM_BITS:0] step_column;
    reg [WINDOW_BITS-1:0] second_window;
    reg [23:0] second_found;
    wire [23:0] found;
    always @(posedge clk)
        if (advance) begin
            second_last <= first_last;
            second_key <= first_key;
            second_sum <= {2'b00, first_row_sums[0 +: SUM_BITS]} + {2'b00, first_row_sums[SUM_BITS +: SUM_BITS]}
                + {2'b00, first_row_sums[2*SUM_BITS +: SUM_BITS]};
            step_row <= {1'b0, first_row_sums[2*SUM_BITS +: SUM_BITS]} - {1'b0, first_row_sums[0 +: SUM_BITS]};
            step_column <= {1'b0, first_column_sums[SUM_BITS +: SUM_BITS]} - {1'b0, first_column_sums[0 +: SUM_BITS]};
            second_window <= first_window;
            second_found <= found;
        end

    // Third registers: rows and columns reversed, and meanwhile which of the steps is the larger one; the scale.
    wire flip_rows = step_row[SUM_BITS];
    wire flip_columns = step_column[SUM_BITS];
    wire [SUM_BITS-1:0] row_size = (step_row[SUM_BITS-1:0] ^ {SUM_BITS{flip_rows}}) + {{(SUM_BITS-1){1'b0}}, flip_rows};
    wire [SUM_BITS-1:0] column_size = (step_column[SUM_BITS-1:0] ^ {SUM_BITS{flip_columns}})
        + {{(SUM_BITS-1){1'b0}}, flip_columns};
    wire [BITS-1:0] centre = second_window[CENTRE*BITS +: BITS];
    reg [3:0] exponent;
    integer i;
    always @* begin
        exponent = 4'd0;
        for (i = 1; i < BITS; i = i + 1)
            if (centre[i]) exponent = i[3:0];
    end
    reg [KEY_BITS-1:0] third_key;
    reg [2:0] third_turn;
    reg [3:0] third_exponent;
    reg [BITS+3:0] third_sum;
    reg [WINDOW_BITS-1:0] third_window;
    reg [23:0] third_found;
    wire [WINDOW_BITS-1:0] flipped_window;
    wire [23:0] flipped_found;
    always @(posedge clk)
        if (advance) begin
            third_last <= second_last;
            third_key <= second_key;
            third_turn <= {column_size > row_size, flip_columns, flip_rows};
            third_exponent <= exponent;
            third_sum <= second_sum;
            third_window <= flipped_window;
            third_found <= flipped_found;
        end

    // Fourth registers: rows made of columns, the cells shifted by the upper bits of the exponent.
    wire swap = third_turn[2];
    reg [KEY_BITS-1:0] fourth_key;
    reg [2:0] fourth_turn;
    reg [3:0] fourth_exponent;
    reg [BITS+3:0] fourth_sum;
    reg [23:0] fourth_found;
    wire [23:0] turned_found;
    always @(posedge clk)
        if (advance) begin
            fourth_last <= third_last;
            fourth_key <= third_key;
            fourth_turn <= third_turn;
            fourth_exponent <= third_exponent;
            fourth_sum <= third_sum;
            fourth_found <= turned_found;
        end

    wire [FEATURES*FEATURE_BITS-1:0] features;
    genvar w;
    generate
        for (w = 0; w < CELLS; w = w + 1) begin : cell_feature
            localparam ROW = w / KERNEL;
            localparam COLUMN = w % KERNEL;
            localparam MIRROR_ROW = KERNEL - 1 - ROW;
            localparam MIRROR_COLUMN = KERNEL - 1 - COLUMN;
            wire [BITS-1:0] row_there = second_window[(MIRROR_ROW*KERNEL+COLUMN)*BITS +: BITS];
            wire [BITS-1:0] column_there = second_window[(ROW*KERNEL+MIRROR_COLUMN)*BITS +: BITS];
            wire [BITS-1:0] both_there = second_window[(MIRROR_ROW*KERNEL+MIRROR_COLUMN)*BITS +: BITS];
            assign flipped_window[w*BITS +: BITS] = flip_columns ? (flip_rows ? both_there : column_there)
                : (flip_rows ? row_there : second_window[w*BITS +: BITS]);

            wire [BITS-1:0] turned = swap ? third_window[(COLUMN*KERNEL+ROW)*BITS +: BITS] : third_window[w*BITS +: BITS];
            wire [SCALED_BITS-1:0] scaled = {4'b0000, turned, {POINT{1'b0}}};
            wire [SCALED_BITS-1:0] shifted = scaled >> {third_exponent[3:2], 2'b00};
            reg [COARSE_BITS-1:0] coarse;
            reg above; // it is too large whatever the fine shift
            wire [COARSE_BITS-1:0] shifted_on = coarse >> fourth_exponent[1:0];
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
                localparam ROW = w / 5;
                localparam COLUMN = w % 5;
                localparam HERE = w < 12 ? w : w - 1;
                localparam MIRROR_ROW = (4 - ROW) * 5 + COLUMN;
                localparam MIRROR_COLUMN = ROW * 5 + 4 - COLUMN;
                localparam MIRROR = COLUMN * 5 + ROW; // in the diagonal
                localparam ROW_THERE = MIRROR_ROW < 12 ? MIRROR_ROW : MIRROR_ROW - 1;
                localparam COLUMN_THERE = MIRROR_COLUMN < 12 ? MIRROR_COLUMN : MIRROR_COLUMN - 1;
                localparam BOTH_THERE = 23 - HERE;
                localparam SWAP_THERE = MIRROR < 12 ? MIRROR : MIRROR - 1;
                reg found_here;
                integer n;
                always @* begin
                    found_here = 1'b0;
                    for (n = 0; n < KEEP; n = n + 1)
                        if (first_row_distance[n*5+ROW] && first_column_distance[n*5+COLUMN]) found_here = 1'b1;
                end
                assign found[HERE] = found_here;
                assign flipped_found[HERE] = flip_columns
                    ? (flip_rows ? second_found[BOTH_THERE] : second_found[COLUMN_THERE])
                    : (flip_rows ? second_found[ROW_THERE] : second_found[HERE]);
                assign turned_found[HERE] = swap ? third_found[SWAP_THERE] : third_found[HERE];

                localparam SQUARE = (ROW - 2) * (ROW - 2) + (COLUMN - 2) * (COLUMN - 2);
                localparam [31:0] WEIGHT = SQUARE == 1 ? W1 : SQUARE == 2 ? W2 : SQUARE == 4 ? W4 : SQUARE == 5 ? W5 : W8;
                assign features[(CELLS+HERE)*FEATURE_BITS +: FEATURE_BITS]
                    = fourth_found[HERE] ? WEIGHT[FEATURE_BITS-1:0] : {FEATURE_BITS{1'b0}};
            end
        end

        for (w = 0; w < 8; w = w + 1) begin : scale
            localparam [31:0] EXPONENT = w + 4;
            wire here = fourth_exponent == EXPONENT[3:0] || (w == 0 && fourth_exponent < EXPONENT[3:0])
                || (w == 7 && fourth_exponent > EXPONENT[3:0]);
            assign features[(CELLS+24+w)*FEATURE_BITS +: FEATURE_BITS] = here ? ONE[FEATURE_BITS-1:0] : {FEATURE_BITS{1'b0}};
        end
    endgenerate

    always @(posedge clk)
        if (advance) begin
            if (fourth_last) out_data <= {1'b1, {(OUT_BITS-1){1'b0}}};
            else out_data <= {1'b0, fourth_key, fourth_turn, fourth_exponent, fourth_sum, features};
        end
endmodule
