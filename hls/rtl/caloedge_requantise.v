// Divides a signed word by 2 ** SHIFT, rounds, and clips to [LOW, HIGH]: the hardware of
// caloedge.compiler.fixed.requantise. Combinational.
//
//   IN_WIDTH   bits of the word, two's complement
//   SHIFT      bits to drop; may exceed IN_WIDTH; a negative one multiplies by 2 ** -SHIFT
//   ROUNDING   0 towards minus infinity, 1 to nearest with ties up, 2 to nearest with ties to even
//   OUT_WIDTH  bits of the result, which must hold LOW and HIGH
//   LOW, HIGH  signed bounds, LOW <= HIGH, given as 64-bit literals (-64'sd128); LOW is 0 for a ReLU
//
// Latency 0 cycles.
module caloedge_requantise #(
    parameter IN_WIDTH = 16,
    parameter SHIFT = 4,
    parameter ROUNDING = 2,
    parameter OUT_WIDTH = 8,
    parameter signed [63:0] LOW = 64'sd0,
    parameter signed [63:0] HIGH = 64'sd255
) (
    input  wire [IN_WIDTH-1:0]  in_data,
    output wire [OUT_WIDTH-1:0] out_data
);
    // The bits that a signed constant needs.
    function integer bits_of;
        input signed [63:0] value;
        integer i;
        begin
            bits_of = 1;
            for (i = 0; i < 63; i = i + 1)
                if (value[i] != value[63]) bits_of = i + 2;
        end
    endfunction

    // Widths: of the word as it is divided (there must be a bit left of the point), of the rounded quotient, and of the
    // comparison with the bounds.
    localparam WIDE = SHIFT >= IN_WIDTH ? SHIFT + 1 : IN_WIDTH;
    localparam ROUNDED = SHIFT > 0 ? WIDE - SHIFT + 1 : IN_WIDTH - SHIFT;
    localparam BOUND_BITS = bits_of(LOW) > bits_of(HIGH) ? bits_of(LOW) : bits_of(HIGH);
    localparam CLIP_BITS = ROUNDED > BOUND_BITS ? ROUNDED : BOUND_BITS;
    localparam [CLIP_BITS+63:0] LOW_WIDE = {{CLIP_BITS{LOW[63]}}, LOW};
    localparam [CLIP_BITS+63:0] HIGH_WIDE = {{CLIP_BITS{HIGH[63]}}, HIGH};
    localparam signed [CLIP_BITS-1:0] LOWEST = LOW_WIDE[CLIP_BITS-1:0];
    localparam signed [CLIP_BITS-1:0] HIGHEST = HIGH_WIDE[CLIP_BITS-1:0];

    wire [ROUNDED-1:0] rounded;
    generate
        if (SHIFT > 0) begin : divide
            wire [2*WIDE-1:0] unused_wide = {{(2*WIDE-IN_WIDTH){in_data[IN_WIDTH-1]}}, in_data};
            wire [WIDE-1:0] word = unused_wide[WIDE-1:0];
            wire [WIDE-SHIFT-1:0] quotient = word[WIDE-1:SHIFT];
            wire [SHIFT-1:0] rest = word[SHIFT-1:0];
            wire half = rest[SHIFT-1];
            wire odd_or_more; // the quotient is odd, or more than half is lost
            if (SHIFT > 1) begin : more
                assign odd_or_more = quotient[0] || (|rest[SHIFT-2:0]);
            end else begin : only_half
                assign odd_or_more = quotient[0];
            end
            wire up = ROUNDING == 0 ? 1'b0 : ROUNDING == 1 ? half : half && odd_or_more;
            assign rounded = {quotient[WIDE-SHIFT-1], quotient} + {{(ROUNDED-1){1'b0}}, up};
        end else if (SHIFT < 0) begin : multiply
            assign rounded = {in_data, {(-SHIFT){1'b0}}};
        end else begin : keep
            assign rounded = in_data;
        end
    endgenerate

    wire [CLIP_BITS+ROUNDED-1:0] unused_value = {{CLIP_BITS{rounded[ROUNDED-1]}}, rounded};
    wire signed [CLIP_BITS-1:0] value = unused_value[CLIP_BITS-1:0];
    wire signed [CLIP_BITS-1:0] clipped = value < LOWEST ? LOWEST : value > HIGHEST ? HIGHEST : value;

    wire [CLIP_BITS+OUT_WIDTH-1:0] unused_out = {{OUT_WIDTH{clipped[CLIP_BITS-1]}}, clipped};
    assign out_data = unused_out[OUT_WIDTH-1:0];
endmodule
