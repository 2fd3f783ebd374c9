"""What `inspect` is told and what `build` does: every backend and variant accepts and refuses the same, in the same words."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_networks import graphs, stimulus
from test_rtl import single_output

from caloedge.backends.emulator import project as emulator
from caloedge.backends.hls4ml import project as hls4ml
from caloedge.backends.rtl import adders
from caloedge.backends.rtl import project as rtl
from caloedge.backends.rtl.adders import width_problem
from caloedge.backends.rtl.design import design
from caloedge.backends.rtl.layers import layers_of
from caloedge.catalog import Backend, Target, find, names
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Affine, Conv, Dense, InputQuantiser, Op, Output, Requantise, Reshape
from caloedge.errors import Unsupported, UserError
from caloedge.firmware.inspection import previews
from caloedge.recipe import LayerChoice

TARGET = find(Target, "xcvu13p")
EXAMPLES = {"deadline": None, "phases": [Phase.generate], "derandomize": True, "suppress_health_check": list(HealthCheck)}


def refusal_of_build(backend: str, variant: str, graph: Graph, choices: Mapping[str, LayerChoice]) -> str:
    """Return why a project cannot be written, empty where it can; what is written is not compiled."""
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(rtl, "compile_model", lambda folder, top, sources, library, log, trace: log.touch())
        patch.setattr(emulator, "compile_library", lambda folder, text, library, optimisation, builds, log: log.touch())
        patch.setattr(hls4ml.tools, "run", lambda command, **_: None)
        try:
            find(Backend, backend).build(graph, TARGET, variant, Path(folder) / "project", choices)
        except UserError as problem:
            return str(problem)
    return ""


def check_agreement(graph: Graph, choices: Mapping[str, LayerChoice] | None = None) -> dict[tuple[str, str], str]:
    """Compare what is foreseen with what is done, with `==`, and return the refusals by backend and variant."""
    found = {}
    for prospect in previews(graph, {"xcvu13p": TARGET}, choices):
        foreseen = "" if prospect.supported else prospect.description
        done = refusal_of_build(prospect.backend, prospect.variant, graph, choices or {})
        assert foreseen == done, (prospect.backend, prospect.variant)
        found[prospect.backend, prospect.variant] = foreseen
    assert set(found) == {(name, variant) for name in names("backend") for variant in find(Backend, name).variants}
    return found


@st.composite
def rescaled(draw: Any) -> Graph:
    """Draw a dense layer or a convolution with multiplications by constants and sums about as wide as adder graphs can be."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weight = Format(True, draw(st.sampled_from([4, 24, 25, 26])), 0)
    ops: list[Op]
    if draw(st.booleans()):
        ops = [
            InputQuantiser("x", (3,), Format(True, draw(st.integers(2, 20)), 0)),
            Dense("product", ("x",), rng.integers(weight.min_code, weight.max_code, (2, 3)), rng.integers(-9, 9, 2), weight),
        ]
    else:
        pixels = draw(st.integers(1, 2))
        weights = rng.integers(weight.min_code, weight.max_code, (2, pixels, pixels, 1))
        ops = [
            InputQuantiser("x", (pixels, 3, 2), Format(True, draw(st.integers(2, 20)), 0)),
            Conv("product", ("x",), weights, rng.integers(-9, 9, 2), weight),
        ]
    if draw(st.booleans()):
        fmt = Format(True, draw(st.sampled_from([6, 12, 25, 26])), 4)
        shape = (2, 1, 1) if isinstance(ops[-1], Conv) else (2,)
        scale = rng.integers(fmt.min_code, fmt.max_code, shape)
        ops.append(Affine("scale", ("product",), scale, rng.integers(-(2 ** draw(st.integers(1, 28))), 2**28, shape), fmt))
    rounding = draw(st.sampled_from([Rounding.HALF_EVEN, Rounding.CEILING]))
    after = Format(True, draw(st.integers(4, 12)), draw(st.integers(-28, 4)))
    ops.append(Requantise("round", (ops[-1].name,), after, relu=draw(st.booleans()), rounding=rounding))
    ops.append(Reshape("flat", ("round",)))
    return Graph((*ops, Output("y", ("flat",))))


@pytest.mark.slow
@settings(max_examples=10, **EXAMPLES)
@given(rescaled())
def test_wide_networks_are_foreseen_as_they_are_built(graph: Graph) -> None:
    found = check_agreement(graph)
    wide = [layer.name for layer in layers_of(graph) if width_problem(layer)]
    assert found["rtl", "auto"] == found["rtl", "streaming"] == ""
    assert ("too " in found["rtl", "unrolled"]) == bool(wide), found


@pytest.mark.exhaustive
@settings(max_examples=8, **EXAMPLES)
@given(graphs())
def test_random_networks_are_foreseen_as_they_are_built(graph: Graph) -> None:
    check_agreement(graph)  # with several outputs, which rtl refuses
    check_agreement(single_output(graph))


@pytest.mark.parametrize(("bits", "unrolled"), [(24, True), (25, False)])
def test_the_widest_constant_of_an_adder_graph(bits: int, unrolled: bool) -> None:
    graph = product(np.array([[2**bits - 1, 2 ** (bits + 9)]]))
    assert (design(graph, TARGET, "auto", {}).stages[0].strategy == "unrolled") == unrolled
    assert bool(width_problem(layers_of(graph)[0])) == (not unrolled)


def product(weights: np.ndarray, bits: int = 4) -> Graph:
    return Graph(
        (
            InputQuantiser("x", (weights.shape[1],), Format(True, bits, 0)),
            Dense("dense", ("x",), weights, np.zeros(len(weights), np.int64), Format(True, 40, 0)),
            Output("y", ("dense",)),
        )
    )


