"""The whole reconstruction as one hardware design: a 51 × 51 event goes in row by row, up to four photons come out.

    rows → extract → dispatch ⇒ lanes of seed finders ⇒ gather → top k → group → center finder → photon → collect → photons

The parts are hand-written (`hls/rtl/`), the two networks are backend `rtl`'s, and what joins them is written here. Results
of the lanes arrive in any order; `caloedge_top_k` makes the group independent of it. The project is one of backend `rtl`:
simulated, synthesised and looked at like any other.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge import tools
from caloedge.backends.rtl.design import Design, Stream, design
from caloedge.backends.rtl.project import simulate_cycles, streamed, with_stem, write_project
from caloedge.backends.rtl.tables import literal
from caloedge.backends.rtl.text import (
    VerilogText,
    instance,
    link,
    part_of,
    renamed,
    stream_end,
    stream_module,
    stream_ports,
    stream_wires,
    written_instance,
)
from caloedge.backends.rtl.verilog import write_design
from caloedge.catalog import CycleRun, Target, Waves
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.deepcluster.chain import SLOTS, Networks
from caloedge.detector.crystals.events import GRID, WINDOW
from caloedge.errors import Unsupported
from caloedge.project import generator_digest
from caloedge.reconstruction import windowing

TOP = "caloedge_event"
WORDS = ("valid", "x", "y", "energy", "score")
"""Words of each photon that leaves the design."""
COORDINATE_BITS = (GRID - 1).bit_length()
WINDOW_BITS = WINDOW * WINDOW * windowing.CODE_BITS
SUM_BITS = windowing.CODE_BITS + 4
CONTEXT_BITS = 2 * COORDINATE_BITS + 3 + 4 + SUM_BITS
"""Bits of what a member's photon is computed from, besides the outputs: row, column, orientation, exponent and
sum of nine crystals."""
IN_FLIGHT = 8
"""Windows that a streaming network works on at the same time, at most; more would only wait in front of it."""


@dataclass(frozen=True)
class Choice:
    """Choices with which the design is built."""

    variant: str = "streaming"
    """Variant of both networks, as backend `rtl` names it."""
    lanes: int = 2
    """Copies of the seed finder."""


@dataclass(frozen=True, eq=False)
class EventDesign:
    """Streams of the design for its simulation: rows of crystals in, slots of photons out."""

    source: Stream
    result: Stream
    streaming: bool = True


def build(seeds: Graph, centres: Graph, nets: Networks, target: Target, choice: Choice, folder: Path) -> None:
    """Write the Verilog of the whole reconstruction and compile its simulation; the folder appears whole or not at all."""
    tools.newest("verilator"), tools.find("g++"), tools.find("make")
    text = VerilogText(TOP)
    seed_net = _network("seeds", seeds, target, choice.variant, text)
    centre_net = _network("centres", centres, target, choice.variant, text)
    word_bits = _write_top(seed_net, centre_net, nets, choice.lanes, text)
    order = np.arange(GRID * GRID)
    event_design = EventDesign(
        Stream(GRID, GRID, Format(False, windowing.CODE_BITS, windowing.CODE_FRACTION), order),
        Stream(1, SLOTS * len(WORDS), Format(True, word_bits, 0), np.arange(SLOTS * len(WORDS))),
    )
    busiest = (GRID - WINDOW + 1) * seed_net.interval + SLOTS * centre_net.interval  # cycles while no row is taken
    values = record(seeds, centres, nets, target, choice) | {"timeout_cycles": busiest + 1000}
    values["input"] = {
        "shape": [GRID, GRID],
        "format": str(event_design.source.format),
        "range": [0, 2**windowing.CODE_BITS - 1],
        **streamed(event_design.source),
    }
    values["output"] = {
        "name": "photons",
        "shape": [SLOTS, len(WORDS)],
        "format": str(event_design.result.format),
        **streamed(event_design.result),
    }
    both = hashlib.sha256(f"{seeds.digest} {centres.digest}".encode()).hexdigest()
    write_project(event_design, with_stem(text, "event", both), values, folder)


def simulate(folder: Path, codes_EXY: NDArray[Any], stall: float, waves: Waves | None = None) -> CycleRun:
    """Simulate a built project on events of codes; `photons` are slots (E, 4, 5), and cycles are measured."""
    return simulate_cycles(folder, codes_EXY, stall, waves)


def record(seeds: Graph, centres: Graph, nets: Networks, target: Target, choice: Choice) -> dict[str, Any]:
    """Return what a project was built from."""
    return {
        "backend": "rtl",
        "variant": choice.variant,
        "graph": f"{seeds.digest} {centres.digest}",
        "part": target.part,
        "clock_mhz": target.clock_mhz,
        "target": hashlib.sha256(repr(target).encode()).hexdigest()[:16],
        "choices": {"lanes": choice.lanes, "thresholds": [nets.seed_threshold, nets.photon_threshold]},
        "generator": f"{generator_digest()} {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}",
        "inputs": [],
    }


# The networks


@dataclass(frozen=True)
class _Network:
    """A written network with handshakes."""

    module: str
    source: Stream
    result: Stream
    interval: int
    in_flight: int


def _network(prefix: str, graph: Graph, target: Target, variant: str, text: VerilogText) -> _Network:
    """Write a network's modules under names of its own, and one with a beat per event and handshakes at both ends."""
    network_design: Design = design(graph, target, variant, {})
    written = write_design(network_design, target.adders_per_stage())
    names = {name: f"{prefix}_{name.removeprefix('caloedge_')}" for name in written.modules}
    text.modules |= renamed(written.modules, names)
    text.parts |= written.parts
    text.blocks |= {names[name]: number for name, number in written.blocks.items()}
    text.adders += written.adders
    if network_design.result.beats != 1 or list(network_design.result.order) != list(range(network_design.result.words)):
        raise Unsupported(f"{graph.name}: gives its outputs in {network_design.result.beats} beats; the reconstruction takes one")
    if list(network_design.source.order) != list(range(len(network_design.source.order))):
        raise Unsupported(f"{graph.name}: takes its inputs in another order than the windows'; use one channel")
    module, bits, out = f"{prefix}_whole", network_design.source.beats * network_design.source.bits, network_design.result.bits
    body: list[str] = []
    input_stream = "in"
    if network_design.source.beats > 1:
        parameters: dict[str, int | str] = {"WIDTH": network_design.source.bits, "BEATS": network_design.source.beats}
        body.append(stream_wires("words", network_design.source.bits))
        body.append(instance("caloedge_split", "words_unit", text, parameters, link("in", "words")))
        input_stream = "words"
    if network_design.streaming:
        body.append(written_instance(names[network_design.name], "net", link(input_stream, "out")))
        in_flight = IN_FLIGHT
    else:  # a pipeline that cannot wait: a result has its place before its event is let in
        latency = written.pipeline_cycles
        assert latency is not None
        free = {"in_valid": "1'b0", "in_data": f"{input_stream}_data", "out_valid": "unused_valid", "out_data": "result"}
        credit = {"in_valid": f"{input_stream}_valid", "in_ready": f"{input_stream}_ready", "core_result": "result"} | stream_end(
            "out", "out"
        )
        body += [
            f"  wire [{out - 1}:0] result;\n  wire unused_valid;",
            written_instance(names[network_design.name], "net", free),
            instance("caloedge_credit", "credit", text, {"LATENCY": latency, "WIDTH": out}, credit),
        ]
        in_flight = latency + 2
    remark = f"{graph.name}: one event per beat, handshakes at both ends."
    text.modules[module] = stream_module(module, remark, bits, out, body)
    interval = max(stage.cycles for stage in network_design.stages)
    return _Network(module, network_design.source, network_design.result, interval, in_flight)


