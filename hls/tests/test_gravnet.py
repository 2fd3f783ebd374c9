import random
from dataclasses import dataclass, replace

from hls.tests import flows
from hls.tests.bench import Bench
from hls.tests.flows import Flow
from hls.tests.graphs import Node, codes, exponential, gravnet, node_word, requantised
from hls.tests.test_nearest import events, latency
from hls.tests.words import pack

PART = "caloedge_gravnet"


@dataclass(frozen=True)
class Layer:
    """A layer: a barrier and lanes, but only some of the PAR."""

    par: int
    nodes: int = 32
    dimensions: int = 6
    bits: int = 8
    reach: int = 36
    k: int = 7
    levels: int = 2
    features: int = 8
    feature_bits: int = 8
    weight_bits: int = 8
    message: tuple[int, int] = (7, 8)
    mean: tuple[int, int] = (3, 8)
    weights: tuple[int, ...] = ()
    """exp(-10 d) where there are none."""
    count: int = 18

    @property
    def lanes(self) -> list[int]:
        return [self.par - 1] if self.nodes > 24 else sorted({0, self.par - 1})


def parameters(layer: Layer) -> dict[str, int]:
    return {
        "NODES": layer.nodes,
        "PAR": layer.par,
        "DIMENSIONS": layer.dimensions,
        "BITS": layer.bits,
        "REACH": layer.reach,
        "K": layer.k,
        "LEVELS_PER_STAGE": layer.levels,
        "FEATURES": layer.features,
        "FEATURE_BITS": layer.feature_bits,
        "WEIGHT_BITS": layer.weight_bits,
        "MESSAGE_SHIFT": layer.message[0],
        "MESSAGE_BITS": layer.message[1],
        "MEAN_SHIFT": layer.mean[0],
        "MEAN_BITS": layer.mean[1],
    }


def body(layer: Layer, weights: list[int]) -> str:
    """Return a barrier for coordinates and the lanes, which also take features; out come {maximum, mean} of each lane."""
    p = parameters(layer)
    node, row = 1 + layer.dimensions * layer.bits, layer.features * layer.feature_bits
    beats = layer.nodes // layer.par
    beat_bits, place_bits, index_bits = (
        max(1, (beats - 1).bit_length()),
        layer.par.bit_length() - 1,
        (layer.nodes - 1).bit_length(),
    )
    mean, largest = layer.features * layer.mean[1], layer.features * layer.message[1]
    table_bits = len(weights) * layer.weight_bits
    literal = f"{table_bits}'h{pack(weights, layer.weight_bits):x}"
    coordinates, features = f"NAME_in_data[0 +: {layer.par * node}]", f"NAME_in_data[{layer.par * node} +: {layer.par * row}]"
    text = f"""\
    wire NAME_valid, NAME_unused_first, NAME_unused_last;
    wire [{beat_bits - 1}:0] NAME_unused_beat;
    wire [{layer.par * node - 1}:0] NAME_unused_own;
    wire [{layer.nodes * node - 1}:0] NAME_event;
    wire [{len(layer.lanes) - 1}:0] NAME_unused_valids;
    assign NAME_out_valid = NAME_unused_valids[0];
    caloedge_barrier #(.NODES({layer.nodes}), .PAR({layer.par}), .WIDTH({node})) NAME_barrier (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_in_valid), .in_data({coordinates}), .out_valid(NAME_valid),
        .out_first(NAME_unused_first), .out_last(NAME_unused_last), .out_beat(NAME_unused_beat), .out_own(NAME_unused_own),
        .out_event(NAME_event));
"""
    for number, lane in enumerate(layer.lanes):
        place, at = f"{place_bits}'d{lane}", number * (mean + largest)
        index = place if beats == 1 else "NAME_unused_beat" if layer.par == 1 else f"{{NAME_unused_beat, {place}}}"
        assert index_bits == place_bits + (beat_bits if beats > 1 else 0)
        text += f"""\
    PART #({flows.values(p, {"WEIGHTS": literal})}) NAME_lane{lane} (
        .clk(clk), .rst(NAME_rst), .feature_valid(NAME_in_valid), .feature_data({features}), .in_valid(NAME_valid),
        .in_event(NAME_event), .in_query(NAME_unused_own[{lane * node} +: {node - 1}]), .in_index({index}),
        .out_valid(NAME_unused_valids[{number}]), .out_mean(NAME_out_data[{at} +: {mean}]),
        .out_max(NAME_out_data[{at + mean} +: {largest}]));
"""
    return text


