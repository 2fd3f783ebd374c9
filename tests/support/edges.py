"""A network whose sums stand at the edge of a number type, with inputs that cancel: only the bounds see how far they go."""

import numpy as np

from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Add, Affine, Conv, Dense, InputQuantiser, MatMul, Op, Output, Rearrange, Requantise, Reshape

ANY = Format(True, 62, 0)
EDGES = {"float32": 2**24, "float64": 2**53}
"""First integer behind which the type leaves out odd ones."""


def at_the_edge(limit: int) -> Graph:
    """Return sums of which every result is small or rounded to small codes, while terms and partial sums pass `limit`."""
    half, one = limit // 2, np.ones(6, np.int64)
    ends = np.array([1, 1, 1, -1, -1, -1])

    def quantised(name: str, source: str, fmt: Format, *limits: int) -> Requantise:
        return Requantise(name, (source,), fmt, relu=False, limits=(limits[0], limits[1]) if limits else None)

    ops: list[Op] = [
        InputQuantiser("x", (6,), Format(False, 4, 0)),
        quantised("few", "x", Format(False, 4, 0), 5, 10),
        quantised("ones", "x", Format(False, 1, 0), 1, 1),
        Affine("far", ("x",), one, one * (half - 8), ANY),
        Affine("ends", ("x",), ends, ends * (half - 8), ANY),
        # What a bias alone lifts over the edge, although the result stays below it
        Affine("affine", ("few",), one, -one * (limit + 1), ANY),
        Dense("dense", ("few",), one[None], np.array([-limit - 7]), ANY),
        Reshape("few_rows", ("few",), (2, 3)),
        Conv("conv", ("few_rows",), np.ones((1, 2, 3), np.int64), np.array([-limit - 7]), ANY),
        # Terms that cancel: three of one sign pass the edge before those of the other sign come
        Dense("cancelling", ("far",), ends[None], np.array([1]), ANY),
        Reshape("far_rows", ("far",), (2, 3)),
        Conv("cancelling_conv", ("far_rows",), ends.reshape(1, 2, 3), np.array([1]), ANY),
        Reshape("row", ("ends",), (1, 6)),
        Reshape("column", ("ones",), (6, 1)),
        MatMul("cancelling_product", ("row", "column")),
        Add("sum", ("far", "ends")),
        Rearrange("beside", ("cancelling", "few"), np.arange(7)),
        Add("again", ("beside", "beside")),
        # Rounding: floating point rounds by adding a large number, and that must have room
        quantised("halved", "far", Format(False, 60, -1), 0, half),
        quantised("eighth", "cancelling", Format(True, 8, -3)),
        quantised("eighth_conv", "cancelling_conv", Format(True, 8, -3)),
    ]
    outputs = [Output(f"out_{op.name}", (op.name,)) for op in ops if not isinstance(op, InputQuantiser)]
    return Graph((*ops, *outputs))


def codes_at_the_edge(n_events: int = 200) -> np.ndarray:
    """Return input codes, the extreme ones first."""
    codes = np.random.default_rng(1).integers(0, 16, (n_events, 6))
    codes[0], codes[1], codes[2], codes[3] = 0, 15, [15, 15, 15, 0, 0, 0], [0, 0, 0, 15, 15, 15]
    return codes
