// Admission control that lets a core without ready, in which events overtake no other, survive stalls. The core may take any
// number of cycles for an event, and gather beats of it before it gives any.
//
//   IN_BEATS   beats of an event that go in
//   OUT_BEATS  beats of an event that come out
//   EVENTS     events that may be under way at the same time: for full speed the cycles from an event's first beat to its
//              last result / IN_BEATS, and 2 more
//   WIDTH      bits of a beat that comes out
//
// The beats' data go straight to the core, which samples them in cycles with `admitted`; only the handshake passes through
// here. An event is admitted when there is a place for all of its results (a credit): the places are a FIFO of
// EVENTS * OUT_BEATS. A credit comes back when the event's last result leaves.
// in_ready and out_valid depend on registers only.
// Latency that of the core, and 1 cycle; throughput 1 beat per cycle at both ends.
module caloedge_admit #(
    parameter IN_BEATS = 16,
    parameter OUT_BEATS = 16,
    parameter EVENTS = 8,
    parameter WIDTH = 8
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             in_valid,
    output wire             in_ready,
    output wire             admitted,
    input  wire             core_valid,
    input  wire [WIDTH-1:0] core_data,
    output wire             out_valid,
    input  wire             out_ready,
    output wire [WIDTH-1:0] out_data
);
    localparam IN_BITS = IN_BEATS > 1 ? $clog2(IN_BEATS) : 1;
    localparam OUT_BITS = OUT_BEATS > 1 ? $clog2(OUT_BEATS) : 1;
    localparam COUNT_BITS = $clog2(EVENTS + 1);
    localparam DEPTH = EVENTS * OUT_BEATS > 2 ? EVENTS * OUT_BEATS : 2;
    localparam [31:0] LAST_IN = IN_BEATS - 1;
    localparam [31:0] LAST_OUT = OUT_BEATS - 1;
    localparam [31:0] ALL_EVENTS = EVENTS;

    reg [COUNT_BITS-1:0] under_way;
    reg [IN_BITS-1:0] beat_in;
    reg [OUT_BITS-1:0] beat_out;
    wire unused_fifo_ready; // always high when a result arrives: that is what the credits are for

    wire first = beat_in == {IN_BITS{1'b0}};
    assign in_ready = !first || under_way != ALL_EVENTS[COUNT_BITS-1:0];
    assign admitted = in_valid && in_ready;
    wire begins = admitted && first;
    wire leave = out_valid && out_ready;
    wire ends = leave && beat_out == LAST_OUT[OUT_BITS-1:0];

    always @(posedge clk)
        if (rst) begin
            under_way <= {COUNT_BITS{1'b0}};
            beat_in <= {IN_BITS{1'b0}};
            beat_out <= {OUT_BITS{1'b0}};
        end else begin
            if (admitted) beat_in <= beat_in == LAST_IN[IN_BITS-1:0] ? {IN_BITS{1'b0}} : beat_in + 1'b1;
            if (leave) beat_out <= ends ? {OUT_BITS{1'b0}} : beat_out + 1'b1;
            if (begins && !ends) under_way <= under_way + 1'b1;
            if (ends && !begins) under_way <= under_way - 1'b1;
        end

    caloedge_fifo #(.WIDTH(WIDTH), .DEPTH(DEPTH)) results (
        .clk(clk),
        .rst(rst),
        .in_valid(core_valid),
        .in_ready(unused_fifo_ready),
        .in_data(core_data),
        .out_valid(out_valid),
        .out_ready(out_ready),
        .out_data(out_data)
    );
endmodule
