"""Random QONNX and QCDQ files over the whole operator set of the reader, and the comparison of `Graph` with the executor."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from caloedge.compiler.graph import Graph
from caloedge.verification.qonnx_executor import execute

QONNX, CHANNELS_LAST = "qonnx.custom_op.general", "qonnx.custom_op.channels_last"
DOMAINS = (QONNX, "onnx.brevitas", "finn.custom_op.general")
ROUNDINGS = ("ROUND", "HALF_EVEN", "FLOOR", "CEIL", "UP", "DOWN", "HALF_UP", "HALF_DOWN")
MAX_SIZE = 200
"""Most elements of a tensor: small files are fast, and shrink to something readable."""
MAX_BLOCKS = 6

Scales = float | np.ndarray


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file under construction, and what is known of it."""

    name: str
    shape: tuple[int, ...]
    """Without the event axis."""
    state: str
    """codes: just quantised; sum: an affine function of codes; limited; curved: after another function; scores: a softmax."""
    reach: float
    """Rough size of its values, so that scales hit the interesting range."""
    grid: str = "one"
    """Where its scale differs: one (nowhere), channel (along axis 0), any."""
    has_zero: bool = True
    """Whether a code stands for zero."""
    scale: float | None = None
    """Of whole codes."""
    bits: int = 0
    zero: float = 0.0
    tokens: bool = False
    """Whether an index tensor, which nothing follows."""

    @property
    def is_plain(self) -> bool:
        return self.state in ("codes", "sum")


