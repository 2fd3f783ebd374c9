"""The parts of a report that every task shares: what was run, exactness, the integer network, firmware, training."""

from collections.abc import Mapping, Sequence

from caloedge.artifact import Artifact, Manifest, TrainingRecord
from caloedge.catalog import Task, find
from caloedge.compiler.graph import Graph
from caloedge.results import Cell, Claim, Facts, Number, Plot, Section, Series, Table, verdict
from caloedge.verification.codes import Check


def what_was_run(artifact: Artifact) -> Section:
    """Return the section on the recipe, data and software that made the artifact."""
    manifest, recipe = artifact.manifest, artifact.recipe
    library = {key: value for key, value in manifest.library.items() if key not in ("name", "showers", "path")}
    contents = find(Task, recipe.task).contents
    library_facts = (
        ("library", f"{manifest.library['name']}, {int(manifest.library['showers']):,} {contents}"),
        *library.items(),
    )
    return Section(
        title="What was run",
        blocks=(
            Facts(
                title="Artifact",
                items=(
                    ("task", recipe.task),
                    ("network", recipe.network),
                    ("made", manifest.created),
                    ("computer", manifest.hardware),
                    ("seed", str(recipe.seed)),
                    *((f"version of {name}", value) for name, value in manifest.versions.items()),
                ),
            ),
            Facts(title=contents.capitalize(), items=tuple((key.replace("_", " "), str(value)) for key, value in library_facts)),
        ),
    )


def _verdict_text(check: Check) -> str:
    if check.missing:
        return f"{'refused' if check.refused else 'not run'}: {check.missing}"
    return "exact" if check.exact else f"DIFFERS: {check.misfit}" if check.misfit else "DIFFERS"


def checks_table(title: str, checks: Sequence[Check]) -> Table:
    """Return checks, a row each; where one differs, with the first event and the first place in the network."""
    locate = any(check.first_event is not None for check in checks)

    def row(check: Check) -> tuple[Cell, ...]:
        counts = (check.vectors, check.outputs, check.differing, check.largest_lsb, check.flips)
        numbers = [Number(value=n, unit=unit, origin="computed") for n, unit in zip(counts, COUNT_UNITS, strict=True)]
        event = "" if check.first_event is None else Number(value=check.first_event, origin="computed")
        time = Number(value=check.seconds, unit="s", origin="measured")
        first = (event, check.first_node) if locate else ()
        return (
            check.executor, _verdict_text(check), *(["–"] * len(counts) if check.missing else numbers), *first,
            "–" if check.missing else time,
        )  # fmt: skip

    counted = ("vectors", "output codes", "differing", "largest difference", "argmax flips")
    located = ("first event", "first place") if locate else ()
    return Table(
        title=title, columns=("executor", "result", *counted, *located, "time"), rows=tuple(row(check) for check in checks)
    )


COUNT_UNITS = ("", "", "", "LSB", "")


def exactness(checks: Sequence[Check]) -> Section:
    """Return the section that compares the chain of executors with the golden vectors."""
    return Section(
        title="Bit-exactness along the chain",
        text="Each executor runs the golden vectors, and every output code is compared with == to that of the quantised torch "
        "twin in float64. The QONNX executor works node by node on the exported file; the integer graph is what this package "
        "compiles; the emulator is C++ generated from it; hls4ml rows are C-simulations compiled by g++, rtl rows cycle-accurate "
        "simulations of the Verilog by Verilator. The rows with random codes compare with the integer graph instead, over the "
        "whole input format; there, streaming designs are stalled at both ends at random. The first row repeats the twin from "
        "the stored weights.",
        blocks=(checks_table("Executors against the golden vectors", checks),),
    )


def exactness_claim(checks: Sequence[Check]) -> Claim:
    """Return the result of the chain of executors as a claim."""
    ran = [check for check in checks if not check.missing]
    wrong = [check.executor for check in ran if not check.exact]
    vectors = min((check.vectors for check in ran), default=0)
    skipped = [check.executor for check in checks if check.missing]
    result = f"{len(ran)} comparisons of at least {vectors:,} vectors: " + (
        f"differs in {', '.join(wrong)}" if wrong else "0 LSB everywhere"
    )
    return Claim(
        statement="Quantised twin, QONNX executor, integer graph and firmware simulations give the same output codes.",
        verdict=verdict(False if wrong else (True if not skipped else None)),
        found=result + (f"; not run: {', '.join(skipped)}" if skipped else ""),
    )


def integer_network(graph: Graph, manifest: Manifest) -> Section:
    """Return the section on layers with formats, proven ranges and estimated cost."""
    layers = graph.layers()

    def estimated(value: int, unit: str = "") -> Number:
        return Number(value=value, unit=unit, origin="estimated")

    rows = tuple(
        (
            layer.name,
            layer.kind,
            " × ".join(map(str, layer.shape)),
            str(layer.weight_format or "–"),
            str(layer.format),
            f"{layer.low:,} … {layer.high:,}",
            estimated(layer.multiply_adds),
            estimated(layer.weight_bits),
            estimated(layer.ebops),
        )
        for layer in layers
    )
    totals = (
        ("multiply–adds per input", estimated(sum(layer.multiply_adds for layer in layers))),
        ("weight memory", estimated(sum(layer.weight_bits for layer in layers), "bit")),
        ("effective bit operations (EBOPs)", estimated(sum(layer.ebops for layer in layers))),
        *(
            (f"parameters, {name} network", Number(value=stage.parameters, origin="computed"))
            for name, stage in manifest.stages.items()
        ),
    )
    return Section(
        title="The integer network",
        text="Formats are written as in HLS: total bits, integer bits. Ranges are proven from the weights for every input code, "
        "so no accumulator can overflow. Costs are counted from the layers, not synthesised; EBOPs sum weight bits times input "
        "bits over all products.",
        blocks=(
            Table(
                title="Layers, formats and proven ranges",
                columns=("layer", "operation", "shape", "weights", "result", "range of codes", "multiply–adds", "weight bits",
                         "EBOPs"),
                rows=rows,
            ),
            Facts(title="Estimated cost", items=totals),
        ),
    )  # fmt: skip


def trainings(stages: Mapping[str, TrainingRecord]) -> Section:
    """Return the section on trainings: schedules, losses and learning curves."""
    columns = ("network", "parameters", "epochs", "inputs seen", "time in steps", "computer", "training loss", "validation loss")
    rows = tuple(
        (
            name,
            Number(value=stage.parameters, origin="computed"),
            Number(value=stage.epochs, origin="requested"),
            Number(value=stage.windows_seen, origin="computed"),
            Number(value=stage.seconds, unit="s", origin="measured"),
            stage.hardware or "–",
            Number(value=stage.train_loss, origin="computed"),
            Number(value=stage.valid_loss, origin="computed"),
        )
        for name, stage in stages.items()
    )
    series = tuple(
        Series(
            name=f"{name}, validation",
            x=tuple(point["epoch"] for point in stage.curve),
            y=tuple(point["valid_loss"] for point in stage.curve),
            style="line",
        )
        for name, stage in stages.items()
    )
    return Section(
        title="Training",
        text="Events are new in every epoch: generated, or composed of the training showers. Those of validation are others.",
        blocks=(
            Table(title="Trainings", columns=columns, rows=rows),
            Plot(title="Learning curves", x_label="epoch", y_label="validation loss", y_scale="log", series=series),
        ),
    )
