// Puts the results of several lanes into one stream, as they come, one lane after the other.
//
//   LANES  streams that come in, at most 32
//   WIDTH  bits of a beat; that of lane l lies at word l of in_data
//
// One lane at a time is asked. The next one is, in turn, another that has a beat, as soon as the lane's beat has been
// taken or it has none: so no lane waits for more than one beat of each other.
//
// in_ready and out_valid depend on registers only. Registers: the lane, a FIFO of 2.
// Latency 1 cycle from a lane that is being asked, 2 from another; throughput 1 beat per cycle.
module caloedge_gather #(
    parameter LANES = 2,
    parameter WIDTH = 600
) (
    input  wire                   clk,
    input  wire                   rst,
    input  wire [LANES-1:0]       in_valid,
    output wire [LANES-1:0]       in_ready,
    input  wire [LANES*WIDTH-1:0] in_data,
    output wire                   out_valid,
    input  wire                   out_ready,
    output wire [WIDTH-1:0]       out_data
);
    localparam [31:0] ONE = 1;

    wire room;
    reg [LANES-1:0] lane; // the one that is asked, as one bit
    wire offered = (in_valid & lane) != {LANES{1'b0}};
    assign in_ready = lane & {LANES{room}};

    // Other lanes with a beat: one behind the lane, else from the first on. A beat that waits stays, so it will be there.
    wire [LANES-1:0] others = in_valid & ~lane;
    wire [LANES-1:0] later = others & ~(lane - 1'b1);
    wire [LANES-1:0] able = later != {LANES{1'b0}} ? later : others;

    always @(posedge clk)
        if (rst) lane <= ONE[LANES-1:0];
        else if ((room || !offered) && able != {LANES{1'b0}}) lane <= able & (~able + 1'b1);

    reg [WIDTH-1:0] chosen;
    integer l;
    always @* begin
        chosen = {WIDTH{1'b0}};
        for (l = 0; l < LANES; l = l + 1) chosen = chosen | (in_data[l*WIDTH +: WIDTH] & {WIDTH{lane[l]}});
    end

    caloedge_fifo #(.WIDTH(WIDTH), .DEPTH(2)) results (
        .clk(clk),
        .rst(rst),
        .in_valid(offered),
        .in_ready(room),
        .in_data(chosen),
        .out_valid(out_valid),
        .out_ready(out_ready),
        .out_data(out_data)
    );
endmodule
