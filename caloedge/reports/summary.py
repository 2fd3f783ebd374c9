"""A report with its head: caveats (claims that fail or are undecided, unequal trainings) and the best figures."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime

from caloedge.artifact import Artifact, TrainingRecord
from caloedge.catalog import FLOAT, INTEGER, REFERENCE
from caloedge.recipe import Recipe
from caloedge.results import Claim, Number, Report, Section, Verdict, label

Figures = Mapping[str, Mapping[str, Number]]
"""Numbers by name of the figure and of the method."""

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


def inputs_seen(recipe: Recipe, stages: Mapping[str, TrainingRecord]) -> dict[str, int]:
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


def best(figures: Figures, *, lower_is_better: bool | Collection[str]) -> dict[str, str]:
    """Return the best method of each figure; lower is better in all figures, in none, or in those that are named.

    >>> a, b = (Number(value=value, origin="computed") for value in (1, 2))
    >>> best({"width": {"x": a, "y": b}, "share": {"x": b}}, lower_is_better=["width"])
    {'width': 'x', 'share': 'x'}
    """
    result = {}
    for figure, numbers in figures.items():
        lower = lower_is_better if isinstance(lower_is_better, bool) else figure in lower_is_better
        result[figure] = (min if lower else max)(numbers, key=lambda method: numbers[method].value)
    return result


def compose(
    title: str,
    summary: str,
    data_label: str,
    figures: Figures,
    claims: Sequence[Claim],
    sections: Iterable[Section],
    *,
    lower_is_better: bool | Collection[str],
    independent: Sequence[Claim] = (),
    before: Sequence[str] = (),
    caveats: Sequence[str] = (),
) -> Report:
    """Return a report: claims, then sections, and above them the caveats and the figures with the best of each marked.

    Caveats are those `before` all others, then of the claims and of those repeated on `independent` showers, then `caveats`.
    """
    return Report(
        title=title,
        summary=summary,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_label=data_label,
        headline=tuple(
            (label(figure, method), number) for figure, by_method in figures.items() for method, number in by_method.items()
        ),
        best=tuple(label(figure, method) for figure, method in best(figures, lower_is_better=lower_is_better).items()),
        caveats=(*before, *claim_caveats(claims, independent), *caveats),
        sections=(Section(title="Claims", blocks=tuple(claims)), *sections),
    )
