"""Clustering of calorimeter hits by a graph network (Belle II's trigger, arXiv 2602.15118): GravNet and object condensation.

Each hit of an event says where its object is, what energy it has, and how sure it is to stand for the whole object (β); in the
learnt coordinates, hits of one object gather. One definition serves the published network, which gives positions of its own, the
one for firmware, which gives offsets from the hit's position, and larger float references.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caloedge.arithmetic import Arithmetic
from caloedge.catalog import Network
from caloedge.graph_layers import plain
from caloedge.results import Cell, Number, Table

HIT_FEATURES = 5
"""Energy in GeV, time in 15.625 ns, x, y, z in m."""
LEAST_ENERGY = 2.0**-12
"""Of a hit, in GeV: less is padding."""

OUTPUT_BITS, OUTPUT_FRACTION = 16, 11
"""Outputs have steps of 2⁻¹¹: 0.5 MeV and 0.5 mm."""
FACTOR_BITS, FACTOR_FRACTION = 12, 9
"""Of the factor on the hit's energy, below 8."""


@dataclass(frozen=True)
class ClusteringSize:
    """Widths of the layers; those named are of each of the two GravNet blocks."""

    embed: tuple[int, int] = (8, 16)
    """Layers on the hits themselves."""
    kept: int = 8
    """Features of the hit that are kept for the last layer."""
    dimensions: int = 6
    """Of the coordinates in which neighbours are searched."""
    propagated: int = 8
    """Features of a message."""
    block: tuple[int, int] = (32, 16)
    """Dense layers behind each GravNet layer."""
    last: int = 16
    k: int = 7
    """Neighbours, without the node itself."""
    offsets: bool = True
    """Whether positions are offsets from the hit's."""


SIZES = {
    # 4,965 parameters. There the node itself is found as one of eight neighbours and dropped: k is 7 others.
    "published": ClusteringSize(offsets=False),
    "edge": ClusteringSize(),
    "large": ClusteringSize(embed=(64, 96), kept=32, dimensions=6, propagated=32, block=(192, 128), last=128, k=15),
    "largest": ClusteringSize(embed=(128, 256), kept=64, dimensions=8, propagated=96, block=(512, 384), last=384, k=15),
}


class Clustering(nn.Module):
    """The network: (B, N, 5) hits to (B, N, 9) nodes."""

    def __init__(self, arithmetic: Arithmetic, size: ClusteringSize) -> None:
        super().__init__()
        self.size = size
        self.input = arithmetic.input("input")
        widths = {"embed1": (HIT_FEATURES, size.embed[0]), "embed2": size.embed, "kept": (HIT_FEATURES, size.kept)}
        before = size.embed[1]
        for block in ("1", "2"):
            collected = before + 2 * size.propagated
            widths |= {f"dense{block}a": (collected, size.block[0]), f"dense{block}b": size.block}
            self._add(arithmetic, f"coordinates{block}", before, size.dimensions, arithmetic.coordinates)
            self._add(arithmetic, f"features{block}", before, size.propagated, arithmetic.signed)
            self.add_module(f"gravnet{block}", arithmetic.gravnet(f"gravnet{block}", size.k))
            self.add_module(f"join{block}", arithmetic.joined(f"join{block}"))
            before = size.last
        widths |= {"between": (size.block[1], size.last), "last": (size.kept + 2 * size.block[1], size.last)}
        for name, (features_in, features_out) in widths.items():
            self._add(arithmetic, name, features_in, features_out, lambda name: arithmetic.activation(name, 0.0))
        self.join = arithmetic.joined("join")
        for name, outputs in {"signal": 1, "position": 3, "condensation": 3, "beta": 1}.items():
            self._add(arithmetic, name, size.last, outputs, _output(arithmetic))
        self._add(
            arithmetic,
            "factor",
            size.last,
            1,
            lambda name: arithmetic.fixed(name, FACTOR_BITS, FACTOR_FRACTION, signed=False),
        )
        self.energy_out, self.position_out = (_output(arithmetic)(name) for name in ("energy_out", "position_out"))
        with torch.no_grad():
            self.get_parameter("factor.bias").fill_(1.0)
            if size.offsets:
                self.get_parameter("position.bias").zero_()
                self.get_parameter("position.weight").mul_(0.1)

    def _add(
        self, arithmetic: Arithmetic, name: str, features_in: int, features_out: int, then: Callable[[str], nn.Module]
    ) -> None:
        """Add a dense layer and what follows it."""
        self.add_module(name, arithmetic.dense(name, features_in, features_out))
        self.add_module(f"{name}_act", then(f"{name}_act"))

    def _apply_dense(self, name: str, x: Tensor) -> Tensor:
        modules = self._modules
        result: Tensor = modules[f"{name}_act"](modules[name](x))  # type: ignore[misc]
        return result

    def forward(self, hits: Tensor) -> Tensor:
        """Return energy, signal, position, condensation coordinates and β (B, N, 9) of each hit."""
        if not self.training:
            return self._nodes(hits)
        # Padding comes last and touches no hit: in training it is left out where no event of the batch needs the place.
        used = int((hits[:, :, 0] >= LEAST_ENERGY).sum(1).max().clamp(min=self.size.k + 1))
        return nn.functional.pad(self._nodes(hits[:, :used]), (0, 0, 0, hits.shape[1] - used))

    def _nodes(self, hits: Tensor) -> Tensor:
        x = self.input(hits)
        values = plain(x)
        valid = torch.clamp(values[:, :, 0] * (1 / LEAST_ENERGY), 0.0, 1.0)
        nodes, kept = self._apply_dense("embed2", self._apply_dense("embed1", x)), self._apply_dense("kept", x)
        blocks = []
        for block in ("1", "2"):
            coordinates, features = (self._apply_dense(f"{name}{block}", nodes) for name in ("coordinates", "features"))
            mean, largest = self._modules[f"gravnet{block}"](coordinates, features, valid)  # type: ignore[misc]
            joined = self._modules[f"join{block}"](nodes, mean, largest)  # type: ignore[misc]
            blocks.append(self._apply_dense(f"dense{block}b", self._apply_dense(f"dense{block}a", joined)))
            nodes = self._apply_dense("between", blocks[0])
        last = self._apply_dense("last", self.join(kept, *blocks))
        signal, position, condensation, beta, factor = (
            plain(self._apply_dense(name, last)) for name in ("signal", "position", "condensation", "beta", "factor")
        )
        energy = plain(self.energy_out(factor * values[:, :, :1]))
        if self.size.offsets:
            position = plain(self.position_out(position + values[:, :, 2:5]))
        return torch.cat([energy, signal, position, condensation, beta], 2)


