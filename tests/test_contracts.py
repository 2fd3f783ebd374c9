"""What every plug-in file must keep to; a new file in one of the four folders gets these tests by being there."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge import catalog
from caloedge.catalog import Backend, Generator, Library, Loss, Network, Target, Task, find, names
from caloedge.cli.beginning import new
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import UnknownName
from caloedge.production import Production, simulate

KINDS: dict[str, type[Any]] = {
    "generator": Generator, "task": Task, "loss": Loss, "network": Network, "backend": Backend, "target": Target,
}  # fmt: skip
FRESH = {kind: f"fresh_{kind}" for kind in ("task", "network", "target")}
"""What `caloedge new` writes keeps to the contracts as well."""


def all_of(kind: str) -> list[str]:
    return [*names(kind), *([FRESH[kind]] if kind in FRESH else [])]


EVERY = [(kind, name) for kind in KINDS for name in all_of(kind)]
MADE_FOR = {"fresh_network": "fresh_task"}
"""Task of a network that does not have its name."""


@pytest.fixture(scope="module", autouse=True)
def _fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("fresh")
    for kind, name in FRESH.items():
        new(kind, name, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def test_every_kind_has_plugins() -> None:
    assert set(KINDS) == set(catalog.FOLDERS)
    assert all(names(kind) for kind in KINDS)


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_plugin_defines_its_constant_and_says_what_it_is(kind: str, name: str) -> None:
    plugin = find(KINDS[kind], name)
    assert type(plugin) is KINDS[kind]
    assert plugin.description.strip() == plugin.description != ""
    assert "\n" not in plugin.description
    assert len(plugin.description) <= 120
    assert dataclasses.is_dataclass(plugin)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plugin.description = "another"


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_name_lists_the_known_ones(kind: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find(KINDS[kind], "nonsense")
    tried = "(tried as well: module 'nonsense' on Python's path and beside the recipe)"
    assert str(caught.value) == f"no {kind} 'nonsense'; there are: {', '.join(names(kind))} {tried}"
    with pytest.raises(UnknownName, match=rf"^no {kind} 'no\.such\.module'; there are: "):
        find(KINDS[kind], "no.such.module")


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "x.", "a b", "../secret", "Nonsense", "__init__"])
def test_strange_names_are_unknown_names(name: str) -> None:
    with pytest.raises(UnknownName) as caught:
        find(Target, name)
    assert "\n" not in str(caught.value)


def test_a_file_outside_the_package_works_by_module_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mylab_plugins" / "boards"
    folder.mkdir(parents=True)
    (folder / "small.py").write_text(
        "from caloedge.catalog import Target\n"
        "TARGET = Target('a small board', 'xc7a35t', 100.0, {'LUT': 20_800}, 'its data sheet')\n"
    )
    (folder / "wrong.py").write_text("TARGET = 'xc7a35t'\n")
    (folder / "nothing.py").write_text("")
    (folder / "broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    board = find(Target, "mylab_plugins.boards.small")
    assert board == Target("a small board", "xc7a35t", 100.0, {"LUT": 20_800}, "its data sheet")
    assert board.period_ns == 10
    for name in ("wrong", "nothing"):
        with pytest.raises(UnknownName) as caught:
            find(Target, f"mylab_plugins.boards.{name}")
        assert str(caught.value) == (f"mylab_plugins.boards.{name}: a target file defines the constant TARGET of type Target")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        find(Target, "mylab_plugins.boards.broken")  # the plug-in's own mistake is shown as it is


@pytest.mark.parametrize("name", all_of("target"))
def test_a_target_says_what_it_has_and_who_says_so(name: str) -> None:
    target = find(Target, name)
    assert target.part
    assert target.clock_mhz > 0
    assert target.period_ns * target.clock_mhz == pytest.approx(1000, rel=1e-12)  # rounding of doubles
    assert target.source
    assert set(target.resources) <= {"LUT", "FF", "DSP", "BRAM_18K", "BRAM_36K", "URAM"}
    assert all(isinstance(count, int) and count > 0 for count in target.resources.values())


@pytest.mark.parametrize("name", names("backend"))
def test_a_backend_names_its_variants(name: str) -> None:
    backend = find(Backend, name)
    assert backend.variants
    assert len(set(backend.variants)) == len(backend.variants)
    assert all(callable(f) for f in (backend.preview, backend.build, backend.emulate))


# Tasks on a library of the kind they need


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> ShowerLibrary:
    path = tmp_path_factory.mktemp("contract") / "showers.h5"
    simulate(Production(generator="parametrised", showers=200, seed=9), path, workers=1)
    return open_library(path)


SHIPPED = {"pf_energy": "qcd_jets", "clustering": "csi_gamma", "clustering_cells": "csi_gamma"}
"""What tasks open that do not take showers of the PbWO4 matrix."""


@pytest.fixture
def library(name: str, showers: ShowerLibrary) -> Library:
    """Open what the task or network called `name` reads."""
    return find(Task, name).open(SHIPPED[name]) if name in SHIPPED else showers


def loss_of(task: Task) -> Loss:
    pytest.importorskip("torch")
    return find(Loss, task.loss)


@pytest.mark.parametrize("name", all_of("task"))
def test_a_sample_is_deterministic_and_of_the_declared_shape(name: str, library: Library) -> None:
    task = find(Task, name)
    for split in ("train", "valid", "test", "all"):
        one, again, other = (task.sample(library, split, 20, seed) for seed in (3, 3, 4))
        assert one.inputs.shape == (len(one.targets), *task.input_shape)
        assert one.inputs.dtype == one.targets.dtype == np.float32
        assert one.targets.ndim in (2, 3, 4)
        assert np.isfinite(one.inputs).all()
        assert np.isfinite(one.targets).all()
        assert one.inputs.any()
        assert task.shape_of("edge") == task.shape_of("quantised") == task.input_shape
        published, same = one.inputs_of("published"), again.inputs_of("published")
        assert published.shape == (len(one.targets), *task.shape_of("published"))
        assert published.dtype == np.float32
        assert np.isfinite(published).all()
        np.testing.assert_array_equal(published, same)
        assert one.inputs_of("edge") is one.inputs_of("quantised") is one.inputs
        assert (one.published_inputs is None) == (task.published_input_shape is None)
        loss = loss_of(task)
        assert loss.output_shape(one.targets.shape)[-1] >= 1
        weights = one.targets[..., one.targets.shape[-1] - loss.target_weights :]
        assert (weights >= 0).all(), "a weight in the loss is negative"
        np.testing.assert_array_equal(one.inputs, again.inputs)
        np.testing.assert_array_equal(one.targets, again.targets)
        assert one.inputs.shape != other.inputs.shape or not np.array_equal(one.inputs, other.inputs)
    assert task.input_unit
    assert task.output.isidentifier()


@pytest.mark.parametrize("name", all_of("task"))
def test_the_baseline_scores_every_input_once_and_tells_something(name: str, library: Library) -> None:
    task = find(Task, name)
    sample = task.sample(library, "test", 40, 1)
    scores = task.baseline(sample)
    outputs = loss_of(task).output_shape(sample.targets.shape)
    squeezed = (outputs[0], *outputs[2:]) if outputs[1] == 1 else outputs  # one output or one image needs no axis of its own
    assert scores.shape in (squeezed, *([outputs] if len(outputs) > 2 else []))
    assert np.isfinite(scores).all()
    assert len(np.unique(scores)) > 10


@pytest.mark.parametrize("name", all_of("task"))
def test_all_methods_are_assessed_alike(name: str, library: Library) -> None:
    task = find(Task, name)
    sample = task.sample(library, "test", 200, 1)
    methods = (catalog.REFERENCE, catalog.FLOAT, catalog.INTEGER, catalog.BASELINE)
    scores = dict.fromkeys(methods, task.baseline(sample))
    points = task.working_points(sample, scores)
    assert not points or set(methods) <= set(points)  # quantities need none
    assessment = task.assess(sample, scores, points)
    assert assessment.sections
    assert assessment.figures
    assert assessment.claims
    for figure, numbers in assessment.figures.items():
        assert list(numbers) == list(methods)
        assert all(number.origin == "computed" and number.uncertainty is not None for number in numbers.values())
        assert all(assessment.replicas[figure][method].ndim == 1 for method in methods)  # for ratios of paired errors


@pytest.mark.parametrize("name", all_of("task"))
def test_a_task_names_a_loss_that_takes_its_targets(name: str, library: Library) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    task = find(Task, name)
    targets = torch.from_numpy(task.sample(library, "train", 20, 1).targets)
    loss_plugin = find(Loss, task.loss)
    torch.manual_seed(1)
    outputs = (0.1 * torch.randn(loss_plugin.output_shape(targets.shape))).requires_grad_()
    loss = loss_plugin.function(outputs, targets)
    assert loss.shape == ()
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    columns = -1 if outputs.ndim == 3 else 1  # of sets (N, elements, outputs), of images (N, outputs, H, W)
    channels = outputs.grad.movedim(columns, 0).flatten(1)
    assert (channels != 0).any(dim=1).all(), "an output that nothing trains"


# Networks, in both arithmetics


def both(name: str) -> tuple[Any, Any]:
    pytest.importorskip("brevitas")
    from caloedge.arithmetic import FloatArithmetic, QuantisedArithmetic

    network = find(Network, name)
    quantised = QuantisedArithmetic(weight_bits=8, activation_bits=8, input_bits=12, input_fraction=5)
    return network.build(FloatArithmetic(), network.sizes["edge"]), network.build(quantised, network.sizes["edge"])


@pytest.mark.parametrize("name", all_of("network"))
def test_both_arithmetics_have_the_same_parameters(name: str) -> None:
    plain, quantised = both(name)
    ours = {key: tuple(value.shape) for key, value in plain.named_parameters() if "_norm." not in key}
    theirs = {key: tuple(value.shape) for key, value in quantised.named_parameters() if "scaling_impl" not in key}
    assert ours == theirs
    from caloedge.arithmetic import folded

    weights = folded(plain)
    missing, unexpected = quantised.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all("scaling_impl" in key for key in missing)
    for key in ours:
        assert (dict(quantised.named_parameters())[key] == weights[key]).all()


@pytest.mark.parametrize("name", all_of("network"))
def test_the_quantised_network_is_the_float_one_but_for_rounding(name: str) -> None:
    """With the same weights they compute nearly the same function, in steps."""
    torch = pytest.importorskip("torch")
    from caloedge.arithmetic import folded

    torch.manual_seed(1)
    plain, quantised = both(name)
    quantised.load_state_dict(folded(plain), strict=False)
    shape = find(Task, MADE_FOR.get(name, name)).input_shape  # a network has the name of the task that it was made for
    events = 256 if np.prod(shape) < 1000 else 4
    inputs = torch.rand(events, *shape)
    with torch.no_grad():
        a, b = plain.eval()(inputs), quantised.eval()(inputs)
    assert a.shape == b.shape
    assert a.shape[0] == events
    assert not torch.equal(a, b)
    a, b = (x.transpose(0, 1).flatten(1).T for x in (a, b))
    # 8 bits everywhere: a few percent of the spread of each output, plus a common offset
    for column_a, column_b in zip(a.T, b.T, strict=True):
        assert float(torch.corrcoef(torch.stack([column_a, column_b]))[0, 1]) > 0.95


@pytest.mark.parametrize("name", all_of("network"))
def test_an_edge_network_is_small(name: str) -> None:
    plain, quantised = both(name)
    pytest.importorskip("lightning")
    from caloedge.training.stages import n_parameters

    norms = sum(value.numel() for key, value in plain.named_parameters() if "_norm." in key)
    assert n_parameters(plain, statistics=False) - norms == n_parameters(quantised) <= 100_000


@pytest.mark.parametrize(
    ("name", "size", "parameters"),
    [
        ("seed_finder", "published", 7_029_449),
        ("seed_finder", "edge", 4_989),
        ("shower_shape", "published", 4_389),
        ("center_finder", "published", 3_226_504),
        ("center_finder", "edge", 17_396),
        ("pf_energy", "published", 92_465),
        ("pf_energy", "edge", 92_465),
        ("clustering", "published", 4_965),
        ("clustering", "edge", 4_965),
    ],
)
def test_a_network_has_its_published_size(name: str, size: str, parameters: int) -> None:
    pytest.importorskip("lightning")
    from caloedge.arithmetic import FloatArithmetic
    from caloedge.training.stages import n_parameters

    network = find(Network, name)
    built = network.build(FloatArithmetic(), network.sizes[size])
    assert n_parameters(built, statistics=network.counts_statistics) == parameters


@pytest.mark.parametrize("name", all_of("network"))
def test_both_sizes_take_what_the_task_gives_them(name: str, library: Library) -> None:
    torch = pytest.importorskip("torch")
    from caloedge.arithmetic import FloatArithmetic

    network, task = find(Network, name), find(Task, MADE_FOR.get(name, name))
    sample = task.sample(library, "train", 10, 1)
    for stage in ("published", "edge"):
        built = network.build(FloatArithmetic(), network.sizes[stage]).eval()
        with torch.no_grad():
            outputs = built(torch.from_numpy(sample.inputs_of(stage)))
        assert outputs.shape == loss_of(task).output_shape(sample.targets.shape)
        assert torch.isfinite(outputs).all()


def test_a_quantised_network_refuses_what_firmware_cannot_do() -> None:
    pytest.importorskip("brevitas")
    from caloedge.arithmetic import QuantisedArithmetic

    quantised = QuantisedArithmetic(weight_bits=8, activation_bits=8, input_bits=12, input_fraction=5)
    with pytest.raises(ValueError, match=r"^a quantised network cannot scale its input by 0\.01; choose input_fraction instead$"):
        quantised.scale(0.01)
    with pytest.raises(ValueError, match=r"^layer relu1: a quantised activation has slope 0 below zero, not 0\.3$"):
        quantised.activation("relu1", 0.3)
