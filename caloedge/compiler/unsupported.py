"""Refusals of what a backend cannot build exactly: the layer, the reason and the cure in one line."""

import shlex
from collections.abc import Collection, Iterable
from typing import assert_never

from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Softmax,
    Table,
    Take,
    Threshold,
    TopK,
)
from caloedge.errors import Unsupported, UserError

CURE = "use backend 'emulator'"
"""It builds every operation."""


def refusal(op: Op, subject: str, backend: str, cure: str = CURE) -> Unsupported:
    """Return the error that names a layer and what of it a backend cannot build.

    >>> from caloedge.compiler.ops import Add
    >>> print(refusal(Add("sum", ("a", "b")), "a sum of two tensors", "rtl"))
    layer sum: a sum of two tensors is not supported by backend 'rtl'; use backend 'emulator'
    """
    return Unsupported(f"layer {op.name}: {subject} is not supported by backend {backend!r}; {cure}")


def refusal_of_kind(op: Op, backend: str) -> Unsupported:
    """Return the error for an operation of a kind that a backend does not have at all."""
    return refusal(op, kind(op), backend)


def layer_names(graph: Graph) -> list[str]:
    """Return the operations that a recipe can choose something for: all but the ends."""
    return [op.name for op in graph.ops if not isinstance(op, InputQuantiser | Output)]


def refuse_unknown_layers(chosen: Iterable[str], known: Collection[str]) -> None:
    """Raise `UserError` for the first choice of a recipe or of the command line that is for no layer of the network."""
    if unknown := [name for name in chosen if name not in known]:
        raise UserError(f"layers: {unknown[0]!r} is no layer of the network; there are: {', '.join(known)}")


def choice_option(layer: str, choice: str) -> str:
    """Return what is typed to build one layer in another way: only variant `auto` heeds choices.

    >>> choice_option("conv 1", "streaming:2")
    "--variant auto --layer 'conv 1=streaming:2'"
    """
    return f"--variant auto --layer {shlex.quote(f'{layer}={choice}')}"


def one_input(graph: Graph, backend: str) -> InputQuantiser:
    """Return the only input; raise `Unsupported` for a second one."""
    if len(graph.inputs) > 1:
        raise Unsupported(f"input {graph.inputs[1].name}: a second input is not supported by backend {backend!r}; {CURE}")
    return graph.inputs[0]


def kind(op: Op) -> str:
    """Return what an operation is called in a sentence."""
    match op:
        case InputQuantiser():
            return "an input"
        case Conv():
            return f"a convolution over {len(op.kernel)} axes" if len(op.kernel) > 1 else "a convolution over one axis"
        case Dense():
            return "a dense layer"
        case Affine():
            return "a multiplication by constants"
        case Add():
            return "a sum of two tensors"
        case Multiply():
            return "a product of two tensors"
        case MatMul():
            return "a matrix product of two tensors"
        case Requantise():
            return "a requantisation"
        case Threshold():
            return "a count of thresholds"
        case Table():
            return "a table"
        case MaxPool():
            return "a max pool"
        case Reshape():
            return "a reshape"
        case Rearrange():
            return "an unnamed rearrangement" if op.kind == "rearrange" else f"a {op.kind}"
        case Softmax():
            return "a softmax"
        case TopK():
            return "a choice of the best"
        case Nearest():
            return "a search for the nearest nodes"
        case Take():
            return "a choice of rows by computed indices"
        case Condense():
            return "a choice of condensation points"
        case Output():
            return "an output"
        case _:
            assert_never(op)
