"""Searches for the nearest nodes that are found in files, against codes by hand; what cannot be proven stays dense."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gravnet_files import FIRST_ZERO, FORMS, NODES, STEP, Layer, by_hand, events, gravnet
from nodes import RULES

from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import Compiled, compile_file
from caloedge.compiler.ops import Nearest, Op, Table, Take
from caloedge.verification.executors import run_qonnx


def compiled(layer: Layer, folder: Path) -> Compiled:
    file, output = gravnet(layer)
    return compile_file(file.save(folder / "layer.onnx", output))


def is_dense(graph: Graph) -> bool:
    return any(tensor.shape[:2] == (NODES, NODES) for tensor in graph.tensors.values())


def anonymous(graph: Graph) -> Graph:
    """Return a graph whose operations are named and ordered by where they stand before the outputs."""
    names: dict[str, str] = {}
    ops: list[Op] = []

    def visit(name: str) -> None:
        if name not in names:
            for source in graph[name].inputs:
                visit(source)
            names[name] = f"op_{len(names)}"
            op = graph[name]
            inputs = tuple(names[source] for source in op.inputs)
            ops.append(replace(op, name=names[name], **({"inputs": inputs} if inputs else {})))

    for op in graph.outputs:
        visit(op.name)
    return Graph(tuple(ops))


@pytest.mark.parametrize("quantised", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_one_search(form: str, quantised: bool, tmp_path: Path) -> None:
    found = compiled(Layer(form, quantised_distances=quantised), tmp_path)
    codes = events()
    wanted = by_hand(codes)
    assert found.graph.run(codes)["y"].tolist() == wanted
    assert found.unoptimised.run(codes)["y"].tolist() == wanted
    if form == "key" and not quantised:
        return  # its keys are tables of their own: exact, but dense
    assert not is_dense(found.graph)
    assert [type(op) for op in found.graph.ops].count(Nearest) == 2
    reference = compiled(Layer(), tmp_path).graph
    assert anonymous(found.graph).digest == anonymous(reference).digest


@pytest.mark.parametrize("rule", RULES)
def test_another_rule_gives_other_codes(rule: str, tmp_path: Path) -> None:
    graph, codes = compiled(Layer(), tmp_path).graph, events()
    assert graph.run(codes)["y"].tolist() != by_hand(codes, rule)


def test_one_entry_of_the_weights_gives_other_codes(tmp_path: Path) -> None:
    graph, codes = compiled(Layer(), tmp_path).graph, events()
    (table,) = (op for op in graph.ops if isinstance(op, Table))
    for distance in range(FIRST_ZERO - 3):  # messages of the last weights, 2 and 1, are rounded to 0
        values = table.values.copy()
        values[..., distance] //= 2
        assert graph.replacing(table.name, values=values).run(codes)["y"].tolist() != by_hand(codes), distance


@pytest.mark.parametrize("form", FORMS)
def test_the_file_is_what_is_compiled(form: str, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    pytest.importorskip("onnxruntime")
    file, output = gravnet(Layer(form))
    path, codes = file.save(tmp_path / "layer.onnx", output), events()
    graph = compile_file(path).graph
    assert run_qonnx(path, graph, codes)["y"].tolist() == graph.run(codes)["y"].tolist() == by_hand(codes)


def test_padding_may_have_a_quantiser_of_its_own(tmp_path: Path) -> None:
    graph = compiled(Layer(valid_first=True), tmp_path).graph
    assert not is_dense(graph)
    assert graph.run(codes := events())["y"].tolist() == by_hand(codes)


@pytest.mark.parametrize("form", ["gather", "key"])
def test_distances_saturate_where_weights_end(form: str, tmp_path: Path) -> None:
    """The file's own limit is further away, where nothing is sent any more: other nodes are taken, and the codes are the same."""
    graph = compiled(Layer(form, reach=FIRST_ZERO * STEP + 1), tmp_path).graph
    assert {op.reach for op in graph.ops if isinstance(op, Nearest)} == {FIRST_ZERO}
    assert graph.run(codes := events())["y"].tolist() == by_hand(codes)
    assert anonymous(graph).digest == anonymous(compiled(Layer(), tmp_path).graph).digest


@pytest.mark.parametrize("change", [{"shown": True}, {"weighted": False}], ids=str)
def test_distances_that_others_see_do_not_saturate_earlier(change: dict[str, bool], tmp_path: Path) -> None:
    layer = Layer(reach=FIRST_ZERO * STEP + 1, **change)  # type: ignore[arg-type]
    found = compiled(layer, tmp_path)
    assert {op.reach for op in found.graph.ops if isinstance(op, Nearest)} == {FIRST_ZERO + 4}
    codes = events()
    assert np.array_equal(found.graph.run(codes)["y"], found.unoptimised.run(codes)["y"])


UNPROVEN = {
    "the node itself is nearer than the reach": {"self_mask": 0.5},
    "padding is nearer than the reach": {"padding_mask": 0.5},
    "one distance is larger by a constant": {"elsewhere": STEP},
    "half an energy is half a mask": {"energy_factor": 2.0},
    "nodes see others elsewhere than they are": {"seen": (2, 1)},
}


@pytest.mark.parametrize("form", ["gather", "key"])
@pytest.mark.parametrize("change", UNPROVEN.values(), ids=UNPROVEN)
def test_what_is_not_proven_stays_dense(change: dict, form: str, tmp_path: Path) -> None:
    found = compiled(Layer(form, quantised_distances=True, **change), tmp_path)
    codes = events()
    assert is_dense(found.graph)
    assert not any(isinstance(op, Nearest) for op in found.graph.ops)
    assert np.array_equal(found.graph.run(codes)["y"], found.unoptimised.run(codes)["y"])
    assert found.graph.run(codes)["y"].tolist() != by_hand(codes)


def test_a_maximum_that_other_messages_may_win_stays_dense(tmp_path: Path) -> None:
    """Moved by too little, a message of 0 from far away may be the largest."""
    found = compiled(Layer("key", moved_below=0.25), tmp_path)
    codes = events()
    assert is_dense(found.graph)
    assert found.graph.run(codes)["y"].tolist() != by_hand(codes)
    assert np.array_equal(found.graph.run(codes)["y"], found.unoptimised.run(codes)["y"])


def test_rows_are_taken_as_a_whole(tmp_path: Path) -> None:
    """Indices that all features share need one look-up each, however the file repeats them."""
    for form in ("gather", "flat", "nd", "sort"):
        (take,) = (op for op in compiled(Layer(form), tmp_path).graph.ops if isinstance(op, Take))
        graph = compiled(Layer(form), tmp_path).graph
        assert graph.tensors[take.inputs[1]].shape == (NODES, 3)
