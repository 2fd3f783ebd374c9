// Keeps what nodes give as they pass, and looks it up at the indices that are chosen when their event is over.
//
//   NODES      nodes of an event
//   PAR        nodes of a beat, a power of two; divides NODES
//   WIDTH      bits of what a node gives
//   MOST       indices of an event, at least 1
//   SLOTS      indices that are looked up per cycle
//   OUT_BEATS  cycles of an event at the output, at most NODES / PAR; SLOTS * OUT_BEATS is at least MOST
//   EVENTS     events that are kept, a power of two from 2 on: (EVENTS - 1) * NODES / PAR is at least OUT_BEATS - 1 more than
//              the cycles from the last beat of an event to its indices
//   NOTE_BITS  bits of a note that comes with the indices, at least 1
//
// Node n of an event comes in beat n / PAR, at place n % PAR. Indices come once per event, in the order of events, at least
// OUT_BEATS cycles after those of the event before. Out: OUT_BEATS beats in a row with SLOTS entries {word, index, present}
// each, in the order of the indices; an absent one has zeros, and so have those behind MOST. The note stands beside each.
//
// What nodes give lies in PAR memories for each slot, as each slot reads at an address of its own.
// Latency 2 cycles from the indices to the first beat; throughput 1 beat per cycle at both ends; no ready.
module caloedge_look_up #(
    parameter NODES = 32,
    parameter PAR = 2,
    parameter WIDTH = 8,
    parameter MOST = 16,
    parameter SLOTS = 1,
    parameter OUT_BEATS = 16,
    parameter EVENTS = 4,
    parameter NOTE_BITS = 1
) (
    input  wire                                       clk,
    input  wire                                       rst,
    input  wire                                       in_valid,
    input  wire [PAR*WIDTH-1:0]                       in_data,
    input  wire                                       chosen_valid,
    input  wire [MOST*$clog2(NODES)-1:0]              chosen_indices,
    input  wire [MOST-1:0]                            chosen_present,
    input  wire [NOTE_BITS-1:0]                       chosen_note,
    output reg                                        out_valid,
    output reg  [SLOTS*(1+$clog2(NODES)+WIDTH)-1:0]   out_data,
    output reg  [NOTE_BITS-1:0]                       out_note
);
    localparam BEATS = NODES / PAR;
    localparam BEAT_BITS = BEATS > 1 ? $clog2(BEATS) : 1;
    localparam EVENT_BITS = $clog2(EVENTS);
    localparam PLACE_BITS = $clog2(PAR);
    localparam INDEX_BITS = $clog2(NODES);
    localparam ENTRY_BITS = 1 + INDEX_BITS;
    localparam ALL_BITS = SLOTS * OUT_BEATS * ENTRY_BITS;
    localparam LEFT_BITS = $clog2(OUT_BEATS + 1);
    localparam [31:0] LAST = BEATS - 1;
    localparam [31:0] ALL_BEATS = OUT_BEATS;

    // Where the next node goes, and the event that is read.
    reg [BEAT_BITS-1:0] beat;
    reg [EVENT_BITS-1:0] event_in;
    reg [EVENT_BITS-1:0] event_out;
    reg [LEFT_BITS-1:0] left; // beats that are still to be read
    reg [ALL_BITS-1:0] waiting; // {index, present} of each, those that are read next lowest
    reg [NOTE_BITS-1:0] note;
    wire reading = left != {LEFT_BITS{1'b0}};
    wire last = beat == LAST[BEAT_BITS-1:0];
    always @(posedge clk)
        if (rst) begin
            beat <= {BEAT_BITS{1'b0}};
            event_in <= {EVENT_BITS{1'b0}};
            event_out <= {EVENT_BITS{1'b0}};
            left <= {LEFT_BITS{1'b0}};
            out_valid <= 1'b0;
        end else begin
            if (in_valid) beat <= last ? {BEAT_BITS{1'b0}} : beat + 1'b1;
            if (in_valid && last) event_in <= event_in + 1'b1;
            if (chosen_valid) left <= ALL_BEATS[LEFT_BITS-1:0];
            else if (reading) left <= left - 1'b1;
            if (left == {{(LEFT_BITS-1){1'b0}}, 1'b1}) event_out <= event_out + 1'b1;
            out_valid <= reading;
        end

    wire [ALL_BITS-1:0] chosen;
    genvar i;
    genvar p;
    generate
        for (i = 0; i < SLOTS * OUT_BEATS; i = i + 1) begin : entry
            if (i < MOST) begin : exists
                assign chosen[i*ENTRY_BITS +: ENTRY_BITS]
                    = {chosen_indices[i*INDEX_BITS +: INDEX_BITS], chosen_present[i]};
            end else begin : fills_up
                assign chosen[i*ENTRY_BITS +: ENTRY_BITS] = {ENTRY_BITS{1'b0}};
            end
        end
    endgenerate
    always @(posedge clk) begin
        if (chosen_valid) begin
            waiting <= chosen;
            note <= chosen_note;
        end else waiting <= waiting >> (SLOTS * ENTRY_BITS);
        out_note <= note;
    end

    generate
        for (i = 0; i < SLOTS; i = i + 1) begin : slot
            wire present = waiting[i*ENTRY_BITS];
            wire [INDEX_BITS-1:0] index = waiting[i*ENTRY_BITS+1 +: INDEX_BITS];
            wire [BEAT_BITS-1:0] from;
            if (BEATS > 1) begin : several_beats
                assign from = index[PLACE_BITS +: BEAT_BITS];
            end else begin : one_beat
                assign from = 1'b0;
            end
            wire [PAR*WIDTH-1:0] words;
            for (p = 0; p < PAR; p = p + 1) begin : place
                reg [WIDTH-1:0] memory [0:(EVENTS << BEAT_BITS)-1];
                always @(posedge clk)
                    if (in_valid) memory[{event_in, beat}] <= in_data[p*WIDTH +: WIDTH];
                assign words[p*WIDTH +: WIDTH] = memory[{event_out, from}];
            end
            wire [WIDTH-1:0] word;
            if (PAR > 1) begin : of_several
                assign word = words[index[PLACE_BITS-1:0]*WIDTH +: WIDTH];
            end else begin : of_one
                assign word = words;
            end
            always @(posedge clk)
                out_data[i*(ENTRY_BITS+WIDTH) +: ENTRY_BITS+WIDTH]
                    <= {word, index, present} & {ENTRY_BITS+WIDTH{present}};
        end
    endgenerate
endmodule
