"""Small QONNX files written node by node, and their comparison with the executor and the emulator."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import compile_file
from caloedge.compiler.ops import Affine, Conv, Dense, Table, Threshold
from caloedge.errors import Unsupported
from caloedge.verification.codes import compare_codes, random_codes
from caloedge.verification.executors import run_qonnx

QONNX = "qonnx.custom_op.general"


class File:
    """A QONNX file that grows node by node; its input `x` has a quantiser `q` of 6 bits."""

    def __init__(
        self, shape: tuple[int, ...], opset: int = 13, batch: str | int = "N", scale: float = 0.25, kind: int = TensorProto.FLOAT
    ) -> None:
        self.opset = opset
        self.version = 1
        """Of QONNX's own operators."""
        self.inputs = [helper.make_tensor_value_info("x", kind, (batch, *shape))]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.quant("x" if kind == TensorProto.FLOAT else self.node("Cast", "x", to=TensorProto.FLOAT), scale, out="q")

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype=kind), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def node(self, kind: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        out = out or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, out.split(), f"{kind}_node", domain=domain, **attributes))
        return out.split()[0]

    def quant(self, source: str, scale: Any = 0.25, bits: int = 6, signed: int = 1, out: str = "") -> str:
        constants = [self.constant(value) for value in (scale, 0.0, bits)]
        how: dict[str, Any] = {"signed": signed, "narrow": 0, "rounding_mode": "ROUND"}
        return self.node("Quant", source, *constants, out=out, domain=QONNX, **how)

    def save(self, path: Path, output: str) -> Path:
        graph = helper.make_graph(
            self.nodes,
            "g",
            self.inputs,
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.constants,
        )
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(QONNX, self.version)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        return path


def same(path: Path) -> Graph:
    """Compare the integer network, before and after its passes, with the executor; every twin that differs must be noticed."""
    compiled = compile_file(path)
    graph = compiled.graph
    codes = random_codes(graph, 50, seed=1)
    wanted = run_qonnx(path, graph, codes)
    for each in (graph, compiled.unoptimised):
        check = compare_codes("integer graph", wanted, each.run(codes), 0.0)
        assert check.exact, check
    right = graph.run(codes)
    wrong = [twin.run(codes) for twin in corrupted(graph)]
    differ = [found for found in wrong if any((found[name] != right[name]).any() for name in right)]
    assert not any(compare_codes("twin", wanted, found, 0.0).exact for found in differ)
    assert differ or not wrong
    return graph


def corrupted(graph: Graph) -> Iterator[Graph]:
    """Yield graphs in which one number of one operation is another."""
    for op in graph.ops:
        try:
            match op:
                case Conv() | Dense() | Affine():
                    weights, bias = op.weights.copy(), op.bias.copy()
                    weights.flat[0] += 1 if weights.flat[0] < op.weight_format.max_code else -1
                    bias.flat[0] += 1 + graph.tensors[op.name].bound // 4  # of scores, only a large change is seen at all
                    yield graph.replacing(op.name, weights=weights)
                    yield graph.replacing(op.name, bias=bias)
                case Threshold():
                    yield graph.replacing(op.name, thresholds=op.thresholds + 1)
                case Table():
                    yield graph.replacing(op.name, values=np.roll(op.values, 1, axis=-1))
        except Unsupported:
            continue  # a range that later operations do not take
