"""From trained networks to an artifact: QONNX, golden vectors, weights, working points, manifest, card."""

import math
import os
import platform
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from caloedge import artifact as store
from caloedge.artifact import STAGES, Artifact, Golden, Manifest, TrainingRecord, read_artifact
from caloedge.catalog import Library, Task, find, own_files
from caloedge.compiler.condensation import CLUSTERS, INDICES, STATUS
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Condense
from caloedge.errors import BadData
from caloedge.evaluation.scoring import score_methods
from caloedge.files import replacing_folder
from caloedge.recipe import Recipe
from caloedge.reconstruction.condensation import cluster_codes
from caloedge.training.fit import predict
from caloedge.training.stages import Trained, stored_records, weights_of

GOLDEN_CODES = 1000
"""Output codes that are compared at least."""
MAX_STORED_PARAMETERS = 1_000_000
"""Weights of larger alternatives are not stored: a command trains them again."""
IR_VERSION = 10  # onnx 1.23 writes 14, onnxruntime 1.31 reads up to 13
OPSET = 14
SAME_POINT = 1e-5
"""Relative difference up to which working points of float networks are the same."""
PACKAGES = ("caloedge", "torch", "brevitas", "qonnx", "onnx", "numpy", "lightning")


def export(recipe: Recipe, recipe_path: Path, library: Library, trained: Mapping[str, Trained], folder: Path) -> Artifact:
    """Write the artifact whole, and return it as read back; one that is there already and would only get another date stays."""
    task = find(Task, recipe.task)
    own = [
        place
        for place in own_files(recipe_path.parent, (*recipe.plugins, find(Task, recipe.task).loss))
        if place.parent == recipe_path.parent
    ]
    store.refuse_foreign_files(folder, [place.name for place in own])
    with replacing_folder(folder) as new:
        shutil.copyfile(recipe_path, new / store.RECIPE)
        for place in own:  # a task or network beside the recipe goes along
            shutil.copyfile(place, new / place.name)
        for stage, one in trained.items():
            if stage not in STAGES and one.record.parameters > MAX_STORED_PARAMETERS:
                continue
            weights = weights_of(one.network)
            if stage == "published":  # to which training has rounded them
                weights = {name: values.astype(np.float16) if values.ndim > 1 else values for name, values in weights.items()}
            store.write_weights(new, stage, weights)
        twin = trained["quantised"].network
        write_qonnx(twin, task.input_shape, task.output, new / store.MODEL)
        graph = read(new / store.MODEL)
        _check_golden(recipe, graph)
        sample = task.sample(library, "test", _events_for(recipe.golden_vectors), recipe.seed)
        rows = np.linspace(0, len(sample.inputs) - 1, recipe.golden_vectors).astype(int)  # some of every kind of event
        codes = graph.quantise_input(sample.inputs[rows])
        golden = golden_vectors(twin, codes, graph)
        store.write_golden(new, golden)
        manifest = Manifest(
            name=recipe.name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(),
            hardware=f"{os.cpu_count()} × {platform.machine()} cores",
            library=_library_record(recipe, library, folder),
            stages=_records(recipe, library, trained, (recipe_path.parent, folder)),
            working_points={},
            files={},
        )
        store.write_manifest(new, manifest)
        draft = read_artifact(new)
        valid = task.sample(library, "valid", recipe.evaluation.valid_events, recipe.seed)
        points = task.working_points(valid, score_methods(draft, task, valid))
        (new / store.CARD).write_text(_card(recipe, manifest, points), encoding="utf-8")
        manifest = manifest.model_copy(update={"working_points": points})
        store.write_golden(new, _with_clusters(golden, task, replace(draft, manifest=manifest).graph()))
        store.write_manifest(new, manifest)
        if _is_there(read_artifact(new).manifest, folder):
            for name in (store.CARD, store.MANIFEST):
                shutil.copyfile(folder / name, new / name)
    return read_artifact(folder)


def _records(
    recipe: Recipe, library: Library, trained: Mapping[str, Trained], artifacts: Sequence[Path]
) -> dict[str, TrainingRecord]:
    """Return what is known of each training, in the recipe's order, those whose weights are not stored included."""
    known = {stage: one.record for stage, one in trained.items()} | stored_records(recipe, library, trained, artifacts)
    return {stage: known[stage] for stage in (*STAGES, *recipe.alternatives) if stage in known}


def _is_there(made: Manifest, folder: Path) -> bool:
    """Tell whether an artifact in `folder` differs only in when, where and with which versions it was made.

    Working points of float networks may differ by what processors make of the same sums.
    """
    try:
        there = read_artifact(folder).manifest
    except BadData:
        return False

    def content(of: Manifest) -> tuple[Any, ...]:
        files = {name: digest for name, digest in of.files.items() if name != store.CARD}
        return of.name, of.library, of.stages, files, of.working_points.keys()

    return content(made) == content(there) and all(
        math.isclose(value, there.working_points[name], rel_tol=SAME_POINT) for name, value in made.working_points.items()
    )