# The parts and what joins them


def _write_top(seeds: _Network, centres: _Network, nets: Networks, lanes: int, text: VerilogText) -> int:
    """Write lanes and top; return the bits of each word that leaves."""
    score_bits, out_bits = seeds.result.bits, centres.result.format.width
    payload = 2 * COORDINATE_BITS + WINDOW_BITS
    text.modules["seeds_lane"] = stream_module(
        "seeds_lane", "Scores a window; it waits in a FIFO for its score.", payload, score_bits + payload,
        _beside(seeds, payload, f"in_data[{WINDOW_BITS - 1}:0]", text),
    )  # fmt: skip
    feature_bits = windowing.FEATURES * windowing.FEATURE_BITS
    member = 1 + CONTEXT_BITS + feature_bits
    text.modules["centres_lane"] = stream_module(
        "centres_lane", "Measures a member; the beat that ends an event passes beside the network.", member,
        1 + CONTEXT_BITS + 4 * out_bits, _around_last(centres, feature_bits, text),
    )  # fmt: skip
    position_bits = max(COORDINATE_BITS + nets.fraction, out_bits) + 2
    energy_bits = max(SUM_BITS + nets.fraction, out_bits + windowing.HIGHEST_EXPONENT) + 2
    photon = 2 * position_bits + energy_bits + out_bits
    word_bits = max(position_bits, energy_bits, out_bits)
    group = SLOTS * (1 + payload)
    grid: dict[str, int | str] = {"ROWS": GRID, "COLUMNS": GRID, "BITS": windowing.CODE_BITS}
    kernel: dict[str, int | str] = {"KERNEL": WINDOW}
    body = [
        stream_wires("cut", 1 + payload),
        instance("caloedge_extract", "extract", text, grid | kernel | {"THRESHOLD": literal(windowing.THRESHOLD_CODE, 64)},
                 link("in", "cut")),
        f"  wire [{lanes - 1}:0] lane_valid, lane_ready, scored_valid, scored_ready;\n  wire [{payload - 1}:0] lane_data;",
        f"  wire [{lanes * (score_bits + payload) - 1}:0] scored_data;\n  wire end_valid, end_ready;",
        stream_wires("score", score_bits + payload),
        instance("caloedge_dispatch", "dispatch", text, {"LANES": lanes, "WIDTH": payload, "COUNT_BITS": 12},
                 link("cut", "lane")
                 | {"returned": "score_valid && score_ready", "end_valid": "end_valid", "end_ready": "end_ready"}),
        *(written_instance("seeds_lane", f"lane_{i}", _lane(i, score_bits + payload)) for i in range(lanes)),
        instance("caloedge_gather", "gather", text, {"LANES": lanes, "WIDTH": score_bits + payload},
                 link("scored", "score")),
        stream_wires("kept", group),
        instance("caloedge_top_k", "top", text,
                 {"KEEP": SLOTS, "SCORE_BITS": score_bits, "KEY_BITS": 2 * COORDINATE_BITS, "WIDTH": WINDOW_BITS,
                  "THRESHOLD": literal(nets.seed_threshold, 64)},
                 link("score", "kept") | {"end_valid": "end_valid", "end_ready": "end_ready"}),
        stream_wires("member", member),
        instance("caloedge_group", "group", text, grid | kernel | _features(), link("kept", "member")),
        stream_wires("measured", 1 + CONTEXT_BITS + 4 * out_bits),
        written_instance("centres_lane", "centres", link("member", "measured")),
        stream_wires("photon", 1 + photon),
        instance("caloedge_photon", "photons", text,
                 grid | {"OUT_BITS": out_bits, "FRACTION": nets.fraction, "POSITION_BITS": position_bits,
                         "ENERGY_BITS": energy_bits, "THRESHOLD": literal(nets.photon_threshold, 64)},
                 link("measured", "photon")),
        f"  wire [{SLOTS * (1 + photon) - 1}:0] slots;",
        instance("caloedge_collect", "collect", text, {"KEEP": SLOTS, "WIDTH": photon},
                 link("photon", "out") | {"out_data": "slots"}),
        *_slot_words(photon, (position_bits, energy_bits, out_bits), word_bits),
    ]  # fmt: skip
    text.modules[TOP] = stream_module(
        TOP, f"{GRID} rows of {GRID} crystals in; {SLOTS} slots of {', '.join(WORDS)} out, {word_bits} bit each.",
        GRID * windowing.CODE_BITS, SLOTS * len(WORDS) * word_bits, body,
    )  # fmt: skip
    text.blocks = {name: number * (lanes if name.startswith("seeds_") else 1) for name, number in text.blocks.items()}
    text.ports = stream_ports(GRID * windowing.CODE_BITS, SLOTS * len(WORDS) * word_bits)
    return word_bits