def flow(layer: Layer) -> Flow:
    """Return events with their features; a result is what the lanes give in one cycle."""
    p = parameters(layer)
    rng = random.Random(str(layer))
    weights = list(layer.weights) or exponential(layer.reach)
    assert len(weights) == layer.reach + 1
    ways = codes(layer.feature_bits, (1, 3))
    beats: list[int] = []
    results = []
    for event in events(p, rng, layer.count):
        way = rng.choice(ways)
        nodes = [replace(node, features=[way(rng) for _ in range(layer.features)]) for node in event]
        for at in range(0, layer.nodes, layer.par):
            own = nodes[at : at + layer.par]
            rows = [pack(node.features or [], layer.feature_bits) for node in own]
            rows_word = pack(rows, layer.features * layer.feature_bits)
            node_bits = 1 + layer.dimensions * layer.bits
            nodes_word = pack([node_word(node, layer.bits) for node in own], node_bits)
            beats.append((rows_word << (layer.par * node_bits)) + nodes_word)
        for at in range(0, layer.nodes, layer.par):
            words = []
            for index in (at + lane for lane in layer.lanes):
                means, largest = gravnet(nodes, index, layer.k, weights, layer.message, layer.mean)
                words.append(pack(means, layer.mean[1]) + (pack(largest, layer.message[1]) << (layer.features * layer.mean[1])))
            bits = layer.features * (layer.mean[1] + layer.message[1])
            results.append((len(beats) - 1, 1 + at // layer.par + latency(p) + 5, pack(words, bits)))
    node = 1 + layer.dimensions * layer.bits + layer.features * layer.feature_bits
    out_bits = len(layer.lanes) * layer.features * (layer.mean[1] + layer.message[1])
    return Flow(PART, p, body(layer, weights), layer.par * node, out_bits, beats, results)


def any_layer(seed: int) -> Layer:
    rng = random.Random(f"gravnet {seed}")
    par, reach, weight_bits = rng.choice((1, 2, 4)), rng.randint(1, 60), rng.randint(1, 10)
    nodes = par * rng.randint(2 if par == 1 else 1, 5)
    return Layer(
        par,
        nodes,
        rng.randint(1, 7),
        rng.randint(2, 8),
        reach,
        rng.randint(1, min(nodes, 12)),
        rng.randint(1, 3),
        rng.randint(1, 5),
        rng.randint(1, 10),
        weight_bits,
        (rng.randint(0, 7), rng.randint(2, 11)),
        (rng.randint(-1, 5), rng.randint(2, 11)),
        tuple(rng.getrandbits(weight_bits) for _ in range(reach + 1)),
    )


LAYERS = [
    Layer(1, features=2, count=7),
    Layer(2, count=12),
    Layer(4, features=1),
    Layer(8, features=1, dimensions=5),  # an event per 4 cycles
    Layer(4, nodes=128, features=1, count=6),
    Layer(8, nodes=8, dimensions=3, features=3),  # an event per cycle
    Layer(2, nodes=24, dimensions=4, k=5, features=3, feature_bits=6, message=(4, 8), mean=(1, 7)),  # messages and means clip
    *[any_layer(seed) for seed in range(5)],
]
# With 32, every second product lies in the middle between two messages, and means reach their limits.
UNEVEN = (*(32 if distance % 2 else weight for distance, weight in enumerate(exponential(36)[:36])), 0)
SMALL = Layer(4, nodes=16, dimensions=2, features=1, mean=(2, 4), message=(6, 8), weights=UNEVEN, count=14)


def test_the_model_itself() -> None:
    event = [Node(True, [x], features=[f]) for x, f in ((0, 10), (1, -20), (2, 7), (9, 100))]
    assert gravnet(event, 0, 2, [8, 4, 2, 0], (2, 8), (1, 8)) == ([-8], [4])  # -20 and 3.5, which is 4
    assert gravnet(event, 3, 2, [8, 4, 2, 0], (2, 8), (1, 8)) == ([0], [0])
    assert [requantised(value, 1, 4) for value in (-3, -1, 1, 3, 20, -20)] == [-2, 0, 0, 2, 7, -8]


def test_lint(bench: Bench) -> None:
    flows.lint(bench, [flow(layer) for layer in LAYERS if layer.nodes < 128])


def test_gravnet(bench: Bench) -> None:
    flows.simulate(bench, [flow(layer) for layer in LAYERS])


def test_an_error_is_caught(bench: Bench) -> None:
    table = "TABLE[distance*WEIGHT_BITS +: WEIGHT_BITS];"
    errors = [
        (table, f"distance == 8 ? {{WEIGHT_BITS{{1'b1}}}} : {table}"),  # one entry
        (table, f"distance == REACH ? {{{{(WEIGHT_BITS-1){{1'b0}}}}, 1'b1}} : {table}"),  # padding sends something
        ("late[0] <= feature_data;", "late[0] <= {feature_data[PAR*ROW_BITS-1:1], ~feature_data[0]};"),
        ("if (write) memory[{write_bank, write_beat}]", "if (write) memory[{1'b0, write_beat}]"),
        ("memory[{read_bank, beat}];", "memory[{!read_bank, beat}];"),
        ("wire write = late_valid[SEARCH-1];", "wire write = late_valid[0];"),  # too early for the features of two events before
        (".SHIFT(MESSAGE_SHIFT), .ROUNDING(2)", ".SHIFT(MESSAGE_SHIFT), .ROUNDING(1)"),
        (".SHIFT(MEAN_SHIFT), .ROUNDING(2)", ".SHIFT(MEAN_SHIFT), .ROUNDING(1)"),
        (".HIGH(MEAN_HIGH)", ".HIGH(MEAN_HIGH - 64'sd1)"),
        ("value * factor;", "value * $signed(factor[WEIGHT_BITS-1:0]);"),  # a weight of 1 is -1
        (".SIGNED(1)) of_all", ".SIGNED(0)) of_all"),
        (".SIGNED(1)) of_four", ".SIGNED(0)) of_four"),
        ("localparam COUNT = K - 4 * m < 4 ? K - 4 * m : 4;", "localparam COUNT = 3;"),  # one neighbour is left out
        ("read[from*ROW_BITS +: ROW_BITS];", "read[ROW_BITS-1:0];"),
    ]
    assert flows.survivors(bench, PART, errors, flow(SMALL)) == []
