"""What quantisers in files mean, where readings differ: at ties, at thresholds, in the order of adding and rounding.

Every case is compared with the executor on all codes of its input (`same` draws them with both ends).
"""

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import exact_round
from onnx import TensorProto
from small_qonnx import QONNX, File, same

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.onnx import quantisers
from caloedge.compiler.onnx.quantisers import _round_floats
from caloedge.compiler.onnx.reader import compile_file, read
from caloedge.compiler.ops import Dense, Requantise, Table, Threshold
from caloedge.errors import BadData, Unsupported, UserError

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


def truncated_anew(
    bits: int, mode: str = "FLOOR", scale: Any = 0.25, out_scale: Any = 1.0, zero: float = 0.0, **how: Any
) -> File:
    """Return a file with a Trunc of opset 2, whose result has a scale of its own and is limited."""
    file = Every((64,))
    file.version = 2
    constants = [file.constant(value) for value in (scale, zero, 6, out_scale, bits)]
    source = file.node(how["after"][0], "q", file.constant(how.pop("after")[1])) if "after" in how else "q"
    file.node("Trunc", source, *constants, domain=QONNX, rounding_mode=mode, out="y", **how)
    return file


def softmax_by_halves() -> File:
    file = Every((4,))
    step, offset = file.constant(2.0**-8), file.constant(0, np.uint8)
    soft = file.node("Softmax", "q", axis=1)
    file.node("DequantizeLinear", file.node("QuantizeLinear", soft, step, offset), step, offset, out="y")
    return file


def of_weights(*nodes: tuple[str, tuple[Any, ...]], values: Any = None, domain: str = "", **how: Any) -> File:
    """Return a file with a product with weights behind these nodes, which each have constants of their own."""
    file = Every((3,))
    values = np.linspace(-1.9, 1.9, 12).reshape(3, 4) if values is None else values
    found = file.constant(values, values.dtype)
    for kind, constants in nodes:
        found = file.node(kind, found, *(file.constant(each, np.asarray(each).dtype) for each in constants), domain=domain, **how)
    file.node("MatMul", "q", found, out="y")
    return file


def only_one_bit_each(scale: Any) -> File:
    return of_weights(("BipolarQuant", (np.asarray(scale, np.float32),)), domain=QONNX)


def weights_by_halves(scale: Any, zero: Any, **how: Any) -> File:
    """Return a file whose weights are quantised and dequantised by the two operators of ONNX."""
    step, offset = np.asarray(scale, np.float32), np.asarray(zero)
    return of_weights(("QuantizeLinear", (step, offset)), ("DequantizeLinear", (step, offset)), **how)


def channels_by_halves(scale: Any, zero: Any = 0, shape: tuple[int, ...] = (4, 3), **how: Any) -> File:
    file = Every(shape)
    step, offset = file.constant(scale), file.constant(zero, np.int8)
    file.node("DequantizeLinear", file.node("QuantizeLinear", "q", step, offset, **how), step, offset, out="y", **how)
    return file


def counted_after(kind: str, *constants: Any, shape: tuple[int, ...] = (4,), **how: Any) -> File:
    """Return a file that counts thresholds of what one node makes of its input."""
    file = Every(shape)
    before = file.node(kind, "q", *(file.constant(each) for each in constants), **how)
    file.node("MultiThreshold", before, file.constant([[-1.0, 0.0, 0.3, 1.0]]), domain=QONNX, out="y")
    return file


def counted_after_a_sum() -> File:
    file = Every((4,))
    other = file.quant(file.node("Mul", "q", file.constant([0.3, -0.1, 1.0, 2.0])), 0.3, 4)
    file.node("MultiThreshold", file.node("Add", "q", other), file.constant([[-1.0, 0.0, 0.3, 1.0]]), domain=QONNX, out="y")
    return file


def linear(kind: Any, zero: int, scale: float = 0.5, shape: tuple[int, ...] = (64,)) -> File:
    """Return a file whose sensor values are quantised twice; the second quantiser meets ties."""
    file = Every(shape)
    step, offset = file.constant(scale), file.constant(zero, kind)
    file.node("DequantizeLinear", file.node("QuantizeLinear", "q", step, offset), step, offset, out="y")
    return file


