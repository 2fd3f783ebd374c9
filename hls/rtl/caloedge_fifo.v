// First-in first-out buffer. The oldest word stands at the output as soon as it is stored (fall-through).
//
//   WIDTH  bits of a word, at least 1
//   DEPTH  words it holds, at least 2; any number, not only powers of two
//
// in_ready and out_valid depend on registers only, so it cuts every path between its two sides.
// Latency 1 cycle (a word taken at one clock edge can leave at the next); throughput 1 word per cycle.
module caloedge_fifo #(
    parameter WIDTH = 8,
    parameter DEPTH = 2
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             in_valid,
    output wire             in_ready,
    input  wire [WIDTH-1:0] in_data,
    output wire             out_valid,
    input  wire             out_ready,
    output wire [WIDTH-1:0] out_data
);
    localparam ADDRESS_BITS = $clog2(DEPTH);
    localparam COUNT_BITS = $clog2(DEPTH + 1);
    localparam [31:0] LAST = DEPTH - 1;
    localparam [31:0] FULL = DEPTH;

    reg [WIDTH-1:0] memory [0:DEPTH-1];
    reg [ADDRESS_BITS-1:0] write_address;
    reg [ADDRESS_BITS-1:0] read_address;
    reg [COUNT_BITS-1:0] count;

    assign in_ready = count != FULL[COUNT_BITS-1:0];
    assign out_valid = count != {COUNT_BITS{1'b0}};
    assign out_data = memory[read_address];

    wire write = in_valid && in_ready;
    wire read = out_valid && out_ready;

    always @(posedge clk)
        if (write) memory[write_address] <= in_data;

    always @(posedge clk)
        if (rst) begin
            write_address <= {ADDRESS_BITS{1'b0}};
            read_address <= {ADDRESS_BITS{1'b0}};
            count <= {COUNT_BITS{1'b0}};
        end else begin
            if (write)
                write_address <= write_address == LAST[ADDRESS_BITS-1:0] ? {ADDRESS_BITS{1'b0}} : write_address + 1'b1;
            if (read)
                read_address <= read_address == LAST[ADDRESS_BITS-1:0] ? {ADDRESS_BITS{1'b0}} : read_address + 1'b1;
            if (write && !read) count <= count + 1'b1;
            if (read && !write) count <= count - 1'b1;
        end
endmodule
