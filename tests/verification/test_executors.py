"""The chain of exactness on a tiny artifact: it holds, and one wrong weight or rounding is caught."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from caloedge import project
from caloedge.artifact import Artifact, Golden, read_artifact, write_manifest
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Dense, InputQuantiser, Output, Requantise
from caloedge.errors import MissingTool, UserError
from caloedge.project import FirmwareDesign, read_record, record, write_record
from caloedge.recipe import LayerChoice
from caloedge.verification import executors, locating
from caloedge.verification.codes import Check, compare_codes, random_codes, random_vectors
from caloedge.verification.executors import run_check, verify_artifact


@pytest.fixture(scope="module")
def artifact(tiny: Path) -> Artifact:
    return read_artifact(tiny)


@pytest.fixture(scope="module")
def graph(artifact: Artifact) -> Graph:
    return read(artifact.model)


@pytest.fixture(scope="module")
def golden(artifact: Artifact) -> Golden:
    return artifact.golden()


def test_the_chain_is_exact(artifact: Artifact, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    checks = verify_artifact(without_firmware(artifact), tmp_path)
    chain = ["torch twin, float64", "QONNX executor", "integer graph", "emulator native", "emulator native, random codes"]
    assert [check.executor for check in checks] == chain
    for check in checks:
        assert check.exact, check
        events = 10_000 if check is checks[-1] else 1000
        assert (check.vectors, check.outputs, check.differing, check.first_event) == (events, events, 0, None)


def test_the_golden_vectors_would_show_a_difference(golden: Golden, graph: Graph) -> None:
    assert golden.inputs.shape == (1000, 1, 7, 7)
    assert len(np.unique(golden.inputs)) > 100
    (codes,) = golden.outputs.values()
    assert len(np.unique(codes)) > 100
    assert list(golden.outputs) == [op.name for op in graph.outputs] == ["logit"]


def last_dense(graph: Graph) -> Dense:
    return [op for op in graph.ops if isinstance(op, Dense)][-1]


def without_firmware(artifact: Artifact) -> Artifact:
    return replace(artifact, recipe=artifact.recipe.model_copy(update={"builds": {}, "synthesis": {}}))


def used_weight(graph: Graph, golden: Golden) -> tuple[int, int]:
    """Return a weight of the last layer whose input is often not zero and that one more step does not saturate."""
    dense = last_dense(graph)
    often = (graph.trace(golden.inputs)[dense.inputs[0]] != 0).mean(axis=0)
    free = np.where(dense.weights[0] < dense.weight_format.max_code, often, 0)
    assert free.max() > 0.05
    return 0, int(free.argmax())


def test_one_wrong_weight_in_the_file_is_caught(artifact: Artifact, graph: Graph, golden: Golden, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    folder = tmp_path / "wrong"
    shutil.copytree(artifact.folder, folder)
    index, dense = used_weight(graph, golden), last_dense(graph)
    model = onnx.load(str(folder / "model.qonnx"))
    lsb = dense.weight_format.lsb
    checks = [
        tensor
        for tensor in model.graph.initializer
        if sorted(numpy_helper.to_array(tensor).shape) == sorted(dense.weights.shape)
        and np.abs(numpy_helper.to_array(tensor).reshape(-1) / lsb - dense.weights.reshape(-1)).max() <= 1
    ]
    (tensor,) = checks
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[index[1]] += lsb
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, str(folder / "model.qonnx"))
    write_manifest(folder, artifact.manifest)
    wrong = read_artifact(folder)
    codes = last_dense(read(wrong.model)).weights
    assert np.count_nonzero(codes != dense.weights) == 1
    assert codes[index] == dense.weights[index] + 1
    twin, qonnx, integers, *_ = verify_artifact(without_firmware(wrong), tmp_path)
    assert twin.exact, "the twin's own weights are untouched"
    for check in (qonnx, integers):
        assert not check.exact
        assert check.differing > 0
        assert check.largest_lsb > 0
        assert check.first_event is not None
    assert qonnx.differing == integers.differing


def test_the_first_wrong_layer_of_an_artifacts_firmware_is_named(
    artifact: Artifact, graph: Graph, golden: Golden, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("qonnx")
    layer, index, built = last_dense(graph).name, used_weight(graph, golden), {}

    def build(network: Graph, _target: Target, _variant: str, folder: Path, _choices: Mapping[str, LayerChoice]) -> None:
        weights = last_dense(graph).weights.copy()
        weights[index] += 1
        built[folder] = network.replacing(layer, weights=weights)

    wrong = Backend("wrong", ("native",), lambda *_: "", build, lambda folder, codes: built[folder].run(codes))
    for module in (project, executors, locating):
        monkeypatch.setattr(module, "find", lambda kind, name: wrong if kind is Backend else find(kind, name))
    *software, on_golden, on_random = verify_artifact(without_firmware(artifact), tmp_path)
    assert all(check.exact for check in software)
    for check in (on_golden, on_random):
        assert not check.exact
        assert check.first_node == f"layer {layer}"


def test_one_wrong_weight_of_the_twin_is_caught(
    artifact: Artifact, graph: Graph, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = artifact.weights("quantised")
    index = used_weight(graph, golden)
    weights["logit.weight"] = weights["logit.weight"].copy()
    weights["logit.weight"][index] += np.float32(last_dense(graph).weight_format.lsb)
    monkeypatch.setattr(Artifact, "weights", lambda self, stage: weights)
    check = run_check("twin", golden, lambda codes: executors._run_twin(artifact, graph, codes))
    assert not check.exact
    assert check.differing > 0


@pytest.mark.parametrize("rounding", [Rounding.HALF_UP, Rounding.TRUNCATE])
def test_another_rounding_is_caught(graph: Graph, golden: Golden, rounding: Rounding) -> None:
    layers = [op for op in graph.ops if isinstance(op, Requantise)]
    assert len(layers) == 4
    caught = 0
    for op in layers:
        check = run_check("wrong", golden, graph.replacing(op.name, rounding=rounding).run)
        caught += not check.exact
    # A layer whose sums are never exactly half-way rounds alike in both modes; most have plenty.
    assert caught >= (4 if rounding is Rounding.TRUNCATE else 2)
    assert run_check("right", golden, graph.run).exact


def test_codes_are_compared_one_by_one() -> None:
    golden = {"a": np.arange(12).reshape(4, 3), "b": np.zeros((4, 1), dtype=np.int64)}
    same = compare_codes("x", golden, {name: codes.copy() for name, codes in golden.items()}, 0.5)
    assert same == Check("x", vectors=4, outputs=16, differing=0, largest_lsb=0, first_event=None, seconds=0.5)
    assert same.exact
    off = {name: codes.copy() for name, codes in golden.items()}
    off["a"][2, 1] -= 1
    check = compare_codes("x", golden, off, 0.5)
    assert (check.exact, check.outputs, check.differing, check.largest_lsb, check.first_event) == (False, 16, 1, 1, 2)
    off["b"][1, 0] = -7
    two = compare_codes("x", golden, off, 0.5)
    assert (two.exact, two.differing, two.largest_lsb, two.first_event) == (False, 2, 7, 1)


def test_narrow_integers_do_not_wrap_around_in_the_comparison() -> None:
    golden, outputs = {"a": np.array([[255]])}, {"a": np.array([[-1]], dtype=np.int8)}
    assert compare_codes("x", golden, outputs, 0.0).largest_lsb == 256
    unsigned = {"a": np.array([[254]], dtype=np.uint8)}
    assert compare_codes("x", golden, unsigned, 0.0).largest_lsb == 1


@pytest.mark.parametrize(
    ("outputs", "problem"),
    [
        ({}, "output 'a' is missing"),
        ({"b": np.zeros((4, 1), int)}, "output 'a' is missing"),
        ({"a": np.zeros((4, 1, 1), int)}, "output 'a' has the shape (4, 1, 1), (4, 1) expected"),
        ({"a": np.zeros((3, 1), int)}, "output 'a' has the shape (3, 1), (4, 1) expected"),
        ({"a": np.zeros(4, int)}, "output 'a' has the shape (4,), (4, 1) expected"),
    ],
)
def test_a_missing_output_or_another_shape_is_no_difference_of_codes(outputs: dict[str, np.ndarray], problem: str) -> None:
    check = compare_codes("x", {"a": np.zeros((4, 1), dtype=np.int64)}, outputs, 0.0)
    assert not check.exact
    assert check.misfit == problem
    assert (check.outputs, check.differing, check.largest_lsb, check.first_event) == (4, 4, 0, None)


def test_nothing_compared_is_not_exact() -> None:
    assert not compare_codes("x", {"a": np.zeros((0, 1), dtype=np.int64)}, {"a": np.zeros((0, 1), dtype=np.int64)}, 0.0).exact
    assert not Check("x", 0, 0, 0, 0, None, 0.0, missing="g++ not found").exact


def test_a_missing_program_is_told_apart_from_a_difference(golden: Golden) -> None:
    def run(codes: np.ndarray) -> dict[str, np.ndarray]:
        raise MissingTool("ghdl not found on PATH; install it")

    check = run_check("ghdl", golden, run)
    assert check.missing == "ghdl not found on PATH; install it"
    assert not check.exact


def test_a_value_between_two_codes_is_a_difference(
    artifact: Artifact, graph: Graph, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The QONNX executor gives floats: half a code is not rounded away."""
    pytest.importorskip("qonnx")
    true = executors.execute

    def shifted(*arguments: object, **options: object) -> dict[str, np.ndarray]:
        values = true(*arguments, **options)
        lsb = graph.tensors["logit"].format.lsb
        return {name: value + 0.25 * lsb if name == "logit" else value for name, value in values.items()}

    monkeypatch.setattr(executors, "execute", shifted)
    check = run_check("qonnx", golden, lambda codes: executors.run_qonnx(artifact.model, graph, codes))
    assert check.differing == 1000