def _output(arithmetic: Arithmetic) -> Callable[[str], nn.Module]:
    return lambda name: arithmetic.fixed(name, OUTPUT_BITS, OUTPUT_FRACTION)


def build(arithmetic: Arithmetic, size: ClusteringSize) -> nn.Module:
    """Return the network: input (B, N, 5) hits, 0 where there are none, output (B, N, 9)."""
    return Clustering(arithmetic, size)


GNN_ETM = "arXiv 2602.15118, and the later talk indico.global 14708 for 1.050 µs"
DEMONSTRATOR = "arXiv 2605.10612"
FPL = "artifacts of FPL 2026, github.com/morunner/hls4ml-gravnet"
PUBLISHED_ROWS = (
    ("GNN-ETM, Belle II", "trigger cells, 32", "all, clusters", None, 3168, 8.0, None, GNN_ETM),
    ("GNN-ETM, later", "trigger cells, 32", "all, clusters", None, 1050, 8.0, None, GNN_ETM),
    ("demonstrator, FPGA", "crystals, 128", "all, clusters", 250, 6040, 1.92, None, DEMONSTRATOR),
    ("demonstrator, FPGA and AI engines", "crystals, 128", "all, clusters", None, 7150, 2.94, None, DEMONSTRATOR),
    ("hls4ml-gravnet, PAR 1", "64", "nodes only", 250, 627 * 4, 250 / 57, 627, FPL),
    ("hls4ml-gravnet, PAR 2", "64", "nodes only", 250, 401 * 4, 250 / 31, 401, FPL),
    ("hls4ml-gravnet, PAR 1", "128", "nodes only", 250, 1081 * 4, 250 / 121, 1081, FPL),
    ("hls4ml-gravnet, PAR 2", "128", "nodes only", 250, 629 * 4, 250 / 63, 629, FPL),
)
"""Name, nodes, what is in firmware, clock (MHz), latency (ns), rate (10⁶ events/s), cycles of the latency, source."""


def graph_networks() -> Table:
    """Return published graph networks in firmware for clustering."""

    def cell(value: float | None, unit: str, source: str) -> Cell:
        return "–" if value is None else Number(value=round(value, 2), unit=unit, origin="published", note=source)

    return Table(
        title="Published: graph networks for clustering in firmware",
        columns=("network", "nodes", "in firmware", "clock", "latency", "latency cycles", "rate"),
        rows=tuple(
            (
                name,
                nodes,
                scope,
                cell(clock, "MHz", source),
                cell(ns, "ns", source),
                cell(cycles, "cycles", source),
                cell(rate, "10⁶ events/s", source),
            )
            for name, nodes, scope, clock, ns, rate, cycles, source in PUBLISHED_ROWS
        ),
        caption="Other networks of this kind on other devices, by vendor tools: GNN-ETM on an XCVU160 (its clock was not "
        "readable), the demonstrator on a VCK190, hls4ml-gravnet on an xcu55c. Those of hls4ml-gravnet are latencies of C/RTL "
        "co-simulation in cycles at the clock asked for, without condensation; ns and rates follow from cycles and clock.",
    )


NETWORK = Network(
    description="GravNet clustering of hits: two graph layers, object condensation; energy, position and β of each hit",
    sizes=SIZES,
    build=build,
    published_firmware=graph_networks,
)
