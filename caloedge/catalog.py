"""The plug-in types, and how a name finds its file: the folder is the registry, nothing is imported until it is named.

A plug-in file defines one constant (`GENERATOR`, `TASK`, `LOSS`, `NETWORK`, `BACKEND`, `TARGET`). A name that is none of this
package's is a module path, so a file outside works the same way: `find(Task, "mylab.tasks.preshower")`. A recipe may also name a
file that lies beside it: see `look_beside`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from caloedge.errors import UnknownName, UserError, meant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caloedge.compiler.graph import Graph
    from caloedge.detector.crystals.shooting import ShootMany
    from caloedge.recipe import LayerChoice
    from caloedge.results import Claim, Number, Section, Table

# The methods every task compares on the same events, in display order.
REFERENCE = "float published"
FLOAT = "float edge"
INTEGER = "integer edge"
BASELINE = "classical baseline"

Truth = TypeVar("Truth")


class Library(Protocol):
    """What events are made of: a file of showers or of particles, whole in memory or read when asked for."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """How the file was made; empty for files from elsewhere."""

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""

    def __len__(self) -> int:
        """Return the number of showers or events."""


@dataclass(frozen=True)
class Sample(Generic[Truth]):
    """Network inputs with targets, and the truth that metrics need."""

    inputs: NDArray[Any]
    """(N, *input_shape) float32 in the task's unit."""
    targets: NDArray[Any]
    """(N, outputs + the loss's `target_weights`) float32, or what else the loss takes."""
    truth: Truth
    published_inputs: NDArray[Any] | None = None
    """(N, *published_input_shape) float32, where the published network does not take what the edge network takes."""

    def inputs_of(self, stage: str) -> NDArray[Any]:
        """Return the inputs of one training stage's network: `published`, `edge` or `quantised`."""
        return self.published_inputs if stage == "published" and self.published_inputs is not None else self.inputs


@dataclass(frozen=True)
class Assessment:
    """What a task says about methods compared on one sample."""

    sections: tuple[Section, ...]
    figures: Mapping[str, Mapping[str, Number]]
    """The few figures a reader wants first, by name of the figure and of the method."""
    claims: tuple[Claim, ...]
    caveats: tuple[str, ...] = ()
    """What no claim covers and a user must know, such as a bias; gravest first, one sentence each."""
    replicas: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """Bootstrap replicas (R,) of `figures`, in their units and paired between methods."""
    items_per_event: float = 1.0
    """Inputs of the network per event of this sample, e.g. windows: what a trigger's input rate is multiplied by."""


def _open_showers(source: str | Path) -> Library:
    from caloedge.detector.crystals.library import open_library

    return open_library(source)


@dataclass(frozen=True)
class Condensation:
    """How clusters are chosen among the nodes (N, F) that a graph network gives (arXiv 2002.03605)."""

    score: int
    """Column of the output: the best node is chosen first."""
    coordinates: tuple[int, ...]
    """Columns in which nodes near a chosen one are left out."""
    most: int
    """Clusters per event."""
    valid: int = 0
    """Column of the input that is positive for hits and 0 for padding."""


def distance_of(method: str) -> str:
    """Return the name of a method's condensation distance among its working points; its threshold has the method's name."""
    return f"{method}, distance"


@dataclass(frozen=True)
class Task:
    """Data, target and physics metrics of one reconstruction problem."""

    description: str
    input_shape: tuple[int, ...]
    """Of one input, channels first."""
    input_unit: str
    output: str
    """Name of the network's output."""
    loss: str
    """Name of a loss."""
    sample: Callable[[Any, str, int, int], Sample[Any]]
    """(library, split, events, seed): splits are `train`, `valid`, `test`, and `all` for a library that was not trained on."""
    baseline: Callable[[Sample[Any]], NDArray[Any]]
    """Scores of the classical, non-ML method: (N,), or (N, outputs) for several outputs."""
    working_points: Callable[[Sample[Any], Mapping[str, NDArray[Any]]], dict[str, float]]
    """(validation sample, scores by method): the threshold of each method."""
    assess: Callable[[Sample[Any], Mapping[str, NDArray[Any]], Mapping[str, float]], Assessment]
    """(test sample, scores by method, working points)."""
    open: Callable[[str | Path], Library] = _open_showers
    """Open the library that a recipe names, by path or by the name of a shipped one."""
    contents: str = "showers"
    """What the library holds."""
    simulation: str = ""
    """What made the inputs, where the library alone did not: it stands above figures."""
    item: str = "input"
    """What one input of the network is called, e.g. `window`."""
    valid_events: int = 1000
    """On which the validation loss is taken after each epoch."""
    published_input_shape: tuple[int, ...] | None = None
    """Of the published network, where it takes something else than `input_shape`."""
    physical: bool = False
    """Whether outputs are quantities: the integer network's scores are then values, codes times their LSB."""
    condensation: Condensation | None = None
    """What firmware does with the network's output, at the integer network's working points."""
    lower_is_better: bool = False
    """Whether an assessment's figures are losses, such as widths; else they are shares in percent of what is right."""

    def shape_of(self, stage: str) -> tuple[int, ...]:
        """Return the shape of one input of a training stage's network."""
        return self.published_input_shape if stage == "published" and self.published_input_shape else self.input_shape


