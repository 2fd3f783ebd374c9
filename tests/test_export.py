"""Scores of one and of several outputs, the losses, and a quantised input with a sign, through to integer codes."""

from pathlib import Path

import numpy as np
import pytest

from caloedge.artifact import read_artifact
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Loss, Network, Task, find
from caloedge.compiler.fixed import Format
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Dense
from caloedge.detector.crystals.library import ShowerLibrary

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("brevitas")

from caloedge.arithmetic import QuantisedArithmetic  # noqa: E402
from caloedge.evaluation.scoring import score_methods  # noqa: E402
from caloedge.export import _card, golden_vectors, write_qonnx  # noqa: E402

MODELS = Path(__file__).parents[1] / "models"


@pytest.mark.parametrize("name", ["seed_finder", "shower_shape"])
def test_every_method_scores_every_output(name: str, library: ShowerLibrary) -> None:
    artifact = read_artifact(MODELS / name)
    task = find(Task, artifact.recipe.task)
    sample = task.sample(library, "test", 100, 1)
    found = score_methods(artifact, task, sample)
    assert list(found) == [REFERENCE, FLOAT, INTEGER, BASELINE]
    outputs = sample.targets.shape[1]
    for method, values in found.items():
        assert values.shape == ((len(sample.inputs),) if outputs == 1 else (len(sample.inputs), outputs)), method
        assert values.dtype == np.float64
    codes = found[INTEGER]
    np.testing.assert_array_equal(codes, np.rint(codes))
    graph = read(artifact.model)
    logits = graph.run(graph.quantise_input(sample.inputs))[task.output]
    np.testing.assert_array_equal(codes.reshape(logits.shape), logits)


def test_cross_entropy_is_that_of_the_classes() -> None:
    generator = np.random.default_rng(1)
    logits, classes = generator.standard_normal((40, 5)), generator.integers(5, size=40)
    one_hot = np.eye(5)[classes]
    found = float(find(Loss, "cross_entropy").function(torch.from_numpy(logits), torch.from_numpy(one_hot)))
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found == pytest.approx(-np.log(probability[np.arange(40), classes]).mean(), rel=1e-12)  # rounding of doubles


@pytest.mark.parametrize("signed", [False, True])
def test_a_quantised_input_is_exact_with_and_without_a_sign(signed: bool, tmp_path: Path) -> None:
    torch.manual_seed(6)
    network = find(Network, "shower_shape")
    arithmetic = QuantisedArithmetic(6, 6, 10, 7, input_signed=signed)
    twin = network.build(arithmetic, network.sizes["edge"]).eval()
    path = tmp_path / "model.qonnx"
    write_qonnx(twin, (16,), "logits", path)
    graph = read(path)
    assert graph.input.format == Format(signed, width=10, fraction=7)
    inputs = np.random.default_rng(3).uniform(-9, 9, (300, 16)).astype(np.float32)
    codes = graph.quantise_input(inputs)
    assert (codes.min(), codes.max()) == ((-512, 511) if signed else (0, 1023))
    golden = golden_vectors(twin, codes, graph)
    np.testing.assert_array_equal(graph.run(codes)["logits"], golden.outputs["logits"])
    layer = next(op for op in graph.ops if isinstance(op, Dense))
    weights = layer.weights.copy()
    weights.flat[int(np.abs(weights).argmax())] ^= 1
    changed = graph.replacing(layer.name, weights=weights)
    assert not np.array_equal(changed.run(codes)["logits"], golden.outputs["logits"]), "a changed weight is not noticed"


def test_a_card_names_the_unit_and_the_sign_of_the_input() -> None:
    for name, words in (("seed_finder", "unsigned 12 bit with 2^-5 GeV"), ("shower_shape", "signed 10 bit with 2^-7")):
        artifact = read_artifact(MODELS / name)
        card = _card(artifact.recipe, artifact.manifest, artifact.manifest.working_points)
        assert f"input {words}" in card


def test_a_card_is_silent_about_what_a_model_has_not() -> None:
    cards = {}
    for name in ("seed_finder", "pf_energy"):
        artifact = read_artifact(MODELS / name)
        cards[name] = _card(artifact.recipe, artifact.manifest, artifact.manifest.working_points)
    assert "- Showers: pbwo4_gamma, 13000 gamma (Geant4 11.4.1, G4EmStandardPhysics).\n" in cards["seed_finder"]
    assert "- Events: qcd_jets, 2000 (pythia8mc 8.317.2).\n" in cards["pf_energy"]
    assert "| threshold |" in cards["seed_finder"]
    assert "| threshold |" not in cards["pf_energy"]
