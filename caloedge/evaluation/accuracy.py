"""Accuracy of all methods of an artifact on the same events of a shower library."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import Artifact
from caloedge.catalog import BASELINE, INTEGER, Assessment, Library, Sample, Task, find
from caloedge.compiler.onnx.reader import read
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.errors import BadData, UserError
from caloedge.evaluation.scoring import integer_scores, score_methods
from caloedge.extras import cure, lacking

EVALUATION_SEED = 97
"""Seed of the composition of test events; no training or tuning uses it."""


def library_of(artifact: Artifact) -> Library:
    """Open the library that the artifact was trained on."""
    path = artifact.manifest.library.get("path")  # from the artifact's folder; none for a shipped library
    return find(Task, artifact.recipe.task).open(artifact.folder / path if path else artifact.recipe.library)


def refuse_generated(library: Library) -> None:
    """Refuse showers that were made of other showers, which may be those that a network was trained on."""
    if library.provenance.get("descends_from"):
        made_by, source = (library.provenance.get(key, "unknown") for key in ("generator", "source"))
        raise BadData(
            f"{library.path}: was made by generator {made_by} of the showers in {source}; evaluate on showers of a simulation"
        )


def refuse_seen_showers(artifact: Artifact, library: Library) -> None:
    """Refuse a library that contains showers the artifact was trained on, whatever the file looks like."""
    try:
        training_library = library_of(artifact)
    except UserError:
        return  # the training library is not on this computer
    if training_library.digest != artifact.manifest.library["sha256"]:
        return
    if not isinstance(library, ShowerLibrary) or not isinstance(training_library, ShowerLibrary):
        return  # particles of a library are evaluated on, never trained on
    n_seen = np.isin(np.float32(library.energies_mev), np.float32(training_library.energies_mev)).sum()
    # Energies are continuous: a handful may agree in float32 by chance.
    if n_seen > 10 + 0.01 * len(library):
        raise BadData(
            f"{library.path}: {n_seen} of {len(library)} showers are those that {artifact.recipe.name} was trained or tuned on"
            f" ({artifact.recipe.library}); evaluate on showers of another seed"
        )


def evaluate(artifact: Artifact, library: Library, n_events: int | None = None) -> Assessment:
    """Compare float published, float edge, integer edge and the baseline on test events of `library`.

    Of the library that the artifact was trained on only the test showers are used; of any other, all. Working points are
    those of the artifact, set on its validation events. Float networks are left out where the packages for them are not
    installed (`not_compared`), and claims on them with them.
    """
    refuse_generated(library)
    task = find(Task, artifact.recipe.task)
    split = "test" if library.digest == artifact.manifest.library["sha256"] else "all"
    sample = task.sample(library, split, n_events or artifact.recipe.evaluation.events, EVALUATION_SEED)
    if split == "all":  # after the file itself was found good
        refuse_seen_showers(artifact, library)
    return task.assess(sample, _scores(artifact, task, sample), artifact.manifest.working_points)


def not_compared() -> str:
    """Return which methods `evaluate` leaves out on this computer, with the cure; empty if none."""
    missing = lacking("train")
    return f"float networks and claims on them are left out: they need {', '.join(missing)}; {cure('train')}" if missing else ""


def _scores(artifact: Artifact, task: Task, sample: Sample[Any]) -> dict[str, NDArray[Any]]:
    if not lacking("train"):
        return score_methods(artifact, task, sample)
    return {INTEGER: integer_scores(read(artifact.model), task, sample), BASELINE: task.baseline(sample)}