def unsaid() -> File:
    """Return a file with a QuantizeLinear that names neither zero point nor type: bytes without a sign."""
    file = Every((64,))
    step = file.constant(0.5)
    file.node("DequantizeLinear", file.node("QuantizeLinear", "q", step), step, out="y")
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
    "one row of thresholds for all channels": lambda: counted((2, 3, 4), [[-1.0, 0.3]], data_layout="NCHW"),
    "a layout of other axes than the tensor has": lambda: counted((3, 2), [[0.0], [-1.0], [0.5]], data_layout="NCHW"),
    "thresholds on a product with both signs": lambda: counted_after("Mul", [1.0, -1.0, 0.3, 0.0]),
    "thresholds beside an offset for each channel": lambda: counted_after("Add", [0.0, 0.1, -0.3, 9.0]),
    "thresholds on a power": lambda: counted_after("Pow", 2.0),
    "thresholds on a sum of two": counted_after_a_sum,
    "thresholds of which two are equal": lambda: counted((64,), [[0.5, 0.5, 1.0]]),
    "a falling count": lambda: counted((64,), [[-1.0, 0.0, 1.0]], out_scale=-0.5, out_bias=1.0),
    "a count in thirds": lambda: counted((64,), [[-1.0, 0.0, 1.0]], out_scale=float(np.float32(1 / 3)), out_bias=2.0),
    "a count that does not count": lambda: counted((64,), [[-1.0, 0.0, 1.0]], out_scale=0.0, out_bias=1.5),
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
    **{f"Trunc of another scale that rounds {mode}": lambda mode=mode: truncated_anew(
        4, mode, 0.3, 1.2) for mode in ("FLOOR", "ROUND", "CEIL")},
    "Trunc of another scale with a zero point": lambda: truncated_anew(4, "ROUND", 0.3, 0.6, 3.0),
    "Trunc of another scale that limits": lambda: truncated_anew(2, "FLOOR", 0.3, 0.6),
    "Trunc that limits to both signs where nothing is said": lambda: truncated_anew(3),
    "Trunc that limits to positive codes": lambda: truncated_anew(3, signed=0),
    "Trunc that limits to narrow codes": lambda: truncated_anew(3, narrow=1),
    "Trunc that limits to narrow positive codes": lambda: truncated_anew(2, signed=0, narrow=1),
    "Trunc with a scale for each channel": lambda: truncated_anew(
        4, "ROUND", np.repeat(np.float32([0.25, 0.3]), 32), np.repeat(np.float32([1.0, 1.2]), 32)),
    "Trunc of another scale beside an offset": lambda: truncated_anew(12, "FLOOR", 0.01, 0.02, -9.0, after=("Add", 9.0)),
    "Trunc of another scale beside a large zero point": lambda: truncated_anew(12, "ROUND", 0.3, 0.6, 999.0),
    "Trunc of half codes": lambda: truncated_anew(6, "FLOOR", 0.5, 1.0, 0.5),
    "a softmax by QuantizeLinear": softmax_by_halves,
    "weights of one bit with a scale each": lambda: only_one_bit_each(np.arange(1, 13).reshape(3, 4) / 8),
    "weights with a scale for each output and zero points": lambda: of_weights(
        ("Quant", (np.float32([0.25, 0.3, 0.01, 1.0]), np.float32([[0.0], [1.0], [-2.0]]), np.float32(5))),
        domain=QONNX, signed=1, narrow=0),
    "Trunc to one bit": lambda: truncated_anew(1),
    "Trunc to 32 bits": lambda: truncated_anew(32, out_scale=0.25),
    "Trunc by 32 bits": lambda: truncated_anew(4, out_scale=2.0**30),
    "Trunc that drops nothing": lambda: truncated_anew(6, out_scale=0.25),
    "a quantiser of 32 bits": lambda: again(bits=32),
    "QuantizeLinear to int16": lambda: linear(np.int16, 300),
    "QuantizeLinear to uint16": lambda: linear(np.uint16, 30),
    "QuantizeLinear to int32": lambda: linear(np.int32, -7),
    "QuantizeLinear to what is not said": unsaid,
    "a quantiser of one signed bit": lambda: again(bits=1),
    "a quantiser of one unsigned bit": lambda: again(bits=1, signed=0),
    "weights of one bit with one scale": lambda: only_one_bit_each(0.75),
    "weights of one bit with one scale in brackets": lambda: only_one_bit_each([[0.75]]),
    "weights of one bit with a scale for each output": lambda: only_one_bit_each([0.25, 0.75, 0.1, 1.5]),
    "weights of one bit with a scale for each input": lambda: only_one_bit_each([[0.25], [0.75], [0.5]]),
    "weights by QuantizeLinear": lambda: weights_by_halves(0.25, np.int8(0)),
    "weights by QuantizeLinear with a zero point": lambda: weights_by_halves(0.25, np.uint8(7)),
    "weights by QuantizeLinear with a scale for each output": lambda: weights_by_halves(
        [0.25, 0.3, 0.01, 1.0], np.int8([0, 1, -2, 3])),
    "weights by QuantizeLinear with a scale for each input": lambda: weights_by_halves(
        [0.25, 0.5, 0.125], np.int8([0, 1, -2]), axis=0),
    "weights by QuantizeLinear with a scale for each of the last axis": lambda: weights_by_halves(
        [0.25, 0.3, 0.01, 1.0], np.int8([0, 1, -2, 3]), axis=-1),
    "weights of int8": lambda: of_weights(
        ("DequantizeLinear", (np.float32(0.3), np.int8(2))), values=np.arange(-6, 6, dtype=np.int8).reshape(3, 4)),
    "weights of int8 without a zero point": lambda: of_weights(
        ("DequantizeLinear", (np.float32([0.3, 0.2, 1.0, 0.25]),)), values=np.arange(-6, 6, dtype=np.int8).reshape(3, 4)),
    "QuantizeLinear with a scale for each channel": lambda: channels_by_halves(np.float32([0.25, 0.3, 1.0, 0.5]), [3] * 4),
    "QuantizeLinear with a scale for each of the last axis": lambda: channels_by_halves(
        np.float32([0.3, 1.0, 0.5]), [0] * 3, axis=-1),
    "QuantizeLinear with a scale for each of axis 2": lambda: channels_by_halves(np.float32([0.3, 1.0, 0.5]), [1] * 3, axis=2),
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


