// Admission control that lets a free-running pipeline of fixed latency, which cannot stop, survive stalls.
//
//   LATENCY  clock edges of the core, at least 1: the result of an event that was admitted at edge t is sampled at edge
//            t + LATENCY
//   WIDTH    bits of a result
//
// The event's data go straight to the core, which samples them in the cycle with in_valid and in_ready; only the
// handshake passes through here. An event is admitted when a place for its result is free (a credit); the places are a
// FIFO of LATENCY + 2 results, which is the round trip of a credit, so nothing overflows and nothing is lost in speed.
// in_ready and out_valid depend on registers only.
// Latency LATENCY + 1 cycles from admission to the edge at which the result can leave; throughput 1 event per cycle.
module caloedge_credit #(
    parameter LATENCY = 1,
    parameter WIDTH = 8
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             in_valid,
    output wire             in_ready,
    input  wire [WIDTH-1:0] core_result,
    output wire             out_valid,
    input  wire             out_ready,
    output wire [WIDTH-1:0] out_data
);
    localparam DEPTH = LATENCY + 2;
    localparam CREDIT_BITS = $clog2(DEPTH + 1);
    localparam [31:0] ALL_CREDITS = DEPTH;

    reg [CREDIT_BITS-1:0] credits;
    reg [LATENCY-1:0] in_flight; // bit i: an event was admitted i + 1 edges ago
    wire unused_fifo_ready; // always high when a result arrives: that is what the credits are for

    assign in_ready = credits != {CREDIT_BITS{1'b0}};
    wire admit = in_valid && in_ready;
    wire leave = out_valid && out_ready;

    wire [LATENCY:0] in_flight_next = {in_flight, admit};
    always @(posedge clk)
        if (rst) in_flight <= {LATENCY{1'b0}};
        else in_flight <= in_flight_next[LATENCY-1:0];

    always @(posedge clk)
        if (rst) credits <= ALL_CREDITS[CREDIT_BITS-1:0];
        else if (admit && !leave) credits <= credits - 1'b1;
        else if (leave && !admit) credits <= credits + 1'b1;

    caloedge_fifo #(.WIDTH(WIDTH), .DEPTH(DEPTH)) results (
        .clk(clk),
        .rst(rst),
        .in_valid(in_flight_next[LATENCY]),
        .in_ready(unused_fifo_ready),
        .in_data(core_result),
        .out_valid(out_valid),
        .out_ready(out_ready),
        .out_data(out_data)
    );
endmodule
