"""The exported clustering network: both forms of its file give the codes of the network that was trained, ties included."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from caloedge.arithmetic import QuantisedArithmetic, all_pairs  # noqa: E402
from caloedge.compiler.graph import Graph  # noqa: E402
from caloedge.compiler.onnx.reader import read  # noqa: E402
from caloedge.compiler.ops import Nearest  # noqa: E402
from caloedge.export import golden_vectors, write_qonnx  # noqa: E402
from caloedge.networks.clustering import SIZES, build  # noqa: E402
from caloedge.verification.codes import random_vectors  # noqa: E402

NODES, EVENTS = 12, 300


@pytest.fixture(scope="module")
def twin():
    torch.manual_seed(1)
    arithmetic = QuantisedArithmetic(weight_bits=8, activation_bits=8, input_bits=16, input_fraction=12, input_signed=True)
    network = build(arithmetic, SIZES["edge"]).eval()
    with torch.no_grad():  # nearer to each other, so that messages count
        for name in ("coordinates1", "coordinates2"):
            network.get_parameter(f"{name}.weight").mul_(0.3)
    return network


@pytest.fixture(scope="module")
def graphs(twin, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    folder: Path = tmp_path_factory.mktemp("forms")
    forms = {"gathered": twin, "all pairs": all_pairs(twin, NODES)}
    for name, network in forms.items():
        write_qonnx(network, (NODES, 5), "nodes", folder / f"{name}.onnx")
    return {name: read(folder / f"{name}.onnx") for name in forms}


def events(graph: Graph) -> np.ndarray:
    """Return codes of events with equal hits, hits in one place, padding, and no hit at all."""
    codes = random_vectors(graph, EVENTS).inputs
    codes[::3, :, 2:] = codes[::3, :1, 2:]
    codes[1::3, 6:] = 0
    codes[2] = 0
    codes[5::7] = codes[5::7, :1]
    return codes


def test_both_forms_give_the_codes_of_the_twin(twin, graphs: dict[str, Graph]) -> None:
    codes = events(graphs["gathered"])
    expected = golden_vectors(twin, codes, graphs["gathered"]).outputs["nodes"]
    for name, graph in graphs.items():
        np.testing.assert_array_equal(graph.run(codes)["nodes"], expected, err_msg=name)


def test_a_file_that_gathers_has_nearest_nodes_and_no_pairs(graphs: dict[str, Graph]) -> None:
    graph = graphs["gathered"]
    assert sum(isinstance(op, Nearest) for op in graph.ops) == 4  # distances and indices of two layers
    assert max(tensor.size for tensor in graph.tensors.values()) < NODES * NODES * 6


def test_neighbours_matter(graphs: dict[str, Graph]) -> None:
    """With another reach the outputs differ: the comparison sees the graph layers."""
    graph = graphs["gathered"]
    codes = events(graph)
    changed = graph
    for op in graph.ops:
        if isinstance(op, Nearest):
            changed = changed.replacing(op.name, reach=2)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(changed.run(codes)["nodes"], graph.run(codes)["nodes"])
