"""Whole events to photons: crystals above threshold → windows → seed finder → the best four → center finder → photons.

One way for every method: digitised crystals decide which windows there are, a method gives the windows' scores and the
members' outputs. The integer method is what the firmware computes, code by code; float networks see undigitised energies.
Axes: E event, X and Y crystal, W window, M member (window that was kept), K slot of an event's photons.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import Artifact
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.detector.crystals.events import MARGIN, WINDOW
from caloedge.detector.crystals.photon_events import Photons
from caloedge.errors import BadData
from caloedge.reconstruction import clustering, windowing

SLOTS = windowing.TOP_K
"""Photons that an event can have."""
STAGES = {REFERENCE: "published", FLOAT: "edge"}
NETWORK_METHODS = (REFERENCE, FLOAT, INTEGER)
PARTICLE_FLOW = "classical particle flow"
"""Clustering as in particle flow: seeds are local maxima, positions logarithmic. The baseline fits the showers' profile."""
Run = Callable[[NDArray[Any]], NDArray[Any]]
"""An integer network: input codes (N, *shape) to output codes (N, outputs)."""


@dataclass(frozen=True)
class Networks:
    """The two trained networks as integers, with what their codes mean."""

    seeds: Run
    centres: Run
    seed_threshold: int
    """Threshold on the seed finder's output code."""
    photon_threshold: int
    """Threshold on the code of the center finder's seed output."""
    fraction: int
    """Fraction bits of the center finder's outputs, and so of positions (crystals) and energies (GeV)."""


@dataclass(frozen=True)
class PhotonCodes:
    """Photons as the firmware gives them, in the order of event and rank."""

    event_N: NDArray[Any]
    position_N2: NDArray[Any]
    """(N, 2) positions in crystals, `fraction` fraction bits."""
    energy_N: NDArray[Any]
    """(N,) energies in GeV, `fraction` fraction bits."""
    score_N: NDArray[Any]
    fraction: int

    @property
    def photons(self) -> Photons:
        """The same as real values."""
        lsb = 2.0**-self.fraction
        return Photons(self.event_N, self.position_N2 * lsb, self.energy_N * lsb, self.score_N * lsb)

    def slots(self, n_events: int) -> NDArray[Any]:
        """Return what leaves the firmware: (E, `SLOTS`, 5) codes valid, x, y, energy, score; zeros in empty slots."""
        out_EK5 = np.zeros((n_events, SLOTS, 5), np.int64)
        slot_N = np.arange(len(self.event_N)) - np.searchsorted(self.event_N, self.event_N)
        ones_N = np.ones(len(self.event_N), np.int64)
        out_EK5[self.event_N, slot_N] = np.column_stack([ones_N, self.position_N2, self.energy_N, self.score_N])
        return out_EK5


def networks(
    seeds: Graph, centres: Graph, seed_threshold: int, photon_threshold: int, runs: tuple[Run, Run] | None = None
) -> Networks:
    """Check that two integer networks fit together; `runs` execute them instead of the graphs, e.g. emulators."""
    _require(seeds, Format(False, windowing.CODE_BITS, windowing.CODE_FRACTION), (1, WINDOW, WINDOW), 1, "seed finder")
    unit_fraction = windowing.UNIT.bit_length() - 1
    _require(centres, Format(False, windowing.FEATURE_BITS, unit_fraction), (windowing.FEATURES,), 4, "center finder")
    fraction = centres.tensors[centres.outputs[0].name].format.fraction
    if fraction < windowing.CODE_FRACTION:
        raise BadData(f"center finder: outputs have {fraction} fraction bits; the crystals' {windowing.CODE_FRACTION} are needed")
    run_seeds, run_centres = runs or (_run_of(seeds), _run_of(centres))
    return Networks(run_seeds, run_centres, seed_threshold, photon_threshold, fraction)


def _require(graph: Graph, fmt: Format, shape: tuple[int, ...], outputs: int, network: str) -> None:
    if len(graph.outputs) != 1:
        names = ", ".join(output.name for output in graph.outputs)
        raise BadData(f"{network}: has {len(graph.outputs)} outputs ({names}); the reconstruction takes one")
    source, (output,) = graph.input, graph.outputs
    source_tensor, output_tensor = graph.tensors[source.name], graph.tensors[output.name]
    if source_tensor.format != fmt or source_tensor.shape != shape:
        raise BadData(f"{network}: takes {source_tensor.format} {source_tensor.shape}; the reconstruction gives {fmt} {shape}")
    if source.scale != 1 or source.zero_point:
        raise BadData(
            f"{network}: its input has a scale or a zero point; the reconstruction's codes have a power-of-two scale only"
        )
    if output_tensor.size != outputs or output.scale is not None or output.offset is not None:
        raise BadData(
            f"{network}: gives {output_tensor.size} outputs; the reconstruction takes {outputs}, with a power-of-two scale"
        )


def _run_of(graph: Graph) -> Run:
    (output,) = graph.outputs
    return lambda codes: graph.run(codes)[output.name]


