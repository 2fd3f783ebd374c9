// Dense layer with reuse: the multipliers of one cycle serve BEATS * FOLD cycles, their weights come from a ROM.
//
//   BEATS        input beats of an event
//   WORDS        words of a beat
//   FOLD         cycles per beat: LANES = ceil(WORDS / FOLD) words are multiplied in one cycle
//   OUTPUTS      sums of an event; there are LANES * OUTPUTS multipliers
//   IN_BITS      bits of an input word
//   IN_SIGNED    1 if input words are two's complement, 0 if they are unsigned
//   WEIGHT_BITS  bits of a weight, two's complement
//   SUM_BITS     bits of a sum and of a bias, two's complement; sums are exact modulo 2 ** SUM_BITS
//
// In phase p of a beat lane l multiplies word p * LANES + l; words beyond WORDS count as zero. rom_address is
// beat * FOLD + phase. The ROM is synchronous and outside: at a clock edge with rom_enable it takes rom_address, and
// rom_word shows that word after the edge and keeps it until the next one; the weight of lane l for output o is its
// word l * OUTPUTS + o. bias is constant.
//
// A beat is read in place: in_ready rises in its last phase. The next event is taken while a result waits, until the
// next result is complete. in_ready depends on registers only (with BEATS * FOLD = 1 it follows out_ready).
// Registers: ROM and operands, products, lane sum, accumulator, output.
// Latency 5 cycles from the edge that takes the last beat (BEATS * FOLD + 4 from the first multiplication) to the edge
// at which the result can leave; throughput 1 event per BEATS * FOLD cycles.
module caloedge_mac_array #(
    parameter BEATS = 1,
    parameter WORDS = 4,
    parameter FOLD = 1,
    parameter OUTPUTS = 2,
    parameter IN_BITS = 8,
    parameter IN_SIGNED = 0,
    parameter WEIGHT_BITS = 6,
    parameter SUM_BITS = 20
) (
    input  wire                                                clk,
    input  wire                                                rst,
    output wire                                                rom_enable,
    output wire [(BEATS*FOLD>1 ? $clog2(BEATS*FOLD) : 1)-1:0]  rom_address,
    input  wire [(WORDS+FOLD-1)/FOLD*OUTPUTS*WEIGHT_BITS-1:0]  rom_word,
    input  wire [OUTPUTS*SUM_BITS-1:0]                         bias,
    input  wire                                                in_valid,
    output wire                                                in_ready,
    input  wire [WORDS*IN_BITS-1:0]                            in_data,
    output reg                                                 out_valid,
    input  wire                                                out_ready,
    output reg  [OUTPUTS*SUM_BITS-1:0]                         out_data
);
    localparam LANES = (WORDS + FOLD - 1) / FOLD;
    localparam REUSE = BEATS * FOLD;
    localparam ADDRESS_BITS = REUSE > 1 ? $clog2(REUSE) : 1;
    localparam PHASE_BITS = FOLD > 1 ? $clog2(FOLD) : 1;
    localparam OPERAND_BITS = IN_SIGNED != 0 ? IN_BITS : IN_BITS + 1; // an unsigned word gets a sign bit
    localparam PRODUCT_BITS = OPERAND_BITS + WEIGHT_BITS;
    localparam LANE_BITS = LANES * IN_BITS;
    localparam [31:0] LAST_ADDRESS = REUSE - 1;
    localparam [31:0] LAST_PHASE = FOLD - 1;

    // Everything moves together; it stops when a result is complete and the one before still stands at the output.
    reg out_pending;
    wire blocked = REUSE > 1 ? out_valid : out_valid && !out_ready;
    wire advance = !(out_pending && blocked);
    assign rom_enable = advance;

    // Where we are: the phase within the beat, and the ROM address within the event.
    reg [PHASE_BITS-1:0] phase;
    reg [ADDRESS_BITS-1:0] address;
    wire last_phase = phase == LAST_PHASE[PHASE_BITS-1:0];
    wire last_address = address == LAST_ADDRESS[ADDRESS_BITS-1:0];
    assign rom_address = address;
    assign in_ready = advance && last_phase;

    always @(posedge clk)
        if (rst) begin
            phase <= {PHASE_BITS{1'b0}};
            address <= {ADDRESS_BITS{1'b0}};
        end else if (advance && in_valid) begin
            phase <= last_phase ? {PHASE_BITS{1'b0}} : phase + 1'b1;
            address <= last_address ? {ADDRESS_BITS{1'b0}} : address + 1'b1;
        end

    // What travels with the operands: is there anything, and is it the first or the last of an event?
    reg [2:0] valid;
    reg [2:0] first;
    reg [2:0] last;
    always @(posedge clk)
        if (rst) begin
            valid <= 3'b000;
            out_pending <= 1'b0;
        end else if (advance) begin
            valid <= {valid[1:0], in_valid};
            out_pending <= valid[2] && last[2];
        end
    always @(posedge clk)
        if (advance) begin
            first <= {first[1:0], address == {ADDRESS_BITS{1'b0}}};
            last <= {last[1:0], last_address};
        end

    // The words of this phase.
    wire [FOLD*LANE_BITS-1:0] padded;
    reg [LANE_BITS-1:0] selected;
    integer p;
    generate
        if (FOLD * LANES > WORDS) begin : with_zeros
            assign padded = {{((FOLD*LANES-WORDS)*IN_BITS){1'b0}}, in_data};
        end else begin : as_it_is
            assign padded = in_data;
        end
    endgenerate
    always @* begin
        selected = padded[LANE_BITS-1:0];
        for (p = 1; p < FOLD; p = p + 1)
            if (phase == p[PHASE_BITS-1:0]) selected = padded[p*LANE_BITS +: LANE_BITS];
    end
    reg [LANE_BITS-1:0] operands;
    always @(posedge clk)
        if (advance) operands <= selected;

    genvar o;
    genvar l;
    generate
        for (o = 0; o < OUTPUTS; o = o + 1) begin : neuron
            wire [LANES*SUM_BITS-1:0] terms;
            for (l = 0; l < LANES; l = l + 1) begin : lane
                wire signed [OPERAND_BITS-1:0] operand;
                wire signed [WEIGHT_BITS-1:0] weight = rom_word[(l*OUTPUTS+o)*WEIGHT_BITS +: WEIGHT_BITS];
                reg signed [PRODUCT_BITS-1:0] product;
                if (IN_SIGNED != 0) begin : from_signed
                    assign operand = operands[l*IN_BITS +: IN_BITS];
                end else begin : from_unsigned
                    assign operand = {1'b0, operands[l*IN_BITS +: IN_BITS]};
                end
                always @(posedge clk)
                    if (advance) product <= operand * weight;
                if (SUM_BITS > PRODUCT_BITS) begin : extended
                    assign terms[l*SUM_BITS +: SUM_BITS] = {{(SUM_BITS-PRODUCT_BITS){product[PRODUCT_BITS-1]}}, product};
                end else if (SUM_BITS == PRODUCT_BITS) begin : as_it_is
                    assign terms[l*SUM_BITS +: SUM_BITS] = product;
                end else begin : cut
                    wire unused_top = |product[PRODUCT_BITS-1:SUM_BITS];
                    assign terms[l*SUM_BITS +: SUM_BITS] = product[SUM_BITS-1:0];
                end
            end

            reg [SUM_BITS-1:0] lane_sum_next;
            reg [SUM_BITS-1:0] lane_sum;
            reg [SUM_BITS-1:0] accumulator;
            integer i;
            always @* begin
                lane_sum_next = terms[SUM_BITS-1:0];
                for (i = 1; i < LANES; i = i + 1) lane_sum_next = lane_sum_next + terms[i*SUM_BITS +: SUM_BITS];
            end
            always @(posedge clk)
                if (advance) begin
                    lane_sum <= lane_sum_next;
                    if (valid[2]) accumulator <= (first[2] ? bias[o*SUM_BITS +: SUM_BITS] : accumulator) + lane_sum;
                    if (out_pending) out_data[o*SUM_BITS +: SUM_BITS] <= accumulator;
                end
        end
    endgenerate

    always @(posedge clk)
        if (rst) out_valid <= 1'b0;
        else if (advance && out_pending) out_valid <= 1'b1;
        else if (out_ready) out_valid <= 1'b0;
endmodule
