// Shares out the work of an event to several lanes, and ends the event when all of it is done.
//
//   LANES       places where the work is done, at most 32
//   WIDTH       bits of a payload
//   COUNT_BITS  payloads may be under way at the same time up to 2 ** COUNT_BITS - 1; then the next one waits
//
// In: beats {last, payload}. A payload without last goes to one lane, which takes it with its own valid and ready from
// the common data: the first lane after the one before that is ready, or that next one if none is. It stays with this
// lane until it is taken. returned tells in how many cycles a result, from whatever lane, has arrived at the far end: at
// each clock edge with returned there is one payload less under way. A beat with last has no payload; it becomes a beat
// of the end stream, which has no data, when nothing is under way; what comes behind it waits until it is taken.
//
// in_ready, out_valid and end_valid depend on registers only. Registers: a FIFO of 2, the payload.
// Latency 2 cycles; throughput 1 payload per cycle, while lanes are ready.
module caloedge_dispatch #(
    parameter LANES = 2,
    parameter WIDTH = 600,
    parameter COUNT_BITS = 8
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             in_valid,
    output wire             in_ready,
    input  wire [WIDTH:0]   in_data,
    output reg  [LANES-1:0] out_valid,
    input  wire [LANES-1:0] out_ready,
    output reg  [WIDTH-1:0] out_data,
    input  wire             returned,
    output wire             end_valid,
    input  wire             end_ready
);
    localparam [31:0] ONE = 1;

    wire head_valid;
    wire head_last;
    wire [WIDTH-1:0] head;
    reg [COUNT_BITS-1:0] under_way;

    // A payload leaves the FIFO when the one before has found its lane.
    wire free = (out_valid & ~out_ready) == {LANES{1'b0}};
    wire load = head_valid && !head_last && free && under_way != {COUNT_BITS{1'b1}};
    assign end_valid = head_valid && head_last && under_way == {COUNT_BITS{1'b0}};

    caloedge_fifo #(.WIDTH(WIDTH+1), .DEPTH(2)) waiting (
        .clk(clk),
        .rst(rst),
        .in_valid(in_valid),
        .in_ready(in_ready),
        .in_data(in_data),
        .out_valid(head_valid),
        .out_ready(load || (end_valid && end_ready)),
        .out_data({head_last, head})
    );

    // The lane whose turn it is, as one bit, and the one that is chosen: at or after it, else from the first on.
    reg [LANES-1:0] turn;
    wire [LANES-1:0] later = out_ready & ~(turn - 1'b1);
    wire [LANES-1:0] able = later != {LANES{1'b0}} ? later : out_ready;
    wire [LANES-1:0] lane = able != {LANES{1'b0}} ? able & (~able + 1'b1) : turn;

    always @(posedge clk)
        if (rst) begin
            out_valid <= {LANES{1'b0}};
            turn <= ONE[LANES-1:0];
            under_way <= {COUNT_BITS{1'b0}};
        end else begin
            if (free) out_valid <= load ? lane : {LANES{1'b0}};
            if (load) turn <= (lane << 1) | (lane >> (LANES - 1));
            if (load && !returned) under_way <= under_way + 1'b1;
            if (returned && !load) under_way <= under_way - 1'b1;
        end
    always @(posedge clk)
        if (free) out_data <= head;
endmodule
