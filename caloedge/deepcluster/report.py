"""The report of the whole reconstruction: physics of every method on the same events, exactness and cost of the firmware."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import Artifact
from caloedge.catalog import BASELINE, INTEGER, Target, find
from caloedge.compiler.onnx.reader import read
from caloedge.computer import computer
from caloedge.deepcluster import chain, physics, verilog
from caloedge.deepcluster.chain import Chain, Networks
from caloedge.deepcluster.verilog import Choice
from caloedge.detector.crystals import events, photon_events
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.errors import BadData, MissingTool
from caloedge.evaluation.accuracy import EVALUATION_SEED, library_of, refuse_generated, refuse_seen_showers
from caloedge.firmware import section
from caloedge.firmware.measure import Firmware
from caloedge.metrics import photon_matching
from caloedge.pipeline import data_label
from caloedge.progress import announce, progress
from caloedge.project import FirmwareDesign, build_unless_built, read_record
from caloedge.reconstruction import windowing
from caloedge.reports import sections, store, summary
from caloedge.results import Claim, Number, Report, Section, Table, verdict
from caloedge.synthesis.cost import implement
from caloedge.verification.codes import Check, compare_codes

EVENTS_PER_BLOCK = 500
SHOWN_EVENTS = 500
"""Events whose cells are kept for displays."""
FAKES_PER_EVENT = 0.03
"""Rate of fakes at which all methods are compared."""
SIMULATED_EVENTS = 256
CHOICES = (Choice("streaming", 2), Choice("streaming", 1), Choice("streaming", 3), Choice("unrolled", 1))
"""Designs that are simulated; the first is synthesised."""
STALL = 0.2
"""Chance per cycle that an end waits in the simulation that disturbs the order of things."""


def report(models: Chain, library: ShowerLibrary | None, n_events: int, valid_events: int, work: Path, folder: Path) -> Report:
    """Reconstruct events with all methods, prove the firmware equal to the integer one, and write the report.

    Without a library the test showers of the one that the artifacts were trained on are used.
    """
    _check_pair(models)
    own = library_of(models.centres)
    assert isinstance(own, ShowerLibrary), "the center finder's task opens one"
    refuse_generated(library or own)
    if library is not None:
        refuse_seen_showers(models.centres, library)
    announce(
        f"reconstructing {n_events:,} test and {valid_events:,} validation events with every method (the first ones tell how long"
        f" it takes); then building and simulating {len(CHOICES)} designs, and synthesising one"
    )
    truth, photons, seconds = reconstructed(models, library or own, "all" if library else "test", n_events)
    thresholds = working_points(models, own, valid_events)
    selected = {method: chain.selected(method_photons, thresholds[method]) for method, method_photons in photons.items()}
    assessment = physics.sections(truth, selected, (chain.PARTICLE_FLOW, BASELINE))
    nets = models.integer(round(thresholds[INTEGER] * 2.0 ** models.integer().fraction))
    checks, designs = _hardware(models, nets, library or own, work)
    document = summary.compose(
        "DeepCluster: from crystals to photons, float against firmware",
        "Whole events of 51 × 51 PbWO4 crystals: threshold, windows, seed finder, groups of four, center finder, "
        "photons. The published float networks, the edge networks in float and in integers, and two classical clusterings, on "
        "the same events: particle flow (local maxima, sharing, logarithmic positions), and the baseline, which fits the "
        "showers' profile to shared crystals and looks for hidden photons. Windows are turned to one orientation before every "
        "center finder, the published one's, too.",
        data_label(models.centres.recipe.task, (library or own).provenance),
        assessment.figures,
        (*assessment.claims, _exactness_claim(checks)),
        (
            *assessment.sections,
            _working_point_section(thresholds, valid_events),
            sections.exactness(checks),
            section.firmware(designs, (), computer(), None, "event"),
            _cost_section(models, seconds),
            sections.what_was_run(models.seeds),
            sections.what_was_run(models.centres),
        ),
        lower_is_better=assessment.figures.keys() - {physics.PAIRS_FOUND},
        caveats=(
            *assessment.caveats,
            *(
                f"{artifact.recipe.name}: {warning}"
                for artifact in (models.seeds, models.centres)
                for warning in summary.artifact_caveats(artifact)[:-1]
            ),
            summary.ONCE,
        ),
    )
    store.save(document, folder)
    store.write_index(folder.parent)
    return document


def _check_pair(models: Chain) -> None:
    for artifact, task in ((models.seeds, "seed_finder"), (models.centres, "center_finder")):
        if artifact.recipe.task != task:
            raise BadData(f"{artifact.folder}: is of task {artifact.recipe.task!r}; {task!r} is needed in this place")
    digests = [artifact.manifest.library["sha256"] for artifact in (models.seeds, models.centres)]
    if digests[0] != digests[1]:
        raise BadData(
            f"{models.centres.folder}: was trained on another library than {models.seeds.folder}, so test showers of one may be "
            "training showers of the other; train both on one library"
        )


def blocks(library: ShowerLibrary, split: str, n_events: int, seed: int) -> Iterator[tuple[int, PhotonEvents]]:
    """Yield events of one split in blocks, each with the number of its first event."""
    events.check_matrix(library)
    rows = events.split_rows(len(library), split)
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        rng = events.block_generator(seed, split, block)
        yield first, photon_events.compose(library, rows, min(EVENTS_PER_BLOCK, n_events - first), rng)


def reconstructed(
    models: Chain, library: ShowerLibrary, split: str, n_events: int, seed: int = EVALUATION_SEED
) -> tuple[PhotonEvents, dict[str, Photons], dict[str, float]]:
    """Return events (cells of the first `SHOWN_EVENTS` only), every method's photons, and the seconds that each took."""
    methods = chain.methods(models)
    seconds = dict.fromkeys(methods, 0.0)
    parts: list[tuple[int, Mapping[str, Photons]]] = []
    truths: list[PhotonEvents] = []
    with progress("reconstructing", n_events, 0) as advance:
        for first, composed in blocks(library, split, n_events, seed):
            cells_EXY = composed.crystals.cells_EXY
            photons = {}
            for method, run in methods.items():
                start = time.perf_counter()
                photons[method] = run(cells_EXY)
                seconds[method] += time.perf_counter() - start
            parts.append((first, photons))
            shown_EXY = cells_EXY if first < SHOWN_EVENTS else cells_EXY[:0]
            truths.append(PhotonEvents(replace(composed.crystals, cells_EXY=shown_EXY), composed.kind_E))
            advance(len(cells_EXY))
    return photon_events.joined(truths), chain.joined(parts), seconds


