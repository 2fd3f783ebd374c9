// Sliding window over an image that arrives pixel by pixel, with zero padding and strides: what a convolution or a
// pooling layer sees.
//
//   HEIGHT, WIDTH                              pixels of the image
//   KERNEL_H, KERNEL_W                         pixels of the window, at most those of the padded image
//   STRIDE_H, STRIDE_W                         pixels between windows, at least 1
//   PAD_TOP, PAD_LEFT, PAD_BOTTOM, PAD_RIGHT   rows or columns of zeros around the image
//   BITS                                       bits of a pixel, all its channels together
//
// In: one pixel per beat, row by row, HEIGHT * WIDTH beats per event, events back to back. Out: one window per beat in
// row-major order of the floor((HEIGHT + PAD_TOP + PAD_BOTTOM - KERNEL_H) / STRIDE_H) + 1 by
// floor((WIDTH + PAD_LEFT + PAD_RIGHT - KERNEL_W) / STRIDE_W) + 1 positions; the pixel of kernel row r and column c is
// word r * KERNEL_W + c. Pixels that no window uses are read and dropped.
//
// A counter walks over the padded grid, one position per cycle; a padded position takes no input. Everything waits
// while a window is not taken. A window that lies in the padding alone (PAD_TOP >= KERNEL_H, or PAD_TOP = KERNEL_H - 1
// with PAD_LEFT >= KERNEL_W) leaves before the first pixel of its event has come.
// in_ready follows out_ready within the cycle.
// Latency 1 cycle from the pixel that completes a window; throughput 1 grid position per cycle, so
// (HEIGHT + PAD_TOP + PAD_BOTTOM) * (WIDTH + PAD_LEFT + PAD_RIGHT) cycles per event, without a gap between events.
module caloedge_window #(
    parameter HEIGHT = 7,
    parameter WIDTH = 7,
    parameter KERNEL_H = 3,
    parameter KERNEL_W = 3,
    parameter STRIDE_H = 1,
    parameter STRIDE_W = 1,
    parameter PAD_TOP = 0,
    parameter PAD_LEFT = 0,
    parameter PAD_BOTTOM = 0,
    parameter PAD_RIGHT = 0,
    parameter BITS = 8
) (
    input  wire                              clk,
    input  wire                              rst,
    input  wire                              in_valid,
    output wire                              in_ready,
    input  wire [BITS-1:0]                   in_data,
    output reg                               out_valid,
    input  wire                              out_ready,
    output wire [KERNEL_H*KERNEL_W*BITS-1:0] out_data
);
    localparam GRID_H = HEIGHT + PAD_TOP + PAD_BOTTOM;
    localparam GRID_W = WIDTH + PAD_LEFT + PAD_RIGHT;
    localparam ROW_BITS = $clog2(GRID_H + 1);
    localparam COLUMN_BITS = $clog2(GRID_W + 1);
    localparam ROW_WAIT_BITS = $clog2((KERNEL_H > STRIDE_H ? KERNEL_H : STRIDE_H) + 1);
    localparam COLUMN_WAIT_BITS = $clog2((KERNEL_W > STRIDE_W ? KERNEL_W : STRIDE_W) + 1);
    localparam SLICE_BITS = KERNEL_H * BITS; // the pixels of one window column, the top one lowest
    // Constants as plain vectors, to be cut to the width of what they meet.
    localparam [31:0] LAST_ROW = GRID_H - 1;
    localparam [31:0] LAST_COLUMN = GRID_W - 1;
    localparam [31:0] IMAGE_TOP = PAD_TOP;
    localparam [31:0] IMAGE_LEFT = PAD_LEFT;
    localparam [31:0] IMAGE_BOTTOM = PAD_TOP + HEIGHT;
    localparam [31:0] IMAGE_RIGHT = PAD_LEFT + WIDTH;
    localparam [31:0] FIRST_ROW_WAIT = KERNEL_H - 1;
    localparam [31:0] FIRST_COLUMN_WAIT = KERNEL_W - 1;
    localparam [31:0] NEXT_ROW_WAIT = STRIDE_H - 1;
    localparam [31:0] NEXT_COLUMN_WAIT = STRIDE_W - 1;

    // Where we are on the padded grid, and how many rows and columns are missing to the next complete window.
    reg [ROW_BITS-1:0] row;
    reg [COLUMN_BITS-1:0] column;
    reg [ROW_WAIT_BITS-1:0] row_wait;
    reg [COLUMN_WAIT_BITS-1:0] column_wait;

    wire [ROW_BITS-1:0] next_row = row + 1'b1;
    wire [COLUMN_BITS-1:0] next_column = column + 1'b1;
    wire end_of_row = column == LAST_COLUMN[COLUMN_BITS-1:0];
    wire end_of_event = end_of_row && row == LAST_ROW[ROW_BITS-1:0];
    wire in_image = next_row > IMAGE_TOP[ROW_BITS-1:0] && row < IMAGE_BOTTOM[ROW_BITS-1:0]
        && next_column > IMAGE_LEFT[COLUMN_BITS-1:0] && column < IMAGE_RIGHT[COLUMN_BITS-1:0];
    wire completes = row_wait == {ROW_WAIT_BITS{1'b0}} && column_wait == {COLUMN_WAIT_BITS{1'b0}};

    wire free = !out_valid || out_ready;
    wire step = free && (in_valid || !in_image);
    assign in_ready = free && in_image;

    always @(posedge clk)
        if (rst) begin
            row <= {ROW_BITS{1'b0}};
            column <= {COLUMN_BITS{1'b0}};
            row_wait <= FIRST_ROW_WAIT[ROW_WAIT_BITS-1:0];
            column_wait <= FIRST_COLUMN_WAIT[COLUMN_WAIT_BITS-1:0];
            out_valid <= 1'b0;
        end else begin
            if (free) out_valid <= step && completes;
            if (step) begin
                if (end_of_row) begin
                    column <= {COLUMN_BITS{1'b0}};
                    column_wait <= FIRST_COLUMN_WAIT[COLUMN_WAIT_BITS-1:0];
                end else begin
                    column <= next_column;
                    column_wait <= column_wait == {COLUMN_WAIT_BITS{1'b0}} ? NEXT_COLUMN_WAIT[COLUMN_WAIT_BITS-1:0]
                        : column_wait - 1'b1;
                end
                if (end_of_event) begin
                    row <= {ROW_BITS{1'b0}};
                    row_wait <= FIRST_ROW_WAIT[ROW_WAIT_BITS-1:0];
                end else if (end_of_row) begin
                    row <= next_row;
                    row_wait <= row_wait == {ROW_WAIT_BITS{1'b0}} ? NEXT_ROW_WAIT[ROW_WAIT_BITS-1:0] : row_wait - 1'b1;
                end
            end
        end

    // The slice that ends in this position: the rows above from the line buffer, then the new pixel. What an earlier
    // event left in the buffers has been shifted out when the first window is complete.
    wire [BITS-1:0] pixel = in_image ? in_data : {BITS{1'b0}};
    wire [SLICE_BITS-1:0] slice;
    generate
        if (KERNEL_H > 1) begin : line_buffer
            localparam ADDRESS_BITS = GRID_W > 1 ? $clog2(GRID_W) : 1;
            reg [SLICE_BITS-BITS-1:0] lines [0:GRID_W-1];
            wire [ADDRESS_BITS-1:0] address = column[ADDRESS_BITS-1:0];
            assign slice = {pixel, lines[address]};
            always @(posedge clk)
                if (step) lines[address] <= slice[SLICE_BITS-1:BITS];
        end else begin : no_line_buffer
            assign slice = pixel;
        end
    endgenerate

    // The window: KERNEL_W slices, the leftmost lowest.
    reg [KERNEL_W*SLICE_BITS-1:0] window;
    generate
        if (KERNEL_W > 1) begin : columns
            always @(posedge clk)
                if (step) window <= {slice, window[KERNEL_W*SLICE_BITS-1:SLICE_BITS]};
        end else begin : one_column
            always @(posedge clk)
                if (step) window <= slice;
        end
    endgenerate

    genvar r;
    genvar c;
    generate
        for (r = 0; r < KERNEL_H; r = r + 1) begin : out_row
            for (c = 0; c < KERNEL_W; c = c + 1) begin : out_column
                assign out_data[(r*KERNEL_W+c)*BITS +: BITS] = window[c*SLICE_BITS+r*BITS +: BITS];
            end
        end
    endgenerate
endmodule
