// Turns the outputs of a network, which are relative to one cell, into photons: position, energy and score.
//
//   ROWS, COLUMNS  cells of the event, at least 2 each
//   BITS           bits of a cell's code
//   OUT_BITS       bits of an output of the network, two's complement, at most 63
//   FRACTION       bits behind the point of a position, at least 5
//   POSITION_BITS  bits of a position, two's complement; positions are exact modulo 2 ** POSITION_BITS
//   ENERGY_BITS    bits of an energy, two's complement; energies are exact modulo 2 ** ENERGY_BITS
//   THRESHOLD      least seed of a photon, a 64-bit literal
//
// In: beats {last, row, column, turn, exponent, sum9, outputs} with row, column, turn (3 bits: swap, flip_columns and
// flip_rows, which is the lowest), exponent (4 bits) and sum9 (BITS + 4 bits) of caloedge_group; the outputs are the words
// dx, dy, e and seed, dx lowest. Out: one beat {last, row_position, column_position, energy, score} for each that is a
// photon, in their order: those with seed >= THRESHOLD. With x * 2 ** n written as x << n
//   row_offset      = swap ? dy : dx, negated if flip_rows: as it lies in the event, not in the turned window
//   column_offset   = swap ? dx : dy, negated if flip_columns
//   row_position    = (row << FRACTION) + (1 << (FRACTION - 1)) + row_offset
//   column_position = (column << FRACTION) + (1 << (FRACTION - 1)) + column_offset
//   energy          = (sum9 << (FRACTION - 5)) + (e << (max(exponent, 4) - 4))
//   score           = seed
// A beat with last = 1 gives one with last = 1 and zeros everywhere else.
//
// in_ready and out_valid depend on registers only. Registers: shifted energy and positions; sum; a FIFO of 2.
// Latency 3 cycles; throughput 1 beat per cycle.
module caloedge_photon #(
    parameter ROWS = 51,
    parameter COLUMNS = 51,
    parameter BITS = 12,
    parameter OUT_BITS = 16,
    parameter FRACTION = 10,
    parameter POSITION_BITS = 18,
    parameter ENERGY_BITS = 28,
    parameter signed [63:0] THRESHOLD = 64'sd0
) (
    input  wire                                                            clk,
    input  wire                                                            rst,
    input  wire                                                            in_valid,
    output wire                                                            in_ready,
    input  wire [1+$clog2(ROWS)+$clog2(COLUMNS)+3+4+BITS+4+4*OUT_BITS-1:0] in_data,
    output wire                                                            out_valid,
    input  wire                                                            out_ready,
    output wire [1+2*POSITION_BITS+ENERGY_BITS+OUT_BITS-1:0]               out_data
);
    localparam ROW_BITS = $clog2(ROWS);
    localparam COLUMN_BITS = $clog2(COLUMNS);
    localparam SUM_BITS = BITS + 4;
    localparam PHOTON_BITS = 2 * POSITION_BITS + ENERGY_BITS + OUT_BITS;
    localparam [FRACTION-1:0] ONES = {FRACTION{1'b1}};
    localparam [FRACTION-1:0] MIDDLE = ONES ^ (ONES >> 1); // of a cell

    wire last;
    wire [ROW_BITS-1:0] row;
    wire [COLUMN_BITS-1:0] column;
    wire swap;
    wire flip_columns;
    wire flip_rows;
    wire [3:0] exponent;
    wire [SUM_BITS-1:0] sum9;
    wire [OUT_BITS-1:0] seed;
    wire [OUT_BITS-1:0] e;
    wire [OUT_BITS-1:0] dy;
    wire [OUT_BITS-1:0] dx;
    assign {last, row, column, swap, flip_columns, flip_rows, exponent, sum9, seed, e, dy, dx} = in_data;

    // All with bits above those that count.
    wire [POSITION_BITS+ROW_BITS+FRACTION-1:0] unused_row = {{POSITION_BITS{1'b0}}, row, MIDDLE};
    wire [POSITION_BITS+COLUMN_BITS+FRACTION-1:0] unused_column = {{POSITION_BITS{1'b0}}, column, MIDDLE};
    wire [OUT_BITS-1:0] along_rows = swap ? dy : dx;
    wire [OUT_BITS-1:0] along_columns = swap ? dx : dy;
    wire [POSITION_BITS+OUT_BITS-1:0] unused_along_rows = {{POSITION_BITS{along_rows[OUT_BITS-1]}}, along_rows};
    wire [POSITION_BITS+OUT_BITS-1:0] unused_along_columns = {{POSITION_BITS{along_columns[OUT_BITS-1]}}, along_columns};
    // A negation is an inversion here and one more in the sum, in all bits of a position: also the most negative is exact.
    wire [POSITION_BITS-1:0] row_offset = unused_along_rows[POSITION_BITS-1:0] ^ {POSITION_BITS{flip_rows}};
    wire [POSITION_BITS-1:0] column_offset = unused_along_columns[POSITION_BITS-1:0] ^ {POSITION_BITS{flip_columns}};
    wire [ENERGY_BITS+OUT_BITS-1:0] unused_e = {{ENERGY_BITS{e[OUT_BITS-1]}}, e};
    wire signed [63:0] seed_wide = {{(64-OUT_BITS){seed[OUT_BITS-1]}}, seed};
    wire [3:0] shift = exponent < 4'd4 ? 4'd0 : exponent - 4'd4;

    // Everything moves together, as long as there is room for a result.
    wire advance;
    assign in_ready = advance;

    reg first_valid;
    reg second_valid;
    always @(posedge clk)
        if (rst) begin
            first_valid <= 1'b0;
            second_valid <= 1'b0;
        end else if (advance) begin
            first_valid <= in_valid && (last || seed_wide >= THRESHOLD);
            second_valid <= first_valid;
        end

    reg first_last;
    reg [POSITION_BITS-1:0] first_row;
    reg [POSITION_BITS-1:0] first_column;
    reg [ENERGY_BITS-1:0] first_correction;
    reg [SUM_BITS-1:0] first_sum9;
    reg [OUT_BITS-1:0] first_score;
    always @(posedge clk)
        if (advance) begin
            first_last <= last;
            first_row <= unused_row[POSITION_BITS-1:0] + row_offset + {{(POSITION_BITS-1){1'b0}}, flip_rows};
            first_column <= unused_column[POSITION_BITS-1:0] + column_offset + {{(POSITION_BITS-1){1'b0}}, flip_columns};
            first_correction <= unused_e[ENERGY_BITS-1:0] << shift;
            first_sum9 <= sum9;
            first_score <= seed;
        end

    wire [ENERGY_BITS+SUM_BITS-1:0] unused_sum = {{ENERGY_BITS{1'b0}}, first_sum9};
    wire [ENERGY_BITS-1:0] sum = unused_sum[ENERGY_BITS-1:0] << (FRACTION - 5);
    reg [PHOTON_BITS:0] second;
    always @(posedge clk)
        if (advance) begin
            if (first_last) second <= {1'b1, {PHOTON_BITS{1'b0}}};
            else second <= {1'b0, first_row, first_column, sum + first_correction, first_score};
        end

    caloedge_fifo #(.WIDTH(PHOTON_BITS+1), .DEPTH(2)) photons (
        .clk(clk),
        .rst(rst),
        .in_valid(second_valid),
        .in_ready(advance),
        .in_data(second),
        .out_valid(out_valid),
        .out_ready(out_ready),
        .out_data(out_data)
    );
endmodule