def working_points(models: Chain, library: ShowerLibrary, n_events: int) -> dict[str, float]:
    """Return each method's threshold on the photons' scores, from validation events, at one rate of fakes for all."""
    truth, photons, _ = reconstructed(models, library, "valid", n_events)
    return {
        method: working_point(truth, method_photons, int(FAKES_PER_EVENT * n_events))
        for method, method_photons in photons.items()
    }


def working_point(truth: PhotonEvents, photons: Photons, most_fakes: int) -> float:
    """Return the lowest score as a threshold that leaves at most so many fakes.

    What is left is matched anew each time: without its weaker duplicate a photon that counted as a fake may be the true one's.
    """
    scores = np.append(np.unique(photons.score_N), np.inf)
    low, high = 0, len(scores) - 1
    while low < high:
        middle = (low + high) // 2
        if photon_matching.match(truth.crystals, chain.selected(photons, scores[middle])).fake_N.sum() <= most_fakes:
            high = middle
        else:
            low = middle + 1
    return float(scores[low])


def _working_point_section(thresholds: Mapping[str, float], n_events: int) -> Section:
    rows = tuple((method, Number(value=value, origin="computed")) for method, value in thresholds.items())
    return Section(
        title="Working points",
        text=f"A photon counts from a score on that leaves each method {100 * FAKES_PER_EVENT:g} fakes per 100 validation "
        "events. Scores are logits, for the classical clusters their significance.",
        blocks=(Table(title="Thresholds", columns=("method", "score"), rows=rows, caption=f"{n_events:,} validation events."),),
    )


# Firmware


def stress_events() -> NDArray[Any]:
    """Return events of codes (N, 51, 51) that physics does not make: nothing, everything, ties, extremes, borders."""
    rng = np.random.default_rng(20_265)
    side, top = events.GRID, 2**windowing.CODE_BITS
    empty = np.zeros((side, side), np.int64)
    ties = np.tile(np.array([[40, 0], [0, 40]]), (26, 26))[:side, :side]
    border = np.zeros((side, side), np.int64)
    border[[events.MARGIN - 1, events.MARGIN, -events.MARGIN - 1, -events.MARGIN]] = windowing.THRESHOLD_CODE + 1
    few = [np.where(rng.random((side, side)) < 0.02, rng.integers(0, top, (side, side)), 0) for _ in range(8)]
    all_alike = np.full((side, side), windowing.THRESHOLD_CODE + 1)
    return np.stack([empty, ties, border, np.full((side, side), top - 1), all_alike, *few, empty])


