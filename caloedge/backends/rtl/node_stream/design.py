"""A planned node-stream design with its ports: what a preview says and a build writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from caloedge.backends.rtl.design import LUT_LIMIT, Stream
from caloedge.backends.rtl.node_stream.adder_graph import refuse_wide
from caloedge.backends.rtl.node_stream.emission import Written, write_plan
from caloedge.backends.rtl.node_stream.estimate import latency_cycles, luts, stages
from caloedge.backends.rtl.node_stream.layout import Layout, layout
from caloedge.backends.rtl.node_stream.plan import Plan, plan
from caloedge.catalog import Target
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.unsupported import layer_names, refuse_unknown_layers
from caloedge.errors import Unsupported
from caloedge.recipe import LayerChoice


@dataclass(frozen=True, eq=False)
class NodeDesign:
    """A design that takes an event in beats of nodes; the harness drives it by its streams."""

    plan: Plan
    layout: Layout
    cutoff: int
    """Adder delays between two registers."""

    streaming: bool = True

    @property
    def source(self) -> Stream:
        """The input port's stream."""
        entry = self.plan.network.graph.input
        size = entry.shape[0] * entry.shape[1]
        return Stream(self.plan.beats, size // self.plan.beats, entry.format, np.arange(size))

    @property
    def result(self) -> Stream:
        """The output port's stream; outputs are parts of it."""
        fmt, size = self.layout.format, self.layout.beats * self.layout.words
        return Stream(self.layout.beats, self.layout.words, fmt, np.arange(size))

    def written(self) -> Written:
        """Write all Verilog."""
        return write_plan(self.plan, self.layout, self.cutoff)

    def record(self, latency: int) -> dict[str, Any]:
        """Return what the project's record says of it; `latency` is the written design's, in cycles."""
        tensors = self.plan.network.graph.tensors
        outputs = [
            {"name": op.name, "shape": list(tensors[op.name].shape), "format": str(tensors[op.name].format),
             "places": self.layout.places[op.name].tolist()}
            for op in self.plan.network.graph.outputs
        ]  # fmt: skip
        stream = self.result
        fmt = Format(stream.format.signed, stream.format.width, 0)
        return {
            "output": {
                "name": "results", "shape": [stream.beats, stream.words], "format": str(fmt),
                "beats": stream.beats, "words": stream.words, "order": stream.order.tolist(),
            },
            "outputs": outputs,
            "latency_cycles": latency,
            "stages": stages(self.plan, self.layout),
            "timeout_cycles": 200 + 4 * (latency + self.plan.beats),
            "drain_cycles": 200,
        }  # fmt: skip


def node_design(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> NodeDesign:
    """Plan a design; raise `Unsupported` before anything is traced or written."""
    refuse_unknown_layers(choices, layer_names(graph))
    planned = plan(graph, variant)
    for phase in planned.phases:
        for operation in (x for step in phase.steps if step.adder_graph for x in step.operations):
            refuse_wide(operation, planned.network)
    design = NodeDesign(planned, layout(planned), target.adders_per_stage())
    needed, has = luts(planned, design.layout), target.resources.get("LUT", 0)
    if needed > LUT_LIMIT * has:
        worst = max(stages(planned, design.layout), key=lambda row: int(row["estimated_lut_unrolled"]))
        raise Unsupported(
            f"layer {worst['layer']}: ~{worst['estimated_lut_unrolled']:,} LUT, the design ~{needed:,} at {planned.par} nodes "
            f"per cycle, more than {LUT_LIMIT:.0%} of the {has:,} of {target.part}; use a variant with fewer, or a larger target"
        )
    return design


def preview_nodes(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> str:
    """Say what would be built: nodes per cycle, interval, latency and LUTs, the last two estimated; raise as a build does."""
    design = node_design(graph, target, variant, choices)
    planned = design.plan
    needed = luts(planned, design.layout)
    share = needed / max(target.resources.get("LUT", 0), 1)
    cycles = latency_cycles(planned, design.layout, design.cutoff)
    return (
        f"{_counted(planned.par, 'node')} per cycle, {_counted(len(planned.gravnets), 'GravNet layer')}; "
        f"one event in {_counted(planned.beats, 'cycle')}, latency about {cycles} cycles; about {needed:,} LUT ({share:.1%}), "
        f"{_counted(sum(row['multipliers'] for row in stages(planned, design.layout)), 'multiplier')}"
    )


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
