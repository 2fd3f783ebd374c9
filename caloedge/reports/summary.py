"""Caveats for the head of a report (claims that fail or are undecided, unequal trainings) and the best figures."""

from collections.abc import Iterable, Mapping, Sequence

from caloedge.artifact import Artifact, Stage
from caloedge.catalog import FLOAT, INTEGER, REFERENCE
from caloedge.recipe import Recipe
from caloedge.results import Claim, Number, Verdict

WORDS: dict[Verdict, str] = {"fails": "Does not hold", "undecided": "Undecided", "not tested": "Not tested"}
"""Words before a claim that does not hold or is open, the gravest verdict first."""
_GRAVITY = {verdict: place for place, verdict in enumerate(WORDS)}
STAGES = {"published": REFERENCE, "edge": FLOAT, "quantised": INTEGER}
"""Method name of the network of each training stage."""
ONCE = "Every network was trained once: how much its figures vary from one training to the next is not known."


def claim_caveats(claims: Iterable[Claim], independent: Iterable[Claim] = ()) -> tuple[str, ...]:
    """Return the claims that do not hold, then the undecided ones, then the untested ones, a sentence each.

    Claims that were tested again on `independent` showers are named where they came out worse there.
    """
    stated, again = tuple(claims), tuple(dict.fromkeys(independent))
    before = {claim.statement: _GRAVITY.get(claim.verdict, len(WORDS)) for claim in stated}
    worse = [claim for claim in again if _GRAVITY.get(claim.verdict, len(WORDS)) < before.get(claim.statement, len(WORDS))]
    return tuple(
        f"{words}{sample}: {claim.brief or claim.statement.rstrip('.')}."
        for verdict, words in WORDS.items()
        for sample, group in (("", stated), (" on independent showers", worse))
        for claim in group
        if claim.verdict == verdict
    )


def inputs_seen(recipe: Recipe, stages: Mapping[str, Stage]) -> dict[str, int]:
    """Return how many inputs each stage's network was trained on, those of the network that it started from included."""
    n_inputs = {name: stage.windows_seen for name, stage in stages.items()}
    if recipe.training.edge_from_published:
        n_inputs["edge"] += n_inputs["published"]
    n_inputs["quantised"] += n_inputs["edge"]
    return n_inputs


def artifact_caveats(artifact: Artifact) -> tuple[str, ...]:
    """Return caveats on unequal trainings of an artifact's three networks."""
    stages = {stage: artifact.manifest.stages[stage] for stage in STAGES}
    n_inputs = inputs_seen(artifact.recipe, stages)
    losses = {STAGES[stage]: record.valid_loss for stage, record in stages.items()}
    return training_caveats({name: n_inputs[stage] for stage, name in STAGES.items()}, losses, INTEGER)


def training_caveats(n_inputs: Mapping[str, int], losses: Mapping[str, float], method: str) -> tuple[str, ...]:
    """Return caveats on networks trained on fewer inputs than `method`, or with a higher validation loss.

    `n_inputs` are numbers of training inputs by network (`inputs_seen`), `losses` the validation losses.
    """
    caveats = []
    less = [f"{name} {number:,}" for name, number in n_inputs.items() if number < n_inputs[method]]
    if less:
        caveats.append(
            f"Trained on fewer inputs than {method} ({n_inputs[method]:,}, its float twin's among them): {', '.join(less)}."
        )
    worse = [f"{name} {loss:.3g}" for name, loss in losses.items() if loss > losses[method]]
    if worse:
        caveats.append(
            f"Validation loss above that of {method} ({losses[method]:.3g}): {', '.join(worse)}. Leads over networks that were "
            "not trained to their best are no merit."
        )
    return (*caveats, ONCE)


def best(headline: Sequence[tuple[str, Number]], *, lower_is_better: bool) -> tuple[str, ...]:
    """Return the label of the best method of each figure; labels are `figure, method`.

    >>> a, b = (Number(value=value, origin="computed") for value in (1, 2))
    >>> best([("width, x", a), ("width, y", b), ("share, x", b)], lower_is_better=True)
    ('width, x', 'share, x')
    """
    figures: dict[str, list[tuple[str, Number]]] = {}
    for label, number in headline:
        figures.setdefault(label.rpartition(", ")[0], []).append((label, number))
    pick = min if lower_is_better else max
    return tuple(pick(entries, key=lambda entry: entry[1].value)[0] for entries in figures.values())
