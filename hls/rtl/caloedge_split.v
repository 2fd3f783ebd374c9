// Splits one wide beat into BEATS narrow ones, the lowest word first.
//
//   WIDTH  bits of a narrow beat
//   BEATS  narrow beats of a wide one, at least 1
//
// The next wide beat is taken in the cycle in which the last narrow one leaves; in_ready follows out_ready in that
// cycle.
// Latency 1 cycle; throughput 1 narrow beat per cycle without a gap, so 1 wide beat per BEATS cycles.
module caloedge_split #(
    parameter WIDTH = 8,
    parameter BEATS = 2
) (
    input  wire                   clk,
    input  wire                   rst,
    input  wire                   in_valid,
    output wire                   in_ready,
    input  wire [BEATS*WIDTH-1:0] in_data,
    output reg                    out_valid,
    input  wire                   out_ready,
    output wire [WIDTH-1:0]       out_data
);
    reg [BEATS*WIDTH-1:0] words;
    wire last;

    assign out_data = words[WIDTH-1:0];
    assign in_ready = !out_valid || (out_ready && last);

    always @(posedge clk)
        if (rst) out_valid <= 1'b0;
        else if (in_ready) out_valid <= in_valid;

    generate
        if (BEATS > 1) begin : many
            localparam COUNT_BITS = $clog2(BEATS);
            localparam [31:0] AFTER_FIRST = BEATS - 1;
            reg [COUNT_BITS-1:0] remaining; // words after the one at the output
            assign last = remaining == {COUNT_BITS{1'b0}};
            always @(posedge clk)
                if (in_ready) begin
                    words <= in_data;
                    remaining <= AFTER_FIRST[COUNT_BITS-1:0];
                end else if (out_ready) begin
                    words <= {{WIDTH{1'b0}}, words[BEATS*WIDTH-1:WIDTH]};
                    remaining <= remaining - 1'b1;
                end
        end else begin : one
            assign last = 1'b1;
            always @(posedge clk)
                if (in_ready) words <= in_data;
        end
    endgenerate
endmodule
