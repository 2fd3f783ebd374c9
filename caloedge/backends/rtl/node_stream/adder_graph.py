"""One adder graph for the operations of a step: a DAG of dense layers, sums, factors and roundings, for one node per cycle."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from caloedge.backends.rtl.adders import (
    BIASED_BITS,
    CONSTANT_BITS,
    EXACT_BITS,
    SOLVER,
    Core,
    requantised,
    significant_bits,
    traced_core,
)
from caloedge.backends.rtl.epilogue import MOST_SHIFT, Rounded
from caloedge.backends.rtl.layers import NAME
from caloedge.backends.rtl.node_stream.words import NodeNetwork, NodeOperation, Word, Words
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.ops import Add, Affine, Dense, Op, Requantise
from caloedge.compiler.unsupported import refusal
from caloedge.errors import MissingTool, Unsupported


def trace_step(operations: Sequence[NodeOperation], network: NodeNetwork, inputs: Words, outputs: Words, cutoff: int) -> Core:
    """Trace operations into an adder graph from `inputs` to `outputs`, in stages of at most `cutoff` adder delays.

    Words lie in slots of one width on both sides (`slot_format`); those that need fewer bits stand in the low ones.
    """
    try:
        from alkaid.trace import FVArray, FVArrayInput, HWConfig, trace
        from alkaid.trace import ops as symbolic
    except ImportError:
        raise MissingTool("the Python package alkaid is not installed; pip install 'caloedge[rtl]'") from None

    def array(elements: Sequence[Any]) -> Any:
        raw = np.empty(len(elements), dtype=object)
        raw[:] = elements
        return FVArray(raw, SOLVER, hwconf=hardware)

    hardware = HWConfig(1, -1, -1)
    source = FVArrayInput(len(inputs), hardware, SOLVER)
    values: dict[Word, Any] = {}
    for fmt, run in groupby(range(len(inputs)), key=lambda i: network.format(inputs[i])):
        places = list(run)
        codes = symbolic.quantize(source[places[0] : places[-1] + 1], int(fmt.signed), fmt.width - int(fmt.signed), 0)
        values |= {inputs[i]: value for i, value in zip(places, np.asarray(codes), strict=True)}
    for operation in operations:
        operands = [[values[w] if w.maker else float(w.index) for w in words] for words in operation.operands]
        made = np.asarray(_traced(symbolic, operation, network, [array(x) for x in operands])).reshape(-1)
        values |= dict(zip(operation.result, made, strict=True))
    result = array([values[word] for word in outputs])
    return traced_core(trace(source, result), len(inputs), slot_format(network, inputs), slot_format(network, outputs), cutoff)


def slot_format(network: NodeNetwork, words: Words) -> Format:
    """Return the format of the slots in which words lie side by side: the widest."""
    return Format(True, max((network.format(word).width for word in words), default=1), 0)


def _traced(symbolic: Any, operation: NodeOperation, network: NodeNetwork, operands: list[Any]) -> Any:
    """Return the traced codes of an operation's result (words,)."""
    op, tensors = operation.op, network.graph.tensors
    match op:
        case Dense():
            rows = operands[0].reshape(-1, op.weights.shape[1])
            return rows @ op.weights.T.astype(np.float64) + op.bias.astype(np.float64)
        case Affine():
            shape = tensors[op.inputs[0]].shape
            weights, bias = (operation.rows(x, shape).astype(np.float64) for x in (op.weights, op.bias))
            return operands[0] * weights + bias
        case Add():
            fraction = tensors[op.name].format.fraction
            factors = [2.0 ** (fraction - tensors[name].format.fraction) for name in op.inputs]
            pairs = zip(*operation.operands, *(np.asarray(x) for x in operands), strict=True)
            return [_sum(left, right, a, b, factors) for left, right, a, b in pairs]
        case Requantise():
            return requantised(symbolic, operands[0], Rounded(op, tensors[op.inputs[0]].format.fraction - op.format.fraction))
        case _:
            raise AssertionError("a table, a product or a search is no part of an adder graph")


def _sum(left: Word, right: Word, a: Any, b: Any, factors: list[float]) -> Any:
    """Return a sum of two traced codes; a word and itself, or two constants, are no sum of two variables for alkaid."""
    if not left.maker and not right.maker:
        return left.index * factors[0] + right.index * factors[1]
    return a * sum(factors) if left == right else a * factors[0] + b * factors[1]


def refuse_wide(operation: NodeOperation, network: NodeNetwork) -> None:
    """Refuse what alkaid cannot hold exactly; see `adders.width_problem`."""
    op = operation.op
    if isinstance(op, Dense | Affine):
        most = BIASED_BITS if np.any(op.bias) else CONSTANT_BITS
        checked: Mapping[str, tuple[Codes, int]] = {"weights": (op.weights, most), "biases": (op.bias, CONSTANT_BITS)}
        for kind, (codes, limit) in checked.items():
            if (bits := significant_bits(codes)) > limit:
                raise _too_wide(op, f"{kind} of {bits} bits", limit)
    width = network.graph.tensors[op.name].format.width
    if isinstance(op, Requantise):
        fmt = network.graph.tensors[op.inputs[0]].format
        step = Rounded(op, fmt.fraction - op.format.fraction)
        if step.offsets and (step.shift > MOST_SHIFT or significant_bits(np.array(step.offsets)) > CONSTANT_BITS):
            raise _too_wide(op, f"rounding {op.rounding.value} of {step.shift} bits", CONSTANT_BITS)
        width = max(width, fmt.width - min(step.shift, 0))
    if width > EXACT_BITS:
        raise _too_wide(op, f"sums of {width} bits", EXACT_BITS)


def _too_wide(op: Op, subject: str, limit: int) -> Unsupported:
    return refusal(op, f"an adder graph with {subject} (limit {limit})", NAME)
