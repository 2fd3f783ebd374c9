"""What quantisers in files mean, where readings differ: at ties, at thresholds, in the order of adding and rounding.

Every case is compared with the executor on all codes of its input (`same` draws them with both ends).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_qonnx import QONNX, File, same

from caloedge.compiler.ops import Dense, Threshold
from caloedge.compiler.reader import read
from caloedge.errors import BadData

pytest.importorskip("qonnx")
pytest.importorskip("onnxruntime")

ROUNDINGS = ("ROUND", "HALF_EVEN", "FLOOR", "CEIL", "UP", "DOWN", "HALF_UP", "HALF_DOWN")


class Every(File):
    """A file whose input `q` takes every code of 6 bits in steps of 1/4, several elements at once."""

    def again(self, source: str, scale: float, bits: int, zero: float = 0.0, signed: int = 1, narrow: int = 0, **how: Any) -> str:
        constants = [self.constant(value) for value in (scale, zero, bits)]
        how = {"signed": signed, "narrow": narrow, "rounding_mode": "ROUND"} | how
        return self.node("Quant", source, *constants, domain=QONNX, **how, out="y")


def bipolar(scale: Any = 0.5) -> File:
    file = Every((64,))
    file.node("BipolarQuant", "q", file.constant(scale), domain=QONNX, out="y")
    return file


def bipolar_weights() -> File:
    """Return a file with weights of one bit, one of them zero, which counts as positive."""
    file = Every((3,))
    weights = file.node("BipolarQuant", file.constant([[-0.5, 0.0], [0.0, 0.25], [1.0, -2.0]]), file.constant(0.5), domain=QONNX)
    file.node("MatMul", "q", weights, out="y")
    return file


def counted(shape: tuple[int, ...], thresholds: Any, **how: Any) -> File:
    file = Every(shape)
    limited = file.node("Relu", "q") if how.pop("relu", False) else "q"
    limited = file.node("Min", limited, file.constant(how.pop("most"))) if "most" in how else limited
    file.node("MultiThreshold", limited, file.constant(thresholds), domain=QONNX, out="y", **how)
    return file


def again(**how: Any) -> File:
    file = Every((64,))
    file.again("q", how.pop("scale", 0.5), how.pop("bits", 5), **how)
    return file


def weights_with_zero() -> File:
    """Return a file whose weights reach beyond their format once the zero point is taken off."""
    file = Every((3,))
    constants = [file.constant(value) for value in (0.25, 3.0, 4)]
    values = file.constant(np.linspace(-9, 9, 12).reshape(3, 4))
    weights = file.node("Quant", values, *constants, domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND")
    file.node("MatMul", "q", weights, out="y")
    return file


def truncated(bits: int, mode: str, zero: float = 0.0) -> File:
    file = Every((64,))
    constants = [file.constant(value) for value in (0.25, zero, 6, bits)]
    file.node("Trunc", "q", *constants, domain=QONNX, rounding_mode=mode, out="y")
    return file


def linear(kind: Any, zero: int, scale: float = 0.5, shape: tuple[int, ...] = (64,)) -> File:
    """Return a file whose sensor values are quantised twice; the second quantiser meets ties."""
    file = Every(shape)
    step, offset = file.constant(scale), file.constant(zero, kind)
    file.node("DequantizeLinear", file.node("QuantizeLinear", "q", step, offset), step, offset, out="y")
    return file


def linear_input(kind: Any, zero: int) -> File:
    file = Every((64,))
    file.nodes.clear()
    step, offset = file.constant(0.5), file.constant(zero, kind)
    file.node("DequantizeLinear", file.node("QuantizeLinear", "x", step, offset), step, offset, out="y")
    return file


CASES = {
    "a code of zero is +1 in one bit": bipolar,
    "a weight of zero is +1 in one bit": bipolar_weights,
    "bipolar with a scale for each channel": lambda: bipolar(np.linspace(0.25, 2, 64)),
    "a code on its threshold counts": lambda: counted((64,), [[-7.75, -1.0, 0.0, 0.25, 7.75]]),
    "thresholds beyond what comes": lambda: counted((64,), [[-90.0, 0.1, 90.0]]),
    "the first threshold is where the rectifier is": lambda: counted((64,), [[0.0, 0.3, 2.0]], relu=True),
    "the last threshold is where the limit is": lambda: counted((64,), [[-1.0, 1.0, 1.5]], most=1.5),
    "a threshold above the limit": lambda: counted((64,), [[-1.0, 1.0, 1.75]], most=1.5),
    "channels are the first axis of NCHW": lambda: counted((2, 3, 4), [[0.0, 1.0], [-1.0, 2.0]]),
    "channels are the last axis of NWC": lambda: counted((5, 3), [[0.0, 1.0], [-1.0, 2.0], [0.5, 0.75]], data_layout="NWC"),
    "channels are the last axis of NHWC": lambda: counted((2, 4, 3), [[0.0], [-1.0], [0.5]], data_layout="NHWC"),
    "as many samples as channels in NWC": lambda: counted((3, 3), [[0.0, 1.0], [-1.0, 2.0], [0.5, 0.75]], data_layout="NWC"),
    "channels are the last of three axes without a layout": lambda: counted((3, 3), [[0.0, 1.0], [-1.0, 2.0], [0.5, 0.75]]),
    "channels are the second of four axes without a layout": lambda: counted((2, 2, 2), [[0.0, 1.0], [-1.0, 2.0]]),
    "steps and bias of a count": lambda: counted((64,), [[-1.0, 0.0, 1.0]], out_scale=0.5, out_bias=-1.0),
    "a bias between two steps": lambda: counted((64,), [[-1.0, 0.0, 1.0]], out_scale=0.5, out_bias=0.3),
    **{f"a quantiser that rounds {mode}": lambda mode=mode: again(rounding_mode=mode) for mode in ROUNDINGS},
    **{f"a zero point beside {mode}": lambda mode=mode: again(zero=3.0, rounding_mode=mode) for mode in ROUNDINGS},
    "a quantiser with half a zero point": lambda: again(zero=1.5),
    "weights with a zero point": weights_with_zero,
    "a narrow signed quantiser": lambda: again(bits=3, narrow=1),
    "a narrow unsigned quantiser": lambda: again(bits=3, narrow=1, signed=0),
    "an unsigned quantiser": lambda: again(bits=3, signed=0),
    **{f"Trunc that rounds {mode}": lambda mode=mode: truncated(4, mode) for mode in ("FLOOR", "ROUND", "CEIL")},
    "Trunc with a zero point": lambda: truncated(4, "FLOOR", 5.0),
    "Trunc with a zero point that rounds": lambda: truncated(3, "ROUND", -3.0),
    "an even zero point is added after rounding": lambda: linear(np.int8, 4),
    "an odd zero point is added after rounding": lambda: linear(np.int8, 3),
    "an odd zero point of unsigned bytes": lambda: linear(np.uint8, 101),
    "zero points saturate": lambda: linear(np.int8, 120),
    "an odd zero point at the input": lambda: linear_input(np.int8, 3),
    "unsigned bytes at the input": lambda: linear_input(np.uint8, 7),
    "a scale of a third": lambda: linear(np.int8, 1, float(np.float32(1 / 3))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_quantiser_means_what_the_executor_says(case: str, tmp_path: Path) -> None:
    same(CASES[case]().save(tmp_path / "case.onnx", "y"))


@pytest.mark.parametrize("zero", [0, 3, -4])
def test_a_sensor_value_at_a_tie_is_rounded_before_the_zero_point_is_added(zero: int, tmp_path: Path) -> None:
    """QuantizeLinear rounds x / scale to even; with an odd zero point added first, every tie would go the other way."""
    graph = read(linear_input(np.int8, zero).save(tmp_path / "case.onnx", "y"))
    ties = np.arange(-31.5, 32.5, 1.0)
    assert graph.quantise_input(0.5 * ties[None]).tolist() == [[round(tie) + zero for tie in ties.tolist()]]


def test_weights_are_divided_by_their_scale_in_the_precision_of_the_file(tmp_path: Path) -> None:
    """Training saw float32: there 0.35 / 0.1 is 3.5, a tie, which rounds to 4; in float64 it is 3.4999999 and would be 3."""
    weight, scale = np.float32(0.35), np.float32(0.1)
    assert (weight / scale, round(float(weight) / float(scale))) == (np.float32(3.5), 3)
    file = Every((1,))
    weights = file.quant(file.constant([[weight]]), scale, 8)
    file.node("MatMul", "q", weights, out="y")
    path = file.save(tmp_path / "case.onnx", "y")
    (layer,) = (op for op in read(path).ops if isinstance(op, Dense))
    assert layer.weights.tolist() == [[4]]


@pytest.mark.parametrize("mode", ROUNDINGS)
def test_weights_at_ties_are_rounded_by_the_mode(mode: str, tmp_path: Path) -> None:
    file = Every((1,))
    constants = [file.constant(value) for value in (0.25, 0.0, 5)]
    values = np.arange(-9.0, 9.0) / 8  # every second one is a tie
    weights = file.node("Quant", file.constant(values[None]), *constants, domain=QONNX, signed=1, narrow=0, rounding_mode=mode)
    file.node("MatMul", "q", weights, out="y")
    path = file.save(tmp_path / "case.onnx", "y")
    same(path)
    (layer,) = (op for op in read(path).ops if isinstance(op, Dense))
    halves = np.arange(-9, 9)
    away, to_zero = np.sign(halves) * ((abs(halves) + 1) // 2), np.sign(halves) * (abs(halves) // 2)
    wanted = {"FLOOR": halves // 2, "CEIL": -(-halves // 2), "UP": away, "DOWN": to_zero, "HALF_UP": away, "HALF_DOWN": to_zero}
    assert layer.weights[:, 0].tolist() == wanted.get(mode, np.rint(halves / 2).astype(int)).tolist()


def test_the_scale_that_is_not_positive_is_named(tmp_path: Path) -> None:
    file = Every((2,))
    file.quant("q", np.array([0.5, -0.25]), out="y")
    with pytest.raises(BadData, match=r"scale -0\.25 is not positive; export the network again$"):
        read(file.save(tmp_path / "case.onnx", "y"))


def test_a_threshold_is_the_lowest_code_that_reaches_it(tmp_path: Path) -> None:
    graph = read(counted((64,), [[-0.25, 0.0, 0.1]]).save(tmp_path / "case.onnx", "y"))
    (op,) = (op for op in graph.ops if isinstance(op, Threshold))
    assert op.thresholds.tolist() == [[-1, 0, 1]]  # 0.1 lies above code 0 and is reached at 0.25