def integer_photons(codes_EXY: NDArray[Any], nets: Networks) -> PhotonCodes:
    """Reconstruct events of crystal codes (E, 51, 51) uint16, in integers from beginning to end."""
    windows = windowing.extract(codes_EXY)
    score_W = nets.seeds(windows.codes_WXY[:, None])[:, 0]
    group = windowing.grouped(
        windows.event_W, windows.crystal_W2, windowing.top_k(windows.event_W, windows.key, score_W, nets.seed_threshold)
    )
    codes_MXY = windows.codes_WXY[group.window_M]
    outputs_M4 = nets.centres(windowing.features(codes_MXY, group).view(np.uint16))
    (passed,) = np.nonzero(outputs_M4[:, 3] >= nets.photon_threshold)
    outputs_M4, codes_MXY = outputs_M4[passed], codes_MXY[passed]
    position_M2, energy_M = windowing.photon_codes(outputs_M4, nets.fraction, group.crystal_M2[passed], codes_MXY)
    return PhotonCodes(group.event_M[passed], position_M2, energy_M, outputs_M4[:, 3], nets.fraction)


@dataclass(frozen=True)
class FloatNetworks:
    """The two trained networks of one stage, float; scores and thresholds are logits."""

    seeds: Callable[[NDArray[Any]], NDArray[Any]]
    """Seed finder: windows (W, 1, 7, 7) in GeV to logits (W, 1)."""
    centres: Callable[[NDArray[Any]], NDArray[Any]]
    """Center finder: the inputs of the stage (M, ...) to outputs (M, 4)."""
    stage: str
    seed_threshold: float


def float_photons(cells_EXY: NDArray[Any], nets: FloatNetworks) -> Photons:
    """Reconstruct events of crystal energies (E, 51, 51) float32 GeV with float networks; every member is a photon."""
    codes_EXY = windowing.digitised(cells_EXY)
    windows = windowing.extract(codes_EXY)
    views = np.lib.stride_tricks.sliding_window_view(cells_EXY, (WINDOW, WINDOW), axis=(1, 2))
    corner_W2 = windows.crystal_W2 - MARGIN
    cells_WXY = views[windows.event_W, corner_W2[:, 0], corner_W2[:, 1]]
    score_W = nets.seeds(cells_WXY[:, None])[:, 0]
    group = windowing.grouped(
        windows.event_W, windows.crystal_W2, windowing.top_k(windows.event_W, windows.key, score_W, nets.seed_threshold)
    )
    codes_MXY = windows.codes_WXY[group.window_M]
    orientation_M = windowing.orientations(codes_MXY)
    if nets.stage == "published":
        inputs = windowing.joined_windows(cells_EXY, group, orientation_M)
    else:
        inputs = windowing.features(codes_MXY, group).astype(np.float32) / windowing.UNIT
    outputs_M4 = nets.centres(inputs).astype(np.float64)
    exponent_M = windowing.exponents(codes_MXY)
    energy_M = windowing.sums(codes_MXY) * 2.0**-windowing.CODE_FRACTION + outputs_M4[:, 2] * windowing.units_gev(exponent_M)
    return Photons(
        group.event_M, group.crystal_M2 + 0.5 + windowing.unoriented(outputs_M4[:, :2], orientation_M), energy_M, outputs_M4[:, 3]
    )


@dataclass(frozen=True)
class Chain:
    """A seed finder and a center finder that were trained for each other's kind of events."""

    seeds: Artifact
    centres: Artifact

    def integer(self, photon_threshold: int = -(2**62), runs: tuple[Run, Run] | None = None) -> Networks:
        """Return the integer networks; without a threshold every member is a photon."""
        threshold = int(np.ceil(max(self.seeds.manifest.working_points[INTEGER], -(2.0**62))))
        return networks(read(self.seeds.model), read(self.centres.model), threshold, photon_threshold, runs)

    def floating(self, stage: str) -> FloatNetworks:
        """Return the float networks of one stage, `published` or `edge`."""
        import torch

        from caloedge.training.fit import predict
        from caloedge.training.stages import build_network

        nets = [build_network(artifact.recipe, stage, artifact.weights(stage)) for artifact in (self.seeds, self.centres)]
        seeds, centres = ((lambda x, net=net: predict(net, torch.from_numpy(np.ascontiguousarray(x))).numpy()) for net in nets)
        method = next(name for name, stage_name in STAGES.items() if stage_name == stage)
        return FloatNetworks(seeds, centres, stage, self.seeds.manifest.working_points[method])


def methods(chain: Chain) -> dict[str, Callable[[NDArray[Any]], Photons]]:
    """Return what each method makes of events (E, 51, 51) float32 GeV: its photons before any threshold on them."""
    published, edge, integer = chain.floating("published"), chain.floating("edge"), chain.integer()
    return {
        REFERENCE: lambda cells_EXY: float_photons(cells_EXY, published),
        FLOAT: lambda cells_EXY: float_photons(cells_EXY, edge),
        INTEGER: lambda cells_EXY: integer_photons(windowing.digitised(cells_EXY), integer).photons,
        BASELINE: lambda cells_EXY: clustering.reconstruct(cells_EXY, clustering.TUNING),
        PARTICLE_FLOW: lambda cells_EXY: clustering.reconstruct(cells_EXY, clustering.PARTICLE_FLOW),
    }


def selected(photons: Photons, threshold: float) -> Photons:
    """Return the photons whose score is at or above a threshold."""
    passed_N = photons.score_N >= threshold
    return Photons(
        photons.event_N[passed_N], photons.position_N2[passed_N], photons.energy_N[passed_N], photons.score_N[passed_N]
    )


def joined(parts: list[tuple[int, Mapping[str, Photons]]]) -> dict[str, Photons]:
    """Join blocks of events, each with the number of its first event."""
    return {
        method: Photons(*(
            np.concatenate([getattr(replace(part[method], event_N=part[method].event_N + first), field) for first, part in parts])
            for field in ("event_N", "position_N2", "energy_N", "score_N")
        ))
        for method in parts[0][1]
    }  # fmt: skip