def write_qonnx(network: nn.Module, input_shape: tuple[int, ...], output_name: str, path: Path) -> None:
    """Export a Brevitas network as QONNX with a symbolic batch dimension."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations and tracer remarks
        from brevitas.export import export_qonnx

        export_qonnx(
            network.eval(),
            torch.zeros(1, *input_shape),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["input"],
            output_names=[output_name],
        )
    model = onnx.load(str(path))
    model.ir_version = IR_VERSION
    constants = {tensor.name for tensor in model.graph.initializer}
    for value in [value for value in model.graph.input if value.name in constants]:
        model.graph.input.remove(value)  # the exporter lists constants as inputs, whose shapes have no batch dimension
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]  # shapes with the tracer's batch of one
    onnx.save(model, str(path))


def golden_vectors(twin: nn.Module, codes: NDArray[Any], graph: Graph) -> Golden:
    """Run the twin in float64 on input codes and return exact output codes."""
    (values,) = graph.input_values(codes).values()
    (output,) = graph.outputs
    return Golden(codes, graph.output_codes({output.name: run_twin(twin, values)}))


def run_twin(twin: nn.Module, inputs: NDArray[Any]) -> NDArray[Any]:
    """Evaluate a quantised network in float64; float32 is not exact for wide products."""
    double = twin.double().eval()
    try:
        return predict(double, torch.from_numpy(inputs.astype(np.float64))).numpy()
    finally:
        twin.float()


def _with_clusters(golden: Golden, task: Task, graph: Graph) -> Golden:
    """Add what firmware does with the network's output, calculated without the graph."""
    if task.condensation is None:
        return golden
    (nodes,) = golden.outputs.values()
    (condense, *_) = (op for op in graph.ops if isinstance(op, Condense))
    codes = cluster_codes(nodes, golden.inputs, task.condensation, condense.threshold, condense.apart)
    return Golden(golden.inputs, golden.outputs | dict(zip((CLUSTERS, INDICES, STATUS), codes, strict=True)))


def _check_golden(recipe: Recipe, graph: Graph) -> None:
    codes = recipe.golden_vectors * sum(graph.tensors[op.name].size for op in graph.outputs)
    if codes < GOLDEN_CODES:
        raise BadData(
            f"recipe {recipe.name!r}: golden_vectors: {recipe.golden_vectors} have {codes} output codes; give so many that they"
            f" have at least {GOLDEN_CODES:,}"
        )


def _events_for(vectors: int) -> int:
    return max(250, vectors)  # every event has at least one window on average, by far


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _library_record(recipe: Recipe, library: Library, folder: Path) -> dict[str, str]:
    made = {"name": recipe.library, "sha256": library.digest, "showers": str(len(library)), **library.provenance}
    # The recipe's path starts at the recipe, which is copied into the artifact's folder.
    return made | ({"path": os.path.relpath(library.path, folder)} if Path(recipe.library).suffix else {})


def _card(recipe: Recipe, manifest: Manifest, points: Mapping[str, float]) -> str:
    q, task = recipe.quantisation, find(Task, recipe.task)
    sign = "signed" if q.input_signed else "unsigned"
    scales = ", of weights one per filter" if q.filter_scales else ""
    stages = "\n".join(
        f"| {name} | {s.parameters:,} | {s.epochs} | {s.windows_seen:,} | {s.seconds:,.0f} | {s.valid_loss:.4f} |"
        for name, s in manifest.stages.items()
    )
    thresholds = "\n".join(f"| {name} | {value:.6g} |" for name, value in points.items())
    working_points = f"Working points, set on validation events:\n\n| method | threshold |\n|---|---:|\n{thresholds}\n\n"
    of = manifest.library
    library = " ".join(filter(None, (of["name"] + ",", of["showers"], of.get("particle"))))
    origin = ", ".join(filter(None, (of.get("version", "unknown origin"), of.get("physics_list"))))
    return f"""# {recipe.name}

Made from `recipe.yaml`; nothing here is edited by hand.

- Task `{recipe.task}`, network `{recipe.network}`; {q.weight_bits}-bit weights, {q.activations},
  input {sign} {q.input_bits} bit with 2^-{q.input_fraction} {task.input_unit} as LSB, power-of-two scales{scales}, 32-bit biases.
- {task.contents.capitalize()}: {library} ({origin}).
- `model.qonnx` is the network, `golden.npz` {recipe.golden_vectors} input and output codes of the quantised twin in float64.
- The published network's weights are stored in half precision; all figures are taken with them as stored.

| network | parameters | epochs | inputs seen | seconds | validation loss |
|---|---:|---:|---:|---:|---:|
{stages}

{working_points if points else ""}Check it with `caloedge verify models/{recipe.name}`.
`caloedge run {recipe.name}` makes it, and writes accuracy and exactness to `reports/{recipe.name}/`.
"""
