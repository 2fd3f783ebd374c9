"""The whole story of one recipe, in order: read this first.

What trains is imported where it is called: verbs that train nothing need no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from caloedge.artifact import MANIFEST, RECIPE, Artifact, read_artifact
from caloedge.catalog import Assessment, Library, Network, Task, find
from caloedge.computer import computer
from caloedge.errors import BadData, UnknownName, meant
from caloedge.evaluation.accuracy import evaluate, library_of
from caloedge.firmware import section
from caloedge.firmware.measure import measured_designs
from caloedge.progress import about, announce
from caloedge.project import designs
from caloedge.recipe import Recipe, find_recipe, read_recipe, rehearsal, write_recipe
from caloedge.recipe_check import check_names
from caloedge.reports import sections, store, summary
from caloedge.results import Report, Section
from caloedge.verification.executors import verify_artifact

if TYPE_CHECKING:
    from caloedge.training.fit import Hardware
    from caloedge.training.stages import Trained


QUICK = "--quick for a rehearsal in about 2 min"
REHEARSAL = "A rehearsal: the networks were trained for a moment on few events; no figure here says anything about the real ones."


@dataclass(frozen=True)
class Places:
    """Where a run puts things."""

    work: Path
    """Checkpoints and firmware projects: can be made again."""
    artifact: Path
    report: Path


def places(recipe: Recipe, output: Path | None) -> Places:
    """Return the folders of a run: all below `output`, or ./runs, ./models and ./reports."""
    if output:
        return Places(output / "work", output / "artifact", output / "report")
    return Places(Path("runs") / recipe.name, Path("models") / recipe.name, Path("reports") / recipe.name)


@dataclass(frozen=True)
class Run:
    """One recipe with all that the verbs need, opened once: `Run.open`, then `train`, `export`, `run` or `studies.tradeoff`."""

    path: Path
    """The recipe's file; what it names by path lies beside it."""
    recipe: Recipe
    task: Task
    network: Network
    places: Places

    @classmethod
    def open(cls, name: str, output: Path | None) -> Run:
        """Find and read a recipe by file, folder or name of a model, and check the names in it."""
        path = find_recipe(name)
        recipe = read_recipe(path)
        check_names(path, recipe)
        return cls(path, recipe, find(Task, recipe.task), find(Network, recipe.network), places(recipe, output))

    def rehearsal(self, output: Path | None) -> Run:
        """Write the rehearsal of the recipe into a folder of its own, and open it: all of it stays below."""
        folder = (output or Path("runs") / self.recipe.name) / "rehearsal"
        write_recipe(rehearsal(self.recipe), folder / RECIPE, self.path.parent, folder)
        return Run.open(str(folder / RECIPE), folder)

    @cached_property
    def library(self) -> Library:
        """The recipe's library, opened when it is first needed."""
        return self.task.open(library_beside(self.path, self.recipe.library))

    @property
    def trainings(self) -> Path:
        """Folder of its trainings."""
        return self.places.work / "training"


def run(opened: Run, hardware: Hardware, independent: Path | None = None) -> Report:
    """Train, export, compile, build, emulate, compare and report; what is already there is not done again."""
    other = opened.task.open(independent) if independent else None
    return report(export(opened, hardware), opened.places, other)


def train(opened: Run, hardware: Hardware, alternatives: Iterable[str] = ()) -> dict[str, Trained]:
    """Train what is not trained yet: the stages of a recipe, and those of its alternatives that are named."""
    from caloedge.training import stages
    from caloedge.training.forecast import forecast

    arguments = (opened.recipe, opened.library, opened.trainings, hardware, opened.path.parent, alternatives)
    for line in forecast(*arguments).lines("" if opened.recipe.rehearsal_of else QUICK):
        announce(line)
    return stages.train(*arguments)


def export(opened: Run, hardware: Hardware) -> Artifact:
    """Train what is not trained yet and export the artifact."""
    from caloedge.export import export as write_artifact

    trained = train(opened, hardware)
    return write_artifact(opened.recipe, opened.path, opened.library, trained, opened.places.artifact)


def report(artifact: Artifact, to: Places, independent: Library | None = None) -> Report:
    """Verify the chain, measure the firmware, compare the accuracies, write report.json and what is drawn from it."""
    from caloedge.evaluation.latency import float_timings

    projects = to.work / "projects"
    if plan := firmware_plan(artifact, projects):
        announce(plan)
    checks = verify_artifact(artifact, projects)
    built = measured_designs(artifact, projects, checks)
    task, published = find(Task, artifact.recipe.task), find(Network, artifact.recipe.network).published_firmware
    on_test = evaluate(artifact, library_of(artifact))
    elsewhere = _assess_independent(artifact, independent) if independent else None
    whole = summary.compose(
        f"{_name_of(artifact)}: float against fixed point",
        _summary(artifact),
        data_label(artifact.recipe.task, artifact.manifest.library),
        on_test.figures,
        (*on_test.claims, sections.exactness_claim(checks)),
        (
            *on_test.sections,
            *(_independent(independent, elsewhere) if independent and elsewhere else ()),
            sections.exactness(checks),
            sections.integer_network(artifact.graph(), artifact.manifest),
            section.firmware(
                built,
                float_timings(artifact),
                computer(),
                published() if published else None,
                task.item,
                on_test.items_per_event,
            ),
            sections.trainings(artifact.manifest.stages),
            sections.what_was_run(artifact),
        ),
        lower_is_better=task.lower_is_better,
        independent=elsewhere.claims if elsewhere else (),
        before=_rehearsed(artifact),
        caveats=(*on_test.caveats, *summary.artifact_caveats(artifact)),
    )
    store.save(whole, to.report)
    store.write_index(to.report.parent)
    return whole


