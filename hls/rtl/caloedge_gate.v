// Channel gate of an image (squeeze and excitation): pixels wait in a buffer while they are summed channel by channel;
// when the event's factors have come back, they leave multiplied.
//
//   PIXELS         pixels of an event, at least 1
//   CHANNELS       words of a pixel
//   DEPTH          pixels that the buffer holds, at least PIXELS
//   BITS           bits of a word
//   SIGNED         1 if words are two's complement, 0 if they are unsigned
//   SUM_BITS       bits of a sum, of the words' kind; sums are exact modulo 2 ** SUM_BITS
//   FACTOR_BITS    bits of a factor
//   FACTOR_SIGNED  1 if factors are two's complement, 0 if they are unsigned
//   OUT_BITS       bits of a product, two's complement if words or factors are; exact modulo 2 ** OUT_BITS
//
// In and out: one pixel per beat, PIXELS beats per event, events back to back. What makes factors of sums is outside: one
// beat of sums leaves per event, and one beat of factors is expected for it, any time later, events in order.
//
// A whole event fits, so it is summed whatever happens at the output: nothing can deadlock as long as the outside gives
// factors for sums. The next event's pixels enter while the former ones leave. DEPTH must be at least PIXELS + 1 and the
// cycles from sums to factors, or the input waits between events for as many cycles as places are missing. The buffer is
// read synchronously, for block memory. in_ready follows sum_ready, and factor_ready follows out_ready, within the cycle.
// Latency: sums leave 1 cycle after the edge that takes the event's last pixel, and the first product 2 cycles after the edge
// at which its factors could first be taken; they are taken with the last pixel that they multiply. Throughput 1 pixel per
// cycle without a gap between events.
module caloedge_gate #(
    parameter PIXELS = 4,
    parameter CHANNELS = 2,
    parameter DEPTH = 8,
    parameter BITS = 6,
    parameter SIGNED = 0,
    parameter SUM_BITS = 8,
    parameter FACTOR_BITS = 8,
    parameter FACTOR_SIGNED = 0,
    parameter OUT_BITS = 14
) (
    input  wire                            clk,
    input  wire                            rst,
    input  wire                            in_valid,
    output wire                            in_ready,
    input  wire [CHANNELS*BITS-1:0]        in_data,
    output reg                             sum_valid,
    input  wire                            sum_ready,
    output reg  [CHANNELS*SUM_BITS-1:0]    sum_data,
    input  wire                            factor_valid,
    output wire                            factor_ready,
    input  wire [CHANNELS*FACTOR_BITS-1:0] factor_data,
    output reg                             out_valid,
    input  wire                            out_ready,
    output reg  [CHANNELS*OUT_BITS-1:0]    out_data
);
    localparam ADDRESS_BITS = DEPTH > 1 ? $clog2(DEPTH) : 1;
    localparam COUNT_BITS = $clog2(DEPTH + 1);
    localparam PIXEL_BITS = PIXELS > 1 ? $clog2(PIXELS) : 1;
    localparam WORD_BITS = SIGNED != 0 ? BITS : BITS + 1; // an unsigned word or factor gets a sign bit
    localparam BY_BITS = FACTOR_SIGNED != 0 ? FACTOR_BITS : FACTOR_BITS + 1;
    localparam PRODUCT_BITS = WORD_BITS + BY_BITS;
    localparam [31:0] LAST_ADDRESS = DEPTH - 1;
    localparam [31:0] FULL = DEPTH;
    localparam [31:0] LAST_PIXEL = PIXELS - 1;

    reg [ADDRESS_BITS-1:0] write_address;
    reg [ADDRESS_BITS-1:0] read_address;
    reg [COUNT_BITS-1:0] count;
    reg [PIXEL_BITS-1:0] pixels_in;  // of the event that enters
    reg [PIXEL_BITS-1:0] pixels_out; // of the event that leaves
    reg read_valid; // a word and its factor stand before the multipliers

    wire first_in = pixels_in == {PIXEL_BITS{1'b0}};
    wire last_in = pixels_in == LAST_PIXEL[PIXEL_BITS-1:0];
    wire last_out = pixels_out == LAST_PIXEL[PIXEL_BITS-1:0];
    wire write = in_valid && in_ready;
    wire advance = !out_valid || out_ready;
    wire read = factor_valid && advance; // the pixels of sums that have left are in the buffer
    assign in_ready = count != FULL[COUNT_BITS-1:0] && !(last_in && sum_valid && !sum_ready);
    assign factor_ready = advance && last_out;

    reg [CHANNELS*BITS-1:0] memory [0:DEPTH-1];
    reg [CHANNELS*BITS-1:0] words;
    reg [CHANNELS*FACTOR_BITS-1:0] factors;
    always @(posedge clk)
        if (write) memory[write_address] <= in_data;
    always @(posedge clk)
        if (advance) begin
            words <= memory[read_address];
            factors <= factor_data;
        end

    always @(posedge clk)
        if (rst) begin
            write_address <= {ADDRESS_BITS{1'b0}};
            read_address <= {ADDRESS_BITS{1'b0}};
            count <= {COUNT_BITS{1'b0}};
            pixels_in <= {PIXEL_BITS{1'b0}};
            pixels_out <= {PIXEL_BITS{1'b0}};
            sum_valid <= 1'b0;
            read_valid <= 1'b0;
            out_valid <= 1'b0;
        end else begin
            if (write) begin
                write_address <= write_address == LAST_ADDRESS[ADDRESS_BITS-1:0] ? {ADDRESS_BITS{1'b0}} : write_address + 1'b1;
                pixels_in <= last_in ? {PIXEL_BITS{1'b0}} : pixels_in + 1'b1;
            end
            if (read) begin
                read_address <= read_address == LAST_ADDRESS[ADDRESS_BITS-1:0] ? {ADDRESS_BITS{1'b0}} : read_address + 1'b1;
                pixels_out <= last_out ? {PIXEL_BITS{1'b0}} : pixels_out + 1'b1;
            end
            if (write && !read) count <= count + 1'b1;
            if (read && !write) count <= count - 1'b1;
            if (write && last_in) sum_valid <= 1'b1;
            else if (sum_ready) sum_valid <= 1'b0;
            if (advance) begin
                read_valid <= read;
                out_valid <= read_valid;
            end
        end

    genvar c;
    generate
        for (c = 0; c < CHANNELS; c = c + 1) begin : channel
            // Summed up to the pixel before, and with the one that enters.
            wire [BITS-1:0] entering = in_data[c*BITS +: BITS];
            wire [SUM_BITS-1:0] term;
            reg [SUM_BITS-1:0] total;
            wire [SUM_BITS-1:0] total_next = (first_in ? {SUM_BITS{1'b0}} : total) + term;
            if (SUM_BITS > BITS) begin : extended
                assign term = {{(SUM_BITS-BITS){SIGNED != 0 && entering[BITS-1]}}, entering};
            end else if (SUM_BITS == BITS) begin : as_it_is
                assign term = entering;
            end else begin : cut
                wire unused_top = |entering[BITS-1:SUM_BITS];
                assign term = entering[SUM_BITS-1:0];
            end
            always @(posedge clk)
                if (write) begin
                    total <= total_next;
                    if (last_in) sum_data[c*SUM_BITS +: SUM_BITS] <= total_next;
                end

            wire signed [WORD_BITS-1:0] word;
            wire signed [BY_BITS-1:0] factor;
            if (SIGNED != 0) begin : word_signed
                assign word = words[c*BITS +: BITS];
            end else begin : word_unsigned
                assign word = {1'b0, words[c*BITS +: BITS]};
            end
            if (FACTOR_SIGNED != 0) begin : factor_signed
                assign factor = factors[c*FACTOR_BITS +: FACTOR_BITS];
            end else begin : factor_unsigned
                assign factor = {1'b0, factors[c*FACTOR_BITS +: FACTOR_BITS]};
            end
            wire signed [PRODUCT_BITS-1:0] product = word * factor;
            if (OUT_BITS > PRODUCT_BITS) begin : wide
                always @(posedge clk)
                    if (advance)
                        out_data[c*OUT_BITS +: OUT_BITS] <= {{(OUT_BITS-PRODUCT_BITS){product[PRODUCT_BITS-1]}}, product};
            end else if (OUT_BITS == PRODUCT_BITS) begin : whole
                always @(posedge clk)
                    if (advance) out_data[c*OUT_BITS +: OUT_BITS] <= product;
            end else begin : low
                wire unused_sign = |product[PRODUCT_BITS-1:OUT_BITS];
                always @(posedge clk)
                    if (advance) out_data[c*OUT_BITS +: OUT_BITS] <= product[OUT_BITS-1:0];
            end
        end
    endgenerate
endmodule