def _beside(net: _Network, payload: int, input_expression: str, text: VerilogText) -> list[str]:
    """Return a network with a FIFO beside it that holds what its input came with."""
    return [
        stream_wires("held", payload), stream_wires("made", net.result.bits), "  wire held_free, net_free;",
        "  assign in_ready = held_free && net_free;",
        instance("caloedge_fifo", "held_unit", text, {"WIDTH": payload, "DEPTH": net.in_flight},
                 {"in_valid": "in_valid && net_free", "in_ready": "held_free", "in_data": "in_data"} | stream_end("out", "held")),
        written_instance(net.module, "net", {"in_valid": "in_valid && held_free", "in_ready": "net_free",
                                             "in_data": input_expression} | stream_end("out", "made")),
        "  assign out_valid = held_valid && made_valid;",
        "  assign held_ready = out_ready && made_valid;\n  assign made_ready = out_ready && held_valid;",
        "  assign out_data = {made_data, held_data};",
    ]  # fmt: skip


def _around_last(net: _Network, feature_bits: int, text: VerilogText) -> list[str]:
    """Return a network whose inputs come with a context; a context with last = 1 has no input and gets zeros."""
    context = 1 + CONTEXT_BITS
    return [
        stream_wires("held", context), stream_wires("made", net.result.bits), "  wire held_free, net_free;",
        f"  wire last = in_data[{context + feature_bits - 1}];",
        "  assign in_ready = held_free && (last || net_free);",
        instance("caloedge_fifo", "held_unit", text, {"WIDTH": context, "DEPTH": net.in_flight},
                 {"in_valid": "in_valid && (last || net_free)", "in_ready": "held_free",
                  "in_data": f"in_data[{context + feature_bits - 1}:{feature_bits}]"} | stream_end("out", "held")),
        written_instance(net.module, "net", {"in_valid": "in_valid && held_free && !last", "in_ready": "net_free",
                                             "in_data": f"in_data[{feature_bits - 1}:0]"} | stream_end("out", "made")),
        f"  wire held_last = held_data[{context - 1}];",
        "  assign out_valid = held_valid && (held_last || made_valid);",
        "  assign held_ready = out_ready && (held_last || made_valid);",
        "  assign made_ready = out_ready && held_valid && !held_last;",
        f"  assign out_data = {{held_data, held_last ? {net.result.bits}'d0 : made_data}};",
    ]  # fmt: skip