def firmware_plan(artifact: Artifact, projects: Path, reports: Path = Path("reports")) -> str:
    """Say which firmware will be built and synthesised, and how long it took if a report tells; empty if all is there."""
    recipe, graph = artifact.recipe, artifact.graph()
    missing = [str(design) for design in designs(recipe) if not design.is_built(graph, recipe, projects)]
    if not missing:
        return ""
    synthesised = [f"rtl {variant}, {target}" for target, variants in recipe.synthesis.items() for variant in variants]
    work = f"building {'; '.join(missing)}" + (f"; synthesising {'; '.join(synthesised)}" if synthesised else "")
    before = reports / (recipe.rehearsal_of or recipe.name)
    if (before / store.JSON_NAME).is_file() and (seconds := section.building_s(store.load(before), missing, synthesised)):
        return f"{work}: took about {about(seconds)} where {before} was made"
    return f"{work}: some minutes, more for larger networks"


def _name_of(artifact: Artifact) -> str:
    recipe = artifact.recipe
    return f"Rehearsal of {recipe.rehearsal_of}" if recipe.rehearsal_of else recipe.name


def _rehearsed(artifact: Artifact) -> tuple[str, ...]:
    return (REHEARSAL,) if artifact.recipe.rehearsal_of else ()


def _assess_independent(artifact: Artifact, library: Library) -> Assessment:
    """Repeat the comparison on showers that no training, tuning or working point has seen."""
    if library.digest == artifact.manifest.library["sha256"]:
        raise BadData(f"{library.path}: is the library that {artifact.recipe.name} was trained on, not an independent one")
    return evaluate(artifact, library)


def _independent(library: Library, found: Assessment) -> tuple[Section, ...]:
    made = ", ".join(library.provenance[key] for key in ("version", "physics_list") if key in library.provenance)
    seed = library.provenance.get("seed", "unknown")
    text = f"{len(library):,} showers of another seed ({seed}; {made}): none was seen in training or in setting thresholds. "
    return tuple(
        Section(title="The same on independent showers", text=text + section.text, blocks=(*found.claims, *section.blocks))
        for section in found.sections
    )


def comparison_report(artifact: Artifact, library: Library, assessment: Assessment, folder: Path) -> None:
    """Write a report of one comparison only."""
    comparison = summary.compose(
        f"{_name_of(artifact)} on {library.path.name}",
        "Working points as set on the artifact's own validation events.",
        data_label(artifact.recipe.task, library.provenance),
        assessment.figures,
        assessment.claims,
        assessment.sections,
        lower_is_better=find(Task, artifact.recipe.task).lower_is_better,
        before=_rehearsed(artifact),
        caveats=(*assessment.caveats, *summary.artifact_caveats(artifact)),
    )
    store.save(comparison, folder, listed=False)


def data_label(task: str, provenance: Mapping[str, str]) -> str:
    """Return what stands above every figure.

    >>> data_label("seed_finder", {"version": "Geant4 11.4.1"}), data_label("pf_energy", {"version": "pythia8mc 8.317.2"})
    ('Geant4 11.4.1 simulation', 'parametrised detector simulation')
    """
    return f"{find(Task, task).simulation or provenance.get('version', '')} simulation".strip()


def _summary(artifact: Artifact) -> str:
    published, edge = (artifact.manifest.stages[stage].parameters for stage in ("published", "edge"))
    q = artifact.recipe.quantisation
    edge_network = "the same topology quantised" if edge == published else "a network"
    size = "" if edge == published else f"{edge:,} parameters, "
    return (
        f"The published float network ({published:,} parameters) against {edge_network} for trigger firmware ({size}"
        f"{q.weight_bits}-bit weights, {q.activations}): accuracy on the same events, and proof that the "
        "firmware computes what was trained."
    )


def library_beside(recipe_path: Path, library: str) -> str | Path:
    """Return the name of a shipped library as it is, and a path as one from the recipe's folder."""
    return recipe_path.parent / library if Path(library).suffix else library


def open_model(name: str) -> Artifact:
    """Open an artifact by folder, or by the name of a folder in ./models."""
    folder = Path(name)
    if folder.exists() or "/" in name:
        return read_artifact(folder)
    known = sorted(path.parent.name for path in Path("models").glob(f"*/{MANIFEST}"))
    if name not in known:
        raise UnknownName(
            f"no model {name!r}{meant(name, known)}; give a file, an artifact's folder, or a model in ./models: "
            + (", ".join(known) or "none")
        )
    return read_artifact(Path("models") / name)
