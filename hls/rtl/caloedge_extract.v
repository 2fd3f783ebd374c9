// Cuts a window around every cell of an event that is above threshold: what a network sees that looks at one candidate
// at a time.
//
//   ROWS, COLUMNS  cells of the event, at least KERNEL each
//   KERNEL         rows and columns of the window, odd, at least 3
//   BITS           bits of a cell's code, unsigned
//   THRESHOLD      cells with a larger code get a window, a 64-bit literal
//
// In: one row per beat, the cell of column y is word y; ROWS beats per event, events back to back. Out: one beat
// {last, row, column, window} per cell above threshold whose window lies inside the event, in row-major order; row and
// column are the cell's, with $clog2(ROWS) and $clog2(COLUMNS) bits; word r * KERNEL + c of the window is cell
// (row - KERNEL / 2 + r, column - KERNEL / 2 + c). Behind the windows of an event comes one beat with last = 1 and zeros
// everywhere else.
//
// in_ready and out_valid depend on registers only. Registers: rows, columns to choose from, window, results (a FIFO).
// Latency 4 cycles from the beat that completes a window to the edge at which it can leave; throughput 1 beat per cycle
// at both ends: a row takes max(1, its windows) cycles, the last one a cycle more when it has windows.
module caloedge_extract #(
    parameter ROWS = 51,
    parameter COLUMNS = 51,
    parameter KERNEL = 7,
    parameter BITS = 12,
    parameter signed [63:0] THRESHOLD = 64'sd16
) (
    input  wire                                                    clk,
    input  wire                                                    rst,
    input  wire                                                    in_valid,
    output wire                                                    in_ready,
    input  wire [COLUMNS*BITS-1:0]                                 in_data,
    output wire                                                    out_valid,
    input  wire                                                    out_ready,
    output wire [$clog2(ROWS)+$clog2(COLUMNS)+KERNEL*KERNEL*BITS:0] out_data
);
    localparam ROW_BITS = $clog2(ROWS);
    localparam COLUMN_BITS = $clog2(COLUMNS);
    localparam LINE = COLUMNS * BITS;
    localparam HALF = KERNEL / 2;
    localparam POSITIONS = COLUMNS - KERNEL + 1; // columns that a window may start at
    // A window is chosen in two steps: one of GROUPS stretches of columns, then one of the 8 windows in it.
    localparam GROUPS = (POSITIONS + 7) / 8;
    localparam PLACE_BITS = POSITIONS > 8 ? $clog2(POSITIONS) : 4;
    localparam STRETCH = KERNEL + 7;
    localparam PADDED = GROUPS * 8 + KERNEL - 1;
    localparam RESULT_BITS = 1 + ROW_BITS + COLUMN_BITS + KERNEL * KERNEL * BITS;
    localparam [31:0] LAST_ROW = ROWS - 1;
    localparam [31:0] FIRST_COMPLETE = KERNEL - 1;
    localparam [31:0] TO_CENTRE = HALF;

    wire take = in_valid && in_ready;
    integer i;

    // The cells above threshold that a window can be around, in the new row and in the HALF rows before it.
    wire [POSITIONS-1:0] hot_new;
    reg [HALF*POSITIONS-1:0] hot;
    wire [(HALF+1)*POSITIONS-1:0] hot_rows = {hot_new, hot};
    genvar p;
    generate
        for (p = 0; p < POSITIONS; p = p + 1) begin : position
            wire signed [63:0] code = {{(64-BITS){1'b0}}, in_data[(p+HALF)*BITS +: BITS]};
            assign hot_new[p] = code > THRESHOLD;
        end
    endgenerate
    always @(posedge clk)
        if (take) hot <= hot_rows[(HALF+1)*POSITIONS-1:POSITIONS];

    // The row that comes next, counted within its event.
    reg [ROW_BITS-1:0] bottom;
    wire complete = bottom >= FIRST_COMPLETE[ROW_BITS-1:0];
    wire ends = bottom == LAST_ROW[ROW_BITS-1:0];
    always @(posedge clk)
        if (rst) bottom <= {ROW_BITS{1'b0}};
        else if (take) bottom <= ends ? {ROW_BITS{1'b0}} : bottom + 1'b1;

    // The window that goes next, and those of its row behind it. Rows of the event before are gone when the first row
    // of windows is complete.
    reg present;
    reg more;
    reg ending; // the beat with last goes when no window is present
    reg [POSITIONS-1:0] waiting;
    reg [PLACE_BITS-1:0] place;
    reg [PLACE_BITS-1:0] place_next;
    wire room;
    wire admit = (present || ending) && room;
    wire [POSITIONS-1:0] source = take ? hot_rows[POSITIONS-1:0] & {POSITIONS{complete}} : waiting;
    wire [POSITIONS-1:0] lowest = source & (~source + 1'b1);
    wire [POSITIONS-1:0] others = source & ~lowest;
    assign in_ready = !(present || ending) || (room && !(present && (more || ending)));

    always @* begin
        place_next = {PLACE_BITS{1'b0}};
        for (i = 0; i < POSITIONS; i = i + 1)
            if (lowest[i]) place_next = place_next | i[PLACE_BITS-1:0];
    end

    always @(posedge clk)
        if (rst) begin
            present <= 1'b0;
            ending <= 1'b0;
        end else begin
            if (take || (admit && present)) present <= |source;
            if (take) ending <= ends;
            else if (admit && !present) ending <= 1'b0;
        end
    always @(posedge clk)
        if (take || (admit && present)) begin
            waiting <= others;
            more <= |others;
            place <= place_next;
        end

    // The KERNEL rows of these windows, the top one lowest, with zeros behind their ends.
    reg [KERNEL*LINE-1:0] rows;
    reg [ROW_BITS-1:0] row;
    wire [KERNEL*PADDED*BITS-1:0] padded;
    always @(posedge clk)
        if (take) begin
            rows <= {in_data, rows[KERNEL*LINE-1:LINE]};
            row <= bottom - TO_CENTRE[ROW_BITS-1:0];
        end

    // First step: the stretch; the rows may change from here on.
    reg [KERNEL*STRETCH*BITS-1:0] stretch;
    reg [2:0] fine;
    reg stretch_last;
    reg [ROW_BITS-1:0] stretch_row;
    reg [COLUMN_BITS-1:0] stretch_column;
    wire [COLUMN_BITS+PLACE_BITS-1:0] unused_column = {{COLUMN_BITS{1'b0}}, place};
    genvar r;
    genvar c;
    generate
        for (r = 0; r < KERNEL; r = r + 1) begin : kernel_row
            for (c = 0; c < PADDED; c = c + 1) begin : padded_column
                if (c < COLUMNS) begin : cell_of_event
                    assign padded[(r*PADDED+c)*BITS +: BITS] = rows[r*LINE+c*BITS +: BITS];
                end else begin : behind
                    assign padded[(r*PADDED+c)*BITS +: BITS] = {BITS{1'b0}};
                end
            end

            reg [STRETCH*BITS-1:0] chosen;
            integer g;
            always @* begin
                chosen = padded[r*PADDED*BITS +: STRETCH*BITS];
                for (g = 1; g < GROUPS; g = g + 1)
                    if (place[PLACE_BITS-1:3] == g[PLACE_BITS-4:0]) chosen = padded[(r*PADDED+8*g)*BITS +: STRETCH*BITS];
            end
            always @(posedge clk)
                if (present) stretch[r*STRETCH*BITS +: STRETCH*BITS] <= chosen;
                else stretch[r*STRETCH*BITS +: STRETCH*BITS] <= {STRETCH*BITS{1'b0}};
        end
    endgenerate
    always @(posedge clk) begin
        fine <= place[2:0];
        stretch_last <= !present;
        if (present) begin
            stretch_row <= row;
            stretch_column <= unused_column[COLUMN_BITS-1:0] + TO_CENTRE[COLUMN_BITS-1:0];
        end else begin
            stretch_row <= {ROW_BITS{1'b0}};
            stretch_column <= {COLUMN_BITS{1'b0}};
        end
    end

    // Second step: the window.
    reg [RESULT_BITS-1:0] result;
    reg [KERNEL*KERNEL*BITS-1:0] window;
    integer f;
    integer k;
    always @* begin
        window = {KERNEL*KERNEL*BITS{1'b0}};
        for (k = 0; k < KERNEL; k = k + 1)
            for (f = 0; f < 8; f = f + 1)
                if (fine == f[2:0]) window[k*KERNEL*BITS +: KERNEL*BITS] = stretch[(k*STRETCH+f)*BITS +: KERNEL*BITS];
    end
    always @(posedge clk) result <= {stretch_last, stretch_row, stretch_column, window};

    caloedge_credit #(.LATENCY(2), .WIDTH(RESULT_BITS)) results (
        .clk(clk),
        .rst(rst),
        .in_valid(present || ending),
        .in_ready(room),
        .core_result(result),
        .out_valid(out_valid),
        .out_ready(out_ready),
        .out_data(out_data)
    );
endmodule