@pytest.mark.parametrize("rounding", Rounding)
def test_real_numbers_are_rounded_by_definition(rounding: Rounding) -> None:
    halves = np.arange(-41, 42)
    wanted = [exact_round(Fraction(int(half), 8), rounding) for half in halves]
    assert _round_floats(halves / 8, rounding).tolist() == wanted


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


@pytest.mark.parametrize("scale", [0.75, [[0.75]], [0.25, 0.75, 0.5, 1.5], [[0.25, 0.75, 0.5, 1.5]]])
def test_weights_of_one_bit_are_codes_of_one_and_minus_one(scale: Any, tmp_path: Path) -> None:
    """Whatever scales they have: on a common unit they would be multipliers."""
    graph = read(only_one_bit_each(scale).save(tmp_path / "case.onnx", "y"))
    (layer,) = (op for op in graph.ops if isinstance(op, Dense))
    assert set(layer.weights.flat) == {-1, 1}
    assert (layer.weight_format.signed, layer.weight_format.width) == (True, 2)


@pytest.mark.parametrize("scale", [np.float32(0.75), np.float32([0.25, 0.75])])
def test_weights_of_int8_stay_the_codes_that_the_file_has(scale: Any, tmp_path: Path) -> None:
    """As numbers without scales they would all be divided by what they have in common."""
    values = np.array([[2, -6], [4, 12], [-8, 6]], np.int8)
    zero = np.full(scale.shape, 2, np.int8)
    graph = read(of_weights(("DequantizeLinear", (scale, zero)), values=values).save(tmp_path / "case.onnx", "y"))
    (layer,) = (op for op in graph.ops if isinstance(op, Dense))
    assert layer.weights.tolist() == (values.T - 2).tolist()
    assert (layer.weight_format.signed, layer.weight_format.width) == (True, 5)


def test_a_bias_of_whole_steps_belongs_to_the_codes_of_a_count(tmp_path: Path) -> None:
    for number, (scale, bias, base, fmt) in enumerate(
        ((0.5, -1.0, -2, "fixed<2,1>"), (1.0, 3.0, 3, "ufixed<3,3>"), (0.5, 0.3, 0, "ufixed<2,1>"), (0.5, 0.75, 0, "ufixed<2,1>"),
         (0.0, 1.0, 0, "ufixed<2,2>"), (0.3, 0.0, 0, "ufixed<2,0>"))
    ):  # fmt: skip
        file = counted((64,), [[-1.0, 0.0, 1.0]], out_scale=scale, out_bias=bias)
        (op,) = (op for op in read(file.save(tmp_path / f"{number}.onnx", "y")).ops if isinstance(op, Threshold))
        assert (op.name, op.base, op.step, str(op.format)) == ("threshold_1", base, 1, fmt)


