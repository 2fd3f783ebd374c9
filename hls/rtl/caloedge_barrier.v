// Gathers an event that comes in beats, then shows all of it at once, for as many cycles as it has beats: where each node
// of a graph looks at all others.
//
//   NODES  nodes of an event
//   PAR    nodes of a beat; divides NODES
//   WIDTH  bits of a node
//
// Node n comes in beat n / PAR, at place n % PAR. Gaps between beats are allowed, and nothing ever stalls: there is no
// ready. While out_valid is high, out_event holds the event; out_own is beat out_beat of it, from the first to the last.
//
// The event that comes in has a buffer of its own. It takes as many cycles at least as reading the event before, which
// starts as soon as that is complete: so one can never be complete while the other is still being read. With
// CALOEDGE_CHECK defined, a simulation stops if it were.
// Latency 1 cycle from the last beat to out_first; throughput 1 beat per cycle.
module caloedge_barrier #(
    parameter NODES = 32,
    parameter PAR = 2,
    parameter WIDTH = 49
) (
    input  wire                                              clk,
    input  wire                                              rst,
    input  wire                                              in_valid,
    input  wire [PAR*WIDTH-1:0]                              in_data,
    output reg                                               out_valid,
    output wire                                              out_first,
    output wire                                              out_last,
    output reg  [(NODES > PAR ? $clog2(NODES/PAR) : 1)-1:0]  out_beat,
    output wire [PAR*WIDTH-1:0]                              out_own,
    output reg  [NODES*WIDTH-1:0]                            out_event
);
    localparam BEATS = NODES / PAR;
    localparam BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam BEAT_WIDTH = PAR * WIDTH;
    localparam [31:0] LAST = BEATS - 1;

    // The event that comes in: its last beat goes straight to the event that is read.
    reg [BEAT_BITS-1:0] beat;
    wire complete = in_valid && beat == LAST[BEAT_BITS-1:0];
    wire [NODES*WIDTH-1:0] whole;
    generate
        if (BEATS > 1) begin : gather
            reg [NODES*WIDTH-1:BEAT_WIDTH] former;
            assign whole = {in_data, former};
            always @(posedge clk)
                if (in_valid) former <= whole[NODES*WIDTH-1:BEAT_WIDTH];
        end else begin : at_once
            assign whole = in_data;
        end
    endgenerate

    // Beats once more, in a small memory: a multiplexer over the event would take far more. A beat is read in the first
    // cycle in which the next event can write there, before it does.
    reg [BEAT_WIDTH-1:0] own [0:BEATS-1];
    assign out_own = own[out_beat];
    always @(posedge clk)
        if (in_valid) own[beat] <= in_data;

    assign out_first = out_valid && out_beat == {BEAT_BITS{1'b0}};
    assign out_last = out_valid && out_beat == LAST[BEAT_BITS-1:0];
    always @(posedge clk)
        if (rst) begin
            beat <= {BEAT_BITS{1'b0}};
            out_valid <= 1'b0;
        end else begin
            if (in_valid) beat <= complete ? {BEAT_BITS{1'b0}} : beat + 1'b1;
            if (complete) out_valid <= 1'b1;
            else if (out_last) out_valid <= 1'b0;
        end
    always @(posedge clk)
        if (complete) begin
            out_event <= whole;
            out_beat <= {BEAT_BITS{1'b0}};
        end else out_beat <= out_beat + 1'b1;

`ifdef CALOEDGE_CHECK
    always @(posedge clk)
        if (!rst && complete && out_valid && !out_last) begin
            $display("caloedge_barrier: an event is complete while the one before is still being read");
            $stop;
        end
`endif
endmodule
