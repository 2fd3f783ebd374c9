"""What a reader must know first: what does not hold, what is open, how trainings differ, which figures are the best."""

from collections.abc import Iterable, Mapping, Sequence

from caloedge.artifact import Artifact, Stage
from caloedge.catalog import FLOAT, INTEGER, REFERENCE
from caloedge.recipe import Recipe
from caloedge.results import Claim, Number, Verdict

WORDS: dict[Verdict, str] = {"fails": "Does not hold", "undecided": "Undecided", "not tested": "Not tested"}
"""What stands before a claim that someone must know of, gravest first."""
_GRAVITY = {verdict: place for place, verdict in enumerate(WORDS)}
STAGES = {"published": REFERENCE, "edge": FLOAT, "quantised": INTEGER}
"""Names of the networks of each training stage."""
ONCE = "Every network was trained once: how much its figures vary from one training to the next is not known."


def claim_caveats(claims: Iterable[Claim], independent: Iterable[Claim] = ()) -> tuple[str, ...]:
    """Return the claims that do not hold, then the undecided ones, then the untested ones, a sentence each.

    Claims that were tested again on `independent` showers are named where they came out worse there.
    """
    stated, again = tuple(claims), tuple(dict.fromkeys(independent))
    before = {claim.statement: _GRAVITY.get(claim.verdict, len(WORDS)) for claim in stated}
    worse = [claim for claim in again if _GRAVITY.get(claim.verdict, len(WORDS)) < before.get(claim.statement, len(WORDS))]
    return tuple(
        f"{words}{where}: {claim.brief or claim.statement.rstrip('.')}."
        for verdict, words in WORDS.items()
        for where, of in (("", stated), (" on independent showers", worse))
        for claim in of
        if claim.verdict == verdict
    )


def inputs_seen(recipe: Recipe, stages: Mapping[str, Stage]) -> dict[str, int]:
    """Return how many inputs each stage's network was trained on, those of the network that it started from included."""
    seen = {name: stage.windows_seen for name, stage in stages.items()}
    if recipe.training.edge_from_published:
        seen["edge"] += seen["published"]
    seen["quantised"] += seen["edge"]
    return seen


def artifact_caveats(artifact: Artifact) -> tuple[str, ...]:
    """Warn of trainings of an artifact's three networks that were not alike."""
    stages = {stage: artifact.manifest.stages[stage] for stage in STAGES}
    seen = inputs_seen(artifact.recipe, stages)
    losses = {STAGES[stage]: of.valid_loss for stage, of in stages.items()}
    return training_caveats({name: seen[stage] for stage, name in STAGES.items()}, losses, INTEGER)


def training_caveats(seen: Mapping[str, int], losses: Mapping[str, float], mine: str) -> tuple[str, ...]:
    """Warn of networks that were trained for less than the one claims are made of, or not to their best.

    `seen` are inputs by network (`inputs_seen`), `losses` the validation losses.
    """
    made = []
    less = [f"{name} {number:,}" for name, number in seen.items() if number < seen[mine]]
    if less:
        made.append(f"Trained on fewer inputs than {mine} ({seen[mine]:,}, its float twin's among them): {', '.join(less)}.")
    worse = [f"{name} {loss:.3g}" for name, loss in losses.items() if loss > losses[mine]]
    if worse:
        made.append(
            f"Validation loss above that of {mine} ({losses[mine]:.3g}): {', '.join(worse)}. Leads over networks that were not "
            "trained to their best are no merit."
        )
    return (*made, ONCE)


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
    return tuple(pick(of, key=lambda one: one[1].value)[0] for of in figures.values())