def test_a_threshold_that_is_always_or_never_reached_stands_at_the_ends_of_the_codes(tmp_path: Path) -> None:
    """Wider ones would only make comparators wider; a channel whose scale is zero has nothing but those."""
    file = counted_after("Mul", [1.0, 0.0, -0.25, 1e-3])
    (op,) = (op for op in read(file.save(tmp_path / "case.onnx", "y")).ops if isinstance(op, Threshold))
    assert op.thresholds.tolist() == [[-4, 0, 2, 4], [-32, -32, 33, 33], [-16, 0, 5, 16], [-32, 0, 33, 33]]


def test_so_many_thresholds_are_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each channel that has a scale of its own, whether the file repeats it or not."""
    monkeypatch.setattr(quantisers, "MAX_ELEMENTS", 16 * 16)
    file = counted_after("Mul", [1.0, 0.5, 2.0, 3.0])
    (op,) = (op for op in read(file.save(tmp_path / "16.onnx", "y")).ops if isinstance(op, Threshold))
    assert op.thresholds.shape == (4, 4)
    with pytest.raises(Unsupported, match=r": 20 thresholds are too many$"):
        read(counted_after("Mul", [1.0, 0.5, 2.0, 3.0, 4.0], shape=(5,)).save(tmp_path / "20.onnx", "y"))


@pytest.mark.parametrize(("scale", "added"), [(0.25, 0), (0.5, 1), (0.3, 1)])
def test_truncation_costs_one_rounding_where_codes_are_whole_already(scale: float, added: int, tmp_path: Path) -> None:
    graph = compile_file(truncated_anew(4, scale=scale, out_scale=4 * scale).save(tmp_path / "case.onnx", "y")).unoptimised
    roundings = [op.name for op in graph.ops if isinstance(op, Requantise | Threshold | Table)]
    assert len(roundings) == 1 + added
    assert roundings[-1] == "trunc_1"


def formats(file: File, path: Path) -> list[tuple[str, str]]:
    """Return name and format of what rounds, before passes make formats as narrow as what comes."""
    ops = [op for op in compile_file(file.save(path, "y")).unoptimised.ops if isinstance(op, Requantise | Threshold | Table)]
    return [(op.name, str(op.format)) for op in ops]


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        # Version 1 limits nothing: 6 bits by 4 are -8 to 8, with a zero point of 5 they are -7 to 10.
        (lambda: truncated(4, "FLOOR"), ("trunc_1", "fixed<5,3>")),
        (lambda: truncated(4, "FLOOR", 5.0), ("trunc_1", "fixed<5,3>")),
        (lambda: truncated(4, "FLOOR", 32.0), ("trunc_1", "ufixed<5,3>")),
        (lambda: truncated(6, "FLOOR"), ("trunc_1", "fixed<7,5>")),
        (lambda: truncated(1, "FLOOR", 32.0), ("trunc_1", "ufixed<2,0>")),
        (lambda: truncated_anew(4), ("trunc_1", "fixed<4,4>")),
        (lambda: truncated_anew(3, signed=0, out_scale=0.5), ("trunc_1", "ufixed<3,2>")),
        (lambda: truncated_anew(3, scale=0.3, out_scale=0.6), ("trunc_1", "fixed<3,2>")),
        (lambda: again(), ("quant_1", "fixed<5,4>")),
        (lambda: again(scale=0.3), ("quant_1", "fixed<5,3>")),
        (lambda: again(scale=2.0, bits=3), ("quant_1", "fixed<3,4>")),
        (lambda: linear(np.int8, 0), ("quant_1", "fixed<8,7>")),
        (lambda: linear(np.uint8, 0), ("quant_1", "ufixed<8,7>")),
        (lambda: linear(np.int8, 100), ("quant_1", "fixed<9,8>")),
        (lambda: linear(np.uint8, 100), ("quant_1", "fixed<9,8>")),
        (lambda: bipolar(), ("threshold_1", "fixed<2,2>")),
    ],
)
def test_results_have_the_format_of_their_scale(file: Callable[[], File], wanted: tuple[str, str], tmp_path: Path) -> None:
    assert formats(file(), tmp_path / "case.onnx")[-1] == wanted


def test_weights_with_a_zero_point_get_the_narrowest_format(tmp_path: Path) -> None:
    for number, (values, fmt) in enumerate((([-1, 0, 0], "fixed<1,1>"), ([-3, -1, 0], "fixed<3,3>"), ([1, 0, 6], "ufixed<3,3>"))):
        file = Every((3,))
        constants = [file.constant(value) for value in (1.0, 1.0, 5)]
        column = file.constant(np.reshape(values, (3, 1)))
        weights = file.node("Quant", column, *constants, domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND")
        file.node("MatMul", "q", weights, out="y")
        (layer,) = (op for op in read(file.save(tmp_path / f"{number}.onnx", "y")).ops if isinstance(op, Dense))
        assert (layer.weights.tolist(), str(replace_fraction(layer.weight_format))) == ([values], fmt)


def replace_fraction(fmt: Format) -> Format:
    return Format(fmt.signed, fmt.width, 0)


# What is refused


def one(kind: str, *inputs: Any, source: Any = "q", shape: tuple[int, ...] = (3,), **how: Any) -> File:
    """Return a file of one node; what is no name is a constant, of float32 unless it says so."""
    file = Every(shape)
    how.setdefault("domain", "" if "Linear" in kind else QONNX)
    names = [
        each if isinstance(each, str) else file.constant(each, each.dtype if isinstance(each, np.ndarray) else np.float32)
        for each in (source, *inputs)
    ]
    file.node(kind, *names, out="y", **how)
    return file


def after_one(kind: str, then: str, *inputs: Any, **how: Any) -> File:
    """Return a file of a node behind another one of ONNX."""
    file = one(then, *inputs, source="before", **how)
    file.node(kind, "q", out="before", **({"axis": 1} if kind == "Softmax" else {}))
    file.nodes.append(file.nodes.pop(-2))
    return file


def limited_halves() -> File:
    """Return a file whose DequantizeLinear reads codes with a limit between two of them, which nothing rounds."""
    file = Every((3,))
    codes = file.node("QuantizeLinear", "q", file.constant(0.25), file.constant(0, np.int8))
    limited = file.node("Clip", codes, file.constant(0.3), file.constant(9.0))
    real = file.node("DequantizeLinear", limited, file.constant(0.25), file.constant(0, np.int8))
    file.node("MatMul", real, file.quant(file.constant(np.ones((3, 2)))), out="y")
    return file


I8, NAN = np.int8, float("nan")
WHOLE = "must be a constant"
HOLDS = "holds NaN or infinity"
NONE = np.zeros((3, 0), np.float32)
CODES = np.arange(-3, 3, dtype=I8).reshape(3, 2)
REFUSED: dict[str, tuple[Callable[[], File], str]] = {
    "a scale that is calculated": (lambda: one("Quant", "q", 0.0, 4), f"scale {WHOLE}"),
    "a zero point that is calculated": (lambda: one("Quant", 0.5, "q", 4), f"zero point {WHOLE}"),
    "a bit width that is calculated": (lambda: one("Quant", 0.5, 0.0, "q"), f"bit width {WHOLE}"),
    "no zero point": (lambda: one("Quant", 0.5, "", 4), "zero point is missing"),
    "scales that do not fit": (
        lambda: one("Quant", [0.5, 0.25], 0.0, 4), "scale of shape (2,) does not fit a tensor (3)"),
    "zero points that do not fit": (
        lambda: one("Quant", 0.5, [0.0, 1.0], 4), "zero point of shape (2,) does not fit a tensor (3)"),
    "a scale of NaN": (lambda: one("Quant", NAN, 0.0, 4), f"scale {HOLDS}"),
    "no scale at all": (lambda: one("Quant", np.zeros(0, np.float32), 0.0, 4), "scale is empty"),
    "a scale of zero": (lambda: one("Quant", 0.0, 0.0, 4), "scale 0 is not positive; export the network again"),
    "a zero point of NaN": (lambda: one("Quant", 0.5, NAN, 4), f"zero point {HOLDS}"),
    "one bit with a zero point of NaN": (lambda: one("Quant", 0.5, NAN, 1), f"zero point {HOLDS}"),
    "one bit with a zero point": (
        lambda: one("Quant", 0.5, 1.0, 1), "a signed quantiser of one bit with a zero point is not supported; use zero point 0"),
    "several bit widths": (
        lambda: one("Quant", 0.5, 0.0, [3, 4, 5, 6]), "bit width 3, 4, 5 is not supported; use one whole number up to 32"),
    "33 bits": (lambda: one("Quant", 0.5, 0.0, 33), "bit width 33 is not supported; use one whole number up to 32"),
    "no bit": (lambda: one("Quant", 0.5, 0.0, 0), "bit width 0 is not supported; use one whole number up to 32"),
    "a bit and a half": (lambda: one("Quant", 0.5, 0.0, 1.5), "bit width 1.5 is not supported; use one whole number up to 32"),
    "infinite bits": (lambda: one("Quant", 0.5, 0.0, np.inf), "bit width inf is not supported; use one whole number up to 32"),
    "a rounding that nobody knows": (
        lambda: one("Quant", 0.5, 0.0, 4, rounding_mode="odd"),
        "rounding mode ODD is not supported; use ROUND, HALF_EVEN, FLOOR, CEIL, UP, DOWN, HALF_UP, HALF_DOWN"),
    "a softmax with a zero point": (
        lambda: after_one("Softmax", "Quant", 0.25, 1.0, 4, signed=0),
        "a softmax with a zero point is not supported; use zero point 0"),
    "weights of NaN": (lambda: one("Quant", 0.5, 0.0, 4, source=[1.0, NAN]), f"the constant {HOLDS}"),
    "weights with a scale of NaN": (lambda: one("Quant", NAN, 0.0, 4, source=[1.0, 2.0]), f"scale {HOLDS}"),
    "weights with a zero point of NaN": (lambda: one("Quant", 0.5, NAN, 4, source=[1.0, 2.0]), f"zero point {HOLDS}"),
    "weights with scales that do not fit": (
        lambda: one("Quant", [0.5, 1.0, 2.0], 0.0, 4, source=[1.0, 2.0]), "scale (3,) does not fit the constant (2,)"),
    "weights with scales of more axes": (
        lambda: one("Quant", [[0.5], [1.0]], 0.0, 4, source=[1.0, 2.0]), "scale (2, 1) does not fit the constant (2,)"),
    "weights with zero points that repeat them": (
        lambda: one("Quant", 0.5, [[0.0], [1.0]], 4, source=[1.0, 2.0]), "zero point (2, 1) does not fit the constant (2,)"),
    "weights with zero points that do not fit": (
        lambda: one("Quant", 0.5, [0.0, 1.0, 0.0], 4, source=[1.0, 2.0]), "zero point (3,) does not fit the constant (2,)"),
    "weights of one bit with scales that do not fit": (
        lambda: one("BipolarQuant", [0.5, 1.0, 2.0], source=[1.0, 2.0]), "scale (3,) does not fit the constant (2,)"),
    "weights of one bit with scales that repeat them": (
        lambda: one("BipolarQuant", [[0.5], [1.0]], source=[[1.0, 2.0]]), "scale (2, 1) does not fit the constant (1, 2)"),
    "weights with half a zero point": (
        lambda: one("Quant", 0.5, 0.5, 4, source=[1.0, 2.0]),
        "a zero point of weights that is not a whole number is not supported"),
    "no weights": (lambda: one("Quant", 0.5, 0.0, 4, source=NONE), "the constant is empty"),
    "no weights of one bit": (lambda: one("BipolarQuant", 0.5, source=NONE), "the constant is empty"),
    "no weights by QuantizeLinear": (lambda: one("QuantizeLinear", 0.5, np.array(0, I8), source=NONE), "the constant is empty"),
    "no weights by DequantizeLinear": (lambda: one("DequantizeLinear", 0.5, source=NONE.astype(I8)), "the constant is empty"),
    "one bit with a scale that is calculated": (lambda: one("BipolarQuant", "q"), f"scale {WHOLE}"),
    "one bit with a scale of zero": (
        lambda: one("BipolarQuant", 0.0), "scale 0 is not positive; export the network again"),
    "one bit with scales that do not fit": (
        lambda: one("BipolarQuant", [0.5, 1.0]), "scale of shape (2,) does not fit a tensor (3)"),
    "weights of one bit of NaN": (lambda: one("BipolarQuant", 0.5, source=[NAN]), f"the constant {HOLDS}"),
    "weights of one bit with a scale below zero": (
        lambda: one("BipolarQuant", -1.0, source=[1.0]), "scale -1 is not positive; export the network again"),
    "an input of one bit": (
        lambda: one("BipolarQuant", 0.5, source="x"),
        "a network's input of one bit is not supported; quantise it to two bits or more"),
    "a softmax of one bit": (
        lambda: after_one("Softmax", "BipolarQuant", 0.5),
        "the result of a softmax is not quantised; add a quantiser, or leave it out: the largest score stays the largest"),
    "thresholds on a curve": (
        lambda: after_one("Tanh", "MultiThreshold", [[0.0]]),
        "thresholds on the result of Tanh_node are not supported; use a Quant of two bits or more"),
    "a million thresholds": (
        lambda: one("MultiThreshold", np.zeros((1, 2**20 + 1), np.float32)), "1,048,577 thresholds are too many"),
    "thresholds that are calculated": (lambda: one("MultiThreshold", "q"), f"thresholds {WHOLE}"),
    "thresholds of NaN": (lambda: one("MultiThreshold", [[NAN]]), f"thresholds {HOLDS}"),
    "a list of thresholds": (
        lambda: one("MultiThreshold", [0.0, 1.0]), "thresholds of shape (2,) are not (channels, levels)"),
    "no thresholds": (
        lambda: one("MultiThreshold", np.zeros((3, 0), np.float32)), "thresholds of shape (3, 0) are not (channels, levels)"),
    "thresholds of other channels": (
        lambda: one("MultiThreshold", [[0.0], [1.0]]), "thresholds for 2 channels of a tensor with 3"),
    "thresholds of other channels of NHWC": (
        lambda: one("MultiThreshold", [[0.0], [1.0]], shape=(2, 4, 3), data_layout="NHWC"),
        "thresholds for 2 channels of a tensor with 3"),
    "a Trunc by what is calculated": (lambda: one("Trunc", "q", 0.0, 6, 4), f"scale {WHOLE}"),
    "a Trunc beside what is calculated": (lambda: one("Trunc", 0.25, "q", 6, 4), f"zero point {WHOLE}"),
    "a Trunc from what is calculated": (lambda: one("Trunc", 0.25, 0.0, "q", 4), f"input bit width {WHOLE}"),
    "a Trunc to what is calculated": (lambda: one("Trunc", 0.25, 0.0, 6, "q"), f"output bit width {WHOLE}"),
    "a Trunc to a scale that is calculated": (lambda: one("Trunc", 0.25, 0.0, 6, "q", 4), f"output scale {WHOLE}"),
    "a Trunc to a width that is calculated": (lambda: one("Trunc", 0.25, 0.0, 6, 1.0, "q"), f"output bit width {WHOLE}"),
    "a Trunc with scales that do not fit": (
        lambda: one("Trunc", [0.25, 0.5], 0.0, 6, 4), "scale of shape (2,) does not fit a tensor (3)"),
    "a Trunc to scales that do not fit": (
        lambda: one("Trunc", 0.25, 0.0, 6, [0.25, 0.5], 4), "output scale of shape (2,) does not fit a tensor (3)"),
    "a Trunc to a scale of zero": (
        lambda: one("Trunc", 0.25, 0.0, 6, 0.0, 4), "scale 0 is not positive; export the network again"),
    "a Trunc to more bits": (
        lambda: one("Trunc", 0.25, 0.0, 6, 7),
        "truncation from 6 to 7 bits is not supported; use scales that differ by a power of two"),
    "a Trunc to no bits": (
        lambda: one("Trunc", 0.25, 0.0, 6, 0),
        "truncation from 6 to 0 bits is not supported; use scales that differ by a power of two"),
    "a Trunc of no widths": (
        lambda: one("Trunc", 0.25, 0.0, np.zeros(0, np.float32), np.zeros(0, np.float32)),
        "truncation from 0 to 0 bits is not supported; use scales that differ by a power of two"),
    "a Trunc to a finer scale": (
        lambda: one("Trunc", 0.25, 0.0, 6, 0.125, 4),
        "truncation from 6 to 4 bits is not supported; use scales that differ by a power of two"),
    "a Trunc of 33 bits": (
        lambda: one("Trunc", 0.25, 0.0, 6, 2.0**31, 4),
        "truncation from 6 to 4 bits is not supported; use scales that differ by a power of two"),
    "a Trunc by other powers of two": (
        lambda: one("Trunc", 0.25, 0.0, 6, [0.5, 1.0, 0.5], 4),
        "truncation from 6 to 4 bits is not supported; use scales that differ by a power of two"),
    "QuantizeLinear to int64": (
        lambda: one("QuantizeLinear", 0.5, np.array(0)), "QuantizeLinear to int64 is not supported; use int8 or uint8"),
    "QuantizeLinear to a real zero point": (
        lambda: one("QuantizeLinear", 0.5, 0.0), "a zero point of type float32 is not supported; use int8 or uint8"),
    "QuantizeLinear to float32": (
        lambda: one("QuantizeLinear", 0.5, output_dtype=TensorProto.FLOAT),
        "QuantizeLinear to data type 1 is not supported; use int8 or uint8"),
    "QuantizeLinear by a scale that is calculated": (lambda: one("QuantizeLinear", "q", np.array(0, I8)), f"scale {WHOLE}"),
    "QuantizeLinear beside what is calculated": (lambda: one("QuantizeLinear", 0.5, "q"), f"zero point {WHOLE}"),
    "QuantizeLinear of weights by a scale that is calculated": (
        lambda: one("QuantizeLinear", "q", source=[1.0]), f"scale {WHOLE}"),
    "QuantizeLinear of weights of NaN": (
        lambda: one("QuantizeLinear", 0.5, np.array(0, I8), source=[NAN]), f"the constant {HOLDS}"),
    "QuantizeLinear with scales for no axis": (
        lambda: one("QuantizeLinear", [0.5, 1.0], np.array([0, 0], I8), axis=2),
        "scales of shape (2,) are not supported; use one, or one per channel"),
    "QuantizeLinear with scales for blocks": (
        lambda: one("QuantizeLinear", [0.5, 1.0, 2.0], np.array(0, I8), block_size=1),
        "scales of shape (3,) are not supported; use one, or one per channel"),
    "QuantizeLinear with a matrix of scales": (
        lambda: one("QuantizeLinear", [[0.5, 1.0, 2.0]], np.array(0, I8)),
        "scales of shape (1, 3) are not supported; use one, or one per channel"),
    "QuantizeLinear with scales of other channels": (
        lambda: one("QuantizeLinear", [0.5, 1.0], np.array(0, I8)), "scale of shape (1, 2) does not fit a tensor (3)"),
    "QuantizeLinear with zero points of other channels": (
        lambda: one("QuantizeLinear", 0.5, np.array([0, 0], I8)), "zero point of shape (1, 2) does not fit a tensor (3)"),
    "QuantizeLinear with a scale for each event": (
        lambda: one("QuantizeLinear", [0.5, 1.0], np.array(0, I8), axis=0), "scale differs between events"),
    "QuantizeLinear with several zero points": (
        lambda: one("QuantizeLinear", 0.5, np.array([0, 1, 2], I8)),
        "a zero point that differs between channels is not supported; use one"),
    "QuantizeLinear of a softmax with a zero point": (
        lambda: after_one("Softmax", "QuantizeLinear", 0.25, np.array(1, np.uint8)),
        "a softmax with a zero point is not supported; use zero point 0"),
    "DequantizeLinear of an input": (
        lambda: one("DequantizeLinear", 0.5, source="x"), "its input is not quantised; put QuantizeLinear before it"),
    "DequantizeLinear by a scale that is calculated": (lambda: one("DequantizeLinear", "q"), f"scale {WHOLE}"),
    "DequantizeLinear beside what is calculated": (lambda: one("DequantizeLinear", 0.5, "q"), f"zero point {WHOLE}"),
    "DequantizeLinear of real weights": (
        lambda: one("DequantizeLinear", 0.5, source=[1.0]), "its input is not of whole numbers"),
    "DequantizeLinear with scales of other channels": (
        lambda: one("DequantizeLinear", [0.5, 1.0]), "scale of shape (1, 2) does not fit a tensor (3)"),
    "DequantizeLinear with zero points of other channels": (
        lambda: one("DequantizeLinear", 0.5, np.array([0, 1], I8)), "zero point of shape (1, 2) does not fit a tensor (3)"),
    "DequantizeLinear with scales for no axis": (
        lambda: one("DequantizeLinear", [0.5, 1.0], source=CODES, axis=-3),
        "scales of shape (2,) are not supported; use one, or one per channel"),
    "DequantizeLinear of codes that nothing rounds": (
        limited_halves,
        "the result of DequantizeLinear_node is not quantised, and its limit lies between two codes; quantise it, or use "
        "--quantise-missing FORMAT"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_in_these_words(case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    file = make()
    with pytest.raises(UserError, match=rf": {re.escape(words)}$"):
        read(file.save(tmp_path / "case.onnx", "y"))