class Drawing:
    """An ONNX graph that grows block by block.

    `choose(low, high)` decides on its structure, so that hypothesis can shrink it; the numbers come from a seeded generator.
    """

    def __init__(self, choose: Callable[[int, int], int]) -> None:
        self.choose = choose
        self.rng = np.random.default_rng(self.whole(0, 2**20))
        self.opset = self.pick(13, 18, 11)
        self.custom = self.pick(1, 2)
        self.domain = self.pick(*DOMAINS)
        self.batch: str | int = self.pick("N", 1)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs: list[Tensor] = []
        self.types: list[int] = []
        self.live: list[Tensor] = []
        self.blocks: list[str] = []

    # Drawing

    def pick(self, *options: Any) -> Any:
        return options[self.choose(0, len(options) - 1)]

    def whole(self, low: int, high: int) -> int:
        return self.choose(low, high)

    def coin(self, odds: int = 2) -> bool:
        """Return True once in `odds` times."""
        return self.whole(0, odds - 1) == odds - 1

    # Parts of the file

    def new(self, stem: str) -> str:
        return f"{stem}{len(self.nodes)}_{len(self.constants)}"

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = self.new("c")
        array = np.asarray(values, dtype=kind)
        self.constants[name] = array
        return name

    def node(self, kind: str, inputs: list[str], outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{kind.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        named = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, names, f"{kind}_{len(self.nodes)}", domain=domain, **named))
        return names[0] if outputs == 1 else names

    def with_axes(self, kind: str, x: str, axes: list[int], since: int, **attributes: Any) -> str:
        """Add a node whose axes are an input from a version on, and an attribute before."""
        if self.opset >= since:
            return self.node(kind, [x, self.constant(axes, np.int64)], **attributes)
        return self.node(kind, [x], axes=axes, **attributes)

    def one_scale(self, target: float, near: float | None = None) -> float:
        """Return a float32 scale of about a size: a power of two, few bits, any, or related to another one (ties)."""
        target = max(target, 2.0**-30)
        exponent = round(math.log2(target))
        kind = self.pick("power", "few bits", "any", "related")
        if kind == "related" and near:
            factor = self.pick(1.0, 3.0, 1.5)
            return float(np.float32(near * factor * 2.0 ** round(math.log2(target / (near * factor)))))
        if kind == "any":
            return float(np.float32(target * self.rng.uniform(0.7, 1.4)))
        return self.pick(3.0, 5.0, 7.0) * 2.0 ** (exponent - 2) if kind == "few bits" else 2.0**exponent

    def scales(self, target: float, count: int, near: float | None = None) -> np.ndarray:
        """Return one scale for each channel, of one kind."""
        first = self.one_scale(target, near)
        match self.pick("powers", "any", "same"):
            case "powers":
                return first * 2.0 ** self.rng.integers(-2, 3, count)
            case "any":
                return (first * self.rng.uniform(0.5, 2.0, count)).astype(np.float32).astype(np.float64)
            case _:
                return np.full(count, first)

    # Quantisers

    def quantised(self, x: Tensor, *, simple: bool = False) -> Tensor:
        """Add a quantiser; a simple one has one scale and is followed by anything."""
        self.blocks.append("quantiser")
        if simple or x.state == "scores" or self.coin(2):
            return self.quant(x, simple=simple)
        kinds = [self.quant, self.bipolar, self.multi_threshold, self.linear]
        if x.scale is not None and x.is_plain and x.bits:
            kinds.append(self.trunc)
        return self.pick(*kinds)(x)

    def quant(self, x: Tensor, *, simple: bool = False) -> Tensor:
        first = x.state == "input"
        softmax = x.state == "scores"
        bits = self.pick(4, 3, 2, 5, 6, 8, 7, 10, 9, 1, 12, 16, *((24,) if not first else ()))
        bits = min(bits, 8) if softmax else bits
        simple = simple or bits > 12  # else it would take too many thresholds
        signed, narrow, rounding = self.coin(), self.coin(4), self.pick(*ROUNDINGS)
        if softmax or first:
            narrow = narrow and signed and not softmax
        if softmax:
            rounding = self.pick("ROUND", "HALF_EVEN")
        if bits == 1 and (signed or first or narrow):
            bits = 2
        low = -(2 ** (bits - 1)) if signed else 0
        span = 2 ** (bits - 1) if signed else 2**bits - 1
        target = x.reach / span * self.pick(1.0, 0.5, 2.0)
        channels = x.shape[0] if not (simple or first or softmax or self.coin(2)) and len(x.shape) else 0
        scale: Scales = self.scales(target, channels, x.scale) if channels else self.one_scale(target, x.scale)
        zero = 0.0
        if not softmax and self.coin(4):
            zero = float(self.whole(low, low + 2 * span)) if first or simple or not self.coin(4) else 0.5
        shaped = np.reshape(scale, (1, -1) + (1,) * (len(x.shape) - 1)) if channels else np.float32(scale)
        if channels and self.coin(3):
            shaped = shaped[0]
        names = [self.constant(value) for value in (shaped, zero, bits)]
        kind = self.pick("Quant", "IntQuant")
        how = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": rounding, "domain": self.domain}
        y = self.node(kind, [x.name, *names], **how)
        uniform = not channels or len(set(np.ravel(scale))) == 1
        one = float(np.ravel(scale)[0]) if uniform else None
        reach = min(x.reach * 1.5, span * float(np.max(scale)))
        return Tensor(y, x.shape, "codes", reach, "one" if uniform else "channel", zero != 0.5, one, bits, zero)

    def bipolar(self, x: Tensor) -> Tensor:
        scale = self.one_scale(self.pick(1.0, 0.5))
        y = self.node("BipolarQuant", [x.name, self.constant(scale)], domain=self.domain)
        return Tensor(y, x.shape, "codes", scale, has_zero=False)

    def multi_threshold(self, x: Tensor) -> Tensor:
        rank, levels = len(x.shape), self.pick(1, 3, 7, 15)
        layout = {1: "NC", 2: "NCW", 3: "NCHW"}.get(rank)
        rows = 1 if layout is None or self.coin() else x.shape[0]
        thresholds = np.sort(self.rng.normal(0, x.reach, (rows, levels)), axis=1)
        if x.scale is not None and self.coin():
            thresholds = np.rint(thresholds / x.scale) * x.scale  # a value that equals a threshold reaches it
        out_scale, out_bias = self.pick(1.0, 0.5, 0.375, 0.1), self.pick(0.0, -2.0, 0.3)
        how = {"out_dtype": "INT8", "out_scale": out_scale, "out_bias": out_bias, "data_layout": layout}
        y = self.node("MultiThreshold", [x.name, self.constant(thresholds)], domain=self.domain, **how)
        whole = float(out_bias / out_scale).is_integer()
        return Tensor(y, x.shape, "codes", levels * out_scale, has_zero=whole)

    def linear(self, x: Tensor) -> Tensor:
        """Add QuantizeLinear, perhaps Clip to fewer bits, and DequantizeLinear."""
        signed = self.coin()
        kind = np.int8 if signed else np.uint8
        low, high = (-128, 127) if signed else (0, 255)
        bits = self.pick(8, 4, 6) if self.opset > 11 and x.state != "input" else 8
        channels = x.shape[0] if self.opset >= 13 and x.state != "input" and self.coin(3) else 0
        target = x.reach / 2 ** (bits - int(signed))
        scale: Scales = self.scales(target, channels, x.scale) if channels else self.one_scale(target, x.scale)
        zero = self.whole(low, high) if self.coin(4) else 0
        zeros = np.full(channels, zero) if channels else zero
        names = [self.constant(scale), self.constant(zeros, kind)]
        axis = 1 if channels else None
        y = self.node("QuantizeLinear", [x.name, *names], axis=axis)
        if bits < 8:
            ends = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            y = self.node("Clip", [y, *(self.constant(end, kind) for end in ends)])
        y = self.node("DequantizeLinear", [y, *names], axis=axis)
        uniform = not channels or len(set(np.ravel(scale))) == 1
        reach = min(1.5 * x.reach, 256 * float(np.max(scale)))
        return Tensor(y, x.shape, "codes", reach, "one" if uniform else "channel")

    def trunc(self, x: Tensor) -> Tensor:
        assert x.scale is not None
        less, mode = self.whole(0, min(3, x.bits - 1)), self.pick("FLOOR", *ROUNDINGS)
        known = [self.constant(value) for value in (x.scale, x.zero, x.bits)]
        out_scale = x.scale * 2.0**less
        if self.custom == 2:
            more = [self.constant(out_scale), self.constant(x.bits - less + self.whole(0, 1))]
            how: dict[str, int] = {"signed": int(self.coin()), "narrow": int(self.coin(4))}
        else:
            more, how = [self.constant(x.bits - less)], {}
        y = self.node("Trunc", [x.name, *known, *more], domain=self.domain, rounding_mode=mode, **how)
        if self.custom == 2:
            return Tensor(y, x.shape, "sum", x.reach, has_zero=float(x.zero / 2**less).is_integer())
        return Tensor(y, x.shape, "sum", x.reach / 2**less)

    def codes(self, x: Tensor, grids: tuple[str, ...] = ("one",), *, zero: bool = False) -> Tensor:
        """Return the tensor, or a quantised one, as codes that a layer takes easily; now and then as it is."""
        fits = x.is_plain and (x.grid in grids or self.coin(4)) and (x.has_zero or not zero or self.coin(4))
        if x.state != "scores" and (fits or (x.is_plain and self.coin(30))):
            return x
        found = self.quant(x, simple=True)
        return found if found.has_zero or not zero else self.quant(x, simple=True)

    # Weights

    def weights(self, shape: tuple[int, ...], filters: int, fan_in: int) -> tuple[str, float, float | None]:
        """Return name, rough size of a result for an input of size 1, and the scale where there is one."""
        values = self.rng.normal(0, 1, shape)
        kind = self.pick("quant", "channels", "bipolar", "dequantised", "whole")
        target = 1 / math.sqrt(fan_in)
        count, ones = shape[filters], [1] * len(shape)
        ones[filters] = count
        spread = math.sqrt(fan_in)
        if kind in ("quant", "channels"):
            bits, signed = self.pick(4, 2, 3, 6, 8), not self.coin(6)
            target /= 2 ** (bits - 2)
            zero = float(self.whole(0, 3)) if not signed else 0.0
            scale: Scales = self.scales(target, count).reshape(ones) if kind == "channels" else self.one_scale(target)
            names = [self.constant(value) for value in (values * target * 2 ** (bits - 2), scale, zero, bits)]
            mode = self.pick("ROUND", *ROUNDINGS)
            how = {"signed": int(signed), "narrow": int(self.coin()), "rounding_mode": mode, "domain": self.domain}
            one = None if kind == "channels" else float(scale)
            return self.node("Quant", names, **how), spread * target * 2 ** (bits - 2), one
        if kind == "bipolar":
            scale = self.one_scale(target)
            return (
                self.node("BipolarQuant", [self.constant(values), self.constant(scale)], domain=self.domain),
                spread * scale,
                scale,
            )
        if kind == "dequantised":
            whole = np.clip(np.rint(values * 20), -128, 127)
            channels = self.opset >= 13 and self.coin()
            scale = self.scales(target / 20, count) if channels else self.one_scale(target / 20)
            zeros = self.constant(np.zeros(count) if channels else self.whole(-2, 2), np.int8)
            names = [self.constant(whole, np.int8), self.constant(scale), zeros]
            y = self.node("DequantizeLinear", names, axis=filters if channels else None)
            return y, spread * target, None if channels else float(scale)
        return self.constant(np.rint(values * 2) * self.pick(1.0, 0.25)), spread * 2, 1.0

    def bias(self, filters: int, reach: float, unit: float | None) -> list[str]:
        match self.pick("absent", "float", "quantised"):
            case "absent":
                return []
            case "float":
                return [self.constant(self.rng.normal(0, reach / 2, filters))]
            case _:
                scale = np.float32(unit or reach / 64)
                names = [self.constant(value) for value in (self.rng.normal(0, reach / 2, filters), scale, 0.0, 16)]
                return [self.node("Quant", names, domain=self.domain, signed=1, narrow=0, rounding_mode="ROUND")]

    # Layers

    def window(self, sizes: tuple[int, ...], *, pads: bool, automatic: bool = True) -> tuple[dict[str, Any], tuple[int, ...]]:
        """Draw kernel, strides, dilations and pads, and what they make of the sizes."""
        n = len(sizes)
        kernel = [self.whole(1, min(3, size)) for size in sizes]
        strides = [self.whole(1, 2) for _ in sizes]
        how: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
        if automatic and pads and self.coin(5):
            how["auto_pad"] = self.pick("SAME_UPPER", "SAME_LOWER", "VALID")
            valid = how["auto_pad"] == "VALID"
            return how, tuple(
                -(-(size - k + 1) // s) if valid else -(-size // s) for size, k, s in zip(sizes, kernel, strides, strict=True)
            )
        around = [self.whole(0, k - 1) if pads else 0 for k in (*kernel, *kernel)]
        dilations = [
            self.whole(1, 2) if size + around[i] + around[n + i] > 2 * (k - 1) else 1
            for i, (size, k) in enumerate(zip(sizes, kernel, strict=True))
        ]
        how |= {"pads": around, "dilations": dilations}
        return how, tuple(
            (sizes[i] + around[i] + around[n + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(n)
        )

    def conv(self, x: Tensor) -> Tensor | None:
        if not 2 <= len(x.shape) <= 4:
            return None
        x = self.codes(x, ("one", "channel"))
        last = len(x.shape) <= 3 and self.coin(5)
        channels = x.shape[0]
        groups = self.pick(*(n for n in (1, 2, 3, 4) if channels % n == 0))
        filters = groups * self.whole(1, 3 if groups == 1 else 2)
        how, sizes = self.window(x.shape[1:], pads=x.has_zero, automatic=not last)
        kernel = how["kernel_shape"]
        if math.prod(sizes) * filters > MAX_SIZE:
            return None
        fan_in = channels // groups * math.prod(kernel)
        axes = len(kernel)
        shape = (filters, *kernel, channels // groups) if last else (filters, channels // groups, *kernel)
        weights, gain, unit = self.weights(shape, 0, fan_in)
        reach = x.reach * gain
        bias = self.bias(filters, reach, unit and x.scale and unit * x.scale)
        if groups > 1 or last or self.coin():
            how["group"] = groups
        if not last:
            y = self.node("Conv", [x.name, weights, *bias], **how)
        else:
            turned = self.node("Transpose", [x.name], perm=[0, *range(2, axes + 2), 1])
            done = self.node("Conv", [turned, weights, *bias], domain=CHANNELS_LAST, **how)
            y = self.node("Transpose", [done], perm=[0, axes + 1, *range(1, axes + 1)])
        return Tensor(y, (filters, *sizes), "sum", reach, "channel", not bias and x.has_zero and x.zero == 0)

    def conv_transpose(self, x: Tensor) -> Tensor | None:
        if not 2 <= len(x.shape) <= 4:
            return None
        x = self.codes(x, ("one", "channel"), zero=True)
        groups = self.pick(*(n for n in (1, 2) if x.shape[0] % n == 0))
        each, axes = self.whole(1, 2), len(x.shape) - 1
        kernel = [self.whole(1, 3) for _ in range(axes)]
        strides = [self.whole(1, 2) for _ in range(axes)]
        dilations = [self.whole(1, 2) for _ in range(axes)]
        pads = [self.whole(0, (k - 1) * d) for k, d in zip((*kernel, *kernel), (*dilations, *dilations), strict=True)]
        more = [self.whole(0, s - 1) for s in strides]
        sizes = tuple(
            (x.shape[1 + i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + more[i] - pads[i] - pads[axes + i]
            for i in range(axes)
        )
        if min(sizes) < 1 or math.prod(sizes) * each * groups > MAX_SIZE:
            return None
        fan_in = x.shape[0] // groups * math.prod(kernel)
        # A scale per channel of the weights would lie along axis 1, which groups share.
        weights, gain, unit = self.weights((x.shape[0], each, *kernel), 1, fan_in)
        reach = x.reach * gain
        bias = self.bias(each * groups, reach, unit and x.scale and unit * x.scale)
        how = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads, "group": groups}
        y = self.node("ConvTranspose", [x.name, weights, *bias], **how, output_padding=more)
        return Tensor(y, (each * groups, *sizes), "sum", reach, "channel", not bias and x.zero == 0)

    def gemm(self, x: Tensor) -> Tensor | None:
        if len(x.shape) != 1:
            return None
        x = self.codes(x, ("one", "channel"))
        filters, turned = self.whole(1, 5), self.coin()
        weights, gain, unit = self.weights(
            (filters, x.shape[0]) if turned else (x.shape[0], filters), 0 if turned else 1, x.shape[0]
        )
        alpha, beta = self.pick(1.0, 1.0, 0.5, 0.3), self.pick(1.0, 1.0, 2.0, 0.7)
        reach = x.reach * gain * alpha
        bias = self.bias(filters, reach, unit and x.scale and unit * x.scale) or (
            [self.constant(np.zeros(filters))] if self.opset < 11 else []
        )
        y = self.node("Gemm", [x.name, weights, *bias], transB=int(turned), alpha=alpha, beta=beta)
        return Tensor(y, (filters,), "sum", reach, "channel", not bias and x.zero == 0)

    def matmul(self, x: Tensor) -> Tensor | None:
        x = self.codes(x, ("one",) if len(x.shape) > 1 else ("one", "channel"))
        filters = self.whole(1, 4)
        if len(x.shape) > 1 and self.coin(3):  # a constant matrix on the left
            weights, gain, _ = self.weights((filters, x.shape[-2]), 0, x.shape[-2])
            y = self.node("MatMul", [weights, x.name])
            return Tensor(y, (*x.shape[:-2], filters, x.shape[-1]), "sum", x.reach * gain, "any", x.has_zero and x.zero == 0)
        if math.prod(x.shape[:-1]) * filters > MAX_SIZE:
            return None
        weights, gain, _ = self.weights((x.shape[-1], filters), 1, x.shape[-1])
        y = self.node("MatMul", [x.name, weights])
        grid = "channel" if len(x.shape) == 1 else "any"
        return Tensor(y, (*x.shape[:-1], filters), "sum", x.reach * gain, grid, x.has_zero and x.zero == 0)

    def average_pool(self, x: Tensor) -> Tensor | None:
        if not 2 <= len(x.shape) <= 4:
            return None
        x = self.codes(x, ("one", "channel"))
        if self.coin(3):
            y = self.node("GlobalAveragePool", [x.name])
            return Tensor(y, (x.shape[0], *(1 for _ in x.shape[1:])), "sum", x.reach, x.grid, x.has_zero and x.zero == 0)
        how, sizes = self.window(x.shape[1:], pads=x.has_zero, automatic=False)
        del how["dilations"]  # since opset 19 only
        sizes = self.pooled(x.shape[1:], how)
        how["count_include_pad"] = self.whole(0, 1)
        y = self.node("AveragePool", [x.name], **how)
        return Tensor(y, (x.shape[0], *sizes), "sum", x.reach, "any", x.has_zero and x.zero == 0)

    def pooled(self, sizes: tuple[int, ...], how: dict[str, Any]) -> tuple[int, ...]:
        """Return the sizes after a pool, which may round them up."""
        how["ceil_mode"] = int(self.coin(3))
        found = []
        for i, size in enumerate(sizes):
            begin, end = how["pads"][i], how["pads"][len(sizes) + i]
            stride, reach = how["strides"][i], (how["kernel_shape"][i] - 1) * how.get("dilations", [1] * len(sizes))[i] + 1
            room = size + begin + end - reach
            count = (-(-room // stride) if how["ceil_mode"] else room // stride) + 1
            found.append(count - int(bool(how["ceil_mode"]) and (count - 1) * stride >= size + begin))
        return tuple(found)

    def max_pool(self, x: Tensor) -> Tensor | None:
        if not 2 <= len(x.shape) <= 4:
            return None
        x = x if x.state != "scores" and x.grid != "any" else self.codes(x)
        if self.coin(4):
            x = self.codes(x, ("one", "channel"))
            return replace(x, name=self.node("GlobalMaxPool", [x.name]), shape=(x.shape[0], *(1 for _ in x.shape[1:])))
        how, sizes = self.window(x.shape[1:], pads=True)
        if "pads" in how:
            sizes = self.pooled(x.shape[1:], how)
        if len(x.shape) == 3 and "pads" in how and self.coin(5):
            how = {key: how[key] for key in ("kernel_shape", "strides", "pads", "dilations", "ceil_mode")}
            turned = self.node("Transpose", [x.name], perm=[0, 2, 3, 1])
            turned = self.node("MaxPool", [turned], domain=CHANNELS_LAST, **how)
            y = self.node("Transpose", [turned], perm=[0, 3, 1, 2])
        else:
            y = self.node("MaxPool", [x.name], **how)
        return replace(x, name=y, shape=(x.shape[0], *sizes))

    def reduce(self, x: Tensor) -> Tensor | None:
        x = self.codes(x)
        kind = self.pick("ReduceSum", "ReduceMean", "ReduceMax", "ReduceSum", "ReduceSumSquare", "ReduceL2")
        if kind in ("ReduceSumSquare", "ReduceL2"):
            x = self.codes(x, zero=True)
        axes = sorted(set(self.rng.integers(0, len(x.shape), self.whole(1, 2)).tolist()))
        keep = self.whole(0, 1)
        numbers = [axis + 1 - (len(x.shape) + 1 if self.coin(3) else 0) for axis in axes]
        y = self.with_axes(kind, x.name, numbers, 13 if kind == "ReduceSum" else 18, keepdims=keep)
        shape = tuple(1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes)
        if not shape:  # (N,) counts as (N, 1)
            y, shape = self.with_axes("Unsqueeze", y, [1], 13), (1,)
        count = math.prod(x.shape[axis] for axis in axes)
        reach = x.reach * (count if kind == "ReduceSum" else 1)
        whole = x.scale if kind == "ReduceSum" and x.zero == 0 else None
        if kind == "ReduceL2":
            return Tensor(y, shape, "curved", x.reach * math.sqrt(count), has_zero=False)
        if kind == "ReduceSumSquare":
            return Tensor(y, shape, "sum", x.reach**2 * count)
        return Tensor(y, shape, "sum", reach, "one", x.zero == 0, whole, x.bits + count.bit_length())

    def softmax(self, x: Tensor) -> Tensor | None:
        x = self.codes(x)
        axis = self.whole(1, len(x.shape)) if self.opset >= 13 else len(x.shape)
        if self.opset < 13 and len(x.shape) > 1:
            return None  # it would flatten first
        y = self.node("Softmax", [x.name], axis=axis)
        return self.quant(Tensor(y, x.shape, "scores", 1.0), simple=True)

    # Elementwise

    def factor_shape(self, x: Tensor) -> tuple[int, ...]:
        ones = (1,) * (len(x.shape) - 1)
        return self.pick((), (1,), (x.shape[0], *ones), (1, x.shape[0], *ones), x.shape, x.shape[-1:])

    def arithmetic(self, x: Tensor) -> Tensor | None:
        if x.state == "scores":
            return None
        kind, shape = self.pick("Add", "Sub", "Mul", "Div"), self.factor_shape(x)
        if kind in ("Add", "Sub"):
            values = self.rng.normal(0, x.reach / 2, shape)
            if x.scale is not None and self.coin():
                values = np.rint(values / x.scale) * x.scale
            reach, zero = 1.5 * x.reach, False
        else:
            values = self.rng.uniform(0.5, 2, shape) * np.where(self.rng.random(shape) < 0.2, -1, 1)
            if self.coin():
                values = np.sign(values) * 2.0 ** np.rint(np.log2(np.abs(values)))
            reach, zero = 1.5 * x.reach, x.has_zero and x.zero == 0
        operands = [x.name, self.constant(values) if kind == "Div" or not self.coin(4) else self.calculated(values)]
        if kind != "Div" and self.coin(3):
            operands.reverse()
        grid = x.grid if np.size(values) == 1 or kind in ("Add", "Sub") else "any" if shape[-1:] == x.shape[-1:] else "channel"
        grid = "any" if "any" in (grid, x.grid) else grid
        grid = "any" if len(shape) and shape[-1] > 1 and len(x.shape) > 1 else grid
        state = "sum" if x.is_plain else "curved"
        return Tensor(self.node(kind, operands), x.shape, state, reach, grid, zero)

    def calculated(self, values: np.ndarray) -> str:
        """Return the name of a tensor that nodes of constants make, of the same shape."""
        name = self.constant(values)
        match self.pick("Neg", "Sigmoid", "Log", "Where", "Concat"):
            case "Log":
                return self.node("Log", [self.constant(np.abs(values) + 0.5)])
            case "Where":
                return self.node("Where", [self.node("Less", [name, self.constant(0.0)]), self.constant(0.25), name])
            case "Concat" if np.ndim(values):
                halves = [self.constant(half) for half in np.array_split(values, 2, axis=-1) if half.size]
                return self.node("Concat", halves, axis=-1)
            case "Sigmoid":
                return self.node("Sigmoid", [name])
            case _:
                return self.node("Neg", [name])

    def batch_norm(self, x: Tensor) -> Tensor | None:
        if x.state == "scores":
            return None
        channels, epsilon = x.shape[0], self.pick(1e-5, 0.0)
        gamma = self.rng.uniform(0.3, 2, channels) * np.where(self.rng.random(channels) < 0.3, -1, 1)
        gamma[self.rng.random(channels) < 0.1] = 0
        beta, mean = self.rng.normal(0, 0.5, channels), self.rng.normal(0, x.reach / 3, channels)
        variance = self.rng.uniform(0.3, 2, channels) * min(x.reach, 1e9) ** 2
        if self.coin(3):  # everything is rational then
            gamma, variance = np.sign(gamma), 4.0 ** np.rint(np.log(np.maximum(variance, 1e-6)) / np.log(4))
            beta, mean = np.rint(beta * 4) / 4, np.zeros(channels)
        names = [self.constant(values) for values in (gamma, beta, mean, variance)]
        if 2 <= len(x.shape) <= 3 and self.coin(6):
            axes = len(x.shape) - 1
            turned = self.node("Transpose", [x.name], perm=[0, *range(2, axes + 2), 1])
            turned = self.node("BatchNormalization", [turned, *names], domain=CHANNELS_LAST, epsilon=epsilon, momentum=0.9)
            y = self.node("Transpose", [turned], perm=[0, axes + 1, *range(1, axes + 1)])
        else:
            y = self.node("BatchNormalization", [x.name, *names], epsilon=epsilon)
        return Tensor(y, x.shape, "sum" if x.is_plain else "curved", 2.0, "any" if x.grid == "any" else "channel", has_zero=False)

    def limit(self, x: Tensor) -> Tensor | None:
        if x.state == "scores":
            return None
        kind = self.pick("Relu", "Clip", "Clip", "Max", "Min")
        state = "curved" if x.state == "curved" else "limited"
        if kind == "Relu":
            return replace(x, name=self.node("Relu", [x.name]), state=state, bits=0)
        ends = sorted(self.rng.normal(0, x.reach, 2))
        if x.scale is not None and self.coin():
            ends = [float(np.rint(end / x.scale) * x.scale) for end in ends]
        if kind == "Clip":
            names = [self.constant(end) for end in ends]
            which = self.whole(0, 3)
            inputs = [x.name, *([names[0]] if which else []), *([] if which != 1 else [names[1]])]
            inputs = [x.name, "", names[1]] if which == 2 else inputs if which else [x.name, *names]
            return replace(x, name=self.node("Clip", inputs), state=state, bits=0)
        return replace(x, name=self.node(kind, [x.name, self.constant(ends[0])]), state=state, bits=0)

    def curve(self, x: Tensor) -> Tensor | None:
        """Add a function that only a quantiser makes integers again."""
        if x.state == "scores":
            return None
        x = x if x.grid != "any" and not self.coin(3) else self.codes(x, ("one", "channel"))
        kinds = ("LeakyRelu", "PRelu", "HardSigmoid", "HardSwish", "Sigmoid", "Tanh", "Exp", "Sqrt", "Selu", "Elu", "Abs", "Pow")
        kind = self.pick(*kinds, "Softplus", "Neg")
        name, reach = x.name, x.reach
        inputs: list[str] = []
        how: dict[str, float] = {}
        match kind:
            case "LeakyRelu":
                how = {"alpha": self.pick(0.25, 0.01, -0.5)}
            case "PRelu":
                ones = (1,) * (len(x.shape) - 1)
                inputs = [self.constant(self.rng.uniform(-0.5, 1, self.pick((x.shape[0], *ones), (1,))))]
            case "HardSigmoid":
                how, reach = {"alpha": self.pick(0.2, 0.25), "beta": 0.5}, 1.0
            case "HardSwish":
                if self.opset < 14:
                    return None
            case "Sigmoid" | "Tanh":
                reach = 1.0
            case "Exp":
                name = self.node("Clip", [name, "", self.constant(4.0)])
                reach = math.exp(min(reach, 4.0))
            case "Sqrt":  # of a negative number it would be NaN
                name, reach = self.node("Abs" if self.coin() else "Relu", [name]), math.sqrt(reach)
            case "Selu" | "Elu":
                how = {"alpha": self.pick(1.0, 1.5)} | ({"gamma": 1.25} if kind == "Selu" else {})
            case "Pow":
                exponent = self.pick(2.0, 3.0)
                inputs, reach = [self.constant(exponent)], reach**exponent
        y = self.node(kind, [name, *inputs], **how)
        if kind == "Neg":
            return replace(x, name=y, bits=0, scale=None, state="sum" if x.is_plain else "curved")
        grid = "channel" if kind == "PRelu" else x.grid
        return Tensor(y, x.shape, "curved", reach, grid, has_zero=False)

    # Moves

    def move(self, x: Tensor) -> Tensor | None:
        """Add an operator that only moves elements."""
        if x.state == "scores":
            return None
        moves = (
            *(self.reshape, self.flatten, self.transpose, self.squeeze, self.unsqueeze, self.cut, self.split),
            *(self.pad, self.gather, self.resize, self.tile, self.expand, self.blocks_of_channels, self.nothing),
        )
        return self.pick(*moves)(x)

    def elsewhere(self, x: Tensor, y: str, shape: tuple[int, ...]) -> Tensor:
        return replace(x, name=y, shape=shape, grid="one" if x.grid == "one" else "any")

    def events(self) -> int:
        return self.pick(0, 1) if self.batch == 1 else self.pick(0, -1)

    def reshape(self, x: Tensor) -> Tensor:
        size = math.prod(x.shape)
        shape = self.pick(*([n, size // n] for n in range(1, size + 1) if size % n == 0), x.shape, (size,))
        events = self.events()
        wanted = [events, *shape]
        if events != -1 and self.coin():
            wanted[-1] = -1
        return self.elsewhere(x, self.node("Reshape", [x.name, self.constant(wanted, np.int64)]), tuple(shape))

    def nothing(self, x: Tensor) -> Tensor:
        kind = self.pick("Identity", "Dropout", "Cast", "Shape")
        if kind == "Shape":  # as exporters write x.reshape(len(x), -1)
            events = self.node("Gather", [self.node("Shape", [x.name]), self.constant([0], np.int64)], axis=0)
            shape = self.node("Concat", [events, self.constant([-1], np.int64)], axis=0)
            return self.elsewhere(x, self.node("Reshape", [x.name, shape]), (math.prod(x.shape),))
        return replace(x, name=self.node(kind, [x.name], to=TensorProto.FLOAT if kind == "Cast" else None))

    def flatten(self, x: Tensor) -> Tensor:
        return self.elsewhere(x, self.node("Flatten", [x.name], axis=1), (math.prod(x.shape),))

    def transpose(self, x: Tensor) -> Tensor:
        order = [int(axis) for axis in self.rng.permutation(len(x.shape))]
        y = self.node("Transpose", [x.name], perm=[0, *(axis + 1 for axis in order)])
        return self.elsewhere(x, y, tuple(x.shape[axis] for axis in order))

    def squeeze(self, x: Tensor) -> Tensor | None:
        axes = [i for i, size in enumerate(x.shape) if size == 1]
        if not axes or len(axes) == len(x.shape):
            return None
        y = self.with_axes("Squeeze", x.name, [axis + 1 for axis in axes], 13)
        return self.elsewhere(x, y, tuple(size for size in x.shape if size != 1))

    def unsqueeze(self, x: Tensor) -> Tensor | None:
        if len(x.shape) > 3:
            return None
        axis = self.whole(0, len(x.shape))
        y = self.with_axes("Unsqueeze", x.name, [axis + 1 if self.coin() else axis - len(x.shape) - 1], 13)
        return self.elsewhere(x, y, (*x.shape[:axis], 1, *x.shape[axis:]))

    def cut(self, x: Tensor) -> Tensor | None:
        axis = self.whole(0, len(x.shape) - 1)
        size = x.shape[axis]
        start, step = self.whole(0, size - 1), self.pick(1, 2, -1)
        end = self.pick(2**31 - 1, size, -1) if step > 0 else self.pick(-(2**31), -size - 1)
        count = len(range(size)[start : end if step > 0 else None : step])
        if not count:
            return None
        values = [[start - (size if self.coin(3) else 0)], [end], [axis + 1], [step]]
        y = self.node("Slice", [x.name, *(self.constant(value, np.int64) for value in values)])
        return self.elsewhere(x, y, (*x.shape[:axis], count, *x.shape[axis + 1 :]))

    def split(self, x: Tensor) -> Tensor | None:
        axis = self.whole(0, len(x.shape) - 1)
        size = x.shape[axis]
        if size < 2:
            return None
        first = self.whole(1, size - 1)
        if self.opset >= 13:
            a, b = self.node("Split", [x.name, self.constant([first, size - first], np.int64)], 2, axis=axis + 1)
        else:
            a, b = self.node("Split", [x.name], 2, axis=axis + 1, split=[first, size - first])
        self.live.append(self.elsewhere(x, a, (*x.shape[:axis], first, *x.shape[axis + 1 :])))
        return self.elsewhere(x, b, (*x.shape[:axis], size - first, *x.shape[axis + 1 :]))

    def pad(self, x: Tensor) -> Tensor | None:
        mode = self.pick("constant", "edge", "reflect")
        widths = [[self.whole(0, 1) if size > 1 else 0 for size in x.shape] for _ in range(2)]
        shape = tuple(size + a + b for size, a, b in zip(x.shape, *widths, strict=True))
        if math.prod(shape) > MAX_SIZE or (mode == "constant" and not (x.state == "codes" and x.has_zero)):
            return None
        y = self.node("Pad", [x.name, self.constant([0, *widths[0], 0, *widths[1]], np.int64)], mode=mode)
        return self.elsewhere(x, y, shape)

    def gather(self, x: Tensor) -> Tensor | None:
        axis = self.whole(0, len(x.shape) - 1)
        size = x.shape[axis]
        positions = self.rng.integers(-size, size, self.whole(1, 3))
        shape = (*x.shape[:axis], len(positions), *x.shape[axis + 1 :])
        return self.elsewhere(x, self.node("Gather", [x.name, self.constant(positions, np.int64)], axis=axis + 1), shape)

    def resize(self, x: Tensor) -> Tensor | None:
        if len(x.shape) < 2:
            return None
        factors = [1.0, 1.0, *(self.pick(2.0, 1.0, 1.5, 3.0) for _ in x.shape[1:])]
        shape = tuple(int(size * factor) for size, factor in zip(x.shape, factors[1:], strict=True))
        if math.prod(shape) > MAX_SIZE:
            return None
        mode, rule = self.pick("asymmetric", "half_pixel", "pytorch_half_pixel"), self.pick("floor", "round_prefer_floor")
        inputs = [x.name, self.constant([]) if self.opset < 13 else "", self.constant(factors)]
        y = self.node("Resize", inputs, mode="nearest", coordinate_transformation_mode=mode, nearest_mode=rule)
        return self.elsewhere(x, y, shape)

    def tile(self, x: Tensor) -> Tensor | None:
        repeats = [self.whole(1, 2) for _ in x.shape]
        shape = tuple(size * n for size, n in zip(x.shape, repeats, strict=True))
        if math.prod(shape) > MAX_SIZE:
            return None
        return self.elsewhere(x, self.node("Tile", [x.name, self.constant([1, *repeats], np.int64)]), shape)

    def expand(self, x: Tensor) -> Tensor | None:
        shape = tuple(self.whole(1, 3) if size == 1 else size for size in x.shape)
        if math.prod(shape) > MAX_SIZE:
            return None
        wanted = [1, *(self.pick(1, size) for size in shape)]
        shape = tuple(max(a, b) for a, b in zip(x.shape, wanted[1:], strict=True))
        return self.elsewhere(x, self.node("Expand", [x.name, self.constant(wanted, np.int64)]), shape)

    def blocks_of_channels(self, x: Tensor) -> Tensor | None:
        if len(x.shape) != 3:
            return None
        if self.coin() and 4 * math.prod(x.shape) <= MAX_SIZE:
            repeats = self.constant([1, 4, 1, 1], np.int64)
            x = self.elsewhere(x, self.node("Tile", [x.name, repeats]), (4 * x.shape[0], *x.shape[1:]))
        channels, height, width = x.shape
        if channels % 4 == 0:
            y = self.node("DepthToSpace", [x.name], blocksize=2, mode=self.pick("DCR", "CRD"))
            return self.elsewhere(x, y, (channels // 4, 2 * height, 2 * width))
        if height % 2 or width % 2:
            return None
        return self.elsewhere(x, self.node("SpaceToDepth", [x.name], blocksize=2), (4 * channels, height // 2, width // 2))

    # Two tensors

    def partner(self, x: Tensor, *, simple: bool = False) -> Tensor:
        """Return another tensor of the same shape: a live one, or the same quantised in another way."""
        same = [t for t in self.live if t.shape == x.shape and t.name != x.name and not t.tokens and t.is_plain]
        return self.pick(*same) if same and not simple else self.quant(x, simple=simple)

    def add(self, x: Tensor) -> Tensor | None:
        x = x if x.is_plain else self.codes(x)
        other = self.partner(x)
        y = self.node(self.pick("Add", "Sub"), [x.name, other.name])
        one = x.scale is not None and x.scale == other.scale and (x.zero, other.zero) == (0, 0)
        grid = "one" if x.grid == other.grid == "one" else "any" if "any" in (x.grid, other.grid) else "channel"
        bits = 1 + max(x.bits, other.bits)
        return Tensor(y, x.shape, "sum", x.reach + other.reach, grid, one, x.scale if one else None, bits if one else 0)

    def multiply(self, x: Tensor) -> Tensor | None:
        x = self.codes(x, ("one", "channel"), zero=True)
        other = self.codes(self.partner(x), ("one", "channel"), zero=True)
        y = self.node("Mul", [x.name, other.name])
        grid = "one" if x.grid == other.grid == "one" else "channel"
        return Tensor(y, x.shape, "sum", x.reach * other.reach, grid)

    def product(self, x: Tensor) -> Tensor | None:
        """Add the matrix product of a tensor and its transpose."""
        if not 2 <= len(x.shape) <= 3 or math.prod(x.shape[:-1]) * x.shape[-2] > MAX_SIZE:
            return None
        x = self.quant(x, simple=True) if x.zero or x.state != "codes" or x.grid != "one" else x
        if x.zero:
            return None
        order = [0, *range(1, len(x.shape) - 1), len(x.shape), len(x.shape) - 1]
        order = [0, len(x.shape), len(x.shape) - 1] if len(x.shape) == 2 else [0, 1, 3, 2]
        y = self.node("MatMul", [x.name, self.node("Transpose", [x.name], perm=order)])
        return Tensor(y, (*x.shape[:-1], x.shape[-2]), "sum", x.reach**2 * x.shape[-1])

    def concat(self, x: Tensor) -> Tensor | None:
        x = x if x.is_plain else self.codes(x)
        other = self.partner(x)
        axis = self.whole(0, len(x.shape) - 1)
        if 2 * math.prod(x.shape) > MAX_SIZE:
            return None
        y = self.node("Concat", [x.name, other.name], axis=axis + 1)
        shape = (*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
        grid = "channel" if axis == 0 and "any" not in (x.grid, other.grid) else "any"
        return Tensor(
            y, shape, "sum", max(x.reach, other.reach), grid, x.has_zero and other.has_zero and x.zero == other.zero == 0
        )

    # Heads

    def head(self, x: Tensor) -> Tensor:
        x = self.codes(x)
        axis = self.whole(0, len(x.shape) - 1)
        if self.coin():
            k = self.whole(1, x.shape[axis])
            how = {"axis": axis + 1, "largest": self.whole(0, 1), "sorted": 1}
            values, indices = self.node("TopK", [x.name, self.constant([k], np.int64)], 2, **how)
            shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
            self.live.append(Tensor(values, shape, "sum", x.reach, tokens=True))
            return Tensor(indices, shape, "sum", x.shape[axis], tokens=True)
        y = self.node(self.pick("ArgMax", "ArgMin"), [x.name], axis=axis + 1, keepdims=1)
        return Tensor(y, (*x.shape[:axis], 1, *x.shape[axis + 1 :]), "sum", x.shape[axis], tokens=True)

    # The whole

    def begin(self, number: int, shape: tuple[int, ...]) -> None:
        raw = Tensor(f"in{number}", shape, "input", self.pick(1.0, 8.0, 100.0))
        self.inputs.append(raw)
        self.types.append(self.pick(*(TensorProto.FLOAT,) * 6, TensorProto.INT8, TensorProto.UINT8))
        if self.types[-1] != TensorProto.FLOAT:
            raw = replace(raw, name=self.node("Cast", [raw.name], to=TensorProto.FLOAT))
        if self.coin(6):  # something that the quantiser of the input takes in
            match self.pick("Mul", "Transpose", "Flatten"):
                case "Mul":
                    raw = replace(raw, name=self.node("Mul", [raw.name, self.constant(0.25)]), reach=raw.reach / 4)
                case "Transpose":
                    raw = self.transpose(raw)
                case _:
                    raw = self.flatten(raw)
        self.live.append((self.linear if self.coin(5) else self.quant)(raw))

    def grow(self) -> None:
        movable = [tensor for tensor in self.live if not tensor.tokens]
        if not movable:
            return
        x = self.pick(*reversed(movable))
        layers = (self.conv, self.conv, self.conv_transpose, self.gemm, self.matmul, self.average_pool, self.max_pool)
        rest = (self.reduce, self.softmax, self.arithmetic, self.batch_norm, self.limit, self.curve, self.move, self.move)
        block = self.pick(*layers, *rest, self.add, self.multiply, self.product, self.concat, self.head, self.quantised)
        keep = self.coin(4)
        nodes, live = len(self.nodes), list(self.live)
        y = block(x)
        if y is None or len(self.nodes) == nodes:  # it does not fit, and what was begun is forgotten
            self.nodes, self.live = self.nodes[:nodes], live
            return
        self.blocks.append(block.__name__)
        if not keep and x in self.live:
            self.live.remove(x)
        self.live.append(y)
        if not y.tokens and y.state != "codes" and self.coin():
            self.live[-1] = self.quantised(y)

    def model(self) -> onnx.ModelProto:
        """Draw inputs and blocks; every tensor that nothing reads becomes an output."""
        shapes = ((4,), (2, 6), (2, 4, 5), (1, 4, 4), (3, 3, 4), (8, 2, 2), (2, 3, 2, 3), (6,))
        shape = self.pick(*shapes)
        self.begin(0, shape)
        if self.coin(4):
            self.begin(1, shape if self.coin() else self.pick(*shapes))
        for _ in range(self.whole(1, MAX_BLOCKS)):
            self.grow()
        read = {name for node in self.nodes for name in node.input}
        leaves = [tensor for tensor in self.live if tensor.name not in read]
        leaves = [tensor if tensor.is_plain or tensor.tokens else self.quant(tensor) for tensor in leaves]
        made = [node.output[0] for node in self.nodes if node.op_type in ("Quant", "IntQuant")]
        moving = self.depending()
        extra = [name for name in made if name in moving and name not in {t.name for t in leaves}][: self.pick(0, 0, 1)]
        names = [*(tensor.name for tensor in leaves), *extra]
        names = [names[i] for i in self.rng.permutation(len(names))]
        indices = {t.name for t in leaves if t.tokens and t.reach != 0 and self.is_index(t.name)}
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64 if name in indices else TensorProto.FLOAT, None)
            for name in names
        ]
        inputs = [
            helper.make_tensor_value_info(t.name, kind, (self.batch, *t.shape))
            for t, kind in zip(self.inputs, self.types, strict=True)
        ]
        stored = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "random", inputs, outputs, stored)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid(CHANNELS_LAST, 1)]
        opsets += [helper.make_opsetid(self.domain, self.custom)]
        return helper.make_model(graph, ir_version=10, opset_imports=opsets)

    def is_index(self, name: str) -> bool:
        maker = next(node for node in self.nodes if name in node.output)
        return maker.op_type != "TopK" or maker.output[1] == name

    def depending(self) -> set[str]:
        found = {tensor.name for tensor in self.inputs}
        for node in self.nodes:
            if found.intersection(node.input):
                found.update(node.output)
        return found


@dataclass(frozen=True)
class RandomFile:
    """A random ONNX model."""

    model: onnx.ModelProto
    blocks: tuple[str, ...]
    """What it was made of."""


def drawn(choose: Callable[[int, int], int]) -> RandomFile:
    """Return a model of one or two inputs, their quantisers and up to six blocks."""
    drawing = Drawing(choose)
    model = drawing.model()
    return RandomFile(model, tuple(drawing.blocks))


@st.composite
def qonnx_files(draw: Any) -> RandomFile:
    """Draw a model that hypothesis can shrink."""
    return drawn(lambda low, high: draw(st.integers(low, high)))


def seeded(seed: int) -> RandomFile:
    """Return the model of a seed: hypothesis repeats itself, these do not."""
    rng = np.random.default_rng(seed)
    return drawn(lambda low, high: int(rng.integers(low, high, endpoint=True)))


# The comparison -------------------------------------------------------------------------------------------------------------

NOISE = 1e-10
"""What float64 may lose before a rounding, in units of the result's code or of the largest value compared."""
SOFTMAX_NOISE = 1e-5
TRANSCENDENTAL = ("Sigmoid", "Tanh", "Exp", "Sqrt", "Selu", "Elu", "Softplus", "Softmax")
RESIDUAL = 1e-3
"""How far float64 results may lie from whole codes, in units of the code."""
WIDE = 2.0**36
"""Codes beyond this do not fit float64's 53 bits with three digits to spare; 12 digits of the largest are compared then."""


@dataclass(frozen=True)
class Comparison:
    """Which events agree on every code of every output, and where float64 cannot tell."""

    agree: NDArray[np.bool_]
    doubtful: NDArray[np.bool_]
    """Events in which something that is rounded lies next to where rounding steps in float64, but not on it: exact numbers
    may lie on it, and float64 rounds to the other side. A sum of 0.1 and -0.1 that is 4e-16 is rounded up to 1."""
    closest: NDArray[np.float64]
    """How close anything in each event comes to where rounding steps, in units of its own size if that is above one code."""


def stimulus(graph: Graph, seed: int, events: int) -> dict[str, NDArray[np.float64]]:
    """Return real inputs: the extremes of every input, random codes, and a quarter that are no codes and may saturate."""
    rng = np.random.default_rng(seed)
    found = {}
    for op in graph.inputs:
        low, high = graph.tensors[op.name].range
        codes = rng.integers(low, high, (events, *op.shape), endpoint=True)
        codes[0], codes[1] = low, high
        codes[2], codes[3] = (
            np.where(np.arange(codes[0].size) % 2, *ends).reshape(op.shape) for ends in ((low, high), (high, low))
        )
        codes[4:8] = np.clip(codes[4:8] // 8, low, high)
        found[op.name] = codes
    found = graph.possible_inputs(found)
    reals = graph.input_values(found)
    again = graph.quantise_inputs(reals)
    for name, codes in found.items():
        assert (again[name] == codes).all(), name
    for op in graph.inputs:
        last = reals[op.name][-events // 4 :]
        last *= rng.uniform(0.5, 1.3, last.shape)
        if op.whole:
            last[...] = np.clip(np.rint(last), *op.whole)
    return reals


def compare(path: Path, graph: Graph, reals: dict[str, NDArray[np.float64]]) -> Comparison:
    """Run a file's network and the executor on real inputs, and compare codes with `==`."""
    model = onnx.load(path)
    depending = _depending(model)
    roundings = [node for node in model.graph.node if node.op_type in _LIMITS and node.input[0] in depending]
    found = execute(path, reals, keep=sorted({name for node in roundings for name in node.input if name}))
    codes = graph.run(graph.quantise_inputs(reals))
    assert list(codes) == [value.name for value in model.graph.output]
    events = len(next(iter(reals.values())))
    agree = np.ones(events, dtype=bool)
    for op in graph.outputs:
        scale = graph.tensors[op.name].format.lsb if op.scale is None else op.scale
        offset = 0.0 if op.offset is None else op.offset
        wanted = found[op.name]
        assert wanted.shape == codes[op.name].shape, op.name
        real = np.where(np.broadcast_to(scale, wanted.shape) == 0, 0.0, (wanted - offset) / np.where(scale == 0, 1.0, scale))
        same = np.rint(real) == np.where(np.broadcast_to(scale, wanted.shape) == 0, 0, codes[op.name])
        good = same & (np.abs(real - np.rint(real)) < RESIDUAL)
        largest = float(np.abs(real).max())
        if largest > WIDE:
            good = np.abs(real - codes[op.name]) <= 1e-12 * largest
        agree &= good.reshape(events, -1).all(axis=1)
    doubtful, closest = np.zeros(events, dtype=bool), np.full(events, np.inf)
    softmaxes = {node.output[0] for node in model.graph.node if node.op_type == "Softmax"}
    rough = _rough(model)
    for node in roundings:
        source, *constants = node.input
        distance = _LIMITS[node.op_type](node, found[source], [found[name] for name in constants if name])
        noise = SOFTMAX_NOISE if source in softmaxes else NOISE
        if source in rough:
            doubtful |= (distance < noise).reshape(events, -1).any(axis=1)
        closest = np.minimum(closest, distance.reshape(events, -1).min(axis=1, initial=np.inf))
    return Comparison(agree, doubtful, closest)


def _to_boundaries(node: onnx.NodeProto, values: NDArray[np.float64], constants: list[Any]) -> NDArray[np.float64]:
    """Return how far value / scale + zero point is from where rounding steps, in units of its own size if that is above one."""
    scale, zero = constants[0], constants[1] if len(constants) > 1 else np.zeros(1)
    if scale.ndim == 1 and scale.size > 1 and node.op_type == "QuantizeLinear":
        scale, zero = scale.reshape(-1, *(1,) * (values.ndim - 2)), zero[0]
    y = values / scale + zero
    if node.op_type == "Trunc":
        return np.abs(2 * y - np.rint(2 * y)) / np.maximum(1, np.abs(y))
    directed = _text(node, "rounding_mode") in ("FLOOR", "CEIL", "UP", "DOWN")
    edges = y if directed else y - 0.5
    return np.abs(edges - np.rint(edges)) / np.maximum(1, np.abs(y))


def _text(node: onnx.NodeProto, name: str) -> str:
    return next((item.s.decode() for item in node.attribute if item.name == name), "")


def _to_thresholds(_: onnx.NodeProto, values: NDArray[np.float64], constants: list[Any]) -> NDArray[np.float64]:
    thresholds = constants[0]
    near = np.abs(values[..., None] - thresholds.reshape(-1))
    return near / max(float(np.abs(values).max()), 1e-300)


def _to_zero(_: onnx.NodeProto, values: NDArray[np.float64], _constants: list[Any]) -> NDArray[np.float64]:
    return np.abs(values) / max(float(np.abs(values).max()), 1e-300)


def _to_each_other(_: onnx.NodeProto, values: NDArray[np.float64], _constants: list[Any]) -> NDArray[np.float64]:
    gaps = np.diff(np.sort(values.reshape(len(values), -1), axis=1), axis=1)
    return gaps / max(float(np.abs(values).max()), 1e-300)


_LIMITS: dict[str, Callable[[onnx.NodeProto, NDArray[np.float64], list[Any]], NDArray[np.float64]]] = {
    **dict.fromkeys(("Quant", "IntQuant", "QuantizeLinear", "Trunc"), _to_boundaries),
    "MultiThreshold": _to_thresholds,
    "BipolarQuant": _to_zero,
    **dict.fromkeys(("TopK", "ArgMax", "ArgMin"), _to_each_other),
}


def _rough(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that have gone through a function which float64 rounds: 1 - 1e-20 is 1 for it."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in TRANSCENDENTAL or (node.op_type not in _LIMITS and found.intersection(node.input)):
            found.update(node.output)
    return found


def _depending(model: onnx.ModelProto) -> set[str]:
    found = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return found