def _hardware(models: Chain, nets: Networks, library: ShowerLibrary, work: Path) -> tuple[list[Check], list[Firmware]]:
    """Build and simulate the designs on whole events; return what the simulations gave, and what the first costs."""
    _, composed = next(blocks(library, "test", SIMULATED_EVENTS, EVALUATION_SEED))
    codes_EXY = np.concatenate([windowing.digitised(composed.crystals.cells_EXY), stress_events()]).astype(np.uint16)
    expected = {"photons": chain.integer_photons(codes_EXY, nets).slots(len(codes_EXY))}
    checks, designs = [], []
    for number, choice in enumerate(CHOICES):
        target = find(Target, models.centres.recipe.target)
        name = f"{choice.variant}, {choice.lanes} lane{'s' * (choice.lanes > 1)}"
        project = work / f"event_{choice.variant}_{choice.lanes}"
        try:
            build(models, nets, target, choice, project)
        except MissingTool as problem:
            checks.append(Check(f"rtl {name}", 0, 0, 0, 0, None, 0.0, missing=str(problem)))
            continue
        for stall in (0.0, STALL):
            start = time.perf_counter()
            run = verilog.simulate(project, codes_EXY, stall)
            executor = f"rtl {name}" + (f", stalled {stall:.0%} of the cycles" if stall else "")
            checks.append(compare_codes(executor, expected, run.codes, time.perf_counter() - start))
            if not stall:
                physical = verilog.simulate(project, codes_EXY[:SIMULATED_EVENTS], 0.0)
                cost = (
                    implement(project, models.centres.recipe.target, models.centres.recipe.route_limit_s) if not number else None
                )
                design = FirmwareDesign("rtl", name, models.centres.recipe.target)
                designs.append(Firmware(design, project, read_record(project), checks[-1], physical, cost))
    return checks, designs


def build(models: Chain, nets: Networks, target: Target, choice: Choice, project: Path) -> None:
    """Build a design unless the same was built there before."""
    seeds, centres = read(models.seeds.model), read(models.centres.model)
    expected = verilog.record(seeds, centres, nets, target, choice)
    build_unless_built(project, expected, lambda: verilog.build(seeds, centres, nets, target, choice, project))


def _exactness_claim(checks: list[Check]) -> Claim:
    ran = [check for check in checks if not check.missing]
    wrong = [check.executor for check in ran if not check.exact]
    events_each = min((check.vectors for check in ran), default=0)
    outcome = f"{len(ran)} simulations of {events_each:,} whole events: "
    return Claim(
        statement="The Verilog of the whole reconstruction gives the same photons, bit by bit, as the integer reconstruction, "
        "with one, two and three seed finders side by side and with random stalls, which change the order of the windows.",
        verdict=verdict(None if not ran else not wrong),
        found=outcome + (f"differs in {', '.join(wrong)}" if wrong else "0 LSB everywhere"),
    )


def _cost_section(models: Chain, seconds: Mapping[str, float]) -> Section:
    def parameters(artifact: Artifact, stage: str) -> int:
        return artifact.manifest.stages[stage].parameters

    both = {stage: parameters(models.seeds, stage) + parameters(models.centres, stage) for stage in ("published", "edge")}
    counts = {method: both[chain.STAGES.get(method, "edge")] for method in seconds}
    graphs = [read(artifact.model) for artifact in (models.seeds, models.centres)]
    ebops = sum(layer.ebops for graph in graphs for layer in graph.layers())
    total = sum(seconds.values())
    rows = tuple(
        (
            method,
            Number(value=counts[method], origin="computed") if method in chain.NETWORK_METHODS else "–",
            Number(value=ebops, origin="estimated") if method == INTEGER else "–",
            Number(value=100 * spent / total, unit="%", origin="measured"),
        )
        for method, spent in seconds.items()
    )
    return Section(
        title="Cost in software",
        text="Rates of the integer reconstruction with the C++ emulator are measured by benchmarks/reconstruction.py; here the "
        "integer networks ran in numpy.",
        blocks=(
            Table(
                title="Networks and time",
                columns=("method", "parameters", "EBOPs of both networks", "share of this report's reconstruction time"),
                rows=rows,
                caption=f"On {computer()}.",
            ),
        ),
    )