def test_a_project_is_built_again_only_for_another_network_device_or_choice(
    artifact: Artifact, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path] = []

    def build(graph: Graph, target: Target, variant: str, folder: Path, choices: Mapping[str, LayerChoice]) -> None:
        built.append(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record("rtl" if variant == "auto" else "hls4ml", graph, target, variant, choices))

    target = find(Target, "xcvu13p")
    fakes = {"hls4ml": replace(find(Backend, "hls4ml"), build=build), "xcvu13p": target, "fast": replace(target, clock_mhz=360.0)}
    fakes["rtl"] = fakes["hls4ml"]
    monkeypatch.setattr(project, "find", lambda kind, name: fakes[name])
    design, recipe = FirmwareDesign("hls4ml", "io_stream", "xcvu13p"), artifact.recipe
    for _ in range(2):
        folder = design.project(graph, recipe, tmp_path)
        assert folder == tmp_path / "xcvu13p" / "hls4ml_io_stream"
    assert len(built) == 1
    replace(design, target="fast").project(graph, recipe, tmp_path)
    assert len(built) == 2
    fakes["xcvu13p"] = replace(target, clock_mhz=250.0)
    design.project(graph, recipe, tmp_path)
    assert len(built) == 3
    layer = next(op for op in graph.ops if isinstance(op, Requantise))
    changed = graph.replacing(layer.name, rounding=Rounding.HALF_UP)
    design.project(changed, recipe, tmp_path)
    assert len(built) == 4
    chosen = recipe.model_copy(update={"layers": {"conv_1": LayerChoice(strategy="streaming")}})
    design.project(changed, chosen, tmp_path)
    assert len(built) == 4, "only variant auto heeds choices"
    free = FirmwareDesign("rtl", "auto", "xcvu13p")
    for choices, expected in ((recipe, 5), (recipe, 5), (chosen, 6)):
        free.project(changed, choices, tmp_path)
        assert len(built) == expected


def test_random_codes_cover_the_whole_input_format(graph: Graph) -> None:
    random = random_vectors(graph)
    assert random.inputs.shape == (10_000, 1, 7, 7)
    assert (random.inputs.min(), random.inputs.max()) == (0, 4095)
    assert random_vectors(graph).inputs.tobytes() == random.inputs.tobytes()


@pytest.mark.parametrize("fmt", [Format(False, 1, 0), Format(True, 2, 0), Format(False, 2, 0)])
def test_random_codes_hold_every_code_also_behind_the_extreme_events(fmt: Format) -> None:
    """The first events are the extremes of all elements at once; the largest code must come beside others, too."""
    graph = Graph((InputQuantiser("x", (3,), fmt), Output("y", ("x",))))
    codes = random_codes(graph, 500, seed=1)
    assert codes.shape == (500, 3)
    assert (codes[0] == fmt.min_code).all()
    assert (codes[1] == fmt.max_code).all()
    for element in codes[2:].T:
        assert set(element.tolist()) == set(range(fmt.min_code, fmt.max_code + 1))


def test_a_folder_that_is_no_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_record(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no caloedge.json there; make a project with: caloedge build MODEL FOLDER"
