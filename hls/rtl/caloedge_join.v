// Joins BEATS narrow beats into one wide one, the first beat in the lowest bits.
//
//   WIDTH  bits of a narrow beat
//   BEATS  narrow beats of a wide one, at least 1
//
// While a complete wide beat waits for out_ready nothing is taken; the first beat of the next event is taken in the
// cycle in which it leaves, where in_ready follows out_ready.
// Latency 1 cycle from the last narrow beat; throughput 1 narrow beat per cycle without a gap, so 1 wide beat per
// BEATS cycles.
module caloedge_join #(
    parameter WIDTH = 8,
    parameter BEATS = 2
) (
    input  wire                   clk,
    input  wire                   rst,
    input  wire                   in_valid,
    output wire                   in_ready,
    input  wire [WIDTH-1:0]       in_data,
    output reg                    out_valid,
    input  wire                   out_ready,
    output wire [BEATS*WIDTH-1:0] out_data
);
    reg [BEATS*WIDTH-1:0] words;
    wire last;
    wire take = in_valid && in_ready;

    assign out_data = words;
    assign in_ready = !out_valid || out_ready;

    always @(posedge clk)
        if (rst) out_valid <= 1'b0;
        else if (in_ready) out_valid <= in_valid && last;

    generate
        if (BEATS > 1) begin : many
            localparam COUNT_BITS = $clog2(BEATS);
            localparam [31:0] LAST = BEATS - 1;
            reg [COUNT_BITS-1:0] collected;
            assign last = collected == LAST[COUNT_BITS-1:0];
            always @(posedge clk)
                if (take) words <= {in_data, words[BEATS*WIDTH-1:WIDTH]};
            always @(posedge clk)
                if (rst) collected <= {COUNT_BITS{1'b0}};
                else if (take) collected <= last ? {COUNT_BITS{1'b0}} : collected + 1'b1;
        end else begin : one
            assign last = 1'b1;
            always @(posedge clk)
                if (take) words <= in_data;
        end
    endgenerate
endmodule