def _slot_words(photon: int, bits: tuple[int, int, int], word_bits: int) -> list[str]:
    """Return the assignment of slots {valid, x, y, energy, score} to words of one width."""
    position, energy, score = bits
    words = []
    for slot in range(SLOTS):
        low = slot * (1 + photon)
        words.append(f"{{{word_bits - 1}'d0, slots[{low + photon}]}}" if word_bits > 1 else f"slots[{low + photon}]")
        for offset, width in (
            (photon - position, position), (photon - 2 * position, position), (score, energy), (0, score),
        ):  # fmt: skip
            part = f"slots[{low + offset + width - 1}:{low + offset}]"
            sign = f"{{{word_bits - width}{{slots[{low + offset + width - 1}]}}}}, " if word_bits > width else ""
            words.append(f"{{{sign}{part}}}")
    return [f"  assign out_data = {{{', '.join(reversed(words))}}};"]


def _features() -> dict[str, int | str]:
    """Return how `caloedge_group` makes features: their bits, and the weights of neighbours by their squared distance."""
    weights = {f"W{x * x + y * y}": code for (x, y), code in zip(windowing.OFFSETS, windowing.WEIGHT_CODES, strict=True)}
    headroom = windowing.FEATURE_BITS - 1 - windowing.NORMALISED
    return {"KEEP": SLOTS, "FEATURE_BITS": windowing.FEATURE_BITS, "HEADROOM": headroom, **weights}


def _lane(number: int, bits: int) -> dict[str, str]:
    ports = {f"{side}_{signal}": f"{stream}_{signal}[{number}]" for side, stream in (("in", "lane"), ("out", "scored"))
             for signal in ("valid", "ready")}  # fmt: skip
    return ports | {"in_data": "lane_data", "out_data": part_of("scored_data", number, bits)}