@dataclass(frozen=True)
class TrainingData:
    """What a network learns from that is no task's: inputs, targets and what is made small."""

    loss: str
    """Name of a loss."""
    sample: Callable[[Any, str, int, int], Sample[Any]]
    """(library, split, events, seed): splits are `train` and `valid`."""
    valid_events: int = 1000
    """On which the validation loss is taken after each epoch."""


@dataclass(frozen=True)
class Role:
    """What one network of a generator learns."""

    loss: str
    """Name of a loss."""
    pairs: Callable[..., tuple[NDArray[Any], NDArray[Any]]]
    """(energy code, cell code, energies in MeV (N,), impact points in mm (N, 2), cells in MeV (N, C), generator of noise):
    inputs and targets of a network, both (N, …) float32."""


@dataclass(frozen=True)
class Generator:
    """Makes showers: the energies that given particles leave in all cells of a geometry."""

    description: str
    open: Callable[[Any, str, str], tuple[ShootMany, Mapping[str, str]]]
    """(geometry, particle, source): the function that makes showers, and what a library says of how they were made. Called in
    each worker process. What was made of other showers says the SHA-256 of their file as `descends_from`."""
    check: Callable[[Any], None] = lambda _: None
    """(production): raise `UserError` for what cannot be made, before anything is started."""
    prepare: Callable[[], None] = lambda: None
    """Get ready what all workers need, once."""
    source: str = ""
    """What showers are made of besides the particles, such as a library; empty if nothing."""
    batched: bool = False
    """Whether showers of a part are made together, so that a part is never divided."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """Its networks, if it has any, in the order in which they are trained."""
    draw: Callable[[Any, NDArray[Any], NDArray[Any], list[Any]], NDArray[Any]] | None = None
    """(trained generator, energies in MeV (N,), impact points in mm (N, 2), a generator of noise for each): cells in MeV (N, C).
    For generators with networks; numpy in and out, whatever computes the networks."""


@dataclass(frozen=True)
class Loss:
    """What a training makes small."""

    description: str
    function: Callable[[Any, Any], Any]
    """(outputs, targets), tensors of a batch: a number, as a tensor, from which gradients flow."""
    target_weights: int = 0
    """Last columns of the targets, which no output estimates: they are weights in the loss."""
    outputs: int | None = None
    """Size of the outputs' last axis, where it is not that of the targets without `target_weights`."""
    distillable: bool = False
    """Whether targets are what a network gives, so that a teacher's outputs can stand for them."""

    def output_shape(self, targets: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the outputs that go with targets of a shape."""
        return (*targets[:-1], self.outputs or targets[-1] - self.target_weights)


@dataclass(frozen=True)
class Network:
    """One architecture, written once: `build` receives the arithmetic, float or quantised, and one of the sizes."""

    description: str
    sizes: Mapping[str, Any]
    """`published` is the float reference; `edge` is the one that goes to firmware."""
    build: Callable[[Any, Any], Any]
    """(arithmetic, size): a torch module; parameters have the same names in every arithmetic."""
    counts_statistics: bool = True
    """Whether the statistics of batch normalisation count as parameters, as its authors' framework has it."""
    published_firmware: Callable[[], Table] | None = None
    """Firmware figures from the literature for networks of this size."""


@dataclass(frozen=True)
class Target:
    """A device and the clock asked of it."""

    description: str
    part: str
    """The vendor's full part number."""
    clock_mhz: float
    """Requested, not achieved."""
    resources: Mapping[str, int]
    """What the device has: LUT, FF, DSP, BRAM_18K, URAM."""
    source: str
    """Where the resource figures are published."""
    family: str = ""
    """The family that open synthesis knows it by, `xcup`, `xcu`, `xc7` or `ecp5`; empty when it knows none."""
    device_options: tuple[str, ...] = ()
    """What open place and route is told about the device."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """Package pins of `clk`, `data` and `result` of the routed design, where the router does not choose them itself."""
    register_delay_ns: float = 0.0
    """Part of a clock period that one pipeline stage costs before the first adder: clock to output, routing, set-up."""
    adder_delay_ns: float = 0.0
    """What each adder after another adds; 0 when unknown. Each target file says whether both are `estimated` or `routed`."""

    @property
    def period_ns(self) -> float:
        """Clock period in nanoseconds (requested)."""
        return 1e3 / self.clock_mhz

    def adders_per_stage(self, clock_mhz: float | None = None) -> int:
        """Return how many adders may follow each other between two registers at a clock (MHz), by default the requested one.

        At least 1, also where that misses the clock or the delays are unknown.
        """
        if self.adder_delay_ns <= 0:
            return 1
        period_ns = 1e3 / (clock_mhz or self.clock_mhz)
        return max(1, math.floor((period_ns - self.register_delay_ns) / self.adder_delay_ns))


@dataclass(frozen=True)
class Budget:
    """What a trigger allows; a network is one of several algorithms that share it."""

    name: str
    latency_ns: float
    """From the first input to the last output of the whole chain that `reference` names."""
    interval_ns: float
    """From one event's input to the next one's."""
    reference: str
    """Where it is published, and what it covers."""


@dataclass(frozen=True)
class Waves:
    """Where a simulation writes all signals as a VCD file, and how much of it."""

    path: Path
    limit_mb: float = 100.0
    """10⁶ bytes; the file ends, readable, a little behind it."""


@dataclass(frozen=True)
class CycleRun:
    """What a cycle-accurate simulation gave."""

    codes: dict[str, NDArray[Any]]
    """By output name, (N, *shape) int64."""
    latency_cycles: int
    """From the first input beat to the last output beat, of an event that meets an empty design."""
    interval_cycles: int
    """Between two results while events queue at the input."""
    waved_cycles: int = 0
    """Cycles that the waves cover, from the first input beat on; 0 where none were asked for."""
    waved_events: int = 0
    """Whole events among them."""


@dataclass(frozen=True)
class Backend:
    """Turns an integer network into a project folder and simulates it bit for bit."""

    description: str
    variants: tuple[str, ...]
    """The ways it can build one graph, e.g. `("io_parallel", "io_stream")`."""
    preview: Callable[[Graph, Target, str, Mapping[str, LayerChoice]], str]
    """(graph, target, variant, choices by layer): say in one line what `build` would build, with estimates, or raise
    `UserError` as it would, naming the first layer that cannot be built. The same code decides for both; nothing is written."""
    build: Callable[[Graph, Target, str, Path, Mapping[str, LayerChoice]], None]
    """(graph, target, variant, folder, choices by layer): write the project and compile its simulation; the folder appears whole
    or not at all. Only a variant that leaves the choice to the recipe heeds the choices."""
    emulate: Callable[[Path, Any], dict[str, NDArray[Any]]]
    """(folder, input codes (N, *shape) int64, or {input name: codes}): simulate and return {output name: codes (N, *shape)}."""
    simulate: Callable[[Path, NDArray[Any], float, Waves | None], CycleRun] | None = None
    """(folder, input codes, chance of a stall per cycle at each end, waves to write): the same cycle by cycle, where a backend
    can."""
    extra: str = ""
    """Key of `extras.EXTRAS` whose packages it needs; empty if it needs none."""


P = TypeVar("P")

FOLDERS = {
    "generator": "generators",
    "task": "tasks",
    "loss": "losses",
    "network": "networks",
    "backend": "backends",
    "target": "targets",
}


def names(kind: str) -> list[str]:
    """List the public names of one kind, a key of `FOLDERS`, without importing any."""
    folder = Path(__file__).parent / FOLDERS[kind]
    found = [p.stem for p in folder.glob("*.py")] + [p.parent.name for p in folder.glob("*/__init__.py")]
    return sorted(name for name in found if not name.startswith("_"))


def find(plugin_type: type[P], name: str) -> P:
    """Return the plug-in called `name`, importing only its file.

    >>> find(Target, "xcvu13p").period_ns
    5.0
    """
    kind = plugin_type.__name__.lower()
    ours = names(kind)
    module_name = f"caloedge.{FOLDERS[kind]}.{name}" if name in ours else name
    if not _exists(module_name):
        raise UnknownName(
            f"no {kind} {name!r}{meant(name, ours)}; there are: {', '.join(ours)} "
            f"(tried as well: module {name!r} on Python's path and beside the recipe)"
        )
    module = importlib.import_module(module_name)
    plugin = getattr(module, kind.upper(), None)
    if not isinstance(plugin, plugin_type):
        raise UnknownName(f"{module_name}: a {kind} file defines the constant {kind.upper()} of type {plugin_type.__name__}")
    return plugin


def own_files(folder: Path, plugins: Iterable[str]) -> list[Path]:
    """Return the files in a folder, such as a recipe's, that define plug-ins of these names; this package's go first."""
    ours = {name for kind in FOLDERS for name in names(kind)}
    tops = dict.fromkeys(name.partition(".")[0] for name in plugins if name not in ours)
    places = [place for top in tops if top.isidentifier() for place in (folder / f"{top}.py", folder / top / "__init__.py")]
    return [place for place in places if place.is_file()]


def look_beside(folder: Path, plugins: Iterable[str]) -> None:
    """Let plug-ins be found in a folder, such as a recipe's; does nothing where none of these names has its file there.

    The folder goes to the end of Python's path, which processes that are started from here get as well. Raises `UserError` where
    a different module of that name would be found before.
    """
    for place in own_files(folder, plugins):
        top = place.stem if place.parent == folder else place.parent.name
        before = importlib.util.find_spec(top)
        if before is None:
            sys.path.append(str(folder.resolve()))
            importlib.invalidate_caches()
        elif not (before.origin and Path(before.origin).is_file() and Path(before.origin).read_bytes() == place.read_bytes()):
            raise UserError(f"{place}: Python finds another module {top!r} first, {before.origin}; give this one another name")


def _exists(module_name: str) -> bool:
    """Tell whether a module can be imported; words that are no module path are none."""
    if not all(part.isidentifier() for part in module_name.split(".")):
        return False
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):
        return False