@pytest.mark.parametrize(("bits", "unrolled"), [(16, True), (17, False)])
def test_the_widest_sum_of_an_adder_graph(bits: int, unrolled: bool) -> None:
    graph = product(np.array([[2**34]]), bits)
    stage = design(graph, TARGET, "auto", {}).stages[0]
    assert (stage.layer.sums.format.width <= adders.EXACT_BITS) == unrolled
    assert (stage.strategy == "unrolled") == unrolled


@pytest.mark.slow
def test_the_widest_adder_graph_is_exact(tmp_path: Path) -> None:
    graph = product(np.array([[2**24 - 1, 2**33], [2**23 + 1, -(2**33) + 2**10]]), 16)
    assert graph.tensors["dense"].format.width == adders.EXACT_BITS
    find(Backend, "rtl").build(graph, TARGET, "unrolled", tmp_path / "p", {})
    codes = stimulus(graph, 1, 200)
    found, wanted = find(Backend, "rtl").emulate(tmp_path / "p", codes)["y"], graph.run(codes)["y"]
    np.testing.assert_array_equal(found, wanted)
    other = product(np.array([[2**24 - 1, 2**33], [2**23, -(2**33) + 2**10]]), 16)
    assert (other.run(codes)["y"] != found).any()


def test_a_choice_that_cannot_be_is_refused_with_what_to_type() -> None:
    graph = product(np.array([[2**26 - 1]]))
    why = r"weights of 26 bits in dense are too wide for an adder graph \(24 at most\)"
    for variant, choices in (("unrolled", {}), ("auto", {"dense": LayerChoice(strategy="unrolled")})):
        with pytest.raises(Unsupported, match=rf"^layer dense unrolled: {why}; use --variant auto --layer dense=streaming$"):
            design(graph, TARGET, variant, choices)
    assert design(graph, TARGET, "auto", {}).stages[0].why == why.replace("\\", "")


@pytest.mark.parametrize("backend", names("backend"))
def test_a_choice_for_no_layer_is_refused_by_every_backend(backend: str, tmp_path: Path) -> None:
    graph, choices = product(np.array([[3]])), {"nope": LayerChoice(strategy="streaming")}
    maker = find(Backend, backend)
    for variant in maker.variants:
        for refused in (
            lambda: maker.preview(graph, TARGET, variant, choices),  # noqa: B023
            lambda: maker.build(graph, TARGET, variant, tmp_path / "p", choices),  # noqa: B023
        ):
            with pytest.raises(UserError, match=r"^layers: 'nope' is no layer of the network; there are: dense$"):
                refused()
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_only_streams_take_is_foreseen_as_taken() -> None:
    """Before, every variant was refused where the first was."""
    weights = np.ones((64, 8, 3, 3), np.int64)
    graph = Graph(
        (
            InputQuantiser("x", (8, 64, 64), Format(True, 8, 4)),
            Conv("conv", ("x",), weights, np.zeros(64, np.int64), Format(True, 6, 5), padding=(1, 1, 1, 1)),
            Requantise("q", ("conv",), Format(False, 8, 4), relu=True),
            Output("y", ("q",)),
        )
    )
    found = {(x.backend, x.variant): (x.supported, x.description) for x in previews(graph, {"xcvu13p": TARGET})}
    assert found["hls4ml", "io_parallel"] == (
        False,
        "layer conv: 18,874,368 of the 18,874,368 products of an event, which io_parallel unrolls (limit 262,144); "
        "use --variant io_stream, or backend 'rtl' or 'emulator'",
    )
    assert found["hls4ml", "io_stream"][0]
    assert found["hls4ml", "auto"][0]


@pytest.mark.parametrize(("outputs", "takes"), [(512, True), (513, False)])
def test_the_most_products_side_by_side(outputs: int, takes: bool) -> None:
    graph = product(np.ones((outputs, 512), np.int64))
    (found,) = (x for x in previews(graph, {"xcvu13p": TARGET}) if (x.backend, x.variant) == ("hls4ml", "io_parallel"))
    assert found.supported == takes


@pytest.mark.parametrize(("bits", "unrolled"), [(20, True), (21, False)])
def test_wide_weights_with_biases_keep_all_bits(bits: int, unrolled: bool, tmp_path: Path) -> None:
    """Behind wider weights alkaid's sums lose low bits where an even bias is added: such a layer goes on multipliers."""
    rng = np.random.default_rng(5)
    top = 2 ** (bits - 1)
    weights = rng.integers(-top + 1, top, (2, 3)) | 1
    weights[0, 0] = top - 1
    graph = Graph(
        (
            InputQuantiser("x", (3,), Format(True, 8, 0)),
            Dense("dense", ("x",), weights, np.array([4, 1024]), Format(True, bits, 0)),
            Affine("scale", ("dense",), np.array([-27, 23]), np.array([112, 1562]), Format(True, 6, 4)),
            Requantise("round", ("scale",), Format(True, 12, -9), relu=False),
            Output("y", ("round",)),
        )
    )
    assert (design(graph, TARGET, "auto", {}).stages[0].strategy == "unrolled") == unrolled
    if unrolled:
        rtl = find(Backend, "rtl")
        rtl.build(graph, TARGET, "unrolled", tmp_path / "p", {})
        codes = stimulus(graph, 1, 500)
        np.testing.assert_array_equal(rtl.emulate(tmp_path / "p", codes)["y"], graph.run(codes)["y"])
