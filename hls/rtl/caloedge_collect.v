// Gathers what belongs to an event, which comes one by one, into one beat.
//
//   KEEP   most items of an event, 1 to 32; more than these are dropped
//   WIDTH  bits of an item
//
// In: beats {last, item}; the items of an event and then one beat with last = 1, whose item does not count. Out: one beat
// per event, KEEP entries {valid, item} in the order of arrival, the first lowest; missing ones are zeros.
//
// in_ready and out_valid depend on registers only; nothing is taken while an event waits at the output.
// Latency 1 cycle from the last beat to the edge at which the event can leave; throughput 1 beat per cycle, and 1 cycle
// more per event.
module caloedge_collect #(
    parameter KEEP = 4,
    parameter WIDTH = 8
) (
    input  wire                      clk,
    input  wire                      rst,
    input  wire                      in_valid,
    output wire                      in_ready,
    input  wire [WIDTH:0]            in_data,
    output reg                       out_valid,
    input  wire                      out_ready,
    output reg  [KEEP*(WIDTH+1)-1:0] out_data
);
    localparam ENTRY_BITS = WIDTH + 1;

    assign in_ready = !out_valid;
    wire take = in_valid && in_ready;
    wire last = in_data[WIDTH];
    localparam [31:0] FIRST = 1;
    reg [KEEP-1:0] free; // one bit, at the entry that the next item goes to; none when all are full

    always @(posedge clk)
        if (rst) out_valid <= 1'b0;
        else if (take) out_valid <= last;
        else if (out_ready) out_valid <= 1'b0;

    integer k;
    always @(posedge clk)
        if (rst || (out_valid && out_ready)) begin
            free <= FIRST[KEEP-1:0];
            out_data <= {(KEEP*ENTRY_BITS){1'b0}};
        end else if (take && !last) begin
            free <= free << 1;
            for (k = 0; k < KEEP; k = k + 1)
                if (free[k]) out_data[k*ENTRY_BITS +: ENTRY_BITS] <= {1'b1, in_data[WIDTH-1:0]};
        end
endmodule
